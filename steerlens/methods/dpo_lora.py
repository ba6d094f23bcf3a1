"""DPO on a LoRA adapter: the weight-changing baseline that a steering vector is held against.

Rafailov et al. 2023, "Direct Preference Optimization: Your Language Model is Secretly a Reward Model", arXiv 2305.18290,
equation 7, on the low-rank updates of Hu et al. 2021, arXiv 2106.09685. With no vector and one sign it is BiPO's loss: x is
what the weights' update adds to the margin.
"""

import math
import os
import tempfile
import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm
from transformer_lens import HookedTransformer
from transformers import AutoModelForCausalLM

from steerlens.checks.calls import path, texts
from steerlens.errors import ModelError, TrainingError
from steerlens.forward.door import checked
from steerlens.forward.hooked_route import pad_tokens
from steerlens.forward.pair_scores import PairScorer
from steerlens.forward.readout import sum_logprobs
from steerlens.methods._bipo_run import x_loss
from steerlens.methods._descent import OPTIONS, DescentSettings, Schedule, check_numbers, check_trainable
from steerlens.methods._order import drawn_order
from steerlens.models.identity import identify
from steerlens.models.load import load_model
from steerlens.models.sources import local_folder, quiet_transformers
from steerlens.models.tuned import TunedModel
from steerlens.pairs.preference import PreferencePairs
from steerlens.text.encode import EncodedPair, check_differ


@dataclass(frozen=True)
class DpoSettings:
    """Options of the loss and of the adapter; units as in `train_dpo_lora`."""

    beta: float
    rank: int
    alpha: float
    epochs: int
    max_steps: int | None
    batch_size: int

    def __post_init__(self) -> None:
        check_numbers(self, above_zero=("beta", "rank", "alpha", "epochs", "max_steps", "batch_size"))


