"""Intervals against closed forms and a bootstrap written out."""

import numpy as np
import pytest
from scipy import stats

from steerlens._stats import RESAMPLES, cosine_p_value, mean_interval


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
