"""Logit lens: which tokens a direction speaks, read through the final norm's gain and the unembedding."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens import HookedTransformer

from steerlens._fingerprint import identify
from steerlens._results import Result
from steerlens.errors import MeasureError
from steerlens.resid import check_model
from steerlens.vector import SteeringVector, check_fits


@dataclass(frozen=True, eq=False)
class LogitLens(Result):
    """The tokens that the unit vector raises most and least."""

    label: str
    top: tuple[tuple[str, float], ...]
    """(token, logit per unit of the residual stream), highest first"""
    bottom: tuple[tuple[str, float], ...]
    """lowest first: what -v raises"""
    sd: float
    """standard deviation of the values over the vocabulary, for scale"""

    def to_frame(self) -> pd.DataFrame:
        """One row per listed token."""
        sides = (("top", self.top), ("bottom", self.bottom))
        rows = [(self.label, side, rank, *cell) for side, cells in sides for rank, cell in enumerate(cells)]
        return pd.DataFrame(rows, columns=["vector", "side", "rank", "token", "logit"])


def logit_lens(model: HookedTransformer, vector: SteeringVector, *, k: int = 10, label: str | None = None) -> LogitLens:
    """The k tokens whose logits the unit vector raises most, and the k it lowers most.

    W_U^T (gamma * v) for RMSNorm, W_U^T (gamma * (v - mean v)) for LayerNorm, gamma the gain of `ln_final` (applied; its
    division by the stream's size is left out, which is the same for all tokens), biases left out, so that -v is the exact
    negative; the mean over the vocabulary is taken out, so that folded and centred weights give the same numbers.

    Raises:
        VectorError: the vector does not fit the model.
        MeasureError: k is not from 1 to half of the vocabulary.

    Source:
        nostalgebraist 2020, "interpreting GPT: the logit lens".
    """
    model = check_model(model)
    check_fits(vector, identify(model))
    if not 1 <= k <= model.cfg.d_vocab // 2:
        raise MeasureError(f"k={k}; expected from 1 to {model.cfg.d_vocab // 2}, half of the vocabulary")
    if vector.effective.norm == 0:
        raise MeasureError(f"the {vector.method} vector is zero: it has no direction to read")
    values = lens_values(model, vector.effective.direction)
    order = values.argsort()
    cell = [(token_text(model, int(i)), float(values[i])) for i in (*order[-k:][::-1], *order[:k])]
    return LogitLens(label or vector.method, tuple(cell[:k]), tuple(cell[k:]), float(values.std()))


@torch.no_grad()
def lens_values(model: HookedTransformer, direction: Float[Tensor, " d_model"]) -> Float[np.ndarray, " d_vocab"]:
    """The logit that one unit of the direction adds to every token, in float32, less the mean over tokens."""
    part = direction.to(model.cfg.device).float()
    if str(model.cfg.normalization_type).startswith("LN"):
        part = part - part.mean()
    gain = getattr(model.ln_final, "w", None)
    part = part if gain is None else part * gain.float()
    values = (part @ model.W_U.float()).double().cpu().numpy()
    return values - values.mean()


def token_text(model: HookedTransformer, token: int) -> str:
    """A token as it reads, with its space; a token of half a character as the tokenizer spells it."""
    tokenizer: Any = model.tokenizer
    text = tokenizer.decode([token])
    return str(tokenizer.convert_ids_to_tokens(token)) if not text or "\ufffd" in text else text
