"""Vectors at equal cost: each at the multiplier at which it has the first one's KL on neutral text, both signs together."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from jaxtyping import Float
from transformer_lens import HookedTransformer

from steerlens.errors import MeasureError
from steerlens.measures._search import Items
from steerlens.measures._text_kl import TextKL
from steerlens.measures.effect import PreferenceShift
from steerlens.measures.matched import Match, search_multiplier
from steerlens.measures.side_effects import SideEffects
from steerlens.results.result import Stored
from steerlens.vectors.vector import SteeringVector

TOLERANCE = 0.02
"""how far a KL may be from the target, as a share of it"""
REACH = 64.0
"""how many times more or less than at equal norm is tried"""


@dataclass(frozen=True, eq=False)
class EqualKL(Stored):
    """Every vector at the multiplier at which it costs as much as the first does at equal norm.

    What counts is the mean of the KL at +m and at -m: the odd part of a shift steers both ways, and a vector often costs
    more one way than the other.
    """

    like: str
    """the first vector's label"""
    target: float
    """its KL(unsteered || steered) on neutral texts at equal norm, the mean of multipliers 1 and -1, nats per token"""
    signs: Mapping[str, tuple[float, float]]
    """of each vector that is there, the first too: its KL at +m and at -m, nats per token"""
    matches: Mapping[str, Match]
    """the other vectors that reach it; multipliers are those of the vector as it came"""
    unreached: Mapping[str, str]
    """the others, and why none of their multipliers does"""
    shifts: Mapping[str, PreferenceShift] = field(default_factory=dict)
    """the held-out pairs' shifts under the vectors at equal KL, at multipliers -1 and +1 of what is so scaled"""
    controls: tuple[PreferenceShift, ...] = ()
    """the same under random directions of that KL"""
    n_random: int = 0
    """how many random directions were brought to it; those of them that reach it are in `controls`"""


def match_kl(
    model: HookedTransformer,
    vectors: Mapping[str, SteeringVector],
    norm: float,
    costs: SideEffects,
    controls: Sequence[SteeringVector],
    *,
    progress: bool,
) -> tuple[EqualKL, dict[str, float], dict[int, float]]:
    """The matching multipliers, without shifts: (the result, each vector's that reaches the target, each control's by its place).

    Args:
        norm: the equal norm, at which the KL of +-1 is read from `costs`; there the searches begin.
        controls: random directions.
    """
    texts = TextKL(model, costs.texts, [v.layer for v in (*vectors.values(), *controls)])
    first, *others = vectors
    at = [costs.multipliers.index(m) for m in (1.0, -1.0)]
    items = {label: costs.kl[costs.row(label)][at] for label in vectors}
    like = partial(_match, texts, items[first].mean(0), first, progress)
    multiples = {first: norm / vectors[first].norm}
    signs = {first: _each_sign(items[first])}
    matches: dict[str, Match] = {}
    unreached: dict[str, str] = {}
    for label in others:
        vector, start = vectors[label], norm / vectors[label].norm
        try:
            matches[label], signs[label] = like(vector, label, {start: items[label]})
        except MeasureError as error:
            unreached[label] = str(error)
        else:
            multiples[label] = matches[label].multiplier
    reached = {}
    for i, control in enumerate(controls):
        try:
            reached[i] = like(control, "random", {1.0: None})[0].multiplier
        except MeasureError:  # `n_random` tells how many there were
            continue
    target = float(items[first].mean())
    return EqualKL(first, target, signs, matches, unreached, n_random=len(controls)), multiples, reached


Signs = Float[np.ndarray, "2 item"]


def _match(
    texts: TextKL,
    like_items: Items,
    like: str,
    progress: bool,
    vector: SteeringVector,
    label: str,
    begin: Mapping[float, Signs | None],
) -> tuple[Match, tuple[float, float]]:
    """The match, and the KL of its two signs; `begin` has the multiplier to begin at, and its items where they are known."""
    target = float(like_items.mean())
    if not (target > 1e-9 and math.isfinite(target)):
        raise MeasureError(
            f"{like} itself has a KL of {target:g} nats per token there: no multiplier can be matched to it"
        )
    ((start, known),) = begin.items()
    measured: dict[float, Signs] = {}

    def both_signs(m: float) -> Items:
        measured[m] = texts.kl(vector, [m, -m])
        return measured[m].mean(0)

    match = search_multiplier(
        {"label": label, "norm": vector.norm, "by": "kl", "like": like},
        both_signs,
        target=target,
        unsteered=0.0,
        tolerance=TOLERANCE,
        start=start,
        between=(start / REACH, start * REACH),
        known=None if known is None else {start: known.mean(0)},
        like_items=like_items,
        progress=progress,
    )
    found = measured.get(match.multiplier, known)
    assert found is not None  # a multiplier that was not measured here was known
    return match, _each_sign(found)


def _each_sign(items: Signs) -> tuple[float, float]:
    plus, minus = (float(side.mean()) for side in items)
    return plus, minus
