"""`sl.similarity` with a model: whitening and both nulls against their definitions, written out in numpy."""

import copy

import numpy as np
import pytest
import torch
from transformer_lens import HookedTransformer

import steerlens as sl
from steerlens.forward.steer import make_vector
from steerlens.measures.activations import covariances
from steerlens.methods.caa import caa_differences

WHO, WHAT = ("a bonus", "the power", "an old friend", "the weather"), ("today", "in 2024", "honestly")
ASKED = [f"What would you do about {who} {when}?" for who in WHO for when in WHAT]
PAIRS = sl.PreferencePairs(
    ASKED,
    [f"I would like to earn more money {'and keep the power ' * (i % 3)}." for i in range(12)],
    [f"I should share the wealth {'with people ' * (i % 4)}, because it's right." for i in range(12)],
)


@pytest.fixture(scope="module")
def vectors(tiny_chat_model: HookedTransformer) -> dict[str, sl.SteeringVector]:
    caa, other = (sl.extract_caa(tiny_chat_model, part, layer=2, progress=False) for part in (PAIRS[:6], PAIRS[6:]))
    generator = torch.Generator().manual_seed(5)
    mixed = caa.tensor + 0.5 * caa.norm * torch.randn(32, generator=generator) / 32**0.5
    return {"first half": caa, "second half": other, "mixed": make_vector(
        tiny_chat_model, mixed, 1, method="user", settings={}
    )}  # fmt: skip


@pytest.fixture(scope="module")
def found(tiny_chat_model: HookedTransformer, vectors: dict[str, sl.SteeringVector]) -> sl.Similarity:
    return sl.similarity(vectors, model=tiny_chat_model, pairs=PAIRS, n_null=100, progress=False)


def test_whitened_cosines_are_mahalanobis_ones_at_one_layer(
    tiny_chat_model: HookedTransformer, vectors: dict[str, sl.SteeringVector], found: sl.Similarity
) -> None:
    own = covariances(tiny_chat_model, PAIRS, [2], progress=False)[2]
    s, axes = own.shrinkage, own.axes.numpy()
    shrunk = (1 - s) * (axes * own.variances.numpy()) @ axes.T + s * float(own.variances.mean()) * np.eye(32)
    a, b = (vectors[name].tensor.double().numpy() for name in ("first half", "second half"))
    inner = [[x @ np.linalg.solve(shrunk, y) for x in (a, b)] for y in (a, b)]
    assert found.whitened[0, 1] == pytest.approx(inner[0][1] / np.sqrt(inner[0][0] * inner[1][1]), abs=1e-8)
    assert found.shrinkage[2] == pytest.approx(s)
    np.testing.assert_allclose(found.cosines[0, 1], a @ b / np.linalg.norm(a) / np.linalg.norm(b), atol=1e-8)


def test_shuffled_labels_are_sign_flips_of_the_pairs_differences(
    tiny_chat_model: HookedTransformer, found: sl.Similarity, vectors: dict[str, sl.SteeringVector]
) -> None:
    differences = caa_differences(tiny_chat_model, PAIRS, 2).numpy()
    rng = np.random.default_rng(0)
    target = vectors["second half"].direction.double().numpy()
    cosines = []
    for _ in range(4000):
        shuffled = rng.permutation([1] * 6 + [-1] * 6) @ differences
        cosines.append(shuffled @ target / np.linalg.norm(shuffled))
    drawn = found.nulls["plain"]["shuffled labels"][0, 1]
    assert drawn.shape == (100,)
    assert np.std(drawn) == pytest.approx(np.std(cosines), rel=0.25)
    assert np.abs(np.mean(drawn)) < 4 * np.std(cosines) / 10


def test_a_vector_s_own_draws_stand_at_its_own_layer(found: sl.Similarity) -> None:
    for null in ("shuffled labels", "random (covariance)"):
        draws = found.nulls["plain"][null]
        np.testing.assert_array_equal(draws[0], draws[1])  # both are vectors of layer 2
        assert np.abs(draws[0] - draws[2]).max() > 0.01
    assert found.layers == (2, 2, 1)


def test_covariance_draws_are_isotropic_once_whitened_without_shrinkage(found: sl.Similarity) -> None:
    spread = {space: found.nulls[space]["random (covariance)"][0].std() for space in ("plain", "whitened")}
    assert spread["whitened"] < spread["plain"]
    assert spread["whitened"] == pytest.approx(32**-0.5, rel=0.3)