@checked(TrainingError, *OPTIONS, "rank", "alpha", base=path, adapter=path, target_modules=texts)
def train_dpo_lora(
    model: HookedTransformer,
    pairs: PreferencePairs,
    *,
    base: str | os.PathLike[str] | None = None,
    adapter: str | os.PathLike[str] | None = None,
    beta: float = 0.1,
    rank: int = 8,
    alpha: float = 16,
    target_modules: Sequence[str] | None = None,
    lr: float = 2e-4,
    epochs: int = 2,
    max_steps: int | None = None,
    warmup_steps: int = 100,
    schedule: Schedule = "cosine",
    batch_size: int = 4,
    max_grad_norm: float = 1.0,
    weight_decay: float = 0.0,
    seed: int = 0,
    progress: bool = True,
) -> TunedModel:
    """Train a LoRA adapter by DPO on the pairs, and merge it into a copy of the model.

    The loss is the mean over pairs of -log sigmoid(beta * x), where x is what the update adds to
    log p(chosen) - log p(rejected): `bipo_loss` with the update in the vector's place and no opposite sign.

    Args:
        model: the HookedTransformer to begin with, as `load_model` gives it; it is not touched. Training runs on the Hugging
            Face model it came from, so both are in memory at once.
        pairs: the training pairs.
        base: that Hugging Face model, a folder or its name on the hub; default: where the model's tokenizer came from.
        adapter: a new folder to keep the adapter in, as peft saves it; `load_model(base, adapter=folder)` reads it.
        beta: per nat of x.
        rank, alpha: of the update W + (alpha / rank) B A; B begins at zero, so the first loss is ln 2 up to rounding.
        target_modules: names of the linear layers that get an update; default: peft's for the family (queries and values on
            Llama, Mistral and Qwen2; the joint query-key-value layer on GPT-2 and GPT-NeoX).
        lr, epochs, max_steps, warmup_steps, schedule, batch_size, max_grad_norm, weight_decay, seed: as in `train_bipo`; the
            rows of every step are BiPO's with that seed. The seed also draws A.

    Returns:
        A TunedModel: `.model` is a HookedTransformer that every measure takes, `.history` has a row per step (step, epoch,
        loss in nats, lr, grad_norm), and `margin_shift(model, tuned, pairs.test)` is its effect on held-out pairs.

    Raises:
        ModelError: peft is missing, the Hugging Face model is not to be found, or computes other log-probabilities.
        TrainingError: an option is wrong, the adapter's folder is not empty, or the loss stopped being finite.
        PairsError: the pairs can't be encoded, or chosen and rejected are the same tokens in some; the rows are listed.

    Source:
        arXiv 2305.18290, equation 7. Rank 8, alpha 16, lr 2e-4 and 2 epochs are those of BiPO's figure 7 (arXiv
        2406.00045v2), which names no more: the rest is as for its vectors. No dropout is applied.
    """
    settings = DpoSettings(beta, rank, alpha, epochs, max_steps, batch_size)
    steps = DescentSettings(lr, warmup_steps, schedule, None, max_grad_norm, weight_decay, None, None)
    check_trainable(model)
    encoded = pairs.encode(model)
    check_differ([pair.sides for pair in encoded], pairs.rows, pairs.provenance, "chosen and rejected")
    source = _source(model, base)
    device = torch.device(str(model.cfg.device))
    with ExitStack() as stack:
        # peft draws A, and what a merge overwrites, from the global generator; it is given back as it was.
        stack.enter_context(torch.random.fork_rng([device] if device.type == "cuda" else []))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()) if adapter is None else adapter)
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise TrainingError(f"adapter={str(folder)!r} is there already: give a new folder, or delete that one")
        policy = _with_adapter(model, source, settings, target_modules, seed)
        _check_same(policy, model, encoded[: settings.batch_size], source)
        history = _descend(policy, encoded, settings, steps, seed, progress)
        with quiet_transformers():
            policy.save_pretrained(folder, save_embedding_layers=False)
        names = sorted(policy.peft_config["default"].target_modules)
        del policy
        tuned = load_model(source, adapter=folder, dtype=model.cfg.dtype, device=str(model.cfg.device))
    tuned.cfg.model_name = f"{model.cfg.model_name}+dpo-lora"
    about = {
        name: value for name, value in asdict(steps).items() if name not in ("schedule_steps", "max_norm", "patience")
    }
    return TunedModel(
        model=tuned,
        base=identify(model),
        method="dpo-lora",
        settings={**asdict(settings), **about, "target_modules": names, **pairs.described()},
        data=pairs.provenance,
        seen=frozenset(pairs.fingerprints),
        seed=seed,
        history=tuple(history),
    )


def _source(model: HookedTransformer, base: str | os.PathLike[str] | None) -> str:
    source = getattr(model.tokenizer, "name_or_path", "") if base is None else os.fspath(base)
    if not source:
        raise ModelError(
            "this model's tokenizer does not tell where it came from: pass base=, the folder or name of its Hugging Face model"
        )
    local_folder(source)  # a folder that is none (an adapter's, say) is refused before training, not after it
    return source


