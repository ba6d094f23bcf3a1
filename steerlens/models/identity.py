"""Whether two models have the same weights, however TransformerLens has processed them."""

import math
import weakref
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from steerlens.errors import ModelError
from steerlens.models.invariants import measure, rotary_tables

_known: "weakref.WeakKeyDictionary[Any, tuple[object, ModelIdentity]]" = weakref.WeakKeyDictionary()
# Rounding a weight to 8 or 11 bits moves a number by about 0.0022 or 0.0003 of its standard deviation (at most by 0.0082 and
# 0.0009 on models of five families, processed or not), to 24 bits by 1e-7 (3e-7). Each number counts: in a mean over all of
# them, a change of one weight alone gets lost.
_ROUNDING = {"torch.bfloat16": 0.016, "torch.float16": 0.002}
_EXACT = 2e-5
_TANH_GELU = ("gelu_new", "gelu_fast", "gelu_pytorch_tanh")  # one function, written three times


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
    digest: str = ""
    """sha256 of all parameters in float32 with their names and shapes, and of `settings`; "" where a record has none."""
    settings: str = ""
    """what makes the function beside the weights: eps, attention scale, activation, windows, caps, positions."""
    scales: tuple[float, ...] = ()
    """log sizes of all weights, their effective biases, rotary tables; like `fingerprint` the same after processing."""

    def same_weights(self, other: "ModelIdentity") -> bool:
        """Whether the two have the same weights up to processing and rounding to the coarser of the two dtypes."""
        if (self.d_model, self.n_layers) != (other.d_model, other.n_layers):
            return False
        if self.settings and other.settings and self.settings != other.settings:
            return False
        tolerance = max(_ROUNDING.get(self.dtype, _EXACT), _ROUNDING.get(other.dtype, _EXACT))
        return _are_close(self.fingerprint, other.fingerprint, tolerance) and (
            not (self.scales and other.scales) or _are_close(self.scales, other.scales, tolerance)
        )

    def other_settings(self, other: "ModelIdentity") -> str:
        """The settings that differ, as "rotary_dim 64, there 32"; "" where none do, or one of the records has none."""
        if not (self.settings and other.settings):
            return ""
        mine, theirs = self.settings.split("; "), other.settings.split("; ")
        missing = sorted(set(theirs) - set(mine))
        return "; ".join(
            f"{one}, there {missing.pop(0) if missing else 'not'}" for one in sorted(set(mine) - set(theirs))
        )

    def describe(self) -> str:
        """One phrase for an error message."""
        weights = self.digest[:12] or "of no known digest: an older version wrote its record"
        return f"{self.name} (d_model {self.d_model}, {self.n_layers} layers, weights {weights})"


def _are_close(mine: tuple[float, ...], theirs: tuple[float, ...], tolerance: float) -> bool:
    if len(mine) != len(theirs):
        return False
    return bool(np.abs(np.subtract(mine, theirs)).max(initial=0.0) <= tolerance)  # NaN is close to nothing


def identify(model: Any) -> ModelIdentity:
    """The identity of a HookedTransformer; computed once per set of weights."""
    if is_spent(model):
        raise ModelError("the model's lower half was let go by free_lower=True: load it again")
    settings = _settings(model)
    version = _version(model), settings
    cached = _known.get(model)
    if cached is not None and cached[0] == version:
        return cached[1]
    kind = str(model.cfg.normalization_type or "none")
    done = [word for word, is_so in (("folded", kind.endswith("Pre")), ("centred", _is_centred(model, kind))) if is_so]
    measured = measure(model, settings)
    identity = ModelIdentity(
        name=str(model.cfg.model_name),
        d_model=int(model.cfg.d_model),
        n_layers=int(model.cfg.n_layers),
        normalization=kind.removesuffix("Pre"),
        processing=", ".join(done) or "none",
        dtype=str(model.cfg.dtype),
        fingerprint=measured.fingerprint,
        digest=measured.digest,
        settings=settings,
        scales=measured.scales,
    )
    _known[model] = (version, identity)
    return identity


def _settings(model: Any) -> str:
    """What makes the function beside the weights, where the model itself reads it: each value with how often it stands."""
    cfg, blocks = model.cfg, model.blocks
    norms: list[Any] = [
        getattr(block, name, None) for block in blocks for name in ("ln1", "ln2", "ln1_post", "ln2_post")
    ]
    functions = [getattr(getattr(block, "mlp", None), "act_fn", None) for block in blocks]
    acts = [getattr(act, "__name__", type(act).__name__) for act in functions if act is not None]
    told: dict[str, list[str]] = {
        "eps": [f"{norm.eps:.6g}" for norm in (*norms, getattr(model, "ln_final", None)) if hasattr(norm, "eps")],
        "attention scale": [f"{block.attn.attn_scale:.6g}" for block in blocks],
        "attention": [str(block.attn.attn_type) for block in blocks],
        "activation": ["gelu, tanh" if act in _TANH_GELU else act for act in acts],
    }
    lines = [f"{name} " + ", ".join(f"{n} x {v}" for v, n in Counter(every).items()) for name, every in told.items()]
    lines += [f"window {cfg.window_size}"] if cfg.use_local_attn else []
    for name in ("attn_scores_soft_cap", "output_logits_soft_cap"):
        lines.append(f"{name} {max(0.0, float(getattr(cfg, name, 0.0))):.6g}")  # -1 is none
    names = ["positional_embedding_type", "parallel_attn_mlp", "attention_dir"]
    names += ["rotary_dim", "rotary_adjacent_pairs"] if cfg.positional_embedding_type == "rotary" else []
    return "; ".join([*lines, *(f"{name} {getattr(cfg, name, None)}" for name in names)])


def _version(model: Any) -> object:
    """What changes when weights are replaced or edited: their version counters, and samples, for edits of `.data` count nowhere."""
    weights = [*model.parameters(), *(table[1:2] for _, table in rotary_tables(model))]
    samples: dict[torch.device, list[Tensor]] = {}
    for weight in weights:
        samples.setdefault(weight.device, []).append(_sample(weight.detach()))
    return (
        tuple(0 if weight.is_inference() else weight._version for weight in weights),
        # One transfer from each device.
        tuple(torch.cat(found).float().cpu().numpy().tobytes() for found in samples.values()),
    )


def _sample(weight: Tensor) -> Tensor:
    """A number of every row and every column that a weight has in memory."""
    if weight.ndim < 2:
        return weight.reshape(-1)
    row = weight.shape[min(range(weight.ndim), key=weight.stride)]  # the length of what lies side by side
    step = min(row, weight.numel() // max(1, row))
    while step > 1 and math.gcd(step, row) > 1:  # then the samples step through all columns
        step -= 1
    is_dense = sum((n - 1) * s for n, s in zip(weight.shape, weight.stride(), strict=True)) + 1 == weight.numel()
    flat = weight.as_strided((weight.numel(),), (1,)) if is_dense else weight.reshape(-1)
    return flat[:: max(1, step)]


def is_spent(model: Any) -> bool:
    """Whether some of the model's weights were let go (`train_bipo(free_lower=True)`)."""
    return any(weight.numel() == 0 for weight in model.parameters())


def living_models() -> list[Any]:
    """The models in this process that something was measured on, that are still alive and whole; the oldest first."""
    return [model for model in _known if not is_spent(model)]


def _is_centred(model: Any, kind: str) -> bool:
    if not kind.startswith("LN"):
        return False
    rows = model.W_E[: min(64, model.cfg.d_vocab)].detach().float().cpu().double()
    return bool(rows.mean(-1).abs().max() < 1e-3 * rows.std())
