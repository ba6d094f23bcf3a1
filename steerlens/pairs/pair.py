"""One pair as text, and the columns of many."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from steerlens.checks.values import shown
from steerlens.errors import PairsError
from steerlens.pairs.lettered import meant
from steerlens.text.conversation import as_prompt

Asked = str | Sequence[dict[str, str]]
"""a prompt: a text, or the messages of a conversation"""


@dataclass(frozen=True)
class PreferencePair:
    """One pair, as text."""

    prompt: str
    chosen: str
    rejected: str

    @property
    def fingerprint(self) -> str:
        """16 hex digits of the texts' SHA-256; the same for the flipped pair, and whatever the white space.

        Where the responses are letters of options in the prompt, each counts as its option's text: a question that was
        seen in letters is known again in words, and with its options in another order.
        """
        prompt, *sides = (" ".join(text.split()) for text in meant(self.prompt, self.chosen, self.rejected))
        parts = [prompt, *sorted(sides)]
        return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()[:16]


def columns_of(prompts: Any, chosen: Any, rejected: Any, rejected_prompts: Any) -> dict[str, Any]:
    """The columns as lists, with prompts of several turns as Conversations."""
    if chosen is None and rejected is None and not isinstance(prompts, str):
        made = list(prompts) if hasattr(prompts, "__iter__") and getattr(prompts, "shape", None) != () else [prompts]
        if not made or not all(isinstance(pair, PreferencePair) for pair in made):
            came = f"{type(made[0]).__name__}: {shown(made[0])}" if made else "nothing"
            raise PairsError(
                f"expected three lists (prompts, chosen, rejected), or one of PreferencePair; got one list of {came}. Rows with "
                "names: sl.PreferencePairs([r['prompt'] for r in rows], [r['chosen'] ...], [r['rejected'] ...]), or write them "
                "to a .jsonl file for sl.load_pairs"
            )
        prompts, chosen, rejected = zip(*((p.prompt, p.chosen, p.rejected) for p in made), strict=True)
    columns = {"prompts": prompts, "chosen": chosen, "rejected": rejected}
    if rejected_prompts is not None:
        columns["rejected_prompts"] = rejected_prompts
    for name, column in columns.items():
        if not hasattr(column, "__iter__") or getattr(column, "shape", None) == () or isinstance(column, (bytes, dict)):
            raise PairsError(f"{name}={shown(column)}; expected a list with one text per pair")
        # A pandas column is indexed by its labels, a list by its rows.
        columns[name] = column if isinstance(column, str) else list(column)
        if name.endswith("prompts") and not isinstance(column, str):
            columns[name] = [_asked(name, row, prompt) for row, prompt in enumerate(columns[name])]
    return columns


def _asked(name: str, row: int, prompt: Any) -> Any:
    try:
        return as_prompt(prompt)
    except PairsError as error:
        raise PairsError(f"{name}, row {row}: {error}") from None
