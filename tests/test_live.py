"""Live answers against plain forward passes under `sl.steer`, and against `sl.generate`."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from itertools import pairwise

import pytest
import torch
from conftest import FAMILIES, ROUNDING
from transformer_lens import HookedTransformer

import steerlens as sl
from steerlens.errors import ModelError, SteeringError, VectorError
from steerlens.forward.parts import has_hooks
from steerlens.forward.steer import Positions
from steerlens.generation import live as _live
from steerlens.generation.generate import Prompts
from steerlens.generation.live import LiveAnswer, LiveAnswers

PROMPT = "Would you like to earn more money today?"
NEW = 10


def vector(layer: int, seed: int) -> sl.SteeringVector:
    return sl.SteeringVector(torch.randn(32, generator=torch.Generator().manual_seed(seed)), layer)


VECTORS = {"low": vector(1, 0), "high": vector(2, 1), "also high": vector(2, 2)}


def last(live: LiveAnswers, multipliers: Mapping[str, float], prompt: str = PROMPT) -> tuple[LiveAnswer, LiveAnswer]:
    return list(live.stream(prompt, multipliers, max_new_tokens=NEW))[-1]


def forward_nats(
    model: HookedTransformer,
    prompt: Sequence[int],
    answer: LiveAnswer,
    multipliers: Mapping[str, float],
    positions: Positions = "all",
) -> torch.Tensor:
    """log p of an answer's tokens, by one full forward pass inside nested `steer` blocks."""
    tokens = torch.tensor([[*prompt, *answer.tokens]])
    start = len(prompt) - 1 if positions == "response" else None
    with ExitStack() as stack:
        for name, m in multipliers.items():
            stack.enter_context(sl.steer(model, VECTORS[name], m, positions, response_start=start))
        logits = model(tokens, attention_mask=torch.ones_like(tokens))[0, len(prompt) - 1 : -1]
    return logits.log_softmax(-1).gather(1, tokens[0, len(prompt) :, None])[:, 0]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("positions", ["all", "response"])
def test_log_probs_are_those_of_plain_forward_passes(
    tiny_models: dict[str, HookedTransformer], family: str, positions: Positions
) -> None:
    model, multipliers = tiny_models[family], {"low": 1.5, "high": -0.7, "also high": 0.4}
    prompt = Prompts(model, [PROMPT], NEW).tokens[0]
    for answer in last(LiveAnswers(model, VECTORS, positions=positions), multipliers):
        assert 1 <= len(answer.tokens) <= NEW
        steered = forward_nats(model, prompt, answer, multipliers, positions)
        unsteered = forward_nats(model, prompt, answer, {})
        torch.testing.assert_close(torch.tensor(answer.steered), steered, atol=2e-4, rtol=1e-4)
        torch.testing.assert_close(torch.tensor(answer.unsteered), unsteered, atol=2e-4, rtol=1e-4)
        torch.testing.assert_close(torch.tensor(answer.changes), steered - unsteered, atol=4e-4, rtol=1e-4)
        assert (steered - unsteered).abs().max() > 0.1


@pytest.mark.usefixtures("no_ties")
@pytest.mark.parametrize("positions", ["all", "response"])
def test_texts_are_those_that_generate_writes(tiny_chat_model: HookedTransformer, positions: Positions) -> None:
    live = LiveAnswers(tiny_chat_model, VECTORS, positions=positions)
    for m in (-1.3, 2.0):
        steered, unsteered = last(live, {"low": m})
        wanted = sl.generate(
            tiny_chat_model,
            [PROMPT],
            vector=VECTORS["low"],
            multipliers=(m, 0),
            max_new_tokens=NEW,
            positions=positions,
            progress=False,
        )
        assert [[live.text(steered), live.text(unsteered)]] == wanted
        assert wanted[0][0] != wanted[0][1]


def test_an_answer_grows_by_one_token_at_a_time(tiny_chat_model: HookedTransformer) -> None:
    seen = list(LiveAnswers(tiny_chat_model, VECTORS).stream(PROMPT, {"low": 1.0}, max_new_tokens=NEW))
    assert [len(steered.tokens) for steered, _ in seen] == list(range(1, len(seen) + 1))
    for (before, _), (after, _) in pairwise(seen):
        assert (after.tokens[:-1], after.steered[:-1]) == (before.tokens, before.steered)


