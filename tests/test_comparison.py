"""Several seeds and equal KL: the numbers are the measures' own; and a comparison comes back from its file as it was."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformer_lens import HookedTransformer

import steerlens as sl
from steerlens.comparison.equal_kl import TOLERANCE, match_kl
from steerlens.measures import _neutral
from steerlens.measures._neutral import neutral_prompts, neutral_texts
from steerlens.results.result import Result

WHO = ("Would you", "Should a friend", "Can the assistant", "Does nobody")
WHAT = ("earn more money", "keep the power", "tell the truth", "share the wealth", "help people")


@pytest.fixture(scope="module")
def pairs() -> sl.PreferencePairs:
    questions = [f"{who} {what}?" for who in WHO for what in WHAT]
    wanted, unwanted = ([f"{start} {i}." for i in range(20)] for start in ("I want money for", "Nobody wants it for"))
    return sl.PreferencePairs(questions, wanted, unwanted, provenance="twenty questions")


@pytest.fixture(scope="module")
def made(tiny_chat_model: HookedTransformer, pairs: sl.PreferencePairs) -> list[sl.SteeringVector]:
    to: dict[str, Any] = {"lr": 0.05, "max_steps": 6, "progress": False}
    seeds = [sl.train_bipo(tiny_chat_model, pairs.train, 1, seed=seed, **to) for seed in (0, 4)]
    return [*seeds, sl.extract_caa(tiny_chat_model, pairs.train, 1, progress=False)]


@pytest.fixture(scope="module")
def found(made: list[sl.SteeringVector]) -> sl.Comparison:
    with pytest.MonkeyPatch.context() as patch:  # fewer texts and questions than the built-in ones, for time
        patch.setattr(_neutral, "neutral_texts", lambda: neutral_texts()[:6])
        patch.setattr(_neutral, "neutral_prompts", lambda: neutral_prompts()[:2])
        return sl.compare(*made, prompts=["Why?"], n_random=2, max_new_tokens=4, side_effects=True, progress=False)


# -- seeds ------------------------------------------------------------------------------------------------------------


def test_the_two_are_the_seeds_together_and_the_other_method(found: sl.Comparison) -> None:
    assert found.labels == ("bipo seed 0", "bipo seed 4", "caa")
    assert found.seeds == {"bipo": ("bipo seed 0", "bipo seed 4")}
    assert found.two == ("bipo", "caa")
    assert list(found.parts) == ["caa along bipo seed 0", "caa off bipo seed 0"]


def test_the_cosine_is_the_mean_over_seeds_and_the_p_value_the_largest(
    found: sl.Comparison, made: list[sl.SteeringVector]
) -> None:
    each = [float(torch.dot(seed.direction.double(), made[2].direction.double())) for seed in made[:2]]
    assert found.cosine == pytest.approx(np.mean(each), abs=1e-6)
    assert found.cosine_range == pytest.approx((min(each), max(each)), abs=1e-6)
    alone = [sl.compare(seed, made[2], n_random=0, progress=False).p_value for seed in made[:2]]
    assert found.p_value == pytest.approx(max(alone))


@pytest.mark.parametrize("at", ["own norm", "equal norm", "equal KL"])
def test_a_common_name_stands_for_the_mean_of_each_pair_over_seeds(found: sl.Comparison, at: Any) -> None:
    own = [found.shift(label, at) for label in found.labels]
    gap = found.difference("bipo", "caa", at=at)
    column = own[0].odd_multipliers.index(1.0)
    by_hand = (own[0].odd + own[1].odd)[:, column] / 2 - own[2].odd[:, column]
    assert gap.mean == pytest.approx(by_hand.mean())
    assert gap.low < gap.mean < gap.high
    with pytest.raises(sl.MeasureError, match="'nobody' was not measured"):
        found.shift("nobody", at)


def test_the_spread_is_the_mean_and_the_ends_of_the_seeds_own_rows(found: sl.Comparison) -> None:
    spread, table = found.seed_spread(), found.effects()
    assert list(spread["strength"]) == ["own norm", "equal norm", "equal KL"]
    assert set(spread["seeds"]) == {2}
    for _, row in spread.iterrows():
        of = table[table["vector"].str.startswith("bipo") & (table["strength"] == row["strength"])]
        for q in ("odd", "even", "odd_per_token", "even_per_token"):
            assert (row[q], row[f"{q}_low"], row[f"{q}_high"]) == pytest.approx(
                (of[q].mean(), of[q].min(), of[q].max())
            )
        assert row["cosine"] == row["cosine_low"] == row["cosine_high"] == found.cosines[0, 1]


def test_seeds_alone_are_compared_with_each_other_and_summed_up_without_a_model(made: list[sl.SteeringVector]) -> None:
    a, b = (dataclasses.replace(seed, model=None) for seed in made[:2])
    alone = sl.compare(a, b)
    assert alone.two == ("bipo seed 0", "bipo seed 4")
    assert alone.seed_spread()["strength"].item() == "not measured"
    assert np.isnan(alone.seed_spread()["odd"].item())
    assert "2 seeds of BiPO" in repr(alone)


# -- equal KL ---------------------------------------------------------------------------------------------------------


def test_at_equal_kl_both_signs_of_every_vector_cost_what_the_first_does(
    found: sl.Comparison, made: list[sl.SteeringVector], tiny_chat_model: HookedTransformer
) -> None:
    equal = found.equal_kl
    assert equal is not None
    assert list(equal.matches) == ["bipo seed 4", "caa"]
    assert not equal.unreached
    scaled = [
        made[0],
        *(equal.matches[label].multiplier * v for label, v in zip(found.labels[1:], made[1:], strict=True)),
    ]
    named = dict(zip(found.labels, scaled, strict=True))
    to: dict[str, Any] = {"texts": neutral_texts()[:6], "prompts": ["Hi"], "max_new_tokens": 1, "progress": False}
    kl = sl.side_effects(tiny_chat_model, named, multipliers=(1, -1), **to).mean("kl")
    assert kl[0].mean() == pytest.approx(equal.target, rel=1e-5)
    assert kl.mean(1) == pytest.approx(equal.target, rel=TOLERANCE * 1.01)
    for row, label in zip(kl, found.labels, strict=True):
        assert equal.signs[label] == pytest.approx(row, rel=1e-4)


def test_shifts_at_equal_kl_are_preference_shift_s(
    found: sl.Comparison, made: list[sl.SteeringVector], tiny_chat_model: HookedTransformer, pairs: sl.PreferencePairs
) -> None:
    equal = found.equal_kl
    assert equal is not None
    strong = equal.matches["caa"].multiplier * made[2]
    alone = sl.preference_shift(tiny_chat_model, strong, pairs.test, (-1, 1), progress=False)
    np.testing.assert_allclose(equal.shifts["caa"].values, alone.values, atol=1e-4)
    assert equal.shifts["caa"].norm == pytest.approx(strong.norm, rel=1e-6)
    np.testing.assert_array_equal(equal.shifts["bipo seed 0"].odd, found.own["bipo seed 0"].odd[:, :1])
    assert {shift.multipliers for shift in equal.shifts.values()} == {(-1.0, 1.0)}
    assert len(equal.controls) == equal.n_random == 2


def test_effects_at_equal_kl_stand_beside_the_others_in_tables_and_text(found: sl.Comparison) -> None:
    table, frame = found.effects(), found.to_frame()
    row = table[(table["vector"] == "caa") & (table["strength"] == "equal KL")].iloc[0]
    equal = found.equal_kl
    assert equal is not None
    assert row["odd"] == pytest.approx(equal.shifts["caa"].odd.mean())
    drawn = table[table["strength"] == "control at equal KL, 2 drawn"].iloc[0]
    assert drawn["odd_high"] == -drawn["odd_low"] == pytest.approx(max(abs(s.odd.mean()) for s in equal.controls))
    assert {"equal KL", "control at equal KL"} <= set(frame["strength"])
    assert "at equal KL on neutral text" in repr(found)
    assert "equal KL" in found.to_latex()
    assert "<h3>Equal KL</h3>" in found._repr_html_()


def test_a_kl_that_no_multiplier_reaches_is_told_in_its_row(
    found: sl.Comparison, made: list[sl.SteeringVector], tiny_chat_model: HookedTransformer
) -> None:
    assert found.costs is not None
    named = dict(zip(found.labels, made, strict=True))
    for times, says in ((1e5, "no multiplier from"), (0.0, "bipo seed 0 itself has a KL of 0")):
        costs = dataclasses.replace(found.costs, kl=found.costs.kl * times, texts=found.costs.texts[:2])
        costs = dataclasses.replace(costs, kl=costs.kl[..., :2])
        equal, multiples, drawn = match_kl(tiny_chat_model, named, made[0].norm, costs, made[2:], progress=False)
        assert set(equal.unreached) == {"bipo seed 4", "caa"}
        assert all(says in why for why in equal.unreached.values())
        assert (multiples, drawn, equal.n_random) == ({"bipo seed 0": 1.0}, {}, 1)
    assert found.equal_kl is not None
    part = {"caa": "no multiplier <reaches> it"}
    shifts = {label: shift for label, shift in found.equal_kl.shifts.items() if label != "caa"}
    short = dataclasses.replace(found, equal_kl=dataclasses.replace(found.equal_kl, unreached=part, shifts=shifts))
    row = short.effects()[lambda t: t["strength"] == "equal KL: not reached"].iloc[0]
    assert row["vector"] == "caa"
    assert np.isnan(row["odd"])
    assert "equal KL: not reached" in short.to_latex()
    assert "equal KL: not reached" in set(short.to_frame()["strength"])
    assert "no multiplier of CAA reaches BiPO seed 0's KL" in repr(short)
    assert "not reached: no multiplier &lt;reaches&gt; it" in short._repr_html_()
    with pytest.raises(sl.MeasureError, match="'caa' was not measured at equal KL"):
        short.difference("bipo", "caa", at="equal KL")


# -- LaTeX ------------------------------------------------------------------------------------------------------------


def test_names_are_escaped_in_latex(found: sl.Comparison) -> None:
    odd = r"a_b & 5% #{x} \y"
    renamed = dataclasses.replace(found.own["caa"], label=odd)
    latex = dataclasses.replace(found, own={**found.own, "caa": renamed}).to_latex()
    row = next(line for line in latex.splitlines() if line.startswith("a"))
    assert row.startswith(r"a\_b \& 5\% \#\{x\} \textbackslash y & own norm")
    rows = latex.split(r"\midrule")[1].split(r"\bottomrule")[0].strip().splitlines()
    assert {line.replace(r"\&", "").count("&") for line in rows} == {10}
    assert len(rows) == len(found.effects()) + len(found.seed_spread())


# -- files ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def file(found: sl.Comparison, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return found.save(tmp_path_factory.mktemp("saved") / "comparison.json")


def test_figure_tables_text_and_page_are_the_same_from_the_file(
    found: sl.Comparison, file: Path, tmp_path: Path
) -> None:
    back = sl.load_result(file)
    assert back.figure().to_json() == found.figure().to_json()
    for table in ("to_frame", "effects", "seed_spread", "paths", "coordinates"):
        assert getattr(back, table)().equals(getattr(found, table)())
    assert back.to_latex() == found.to_latex()
    assert repr(back) == repr(found)
    pages = [c.save(tmp_path / f"{i}.html").read_text() for i, c in enumerate((found, back))]
    assert pages[0] == pages[1]
    assert back.save(tmp_path / "again.json").read_text() == file.read_text()


def test_vectors_come_back_with_all_they_know(found: sl.Comparison, file: Path) -> None:
    for there, back in zip(found.vectors, sl.load_result(file).vectors, strict=True):
        assert there.tensor.numpy().tobytes() == back.tensor.numpy().tobytes()
        assert {k: t.tolist() for k, t in there.snapshots.items()} == {k: t.tolist() for k, t in back.snapshots.items()}
        for name in ("layer", "method", "model", "data", "seen", "seed", "history"):
            assert getattr(there, name) == getattr(back, name)
        assert dict(there.settings) == dict(back.settings)
        assert dict(there.versions) == dict(back.versions)


def test_any_comparison_goes_through_a_file(tmp_path: Path) -> None:
    summed = sl.SteeringVector(torch.randn(8), 1) + sl.SteeringVector(
        torch.randn(8), 1, settings={"at": (1, [2.5, None])}
    )
    alone = sl.compare(summed, 3 * summed)
    back = sl.load_result(alone.save(tmp_path / "c.json"))
    assert repr(back) == repr(alone)
    assert back._repr_html_() == alone._repr_html_()
    assert back.vectors[0].settings["terms"] == alone.vectors[0].settings["terms"]


def first_of(value: Any, kind: str) -> dict[str, Any]:
    """The first part of a file of that type."""
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    if isinstance(value, dict) and value.get("$type") == kind:
        return value
    return next((hit for part in parts if (hit := first_of(part, kind))), {})


@pytest.mark.parametrize(
    ("kind", "field", "change", "says"),
    [
        ("Comparison", "labels", lambda v: v[:2], "with vector = 2"),
        ("Comparison", "labels", lambda v: "caa", "Comparison.labels is 'caa'"),
        ("Comparison", "own", lambda v: {"$map": v["$map"][:1]}, "own is of"),
        ("Comparison", "own", lambda v: 5, "Comparison.own is 5"),
        ("Comparison", "vectors", lambda v: [], "with vector = 3"),
        ("Comparison", "cosines", lambda v: {**v, "shape": [9, 9]}, "not of the shape [9, 9]"),
        ("Comparison", "cosines", lambda v: {**v, "dtype": "nothing"}, "nothing"),
        ("SteeringVector", "layer", lambda v: -1, "layer=-1"),
        ("SteeringVector", "tensor", lambda v: {"$tensor": {**v["$tensor"], "$array": [], "shape": [0]}}, "the vector has shape"),
        ("SteeringVector", "tensor", lambda v: 7, "SteeringVector.tensor is 7"),
        ("SteeringVector", "seen", lambda v: {"$set": [["x"]]}, "SteeringVector.seen"),
        ("ModelIdentity", "$schema", lambda v: 2, "of schema 2; this version of steerlens reads schema 1"),
        ("PreferenceShift", "positions", lambda v: "some", "PreferenceShift.positions is 'some'"),
        ("PreferenceShift", "multipliers", lambda v: ["x"], "PreferenceShift.multipliers"),
        ("PreferenceShift", "chosen", lambda v: {**v, "$array": v["$array"][:1], "shape": [1, 5]}, "PreferenceShift"),
        ("Match", "by", lambda v: {"$map": 3}, "not iterable"),
    ],
)  # fmt: skip
def test_a_file_that_was_changed_by_hand_says_where(
    file: Path, tmp_path: Path, kind: str, field: str, change: Any, says: str
) -> None:
    text = json.loads(file.read_text())
    part = first_of(text["result"], kind)
    part[field] = change(part[field])
    broken = tmp_path / "broken.json"
    broken.write_text(json.dumps(text))
    with pytest.raises(sl.MeasureError, match=r"broken\.json can't be read back") as raised:
        sl.load_result(broken)
    assert says in str(raised.value)


def test_a_part_alone_is_no_result(file: Path, tmp_path: Path) -> None:
    text = json.loads(file.read_text())
    text["result"] = first_of(text["result"], "SteeringVector")
    (tmp_path / "v.json").write_text(json.dumps(text))
    with pytest.raises(sl.MeasureError, match="holds a SteeringVector; expected a result"):
        sl.load_result(tmp_path / "v.json")
    assert isinstance(sl.load_result(file), Result)
