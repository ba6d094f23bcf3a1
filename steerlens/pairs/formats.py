"""Published forms of pairs, questions and prompts, told apart by their columns alone."""

import re
from collections.abc import Callable
from string import ascii_uppercase
from typing import Any

from steerlens.errors import PairsError
from steerlens.pairs.columns import (
    check_no_lists,
    check_prompts_alone,
    is_bare_letter,
    shared_system,
    warn_of_formats,
    why_letters_mean_nothing,
    why_no_answer,
)
from steerlens.pairs.lettered import ChoiceLayout, read_choices, read_letter, with_answer
from steerlens.pairs.messages import conversation, lone_prompt
from steerlens.pairs.preference import PreferencePairs
from steerlens.pairs.questions import ChoiceQuestion, ChoiceQuestions, why_bad
from steerlens.pairs.tables import Table, recognise
from steerlens.text.rows import OnBad, good_reasons, listed, why_no_text
from steerlens.text.templates import Template

Row = dict[str, Any]
Asked = tuple[ChoiceQuestion, ChoiceLayout]

PREFERENCES = ("prompt", "chosen", "rejected")  # Hugging Face, texts or messages
IMPLICIT = ("chosen", "rejected")  # the same with the prompt inside, as messages
ANSWERS = ("question", "answer_matching_behavior", "answer_not_matching_behavior")  # CAA and model-written evals
CORRECT = ("prompt", "correct", "incorrect")  # CAA's MMLU and TruthfulQA
TWO_OPTIONS = ("question", "A", "B", "matching")  # BiPO's test_infer
TRUTHFUL = ("Question", "Best Answer", "Correct Answers", "Incorrect Answers")
TRUTHFUL_HUB = ("question", "best_answer", "correct_answers", "incorrect_answers")
MMLU = ("question", "choices", "answer")
TEXT_PAIRS = (PREFERENCES, ("question", "matching", "not_matching"), ("goal", "target", "refusal"))
QUESTION_FORMATS = (ANSWERS, CORRECT, TWO_OPTIONS, TRUTHFUL, TRUTHFUL_HUB, MMLU)
PAIR_FORMATS = (*TEXT_PAIRS, IMPLICIT, *QUESTION_FORMATS)
PROMPT_FORMATS = (("prompt",), ("question",), ("Question",), ("goal",))
_CATEGORIES = ("category", "Category", "subject")
_PLACE = re.compile("[0-9]{1,3}")


def pairs_from(table: Table, template: Template, system_prompt: str | None, on_bad: OnBad) -> PreferencePairs:
    """The table's pairs; a row that holds none is named with its reason."""
    columns = recognise(table, PAIR_FORMATS)
    if columns in (TWO_OPTIONS, MMLU) or _has_options(table, columns):
        return questions_from(table, template, system_prompt, on_bad).answer_pairs()
    # Of a published set of questions one pair is made: the other answers are left out knowingly.
    used = tuple(name for name in ("prompt", *columns) if name in table.columns) if columns == IMPLICIT else columns
    system_prompt = shared_system(table, used, system_prompt)
    check_no_lists(table, used)
    if columns in (TRUTHFUL, TRUTHFUL_HUB):
        made = [_best_against_first(row, columns) for row in table.rows]
    elif columns in (PREFERENCES, IMPLICIT):
        turned = [conversation(row) for row in table.rows]
        system_prompt = _one_system_prompt(turned, system_prompt, table.provenance)
        made = [row if isinstance(row, str) else row[1:] for row in turned]
    else:
        several = columns in (ANSWERS, CORRECT)
        made = [_text_pair(row, columns, several=several) for row in table.rows]
    reasons = [row if isinstance(row, str) else _why_no_pair(row, columns) for row in made]
    if columns in (
        ANSWERS,
        CORRECT,
    ):  # letters are answers to options alone: a row is bad for both readers, or for none
        reasons = [why or _why_no_options(row, columns) for why, row in zip(reasons, table.rows, strict=True)]
    keep = good_reasons(reasons, on_bad, table.provenance, "pairs")
    good, splits = [made[i] for i in keep], table.splits
    pairs = PreferencePairs(
        [row[0] for row in good],
        [row[1] for row in good],
        [row[2] for row in good],
        template,
        system_prompt,
        provenance=table.provenance,
        splits=None if splits is None else [splits[i] for i in keep],
    )
    pairs.rows = tuple(keep)
    warn_of_formats([text for row in good for text in row], table.provenance, template)
    return pairs


