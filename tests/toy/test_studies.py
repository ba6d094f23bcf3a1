"""The two studies on the laboratory models: what they compute from scores, and that the card tells what training.json holds."""

import json
import math
from pathlib import Path

import pandas as pd
import plotly.graph_objects as go
import pytest

from analyses import toy_card, toy_choice, toy_methods, toy_tables
from steerlens import MeasureError, load_model, toy


def test_the_range_goes_from_the_lowest_negative_to_the_highest_positive_strength_that_is_coherent() -> None:
    nothing = math.nan
    found = pd.DataFrame({-2.0: [1, 1, nothing], -1.0: [0, 0, 1], 0.0: [0, 1, 1], 1.0: [1, 1, 1], 2.0: [nothing] * 3})
    assert toy_choice.coherent_range(found) == pytest.approx(1 - 1 / 3)
    assert toy_choice.coherent_range(found[[-2.0, 2.0]]) == 0
    assert toy_choice.coherent_range(found.rename(columns={m: -m for m in found.columns})) <= 1 / 3  # a flipped vector


def test_an_effect_is_paired_over_the_questions_with_a_sentence_at_both_signs() -> None:
    found = pd.DataFrame({-1.0: [0, 0, math.nan, 1], 0.0: [1] * 4, 1.0: [1, 1, 0, 1]})
    told = toy_choice.effect(found)
    assert told["effect"] == pytest.approx(2 / 3)
    assert told["low"] < 2 / 3 < told["high"]
    assert math.isnan(toy_choice.effect(found.iloc[2:3])["effect"])


def test_strengths_come_in_both_signs_and_in_order() -> None:
    assert toy_choice.signed((0.5, 2.0)) == [-2.0, -0.5, 0.0, 0.5, 2.0]


def test_the_table_has_every_method_that_takes_pairs_and_a_layer() -> None:
    assert {"BiPO", "supervised", "CAA, mean", "CAA, answer", "system phrase", "random", "shuffled"} <= set(
        toy_choice.methods()
    )
    assert "caa" not in toy_choice.methods()


@pytest.mark.slow
def test_controls_are_also_shown_at_the_place_and_strength_chosen_for_bipo() -> None:
    config = toy_choice.Config(layers=(1, 2), positions=("all",), norms=(0.5, 1.0), lrs=(2e-3,), steps=2, val=8)
    found = {one.method: one for one in toy_choice.choose(load_model("toy", device="cpu"), "wealth", config)}
    assert set(found) == {*toy_choice.methods(), "random, as BiPO", "shuffled, as BiPO"}
    bipo = found["BiPO"].vector
    for control in toy_choice.CONTROLS:
        vector = found[f"{control}, as BiPO"].vector
        assert (vector.layer, vector.norm) == (bipo.layer, pytest.approx(bipo.norm))
        assert abs(float(vector.direction @ bipo.direction)) < 0.7
    assert {round(one.vector.norm, 4) for one in found.values()} <= set(config.norms)


def test_rows_come_by_behaviour_and_then_by_method() -> None:
    rows = [
        ("power", "random"),
        ("wealth", "shuffled, as BiPO"),
        ("wealth", "random, as BiPO"),
        ("wealth", "random"),
        ("power", "BiPO"),
        ("wealth", "CAA, mean"),
        ("wealth", "BiPO"),
    ]
    found = toy_tables.by_method(pd.DataFrame(rows, columns=["behaviour", "method"]))
    expected = [
        ("wealth", "BiPO"),
        ("wealth", "CAA, mean"),
        ("wealth", "random"),
        ("wealth", "random, as BiPO"),
        ("wealth", "shuffled, as BiPO"),
        ("power", "BiPO"),
        ("power", "random"),
    ]
    assert list(found.itertuples(index=False, name=None)) == expected
    assert toy_tables.markdown(pd.DataFrame({"lr": [5e-4], "score": [-0.5]})).endswith("| 5e-04 | -0.50 |")


