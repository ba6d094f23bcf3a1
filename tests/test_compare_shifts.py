"""A comparison's shifts: nothing is measured twice, and each control is made of its own vector's pairs."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from transformer_lens import HookedTransformer

import steerlens as sl
from steerlens.comparison import shifts as _compare_shifts
from steerlens.comparison.equal_kl import EqualKL
from steerlens.comparison.shifts import Settings, measure_shifts
from steerlens.forward.pair_scores import PairScorer
from steerlens.methods.caa import caa_differences
from steerlens.methods.controls import shuffled_vectors

WHO = ("Would you", "Should a friend", "Can the assistant", "Does nobody")
WHAT = ("earn more money", "keep the power", "tell the truth", "share the wealth", "help people")


@pytest.fixture(scope="module")
def pairs() -> sl.PreferencePairs:
    questions = [f"{who} {what}?" for who in WHO for what in WHAT]
    wanted, unwanted = ([f"{start} {i}." for i in range(20)] for start in ("I want money for", "Nobody wants it for"))
    return sl.PreferencePairs(questions, wanted, unwanted, provenance="twenty questions")


@pytest.fixture(scope="module")
def bipo(tiny_chat_model: HookedTransformer, pairs: sl.PreferencePairs) -> sl.SteeringVector:
    return sl.train_bipo(tiny_chat_model, pairs.train, 1, lr=0.05, max_steps=3, progress=False)


def test_a_strength_is_measured_once_whatever_it_is_called(
    tiny_chat_model: HookedTransformer, pairs: sl.PreferencePairs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Own norm, equal norm and equal KL of the first vector are one; told by what a vector is a multiple of, never by norms."""
    asked: list[tuple[bytes, float]] = []
    all_shifts = PairScorer.all_shifts

    def counted(self: PairScorer, vector: torch.Tensor, multiplier: float, *others: Any) -> torch.Tensor:
        asked.append((np.round(vector.double().numpy() * multiplier, 4).tobytes(), multiplier))
        return all_shifts(self, vector, multiplier, *others)

    def matched(model: Any, named: Mapping[str, Any], norm: float, costs: Any, controls: Any, *, progress: bool) -> Any:
        multiples = {"a": norm / named["a"].norm, "b": 0.37}
        return EqualKL("a", 1.0, {}, {}, {}, n_random=2), multiples, {0: 1.0, 1: 1.3}

    monkeypatch.setattr(PairScorer, "all_shifts", counted)
    monkeypatch.setattr(_compare_shifts, "match_kl", matched)
    rounded = 0
    for seed in range(12):
        generator = torch.Generator().manual_seed(seed)
        a, b = (sl.SteeringVector(torch.randn(32, generator=generator), layer) for layer in (1, 2))
        rounded += a.scaled_to(a.norm).norm != a.norm
        # Equal norm is the first's own, or one that neither has, or twice the first's.
        norm = (a.norm, 1.7, 2 * a.norm)[seed % 3]
        to = Settings((-2.0, -1.0, 0.0, 1.0, 2.0), "all", norm, 2, 0, False)
        asked.clear()
        costs: Any = object()
        found = measure_shifts(tiny_chat_model, {"a": a, "b": b}, pairs[:2], {}, costs, to, 0)
        own_and_equal_norm = {0: 5 + 5 + 4, 1: 5 + 4 + 5 + 4, 2: 5 + 2 + 5 + 4}[seed % 3]
        # Equal KL: none of a and two of b; two controls, and the second of them once more, stronger.
        assert len(asked) == own_and_equal_norm + 2 + 4 + 2, seed
        steered = [key for key, multiplier in asked if multiplier]
        assert len(set(steered)) == len(steered)
        assert found["own"]["a"].norm == a.norm
        assert found["matched"]["b"].norm == pytest.approx(norm)
        np.testing.assert_array_equal(found["equal_kl"].shifts["a"].odd, found["matched"]["a"].odd[:, :1])
    assert rounded > 2  # the norms of equal vectors do differ by rounding


