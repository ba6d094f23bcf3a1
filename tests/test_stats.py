"""Intervals against closed forms and a bootstrap written out."""

from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from steerlens._stats import (
    RESAMPLES,
    cosine_limit,
    cosine_p_value,
    curve_interval,
    mean_interval,
    paired_difference,
    rate_interval,
)
from steerlens.errors import MeasureError


def test_the_interval_is_the_percentile_bootstrap_of_the_mean() -> None:
    values = np.random.default_rng(1).normal(size=(40, 3))
    low, high = mean_interval(values, seed=5)
    draws = np.random.default_rng(99).integers(0, 40, size=(RESAMPLES, 40))
    means = values[draws].mean(1)
    np.testing.assert_allclose(low, np.quantile(means, 0.025, axis=0), atol=0.03)
    np.testing.assert_allclose(high, np.quantile(means, 0.975, axis=0), atol=0.03)


def test_the_interval_is_near_the_normal_theory_one_for_many_pairs() -> None:
    values = np.random.default_rng(2).normal(3.0, 2.0, size=(2000, 1))
    low, high = mean_interval(values)
    half = 1.96 * values.std(ddof=1) / np.sqrt(2000)
    np.testing.assert_allclose([low[0], high[0]], [values.mean() - half, values.mean() + half], atol=0.02)


def test_all_columns_are_resampled_with_the_same_pairs() -> None:
    column = np.random.default_rng(3).normal(size=(30, 1))
    low, high = mean_interval(np.hstack([column, -column]))
    np.testing.assert_allclose(low[0], -high[1])


def test_one_pair_has_no_interval() -> None:
    low, high = mean_interval(np.ones((1, 2)))
    assert np.isnan(low).all()
    assert np.isnan(high).all()


@pytest.mark.parametrize("hits", [0, 1, 17, 49, 50])
def test_a_rates_interval_leaves_half_of_the_rest_on_either_side(hits: int) -> None:
    values = np.repeat([1.0, 0.0], [hits, 50 - hits])[:, None]
    low, high = (float(side[0]) for side in rate_interval(values, level=0.9))
    # Clopper and Pearson: at each end of the interval a result at least as far off has a chance of 5%.
    assert low == 0 if hits == 0 else stats.binom.sf(hits - 1, 50, low) == pytest.approx(0.05)
    assert high == 1 if hits == 50 else stats.binom.cdf(hits, 50, high) == pytest.approx(0.05)
    assert low <= hits / 50 <= high


def test_a_paired_difference_is_told_more_sharply_than_the_two_means() -> None:
    rng = np.random.default_rng(6)
    shared = rng.normal(scale=5.0, size=(60, 1))
    values, others = shared + rng.normal(0.5, 0.1, size=(60, 1)), shared
    mean, low, high = paired_difference(values, others)
    assert mean == pytest.approx((values - others).mean(0))
    half = stats.t.ppf(0.975, 59) * (values - others).std(ddof=1) / np.sqrt(60)
    np.testing.assert_allclose([low, high], [mean - half, mean + half], atol=0.005)
    apart = [mean_interval(x) for x in (values, others)]
    assert (apart[0][1] - apart[0][0]) > 20 * (high - low)


@pytest.mark.parametrize(("value", "other", "far"), [(0, 0, 1), (1, 1, 1), (1, 0, 2), (0, 1, 2)])
def test_rates_without_a_pair_that_differs_are_not_known_exactly(value: int, other: int, far: int) -> None:
    n = 40
    mean, low, high = paired_difference(np.full((n, 1), float(value)), np.full((n, 1), float(other)))
    unseen = 1 - 0.025 ** (1 / n)  # the share of pairs of which none in n is seen with a chance of 2.5%
    assert mean == value - other
    assert low == pytest.approx(max(-1, value - other - far * unseen))
    assert high == pytest.approx(min(1, value - other + far * unseen))


def test_rates_with_pairs_that_differ_are_bootstrapped() -> None:
    rng = np.random.default_rng(7)
    values, others = rng.integers(0, 2, size=(2, 30, 1)).astype(float)
    mean, low, high = paired_difference(values, others)
    np.testing.assert_array_equal([low, high], mean_interval(values - others))
    assert low < mean < high


def test_a_number_read_off_the_mean_curve_is_bootstrapped_with_the_same_pairs() -> None:
    values = np.random.default_rng(8).normal(size=(30, 3))
    low, high = mean_interval(values, seed=2)
    found = curve_interval(values, lambda curves: curves[:, 1], seed=2)
    np.testing.assert_allclose(found, (low[1], high[1]), atol=0.01)
    # What is the same for every pair has no spread, however much the pairs themselves differ.
    shifted = values[:, :1] + np.array([0.0, 2.0, 1.0])
    np.testing.assert_allclose(curve_interval(shifted, lambda curves: np.ptp(curves, axis=1)), (2, 2))


def test_an_infinite_number_makes_an_infinite_end_and_no_nan() -> None:
    values = np.array([[1.0], [-1.0]] * 5)
    assert curve_interval(values, lambda curves: np.where(curves[:, 0] > 0, np.inf, 1.0)) == (1, np.inf)
    assert np.isnan(curve_interval(values[:1], lambda curves: curves[:, 0])).all()


@pytest.mark.parametrize("dimensions", [3, 64, 576])
def test_the_cosine_p_value_is_that_of_random_directions(dimensions: int) -> None:
    draws = np.random.default_rng(4).normal(size=(20_000, dimensions))
    found = np.abs(draws[:, 0]) / np.linalg.norm(draws, axis=1)
    for cosine in np.quantile(found, [0.3, 0.9, 0.99]):
        share = (found >= cosine).mean()
        assert abs(cosine_p_value(float(cosine), dimensions) - share) < 4 * np.sqrt(share * (1 - share) / 20_000) + 1e-3


def test_the_cosine_p_value_agrees_with_the_t_distribution() -> None:
    cosine, dimensions = 0.11, 576
    t = cosine * np.sqrt((dimensions - 1) / (1 - cosine**2))
    assert cosine_p_value(cosine, dimensions) == pytest.approx(2 * stats.t.sf(t, dimensions - 1), rel=1e-6)
    assert cosine_p_value(-cosine, dimensions) == cosine_p_value(cosine, dimensions)


def test_a_level_is_a_share_and_never_a_percentage() -> None:
    values = np.arange(12.0).reshape(6, 2)
    rates = (values > 4).astype(float)
    asked: list[Callable[[float], object]] = [
        lambda level: mean_interval(values, level=level),
        lambda level: mean_interval(values[:1], level=level),
        lambda level: curve_interval(values, lambda means: means[:, 0], level=level),
        lambda level: rate_interval(rates, level=level),
        lambda level: paired_difference(values, values[::-1], level=level),
        lambda level: cosine_limit(level, 8),
    ]
    for measure in asked:
        measure(0.9)
        for level in (95, 1, 0, -0.5, float("nan"), "0.95", None, True):
            with pytest.raises(MeasureError, match=r"level=.*a share above 0 and below 1"):
                measure(level)  # type: ignore[arg-type]
