"""Logit lens: which tokens a direction speaks, read through the final norm's gain and the unembedding."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens import HookedTransformer

from steerlens.checks.calls import whole
from steerlens.errors import MeasureError
from steerlens.forward.door import checked
from steerlens.forward.parts import check_readable
from steerlens.measures.activations import covariances, isotropic_directions
from steerlens.models.identity import identify
from steerlens.pairs.preference import PreferencePairs
from steerlens.results.result import Result
from steerlens.vectors.vector import SteeringVector, check_fits

AT_ONCE = 8192  # tokens of the vocabulary


@dataclass(frozen=True, eq=False)
class LogitLens(Result):
    """The tokens that the unit vector raises most and least, and how far a random direction would raise them.

    A z-score is a token's value over its standard deviation between random directions. In a large vocabulary some token has
    a large one by chance: the largest of all is what to look at, beside those of the random directions themselves.
    """

    label: str
    top: tuple[tuple[str, float], ...]
    """(token, logit per unit of the residual stream), highest first"""
    bottom: tuple[tuple[str, float], ...]
    """lowest first: what -v raises"""
    sd: float
    """standard deviation of the values over the vocabulary, for scale"""
    top_z: tuple[float, ...] = ()
    """z-scores of the tokens in `top`"""
    bottom_z: tuple[float, ...] = ()
    max_z: float = float("nan")
    """the largest |z| of the whole vocabulary"""
    null: str = "none"
    """what random directions were drawn: "isotropic" or "random (covariance)" """
    null_max_z: Float[np.ndarray, " draw"] = field(default_factory=lambda: np.zeros(0))
    """the largest |z| of the whole vocabulary, of each random direction"""

    def __post_init__(self) -> None:
        for side, z in ((self.top, self.top_z), (self.bottom, self.bottom_z)):
            if z and len(z) != len(side):
                raise MeasureError(f"{len(z)} z-scores of {len(side)} tokens; expected one of each, or none")

    @property
    def expected_max_z(self) -> float:
        """The mean over random directions of the largest |z| of the vocabulary: what noise looks like; NaN without a null."""
        return float(self.null_max_z.mean()) if len(self.null_max_z) else float("nan")

    @property
    def p_value(self) -> float:
        """The chance that a random direction's largest |z| is at least this vector's; NaN without a null."""
        n = len(self.null_max_z)
        return float((1 + (self.null_max_z >= self.max_z).sum()) / (1 + n)) if n else float("nan")

    def to_frame(self) -> pd.DataFrame:
        """One row per listed token."""
        sides = (("top", self.top, self.top_z), ("bottom", self.bottom, self.bottom_z))
        rows = [
            (self.label, side, rank, *cell, z[rank] if z else float("nan"))
            for side, cells, z in sides
            for rank, cell in enumerate(cells)
        ]
        return pd.DataFrame(rows, columns=["vector", "side", "rank", "token", "logit", "z"])

    def __repr__(self) -> str:
        def row(cells: Sequence[tuple[str, float]], z: Sequence[float]) -> str:
            pads = z or [float("nan")] * len(cells)
            return ", ".join(f"{text!r} {x:+.3f} (z {own:+.1f})" for (text, x), own in zip(cells, pads, strict=True))

        return (
            f"LogitLens({self.label}, logit per unit of the residual stream)\n  raises {row(self.top, self.top_z)}\n"
            f"  lowers {row(self.bottom, self.bottom_z)}\n  largest |z| {self.max_z:.1f}; of {len(self.null_max_z)} "
            f"{self.null} directions {self.expected_max_z:.1f} on average: p = {self.p_value:.2g}"
        )


@checked(MeasureError, k=whole(), n_null=whole(least=100))
def logit_lens(
    model: HookedTransformer,
    vector: SteeringVector,
    *,
    k: int = 10,
    label: str | None = None,
    pairs: PreferencePairs | None = None,
    texts: Sequence[str] | None = None,
    n_null: int = 200,
    seed: int = 0,
    batch_size: int = 8,
    progress: bool = True,
) -> LogitLens:
    """The k tokens whose logits the unit vector raises most, and the k it lowers most, with z-scores against noise.

    W_U^T (gamma * v) for RMSNorm, W_U^T (gamma * (v - mean v)) for LayerNorm, gamma the gain of `ln_final` (applied; its
    division by the stream's size is left out, which is the same for all tokens), biases left out, so that -v is the exact
    negative; the mean over the vocabulary is taken out, so that folded and centred weights give the same numbers.

    Args:
        k: tokens on either side.
        label: the vector's name in figures; default: its method.
        pairs, texts: either, for random directions with the activations' covariance at the vector's layer (nothing is
            reported on them, so the training pairs will do); without, all directions are alike, and the standard deviation
            of a token's value has a closed form.
        n_null: random directions, at least 100.
        seed: of them.
        batch_size: pairs or texts at once.

    Raises:
        VectorError: the vector does not fit the model.
        ModelError: the final norm or the unembedding is not TransformerLens's own, or a hook is on it.
        MeasureError: the vector is zero, k is not from 1 to half of the vocabulary, under 100 random directions, or both pairs
            and texts.

    Source:
        nostalgebraist 2020, "interpreting GPT: the logit lens".
    """
    check_fits(vector, identify(model))
    check_listed(model, k)
    check_readable(model, "ln_final", "unembed")
    if pairs is not None and texts is not None:
        raise MeasureError("expected one of the two or neither: pairs=, or texts=")
    direction = visible_direction(model, vector)
    material = pairs if texts is None else texts
    if material is None:
        seen = identify(model).normalization != "LN"
        drawn = isotropic_directions(n_null, model.cfg.d_model, sees_mean=seen, seed=seed)
    else:
        found = covariances(model, material, [vector.layer], batch_size=batch_size, progress=progress)
        drawn = found[vector.layer].directions(n_null, seed=seed)
    values = lens_values(model, direction)
    sd, largest = _noise(model, drawn, isotropic=material is None)
    z = values / np.maximum(sd, np.finfo(np.float64).tiny)
    order = values.argsort()
    top, bottom = order[-k:][::-1].tolist(), order[:k].tolist()
    return LogitLens(
        label=label or vector.method,
        top=tuple((token_text(model, i), float(values[i])) for i in top),
        bottom=tuple((token_text(model, i), float(values[i])) for i in bottom),
        sd=float(values.std()),
        top_z=tuple(z[top].tolist()),
        bottom_z=tuple(z[bottom].tolist()),
        max_z=float(np.abs(z).max()),
        null="isotropic" if material is None else "random (covariance)",
        null_max_z=largest,
    )


def check_listed(model: HookedTransformer, k: int) -> None:
    """Raise MeasureError unless the vocabulary has k tokens for either side of a list."""
    if k > model.cfg.d_vocab // 2:
        raise MeasureError(f"k={k}; expected from 1 to {model.cfg.d_vocab // 2}, half of the vocabulary")


def visible_direction(model: HookedTransformer, vector: SteeringVector) -> Float[Tensor, " d_model"]:
    """The unit tensor of the part that the model can see; raises MeasureError where there is none."""
    part = vector.tensor.double()
    part = part if identify(model).normalization != "LN" else part - part.mean()
    if not float(part.norm()) > 0:
        raise MeasureError(f"the {vector.method} vector is zero: it has no direction to read")
    return (part / part.norm()).float()


def lens_values(model: HookedTransformer, direction: Float[Tensor, " d_model"]) -> Float[np.ndarray, " d_vocab"]:
    """The logit that one unit of the direction adds to every token, in float32, less the mean over tokens."""
    parts = [direction.to(rows) @ rows for rows in _unembedding(model)]
    values = torch.cat(parts).cpu().double().numpy()
    return values - values.mean()


@torch.no_grad()
def _unembedding(model: HookedTransformer) -> Iterator[Float[Tensor, "d_model token"]]:
    """What each token reads of the residual stream, gain and centring included, some tokens at a time, in float32."""
    gain, centres = getattr(getattr(model, "ln_final", None), "w", None), identify(model).normalization == "LN"
    for rows in model.W_U.split(AT_ONCE, dim=1):
        rows = rows.float() if gain is None else rows.float() * gain.float()[:, None]
        yield rows - rows.mean(0) if centres else rows


@torch.no_grad()
def _noise(
    model: HookedTransformer, drawn: Float[np.ndarray, "draw d_model"], *, isotropic: bool
) -> tuple[Float[np.ndarray, " d_vocab"], Float[np.ndarray, " draw"]]:
    """Each token's standard deviation between random directions, and the largest |z| of each of these."""
    directions, dimensions = torch.from_numpy(drawn).float(), drawn.shape[1] - (identify(model).normalization == "LN")
    mean = torch.stack([rows.sum(1) for rows in _unembedding(model)]).sum(0) / model.W_U.shape[1]
    sds, largest = [], torch.zeros(len(drawn), dtype=torch.float64, device="cpu")
    for rows in _unembedding(model):
        rows = rows - mean[:, None]
        squares = (directions.to(rows) @ rows).square().cpu().double()
        if isotropic:
            sd = others = rows.norm(dim=0).cpu().double() / dimensions**0.5
        else:
            total = squares.sum(0)
            # Each direction against the others: with itself among them no z could be beyond the root of their number.
            sd, others = (total / len(drawn)).sqrt(), ((total - squares) / (len(drawn) - 1)).sqrt()
        sds.append(sd)
        largest = torch.maximum(largest, (squares.sqrt() / others.clamp(min=1e-300)).amax(1))
    return torch.cat(sds).numpy(), largest.numpy()


def token_text(model: HookedTransformer, token: int) -> str:
    """A token as it reads, with its space; a token of half a character as the tokenizer spells it."""
    tokenizer: Any = model.tokenizer
    text = tokenizer.decode([token])
    return str(tokenizer.convert_ids_to_tokens(token)) if not text or "\ufffd" in text else text
