"""A block's equations, written out on the HookedTransformer's own weights; its hooks don't fire.

    x <- x + W_O softmax(Q K^T / scale) V,   Q, K, V = W_Q, W_K, W_V ln1(x), Q and K rotated by position
    x <- x + W_out (act(W_gate ln2(x)) * (W_in ln2(x)) + b_in)     or     W_out act(W_in ln2(x) + b_in)

Tensors are "... head d_head" or "... d_model": tokens may lie in one run or in rows. Which models these equations are
true of, `FlatRoute.fits` says.
"""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens import HookedTransformer


def embed(
    model: HookedTransformer, tokens: Int[Tensor, "*token"], position: Int[Tensor, "*token"]
) -> Float[Tensor, "*token d_model"]:
    """Embeddings, with those of absolute positions where the model has them."""
    x = model.W_E[tokens]
    return x + model.W_pos[position] if model.cfg.positional_embedding_type == "standard" else x


def norm(layer: Any, x: Float[Tensor, "*token d_model"]) -> Float[Tensor, "*token d_model"]:
    """LayerNorm or RMSNorm, in the dtype of x; gain and bias may be folded away."""
    kind, width = type(layer).__name__, (x.shape[-1],)
    gain, bias = (None if (t := getattr(layer, name, None)) is None else t.to(x) for name in ("w", "b"))
    if kind.startswith("RMS"):
        return F.rms_norm(x, width, gain, layer.eps)
    return F.layer_norm(x, width, gain, bias, layer.eps)


def queries(
    attn: Any, x: Float[Tensor, "*token d_model"], position: Int[Tensor, "*token"]
) -> Float[Tensor, "*token head d_head"]:
    """Q, rotated where the model has rotary positions."""
    return _rotate(attn, _heads(x, attn.W_Q, attn.b_Q), position)


def keys_and_values(
    attn: Any, x: Float[Tensor, "*token d_model"], position: Int[Tensor, "*token"]
) -> tuple[Float[Tensor, "*token kv_head d_head"], Float[Tensor, "*token kv_head d_head"]]:
    """K, rotated, and V: of fewer heads than Q where heads are grouped."""
    grouped = {name: getattr(attn, f"_{name}", None) for name in ("W_K", "W_V", "b_K", "b_V")}
    w = {name: getattr(attn, name) if weight is None else weight for name, weight in grouped.items()}
    return _rotate(attn, _heads(x, w["W_K"], w["b_K"]), position), _heads(x, w["W_V"], w["b_V"])


def write(attn: Any, z: Float[Tensor, "*token heads_d_head"]) -> Float[Tensor, "*token d_model"]:
    """W_O: the heads' outputs, side by side, back into the residual stream."""
    return F.linear(z, attn.W_O.flatten(0, 1).T, attn.b_O)


def mlp(layer: Any, x: Float[Tensor, "*token d_model"]) -> Float[Tensor, "*token d_model"]:
    """The gated or the plain MLP."""
    if hasattr(layer, "W_gate"):
        hidden = layer.act_fn(F.linear(x, layer.W_gate.T)) * F.linear(x, layer.W_in.T) + layer.b_in
    else:
        hidden = layer.act_fn(F.linear(x, layer.W_in.T, layer.b_in))
    return F.linear(hidden, layer.W_out.T, layer.b_out)


def _heads(
    x: Tensor, weight: Float[Tensor, "head d_model d_head"], bias: Tensor
) -> Float[Tensor, "*token head d_head"]:
    flat = weight.permute(0, 2, 1).flatten(0, 1)  # a view where load_model has laid the weights out
    return F.linear(x, flat, bias.flatten()).unflatten(-1, bias.shape)


def _rotate(attn: Any, x: Float[Tensor, "*token head d_head"], position: Int[Tensor, "*token"]) -> Tensor:
    if attn.cfg.positional_embedding_type != "rotary":
        return x
    turned, kept = x[..., : attn.cfg.rotary_dim], x[..., attn.cfg.rotary_dim :]
    a, b = turned.chunk(2, -1)
    cos, sin = attn.rotary_cos[position][..., None, :], attn.rotary_sin[position][..., None, :]
    turned = turned * cos + torch.cat([-b, a], -1) * sin
    return torch.cat([turned, kept], -1) if kept.shape[-1] else turned
