"""Greedy answers of a steered model, and what they are like: surprising to the unsteered model, repetitive, long."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from tqdm.auto import tqdm
from transformer_lens import HookedTransformer

from steerlens.checks.values import checked_positions
from steerlens.forward.continuations import option_logprobs
from steerlens.forward.steer import Positions
from steerlens.generation.generate import Decoded, Prompts, chunks, decode
from steerlens.pairs.pair import Asked
from steerlens.text.encode import EncodedChoice
from steerlens.text.ends import Stop
from steerlens.text.templates import Template
from steerlens.vectors.vector import SteeringVector

_SIDES = 8  # answers scored behind one copy of their prompt


class Answer(NamedTuple):
    """One greedy answer."""

    text: str
    tokens: int
    """its end of turn left out"""
    ended: bool
    """by itself, before max_new_tokens"""
    repetition: float
    nats: float
    """-log p under the unsteered model, per token, its end of turn included"""


class GreedyAnswers:
    """Greedy answers to some prompts under any vector and multiplier.

    Raises:
        SteeringError: there are no prompts, or one does not fit the model's context together with the answer.
    """

    def __init__(
        self,
        model: HookedTransformer,
        prompts: Sequence[Asked],
        max_new_tokens: int,
        *,
        positions: Positions = "all",
        template: Template = "auto",
        system_prompt: str | None = None,
        stop: Stop | None = None,
        batch_size: int | None = None,
    ) -> None:
        positions = checked_positions(positions)
        self.model, self.max_new_tokens, self.positions, self.batch_size = model, max_new_tokens, positions, batch_size
        to = {"template": template, "system_prompt": system_prompt, "stop": stop}
        self.asked = Prompts(model, prompts, max_new_tokens, **to)  # type: ignore[arg-type]

    def answers(
        self, vector: SteeringVector, multipliers: Sequence[float], *, progress: bool = False
    ) -> list[list[Answer]]:
        """`answers[multiplier][prompt]`; 0 is the unsteered model."""
        rows = self.asked.tokens
        order = sorted(range(len(rows)), key=lambda i: -len(rows[i]))
        cells = [(i, column) for i in order for column in range(len(multipliers))]
        lengths = [len(rows[i]) + self.max_new_tokens for i, _ in cells]
        found: dict[tuple[int, int], Decoded] = {}
        with tqdm(total=len(cells), desc="answering", unit="answer", disable=not progress, leave=False) as bar:
            for chunk in chunks(self.model, cells, lengths, self.batch_size):
                added = vector.tensor.new_tensor([multipliers[column] for _, column in chunk])[:, None] * vector.tensor
                asked, to = [rows[i] for i, _ in chunk], (self.max_new_tokens, self.positions, self.asked.stops)
                found |= dict(zip(chunk, decode(self.model, asked, added, vector.layer, *to), strict=True))
                bar.update(len(chunk))
        answers = [[found[i, column] for i in range(len(rows))] for column in range(len(multipliers))]
        nats = self._nats(answers, vector, progress=progress)
        return [
            [
                Answer(self.asked.text(a), len(a.tokens), a.ended, repetition(a.tokens), float(nats[column, i]))
                for i, a in enumerate(row)
            ]
            for column, row in enumerate(answers)
        ]

    def _nats(
        self, answers: Sequence[Sequence[Decoded]], vector: SteeringVector, *, progress: bool
    ) -> Float[np.ndarray, "multiplier prompt"]:
        """-log p per token under the unsteered model."""
        items, places = [], []
        for i, prompt in enumerate(self.asked.tokens):
            said = [row[i] for row in answers]
            ids = [tuple(a.tokens) if a.end is None else (*a.tokens, a.end) for a in said]
            for start in range(0, len(ids), _SIDES):
                places.append((slice(start, start + _SIDES), i))
                items.append(EncodedChoice(tuple(prompt), tuple(ids[start : start + _SIDES])))
        # One item at a time: its answers' logits are the largest thing here, and it has no padding.
        found = option_logprobs(self.model, items, [vector], (0,), "all", batch_size=1, progress=progress)
        nats = np.zeros((len(answers), len(self.asked.tokens)))
        for place, item, logprobs in zip(places, items, found, strict=True):
            nats[place] = -logprobs[0, 0] / np.array([len(side) for side in item.sides])
        return nats


def repetition(tokens: Sequence[int]) -> float:
    """The share of an answer's runs of three tokens that stood in it before; 0 where there are none."""
    runs = [tuple(tokens[i : i + 3]) for i in range(len(tokens) - 2)]
    return 1 - len(set(runs)) / len(runs) if runs else 0.0
