"""Preference shift against a full forward pass per response, and its identities."""

import re
from functools import partial
from typing import get_args

import numpy as np
import pytest
import torch
from conftest import ROUNDING
from tqdm import tqdm
from transformer_lens import HookedTransformer

import steerlens as sl
from steerlens.forward.steer import hook_name
from steerlens.measures.effect import Quantity

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
def vector(tiny_chat_model: HookedTransformer) -> sl.SteeringVector:
    return sl.SteeringVector(torch.randn(32, generator=torch.Generator().manual_seed(0)), layer=1)


def plain_logprob(
    model: HookedTransformer, prompt: tuple, response: tuple, added: torch.Tensor, layer: int, start: int
) -> float:
    """log p(response | prompt) by one forward pass over one text, the vector added from position `start` on."""

    def add(resid: torch.Tensor, hook: object) -> torch.Tensor:
        where = torch.arange(resid.shape[1]) >= start
        return resid + where[:, None] * added

    tokens = torch.tensor([[*prompt, *response]])
    logits = model.run_with_hooks(tokens, fwd_hooks=[(hook_name(layer), add)])[0].double().log_softmax(-1)
    return sum(float(logits[len(prompt) - 1 + i, token]) for i, token in enumerate(response))


@pytest.mark.parametrize("positions", ["all", "response"])
def test_the_shift_is_what_full_forward_passes_say(
    tiny_chat_model: HookedTransformer, vector: sl.SteeringVector, positions: str
) -> None:
    model = tiny_chat_model
    shift = sl.preference_shift(model, vector, PAIRS, (-1.5, 0, 1), positions, progress=False)
    for row, pair in enumerate(PAIRS.encode(model)):
        start = 0 if positions == "all" else len(pair.prompt) - 1
        for column, m in enumerate((-1.5, 0, 1)):
            scores = [
                plain_logprob(model, pair.prompt, side, m * vector.tensor, 1, start)
                - plain_logprob(model, pair.prompt, side, 0 * vector.tensor, 1, start)
                for side in (pair.chosen, pair.rejected)
            ]
            assert shift.values[row, column] == pytest.approx(scores[0] - scores[1], abs=2e-4)
            per_token = scores[0] / len(pair.chosen) - scores[1] / len(pair.rejected)
            assert shift.per_token[row, column] == pytest.approx(per_token, abs=ROUNDING)


