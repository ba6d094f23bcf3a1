"""Many responses to a prompt against the same responses two by two, which test_routes holds against Hugging Face."""

from typing import Any

import numpy as np
import pytest
import torch
from conftest import FAMILIES, ROUNDING
from transformer_lens import HookedTransformer

import steerlens as sl
from steerlens.forward.continuations import _batches, option_logprobs
from steerlens.forward.pair_scores import PairScorer
from steerlens.text.encode import EncodedChoice, EncodedPair, Encoder

SIDES = (
    ((3, 1), (4, 1, 5, 9), (2, 6, 5), (3,), (5, 8, 9, 7, 9, 3, 2, 3, 8, 4, 6, 2, 6)),
    ((7,), (7, 9)),
    ((2, 7, 1), (8, 2), (8, 1, 8, 2), (8, 4, 5, 9), (4,)),
)
PROMPTS = ((1, 5, 9, 20, 31, 44, 2, 8, 10, 11, 12, 13, 14), (1, 5, 9), (1, 5, 9, 20, 7))
ITEMS = [EncodedChoice(prompt, sides) for prompt, sides in zip(PROMPTS, SIDES, strict=True)]


def vectors() -> list[sl.SteeringVector]:
    draw = torch.Generator().manual_seed(0)
    return [sl.SteeringVector(0.5 * torch.randn(32, generator=draw), layer) for layer in (2, 0)]


@pytest.mark.parametrize("positions", ["all", "response"])
@pytest.mark.parametrize("family", FAMILIES)
def test_many_responses_score_as_they_do_two_by_two(
    tiny_models: dict[str, HookedTransformer], family: str, positions: Any
) -> None:
    model, multipliers = tiny_models[family], (-1.0, 0.0, 2.0)
    found = option_logprobs(model, ITEMS, vectors(), multipliers, positions, batch_size=2, progress=False)
    with model.hooks(fwd_hooks=[("blocks.0.hook_resid_post", lambda resid, hook: resid)]):  # the general route
        hooked = option_logprobs(model, ITEMS, vectors(), multipliers, positions, batch_size=2, progress=False)
    for item, nats, again in zip(ITEMS, found, hooked, strict=True):
        pairs = [EncodedPair(item.prompt, side, item.sides[0]) for side in item.sides]
        for i, vector in enumerate(vectors()):
            scorer = PairScorer(model, pairs, vector.layer)
            for j, m in enumerate(multipliers):
                expected = scorer.logprobs(range(len(pairs)), vector.tensor, m, positions)[:, 0]
                np.testing.assert_allclose(nats[i, j], expected, atol=ROUNDING)
                np.testing.assert_allclose(again[i, j], expected, atol=ROUNDING)


def test_a_batch_holds_prompts_with_as_many_responses() -> None:
    batches = _batches([*ITEMS, *ITEMS], 3)
    assert sorted(row for rows in batches for row in rows) == list(range(6))
    assert [{len(SIDES[row % 3]) for row in rows} for rows in batches] == [{2}, {5}, {5}]
    assert [len(rows) for rows in batches] == [2, 3, 1]


@pytest.mark.parametrize("template", ["auto", "plain", "llama-2"])
def test_responses_are_encoded_as_those_of_pairs_with_or_without_the_end_of_the_turn(
    tiny_chat_model: HookedTransformer, template: Any
) -> None:
    encoder = Encoder(tiny_chat_model, template)
    texts = ("A walk.", "Nobody, in 2024")
    pair = encoder.pair("What is a good day?", *texts)
    whole = encoder.choice("What is a good day?", texts, ends=True)
    assert (whole.prompt, whole.sides, whole.length) == (pair.prompt, pair.sides, pair.length)
    bare = encoder.choice("What is a good day?", texts, ends=False)
    assert [(*side, encoder.end_of_turn()) for side in bare.sides] == [*pair.sides]
