"""Preference shift: how far a vector moves held-out pairs, over multipliers.

x(m, v) of the BiPO paper (arXiv 2406.00045v2, equation 3, with m for d), and what it hides: summed nats grow with a
response's length, and a margin rises as well where both responses become less likely and the rejected one more so. Text that
breaks does that: so log p(chosen) and log p(rejected) stand beside every margin.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int
from transformer_lens import HookedTransformer

from steerlens._stats import mean_interval
from steerlens.checks.values import checked_positions
from steerlens.errors import MeasureError
from steerlens.forward.door import checked
from steerlens.forward.pair_scores import PairScorer
from steerlens.forward.steer import Positions
from steerlens.models.identity import identify
from steerlens.pairs.preference import PreferencePairs
from steerlens.results.result import Result
from steerlens.vectors.vector import SteeringVector, check_fits, union_seen

Quantity = Literal[
    "values", "per_token", "odd", "even", "odd_per_token", "even_per_token", "chosen", "rejected", "even_chosen", "even_rejected"
]  # fmt: skip


@dataclass(frozen=True, eq=False)
class PreferenceShift(Result):
    """What a vector adds to the log-probabilities of both responses of every pair, in nats."""

    label: str
    """the vector's name in figures"""
    norm: float
    """the vector's norm at multiplier 1, in units of the residual stream"""
    multipliers: Annotated[tuple[float, ...], "multiplier"]
    chosen: Float[np.ndarray, "pair multiplier"]
    """log p(chosen) steered less unsteered, nats"""
    rejected: Float[np.ndarray, "pair multiplier"]
    """log p(rejected) steered less unsteered, nats"""
    chosen_tokens: Int[np.ndarray, " pair"]
    """tokens of each chosen response, its end of turn included"""
    rejected_tokens: Int[np.ndarray, " pair"]
    prompts: Annotated[tuple[str, ...], "pair"]
    positions: Positions
    data: str
    seen_pairs: int = 0
    """how many of the pairs trained or selected the vector; above 0 only with allow_seen=True"""

    @property
    def values(self) -> Float[np.ndarray, "pair multiplier"]:
        """x(m, v) in nats: what the margin of chosen over rejected gains."""
        return self.chosen - self.rejected

    @property
    def per_token(self) -> Float[np.ndarray, "pair multiplier"]:
        """The same with each response's log-probability divided by its number of tokens, in nats per token."""
        return self.chosen / self.chosen_tokens[:, None] - self.rejected / self.rejected_tokens[:, None]

    @property
    def odd_multipliers(self) -> tuple[float, ...]:
        """The positive multipliers measured with both signs: the columns of `odd` and `even`."""
        return tuple(m for m in self.multipliers if m > 0 and -m in self.multipliers)

    def _halves(self, values: np.ndarray, sign: int) -> np.ndarray:
        if not self.odd_multipliers:
            raise MeasureError(
                f"multipliers {self.multipliers} hold no m together with -m: odd and even parts need both"
            )
        at = {m: i for i, m in enumerate(self.multipliers)}
        columns = [(values[:, at[m]] + sign * values[:, at[-m]]) / 2 for m in self.odd_multipliers]
        return np.stack(columns, axis=1)

    @property
    def odd(self) -> Float[np.ndarray, "pair positive"]:
        """[x(m) - x(-m)] / 2 in nats: what the direction does."""
        return self._halves(self.values, -1)

    @property
    def even(self) -> Float[np.ndarray, "pair positive"]:
        """[x(m) + x(-m)] / 2 in nats: what either sign does to the margin, such as favouring short responses.

        It is no measure of damage, which lowers both responses and largely cancels in their difference: see `even_chosen`.
        """
        return self._halves(self.values, 1)

    @property
    def even_chosen(self) -> Float[np.ndarray, "pair positive"]:
        """What either sign does to log p(chosen), in nats; damage lowers both this and `even_rejected`."""
        return self._halves(self.chosen, 1)

    @property
    def even_rejected(self) -> Float[np.ndarray, "pair positive"]:
        """What either sign does to log p(rejected), in nats."""
        return self._halves(self.rejected, 1)

    @property
    def odd_per_token(self) -> Float[np.ndarray, "pair positive"]:
        """`odd` in nats per token."""
        return self._halves(self.per_token, -1)

    @property
    def even_per_token(self) -> Float[np.ndarray, "pair positive"]:
        """`even` in nats per token."""
        return self._halves(self.per_token, 1)

    @property
    def wrong_way(self) -> Float[np.ndarray, " multiplier"]:
        """The share of pairs whose margin moved against the multiplier's sign; 0 at multiplier 0."""
        return (self.values * np.sign(self.multipliers) < 0).mean(0)

    @property
    def both_fall(self) -> Bool[np.ndarray, " multiplier"]:
        """Whether both responses become less likely: the means of log p(chosen) and of log p(rejected) both fall.

        Both means lie below 0 with the upper ends of their 95% intervals (of a single pair, which has no interval, the means).
        """
        ends = [(self.mean(side), self.interval(side)[1]) for side in ("chosen", "rejected")]
        return np.logical_and(*(np.where(np.isnan(high), mean, high) < 0 for mean, high in ends))

    @property
    def verdict(self) -> str:
        """Where both responses become less likely, as a sentence; empty where they never do."""
        at = [i for i in np.argsort(self.multipliers) if self.both_fall[i]]
        if not at:
            return ""
        told = ", ".join(f"{self.multipliers[i]:+g}" for i in at)
        worst = min(at, key=lambda i: float(self.chosen[:, i].mean()))
        return (
            f"BOTH FALL at {told}: chosen and rejected responses both become less likely there (at {self.multipliers[worst]:+g} by "
            f"{-self.mean('chosen')[worst]:.3g} and {-self.mean('rejected')[worst]:.3g} nats), so the margin tells which of them "
            "loses less: read what the model writes"
        )

    @checked(MeasureError)
    def columns(self, quantity: Quantity) -> tuple[float, ...]:
        """The multipliers that a quantity's columns belong to: all, or of odd and even parts the positive ones."""
        return self.odd_multipliers if quantity.startswith(("odd", "even")) else self.multipliers

    @checked(MeasureError)
    def mean(self, quantity: Quantity = "values") -> Float[np.ndarray, " multiplier"]:
        """The mean over pairs."""
        return getattr(self, quantity).mean(0)

    @checked(MeasureError)
    def interval(
        self, quantity: Quantity = "values", *, level: float = 0.95
    ) -> tuple[Float[np.ndarray, " multiplier"], Float[np.ndarray, " multiplier"]]:
        """Bootstrap interval of the mean, over pairs: (low, high)."""
        return mean_interval(getattr(self, quantity), level=level)

    def to_frame(self) -> pd.DataFrame:
        """One row per pair and multiplier."""
        pair, multiplier = np.indices(self.values.shape)
        return pd.DataFrame(
            {
                "vector": self.label,
                "norm": self.norm,
                "pair": pair.ravel(),
                "prompt": [self.prompts[i] for i in pair.ravel()],
                "multiplier": np.asarray(self.multipliers, dtype=float)[multiplier.ravel()],
                "chosen_nats": self.chosen.ravel(),
                "rejected_nats": self.rejected.ravel(),
                "shift_nats": self.values.ravel(),
                "shift_nats_per_token": self.per_token.ravel(),
                "wrong_way": (self.values * np.sign(self.multipliers) < 0).ravel(),
            }
        )

    def __repr__(self) -> str:
        low, high = self.interval()
        chosen, rejected = self.mean("chosen"), self.mean("rejected")
        lines = [
            f"  {m:+g}: {mean:+.2f} [{low[i]:+.2f}, {high[i]:+.2f}], log p(chosen) {chosen[i]:+.2f}, log p(rejected) "
            f"{rejected[i]:+.2f}; {self.wrong_way[i]:.0%} of pairs the wrong way{'; BOTH FALL' if self.both_fall[i] else ''}"
            for i, (m, mean) in enumerate(zip(self.multipliers, self.mean(), strict=True))
        ]
        seen = f", {self.seen_pairs} of them SEEN in training" if self.seen_pairs else ""
        head = (
            f"PreferenceShift({self.label}, {len(self.prompts)} pairs of {self.data}{seen}; shift of the margin in nats"
        )
        verdict = [f"  {self.verdict}"] if self.verdict else []
        return "\n".join([head, *verdict, *lines]) + ")"


