"""Log-probabilities of several responses to each prompt, steered by several vectors: what multiple choice is read from."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from tqdm.auto import tqdm
from transformer_lens import HookedTransformer

from steerlens.checks.values import checked_count
from steerlens.errors import PairsError
from steerlens.forward.pair_scores import choose_route
from steerlens.forward.steer import Positions
from steerlens.text.encode import EncodedChoice
from steerlens.vectors.vector import SteeringVector

OptionLogProbs = Float[np.ndarray, "vector multiplier option"]


@torch.no_grad()
def option_logprobs(
    model: HookedTransformer,
    items: Sequence[EncodedChoice],
    vectors: Sequence[SteeringVector],
    multipliers: Sequence[float],
    positions: Positions,
    *,
    batch_size: int,
    progress: bool,
) -> list[OptionLogProbs]:
    """log p of every response to every prompt with multiplier * vector added, in nats.

    A prompt goes through the lower blocks once for all vectors and multipliers, once for all its responses, and the
    unsteered model is asked once for all vectors. Nothing but the numbers is kept from one batch to the next.
    """
    batch_size = checked_count("batch_size", batch_size, error=PairsError)
    route, device = choose_route(model, items), model.cfg.device
    layers = sorted({vector.layer for vector in vectors})
    added = [vector.tensor.to(device) for vector in vectors]
    found: dict[int, OptionLogProbs] = {}
    with tqdm(total=len(items), desc="asking", unit="question", disable=not progress, leave=False) as bar:
        for rows in _batches(items, batch_size):
            batch = [items[row] for row in rows]
            resid = dict(zip(layers, route.resid(batch, layers), strict=True))
            nats = np.zeros((len(vectors), len(multipliers), len(rows), len(batch[0].sides)))
            for column, m in enumerate(multipliers):
                if m == 0:
                    top = layers[-1]  # the fewest blocks above it
                    nats[:, column] = route.logprobs(batch, resid[top], top, None, positions).cpu().numpy()
                    continue
                for i, (vector, tensor) in enumerate(zip(vectors, added, strict=True)):
                    each = route.logprobs(batch, resid[vector.layer], vector.layer, m * tensor, positions)
                    nats[i, column] = each.cpu().numpy()
            found |= {row: nats[:, :, i] for i, row in enumerate(rows)}
            bar.update(len(rows))
    return [found[row] for row in range(len(items))]


def _batches(items: Sequence[EncodedChoice], batch_size: int) -> list[list[int]]:
    """Rows with as many responses in one batch, of similar length, so that little is padding."""
    rows = sorted(range(len(items)), key=lambda row: (len(items[row].sides), items[row].length))
    batches: list[list[int]] = []
    for row in rows:
        last = batches[-1] if batches else []
        if not last or len(last) == batch_size or len(items[last[0]].sides) != len(items[row].sides):
            batches.append([row])
        else:
            last.append(row)
    return batches
