"""Downstream lens against steered forward passes of one prompt at a time."""

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROUNDING
from test_logit_lens import processed
from transformer_lens import HookedTransformer

import steerlens as sl
from steerlens.forward.steer import Positions, make_vector
from steerlens.measures.activations import isotropic_directions
from steerlens.measures.logit_lens import token_text
from steerlens.text.encode import Encoder

PROMPTS = [
    "Would you like to earn more money today?",
    "What?",
    "Tell the truth: what do you want, in 2024, with 35% of it, if the weather isn't bad?",
    "Who should keep the power?",
    "Can you help?",
]


def vector(model: HookedTransformer, layer: int = 1, seed: int = 0) -> sl.SteeringVector:
    tensor = 2 * torch.randn(32, generator=torch.Generator().manual_seed(seed))
    return make_vector(model, tensor, layer, method="user", settings={})


def by_hand(
    model: HookedTransformer, v: sl.SteeringVector, multiplier: float, positions: Positions, template: str = "auto"
) -> tuple[np.ndarray, np.ndarray]:
    """(changes, unsteered log p) of every token: prompt x d_vocab."""
    changes, before = [], []
    for text in PROMPTS:
        ids = Encoder(model, template).generation_prompt(text)
        tokens = torch.tensor([ids])
        start = {"response_start": len(ids) - 1} if positions == "response" else {}
        unsteered = model(tokens)[0, -1].double().log_softmax(-1)
        with sl.steer(model, v, multiplier, positions, **start):
            steered = model(tokens)[0, -1].double().log_softmax(-1)
        changes.append((steered - unsteered).numpy())
        before.append(unsteered.numpy())
    return np.stack(changes), np.stack(before)


@pytest.mark.parametrize("positions", ["all", "response"])
@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox"])
def test_the_changes_are_those_of_steered_forward_passes(
    tiny_models: dict[str, HookedTransformer], family: str, positions: Positions
) -> None:
    model = tiny_models[family]
    v = vector(model)
    lens = sl.downstream_lens(model, v, PROMPTS, 1.5, positions, k=4, batch_size=2, progress=False)
    changes, before = by_hand(model, v, 1.5, positions)
    order = np.argsort(changes.mean(0))
    shown = [*order[::-1][:4], *order[:4]]
    np.testing.assert_allclose(lens.changes, changes[:, shown], atol=2e-4)
    np.testing.assert_allclose(lens.unsteered, before[:, shown], atol=2e-4)
    assert lens.tokens == tuple(token_text(model, int(i)) for i in shown)


def test_multiplier_0_changes_nothing(tiny_chat_model: HookedTransformer) -> None:
    lens = sl.downstream_lens(tiny_chat_model, vector(tiny_chat_model), PROMPTS, 0, k=3, progress=False)
    assert not lens.changes.any()
    assert not lens.random_largest.any()


def test_prompts_are_put_into_the_template_like_the_pairs_own(tiny_chat_model: HookedTransformer) -> None:
    pairs = sl.PreferencePairs(PROMPTS, ["Yes."] * 5, ["No."] * 5, template="vicuna")
    v = vector(tiny_chat_model)
    by_pairs = sl.downstream_lens(tiny_chat_model, v, pairs, k=3, progress=False)
    by_texts = sl.downstream_lens(tiny_chat_model, v, PROMPTS, k=3, template="vicuna", progress=False)
    np.testing.assert_allclose(by_pairs.changes, by_texts.changes, atol=ROUNDING)
    changes, _ = by_hand(tiny_chat_model, v, 1.0, "all", "vicuna")
    assert by_pairs.mean()[0] == pytest.approx(changes.mean(0).max(), abs=1e-4)


def test_the_batch_size_does_not_matter(tiny_chat_model: HookedTransformer) -> None:
    v = vector(tiny_chat_model)
    found = [
        sl.downstream_lens(tiny_chat_model, v, PROMPTS, k=5, batch_size=n, progress=False).changes for n in (1, 3, 8)
    ]
    np.testing.assert_allclose(found[1], found[0], atol=1e-4)
    np.testing.assert_allclose(found[2], found[0], atol=1e-4)


