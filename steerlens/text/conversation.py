"""Prompts of several turns: what was said before the answer, as a text that keeps its turns."""

from collections.abc import Sequence
from typing import Any

from steerlens.checks.values import Error, checked_list, checked_text, refusal, shown
from steerlens.errors import PairsError

Said = tuple[str, str]
"""role and content"""
_MEANT = ("tool_calls", "function_call", "reasoning_content", "thinking")  # of a message, beside its content


class Conversation(str):
    """Turns from the user's first to the user's last, a system turn before them or none.

    As a text it is a transcript ("user: ...", "assistant: ..."), so that it can be compared, counted, saved and shown like
    any prompt; a model gets the turns, in its chat template.
    """

    turns: tuple[Said, ...]

    def __new__(cls, turns: Sequence[Said]) -> "Conversation":
        made = super().__new__(cls, "\n\n".join(f"{role}: {content}" for role, content in turns))
        made.turns = tuple(turns)
        return made

    def __getnewargs__(self) -> tuple[Sequence[Said]]:  # type: ignore[override]
        return (self.turns,)

    def __repr__(self) -> str:
        return f"Conversation({self.turns!r})"


def is_messages(found: Any) -> bool:
    """Whether something is a list of {"role": text, "content": text}, with nothing else in it that a model would read."""
    return isinstance(found, (list, tuple)) and all(
        isinstance(turn, dict)
        and all(isinstance(turn.get(key), str) for key in ("role", "content"))
        and not any(turn.get(key) for key in _MEANT)
        for turn in found
    )


def turns_of(messages: Sequence[dict[str, str]]) -> list[Said]:
    """(role, content) of each message."""
    return [(message["role"], message["content"]) for message in messages]


def why_no_prompt(turns: Sequence[Said]) -> str | None:
    """Why turns are none that an answer can follow, or None."""
    roles = [role for role, _ in turns]
    spoken = roles[1:] if roles[:1] == ["system"] else roles
    if spoken[::2] != ["user"] * (len(spoken) // 2 + 1) or spoken[1::2] != ["assistant"] * (len(spoken) // 2):
        return "more, or other, turns before the answer than the user's and the assistant's by turns, the user's last"
    return None if all(content.strip() for _, content in turns) else "an empty turn before the answer"


def from_turns(turns: Sequence[Said]) -> str:
    """A prompt: the user's only turn as its text, several turns as a Conversation."""
    return turns[0][1] if [role for role, _ in turns] == ["user"] else Conversation(turns)


def as_prompt(given: Any) -> Any:
    """A prompt as it was given, or a list of messages as a Conversation (as its text where it is one turn of the user's).

    Raises:
        PairsError: the messages are none that an answer can follow.
    """
    if not isinstance(given, (list, tuple)):
        return given
    if not given or not is_messages(given):
        raise PairsError(
            f"the prompt {shown(given)} is no conversation; expected a text, or messages "
            '[{"role": "user", "content": "..."}, ...]'
        )
    turns = turns_of(given)
    why = why_no_prompt(turns)
    if why is not None:
        raise PairsError(f"the prompt {shown(given)} has {why}")
    return from_turns(turns)


def checked_prompts(name: str, prompts: Any, *, error: Error, least: int = 1) -> tuple[str, ...]:
    """Prompts as they were given, lists of messages as Conversations; raises unless there is one at least."""
    if isinstance(prompts, str):
        raise error(
            f"{name}={shown(prompts)} is one text; expected a list of at least one text or conversation: "
            f"{name}=[{shown(prompts)}]"
        )
    given = checked_list(name, prompts, error=error, of="texts or conversations (a list of messages each)", least=0)
    if len(given) < least:
        expected = "a list of at least one text or conversation (a list of messages each)"
        raise error(refusal(name, prompts, expected))
    given = [as_prompt(prompt) for prompt in given]
    for i, prompt in enumerate(given):
        if not isinstance(prompt, str):
            raise error(refusal(f"{name}[{i}]", prompt, "a text or a conversation (a list of messages each)"))
    return tuple(checked_text(f"{name}[{i}]", text, error=error, empty=True) for i, text in enumerate(given))
