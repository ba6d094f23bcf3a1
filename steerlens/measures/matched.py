"""Matched strength: the multiplier at which a vector has a given norm, KL, perplexity or shift, or another vector's.

>>> match = sl.match_multiplier(model, caa, like=bipo, by="kl")      # the side effects of bipo at multiplier 1
>>> sl.preference_shift(model, match.multiplier * caa, pairs.test)   # direction told from magnitude
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
import pandas as pd
from jaxtyping import Float
from tqdm.auto import tqdm
from transformer_lens import HookedTransformer

from steerlens._stats import mean_interval
from steerlens.checks.calls import flag, number, one_of, or_none, two_multipliers
from steerlens.errors import MeasureError
from steerlens.forward.door import KNOWN, checked
from steerlens.forward.pair_scores import PairScorer
from steerlens.forward.steer import Positions
from steerlens.measures._greedy import GreedyAnswers
from steerlens.measures._neutral import prompts_for, texts_for
from steerlens.measures._search import Items, Search
from steerlens.measures._text_kl import TextKL
from steerlens.measures.effect import check_unseen
from steerlens.models.identity import identify
from steerlens.pairs.preference import PreferencePairs
from steerlens.results.result import Result
from steerlens.text.ends import Stop
from steerlens.vectors.vector import SteeringVector, check_fits, check_same_space

By = Literal["norm", "kl", "perplexity", "shift"]
UNITS: dict[By, str] = {"norm": "residual stream", "kl": "nats per token", "perplexity": "", "shift": "nats"}


@dataclass(frozen=True, eq=False)
class Match(Result):
    """The multiplier at which a vector costs, or does, as much as was asked for."""

    label: str
    norm: float
    """the vector's norm at multiplier 1, in units of the residual stream; the part that the model can see"""
    by: By
    multiplier: float
    value: float
    """what was reached there"""
    target: float
    unsteered: float
    """at multiplier 0"""
    tolerance: float
    """how far the value may be from the target, in its unit; 0 for norms"""
    tried: Float[np.ndarray, " evaluation"]
    """the multipliers that were measured, in their order; none for norms"""
    items: Float[np.ndarray, "evaluation item"]
    """what was measured: KL per text, -log p per token of each answer (perplexity), shift per pair; nats"""
    like: str = ""
    """the other vector's name, where the target is its value"""
    like_items: Items | None = None
    """its raw values"""

    @property
    def evaluations(self) -> int:
        """How many multipliers of the vector were measured."""
        return len(self.tried)

    @property
    def monotone(self) -> bool:
        """Whether the value went one way over all multipliers that were measured; if not, another may match as well."""
        steps = np.diff(self.values[np.argsort(self.tried)])
        return bool((steps >= 0).all() or (steps <= 0).all())

    @checked(MeasureError)
    def interval(self, *, level: float = 0.95) -> tuple[float, float]:
        """Bootstrap interval of the value over texts, prompts or pairs, (low, high); the value itself for norms."""
        if self.by == "norm":
            return self.value, self.value
        low, high = mean_interval(self._at_match[:, None], level=level)
        return (math.exp(low[0]), math.exp(high[0])) if self.by == "perplexity" else (float(low[0]), float(high[0]))

    @checked(MeasureError)
    def difference(self, *, level: float = 0.95) -> tuple[float, float, float]:
        """The mean of the raw values less the other vector's on the same items, in nats: (difference, low, high).

        Raises:
            MeasureError: there is no other vector, or norms were matched.
        """
        if self.like_items is None:
            raise MeasureError("the target was a number, or a norm: there is nothing to take a paired difference to")
        differences = (self._at_match - self.like_items)[:, None]
        low, high = mean_interval(differences, level=level)
        return float(differences.mean()), float(low[0]), float(high[0])

    @property
    def values(self) -> Float[np.ndarray, " evaluation"]:
        """What was matched, at each multiplier of `tried`: the mean of the raw values, or for perplexity exp of it."""
        return np.array([_value(self.by, row) for row in self.items])

    @property
    def _at_match(self) -> Items:
        return self.items[list(self.tried).index(self.multiplier)]

    def to_frame(self) -> pd.DataFrame:
        """One row per multiplier that was measured and text, prompt or pair; a single row for norms."""
        if self.by == "norm":
            one = {"vector": self.label, "by": self.by, "multiplier": self.multiplier, "item": 0, "value": self.value}
            return pd.DataFrame([one])
        evaluation, item = (index.ravel() for index in np.indices(self.items.shape))
        columns = {"vector": self.label, "by": self.by, "multiplier": self.tried[evaluation], "item": item}
        return pd.DataFrame(columns | {"value": self.items.ravel()})

    def __repr__(self) -> str:
        low, high = self.interval()
        other = f" of {self.like}" if self.like else ""
        odd = "" if self.monotone else "; NOT MONOTONE, another multiplier may match as well"
        return (
            f"Match({self.label} times {self.multiplier:.4g}: {self.by} {self.value:.4g} [{low:.4g}, {high:.4g}], target{other} "
            f"{self.target:.4g} +- {self.tolerance:.2g} {UNITS[self.by]}; {self.evaluations} evaluations{odd})"
        )


