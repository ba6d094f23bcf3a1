"""Dose-response: the preference shift in fine steps of the multiplier, and the numbers that sum up the curve.

>>> cost = sl.side_effects(model, bipo, multipliers=(-3, -2, -1, 0, 1, 2, 3))
>>> dose = sl.dose_response(model, bipo, pairs.test, side_effects=cost)
>>> dose.summary(); dose.saturates(+1); dose.breaks(-1)
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from scipy.stats import rankdata
from tqdm.auto import tqdm
from transformer_lens import HookedTransformer

from steerlens._stats import curve_interval
from steerlens.checks.calls import kind, number
from steerlens.errors import MeasureError
from steerlens.forward.door import checked
from steerlens.forward.pair_scores import PairScorer
from steerlens.forward.steer import Positions
from steerlens.measures.activations import isotropic_directions
from steerlens.measures.effect import PreferenceShift, check_unseen, joined, shift_on
from steerlens.measures.side_effects import SideEffects
from steerlens.models.identity import identify
from steerlens.pairs.preference import PreferencePairs
from steerlens.results.result import Result
from steerlens.vectors.vector import SteeringVector, check_fits

STEPS = tuple(step / 4 for step in range(-12, 13))
Curves = Float[np.ndarray, "curve multiplier"]
Summed = Literal["values", "per_token"]
UNITS: dict[Summed, str] = {"values": "nats", "per_token": "nats per token"}


class Estimate(NamedTuple):
    """A number with its 95% bootstrap interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class DoseResponse(Result):
    """How the mean preference shift grows with the multiplier; every number has a bootstrap interval over pairs."""

    shift: PreferenceShift
    """the raw values, per pair and multiplier"""
    controls: tuple[PreferenceShift, ...] = ()
    """random directions of the same norm at the smallest and the largest multiplier"""
    side_effects: SideEffects | None = None
    """the same vector's answers, from which `breaks` is read"""

    @checked(MeasureError)
    def slope(self, quantity: Summed = "values") -> Estimate:
        """The mean shift's derivative at multiplier 0, in nats per unit of the multiplier.

        It is read off the odd part at the smallest multipliers measured with both signs: a m + b m^3 through two of them, or
        a m through the only one.

        Raises:
            MeasureError: no multiplier was measured with both signs.
        """
        both = sorted(self.shift.odd_multipliers)[:2]
        if not both:
            raise MeasureError(
                f"multipliers {self.shift.multipliers} hold no m together with -m: a slope at 0 needs both"
            )
        at = self.shift.multipliers.index
        h = both[0]

        def read(curves: Curves) -> np.ndarray:
            rise = [(curves[:, at(m)] - curves[:, at(-m)]) / (2 * m) for m in both]
            # Each is a + b m^2 + ...: two of them tell a from b.
            return rise[0] if len(both) == 1 else (both[1] ** 2 * rise[0] - h**2 * rise[1]) / (both[1] ** 2 - h**2)

        return self._estimate(read, quantity)

    @checked(MeasureError)
    def range(self, quantity: Summed = "values") -> Estimate:
        """The largest mean shift less the smallest, over all multipliers, in nats."""
        return self._estimate(lambda curves: np.ptp(curves, axis=1), quantity)

    @checked(MeasureError)
    def rising(self, quantity: Summed = "values") -> Estimate:
        """The share of steps from one multiplier to the next in which the mean shift rises: 1 where it always does."""
        order = np.argsort(self.shift.multipliers)
        return self._estimate(lambda curves: (np.diff(curves[:, order], axis=1) > 0).mean(1), quantity)

    @checked(MeasureError)
    def rank_correlation(self, quantity: Summed = "values") -> Estimate:
        """Spearman's correlation of multiplier and mean shift; NaN where the shift is the same at all."""
        x = rankdata(self.shift.multipliers)
        x = x - x.mean()

        def read(curves: Curves) -> np.ndarray:
            y = rankdata(curves, axis=1)
            y = y - y.mean(1, keepdims=True)
            with np.errstate(invalid="ignore"):
                return (y @ x) / np.sqrt((x**2).sum() * (y**2).sum(1))

        return self._estimate(read, quantity)

    @checked(MeasureError)
    def saturates(self, sign: Literal[1, -1] = 1, quantity: Summed = "values") -> Estimate:
        """The |multiplier| beyond which the mean shift no longer goes on: up for sign=+1, down for -1.

        The shift is largest there (smallest, for -1) among multipliers of that sign; 0 where it never goes that way, and
        infinite where it still does at the last one measured.
        """
        columns, sizes = self._side(sign)

        def read(curves: Curves) -> np.ndarray:
            best = np.argmax(np.c_[np.zeros(len(curves)), sign * curves[:, columns]], axis=1)
            return np.array([0.0, *sizes[:-1], math.inf])[best]

        return self._estimate(read, quantity)

    @checked(MeasureError, perplexity_ratio=number(above=0), more_repetition=number())
    def breaks(
        self, sign: Literal[1, -1] = 1, *, perplexity_ratio: float = 2.0, more_repetition: float = 0.2
    ) -> Estimate:
        """The smallest |multiplier| of a sign at which text breaks, by the side effects' multipliers; infinite where none does.

        Broken: the answers' perplexity under the unsteered model is more than `perplexity_ratio` times that of unsteered
        answers, or their repetition more than `more_repetition` (a share) above it. The interval is a bootstrap over prompts.

        Raises:
            MeasureError: there are no side effects, or they lack multiplier 0 or that sign.
        """
        found = self.side_effects
        if found is None:
            raise MeasureError(
                "where text breaks is read off side effects: dose_response(..., side_effects=sl.side_effects(...))"
            )
        columns, sizes = _of_sign(found.multipliers, sign)
        row = _row(found, self.shift.label, self.shift.norm, self.shift.positions)
        base, n = found.unsteered, len(found.multipliers)
        values = np.concatenate([found.answer_nats[row], found.repetition[row]]).T

        def read(curves: Curves) -> np.ndarray:
            nats, again = (part - part[:, base, None] for part in (curves[:, :n], curves[:, n:]))
            broken = (nats > math.log(perplexity_ratio)) | (again > more_repetition)
            first = np.argmax(np.c_[broken[:, columns], np.ones(len(curves), bool)], axis=1)
            return np.array([*sizes, math.inf])[first]

        return _estimate(values, read)

    @checked(MeasureError)
    def summary(self, quantity: Summed = "values") -> pd.DataFrame:
        """One row per number: its value, its interval and its unit."""
        unit = UNITS[quantity]
        rows = [
            ("slope at 0", f"{unit} per multiplier", self.slope(quantity)) if self.shift.odd_multipliers else None,
            ("range", unit, self.range(quantity)),
            ("rising steps", "share", self.rising(quantity)),
            ("rank correlation", "Spearman's rho", self.rank_correlation(quantity)),
        ]
        for sign in (1, -1):
            if any(sign * m > 0 for m in self.shift.multipliers):
                rows.append((f"{sign:+d}: saturates at", "multiplier", self.saturates(sign, quantity)))
            if self.side_effects and any(sign * m > 0 for m in self.side_effects.multipliers):
                rows.append((f"{sign:+d}: text breaks at", "multiplier", self.breaks(sign)))
        kept = [row for row in rows if row is not None]
        return pd.DataFrame([{"number": name, **e._asdict(), "unit": of} for name, of, e in kept])

    def to_frame(self) -> pd.DataFrame:
        """One row per pair and multiplier, of the vector and its controls."""
        return pd.concat([shift.to_frame() for shift in (self.shift, *self.controls)], ignore_index=True)

    def __repr__(self) -> str:
        rows = [f"{r.number} {r.value:.3g} [{r.low:.3g}, {r.high:.3g}] {r.unit}" for r in self.summary().itertuples()]
        seen = f", {self.shift.seen_pairs} of them SEEN in training" if self.shift.seen_pairs else ""
        head = f"DoseResponse({self.shift.label}, {len(self.shift.prompts)} pairs of {self.shift.data}{seen})"
        ends = sorted({int(np.argmin(self.shift.multipliers)), int(np.argmax(self.shift.multipliers))})
        sides = [
            f"at {self.shift.multipliers[i]:+g}: log p(chosen) {self.shift.mean('chosen')[i]:+.3g}, log p(rejected) "
            f"{self.shift.mean('rejected')[i]:+.3g} nats, {self.shift.wrong_way[i]:.0%} of pairs the wrong way"
            for i in ends
        ]
        return "\n  ".join([head, *([self.shift.verdict] if self.shift.verdict else []), *sides, *rows])

    def _side(self, sign: int) -> tuple[list[int], list[float]]:
        return _of_sign(self.shift.multipliers, sign)

    def _estimate(self, read: Callable[[Curves], np.ndarray], quantity: Summed) -> Estimate:
        if quantity not in UNITS:
            raise MeasureError(f"quantity={quantity!r} is not known here; expected one of {tuple(UNITS)}")
        return _estimate(getattr(self.shift, quantity), read)


