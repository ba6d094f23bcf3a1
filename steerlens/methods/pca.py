"""PCA of the pairs' differences: the direction along which chosen and rejected activations differ most.

Zou et al. 2023, "Representation Engineering: A Top-Down Approach to AI Transparency", arXiv 2310.01405, section 3.1 (linear
artificial tomography); the libraries repeng and steering-vectors steer with the same direction.
"""

from typing import Literal

import numpy as np
import torch
from transformer_lens import HookedTransformer

from steerlens.checks.calls import one_of
from steerlens.errors import PairsError, VectorError
from steerlens.forward.door import checked
from steerlens.forward.steer import make_vector
from steerlens.methods.caa import ReadPosition, caa_differences
from steerlens.pairs.preference import PreferencePairs
from steerlens.vectors.vector import SteeringVector

Centring = Literal["none", "mean"]


@checked(PairsError, position=one_of(ReadPosition), centring=one_of(Centring))
def extract_pca(
    model: HookedTransformer,
    pairs: PreferencePairs,
    layer: int,
    *,
    position: ReadPosition = "mean",
    centring: Centring = "none",
    batch_size: int = 8,
    progress: bool = True,
) -> SteeringVector:
    """The first principal component of the pairs' differences of resid_post, with the norm of their mean.

    Args:
        model: any HookedTransformer.
        pairs: encoded with their own template.
        layer: the 0-based block, read at `blocks.{layer}.hook_resid_post`.
        position: where it is read, as in `extract_caa`; the paper reads one token, the last.
        centring: "none" takes the component about zero: each difference counts with both signs, so that what all pairs
            share stays in. The paper flips signs at random, which comes to the same for many pairs; it is steering-vectors'
            `pca_aggregator` and repeng's "pca_center". "mean" takes the mean difference out first, as repeng's "pca_diff"
            (its default) does: what is left is how pairs differ from one another, and CAA's direction is gone from it.
        batch_size: pairs at once.

    Returns:
        The vector. PCA gives a line: the sign is the one on which chosen lies higher than rejected, on average, and the norm
        is that of the mean difference, the CAA vector's, in units of the residual stream. `settings` has
        explained_variance_ratio, the component's share of the differences' variance (about zero for centring="none").

    Raises:
        PairsError: as `extract_caa`; or the differences have no mean or no variance.
        VectorError: scikit-learn is not installed.

    Source:
        arXiv 2310.01405, section 3.1.
    """
    try:
        from sklearn.decomposition import PCA
    except ImportError as error:
        raise VectorError("extract_pca needs scikit-learn: pip install 'steerlens[sklearn]'") from error
    read = caa_differences(model, pairs, layer, position=position, batch_size=batch_size, progress=progress)
    differences = read.cpu().numpy()
    mean = differences.mean(0)
    rows = differences if centring == "mean" else np.concatenate([differences, -differences])
    # Less than this is rounding of the model's own activations.
    least = 1e-6 * np.linalg.norm(differences, axis=1).max()
    if not np.linalg.norm(mean) > least:
        raise PairsError("the pairs' differences cancel, so their component has no sign and no size: check the labels")
    if not np.linalg.norm(rows - rows.mean(0), axis=1).max() > least:
        raise PairsError(
            f"the differences of {len(pairs)} pairs are all the same: centring='mean' leaves nothing of them"
        )
    fitted = PCA(n_components=1, svd_solver="full").fit(rows)
    direction = fitted.components_[0] * np.copysign(1.0, mean @ fitted.components_[0])
    settings = {
        "position": position,
        "centring": centring,
        "explained_variance_ratio": float(fitted.explained_variance_ratio_[0]),
        **pairs.described(),
    }
    tensor = torch.from_numpy(direction * np.linalg.norm(mean))
    return make_vector(model, tensor, layer, method="pca", settings=settings, pairs=pairs)
