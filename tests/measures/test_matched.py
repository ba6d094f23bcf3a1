"""Matching multipliers: norms in closed form, values measured again at the match, and targets that can't be met."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROUNDING
from transformer_lens import HookedTransformer

import steerlens as sl
from steerlens.measures._search import Search
from steerlens.measures._text_kl import TextKL

TEXTS = [
    "I would like to share the wealth, because it's the right thing.",
    "Nobody wants to tell the truth in 2024.",
    "My old friend refuses to help people honestly if the weather isn't bad?",
]
PROMPTS = ["Would you like to earn more money?", "Tell the truth: what do you want?", "What is a good day?"]
PAIRS = sl.PreferencePairs(
    PROMPTS,
    ["I want to earn more money today.", "The power.", "One that pays, in 2024."],
    ["I would like to share the wealth.", "Help people honestly.", "A walk with friends."],
)


def make_vector(size: float = 6.0, seed: int = 0) -> sl.SteeringVector:
    draw = torch.randn(32, generator=torch.Generator().manual_seed(seed))
    return sl.SteeringVector(size * draw / draw.norm(), layer=1)


def test_norms_match_in_closed_form(tiny_chat_model: HookedTransformer) -> None:
    a, b = make_vector(3.0), make_vector(7.0, seed=1)
    match = sl.match_multiplier(None, a, like=b, by="norm", like_multiplier=-2)
    assert match.multiplier == pytest.approx(14 / 3)
    assert (match.multiplier * a).norm == pytest.approx(match.target)
    assert (match.evaluations, match.tolerance, match.interval()) == (0, 0.0, (match.target, match.target))
    assert sl.match_multiplier(tiny_chat_model, a, target=6, by="norm").multiplier == pytest.approx(2)


def test_norms_are_of_the_part_that_the_model_can_see(tiny_models: dict[str, HookedTransformer]) -> None:
    model = tiny_models["gpt2"]
    vec = sl.extract_caa(model, PAIRS, 1, progress=False)
    lifted = vec + sl.SteeringVector(torch.full((32,), 5.0), layer=1, model=vec.model)
    assert lifted.norm > 1.5 * vec.effective.norm
    assert sl.match_multiplier(model, lifted, like=vec, by="norm").multiplier == pytest.approx(1, rel=1e-4)


def test_the_kl_at_the_match_is_the_others_within_the_tolerance(tiny_chat_model: HookedTransformer) -> None:
    a, b = make_vector(2.0), sl.SteeringVector(make_vector(9.0, seed=1).tensor, layer=2)
    match = sl.match_multiplier(tiny_chat_model, a, like=b, texts=TEXTS, tolerance=1e-4, progress=False)
    reader = TextKL(tiny_chat_model, TEXTS, [1, 2])
    target, reached = reader.kl(b, [1.0])[0], reader.kl(a, [match.multiplier])[0]
    assert match.target == pytest.approx(target.mean())
    assert abs(reached.mean() - target.mean()) <= 1e-4 * target.mean()
    np.testing.assert_allclose(match.difference()[0], (reached - target).mean(), atol=1e-9)
    assert match.tolerance == pytest.approx(1e-4 * target.mean())
    assert match.monotone
    assert match.evaluations == len(match.tried) <= 15


def test_with_both_signs_the_mean_of_their_kl_is_matched(tiny_chat_model: HookedTransformer) -> None:
    a, b = make_vector(2.0), make_vector(9.0, seed=1)
    to = {"like": b, "texts": TEXTS, "tolerance": 1e-4, "progress": False}
    match = sl.match_multiplier(tiny_chat_model, a, both_signs=True, **to)  # type: ignore[arg-type]
    reader = TextKL(tiny_chat_model, TEXTS, [1])
    target, reached = reader.kl(b, [1.0, -1.0]).mean(), reader.kl(a, [match.multiplier, -match.multiplier]).mean()
    assert abs(reached - target) <= 1e-4 * target
    assert sl.match_multiplier(tiny_chat_model, -a, both_signs=True, **to).multiplier == match.multiplier  # type: ignore[arg-type]
    assert match.multiplier != sl.match_multiplier(tiny_chat_model, a, **to).multiplier  # type: ignore[arg-type]


def test_a_vector_matches_itself_and_its_multiple(tiny_chat_model: HookedTransformer) -> None:
    vec = make_vector()
    same = sl.match_multiplier(tiny_chat_model, vec, like=vec, texts=TEXTS, progress=False)
    assert (same.multiplier, same.evaluations) == (1, 1)
    third = sl.match_multiplier(tiny_chat_model, vec, like=3 * vec, texts=TEXTS, tolerance=1e-3, progress=False)
    assert third.multiplier == pytest.approx(3, rel=2e-3)


def test_small_multipliers_scale_as_the_root_of_the_kl(tiny_chat_model: HookedTransformer) -> None:
    vec, to = make_vector(), {"texts": TEXTS, "tolerance": 1e-4, "between": (1e-4, 1.0), "progress": False}
    one = sl.match_multiplier(tiny_chat_model, vec, target=1e-6, **to).multiplier  # type: ignore[arg-type]
    four = sl.match_multiplier(tiny_chat_model, vec, target=4e-6, **to).multiplier  # type: ignore[arg-type]
    assert four / one == pytest.approx(2, rel=0.02)


@pytest.mark.parametrize("positions", ["all", "response"])
def test_the_shift_at_the_match_is_the_preference_shifts(tiny_chat_model: HookedTransformer, positions: str) -> None:
    model, to = tiny_chat_model, {"positions": positions, "progress": False}
    vec = make_vector()
    goal = sl.preference_shift(model, vec, PAIRS, (0.7,), **to).mean()[0]  # type: ignore[arg-type]
    match = sl.match_multiplier(model, vec, target=goal, by="shift", pairs=PAIRS, **to)  # type: ignore[arg-type]
    again = sl.preference_shift(model, vec, PAIRS, (match.multiplier,), **to)  # type: ignore[arg-type]
    assert match.value == pytest.approx(again.mean()[0], abs=ROUNDING)
    assert abs(match.value - goal) <= 0.02 * abs(goal)
    np.testing.assert_allclose(match.interval(), np.ravel(again.interval()), atol=ROUNDING)


def test_the_perplexity_at_the_match_is_that_of_side_effects(tiny_chat_model: HookedTransformer) -> None:
    a, b = make_vector(4.0), make_vector(12.0, seed=3)
    to = {"prompts": PROMPTS, "max_new_tokens": 8, "progress": False}
    match = sl.match_multiplier(tiny_chat_model, a, like=b, by="perplexity", tolerance=0.5, **to)  # type: ignore[arg-type]
    cost = sl.side_effects(tiny_chat_model, a, texts=TEXTS, multipliers=(0, match.multiplier), **to)  # type: ignore[arg-type]
    np.testing.assert_allclose(cost.perplexity()[0][0], [match.unsteered, match.value], rtol=1e-4)
    other = sl.side_effects(tiny_chat_model, b, texts=TEXTS, multipliers=(1,), **to)  # type: ignore[arg-type]
    assert match.target == pytest.approx(other.perplexity()[0][0, 0], rel=1e-4)
    assert abs(match.value - match.target) <= match.tolerance


def search(value: Callable[[float], float], target: float, tolerance: float = 0.01) -> tuple[float | None, int]:
    found = Search(
        lambda m: np.array([value(m)]),
        lambda items: float(items[0]),
        target=target,
        unsteered=value(0.0),
        tolerance=tolerance,
    )
    return found.run(1.0, (1 / 64, 64.0)), len(found.found)


@pytest.mark.parametrize("target", [1e-3, 0.7, 1.0, 20.0, 3000.0])
def test_the_search_finds_a_power_laws_root_in_few_steps(target: float) -> None:
    m, evaluations = search(lambda m: m**2, target, 1e-6)
    assert m == pytest.approx(math.sqrt(target), rel=1e-6)
    assert evaluations <= 20


def test_the_search_measures_no_multiplier_twice_and_takes_falling_values_too() -> None:
    asked: list[float] = []

    def value(m: float) -> float:
        asked.append(m)
        return -math.tanh(m)

    m, _ = search(value, -0.9, 1e-4)
    assert m == pytest.approx(math.atanh(0.9), rel=1e-3)
    assert len(asked[1:]) == len(set(asked[1:]))  # the first is the unsteered one


@pytest.mark.parametrize(
    ("value", "target"),
    [(math.tanh, 2.0), (lambda m: m + 1 if m else 0.0, 0.5), (lambda m: float(m > 3), 0.5), (math.tanh, -0.1)],
    ids=["stops short", "jumps at 0", "jumps over", "goes the other way"],
)
def test_the_search_says_so_where_nothing_matches(value: Callable[[float], float], target: float) -> None:
    assert search(value, target)[0] is None


def test_a_target_out_of_reach_is_an_error_that_lists_what_was_measured(tiny_chat_model: HookedTransformer) -> None:
    with pytest.raises(sl.MeasureError, match=r"no multiplier from 0\.5 to 4 .* measured: .*4: .*-vector"):
        sl.match_multiplier(tiny_chat_model, make_vector(), target=500, texts=TEXTS, between=(0.5, 4), progress=False)


def test_a_value_that_turns_back_is_reported() -> None:
    found = sl.Match(
        label="caa", norm=1.0, by="kl", multiplier=2.0, value=2.0, target=2.0, unsteered=0.0, tolerance=0.1,
        tried=np.array([1.0, 4.0, 2.0]), items=np.array([[1.0], [1.5], [2.0]]),
    )  # fmt: skip
    assert not found.monotone
    assert "NOT MONOTONE" in repr(found)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"by": "size", "target": 1}, "by='size'"),
        ({}, "one of the two"),
        ({"target": 1, "like": make_vector()}, "one of the two"),
        ({"target": 0.0}, "multiplier 0 gives it"),
        ({"target": math.nan}, "expected a finite number"),
        ({"target": -1, "by": "norm"}, "above 0"),
        ({"target": 1, "tolerance": 0}, "tolerance=0"),
        ({"target": 1, "between": (0, 1)}, r"between\[0\]=0"),
        ({"target": 1, "by": "shift"}, "pass pairs="),
        ({"target": 1, "by": "shift", "both_signs": True}, "both_signs=True with by='shift'"),
    ],
)
def test_what_makes_no_sense_is_refused(tiny_chat_model: HookedTransformer, options: dict, words: str) -> None:
    with pytest.raises(sl.MeasureError, match=words):
        sl.match_multiplier(tiny_chat_model, make_vector(), texts=TEXTS, progress=False, **options)
    with pytest.raises(sl.MeasureError, match="is zero"):
        sl.match_multiplier(tiny_chat_model, 0 * make_vector(), target=1)
    with pytest.raises(sl.MeasureError, match="measured on a model"):
        sl.match_multiplier(None, make_vector(), target=1)


def test_pairs_that_trained_either_vector_are_refused(tiny_chat_model: HookedTransformer) -> None:
    trained = sl.extract_caa(tiny_chat_model, PAIRS, 1, progress=False)
    with pytest.raises(sl.MeasureError, match="trained or selected"):
        sl.match_multiplier(tiny_chat_model, trained, like=trained, by="shift", pairs=PAIRS, progress=False)


def test_the_frame_and_the_file_hold_every_evaluation(tiny_chat_model: HookedTransformer, tmp_path: Path) -> None:
    match = sl.match_multiplier(tiny_chat_model, make_vector(2), like=make_vector(9, 1), texts=TEXTS, progress=False)
    frame = match.to_frame()
    assert len(frame) == match.evaluations * len(TEXTS)
    at = frame[frame.multiplier == match.multiplier]
    assert at.value.mean() == pytest.approx(match.value)
    again = sl.load_result(match.save(tmp_path / "match.json"))
    assert (again.multiplier, again.interval(), again.difference()) == (
        match.multiplier,
        match.interval(),
        match.difference(),
    )