def test_random_directions_of_the_same_norm_stand_beside_it(tiny_chat_model: HookedTransformer) -> None:
    v = vector(tiny_chat_model)
    lens = sl.downstream_lens(tiny_chat_model, v, PROMPTS, 2, k=3, n_random=2, seed=7, progress=False)
    drawn = isotropic_directions(2, 32, sees_mean=True, seed=7)
    for i in range(2):
        control = make_vector(tiny_chat_model, torch.tensor(v.norm * drawn[i]), 1, method="random", settings={})
        changes, _ = by_hand(tiny_chat_model, control, 2, "all")
        assert lens.random_largest[i] == pytest.approx(np.abs(changes.mean(0)).max(), abs=2e-4)


def test_unlikely_tokens_can_be_left_out(tiny_chat_model: HookedTransformer) -> None:
    v = vector(tiny_chat_model)
    changes, before = by_hand(tiny_chat_model, v, 1.0, "all")
    floor = float(np.quantile(before.mean(0), 0.8))
    likely = np.maximum(before.mean(0), (before + changes).mean(0)) >= floor
    lens = sl.downstream_lens(tiny_chat_model, v, PROMPTS, k=3, min_nats=floor, progress=False)
    np.testing.assert_allclose(lens.mean()[:3], np.sort(changes.mean(0)[likely])[::-1][:3], atol=2e-4)
    with pytest.raises(sl.MeasureError, match="lower one of them"):
        sl.downstream_lens(tiny_chat_model, v, PROMPTS, k=3, min_nats=0, progress=False)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_folding_and_centring_change_nothing(tiny_models: dict[str, HookedTransformer], family: str) -> None:
    model, other = tiny_models[family], processed(tiny_models[family])
    found = [sl.downstream_lens(m, vector(m), PROMPTS, k=5, progress=False) for m in (model, other)]
    np.testing.assert_allclose(found[0].changes, found[1].changes, atol=5e-4)
    np.testing.assert_allclose(found[0].random_largest, found[1].random_largest, atol=5e-4)


def test_pairs_that_trained_the_vector_are_refused(tiny_chat_model: HookedTransformer) -> None:
    pairs = sl.PreferencePairs(PROMPTS, [f"Yes, {i}." for i in range(5)], ["No."] * 5)
    caa = sl.extract_caa(tiny_chat_model, pairs[:3], layer=1, progress=False)
    with pytest.raises(sl.MeasureError, match="3 of these 5 pairs"):
        sl.downstream_lens(tiny_chat_model, caa, pairs, progress=False)
    lens = sl.downstream_lens(tiny_chat_model, caa, pairs, k=2, allow_seen=True, progress=False)
    assert lens.seen_pairs == 3
    assert "SEEN" in repr(lens)


def test_the_frame_has_intervals_that_hold_the_mean_and_comes_back_from_a_file(
    tiny_chat_model: HookedTransformer, tmp_path: Path
) -> None:
    lens = sl.downstream_lens(tiny_chat_model, vector(tiny_chat_model), PROMPTS, k=3, progress=False)
    frame = lens.to_frame()
    assert list(frame["side"]) == ["top"] * 3 + ["bottom"] * 3
    assert (frame["low"] <= frame["change_nats"]).all()
    assert (frame["change_nats"] <= frame["high"]).all()
    again = sl.load_result(lens.save(tmp_path / "lens.json"))
    assert again.to_frame().equals(frame)
    assert len(again.figure().data[0].x) == 6


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"prompts": []}, "at least one text"),
        ({"prompts": "What?"}, "at least one text"),
        ({"prompts": ["money " * 600]}, "rows 0"),
        ({"multiplier": float("nan")}, "finite"),
        ({"n_random": -1}, "from 0"),
        ({"k": 500}, "half of the vocabulary"),
    ],
)
def test_requests_that_can_t_be_met_say_why(
    tiny_chat_model: HookedTransformer, wrong: dict[str, object], says: str
) -> None:
    with pytest.raises(sl.MeasureError, match=says):
        sl.downstream_lens(tiny_chat_model, vector(tiny_chat_model), **{"prompts": PROMPTS, "progress": False, **wrong})
