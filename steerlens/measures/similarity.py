"""How alike vectors are: cosines, plain and whitened, and what unrelated vectors would give."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal, get_args

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy import linalg
from torch import Tensor

from steerlens._stats import cosine_limit, cosine_p_value
from steerlens.checks.calls import checked, texts
from steerlens.errors import MeasureError
from steerlens.results.result import Result
from steerlens.vectors.vector import SteeringVector, check_same_space

Space = Literal["plain", "whitened"]
Null = Literal["shuffled labels", "random (covariance)", "isotropic"]


@dataclass(frozen=True, eq=False)
class Similarity(Result):
    """The cosines of several vectors, beside those that vectors with nothing in common would have.

    Three nulls say what "nothing in common" means. "shuffled labels": CAA vectors of the same texts with the labels of a
    random half of the pairs exchanged, the meaningful one. "random (covariance)": random directions with the activations'
    covariance. "isotropic": all directions alike, in closed form; all there is without a model, and too easy to beat, for
    activations fill few of their dimensions.
    """

    labels: Annotated[tuple[str, ...], "vector"]
    layers: Annotated[tuple[int, ...], "vector"]
    dimensions: int
    """of the space that the model sees: d_model, less one on LayerNorm models"""
    directions: Mapping[str, Float[np.ndarray, "vector d_model"]]
    """unit vectors by space: "plain" and, with a model, "whitened" """
    nulls: Mapping[str, Mapping[str, Float[np.ndarray, "vector other draw"]]] = field(default_factory=dict)
    """by space and null: the cosine of each draw, made at the layer of `vector` in its place, with `other`"""
    tokens: int = 0
    """that the covariance was taken over"""
    shrinkage: Mapping[int, float] = field(default_factory=dict)
    """of the covariance that whitens, by layer, from 0 to 1"""
    data: str = "none"

    @checked(MeasureError)
    def matrix(self, space: Space = "plain") -> Float[np.ndarray, "vector vector"]:
        """The cosine of every two vectors."""
        units = self._of(self.directions, space, "space")
        return np.clip(units @ units.T, -1, 1)

    @property
    def cosines(self) -> Float[np.ndarray, "vector vector"]:
        """The cosine of every two vectors as they are."""
        return self.matrix("plain")

    @property
    def whitened(self) -> Float[np.ndarray, "vector vector"]:
        """The cosine of every two vectors, each times the inverse square root of the covariance at its layer."""
        return self.matrix("whitened")

    @property
    def best_null(self) -> Null:
        """The most demanding of the nulls that were drawn."""
        drawn = self.nulls.get("plain", {})
        return next((name for name in get_args(Null) if name in drawn), "isotropic")

    @checked(MeasureError)
    def p_values(self, null: Null | None = None, space: Space = "plain") -> Float[np.ndarray, "vector vector"]:
        """The chance of a |cosine| at least this large under a null, two-sided; NaN on the diagonal.

        (1 + count) / (1 + draws). A draw can stand in either vector's place: the larger of the two p-values is given.

        Args:
            null: "shuffled labels", "random (covariance)" or "isotropic"; default: `best_null`.

        Raises:
            MeasureError: that null was not drawn, or nothing was whitened.
        """
        found, null = np.abs(self.matrix(space)), null or self.best_null
        if null == "isotropic":
            p = np.vectorize(lambda cosine: cosine_p_value(cosine, self.dimensions), otypes=[float])(found)
        else:
            draws = np.abs(self._draws(null, space))
            one_way = (1 + (draws >= found[:, :, None]).sum(-1)) / (1 + draws.shape[-1])
            p = np.maximum(one_way, one_way.T)
        np.fill_diagonal(p, np.nan)
        return p

    @checked(MeasureError)
    def limits(
        self, null: Null | None = None, space: Space = "plain", *, level: float = 0.95
    ) -> Float[np.ndarray, "vector vector"]:
        """The |cosine| below which that share of a null's draws lies; the larger of the two ways round."""
        null = null or self.best_null
        n = len(self.labels)
        if null == "isotropic":
            return np.full((n, n), cosine_limit(level, self.dimensions))
        one_way = np.quantile(np.abs(self._draws(null, space)), level, axis=-1)
        return np.maximum(one_way, one_way.T)

    @checked(MeasureError, a=texts, b=texts)
    def subspace_angles(
        self, a: Sequence[str], b: Sequence[str], *, space: Space = "plain"
    ) -> Float[np.ndarray, " angle"]:
        """The principal angles between the spans of two sets of the vectors, in degrees, the smallest first.

        0 for each dimension that the spans share; random spans of a few of many dimensions stand near 90 degrees.

        Args:
            a, b: labels of one vector or more.

        Raises:
            MeasureError: an unknown label, or none.
        """
        units = self._of(self.directions, space, "space")
        sets = []
        for chosen in (a, b):
            unknown = [label for label in chosen if label not in self.labels]
            if unknown:
                raise MeasureError(f"got {chosen!r:.80}; expected a list of labels out of {list(self.labels)}")
            sets.append(units[[self.labels.index(label) for label in chosen]].T)
        return np.rad2deg(linalg.subspace_angles(*sets))[::-1]

    def _draws(self, null: str, space: str) -> np.ndarray:
        self._of(self.directions, space, "space")
        return self._of(self.nulls.get(space, {}), null, "null")

    @staticmethod
    def _of(known: Mapping[str, np.ndarray], name: str, what: str) -> np.ndarray:
        if name not in known:
            raise MeasureError(
                f"{what}={name!r}: this similarity has {list(known) or 'none'}. With model= and pairs= there are whitened "
                "cosines and both nulls, with model= and texts= all but shuffled labels"
            )
        return known[name]

    def to_frame(self) -> pd.DataFrame:
        """One row per two vectors, space and null: cosine, the null's 95% limit of |cosine|, p-value."""
        rows = []
        for space in self.directions:
            cosines = self.matrix(space)  # type: ignore[arg-type]
            for null in (*self.nulls.get(space, {}), "isotropic"):
                limits, p = self.limits(null, space), self.p_values(null, space)  # type: ignore[arg-type]
                draws = 0 if null == "isotropic" else self.nulls[space][null].shape[-1]
                for i, j in zip(*np.triu_indices(len(self.labels), 1), strict=True):
                    names = (self.labels[i], self.labels[j], self.layers[i], self.layers[j])
                    rows.append((*names, space, cosines[i, j], null, draws, limits[i, j], p[i, j]))
        columns = ["vector", "other", "layer", "other_layer", "space", "cosine", "null", "draws", "limit_95", "p_value"]
        return pd.DataFrame(rows, columns=columns)

    def __repr__(self) -> str:
        null, lines = self.best_null, []
        p = {space: self.p_values(null, space) for space in self.directions}  # type: ignore[arg-type]
        for i, j in list(zip(*np.triu_indices(len(self.labels), 1), strict=True))[:10]:
            cells = [
                f"{space} {self.matrix(space)[i, j]:+.3f} (p = {p[space][i, j]:.2g})"  # type: ignore[arg-type]
                for space in self.directions
            ]
            lines.append(f"  {self.labels[i]}, {self.labels[j]}: cosine {', '.join(cells)}")
        return "\n".join([f"Similarity of {len(self.labels)} vectors; p-values: {null} null", *lines])


