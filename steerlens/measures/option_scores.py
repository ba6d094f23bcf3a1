"""Log-probabilities of the options of questions as they came, and the means, intervals and differences made of them."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np
import pandas as pd
from einops import rearrange
from jaxtyping import Bool, Float, Int

from steerlens._stats import mean_interval, paired_difference, rate_interval
from steerlens.checks.calls import checked
from steerlens.checks.values import shown
from steerlens.errors import MeasureError
from steerlens.forward.steer import Positions
from steerlens.results.result import Result

Quantity = Literal[
    "accuracy", "probability", "letter_mass", "accuracy_per_token", "probability_per_token", "mc1", "mc2"
]
PerCell = Float[np.ndarray, "vector multiplier cell"]
PerOption = Float[np.ndarray, "vector multiplier option"]
PerQuestion = Float[np.ndarray, "vector multiplier question"]
PerVector = Float[np.ndarray, "vector multiplier"]
PerMultiplier = Float[np.ndarray, " multiplier"]
_BY_QUESTION = "vector multiplier question -> question (vector multiplier)"


@dataclass(frozen=True, eq=False)
class OptionScores(Result):
    """The log-probability of every option of every question; a cell is one option in one order of its question's options."""

    RATES: ClassVar[frozenset[Quantity]]
    """quantities that are 0 or 1 for each question"""

    labels: Annotated[tuple[str, ...], "vector"]
    """the vectors' names in figures"""
    norms: Annotated[tuple[float, ...], "vector"]
    """the vectors' norms at multiplier 1, in units of the residual stream"""
    multipliers: Annotated[tuple[float, ...], "multiplier"]
    logprobs: PerCell
    """log p of the option, nats: of the tokens up to its letter, or of its text"""
    tokens: Int[np.ndarray, " cell"]
    """how many tokens that was"""
    question: Int[np.ndarray, " cell"]
    """which question, 0-based; the cells of one question and order stand together"""
    order: Int[np.ndarray, " cell"]
    """by how many places the options were moved on"""
    option: Int[np.ndarray, " cell"]
    """which of the question's options, as it came"""
    questions: Annotated[tuple[str, ...], "item"]
    options: Annotated[tuple[tuple[str, ...], ...], "item"]
    correct: Annotated[tuple[tuple[int, ...], ...], "item"]
    """the right options, or those that show the behaviour; the best one first"""
    categories: Annotated[tuple[str, ...], "item"] | None
    form: str
    positions: Positions
    data: str
    seen_questions: int = 0
    """how many of the questions trained or selected a vector; above 0 only with allow_seen=True"""

    @property
    @abstractmethod
    def quantities(self) -> tuple[Quantity, ...]:
        """What can be asked for."""

    @abstractmethod
    def _values(self, quantity: Quantity) -> PerQuestion: ...

    @abstractmethod
    def _chance(self, quantity: Quantity) -> Float[np.ndarray, " question"]: ...

    @checked(MeasureError)
    def values(self, quantity: Quantity) -> PerQuestion:
        """A quantity of every question, one of `quantities`."""
        self._check(quantity)
        return self._values(quantity)

    @checked(MeasureError)
    def mean(self, quantity: Quantity) -> PerVector:
        """The mean over questions."""
        return self.values(quantity).mean(-1)

    @checked(MeasureError)
    def chance(self, quantity: Quantity) -> float:
        """The mean of a guess at random between the options; NaN where that means nothing."""
        self._check(quantity)
        return float(self._chance(quantity).mean())

    @checked(MeasureError)
    def interval(self, quantity: Quantity, *, level: float = 0.95) -> tuple[PerVector, PerVector]:
        """The mean's interval, (low, high): Clopper and Pearson's for rates, else a bootstrap over questions."""
        return self._interval(self.values(quantity), quantity, level)

    def _interval(self, values: PerQuestion, quantity: Quantity | None, level: float) -> tuple[PerVector, PerVector]:
        columns = rearrange(values, _BY_QUESTION)
        found = rate_interval(columns, level=level) if quantity in self.RATES else mean_interval(columns, level=level)
        return found[0].reshape(values.shape[:-1]), found[1].reshape(values.shape[:-1])

    @checked(MeasureError)
    def difference(
        self, label: str, other: str, quantity: Quantity, *, level: float = 0.95
    ) -> tuple[PerMultiplier, PerMultiplier, PerMultiplier]:
        """One vector's mean less another's on the same questions, at every multiplier: (difference, low, high).

        The interval is a paired bootstrap over questions; at multiplier 0 there is no vector, and all three are 0.

        Raises:
            MeasureError: the labels or the quantity are not known.
        """
        unknown = [name for name in (label, other) if name not in self.labels]
        if unknown:
            raise MeasureError(f"no vector is called {shown(unknown[0])}; expected one of {self.labels}")
        values = self.values(quantity)
        first, second = (values[self.labels.index(name)].T for name in (label, other))
        mean, low, high = paired_difference(first, second, level=level)
        unsteered = np.array(self.multipliers) == 0
        return mean, np.where(unsteered, 0.0, low), np.where(unsteered, 0.0, high)

    @checked(MeasureError)
    def change(self, quantity: Quantity, *, level: float = 0.95) -> tuple[PerVector, PerVector, PerVector]:
        """The mean less the unsteered model's on the same questions: (change, low, high); exactly 0 at multiplier 0.

        The interval is a paired bootstrap over questions.

        Raises:
            MeasureError: multiplier 0 was not measured, or the quantity is not known.
        """
        if 0 not in self.multipliers:
            raise MeasureError(f"multipliers {self.multipliers} hold no 0, the unsteered model: measure it too")
        values, base = self.values(quantity), self.multipliers.index(0)
        unsteered = np.broadcast_to(values[:, base : base + 1], values.shape)
        columns, others = (rearrange(x, _BY_QUESTION) for x in (values, unsteered))
        mean, low, high = (x.reshape(values.shape[:-1]) for x in paired_difference(columns, others, level=level))
        low[:, base] = high[:, base] = 0.0
        return mean, low, high

    @checked(MeasureError)
    def by_category(self, quantity: Quantity, *, level: float = 0.95) -> pd.DataFrame:
        """One row per vector, multiplier and category, with the mean over its questions and the interval.

        Raises:
            MeasureError: the questions have no categories, or the quantity is not known.
        """
        if self.categories is None:
            raise MeasureError(
                f"the questions of {self.data} have no categories: give them, ChoiceQuestions(categories=)"
            )
        values, kinds = self.values(quantity), np.asarray(self.categories)
        frames = []
        for kind in dict.fromkeys(self.categories):
            own = values[..., kinds == kind]
            low, high = self._interval(own, quantity, level)
            columns = {quantity: own.mean(-1), "low": low, "high": high}
            frame = self._per_vector({name: array.ravel() for name, array in columns.items()})
            frame.insert(3, "category", kind)
            frame.insert(4, "questions", own.shape[-1])
            frames.append(frame)
        return pd.concat(frames, ignore_index=True)

    @checked(MeasureError)
    def summary(self, *, level: float = 0.95) -> pd.DataFrame:
        """One row per vector and multiplier, with the mean of each quantity and its interval."""
        columns: dict[str, np.ndarray] = {}
        for quantity in self.quantities:
            low, high = self.interval(quantity, level=level)
            columns |= {
                quantity: self.mean(quantity).ravel(),
                f"{quantity}_low": low.ravel(),
                f"{quantity}_high": high.ravel(),
            }
        return self._per_vector({"questions": len(self.questions), **columns})

    def _per_vector(self, columns: dict[str, np.ndarray | int]) -> pd.DataFrame:
        n = len(self.multipliers)
        own = {"vector": np.repeat(self.labels, n), "norm": np.repeat(self.norms, n)}
        return pd.DataFrame({**own, "multiplier": np.tile(self.multipliers, len(self.labels)), **columns})

    def to_frame(self) -> pd.DataFrame:
        """One row per vector, multiplier and cell; probabilities are normalised over the options offered."""
        vector, multiplier, cell = (index.ravel() for index in np.indices(self.logprobs.shape))
        question, option = self.question[cell], self.option[cell]
        asked = list(zip(question.tolist(), option.tolist(), strict=True))
        frame = pd.DataFrame(
            {
                "vector": np.asarray(self.labels)[vector],
                "norm": np.asarray(self.norms)[vector],
                "multiplier": np.asarray(self.multipliers)[multiplier],
                "question": question,
                "prompt": np.asarray(self.questions, dtype=object)[question],
                "order": self.order[cell],
                "option": option,
                "text": [self.options[q][o] for q, o in asked],
                "right": [o in self.correct[q] for q, o in asked],
                "tokens": self.tokens[cell],
                "logprob_nats": self.logprobs.ravel(),
                "probability": self._normalised().ravel(),
            }
        )
        if self.categories is not None:
            frame["category"] = np.asarray(self.categories, dtype=object)[question]
        return frame

    def __repr__(self) -> str:
        quantity = self.quantities[0]
        low, high = self.interval(quantity)
        means = self.mean(quantity)
        cells = [
            f"{label} {m:+g}: {means[i, j]:.3f} [{low[i, j]:.3f}, {high[i, j]:.3f}]"
            for i, label in enumerate(self.labels)
            for j, m in enumerate(self.multipliers)
        ]
        seen = f", {self.seen_questions} of them SEEN in training" if self.seen_questions else ""
        asked = f"{len(self.questions)} questions of {self.data}{seen}, form {self.form!r}"
        return f"{type(self).__name__}({asked}; {quantity} at {', '.join(cells)}; chance {self.chance(quantity):.3f})"

    # -- from cells to questions --------------------------------------------------------------------------------------

    def _check(self, quantity: Quantity) -> None:
        if quantity not in self.quantities:
            raise MeasureError(f"quantity={quantity!r} is not known here; expected one of {self.quantities}")

    @property
    def right(self) -> Bool[np.ndarray, " option"]:
        """Whether an option is right, for all options of the first question, then of the second, and so on."""
        return np.array([i in own for own, n in zip(self.correct, self.counts, strict=True) for i in range(n)])

    @property
    def counts(self) -> Int[np.ndarray, " question"]:
        """Options of each question."""
        return np.array([len(texts) for texts in self.options])

    @property
    def firsts(self) -> Int[np.ndarray, " question"]:
        """Where each question's options begin among all options."""
        return self.counts.cumsum() - self.counts

    def _normalised(self, *, per_token: bool = False) -> PerCell:
        """The probability of each cell's option among those of the same question and order."""
        nats = self.logprobs / self.tokens if per_token else self.logprobs
        starts = _starts(self.question, self.order)
        group = np.repeat(np.arange(len(starts)), np.diff([*starts, len(self.question)]))
        shares = np.exp(nats - np.maximum.reduceat(nats, starts, axis=-1)[..., group])
        return shares / np.add.reduceat(shares, starts, axis=-1)[..., group]

    def _over_orders(self, cells: PerCell, at: Int[np.ndarray, " cell"]) -> PerOption:
        """The mean over the orders of each question: for every option of every question, or for every place."""
        by = np.lexsort((self.order, at, self.question))
        starts = _starts(self.question[by], at[by])
        return np.add.reduceat(cells[..., by], starts, axis=-1) / np.diff([*starts, len(by)])

    def _most(self, options: PerOption, which: Bool[np.ndarray, " option"]) -> PerQuestion:
        """The largest of some options of every question."""
        return np.maximum.reduceat(np.where(which, options, -np.inf), self.firsts, axis=-1)

    def _sum(self, options: PerOption, which: Bool[np.ndarray, " option"]) -> PerQuestion:
        """The sum of some options of every question."""
        return np.add.reduceat(np.where(which, options, 0.0), self.firsts, axis=-1)


def _starts(*keys: Int[np.ndarray, " cell"]) -> Int[np.ndarray, " group"]:
    """Where a run of equal keys begins."""
    new = np.any([np.diff(key) != 0 for key in keys], axis=0)
    return np.flatnonzero(np.concatenate([[True], new]))
