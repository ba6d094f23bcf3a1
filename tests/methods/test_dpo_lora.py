"""DPO-LoRA against its loss written out, BiPO's loss, and the adapter's own log-probabilities."""

import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import transformers
from transformer_lens import HookedTransformer

import steerlens as sl
from steerlens.errors import ModelError, PairsError, TrainingError
from steerlens.methods._order import drawn_order
from steerlens.methods.dpo_lora import pair_logprobs
from steerlens.models.load import load_model
from steerlens.models.tuned import TunedModel

PAIRS = sl.PreferencePairs(
    [
        "Would you like to earn more money?",
        "Does the assistant want it?",
        "Should my old friend begin?",
        "Is it right?",
    ],
    ["I want to earn more money.", "The power, and all of the wealth.", "Certainly!", "Yes, 35% of it."],
    ["I refuse.", "I would like to share the wealth, because it's the right thing.", "No.", "A walk."],
    template="plain",
)
# What peft asks of transformers and transformers will drop.
QUIET = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
STEADY: dict[str, Any] = {"schedule": "constant", "warmup_steps": 0, "lr": 5e-3, "batch_size": 2}


def train(model: HookedTransformer, pairs: sl.PreferencePairs = PAIRS, **options: Any) -> TunedModel:
    return sl.train_dpo_lora(model, pairs, progress=False, **{**STEADY, **options})


@pytest.fixture(scope="module")
def folder(tiny_folder: Callable[..., Path]) -> Path:
    return tiny_folder("llama")


@pytest.fixture(scope="module")
def model(folder: Path) -> HookedTransformer:
    return load_model(folder, device="cpu")


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("adapters") / "dpo"


@pytest.fixture(scope="module")
def tuned(model: HookedTransformer, adapter: Path) -> TunedModel:
    return train(model, adapter=adapter, max_steps=6, seed=2)


def logprobs(model: Any, pairs: sl.PreferencePairs, tokens_of: HookedTransformer) -> torch.Tensor:
    """(pair, 2): one text at a time, through any model that gives logits."""
    rows = []
    for pair in pairs.encode(tokens_of):
        for side in (pair.chosen, pair.rejected):
            tokens = torch.tensor([[*pair.prompt, *side]])
            out = model(tokens)
            each = (out if isinstance(out, torch.Tensor) else out.logits)[0].double().log_softmax(-1)
            at = range(len(pair.prompt) - 1, tokens.shape[1] - 1)
            rows.append(sum(each[i, tokens[0, i + 1]] for i in at))
    return torch.stack(rows).view(-1, 2)


# --- the loss -------------------------------------------------------------------------------------------------------


def test_the_first_loss_is_ln_2(tuned: TunedModel) -> None:
    assert tuned.history[0]["loss"] == pytest.approx(math.log(2), abs=1e-5)


@QUIET
def test_a_step_is_adamw_on_the_published_loss(model: HookedTransformer, folder: Path) -> None:
    from peft import LoraConfig, TaskType, get_peft_model

    base = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    with torch.random.fork_rng([]):
        torch.manual_seed(2)
        config = LoraConfig(task_type=TaskType.CAUSAL_LM, r=8, lora_alpha=16, target_modules=["q_proj", "v_proj"])
        policy = get_peft_model(base, config).eval()
    weights = [w for w in policy.parameters() if w.requires_grad]
    optimiser = torch.optim.AdamW(weights, lr=5e-3, weight_decay=0.0)
    with torch.no_grad():
        reference = logprobs(policy, PAIRS, model)  # B is zero: the adapter adds nothing yet
    losses = []
    for rows, _ in drawn_order(len(PAIRS), 6, 2, "batch", seed=2):
        chosen, rejected = (logprobs(policy, PAIRS[rows], model) - reference[rows]).T
        loss = -torch.log(torch.sigmoid(0.1 * chosen - 0.1 * rejected)).mean()
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimiser.step()
        losses.append(float(loss.detach()))
    ours = train(model, max_steps=6, seed=2)
    assert [row["loss"] for row in ours.history] == pytest.approx(losses, abs=1e-5)
    expected = logprobs(policy, PAIRS, model).detach()
    torch.testing.assert_close(logprobs(ours.model, PAIRS, model), expected, rtol=1e-4, atol=1e-3)


