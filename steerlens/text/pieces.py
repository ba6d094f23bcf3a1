"""Tokens as people read them: each token's part of the text, and what it is called where it has none.

A character may be spread over several tokens. It is shown at the last of them, and the bytes before it as "<0xE6>", as
SentencePiece writes them.
"""

import re
from collections.abc import Sequence
from typing import Any

_LOST = "\N{REPLACEMENT CHARACTER}"
_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_LONGEST = 4  # bytes of a character


def _byte_level() -> dict[str, int]:
    """GPT-2's letters for bytes: printable ones stand for themselves, the others for those from 256 on, in their order."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


_BYTE_LEVEL = _byte_level()


def pieces(tokenizer: Any, ids: Sequence[int]) -> tuple[str, ...]:
    """Each token's part of the decoded text; a token that adds none is shown by its name.

    Where a character takes several tokens, the last one has it and the others show their bytes.
    """
    found, before, start, last, waiting = list[str](), "", 0, 0, 0

    def decoded(end: int) -> str:
        return tokenizer.decode(list(ids[start:end]), skip_special_tokens=False, clean_up_tokenization_spaces=False)

    for i, token in enumerate(ids):
        text = decoded(i + 1)
        whole = text.rstrip(_LOST)  # what is left may become a character yet
        # Bytes that no character came of stay behind as marks; they have been shown.
        new = whole[len(before) :].lstrip(_LOST) if whole.startswith(before) else ""
        open_bytes = _unfinished(tokenizer, token) if len(text) > len(whole) else ""
        found.append(new + open_bytes or token_name(tokenizer, token))
        waiting = waiting + 1 if open_bytes else 0
        if not open_bytes or waiting >= _LONGEST:
            # Read on from behind this token: reading from the start again would take quadratic time. The token before it is
            # read along, for a tokenizer may drop a space at the beginning of what it decodes.
            start, last, waiting = (last, i + 1, waiting) if not open_bytes else (i + 1, i + 1, 0)
            before = decoded(last).rstrip(_LOST)
        elif whole.startswith(before):
            before = whole
    return tuple(found)


def token_name(tokenizer: Any, token: int) -> str:
    """A token's name in the vocabulary, by its id where the tokenizer has no piece for it."""
    name = tokenizer.convert_ids_to_tokens(int(token))
    return f"<token {int(token)}>" if name is None else str(name)


def _unfinished(tokenizer: Any, token: int) -> str:
    """The bytes at a token's end that are no whole character, as "<0xE6><0x97>"; its name where they are not known."""
    name = token_name(tokenizer, token)
    known = _BYTE.fullmatch(name)
    raw = bytes([int(known[1], 16)]) if known else _bytes(name)
    if raw is None:
        return name
    heads = [len(raw) - n for n in range(1, _LONGEST) if n <= len(raw) and raw[-n] >= 0xC0]
    tail = raw[heads[0] :] if heads else raw
    return "".join(f"<0x{byte:02X}>" for byte in tail)


def _bytes(name: str) -> bytes | None:
    return bytes(_BYTE_LEVEL[letter] for letter in name) if all(letter in _BYTE_LEVEL for letter in name) else None
