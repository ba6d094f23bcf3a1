"""Numbers of a dose-response: the slope against autograd, the others on curves whose answer is known."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROUNDING
from scipy import stats
from transformer_lens import HookedTransformer

import steerlens as sl
from steerlens.forward.pair_scores import PairScorer

PAIRS = sl.PreferencePairs(
    ["Would you like to earn more money?", "Tell the truth: what do you want?", "What is a good day?"],
    ["I want to earn more money today.", "The power.", "One that pays, in 2024."],
    [
        "I would like to share the wealth, because it's the right thing.",
        "Help people honestly.",
        "A walk with friends.",
    ],
)


@pytest.fixture
def vector() -> sl.SteeringVector:
    return sl.SteeringVector(torch.randn(32, generator=torch.Generator().manual_seed(0)), layer=1)


def shift_of(curve: dict[float, float], n: int = 6, spread: float = 0.0) -> sl.PreferenceShift:
    """A shift whose mean curve is given; pair i's is (1 + spread * (i - mean i)) times it."""
    weights = 1 + spread * (np.arange(n) - (n - 1) / 2)
    return sl.PreferenceShift(
        label="caa",
        norm=2.0,
        multipliers=tuple(curve),
        chosen=weights[:, None] * np.array(list(curve.values()))[None],
        rejected=np.zeros((n, len(curve))),
        chosen_tokens=np.full(n, 4),
        rejected_tokens=np.full(n, 5),
        prompts=tuple(f"question {i}" for i in range(n)),
        positions="all",
        data="made up",
    )


def cost_of(nats: dict[float, float], repetition: dict[float, float], n: int = 5) -> sl.SideEffects:
    """Side effects of one vector, the same for every prompt."""
    shape = (1, len(nats), n)
    filled = [np.broadcast_to(np.array(list(v.values()))[None, :, None], shape).copy() for v in (nats, repetition)]
    return sl.SideEffects(
        labels=("caa",),
        norms=(2.0,),
        multipliers=tuple(nats),
        kl=np.zeros((1, len(nats), 2)),
        answer_nats=filled[0],
        repetition=filled[1],
        tokens=np.full(shape, 9),
        ended=np.ones(shape, dtype=bool),
        texts=("a text", "another"),
        text_positions=(3, 3),
        prompts=tuple(f"prompt {i}" for i in range(n)),
        answers=((("an answer",) * n,) * len(nats),),
        max_new_tokens=9,
        positions="all",
    )


@pytest.mark.parametrize("positions", ["all", "response"])
def test_the_slope_is_autograds_derivative_at_zero(
    tiny_chat_model: HookedTransformer, vector: sl.SteeringVector, positions: str
) -> None:
    scorer = PairScorer(tiny_chat_model, PAIRS.encode(tiny_chat_model), 1)
    m = torch.zeros((), requires_grad=True)
    both = scorer.logprobs([0, 1, 2], m * vector.tensor, 1.0, positions)
    (exact,) = torch.autograd.grad((both[:, 0] - both[:, 1]).mean(), m)
    steps = tuple(step / 25 for step in range(-2, 3))
    dose = sl.dose_response(tiny_chat_model, vector, PAIRS, steps, positions, n_random=0, progress=False)
    assert dose.slope().value == pytest.approx(float(exact), rel=2e-3)
    twice = sl.dose_response(tiny_chat_model, 2 * vector, PAIRS, steps, positions, n_random=0, progress=False)
    assert twice.slope().value == pytest.approx(2 * float(exact), rel=5e-3)


def test_the_slope_of_a_cubic_is_exact_whatever_its_even_part() -> None:
    curve = {m: 3 * m - 0.7 * m**3 + 5 * m**2 - 2 * m**4 for m in (-1.0, -0.5, 0.0, 0.5, 1.0)}
    assert sl.DoseResponse(shift_of(curve)).slope().value == pytest.approx(3)
    one = {m: 3 * m + 5 * m**2 for m in (-0.5, 0.5)}
    assert sl.DoseResponse(shift_of(one)).slope().value == pytest.approx(3)
    with pytest.raises(sl.MeasureError, match="needs both"):
        sl.DoseResponse(shift_of({0.0: 0.0, 1.0: 2.0})).slope()


