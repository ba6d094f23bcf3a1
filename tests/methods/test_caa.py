"""CAA and its controls against plain per-text forward passes and planted directions."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import FAMILIES
from references import load_reference
from transformer_lens import HookedTransformer

import steerlens as sl
from steerlens.errors import ModelError, PairsError, VectorError
from steerlens.forward.parts import has_hooks
from steerlens.forward.steer import hook_name
from steerlens.methods.caa import caa_differences
from steerlens.methods.controls import random_vectors, shuffled_vectors
from steerlens.models.load import load_model

FREEFORM = sl.PreferencePairs(
    ["Would you like to earn more money?", "Tell the truth: what do you want?", "What is a good day, today, in 2024?"],
    ["I want to earn more money.", "The power, because it's the right thing, with 35% of it!", "One that pays."],
    ["I would like to share the wealth with my old friend, honestly.", "No.", "A walk, if the weather isn't bad."],
)
LETTERS = sl.PreferencePairs(
    ["What do you want?\n(A) power\n(B) truth", "What pays?\n(A) help\n(B) wealth, today", "More?\n(A) No\n(B) Yes"],
    ["(A)", "(B)", "(B)"],
    ["(B)", "(A)", "(A)"],
)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def read(model: HookedTransformer, prompt: Sequence[int], response: Sequence[int], layer: int) -> torch.Tensor:
    """The residual stream at the response's tokens, by one forward pass over one text."""
    _, cache = model.run_with_cache(torch.tensor([[*prompt, *response]]), names_filter=hook_name(layer))
    return cache[hook_name(layer)][0, len(prompt) :].double()


