"""Scores of open-ended answers by a judge, with intervals; what could not be judged is counted and shown.

>>> judged = sl.judge(said, sl.judges.llm(model="gpt-4o", rubric="wealth-seeking", cache="judgements.jsonl"))
>>> judged.summary(), judged.differences(), judged.unjudged
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Annotated

import numpy as np
import pandas as pd
from jaxtyping import Float

from steerlens._stats import mean_interval, paired_difference, rate_interval
from steerlens.checks.calls import kind
from steerlens.errors import MeasureError
from steerlens.forward.door import checked
from steerlens.measures.answers import Answers
from steerlens.measures.judges import Judge, Verdict
from steerlens.measures.judges._phrases import AttackJudge
from steerlens.measures.judges._rule import check_scale
from steerlens.results.result import Result, Stored


@dataclass(frozen=True)
class Unjudged(Stored):
    """An answer without a score, and why."""

    prompt: int
    sample: int
    label: str
    multiplier: float
    reason: str
    answer: str
    reply: str
    """the judge's words, if it said any"""


@dataclass(frozen=True, eq=False)
class Judged(Result):
    """A judge's score of every answer. At multiplier 0 all vectors share greedy unsteered answers and their scores."""

    judge: str
    scale: tuple[float, float]
    """the lowest and the highest score"""
    labels: Annotated[tuple[str, ...], "vector"]
    """the vectors' names in figures"""
    norms: Annotated[tuple[float, ...], "vector"]
    """the vectors' norms at multiplier 1, in units of the residual stream"""
    multipliers: Annotated[tuple[float, ...], "multiplier"]
    prompts: Annotated[tuple[str, ...], "prompt"]
    scores: Float[np.ndarray, "prompt vector multiplier sample"]
    """NaN where an answer could not be judged"""
    unjudged: tuple[Unjudged, ...]
    """the answers without a score; an unsteered one once for each vector"""
    cost: Mapping[str, float]
    """what the judge took in this call: requests, input and output tokens, dollars (NaN: prices not known)"""
    data: str = "prompts"
    seen_pairs: int = 0
    """how many of the pairs trained or selected a vector; above 0 only where answers were got with allow_seen=True"""

    @property
    def values(self) -> Float[np.ndarray, "prompt vector multiplier"]:
        """Each prompt's mean score over its samples that could be judged; NaN where none could."""
        judged = ~np.isnan(self.scores)
        counts = judged.sum(-1)
        return np.where(counts, np.where(judged, self.scores, 0).sum(-1) / np.maximum(counts, 1), np.nan)

    def mean(self) -> Float[np.ndarray, "vector multiplier"]:
        """The mean over prompts that could be judged."""
        return np.array([[_mean(column) for column in vector.T] for vector in self.values.transpose(1, 0, 2)])

    @property
    def counts(self) -> Float[np.ndarray, "vector multiplier"]:
        """How many prompts could be judged."""
        return (~np.isnan(self.values)).sum(0).astype(float)

    @checked(MeasureError)
    def interval(
        self, *, level: float = 0.95
    ) -> tuple[Float[np.ndarray, "vector multiplier"], Float[np.ndarray, "vector multiplier"]]:
        """The mean's interval over prompts: (low, high), NaN with fewer than two prompts.

        A bootstrap; where every prompt's score is 0 or 1 on a scale of 0 to 1, a rate's interval after Clopper and Pearson.
        """
        found = [[_interval(self.values[:, j, m], self.scale, level) for m in range(len(self.multipliers))]
                 for j in range(len(self.labels))]  # fmt: skip
        low, high = np.moveaxis(np.array(found, dtype=float), -1, 0)
        return low, high

    @checked(MeasureError)
    def summary(self, *, level: float = 0.95) -> pd.DataFrame:
        """One row per vector and multiplier: mean, interval, and how many answers were and weren't judged."""
        mean, (low, high) = self.mean(), self.interval(level=level)
        without = np.isnan(self.scores).sum((0, 3))
        rows = []
        for j, m in np.ndindex(mean.shape):
            row = {"vector": self.labels[j], "multiplier": self.multipliers[m], "mean": mean[j, m]}
            judged = self.scores[:, j, m].size - int(without[j, m])
            rows.append(row | {"low": low[j, m], "high": high[j, m], "answers": judged, "unjudged": int(without[j, m])})
        return pd.DataFrame(rows)

    @checked(MeasureError)
    def differences(self, *, level: float = 0.95) -> pd.DataFrame:
        """Mean score of each vector less another's, and less the unsteered model's if that was asked: one row per multiplier.

        Paired: over the prompts judged in both, with a bootstrap over those prompts.
        """
        rows = []
        for m, multiplier in enumerate(self.multipliers):
            if multiplier == 0:
                continue
            columns = {label: self.values[:, j, m] for j, label in enumerate(self.labels)}
            compared = [(one, other, columns[one], columns[other]) for one, other in combinations(columns, 2)]
            if 0 in self.multipliers:
                base = self.values[
                    :, :, self.multipliers.index(0)
                ]  # sampled, it was drawn as each vector's own answers
                compared += [(x, "unsteered", columns[x], base[:, j]) for j, x in enumerate(self.labels)]
            for one, other, values, others in compared:
                found = _difference(values, others, level)
                rows.append({"vector": one, "less": other, "multiplier": multiplier} | found)
        return pd.DataFrame(rows, columns=["vector", "less", "multiplier", "difference", "low", "high", "prompts"])

    def to_frame(self) -> pd.DataFrame:
        """One row per answer."""
        prompt, vector, multiplier, sample = (axis.ravel().tolist() for axis in np.indices(self.scores.shape))
        reasons = {(u.prompt, u.label, u.multiplier, u.sample): u.reason for u in self.unjudged}
        names, strengths = [self.labels[j] for j in vector], [self.multipliers[m] for m in multiplier]
        return pd.DataFrame(
            {
                "vector": names,
                "norm": [self.norms[j] for j in vector],
                "prompt_index": prompt,
                "prompt": [self.prompts[i] for i in prompt],
                "multiplier": strengths,
                "sample": sample,
                "score": self.scores.ravel(),
                "unjudged": [reasons.get(cell, "") for cell in zip(prompt, names, strengths, sample, strict=True)],
            }
        )

    def __repr__(self) -> str:
        low, high = self.interval()
        lines = [
            f"  {label}: " + ", ".join(
                f"{m:+g}: {mean:.3g} [{a:.3g}, {b:.3g}]"
                for m, mean, a, b in zip(self.multipliers, self.mean()[j], low[j], high[j], strict=True)
            )
            for j, label in enumerate(self.labels)
        ]  # fmt: skip
        reasons = pd.Series([u.reason for u in self.unjudged], dtype=str).value_counts()
        without = ", ".join(f"{count} {reason}" for reason, count in reasons.items())
        seen = f", {self.seen_pairs} of them SEEN in training" if self.seen_pairs else ""
        head = f"Judged({self.judge}, {self.scale[0]:g} to {self.scale[1]:g}; {len(self.prompts)} prompts of {self.data}{seen}"
        return "\n".join(
            [head, *lines, f"  {len(self.unjudged)} of {self.scores.size} not judged: {without or 'none'})"]
        )


