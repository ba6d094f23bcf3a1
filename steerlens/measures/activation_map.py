"""Activation map: the pairs' activations at one layer in the plane of their two principal components, and vectors in it."""

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from transformer_lens import HookedTransformer

from steerlens.checks.calls import one_of
from steerlens.checks.values import checked_layer
from steerlens.errors import MeasureError
from steerlens.forward.door import checked
from steerlens.measures.activations import residuals
from steerlens.measures.effect import check_unseen
from steerlens.measures.logit_lens import visible_direction
from steerlens.models.identity import identify
from steerlens.pairs.lettered import without_letters
from steerlens.pairs.preference import PreferencePairs
from steerlens.results.result import Result
from steerlens.vectors.labels import Vectors, labelled
from steerlens.vectors.vector import check_fits

Place = Literal["mean", "last", "answer"]


@dataclass(frozen=True, eq=False)
class ActivationMap(Result):
    """Both responses of every pair as points, and unit vectors as arrows, in the plane in which the points spread most."""

    labels: Annotated[tuple[str, ...], "vector"]
    layer: int
    position: Place
    chosen: Float[np.ndarray, "pair 2"]
    """in units of the residual stream, about the mean of all points"""
    rejected: Float[np.ndarray, "pair 2"]
    directions: Float[np.ndarray, "vector 2"]
    """the unit vectors' projections on the plane: shorter than 1 as far as a vector points out of it"""
    explained: Float[np.ndarray, "2"]
    """each component's share of the points' variance"""
    prompts: Annotated[tuple[str, ...], "pair"]
    data: str
    seen_pairs: int = 0
    """how many of the pairs trained or selected a vector; above 0 only with allow_seen=True"""

    @property
    def in_plane(self) -> Float[np.ndarray, " vector"]:
        """The share of each vector's squared norm that lies in the plane."""
        return (self.directions**2).sum(1)

    def to_frame(self) -> pd.DataFrame:
        """One row per response and per vector: kind ("chosen", "rejected" or "vector"), name, and both coordinates."""
        rows = [
            (kind, str(pair), *point)
            for kind, points in (("chosen", self.chosen), ("rejected", self.rejected))
            for pair, point in enumerate(points)
        ]
        rows += [("vector", label, *point) for label, point in zip(self.labels, self.directions, strict=True)]
        return pd.DataFrame(rows, columns=["kind", "name", "first", "second"])

    def __repr__(self) -> str:
        shares = ", ".join(f"{name} {share:.1%}" for name, share in zip(self.labels, self.in_plane, strict=True))
        return (
            f"ActivationMap({len(self.prompts)} pairs of {self.data}, layer {self.layer}, position {self.position!r}; the plane "
            f"holds {self.explained.sum():.1%} of the variance, and of the squared norms: {shares})"
        )


@checked(MeasureError, position=one_of(Place))
def activation_map(
    model: HookedTransformer,
    vectors: Vectors,
    pairs: PreferencePairs,
    *,
    layer: int | None = None,
    position: Place = "mean",
    allow_seen: bool = False,
    batch_size: int = 8,
    progress: bool = True,
) -> ActivationMap:
    """Principal components of the activations of both responses of every pair, with vectors drawn in.

    The components are those of the points themselves, whatever separates them: topics and lengths too, not only the behaviour.

    Args:
        vectors: one, a list, or a dict from names to vectors.
        pairs: held-out pairs, at least two.
        layer: whose residual stream is read; default: the vectors' own, if it is one.
        position: "mean" over a response's content tokens, the "last" of them, or the letter of an A/B "answer", as in
            `extract_caa`.
        allow_seen: report on pairs that trained or selected a vector all the same; the result says so.

    Raises:
        MeasureError: pairs trained or selected a vector, under two pairs, several layers, no variance, no scikit-learn;
            position="answer" and answers that are no letters.
        VectorError: a vector does not fit the model.

    Source:
        arXiv 2312.06681v4, figure 2 (there position="answer"), without the arrows.
    """
    try:
        from sklearn.decomposition import PCA
    except ImportError as error:
        raise MeasureError("activation_map needs scikit-learn: pip install 'steerlens[sklearn]'") from error
    named = labelled(vectors)
    for vector in named.values():
        check_fits(vector, identify(model))
    layers = sorted({vector.layer for vector in named.values()}) if layer is None else [checked_layer(model, layer)]
    if len(layers) > 1 or len(pairs) < 2:
        raise MeasureError(
            f"{len(pairs)} pairs, vectors of layers {layers}; expected two pairs or more, and vectors of one layer, or layer= to "
            "say which"
        )
    bad = without_letters(pairs.chosen, pairs.rejected) if position == "answer" else []
    if bad:
        raise MeasureError(
            f"position='answer' reads the letter of answers such as '(A)' and '(B)'; {len(bad)} of {len(pairs)} pairs have other "
            "answers. Use position='mean' or 'last' for free-form responses, or pairs.as_choices(seed=0).as_pairs()"
        )
    seen = check_unseen(list(named.values()), pairs, allow_seen=allow_seen)
    points = torch.zeros(2, len(pairs), model.cfg.d_model, dtype=torch.float64, device="cpu")
    for row, pair, (stream,) in residuals(model, pairs, layers, batch_size=batch_size, progress=progress):
        start = len(pair.prompt)
        for side, response in enumerate((pair.chosen, pair.rejected)):
            points[side, row] = stream[start : start + len(response)][pair.read_at(position)[side]].mean(0)
            start += len(response)
    rows = points.reshape(-1, model.cfg.d_model).numpy()
    spread = np.linalg.norm(rows - rows.mean(0), axis=1).max()
    if not spread > 1e-6 * np.linalg.norm(rows, axis=1).max():
        raise MeasureError(
            f"the activations of {len(pairs)} pairs are all the same at layer {layers[0]}: nothing to map"
        )
    fitted = PCA(n_components=2, svd_solver="full").fit(rows)
    # A component has no sign of its own: chosen lies further up each.
    gap = (points[0].mean(0) - points[1].mean(0)).numpy() @ fitted.components_.T
    axes = fitted.components_ * np.where(gap < 0, -1.0, 1.0)[:, None]
    at = (rows - fitted.mean_) @ axes.T
    units = np.stack([visible_direction(model, vector).double().numpy() for vector in named.values()])
    return ActivationMap(
        labels=tuple(named),
        layer=layers[0],
        position=position,
        chosen=at[: len(pairs)],
        rejected=at[len(pairs) :],
        directions=units @ axes.T,
        explained=fitted.explained_variance_ratio_,
        prompts=pairs.prompts,
        data=pairs.provenance,
        seen_pairs=seen,
    )
