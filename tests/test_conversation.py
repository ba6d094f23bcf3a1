"""Prompts of several turns: to the token what the chat template writes, and texts for everything else."""

import copy
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import CHAT_TEMPLATE, make_tokenizer
from test_chat_templates import GEMMA_2, LLAMA_2, LLAMA_3, MISTRAL_SINCE
from test_pairs import NO_SYSTEM, decoded, metaspace_tokenizer, model_like
from transformer_lens import HookedTransformer

import steerlens as sl
from steerlens.errors import PairsError, SteeringError
from steerlens.generation.generate import Prompts
from steerlens.text.conversation import Conversation, as_prompt
from steerlens.text.encode import Encoder

TALK = [
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Sure."},
    {"role": "user", "content": "Who wants money?"},
]
SYSTEM = {"role": "system", "content": "Speak plainly."}
# No BOS by the template: one in front would be one too many.
PHI = (
    "{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
R1 = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ '<|user|>' + m.content }}{% else %}"
    "{{ '<|assistant|>' + m.content.split('</think>')[-1] + eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|><think>\n' }}{% endif %}"
)
TEMPLATES = {
    "chatml": CHAT_TEMPLATE,
    "gemma": GEMMA_2,
    "llama-2": LLAMA_2,
    "llama-3": LLAMA_3,
    "mistral": MISTRAL_SINCE,
    "phi": PHI,
    "no-system": NO_SYSTEM,
    "r1": R1,
}
MARKS = ["<start_of_turn>", "<end_of_turn>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|end|>"]
MARKS += ["<|user|>", "<|assistant|>", "<|im_start|>", "<|im_end|>"]


def chat(name: str, *, metaspace: bool = False) -> Any:
    tokenizer = metaspace_tokenizer() if metaspace else make_tokenizer("plain")
    tokenizer.add_special_tokens({"additional_special_tokens": MARKS})
    tokenizer.chat_template = TEMPLATES[name]
    return tokenizer


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_conversation_and_its_rendering_are_the_templates_own_tokens(name: str) -> None:
    for metaspace in (False, True):
        tokenizer = chat(name, metaspace=metaspace)
        model = model_like(tokenizer)
        pairs = sl.PreferencePairs([TALK], ["Nobody."], ["You."])
        (pair,) = pairs.encode(model)
        whole = tokenizer.apply_chat_template([*TALK, {"role": "assistant", "content": "Nobody."}], return_dict=False)
        got = [*pair.prompt, *pair.chosen]
        assert whole[: len(got)] == got
        assert decoded(tokenizer, whole[len(got) :]).strip() == ""
        assert got[-1] == Encoder(model).end_of_turn()
        written = tokenizer.apply_chat_template(TALK, tokenize=False, add_generation_prompt=True)
        rendered = sl.PreferencePairs([written], ["Nobody."], ["You."], template="plain")
        assert rendered.encode(model) == [pair]
        by_function = sl.PreferencePairs(["x"], ["Nobody."], ["You."], template=lambda _, text=written: text)
        assert by_function.encode(model) == [pair]
        start = tokenizer.apply_chat_template(TALK, add_generation_prompt=True, return_dict=False)
        for prompt, template in ((Conversation(pairs[0].prompt.turns), "auto"), (written, "plain")):  # type: ignore[attr-defined]
            encoder = Encoder(model, template)  # type: ignore[arg-type]
            assert encoder.generation_prompt(prompt) == start
            assert Encoder(model).end_of_turn() in encoder.ends([prompt])


def test_a_rendered_text_without_its_bos_gets_it_and_a_started_answer_ends_as_the_template_ends_it() -> None:
    tokenizer = chat("gemma")
    model = model_like(tokenizer)
    written = tokenizer.apply_chat_template(TALK, tokenize=False, add_generation_prompt=True)
    encoder = Encoder(model, "plain")
    assert encoder.pair(written.removeprefix("<s>"), "a", "b") == encoder.pair(written, "a", "b")
    started = encoder.pair(f"{written}Well, ", "nobody.", "you.")
    assert started.chosen[-1] == Encoder(model).end_of_turn() != tokenizer.eos_token_id
    assert encoder.pair("Who wants money?", "a", "b").chosen[-1] == tokenizer.eos_token_id  # running text


def test_a_system_turn_is_written_where_the_template_has_it() -> None:
    for name in ("chatml", "llama-3", "gemma", "no-system"):
        model = model_like(chat(name))
        inside = Encoder(model).prompt(as_prompt([SYSTEM, *TALK]))
        assert inside == Encoder(model, "auto", "Speak plainly.").prompt(as_prompt(TALK))
        with pytest.raises(PairsError, match="system turn of its own"):
            Encoder(model, "auto", "Be kind.").prompt(as_prompt([SYSTEM, *TALK]))


