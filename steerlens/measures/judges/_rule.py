"""Judges that are functions: exact rules, as in the toy world, or a user's own."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from numbers import Real

from steerlens.checks.values import checked_list, checked_number, checked_text, shown
from steerlens.errors import MeasureError

Rule = Callable[[str, str], float | None]


@dataclass(frozen=True)
class RuleJudge:
    """A function of (prompt, answer) as a judge."""

    name: str
    scale: tuple[float, float]
    function: Rule = field(repr=False)

    def __call__(self, prompts: Sequence[str], answers: Sequence[str]) -> list[float | None]:
        """The function's value for each answer; None and NaN are no score."""
        return [self._score(prompt, answer) for prompt, answer in zip(prompts, answers, strict=True)]

    def _score(self, prompt: str, answer: str) -> float | None:
        score = self.function(prompt, answer)
        if score is None:
            return None
        if not isinstance(score, Real):
            raise MeasureError(
                f"the rule {self.name!r} gave {shown(score)} for the answer {answer!r:.80}; expected a number or None"
            )
        return None if math.isnan(score) else float(score)


def rule(function: Rule, *, name: str | None = None, scale: tuple[float, float] = (0, 1)) -> RuleJudge:
    """A judge from a function of (prompt, answer) that returns a score, or None where it can't tell.

    Args:
        function: `functools.partial(sl.toy.score, "wealth")` in the toy world, or your own.
        name: what the scores mean; default: the function's name.
        scale: the lowest and the highest score that it can give.

    Raises:
        MeasureError: this is no function, or no scale.
    """
    if not callable(function):
        raise MeasureError(
            f"function={shown(function)}; expected a function of (prompt, answer) that returns a number or None"
        )
    low, high = check_scale(scale)
    name = None if name is None else checked_text("name", name)
    return RuleJudge(name or str(getattr(function, "__name__", "score")), (low, high), function)


def check_scale(scale: object) -> tuple[float, float]:
    """Return a scale as two floats, or raise MeasureError unless it is two finite numbers in rising order."""
    try:
        low, high = (checked_number("scale", end) for end in checked_list("scale", scale, of="two numbers"))
        rises = low < high
    except (MeasureError, ValueError):
        rises = False
    if not rises:
        raise MeasureError(f"scale={shown(scale)}; expected the lowest and the highest score, such as (0, 1)")
    return low, high
