"""The one-call comparison: what it finds by itself, what it refuses, and that its numbers are the measures' own."""

import dataclasses
import gc
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROUNDING
from transformer_lens import HookedTransformer

import steerlens as sl
from steerlens.measures._neutral import neutral_texts
from steerlens.methods.caa import caa_differences

WHO = ("Would you", "Should a friend", "Can the assistant", "Does nobody")
WHAT = ("earn more money", "keep the power", "tell the truth", "share the wealth", "help people")


@pytest.fixture(scope="module")
def pairs() -> sl.PreferencePairs:
    questions = [f"{who} {what}?" for who in WHO for what in WHAT]
    return sl.PreferencePairs(
        questions,
        [f"I want the money of question {i}." for i in range(20)],
        [f"Nobody wants it, in {i} or today." for i in range(20)],
        provenance="twenty questions",
    )


@pytest.fixture(scope="module")
def made(tiny_chat_model: HookedTransformer, pairs: sl.PreferencePairs) -> tuple[sl.SteeringVector, sl.SteeringVector]:
    bipo = sl.train_bipo(tiny_chat_model, pairs.train, 1, lr=0.05, max_steps=8, progress=False)
    return bipo, sl.extract_caa(tiny_chat_model, pairs.train, 1, progress=False)


@pytest.fixture(scope="module")
def comparison(made: tuple[sl.SteeringVector, sl.SteeringVector]) -> sl.Comparison:
    return sl.compare(*made, prompts=["What do you want? <b>"], n_random=3, max_new_tokens=5, progress=False)


def test_the_model_and_the_test_pairs_are_found_by_themselves(
    comparison: sl.Comparison, pairs: sl.PreferencePairs
) -> None:
    assert comparison.missing == ()
    assert comparison.own["bipo"].prompts == pairs.test.prompts
    assert comparison.labels == ("bipo", "caa")


def test_cosine_and_norms_are_the_vectors_own(
    comparison: sl.Comparison, made: tuple[sl.SteeringVector, sl.SteeringVector]
) -> None:
    a, b = made
    assert comparison.cosine == pytest.approx(float(torch.dot(a.direction, b.direction)), abs=1e-6)
    assert comparison.norms == {"bipo": a.norm, "caa": b.norm}
    assert 0 <= comparison.p_value <= 1


def test_shifts_are_preference_shift_s_at_own_and_at_equal_norm(
    comparison: sl.Comparison,
    made: tuple[sl.SteeringVector, sl.SteeringVector],
    tiny_chat_model: HookedTransformer,
    pairs: sl.PreferencePairs,
) -> None:
    bipo, caa = made
    for found, vector in (
        (comparison.own["bipo"], bipo),
        (comparison.own["caa"], caa),
        (comparison.matched["bipo"], bipo),
        (comparison.matched["caa"], caa.scaled_to(bipo.norm)),
    ):
        alone = sl.preference_shift(tiny_chat_model, vector, pairs.test, progress=False)
        np.testing.assert_allclose(found.values, alone.values, atol=1e-4)
    assert comparison.matched_norm == bipo.norm


def test_controls_have_the_matched_norm_and_the_shuffled_one_is_a_mean_of_the_pairs_differences(
    comparison: sl.Comparison, tiny_chat_model: HookedTransformer, pairs: sl.PreferencePairs
) -> None:
    assert {name: len(group) for name, group in comparison.controls.items()} == {"random": 3, "shuffled labels": 1}
    for group in comparison.controls.values():
        assert all(shift.norm == pytest.approx(comparison.matched_norm, rel=1e-6) for shift in group)
    assert caa_differences(tiny_chat_model, pairs.train, 1).shape == (len(pairs.train), 32)


def test_the_difference_is_paired(comparison: sl.Comparison) -> None:
    gap = comparison.difference("bipo", "caa")
    by_hand = comparison.matched["bipo"].odd[:, 0] - comparison.matched["caa"].odd[:, 0]
    assert gap.mean == pytest.approx(by_hand.mean())
    assert gap.low <= gap.mean <= gap.high
    swapped = comparison.difference("caa", "bipo")
    assert (swapped.mean, swapped.low, swapped.high) == pytest.approx((-gap.mean, -gap.high, -gap.low), abs=0.05)
    with pytest.raises(sl.MeasureError, match="multiplier=7"):
        comparison.difference("bipo", "caa", multiplier=7)


