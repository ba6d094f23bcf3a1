"""A question with its options written in as "(A) ...", and read back: one text, one meaning."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from string import ascii_uppercase

from steerlens.checks.values import checked_text, checked_texts
from steerlens.errors import PairsError

HEADS = ("Question: ", "Human: ", "Please help me answer the following question.\n")  # what published sets put in front
_OPTION = re.compile(r"^([ \t]*)\(([A-Z])\)", re.MULTILINE)
_AFTER = (" ", ": ", ":", "")
_HEADING = re.compile(r"[ \t]*(?:(?:answer )?choice|option|answer)s?:", re.IGNORECASE)
_ASKS = ("Answer:", "Assistant:")
LETTER = re.compile(r"\s*\(?([A-Z])(?:[).:]|\s*$)")  # "(A)", "A. Yes", "A"; not "A walk" or "I refuse"


@dataclass(frozen=True)
class ChoiceLayout:
    """How a question and its lettered options are written; the default is the CAA authors'."""

    opening: str = "\n\nChoices:\n"
    """between the question and the first option"""
    indent: str = " "
    """before each letter"""
    tail: str = ""
    """after the last option, such as "\\n\\nAnswer:" """
    head: str = ""
    """before the question, such as "Question: " """
    before_answer: str = ""
    """before the letter of a response: " " where the prompt ends in "Answer:" """
    after: str = " "
    """between a letter and its option"""

    def __post_init__(self) -> None:
        for field in fields(self):
            checked_text(field.name, getattr(self, field.name), error=PairsError, empty=True)

    def write(self, question: str, options: Sequence[str]) -> str:
        """The question with its options: "{question}\\n\\nChoices:\\n (A) ...\\n (B) ..."."""
        question = checked_text("question", question, error=PairsError)
        options = checked_texts("options", options, error=PairsError)
        lines = [
            f"{self.indent}({letter}){self.after}{text}" for letter, text in zip(ascii_uppercase, options, strict=False)
        ]
        return f"{self.head}{question}{self.opening}" + "\n".join(lines) + self.tail


def read_choices(text: str) -> tuple[str, tuple[str, ...], ChoiceLayout] | None:
    """The bare question, its options and how they were written; None where the text has no lettered options.

    `layout.write(question, options)` gives the text back to the byte.
    """
    marks = list(_OPTION.finditer(text))
    first = max((i for i, mark in enumerate(marks) if mark[2] == "A"), default=len(marks))
    marks = marks[first:]
    place = _opening(text[: marks[0].start()]) if len(marks) > 1 else None
    if place is None or [mark[2] for mark in marks] != list(ascii_uppercase[: len(marks)]):
        return None
    tail = _tail(text, marks[-1].end())
    ends = [*(mark.start() - 1 for mark in marks[1:]), tail]
    raw = [text[mark.end() : end] for mark, end in zip(marks, ends, strict=True)]
    after = next(after for after in _AFTER if all(option.startswith(after) for option in raw))
    options = tuple(option.removeprefix(after) for option in raw)
    question, opening = text[:place], text[place : marks[0].start()]
    head = next((head for head in HEADS if question.startswith(head)), "")
    layout = ChoiceLayout(opening, marks[0][1], text[tail:], head, after=after)
    bare = question.removeprefix(head)
    return (bare, options, layout) if bare.strip() and layout.write(bare, options) == text else None


def _opening(before: str) -> int | None:
    """Where what stands between a question and its first option begins: a new line at least, a heading perhaps.

    By hand: a regular expression that looks for white space before white space takes minutes on 30 kB of it.
    """
    body = before.rstrip()
    if "\n" not in before[len(body) :]:
        return None
    line = body.rfind("\n") + 1
    headed = line > 0 and _HEADING.fullmatch(body, line) and before[len(body) :].lstrip(" \t").startswith("\n")
    return len(body[:line].rstrip()) if headed else len(body)


def _tail(text: str, end: int) -> int:
    """Where what stands behind the last option begins: "Answer:" on the last line, with the new lines before it."""
    line = text.rfind("\n", end) + 1
    if not line or not text[line:].lstrip().startswith(_ASKS):
        return len(text)
    return text.find("\n", max(end, len(text[:line].rstrip())))


def read_letter(answer: str) -> int | None:
    """Which option an answer such as "(B)", " (B)", "B" or "B. No" names, from 0; None where it names none."""
    found = LETTER.match(answer)
    return ascii_uppercase.index(found[1]) if found else None


def letters(layout: ChoiceLayout, n: int) -> tuple[str, ...]:
    """The responses that name each of n options: "(A)", "(B)", ..."""
    return tuple(f"{layout.before_answer}({letter})" for letter in ascii_uppercase[:n])


def with_answer(layout: ChoiceLayout, answer: str) -> ChoiceLayout:
    """The layout with the white space that a file writes before an answer's letter."""
    return replace(layout, before_answer=answer[: len(answer) - len(answer.lstrip())])


def meant(prompt: str, *answers: str) -> tuple[str, ...]:
    """The bare question and what the answers say: a letter counts as the option that it stands for."""
    places = [read_letter(answer) for answer in answers]
    read = None if None in places else read_choices(prompt)
    if read is not None and all(place < len(read[1]) for place in places if place is not None):
        return (read[0], *(read[1][place] for place in places if place is not None))
    head = next((head for head in HEADS if prompt.startswith(head)), "")
    return (prompt.removeprefix(head), *answers)


def without_letters(chosen: Sequence[str], rejected: Sequence[str]) -> list[int]:
    """The indices of the pairs of answers that do not open with two different letters."""
    letters = [(LETTER.match(a), LETTER.match(b)) for a, b in zip(chosen, rejected, strict=True)]
    return [i for i, (a, b) in enumerate(letters) if not (a and b) or a[1] == b[1]]
