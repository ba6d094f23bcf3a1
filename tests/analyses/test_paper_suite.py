"""The studies run on the laboratory model, leave their files, and do only what is missing the second time."""

import dataclasses
import importlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

import steerlens as sl
from analyses import composition, geometry, index, layer_sweep, paper, study, tokens, transfer
from analyses.contenders import make
from analyses.study import StudyConfig, from_command_line, main
from steerlens.vectors.origin import library_versions

QUICK = {"lr": 0.002, "steps": 4, "layer": 1}


@pytest.mark.slow
def test_a_study_writes_figures_tables_and_sentences(tmp_path: Path) -> None:
    asked = layer_sweep.Config(**QUICK, layers=(0, 2), out=tmp_path)
    finding = layer_sweep.run(asked)
    folder = finding.write(asked, 1.0)
    names = {path.name for path in folder.iterdir()}
    assert {"layers.html", "layers.json", "layers.csv", "layers.tex", "finding.json"} <= names
    told = json.loads((folder / "finding.json").read_text())
    assert told["item"] == "BiPO F4, F8; CAA F3"
    assert all("layer 0" in sentence or "layer 2" in sentence for sentence in told["found"])
    assert told["config"]["layers"] == [0, 2]
    assert told["made with"] is None


def test_a_study_by_itself_tells_the_versions_that_it_was_made_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study.Finding, "_write_pdfs", lambda *_: None)
    main(tokens.run, tokens.Config, [*"--lr 0.002 --steps 4 --most 16,4,6 --methods bipo --out".split(), str(tmp_path)])
    told = json.loads((study.study_folder(tokens.Config(out=tmp_path), "tokens") / "finding.json").read_text())
    assert told["made with"]["versions"] == library_versions()


@pytest.mark.slow
def test_the_suite_runs_only_what_is_missing_and_lays_it_on_one_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = paper.Config(**QUICK, most=(16, 4, 6), out=tmp_path, only=("tokens", "composition"))
    monkeypatch.setattr(
        study.Finding, "_write_pdfs", lambda *_: None
    )  # a browser's start takes longer than all else here
    page = paper.run(asked).read_text()
    assert "BiPO T6" in page
    assert "CAA F6" in page
    assert page.count("plotly-graph-div") == 2  # each study's first figure, and plotly's script once
    assert page.count('<a href="#s1">tokens</a>') == 2  # in the list of sections and beside its item
    with monkeypatch.context() as again:
        again.setattr(sl, "train_bipo", lambda *a, **k: pytest.fail("a vector was trained again"))
        again.setattr(sl, "preference_shift", lambda *a, **k: pytest.fail("a shift was measured again"))
        assert paper.run(asked).read_text() == page
    changed = paper.run(dataclasses.replace(asked, steps=5)).read_text()
    assert changed != page


BAD_INPUT = {
    "--model x": "No model named 'x'",
    "--model toy/x": "the laboratory's are 'toy'",
    "--model gpt2": "has no preset",
    "--behaviour x": "expected one of toy/wealth",
    "--layer 99": "toy has layers 0 to 5",
    "--data nowhere": "the toy model is asked in its own world's pairs",
    "--model smollm2 --behaviour wealth-seeking --data nowhere": "expected the one that holds bipo/",
    "--model smollm2 --behaviour x": "wealth-seeking",
}
STUDIES = sorted({"personas" if name == "hallucination" else name for name in paper.STUDIES})


@pytest.mark.parametrize("study", STUDIES)
@pytest.mark.parametrize("options", BAD_INPUT)
def test_an_unknown_behaviour_layer_model_or_folder_stops_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, study: str, options: str
) -> None:
    module = importlib.import_module(f"analyses.{study}")
    if not options.startswith("--model toy"):
        monkeypatch.setattr(sl, "load_model", lambda *_: pytest.fail("a model was loaded"))
    with pytest.raises(SystemExit, match=BAD_INPUT[options]):
        main(module.run, module.Config, [*options.split(), "--out", str(tmp_path / "out")])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("study", "option", "said"),
    [
        (composition, "--other", "expected one of toy/wealth"),
        (composition, "--behaviours", "expected one of toy/wealth"),
        (geometry, "--other", "expected one of toy/wealth"),
        (geometry, "--methods", "expected some of bipo, caa, freeform, pca, random"),
        (layer_sweep, "--methods", "expected some of bipo, caa, pca, supervised"),
        (transfer, "--siblings", "No model named 'x'"),
        (transfer, "--base", "No model named 'x'"),
    ],
)
def test_so_does_an_unknown_name_of_a_studys_own(tmp_path: Path, study: Any, option: str, said: str) -> None:
    with pytest.raises(SystemExit, match=said):
        main(study.run, study.Config, [option, "x", "--out", str(tmp_path / "out")])
    assert not list(tmp_path.iterdir())


