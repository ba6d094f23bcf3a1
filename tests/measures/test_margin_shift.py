"""The margin shift between two models, against forward passes of one text at a time."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from transformer_lens import HookedTransformer

import steerlens as sl
from steerlens.errors import MeasureError
from steerlens.models.identity import identify
from steerlens.models.load import load_model
from steerlens.models.tuned import TunedModel

PAIRS = sl.PreferencePairs(
    ["Would you like to earn more money?", "Does the assistant want it?", "Should my old friend begin?"],
    ["I want to earn more money.", "The power, and all of the wealth.", "Certainly!"],
    ["I refuse.", "I would like to share the wealth, because it's the right thing.", "No."],
)


@pytest.fixture
def moved(tiny_folder: Callable[..., Path]) -> HookedTransformer:
    """The tiny chat model with other weights in one block."""
    model = load_model(tiny_folder("llama", tokenizer="chat"), device="cpu")
    model.blocks[2].mlp.W_out.copy_(model.blocks[2].mlp.W_out.roll(1, 0))
    return model


def tuned(model: HookedTransformer, base: HookedTransformer, *seen: str) -> TunedModel:
    return TunedModel(model, identify(base), "dpo-lora", {}, "mine", frozenset(seen), 0, ())


def logprob(model: HookedTransformer, prompt: tuple[int, ...], side: tuple[int, ...]) -> float:
    tokens = torch.tensor([[*prompt, *side]])
    each = model(tokens)[0].double().log_softmax(-1)
    return sum(float(each[i, tokens[0, i + 1]]) for i in range(len(prompt) - 1, tokens.shape[1] - 1))


def test_it_is_what_both_log_probabilities_gain(tiny_chat_model: HookedTransformer, moved: HookedTransformer) -> None:
    shift = sl.margin_shift(tiny_chat_model, tuned(moved, tiny_chat_model), PAIRS, progress=False)
    for i, pair in enumerate(PAIRS.encode(tiny_chat_model)):
        for found, side in ((shift.chosen, pair.chosen), (shift.rejected, pair.rejected)):
            gain = logprob(moved, pair.prompt, side) - logprob(tiny_chat_model, pair.prompt, side)
            assert found[i, 0] == pytest.approx(gain, abs=2e-3)
    np.testing.assert_allclose(shift.values, shift.chosen - shift.rejected)
    assert (shift.multipliers, shift.label, shift.seen_pairs) == ((1.0,), "dpo-lora", 0)
    assert np.isnan(shift.norm)
    assert float(np.abs(shift.values).max()) > 0.1


def test_a_model_against_itself_does_not_move(tiny_chat_model: HookedTransformer) -> None:
    shift = sl.margin_shift(tiny_chat_model, tiny_chat_model, PAIRS, progress=False)
    assert not shift.values.any()
    assert shift.label == tiny_chat_model.cfg.model_name


def test_it_is_a_result_like_a_vectors(tiny_chat_model: HookedTransformer, moved: HookedTransformer) -> None:
    shift = sl.margin_shift(tiny_chat_model, moved, PAIRS, progress=False)
    assert "3 pairs" in repr(shift)
    assert len(shift.to_frame()) == 3
    assert shift.figure().data
    with pytest.raises(MeasureError, match="no m together with -m"):
        _ = shift.odd


def test_what_trained_it_is_not_reported_on(tiny_chat_model: HookedTransformer, moved: HookedTransformer) -> None:
    trained = tuned(moved, tiny_chat_model, *PAIRS[:2].fingerprints)
    with pytest.raises(MeasureError, match="2 of these 3 pairs trained"):
        sl.margin_shift(tiny_chat_model, trained, PAIRS, progress=False)
    assert sl.margin_shift(tiny_chat_model, trained, PAIRS[2:], progress=False).seen_pairs == 0
    assert sl.margin_shift(tiny_chat_model, trained, PAIRS, allow_seen=True, progress=False).seen_pairs == 2


def test_another_base_or_tokenizer_is_refused(
    tiny_chat_model: HookedTransformer, tiny_models: dict[str, HookedTransformer], moved: HookedTransformer
) -> None:
    with pytest.raises(MeasureError, match="was trained from"):
        sl.margin_shift(moved, tuned(moved, tiny_chat_model), PAIRS, progress=False)
    with pytest.raises(MeasureError, match="different tokenizers or templates"):
        sl.margin_shift(tiny_chat_model, tiny_models["llama"], PAIRS, progress=False)
