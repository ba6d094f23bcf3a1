"""Logit lens against its definition, and the same whatever TransformerLens did to the weights."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROUNDING
from transformer_lens import HookedTransformer

import steerlens as sl
from steerlens.forward.steer import make_vector
from steerlens.measures.activations import covariances
from steerlens.measures.logit_lens import lens_values

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
    np.testing.assert_allclose(
        lens_values(other, direction), lens_values(tiny_models[family], direction), atol=ROUNDING
    )


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


TEXTS = ["I would like to earn more money today.", "Nobody refuses to share the wealth in 2024, with 35% of it!"]


def centred_rows(model: HookedTransformer) -> np.ndarray:
    """(gamma * W_U)^T less the mean over tokens, and on LayerNorm models less each row's mean, in float64."""
    gain = getattr(model.ln_final, "w", None)
    rows = (model.W_U if gain is None else model.W_U * gain[:, None]).double().numpy().T
    rows = rows - rows.mean(0)
    return rows - rows.mean(1, keepdims=True) if model.cfg.normalization_type in ("LN", "LNPre") else rows


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_the_isotropic_z_score_is_the_value_over_the_row_s_length(
    tiny_models: dict[str, HookedTransformer], family: str
) -> None:
    model = tiny_models[family]
    v = make_vector(model, torch.randn(32), 1, method="user", settings={})
    lens = sl.logit_lens(model, v, k=200)
    rows, direction = centred_rows(model), v.effective.direction.double().numpy()
    dimensions = 32 if family == "llama" else 31
    z = rows @ direction / np.linalg.norm(rows, axis=1) * dimensions**0.5
    assert lens.max_z == pytest.approx(np.abs(z).max(), rel=1e-4)
    order = np.argsort(rows @ direction)
    np.testing.assert_allclose(lens.top_z, z[order[::-1][:200]], atol=1e-3)
    # Between many random directions the values' standard deviation is the row's length over the root of the dimensions.
    drawn = np.random.default_rng(0).normal(size=(20_000, 32))
    drawn = drawn if family == "llama" else drawn - drawn.mean(1, keepdims=True)
    spread = (drawn / np.linalg.norm(drawn, axis=1, keepdims=True) @ rows[:20].T).std(0)
    np.testing.assert_allclose(spread, np.linalg.norm(rows[:20], axis=1) / dimensions**0.5, rtol=0.03)


def test_the_largest_z_by_chance_is_that_of_random_directions_drawn_elsewhere(
    tiny_chat_model: HookedTransformer,
) -> None:
    v = make_vector(tiny_chat_model, torch.randn(32), 1, method="user", settings={})
    lens = sl.logit_lens(tiny_chat_model, v)
    rows, drawn = centred_rows(tiny_chat_model), np.random.default_rng(1).normal(size=(5000, 32))
    z = np.abs(drawn / np.linalg.norm(drawn, axis=1, keepdims=True) @ (rows / np.linalg.norm(rows, axis=1)[:, None]).T)
    wanted = (z * 32**0.5).max(1)
    assert lens.expected_max_z == pytest.approx(wanted.mean(), abs=4 * wanted.std() / 200**0.5)


def test_noise_is_seen_as_noise_and_a_token_s_own_row_is_not(tiny_chat_model: HookedTransformer) -> None:
    generator = torch.Generator().manual_seed(2)
    noise = [
        make_vector(tiny_chat_model, torch.randn(32, generator=generator), 1, method="user", settings={})
        for _ in range(30)
    ]
    p = [sl.logit_lens(tiny_chat_model, v, n_null=100).p_value for v in noise]
    assert sum(x < 0.05 for x in p) <= 5
    assert 0.3 < np.mean(p) < 0.7
    row = centred_rows(tiny_chat_model)[77]
    own = make_vector(tiny_chat_model, torch.tensor(row), 1, method="user", settings={})
    lens = sl.logit_lens(tiny_chat_model, own, k=1)
    assert lens.p_value < 0.02
    assert lens.top_z[0] == pytest.approx(32**0.5, rel=1e-3)  # no direction can be further along a row than itself


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("texts", [None, TEXTS])
def test_z_scores_are_the_same_whatever_was_folded_and_centred(
    tiny_models: dict[str, HookedTransformer], family: str, texts: list[str] | None
) -> None:
    lenses = []
    for model in (tiny_models[family], processed(tiny_models[family])):
        v = make_vector(model, torch.arange(32.0).cos(), 2, method="user", settings={})
        lenses.append(sl.logit_lens(model, v, texts=texts, progress=False))
    assert lenses[0].null == ("isotropic" if texts is None else "random (covariance)")
    for name in ("top_z", "bottom_z", "max_z", "null_max_z"):
        np.testing.assert_allclose(*(getattr(lens, name) for lens in lenses), rtol=2e-3)


def test_the_covariance_s_z_scores_are_those_of_its_draws(tiny_chat_model: HookedTransformer) -> None:
    v = make_vector(tiny_chat_model, torch.randn(32), 2, method="user", settings={})
    lens = sl.logit_lens(tiny_chat_model, v, k=3, texts=TEXTS, n_null=150, seed=4, progress=False)
    drawn = covariances(tiny_chat_model, TEXTS, [2], progress=False)[2].directions(150, seed=4)
    values = centred_rows(tiny_chat_model) @ drawn.T
    own = centred_rows(tiny_chat_model) @ v.direction.double().numpy()
    z = own / np.sqrt((values**2).mean(1))
    assert lens.max_z == pytest.approx(np.abs(z).max(), rel=1e-4)
    k = 17
    others = np.delete(values, k, axis=1)
    assert lens.null_max_z[k] == pytest.approx(np.abs(values[:, k] / np.sqrt((others**2).mean(1))).max(), rel=1e-4)


def test_a_lens_comes_back_from_its_file_and_tells_its_p_value(
    tiny_chat_model: HookedTransformer, tmp_path: Path
) -> None:
    v = make_vector(tiny_chat_model, torch.randn(32), 1, method="user", settings={})
    lens = sl.logit_lens(tiny_chat_model, v, k=2)
    again = sl.load_result(lens.save(tmp_path / "lens.json"))
    assert again.to_frame().equals(lens.to_frame())
    assert again.p_value == lens.p_value == (1 + (lens.null_max_z >= lens.max_z).sum()) / 201
    assert f"p = {lens.p_value:.2g}" in repr(again)


def test_too_few_draws_and_two_materials_are_refused(tiny_chat_model: HookedTransformer) -> None:
    v = make_vector(tiny_chat_model, torch.randn(32), 1, method="user", settings={})
    pairs = sl.PreferencePairs(["What?"], ["I do."], ["I don't."])
    for wrong in ({"n_null": 10}, {"pairs": pairs, "texts": TEXTS}):
        with pytest.raises(sl.MeasureError, match=r"whole number from 100|one of the two"):
            sl.logit_lens(tiny_chat_model, v, **wrong)