def questions_from(table: Table, template: Template, system_prompt: str | None, on_bad: OnBad) -> ChoiceQuestions:
    """The table's questions; a row that holds none is named with its reason."""
    columns = recognise(table, QUESTION_FORMATS)
    columns, read = (
        ((*columns, "answers"), _options_apart) if _has_options(table, columns) else (columns, _READERS[columns])
    )
    system_prompt = shared_system(table, columns, system_prompt)
    if columns == MMLU:
        _check_counted_from_0(table)
    asked = [read(row, columns) for row in table.rows]
    reasons = [row if isinstance(row, str) else why_bad(*row) for row in asked]
    keep = good_reasons(reasons, on_bad, table.provenance, "questions")
    good = [row for i in keep if not isinstance(row := asked[i], str)]
    name = next((name for name in _CATEGORIES if name in table.columns), None)
    splits = table.splits
    questions = ChoiceQuestions(
        [question for question, _ in good],
        template,
        system_prompt,
        layout=[layout for _, layout in good],
        categories=None if name is None else [str(table.rows[i].get(name, "")) for i in keep],
        provenance=table.provenance,
        splits=None if splits is None else [splits[i] for i in keep],
    )
    questions.rows = tuple(keep)
    warn_of_formats([question.question for question in questions], table.provenance, template)
    return questions


def prompts_from(table: Table, on_bad: OnBad) -> list[str]:
    """The table's prompts; a row that holds none is named with its reason."""
    (name,) = recognise(table, PROMPT_FORMATS)
    check_prompts_alone(table, (name,))
    check_no_lists(table, (name,))
    prompts = [lone_prompt(given) for given in table.column(name)]
    reasons = [why_no_text(text) for text in prompts]
    reasons = ["empty prompt or none" if why and "surrogate" not in why else why for why in reasons]
    reasons = [why or why_no_answer(name, text) for why, text in zip(reasons, prompts, strict=True)]
    keep = good_reasons(reasons, on_bad, table.provenance, "prompts")
    if any(read_choices(prompts[i]) for i in keep):
        raise PairsError(
            f"{table.provenance} has prompts with lettered options, which are no open-ended ones; sl.load_questions reads them"
        )
    found = [prompts[i] for i in keep]
    warn_of_formats(found, table.provenance, "auto")
    return found


def _why_no_options(row: Row, columns: tuple[str, ...]) -> str | None:
    """Why a row whose answers are letters is no question, or None."""
    answers = [*_all(row.get(columns[1])), *_all(row.get(columns[2]))]
    if not all(map(is_bare_letter, answers)):
        return None
    asked = _lettered(row, columns)
    return asked if isinstance(asked, str) else why_bad(*asked)


# -- rows of questions ------------------------------------------------------------------------------------------------


def _lettered(row: Row, columns: tuple[str, ...]) -> Asked | str:
    text, right, wrong = row.get(columns[0]), _all(row.get(columns[1])), _all(row.get(columns[2]))
    if not isinstance(text, str) or not right or not wrong:
        return "no text where one is expected"
    read = read_choices(text)
    if read is None:
        return "no question with lettered options (free-form answers: sl.load_pairs)"
    places = [[read_letter(answer) for answer in side] for side in (right, wrong)]
    if any(place is None or place >= len(read[1]) for side in places for place in side):
        return "an answer that names none of the options"
    if set(places[0]) & set(places[1]):
        return "an option that is right and wrong"
    correct = tuple(dict.fromkeys(place for place in places[0] if place is not None))
    return ChoiceQuestion(read[0], read[1], correct), with_answer(read[2], right[0])


def _two_options(row: Row, columns: tuple[str, ...]) -> Asked | str:
    texts: list[Any] = [row.get(name) for name in columns[:3]]
    place = {"A": 0, "B": 1}.get(str(row.get("matching")).strip(" ()"))
    if not all(isinstance(text, str) for text in texts):
        return "no text where one is expected"
    if place is None:
        return "`matching` that names none of the options"
    return ChoiceQuestion(texts[0], (texts[1], texts[2]), (place,)), ChoiceLayout()


def _truthful(row: Row, columns: tuple[str, ...]) -> Asked | str:
    best, correct, incorrect = (_answers(row.get(name)) for name in columns[1:])
    if not isinstance(row.get(columns[0]), str) or not best or not incorrect:
        return "no text where one is expected"
    right, wrong = dict.fromkeys((*best, *correct)), dict.fromkeys(incorrect)
    if right.keys() & wrong.keys():
        return "an answer that is correct and incorrect"
    return ChoiceQuestion(row[columns[0]], (*right, *wrong), tuple(range(len(right)))), ChoiceLayout()


def _mmlu(row: Row, columns: tuple[str, ...]) -> Asked | str:
    text, options, answer = row.get(columns[0]), row.get(columns[1]), str(row.get(columns[2]))
    if not isinstance(text, str) or not isinstance(options, list) or not _all(options):
        return "no text where one is expected"
    place = int(answer) if _PLACE.fullmatch(answer) else read_letter(answer)
    if place is None or place >= len(options):
        return "`answer` that names none of the options"
    return ChoiceQuestion(text, tuple(options), (place,)), ChoiceLayout()


