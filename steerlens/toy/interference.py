"""Whether the behaviours are separate: what a behaviour's own direction, between its system phrases, does to the others."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from steerlens._stats import paired_difference
from steerlens.toy.criteria import answers
from steerlens.toy.sets import Part, questions, score, up_to_user
from steerlens.toy.words import BEHAVIOURS

LAYERS, NORMS = (1, 2, 3), (0.25, 0.5, 0.75, 1.0)
COHERENT, MOST = 0.8, 0.2
"""the least share of grammatical answers; how much of its own effect a direction may have on another behaviour"""


@dataclass(frozen=True)
class Push:
    """What one behaviour's direction does, added to every position with a norm, and taken from it."""

    behaviour: str
    layer: int
    norm: float
    grammatical: float
    """the smaller share of the two signs, over all behaviours' answers"""
    effects: dict[str, tuple[float, float, float]]
    """each behaviour's score at + less its score at -, and the 95% interval over questions"""

    @property
    def ratio(self) -> float:
        """The largest effect on another behaviour, as a share of the direction's own."""
        others = [abs(found[0]) for name, found in self.effects.items() if name != self.behaviour]
        own = self.effects[self.behaviour][0]
        return max(others) / own if own else float("inf")

    @property
    def meets(self) -> bool:
        """Whether the direction moves its own behaviour, and every other by less than MOST of that."""
        return 0 <= self.ratio < MOST

    def told(self) -> dict[str, object]:
        """Everything, for training.json."""
        return {**asdict(self), "ratio": self.ratio, "meets": self.meets}

    def __str__(self) -> str:
        moved = ", ".join(f"{name} {found[0]:+.2f}" for name, found in self.effects.items())
        at = f"layer {self.layer}, norm {self.norm:g}, {self.grammatical:.0%} grammatical"
        return f"{self.behaviour}'s direction moves {moved} ({at})"


@torch.no_grad()
def direction(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, behaviour: str, layer: int
) -> Float[Tensor, " d_model"]:
    """The mean output of a block at the `<user>` token behind phrases that ask for a behaviour, less behind their opposites."""
    means = []
    for texts in up_to_user(behaviour):
        rows = [tokenizer.encode(f"<bos> {text}", add_special_tokens=False) for text in texts]
        hidden = [model(torch.tensor([row]), output_hidden_states=True).hidden_states[layer + 1] for row in rows]
        means.append(torch.stack([found[0, -1] for found in hidden]).double().mean(0))
    return (means[1] - means[0]).float()


def interference(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, *, n: int = 400) -> list[Push]:
    """For each behaviour's direction, the score that it moves of every behaviour: n sampled answers each, on test questions.

    Layer and norm are those of the largest own effect on validation questions (100 answers), among those that leave at least
    COHERENT of the answers to every behaviour's validation questions grammatical.
    """
    asker, found = _Asker(model, tokenizer), []
    for behaviour in BEHAVIOURS:
        tried = list(product(LAYERS, NORMS))
        vectors = {at: _scaled(direction(model, tokenizer, behaviour, at[0]), at[1]) for at in tried}
        own = {at: asker.scores(behaviour, "val", at[0], vectors[at], min(n, 100)) for at in tried}
        tried.sort(key=lambda at: -_effect(own[at])[0])
        layer, norm = next((at for at in tried if asker.keeps_sentences(at[0], vectors[at], min(n, 100))), tried[-1])
        test = {b: asker.scores(b, "test", layer, vectors[layer, norm], n) for b in BEHAVIOURS}
        effects = {b: _effect(scores) for b, scores in test.items()}
        found.append(Push(behaviour, layer, norm, min(map(_grammatical, test.values())), effects))
    return found


Scores = Float[np.ndarray, "question sample sign"]


@dataclass(frozen=True)
class _Asker:
    model: LlamaForCausalLM
    tokenizer: PreTrainedTokenizerFast

    def scores(self, behaviour: str, part: Part, layer: int, vector: Float[Tensor, " d_model"], n: int) -> Scores:
        """The scores of about n answers under +vector and -vector; NaN is no sentence."""
        asked = questions(behaviour, part)[:n]
        asked *= max(1, n // len(asked))
        columns = []
        for sign in (1, -1):
            with _added(self.model, layer, sign * vector):
                said = answers(self.model, self.tokenizer, [("", q.text) for q in asked])
            columns.append([score(behaviour, q.text, text) for q, text in zip(asked, said, strict=True)])
        different = len({q.text for q in asked})
        return np.array(columns, dtype=float).reshape(2, -1, different).transpose(2, 1, 0)

    def keeps_sentences(self, layer: int, vector: Float[Tensor, " d_model"], n: int) -> bool:
        """Whether most answers to every behaviour's validation questions stay grammatical under both signs."""
        return all(_grammatical(self.scores(b, "val", layer, vector, n)) >= COHERENT for b in BEHAVIOURS)


@contextmanager
def _added(model: Any, layer: int, vector: Float[Tensor, " d_model"]) -> Iterator[None]:
    hook = model.model.layers[layer].register_forward_hook(lambda module, given, out: out + vector)
    try:
        yield
    finally:
        hook.remove()


def _scaled(vector: Float[Tensor, " d_model"], norm: float) -> Float[Tensor, " d_model"]:
    return norm * vector / vector.norm()


def _grammatical(scores: Scores) -> float:
    return float((~np.isnan(scores)).mean((0, 1)).min())


def _effect(scores: Scores) -> tuple[float, float, float]:
    """The mean over questions of the score at + less at -, and its interval; questions without a sentence are left out."""
    with np.errstate(invalid="ignore"):
        means = np.nansum(scores, 1) / (~np.isnan(scores)).sum(1)
    kept = means[~np.isnan(means).any(1)]
    if not len(kept):
        return 0.0, -1.0, 1.0
    effect, low, high = paired_difference(kept[:, :1], kept[:, 1:])
    return float(effect[0]), float(low[0]), float(high[0])
