"""Preference pairs as token ids: exact at the seam between prompt and response, one BOS, one end-of-turn token."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from steerlens._templates import Template, Turn, check_template, render
from steerlens.errors import PairsError


@dataclass(frozen=True)
class EncodedPair:
    """One pair as token ids; each response ends with the end-of-turn token, and the prompt opens with at most one BOS."""

    prompt: tuple[int, ...]
    chosen: tuple[int, ...]
    rejected: tuple[int, ...]

    @property
    def sides(self) -> tuple[tuple[int, ...], ...]:
        """Chosen and rejected."""
        return self.chosen, self.rejected

    @property
    def length(self) -> int:
        """Tokens of the prompt with the longer response."""
        return len(self.prompt) + max(len(self.chosen), len(self.rejected))

    def read_at(self, position: Literal["mean", "last", "answer"]) -> tuple[slice, slice]:
        """Which tokens of chosen and of rejected to read: all that are content, the last of them, or the first that differs.

        The end of the turn, the same on both sides, is no content; a response of nothing else is read there.
        """
        if position == "answer":
            sides = zip(self.chosen, self.rejected, strict=False)
            letter = next((i for i, (a, b) in enumerate(sides) if a != b), 0)
            return slice(letter, letter + 1), slice(letter, letter + 1)
        ends = [max(1, len(side) - 1) for side in self.sides]
        starts = [0, 0] if position == "mean" else [end - 1 for end in ends]
        return slice(starts[0], ends[0]), slice(starts[1], ends[1])


@dataclass(frozen=True)
class EncodedChoice:
    """A prompt and any number of responses to it as token ids."""

    prompt: tuple[int, ...]
    sides: tuple[tuple[int, ...], ...]

    @property
    def length(self) -> int:
        """Tokens of the prompt with the longest response."""
        return len(self.prompt) + max(map(len, self.sides))


Encoded = EncodedPair | EncodedChoice


class Encoder:
    """Text to token ids for one model (its `tokenizer` and `cfg` are read) and template."""

    def __init__(self, model: Any, template: Template = "auto", system_prompt: str | None = None) -> None:
        self.tokenizer: Any = getattr(model, "tokenizer", None)
        if self.tokenizer is None:
            raise PairsError("the model has no tokenizer: set one with model.set_tokenizer(tokenizer)")
        check_template(template)
        self.template, self.system_prompt = template, system_prompt
        # TransformerLens gives a tokenizer without a BOS its EOS as one; default_prepend_bos tells whether it has one.
        self.bos = self.tokenizer.bos_token_id if model.cfg.default_prepend_bos else None

    def prompt(self, text: str) -> list[int]:
        """The tokens of a prompt in its template, up to where the response's format begins."""
        return self._open(self._turn(text))

    def pair(self, prompt: str, chosen: str, rejected: str) -> EncodedPair:
        """The tokens of a pair; the prompt's don't depend on what follows it."""
        turn = self._turn(prompt)
        sides = (tuple(self._response(turn, text)) for text in (chosen, rejected))
        return EncodedPair(tuple(self._open(turn)), *sides)

    def choice(self, prompt: str, responses: Sequence[str], *, ends: bool) -> EncodedChoice:
        """The tokens of a prompt and of several responses to it, with or without what ends a turn."""
        turn = self._turn(prompt)
        if not ends:
            turn = replace(turn, tail="")
        sides = tuple(tuple(self._response(turn, text, ends=ends)) for text in responses)
        return EncodedChoice(tuple(self._open(turn)), sides)

    def end_of_turn(self) -> int:
        """The token that closes a response."""
        return self._end(self._turn("a question"))

    def generation_prompt(self, text: str) -> list[int]:
        """The tokens to generate from: the prompt, and what the format puts before every response."""
        turn = self._turn(text)
        return self._open(Turn(turn.prompt + turn.lead.rstrip(" "), needs_bos=turn.needs_bos))

    def _turn(self, prompt: str) -> Turn:
        return render(self.tokenizer, prompt, self.template, self.system_prompt)

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False)

    def _open(self, turn: Turn) -> list[int]:
        ids = self._ids(turn.prompt)
        if turn.needs_bos and self.bos is not None and ids[:1] != [self.bos]:
            ids = [self.bos, *ids]
        if not ids:
            raise PairsError("a prompt has no tokens, so nothing stands before the response's first one")
        return ids

    def _end(self, turn: Turn) -> int:
        end = self.tokenizer.eos_token_id if turn.end is None else self.tokenizer.convert_tokens_to_ids(turn.end)
        if end is None:
            raise PairsError("the tokenizer has no EOS token to end a response with: set tokenizer.eos_token")
        return end

    def _response(self, turn: Turn, text: str, *, ends: bool = True) -> list[int]:
        text = text.strip() if turn.strips else text
        ids = self._continue(turn.prompt, turn.lead + text + turn.tail)
        if not ends:
            return ids
        end = self._end(turn)
        return ids if ids[-1:] == [end] else [*ids, end]  # some published responses bring the token along

    def _continue(self, prompt: str, text: str) -> list[int]:
        """The tokens of `text` behind `prompt`, whose own tokens stay as they are."""
        # Where the prompt's last token would merge with the text's first, encode the text behind a character that merges
        # with nothing: by itself it would get a leading space from SentencePiece-like tokenizers.
        for before in (prompt, "\n", "]", ".", "a"):
            head, whole = self._ids(before), self._ids(before + text)
            if whole[: len(head)] == head:
                return whole[len(head) :]
        return self._ids(text)