@checked(MeasureError)
def preference_shift(
    model: HookedTransformer,
    vector: SteeringVector,
    pairs: PreferencePairs,
    multipliers: Sequence[float] = (-2, -1, 0, 1, 2),
    positions: Positions = "all",
    *,
    allow_seen: bool = False,
    batch_size: int = 8,
    progress: bool = True,
) -> PreferenceShift:
    """x(m, v) of every pair and multiplier: the gain of log p(chosen) - log p(rejected) under m * v, in nats.

    Args:
        model: any HookedTransformer with the vector's weights.
        vector: added after its layer.
        pairs: held-out pairs, encoded with their own template.
        multipliers: 0 is the unsteered model, where x is exactly 0.
        positions: "all" (as BiPO trains), or "response" (from the last prompt token on, as CAA steers).
        allow_seen: report on pairs that trained or selected the vector all the same; the result says so.
        batch_size: pairs at once.

    Raises:
        MeasureError: pairs trained or selected the vector, or a multiplier is not finite.
        VectorError: the vector does not fit the model.
    """
    check_fits(vector, identify(model))
    seen = check_unseen([vector], pairs, allow_seen=allow_seen)
    scorer = PairScorer(model, pairs.encode(model), vector.layer, batch_size=batch_size, progress=progress)
    return shift_on(scorer, vector, pairs, multipliers, positions, seen_pairs=seen, progress=progress)