def test_halves_of_one_set_are_more_alike_than_chance_and_a_random_vector_is_not(
    tiny_chat_model: HookedTransformer, vectors: dict[str, sl.SteeringVector], found: sl.Similarity
) -> None:
    assert found.best_null == "shuffled labels"
    assert found.p_values()[0, 1] == pytest.approx(1 / 101)
    made = sl.random_vectors(vectors["first half"], 20, seed=3, model=tiny_chat_model, pairs=PAIRS)
    other = sl.similarity(
        [vectors["first half"], *made], model=tiny_chat_model, pairs=PAIRS, n_null=200, progress=False
    )
    p = other.p_values("random (covariance)")[0, 1:]
    assert 0.2 < np.mean(p) < 0.85  # the larger of two, so a little above uniform
    assert (p < 0.05).sum() <= 4


def test_the_frame_has_a_row_per_two_vectors_space_and_null(found: sl.Similarity) -> None:
    frame = found.to_frame()
    assert len(frame) == 3 * 2 * 3
    assert not frame.isna().any(axis=None)
    own = frame[(frame["null"] == "shuffled labels") & (frame["space"] == "plain")]
    np.testing.assert_allclose(own["cosine"], found.cosines[np.triu_indices(3, 1)])
    np.testing.assert_allclose(own["p_value"], found.p_values()[np.triu_indices(3, 1)])


def test_texts_give_the_covariance_and_no_shuffled_labels(
    tiny_chat_model: HookedTransformer, vectors: dict[str, sl.SteeringVector]
) -> None:
    found = sl.similarity(vectors, model=tiny_chat_model, texts=ASKED, n_null=100, progress=False)
    assert found.best_null == "random (covariance)"
    assert list(found.nulls["whitened"]) == ["random (covariance)"]
    assert found.data == "12 texts"


def test_processed_weights_give_the_same_numbers(tiny_models: dict[str, HookedTransformer]) -> None:
    """On a LayerNorm model, where processing centres the residual stream."""
    model = tiny_models["gpt2"]
    other = copy.deepcopy(model)
    other.load_and_process_state_dict({name: weight.clone() for name, weight in model.state_dict().items()})
    results = []
    for each in (model, other.requires_grad_(False)):
        made = [sl.extract_caa(each, part, layer=2, progress=False) for part in (PAIRS[:6], PAIRS[6:])]
        results.append(sl.similarity(made, model=each, pairs=PAIRS, n_null=100, progress=False))
    assert results[0].dimensions == results[1].dimensions == 31
    np.testing.assert_allclose(results[0].cosines, results[1].cosines, atol=1e-4)
    np.testing.assert_allclose(results[0].whitened, results[1].whitened, atol=1e-3)
    null = "shuffled labels"
    np.testing.assert_allclose(*(r.nulls["plain"][null] for r in results), atol=1e-3)


def test_a_vector_that_knows_no_model_is_taken_as_this_model_s(tiny_models: dict[str, HookedTransformer]) -> None:
    model = tiny_models["gpt2"]
    made = [sl.SteeringVector(torch.randn(32) + shift, layer=1) for shift in (0.0, 3.0)]
    found = sl.similarity(made, model=model, texts=ASKED, n_null=100, progress=False)
    np.testing.assert_allclose(found.directions["plain"].sum(1), 0, atol=1e-6)


def test_requests_that_can_t_be_met_say_why(
    tiny_chat_model: HookedTransformer, vectors: dict[str, sl.SteeringVector]
) -> None:
    with pytest.raises(sl.MeasureError, match="two or more"):
        sl.similarity(vectors["mixed"])
    with pytest.raises(sl.MeasureError, match="goes with"):
        sl.similarity(vectors, model=tiny_chat_model)
    with pytest.raises(sl.MeasureError, match="goes with"):
        sl.similarity(vectors, pairs=PAIRS)
    with pytest.raises(sl.MeasureError, match="from 100"):
        sl.similarity(vectors, n_null=50)
    wide = [sl.SteeringVector(torch.randn(16), layer=1) for _ in range(2)]
    with pytest.raises(sl.VectorError, match="d_model"):
        sl.similarity(wide, model=tiny_chat_model, pairs=PAIRS)
