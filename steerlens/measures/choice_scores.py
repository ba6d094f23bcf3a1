"""What multiple choice measured: which options were chosen, how surely, and what the letters did to it."""

from dataclasses import dataclass
from string import ascii_uppercase
from typing import ClassVar

import numpy as np
import pandas as pd
from jaxtyping import Float

from steerlens.checks.calls import checked
from steerlens.errors import MeasureError
from steerlens.measures.option_scores import OptionScores, PerQuestion, Quantity


@dataclass(frozen=True, eq=False, repr=False)
class ChoiceScores(OptionScores):
    """Which option a steered model chooses, and how sure it is.

    `accuracy`: 1 where the likeliest option is a right one (one that shows the behaviour), else 0; a tie is 0.
    `probability`: of the right options among those offered; in letters with two options CAA's p_match / (p_A + p_B).
    `letter_mass` (form "letters"): the chance that the answer begins with one of the letters at all.
    `accuracy_per_token`, `probability_per_token` (form "answers"): by log p divided by the option's number of tokens.
    Probabilities are averaged over the orders of the options before they are compared.
    """

    RATES: ClassVar[frozenset[Quantity]] = frozenset({"accuracy", "accuracy_per_token"})

    @property
    def quantities(self) -> tuple[Quantity, ...]:
        """What can be asked for."""
        if self.form == "letters":
            return "accuracy", "probability", "letter_mass"
        return "accuracy", "probability", "accuracy_per_token", "probability_per_token"

    def _values(self, quantity: Quantity) -> PerQuestion:
        right = self.right
        if quantity == "letter_mass":
            return self._sum(self._over_orders(np.exp(self.logprobs), self.option), np.ones_like(right))
        shares = self._over_orders(self._normalised(per_token=quantity.endswith("per_token")), self.option)
        if quantity.startswith("accuracy"):
            return (self._most(shares, right) > self._most(shares, ~right)).astype(float)
        return self._sum(shares, right)

    def _chance(self, quantity: Quantity) -> Float[np.ndarray, " question"]:
        share = np.array([len(own) for own in self.correct]) / self.counts
        return share * np.nan if quantity == "letter_mass" else share

    @checked(MeasureError)
    def letter_bias(self, *, level: float = 0.95) -> pd.DataFrame:
        """What the model gives a letter beyond its share, whatever option stands there: one row per vector, multiplier, letter.

        bias: the mean over questions and orders of p(letter) - 1 / options. Every option has stood behind every letter, so
        a model that reads the options alone has 0. The interval is a bootstrap over the questions that offer the letter.

        Raises:
            MeasureError: the options were not offered in letters, or in one order only.
        """
        counts, firsts = self.counts, self.firsts
        if self.form != "letters" or len(self.question) != (counts**2).sum():
            raise MeasureError(
                "a bias to letters is told from the options' own merits only where each option stood behind each letter: "
                "multiple_choice(form='letters', swap=True)"
            )
        place = (self.option + self.order) % counts[self.question]
        biases = self._over_orders(self._normalised(), place) - np.repeat(1 / counts, counts)
        frames = []
        for i in range(counts.max()):
            own = biases[..., firsts[counts > i] + i]
            low, high = self._interval(own, None, level)
            frame = self._per_vector({"bias": own.mean(-1).ravel(), "low": low.ravel(), "high": high.ravel()})
            frame.insert(3, "letter", ascii_uppercase[i])
            frames.append(frame)
        return pd.concat(frames, ignore_index=True)


@dataclass(frozen=True, eq=False, repr=False)
class TruthfulScores(OptionScores):
    """TruthfulQA's two multiple-choice scores.

    `mc1`: 1 where the best answer's log p is above that of every incorrect one, else 0.
    `mc2`: the probability of all correct answers among all answers.

    Source:
        Lin et al. 2022, "TruthfulQA: Measuring How Models Mimic Human Falsehoods", arXiv 2109.07958.
    """

    RATES: ClassVar[frozenset[Quantity]] = frozenset({"mc1"})

    @property
    def quantities(self) -> tuple[Quantity, ...]:
        """What can be asked for."""
        return "mc1", "mc2"

    def _values(self, quantity: Quantity) -> PerQuestion:
        if quantity == "mc2":
            return self._sum(self._over_orders(self._normalised(), self.option), self.right)
        best = np.zeros_like(self.right)
        best[self.firsts + np.array([own[0] for own in self.correct])] = True
        nats = self._over_orders(self.logprobs, self.option)
        return (self._most(nats, best) > self._most(nats, ~self.right)).astype(float)

    def _chance(self, quantity: Quantity) -> Float[np.ndarray, " question"]:
        right = np.array([len(own) for own in self.correct])
        return right / self.counts if quantity == "mc2" else 1 / (1 + self.counts - right)
