"""Whether two models have the same weights, however TransformerLens has processed them.

Folding LayerNorm, centring and folding value biases rewrite the weights and leave the function. The numbers here are the
same before and after: each is r @ W @ s for a weight W (its norm's gain multiplied in) and fixed random r, s, with r or s
of mean zero along d_model, so that subtracting a mean changes nothing; of the biases only the MLP's output bias, which no
processing moves elsewhere, is looked at. https://transformerlensorg.github.io: weight processing.
"""

import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from steerlens.errors import ModelError

_known: "weakref.WeakKeyDictionary[Any, tuple[tuple[float, ...], ModelIdentity]]" = weakref.WeakKeyDictionary()


@dataclass(frozen=True)
class ModelIdentity:
    """What a vector must fit: which weights, and how the residual stream is normalised and processed."""

    name: str
    d_model: int
    n_layers: int
    normalization: str
    """"LN" (the residual stream counts only up to its mean over d_model), "RMS" or "none"."""
    processing: str
    """"none", or what was folded and centred: "folded", "centred", "folded, centred"."""
    dtype: str
    fingerprint: tuple[float, ...]
    """r @ W @ s for the embeddings, every block's weights and output bias, and the unembedding, over its standard deviation."""

    def same_weights(self, other: "ModelIdentity") -> bool:
        """Whether the two have the same weights up to processing and rounding to the coarser of the two dtypes."""
        if (self.d_model, self.n_layers, len(self.fingerprint)) != (
            other.d_model,
            other.n_layers,
            len(other.fingerprint),
        ):
            return False
        # Rounding to 8 or 11 bits moves a number by about 0.0022 or 0.0003 of its standard deviation, to 24 by 1e-7.
        # Each number counts: in a mean over all of them, a change of one weight alone gets lost.
        coarse = {"torch.bfloat16": 0.016, "torch.float16": 0.002}
        tolerance = max(coarse.get(self.dtype, 2e-5), coarse.get(other.dtype, 2e-5))
        return bool(np.abs(np.subtract(self.fingerprint, other.fingerprint)).max() <= tolerance)

    def describe(self) -> str:
        """One phrase for an error message."""
        return f"{self.name} (d_model {self.d_model}, {self.n_layers} layers, weights {self.fingerprint[-1]:+.4f})"


def identify(model: Any) -> ModelIdentity:
    """The identity of a HookedTransformer; computed once per set of weights."""
    if is_spent(model):
        raise ModelError("the model's lower half was let go by free_lower=True: load it again")
    version = _version(model)
    cached = _known.get(model)
    if cached is not None and cached[0] == version:
        return cached[1]
    kind = str(model.cfg.normalization_type or "none")
    done = [word for word, is_so in (("folded", kind.endswith("Pre")), ("centred", _is_centred(model, kind))) if is_so]
    with torch.no_grad():
        fingerprint = tuple(_numbers(model))
    identity = ModelIdentity(
        name=str(model.cfg.model_name),
        d_model=int(model.cfg.d_model),
        n_layers=int(model.cfg.n_layers),
        normalization=kind.removesuffix("Pre"),
        processing=", ".join(done) or "none",
        dtype=str(model.cfg.dtype),
        fingerprint=fingerprint,
    )
    _known[model] = (version, identity)
    return identity


def _version(model: Any) -> tuple[float, ...]:
    """Numbers that change when weights are replaced or edited; a few of each weight, for edits of `.data` count nowhere."""
    weights = [p.detach() for p in model.parameters()]
    steps = 7919 * torch.arange(32)
    samples = [w[tuple((steps // (i + 1)) % n for i, n in enumerate(w.shape))].float().cpu() for w in weights]
    return (
        sum(w._version for w in weights),
        sum(w.data_ptr() for w in weights),
        float(torch.cat(samples).double().sum()),
    )


def is_spent(model: Any) -> bool:
    """Whether some of the model's weights were let go (`train_bipo(free_lower=True)`)."""
    return any(weight.numel() == 0 for weight in model.parameters())


def living_models() -> list[Any]:
    """The models in this process that something was measured on, that are still alive and whole; the oldest first."""
    return [model for model in _known if not is_spent(model)]


def _is_centred(model: Any, kind: str) -> bool:
    if not kind.startswith("LN"):
        return False
    rows = model.W_E[: min(64, model.cfg.d_vocab)].double()
    return bool(rows.mean(-1).abs().max() < 1e-3 * rows.std())


def _numbers(model: Any) -> Iterator[float]:
    for block in model.blocks:
        attn, mlp = block.attn, getattr(block, "mlp", None)
        for name in ("W_Q", "W_K", "W_V"):
            weight = getattr(attn, f"_{name}", None) if name != "W_Q" else None
            yield _probe(weight if weight is not None else getattr(attn, name), gain=_gain(block, "ln1"))
        yield _probe(attn.W_O.flatten(0, 1).T)
        if mlp is not None and hasattr(mlp, "W_in"):
            # In a block without ln2 (GPT-J) attention and MLP read the same norm.
            norm = "ln2" if hasattr(block, "ln2") else "ln1"
            for name in ("W_in", "W_gate"):
                weight = getattr(mlp, name, None)
                if weight is not None:
                    yield _probe(weight, gain=_gain(block, norm))
            yield _probe(mlp.W_out.T)
        if hasattr(getattr(block, "mlp", None), "b_out"):
            yield _probe_bias(block.mlp.b_out)
    yield _probe(model.W_E.T)
    if hasattr(model, "pos_embed"):
        yield _probe(model.pos_embed.W_pos.T)
    yield _probe(model.W_U, gain=_gain(model, "ln_final"), centre=True)


def _probe_bias(bias: Tensor) -> float:
    """r @ bias over the bias's norm, both less their mean over d_model."""
    centred = bias.double().cpu() - bias.double().cpu().mean()
    r = torch.randn(bias.numel(), generator=torch.Generator().manual_seed(0)).double()
    norm = centred.norm()
    return float((r - r.mean()) @ centred / norm) if norm > 0 else 0.0


def _gain(module: Any, norm: str) -> Tensor | None:
    return getattr(getattr(module, norm, None), "w", None)


def _probe(weight: Tensor, gain: Tensor | None = None, centre: bool = False) -> float:
    """r @ (gain * weight) @ s over its standard deviation; weight is (..., d_model, columns)."""
    generator = torch.Generator().manual_seed(0)
    d_model = weight.shape[-2]
    r = torch.randn(d_model, generator=generator)
    r = (r - r.mean()).to(weight.device)
    r = r if gain is None else r * gain.float()
    row = torch.matmul(r, weight.float()).flatten().double().cpu()  # float: a double copy of a 7B weight is too large
    if centre:
        row = row - row.mean()
    s = torch.randn(row.numel(), generator=generator).double()
    norm = row.norm()
    return float(row @ s / norm) if norm > 0 else 0.0
