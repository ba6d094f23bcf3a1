"""Which pairs a step sees, and with which sign."""

from collections.abc import Sequence
from typing import Literal

import torch

from steerlens.checks.values import checked_choice, checked_count, checked_list, shown
from steerlens.errors import TrainingError

Sign = Literal["batch", "pair", "both"]
Order = Sequence[tuple[Sequence[int], int | Sequence[int]]]
Plan = list[tuple[list[int], list[int]]]
"""the rows of every step, and a sign of +1 or -1 for each row"""


def one_sign(signs: Sequence[int]) -> int:
    """+1 or -1 where the step had one sign, 0 where it had both."""
    return signs[0] if len(set(signs)) == 1 else 0


def drawn_order(n: int, steps: int, batch_size: int, sign: Sign, seed: int) -> Plan:
    """A fresh order of the pairs each epoch; an epoch's last batch is as large as what is left."""
    generator = torch.Generator("cpu").manual_seed(seed)
    plan: Plan = []
    while True:
        permutation = torch.randperm(n, generator=generator, device="cpu").tolist()
        for start in range(0, n, batch_size):
            if len(plan) == steps:
                return plan
            rows = permutation[start : start + batch_size]
            drawn = (torch.randint(0, 2, (len(rows),), generator=generator, device="cpu") * 2 - 1).tolist()
            if sign == "both":
                plan.append((rows * 2, [1] * len(rows) + [-1] * len(rows)))
            else:
                plan.append((rows, drawn if sign == "pair" else drawn[:1] * len(rows)))


def given_order(order: Order, n: int) -> Plan:
    """An order that the caller gives, checked."""
    plan: Plan = []
    for step, given in enumerate(checked_list("order", order, error=TrainingError, of="(rows, sign) of every step")):
        try:
            rows, sign = given
            rows = [checked_count("row", row, least=0, most=n - 1) for row in checked_list("rows", rows, of="rows")]
            alike = not hasattr(sign, "__len__")
            signs = [checked_choice("sign", d, (1, -1)) for d in ([sign] * len(rows) if alike else sign)]
            good = len(signs) == len(rows)
        except (TypeError, ValueError):  # a SteerLensError is one: this one's words tell more
            good = False
        if not good:
            raise TrainingError(
                f"order[{step}] is {shown(given)}; expected rows from 0 to {n - 1} and a sign of +1 or -1, or one per row"
            )
        plan.append((rows, signs))
    return plan