def shift_on(
    scorer: PairScorer,
    vector: SteeringVector,
    pairs: PreferencePairs,
    multipliers: Sequence[float],
    positions: Positions,
    *,
    label: str | None = None,
    seen_pairs: int = 0,
    progress: bool = False,
) -> PreferenceShift:
    """`preference_shift` with the pairs' lower half already computed, for many vectors at one layer."""
    positions = checked_positions(positions)
    try:
        fits = len(multipliers) and len(set(multipliers)) == len(multipliers) and all(map(math.isfinite, multipliers))
    except TypeError:
        fits = False
    if not fits:
        raise MeasureError(f"multipliers={multipliers!r}; expected a list of finite numbers, each once")
    v = vector.tensor.to(scorer.model.cfg.device)
    bars = [f"multiplier {m:+g}" if progress else None for m in multipliers]
    each = [scorer.all_shifts(v, m, positions, bar).numpy() for m, bar in zip(multipliers, bars, strict=True)]
    shifts = np.stack(each, axis=1)
    return PreferenceShift(
        label=label or vector.method,
        norm=vector.norm,
        multipliers=tuple(float(m) for m in multipliers),
        # float64, for means are taken of them; in one order of memory, in which a file gives them back too.
        chosen=np.ascontiguousarray(shifts[:, :, 0], dtype=np.float64),
        rejected=np.ascontiguousarray(shifts[:, :, 1], dtype=np.float64),
        chosen_tokens=np.array([len(p.chosen) for p in scorer.pairs]),
        rejected_tokens=np.array([len(p.rejected) for p in scorer.pairs]),
        prompts=pairs.prompts,
        positions=positions,
        data=pairs.provenance,
        seen_pairs=seen_pairs,
    )


def joined(shifts: Sequence[PreferenceShift]) -> PreferenceShift:
    """One vector's shifts of the same pairs at several multipliers."""
    return replace(
        shifts[0],
        multipliers=tuple(m for shift in shifts for m in shift.multipliers),
        chosen=np.concatenate([shift.chosen for shift in shifts], axis=1),
        rejected=np.concatenate([shift.rejected for shift in shifts], axis=1),
    )


def check_unseen(vectors: Sequence[SteeringVector], pairs: PreferencePairs, *, allow_seen: bool) -> int:
    """How many of the pairs trained or selected a vector; raises MeasureError for any unless `allow_seen`."""
    known = union_seen(vectors)
    seen = sum(fingerprint in known for fingerprint in pairs.fingerprints)
    if seen and not allow_seen:
        raise MeasureError(
            f"{seen} of these {len(pairs)} pairs trained or selected the vector; a report on them would flatter it. "
            "Use held-out pairs (pairs.test), or allow_seen=True, and the result will say so"
        )
    return seen