def null_cosines(
    draws: Sequence[Float[np.ndarray, "draw d_model"]], units: Float[np.ndarray, "vector d_model"]
) -> Float[np.ndarray, "vector other draw"]:
    """The cosine of every draw in each vector's place with every vector."""
    return np.stack([np.clip(units @ (own / np.linalg.norm(own, axis=1, keepdims=True)).T, -1, 1) for own in draws])


def unit_vectors(vectors: Sequence[SteeringVector]) -> Float[np.ndarray, "vector d_model"]:
    """The vectors' directions in float64, as the model sees them.

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
    return np.stack(units)


def cosines(vectors: Sequence[SteeringVector]) -> Float[np.ndarray, "vector vector"]:
    """The cosine of every two vectors, as the model sees them (`unit_vectors`)."""
    stacked = unit_vectors(vectors)
    return np.clip(stacked @ stacked.T, -1, 1)


def _effective(vector: SteeringVector, like: Sequence[SteeringVector]) -> Float[Tensor, " d_model"]:
    """`vector.effective` in float64, by the model of its neighbours where its own is not known."""
    tensor = vector.tensor.double()
    return tensor if sees_mean((vector, *like)) else tensor - tensor.mean()


def sees_mean(vectors: Sequence[SteeringVector]) -> bool:
    """Whether the vectors' model sees a constant added to all of d_model; it does where no vector knows its model."""
    known = next((v.model for v in vectors if v.model is not None), None)
    return known is None or known.normalization != "LN"


def isotropic_p_value(cosine: float, vector: SteeringVector) -> float:
    """The chance of a |cosine| this large between isotropic random directions; no model is needed, and none is meant.

    Real activations fill few of their dimensions, so two unrelated vectors are often further from 0 than this null says.
    """
    return cosine_p_value(cosine, vector.tensor.numel() - (not sees_mean([vector])))
