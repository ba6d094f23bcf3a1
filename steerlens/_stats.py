"""Intervals: bootstrap over pairs, by scipy."""

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy import stats

from steerlens.checks.values import checked_level

RESAMPLES = 2000
_AT_ONCE = 20_000_000  # numbers of resampled pairs held in memory


def mean_interval(
    values: Float[np.ndarray, "pair column"], *, level: float = 0.95, seed: int = 0
) -> tuple[Float[np.ndarray, " column"], Float[np.ndarray, " column"]]:
    """A percentile bootstrap interval of each column's mean, resampling pairs; NaN with fewer than two pairs.

    All columns are resampled with the same pairs, so that curves over multipliers move together.
    """
    level = checked_level(level)
    if len(values) < 2:
        nothing = np.full(values.shape[1], np.nan)
        return nothing, nothing.copy()
    found = _bootstrap(values, level, seed).confidence_interval
    return np.asarray(found.low), np.asarray(found.high)


def curve_interval(
    values: Float[np.ndarray, "pair column"],
    read: Callable[[Float[np.ndarray, "resample column"]], Float[np.ndarray, " resample"]],
    *,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[float, float]:
    """A percentile bootstrap interval of a number that is read off the columns' means; NaN with fewer than two pairs.

    The number may be infinite: the ends of the interval are numbers that some resample gave.
    """
    level = checked_level(level)
    if len(values) < 2:
        return np.nan, np.nan
    numbers = read(_bootstrap(values, level, seed).bootstrap_distribution.T)
    low, high = np.quantile(numbers, [(1 - level) / 2, (1 + level) / 2], method="inverted_cdf")
    return float(low), float(high)


def _bootstrap(values: Float[np.ndarray, "pair column"], level: float, seed: int) -> Any:
    """scipy's bootstrap of each column's mean; its distribution is (column, resample)."""
    return stats.bootstrap(
        (values,),
        np.mean,
        axis=0,
        n_resamples=RESAMPLES,
        batch=max(1, _AT_ONCE // values.size),
        confidence_level=level,
        method="percentile",
        vectorized=True,
        rng=np.random.default_rng(seed),
    )


def rate_interval(
    values: Float[np.ndarray, "pair column"], *, level: float = 0.95
) -> tuple[Float[np.ndarray, " column"], Float[np.ndarray, " column"]]:
    """Clopper and Pearson's interval of each column's rate, where every value is 0 or 1: not empty at rates of 0 and 1."""
    level = checked_level(level)
    tests = [stats.binomtest(round(float(successes)), len(values)) for successes in values.sum(0)]
    found = [test.proportion_ci(confidence_level=level, method="exact") for test in tests]
    return np.array([ci.low for ci in found]), np.array([ci.high for ci in found])


def paired_difference(
    values: Float[np.ndarray, "pair column"],
    others: Float[np.ndarray, "pair column"],
    *,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[Float[np.ndarray, " column"], Float[np.ndarray, " column"], Float[np.ndarray, " column"]]:
    """The mean of values - others over the same pairs in each column, and its bootstrap interval: (difference, low, high).

    Where all values are 0 or 1 and no pair differs from the next, a bootstrap would claim to know the difference exactly.
    There the interval allows for as many other pairs as Clopper and Pearson's does that were never seen.
    """
    differences = values - others
    mean = differences.mean(0)
    low, high = mean_interval(differences, level=level, seed=seed)
    rates = np.isin(values, (0, 1)).all(0) & np.isin(others, (0, 1)).all(0) & (np.ptp(differences, axis=0) == 0)
    unseen = stats.binomtest(0, len(values)).proportion_ci(confidence_level=level, method="exact").high
    reach = (1 + np.abs(mean)) * unseen  # a pair that was not seen may be as far off as -1 or 1
    low, high = np.where(rates, mean - reach, low), np.where(rates, mean + reach, high)
    return mean, np.where(rates, low.clip(min=-1), low), np.where(rates, high.clip(max=1), high)


def cosine_p_value(cosine: float, dimensions: int) -> float:
    """The chance that a random direction's |cosine| with a fixed one is at least this large: the isotropic null.

    (1 + cos) / 2 of two isotropic directions in n dimensions is Beta((n - 1) / 2, (n - 1) / 2).
    """
    half = (dimensions - 1) / 2
    return float(min(1.0, 2 * stats.beta.sf((1 + min(1.0, abs(cosine))) / 2, half, half)))


def cosine_limit(level: float, dimensions: int) -> float:
    """The |cosine| that this share of isotropic random directions stays below: the inverse of `cosine_p_value`."""
    half, level = (dimensions - 1) / 2, checked_level(level)
    return float(2 * stats.beta.ppf((1 + level) / 2, half, half) - 1)
