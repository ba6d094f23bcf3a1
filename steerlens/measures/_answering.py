"""How answers are got: what each is found by, and the batches that they come in."""

import hashlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from transformer_lens import HookedTransformer

from steerlens.forward.steer import Positions
from steerlens.generation.generate import Prompts, chunks, decode
from steerlens.generation.sampling import Choose, drawn, likeliest
from steerlens.models.identity import identify
from steerlens.results.ledger import digest
from steerlens.vectors.origin import library_versions
from steerlens.vectors.vector import SteeringVector


class Ask(NamedTuple):
    """One answer to get."""

    prompt: int
    vector: int | None
    """None for the unsteered model's greedy answer, which all vectors share"""
    multiplier: float
    sample: int


class Generator:
    """Gets answers: what they are found by, and the batches that they come in."""

    def __init__(
        self,
        model: HookedTransformer,
        vectors: Sequence[SteeringVector],
        asked: Prompts,
        max_new_tokens: int,
        positions: Positions,
        temperature: float,
    ) -> None:
        self.model, self.vectors, self.asked = model, vectors, asked
        self.max_new_tokens, self.positions, self.temperature = max_new_tokens, positions, temperature
        identity = identify(model)
        self._model_key = digest([identity.digest, identity.dtype, library_versions(), sorted(asked.stops)])
        self._vector_keys = [hashlib.sha256(v.tensor.numpy().tobytes()).hexdigest()[:32] for v in vectors]
        self._line_keys = [line_key(vector) for vector in vectors]
        self._prompt_keys = [digest(tokens) for tokens in asked.tokens]

    def key(self, cell: Ask, seed: int) -> str:
        """Of all that an answer depends on; unsteered, not on where a vector would be added."""
        j, steering = cell.vector, None
        if j is not None and cell.multiplier:
            steering = [self._vector_keys[j], self.vectors[j].layer, cell.multiplier, self.positions]
        drawing = [self.temperature, self._seed(cell, seed)] if self.temperature else None
        return digest([self._model_key, self._prompt_keys[cell.prompt], self.max_new_tokens, steering, drawing])

    def _seed(self, cell: Ask, seed: int) -> int:
        """Of a cell's draws: the same at all multipliers of a vector, and other ones for another vector.

        So a vector's effect is told between answers that were drawn alike; and what one call's draws happen to favour, another
        vector's don't: a mean over many vectors is as exact as their number says.
        """
        line = None if cell.vector is None else self._line_keys[cell.vector]
        return int(digest([seed, self._prompt_keys[cell.prompt], line, cell.sample])[:15], 16)

    def run(self, cells: Sequence[Ask], seed: int, batch_size: int | None) -> Iterator[dict[Ask, dict[str, object]]]:
        """The answers, a batch at a time; vectors of one layer share batches, long prompts come first."""
        lengths = [len(tokens) for tokens in self.asked.tokens]
        for layer in dict.fromkeys(vector.layer for vector in self.vectors):
            own = [cell for cell in cells if self.vectors[cell.vector or 0].layer == layer]
            own.sort(key=lambda cell: (-lengths[cell.prompt], cell.prompt))
            whole = [lengths[cell.prompt] + self.max_new_tokens for cell in own]
            for chunk in chunks(self.model, own, whole, batch_size):
                yield self._batch(chunk, layer, seed)

    def _batch(self, cells: Sequence[Ask], layer: int, seed: int) -> dict[Ask, dict[str, object]]:
        directions = torch.stack([self.vectors[cell.vector or 0].tensor for cell in cells])
        added = directions.new_tensor([cell.multiplier for cell in cells])[:, None] * directions
        choose: Choose = likeliest
        if self.temperature:
            choose = drawn([self._seed(cell, seed) for cell in cells], self.max_new_tokens, self.temperature)
        rows = [self.asked.tokens[cell.prompt] for cell in cells]
        found = decode(self.model, rows, added, layer, self.max_new_tokens, self.positions, self.asked.stops, choose)
        return {
            cell: {"text": self.asked.text(answer), "tokens": len(answer.tokens), "ended": answer.ended}
            for cell, answer in zip(cells, found, strict=True)
        }


def line_key(vector: SteeringVector) -> str:
    """The line on which a vector lies, with its layer: the same for all its multiples, to either side.

    Coordinates count in steps of a quarter of their size, so that rounding hardly ever makes another line of one.
    """
    tensor = vector.tensor.double().numpy()
    size = np.sqrt((tensor**2).mean())
    steps = np.round(4 * tensor / size) if size else tensor
    steps = steps * np.sign(tensor[np.abs(tensor).argmax()]) + 0.0  # no -0.0
    return digest([vector.layer, hashlib.sha256(steps.astype("<f8").tobytes()).hexdigest()])