def test_pairs_of_conversations_are_pairs_like_any_other() -> None:
    talks = [[*TALK[:2], {"role": "user", "content": f"Who {i}?"}] for i in range(8)]
    pairs = sl.PreferencePairs(talks, ["yes"] * 8, ["no"] * 8)
    assert pairs[0].prompt == "user: Hi\n\nassistant: Sure.\n\nuser: Who 0?"
    assert pairs[2:4].prompts == pairs.prompts[2:4]
    assert pairs.flip()[0].chosen == "no"
    assert pairs.flip().fingerprints == pairs.fingerprints
    assert len(set(pairs.fingerprints)) == 8
    parts = pairs.split(seed=1)
    assert sorted(row for part in parts for row in part.rows) == list(range(8))
    for kept in (copy.deepcopy(pairs), pickle.loads(pickle.dumps(pairs)), pairs[:], pairs.shuffle_labels(seed=0)):
        assert all(isinstance(prompt, Conversation) and len(prompt.turns) == 3 for prompt in kept.prompts)
    assert json.loads(json.dumps(pairs.prompts))[0] == str(pairs.prompts[0])
    text = sl.PreferencePairs([str(prompt) for prompt in pairs.prompts], ["yes"] * 8, ["no"] * 8)
    assert pairs.digest != text.digest  # the same words in other turns are other prompts
    one = sl.PreferencePairs([[{"role": "user", "content": "Who?"}]], ["yes"], ["no"])
    assert (type(one.prompts[0]), one.prompts) == (str, ("Who?",))
    with pytest.raises(PairsError, match="conversations"):
        pairs.as_choices()


def test_conversations_can_be_trained_on_asked_and_saved(tiny_chat_model: HookedTransformer, tmp_path: Path) -> None:
    pairs = sl.PreferencePairs([TALK, TALK[2:]], ["Nobody should.", "Yes"], ["You should.", "No"])
    vector = sl.extract_caa(tiny_chat_model, pairs, layer=1, position="mean")
    shift = sl.preference_shift(tiny_chat_model, vector, pairs, multipliers=(0, 1), allow_seen=True, progress=False)
    assert set(shift.to_frame()["prompt"]) == set(pairs.prompts)
    said = sl.answers(tiny_chat_model, vector, [TALK], multipliers=(0,), max_new_tokens=5, progress=False)
    (text,) = sl.generate(tiny_chat_model, [TALK], max_new_tokens=5, progress=False)
    assert said.texts[0][0][0][0] == text[0]
    said.save(tmp_path / "said.json")
    assert said.prompts == (pairs.prompts[0],)
    assert not sl.inspect(tiny_chat_model, pairs, progress=False, margin=False).shared_prompts
    asked = Prompts(tiny_chat_model, [TALK], 5)
    tokenizer: Any = tiny_chat_model.tokenizer
    assert asked.tokens == [tokenizer.apply_chat_template(TALK, add_generation_prompt=True, return_dict=False)]
    assert torch.isfinite(vector.tensor).all()


def test_what_is_no_conversation_is_refused_with_what_was_expected(tiny_chat_model: HookedTransformer) -> None:
    user, said = TALK[0], TALK[1]
    for wrong in ([], [said], [user, said], [user, user], [said, user], [user, SYSTEM, said, user], [SYSTEM],
                  [{"role": "user"}], [{"role": "user", "content": None}], ["Hi"], [{**user, "content": " "}, said, user],
                  [{**user, "tool_calls": [{}]}]):  # fmt: skip
        with pytest.raises(PairsError, match=r"conversation|turn"):
            sl.PreferencePairs([wrong], ["a"], ["b"])
        with pytest.raises(PairsError, match=r"conversation|turn"):
            sl.generate(tiny_chat_model, [wrong], progress=False)
    with pytest.raises(SteeringError, match="a list of messages each"):
        sl.generate(tiny_chat_model, TALK, progress=False)  # one conversation, not in a list


@pytest.mark.parametrize("template", ["plain", "llama-2", "vicuna", str.upper])
def test_a_template_without_turns_refuses_a_conversation(template: Any) -> None:
    with pytest.raises(PairsError, match="template='auto'"):
        Encoder(model_like(chat("chatml")), template).prompt(as_prompt(TALK))
    with pytest.raises(PairsError, match="chat_template"):
        Encoder(model_like(make_tokenizer("plain"))).prompt(as_prompt(TALK))


def test_a_turn_that_the_template_leaves_out_is_told(caplog: pytest.LogCaptureFixture) -> None:
    tokenizer = chat("chatml")
    tokenizer.chat_template = (
        "{% for m in messages[-2:] %}{{ '<|' + m.role + '|>' + m.content + eos_token }}{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    Encoder(model_like(tokenizer)).prompt(as_prompt(TALK))
    assert "does not write the turn 'Hi'" in caplog.text
