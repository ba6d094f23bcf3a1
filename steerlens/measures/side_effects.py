"""Side effects: what a vector does where nothing should change, and what it does to the text that the model writes.

>>> control = sl.random_vectors(bipo, 1, seed=0)[0]
>>> cost = sl.side_effects(model, {"bipo": bipo, "random": control}, multipliers=(-1, 0, 1))
>>> cost.summary(); cost.change("answer_nats"); cost.difference("bipo", "random", "kl")
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, get_args

import numpy as np
import pandas as pd
from einops import rearrange
from jaxtyping import Bool, Float, Int
from tqdm.auto import tqdm
from transformer_lens import HookedTransformer

from steerlens._stats import mean_interval, paired_difference, rate_interval
from steerlens.checks.calls import one_of
from steerlens.checks.values import shown
from steerlens.errors import MeasureError
from steerlens.forward.door import KNOWN, checked
from steerlens.forward.steer import Positions
from steerlens.measures._greedy import Answer, GreedyAnswers
from steerlens.measures._neutral import prompts_for, texts_for
from steerlens.measures._text_kl import TextKL
from steerlens.measures.choice import ChoiceForm, multiple_choice
from steerlens.measures.choice_scores import ChoiceScores
from steerlens.models.identity import identify
from steerlens.pairs.questions import ChoiceQuestions
from steerlens.results.result import Result
from steerlens.text.ends import Stop
from steerlens.text.templates import Template
from steerlens.vectors.labels import Vectors, labelled
from steerlens.vectors.vector import SteeringVector, check_fits

Effect = Literal["kl", "answer_nats", "repetition", "tokens", "ended"]
UNITS: dict[Effect, str] = {
    "kl": "nats per token",
    "answer_nats": "nats per token",
    "repetition": "share",
    "tokens": "tokens",
    "ended": "rate",
}
PerText = Float[np.ndarray, "vector multiplier text"]
PerPrompt = Float[np.ndarray, "vector multiplier prompt"]
PerVector = Float[np.ndarray, "vector multiplier"]
PerMultiplier = Float[np.ndarray, " multiplier"]
_BY_ITEM = "vector multiplier item -> item (vector multiplier)"


@dataclass(frozen=True, eq=False)
class SideEffects(Result):
    """What steering costs: KL from the unsteered model on neutral texts, and the quality of greedy answers.

    `kl`: D(unsteered || steered) of the next token, the mean over a text's positions but the first; 0 at multiplier 0.
    `answer_nats`: -log p of the steered answer under the unsteered model, per token; exp of it is the perplexity.
    `repetition`: the share of an answer's runs of three tokens that stood in it before. Text that goes in circles has a low
    perplexity, so the two belong together.
    `tokens`: the answer's length, without the token that ends the turn.
    `ended`: 1 where the answer ended by itself, else 0.
    """

    labels: Annotated[tuple[str, ...], "vector"]
    """the vectors' names in figures"""
    norms: Annotated[tuple[float, ...], "vector"]
    """the vectors' norms at multiplier 1, in units of the residual stream"""
    multipliers: Annotated[tuple[float, ...], "multiplier"]
    kl: PerText
    """nats per token"""
    answer_nats: PerPrompt
    """nats per token, the token that ends the turn included"""
    repetition: PerPrompt
    tokens: Int[np.ndarray, "vector multiplier prompt"]
    ended: Bool[np.ndarray, "vector multiplier prompt"]
    texts: Annotated[tuple[str, ...], "text"]
    text_positions: Annotated[tuple[int, ...], "text"]
    """how many positions of each text counted"""
    prompts: Annotated[tuple[str, ...], "prompt"]
    answers: Annotated[tuple[tuple[tuple[str, ...], ...], ...], "vector multiplier prompt"]
    """by vector, multiplier and prompt"""
    max_new_tokens: int
    positions: Positions
    """of the answers; a text stands for a response, so that all of it is steered either way"""
    quiz: ChoiceScores | None = None
    """the same vectors and multipliers on questions of knowledge"""

    @checked(MeasureError)
    def values(self, quantity: Effect) -> Float[np.ndarray, "vector multiplier item"]:
        """A quantity of every text ("kl") or prompt."""
        return getattr(self, quantity).astype(float)

    @checked(MeasureError)
    def mean(self, quantity: Effect) -> PerVector:
        """The mean over texts or prompts."""
        return self.values(quantity).mean(-1)

    @checked(MeasureError)
    def interval(self, quantity: Effect, *, level: float = 0.95) -> tuple[PerVector, PerVector]:
        """The mean's interval, (low, high): a bootstrap over texts or prompts; Clopper and Pearson's for `ended`."""
        values = self.values(quantity)
        columns = rearrange(values, _BY_ITEM)
        found = (rate_interval if quantity == "ended" else mean_interval)(columns, level=level)
        return found[0].reshape(values.shape[:-1]), found[1].reshape(values.shape[:-1])

    @checked(MeasureError)
    def perplexity(self, *, level: float = 0.95) -> tuple[PerVector, PerVector, PerVector]:
        """Of the answers under the unsteered model, exp of the mean of `answer_nats` over prompts: (perplexity, low, high)."""
        low, high = self.interval("answer_nats", level=level)
        return np.exp(self.mean("answer_nats")), np.exp(low), np.exp(high)

    @checked(MeasureError)
    def change(self, quantity: Effect, *, level: float = 0.95) -> tuple[PerVector, PerVector, PerVector]:
        """The mean less the unsteered model's on the same texts or prompts: (change, low, high); exactly 0 at multiplier 0.

        The interval is a paired bootstrap. exp of a change of `answer_nats` is the ratio of the perplexities.

        Raises:
            MeasureError: multiplier 0 was not measured, or the quantity is not known.
        """
        values = self.values(quantity)
        base = values[:, self.unsteered][:, None]
        columns, others = (rearrange(np.broadcast_to(x, values.shape), _BY_ITEM) for x in (values, base))
        mean, low, high = (x.reshape(values.shape[:-1]) for x in paired_difference(columns, others, level=level))
        low[:, self.unsteered] = high[:, self.unsteered] = 0.0
        return mean, low, high

    @checked(MeasureError)
    def difference(
        self, label: str, other: str, quantity: Effect, *, level: float = 0.95
    ) -> tuple[PerMultiplier, PerMultiplier, PerMultiplier]:
        """One vector's mean less another's on the same texts or prompts, at every multiplier: (difference, low, high).

        The interval is a paired bootstrap; at multiplier 0 there is no vector, and all three are 0.

        Raises:
            MeasureError: the labels or the quantity are not known.
        """
        values = self.values(quantity)
        first, second = (values[self.row(name)].T for name in (label, other))
        mean, low, high = paired_difference(first, second, level=level)
        unsteered = np.array(self.multipliers) == 0
        return mean, np.where(unsteered, 0.0, low), np.where(unsteered, 0.0, high)

    @checked(MeasureError)
    def row(self, label: str) -> int:
        """A vector's place in the arrays.

        Raises:
            MeasureError: no vector has that name.
        """
        if label not in self.labels:
            raise MeasureError(f"no vector is called {shown(label)}; expected one of {self.labels}")
        return self.labels.index(label)

    @property
    def unsteered(self) -> int:
        """The place of multiplier 0.

        Raises:
            MeasureError: it was not measured.
        """
        if 0 not in self.multipliers:
            raise MeasureError(f"multipliers {self.multipliers} hold no 0, the unsteered model: measure it too")
        return self.multipliers.index(0)

    @checked(MeasureError)
    def summary(self, *, level: float = 0.95) -> pd.DataFrame:
        """One row per vector and multiplier, with the mean of each quantity, the perplexity, and their intervals."""
        columns: dict[str, np.ndarray] = {}
        for quantity in get_args(Effect):
            low, high = self.interval(quantity, level=level)
            columns |= {quantity: self.mean(quantity), f"{quantity}_low": low, f"{quantity}_high": high}
        names = ("perplexity", "perplexity_low", "perplexity_high")
        columns |= dict(zip(names, self.perplexity(level=level), strict=True))
        own = {"vector": np.repeat(self.labels, len(self.multipliers))}
        own |= {"norm": np.repeat(self.norms, len(self.multipliers))}
        own |= {"multiplier": np.tile(self.multipliers, len(self.labels))}
        return pd.DataFrame(own | {name: array.ravel() for name, array in columns.items()})

    def to_frame(self) -> pd.DataFrame:
        """One row per vector, multiplier, quantity and text or prompt."""
        frames = []
        for quantity in get_args(Effect):
            values = self.values(quantity)
            vector, multiplier, item = (index.ravel() for index in np.indices(values.shape))
            asked = self.texts if quantity == "kl" else self.prompts
            columns = {
                "vector": np.asarray(self.labels)[vector],
                "norm": np.asarray(self.norms)[vector],
                "multiplier": np.asarray(self.multipliers)[multiplier],
                "quantity": quantity,
                "item": item,
                "text": np.asarray(asked, dtype=object)[item],
                "value": values.ravel(),
                "unit": UNITS[quantity],
            }
            frames.append(pd.DataFrame(columns))
        return pd.concat(frames, ignore_index=True)

    def __repr__(self) -> str:
        (low, high), (words, _, _) = self.interval("kl"), self.perplexity()
        means, again = self.mean("kl"), self.mean("repetition")
        cells = [
            f"{label} {m:+g}: KL {means[i, j]:.3f} [{low[i, j]:.3f}, {high[i, j]:.3f}], perplexity {words[i, j]:.2f}, "
            f"repetition {again[i, j]:.2f}"
            for i, label in enumerate(self.labels)
            for j, m in enumerate(self.multipliers)
        ]
        head = f"SideEffects({len(self.texts)} texts, nats per token; {len(self.prompts)} greedy answers)"
        return "\n  ".join([head, *cells])