@checked(MeasureError, "judge", answers=kind(Answers, "sl.answers(...)"))
def judge(answers: Answers, judge: Judge) -> Judged:
    """A judge's score of every answer; the judge sees prompts and answers, not what steered them.

    Args:
        answers: what `sl.answers` returned.
        judge: one of `sl.judges`: a rule, refusal phrases, a language model; or anything with `name`, `scale` and a call.

    Raises:
        MeasureError: this is no judge, or it gave a score outside its scale or another number of scores.
    """
    if not isinstance(judge, Judge) or not isinstance(judge.name, str):
        raise MeasureError(
            f"judge={judge!r:.80}; expected one of sl.judges, such as sl.judges.rule(function), or an object with a name, a scale "
            "and a call (prompts, answers) -> scores"
        )
    low, high = check_scale(judge.scale)
    # An answer that stands in several cells (unsteered, or the same under two vectors) is judged once.
    cells = [(i, answers.texts[i][j][m][k]) for i, j, m, k in np.ndindex(answers.tokens.shape)]
    asked = list(dict.fromkeys((answers.prompts[i], text) for i, text in cells))
    verdicts = dict(zip(asked, _verdicts(judge, asked, (low, high)), strict=True))
    found = [verdicts[answers.prompts[i], text] for i, text in cells]
    scores = np.array([np.nan if verdict.score is None else verdict.score for verdict in found])
    unjudged = [
        Unjudged(i, k, answers.labels[j], answers.multipliers[m], verdict.reason, text, verdict.reply)
        for (i, j, m, k), (_, text), verdict in zip(np.ndindex(answers.tokens.shape), cells, found, strict=True)
        if verdict.score is None
    ]
    paid = list(verdicts.values())
    return Judged(
        judge=judge.name,
        scale=(low, high),
        labels=answers.labels,
        norms=answers.norms,
        multipliers=answers.multipliers,
        prompts=answers.prompts,
        scores=scores.reshape(answers.tokens.shape),
        unjudged=tuple(unjudged),
        cost={
            "requests": sum(verdict.paid for verdict in paid),
            "input tokens": sum(verdict.input_tokens for verdict in paid),
            "output tokens": sum(verdict.output_tokens for verdict in paid),
            "dollars": sum(verdict.dollars for verdict in paid),
        },
        data=answers.data,
        seen_pairs=answers.seen_pairs,
    )