def _with_adapter(
    model: HookedTransformer, source: str, settings: DpoSettings, target_modules: Sequence[str] | None, seed: int
) -> Any:
    """The Hugging Face model with a fresh LoRA adapter; nothing else in it can be trained."""
    try:
        from peft import LoraConfig, TaskType, get_peft_model
    except ImportError as error:
        raise ModelError("train_dpo_lora needs the peft package: pip install 'steerlens[lora]'") from error
    config = LoraConfig(
        task_type=TaskType.CAUSAL_LM,
        r=settings.rank,
        lora_alpha=settings.alpha,  # type: ignore[arg-type]  # it only ever divides it
        target_modules=None if target_modules is None else list(target_modules),
    )
    device = torch.device(str(model.cfg.device))
    try:
        with quiet_transformers(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # peft tells GPT-2's users that it transposes by itself
            hf: Any = AutoModelForCausalLM.from_pretrained(source, dtype=model.cfg.dtype)
            torch.manual_seed(seed)
            return get_peft_model(hf.to(device), config).eval()  # without dropout, the base model's included
    except Exception as error:  # both libraries raise many kinds
        raise ModelError(f"{source!r} could not be loaded and given a LoRA adapter: {error!s:.400}") from error


def _check_same(policy: Any, model: HookedTransformer, pairs: Sequence[EncodedPair], source: str) -> None:
    """Raise ModelError unless the Hugging Face model computes the HookedTransformer's log-probabilities."""
    ours = PairScorer(model, pairs, model.cfg.n_layers - 1).reference
    with torch.no_grad():
        theirs = pair_logprobs(policy, pairs).cpu()
    tokens = torch.tensor([[len(pair.chosen), len(pair.rejected)] for pair in pairs], device="cpu")
    found = float(((ours - theirs) / tokens).abs().max())
    limit = 0.1 if model.cfg.dtype in (torch.bfloat16, torch.float16) else 1e-3
    if not found <= limit:
        raise ModelError(
            f"{source!r} is not the model that was given: their log-probabilities differ by {found:.2g} nats per token. Pass "
            "base=, the Hugging Face model that this HookedTransformer was made of"
        )


def pair_logprobs(hf: Any, pairs: Sequence[EncodedPair]) -> Float[Tensor, "pair 2"]:
    """Log-probabilities of both responses by a Hugging Face model, in nats, summed over their tokens; differentiable."""
    sides = [(pair.prompt, side) for pair in pairs for side in (pair.chosen, pair.rejected)]
    tokens, mask = (t.to(hf.device) for t in pad_tokens([prompt + side for prompt, side in sides], left=False))
    logits = hf(input_ids=tokens, attention_mask=mask, use_cache=False).logits
    row = torch.tensor([i for i, (_, side) in enumerate(sides) for _ in side], device=hf.device)
    at = torch.tensor([len(prompt) + k for prompt, side in sides for k in range(len(side))], device=hf.device)
    predicting = logits[row, at - 1]
    predicting = predicting.to(torch.promote_types(predicting.dtype, torch.float32))
    summed = sum_logprobs(predicting, tokens[row, at], row, len(sides))
    return rearrange(summed, "(pair side) -> pair side", side=2)


@torch.enable_grad()  # notebooks often switch gradients off
def _descend(
    policy: Any,
    pairs: Sequence[EncodedPair],
    settings: DpoSettings,
    steps: DescentSettings,
    seed: int,
    progress: bool,
) -> list[dict[str, Any]]:
    """Train the adapter in place; returns the history."""
    per_epoch = math.ceil(len(pairs) / settings.batch_size)
    plan = drawn_order(
        len(pairs), settings.max_steps or settings.epochs * per_epoch, settings.batch_size, "batch", seed
    )
    reference = torch.zeros(len(pairs), 2, dtype=torch.float64, device="cpu")
    weights = [weight for weight in policy.parameters() if weight.requires_grad]
    optimiser = torch.optim.AdamW(weights, lr=steps.lr, weight_decay=steps.weight_decay)
    history: list[dict[str, Any]] = []
    with torch.no_grad(), policy.disable_adapter():
        for i in tqdm(range(0, len(pairs), settings.batch_size), desc="reference", disable=not progress, leave=False):
            batch = pairs[i : i + settings.batch_size]
            reference[i : i + len(batch)] = pair_logprobs(policy, batch).cpu().double()
    with tqdm(plan, desc="DPO-LoRA", unit="step", disable=not progress) as bar:
        for step, (rows, _) in enumerate(bar):
            nats = pair_logprobs(policy, [pairs[i] for i in rows])
            loss = x_loss(nats - reference[rows].to(nats), 1, settings.beta)
            optimiser.zero_grad()
            loss.backward()
            value, size = float(loss.detach()), float(torch.nn.utils.clip_grad_norm_(weights, steps.max_grad_norm))
            if not (math.isfinite(value) and math.isfinite(size)):
                raise TrainingError(
                    f"step {step}: the loss is {value} and its gradient's norm {size}. A smaller lr, or float32 weights, "
                    "usually cure it"
                )
            lr = steps.lr_at(step, len(plan))
            optimiser.param_groups[0]["lr"] = lr
            optimiser.step()
            epoch = step // per_epoch
            history.append({"step": step, "epoch": epoch, "loss": value, "lr": lr, "grad_norm": size})
            bar.set_postfix({"loss": f"{value:.3f}"}, refresh=False)
    return history