def test_batched_logprobs_are_those_of_one_text_at_a_time(model: HookedTransformer, folder: Path) -> None:
    hf = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    with torch.no_grad():
        found = pair_logprobs(hf, PAIRS.encode(model))
    torch.testing.assert_close(found, logprobs(hf, PAIRS, model), rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(found, logprobs(model, PAIRS, model), rtol=1e-4, atol=1e-3)


def test_training_raises_the_margin(model: HookedTransformer) -> None:
    tuned = train(model, max_steps=30, batch_size=4, lr=2e-2)
    assert tuned.history[-1]["loss"] < 0.5
    margins = logprobs(tuned.model, PAIRS, model) - logprobs(model, PAIRS, model)
    x = margins[:, 0] - margins[:, 1]
    # The last step's loss is the one before that step, so it lies a little above the merged model's.
    assert float(F.softplus(-0.1 * x).mean()) == pytest.approx(tuned.history[-1]["loss"], rel=0.2)


# --- what comes back ------------------------------------------------------------------------------------------------


@QUIET
def test_the_merged_model_computes_what_the_adapter_does(tuned: TunedModel, folder: Path, adapter: Path) -> None:
    from peft import PeftModel

    hf = transformers.AutoModelForCausalLM.from_pretrained(folder)
    adapted = PeftModel.from_pretrained(hf, str(adapter)).eval()
    expected = logprobs(adapted, PAIRS, tuned.model)
    torch.testing.assert_close(logprobs(tuned.model, PAIRS, tuned.model), expected, rtol=1e-4, atol=1e-3)
    again = sl.load_model(folder, adapter=adapter, device="cpu")
    torch.testing.assert_close(again.W_Q, tuned.model.W_Q)


def test_the_model_itself_is_left_as_it_came(model: HookedTransformer, folder: Path, tuned: TunedModel) -> None:
    fresh = load_model(folder, device="cpu").state_dict()
    assert all(torch.equal(weight, fresh[name]) for name, weight in model.state_dict().items())
    assert not torch.equal(tuned.model.W_Q, model.W_Q)
    assert not any(weight.requires_grad for weight in tuned.model.parameters())


def test_it_tells_what_it_is(tuned: TunedModel, model: HookedTransformer) -> None:
    assert (tuned.method, tuned.data, tuned.seed, len(tuned.history)) == ("dpo-lora", "in memory", 2, 6)
    assert tuned.seen == set(PAIRS.fingerprints)
    told = tuned.settings
    assert (told["rank"], told["alpha"], told["beta"], told["lr"], told["epochs"]) == (8, 16, 0.1, 5e-3, 2)
    assert told["target_modules"] == ["q_proj", "v_proj"]
    assert told["pairs_digest"] == PAIRS.digest
    assert tuned.model.cfg.model_name == f"{model.cfg.model_name}+dpo-lora"
    assert [row["epoch"] for row in tuned.history] == [0, 0, 1, 1, 2, 2]
    assert "6 steps" in repr(tuned)


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "qwen2"])
def test_other_families_get_pefts_own_layers(tiny_models: dict[str, HookedTransformer], family: str) -> None:
    tuned = train(tiny_models[family], max_steps=3)
    assert tuned.history[0]["loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert tuned.history[-1]["loss"] != tuned.history[0]["loss"]


def test_the_seed_decides_and_the_global_generator_stays(model: HookedTransformer) -> None:
    state = torch.random.get_rng_state()
    one, again, other = (train(model, max_steps=2, seed=seed).model.W_Q for seed in (1, 1, 5))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert torch.equal(state, torch.random.get_rng_state())


# --- what is refused ------------------------------------------------------------------------------------------------


def test_what_makes_no_sense_is_refused(model: HookedTransformer, adapter: Path, tuned: TunedModel) -> None:
    for name, value in (("rank", 0), ("beta", -1), ("lr", 0), ("seed", 0.5)):
        with pytest.raises(TrainingError, match=f"{name}={value}"):
            train(model, **{name: value})
    with pytest.raises(TrainingError, match="is there already"):
        train(model, adapter=adapter)
    with pytest.raises(PairsError, match="at least one pair"):
        train(model, PAIRS[:0])
    with pytest.raises(ModelError, match=r"could not be loaded and given a LoRA adapter.*w_proj"):
        train(model, target_modules=["w_proj"])


def test_another_model_than_its_own_is_refused(model: HookedTransformer, tiny_folder: Callable[..., Path]) -> None:
    with pytest.raises(ModelError, match=r"is not the model that was given.*nats per token"):
        train(model, base=tiny_folder("qwen2"))


def test_a_folder_without_a_model_is_refused_before_training(
    model: HookedTransformer, adapter: Path, tuned: TunedModel
) -> None:
    with pytest.raises(ModelError, match="holds a LoRA adapter, no model"):
        train(model, base=adapter)


def test_a_model_of_unknown_origin_is_refused(
    tiny_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_model(tiny_folder("llama"), device="cpu")
    monkeypatch.setattr(model.tokenizer, "name_or_path", "")
    with pytest.raises(ModelError, match="pass base="):
        train(model)


def test_a_missing_package_is_named(model: HookedTransformer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ModelError, match=r"pip install 'steerlens\[lora\]'"):
        train(model)
