"""BiPO: bi-directional preference optimisation of one steering vector.

Cao et al. 2024, "Personalized Steering of Large Language Models: Versatile Steering Vectors Through Bi-directional
Preference Optimization", arXiv 2406.00045v2, equations 2 to 4. Symbols: q prompt, r_T chosen, r_O rejected, A_L the
residual stream after block L, d the sign, v the vector.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm
from transformer_lens import HookedTransformer

from steerlens._fingerprint import identify
from steerlens._scores import PairScorer
from steerlens.errors import PairsError, TrainingError
from steerlens.methods._descent import (
    Descent,
    DescentSettings,
    Schedule,
    check_numbers,
    read_checkpoint,
    write_checkpoint,
)
from steerlens.methods._order import Order, Sign, drawn_order, given_order, one_sign
from steerlens.pairs import PreferencePairs
from steerlens.resid import check_layer, check_model, make_vector
from steerlens.shapes import DVector, check_vector
from steerlens.vector import SteeringVector


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
    epochs: int
    max_steps: int | None
    batch_size: int
    sign: Sign

    def __post_init__(self) -> None:
        check_numbers(self, above_zero=("beta", "epochs", "max_steps", "batch_size"))
        if self.sign not in get_args(Sign):
            raise TrainingError(f"sign={self.sign!r} is not known; expected one of {get_args(Sign)}")


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
    schedule_steps: int | None = None,
    batch_size: int = 4,
    max_grad_norm: float = 1.0,
    weight_decay: float = 0.0,
    sign: Sign = "batch",
    order: Order | None = None,
    seed: int = 0,
    eval_every: int | None = None,
    patience: int | None = None,
    max_norm: float | None = None,
    checkpoint: str | Path | None = None,
    checkpoint_every: int = 25,
    progress: bool = True,
) -> SteeringVector:
    """Train one vector so that +v makes the chosen responses likelier and -v the rejected ones.

    The defaults are the authors' for Llama-2-7b-chat. AdamW moves each coordinate by about lr per step, so lr is in units
    of the residual stream: choose it in proportion to the stream's norm over sqrt(d_model), by the validation margin, and
    watch `norm_ratio` in the history: the loss goes on falling while text breaks, above a ratio of about 0.3 on small models.

    Args:
        model: any HookedTransformer; its weights are not touched.
        pairs: the training pairs.
        layer: the 0-based block after which v is added, at every position (prompt and response).
        val_pairs: held-out pairs whose margin, x(+1, v) and x(-1, v) in nats, is recorded after every epoch and at the end.
        beta: per nat of x.
        lr, warmup_steps, schedule: AdamW's learning rate; linear warm-up from 0 and "cosine", "linear" or "constant"
            from there. A warm-up that is not shorter than the run is cut to a tenth of it.
        schedule_steps: where the schedule ends, if that lies beyond the run (the run is then a snapshot of a longer one).
        epochs, max_steps: passes over the pairs, or, if given, steps in all.
        batch_size: pairs per step.
        max_grad_norm: the gradient is scaled down to this norm.
        weight_decay: AdamW's.
        sign: "batch" draws d once per step, as the authors' code does; "pair" once per pair, as the paper writes it;
            "both" takes the mean over +1 and -1 of every pair (twice the work per step, less noise).
        order: the rows and the sign of every step, [([0, 5, 7, 2], -1), ...], to replay a run; `epochs`, `max_steps`,
            `batch_size`, `sign` and `seed` then count for nothing.
        seed: of the order and the signs.
        eval_every: steps between evaluations on `val_pairs`; default: an epoch.
        patience: stop when the two-sided validation margin, [x(+1) - x(-1)]/2, has not risen for this many evaluations,
            and keep the vector that had the best one.
        max_norm: v is scaled back to this norm after a step that exceeds it, in units of the residual stream.
        checkpoint: a file that the run is written to every `checkpoint_every` steps, at its end and at Ctrl-C; if it holds
            this very run, it goes on from there, to the same vector as without a stop.
        progress: show a progress bar.

    Returns:
        The vector after the last step, or the best one with `patience`. `history` has a row per step: step, epoch, loss
        (nats), sign, lr, grad_norm, norm, norm_ratio (over the residual stream's median norm), and val_plus, val_minus
        (nats) where they were measured.

    Raises:
        TrainingError: an option is wrong, the checkpoint is another run's, or the loss stopped being finite
            (`error.vector` is the last good vector).
        PairsError: the pairs can't be encoded, or training and validation share some.

    Source:
        arXiv 2406.00045v2, algorithm 1 and appendix. Where paper and code differ, the defaults follow the code:
        - d is drawn per batch (paper: expectation per sample): sign="pair" or "both".
        - weight decay is 0 (the paper says 0.05; the code declares it and never hands it on): weight_decay=0.05.
        - the code's cosine runs over 100 epochs and its published vectors are snapshots (epoch 20 on Llama-2); the paper
          says 20 epochs. Here the cosine ends with the run; for a snapshot, schedule_steps=100 * ceil(pairs / batch_size).
        - the gradient is clipped to norm 1.0, the learning rate of the first step is 0 (the Trainer's defaults; the paper
          names neither). AdamW's betas are (0.9, 0.999), its epsilon 1e-8.
        - the code keeps two fp32 copies of the model and runs the unsteered one in every step; here it runs once, and
          padding positions, which the code steers and masks out, are not computed.
    """
    model, layer = check_model(model), check_layer(model, layer)
    settings = BipoSettings(beta, epochs, max_steps, batch_size, sign)
    descent_settings = DescentSettings(
        lr, warmup_steps, schedule, schedule_steps, max_grad_norm, weight_decay, max_norm, patience
    )
    _check_numbers_apart(seed, eval_every, checkpoint_every)
    _check_apart(pairs, val_pairs, patience)
    steps = max_steps or epochs * math.ceil(len(pairs) / batch_size)
    drawn = order is None
    plan = drawn_order(len(pairs), steps, batch_size, sign, seed) if order is None else given_order(order, len(pairs))
    about = {**asdict(settings), **asdict(descent_settings), "order": "drawn" if drawn else "given"}
    about |= pairs.described()
    # A given order has batches of its own size; sign="both" names every row twice.
    per_epoch = math.ceil(len(pairs) / len(set(plan[0][0])))
    run = {**about, "layer": layer, "seed": seed, "plan": _digest(plan), "pairs": _digest(pairs.fingerprints)}
    run |= {"val_pairs": _digest(() if val_pairs is None else val_pairs.fingerprints), "eval_every": eval_every}
    run |= {"weights": _digest(identify(model).fingerprint), "dtype": str(model.cfg.dtype)}
    saved = None if checkpoint is None else read_checkpoint(Path(checkpoint), run)

    used = [row for rows, _ in plan for row in rows]
    scorer = PairScorer(model, pairs.encode(model), layer, rows=used, progress=progress)
    val = None if val_pairs is None else PairScorer(model, val_pairs.encode(model), layer, progress=progress)
    wide = torch.promote_types(model.cfg.dtype, torch.float32)
    descent = Descent(
        model.cfg.d_model, descent_settings, len(plan), scale=scorer.median_norm(), device=model.cfg.device, dtype=wide
    )
    if saved is not None:
        descent.restore(*saved)
    loop = _Loop(scorer, val, plan, beta, per_epoch, eval_every or per_epoch, progress)

    def vector(v: Tensor, steps: int, rows: int) -> SteeringVector:
        settings_of = {**about, "steps": steps, "route": scorer.route.name}
        kept = {"settings": settings_of, "pairs": pairs, "selected_by": val_pairs, "seed": seed}
        return make_vector(model, v, layer, method="bipo", history=descent.history[:rows], **kept)  # type: ignore[arg-type]

    try:
        loop.run(descent, None if checkpoint is None else Path(checkpoint), checkpoint_every, run)
    except TrainingError as error:
        if descent.good is None:
            raise TrainingError(f"{error} without any vector: the model's own numbers are not finite") from None
        good, steps = descent.good
        raise TrainingError(
            f"{error}. The last vector whose loss was finite is in this error's .vector (norm {float(good.norm()):.4g}, the "
            f"residual stream's {descent.scale:.4g}). A smaller lr, or float32 weights, usually cure it",
            vector(good, steps, steps),
        ) from None
    return vector(*descent.chosen, len(descent.history))


@dataclass(frozen=True)
class _Loop:
    """The steps of a run: what each one asks the scorer, and when to look at the validation pairs."""

    scorer: PairScorer
    val: PairScorer | None
    plan: Sequence[tuple[list[int], list[int]]]
    beta: float
    per_epoch: int
    eval_every: int
    progress: bool

    def run(self, descent: Descent, checkpoint: Path | None, every: int, run: Mapping[str, Any]) -> None:
        """Take the steps that are left."""
        kept, label = descent.state(), f"BiPO, layer {self.scorer.layer}"
        first = len(descent.history)
        with tqdm(total=len(self.plan), initial=first, desc=label, unit="step", disable=not self.progress) as bar:
            try:
                while not descent.done:
                    self._step(descent)
                    bar.update()
                    bar.set_postfix(_postfix(descent.history), refresh=False)
                    if checkpoint is not None:
                        kept = descent.state()
                        if len(descent.history) % every == 0 or descent.done:
                            write_checkpoint(checkpoint, kept, run)
            except KeyboardInterrupt:
                if checkpoint is not None:  # the state after the last whole step: this one may have been half done
                    write_checkpoint(checkpoint, kept, run)
                raise

    @torch.enable_grad()  # notebooks often switch gradients off
    def _step(self, descent: Descent) -> None:
        step = len(descent.history)
        rows, signs = self.plan[step]
        v = descent.vector
        loss = _loss(self.scorer.shift(rows, v, signs), torch.tensor(signs, device=v.device), self.beta)
        gradient = torch.autograd.grad(loss, v)[0]
        descent.advance(float(loss.detach()), gradient, epoch=step // self.per_epoch, sign=one_sign(signs))
        if self.val is not None and ((step + 1) % self.eval_every == 0 or step + 1 == len(self.plan)):
            plus, minus = (_margin(self.val, v.detach(), sign) for sign in (1, -1))
            descent.evaluated(plus, minus)


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


def _digest(items: Sequence[Any]) -> str:
    return hashlib.sha256(repr(list(items)).encode()).hexdigest()[:16]


def _check_numbers_apart(seed: int, eval_every: int | None, checkpoint_every: int) -> None:
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise TrainingError(f"seed={seed!r}; expected a whole number")
    for name, value in (("eval_every", eval_every), ("checkpoint_every", checkpoint_every)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise TrainingError(f"{name}={value!r}; expected a whole number from 1")


def _check_apart(pairs: PreferencePairs, val_pairs: PreferencePairs | None, patience: int | None) -> None:
    if patience is not None and val_pairs is None:
        raise TrainingError(f"patience={patience} watches the validation margin: pass val_pairs=")
    if not len(pairs) or (val_pairs is not None and not len(val_pairs)):
        raise PairsError("there are no pairs to train on, or val_pairs is empty: leave val_pairs out instead")
    shared = set(pairs.fingerprints) & set(() if val_pairs is None else val_pairs.fingerprints)
    if shared:
        raise PairsError(
            f"{len(shared)} pairs are in both the training and the validation pairs: take .train and .val of one split"
        )
