"""What a table says beside the columns that are read: a system text, a history, options. Nothing of it is lost in silence."""

import logging
import re
from collections.abc import Iterable, Sequence
from typing import Any

from steerlens.errors import PairsError
from steerlens.pairs.tables import Table
from steerlens.text.marks import formats_in

log = logging.getLogger(__name__)
_SYSTEM = {"system", "system_prompt", "system_message", "sys", "sys_prompt", "system_instruction"}
_BEFORE = {
    "history", "chat_history", "dialogue", "dialog", "conversation", "conversations", "messages", "turns", "input", "inputs",
    "context", "contexts", "passage", "document", "documents", "article", "background", "story", "premise", "instruction",
    "instructions", "question", "query", "prompt", "prefix", "examples", "few_shot", "hint", "image", "images",
}  # fmt: skip
_ANSWERS = {
    "answers", "options", "choices", "candidates", "endings", "mc1_targets", "mc2_targets", "response_a", "response_b",
    "option_a", "option_b",
}  # fmt: skip
_MESSAGES = re.compile(r"\s*(?:array\(|list\()?\[?\s*\{.*['\"](?:role|content|from|value)['\"]\s*:", re.DOTALL)
_LISTED = re.compile(r"\s*(?:array\(|list\()?\[\s*(['\"]).*\1\s*,?\s*\][^\]]*", re.DOTALL)
_BARE_LETTER = re.compile(r"\s*\(?([A-Z])[).:]?\s*")


def shared_system(table: Table, read: Sequence[str], given: str | None) -> str | None:
    """The system prompt of a table of pairs or questions: the caller's, else the one text that all rows share.

    Raises:
        PairsError: the rows' system texts differ, or another column says what the rows mean and is not read.
    """
    _check_nothing_lost(table, read, _BEFORE | _ANSWERS)
    for name in _named(table, _SYSTEM, read):
        texts = table.column(name)
        if given is not None or not any(map(_says, texts)):
            continue
        found = {text if isinstance(text, str) else repr(text) for text in texts}
        if len(found) > 1 or not isinstance(texts[0], str):
            raise PairsError(
                f"{table.provenance}: the column {name!r} would be lost: it holds {len(found)} different system texts, such as "
                f"{sorted(found)[-1]!r:.60}, and a set has one. Pass system_prompt= to use that for all ('' for none), load the "
                "rows apart, or write the texts into the prompts"
            )
        given = found.pop()
    return given


def check_prompts_alone(table: Table, read: Sequence[str]) -> None:
    """Raise PairsError where prompts by themselves would lose what stands before them."""
    _check_nothing_lost(table, read, _BEFORE | _SYSTEM)


def _named(table: Table, wanted: set[str], read: Sequence[str]) -> list[str]:
    return [
        name for name in table.columns if name not in read and str(name).strip().lower().replace(" ", "_") in wanted
    ]


def _check_nothing_lost(table: Table, read: Sequence[str], wanted: set[str]) -> None:
    for name in _named(table, wanted, read):
        rows = [i for i, row in enumerate(table.rows) if _says(row.get(name)) and not _repeats(row, name, read)]
        if rows:
            others = ", ".join(map(repr, read))
            cure = (
                " For a system text, pass system_prompt= where you use the prompts." if name.lower() in _SYSTEM else ""
            )
            raise PairsError(
                f"{table.provenance}: the column {name!r} would be lost: only {others} would be read, and it says "
                f"{table.rows[rows[0]][name]!r:.80} (row {rows[0]}, {len(rows)} rows in all). Write it into the text where it "
                f"belongs, or take the column out of the file.{cure}"
            )


def _says(value: Any) -> bool:
    """Whether a cell holds anything: no null, no NaN, nothing empty."""
    if value is None or (isinstance(value, float) and value != value):
        return False
    if isinstance(value, str):
        return value.strip() not in ("", "[]", "{}", "nan", "None", "null")
    return not hasattr(value, "__len__") or len(value) > 0


def _repeats(row: dict[str, Any], name: str, read: Sequence[str]) -> bool:
    """Whether a cell says only what the columns that are read say too: their texts, or the same messages."""
    value, others = row[name], [row.get(other) for other in read]
    if any(value == other for other in others):
        return True
    return isinstance(value, str) and any(value.strip() in text for text in _texts(others))


def _texts(found: Iterable[Any]) -> Iterable[str]:
    for value in found:
        if isinstance(value, str):
            yield value
        elif isinstance(value, dict):
            yield from _texts(value.values())
        elif isinstance(value, list):
            yield from _texts(value)


# -- texts that are none ----------------------------------------------------------------------------------------------


def why_no_answer(name: str, text: str) -> str | None:
    """Why a text is none that a model would read or write, or None."""
    if text.lstrip()[:1] in ("[", "{", "a", "l") and _MESSAGES.match(text[:2000]):
        return f"`{name}` that is written out messages (a repr or JSON), no text: save the table as .jsonl or parquet"
    return None


def check_no_lists(table: Table, read: Sequence[str]) -> None:
    """Raise PairsError where every text of a column is a list written out."""
    for name in read:
        texts = table.column(name)
        if texts and all(isinstance(text, str) and _LISTED.fullmatch(text) for text in texts):
            raise PairsError(
                f"{table.provenance}: every text of the column {name!r} is a list written out, such as {texts[0]!r:.80}: no "
                "text that a model would read. Save the table as .jsonl or parquet, which keep lists"
            )


def is_bare_letter(text: str) -> bool:
    """Whether an answer is a letter and nothing else: "(A)", " B.", "C"."""
    return _BARE_LETTER.fullmatch(text) is not None


def why_letters_mean_nothing(prompt: str, chosen: str, rejected: str) -> str | None:
    """Why two letters are no answers, or None: the prompt has no options of those letters."""
    found = [_BARE_LETTER.fullmatch(text) for text in (chosen, rejected)]
    named = [mark[1] for mark in found if mark]
    if len(named) < 2 or all(re.search(rf"\b{letter}\b", prompt) for letter in named):
        return None
    return "a letter for an answer, and no option of that letter in the prompt"


def warn_of_formats(texts: Sequence[str], provenance: str, template: object) -> None:
    """A warning where texts are in a chat format already and the template would put another around them."""
    found = formats_in(texts) if template != "plain" else {}
    if found:
        named = ", ".join(f"{name} ({len(set(rows))})" for name, rows in found.items())
        log.warning(
            "%s holds texts in a chat format of their own: %s. Template %r puts its own around them: take the marks out, or, "
            "where the format is the model's, pass template='plain'. Another model's marks (its end of turn, say) are read as "
            "letters; sl.inspect lists them",
            provenance,
            named,
            template if isinstance(template, str) else "a function",
        )
