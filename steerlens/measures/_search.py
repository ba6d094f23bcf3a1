"""The search for a multiplier at which a measured value meets a target."""

import math
from collections.abc import Callable, Mapping

from jaxtyping import Float
from numpy import ndarray
from scipy.optimize import brentq

Items = Float[ndarray, " item"]


class Search:
    """Doubles or halves until the target lies between two multipliers, then Brent's method in the multiplier's logarithm.

    Args:
        measure: what is measured at a multiplier, per item; each multiplier is measured once.
        value: of what was measured.
        target, unsteered: the value to be met, and the value at multiplier 0, another one.
        tolerance: how far the value may be from the target, as a share of the way to it from `unsteered`.
        known: what was measured before, by multiplier.
    """

    def __init__(
        self,
        measure: Callable[[float], Items],
        value: Callable[[Items], float],
        *,
        target: float,
        unsteered: float,
        tolerance: float,
        known: Mapping[float, Items] | None = None,
    ) -> None:
        self.measure, self.value, self.tolerance = measure, value, tolerance
        self.target, self.unsteered = target, unsteered
        self.found: dict[float, Items] = {_rounded(m): items for m, items in (known or {}).items()}
        """what was measured, by multiplier, in that order"""

    def miss(self, multiplier: float) -> float:
        """How far the value is beyond the target, as a share of the way to it; exactly 0 within the tolerance."""
        m = _rounded(multiplier)
        if m not in self.found:
            self.found[m] = self.measure(m)
        off = (self.value(self.found[m]) - self.target) / (self.target - self.unsteered)
        return 0.0 if abs(off) <= self.tolerance else off

    def run(self, start: float, between: tuple[float, float]) -> float | None:
        """The multiplier that meets the target; None where there is none, or the value jumps over the target."""
        low = high = min(max(start, between[0]), between[1])
        if self.miss(low) < 0:
            while self.miss(high) < 0 and high < between[1]:
                low, high = high, min(2 * high, between[1])
        else:
            while self.miss(low) > 0 and low > between[0]:
                low, high = max(low / 2, between[0]), low
        for end in (low, high):
            if self.miss(end) == 0:
                return _rounded(end)
        if not self.miss(low) < 0 < self.miss(high):  # nor where a value is no number
            return None
        found = brentq(lambda x: self.miss(math.exp(x)), math.log(low), math.log(high), xtol=self.tolerance / 100)
        return _rounded(math.exp(found)) if self.miss(math.exp(found)) == 0 else None


def _rounded(multiplier: float) -> float:
    """To ten digits: a logarithm and back is the same multiplier again."""
    return float(f"{multiplier:.10g}")
