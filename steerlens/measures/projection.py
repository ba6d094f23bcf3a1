"""Token projection: how far each token's residual stream lies along a vector."""

from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from transformer_lens import HookedTransformer

from steerlens.checks.calls import flag, whole
from steerlens.errors import MeasureError
from steerlens.forward.door import checked, texts_or_pairs
from steerlens.measures.activations import Material, residuals
from steerlens.measures.effect import check_unseen
from steerlens.measures.logit_lens import visible_direction
from steerlens.models.identity import identify
from steerlens.pairs.preference import PreferencePairs
from steerlens.results.result import Result, Stored
from steerlens.text.pieces import pieces
from steerlens.vectors.labels import Vectors, labelled
from steerlens.vectors.vector import check_fits


@dataclass(frozen=True, eq=False)
class ProjectedText(Stored):
    """One text, or one side of a pair, token by token."""

    name: str
    """"text 0", "row 3, chosen": rows are those of the pairs"""
    tokens: Annotated[tuple[str, ...], "token"]
    response_start: int
    """the index of a pair's first response token; 0 for a text"""
    projections: Float[np.ndarray, "vector token"]
    """of the residual stream on each unit vector, in its units, nothing taken out"""


@dataclass(frozen=True, eq=False)
class TokenProjection(Result):
    """The residual stream at every token, dotted with the unit vectors, in units of the residual stream."""

    labels: Annotated[tuple[str, ...], "vector"]
    layers: Annotated[tuple[int, ...], "vector"]
    texts: tuple[ProjectedText, ...]
    means: Float[np.ndarray, " vector"]
    """the mean projection over all tokens but the first of each text"""
    centred: bool
    """whether `values` are less those means"""
    data: str
    seen_pairs: int = 0
    """how many of the pairs trained or selected a vector; above 0 only with allow_seen=True"""

    @checked(MeasureError, text=whole(least=0))
    def values(self, text: int = 0) -> Float[np.ndarray, "vector token"]:
        """A text's projections, less the means where `centred`.

        The first token is there too; on some models its norm is a giant, and it belongs on no scale with the others.

        Raises:
            MeasureError: there is no such text.
        """
        if text >= len(self.texts):
            raise MeasureError(f"text={text!r}; expected one from 0 to {len(self.texts) - 1}")
        found = self.texts[text].projections
        return found - self.means[:, None] if self.centred else found

    def limits(self) -> Float[np.ndarray, " vector"]:
        """Each vector's largest |value| over all texts, their first tokens left out: the ends of a colour scale."""
        rest = np.concatenate([self.values(i)[:, 1:] for i in range(len(self.texts))], axis=1)
        return np.abs(rest).max(1)

    def to_frame(self) -> pd.DataFrame:
        """One row per vector, text and token."""
        rows = []
        for i, text in enumerate(self.texts):
            values = self.values(i)
            for v, (label, layer) in enumerate(zip(self.labels, self.layers, strict=True)):
                for at, token in enumerate(text.tokens):
                    place = (at == 0, 0 < text.response_start <= at)
                    rows.append((label, layer, text.name, at, token, *place, values[v, at], text.projections[v, at]))
        columns = ["vector", "layer", "text", "position", "token", "first", "response", "value", "projection"]
        return pd.DataFrame(rows, columns=columns)

    @checked(MeasureError, text=whole(least=0), vector=whole(least=0))
    def view(self, text: int = 0, *, vector: int = 0) -> Any:
        """A text in CircuitsVis, for a notebook: values under the mouse; its script is inlined (1.3 MB), no network asked.

        Raises:
            MeasureError: there is no such text or vector.
        """
        from steerlens.figures.tokens import circuitsvis_tokens

        values = self.values(text)
        if vector >= len(self.labels):
            raise MeasureError(f"vector={vector!r}; expected one from 0 to {len(self.labels) - 1}")
        # CircuitsVis scales its colours by the largest value; the first token's would be all that is seen.
        return circuitsvis_tokens(self.texts[text].tokens, [0.0, *values[vector, 1:].tolist()])

    def __repr__(self) -> str:
        tokens = sum(len(text.tokens) for text in self.texts)
        limits = ", ".join(f"{name} up to {x:.3g}" for name, x in zip(self.labels, self.limits(), strict=True))
        seen = f", {self.seen_pairs} pairs SEEN in training" if self.seen_pairs else ""
        less = " less the mean" if self.centred else ""
        return f"TokenProjection({len(self.texts)} texts of {self.data}{seen}, {tokens} tokens; |projection|{less}: {limits})"

    def _repr_html_(self) -> str:
        from steerlens.figures.strips import projection_html

        return projection_html(self)


@checked(MeasureError, texts=texts_or_pairs, centred=flag)
def token_projection(
    model: HookedTransformer,
    vectors: Vectors,
    texts: Material,
    *,
    centred: bool = True,
    allow_seen: bool = False,
    batch_size: int = 8,
    progress: bool = True,
) -> TokenProjection:
    """The residual stream after each vector's layer, dotted with the unit vector, at every token of some texts.

    On LayerNorm models both are taken without their mean over d_model, which the model can't see.

    Args:
        vectors: one vector, a list, or a dict from names to vectors.
        texts: held-out texts, as they are (BOS once); or held-out pairs in their template, each as two texts: prompt and
            chosen, prompt and rejected.
        centred: whether `values` are less the mean over all tokens that are not the first of their text.
        allow_seen: show pairs that trained or selected a vector all the same; the result says so.
        batch_size: texts or pairs at once.

    Raises:
        VectorError: a vector does not fit the model.
        MeasureError: no texts, a text of under two tokens or beyond the context, a zero vector, or pairs that were seen.

    Source:
        arXiv 2312.06681v4, figure 6.
    """
    named = labelled(vectors)
    for vector in named.values():
        check_fits(vector, identify(model))
    seen = 0
    if isinstance(texts, PreferencePairs):
        seen = check_unseen(list(named.values()), texts, allow_seen=allow_seen)
    layers = tuple(vector.layer for vector in named.values())
    units = torch.stack([visible_direction(model, vector) for vector in named.values()]).double()
    total, n = np.zeros(len(named)), 0
    found: dict[int, list[ProjectedText]] = {}
    distinct = sorted(set(layers))
    for row, ids, streams in residuals(model, texts, distinct, batch_size=batch_size, progress=progress):
        at = dict(zip(distinct, streams, strict=True))
        values = torch.stack([at[layer] @ unit.to(at[layer]) for layer, unit in zip(layers, units, strict=True)])
        every = values.cpu().numpy()
        total, n = total + every[:, 1:].sum(1), n + every.shape[1] - 1
        if not isinstance(texts, PreferencePairs):
            shown = pieces(model.tokenizer, (*ids.prompt, *ids.chosen))
            found[row] = [ProjectedText(f"text {row}", shown, 0, every)]
            continue
        start, end = len(ids.prompt), len(ids.prompt) + len(ids.chosen)
        sides = {"chosen": every[:, :end], "rejected": np.delete(every, slice(start, end), axis=1)}
        found[row] = [
            ProjectedText(
                f"row {texts.rows[row]}, {side}",
                pieces(model.tokenizer, (*ids.prompt, *getattr(ids, side))),
                start,
                own,
            )
            for side, own in sides.items()
        ]
    return TokenProjection(
        labels=tuple(named),
        layers=layers,
        texts=tuple(text for row in sorted(found) for text in found[row]),
        means=total / n,
        centred=centred,
        data=texts.provenance if isinstance(texts, PreferencePairs) else f"{len(texts)} texts in memory",
        seen_pairs=seen,
    )
