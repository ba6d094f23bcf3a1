"""The end of the forward pass: the final norm and the unembedding, in float32 at least.

Logits of a 16-bit model are near 16, where bfloat16's steps are 1/8 of a nat. Here they are float32 whatever the weights are,
and a token's log-probability takes its own logit and the sum over all from the same numbers: none is above 0.
"""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens import HookedTransformer
from transformer_lens.utilities.activation_functions import apply_softcap

from steerlens.forward.block_math import norm
from steerlens.forward.parts import is_readable

_AT_ONCE = 2**24  # weights of the unembedding that are held in float32


def logits_at(model: HookedTransformer, resid: Float[Tensor, "n d_model"]) -> Float[Tensor, "n d_vocab"]:
    """Logits from the residual stream after the last block, in float32 at least."""
    wide, cap = torch.promote_types(model.cfg.dtype, torch.float32), model.cfg.output_logits_soft_cap
    if not is_readable(model, "ln_final", "unembed"):
        # Somebody else's module, or a hook: it is run, and what it rounds is its own.
        x = resid[None] if model.cfg.normalization_type is None else model.ln_final(resid[None])
        return apply_softcap(model.unembed(x)[0].to(wide), cap)
    x = resid.to(wide)
    x = x if model.cfg.normalization_type is None else norm(model.ln_final, x)
    rows, bias = model.unembed.W_U.T, model.unembed.b_U
    logits = F.linear(x, rows, bias) if rows.dtype == wide else _WideLinear.apply(x, rows, bias)
    return apply_softcap(logits, cap)


def sum_logprobs(
    logits: Float[Tensor, "row d_vocab"],
    token: Int[Tensor, " token"],
    side: Int[Tensor, " token"],
    sides: int,
    row: Int[Tensor, " token"] | None = None,
) -> Float[Tensor, " side"]:
    """log p of tokens in nats, summed over those of each side, in float64.

    row: the logits that predict each token; one after the other by default.
    """
    row = torch.arange(len(token), device=token.device) if row is None else row
    each = _TokenLogProbs.apply(logits, row, token)
    # Sums of hundreds of nats, whose small differences count: fp32 would round x by 1e-4. (MPS has no float64.)
    each = each if each.device.type == "mps" else each.double()
    return each.new_zeros(sides).index_add(0, side, each)


class _WideLinear(torch.autograd.Function):
    """x @ rows.T + bias in x's dtype for narrower weights, of which a part at a time is widened and none is kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rows: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(rows)
        logits = x.new_empty(len(x), len(rows))
        for some, out in zip(_parts(rows), logits.split(_step(rows), 1), strict=True):
            out.copy_(x @ some.to(x).T)
        return logits.add_(bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (rows,) = ctx.saved_tensors
        parts = zip(gradient.split(_step(rows), 1), _parts(rows), strict=True)
        return sum((g @ some.to(g) for g, some in parts), gradient.new_zeros(())), None, None


def _step(rows: Tensor) -> int:
    return max(1, _AT_ONCE // rows.shape[1])


def _parts(rows: Tensor) -> tuple[Tensor, ...]:
    return rows.split(_step(rows))


class _TokenLogProbs(torch.autograd.Function):
    """Some tokens' logits less the log of the sum over all, with one tensor of the logits' size for the gradient, not three."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, row: Tensor, token: Tensor) -> Tensor:
        total = logits.logsumexp(-1)
        ctx.save_for_backward(logits, total, row, token)
        return logits[row, token] - total[row]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        logits, total, row, token = ctx.saved_tensors
        weight = torch.zeros_like(total).index_add_(0, row, gradient)
        found = (logits - total[:, None]).exp_().mul_(-weight[:, None])
        return found.index_put_((row, token), gradient, accumulate=True), None, None
