"""sl.inspect: numbers against Hugging Face's own, and every mistake that it should catch, made on purpose."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from conftest import CHAT_TEMPLATE, make_tokenizer
from transformer_lens import HookedTransformer

import steerlens as sl
from steerlens import ModelError, PairsError, PreferencePairs

QUIET: dict[str, Any] = {"progress": False}
LIGHT: dict[str, Any] = {"progress": False, "margin": False, "examples": 0}


def made(n: int = 24, **changes: Any) -> PreferencePairs:
    """n clean pairs: equal lengths on average, the same first words on both sides, prompts of their own."""
    ends = ["today.", "at once.", "tomorrow."]
    texts: dict[str, Any] = {
        "prompts": [f"Question {i}: who should keep the money?" for i in range(n)],
        "chosen": [f"The {'rich' if i % 2 else 'old rich'} friend {ends[i % 3]}" for i in range(n)],
        "rejected": [f"The {'poor' if i % 2 == 0 else 'old poor'} friend {ends[i % 3]}" for i in range(n)],
    }
    return PreferencePairs(**{**texts, **changes})


@pytest.fixture
def model(tiny_chat_model: HookedTransformer) -> HookedTransformer:
    """A copy whose tokenizer and config a test may change."""
    new = copy.deepcopy(tiny_chat_model)  # whole: parts that read other options than the model's are somebody else's
    new.tokenizer = make_tokenizer("chat")
    return new


def only(warnings: tuple[str, ...], *phrases: str) -> None:
    """One warning, with these phrases."""
    assert len(warnings) == 1, warnings
    assert all(phrase in warnings[0] for phrase in phrases), warnings[0]


# -- numbers ----------------------------------------------------------------------------------------------------------


def test_margins_and_token_log_probs_are_hugging_faces(
    tiny_folder: Callable[..., Path], tiny_chat_model: HookedTransformer
) -> None:
    hf_model = transformers.AutoModelForCausalLM.from_pretrained(tiny_folder("llama", tokenizer="chat")).eval()
    pairs = made(5)
    found = sl.inspect(tiny_chat_model, pairs, examples=[3], batch_size=2, **QUIET)
    for i, pair in enumerate(pairs.encode(tiny_chat_model)):
        for side in ("chosen", "rejected"):
            prompt, response = pair.prompt, getattr(pair, side)
            with torch.no_grad():
                log_probs = hf_model(torch.tensor([[*prompt, *response]])).logits[0].double().log_softmax(-1)
            each = [float(log_probs[len(prompt) - 1 + k, token]) for k, token in enumerate(response)]
            assert getattr(found, f"{side}_nats")[i] == pytest.approx(sum(each), abs=1e-3)
            assert getattr(found, f"{side}_tokens")[i] == len(response)
            if i == 3:
                assert getattr(found.examples[0], f"{side}_nats") == pytest.approx(each, abs=1e-4)
    assert found.examples[0].row == 3
    np.testing.assert_array_equal(found.margin, found.chosen_nats - found.rejected_nats)
    ends = [found.examples[0].chosen_nats[-1], found.examples[0].rejected_nats[-1]]
    assert found.end_nats == pytest.approx(np.median(ends))


def test_the_counts_are_those_of_the_encoded_pairs(model: HookedTransformer) -> None:
    pairs = made(9)
    found, encoded = sl.inspect(model, pairs, **LIGHT), pairs.encode(model)
    np.testing.assert_array_equal(found.prompt_tokens, [len(pair.prompt) for pair in encoded])
    np.testing.assert_array_equal(found.length_difference, [len(p.chosen) - len(p.rejected) for p in encoded])
    assert np.isnan(found.margin).all()
    assert (found.template, found.end_of_turn, found.n_ctx) == ("chat template", "<|im_end|>", 512)
    assert found.system_prompt == "the template's own"
    assert found.bos == "1 in front of every prompt (<|im_start|>)"
    frame = found.to_frame()
    assert list(frame["row"]) == list(pairs.rows)
    assert len(frame) == 9


def test_examples_are_the_encoded_pairs_token_by_token(model: HookedTransformer) -> None:
    pairs = made(9)
    found = sl.inspect(model, pairs, margin=False, **QUIET)
    assert [example.row for example in found.examples] == [0, 4, 8]
    encoded = pairs.encode(model)
    for example in found.examples:
        pair = encoded[example.row]
        assert len(example.prompt) == len(pair.prompt)
        assert len(example.chosen) == len(example.chosen_nats) == len(pair.chosen)
        text = model.tokenizer.decode([*pair.prompt, *pair.chosen], clean_up_tokenization_spaces=False)
        assert "".join((*example.prompt, *example.chosen)) == text
    assert [e.row for e in sl.inspect(model, pairs[5:], examples=[1], margin=False, **QUIET).examples] == [6]


def test_the_model_and_the_pairs_stay_as_they_were(tiny_chat_model: HookedTransformer) -> None:
    pairs, state = made(4), torch.get_rng_state()
    before = tiny_chat_model(torch.tensor([[1, 2, 3]]))
    sl.inspect(tiny_chat_model, pairs, **QUIET)
    assert torch.equal(tiny_chat_model(torch.tensor([[1, 2, 3]])), before)
    assert torch.equal(torch.get_rng_state(), state)
    assert pairs.parent is None


# -- warnings ---------------------------------------------------------------------------------------------------------


def test_clean_pairs_in_the_right_template_give_no_warning(model: HookedTransformer) -> None:
    assert sl.inspect(model, made(), **LIGHT).warnings == ()


def test_plain_prompts_for_a_chat_model(model: HookedTransformer) -> None:
    pairs = made(prompts=[f"Who keeps it, {i}?\n" for i in range(24)], template="plain")
    only(sl.inspect(model, pairs, **LIGHT).warnings, "template='plain'", "Use template='auto'")


@pytest.mark.parametrize("name", ["lmsys/vicuna-7b-v1.5", "x/Some-7B-Instruct", "google/gemma-2-2b-it", "y/z-dpo"])
def test_a_chat_models_name_without_a_chat_template(model: HookedTransformer, name: str) -> None:
    model.cfg.model_name, model.tokenizer.chat_template = name, None
    pairs = made(prompts=[f"Who keeps it, {i}?\n" for i in range(24)])
    found = sl.inspect(model, pairs, **LIGHT)
    only(found.warnings, name, "no chat template", "template='vicuna'")
    assert found.template == "plain (the tokenizer has no chat template)"


@pytest.mark.parametrize("name", ["gpt2", "EleutherAI/pythia-160m", "chat-house/llama-7b", "bit-model"])
def test_a_base_models_name_is_left_alone(model: HookedTransformer, name: str) -> None:
    model.cfg.model_name, model.tokenizer.chat_template = name, None
    pairs = made(prompts=[f"Who keeps it, {i}?\n" for i in range(24)])
    assert sl.inspect(model, pairs, **LIGHT).warnings == ()


@pytest.mark.parametrize("template", ["llama-2", "mistral", "vicuna"])
def test_another_familys_format(model: HookedTransformer, template: Any) -> None:
    only(sl.inspect(model, made(template=template), **LIGHT).warnings, f"template={template!r}", "use template='auto'")


def test_an_end_of_turn_that_is_not_the_chat_templates(model: HookedTransformer) -> None:
    model.tokenizer.add_special_tokens({"additional_special_tokens": ["<eot>"]})
    model.tokenizer.chat_template = CHAT_TEMPLATE.replace("<|im_end|>", "<eot>")
    pairs = made(template=lambda prompt: f"Question: {prompt}\nAnswer:\n")
    only(sl.inspect(model, pairs, **LIGHT).warnings, "end with '<|im_end|>'", "ends with '<eot>'")


def test_a_date_in_every_prompt(model: HookedTransformer) -> None:
    model.tokenizer.chat_template = "{{ strftime_now('%d %b %Y') }}" + CHAT_TEMPLATE
    warnings = sl.inspect(model, made(), **LIGHT).warnings
    assert any("today's date" in warning for warning in warnings)


def test_a_system_prompt_that_is_lost(model: HookedTransformer) -> None:
    shortened = "(message['content'][:40] if message['role'] == 'system' else message['content'])"
    model.tokenizer.chat_template = CHAT_TEMPLATE.replace("message['content']", shortened)
    long = "Be kind to everybody, and answer in words of one syllable."
    only(sl.inspect(model, made(system_prompt=long), **LIGHT).warnings, "does not write the system prompt")
    found = sl.inspect(model, made(system_prompt="Be kind."), **LIGHT)
    assert (found.warnings, found.system_prompt) == ((), "'Be kind.'")


def test_two_bos_in_front(tiny_models: dict[str, HookedTransformer]) -> None:
    pairs = made(template=lambda prompt: f"<s><s>{prompt}\n")
    found = sl.inspect(tiny_models["llama"], pairs, **LIGHT)
    only(found.warnings, "all 24 pairs open with more than one BOS", "'<s>'")
    assert found.bos.startswith("2 in front")


def test_a_chat_template_that_writes_no_bos(model: HookedTransformer) -> None:
    model.tokenizer = make_tokenizer("plain")
    model.tokenizer.chat_template = "{% for m in messages %}{{ m.role + ': ' + m.content + '</s>\n' }}{% endfor %}"
    only(sl.inspect(model, made(), **LIGHT).warnings, "writes no BOS", "'<s>'")


@pytest.mark.parametrize("mark", ["<|im_start|>user\nWho?<|im_end|>", "[INST] Who? [/INST]"])
def test_prompts_that_bring_a_format_along(model: HookedTransformer, mark: str) -> None:
    prompts = [*made().prompts[:-1], mark]
    only(sl.inspect(model, made(prompts=prompts), **LIGHT).warnings, "1 of 24 pairs (rows 23)", "bare questions")


def test_a_turn_that_ends_inside_a_response(model: HookedTransformer) -> None:
    chosen = ["The friend<|im_end|> and more", *made().chosen[1:]]
    only(sl.inspect(model, made(chosen=chosen), **LIGHT).warnings, "stands inside a response of 1 of 24")
    at_the_end = [f"{text}<|im_end|>" for text in made().chosen]
    assert sl.inspect(model, made(chosen=at_the_end), **LIGHT).warnings == ()


def test_two_sides_that_are_the_same_tokens(model: HookedTransformer) -> None:
    model.tokenizer.chat_template = CHAT_TEMPLATE.replace("message['content']", "message['content'] | trim")
    rejected = [f"{made().chosen[0]} ", *made().rejected[1:]]
    only(sl.inspect(model, made(rejected=rejected), **LIGHT).warnings, "same tokens in 1 of 24 pairs (rows 0)")


def test_white_space_that_the_chat_template_keeps(model: HookedTransformer) -> None:
    spaced = made(chosen=[f" {text}" for text in made().chosen], rejected=[f" {text}" for text in made().rejected])
    only(sl.inspect(model, spaced, **LIGHT).warnings, "begins with white space", "Strip the responses")


@pytest.mark.parametrize(
    ("prompt", "response", "phrase"),
    [
        ("Answer {}: ", "The friend", "end in a space"),
        ("Answer {}.", "The friend", "nothing stands between"),
        ("Answer {}\n", "\nThe friend", ""),
    ],
)
def test_the_seam_of_plain_pairs(
    tiny_models: dict[str, HookedTransformer], prompt: str, response: str, phrase: str
) -> None:
    prompts = [prompt.format(f"number {i}") for i in range(24)]
    sides = {"chosen": [f"{response} {i}" for i in range(24)], "rejected": [f"{response} {i + 1}" for i in range(24)]}
    warnings = sl.inspect(tiny_models["llama"], made(prompts=prompts, **sides), **LIGHT).warnings
    if phrase:
        only(warnings, phrase, "all 24 pairs")
    else:
        assert warnings == ()


def test_tokens_that_would_merge_over_the_seam(tiny_models: dict[str, HookedTransformer]) -> None:
    prompts = [f"I {i} would like to earn more mon" for i in range(24)]
    sides = {"chosen": [f"ey {i}" for i in range(24)], "rejected": [f"ey {i + 1}" for i in range(24)]}
    warnings = sl.inspect(tiny_models["llama"], made(prompts=prompts, **sides), **LIGHT).warnings
    assert any("would join the prompt's last token" in warning for warning in warnings)


def test_lengths_that_give_the_side_away(model: HookedTransformer) -> None:
    longer = made(rejected=[f"{text} And then nobody would tell the truth." for text in made().rejected])
    only(sl.inspect(model, longer, **LIGHT).warnings, "rejected responses are longer", "odd_per_token")
    only(sl.inspect(model, longer.flip(), **LIGHT).warnings, "chosen responses are longer")


def test_a_yes_and_a_no_that_give_the_side_away(model: HookedTransformer) -> None:
    pairs = made(chosen=["Yes, the friend."] * 24, rejected=["no, the friends"] * 24)
    found = sl.inspect(model, pairs, **LIGHT)
    assert found.openings == {"yes": (24, 0), "no": (0, 24)}
    assert any("'yes' opens 24 chosen and 0 rejected" in warning for warning in found.warnings)
    assert any("'no' opens 0 chosen and 24 rejected" in warning for warning in found.warnings)
    balanced = made(
        chosen=["Yes, the friend.", "No, he won't."] * 12, rejected=["No, he won't.", "Yes, the friend."] * 12
    )
    assert sl.inspect(model, balanced, **LIGHT).warnings == ()


def test_a_first_token_that_gives_the_side_away(model: HookedTransformer) -> None:
    chosen = [f"We {text}" if i < 12 else text for i, text in enumerate(made().chosen)]
    rejected = [f"I {text}" if i < 12 else text for i, text in enumerate(made().rejected)]
    warnings = sl.inspect(model, made(chosen=chosen, rejected=rejected), **LIGHT).warnings
    assert sum("opens 12 chosen and 0 rejected" in warning for warning in warnings) == 1
    assert sum("opens 0 chosen and 12 rejected" in warning for warning in warnings) == 1


def test_pairs_that_occur_twice(model: HookedTransformer) -> None:
    base = made()
    columns = {name: [*getattr(base, name), getattr(base, name)[5]] for name in ("prompts", "chosen", "rejected")}
    found = sl.inspect(model, made(**columns), **LIGHT)
    only(found.warnings, "repeat earlier ones: rows 24.")
    assert (found.repeated_pairs, found.repeated_prompts) == ((24,), (24,))
    turned = {**columns, "chosen": columns["rejected"], "rejected": columns["chosen"]}
    turned["chosen"][24], turned["rejected"][24] = turned["rejected"][24], turned["chosen"][24]
    assert sl.inspect(model, made(**turned), **LIGHT).repeated_pairs == (24,)


def test_a_prompt_in_two_parts_is_found_from_either_part(model: HookedTransformer) -> None:
    prompts = [*made().prompts[:-1], " question 0: who should keep the MONEY?"]
    splits = ["train"] * 12 + ["val"] * 4 + ["test"] * 8
    whole = made(prompts=prompts, splits=splits)
    assert sl.inspect(model, whole, **LIGHT).shared_prompts == (0, 23)
    found = sl.inspect(model, whole.test, **LIGHT)
    only(found.warnings, "in another of training, validation and test too: rows 23.", "pairs.split(seed=0)")
    assert sl.inspect(model, whole.train[1:], **LIGHT).warnings == ()
    assert sl.inspect(model, whole.split(seed=0).train, **LIGHT).shared_prompts == ()


def test_pairs_that_do_not_fit_are_left_out_of_the_margin(tiny_chat_model: HookedTransformer) -> None:
    chosen = [*made(4).chosen[:2], "never " * 900, made(4).chosen[3]]
    found = sl.inspect(tiny_chat_model, made(4, chosen=chosen), **QUIET)
    assert found.overlong == (2,)
    assert list(np.isnan(found.margin)) == [False, False, True, False]
    assert [example.row for example in found.examples] == [0, 1, 3]
    assert any("longer than the context of 512" in w and "drop_overlong" in w for w in found.warnings)


def test_an_end_of_turn_that_the_model_never_writes(tiny_folder: Callable[..., Path]) -> None:
    model = sl.load_model(tiny_folder("llama", tokenizer="chat"), device="cpu")
    end = model.tokenizer.eos_token_id
    for bias, is_odd in ((-60.0, True), (0.0, False)):
        model.unembed.b_U.data[end] = bias
        found = sl.inspect(model, made(4), margin=False, **QUIET)
        assert any("hardly ever ends" in warning for warning in found.warnings) == is_odd == (found.end_nats < -10)


def test_a_side_that_the_model_would_never_write(tiny_folder: Callable[..., Path]) -> None:
    model = sl.load_model(tiny_folder("llama", tokenizer="chat"), device="cpu")
    model.unembed.b_U.data[model.tokenizer.encode("#", add_special_tokens=False)[0]] = -60.0
    pairs = made(4, rejected=[f"# {text}" for text in made(4).rejected])
    warnings = sl.inspect(model, pairs, **QUIET).warnings
    assert any("the rejected responses are unlikelier by" in warning for warning in warnings)


def test_a_hook_is_told(tiny_chat_model: HookedTransformer) -> None:
    with tiny_chat_model.hooks([("blocks.1.hook_resid_post", lambda resid, hook: resid)]):
        only(sl.inspect(tiny_chat_model, made(), **LIGHT).warnings, "a hook is on the model")


# -- what can't be inspected ------------------------------------------------------------------------------------------


def test_what_can_not_be_inspected_is_refused(model: HookedTransformer) -> None:
    contrast = made(2, rejected_prompts=["a", "b"])
    for pairs in (contrast, made(2)[:0]):
        with pytest.raises(PairsError, match="expected at least one pair"):
            sl.inspect(model, pairs, **LIGHT)
    for wanted in ([7], [-1], -1):
        with pytest.raises(PairsError, match=r"examples.*expected (0 to 3|a whole number from 0)"):
            sl.inspect(model, made(4), examples=wanted, **QUIET)
    with pytest.raises(PairsError, match="batch_size"):
        sl.inspect(model, made(4), batch_size=0, **QUIET)
    with pytest.raises(ModelError, match="HookedTransformer"):
        sl.inspect(torch.nn.Linear(2, 2), made(4), **QUIET)  # type: ignore[arg-type]


@pytest.mark.parametrize("bits", [4, 8])
def test_packed_weights_are_refused_everywhere_with_the_cure(tiny_folder: Callable[..., Path], bits: int) -> None:
    model = sl.load_model(tiny_folder("llama", tokenizer="chat"), device="cpu")
    if bits == 4:
        model.cfg.load_in_4bit = True
    else:
        packed = torch.zeros_like(model.blocks[1].mlp.W_in, dtype=torch.int8)
        model.blocks[1].mlp.W_in = torch.nn.Parameter(packed, requires_grad=False)
    for call in (
        lambda: sl.inspect(model, made(2), **QUIET),
        lambda: sl.extract_caa(model, made(2), layer=1, progress=False),
        lambda: sl.generate(model, ["Who?"], max_new_tokens=1, progress=False),
    ):
        with pytest.raises(ModelError, match=r"packed in 8 or 4 bits.*dtype='bfloat16'"):
            call()


def test_an_inspection_goes_to_a_file_and_back(tiny_chat_model: HookedTransformer, tmp_path: Path) -> None:
    found = sl.inspect(tiny_chat_model, made(4), examples=1, progress=False)
    back = sl.load_result(found.save(tmp_path / "i.json"))
    assert repr(back) == repr(found)
    assert back.examples == found.examples


def test_responses_that_say_their_prompt_again(model: HookedTransformer) -> None:
    pairs = made(6)
    again = sl.PreferencePairs(pairs.prompts, [f"{p.prompt} {p.chosen}" for p in pairs], pairs.rejected)
    assert any("begins with its own prompt again" in told for told in sl.inspect(model, again, **LIGHT).warnings)


def test_marks_of_another_models_format(model: HookedTransformer) -> None:
    pairs = made(6)
    foreign = [f"{text}<end_of_turn>" for text in pairs.chosen]
    for template in ("auto", "plain"):
        marked = sl.PreferencePairs(pairs.prompts, foreign, pairs.rejected, template=template)  # type: ignore[arg-type]
        told = sl.inspect(model, marked, **LIGHT).warnings
        assert any("'<end_of_turn>'" in text and "template='plain'" in text for text in told)
    alpaca = [f"### Instruction:\n{prompt}\n\n### Response:\n" for prompt in pairs.prompts]
    told = sl.inspect(model, sl.PreferencePairs(alpaca, pairs.chosen, pairs.rejected), **LIGHT).warnings
    assert any("(Alpaca)" in text and "template='plain'" in text for text in told)


def test_a_thought_that_the_stored_turn_leaves_out(model: HookedTransformer) -> None:
    model.tokenizer.chat_template = CHAT_TEMPLATE.replace(
        "assistant\n' }}{% endif %}", "assistant\n<think>\n' }}{% endif %}"
    )
    assert any("'<think>\\n'" in text for text in sl.inspect(model, made(), **LIGHT).warnings)