@pytest.mark.usefixtures("no_ties")
def test_steered_answers_are_generate_s(
    comparison: sl.Comparison, made: tuple[sl.SteeringVector, sl.SteeringVector], tiny_chat_model: HookedTransformer
) -> None:
    assert comparison.steered is not None
    texts = sl.generate(
        tiny_chat_model,
        comparison.steered.prompts,
        vector=made[1].scaled_to(made[0].norm),
        multipliers=(-2, -1, 0, 1, 2),
        max_new_tokens=5,
        progress=False,
    )
    assert comparison.steered.texts["caa"] == texts


def test_the_frame_holds_every_curve_with_its_interval(comparison: sl.Comparison) -> None:
    frame = comparison.to_frame()
    row = frame[
        (frame.vector == "caa") & (frame.strength == "equal norm") & (frame.multiplier == 1) & (frame.unit == "nats")
    ]
    assert row["mean"].item() == pytest.approx(comparison.matched["caa"].mean()[3])
    assert row["low"].item() <= row["mean"].item() <= row["high"].item()
    assert set(frame.strength) == {"own norm", "equal norm", "part", "control"}


def test_the_second_vector_s_parts_are_steered_by_themselves(
    comparison: sl.Comparison,
    made: tuple[sl.SteeringVector, sl.SteeringVector],
    tiny_chat_model: HookedTransformer,
    pairs: sl.PreferencePairs,
) -> None:
    bipo, caa = made
    assert list(comparison.parts) == ["caa along bipo", "caa off bipo"]
    unit = bipo.direction.double()
    whole = caa.scaled_to(bipo.norm)
    along = dataclasses.replace(whole, tensor=((whole.tensor.double() @ unit) * unit).float())
    alone = sl.preference_shift(tiny_chat_model, along, pairs.test, multipliers=(-1, 1), progress=False)
    np.testing.assert_allclose(comparison.parts["caa along bipo"].values, alone.values, atol=1e-4)
    squared = sum(shift.norm**2 for shift in comparison.parts.values())
    assert squared == pytest.approx(bipo.norm**2, rel=1e-6)


def test_effects_are_the_shifts_odd_and_even_parts_and_random_directions_stand_for_their_opposites(
    comparison: sl.Comparison,
) -> None:
    effects = comparison.effects()
    row = effects[(effects.vector == "caa") & (effects.strength == "equal norm")].iloc[0]
    assert row["odd"] == pytest.approx(comparison.matched["caa"].odd[:, 0].mean())
    assert row["even_per_token_low"] <= row["even_per_token"] <= row["even_per_token_high"]
    drawn = effects[effects.vector == "random"].iloc[0]
    means = [shift.odd[:, 0].mean() for shift in comparison.controls["random"]]
    assert drawn["odd_high"] == -drawn["odd_low"] == pytest.approx(max(map(abs, means)))
    assert "booktabs" not in comparison.to_latex()
    assert comparison.to_latex().count(r"\\") == len(effects) + 1


def test_the_path_of_training_ends_at_the_vector(
    comparison: sl.Comparison, made: tuple[sl.SteeringVector, sl.SteeringVector]
) -> None:
    paths = comparison.paths()
    assert set(paths.vector) == {"bipo"}
    last = paths.iloc[-1]
    assert last["norm"] == pytest.approx(made[0].norm)
    assert last["cosine to caa"] == pytest.approx(comparison.cosine, abs=1e-6)
    assert list(paths.steps) == list(made[0].snapshots)


def test_the_coordinates_are_those_that_carry_the_difference(comparison: sl.Comparison) -> None:
    found = comparison.coordinates(32)
    a, b = (vector.direction.double().numpy() for vector in comparison.vectors)
    assert found["share of the difference"].sum() == pytest.approx(1)
    first = found.iloc[0]
    assert int(first["coordinate"]) == int(np.abs(a - b).argmax())
    assert first["bipo"] - first["caa"] == pytest.approx((a - b)[int(first["coordinate"])])


def test_vectors_of_other_weights_are_refused(
    made: tuple[sl.SteeringVector, sl.SteeringVector], tiny_folder: Callable[..., Path], pairs: sl.PreferencePairs
) -> None:
    other = sl.load_model(tiny_folder("llama", tokenizer="chat", seed=3), device="cpu")
    foreign = sl.extract_caa(other, pairs.train, 1, progress=False)
    with pytest.raises(sl.VectorError, match="different weights"):
        sl.compare(made[0], foreign)
    with pytest.raises(sl.VectorError, match="other weights"):
        sl.compare(*made, model=other, progress=False)


