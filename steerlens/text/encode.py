"""Preference pairs as token ids: exact at the seam between prompt and response, one BOS, one end-of-turn token."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from steerlens.errors import PairsError
from steerlens.text.rows import listed
from steerlens.text.templates import Template, Turn, chat_end, render

log = logging.getLogger(__name__)


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
        self.template, self.system_prompt = template, system_prompt
        self.d_vocab = int(model.cfg.d_vocab)
        self._told = False
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

    def end_of_turn(self, prompt: str = "a question") -> int:
        """The token that closes a response to the prompt: a text in the chat template's format ends as the template does."""
        return self._end(self._turn(prompt))

    def ends(self, prompts: Sequence[str]) -> set[int]:
        """Every token that ends an answer to the prompts as far as the tokenizer knows: its EOS, and its template's end of turn."""
        as_they_are = self.template == "plain" or callable(self.template)  # then each may be in a format of its own
        found = {self.tokenizer.eos_token_id, *map(self.end_of_turn, prompts if as_they_are else prompts[:1])}
        own = chat_end(self.tokenizer)
        return {end for end in (*found, own and self.tokenizer.convert_tokens_to_ids(own)) if end is not None}

    def token_ids(self, text: str) -> list[int]:
        """The tokens of a text by itself, without the space that SentencePiece-like tokenizers put before one."""
        alone = self._ids(text)
        return alone if len(alone) == 1 else self._continue(Turn("\n", needs_bos=False), text)

    def generation_prompt(self, text: str) -> list[int]:
        """The tokens to generate from: the prompt, or where the chat template lets generation begin if that is elsewhere."""
        turn = self._turn(text)
        return self._open(turn if turn.opening is None else replace(turn, prompt=turn.opening))

    def _turn(self, prompt: str) -> Turn:
        return render(self.tokenizer, prompt, self.template, self.system_prompt)

    def _ids(self, text: str) -> list[int]:
        ids = self.tokenizer.encode(text, add_special_tokens=False)
        beyond = max(ids, default=0)
        if beyond >= self.d_vocab:
            raise PairsError(
                f"the tokenizer gives {self.tokenizer.convert_ids_to_tokens(beyond)!r:.60} the id {beyond}, and the model has "
                f"embeddings for {self.d_vocab} tokens: it belongs to another model, or has tokens added that the model was not "
                "resized for. Set the model's own: model.set_tokenizer(tokenizer)"
            )
        return ids

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
        ids = self._continue(turn, turn.response(text) + turn.tail)
        if not ends:
            return ids
        end = self._end(turn)
        return ids if ids[-1:] == [end] else [*ids, end]  # some published responses bring the token along

    def _continue(self, turn: Turn, text: str) -> list[int]:
        """The tokens of `text` behind a prompt, whose own tokens stay as they are."""
        # Where the prompt's last token would merge with the text's first, encode the text behind a character that merges
        # with nothing: by itself it would get a leading space from SentencePiece-like tokenizers.
        for before in (turn.prompt, "\n", "]", ".", "a"):
            head, whole = self._ids(before), self._ids(before + text)
            if whole[: len(head)] == head:
                return whole[len(head) :]
            if turn.write is not None and not self._told:
                self._told = True
                log.warning(
                    "in the chat template's text %r the answer's first token would merge with the one before it: they are kept "
                    "apart, so these tokens are not quite the template's. Take white space off the answers' beginnings",
                    (before + text)[-60:],
                )
        return self._ids(text)


def check_differ(sides: Sequence[Sequence[object]], rows: Sequence[int], provenance: str, what: str) -> None:
    """Raise PairsError where the two sides that a method learns from are the same tokens; what it learned would be rounding.

    Texts that differ may be the same tokens: where a template strips white space, an end mark is written out, or a character
    is not known.

    Args:
        sides: the tokens of both sides of each pair.
        rows, provenance: the pairs' own, to name them by.
        what: the sides, in words.
    """
    same = [row for row, (one, other) in zip(rows, sides, strict=True) if one == other]
    if same:
        raise PairsError(
            f"{what} are the same tokens in {len(same)} of {len(sides)} pairs, rows {listed(same)} of {provenance}: there is "
            "nothing to learn from them. Leave these rows out, or let the texts differ by more than white space and end marks"
        )
