"""The activations' covariance against numpy's on the model's own cache, its shrinkage against scikit-learn's."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from conftest import FAMILIES
from transformer_lens import HookedTransformer

import steerlens as sl
from steerlens.forward.steer import hook_name
from steerlens.measures.activations import _Sums, covariances, isotropic_directions, residuals

TEXTS = [
    "I would like to earn more money today.",
    "Nobody refuses to share the wealth in 2024, with 35% of it!",
    "The assistant can certainly help people honestly because it's the right thing.",
    "You should never tell the truth if the weather isn't bad?",
] * 3


def cached(model: HookedTransformer, texts: Sequence[str], layer: int) -> list[np.ndarray]:
    """Each text's residual stream by TransformerLens's own tokens and cache."""
    found = []
    for text in texts:
        cache = model.run_with_cache(text, names_filter=hook_name(layer))[1]
        found.append(cache[hook_name(layer)][0].double().numpy())
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_a_text_s_stream_is_the_model_s(tiny_models: dict[str, HookedTransformer], family: str) -> None:
    model = tiny_models[family]
    found = {row: streams for row, _, streams in residuals(model, TEXTS[:4], [1, 3], batch_size=3, progress=False)}
    for i, layer in enumerate((1, 3)):
        for row, wanted in enumerate(cached(model, TEXTS[:4], layer)):
            if family in ("gpt2", "gpt_neox"):  # LayerNorm can't see a token's mean
                wanted = wanted - wanted.mean(1, keepdims=True)
            np.testing.assert_allclose(found[row][i].numpy(), wanted, atol=2e-4)


def test_the_covariance_leaves_first_tokens_out(tiny_models: dict[str, HookedTransformer]) -> None:
    model = tiny_models["llama"]
    found = covariances(model, TEXTS, [1, 2], batch_size=4, progress=False)
    for layer in (1, 2):
        tokens = np.concatenate([stream[1:] for stream in cached(model, TEXTS, layer)])
        wanted = np.cov(tokens.T, bias=True)
        axes = found[layer].axes
        np.testing.assert_allclose((axes * found[layer].variances) @ axes.T, wanted, atol=1e-5 * wanted.max())
        assert found[layer].tokens == len(tokens)


def test_pairs_are_read_with_both_responses_and_the_prompt_once(tiny_chat_model: HookedTransformer) -> None:
    pairs = sl.PreferencePairs(["What now?"], ["I want more money."], ["I help."])
    encoded = pairs.encode(tiny_chat_model)[0]
    found = covariances(tiny_chat_model, pairs, [2], progress=False)[2]
    assert found.tokens == len(encoded.prompt) - 1 + len(encoded.chosen) + len(encoded.rejected)


def test_the_shrinkage_and_what_it_whitens_are_scikit_learn_s() -> None:
    covariance = pytest.importorskip("sklearn.covariance", reason="pip install 'steerlens[sklearn]'")
    generator = torch.Generator().manual_seed(0)
    x = (
        torch.randn(300, 20, generator=generator, dtype=torch.float64) ** 3
    )  # heavy tails, so that the fourth power counts
    x = x @ torch.randn(20, 20, generator=generator, dtype=torch.float64) + 7
    sums = _Sums(x[:10].mean(0))
    for part in x.split(37):
        sums.add(part)
    found = sums.covariance()
    wanted, shrinkage = covariance.ledoit_wolf(x.numpy())
    assert found.shrinkage == pytest.approx(shrinkage, rel=1e-9)
    root = found.whitened(np.eye(20))
    np.testing.assert_allclose(root @ root, np.linalg.inv(wanted), rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(root, root.T, atol=1e-10)


def test_random_directions_have_the_covariance_s_shape(tiny_models: dict[str, HookedTransformer]) -> None:
    found = covariances(tiny_models["llama"], TEXTS, [2], progress=False)[2]
    drawn = found.directions(20_000, seed=1)
    np.testing.assert_allclose(np.linalg.norm(drawn, axis=1), 1)
    along = (drawn @ found.axes.numpy()).var(0)
    rank = np.argsort(along)
    np.testing.assert_array_equal(rank[-3:], np.arange(32)[-3:])  # the variances are ascending
    ratio = along[-1] / along[-6]
    assert ratio == pytest.approx(float(found.variances[-1] / found.variances[-6]), rel=0.3)


def test_isotropic_directions_are_unit_and_may_lack_a_mean() -> None:
    drawn = isotropic_directions(5, 16, sees_mean=False, seed=3)
    np.testing.assert_allclose(np.linalg.norm(drawn, axis=1), 1)
    np.testing.assert_allclose(drawn.sum(1), 0, atol=1e-12)
    assert np.abs(isotropic_directions(5, 16, sees_mean=True, seed=3).sum(1)).min() > 1e-3


@pytest.mark.parametrize("wrong", ["one text", [], [1], ["", "I am"], ["money " * 600]])
def test_texts_that_can_t_be_read_are_named(tiny_chat_model: HookedTransformer, wrong: object) -> None:
    with pytest.raises(sl.MeasureError, match=r"expected a list of at least one text|rows 0"):
        covariances(tiny_chat_model, wrong, [1], progress=False)


def test_one_token_has_no_covariance(tiny_models: dict[str, HookedTransformer]) -> None:
    with pytest.raises(sl.MeasureError, match="no covariance"):
        covariances(tiny_models["llama"], ["a"], [1], progress=False)
