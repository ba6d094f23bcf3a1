"""Preference shift: how far a vector moves held-out pairs, over multipliers.

x(m, v) of the BiPO paper (arXiv 2406.00045v2, equation 3, with m for d), and what it hides: summed nats grow with a
response's length, and damage moves both signs of a vector the same way.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from transformer_lens import HookedTransformer

from steerlens._fingerprint import identify
from steerlens._results import Result
from steerlens._scores import PairScorer
from steerlens._stats import mean_interval
from steerlens.errors import MeasureError
from steerlens.pairs import PreferencePairs
from steerlens.resid import Positions, check_model, check_positions
from steerlens.vector import SteeringVector, check_fits, union_seen

Quantity = Literal["values", "per_token", "odd", "even", "odd_per_token", "even_per_token"]


@dataclass(frozen=True, eq=False)
class PreferenceShift(Result):
    """What a vector adds to the log-probabilities of both responses of every pair, in nats."""

    label: str
    """the vector's name in figures"""
    norm: float
    """the vector's norm at multiplier 1, in units of the residual stream"""
    multipliers: tuple[float, ...]
    chosen: Float[np.ndarray, "pair multiplier"]
    """log p(chosen) steered less unsteered, nats"""
    rejected: Float[np.ndarray, "pair multiplier"]
    """log p(rejected) steered less unsteered, nats"""
    chosen_tokens: Int[np.ndarray, " pair"]
    """tokens of each chosen response, its end of turn included"""
    rejected_tokens: Int[np.ndarray, " pair"]
    prompts: tuple[str, ...]
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
        """[x(m) + x(-m)] / 2 in nats: what either sign does; damage, and the lengths it favours."""
        return self._halves(self.values, 1)

    @property
    def odd_per_token(self) -> Float[np.ndarray, "pair positive"]:
        """`odd` in nats per token."""
        return self._halves(self.per_token, -1)

    @property
    def even_per_token(self) -> Float[np.ndarray, "pair positive"]:
        """`even` in nats per token."""
        return self._halves(self.per_token, 1)

    def mean(self, quantity: Quantity = "values") -> Float[np.ndarray, " multiplier"]:
        """The mean over pairs."""
        check_quantity(quantity)
        return getattr(self, quantity).mean(0)

    def interval(
        self, quantity: Quantity = "values", *, level: float = 0.95
    ) -> tuple[Float[np.ndarray, " multiplier"], Float[np.ndarray, " multiplier"]]:
        """Bootstrap interval of the mean, over pairs: (low, high)."""
        check_quantity(quantity)
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
            }
        )

    def __repr__(self) -> str:
        low, high = self.interval()
        cells = [
            f"{m:+g}: {mean:+.2f} [{a:+.2f}, {b:+.2f}]"
            for m, mean, a, b in zip(self.multipliers, self.mean(), low, high, strict=True)
        ]
        seen = f", {self.seen_pairs} of them SEEN in training" if self.seen_pairs else ""
        return (
            f"PreferenceShift({self.label}, {len(self.prompts)} pairs of {self.data}{seen}; nats at "
            + ", ".join(cells)
            + ")"
        )


def check_quantity(quantity: object) -> None:
    """Raise MeasureError unless `quantity` is one that a shift has."""
    if quantity not in get_args(Quantity):
        raise MeasureError(f"quantity={quantity!r} is not known; expected one of {get_args(Quantity)}")


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
    model = check_model(model)
    check_fits(vector, identify(model))
    scorer = PairScorer(model, pairs.encode(model), vector.layer, batch_size=batch_size, progress=progress)
    seen = check_unseen([vector], pairs, allow_seen=allow_seen)
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
    check_positions(positions)
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
