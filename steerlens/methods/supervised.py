"""A supervised vector: it makes the chosen responses likelier and never sees the rejected ones.

Subramani et al. 2022, "Extracting Latent Steering Vectors from Pretrained Language Models", arXiv 2205.05124, who fit a
vector per sentence; here one vector is fitted to all chosen responses. Beside BiPO it shows what the preference adds.
"""

from pathlib import Path

from transformer_lens import HookedTransformer

from steerlens.checks.calls import path
from steerlens.errors import TrainingError
from steerlens.forward.door import checked
from steerlens.forward.stream_store import Cache
from steerlens.methods._bipo_run import BipoSettings, TrainingData, run_together
from steerlens.methods._descent import OPTIONS, DescentSettings, Schedule
from steerlens.pairs.preference import PreferencePairs
from steerlens.vectors.vector import SteeringVector


@checked(TrainingError, *OPTIONS, checkpoint=path)
def train_supervised(
    model: HookedTransformer,
    pairs: PreferencePairs,
    layer: int,
    *,
    val_pairs: PreferencePairs | None = None,
    lr: float = 5e-4,
    epochs: int = 20,
    max_steps: int | None = None,
    warmup_steps: int = 100,
    schedule: Schedule = "cosine",
    batch_size: int = 4,
    max_grad_norm: float = 1.0,
    weight_decay: float = 0.0,
    seed: int = 0,
    eval_every: int | None = None,
    max_norm: float | None = None,
    checkpoint: str | Path | None = None,
    checkpoint_every: int = 25,
    cache: Cache = "auto",
    progress: bool = True,
) -> SteeringVector:
    """Train one vector v so that +v makes the chosen responses likelier: the loss is -log p(chosen | prompt; A_L + v).

    The optimiser, the rows of every step and their tokens are those of `train_bipo` with the same options and seed; only
    the loss differs. Nothing ties v to the behaviour's opposite: -v was never trained, and what raises any fluent answer
    (its style, its length) counts as much as the behaviour.

    Args:
        model: any HookedTransformer; its weights are not touched.
        pairs: the training pairs; only prompts and chosen responses count.
        layer: the 0-based block after which v is added, at every position.
        val_pairs: held-out pairs whose margin, x(+1, v) and x(-1, v) in nats as for BiPO, is recorded in the history.
        Everything else as in `train_bipo`.

    Returns:
        The vector after the last step. `history` has a row per step as in `train_bipo`; its loss is the mean over the step's
        pairs of -log p(chosen), summed over the response's tokens, in nats: it does not begin at ln 2.

    Raises:
        TrainingError, PairsError: as `train_bipo`.

    Source:
        arXiv 2205.05124, where it is a single sentence whose log-probability is raised.
    """
    settings = BipoSettings(
        1.0, epochs, max_steps, batch_size, "batch", eval_every, checkpoint_every, cache, method="supervised"
    )
    steps = DescentSettings(lr, warmup_steps, schedule, None, max_grad_norm, weight_decay, max_norm, None)
    data = TrainingData(model, pairs, val_pairs, settings, None)
    file = None if checkpoint is None else Path(checkpoint)
    return run_together(data, [layer], [(steps, seed)], checkpoint=file, progress=progress)[0]
