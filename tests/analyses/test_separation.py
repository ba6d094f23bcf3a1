"""Activations at the letter are those that CAA reads; areas under the curve are scikit-learn's."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

import steerlens as sl
from analyses import further_trained, separation, transfer

SMALL = {"most": (8, 4, 6), "layers": (0, 3), "lr": 0.002, "steps": 2}


@pytest.fixture(scope="module")
def model() -> object:
    return sl.load_model("toy")


def test_letters_are_read_where_caa_reads_them(model: object) -> None:
    pairs = sl.load_pairs("toy/wealth-ab").train[:6]
    read = separation.at_letters(model, pairs, (0, 3))
    for i, layer in enumerate((0, 3)):
        vector = separation.caa_at(model, pairs, read[:, :, i], layer)
        expected = sl.extract_caa(model, pairs, layer, position="answer", progress=False)
        np.testing.assert_allclose(vector.tensor, expected.tensor, atol=1e-5)
        assert (vector.layer, vector.seen, vector.settings) == (layer, expected.seen, expected.settings)


def test_the_area_under_the_curve_is_scikit_learns_and_its_interval_holds_it() -> None:
    rng = np.random.default_rng(1)
    along = np.round(np.stack([rng.normal(0.5, 1, 60), rng.normal(0, 1, 60)]), 1)  # with ties
    expected = roc_auc_score(np.repeat([1, 0], 60), along.ravel())
    assert separation.auc(*along) == pytest.approx(expected)
    low, high = separation.interval(along)
    assert 0.5 < low < expected < high < 1
    apart = np.stack([np.arange(60.0) + 100, np.arange(60.0)])
    unseen = 1 - 0.025 ** (1 / 60)  # Clopper and Pearson's upper end for 0 of 60
    assert separation.interval(apart) == pytest.approx(((1 - unseen) ** 2, 1.0))
    assert separation.interval(apart[::-1]) == pytest.approx((0.0, 1 - (1 - unseen) ** 2))


def test_directions_come_from_training_pairs_and_point_to_chosen() -> None:
    rng = np.random.default_rng(0)
    train = rng.normal(size=(2, 300, 5)) * np.array([3.0, 2.0, 0.1, 0.1, 0.1])
    train[0, :, 1] += 8  # the sides differ along the second axis, and both vary more along it and the first
    ways = separation.directions(train)
    units = {way: np.abs(d / np.linalg.norm(d)) for way, d in ways.items()}
    np.testing.assert_allclose(units["CAA's direction"], [0, 1, 0, 0, 0], atol=0.1)
    np.testing.assert_allclose(units["best in the plane"], [0, 1, 0, 0, 0], atol=0.1)
    assert all(separation.auc(*(train @ direction)) > 0.5 for direction in ways.values())
    assert separation.chance(train, train).mean() < separation.auc(*(train @ ways["CAA's direction"]))


def test_cosines_between_models_are_those_of_their_caa_vectors(model: object) -> None:
    pairs = sl.load_pairs("toy/wealth-ab").train[:8]
    read = separation.at_letters(model, pairs, (1, 4))
    other = 2 * read
    other[0] += np.random.default_rng(0).normal(size=other[0].shape).astype(np.float32)
    table = further_trained.alike(read, other, (1, 4))
    for i, cosine in enumerate(table["cosine"]):
        one, two = (np.mean(r[0, :, i] - r[1, :, i], 0) for r in (read, other))
        assert cosine == pytest.approx(one @ two / np.linalg.norm(one) / np.linalg.norm(two), abs=1e-5)
    assert further_trained.alike(read, read, (1, 4))["cosine"].to_list() == pytest.approx([1, 1])
    with pytest.raises(sl.MeasureError, match="two models of one architecture"):
        further_trained.alike(read, read[..., 1:], (1, 4))


def test_the_study_of_separation_draws_every_layer_and_the_planes(tmp_path: Path) -> None:
    found = separation.run(separation.Config(**SMALL, out=tmp_path))
    assert set(found.figures) == {"separation", "plane-layer-0", "plane-layer-3"}
    table = found.tables["separation"]
    assert len(table) == 2 * 4
    assert table["auc"].between(0, 1).all()
    assert (table["low"] <= table["high"]).all()


@pytest.mark.slow
def test_transfer_sets_a_base_beside_what_was_trained_further(tmp_path: Path) -> None:
    config = transfer.Config(**SMALL, siblings=("toy/vicuna-like",), out=tmp_path)
    assert config.related == ("toy", "toy/vicuna-like")
    found = transfer.run(config)
    assert {"transfer", "base-cosines", "base-effects"} <= set(found.figures)
    effects = found.tables["base-effects"]
    assert set(effects["vector"]) == {"caa", "caa of the base", "random"}
    assert len(effects) == 2 * 3 * 3
    assert (effects[effects["multiplier"] == 0]["change"] == 0).all()
    assert len(found.tables["base-cosines"]) == 6
    assert dataclasses.replace(config, base="toy/seed-1").related == ("toy/seed-1", "toy")
    assert transfer.Config(model="llama-2-7b-chat").related == ("llama-2-7b", "llama-2-7b-chat")
    assert transfer.Config(model="some/model").related is None