def _estimate(values: Float[np.ndarray, "item column"], read: Callable[[Curves], np.ndarray]) -> Estimate:
    return Estimate(float(read(values.mean(0)[None])[0]), *curve_interval(values, read))


def _of_sign(multipliers: Sequence[float], sign: int) -> tuple[list[int], list[float]]:
    """The columns of one sign, smallest |multiplier| first, and their |multiplier|s."""
    if sign not in (1, -1):
        raise MeasureError(f"sign={sign!r}; expected 1 or -1")
    columns = sorted((i for i, m in enumerate(multipliers) if sign * m > 0), key=lambda i: abs(multipliers[i]))
    if not columns:
        raise MeasureError(f"multipliers {tuple(multipliers)} hold none of sign {sign:+d}")
    return columns, [abs(multipliers[i]) for i in columns]


def _row(found: SideEffects, label: str, norm: float, positions: Positions) -> int:
    """Which of the side effects' vectors is the shift's: the only one, or the one of its name; its norm must agree."""
    row = 0 if len(found.labels) == 1 else found.row(label)
    if not math.isclose(found.norms[row], norm, rel_tol=1e-4) or found.positions != positions:
        raise MeasureError(
            f"the side effects of {found.labels[row]!r} are of norm {found.norms[row]:.4g}, positions={found.positions!r}; the "
            f"vector has norm {norm:.4g}, positions={positions!r}: measure both on the same vector and positions"
        )
    return row


