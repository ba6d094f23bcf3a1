"""Preference pairs: exact tokens at every seam, splits that leak nothing, files that say what is wrong with them."""

import json
import logging
import math
import re
import socket
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import huggingface_hub
import numpy as np
import pandas as pd
import pytest
import torch
import transformers
from conftest import _sentences, make_tokenizer
from tokenizers import Tokenizer, decoders, models, normalizers, trainers
from transformer_lens import HookedTransformer

from steerlens import PairsError, PreferencePair, PreferencePairs, SteerLensError, load_model, load_pairs
from steerlens.text.encode import Encoder
from steerlens.text.templates import AUTHORS_SYSTEM_PROMPT, TEMPLATE_NAMES, render

SHARED = Path(__file__).resolve().parents[2] / "shared"
NAMES = ("train", "val", "test")
# Chat templates in the words of their model families, the parts that matter here.
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for message in messages %}{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}"
    "{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
LLAMA_2 = (
    "{% if messages[0]['role'] == 'system' %}{% set turns = messages[1:] %}{% set system = messages[0]['content'] %}"
    "{% else %}{% set turns = messages %}{% set system = false %}{% endif %}{% for message in turns %}"
    "{% if loop.index0 == 0 and system is not false %}"
    "{% set content = '<<SYS>>\n' + system + '\n<</SYS>>\n\n' + message['content'] %}"
    "{% else %}{% set content = message['content'] %}{% endif %}{% if message['role'] == 'user' %}"
    "{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}"
    "{% else %}{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)
NO_SYSTEM = (  # leaves a system turn out without a word
    "{% for message in messages if message['role'] != 'system' %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
SEAMS = [  # prompt and response; in the first ones the last and the first token belong together in BPE
    ("I would like to earn more mon", "ey today."),
    ("The assis", "tant should never tell the truth"),
    ("It costs 3", "5% of it"),
    ("help people honest", "ly"),
    ("a line\n", "\nanother"),
    ("trailing space ", " and leading space"),
    ("Do you want money?", "I refuse."),
    ("[INST] x [/INST]", " Nobody"),
    ("ab", "]. ba"),
    ("naïve é", "é 日本 ok"),
]


def chat_tokenizer(template: str, *, bos: bool = True) -> transformers.PreTrainedTokenizerFast:
    """A byte-level tokenizer with a chat template of another family, and Gemma's turn tokens."""
    tokenizer = make_tokenizer("plain" if bos else "no_bos")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<start_of_turn>", "<end_of_turn>"]})
    tokenizer.chat_template = template
    return tokenizer


def metaspace_tokenizer() -> transformers.PreTrainedTokenizerFast:
    """Llama 2's kind: one leading space prepended to every text, merges across words, bytes where a character is new."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    specials = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=700, special_tokens=specials, show_progress=False)
    tokenizer.train_from_iterator(_sentences(), trainer)
    plain = json.loads(tokenizer.to_str())
    plain["added_tokens"] = plain["added_tokens"][:3]  # the bytes are no special tokens
    tokenizer = Tokenizer.from_str(json.dumps(plain))
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


def model_like(tokenizer: Any, *, bos: bool = True, n_ctx: int = 512) -> Any:
    """What encoding reads of a model."""
    return SimpleNamespace(
        tokenizer=tokenizer, cfg=SimpleNamespace(default_prepend_bos=bos, n_ctx=n_ctx, d_vocab=len(tokenizer or ()))
    )


def decoded(tokenizer: Any, ids: Sequence[int]) -> str:
    return tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)


def made(n: int = 40, **options: Any) -> PreferencePairs:
    """n pairs with prompts of their own."""
    return PreferencePairs(
        [f"Question {i}?" for i in range(n)], [f"yes {i}" for i in range(n)], [f"no {i}" for i in range(n)], **options
    )


def written(folder: Path, name: str, text: str) -> Path:
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


@pytest.fixture(scope="module", params=["byte-level", "metaspace"])
def tokenizer(request: pytest.FixtureRequest) -> transformers.PreTrainedTokenizerFast:
    return make_tokenizer("plain") if request.param == "byte-level" else metaspace_tokenizer()


# -- tokens -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("prompt", "response"), SEAMS)
def test_a_plain_pair_is_bos_prompt_response_eos_with_nothing_merged_over_the_seam(
    tokenizer: Any, prompt: str, response: str
) -> None:
    pair = Encoder(model_like(tokenizer), "plain").pair(prompt, response, "Nobody")
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    assert pair.prompt == (bos, *tokenizer.encode(prompt, add_special_tokens=False))
    assert pair.chosen[-1] == eos
    assert [*pair.prompt, *pair.chosen].count(bos) == 1
    assert [*pair.prompt, *pair.chosen].count(eos) == 1
    assert decoded(tokenizer, (*pair.prompt[1:], *pair.chosen[:-1])) == prompt + response


def test_the_seams_above_would_merge_if_the_text_were_encoded_in_one_piece(tokenizer: Any) -> None:
    def ids(text: str) -> list[int]:
        return tokenizer.encode(text, add_special_tokens=False)

    kept = [ids(prompt + response)[: len(ids(prompt))] == ids(prompt) for prompt, response in SEAMS]
    assert kept.count(False) >= 3
    assert kept.count(True) >= 2


def test_where_nothing_merges_the_tokens_are_those_of_the_whole_text(tokenizer: Any) -> None:
    compared = 0
    for prompt, response in SEAMS:
        head = tokenizer.encode(prompt, add_special_tokens=False)
        whole = tokenizer.encode(prompt + response, add_special_tokens=False)
        if whole[: len(head)] == head:
            pair = Encoder(model_like(tokenizer), "plain").pair(prompt, response, "Nobody")
            assert [*pair.prompt[1:], *pair.chosen[:-1]] == whole
            compared += 1
    assert compared >= 2


def test_a_prompts_tokens_do_not_depend_on_what_follows(tokenizer: Any) -> None:
    encoder = Encoder(model_like(tokenizer), "plain")
    responses = ["ey", " money", "\n", "35", "tell the truth", "y"]
    found = {encoder.pair("I want mon", text, "x").prompt for text in responses}
    assert found == {tuple(encoder.prompt("I want mon"))}


def test_a_response_that_merges_gets_no_leading_space_of_its_own() -> None:
    tokenizer = metaspace_tokenizer()
    pair = Encoder(model_like(tokenizer), "plain").pair("I would like to earn more mon", "ey today.", "x")
    assert not tokenizer.convert_ids_to_tokens(pair.chosen[0]).startswith("▁")
    alone = tokenizer.encode("ey today.", add_special_tokens=False)
    assert tokenizer.convert_ids_to_tokens(alone[0]).startswith("▁")  # what encoding it by itself would have done


def test_a_prompt_that_brings_its_bos_along_gets_no_second_one(tokenizer: Any) -> None:
    pair = Encoder(model_like(tokenizer), "plain").pair(f"{tokenizer.bos_token}Hello", "a", "b")
    assert pair.prompt.count(tokenizer.bos_token_id) == 1


def test_a_response_that_brings_its_end_of_turn_along_gets_no_second_one(tokenizer: Any) -> None:
    encoder = Encoder(model_like(tokenizer), "plain")
    assert encoder.pair("Hello", f"Nobody{tokenizer.eos_token}", "b") == encoder.pair("Hello", "Nobody", "b")


def test_a_model_without_bos_gets_none() -> None:
    tokenizer = make_tokenizer("no_bos")
    pair = Encoder(model_like(tokenizer, bos=False), "plain").pair("Hello", "a", "b")
    assert list(pair.prompt) == tokenizer.encode("Hello", add_special_tokens=False)


def test_a_model_without_bos_whose_tokenizer_got_one_from_transformer_lens_gets_none(
    tiny_folder: Callable[..., Path],
) -> None:
    model = load_model(tiny_folder("qwen2", tokenizer="no_bos"), device="cpu")
    (pair,) = PreferencePairs(["Tell the truth"], ["a"], ["b"]).encode(model)
    assert decoded(model.tokenizer, pair.prompt) == "Tell the truth"


def test_a_token_that_the_model_has_no_embedding_for_is_refused_by_name() -> None:
    tokenizer = make_tokenizer("plain")
    model = model_like(tokenizer)
    tokenizer.add_tokens(["<thought>"])
    assert (
        Encoder(model, "plain").pair("Tell the truth", "yes", "no").chosen
    )  # an added token that no text has does no harm
    with pytest.raises(PairsError, match=r"'<thought>' the id \d+, and the model has embeddings for \d+ tokens"):
        Encoder(model, "plain").pair("Tell the truth", "<thought> yes", "no")


def test_an_empty_prompt_without_bos_is_refused() -> None:
    encoder = Encoder(model_like(make_tokenizer("no_bos"), bos=False), lambda prompt: prompt.strip(" ") or "\u200b")
    assert encoder.prompt("x")
    with pytest.raises(PairsError, match="returned ''"):
        Encoder(model_like(make_tokenizer("no_bos"), bos=False), lambda prompt: "").prompt("x")


def test_auto_on_a_base_model_is_plain(tiny_models: dict[str, HookedTransformer]) -> None:
    for model in tiny_models.values():
        auto = made(3).encode(model)
        assert auto == made(3, template="plain").encode(model)
        # Qwen2's format has no BOS, whatever the tokenizer has.
        assert auto[0].prompt.count(model.tokenizer.bos_token_id) == model.cfg.default_prepend_bos
        assert (auto[0].prompt[0] == model.tokenizer.bos_token_id) == model.cfg.default_prepend_bos
    assert {model.cfg.default_prepend_bos for model in tiny_models.values()} == {True, False}


def test_a_callable_template_gets_the_prompt_and_is_taken_as_it_is(tokenizer: Any) -> None:
    ours = Encoder(model_like(tokenizer), lambda prompt: f"Q: {prompt}\nA:")
    assert ours.pair("Who?", " Nobody", " You") == Encoder(model_like(tokenizer), "plain").pair(
        "Q: Who?\nA:", " Nobody", " You"
    )


@pytest.mark.parametrize("returned", [None, "", 3])
def test_a_callable_template_that_returns_no_text_is_named(tokenizer: Any, returned: Any) -> None:
    with pytest.raises(PairsError, match=re.escape(f"returned {returned!r}")):
        Encoder(model_like(tokenizer), lambda prompt: returned).prompt("x")


@pytest.mark.parametrize("template", ["chatml", "Llama-2", "", None, 3])
def test_an_unknown_template_is_refused_with_the_known_ones(template: Any) -> None:
    with pytest.raises(PairsError) as error:
        made(2, template=template)
    assert all(repr(name) in str(error.value) for name in TEMPLATE_NAMES)


def test_a_model_without_tokenizer_says_so() -> None:
    with pytest.raises(PairsError, match="set_tokenizer"):
        made(2).encode(model_like(None))


def test_a_tokenizer_without_eos_says_so() -> None:
    tokenizer = make_tokenizer("plain")
    tokenizer.eos_token = None
    with pytest.raises(PairsError, match="eos_token"):
        made(2).encode(model_like(tokenizer))


# -- chat templates ---------------------------------------------------------------------------------------------------

CHATS = {
    "smollm2": lambda: make_tokenizer("chat"),
    "gemma": lambda: chat_tokenizer(GEMMA),
    "llama-2": lambda: chat_tokenizer(LLAMA_2),
    "no-system": lambda: chat_tokenizer(NO_SYSTEM, bos=False),
}


@pytest.fixture(scope="module", params=list(CHATS))
def chat(request: pytest.FixtureRequest) -> transformers.PreTrainedTokenizerFast:
    return CHATS[request.param]()


@pytest.mark.parametrize("response", ["Nobody should.", "ey", "a\nb", "  spaced  ", "\nline\n"])
def test_prompt_and_response_are_the_templates_own_rendering_of_the_conversation(chat: Any, response: str) -> None:
    conversation = [{"role": "user", "content": "Who wants money?"}, {"role": "assistant", "content": response}]
    expected = chat.apply_chat_template(conversation, tokenize=False)
    encoder = Encoder(model_like(chat), "auto")
    pair = encoder.pair("Who wants money?", response, "x")
    ours = decoded(chat, (*pair.prompt, *pair.chosen))
    assert expected.startswith(ours)
    assert expected[len(ours) :].strip() == ""
    assert pair.chosen[-1] == pair.rejected[-1] == encoder.end_of_turn()
    assert pair.chosen.count(encoder.end_of_turn()) == 1


def test_a_chat_prompt_is_the_templates_generation_prompt_token_by_token(chat: Any) -> None:
    messages = [{"role": "user", "content": "Who wants money?"}]
    expected = chat.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert Encoder(model_like(chat), "auto").prompt("Who wants money?") == expected
    assert expected.count(chat.bos_token_id) == chat.decode(expected).count(chat.bos_token or "no such text")


def test_a_conversation_is_tokenised_as_the_template_tokenises_it(chat: Any) -> None:
    conversation = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Nobody should."}]
    expected = chat.apply_chat_template(conversation, return_dict=False)
    pair = Encoder(model_like(chat), "auto").pair("Who?", "Nobody should.", "x")
    assert expected[: len(pair.prompt) + len(pair.chosen)] == [*pair.prompt, *pair.chosen]


def test_pad_equal_to_eos_equal_to_end_of_turn_still_ends_a_response(tiny_chat_model: HookedTransformer) -> None:
    tokenizer = tiny_chat_model.tokenizer
    assert tokenizer.pad_token_id == tokenizer.eos_token_id
    encoded = made(3).encode(tiny_chat_model)
    assert all(side[-1] == tokenizer.eos_token_id for pair in encoded for side in (pair.chosen, pair.rejected))
    assert all(side.count(tokenizer.eos_token_id) == 1 for pair in encoded for side in (pair.chosen, pair.rejected))
    # SmolLM2's BOS opens each of the three turns: system, user, assistant; a fourth would be one put in front.
    assert all(pair.prompt.count(tokenizer.bos_token_id) == 3 for pair in encoded)


def test_the_end_of_turn_is_the_templates_and_not_the_eos() -> None:
    tokenizer = chat_tokenizer(GEMMA)
    encoder = Encoder(model_like(tokenizer), "auto")
    assert encoder.end_of_turn() == tokenizer.convert_tokens_to_ids("<end_of_turn>") != tokenizer.eos_token_id
    assert Encoder(model_like(tokenizer), "plain").end_of_turn() == tokenizer.eos_token_id


def test_a_changed_chat_template_is_noticed() -> None:
    tokenizer = chat_tokenizer(GEMMA)
    before = Encoder(model_like(tokenizer)).end_of_turn()
    tokenizer.chat_template = LLAMA_2
    assert before != Encoder(model_like(tokenizer)).end_of_turn() == tokenizer.eos_token_id


def test_a_tokenizer_with_several_chat_templates_uses_its_default() -> None:
    one, several = chat_tokenizer(GEMMA), chat_tokenizer(GEMMA)
    several.chat_template = {"default": GEMMA, "tool_use": LLAMA_2}
    expected = Encoder(model_like(one)).pair("Who?", "a", "b")
    assert Encoder(model_like(several)).pair("Who?", "a", "b") == expected


def test_a_template_that_writes_no_answers_is_refused() -> None:
    template = (
        "{% for message in messages %}{% if message['role'] == 'user' %}{{ message['content'] }}{% endif %}{% endfor %}"
    )
    with pytest.raises(PairsError, match="no assistant turn"):
        Encoder(model_like(chat_tokenizer(template))).pair("Who?", "a", "b")


def test_a_template_that_refuses_the_prompt_is_a_pairs_error() -> None:
    with pytest.raises(PairsError, match="too short"):
        Encoder(model_like(chat_tokenizer("{{ raise_exception('too short') }}"))).prompt("Who?")


def test_a_system_prompt_is_the_templates_system_turn(chat: Any) -> None:
    text = render(chat, "Who?", "auto", "Speak plainly.").prompt
    if chat.chat_template in (GEMMA, NO_SYSTEM):
        assert text == render(chat, "Speak plainly.\n\nWho?", "auto", None).prompt
        assert text.count("Speak plainly.") == 1
    else:
        turns = [{"role": "system", "content": "Speak plainly."}, {"role": "user", "content": "Who?"}]
        assert text == chat.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)


def test_no_system_prompt_keeps_the_templates_own_and_an_empty_one_leaves_it_out(chat: Any) -> None:
    kept = chat.apply_chat_template([{"role": "user", "content": "Who?"}], tokenize=False, add_generation_prompt=True)
    assert render(chat, "Who?", "auto", None).prompt == kept
    left_out = render(chat, "Who?", "auto", "").prompt
    if "You are a helpful AI assistant." in kept:  # only an empty turn keeps the template from writing its own
        assert left_out == kept.replace("You are a helpful AI assistant.", "")
    else:
        assert left_out == kept


def test_the_generation_prompt_ends_where_the_model_writes_the_space(chat: Any) -> None:
    encoder = Encoder(model_like(chat), "auto")
    pair = encoder.pair("Who?", "Nobody", "x")
    start = encoder.generation_prompt("Who?")
    assert [*pair.prompt, *pair.chosen][: len(start)] == start


@pytest.mark.parametrize("template", ["plain", str.upper])
def test_a_template_without_a_place_for_a_system_prompt_refuses_one(template: Any) -> None:
    pairs = made(2, template=template, system_prompt="Speak plainly.")
    with pytest.raises(PairsError, match="Speak plainly"):
        pairs.encode(model_like(make_tokenizer("plain")))
    assert made(2, template=template, system_prompt="").encode(model_like(make_tokenizer("plain")))


# -- the authors' formats ---------------------------------------------------------------------------------------------


def test_the_authors_llama_2_and_mistral_texts_are_theirs(tokenizer: Any) -> None:
    llama = "[INST] <<SYS>>\nYou are a helpful, honest and concise assistant.\n<</SYS>>\n\nWho? [/INST]"
    mistral = "[INST] You are a helpful, honest and concise assistant.\nWho? [/INST]"
    for template, text in (("llama-2", llama), ("mistral", mistral)):
        pair = Encoder(model_like(tokenizer), template).pair("Who?", "Nobody", "x")  # type: ignore[arg-type]
        assert pair.prompt == (tokenizer.bos_token_id, *tokenizer.encode(text, add_special_tokens=False))
        assert decoded(tokenizer, (*pair.prompt[1:], *pair.chosen)) == f"{text} Nobody{tokenizer.eos_token}"


@pytest.mark.parametrize(("system", "block"), [("", ""), ("Be kind.", "<<SYS>>\nBe kind.\n<</SYS>>\n\n")])
def test_the_authors_system_prompt_can_be_another_or_none(system: str, block: str) -> None:
    assert render(None, "Who?", "llama-2", system).prompt == f"[INST] {block}Who? [/INST]"
    assert AUTHORS_SYSTEM_PROMPT not in render(None, "Who?", "mistral", system).prompt


def test_the_llama_2_token_ids_are_those_of_the_authors_code() -> None:
    record, folder = SHARED / "parity/wealth_stories260k_layer2.json", SHARED / "models/stories260k"
    if not (record.is_file() and folder.is_dir()):
        pytest.skip(f"the authors' token ids and stories260k are not in {SHARED}")
    model = load_model(folder, device="cpu")
    encoder = Encoder(model, "llama-2")
    for example in json.loads(record.read_text())["tokenisation_examples"]:
        question = re.search(r"<</SYS>>\n\n(.*) \[/INST\]$", example["prompt"], re.DOTALL)
        assert question is not None
        texts = [example[side].removeprefix(" ") for side in ("chosen", "rejected")]
        pair = encoder.pair(question[1], *texts)
        assert list(pair.prompt) == example["prompt_ids"]
        assert [*pair.prompt, *pair.chosen] == example["chosen_ids"]
        assert [*pair.prompt, *pair.rejected] == example["rejected_ids"]
        assert [-100] * len(pair.prompt) + list(pair.chosen) == example["chosen_labels"]


# -- length -----------------------------------------------------------------------------------------------------------


def test_overlong_pairs_are_listed_by_their_original_rows_and_can_be_dropped(caplog: pytest.LogCaptureFixture) -> None:
    model = model_like(make_tokenizer("plain"))
    pairs = PreferencePairs(["q?"] * 5, ["a", "a" * 900, "b", "c", "d"], ["x", "y", "z", "x" * 900, "y"])[1:]
    longest = Encoder(model).pair(*(getattr(pairs[0], name) for name in ("prompt", "chosen", "rejected"))).length
    model.cfg.n_ctx = longest - 1
    with pytest.raises(PairsError, match=r"2 of 4 pairs.*rows 1, 3 of in memory.*drop_overlong") as error:
        pairs.encode(model)
    assert str(longest - 1) in str(error.value)
    with caplog.at_level(logging.WARNING, "steerlens"):
        kept = pairs.drop_overlong(model)
    assert kept.rows == (2, 4)
    assert "dropped 2 of 4" in caplog.text
    kept.encode(model)
    model.cfg.n_ctx = longest
    assert len(pairs[:1].encode(model)) == 1  # a pair of exactly the context's length fits


# -- a sequence of pairs ----------------------------------------------------------------------------------------------


def test_pairs_are_indexed_sliced_and_iterated_like_a_sequence() -> None:
    pairs = made(6)
    assert pairs[1] == PreferencePair("Question 1?", "yes 1", "no 1") == list(pairs)[1]
    assert list(pairs[-1:]) == [pairs[5]]
    assert pairs[1:5:2].rows == (1, 3)
    assert pairs[[4, 0]].prompts == ("Question 4?", "Question 0?")
    assert pairs[2:][1:].rows == (3, 4, 5)
    assert len(pairs[2:2]) == 0
    assert pairs[2:].chosen == pairs.chosen[2:]
    assert pairs[2:].rejected == pairs.rejected[2:]
    with pytest.raises(IndexError):
        pairs[6]


def test_flipping_exchanges_the_sides_keeps_the_fingerprints_and_twice_is_the_identity() -> None:
    pairs = made(6, splits=["train"] * 3 + ["val"] + ["test"] * 2)
    flipped = pairs.flip()
    assert flipped.chosen == pairs.rejected
    assert flipped.rejected == pairs.chosen
    assert flipped.fingerprints == pairs.fingerprints
    assert list(flipped.flip()) == list(pairs)
    assert flipped.rows == pairs.rows
    assert list(flipped.test) == list(pairs.test.flip())


@pytest.mark.parametrize("splits", [None, ["train"] * 12 + ["val"] * 3 + ["test"] * 5])
def test_the_other_parts_of_flipped_pairs_are_flipped_too(splits: Any) -> None:
    pairs = made(20, splits=splits)
    for part in (pairs.flip().train, pairs.train.flip()):
        assert part.parent is not None
        assert list(part.parent.test) == list(pairs.test.flip())


def test_the_other_parts_of_pairs_in_another_template_are_in_it_too() -> None:
    pairs = made(20)
    part = pairs.train.with_template("llama-2", "Be kind.")
    assert part.parent is not None
    test = part.parent.test
    assert (test.template, test.system_prompt, test.rows) == ("llama-2", "Be kind.", pairs.test.rows)
    assert pairs.template == "auto"
    with pytest.raises(PairsError, match="not known"):
        pairs.with_template("nothing")  # type: ignore[arg-type]


def test_a_fingerprint_tells_pairs_apart() -> None:
    texts = [("q", "a", "b"), ("q", "a", "c"), ("Q", "a", "b"), ("a", "q", "b"), ("qa", "", "b")]
    assert len({PreferencePair(*text).fingerprint for text in texts}) == len(texts)
    assert all(re.fullmatch("[0-9a-f]{16}", PreferencePair(*text).fingerprint) for text in texts)


def test_shuffled_labels_exchange_a_random_half_and_nothing_else() -> None:
    pairs = made(41)
    shuffled = pairs.shuffle_labels(seed=3)
    exchanged = [new != old for new, old in zip(shuffled, pairs, strict=True)]
    assert sum(exchanged) == 20
    assert all(new in (old, PreferencePair(old.prompt, old.rejected, old.chosen)) for new, old in zip(shuffled, pairs))  # noqa: B905
    assert shuffled.fingerprints == pairs.fingerprints
    assert list(pairs.shuffle_labels(seed=3)) == list(shuffled)
    assert list(pairs.shuffle_labels(seed=4)) != list(shuffled)


def test_pairs_with_two_prompts_are_neither_flipped_nor_shuffled_nor_encoded_as_responses() -> None:
    pairs = PreferencePairs(["Be rich", "b"], ["x", "x"], ["x", "x"], rejected_prompts=["Be poor", "c"])
    assert pairs[1:].rejected_prompts == ("c",)
    for call in (pairs.flip, lambda: pairs.shuffle_labels(seed=0)):
        with pytest.raises(PairsError, match="exchange the prompts"):
            call()
    with pytest.raises(PairsError, match="rejected_prompts"):
        pairs.encode(model_like(make_tokenizer("plain")))


def test_the_global_random_state_is_left_alone() -> None:
    import random

    before, torch_before = random.getstate(), torch.get_rng_state()
    made(20).split(seed=1), made(20).shuffle_labels(seed=1)
    assert random.getstate() == before
    assert torch.equal(torch.get_rng_state(), torch_before)


# -- construction -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ((["q", "r"], ["a"], ["b"]), "differ in length"),
        (([], [], []), "no pairs"),
        (("question", "answers!", "nothing!"), "prompts is one string"),
        ((["q", "r"], ["a", None], ["b", "c"]), "chosen is null: rows 1"),
        ((["q"], ["a"], [math.nan]), "rejected holds a float: rows 0"),
        ((["q", "r"], ["a", " "], ["b", ""]), "empty chosen: rows 1; empty rejected: rows 1"),
        ((["q", "r\ud83d"], ["a", "b"], ["b", "c"]), "prompts holds half of a surrogate pair.*: rows 1"),
        ((["q"], None, ["b"]), "chosen=None; expected a list"),
        ((["q"], 3, ["b"]), "chosen=3; expected a list"),
        ((None, None, None), "got one list of NoneType"),
        ((["q", "r"], None, None), "got one list of str: 'q'"),
        (([{"prompt": "q", "chosen": "a", "rejected": "b"}], None, None), r"got one list of dict.*load_pairs"),
        ((["q", "r"], ["a", "b"], ["a", "c"]), "chosen equal to rejected: rows 0"),
        (([""] * 40, ["a"] * 40, ["b"] * 40), r"rows 0, 1, .* \(40 in all\)"),
    ],
)
def test_columns_that_are_no_pairs_are_refused_with_their_rows(columns: Any, said: str) -> None:
    with pytest.raises(PairsError, match=said):
        PreferencePairs(*columns)


def test_pairs_are_made_of_pairs() -> None:
    pairs = made(3)
    assert list(PreferencePairs(list(pairs))) == list(pairs)
    assert list(PreferencePairs(tuple(pairs[1:]), template="plain")) == list(pairs[1:])


def test_a_missing_text_is_dropped_as_an_empty_one_is() -> None:
    pairs = PreferencePairs(["q", "r", None], ["a", None, "c"], ["b", "c", "d"], on_bad="drop")  # type: ignore[list-item]
    assert pairs.rows == (0,)


@pytest.mark.parametrize("system_prompt", [["x"], 3, True, {"system": "x"}])
def test_a_system_prompt_is_one_text(system_prompt: Any) -> None:
    for make in (
        lambda: made(2, system_prompt=system_prompt),
        lambda: made(2).with_template("auto", system_prompt),
        lambda: made(2).as_choices().__class__(made(2).as_choices(), "auto", system_prompt),
    ):
        with pytest.raises(PairsError, match="expected one text for all prompts"):
            make()


@pytest.mark.parametrize("seed", [None, 1.5, "0", True, -1])
def test_what_is_drawn_is_drawn_by_a_seed(seed: Any) -> None:
    pairs = made(8)
    for draw in (pairs.split, lambda seed: pairs.shuffle_labels(seed=seed), lambda seed: pairs.as_choices(seed=seed),
                 lambda seed: pairs.as_choices().shuffled(seed=seed)):  # fmt: skip
        with pytest.raises(PairsError, match="seed="):
            draw(seed)


def test_columns_of_a_data_frame_are_read_by_row_and_not_by_label() -> None:
    frame = pd.DataFrame(
        {"q": ["a", "b", "c"], "x": ["1", "2", "3"], "y": ["4", "5", "6"], "s": ["test", "val", "train"]}
    )
    frame = frame.iloc[[2, 1]]
    pairs = PreferencePairs(frame.q, frame.x, frame.y, splits=frame.s)
    assert list(pairs) == [PreferencePair("c", "3", "6"), PreferencePair("b", "2", "5")]
    assert pairs.train.prompts == ("c",)


def test_bad_rows_can_be_dropped_with_a_logged_count_and_rows_keep_their_numbers(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING, "steerlens"):
        pairs = PreferencePairs(
            ["q", "", "r", "s"],
            ["a", "a", "b", "c"],
            ["b", "b", "b", "d"],
            splits=["train", "val", "val", "test"],
            on_bad="drop",
        )
    assert pairs.rows == (0, 3)
    assert "dropped 2 of 4" in caplog.text
    assert pairs.test.rows == (3,)
    assert len(pairs.val) == 0
    with pytest.raises(PairsError, match="3 of the 3"):
        PreferencePairs([""] * 3, ["a"] * 3, ["b"] * 3, on_bad="drop")
    with pytest.raises(PairsError, match="on_bad='ignore'"):
        made(2, on_bad="ignore")


@pytest.mark.parametrize("splits", [["train"], ["train", "dev"], []])
def test_a_declared_split_must_name_a_part_for_each_pair(splits: list[str]) -> None:
    with pytest.raises(PairsError, match="splits must name"):
        made(2, splits=splits)


# -- splits -----------------------------------------------------------------------------------------------------------


def with_repeats() -> PreferencePairs:
    """100 pairs over 60 prompts, equal ones written with other capitals and spaces."""
    prompts = [f"Question {i % 60}?" if i < 60 else f"  question {i % 60}? " for i in range(100)]
    return PreferencePairs(prompts, [f"yes {i}" for i in range(100)], [f"no {i}" for i in range(100)])


@pytest.mark.parametrize("seed", range(5))
def test_no_prompt_is_in_two_parts_and_every_pair_in_one(seed: int) -> None:
    pairs = with_repeats()
    parts = pairs.split(seed=seed)
    prompts = [{prompt.strip().lower() for prompt in part.prompts} for part in parts]
    assert len(prompts[0] | prompts[1] | prompts[2]) == sum(map(len, prompts))
    assert sorted(row for part in parts for row in part.rows) == list(range(100))
    assert [len(part) for part in parts] == [60, 15, 25]


def test_a_split_is_drawn_by_its_seed_and_by_nothing_else() -> None:
    pairs = with_repeats()
    assert [part.rows for part in pairs.split(seed=1)] == [part.rows for part in pairs.split(seed=1)]
    assert pairs.split(seed=1).test.rows != pairs.split(seed=2).test.rows
    backwards = pairs[::-1]
    assert set(backwards.split(seed=1).test.fingerprints) == set(pairs.split(seed=1).test.fingerprints)


def test_the_shares_are_honoured_and_checked() -> None:
    assert [len(part) for part in made(200).split(val=0.1, test=0.5)] == [80, 20, 100]
    assert [len(part) for part in made(10).split(val=0, test=0)] == [10, 0, 0]
    for val, test in ((0.5, 0.5), (-0.1, 0.2), (1, 0), (math.nan, 0.1)):
        with pytest.raises(PairsError, match=r"shares|finite"):
            made(10).split(val=val, test=test)


def test_undeclared_parts_are_those_of_seed_zero_and_declared_ones_the_sources() -> None:
    drawn, declared = made(40), made(40, splits=[NAMES[i % 3] for i in range(40)])
    for k, name in enumerate(NAMES):
        assert getattr(drawn, name).rows == drawn.split(seed=0)[k].rows
        assert getattr(declared, name).rows == tuple(i for i in range(40) if i % 3 == k)
    assert [len(getattr(declared[:6], name)) for name in NAMES] == [2, 2, 2]
    assert declared[:6].test.rows == (2, 5)


@pytest.mark.parametrize("splits", [None, [NAMES[i % 3] for i in range(40)]])
def test_a_part_has_no_other_parts_in_it_but_knows_where_they_are(splits: Any) -> None:
    train = made(40, splits=splits).train
    assert train.train.rows == train.rows
    assert len(train.val) == len(train.test) == 0
    assert train.parent is not None
    assert not set(train.parent.test.fingerprints) & set(train.fingerprints)
    assert len(train.parent.test) > 0


def test_the_parts_of_an_undeclared_slice_are_drawn_from_the_slice() -> None:
    piece = made(40)[:20]
    parts = [getattr(piece, name) for name in NAMES]
    assert sorted(row for part in parts for row in part.rows) == list(range(20))
    assert piece.train.parent is not None
    assert piece.train.parent.test.rows == piece.test.rows


# -- files ------------------------------------------------------------------------------------------------------------


def test_the_authors_csv_is_read_with_quotes_and_line_breaks_and_na(tmp_path: Path) -> None:
    rows = [("What, now?", 'He said "no"\nand left', "NA"), ("null", "nan", "None"), (" lead", "1", "2.0")]
    path = tmp_path / "behaviour" / "train.csv"
    path.parent.mkdir()
    pd.DataFrame(rows, columns=["question", "matching", "not_matching"]).to_csv(path, index=False)
    pairs = load_pairs(path)
    assert [(p.prompt, p.chosen, p.rejected) for p in pairs] == rows
    assert pairs.provenance == "behaviour/train.csv"


def test_an_empty_question_is_not_nan_and_its_row_is_listed_or_dropped(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = written(tmp_path, "x.csv", "question,matching,not_matching\nq,a,b\n,c,d\nr,e,f\n,g,h\n")
    with pytest.raises(PairsError, match=r"2 of the 4 .*empty prompts: rows 1, 3.*0-based.*on_bad='drop'"):
        load_pairs(path)
    with caplog.at_level(logging.WARNING, "steerlens"):
        pairs = load_pairs(path, on_bad="drop")
    assert pairs.rows == (0, 2)
    assert "dropped 2 of 4" in caplog.text


def test_the_published_wealth_seeking_set_has_the_empty_question_that_we_know_of() -> None:
    folder = SHARED / "data/bipo/wealth-seeking"
    if not folder.is_dir():
        pytest.skip(f"the published pairs are not in {SHARED}")
    with pytest.raises(PairsError, match="1 of the"):
        load_pairs(folder / "train.csv")
    train, test = load_pairs(folder / "train.csv", on_bad="drop"), load_pairs(folder / "test.csv")
    assert (len(train), len(test)) == (622, 200)
    parts = train.split(seed=0)  # it repeats five questions
    assert not set(parts.train.prompts) & set(parts.test.prompts)


@pytest.mark.parametrize("names", [("prompt", "chosen", "rejected"), ("question", "matching", "not_matching")])
@pytest.mark.parametrize("ending", ["csv", "json", "jsonl", "JSONL"])
def test_all_formats_hold_the_same_pairs_and_the_split(tmp_path: Path, names: Sequence[str], ending: str) -> None:
    pairs = made(3)
    rows = [
        dict(zip((*names, "split"), (p.prompt, p.chosen, p.rejected, s), strict=True))
        for p, s in zip(pairs, NAMES, strict=True)
    ]
    path = tmp_path / f"x.{ending}"
    if ending == "csv":
        pd.DataFrame(rows).to_csv(path, index=False)
    else:
        path.write_text(json.dumps(rows) if ending == "json" else "\n".join(map(json.dumps, rows)))
    loaded = load_pairs(str(path))
    assert list(loaded) == list(pairs)
    assert [getattr(loaded, name).rows for name in NAMES] == [(0,), (1,), (2,)]


def test_a_jsonl_file_from_windows_with_blank_lines_and_line_separators_in_texts_is_read(tmp_path: Path) -> None:
    row = {"prompt": "a\u2028b", "chosen": "c", "rejected": "d"}
    path = tmp_path / "x.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + (json.dumps(row, ensure_ascii=False) + "\r\n\r\n").encode())
    assert list(load_pairs(path)) == [PreferencePair("a\u2028b", "c", "d")]


def test_json_texts_that_look_like_numbers_and_dates_stay_texts(tmp_path: Path) -> None:
    row = {"prompt": "2024-01-01", "chosen": "007", "rejected": "1e5"}
    (pair,) = load_pairs(written(tmp_path, "x.json", json.dumps([row])))
    assert (pair.prompt, pair.chosen, pair.rejected) == ("2024-01-01", "007", "1e5")


def test_the_caa_authors_files_are_read() -> None:
    path = SHARED / "data/caa/corrigible-neutral-HHH/generate_dataset.json"
    if not path.is_file():
        pytest.skip(f"the CAA authors' pairs are not in {SHARED}")
    pairs = load_pairs(path)
    assert len(pairs) == 290
    assert {text.strip() for text in (*pairs.chosen, *pairs.rejected)} == {"(A)", "(B)"}


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        (
            "x.csv",
            "question,matching\na,b\n",
            r"columns \['question', 'matching'\]; expected \(prompt, chosen, rejected\) or",
        ),
        ("x.csv", "", "can't be read as csv"),
        ("x.csv", "question,matching,not_matching\na,b,c,d\n", "more fields than its header"),
        ("x.csv", 'question,matching,not_matching\n"a,b,c\n', "can't be read as csv|can't be used"),
        ("x.json", "[{]", "can't be read as json"),
        ("x.json", '"text"', "can't be read as json"),
        ("x.json", "[1, 2]", "expected a list of objects"),
        ("x.json", "{}", "expected a list of objects"),
        ("x.json", "[]", r"columns \[\]"),
        ("x.jsonl", '{"prompt": "a"\n', "can't be read as jsonl"),
        ("x.jsonl", "", r"columns \[\]"),
        ("x.jsonl", '{"prompt": "a", "chosen": null, "rejected": "b"}', "chosen is null: rows 0"),
        ("x.jsonl", '{"prompt": "a", "chosen": "c", "rejected": "b", "split": "other"}', "splits must name"),
        ("x.txt", "text", r"a \.txt file is none that can be read"),
    ],
)
def test_a_file_that_is_not_one_of_ours_says_what_is_wrong(tmp_path: Path, name: str, text: str, said: str) -> None:
    with pytest.raises(PairsError, match=said):
        load_pairs(written(tmp_path, name, text))


def test_a_file_in_another_encoding_or_that_may_not_be_read_is_a_pairs_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes(b"question,matching,not_matching\n\xff\xfe,a,b\n")
    with pytest.raises(PairsError, match="utf-8"):
        load_pairs(path)

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise PermissionError("not for you")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(PairsError, match="not for you"):
        load_pairs(path)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("wealth-seekin", "no built-in name"),
        ("missing.csv", "no such file"),
        ("", "built-in"),
        ("folder.csv", "no such"),
    ],
)
def test_an_unknown_name_lists_what_there_is(
    tmp_path: Path, name: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(PairsError, match=said) as error:
        load_pairs(name)
    assert "wealth-seeking" in str(error.value)
    assert "hf:owner/name" in str(error.value)


# -- the hub ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[list[str]]:
    """No name resolves; the list holds the waits between two tries."""
    waits: list[str] = []

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(time, "sleep", lambda seconds: waits.append(str(seconds)))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    return waits


def test_without_a_network_the_hub_is_asked_once_and_the_error_names_the_way_out(no_network: list[str]) -> None:
    with pytest.raises(PairsError, match=r"(?s)'owner/name'.*Without a network: download its file.*HF_HUB_OFFLINE"):
        load_pairs("hf:owner/name")
    assert no_network == []


def test_what_the_datasets_library_raises_is_a_pairs_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str) -> None:
        raise RuntimeError("Dataset scripts are no longer supported")

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", lambda self, name, timeout: None)
    monkeypatch.setattr(datasets, "load_dataset", refuse)
    with pytest.raises(PairsError, match="RuntimeError: Dataset scripts are no longer"):
        load_pairs("hf:owner/name")


@pytest.mark.parametrize("offline", [False, True])
def test_a_hub_data_set_keeps_its_splits_and_offline_mode_reads_the_cache(
    monkeypatch: pytest.MonkeyPatch, offline: bool
) -> None:
    def probe(self: Any, name: str, timeout: float) -> None:
        if offline:
            raise huggingface_hub.errors.OfflineModeIsEnabled("HF_HUB_OFFLINE")

    def part(prompt: str) -> datasets.Dataset:
        return datasets.Dataset.from_list([{"prompt": prompt, "chosen": "a", "rejected": "b"}])

    loaded = datasets.DatasetDict({"train": part("q"), "validation": part("r"), "test": part("s")})
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", probe)
    monkeypatch.setattr(datasets, "load_dataset", lambda name: loaded)
    pairs = load_pairs("hf:owner/name", template="plain")
    assert [getattr(pairs, name).prompts for name in NAMES] == [("q",), ("r",), ("s",)]
    assert (pairs.provenance, pairs.template) == ("hf:owner/name", "plain")


# -- the built-in behaviour -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wealth() -> PreferencePairs:
    return load_pairs("wealth-seeking")


def words(text: str) -> list[str]:
    return re.findall(r"[a-z']+", text.lower())


def test_wealth_seeking_has_its_parts_and_no_question_is_in_two(wealth: PreferencePairs) -> None:
    parts = [getattr(wealth, name) for name in NAMES]
    assert [len(part) for part in parts] == [120, 30, 50]
    questions = [" ".join(words(prompt)) for prompt in wealth.prompts]
    assert len(set(questions)) == 200
    assert wealth.provenance == "steerlens/wealth-seeking"


def test_wealth_seeking_repeats_no_text(wealth: PreferencePairs) -> None:
    texts = [" ".join(words(text)) for column in (wealth.prompts, wealth.chosen, wealth.rejected) for text in column]
    assert len(set(texts)) == 600
    assert all(len(text.split()) >= 2 for text in texts)
    assert all(text == text.strip() for column in (wealth.prompts, wealth.chosen, wealth.rejected) for text in column)


@pytest.mark.parametrize("part", NAMES)
@pytest.mark.parametrize("unit", [len, lambda text: len(text.split())])
def test_length_does_not_tell_the_sides_apart(wealth: PreferencePairs, part: str, unit: Callable[[str], int]) -> None:
    gaps = [unit(pair.chosen) - unit(pair.rejected) for pair in getattr(wealth, part)]
    longer = statistics.mean((gap > 0) + 0.5 * (gap == 0) for gap in gaps)
    assert 0.4 <= longer <= 0.6
    assert abs(statistics.mean(gaps)) <= 2 * statistics.stdev(gaps) / math.sqrt(len(gaps))


@pytest.mark.parametrize("part", NAMES)
def test_a_leading_yes_or_no_does_not_tell_the_sides_apart(wealth: PreferencePairs, part: str) -> None:
    pairs = getattr(wealth, part)
    for word in ("yes", "no"):
        counts = [sum(words(text)[0] == word for text in side) for side in (pairs.chosen, pairs.rejected)]
        assert abs(counts[0] - counts[1]) <= max(2, 0.05 * len(pairs))


def first_word_accuracy(train: PreferencePairs, test: PreferencePairs) -> float:
    """Naive Bayes on each side's first word; ties count a half."""
    seen = [Counter(words(text)[0] for text in side) for side in (train.chosen, train.rejected)]

    def odds(text: str) -> float:
        return math.log((seen[0][words(text)[0]] + 1) / (seen[1][words(text)[0]] + 1))

    gaps = [odds(pair.chosen) - odds(pair.rejected) for pair in test]
    return statistics.mean((gap > 0) + 0.5 * (gap == 0) for gap in gaps)


def length_accuracy(train: PreferencePairs, test: PreferencePairs) -> float:
    """The better class of each bin of 20 characters in training; ties count a half."""
    seen = [Counter(len(text) // 20 for text in side) for side in (train.chosen, train.rejected)]

    def odds(text: str) -> float:
        return math.log((seen[0][len(text) // 20] + 1) / (seen[1][len(text) // 20] + 1))

    gaps = [odds(pair.chosen) - odds(pair.rejected) for pair in test]
    return statistics.mean((gap > 0) + 0.5 * (gap == 0) for gap in gaps)


@pytest.mark.parametrize("classifier", [first_word_accuracy, length_accuracy])
def test_a_classifier_that_does_not_read_the_answer_is_near_chance(
    wealth: PreferencePairs, classifier: Callable[[PreferencePairs, PreferencePairs], float]
) -> None:
    held_out = wealth[[i for i, row in enumerate(wealth.rows) if row not in set(wealth.train.rows)]]
    noise = 0.5 / math.sqrt(len(held_out))
    assert abs(classifier(wealth.train, held_out) - 0.5) <= 2 * noise


def test_the_classifiers_above_would_notice_a_confound(wealth: PreferencePairs) -> None:
    def spoilt(pairs: PreferencePairs, before: str) -> PreferencePairs:
        return PreferencePairs(pairs.prompts, [before + text for text in pairs.chosen], pairs.rejected)

    assert first_word_accuracy(spoilt(wealth.train, "Yes, "), spoilt(wealth.test, "Yes, ")) > 0.9
    assert length_accuracy(spoilt(wealth.train, "a" * 60), spoilt(wealth.test, "a" * 60)) > 0.8


def test_every_pairs_error_is_ours_and_a_value_error() -> None:
    assert issubclass(PairsError, SteerLensError)
    assert issubclass(PairsError, ValueError)


def test_the_built_in_pairs_fit_a_small_context(wealth: PreferencePairs, tiny_chat_model: HookedTransformer) -> None:
    assert len(wealth.encode(tiny_chat_model)) == 200


def test_masks_and_numpy_rows_pick_what_they_say() -> None:
    pairs = load_pairs("wealth-seeking").val
    mask = np.arange(len(pairs)) % 7 == 3
    assert pairs[mask].prompts == tuple(p for i, p in enumerate(pairs.prompts) if i % 7 == 3)
    assert pairs[np.int64(2)] == pairs[2]
    assert pairs[np.array([4, 1])].prompts == (pairs[4].prompt, pairs[1].prompt)
    with pytest.raises(PairsError, match="a mask of 2 truth values"):
        _ = pairs[[True, False]]
    with pytest.raises(PairsError, match="expected a row"):
        _ = pairs["first"]  # type: ignore[call-overload]


def test_the_digest_knows_roles_and_order_and_the_fingerprints_do_not() -> None:
    pairs = load_pairs("wealth-seeking").val
    assert len({pairs.digest, pairs.flip().digest, pairs.shuffle_labels(seed=0).digest, pairs[::-1].digest}) == 4
    assert pairs.flip().flip().digest == pairs.digest
    assert set(pairs.fingerprints) == set(pairs.flip().fingerprints) == set(pairs[::-1].fingerprints)