def test_pairs_that_trained_a_vector_are_refused(
    made: tuple[sl.SteeringVector, sl.SteeringVector], pairs: sl.PreferencePairs
) -> None:
    with pytest.raises(sl.MeasureError, match="trained or selected"):
        sl.compare(*made, pairs=pairs.train, progress=False)
    flagged = sl.compare(*made, pairs=pairs.train[:2], n_random=1, allow_seen=True, progress=False)
    assert "WARNING: 2 of these pairs" in repr(flagged)


def test_without_a_model_the_vectors_alone_are_compared() -> None:
    a, b = (sl.SteeringVector(torch.randn(48), layer=2, method=name) for name in ("bipo", "caa"))
    comparison = sl.compare(a, b)
    assert comparison.own == {}
    assert "pass model=" in comparison.missing[0]
    assert "pass model=" in repr(comparison)
    assert len(comparison.to_frame()) == 2
    assert comparison.figure().data[0].x == pytest.approx([comparison.cosine])


def test_a_vector_from_a_file_finds_its_living_model_but_not_its_pairs(
    made: tuple[sl.SteeringVector, sl.SteeringVector], tmp_path: Path
) -> None:
    loaded = [sl.load_vector(vector.save(tmp_path / f"{vector.method}.safetensors")) for vector in made]
    gc.collect()
    comparison = sl.compare(*loaded, progress=False)
    assert set(comparison.lens) == {"bipo", "caa"}
    assert "pass pairs=" in comparison.missing[0]


def test_three_vectors_two_of_one_method_are_told_apart(made: tuple[sl.SteeringVector, sl.SteeringVector]) -> None:
    bipo, caa = made
    comparison = sl.compare(bipo, -bipo, caa, n_random=0, multipliers=(-1, 1), progress=False)
    assert comparison.labels == ("bipo 1", "bipo 2", "caa")
    np.testing.assert_allclose(comparison.own["bipo 1"].values[:, 1], comparison.own["bipo 2"].values[:, 0], atol=1e-4)


def test_the_text_and_the_html_say_the_cosine_and_escape_what_came_from_outside(comparison: sl.Comparison) -> None:
    assert f"{comparison.cosine:+.3f}" in repr(comparison)
    html = comparison._repr_html_()
    assert f"{comparison.cosine:+.3f}" in html
    assert "What do you want? &lt;b&gt;" in html
    assert "<b>" not in html.replace("<b>What", "")


@pytest.mark.slow
@pytest.mark.parametrize("change", ["flip", "llama-2"])
def test_a_loaded_vector_finds_the_very_pairs_that_trained_it(
    tiny_chat_model: HookedTransformer, tmp_path: Path, change: str
) -> None:
    built_in = sl.load_pairs("wealth-seeking")
    changed = built_in.flip() if change == "flip" else built_in.with_template("llama-2")
    caa = sl.extract_caa(tiny_chat_model, changed.train, 1, progress=False)
    made = [caa, 2 * caa]
    live = sl.compare(*made, n_random=0, multipliers=(-1, 1), progress=False)
    loaded = [sl.load_vector(v.save(tmp_path / f"{i}.safetensors")) for i, v in enumerate(made)]
    again = sl.compare(*loaded, model=tiny_chat_model, n_random=0, multipliers=(-1, 1), progress=False)
    np.testing.assert_allclose(again.own["caa 1"].values, live.own["caa 1"].values, atol=ROUNDING)


def test_a_loaded_vector_of_shuffled_labels_is_not_taken_for_a_real_one(
    tiny_chat_model: HookedTransformer, tmp_path: Path
) -> None:
    shuffled = sl.load_pairs("wealth-seeking").train.shuffle_labels(seed=1)
    vector = sl.extract_caa(tiny_chat_model, shuffled, 1, progress=False)
    loaded = sl.load_vector(vector.save(tmp_path / "v.safetensors"))
    found = sl.compare(loaded, 2 * loaded, model=tiny_chat_model, progress=False)
    assert "pass pairs=" in found.missing[0]


