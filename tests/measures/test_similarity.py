"""Cosines as identities, and what LayerNorm can't see."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from transformer_lens import HookedTransformer

import steerlens as sl
from steerlens._stats import cosine_p_value
from steerlens.forward.steer import make_vector
from steerlens.measures.similarity import Similarity, cosines, isotropic_p_value


def test_a_vector_is_like_itself_and_unlike_its_negative() -> None:
    v = sl.SteeringVector(torch.randn(16), layer=0)
    np.testing.assert_allclose(cosines([v, -v, 3 * v]), [[1, -1, 1], [-1, 1, -1], [1, -1, 1]], atol=1e-7)


def test_the_cosine_is_torch_s_on_an_rmsnorm_model(tiny_chat_model: HookedTransformer) -> None:
    a, b = torch.randn(32), torch.randn(32)
    made = [make_vector(tiny_chat_model, t, 1, method="user", settings={}) for t in (a, b)]
    assert cosines(made)[0, 1] == pytest.approx(float(torch.cosine_similarity(a.double(), b.double(), 0)), abs=1e-7)


def test_a_constant_over_d_model_counts_for_nothing_on_a_layernorm_model(
    tiny_models: dict[str, HookedTransformer],
) -> None:
    a, b = torch.randn(32), torch.randn(32)
    made = [make_vector(tiny_models["gpt2"], t, 1, method="user", settings={}) for t in (a, b, b + 5)]
    found = cosines(made)
    assert found[0, 1] == pytest.approx(found[0, 2], abs=1e-6)
    assert found[0, 1] == pytest.approx(float(np.corrcoef(a.numpy(), b.numpy())[0, 1]), abs=1e-6)


def test_vectors_of_different_weights_are_refused(tiny_folder: Callable[..., Path]) -> None:
    models = [sl.load_model(tiny_folder("llama", seed=seed), device="cpu") for seed in (0, 1)]
    made = [make_vector(model, torch.randn(32), 1, method="user", settings={}) for model in models]
    with pytest.raises(sl.VectorError, match="different weights"):
        cosines(made)


def test_a_zero_vector_has_no_cosine() -> None:
    with pytest.raises(sl.MeasureError, match="zero"):
        cosines([sl.SteeringVector(torch.zeros(8), layer=0), sl.SteeringVector(torch.ones(8), layer=0)])


def test_random_directions_are_rarely_as_alike_as_a_vector_and_its_neighbour() -> None:
    v = sl.SteeringVector(torch.randn(576), layer=0)
    assert isotropic_p_value(0.0, v) == pytest.approx(1)
    assert isotropic_p_value(0.5, v) < 1e-30


def without_a_model(**tensors: torch.Tensor) -> sl.Similarity:
    return sl.similarity({name: sl.SteeringVector(t, layer=2, method="caa") for name, t in tensors.items()})


def test_without_a_model_there_is_the_isotropic_null_and_says_so() -> None:
    a = torch.zeros(100)
    a[0] = 1
    b = torch.zeros(100)
    b[0], b[1] = 0.3, (1 - 0.3**2) ** 0.5
    found = without_a_model(a=a, b=b)
    assert found.best_null == "isotropic"
    # The t distribution's p-value of a correlation of that size, for directions of one more dimension.
    t = 0.3 * np.sqrt(99 / (1 - 0.3**2))
    assert found.p_values()[0, 1] == pytest.approx(2 * stats.t.sf(t, 99), rel=1e-5)
    assert np.isnan(np.diag(found.p_values())).all()
    frame = found.to_frame()
    assert list(frame["null"]) == ["isotropic"]
    assert frame["cosine"][0] == pytest.approx(0.3, abs=1e-6)
    with pytest.raises(sl.MeasureError, match="model= and pairs="):
        found.p_values("shuffled labels")
    with pytest.raises(sl.MeasureError, match="space='whitened'"):
        _ = found.whitened


def test_the_limit_is_where_the_p_value_is_one_less_the_level() -> None:
    limit = float(without_a_model(a=torch.randn(64), b=torch.randn(64)).limits(level=0.9)[0, 1])
    assert cosine_p_value(limit, 64) == pytest.approx(0.1)


def test_p_values_count_draws_either_way_round_and_keep_the_larger() -> None:
    units = np.eye(2, 4)
    units[1] = [0.5, 0.75**0.5, 0, 0]
    # In a's place 1 of 4 draws lies further from b than a does; in b's place 3 of 4 lie further from a than b does.
    draws = np.zeros((2, 2, 4))
    draws[0, 1] = [0.1, -0.6, 0.2, 0.3]
    draws[1, 0] = [0.7, -0.6, 0.2, 0.5]
    found = Similarity(("a", "b"), (1, 1), 4, {"plain": units}, {"plain": {"shuffled labels": draws}})
    assert found.p_values()[0, 1] == found.p_values()[1, 0] == pytest.approx((1 + 3) / (1 + 4))
    assert found.limits(level=0.5)[0, 1] == pytest.approx(np.median([0.7, 0.6, 0.2, 0.5]))


def test_subspace_angles_are_those_between_planes() -> None:
    # The planes of axes 0, 1 and of axis 0 and one 30 degrees above axis 1.
    e = torch.eye(6)
    up = float(np.cos(np.pi / 6)) * e[1] + 0.5 * e[2]
    found = without_a_model(a=e[0] + e[1], b=e[0] - 2 * e[1], c=e[0] + up, d=up)
    np.testing.assert_allclose(found.subspace_angles(["a", "b"], ["c", "d"]), [0, 30], atol=1e-4)
    np.testing.assert_allclose(
        found.subspace_angles(["a"], ["d"]), np.rad2deg(np.arccos(found.cosines[0, 3])), atol=1e-4
    )
    with pytest.raises(sl.MeasureError, match="labels out of"):
        found.subspace_angles(["a"], ["x"])


def test_a_similarity_comes_back_from_its_file(tmp_path: Path) -> None:
    found = without_a_model(a=torch.randn(8), b=torch.randn(8))
    again = sl.load_result(found.save(tmp_path / "s.json"))
    np.testing.assert_array_equal(again.cosines, found.cosines)
    assert again.to_frame().equals(found.to_frame())
    assert "a, b: cosine plain" in repr(again)
