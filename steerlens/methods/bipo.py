"""BiPO: bi-directional preference optimisation of one steering vector.

Cao et al. 2024, "Personalized Steering of Large Language Models: Versatile Steering Vectors Through Bi-directional
Preference Optimization", arXiv 2406.00045v2, equations 2 to 4. Symbols: q prompt, r_T chosen, r_O rejected, A_L the
residual stream after block L, d the sign, v the vector.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm
from transformer_lens import HookedTransformer

from steerlens._scores import PairScorer
from steerlens.errors import PairsError, TrainingError
from steerlens.pairs import PreferencePairs
from steerlens.resid import check_layer, check_model, make_vector
from steerlens.shapes import DVector, check_vector
from steerlens.vector import SteeringVector

Sign = Literal["batch", "pair", "both"]
Schedule = Literal["cosine", "linear", "constant"]
Order = Sequence[tuple[Sequence[int], int | Sequence[int]]]


def bipo_loss(
    model: HookedTransformer,
    v: DVector,
    pairs: PreferencePairs,
    layer: int,
    sign: int = 1,
    beta: float = 0.1,
    *,
    batch_size: int = 8,
) -> Float[Tensor, ""]:
    """The BiPO loss of a vector for one sign: the mean over pairs of -log sigmoid(sign * beta * x(sign, v)).

    x(d, v) = [log p(r_T | q; A_L + d v) - log p(r_T | q; A_L)] - [log p(r_O | q; A_L + d v) - log p(r_O | q; A_L)]

    Args:
        model: any HookedTransformer.
        v: Float[Tensor, " d_model"], added to `blocks.{layer}.hook_resid_post` at every position; the loss is
            differentiable in it (all pairs' graphs are held at once).
        pairs: encoded with their own template; log p sums over a response's tokens, the end of the turn included.
        sign: +1 or -1.
        beta: how sharply x is held against the reference model, per nat.

    Returns:
        A scalar, in nats: ln 2 at v = 0, whatever the sign.

    Raises:
        VectorError, ModelError, PairsError, TrainingError: an argument can't be used; says why.

    Source:
        Equations 2 (one direction) and 3 (both); `train_bipo` draws the sign.
    """
    model = check_model(model)
    check_vector(v, d_model=model.cfg.d_model, what="v")
    if sign not in (1, -1):
        raise TrainingError(f"sign={sign!r}; expected +1 or -1")
    if not 0 < beta < math.inf:
        raise TrainingError(f"beta={beta!r}; expected a finite number above 0")
    scorer = PairScorer(model, pairs.encode(model), check_layer(model, layer), batch_size=batch_size)
    shifts = [scorer.shift(rows, v, sign) for rows in scorer.batches(range(len(pairs)))]
    return _loss(torch.cat(shifts), sign, beta).to(v.dtype)


def _loss(shifts: Tensor, signs: Tensor | int, beta: float) -> Tensor:
    x = shifts[:, 0] - shifts[:, 1]
    return F.softplus(-signs * beta * x).mean()  # -log sigmoid(z) = softplus(-z)


@dataclass(frozen=True)
class BipoSettings:
    """What `train_bipo` was asked for; units as there."""

    beta: float
    lr: float
    epochs: int
    max_steps: int | None
    warmup_steps: int
    schedule: Schedule
    batch_size: int
    max_grad_norm: float
    weight_decay: float
    sign: Sign

    def __post_init__(self) -> None:
        positive = ("beta", "lr", "epochs", "batch_size", "max_grad_norm")
        for name in (*positive, "max_steps", "warmup_steps", "weight_decay"):
            value = getattr(self, name)
            if value is None:
                continue
            low = 0 if name in ("warmup_steps", "weight_decay") else math.ulp(0.0)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value < math.inf:
                raise TrainingError(f"{name}={value!r}; expected a finite number {'from' if low == 0 else 'above'} 0")
            if name in ("epochs", "batch_size", "max_steps", "warmup_steps") and not isinstance(value, int):
                raise TrainingError(f"{name}={value!r}; expected a whole number")
        for name, known in (("schedule", get_args(Schedule)), ("sign", get_args(Sign))):
            if getattr(self, name) not in known:
                raise TrainingError(f"{name}={getattr(self, name)!r} is not known; expected one of {known}")

    def lr_at(self, step: int, steps: int) -> float:
        """The learning rate of a step: linear warm-up from 0, then the schedule down to 0 at the last step's end."""
        # A run shorter than its warm-up would never reach lr.
        warmup = self.warmup_steps if steps > self.warmup_steps else steps // 10
        if step < warmup:
            return self.lr * step / warmup
        done = (step - warmup) / max(1, steps - warmup)
        shape = {"cosine": 0.5 * (1 + math.cos(math.pi * done)), "linear": 1 - done, "constant": 1.0}
        return self.lr * shape[self.schedule]


def train_bipo(
    model: HookedTransformer,
    pairs: PreferencePairs,
    layer: int,
    *,
    val_pairs: PreferencePairs | None = None,
    beta: float = 0.1,
    lr: float = 5e-4,
    epochs: int = 20,
    max_steps: int | None = None,
    warmup_steps: int = 100,
    schedule: Schedule = "cosine",
    batch_size: int = 4,
    max_grad_norm: float = 1.0,
    weight_decay: float = 0.0,
    sign: Sign = "batch",
    order: Order | None = None,
    seed: int = 0,
    progress: bool = True,
) -> SteeringVector:
    """Train one vector so that +v makes the chosen responses likelier and -v the rejected ones.

    The defaults are the authors' for Llama-2-7b-chat. lr is in units of the residual stream per step (AdamW moves each
    coordinate by about lr), so a model with a larger stream needs a larger one: watch `norm_ratio` in the history.

    Args:
        model: any HookedTransformer; its weights are not touched.
        pairs: the training pairs.
        layer: the 0-based block after which v is added, at every position (prompt and response).
        val_pairs: held-out pairs whose margin, x(+1, v) and x(-1, v) in nats, is recorded after every epoch and at the end.
        beta: per nat of x.
        lr, warmup_steps, schedule: AdamW's learning rate; linear warm-up from 0 and "cosine", "linear" or "constant"
            from there. A warm-up that is not shorter than the run is cut to a tenth of it.
        epochs, max_steps: passes over the pairs, or, if given, steps in all.
        batch_size: pairs per step.
        max_grad_norm: the gradient is scaled down to this norm.
        weight_decay: AdamW's.
        sign: "batch" draws d once per step, as the authors' code does; "pair" once per pair, as the paper writes it;
            "both" takes the mean over +1 and -1 of every pair (twice the work per step, less noise).
        order: the rows and the sign of every step, [([0, 5, 7, 2], -1), ...], to replay a run; `epochs`, `max_steps`,
            `batch_size`, `sign` and `seed` then count for nothing.
        seed: of the order and the signs.
        progress: show a progress bar.

    Returns:
        The vector after the last step. `history` has a row per step: step, epoch, loss (nats), sign, lr, grad_norm,
        norm, norm_ratio (over the residual stream's median norm), and val_plus, val_minus (nats) where they were measured.

    Raises:
        TrainingError: an option is wrong, or the loss stopped being finite (`error.vector` is the last good vector).
        PairsError: the pairs can't be encoded, or training and validation share some.

    Source:
        arXiv 2406.00045v2, algorithm 1 and appendix. Where paper and code differ, the defaults follow the code:
        - d is drawn per batch (paper: expectation per sample): sign="pair" or "both".
        - weight decay is 0 (the paper says 0.05; the code declares it and never hands it on): weight_decay=0.05.
        - the code's cosine runs over 100 epochs and its published vectors are snapshots (epoch 20 on Llama-2); the paper
          says 20 epochs. Here the cosine ends with `epochs`. To follow the snapshot: order= with 100 epochs' steps.
        - the gradient is clipped to norm 1.0, the learning rate of the first step is 0 (the Trainer's defaults; the paper
          names neither). AdamW's betas are (0.9, 0.999), its epsilon 1e-8.
        - the code keeps two fp32 copies of the model and runs the unsteered one in every step; here it runs once, and
          `padding` positions, which the code steers and masks out, are not computed.
    """
    model, layer = check_model(model), check_layer(model, layer)
    settings = BipoSettings(
        beta, lr, epochs, max_steps, warmup_steps, schedule, batch_size, max_grad_norm, weight_decay, sign
    )
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise TrainingError(f"seed={seed!r}; expected a whole number")
    _check_apart(pairs, val_pairs)
    plan = list(_plan(settings, len(pairs), seed)) if order is None else _given(order, len(pairs))
    used = [row for rows, _ in plan for row in rows]
    scorer = PairScorer(model, pairs.encode(model), layer, rows=used, progress=progress)
    val = None if val_pairs is None else PairScorer(model, val_pairs.encode(model), layer, progress=progress)

    about = {**asdict(settings), "order": "drawn" if order is None else "given", **pairs.described()}

    def vector(v: Tensor, history: Sequence[Mapping[str, Any]]) -> SteeringVector:
        ran = {**about, "steps": len(history)}
        return make_vector(
            model, v, layer, method="bipo", settings=ran, pairs=pairs, selected_by=val_pairs, seed=seed, history=history
        )

    return _descend(scorer, val, plan, settings, vector, progress)


@torch.enable_grad()  # notebooks often switch gradients off
def _descend(
    scorer: PairScorer,
    val: PairScorer | None,
    plan: Sequence[tuple[list[int], list[int]]],
    settings: BipoSettings,
    vector: Callable[[Tensor, Sequence[Mapping[str, Any]]], SteeringVector],
    progress: bool,
) -> SteeringVector:
    device, dtype = scorer.model.cfg.device, torch.promote_types(scorer.model.cfg.dtype, torch.float32)
    v = torch.zeros(scorer.model.cfg.d_model, device=device, dtype=dtype, requires_grad=True)
    optimiser = torch.optim.AdamW([v], lr=settings.lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=settings.weight_decay)
    # A given order has batches of its own size; sign="both" names every row twice.
    scale, per_epoch = scorer.median_norm(), math.ceil(len(scorer.pairs) / len(set(plan[0][0])))
    history: list[dict[str, Any]] = []
    good: tuple[Tensor, int] | None = None  # the last vector whose loss was finite, and the steps that led to it

    def stopped(what: str) -> TrainingError:
        if good is None:
            return TrainingError(f"{what} without any vector: the model's own numbers are not finite")
        last = vector(good[0], history[: good[1]])
        return TrainingError(
            f"{what}. The last vector whose loss was finite is in this error's .vector (norm {last.norm:.4g}, the "
            f"residual stream's {scale:.4g}). A smaller lr, or float32 weights, usually cure it",
            last,
        )

    with tqdm(plan, desc=f"BiPO, layer {scorer.layer}", unit="step", disable=not progress) as bar:
        for step, (rows, signs) in enumerate(bar):
            optimiser.param_groups[0]["lr"] = settings.lr_at(step, len(plan))
            optimiser.zero_grad()
            loss = _loss(scorer.shift(rows, v, signs), torch.tensor(signs, device=device), settings.beta)
            loss.backward(inputs=[v])  # not into the weights of a model whose gradients are on
            norm = torch.nn.utils.clip_grad_norm_([v], settings.max_grad_norm)
            at = float(loss.detach())
            if not (math.isfinite(at) and math.isfinite(float(norm))):
                raise stopped(f"step {step}: the loss is {at} and its gradient's norm {float(norm)}")
            good = v.detach().clone(), len(history)
            optimiser.step()
            size = float(v.detach().norm())
            if not math.isfinite(size):
                raise stopped(f"step {step}: the vector's norm is {size} after it")
            row: dict[str, Any] = {"step": step, "epoch": step // per_epoch, "loss": at, "sign": _one_sign(signs)}
            row |= {"lr": optimiser.param_groups[0]["lr"], "grad_norm": float(norm), "norm": size}
            row |= {"norm_ratio": size / scale, "val_plus": None, "val_minus": None}
            if val is not None and ((step + 1) % per_epoch == 0 or step + 1 == len(plan)):
                row["val_plus"], row["val_minus"] = (_margin(val, v.detach(), sign) for sign in (1, -1))
            history.append(row)
            bar.set_postfix(_postfix(history), refresh=False)
    return vector(v.detach(), history)


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


def _one_sign(signs: Sequence[int]) -> int:
    """+1 or -1 where the step had one sign, 0 where it had both."""
    return signs[0] if len(set(signs)) == 1 else 0


def _plan(settings: BipoSettings, n: int, seed: int) -> Iterator[tuple[list[int], list[int]]]:
    """Rows and signs of every step: a fresh order each epoch, the last batch of an epoch as large as what is left."""
    generator = torch.Generator().manual_seed(seed)
    steps = settings.max_steps or settings.epochs * math.ceil(n / settings.batch_size)
    while True:
        permutation = torch.randperm(n, generator=generator).tolist()
        for start in range(0, n, settings.batch_size):
            if steps == 0:
                return
            steps -= 1
            rows = permutation[start : start + settings.batch_size]
            drawn = (torch.randint(0, 2, (len(rows),), generator=generator) * 2 - 1).tolist()
            if settings.sign == "both":
                yield rows * 2, [1] * len(rows) + [-1] * len(rows)
            else:
                yield rows, drawn if settings.sign == "pair" else drawn[:1] * len(rows)


def _given(order: Order, n: int) -> list[tuple[list[int], list[int]]]:
    plan = []
    for step, given in enumerate(order):
        try:
            rows, sign = given
            signs = [sign] * len(rows) if isinstance(sign, int) else list(sign)
            good = rows and set(signs) <= {1, -1} and len(signs) == len(rows) and all(0 <= r < n for r in rows)
        except TypeError:
            good = False
        if not good:
            raise TrainingError(
                f"order[{step}] is {given!r}; expected rows from 0 to {n - 1} and a sign of +1 or -1, or one per row"
            )
        plan.append((list(rows), signs))
    if not plan:
        raise TrainingError("order is empty; expected the rows and the sign of at least one step")
    return plan


def _check_apart(pairs: PreferencePairs, val_pairs: PreferencePairs | None) -> None:
    if not len(pairs) or (val_pairs is not None and not len(val_pairs)):
        raise PairsError("there are no pairs to train on, or val_pairs is empty: leave val_pairs out instead")
    shared = set(pairs.fingerprints) & set(() if val_pairs is None else val_pairs.fingerprints)
    if shared:
        raise PairsError(
            f"{len(shared)} pairs are in both the training and the validation pairs: take .train and .val of one split"
        )