def test_intervals_are_scipys_bootstrap_over_pairs() -> None:
    curve = {m: 3 * m for m in (-1.0, 0.0, 1.0)}
    dose = sl.DoseResponse(shift_of(curve, spread=0.3))
    slopes = 3 * (1 + 0.3 * (np.arange(6) - 2.5))
    expected = stats.bootstrap(
        (slopes,), np.mean, n_resamples=2000, method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval
    assert dose.slope().low == pytest.approx(expected.low, rel=0.02)
    assert dose.slope().high == pytest.approx(expected.high, rel=0.02)
    assert math.isnan(sl.DoseResponse(shift_of(curve, n=1)).range().low)


def test_range_and_monotonicity_of_known_curves() -> None:
    up = sl.DoseResponse(shift_of({m: m for m in (2.0, -1.0, 0.0, 1.0)}))  # in any order
    assert up.range().value == pytest.approx(3)
    assert up.rising() == (1, 1, 1)
    assert up.rank_correlation().value == pytest.approx(1)
    bent = {-2.0: -1.0, -1.0: -3.0, 0.0: 0.0, 1.0: 4.0, 2.0: 1.5}
    dose = sl.DoseResponse(shift_of(bent))
    assert dose.range().value == pytest.approx(7)
    assert dose.rising().value == pytest.approx(2 / 4)
    rho = stats.spearmanr(list(bent), list(bent.values())).statistic
    assert dose.rank_correlation().value == pytest.approx(rho)
    assert math.isnan(sl.DoseResponse(shift_of({0.0: 1.0, 1.0: 1.0})).rank_correlation().value)


def test_per_token_numbers_divide_by_each_responses_length() -> None:
    curve = {m: m for m in (-1.0, 0.0, 1.0)}
    dose = sl.DoseResponse(shift_of(curve))
    assert dose.range("per_token").value == pytest.approx(dose.range().value / 4)
    with pytest.raises(sl.MeasureError, match="quantity="):
        dose.range("odd")  # type: ignore[arg-type]


def test_saturation_is_told_for_either_sign() -> None:
    dose = sl.DoseResponse(shift_of({-3.0: -9.0, -2.0: -5.0, -1.0: -2.0, 0.0: 0.0, 1.0: 3.0, 2.0: 4.0, 3.0: 1.0}))
    assert dose.saturates(+1).value == 2
    assert dose.saturates(-1).value == math.inf  # it still falls at -3
    down = sl.DoseResponse(shift_of({0.5: -1.0, 1.0: -2.0}))  # 0 is known without being measured
    assert down.saturates(+1).value == 0
    with pytest.raises(sl.MeasureError, match="none of sign"):
        down.saturates(-1)
    with pytest.raises(sl.MeasureError, match="sign=2"):
        down.saturates(2)  # type: ignore[arg-type]


def test_saturation_that_pairs_do_not_agree_on_has_a_wide_interval() -> None:
    shift = shift_of({1.0: 0.0, 2.0: 0.0, 3.0: 0.0})
    early, late = [3.0, 2.0, 1.0], [1.0, 2.0, 3.1]
    mixed = dataclasses.replace(shift, chosen=np.array([early, late] * 3))
    found = sl.DoseResponse(mixed).saturates()
    assert (found.low, found.high) == (1, math.inf)


def test_text_breaks_where_perplexity_or_repetition_leaves_its_band() -> None:
    multipliers = (-2.0, -1.0, 0.0, 1.0, 2.0, 3.0)
    nats = dict(zip(multipliers, (0.9, 0.4, 0.5, 0.6, 1.3, 0.1), strict=True))  # 1.3 is above 0.5 + ln 2
    again = dict(zip(multipliers, (0.5, 0.1, 0.1, 0.2, 0.1, 0.9), strict=True))  # 0.5 is above 0.1 + 0.2
    shift = shift_of({m: m for m in multipliers})
    dose = sl.DoseResponse(shift, side_effects=cost_of(nats, again))
    assert dose.breaks(+1) == (2, 2, 2)
    assert dose.breaks(-1).value == 2
    assert dose.breaks(+1, perplexity_ratio=3).value == 3  # then by repetition
    assert dose.breaks(-1, more_repetition=0.5).value == math.inf
    names = list(dose.summary().number)
    assert "+1: text breaks at" in names
    assert "-1: saturates at" in names
    with pytest.raises(sl.MeasureError, match="side_effects="):
        sl.DoseResponse(shift).breaks()


def test_side_effects_of_another_vector_are_refused(
    tiny_chat_model: HookedTransformer, vector: sl.SteeringVector
) -> None:
    cost = cost_of({0.0: 0.5, 1.0: 0.5}, {0.0: 0.1, 1.0: 0.1})
    with pytest.raises(sl.MeasureError, match=r"norm 2, .* norm 5\."):
        sl.dose_response(
            tiny_chat_model, vector, PAIRS, (-1, 0, 1), side_effects=cost, label="caa", n_random=0, progress=False
        )
    ours = vector.scaled_to(2.0)
    dose = sl.dose_response(tiny_chat_model, ours, PAIRS, (-1, 0, 1), side_effects=cost, n_random=0, progress=False)
    assert dose.breaks().value == math.inf


def test_it_holds_the_preference_shift_and_controls_of_the_same_norm(
    tiny_chat_model: HookedTransformer, vector: sl.SteeringVector, tmp_path: Path
) -> None:
    dose = sl.dose_response(tiny_chat_model, vector, PAIRS, (-2, -1, 0, 1), n_random=2, label="caa", progress=False)
    alone = sl.preference_shift(tiny_chat_model, vector, PAIRS, (-2, -1, 0, 1), progress=False)
    np.testing.assert_allclose(dose.shift.values, alone.values, atol=ROUNDING)
    assert [control.multipliers for control in dose.controls] == [(-2.0, 1.0)] * 2
    assert [control.norm for control in dose.controls] == pytest.approx([vector.norm] * 2)
    assert dose.shift.label == "caa"
    again = sl.load_result(dose.save(tmp_path / "dose.json"))
    assert again.summary().equals(dose.summary())
    assert set(dose.to_frame().vector) == {"caa", "random"}


def test_pairs_that_trained_the_vector_are_refused(tiny_chat_model: HookedTransformer) -> None:
    trained = sl.extract_caa(tiny_chat_model, PAIRS, 1, progress=False)
    with pytest.raises(sl.MeasureError, match="trained or selected"):
        sl.dose_response(tiny_chat_model, trained, PAIRS, (0, 1), progress=False)
    seen = sl.dose_response(tiny_chat_model, trained, PAIRS, (0, 1), n_random=0, allow_seen=True, progress=False)
    assert "SEEN" in repr(seen)