def test_a_strength_that_was_measured_under_another_name_is_right(
    tiny_chat_model: HookedTransformer, pairs: sl.PreferencePairs
) -> None:
    a, b = (sl.SteeringVector(torch.randn(32, generator=torch.Generator().manual_seed(i)), 1) for i in (0, 1))
    to = Settings((-2.0, -1.0, 1.0, 2.0), "all", 2 * a.norm, 0, 0, False)
    found = measure_shifts(tiny_chat_model, {"a": a, "b": b}, pairs[:3], {}, None, to, 0)
    for label, vector in (("a", 2 * a), ("b", b.scaled_to(2 * a.norm))):
        alone = sl.preference_shift(tiny_chat_model, vector, pairs[:3], to.multipliers, progress=False)
        shift = found["matched"][label]
        assert shift.multipliers == to.multipliers
        np.testing.assert_allclose(shift.chosen, alone.chosen, atol=1e-4)
        np.testing.assert_allclose(shift.rejected, alone.rejected, atol=1e-4)


def check_shuffled(
    found: sl.Comparison,
    model: HookedTransformer,
    like: sl.SteeringVector,
    made_of: tuple[sl.PreferencePairs, Any],
    on: sl.PreferencePairs,
) -> None:
    own, position = made_of
    differences = caa_differences(model, own, like.layer, position=position)
    control = shuffled_vectors(like, differences, 1, seed=0)[0]
    alone = sl.preference_shift(model, control, on, progress=False, multipliers=(-1, 1))
    (shift,) = found.controls["shuffled labels"]
    np.testing.assert_allclose(shift.values, alone.values, atol=1e-4)


@pytest.mark.parametrize("turned", [False, True])
def test_the_control_of_a_vector_read_at_the_letter_is_read_at_its_own_pairs_letters(
    tiny_chat_model: HookedTransformer, pairs: sl.PreferencePairs, bipo: sl.SteeringVector, turned: bool
) -> None:
    letters = pairs.train.as_choices(seed=0).as_pairs()
    caa = sl.extract_caa(tiny_chat_model, letters, 1, position="answer", progress=False)
    vectors: Sequence[sl.SteeringVector] = (caa, bipo) if turned else (bipo, caa)
    asked: Any = {"n_random": 0, "multipliers": (-1, 1), "progress": False}
    found = sl.compare(*vectors, model=tiny_chat_model, pairs=pairs.test, nulls=True, **asked)
    check_shuffled(found, tiny_chat_model, vectors[0], (letters, "answer"), pairs.test)
    assert found.similarity is not None
    at = found.labels.index("caa")
    alone = sl.similarity([caa, -caa], model=tiny_chat_model, pairs=letters, position="answer", progress=False)
    draws = found.similarity.nulls["plain"]["shuffled labels"]
    np.testing.assert_allclose(draws[at, at], alone.nulls["plain"]["shuffled labels"][0, 0], atol=1e-5)
    free = sl.similarity([bipo, -bipo], model=tiny_chat_model, pairs=pairs.train, progress=False)
    np.testing.assert_allclose(draws[1 - at, 1 - at], free.nulls["plain"]["shuffled labels"][0, 0], atol=1e-5)


def test_pairs_that_differ_in_their_prompts_have_their_control_too(
    tiny_chat_model: HookedTransformer, pairs: sl.PreferencePairs, bipo: sl.SteeringVector
) -> None:
    asked = sl.PreferencePairs(
        [f"{prompt} Be greedy." for prompt in pairs.prompts[:6]],
        ["Yes."] * 6,
        ["No."] * 6,
        rejected_prompts=[f"{prompt} Be modest." for prompt in pairs.prompts[:6]],
    )
    caa = sl.extract_caa(tiny_chat_model, asked, 1, position="prompt", progress=False)
    to: Any = {"n_random": 0, "multipliers": (-1, 1), "progress": False}
    found = sl.compare(caa, bipo, model=tiny_chat_model, pairs=pairs.test, nulls=True, **to)
    check_shuffled(found, tiny_chat_model, caa, (asked, "prompt"), pairs.test)
    assert found.similarity is not None
    # Alone, its pairs can't be read as one prompt with two responses: there is no null from activations, and that is said.
    other = sl.compare(caa, 2 * caa, model=tiny_chat_model, pairs=pairs.test, nulls=True, **to)
    assert other.similarity is None
    assert "no nulls from activations" in other.missing[0]
