"""How alike vectors are: cosines, and what a random direction would give."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from torch import Tensor

from steerlens._stats import cosine_p_value
from steerlens.errors import MeasureError
from steerlens.vector import SteeringVector, check_same_space


def cosines(vectors: Sequence[SteeringVector]) -> Float[np.ndarray, "vector vector"]:
    """The cosine of every two vectors.

    On LayerNorm models a constant added to all of d_model does nothing, and TransformerLens's centring takes it out of the
    residual stream; it is taken out here too, so that vectors compare the same whether weights were processed or not.

    Raises:
        VectorError: the vectors belong to different weights.
        MeasureError: one of them is zero.
    """
    check_same_space(*vectors)
    units = []
    for vector in vectors:
        part = _effective(vector, vectors)
        norm = float(part.norm())
        if norm == 0:
            raise MeasureError(f"the {vector.method} vector is zero: it has no direction to compare")
        units.append((part / norm).numpy())
    stacked = np.stack(units)
    return np.clip(stacked @ stacked.T, -1, 1)


def _effective(vector: SteeringVector, like: Sequence[SteeringVector]) -> Float[Tensor, " d_model"]:
    """`vector.effective` in float64, by the model of its neighbours where its own is not known."""
    tensor = vector.tensor.double()
    known = next((v.model for v in (vector, *like) if v.model is not None), None)
    return tensor - tensor.mean() if known is not None and known.normalization == "LN" else tensor


def isotropic_p_value(cosine: float, vector: SteeringVector) -> float:
    """The chance of a |cosine| this large between isotropic random directions; no model is needed, and none is meant.

    Real activations fill few of their dimensions, so two unrelated vectors are often further from 0 than this null says.
    """
    return cosine_p_value(cosine, vector.tensor.numel())