def test_what_layernorm_can_t_see_changes_neither_norm_nor_shift(
    tiny_models: dict[str, HookedTransformer], pairs: sl.PreferencePairs
) -> None:
    caa = sl.extract_caa(tiny_models["gpt2"], pairs.train, 1, progress=False)
    lifted = dataclasses.replace(caa, tensor=caa.tensor + 5)
    comparison = sl.compare(caa, lifted, model=tiny_models["gpt2"], pairs=pairs.test, n_random=0, progress=False)
    first, second = comparison.labels
    assert comparison.cosine == pytest.approx(1, abs=1e-6)
    assert comparison.norms[first] == pytest.approx(comparison.norms[second], rel=1e-4)
    np.testing.assert_allclose(comparison.matched[first].values, comparison.matched[second].values, atol=1e-2)
    assert comparison.lens[first].top[0][1] == pytest.approx(comparison.lens[second].top[0][1], rel=1e-4)


def test_a_user_s_own_random_vector_stands_beside_the_controls(
    made: tuple[sl.SteeringVector, sl.SteeringVector],
) -> None:
    own = sl.random_vectors(made[0], 1, seed=9)[0]
    comparison = sl.compare(made[0], own, made[0], n_random=2, multipliers=(-1, 1), progress=False)
    assert comparison.labels == ("bipo 1", "random (given)", "bipo 2")
    assert "random (given)" in comparison._repr_html_()
    assert len(comparison.controls["random"]) == 2


def test_labels_are_never_the_same_twice(made: tuple[sl.SteeringVector, sl.SteeringVector]) -> None:
    named = [dataclasses.replace(made[0], method=name) for name in ("bipo", "bipo", "bipo 1")]
    assert len(set(sl.compare(*named, pairs=None, n_random=0, multipliers=(1,), progress=False).labels)) == 3


def test_one_pair_names_no_winner(made: tuple[sl.SteeringVector, sl.SteeringVector], pairs: sl.PreferencePairs) -> None:
    comparison = sl.compare(*made, pairs=pairs.test[:1], n_random=0, progress=False)
    assert "too few pairs for an interval" in repr(comparison)
    assert "ahead" not in repr(comparison)


def test_vectors_of_different_layers_are_said_to_be(
    tiny_chat_model: HookedTransformer, made: tuple[sl.SteeringVector, sl.SteeringVector], pairs: sl.PreferencePairs
) -> None:
    other = sl.extract_caa(tiny_chat_model, pairs.train, 3, progress=False)
    comparison = sl.compare(made[0], other, n_random=1, progress=False)
    assert "different layers" in repr(comparison)
    alone = sl.preference_shift(tiny_chat_model, other, pairs.test, progress=False)
    np.testing.assert_allclose(comparison.own["caa"].values, alone.values, atol=1e-4)


def test_things_that_are_no_vectors_and_names_that_are_not_there_are_refused(
    comparison: sl.Comparison, made: tuple[sl.SteeringVector, sl.SteeringVector]
) -> None:
    with pytest.raises(sl.VectorError, match="expected a SteeringVector"):
        sl.compare(made[0], made[0].tensor)  # type: ignore[arg-type]
    with pytest.raises(sl.MeasureError, match="'xyz'"):
        comparison.difference("bipo", "xyz")
    with pytest.raises(sl.MeasureError, match="quantity='foo'"):
        comparison.difference("bipo", "caa", quantity="foo")


@pytest.mark.slow
def test_nulls_and_side_effects_are_the_measures_own(
    made: tuple[sl.SteeringVector, sl.SteeringVector],
    tiny_chat_model: HookedTransformer,
    pairs: sl.PreferencePairs,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    few = partial(sl.side_effects, texts=neutral_texts()[:6], max_new_tokens=6)  # the measure has tests of its own
    monkeypatch.setattr("steerlens.comparison.compare.measure_side_effects", few)
    found = sl.compare(*made, n_random=1, multipliers=(-1, 1), nulls=True, side_effects=True, progress=False)
    assert found.similarity is not None
    assert found.costs is not None
    alone = sl.similarity(
        dict(zip(found.labels, made, strict=True)), model=tiny_chat_model, pairs=pairs.train, progress=False
    )
    assert found.null == alone.best_null != "isotropic"
    assert found.p_value == pytest.approx(float(alone.p_values(alone.best_null)[0, 1]))
    assert found.costs.labels == ("bipo", "caa", "random")
    assert found.costs.norms == pytest.approx([made[0].norm] * 3)
    assert found.null in repr(found)
    page = found.save(tmp_path / "c.html").read_text()
    assert "Similarity against nulls" in page
    assert "Side effects" in page