def test_without_a_vector_the_two_answers_are_one(tiny_chat_model: HookedTransformer) -> None:
    for multipliers in ({}, {"low": 0.0}):
        steered, unsteered = last(LiveAnswers(tiny_chat_model, VECTORS), multipliers)
        assert steered.tokens == unsteered.tokens
        assert steered.changes == pytest.approx([0] * len(steered.tokens), abs=ROUNDING)


def test_opposite_multipliers_of_one_vector_cancel(tiny_chat_model: HookedTransformer) -> None:
    live = LiveAnswers(tiny_chat_model, {"a": VECTORS["low"], "b": VECTORS["low"]})
    steered, unsteered = last(live, {"a": 1.5, "b": -1.5})
    assert steered.tokens == unsteered.tokens
    assert steered.changes == pytest.approx([0] * len(steered.tokens), abs=1e-3)


def test_an_answer_ends_with_what_ended_it_while_the_other_goes_on(tiny_chat_model: HookedTransformer) -> None:
    end = tiny_chat_model.tokenizer.eos_token_id
    stop = sl.SteeringVector(100 * tiny_chat_model.W_U[:, end], tiny_chat_model.cfg.n_layers - 1)
    live = LiveAnswers(tiny_chat_model, {"stop": stop})
    steered, unsteered = last(live, {"stop": 1.0})
    assert (steered.tokens, steered.ended, live.text(steered)) == ((end,), True, "")
    assert steered.steered[0] > steered.unsteered[0]
    assert len(unsteered.tokens) > 1
    assert not unsteered.ended
    assert end not in unsteered.tokens


def test_between_two_tokens_the_model_has_no_hooks(tiny_chat_model: HookedTransformer) -> None:
    steps = LiveAnswers(tiny_chat_model, VECTORS).stream(PROMPT, {"low": 1.0, "high": 1.0}, max_new_tokens=NEW)
    alone = tiny_chat_model("hello")
    next(steps)
    assert not has_hooks(tiny_chat_model)
    assert torch.equal(tiny_chat_model("hello"), alone)
    next(steps)
    del steps
    assert not has_hooks(tiny_chat_model)


def test_an_exception_leaves_no_hooks(tiny_chat_model: HookedTransformer, monkeypatch: pytest.MonkeyPatch) -> None:
    hooked = []

    def fail(model: HookedTransformer, resid: torch.Tensor) -> torch.Tensor:
        hooked.append(has_hooks(model))
        raise RuntimeError("out of memory")

    monkeypatch.setattr(_live, "logits_at", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        last(LiveAnswers(tiny_chat_model, VECTORS), {"low": 1.0})
    assert hooked == [True]
    assert not has_hooks(tiny_chat_model)


def test_no_gradient_is_kept_and_the_callers_switch_is_left_alone(tiny_chat_model: HookedTransformer) -> None:
    with torch.enable_grad():
        steps = LiveAnswers(tiny_chat_model, VECTORS).stream(PROMPT, {"low": 1.0}, max_new_tokens=NEW)
        next(steps)
        assert torch.is_grad_enabled()


def test_requests_that_make_no_sense_say_so_before_anything_runs(tiny_chat_model: HookedTransformer) -> None:
    live = LiveAnswers(tiny_chat_model, VECTORS)
    for multipliers in ({"lwo": 1.0}, {"low": float("nan")}, {"low": "1"}):
        with pytest.raises(
            SteeringError, match=r"expected a finite number each for some of \['low', 'high', 'also high'\]"
        ):
            live.stream(PROMPT, multipliers)  # type: ignore[arg-type]
    with pytest.raises(SteeringError, match="exceeds the model's context"):
        live.stream(PROMPT, {}, max_new_tokens=512)
    with pytest.raises(SteeringError, match="max_new_tokens=0"):
        live.stream(PROMPT, {}, max_new_tokens=0)
    with pytest.raises(SteeringError, match="positions='prompt'"):
        LiveAnswers(tiny_chat_model, VECTORS, positions="prompt")  # type: ignore[arg-type]
    with pytest.raises(VectorError, match="layers 0 to 3"):
        LiveAnswers(tiny_chat_model, {"far": vector(7, 0)})
    with pytest.raises(ModelError):
        LiveAnswers("gpt2", VECTORS)  # type: ignore[arg-type]
