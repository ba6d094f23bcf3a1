"""Intervals: bootstrap over pairs, by scipy."""

import numpy as np
from jaxtyping import Float
from scipy import stats

RESAMPLES = 2000


def mean_interval(
    values: Float[np.ndarray, "pair column"], *, level: float = 0.95, seed: int = 0
) -> tuple[Float[np.ndarray, " column"], Float[np.ndarray, " column"]]:
    """A percentile bootstrap interval of each column's mean, resampling pairs; NaN with fewer than two pairs.

    All columns are resampled with the same pairs, so that curves over multipliers move together.
    """
    if len(values) < 2:
        nothing = np.full(values.shape[1], np.nan)
        return nothing, nothing.copy()
    result = stats.bootstrap(
        (values,),
        np.mean,
        axis=0,
        n_resamples=RESAMPLES,
        confidence_level=level,
        method="percentile",
        vectorized=True,
        rng=np.random.default_rng(seed),
    )
    return np.asarray(result.confidence_interval.low), np.asarray(result.confidence_interval.high)


def cosine_p_value(cosine: float, dimensions: int) -> float:
    """The chance that a random direction's |cosine| with a fixed one is at least this large: the isotropic null.

    (1 + cos) / 2 of two isotropic directions in n dimensions is Beta((n - 1) / 2, (n - 1) / 2).
    """
    half = (dimensions - 1) / 2
    return float(min(1.0, 2 * stats.beta.sf((1 + min(1.0, abs(cosine))) / 2, half, half)))
