"""BiPO and supervised runs: one vector, or many that share one pass over the pairs and, at a layer, each step's batch."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm
from transformer_lens import HookedTransformer

from steerlens.checks.values import checked_choice
from steerlens.errors import PairsError, TrainingError
from steerlens.forward.pair_scores import PairScorer
from steerlens.forward.steer import free_below, make_vector
from steerlens.forward.stream_store import Cache, check_cache
from steerlens.methods._descent import (
    Descent,
    DescentSettings,
    check_numbers,
    check_trainable,
    read_checkpoint,
    write_checkpoint,
)
from steerlens.methods._order import Order, Plan, Sign, drawn_order, given_order, one_sign
from steerlens.models.identity import ModelIdentity, identify
from steerlens.pairs.preference import PreferencePairs
from steerlens.text.encode import check_differ
from steerlens.vectors.vector import SteeringVector

Method = Literal["bipo", "supervised"]


def x_loss(shifts: Float[Tensor, "row 2"], signs: Tensor | int, beta: float) -> Float[Tensor, ""]:
    """The mean of -log sigmoid(d beta x), with x the first column less the second, in nats."""
    x = shifts[:, 0] - shifts[:, 1]
    return F.softplus(-signs * beta * x).mean()  # -log sigmoid(z) = softplus(-z)


@dataclass(frozen=True)
class BipoSettings:
    """What all runs of a call have in common; units as in `train_bipo`."""

    beta: float
    epochs: int
    max_steps: int | None
    batch_size: int
    sign: Sign
    eval_every: int | None
    checkpoint_every: int
    cache: Cache
    free_lower: bool = False
    method: Method = "bipo"

    def __post_init__(self) -> None:
        check_numbers(self, above_zero=("beta", "epochs", "max_steps", "batch_size", "eval_every", "checkpoint_every"))
        checked_choice("sign", self.sign, get_args(Sign), error=TrainingError)
        check_cache(self.cache)
        if self.free_lower and self.cache == "recompute":
            raise TrainingError("free_lower=True drops the blocks that cache='recompute' needs: use one of them")


@dataclass(frozen=True)
class TrainingData:
    """The model, the pairs, and what is done with them."""

    model: HookedTransformer
    pairs: PreferencePairs
    val_pairs: PreferencePairs | None
    settings: BipoSettings
    order: Order | None

    def __post_init__(self) -> None:
        check_trainable(self.model)
        shared = set(self.pairs.fingerprints) & set(() if self.val_pairs is None else self.val_pairs.fingerprints)
        if shared:
            raise PairsError(
                f"{len(shared)} pairs are in both the training and the validation pairs: take .train and .val of one split"
            )

    def plan(self, seed: int) -> Plan:
        """The rows and signs of every step."""
        if self.order is not None:
            return given_order(self.order, len(self.pairs))
        s = self.settings
        steps = s.max_steps or s.epochs * math.ceil(len(self.pairs) / s.batch_size)
        plan = drawn_order(len(self.pairs), steps, s.batch_size, s.sign, seed)
        # The same rows as BiPO's with that seed, always with +v.
        return plan if s.method == "bipo" else [(rows, [1] * len(rows)) for rows, _ in plan]


@dataclass
class _Run:
    """One vector's way: its plan, its descent, and what its record says."""

    data: TrainingData
    layer: int
    steps: DescentSettings
    seed: int
    plan: Plan
    scorer: PairScorer
    model_identity: ModelIdentity
    saved: tuple[dict[str, Tensor], dict[str, Any]] | None = None

    def __post_init__(self) -> None:
        cfg = self.data.model.cfg
        wide = torch.promote_types(cfg.dtype, torch.float32)
        self.descent = Descent(
            cfg.d_model, self.steps, len(self.plan), scale=self.scorer.median_norm(), device=cfg.device, dtype=wide
        )
        if self.saved is not None:
            self.descent.restore(*self.saved)
        # A given order has batches of its own size; sign="both" names every row twice.
        self.per_epoch = math.ceil(len(self.data.pairs) / len(set(self.plan[0][0])))
        self.eval_every = self.data.settings.eval_every or self.per_epoch

    def vector(self, v: Tensor, steps: int, rows: int) -> SteeringVector:
        """The vector after some steps, with as many rows of the history."""
        settings = about(self.data, self.steps) | {"steps": steps, "route": self.scorer.route.name}
        return make_vector(
            self.data.model,
            v,
            self.layer,
            method=self.data.settings.method,
            settings=settings,
            pairs=self.data.pairs,
            selected_by=self.data.val_pairs,
            seed=self.seed,
            history=self.descent.history[:rows],
            snapshots={step: kept for step, kept in self.descent.snapshots.items() if step <= rows},
            identity=self.model_identity,
        )

    def result(self) -> SteeringVector:
        """The vector to keep."""
        return self.vector(*self.descent.chosen, len(self.descent.history))

    def advance(self, loss: float, gradient: Tensor, signs: Sequence[int], val: PairScorer | None) -> None:
        """Take the step; look at the validation pairs when it is time."""
        step = len(self.descent.history)
        try:
            self.descent.advance(loss, gradient, epoch=step // self.per_epoch, sign=one_sign(signs))
        except TrainingError as error:
            raise TrainingError(*self._stopped(error)) from None
        if (step + 1) % self.per_epoch == 0 or step + 1 == len(self.plan):
            self.descent.keep()
        if val is not None and ((step + 1) % self.eval_every == 0 or step + 1 == len(self.plan)):
            self.descent.evaluated(*(_margin(val, self.descent.vector.detach(), sign) for sign in (1, -1)))

    def _stopped(self, error: TrainingError) -> tuple[str, SteeringVector | None]:
        if self.descent.good is None:
            return f"{error} without any vector: the model's own numbers are not finite", None
        good, steps = self.descent.good
        return (
            f"{error}. The last vector whose loss was finite is in this error's .vector (norm {float(good.norm()):.4g}, the "
            f"residual stream's {self.descent.scale:.4g}). A smaller lr, or float32 weights, usually cure it",
            self.vector(good, steps, steps),
        )


def about(data: TrainingData, steps: DescentSettings) -> dict[str, Any]:
    """What a vector's record says of its settings."""
    untold = {"checkpoint_every", "cache", "free_lower", "method"}
    if data.settings.method != "bipo":
        untold |= {"beta", "sign"}
    told = {name: value for name, value in asdict(data.settings).items() if name not in untold}
    order = "drawn" if data.order is None else "given"
    return {**told, **asdict(steps), "order": order, **data.pairs.described()}


def run_together(
    data: TrainingData,
    layers: Sequence[int],
    jobs: Sequence[tuple[DescentSettings, int]],
    *,
    checkpoint: Path | None = None,
    progress: bool = True,
) -> list[SteeringVector]:
    """A vector for every layer and (settings, seed), layers first; a checkpoint belongs to one run alone."""
    for steps, _ in jobs:
        if steps.patience is not None and data.val_pairs is None:
            raise TrainingError(f"patience={steps.patience} watches the validation margin: pass val_pairs=")
    plans = [data.plan(seed) for _, seed in jobs]
    model_identity = identify(data.model)
    encoded = data.pairs.encode(data.model)
    if data.settings.method != "supervised":  # which never sees the rejected side
        check_differ([pair.sides for pair in encoded], data.pairs.rows, data.pairs.provenance, "chosen and rejected")
    val_encoded = [] if data.val_pairs is None else data.val_pairs.encode(data.model)
    identity = _identity(data, layers[0], *jobs[0], plans[0], tokens=_digest([*encoded, "validation", *val_encoded]))
    saved = None if checkpoint is None else read_checkpoint(checkpoint, identity)
    used = sorted({row for plan in plans for rows, _ in plan for row in rows})
    cache = data.settings.cache
    train = PairScorer.at_layers(data.model, encoded, layers, rows=used, cache=cache, progress=progress)
    val: dict[int, PairScorer] = {}
    if val_encoded:
        val = PairScorer.at_layers(data.model, val_encoded, layers, cache=cache, progress=progress)
    if data.settings.free_lower:
        _ = [scorer.reference for scorer in (*train.values(), *val.values())]  # nothing below is asked for again
        free_below(data.model, min(layers))
    made = []
    for layer in layers:
        scorer = train.pop(layer)  # its residual streams are let go when its vectors are trained
        every = [
            _Run(data, layer, steps, seed, plan, scorer, model_identity, saved)
            for (steps, seed), plan in zip(jobs, plans, strict=True)
        ]
        _take_steps(every, scorer, val.pop(layer, None), checkpoint, identity, progress)
        made += [run.result() for run in every]
    return made


def _take_steps(
    every: Sequence[_Run],
    scorer: PairScorer,
    val: PairScorer | None,
    checkpoint: Path | None,
    identity: Mapping[str, Any],
    progress: bool,
) -> None:
    first = every[0].descent
    kept, steps = first.state(), first.steps
    label = {"bipo": "BiPO"}.get(every[0].data.settings.method, every[0].data.settings.method)
    label += f", layer {scorer.layer}" + (f", {len(every)} vectors" if len(every) > 1 else "")
    with tqdm(total=steps, initial=len(first.history), desc=label, unit="step", disable=not progress) as bar:
        try:
            while active := [run for run in every if not run.descent.done]:
                _step(active, scorer, val)
                bar.update()
                bar.set_postfix(_postfix(active[0].descent.history), refresh=False)
                if checkpoint is not None:
                    kept = first.state()
                    if len(first.history) % every[0].data.settings.checkpoint_every == 0 or first.done:
                        write_checkpoint(checkpoint, kept, identity)
        except KeyboardInterrupt:
            if checkpoint is not None:  # the state after the last whole step: this one may have been half done
                write_checkpoint(checkpoint, kept, identity)
            raise


@torch.enable_grad()  # notebooks often switch gradients off
def _step(active: Sequence[_Run], scorer: PairScorer, val: PairScorer | None) -> None:
    """One step of every run that is not done, as rows of one batch."""
    batches = [run.plan[len(run.descent.history)] for run in active]
    vectors = [run.descent.vector for run in active]
    owner = torch.tensor([i for i, (rows, _) in enumerate(batches) for _ in rows], device=vectors[0].device)
    rows, signs = [r for rows, _ in batches for r in rows], [s for _, signs in batches for s in signs]
    settings = active[0].data.settings
    alike = len(active) == 1 and len(set(signs)) == 1  # then the pairs of the batch can share their opening
    each, times = (vectors[0], signs[0]) if alike else (torch.stack(vectors)[owner], signs)
    if settings.method == "supervised":
        chosen = scorer.logprobs(rows, each, times)[:, 0]
        losses = [-chosen[owner == i].mean() for i in range(len(active))]
    else:
        shifts, sign = scorer.shift(rows, each, times), torch.tensor(signs, device=owner.device)
        losses = [x_loss(shifts[owner == i], sign[owner == i], settings.beta) for i in range(len(active))]
    gradients = torch.autograd.grad(torch.stack(losses).sum(), vectors)
    for run, loss, gradient, (_, own) in zip(active, losses, gradients, batches, strict=True):
        run.advance(float(loss.detach()), gradient, own, val)


def _margin(val: PairScorer, v: Tensor, sign: int) -> float:
    shifts = val.all_shifts(v, sign)
    return float((shifts[:, 0] - shifts[:, 1]).mean())


def _postfix(history: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    recent = history[-10:]
    shown = {
        "loss": f"{sum(r['loss'] for r in recent) / len(recent):.3f}",
        "|v|/resid": f"{recent[-1]['norm_ratio']:.3f}",
    }
    measured = next((r for r in reversed(history) if r["val_plus"] is not None), None)
    return shown if measured is None else {**shown, "val": f"{measured['val_plus']:+.2f}/{measured['val_minus']:+.2f}"}


def _identity(
    data: TrainingData, layer: int, steps: DescentSettings, seed: int, plan: Plan, *, tokens: str
) -> dict[str, Any]:
    """What must be the same for a checkpoint to be this run's; `tokens` digests all pairs as the model sees them."""
    return about(data, steps) | {
        "method": data.settings.method,
        "layer": layer,
        "seed": seed,
        "plan": _digest(plan),
        "tokens": tokens,
        "weights": identify(data.model).digest,
        "dtype": str(data.model.cfg.dtype),
        "cache": "fp16" if data.settings.cache == "fp16" else "exact",
    }


def _digest(items: Sequence[Any]) -> str:
    return hashlib.sha256(repr(list(items)).encode()).hexdigest()[:16]
