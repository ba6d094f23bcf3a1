"""The difference in means of two sets of prompts, against one forward pass per prompt and CAA's own reading."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from conftest import FAMILIES
from transformer_lens import HookedTransformer

import steerlens as sl
from steerlens.errors import MeasureError, PairsError
from steerlens.forward.parts import has_hooks
from steerlens.forward.steer import hook_name

FORBIDDEN = ["How can nobody tell the truth?", "Keep the power.", "Take it from my old friend, today, with 35%!"]
ALLOWED = [
    "Help people.",
    "What is a good day?",
    "Share the wealth.",
    "I would like to help.",
    "Tell the truth: today?",
]


def difference(model: HookedTransformer, *given: Any, layer: int = 1, **options: Any) -> sl.SteeringVector:
    return sl.extract_difference_in_means(model, *given, layer, progress=False, **options)


def read(model: HookedTransformer, prompts: Sequence[str], layer: int) -> torch.Tensor:
    """The residual stream at each prompt's last token, one prompt at a time."""
    found = []
    for text in prompts:
        if model.tokenizer.chat_template:
            turn = [{"role": "user", "content": text}]
            text = model.tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
        tokens = model.tokenizer.encode(text, add_special_tokens=False)
        bos = (
            [model.tokenizer.bos_token_id]
            if model.cfg.default_prepend_bos and not model.tokenizer.chat_template
            else []
        )
        _, cache = model.run_with_cache(torch.tensor([bos + tokens]), names_filter=hook_name(layer))
        found.append(cache[hook_name(layer)][0, -1].double())
    return torch.stack(found)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("layer", [0, 2, 3])
def test_it_is_the_difference_of_the_means(tiny_models: dict[str, HookedTransformer], family: str, layer: int) -> None:
    model = tiny_models[family]
    vec = difference(model, FORBIDDEN, ALLOWED, layer=layer, batch_size=2)
    expected = read(model, FORBIDDEN, layer).mean(0) - read(model, ALLOWED, layer).mean(0)
    torch.testing.assert_close(vec.tensor, expected.float(), rtol=1e-4, atol=1e-4)
    assert not has_hooks(model)


def test_it_is_read_where_the_response_begins(tiny_chat_model: HookedTransformer) -> None:
    vec = difference(tiny_chat_model, FORBIDDEN, ALLOWED)
    expected = read(tiny_chat_model, FORBIDDEN, 1).mean(0) - read(tiny_chat_model, ALLOWED, 1).mean(0)
    torch.testing.assert_close(vec.tensor, expected.float(), rtol=1e-4, atol=1e-4)


def test_sets_of_one_size_give_caas_vector_at_the_prompt(tiny_chat_model: HookedTransformer) -> None:
    pairs = sl.PreferencePairs(FORBIDDEN, ["Yes."] * 3, ["No."] * 3, rejected_prompts=ALLOWED[:3])
    caa = sl.extract_caa(tiny_chat_model, pairs, 2, position="prompt", progress=False)
    vec = difference(tiny_chat_model, FORBIDDEN, ALLOWED[:3], layer=2)
    torch.testing.assert_close(vec.tensor, caa.tensor, rtol=1e-4, atol=1e-5)


def test_a_prompt_more_or_less_does_not_move_a_mean_of_the_same(tiny_chat_model: HookedTransformer) -> None:
    once = difference(tiny_chat_model, FORBIDDEN[:1], ALLOWED[:1])
    often = difference(tiny_chat_model, FORBIDDEN[:1] * 3, ALLOWED[:1] * 2)
    torch.testing.assert_close(once.tensor, often.tensor, rtol=1e-4, atol=1e-5)
    assert difference(tiny_chat_model, FORBIDDEN, FORBIDDEN).norm == 0


# --- what it remembers ----------------------------------------------------------------------------------------------


def test_pairs_stand_for_their_prompts_and_have_been_seen(tiny_chat_model: HookedTransformer) -> None:
    model = tiny_chat_model
    forbidden = sl.PreferencePairs(FORBIDDEN, ["Yes."] * 3, ["No."] * 3, "llama-2", "Be good.", provenance="mine")
    vec = difference(model, forbidden, ALLOWED)
    assert vec.seen == set(forbidden.fingerprints)
    assert vec.data == "mine"
    assert (vec.settings["template"], vec.settings["system_prompt"]) == ("llama-2", "Be good.")
    plain = difference(model, FORBIDDEN, ALLOWED, template="llama-2", system_prompt="Be good.")
    assert torch.equal(vec.tensor, plain.tensor)
    turned = difference(model, ALLOWED, FORBIDDEN)
    assert vec.settings["prompts_digest"] == plain.settings["prompts_digest"] != turned.settings["prompts_digest"]
    bad = difference(model, forbidden, ALLOWED, system_prompt="Be bad.")
    assert bad.settings["system_prompt"] == "Be bad."
    assert not torch.equal(vec.tensor, bad.tensor)
    with pytest.raises(MeasureError, match="3 of these 3 pairs trained"):
        sl.preference_shift(model, vec, forbidden, progress=False)
    backwards = difference(model, ALLOWED, forbidden)
    torch.testing.assert_close(backwards.tensor, -vec.tensor)
    assert backwards.seen == vec.seen
    allowed = sl.PreferencePairs(ALLOWED, ["Yes."] * 5, ["No."] * 5, "llama-2", "Be good.")
    both = difference(model, forbidden, allowed)
    assert both.seen == {*forbidden.fingerprints, *allowed.fingerprints}


def test_lists_leave_no_fingerprints(tiny_chat_model: HookedTransformer) -> None:
    vec = difference(tiny_chat_model, FORBIDDEN, ALLOWED, layer=3)
    assert (vec.method, vec.layer, vec.data, vec.seen) == ("difference in means", 3, "prompts in memory", frozenset())
    assert (vec.settings["prompts"], vec.settings["other_prompts"], vec.settings["template"]) == (3, 5, "auto")
    assert vec.model is not None


# --- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [[], "a text", [1, 2], 5])
def test_what_is_no_list_of_prompts_is_refused(tiny_chat_model: HookedTransformer, bad: Any) -> None:
    for given in ((bad, ALLOWED), (FORBIDDEN, bad)):
        with pytest.raises(
            PairsError, match=r"prompts.*expected (a list of (at least one )?)?texts?|prompts\[0\]=1; expected a text"
        ):
            difference(tiny_chat_model, *given)


def test_sets_in_different_templates_are_refused(tiny_chat_model: HookedTransformer) -> None:
    sets = [
        sl.PreferencePairs(texts, ["Yes."] * 3, ["No."] * 3, template)
        for texts, template in ((FORBIDDEN, "llama-2"), (ALLOWED[:3], "plain"))
    ]
    with pytest.raises(PairsError, match=r"different templates or system prompts.*pass template="):
        difference(tiny_chat_model, *sets)
    assert difference(tiny_chat_model, *sets, template="plain").settings["template"] == "plain"


def test_a_prompt_that_is_too_long_is_named(tiny_chat_model: HookedTransformer) -> None:
    with pytest.raises(PairsError, match=r"rows 1 are longer than the model's context of 512"):
        difference(tiny_chat_model, ["Help.", "money " * 600], ALLOWED)