def test_an_unknown_study_layer_or_method_is_refused(tmp_path: Path) -> None:
    with pytest.raises(sl.MeasureError, match="there is no study"):
        paper.run(paper.Config(only=("personae",), out=tmp_path))
    with pytest.raises(sl.ModelError, match="layers 0 to 5"):
        layer_sweep.Config(**QUICK, layers=(9,)).check()
    with pytest.raises(sl.MeasureError, match="expected some of bipo, caa"):
        make(StudyConfig(out=tmp_path), None, methods=("bipo", "bipoo"))
    (tmp_path / "bipo").mkdir()
    with pytest.raises(sl.PairsError, match="hallucination"):
        StudyConfig(model="smollm2", behaviour="x", data=tmp_path).check()


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


def test_the_page_names_every_item_and_links_only_to_studies_that_there_are() -> None:
    asked = [f"BiPO F{i}" for i in range(1, 9)] + ["BiPO T4", "BiPO T5", "BiPO T6", "BiPO T11"]
    asked += [f"CAA F{i}" for i in (2, 3, 6, 7, 8, 9, 10)]
    named = {item.name: item for item in index.ITEMS}
    assert set(asked) <= set(named)
    assert {study for item in index.ITEMS for study in item.studies} <= set(paper.STUDIES)
    assert all(item.studies and item.shown for name, item in named.items() if name in asked)


def test_the_suite_finds_questions_and_tells_what_a_study_lacks(tmp_path: Path) -> None:
    (tmp_path / "caa").mkdir()
    (tmp_path / "caa" / "mmlu.json").write_text("[]")
    config = paper.Config(model="some/model", layer=1, lr=0.1, data=tmp_path)
    ready = {study: paper.needs(paper.settings_of(config, study)[1], study) for study in paper.STUDIES}
    assert {study for study, why in ready.items() if why} == {"truthfulness", "transfer"}
    with_base = dataclasses.replace(config, base="some/base")
    assert paper.needs(paper.settings_of(with_base, "transfer")[1], "transfer") == ""
    assert paper.settings_of(config, "jailbreak")[1].data is None  # its harmless refusals are built in


def test_dtype_reaches_the_model_and_an_unknown_one_is_refused() -> None:
    assert StudyConfig(dtype="bfloat16").load().W_E.dtype is torch.bfloat16
    with pytest.raises(sl.ModelError, match="float99"):
        StudyConfig(dtype="float99").load()


def test_the_kept_vectors_are_those_of_the_kept_tables() -> None:
    kept = Path(__file__).parents[2] / "analyses/results/smollm2"
    ways = pd.read_csv(kept / "published/what_is_bipo-wealth-seeking/ways.csv").set_index(["seed", "way"])
    caa = sl.load_vector(kept / "vectors/published-wealth-seeking-caa.safetensors")
    for seed in (0, 1):
        bipo = sl.load_vector(kept / f"vectors/published-wealth-seeking-bipo-seed{seed}.safetensors")
        assert (bipo.seed, bipo.layer, bipo.data) == (seed, 13, "bipo/wealth-seeking")
        assert bipo.norm == pytest.approx(ways.loc[(seed, "BiPO"), "norm"], rel=1e-6)
        cosine = float(bipo.direction @ caa.direction)
        assert cosine == pytest.approx(ways.loc[(seed, "CAA, own norm"), "cosine"], abs=1e-6)
        odd = ways.loc[(seed, "CAA, BiPO's norm")]
        assert odd["less BiPO"] == pytest.approx(odd["odd"] - ways.loc[(seed, "BiPO"), "odd"])


def test_an_effect_as_a_share_of_another_has_the_bootstraps_interval() -> None:
    rng = np.random.default_rng(0)
    own = rng.normal(2.0, 0.1, 60)
    moved = 0.25 * own + rng.normal(0, 0.05, 60)

    def shift(odd: np.ndarray) -> sl.PreferenceShift:
        gains = np.column_stack([-odd, 0 * odd, odd])
        ones = np.ones(len(odd), dtype=int)
        return sl.PreferenceShift(
            "v", 1.0, (-1.0, 0.0, 1.0), gains, 0 * gains, ones, ones, ("p",) * len(odd), "all", "made up"
        )

    mean, low, high = (float(x) for x in re.findall(r"[+-]\d+", composition.share_of(shift(moved), shift(own))))
    assert mean == pytest.approx(100 * moved.mean() / own.mean(), abs=0.51)
    told = stats.bootstrap(
        (moved, own), lambda x, y, axis: x.mean(axis) / y.mean(axis), paired=True, method="percentile", rng=1
    ).confidence_interval
    assert (low, high) == pytest.approx((100 * told.low, 100 * told.high), abs=1.1)
