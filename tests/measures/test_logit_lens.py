"""Logit lens against its definition, and the same whatever TransformerLens did to the weights."""

import copy

import numpy as np
import pytest
import torch
from transformer_lens import HookedTransformer

import steerlens as sl
from steerlens.measures.logit_lens import lens_values
from steerlens.resid import make_vector

FAMILIES = ("llama", "gpt2", "gpt_neox")


def processed(model: HookedTransformer) -> HookedTransformer:
    """The same model as `from_pretrained` gives it: folded and centred."""
    new = copy.deepcopy(model)
    weights = {name: weight.clone() for name, weight in new.state_dict().items()}
    new.load_and_process_state_dict(weights)
    return new.requires_grad_(False)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_values_are_the_slope_of_the_logits_along_the_direction(
    tiny_models: dict[str, HookedTransformer], family: str
) -> None:
    model = tiny_models[family]
    direction = torch.nn.functional.normalize(torch.randn(32), dim=0)
    # ln_final divides by the stream's size: on a direction that is far longer than anything else only that size is left.
    big = 1e4 * direction
    part = big - big.mean() if family != "llama" else big
    size = part.norm() / np.sqrt(32)
    logits = (
        model.unembed(model.ln_final(big[None, None]))[0, 0] - model.unembed(model.ln_final(-big[None, None]))[0, 0]
    )
    slope = (logits * size / 1e4 / 2).double().numpy()
    np.testing.assert_allclose(lens_values(model, direction), slope - slope.mean(), atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_folding_and_centring_change_nothing(tiny_models: dict[str, HookedTransformer], family: str) -> None:
    direction = torch.nn.functional.normalize(torch.randn(32), dim=0)
    other = processed(tiny_models[family])
    assert str(other.cfg.normalization_type).endswith("Pre")
    np.testing.assert_allclose(lens_values(other, direction), lens_values(tiny_models[family], direction), atol=1e-5)


def test_the_negative_speaks_the_negative(tiny_chat_model: HookedTransformer) -> None:
    v = make_vector(tiny_chat_model, torch.randn(32), 1, method="user", settings={})
    lens, turned = sl.logit_lens(tiny_chat_model, v, k=5), sl.logit_lens(tiny_chat_model, -v, k=5)
    assert [token for token, _ in lens.top] == [token for token, _ in turned.bottom]
    np.testing.assert_allclose([x for _, x in lens.top], [-x for _, x in turned.bottom], rtol=1e-6)
    assert lens.top[0][1] >= lens.top[-1][1] > lens.bottom[-1][1] >= lens.bottom[0][1]


def test_the_row_of_a_token_s_own_unembedding_speaks_that_token(tiny_chat_model: HookedTransformer) -> None:
    gain = tiny_chat_model.ln_final.w
    row = tiny_chat_model.W_U[:, 77] - tiny_chat_model.W_U.mean(1)
    lens = sl.logit_lens(tiny_chat_model, make_vector(tiny_chat_model, row / gain, 3, method="user", settings={}), k=1)
    assert lens.top[0][0] == tiny_chat_model.tokenizer.decode([77])


def test_the_frame_and_the_figure_list_every_token(tiny_chat_model: HookedTransformer) -> None:
    v = make_vector(tiny_chat_model, torch.randn(32), 1, method="user", settings={})
    lens = sl.logit_lens(tiny_chat_model, v, k=4)
    assert len(lens.to_frame()) == 8
    assert len(lens.figure().data[0].x) == 8


@pytest.mark.parametrize("k", [0, 201])
def test_a_list_longer_than_half_the_vocabulary_is_refused(tiny_chat_model: HookedTransformer, k: int) -> None:
    v = make_vector(tiny_chat_model, torch.randn(32), 1, method="user", settings={})
    with pytest.raises(sl.MeasureError, match="k="):
        sl.logit_lens(tiny_chat_model, v, k=k)