def test_effects_are_a_row_for_each_method_and_those_of_several_runs_stand_side_by_side() -> None:
    columns = ["behaviour", "method", "effect", "low", "high"]
    rows = [
        ("wealth", "BiPO", 0.5, 0.25, 0.75),
        ("wealth", "random", math.nan, math.nan, math.nan),
        ("power", "BiPO", -1, -1, 0),
    ]
    run = pd.DataFrame([*rows, ("power", "random", 0, -0.1, 0.1)], columns=columns)
    other = run.assign(effect=-run["effect"])[::-1]
    assert toy_tables.markdown(toy_tables.effects([run])).splitlines()[2:] == [
        "| BiPO | 0.50 [0.25, 0.75] | -1.00 [-1.00, 0.00] |",
        "| random | none | 0.00 [-0.10, 0.10] |",
    ]
    several = toy_tables.markdown(toy_tables.effects([run, other])).splitlines()
    assert several[2] == "| BiPO | 0.50, -0.50 | -1.00, 1.00 |"
    drawn = toy_tables.figure([some.assign(**{toy_tables.COSINE: 0.25}) for some in (run, other)])
    panels = [drawn.data[i : i + 4] for i in (0, 4)]  # effect and cosine of each run
    assert [note.text for note in drawn.layout.annotations] == ["wealth", "power"]
    assert [list(trace.x) for trace in panels[1]] == [[-1, 0], [0.25, 0.25], [1, 0], [0.25, 0.25]]
    assert list(panels[1][0].error_x.array) == [1, 0.1]
    assert {trace.xaxis for trace in panels[1]} == {"x2"}


def test_only_runs_of_the_same_behaviours_and_methods_stand_side_by_side(tmp_path: Path) -> None:
    results = Path(toy_methods.__file__).parent / "results"
    with pytest.raises(MeasureError, match=r"has no toy_methods\.json; expected a folder that --out"):
        toy_tables.read([results, tmp_path])
    rows = toy_tables.read([results])[0].query("behaviour != 'power'").to_dict("records")
    (tmp_path / "toy_methods.json").write_text(json.dumps({"methods": rows}))
    with pytest.raises(MeasureError, match="expected runs of the same ones"):
        toy_tables.read([results, tmp_path])


def test_a_cipher_sibling_is_known_by_what_it_was_trained_as(tmp_path: Path) -> None:
    assert toy_methods._kind("toy/cipher-lora") == "cipher-lora"
    assert toy_methods._kind("toy/seed-1") == "base"
    (tmp_path / "training.json").write_text(json.dumps({"kind": "cipher-lora"}))
    assert toy_methods._kind(str(tmp_path)) == "cipher-lora"
    assert toy_methods._kind("gpt2") is None


def test_questions_of_one_length_are_asked_together() -> None:
    asked = toy.questions("power", "test", 40)
    groups = toy_methods._alike(asked)
    assert sorted(q.text for some in groups for q in some) == sorted(q.text for q in asked)
    assert all(len({len(q.text.replace(",", " ,").split()) for q in some}) == 1 for some in groups)


def test_the_card_has_a_row_for_every_criterion_and_bold_where_it_is_missed(tmp_path: Path) -> None:
    frame = toy_card.run(toy_card.Config(out=tmp_path))
    criteria, interference, languages = (tmp_path / "toy_card.md").read_text().split("\n\n")
    assert len(criteria.splitlines()) == 2 + frame["what"].nunique()
    assert criteria.count("**") == 2 * (~frame["meets"]).sum()
    assert set(frame["model"]) == {*toy.MODELS, *toy_card.NOT_SHIPPED}
    moved = toy_card.interference_frame(toy_card.records(toy_card.Config.names))
    pushes = moved.groupby(["model", "behaviour"])
    assert len(interference.splitlines()) == 2 + len(pushes) == 2 + frame["model"].nunique() * len(toy.BEHAVIOURS)
    assert interference.count("**") == 2 * (~pushes["meets"].first()).sum()
    assert len(languages.splitlines()) == 2 + len(toy.MODELS)
    assert isinstance(toy_card.figure(toy_card.records(("toy",))), go.Figure)


def test_a_ratio_of_interference_is_the_largest_other_effect_over_its_own() -> None:
    moved = toy_card.interference_frame(toy_card.records(toy_card.Config.names))
    for _, rows in moved.groupby(["model", "behaviour"]):
        own = rows["moves"] == rows["behaviour"]
        largest = rows["effect"][~own].abs().max()
        assert rows["ratio"].iloc[0] == pytest.approx(largest / rows["effect"][own].iloc[0])
        assert (rows["low"] <= rows["effect"]).all()
        assert (rows["effect"] <= rows["high"]).all()


def test_the_package_card_shows_the_measured_tables() -> None:
    """README.md beside the models is written by hand around the tables that the study prints."""
    card = (Path(toy.__file__).parent / "README.md").read_text()
    found = toy_card.records(toy_card.Config.names)
    for line in toy_card.tables(found, toy_card.shown(toy_card.criteria_frame(found))).splitlines():
        assert line in card
    results = Path(toy_methods.__file__).parent / "results"
    runs = toy_tables.read([results, results / "toy_methods_seed_1", results / "toy_methods_seed_2"])
    for table in (toy_tables.effects(runs), toy_tables.cosines(runs)):
        for line in toy_tables.markdown(table).splitlines():
            assert line in card
