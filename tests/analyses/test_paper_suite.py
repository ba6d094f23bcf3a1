"""The studies run on the laboratory model, leave their files, and do only what is missing the second time."""

import dataclasses
import json
from pathlib import Path

import pytest

import steerlens as sl
from analyses import layer_sweep, paper, personas, study
from analyses.study import StudyConfig, from_command_line

QUICK = {"lr": 0.002, "steps": 4, "layer": 1}


def test_a_study_writes_figures_tables_and_sentences(tmp_path: Path) -> None:
    asked = layer_sweep.Config(**QUICK, layers=(0, 2), out=tmp_path)
    finding = layer_sweep.run(asked)
    folder = finding.write(asked, 1.0)
    names = {path.name for path in folder.iterdir()}
    assert {"layers.html", "layers.csv", "layers.tex", "finding.json"} <= names
    told = json.loads((folder / "finding.json").read_text())
    assert told["item"] == "BiPO F4, F8; CAA F3"
    assert all("layer 0" in sentence or "layer 2" in sentence for sentence in told["found"])
    assert told["config"]["layers"] == [0, 2]


def test_the_suite_runs_only_what_is_missing_and_lays_it_on_one_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = paper.Config(**QUICK, out=tmp_path, only=("tokens", "composition"))
    page = paper.run(asked).read_text()
    assert "BiPO T6" in page
    assert "CAA F6" in page
    monkeypatch.setattr(sl, "train_bipo", lambda *a, **k: pytest.fail("a vector was trained again"))
    monkeypatch.setattr(sl, "preference_shift", lambda *a, **k: pytest.fail("a shift was measured again"))
    assert paper.run(asked).read_text() == page
    monkeypatch.undo()
    changed = paper.run(dataclasses.replace(asked, steps=5)).read_text()
    assert changed != page


def test_an_unknown_study_behaviour_layer_or_model_stops_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(sl.MeasureError, match="there is no study"):
        paper.run(paper.Config(only=("personae",), out=tmp_path))
    with pytest.raises(sl.PairsError, match="toy/welth"):
        personas.run(personas.Config(behaviour="welth", out=tmp_path))
    with pytest.raises(sl.ModelError, match="has no preset"):
        _ = StudyConfig(model="gpt2").preset
    with pytest.raises(sl.ModelError, match="layers 0 to 5"):
        layer_sweep.run(layer_sweep.Config(**QUICK, layers=(9,), out=tmp_path))
    assert not list(tmp_path.iterdir())


def test_the_command_line_reads_every_field() -> None:
    asked = from_command_line(layer_sweep.Config, "", ["--layers", "1,2", "--lr", "0.5", "--seeds", "3", "--out", "x"])
    assert (asked.layers, asked.lr, asked.seeds, asked.out) == ((1, 2), 0.5, (3,), Path("x"))
    assert from_command_line(layer_sweep.Config, "", []) == layer_sweep.Config()


def test_published_sets_get_a_validation_part_from_their_training_part() -> None:
    texts = [str(i) for i in range(24)]
    published = sl.PreferencePairs(texts, texts, ["no"] * 24, splits=["train"] * 18 + ["test"] * 6)
    pairs = study._with_val(published)
    assert (len(pairs.train), len(pairs.val), len(pairs.test)) == (15, 3, 6)
    assert set(pairs.train.prompts) | set(pairs.val.prompts) == set(texts[:18])


def test_most_takes_the_first_pairs_of_each_part() -> None:
    pairs = StudyConfig(model="smollm2", behaviour="refusal").pairs()
    fewer = StudyConfig(model="smollm2", behaviour="refusal", most=(7, 5, 3)).pairs()
    for part, n in (("train", 7), ("val", 5), ("test", 3)):
        assert getattr(fewer, part).prompts == getattr(pairs, part).prompts[:n]
    assert fewer.train.described() != pairs.train.described()
    with pytest.raises(sl.PairsError, match="expected three numbers"):
        StudyConfig(most=(7, 5)).pairs()