@checked(MeasureError, quiz=KNOWN["questions"], quiz_form=one_of(ChoiceForm))
def side_effects(
    model: HookedTransformer,
    vectors: Vectors,
    *,
    multipliers: Sequence[float] = (-2, -1, 0, 1, 2),
    texts: Sequence[str] | None = None,
    prompts: Sequence[str] | None = None,
    quiz: ChoiceQuestions | None = None,
    quiz_form: ChoiceForm = "letters",
    positions: Positions = "all",
    max_new_tokens: int = 60,
    template: Template = "auto",
    system_prompt: str | None = None,
    stop: Stop | None = None,
    allow_seen: bool = False,
    batch_size: int = 8,
    progress: bool = True,
) -> SideEffects:
    """What steering costs: KL on neutral texts, and perplexity, repetition and length of greedy answers to neutral prompts.

    Args:
        model: any HookedTransformer with the vectors' weights.
        vectors: one, a list, or a dict from names to vectors; put a control among them (`random_vectors`).
        multipliers: 0 is the unsteered model.
        texts: that have nothing to do with what the vectors are for; None takes 60 built-in paragraphs (for the laboratory's
            models chats about the facts of their world). They are read as they are, behind BOS where the model has one.
        prompts: likewise, to be answered; None takes 40 questions.
        quiz: questions of knowledge, to be asked as `multiple_choice` does, in the form `quiz_form`.
        positions: of the answers: "all" (as BiPO trains), or "response" (from the last prompt token on, as CAA steers).
        max_new_tokens: per answer.
        template, system_prompt: of the prompts, as in `PreferencePairs`.
        stop: more tokens that end an answer, as in `generate`.
        allow_seen: ask questions of the quiz that trained or selected a vector all the same; the result says so.
        batch_size: texts, or questions, at once.

    Raises:
        MeasureError: a multiplier twice or not finite, a text too short or too long, or quiz questions that trained a vector.
        SteeringError: a prompt is too long for the model.
        VectorError: a vector does not fit the model.
    """
    found, identity = labelled(vectors), identify(model)
    for vector in found.values():
        check_fits(vector, identity)
    multipliers = tuple(multipliers)
    texts, prompts = texts_for(model, texts), prompts_for(model, prompts)
    to_answer = {"positions": positions, "template": template, "system_prompt": system_prompt, "stop": stop}
    asked = GreedyAnswers(model, prompts, max_new_tokens, **to_answer)  # type: ignore[arg-type]
    scores = None
    if quiz is not None:
        to = {"form": quiz_form, "positions": positions, "allow_seen": allow_seen, "batch_size": batch_size}
        scores = multiple_choice(model, vectors, quiz, multipliers, progress=progress, **to)  # type: ignore[arg-type]
    reader = TextKL(model, texts, [v.layer for v in found.values()], batch_size=batch_size, progress=progress)
    total = len(found) * len(multipliers) * len(texts)
    with tqdm(total=total, desc="KL on texts", unit="text", disable=not progress, leave=False) as bar:
        kl = np.stack([reader.kl(vector, multipliers, bar) for vector in found.values()])
    answers = _answers(asked, list(found.values()), multipliers, progress=progress)
    return SideEffects(
        labels=tuple(found),
        norms=tuple(vector.norm for vector in found.values()),
        multipliers=multipliers,
        kl=kl,
        answer_nats=_each(answers, "nats"),
        repetition=_each(answers, "repetition"),
        tokens=_each(answers, "tokens"),
        ended=_each(answers, "ended"),
        texts=tuple(texts),
        text_positions=tuple(reader.positions),
        prompts=asked.asked.texts,
        answers=tuple(tuple(tuple(a.text for a in row) for row in each) for each in answers),
        max_new_tokens=max_new_tokens,
        positions=positions,
        quiz=scores,
    )


def _answers(
    asked: GreedyAnswers, vectors: Sequence[SteeringVector], multipliers: Sequence[float], *, progress: bool
) -> list[list[list[Answer]]]:
    """By vector, multiplier and prompt; the unsteered answers are decoded once."""
    made: list[list[list[Answer]]] = []
    for vector in vectors:
        new = [m for m in multipliers if m != 0 or not made]
        fresh = dict(zip(new, asked.answers(vector, new, progress=progress), strict=True)) if new else {}
        made.append([fresh[m] if m in fresh else made[0][column] for column, m in enumerate(multipliers)])
    return made


def _each(answers: list[list[list[Answer]]], name: str) -> np.ndarray:
    return np.array([[[getattr(answer, name) for answer in row] for row in each] for each in answers])
