"""BiPO: bi-directional preference optimisation of one steering vector.

Cao et al. 2024, "Personalized Steering of Large Language Models: Versatile Steering Vectors Through Bi-directional
Preference Optimization", arXiv 2406.00045v2, equations 2 to 4. Symbols: q prompt, r_T chosen, r_O rejected, A_L the
residual stream after block L, d the sign, v the vector.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens import HookedTransformer

from steerlens.checks.calls import flag, number, path, seeds
from steerlens.checks.values import checked_choice, checked_list
from steerlens.errors import TrainingError
from steerlens.forward.door import checked, tensor
from steerlens.forward.pair_scores import PairScorer
from steerlens.forward.stream_store import Cache
from steerlens.methods._bipo_run import BipoSettings, TrainingData, run_together, x_loss
from steerlens.methods._descent import OPTIONS, DescentSettings, Schedule, check_trainable
from steerlens.methods._order import Order, Sign
from steerlens.pairs.preference import PreferencePairs
from steerlens.text.encode import check_differ
from steerlens.vectors.shapes import DVector, check_vector
from steerlens.vectors.vector import SteeringVector


@checked(TrainingError, "sign", v=tensor, beta=number(above=0))
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
    check_vector(v, d_model=model.cfg.d_model, what="v")
    sign = checked_choice("sign", sign, (1, -1), error=TrainingError)
    if v.requires_grad:
        check_trainable(model)
    encoded = pairs.encode(model)
    check_differ([pair.sides for pair in encoded], pairs.rows, pairs.provenance, "chosen and rejected")
    scorer = PairScorer(model, encoded, layer, batch_size=batch_size)
    shifts = [scorer.shift(rows, v, sign) for rows in scorer.batches(range(len(pairs)))]
    return x_loss(torch.cat(shifts), sign, beta).to(v.dtype)


@checked(TrainingError, *OPTIONS, "order", checkpoint=path, free_lower=flag)
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
    cache: Cache = "auto",
    free_lower: bool = False,
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
        cache: where the residual streams at the layer are kept: "ram", "fp16" (half of a float32 model's memory; the
            gradient keeps about 5e-4 of precision), "disk" (a temporary file, mapped), "recompute"; "auto" takes "ram", and
            "disk" where that would fill over half of the free memory.
        free_lower: let go of the model's weights below the layer once the pairs are read, to save memory: the model can't
            be used for anything else afterwards.
        progress: show a progress bar.

    Returns:
        The vector after the last step, or the best one with `patience`. `history` has a row per step: step, epoch, loss
        (nats), sign, lr, grad_norm, norm, norm_ratio (over the residual stream's median norm), and val_plus, val_minus
        (nats) where they were measured.

    Raises:
        TrainingError: an option is wrong, the checkpoint is another run's, gradients are off (`torch.inference_mode()`), or the
            loss stopped being finite (`error.vector` is the last good vector).
        PairsError: the pairs can't be encoded, chosen and rejected are the same tokens in some (the rows are listed), or
            training and validation share some.

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
    settings = BipoSettings(beta, epochs, max_steps, batch_size, sign, eval_every, checkpoint_every, cache, free_lower)
    steps = DescentSettings(lr, warmup_steps, schedule, schedule_steps, max_grad_norm, weight_decay, max_norm, patience)
    data = TrainingData(model, pairs, val_pairs, settings, order)
    file = None if checkpoint is None else Path(checkpoint)
    return run_together(data, [layer], [(steps, seed)], checkpoint=file, progress=progress)[0]


@checked(TrainingError, *OPTIONS, "lrs", seeds=seeds)
def train_bipo_grid(
    model: HookedTransformer,
    pairs: PreferencePairs,
    layers: Sequence[int],
    *,
    seeds: Sequence[int] = (0,),
    lrs: Sequence[float] = (5e-4,),
    val_pairs: PreferencePairs | None = None,
    beta: float = 0.1,
    epochs: int = 20,
    max_steps: int | None = None,
    warmup_steps: int = 100,
    schedule: Schedule = "cosine",
    batch_size: int = 4,
    max_grad_norm: float = 1.0,
    weight_decay: float = 0.0,
    sign: Sign = "batch",
    eval_every: int | None = None,
    patience: int | None = None,
    max_norm: float | None = None,
    cache: Cache = "auto",
    progress: bool = True,
) -> list[SteeringVector]:
    """Train a vector for every layer, learning rate and seed, in much less time than one after another.

    The pairs go through the model once, which yields the residual stream at every layer and the reference
    log-probabilities; vectors of one layer are trained as rows of one batch. Each is the vector that `train_bipo` gives, up
    to rounding.

    Args:
        layers, seeds, lrs: all combinations are trained.
        Everything else as in `train_bipo`.

    Returns:
        The vectors in the order of `layers`, then `lrs`, then `seeds`; `layer`, `settings["lr"]` and `seed` tell them apart.

    Raises:
        TrainingError: as `train_bipo`, or a list is empty; a run whose loss is not finite stops them all.
    """
    settings = BipoSettings(beta, epochs, max_steps, batch_size, sign, eval_every, 1, cache)
    layers = list(layers)
    lrs = checked_list("lrs", lrs, error=TrainingError, of="learning rates")
    jobs = [
        (DescentSettings(lr, warmup_steps, schedule, None, max_grad_norm, weight_decay, max_norm, patience), seed)
        for lr in lrs
        for seed in seeds
    ]
    data = TrainingData(model, pairs, val_pairs, settings, None)
    return run_together(data, layers, jobs, progress=progress)
