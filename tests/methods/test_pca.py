"""PCA against other packages' vectors, closed forms and identities."""

import sys
from typing import Any

import numpy as np
import pytest
import torch
from references import Reference, load_reference
from transformer_lens import HookedTransformer

import steerlens as sl
from steerlens.errors import PairsError, VectorError
from steerlens.methods.caa import caa_differences

PAIRS = sl.PreferencePairs(
    ["Would you like to earn more money?", "Tell the truth: what do you want?", "What is a good day, today, in 2024?"],
    ["I want to earn more money.", "The power, because it's the right thing, with 35% of it!", "One that pays."],
    ["I would like to share the wealth with my old friend, honestly.", "No.", "A walk, if the weather isn't bad."],
)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    return load_reference(tmp_path_factory.mktemp("models") / "reference")


def pca(
    model: HookedTransformer, pairs: sl.PreferencePairs = PAIRS, layer: int = 1, **options: Any
) -> sl.SteeringVector:
    return sl.extract_pca(model, pairs, layer, progress=False, **options)


def planted(monkeypatch: pytest.MonkeyPatch, differences: np.ndarray) -> None:
    """Give extract_pca these differences, whatever the model and the pairs."""
    rows = torch.from_numpy(differences)
    monkeypatch.setattr("steerlens.methods.pca.caa_differences", lambda *_args, **_options: rows)


# --- other packages -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_steering_vectors_gives_the_same_uncentred_direction(reference: Reference, layer: int) -> None:
    for name, position in (("free-form", "last"), ("A/B", "answer")):
        vec = pca(reference.model, reference.pairs[name], layer, position=position)
        theirs = reference.vectors[f"steering-vectors.pca.{position}.{layer}"]
        torch.testing.assert_close(vec.direction, theirs / theirs.norm(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize(("centring", "way"), [("none", "pca_center"), ("mean", "pca_diff")])
def test_repeng_gives_the_same_lines(reference: Reference, layer: int, centring: str, way: str) -> None:
    vec = pca(reference.model, reference.pairs["free-form"], layer, position="last", centring=centring)
    theirs = reference.vectors[f"repeng.{way}.last.{layer}"]
    # repeng takes the sign of most pairs, not of their mean.
    assert abs(float(vec.direction @ theirs)) > 1 - 1e-6


# --- closed forms ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("position", ["mean", "last"])
def test_uncentred_is_the_first_right_singular_vector_of_the_differences(
    tiny_chat_model: HookedTransformer, position: str
) -> None:
    differences = caa_differences(tiny_chat_model, PAIRS, 1, position=position).numpy()
    _, values, right = np.linalg.svd(differences)
    vec = pca(tiny_chat_model, position=position)
    assert abs(float(vec.direction.double() @ torch.from_numpy(right[0]))) > 1 - 1e-6
    share = values[0] ** 2 / (values**2).sum()
    assert vec.settings["explained_variance_ratio"] == pytest.approx(share, rel=1e-6)


def test_one_pair_gives_its_own_difference(tiny_chat_model: HookedTransformer) -> None:
    vec = pca(tiny_chat_model, PAIRS[:1])
    caa = sl.extract_caa(tiny_chat_model, PAIRS[:1], 1, progress=False)
    torch.testing.assert_close(vec.tensor, caa.tensor, rtol=1e-4, atol=1e-5)
    assert vec.settings["explained_variance_ratio"] == pytest.approx(1)


def test_centring_takes_out_what_all_pairs_share(
    tiny_chat_model: HookedTransformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    draws = np.random.default_rng(0)
    shared, varying = np.eye(32)[0], np.eye(32)[1]
    amount = np.array([1.0, -1, 2, -2, 3, -3, 0, 0])[:, None]
    differences = 10 * shared + amount * varying + 1e-3 * draws.normal(size=(8, 32))
    planted(monkeypatch, differences)
    none, mean = (pca(tiny_chat_model, centring=way).direction.numpy() for way in ("none", "mean"))
    assert none @ shared > 0.999
    assert abs(mean @ varying) > 0.999


# --- sign and size --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("centring", ["none", "mean"])
def test_the_size_is_caas_and_chosen_lies_higher(tiny_chat_model: HookedTransformer, centring: str) -> None:
    caa = sl.extract_caa(tiny_chat_model, PAIRS, 1, progress=False)
    vec = pca(tiny_chat_model, centring=centring)
    assert vec.norm == pytest.approx(caa.norm, rel=1e-5)
    assert float(vec.tensor @ caa.tensor) > 0
    flipped = pca(tiny_chat_model, PAIRS.flip(), centring=centring)
    torch.testing.assert_close(flipped.tensor, -vec.tensor, rtol=1e-3, atol=1e-4)


def test_the_vector_tells_what_it_is(tiny_chat_model: HookedTransformer) -> None:
    vec = pca(tiny_chat_model, layer=3, position="last", centring="mean")
    assert (vec.method, vec.layer, vec.seed) == ("pca", 3, None)
    assert (vec.settings["position"], vec.settings["centring"], vec.settings["pairs"]) == ("last", "mean", 3)
    assert vec.seen == set(PAIRS.fingerprints)


# --- what is refused ------------------------------------------------------------------------------------------------


def test_what_has_no_component_is_refused(tiny_chat_model: HookedTransformer, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PairsError, match=r"centring='both' is not known; expected one of 'none', 'mean'"):
        pca(tiny_chat_model, centring="both")
    with pytest.raises(PairsError, match="all the same"):
        pca(tiny_chat_model, PAIRS[:1], centring="mean")
    draw = np.random.default_rng(1).normal(size=(3, 32))
    planted(monkeypatch, np.concatenate([draw, -draw]))
    with pytest.raises(PairsError, match="cancel"):
        pca(tiny_chat_model)


def test_a_missing_package_is_named(tiny_chat_model: HookedTransformer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.decomposition", None)
    with pytest.raises(VectorError, match=r"pip install 'steerlens\[sklearn\]'"):
        pca(tiny_chat_model)