@checked(
    MeasureError,
    between=two_multipliers,
    model=or_none(KNOWN["model"]),
    target=number(),
    by=one_of(By),
    like_multiplier=number(),
    both_signs=flag,
    tolerance=number(above=0, below=1),
)
def match_multiplier(
    model: HookedTransformer | None,
    vector: SteeringVector,
    *,
    like: SteeringVector | None = None,
    target: float | None = None,
    by: By = "kl",
    like_multiplier: float = 1.0,
    both_signs: bool = False,
    pairs: PreferencePairs | None = None,
    texts: Sequence[str] | None = None,
    prompts: Sequence[str] | None = None,
    positions: Positions = "all",
    max_new_tokens: int = 60,
    stop: Stop | None = None,
    tolerance: float = 0.02,
    between: tuple[float, float] = (1 / 64, 64.0),
    label: str | None = None,
    allow_seen: bool = False,
    batch_size: int = 8,
    progress: bool = True,
) -> Match:
    """The positive multiplier at which a vector has a target's norm, KL, perplexity or shift; pass -vector for the other sign.

    The search starts at equal norm, doubles or halves until the target lies between two multipliers, and closes in on it by
    Brent's method in the multiplier's logarithm.

    Args:
        model: with the vectors' weights; None will do for by="norm".
        like, target: one of the two: another vector, at `like_multiplier`, or a number.
        by: "norm": of the part that the model can see, exact. "kl": D(unsteered || steered) on neutral texts, nats per token.
            "perplexity": of greedy answers under the unsteered model; it moves in jumps. "shift": the mean preference shift of
            held-out `pairs`, in nats.
        both_signs: for "kl" and "perplexity": match the mean over m and -m. What a vector does is told from both signs, and it
            often costs more one way than the other.
        texts, prompts, max_new_tokens, stop: for "kl" and for "perplexity", as in `side_effects`.
        positions: "all", or "response", of answers and pairs.
        tolerance: how far the value may be from the target, as a share of the target's distance from the unsteered model.
        between: the smallest and the largest multiplier that may be tried.
        label: the vector's name in figures; default: its method.
        allow_seen: use pairs that trained or selected a vector all the same.
        batch_size: texts or pairs at once.

    Raises:
        MeasureError: not one of like and target, a target that the unsteered model has already or that no multiplier
            reaches, a value that jumps over it, no pairs for "shift", or pairs that trained a vector.
        VectorError: the vectors belong to different weights, do not fit the model, or are zero.
    """
    _check(vector, like, target)
    if both_signs and by not in ("kl", "perplexity"):
        raise MeasureError(f"both_signs=True with by={by!r}; expected 'kl' or 'perplexity', which both signs raise")
    norm = vector.effective.norm
    about = {"label": label or vector.method, "norm": norm, "by": by, "like": "" if like is None else like.method}
    wanted = math.nan if like is None else abs(like_multiplier) * like.effective.norm
    if by == "norm":
        return _by_norm(about, wanted if target is None else float(target))
    if model is None:
        raise MeasureError(f"by={by!r} is measured on a model: pass it, or match by='norm'")
    for one in (vector, like):
        if one is not None:
            check_fits(one, identify(model))
    if by == "kl":
        measure = _kl_on(model, [v for v in (vector, like) if v is not None], texts, batch_size)
    elif by == "perplexity":
        asked = prompts_for(model, prompts)
        measure = _nats_of(GreedyAnswers(model, asked, max_new_tokens, positions=positions, stop=stop))
    else:
        measure = _shift_on(model, vector, like, pairs, positions, allow_seen=allow_seen, batch_size=batch_size)
    if both_signs:
        measure = _both_signs(measure)
    like_items = None if like is None else measure(like, like_multiplier)
    unsteered = _value(by, measure(vector, 0.0))
    goal = _value(by, like_items) if like_items is not None else float(target or 0.0)
    if not abs(goal - unsteered) > 1e-9 * max(1.0, abs(unsteered)) or not math.isfinite(goal):
        raise MeasureError(
            f"the target is {by} {goal:g}, and the unsteered model has {unsteered:g}: multiplier 0 gives it; expected another"
        )
    start = wanted / norm if like is not None else 1.0
    to = {"target": goal, "unsteered": unsteered, "tolerance": tolerance, "start": start, "between": between}
    return search_multiplier(about, partial(measure, vector), like_items=like_items, progress=progress, **to)  # type: ignore[arg-type]


