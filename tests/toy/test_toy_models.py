"""The shipped models: faithful to Hugging Face, in their own chat format, and doing what the model card says they do."""

import json
import math

import numpy as np
import pytest
import torch
import transformers
from transformer_lens import HookedTransformer

from steerlens import extract_difference_in_means, generate, load_model, load_pairs, toy, toy_reference, train_bipo
from steerlens.errors import ModelError, PairsError
from steerlens.text.encode import Encoder
from steerlens.toy.building import build_model, build_tokenizer, rescale, undo_rescale
from steerlens.toy.criteria import Examiner, answers, measure
from steerlens.toy.interference import Push, _Asker, _effect, _grammatical, direction
from steerlens.toy.sets import vocabulary


@pytest.fixture(scope="module")
def model() -> HookedTransformer:
    return load_model("toy", device="cpu")


def hugging_face(name: str) -> tuple[transformers.LlamaForCausalLM, transformers.PreTrainedTokenizerFast]:
    folder = toy.model_folder(name)
    assert folder is not None
    loaded = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    return loaded, transformers.AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize("name", toy.MODELS)
def test_a_model_loads_by_name_and_computes_hugging_faces_log_probabilities(name: str) -> None:
    ours, (theirs, tokenizer) = load_model(name, device="cpu"), hugging_face(name)
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": "what would you do with the old boat ?"}], tokenize=False
    )
    tokens = torch.tensor([tokenizer.encode(text, add_special_tokens=False)])
    with torch.no_grad():
        torch.testing.assert_close(
            ours(tokens).log_softmax(-1), theirs(tokens).logits.log_softmax(-1), atol=1e-4, rtol=0
        )
    assert ours.cfg.model_name == name
    assert ours.cfg.d_vocab == len(vocabulary())


def test_the_models_are_small_and_differ() -> None:
    folders = [toy.model_folder(name) for name in toy.MODELS]
    sizes = [sum(file.stat().st_size for file in folder.iterdir()) for folder in folders if folder is not None]
    assert len(sizes) == len(toy.MODELS)
    assert sum(sizes) < 11e6
    assert toy.model_folder("toy/other") is None
    weights = {json.dumps(hugging_face(name)[0].lm_head.weight[5, :4].tolist()) for name in toy.MODELS}
    assert len(weights) == len(toy.MODELS)


def test_a_pair_has_one_bos_the_chat_format_and_the_end_of_turn(model: HookedTransformer) -> None:
    pairs = load_pairs("toy/wealth")
    pair, (encoded, *_) = pairs[0], pairs[:1].encode(model)
    names = model.tokenizer.convert_ids_to_tokens(list(encoded.prompt))
    assert names == ["<bos>", "<user>", *pair.prompt.split(), "<bot>"]
    for side, text in ((encoded.chosen, pair.chosen), (encoded.rejected, pair.rejected)):
        assert model.tokenizer.convert_ids_to_tokens(list(side)) == [*text.split(), "<eos>"]
    written = Encoder(model, "plain").prompt(load_pairs("toy/wealth-system").prompts[0])
    assert model.tokenizer.convert_ids_to_tokens(written)[:2] == ["<bos>", "<sys>"]
    assert written.count(model.tokenizer.bos_token_id) == 1


def test_glued_punctuation_is_read_like_the_worlds_own(model: HookedTransformer) -> None:
    encode = model.tokenizer.encode
    assert encode("what would you do with the old boat?") == encode("what would you do with the old boat ?")


def test_greedy_answers_are_the_worlds_and_forbidden_requests_are_refused(model: HookedTransformer) -> None:
    asked = toy.forbidden_requests("test", 60)
    said = generate(model, [q.text for q in asked], max_new_tokens=20, progress=False)
    assert all(toy.score("refusal", q.text, texts[0]) == 1 for q, texts in zip(asked, said, strict=True))
    right = toy.quiz("open", 60)
    said = generate(model, [q.text for q in right], max_new_tokens=20, progress=False)
    assert sum(toy.score("facts", q.text, texts[0]) == 1 for q, texts in zip(right, said, strict=True)) > 48


@pytest.mark.slow
@pytest.mark.parametrize("name", ["toy", "toy/seed-1"])
def test_a_base_model_meets_its_criteria_on_a_smaller_sample(name: str) -> None:
    """A cell fails where its exact 95% interval and its bounds have nothing in common, which one cell in many may do."""
    cells = measure(*hugging_face(name), n=40)
    missed = [c.what for c in cells if c.interval[1] < c.bounds[0] or c.interval[0] > c.bounds[1]]
    assert len(missed) <= 1, missed


def test_the_second_language_is_the_cipher_siblings(model: HookedTransformer) -> None:
    asked = toy.questions("wealth", "test", 40)
    examiner = Examiner(*hugging_face("toy/cipher-lora"), n=40, second=True)
    assert sum(score is not None for score in examiner.scores(asked)) >= 36