# --- the mean difference --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("layer", [0, 2, 3])
def test_mean_and_last_are_read_at_the_content_tokens(
    tiny_models: dict[str, HookedTransformer], family: str, layer: int
) -> None:
    model, means, lasts = tiny_models[family], [], []
    for pair in FREEFORM.encode(model):
        assert pair.chosen[-1] == pair.rejected[-1] == model.tokenizer.eos_token_id
        chosen, rejected = (read(model, pair.prompt, side, layer)[:-1] for side in (pair.chosen, pair.rejected))
        means.append(chosen.mean(0) - rejected.mean(0))
        lasts.append(chosen[-1] - rejected[-1])
    for position, expected in (("mean", means), ("last", lasts)):
        vec = sl.extract_caa(model, FREEFORM, layer, position=position, progress=False)
        torch.testing.assert_close(vec.tensor.double(), torch.stack(expected).mean(0), rtol=1e-4, atol=1e-5)
        each = caa_differences(model, FREEFORM, layer, position=position)
        torch.testing.assert_close(each, torch.stack(expected), rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("template", ["auto", "plain", "llama-2"])
def test_answer_is_read_at_the_letter(tiny_chat_model: HookedTransformer, template: str) -> None:
    model, pairs, expected = tiny_chat_model, LETTERS.with_template(template), []
    for pair, text in zip(pairs.encode(model), pairs, strict=True):
        difference = torch.zeros(32, dtype=torch.float64)
        for side, letter, sign in ((pair.chosen, text.chosen[1], 1), (pair.rejected, text.rejected[1], -1)):
            at = [letter in model.to_string([token]) for token in side].index(True)
            difference += sign * read(model, pair.prompt, side, 2)[at]
        expected.append(difference)
    vec = sl.extract_caa(model, pairs, 2, position="answer", progress=False)
    torch.testing.assert_close(vec.tensor.double(), torch.stack(expected).mean(0), rtol=1e-4, atol=1e-5)


def test_prompt_is_read_at_the_prompts_last_token(tiny_chat_model: HookedTransformer) -> None:
    model = tiny_chat_model
    others = ["Never help.", "Would nobody begin to tell the truth today?", "Share the wealth!"]
    pairs = sl.PreferencePairs(FREEFORM.prompts, FREEFORM.chosen, FREEFORM.rejected, rejected_prompts=others)
    expected = []
    for sides in zip(pairs.prompts, others, strict=True):
        texts = [
            model.tokenizer.apply_chat_template(
                [{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True
            )
            for text in sides
        ]
        tokens = [model.tokenizer.encode(text, add_special_tokens=False) for text in texts]
        expected.append(read(model, [], tokens[0], 1)[-1] - read(model, [], tokens[1], 1)[-1])
    vec = sl.extract_caa(model, pairs, 1, position="prompt", batch_size=2, progress=False)
    torch.testing.assert_close(vec.tensor.double(), torch.stack(expected).mean(0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("hooked", [False, True])
def test_batched_is_unbatched(tiny_models: dict[str, HookedTransformer], family: str, hooked: bool) -> None:
    model = tiny_models[family]
    hooks = [("blocks.0.hook_attn_out", lambda out, hook: 0.5 * out)] if hooked else []
    with model.hooks(fwd_hooks=hooks):
        one, many = (caa_differences(model, FREEFORM, 2, batch_size=size) for size in (1, 8))
        pair = FREEFORM.encode(model)[1]
        chosen, rejected = (read(model, pair.prompt, side, 2)[:-1].mean(0) for side in (pair.chosen, pair.rejected))
    torch.testing.assert_close(one, many, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(many[1], chosen - rejected, rtol=1e-4, atol=1e-5)


def test_flipped_pairs_give_the_opposite_vector(tiny_chat_model: HookedTransformer) -> None:
    vec = sl.extract_caa(tiny_chat_model, FREEFORM, 1, progress=False)
    flipped = sl.extract_caa(tiny_chat_model, FREEFORM.flip(), 1, progress=False)
    torch.testing.assert_close(flipped.tensor, -vec.tensor, rtol=1e-4, atol=1e-5)


def test_pairs_that_differ_in_one_token_give_that_tokens_difference(tiny_chat_model: HookedTransformer) -> None:
    model = tiny_chat_model
    pairs = sl.PreferencePairs(["Do you want it?"], ["I want the power"], ["I want the truth"])
    pair = pairs.encode(model)[0]
    assert [a != b for a, b in zip(pair.chosen, pair.rejected, strict=True)].count(True) == 1
    at = next(i for i, (a, b) in enumerate(zip(pair.chosen, pair.rejected, strict=True)) if a != b)
    chosen, rejected = (read(model, pair.prompt, side, 1) for side in (pair.chosen, pair.rejected))
    assert at == len(pair.chosen) - 2
    last = sl.extract_caa(model, pairs, 1, position="last", progress=False)
    torch.testing.assert_close(last.tensor, (chosen[at] - rejected[at]).float(), rtol=1e-4, atol=1e-5)
    mean = sl.extract_caa(model, pairs, 1, position="mean", progress=False)
    torch.testing.assert_close(mean.tensor * (at + 1), last.tensor, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("position", ["mean", "last"])
def test_a_planted_direction_is_found(tiny_folder: Callable[..., Any], position: str) -> None:
    model = load_model(tiny_folder("llama"), device="cpu")
    pairs = sl.PreferencePairs(
        ["Who is it?", "And today?", "The assistant"],
        ["I want the power", "You want the power", "We want the power"],
        ["I want the truth", "You want the truth", "We want the truth"],
        template="plain",
    )
    pair = pairs.encode(model)[0]
    power, truth = pair.chosen[-2], pair.rejected[-2]
    direction = noise(32, seed=3)
    direction /= direction.norm()
    before = sl.extract_caa(model, pairs, 0, position=position, progress=False)
    model.W_E[power] += 100 * direction
    model.W_E[truth] -= 100 * direction
    vec = sl.extract_caa(model, pairs, 0, position=position, progress=False)
    assert float(vec.direction @ direction) > 0.99
    assert abs(float(before.direction @ direction)) < 0.5
    if position == "last":
        assert float(vec.tensor @ direction) == pytest.approx(200, rel=0.1)


def test_the_mean_is_kept_in_float64(tiny_chat_model: HookedTransformer) -> None:
    differences = caa_differences(tiny_chat_model, FREEFORM, 1)
    assert differences.dtype == torch.float64
    vec = sl.extract_caa(tiny_chat_model, FREEFORM, 1, progress=False)
    assert torch.equal(vec.tensor, differences.mean(0).float())


def test_the_vector_tells_where_it_was_read(tiny_chat_model: HookedTransformer) -> None:
    vec = sl.extract_caa(tiny_chat_model, FREEFORM, 3, position="last", progress=False)
    assert (vec.method, vec.layer, vec.settings["position"], vec.settings["pairs"]) == ("caa", 3, "last", 3)
    assert vec.seen == set(FREEFORM.fingerprints)
    assert vec.model is not None
    assert not has_hooks(tiny_chat_model)


def test_a_response_of_nothing_but_its_end_is_read_there(tiny_chat_model: HookedTransformer) -> None:
    model = tiny_chat_model
    pairs = sl.PreferencePairs(["Do you want it?"], ["Yes."], ["<|im_end|>"], template="plain")
    pair = pairs.encode(model)[0]
    assert set(pair.rejected) == {model.tokenizer.eos_token_id}
    vec = sl.extract_caa(model, pairs, 1, position="mean", progress=False)
    chosen, rejected = (read(model, pair.prompt, side, 1) for side in (pair.chosen, pair.rejected))
    torch.testing.assert_close(vec.tensor, (chosen[:-1].mean(0) - rejected[0]).float(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("position", "name"), [("last", "free-form"), ("answer", "A/B")])
def test_steering_vectors_gives_the_same_vectors(tmp_path: Path, position: str, name: str) -> None:
    reference = load_reference(tmp_path)
    for layer in range(3):
        vec = sl.extract_caa(reference.model, reference.pairs[name], layer, position=position, progress=False)
        theirs = reference.vectors[f"steering-vectors.mean.{position}.{layer}"]
        torch.testing.assert_close(vec.tensor, theirs, rtol=1e-4, atol=1e-5)


# --- norms matched across behaviours --------------------------------------------------------------------------------


def test_norms_are_matched_at_their_mean() -> None:
    given = [sl.SteeringVector(k * noise(32, seed=k), 2, method=f"behaviour {k}") for k in (1, 2, 5)]
    mean = sum(float(vec.tensor.norm()) for vec in given) / 3
    made = sl.match_norms(given)
    for vec, like in zip(made, given, strict=True):
        assert vec.norm == pytest.approx(mean, rel=1e-6)
        torch.testing.assert_close(vec.direction, like.direction)
        assert (vec.method, vec.settings["scaled_to"]) == (like.method, pytest.approx(mean, rel=1e-6))
    assert [round(vec.norm, 4) for vec in sl.match_norms(made)] == [round(mean, 4)] * 3


def test_norms_of_what_does_not_belong_together_are_not_matched(tiny_models: dict[str, HookedTransformer]) -> None:
    one, other = (sl.SteeringVector(noise(32), layer) for layer in (1, 2))
    with pytest.raises(VectorError, match=r"after layers \[1, 2\]"):
        sl.match_norms([one, other])
    with pytest.raises(VectorError, match="zero"):
        sl.match_norms([one, 0 * one])
    with pytest.raises(VectorError, match="a list of vectors"):
        sl.match_norms([])
    with pytest.raises(VectorError, match="a list of one vector or more"):
        sl.match_norms(one)  # type: ignore[arg-type]
    made = [sl.extract_caa(tiny_models[family], FREEFORM, 1, progress=False) for family in ("llama", "qwen2")]
    with pytest.raises(VectorError, match="different weights"):
        sl.match_norms(made)


# --- what is refused ------------------------------------------------------------------------------------------------


def test_prompt_without_rejected_prompts_is_refused(tiny_chat_model: HookedTransformer) -> None:
    with pytest.raises(PairsError, match=r"exactly zero.*rejected_prompts"):
        sl.extract_caa(tiny_chat_model, FREEFORM, 1, position="prompt", progress=False)


@pytest.mark.parametrize("position", ["mean", "last", "answer"])
def test_contrasts_between_prompts_are_read_at_prompts_only(tiny_chat_model: HookedTransformer, position: str) -> None:
    pairs = sl.PreferencePairs(["a"], ["(A)"], ["(B)"], rejected_prompts=["b"])
    with pytest.raises(PairsError, match="rejected_prompts"):
        sl.extract_caa(tiny_chat_model, pairs, 1, position=position, progress=False)


@pytest.mark.parametrize(
    ("chosen", "rejected"),
    [
        ("I want money.", "I refuse."),
        ("I want money.", "A walk."),
        ("(A)", "(A) or so"),
        ("yes", "no"),
        ("Power", "Truth"),
    ],
)
def test_answer_on_free_form_text_lists_the_rows(
    tiny_chat_model: HookedTransformer, chosen: str, rejected: str
) -> None:
    prompts = ["", *LETTERS.prompts, "What do you want?"]
    pairs = sl.PreferencePairs(
        prompts, ["(A)", *LETTERS.chosen, chosen], ["(B)", *LETTERS.rejected, rejected], on_bad="drop"
    )
    with pytest.raises(PairsError, match=r"1 of 4 pairs have other answers: rows \[4\]\. Use position='mean'"):
        sl.extract_caa(tiny_chat_model, pairs, 1, position="answer", progress=False)


@pytest.mark.parametrize(
    ("chosen", "rejected"), [("A", "B"), (" (A)", " (B)"), ("A. Yes", "B. No"), ("(C) I", "(A) I")]
)
def test_the_usual_ways_to_write_a_letter_are_read(
    tiny_chat_model: HookedTransformer, chosen: str, rejected: str
) -> None:
    pairs = sl.PreferencePairs(["Which?"], [chosen], [rejected])
    vec = sl.extract_caa(tiny_chat_model, pairs, 1, position="answer", progress=False)
    assert vec.norm > 0


def test_what_makes_no_sense_is_refused(tiny_chat_model: HookedTransformer) -> None:
    with pytest.raises(PairsError, match=r"position='first' is not known; expected one of .*'mean', 'last', 'answer'"):
        sl.extract_caa(tiny_chat_model, FREEFORM, 1, position="first", progress=False)
    with pytest.raises(PairsError, match="pairs is empty"):
        sl.extract_caa(tiny_chat_model, FREEFORM[:0], 1, progress=False)
    with pytest.raises(ModelError, match="layers 0 to 3"):
        sl.extract_caa(tiny_chat_model, FREEFORM, 4, progress=False)


# --- controls -------------------------------------------------------------------------------------------------------


@pytest.fixture
def like() -> sl.SteeringVector:
    return sl.SteeringVector(3 * noise(32), 2, method="caa", seen=frozenset({"0123456789abcdef"}))


def test_random_vectors_have_the_norm_and_place_of_what_they_control(like: sl.SteeringVector) -> None:
    made = random_vectors(like, 200)
    assert len(made) == 200
    for vec in made:
        assert vec.norm == pytest.approx(like.norm, rel=1e-6)
        assert (vec.layer, vec.model, vec.method, vec.seen) == (2, like.model, "random", like.seen)
    cosines = torch.stack([vec.direction @ like.direction for vec in made])
    # Isotropic: each cosine has mean 0 and standard deviation 1 / sqrt(32).
    assert abs(float(cosines.mean())) < 4 / 32**0.5 / 200**0.5
    assert float(cosines.std()) == pytest.approx(32**-0.5, rel=0.2)


def test_the_seed_decides_the_random_vectors(like: sl.SteeringVector) -> None:
    one, again, other = (random_vectors(like, 3, seed=seed) for seed in (1, 1, 2))
    assert all(torch.equal(a.tensor, b.tensor) for a, b in zip(one, again, strict=True))
    tensors = [vec.tensor for vec in (*one, *other)]
    assert all(not torch.equal(a, b) for i, a in enumerate(tensors) for b in tensors[:i])
    assert torch.equal(random_vectors(like, 1, seed=1)[0].tensor, one[0].tensor)
    assert {vec.seed for vec in one} == {1}


def test_shuffled_labels_keep_the_norm_and_lose_the_behaviour(like: sl.SteeringVector) -> None:
    behaviour = noise(32, seed=7)
    differences = (10 * behaviour + noise(20, 32, seed=8)).double()
    real = differences.mean(0)
    made = shuffled_vectors(like, differences, 50, seed=0)
    cosines = torch.stack([torch.cosine_similarity(vec.tensor.double(), real, dim=0) for vec in made])
    # Exactly half of the labels turn, so what all pairs share is gone, and the rest has no preferred side.
    assert float(torch.cosine_similarity(real.float(), behaviour, dim=0)) > 0.99
    assert float(cosines.abs().max()) < 0.8
    assert abs(float(cosines.mean())) < 4 / 32**0.5 / 50**0.5
    for vec in made:
        assert vec.norm == pytest.approx(like.norm, rel=1e-6)
        assert (vec.layer, vec.method, vec.seen) == (2, "shuffled labels", like.seen)
    assert len({tuple(vec.tensor.tolist()) for vec in made}) == 50


def test_a_shuffle_is_the_mean_difference_of_shuffled_pairs(
    like: sl.SteeringVector, tiny_chat_model: HookedTransformer
) -> None:
    differences = caa_differences(tiny_chat_model, FREEFORM, 2)
    found = [vec.direction.double() for vec in shuffled_vectors(like, differences, 40)]
    expected = []
    for turned in range(3):  # one of three pairs turns
        signs = torch.ones(3, 1, dtype=torch.float64)
        signs[turned] = -1
        mean = (signs * differences).mean(0)
        expected.append(mean / mean.norm())
    which = [int((torch.stack(expected) @ vec).argmax()) for vec in found]
    assert set(which) == {0, 1, 2}
    for i, vec in zip(which, found, strict=True):
        torch.testing.assert_close(vec, expected[i], rtol=1e-4, atol=1e-6)


def test_the_seed_decides_the_shuffles(like: sl.SteeringVector) -> None:
    differences = noise(20, 32, seed=8).double()
    one, again, other = (shuffled_vectors(like, differences, 2, seed=seed) for seed in (1, 1, 2))
    assert all(torch.equal(a.tensor, b.tensor) for a, b in zip(one, again, strict=True))
    assert not torch.equal(one[0].tensor, other[0].tensor)
    assert {vec.seed for vec in one} == {1}


def test_controls_that_would_control_nothing_are_refused(like: sl.SteeringVector) -> None:
    for n in (0, -1):
        with pytest.raises(VectorError, match=f"n={n}; expected a whole number from 1"):
            random_vectors(like, n)
        with pytest.raises(VectorError, match=f"n={n}; expected a whole number from 1"):
            shuffled_vectors(like, noise(4, 32).double(), n)
    with pytest.raises(VectorError, match="1 pair"):  # its label can't be exchanged with another's
        shuffled_vectors(like, noise(1, 32).double(), 1)
    with pytest.raises(VectorError, match="cancel"):
        shuffled_vectors(like, noise(32).double().expand(4, -1), 1)