@checked(MeasureError, side_effects=kind(SideEffects, "sl.side_effects(...)"))
def dose_response(
    model: HookedTransformer,
    vector: SteeringVector,
    pairs: PreferencePairs,
    multipliers: Sequence[float] = STEPS,
    positions: Positions = "all",
    *,
    side_effects: SideEffects | None = None,
    n_random: int = 4,
    label: str | None = None,
    allow_seen: bool = False,
    seed: int = 0,
    batch_size: int = 8,
    progress: bool = True,
) -> DoseResponse:
    """The preference shift x(m, v) of held-out pairs over multipliers in fine steps, beside random directions.

    Args:
        model: any HookedTransformer with the vector's weights.
        vector: added after its layer.
        pairs: held-out pairs, encoded with their own template.
        multipliers: -3 to 3 by 0.25; a slope needs small ones of both signs.
        positions: "all" (as BiPO trains), or "response" (from the last prompt token on, as CAA steers).
        side_effects: of the same vector and positions, on any multipliers with 0 among them; says where text breaks.
        n_random: random directions of the same norm, measured at the smallest and the largest multiplier.
        label: the vector's name in figures; default: its method.
        allow_seen: report on pairs that trained or selected the vector all the same; the result says so.
        seed: of the random directions.
        batch_size: pairs at once.

    Raises:
        MeasureError: pairs trained or selected the vector, a multiplier is not finite, or the side effects are another's.
        VectorError: the vector does not fit the model.
    """
    check_fits(vector, identify(model))
    seen = check_unseen([vector], pairs, allow_seen=allow_seen)
    if side_effects is not None:
        _row(side_effects, label or vector.method, vector.norm, positions)
    scorer = PairScorer(model, pairs.encode(model), vector.layer, batch_size=batch_size, progress=progress)
    sees_mean = identify(model).normalization != "LN"
    drawn = isotropic_directions(n_random, model.cfg.d_model, sees_mean=sees_mean, seed=seed) * vector.effective.norm
    random = [replace(vector, tensor=torch.from_numpy(row).float(), method="random", history=()) for row in drawn]
    ends = [m for m in {min(multipliers), max(multipliers)} if m != 0]
    jobs = [(vector, m) for m in multipliers] + [(one, m) for one in random for m in sorted(ends)]
    found: dict[int, list[PreferenceShift]] = {}
    for one, m in tqdm(jobs, desc="dose-response", unit="multiplier", disable=not progress, leave=False):
        each = shift_on(scorer, one, pairs, (m,), positions, label=label if one is vector else None, seen_pairs=seen)
        found.setdefault(id(one), []).append(each)
    shift, *controls = (joined(shifts) for shifts in found.values())
    return DoseResponse(shift, tuple(controls), side_effects)
