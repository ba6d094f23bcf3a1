"""The next token of every row from its logits: the likeliest, or one drawn by the row's own seed."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

Choose = Callable[[Float[Tensor, "row d_vocab"], Sequence[int], int], Int[Tensor, " row"]]
"""(logits, which rows of the batch they belong to, how many tokens those have so far) -> the next token of each"""


def likeliest(logits: Float[Tensor, "row d_vocab"], rows: Sequence[int], step: int) -> Int[Tensor, " row"]:
    """The token with the largest logit."""
    return logits.argmax(-1)


def drawn(seeds: Sequence[int], tokens: int, temperature: float) -> Choose:
    """Tokens drawn from softmax(logits / temperature), one seed per row, for so many tokens.

    A row's draws are its own: one uniform number a token, put through the inverse of the cumulative distribution. They
    depend neither on the other rows nor on their order, and rounding moves a draw only where it hits a boundary.
    """
    by_row = [
        torch.rand(tokens, dtype=torch.float64, device="cpu", generator=torch.Generator("cpu").manual_seed(s))
        for s in seeds
    ]
    uniform = torch.stack(by_row)

    def choose(logits: Float[Tensor, "row d_vocab"], rows: Sequence[int], step: int) -> Int[Tensor, " row"]:
        wide = logits if logits.device.type == "mps" else logits.double()
        below = (wide / temperature).softmax(-1).cumsum(-1)
        # Times the last sum, which rounding leaves beside 1.
        u = uniform[list(rows), step, None].to(below) * below[:, -1:]
        return torch.searchsorted(below, u, right=True)[:, 0].clamp(max=logits.shape[-1] - 1)

    return choose