def _check_counted_from_0(table: Table) -> None:
    """Raise PairsError where no answer is 0 and some are the number of options: dropping those would shift all the others."""
    options, answer = (table.column(name) for name in MMLU[1:])
    places = [int(str(a)) if _PLACE.fullmatch(str(a)) else None for a in answer]
    counts = [len(found) if isinstance(found, list) else -1 for found in options]
    beyond = [i for i, (place, n) in enumerate(zip(places, counts, strict=True)) if place is not None and place == n]
    if beyond and 0 not in places and 1 in places:
        raise PairsError(
            f"{table.provenance}: `answer` is {places[beyond[0]]} of {counts[beyond[0]]} options in rows {listed(beyond)}, and "
            "never 0: counted from 1? Answers count from 0 here (or are letters): take 1 off each in the file, then load it"
        )


def _has_options(table: Table, columns: tuple[str, ...]) -> bool:
    """Whether CAA's columns have the options beside them, in a column `answers`, and not in the question."""
    return columns == ANSWERS and any(isinstance(row.get("answers"), (dict, list)) for row in table.rows)


def _options_apart(row: Row, columns: tuple[str, ...]) -> Asked | str:
    text, right, options = row.get(columns[0]), _all(row.get(columns[1])), row.get("answers")
    named = options if isinstance(options, dict) else dict(zip(ascii_uppercase, options or (), strict=False))
    if not isinstance(text, str) or not right or not all(isinstance(option, str) for option in named.values()):
        return "no text where one is expected"
    keys = [str(key).strip(" ().:") for key in named]
    both = [[answer.strip(" ().:\n") for answer in side] for side in (right, _all(row.get(columns[2])))]
    if not set(both[0]) | set(both[1]) <= set(keys):
        return "an answer that names none of the options"
    if set(both[0]) & set(both[1]):
        return "an option that is right and wrong"
    return ChoiceQuestion(text, tuple(named.values()), tuple(map(keys.index, dict.fromkeys(both[0])))), ChoiceLayout()


_READERS: dict[tuple[str, ...], Callable[[Row, tuple[str, ...]], Asked | str]] = {
    ANSWERS: _lettered,
    CORRECT: _lettered,
    TWO_OPTIONS: _two_options,
    TRUTHFUL: _truthful,
    TRUTHFUL_HUB: _truthful,
    MMLU: _mmlu,
}

# -- rows of pairs ----------------------------------------------------------------------------------------------------


def _best_against_first(row: Row, columns: tuple[str, ...]) -> tuple[Any, ...] | str:
    best, incorrect = _answers(row.get(columns[1])), _answers(row.get(columns[3]))
    return (row.get(columns[0]), best[0], incorrect[0]) if best and incorrect else "no correct or no incorrect answer"


def _text_pair(row: Row, columns: tuple[str, ...], *, several: bool) -> tuple[Any, ...]:
    """Prompt and two answers; of several answers that match or don't (model-written evals list them), the first."""
    found = [row.get(name) for name in columns[:3]]
    firsts = [value[0] if several and isinstance(value, list) and value else value for value in found[1:]]
    return found[0], *firsts


def _why_no_pair(row: tuple[Any, ...], columns: tuple[str, ...]) -> str | None:
    """Everything that is wrong with a prompt and two answers, a line each; None where they can be used."""
    names = columns[:3] if len(columns) > 2 else ("prompt", *columns)
    bad = []
    for name, kind, text in zip(names, ("prompts", "chosen", "rejected"), row, strict=True):
        why = why_no_text(text)
        if why is not None:
            bad.append(f"empty {kind}" if why == "is empty" else f"{name} {why}")
        elif (written := why_no_answer(name, text)) is not None:
            bad.append(written)
    if not bad and row[1] == row[2]:
        bad.append("chosen equal to rejected")
    if not bad and read_choices(row[0]) is None:
        bad += filter(None, [why_letters_mean_nothing(*row)])
    return "\n".join(bad) or None


def _one_system_prompt(rows: list[Any], given: str | None, provenance: str) -> str | None:
    found = {row[0] for row in rows if not isinstance(row, str)}
    if given is not None or not found:
        return given
    if len(found) > 1:
        raise PairsError(
            f"{provenance} has {len(found)} different system turns, no turn counted as one, such as "
            f"{sorted(map(str, found))[0]!r:.80}; a set has one. Pass system_prompt= to use that for all, or load them apart"
        )
    return found.pop()


def _all(answers: Any) -> list[str]:
    found = answers if isinstance(answers, list) else [answers]
    return found if all(isinstance(answer, str) for answer in found) else []


def _answers(listed: Any) -> list[str]:
    """TruthfulQA's answers: a list, or one text with semicolons between."""
    texts = listed.split(";") if isinstance(listed, str) else _all(listed)
    return [text.strip() for text in texts if text.strip()]
