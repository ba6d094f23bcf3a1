"""Whether the behaviours are separate: what a behaviour's own direction, between its system phrases, does to the others."""

import math
from dataclasses import asdict, dataclass

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from steerlens._stats import paired_difference
from steerlens.toy.criteria import answers
from steerlens.toy.sets import Part, questions, score, up_to_user
from steerlens.toy.training import added
from steerlens.toy.words import BEHAVIOURS

LAYERS, TIED, MOST = (1, 2, 3), 0.05, 0.2
"""where a direction is added; own effects that differ by no more are taken as equal; how much of its own effect a direction may
have on another behaviour"""


@dataclass(frozen=True)
class Push:
    """What half of one behaviour's direction does, added to every position and taken from it."""

    behaviour: str
    layer: int
    norm: float
    """of the half"""
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
        """Everything, for training.json; a direction without an effect has no ratio."""
        return {**asdict(self), "ratio": self.ratio if math.isfinite(self.ratio) else None, "meets": self.meets}

    def __str__(self) -> str:
        moved = ", ".join(f"{name} {found[0]:+.2f}" for name, found in self.effects.items())
        at = f"layer {self.layer}, norm {self.norm:.2f}, {self.grammatical:.0%} grammatical"
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


def interference(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, *, n: int = 1600) -> list[Push]:
    """For each behaviour's direction, the score that it moves of every behaviour: n sampled answers each, on test questions.

    Half of the direction is added, and taken away: that is what a phrase does to a model that was asked for nothing. The layer is
    that of the largest own effect on validation questions (100 answers), among those tied that of the shortest direction.
    """
    asker, found = _Asker(model, tokenizer), []
    for behaviour in BEHAVIOURS:
        halves = {layer: direction(model, tokenizer, behaviour, layer) / 2 for layer in LAYERS}
        own = {at: _effect(asker.scores(behaviour, "val", at, half, min(n, 100)))[0] for at, half in halves.items()}
        tied = [at for at in LAYERS if own[at] >= max(own.values()) - TIED]
        layer = min(tied, key=lambda at: float(halves[at].norm()))
        test = {b: asker.scores(b, "test", layer, halves[layer], n) for b in BEHAVIOURS}
        effects = {b: _effect(scores) for b, scores in test.items()}
        found.append(
            Push(behaviour, layer, float(halves[layer].norm()), min(map(_grammatical, test.values())), effects)
        )
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
            with added(self.model, layer, sign * vector[None]):
                said = answers(self.model, self.tokenizer, [("", q.text) for q in asked])
            columns.append([score(behaviour, q.text, text) for q, text in zip(asked, said, strict=True)])
        different = len({q.text for q in asked})
        signs = np.array(columns, dtype=float)
        return rearrange(signs, "sign (sample question) -> question sample sign", question=different)


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