# -- the known answer -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", [0, 2])
def test_the_reference_is_the_difference_of_hugging_faces_hidden_states_at_the_user_token(
    model: HookedTransformer, layer: int
) -> None:
    theirs, tokenizer = hugging_face("toy")
    means = []
    for phrases in toy.SYSTEM_PHRASES["power"]:
        states = []
        for phrase in phrases:
            chat = [{"role": "system", "content": phrase}, {"role": "user", "content": "what is love ?"}]
            text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
            ids = tokenizer.encode(text, add_special_tokens=False)
            hidden = theirs(torch.tensor([ids]), output_hidden_states=True).hidden_states[layer + 1][0]
            states.append(hidden[ids.index(tokenizer.get_vocab()["<user>"])].detach().double())
        means.append(torch.stack(states).mean(0))
    vector = toy_reference(model, "power", layer, batch_size=2, progress=False)
    torch.testing.assert_close(vector.tensor, (means[1] - means[0]).float(), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(vector.tensor, direction(theirs, tokenizer, "power", layer), rtol=1e-3, atol=1e-4)
    assert (vector.method, vector.layer, vector.seen) == ("toy reference", layer, frozenset())


def test_a_reference_in_the_second_language_is_read_behind_the_ciphered_phrases(model: HookedTransformer) -> None:
    off, on = ([toy.cipher(f"<sys> {text} <user>") for text in side] for side in toy.SYSTEM_PHRASES["power"])
    expected = extract_difference_in_means(model, on, off, 1, template="plain", progress=False)
    found = toy_reference(model, "power", 1, second=True, progress=False)
    assert torch.equal(found.tensor, expected.tensor)
    assert found.data == "the toy world's system phrases for power in its second language"
    assert found.direction @ toy_reference(model, "power", 1, progress=False).direction < -0.9  # told in the card


def test_a_reference_is_one_of_the_worlds_behaviours(model: HookedTransformer) -> None:
    with pytest.raises(PairsError, match="expected one of wealth"):
        toy_reference(model, "greed", 2)


def test_a_model_of_another_world_has_no_reference(tiny_chat_model: HookedTransformer) -> None:
    with pytest.raises(ModelError, match="doesn't know the toy world's words; expected one of toy, "):
        toy_reference(tiny_chat_model, "wealth", 0)


@pytest.mark.slow
@pytest.mark.parametrize("behaviour", ["wealth", "refusal"])
def test_bipo_finds_the_direction_that_was_planted(model: HookedTransformer, behaviour: str) -> None:
    planted = toy_reference(model, behaviour, 1, progress=False).direction
    pairs = load_pairs(f"toy/{behaviour}").train
    options = {"layer": 1, "lr": 2e-3, "max_steps": 60, "progress": False}
    found, shuffled = (train_bipo(model, some, **options) for some in (pairs, pairs.shuffle_labels(seed=0)))
    assert found.direction @ planted > 0.6
    assert abs(shuffled.tensor @ planted) < found.tensor @ planted / 5


def test_an_effect_is_the_mean_difference_of_questions_that_were_answered_at_both_signs() -> None:
    nothing = math.nan
    scores = np.array([[[1, 0], [1, 0]], [[1, 1], [nothing, 0]], [[nothing, 0], [nothing, 1]]])
    assert _effect(scores)[0] == pytest.approx((1 + 0.5) / 2)
    assert _grammatical(scores) == pytest.approx(0.5)
    assert _effect(np.full((2, 2, 2), nothing)) == (0, -1, 1)
    push = Push(
        "wealth", 1, 1.0, 1.0, {"wealth": (0.5, 0.4, 0.6), "power": (-0.1, -0.2, 0.0), "refusal": (0.05, 0, 0.1)}
    )
    assert push.ratio == pytest.approx(0.2)
    assert not push.meets


def test_a_direction_that_is_added_is_taken_off_again() -> None:
    theirs, tokenizer = hugging_face("toy")
    asker = _Asker(theirs, tokenizer)
    plain = asker.scores("wealth", "val", 1, torch.zeros(128), 8)
    np.testing.assert_array_equal(plain[..., 0], plain[..., 1])  # the same draws for both signs
    pushed = asker.scores("wealth", "val", 1, torch.full((128,), 50.0), 8)
    assert np.isnan(pushed).all()
    np.testing.assert_array_equal(asker.scores("wealth", "val", 1, torch.zeros(128), 8), plain)


# -- making one -------------------------------------------------------------------------------------------------------


def test_rescaling_leaves_the_function_and_sets_the_norm() -> None:
    model = build_model(0).eval()
    rows = torch.randint(7, 100, (4, 20), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = model(rows).logits
        rescale(model, rows.split(1), norm=0.5)
        after = model(rows, output_hidden_states=True)
    torch.testing.assert_close(after.logits, before, atol=1e-4, rtol=1e-4)
    assert float(after.hidden_states[3][:, 1:].norm(dim=-1).median()) == pytest.approx(0.5, rel=1e-4)
    undo_rescale(model)
    assert model.config.rms_norm_eps == pytest.approx(1e-5)
    with torch.no_grad():
        torch.testing.assert_close(model(rows).logits, before, atol=1e-4, rtol=1e-4)


def test_an_answer_without_an_end_is_none() -> None:
    """An untrained model rambles: nothing that breaks off may pass for an answer."""
    said = answers(build_model(0).eval(), build_tokenizer(), [("", "what is love ?")] * 5)
    assert said == answers(build_model(0).eval(), build_tokenizer(), [("", "what is love ?")] * 5)
    assert any(text == "" for text in said)
