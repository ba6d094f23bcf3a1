"""The supervised vector against a loop written out on the model's own forward pass, and against BiPO's run."""

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import FAMILIES
from transformer_lens import HookedTransformer

import steerlens as sl
from steerlens.errors import PairsError, TrainingError
from steerlens.forward.parts import has_hooks
from steerlens.forward.steer import added_at
from steerlens.methods._order import drawn_order

WHO = ("Would you like", "Does the assistant want", "Should my old friend begin", "Is it right", "Does nobody like")
PAIRS = sl.PreferencePairs(
    [f"{who} to earn more money?" for who in WHO],
    ["I want to earn more money.", "The power, and all of the wealth.", "Certainly!", "Yes, 35% of it.", "Today."],
    ["I refuse.", "I would like to share the wealth, because it's the right thing.", "No.", "A walk.", "Never."],
    template="plain",
)
STEADY: dict[str, Any] = {"schedule": "constant", "warmup_steps": 0, "lr": 0.02, "batch_size": 2, "max_steps": 5}


def train(model: HookedTransformer, pairs: sl.PreferencePairs = PAIRS, layer: int = 1, **options: Any) -> Any:
    return sl.train_supervised(model, pairs, layer, progress=False, **{**STEADY, **options})


def chosen_logprob(model: HookedTransformer, row: int, layer: int, v: torch.Tensor) -> torch.Tensor:
    """log p(chosen) of one pair with v added at every position, in nats."""
    pair = PAIRS.encode(model)[row]
    tokens = torch.tensor([[*pair.prompt, *pair.chosen]])
    with added_at(model, layer, lambda resid: resid + v):
        logprobs = model(tokens).log_softmax(-1)[0]
    at = range(len(pair.prompt) - 1, tokens.shape[1] - 1)
    return sum(logprobs[i, tokens[0, i + 1]].double() for i in at)  # type: ignore[return-value]


# --- the run --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_it_is_adamw_on_the_chosen_responses_alone(tiny_models: dict[str, HookedTransformer], family: str) -> None:
    model, losses = tiny_models[family], []
    v = torch.zeros(32, requires_grad=True)
    optimiser = torch.optim.AdamW([v], lr=0.02, weight_decay=0.0)
    for rows, _ in drawn_order(len(PAIRS), 5, 2, "batch", seed=3):
        optimiser.zero_grad()
        loss = -torch.stack([chosen_logprob(model, row, 1, v) for row in rows]).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_([v], 1.0)
        optimiser.step()
        losses.append(float(loss.detach()))
    vec = train(model, seed=3)
    torch.testing.assert_close(vec.tensor, v.detach(), rtol=1e-3, atol=1e-5)
    assert [row["loss"] for row in vec.history] == pytest.approx(losses, rel=1e-5)
    assert not has_hooks(model)


def test_the_rejected_responses_do_not_count(tiny_chat_model: HookedTransformer) -> None:
    others = sl.PreferencePairs(PAIRS.prompts, PAIRS.chosen, ["Share it."] * 5, template="plain")
    one, other = train(tiny_chat_model), train(tiny_chat_model, others)
    torch.testing.assert_close(one.tensor, other.tensor, rtol=1e-3, atol=1e-5)
    bipo = [sl.train_bipo(tiny_chat_model, pairs, 1, progress=False, **STEADY).tensor for pairs in (PAIRS, others)]
    assert float((bipo[0] - bipo[1]).norm()) > 0.1 * float(bipo[0].norm())


def test_it_makes_the_chosen_responses_likelier(tiny_chat_model: HookedTransformer) -> None:
    vec = train(tiny_chat_model, max_steps=40, batch_size=5)
    assert vec.history[-1]["loss"] < vec.history[0]["loss"] - 1
    shift = sl.preference_shift(tiny_chat_model, vec, PAIRS, (1,), allow_seen=True, progress=False)
    assert shift.chosen.mean() == pytest.approx(vec.history[0]["loss"] - vec.history[-1]["loss"], rel=0.1)


def test_the_validation_margin_is_bipos_own(tiny_chat_model: HookedTransformer) -> None:
    vec = train(tiny_chat_model, PAIRS[:4], val_pairs=PAIRS[4:], eval_every=5)
    last = vec.history[-1]
    shift = sl.preference_shift(tiny_chat_model, vec, PAIRS[4:], (1, -1), allow_seen=True, progress=False)
    assert (last["val_plus"], last["val_minus"]) == pytest.approx(tuple(shift.values[0]), abs=1e-4)
    assert vec.seen == set(PAIRS.fingerprints)


def test_a_bound_on_the_norm_holds(tiny_chat_model: HookedTransformer) -> None:
    assert train(tiny_chat_model, max_norm=0.05).norm == pytest.approx(0.05, rel=1e-5)


# --- its record -----------------------------------------------------------------------------------------------------


def test_the_vector_tells_what_it_is(tiny_chat_model: HookedTransformer) -> None:
    vec = train(tiny_chat_model, seed=7)
    assert (vec.method, vec.layer, vec.seed, vec.settings["steps"]) == ("supervised", 1, 7, 5)
    assert not {"beta", "sign"} & set(vec.settings)
    assert {row["sign"] for row in vec.history} == {1}
    assert vec.settings["lr"] == 0.02
    bipo = sl.train_bipo(tiny_chat_model, PAIRS, 1, progress=False, **STEADY)
    assert set(bipo.settings) - set(vec.settings) == {"beta", "sign"}


def test_a_run_goes_on_from_its_checkpoint_and_from_no_other(
    tiny_chat_model: HookedTransformer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, whole = tmp_path / "run.safetensors", train(tiny_chat_model)
    real = torch.optim.AdamW.step
    calls = iter(range(100))

    def step(self: Any, *args: Any) -> Any:
        if next(calls) == 3:
            raise KeyboardInterrupt
        return real(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", step)
        with pytest.raises(KeyboardInterrupt):
            train(tiny_chat_model, checkpoint=path)
    assert torch.equal(train(tiny_chat_model, checkpoint=path).tensor, whole.tensor)
    with pytest.raises(TrainingError, match="method was 'supervised' and is 'bipo'"):
        sl.train_bipo(tiny_chat_model, PAIRS, 1, checkpoint=path, progress=False, **STEADY)


def test_what_makes_no_sense_is_refused(tiny_chat_model: HookedTransformer) -> None:
    with pytest.raises(TrainingError, match="lr=0"):
        train(tiny_chat_model, lr=0)
    with pytest.raises(PairsError, match="both the training and the validation pairs"):
        train(tiny_chat_model, val_pairs=PAIRS[:1])
    with pytest.raises(TrainingError, match="norm is inf") as caught:
        train(tiny_chat_model, lr=1e30)
    assert caught.value.vector.method == "supervised"  # type: ignore[attr-defined]