def test_a_progress_bar_moves_with_every_batch(
    tiny_chat_model: HookedTransformer,
    vector: sl.SteeringVector,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("steerlens.forward.pair_scores.tqdm", partial(tqdm, mininterval=0))
    sl.preference_shift(tiny_chat_model, vector, PAIRS, (-1, 0, 1), batch_size=1)
    shown = capsys.readouterr().err
    for bar in ("reading pairs", "unsteered", "multiplier -1", "multiplier +1"):
        assert all(re.search(rf"{re.escape(bar)}: .*\b{done}/3 ", shown) for done in range(4)), bar
    assert "+0" not in shown
    sl.preference_shift(tiny_chat_model, vector, PAIRS, (-1, 0, 1), progress=False)
    assert not capsys.readouterr().err


def test_multiplier_zero_shifts_nothing_at_all(tiny_chat_model: HookedTransformer, vector: sl.SteeringVector) -> None:
    shift = sl.preference_shift(tiny_chat_model, vector, PAIRS, (0, 1), progress=False)
    assert (shift.values[:, 0] == 0).all()
    assert (shift.values[:, 1] != 0).all()


def test_odd_and_even_parts_add_up_and_turn_with_the_vector(
    tiny_chat_model: HookedTransformer, vector: sl.SteeringVector
) -> None:
    shift = sl.preference_shift(tiny_chat_model, vector, PAIRS, progress=False)
    assert shift.odd_multipliers == (1.0, 2.0)
    np.testing.assert_allclose(shift.odd + shift.even, shift.values[:, [3, 4]])
    np.testing.assert_allclose(shift.even - shift.odd, shift.values[:, [1, 0]])
    turned = sl.preference_shift(tiny_chat_model, -vector, PAIRS, progress=False)
    np.testing.assert_allclose(turned.odd, -shift.odd, atol=1e-4)
    np.testing.assert_allclose(turned.even, shift.even, atol=1e-4)


def test_flipped_pairs_shift_the_other_way(tiny_chat_model: HookedTransformer, vector: sl.SteeringVector) -> None:
    shift = sl.preference_shift(tiny_chat_model, vector, PAIRS, (1,), progress=False)
    flipped = sl.preference_shift(tiny_chat_model, vector, PAIRS.flip(), (1,), progress=False)
    np.testing.assert_allclose(flipped.values, -shift.values, atol=1e-4)


def test_without_both_signs_there_is_no_odd_part(tiny_chat_model: HookedTransformer, vector: sl.SteeringVector) -> None:
    shift = sl.preference_shift(tiny_chat_model, vector, PAIRS, (1, 2), progress=False)
    with pytest.raises(sl.MeasureError, match="odd and even parts need both"):
        _ = shift.odd


def test_pairs_that_trained_a_vector_are_refused_unless_the_result_may_say_so(
    tiny_chat_model: HookedTransformer,
) -> None:
    trained = sl.extract_caa(tiny_chat_model, PAIRS[:2], 1, progress=False)
    with pytest.raises(sl.MeasureError, match="2 of these 3 pairs trained or selected"):
        sl.preference_shift(tiny_chat_model, trained, PAIRS, progress=False)
    with pytest.raises(sl.MeasureError):
        sl.preference_shift(tiny_chat_model, -2 * trained, PAIRS.flip(), progress=False)
    shift = sl.preference_shift(tiny_chat_model, trained, PAIRS, (1,), allow_seen=True, progress=False)
    assert shift.seen_pairs == 2
    assert "SEEN" in repr(shift)
    assert sl.preference_shift(tiny_chat_model, trained, PAIRS[2:], (1,), progress=False).seen_pairs == 0


def test_validation_pairs_count_as_seen(tiny_chat_model: HookedTransformer) -> None:
    vec = sl.train_bipo(tiny_chat_model, PAIRS[:2], 1, val_pairs=PAIRS[2:], max_steps=2, progress=False)
    with pytest.raises(sl.MeasureError, match="1 of these 1 pairs"):
        sl.preference_shift(tiny_chat_model, vec, PAIRS[2:], progress=False)


@pytest.mark.parametrize("multipliers", [(), (1, 1), (float("nan"),), (float("inf"), 1)])
def test_multipliers_that_make_no_sense_are_refused(
    tiny_chat_model: HookedTransformer, vector: sl.SteeringVector, multipliers: tuple
) -> None:
    with pytest.raises(sl.MeasureError, match="multipliers"):
        sl.preference_shift(tiny_chat_model, vector, PAIRS, multipliers, progress=False)


def test_the_frame_has_a_row_per_pair_and_multiplier(
    tiny_chat_model: HookedTransformer, vector: sl.SteeringVector
) -> None:
    shift = sl.preference_shift(tiny_chat_model, vector, PAIRS, progress=False)
    frame = shift.to_frame()
    assert len(frame) == 15
    picked = frame[(frame.pair == 2) & (frame.multiplier == -1)]
    assert picked.shift_nats.item() == shift.values[2, 1]
    assert picked.prompt.item() == PAIRS[2].prompt


def test_the_figure_shows_the_means_and_their_interval(
    tiny_chat_model: HookedTransformer, vector: sl.SteeringVector
) -> None:
    shift = sl.preference_shift(tiny_chat_model, vector, PAIRS, progress=False)
    band, line, chosen, rejected = shift.figure().data
    np.testing.assert_allclose(line.y, shift.mean())
    np.testing.assert_allclose(sorted(band.y), sorted([*shift.interval()[0], *shift.interval()[1]]))
    assert "nats" in shift.figure().layout.yaxis.title.text
    np.testing.assert_allclose(chosen.y, shift.mean("chosen"))
    np.testing.assert_allclose(rejected.y, shift.mean("rejected"))
    assert [chosen.name, rejected.name] == ["log p(chosen)", "log p(rejected)"]


@pytest.mark.parametrize("batch_size", [-1, 0, 2.5])
def test_a_batch_size_that_makes_no_sense_is_refused_and_never_gives_zeros(
    tiny_chat_model: HookedTransformer, vector: sl.SteeringVector, batch_size: float
) -> None:
    for measure in (
        lambda: sl.preference_shift(tiny_chat_model, vector, PAIRS, batch_size=batch_size, progress=False),
        lambda: sl.extract_caa(tiny_chat_model, PAIRS, 1, batch_size=batch_size, progress=False),
        lambda: sl.bipo_loss(tiny_chat_model, vector.tensor, PAIRS, 1, batch_size=batch_size),
    ):
        with pytest.raises(sl.PairsError, match="batch_size="):
            measure()


def test_the_odd_part_is_drawn_over_its_own_multipliers(
    tiny_chat_model: HookedTransformer, vector: sl.SteeringVector
) -> None:
    from steerlens.figures.curves import dose_response

    shift = sl.preference_shift(tiny_chat_model, vector, PAIRS, progress=False)
    _, line = dose_response([shift], "odd_per_token").data
    assert list(line.x) == [1, 2]
    np.testing.assert_allclose(line.y, shift.mean("odd_per_token"))


def test_pairs_that_differ_from_trained_ones_in_white_space_count_as_seen(tiny_chat_model: HookedTransformer) -> None:
    trained = sl.extract_caa(tiny_chat_model, PAIRS[:2], 1, progress=False)
    spaced = sl.PreferencePairs(
        [f"{p.prompt} " for p in PAIRS[:2]], [f" {p.chosen}" for p in PAIRS[:2]], [p.rejected for p in PAIRS[:2]]
    )
    with pytest.raises(sl.MeasureError, match="2 of these 2"):
        sl.preference_shift(tiny_chat_model, trained, spaced, progress=False)


# -- what a margin hides ----------------------------------------------------------------------------------------------


def made(chosen: np.ndarray, rejected: np.ndarray, multipliers: tuple[float, ...] = (-1, 0, 1)) -> sl.PreferenceShift:
    n = len(chosen)
    tokens = np.full(n, 4)
    return sl.PreferenceShift(
        "caa", 1.0, tuple(map(float, multipliers)), chosen, rejected, tokens, tokens, ("Why?",) * n, "all", "made up"
    )


def broken(n: int = 8) -> sl.PreferenceShift:
    """The margin rises by 17 nats at +1, for the rejected response falls further than the chosen one."""
    rng = np.random.default_rng(0)
    chosen, rejected = (
        np.c_[rng.normal(low, 1, n), np.zeros(n), rng.normal(high, 1, n)] for low, high in ((1, -48), (3, -65))
    )
    return made(chosen, rejected)


def test_a_margin_that_rises_while_both_responses_fall_says_so_wherever_it_is_told() -> None:
    shift = broken()
    assert shift.mean()[2] > 15
    assert abs(shift.mean("even")[0]) < 10  # the even part of a difference is no damage
    assert shift.mean("even_chosen")[0] < -20
    assert shift.mean("even_rejected")[0] < -25
    assert shift.both_fall.tolist() == [False, False, True]
    assert "BOTH FALL at +1: " in repr(shift).splitlines()[1]
    assert f"log p(chosen) {shift.mean('chosen')[2]:+.2f}, log p(rejected) {shift.mean('rejected')[2]:+.2f}" in repr(
        shift
    )
    assert sum(line.endswith(("BOTH FALL", "BOTH FALL)")) for line in repr(shift).splitlines()) == 1


def test_one_response_falling_or_an_interval_around_zero_is_not_both_falling() -> None:
    n = 12
    noise = np.random.default_rng(1).normal(0, 6, n)
    for chosen, rejected, both in (
        (np.full(n, -2.0), np.full(n, -3.0), True),
        (np.full(n, 2.0), np.full(n, -3.0), False),
        (np.full(n, -2.0), np.full(n, 3.0), False),
        (noise - noise.mean() - 0.1, np.full(n, -3.0), False),  # the mean is below 0, its interval is not
        (np.full(n, -3.0), noise - noise.mean() - 0.1, False),
        (np.zeros(n), np.zeros(n), False),
    ):
        shift = made(chosen[:, None], rejected[:, None], (1,))
        assert shift.both_fall.tolist() == [both]
        assert ("BOTH FALL" in repr(shift)) == bool(shift.verdict) == both
    single = made(np.array([[-2.0, 1.0]]), np.array([[-3.0, -1.0]]), (-1, 1))  # no interval: the means decide
    assert single.both_fall.tolist() == [True, False]


def test_the_wrong_way_is_against_the_multipliers_sign() -> None:
    margins = np.array([[-1.0, 0.0, 1.0], [2.0, 0.0, 1.0], [-1.0, 0.0, -3.0], [4.0, 0.0, 0.0]])
    shift = made(margins, np.zeros_like(margins))
    assert shift.wrong_way.tolist() == [0.5, 0.0, 0.25]
    frame = shift.to_frame()
    assert frame.groupby("multiplier")["wrong_way"].mean().tolist() == [0.5, 0.0, 0.25]
    assert "50% of pairs the wrong way" in repr(shift)
    turned = made(margins[:, ::-1], np.zeros_like(margins), (1, 0, -1))
    assert turned.wrong_way.tolist() == [0.25, 0.0, 0.5]


def test_every_quantity_has_the_columns_it_is_told_by() -> None:
    shift = broken()
    for quantity in get_args(Quantity):
        assert shift.mean(quantity).shape == (len(shift.columns(quantity)),)
    np.testing.assert_allclose(shift.even_chosen - shift.even_rejected, shift.even)