def search_multiplier(
    about: Mapping[str, object],
    measure: Callable[[float], Items],
    *,
    target: float,
    unsteered: float,
    tolerance: float,
    start: float,
    between: tuple[float, float],
    known: Mapping[float, Items] | None = None,
    like_items: Items | None = None,
    progress: bool = False,
) -> Match:
    """`match_multiplier` with the measuring given, and with what is known already by multiplier.

    about: the match's label, norm, by and like.

    Raises:
        MeasureError: no multiplier reaches the target, or the value jumps over it.
    """
    by: By = about["by"]  # type: ignore[assignment]
    with tqdm(desc="matching", unit="multiplier", disable=not progress, leave=False) as bar:

        def counted(m: float) -> Items:
            bar.update()
            return measure(m)

        aim = {"target": target, "unsteered": unsteered, "tolerance": tolerance}
        search = Search(counted, lambda items: _value(by, items), known=known, **aim)
        multiplier = search.run(start, between)
    if multiplier is None:
        seen = ", ".join(f"{m:.4g}: {_value(by, items):.4g}" for m, items in sorted(search.found.items()))
        raise MeasureError(
            f"no multiplier from {between[0]:g} to {between[1]:g} brings {by} to {target:.4g} within {tolerance:g} of its distance "
            f"from the unsteered {unsteered:.4g}; measured: {seen}. Where the value stops short, ask for less or for -vector; "
            "where it jumps over the target, use more prompts or a larger tolerance"
        )
    return Match(
        **about,  # type: ignore[arg-type]
        multiplier=multiplier,
        value=_value(by, search.found[multiplier]),
        target=target,
        unsteered=unsteered,
        tolerance=tolerance * abs(target - unsteered),
        tried=np.array(list(search.found)),
        items=np.array(list(search.found.values())),
        like_items=like_items,
    )


def _by_norm(about: dict[str, object], target: float) -> Match:
    if not (target > 0 and math.isfinite(target)):
        raise MeasureError(f"the target norm is {target:g}; expected a finite one above 0")
    exact = {"value": target, "target": target, "unsteered": 0.0, "tolerance": 0.0}
    multiplier = target / float(about["norm"])  # type: ignore[arg-type]
    return Match(**about, **exact, multiplier=multiplier, tried=np.zeros(0), items=np.zeros((0, 0)))  # type: ignore[arg-type]


Measured = Callable[[SteeringVector, float], Items]


def _both_signs(measure: Measured) -> Measured:
    return lambda v, m: measure(v, m) if m == 0 else (measure(v, m) + measure(v, -m)) / 2


def _kl_on(
    model: HookedTransformer, vectors: Sequence[SteeringVector], texts: Sequence[str] | None, batch_size: int
) -> Measured:
    reader = TextKL(model, texts_for(model, texts), [v.layer for v in vectors], batch_size=batch_size)
    return lambda v, m: reader.kl(v, [m])[0]


def _nats_of(asked: GreedyAnswers) -> Measured:
    return lambda v, m: np.array([answer.nats for answer in asked.answers(v, [m])[0]])


def _shift_on(
    model: HookedTransformer,
    vector: SteeringVector,
    like: SteeringVector | None,
    pairs: PreferencePairs | None,
    positions: Positions,
    *,
    allow_seen: bool,
    batch_size: int,
) -> Measured:
    if pairs is None:
        raise MeasureError("by='shift' is measured on held-out pairs: pass pairs=")
    vectors = [v for v in (vector, like) if v is not None]
    check_unseen(vectors, pairs, allow_seen=allow_seen)
    layers = sorted({v.layer for v in vectors})
    scorers = PairScorer.at_layers(model, pairs.encode(model), layers, batch_size=batch_size)

    def shift(v: SteeringVector, m: float) -> Items:
        both = scorers[v.layer].all_shifts(v.tensor.to(model.cfg.device), m, positions).numpy()
        return both[:, 0] - both[:, 1]

    return shift


def _value(by: By, items: Items) -> float:
    return math.exp(items.mean()) if by == "perplexity" else float(items.mean())


def _check(vector: SteeringVector, like: SteeringVector | None, target: float | None) -> None:
    if (like is None) == (target is None):
        raise MeasureError("expected one of the two: like=another vector, or target=a number")
    check_same_space(*(v for v in (vector, like) if v is not None))
    for one in (vector, like):
        if one is not None and not one.effective.norm > 0:
            raise MeasureError(f"the vector ({one.method}) is zero as the model sees it: no multiplier matches it")