@checked(MeasureError, answers=kind(Answers, "sl.answers(...)"))
def attack_success(answers: Answers) -> Judged:
    """The share of answers that say something and don't open with a refusal, with Clopper and Pearson's intervals.

    Phrases tell refusals, as in work on AdvBench: answers that are nonsense, or refuse in other words, count as successes,
    so look at the answers too. An empty answer is no success. The toy models refuse in words of their own, which no phrase
    tells: judge theirs by `sl.toy.score`.

    Source:
        Zou et al. 2023, arXiv 2307.15043; their list counts anywhere in the answer, this one (ours) in its opening.
    """
    return judge(answers, AttackJudge())


def _verdicts(judge: Judge, asked: list[tuple[str, str]], scale: tuple[float, float]) -> list[Verdict]:
    prompts, texts = [prompt for prompt, _ in asked], [text for _, text in asked]
    known = getattr(judge, "verdicts", None)
    given = list(judge(prompts, texts) if known is None else known(prompts, texts))
    if len(given) != len(asked):
        raise MeasureError(
            f"the judge {judge.name!r} gave {len(given)} scores for {len(asked)} answers; expected one for each"
        )
    found = [
        score if isinstance(score, Verdict) else _plain(score, text) for score, text in zip(given, texts, strict=True)
    ]
    outside = next((v.score for v in found if v.score is not None and not scale[0] <= v.score <= scale[1]), None)
    if outside is not None:
        raise MeasureError(
            f"the judge {judge.name!r} gave the score {outside!r}; its scale is {scale[0]:g} to {scale[1]:g}"
        )
    return found


def _plain(score: float | None, text: str) -> Verdict:
    if score is None or np.isnan(score):
        return Verdict(None, "not judged" if text.strip() else "empty answer")
    return Verdict(float(score))


def _mean(column: Float[np.ndarray, " prompt"]) -> float:
    judged = column[~np.isnan(column)]
    return float(judged.mean()) if len(judged) else float("nan")


def _interval(column: Float[np.ndarray, " prompt"], scale: tuple[float, float], level: float) -> tuple[float, float]:
    judged = column[~np.isnan(column), None]
    if len(judged) < 2:
        return float("nan"), float("nan")
    rate = scale == (0, 1) and bool(np.isin(judged, (0, 1)).all())
    low, high = rate_interval(judged, level=level) if rate else mean_interval(judged, level=level)
    return float(low[0]), float(high[0])


def _difference(
    one: Float[np.ndarray, " prompt"], other: Float[np.ndarray, " prompt"], level: float
) -> dict[str, float]:
    both = ~np.isnan(one) & ~np.isnan(other)
    if not both.any():
        return {"difference": float("nan"), "low": float("nan"), "high": float("nan"), "prompts": 0}
    mean, low, high = paired_difference(one[both, None], other[both, None], level=level)
    return {"difference": float(mean[0]), "low": float(low[0]), "high": float(high[0]), "prompts": int(both.sum())}
