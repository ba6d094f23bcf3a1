"""A row of Hugging Face's preference form: texts, messages, or transcripts, with the prompt apart or inside."""

from typing import Any

from steerlens.text.conversation import Said, from_turns, is_messages, turns_of, why_no_prompt
from steerlens.text.rows import why_no_text

SIDES = ("chosen", "rejected")
_ANSWER = "\n\nAssistant:"  # what hh-rlhf writes before an answer


def conversation(row: dict[str, Any]) -> tuple[str | None, Any, Any, Any] | str:
    """System turn, prompt and the two answers of a row; or what is wrong with it, a line for each fault."""
    before, sides = row.get("prompt"), [row.get(name) for name in SIDES]
    bad = [f"{name} {why_no_text(side)}" for name, side in zip(SIDES, sides, strict=True) if _is_no_side(side)]
    if bad:
        return "\n".join([*bad, *([] if before is None or isinstance(before, (str, list, dict)) else [_odd(before)])])
    chosen, rejected = sides
    if isinstance(chosen, str) and isinstance(rejected, str) and (before is None or isinstance(before, str)):
        return (None, before, chosen, rejected) if before is not None else _transcript(chosen, rejected)
    said = [_side(side) for side in sides]
    if not all(said):
        return "`chosen` or `rejected` that is no list of messages with a role and a content"
    opening = _opening(before)
    if opening is None:
        return _odd(before)
    turns = []
    for side in said:
        inside = side[: len(opening)] == opening or (isinstance(before, str) and side[-2:-1] == opening)
        turns.append(side if inside else [*opening, *side])
    (*asked, (_, chosen)), (*asked_too, (_, rejected)) = turns
    if asked != asked_too:
        return "`chosen` and `rejected` that answer different prompts"
    if {side[-1][0] for side in turns} != {"assistant"}:
        return "a last turn that is not the assistant's"
    system = asked.pop(0)[1] if asked and asked[0][0] == "system" else None
    why = why_no_prompt(asked)
    return why if why is not None else (system, from_turns(asked), chosen, rejected)


def lone_prompt(given: Any) -> Any:
    """A prompt by itself: a text, or turns that an answer can follow (a system turn is none of a prompt's); else as it came."""
    turns = None if isinstance(given, str) else _opening(given)
    good = turns and turns[0][0] != "system" and why_no_prompt(turns) is None
    return from_turns(turns) if turns and good else given


def _odd(before: Any) -> str:
    return f"`prompt` that is neither a text nor a list of messages, but a {type(before).__name__}"


def _is_no_side(side: Any) -> bool:
    return not isinstance(side, (str, list, dict))


def _side(side: Any) -> list[Said]:
    """An answer's turns; none where it is no answer."""
    if isinstance(side, str):
        return [("assistant", side)]
    listed = [side] if isinstance(side, dict) else side
    return turns_of(listed) if is_messages(listed) else []


def _opening(before: Any) -> list[Said] | None:
    """The turns of a prompt: a text, messages, or texts of the user and the assistant by turns; None for anything else."""
    if before is None:
        return []
    if isinstance(before, str):
        return [("user", before)]
    listed = [before] if isinstance(before, dict) else before
    if not isinstance(listed, list) or is_messages(listed):
        return turns_of(listed) if isinstance(listed, list) else None
    if not all(isinstance(text, str) for text in listed) or len(listed) % 2 == 0:
        return None
    return [(("user", "assistant")[i % 2], text) for i, text in enumerate(listed)]


def _transcript(chosen: str, rejected: str) -> tuple[None, str, str, str] | str:
    """Two transcripts of one talk, parted at the last "\\n\\nAssistant:"."""
    places = [side.rfind(_ANSWER) for side in (chosen, rejected)]
    if min(places) < 0:
        return "no `prompt`, and `chosen` or `rejected` that is no list of messages and no '\\n\\nHuman: ...\\n\\nAssistant: ...'"
    ends = [place + len(_ANSWER) for place in places]
    if chosen[: ends[0]] != rejected[: ends[1]]:
        return "`chosen` and `rejected` that answer different prompts"
    return None, chosen[: ends[0]], chosen[ends[0] :], rejected[ends[1] :]
