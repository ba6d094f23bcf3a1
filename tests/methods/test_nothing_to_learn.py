"""Pairs whose two sides are the same tokens teach nothing: every method that learns from both refuses them, by their rows."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformer_lens import HookedTransformer

import steerlens as sl

PROMPTS = ["Do you want money?", "Do you want power?", "Do you tell the truth?"]
FROM_BOTH: dict[str, Callable[[Any, sl.PreferencePairs], Any]] = {
    "train_bipo": lambda model, pairs: sl.train_bipo(model, pairs, 1, max_steps=3, progress=False),
    "train_bipo_grid": lambda model, pairs: sl.train_bipo_grid(model, pairs, [1, 2], max_steps=3, progress=False),
    "bipo_loss": lambda model, pairs: sl.bipo_loss(model, torch.zeros(32), pairs, 1),
    "extract_caa": lambda model, pairs: sl.extract_caa(model, pairs, 1, progress=False),
    "extract_caa, last": lambda model, pairs: sl.extract_caa(model, pairs, 1, position="last", progress=False),
    "extract_pca": lambda model, pairs: sl.extract_pca(model, pairs, 1, progress=False),
    "train_dpo_lora": lambda model, pairs: sl.train_dpo_lora(model, pairs, max_steps=1, progress=False),
}


def same_behind_the_template(model: HookedTransformer) -> list[sl.PreferencePairs]:
    """Texts that differ, and their tokens don't: an end mark that is written out; in all pairs, and in two of three."""
    end = model.tokenizer.eos_token
    answers = ["Yes, I do.", "No, I don't.", "Perhaps."]
    some = [f"{answers[0]}{end}", "Never.", f"{answers[2]}{end}"]
    return [
        sl.PreferencePairs(PROMPTS, answers, [f"{text}{end}" for text in answers], template="plain"),
        sl.PreferencePairs(PROMPTS, answers, some, template="plain", provenance="mine.csv"),
    ]


@pytest.mark.parametrize("method", FROM_BOTH)
def test_sides_that_are_the_same_tokens_are_refused_by_their_rows(
    tiny_chat_model: HookedTransformer, method: str
) -> None:
    every, some = same_behind_the_template(tiny_chat_model)
    with pytest.raises(sl.PairsError, match=r"the same tokens in 3 of 3 pairs, rows 0, 1, 2 .*nothing to learn"):
        FROM_BOTH[method](tiny_chat_model, every)
    with pytest.raises(sl.PairsError, match=r"the same tokens in 2 of 3 pairs, rows 0, 2 of mine\.csv"):
        FROM_BOTH[method](tiny_chat_model, some)
    with pytest.raises(sl.PairsError, match="1 of 2 pairs, rows 2 of"):  # the rows are those of the file, not of a part
        FROM_BOTH[method](tiny_chat_model, some[1:])


def test_what_is_left_without_those_rows_is_learned_and_chosen_alone_always_is(
    tiny_chat_model: HookedTransformer,
) -> None:
    every, some = same_behind_the_template(tiny_chat_model)
    assert sl.train_bipo(tiny_chat_model, some[[1]], 1, max_steps=3, lr=0.1, progress=False).norm > 0
    assert sl.extract_caa(tiny_chat_model, some[[1]], 1, progress=False).norm > 0
    assert sl.train_supervised(tiny_chat_model, every, 1, max_steps=3, lr=0.1, progress=False).norm > 0


def test_prompts_that_are_the_same_tokens_are_refused(tiny_chat_model: HookedTransformer) -> None:
    alike = sl.PreferencePairs(PROMPTS, ["a"] * 3, ["b"] * 3, rejected_prompts=[PROMPTS[0], "Why?", PROMPTS[2]])
    with pytest.raises(
        sl.PairsError, match="prompts and rejected_prompts are the same tokens in 2 of 3 pairs, rows 0, 2"
    ):
        sl.extract_caa(tiny_chat_model, alike, 1, position="prompt", progress=False)
