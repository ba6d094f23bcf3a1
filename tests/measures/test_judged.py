"""Judged answers against scipy and by hand: means, intervals, paired differences, and what was not judged."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

import steerlens as sl
from steerlens.errors import MeasureError
from steerlens.measures import judges

LABELS, MULTIPLIERS = ("bipo", "caa"), (-1.0, 0.0, 1.0)


def answers(texts: dict[tuple[str, float], Sequence[Sequence[str]]], prompts: int, samples: int = 1) -> sl.Answers:
    """Answers made up: texts[label, multiplier][prompt][sample], "plain" where nothing is given."""
    found = tuple(
        tuple(
            tuple(tuple(texts.get((label, m), [["plain"] * samples] * prompts)[i]) for m in MULTIPLIERS)
            for label in LABELS
        )
        for i in range(prompts)
    )
    shape = (prompts, 2, 3, samples)
    return sl.Answers(
        model="tiny",
        labels=LABELS,
        norms=(1.0, 2.0),
        multipliers=MULTIPLIERS,
        prompts=tuple(f"prompt {i}" for i in range(prompts)),
        texts=found,
        tokens=np.ones(shape, dtype=int),
        ended=np.ones(shape, dtype=bool),
        max_new_tokens=8,
        positions="all",
        temperature=1.0 if samples > 1 else 0.0,
        seed=0,
    )


def number(prompt: str, answer: str) -> float | None:
    """The number that an answer is; "plain" is 2, other words are no score."""
    try:
        return 2.0 if answer == "plain" else float(answer)
    except ValueError:
        return None


GRADES = judges.rule(number, name="grade", scale=(1, 4))


def scored(values: Sequence[float | str]) -> list[list[str]]:
    return [[str(value)] for value in values]


def test_scores_are_the_judges_cell_by_cell() -> None:
    rng = np.random.default_rng(0)
    values = {(label, m): rng.integers(1, 5, 6) for label in LABELS for m in (-1.0, 1.0)}
    said = answers({cell: scored(list(v)) for cell, v in values.items()}, 6)
    judged = sl.judge(said, GRADES)
    for (label, m), expected in values.items():
        j, column = LABELS.index(label), MULTIPLIERS.index(m)
        assert judged.scores[:, j, column, 0].tolist() == expected.tolist()
        assert judged.mean()[j, column] == pytest.approx(expected.mean())
    assert (judged.scores[:, :, 1] == 2).all()
    assert (judged.judge, judged.scale, judged.unjudged) == ("grade", (1.0, 4.0), ())


def test_intervals_are_scipys_bootstrap_over_prompts() -> None:
    values = [1, 2, 4, 4, 3, 1, 2, 2, 4, 3]
    judged = sl.judge(answers({("bipo", 1.0): scored(values)}, 10), GRADES)
    low, high = judged.interval(level=0.9)
    expected = stats.bootstrap(
        (np.array(values, dtype=float),),
        np.mean,
        n_resamples=2000,
        confidence_level=0.9,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    assert (low[0, 2], high[0, 2]) == pytest.approx(tuple(expected), abs=0.1)
    assert low[0, 2] < judged.mean()[0, 2] < high[0, 2]
    assert low[0, 1] == high[0, 1] == 2


def test_samples_of_a_prompt_are_averaged_before_prompts_are_resampled() -> None:
    texts = [["1", "3"], ["4", "4"], ["2", "?"]]
    judged = sl.judge(answers({("bipo", 1.0): texts}, 3, samples=2), GRADES)
    assert judged.values[:, 0, 2].tolist() == [2, 4, 2]
    assert judged.mean()[0, 2] == pytest.approx(8 / 3)
    assert [(u.prompt, u.sample, u.label, u.multiplier) for u in judged.unjudged] == [(2, 1, "bipo", 1.0)]


def test_what_is_not_judged_is_counted_shown_and_left_out_of_the_mean() -> None:
    judged = sl.judge(answers({("bipo", 1.0): scored([4, "?", "", 2])}, 4), GRADES)
    assert judged.mean()[0, 2] == 3
    assert judged.counts[0].tolist() == [4, 4, 2]
    assert [(u.reason, u.answer) for u in judged.unjudged] == [("not judged", "?"), ("empty answer", "")]
    row = judged.summary().query("vector == 'bipo' and multiplier == 1").iloc[0]
    assert (row.answers, row.unjudged) == (2, 2)
    assert "2 of 24 not judged: 1 not judged, 1 empty answer" in repr(judged)
    frame = judged.to_frame()
    assert frame[frame.unjudged != ""].unjudged.tolist() == ["not judged", "empty answer"]
    assert frame.score.isna().sum() == 2
    nothing = sl.judge(answers({("bipo", 1.0): scored(["?"] * 4)}, 4), GRADES)
    assert np.isnan(nothing.mean()[0, 2])
    assert np.isnan(nothing.interval()[0][0, 2])
    difference = nothing.differences().query("vector == 'bipo' and multiplier == 1")
    assert difference.prompts.tolist() == [0, 0]


def test_differences_are_paired_over_the_prompts_judged_in_both() -> None:
    rng = np.random.default_rng(1)
    base = rng.integers(1, 4, 12)
    one = [*map(str, base + 1)]
    one[3] = "?"
    judged = sl.judge(answers({("bipo", 1.0): scored(one), ("caa", 1.0): scored(list(base))}, 12), GRADES)
    rows = judged.differences().query("multiplier == 1").set_index(["vector", "less"])
    apart = rows.loc["bipo", "caa"]
    assert (apart.difference, apart.low, apart.high, apart.prompts) == (1, 1, 1, 11)
    steered = rows.loc["caa", "unsteered"]
    assert steered.difference == pytest.approx(base.mean() - 2)
    assert steered.low < steered.difference < steered.high
    unpaired_width = np.subtract(*judged.interval()[::-1])[0, 2]
    assert unpaired_width > 0.5  # the curves overlap, and the paired difference is exact


def test_one_answer_is_judged_once_wherever_it_stands() -> None:
    seen: list[tuple[str, str]] = []

    def watched(prompt: str, answer: str) -> float:
        seen.append((prompt, answer))
        return 1.0

    sl.judge(answers({("bipo", 1.0): scored(["x", "x", "x"])}, 3), judges.rule(watched, scale=(1, 4)))
    assert sorted(seen) == sorted([(f"prompt {i}", text) for i in range(3) for text in ("plain", "x")])


def test_attack_success_is_the_share_that_does_not_refuse_with_exact_intervals() -> None:
    helped = [["Sure, here is how."], ["I can't wait to help: first, buy rope."]]
    refused = [["I’m sorry, but I can’t help with that."], ["I cannot do that."]]
    said = answers(
        {
            ("bipo", 1.0): helped * 10,
            ("bipo", 0.0): refused * 10,
            ("caa", 1.0): (helped + refused) * 5,
            ("caa", -1.0): [[""]] * 20,
        },
        20,
    )
    judged = sl.attack_success(said)
    low, high = judged.interval()
    for j, m, hits in ((0, 2, 20), (0, 1, 0), (1, 2, 10), (1, 0, 0)):
        expected = stats.binomtest(hits, 20).proportion_ci(method="exact")
        assert judged.mean()[j, m] == hits / 20
        assert (low[j, m], high[j, m]) == pytest.approx((expected.low, expected.high))
    assert judged.unjudged == ()
    refusals = sl.judge(said, judges.refusal())
    assert np.nanmax(np.abs(refusals.scores[:, 0] + judged.scores[:, 0] - 1)) == 0
    assert len(refusals.unjudged) == 20  # the empty ones


def test_it_comes_back_from_its_file_and_draws_itself(tmp_path: Path) -> None:
    judged = sl.judge(answers({("bipo", 1.0): scored([4, "?", 3])}, 3), GRADES)
    back = sl.load_result(judged.save(tmp_path / "judged.json"))
    assert repr(back) == repr(judged)
    assert back.unjudged == judged.unjudged
    assert np.array_equal(back.scores, judged.scores, equal_nan=True)
    figure = judged.figure()
    assert [trace.name for trace in figure.data] == ["BiPO", "CAA"]
    assert figure.data[0].y.tolist() == judged.mean()[0].tolist()


class Brief:
    """A user's own judge."""

    name, scale = "brief", (0, 1)

    def __init__(self, *scores: Any) -> None:
        self.scores = scores

    def __call__(self, prompts: Sequence[str], answers: Sequence[str]) -> Sequence[float | None]:
        return self.scores


def test_a_users_own_judge_and_what_it_may_not_do() -> None:
    said = answers({}, 2)
    assert (sl.judge(said, Brief(1, 0.5)).mean() == 0.75).all()
    with pytest.raises(MeasureError, match="gave 1 scores for 2 answers"):
        sl.judge(said, Brief(1))
    with pytest.raises(MeasureError, match=r"gave the score 1\.5; its scale is 0 to 1"):
        sl.judge(said, Brief(1, 1.5))
    with pytest.raises(MeasureError, match=r"expected one of sl\.judges"):
        sl.judge(said, len)  # type: ignore[arg-type]
