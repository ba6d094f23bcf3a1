"""What a judge is."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from steerlens.checks.values import checked_count, checked_flag, checked_number, checked_text


@runtime_checkable
class Judge(Protocol):
    """Scores answers: anything with a name, a scale, and a call.

    A judge that knows more than the score (why there is none, what it cost) has a method `verdicts` too, with the arguments
    of the call, that returns a `Verdict` for each answer.
    """

    @property
    def name(self) -> str:
        """What the scores mean; names the axis in figures."""

    @property
    def scale(self) -> tuple[float, float]:
        """The lowest and the highest score."""

    def __call__(self, prompts: Sequence[str], answers: Sequence[str]) -> Sequence[float | None]:
        """The score of each answer to the prompt at the same place; None where it can't be judged, never a guess."""


@dataclass(frozen=True)
class Verdict:
    """What a judge made of one answer."""

    score: float | None
    reason: str = ""
    """why there is no score, in a few words: "empty answer", "judge refused", "unparsable reply", "no reply" """
    reply: str = ""
    """the judge's words, or the error instead of them"""
    input_tokens: int = 0
    output_tokens: int = 0
    dollars: float = 0.0
    """what the reply cost; NaN where the prices are not known"""
    paid: bool = False
    """whether a request was made for it in this call; False where it was read from a cache"""

    def __post_init__(self) -> None:
        plain = {
            "score": None if self.score is None else checked_number("score", self.score),
            "reason": checked_text("reason", self.reason, empty=True),
            "reply": checked_text("reply", self.reply, empty=True),
            "input_tokens": checked_count("input_tokens", self.input_tokens, least=0),
            "output_tokens": checked_count("output_tokens", self.output_tokens, least=0),
            "dollars": self.dollars if _is_nan(self.dollars) else checked_number("dollars", self.dollars, least=0),
            "paid": checked_flag("paid", self.paid),
        }
        for name, value in plain.items():
            object.__setattr__(self, name, value)


def _is_nan(value: object) -> bool:
    return isinstance(value, float) and math.isnan(value)
