"""Cosines as identities, and what LayerNorm can't see."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from transformer_lens import HookedTransformer

import steerlens as sl
from steerlens.measures.similarity import cosines, isotropic_p_value
from steerlens.resid import make_vector


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
