"""Tokens as people read them: joined they are the text, and every character is on one of them."""

import random
import re
from typing import Any

import pytest
from conftest import make_tokenizer
from test_pairs import metaspace_tokenizer

from steerlens.text.pieces import pieces, token_name

MARK = re.compile(r"<0x[0-9A-F]{2}>")
TEXTS = ("The truth \u00e9 isn't", "caf\u00e9 \u65e5\u672c \U0001f642 ok", "na\u00efve", "\u00e9", " The  truth\n")


@pytest.fixture(scope="module", params=["byte-level", "metaspace"])
def tokenizer(request: pytest.FixtureRequest) -> Any:
    return make_tokenizer("plain") if request.param == "byte-level" else metaspace_tokenizer()


def ids(tokenizer: Any, text: str) -> list[int]:
    return tokenizer.encode(text, add_special_tokens=False)


def test_without_the_marks_of_bytes_the_pieces_are_the_text(tokenizer: Any) -> None:
    for text in TEXTS:
        found = pieces(tokenizer, ids(tokenizer, text))
        assert len(found) == len(ids(tokenizer, text))
        assert MARK.sub("", "".join(found)).lstrip(" \u2581") == text.lstrip(" "), found
        assert all(found)


def test_a_character_is_at_its_last_token_and_the_bytes_before_it_are_named(tokenizer: Any) -> None:
    found = pieces(tokenizer, ids(tokenizer, "a\u65e5\u672c"))
    assert found[-6:] == ("<0xE6>", "<0x97>", "\u65e5", "<0xE6>", "<0x9C>", "\u672c")


def test_bytes_that_become_no_character_stay_marks_and_what_follows_is_read(tokenizer: Any) -> None:
    first = ids(tokenizer, "a\u65e5")[-3]
    letter = ids(tokenizer, "a")[-1]
    assert pieces(tokenizer, [letter, first, letter, letter])[1:] == ("<0xE6>", "a", "a")
    many = pieces(tokenizer, [letter, *[first] * 40, letter])
    assert set(many[1:-1]) == {"<0xE6>"}
    assert many[-1] == "a"


def test_a_token_without_a_piece_is_shown_by_its_id(tokenizer: Any) -> None:
    beyond = len(tokenizer) + 5
    a = ids(tokenizer, "a")[-1]
    assert pieces(tokenizer, [a, beyond, a])[1] == f"<token {beyond}>" == token_name(tokenizer, beyond)


def test_pieces_are_what_each_token_adds_to_the_whole_text() -> None:
    """On the byte-level tokenizer, where decoding goes token by token: the oracle decodes every beginning."""
    tokenizer, rng = make_tokenizer("plain"), random.Random(0)
    lost = "\N{REPLACEMENT CHARACTER}"
    for _ in range(20):
        drawn = [rng.randrange(len(tokenizer)) for _ in range(40)]
        texts = ["", *(tokenizer.decode(drawn[: i + 1], clean_up_tokenization_spaces=False) for i in range(40))]
        for before, text, piece in zip(texts[:-1], texts[1:], pieces(tokenizer, drawn), strict=True):
            if lost not in before[-4:] and not text.endswith(lost):
                assert piece == text[len(before) :]


def test_the_work_is_linear_in_the_tokens() -> None:
    """Counted in tokens decoded, for texts of whole characters, of split ones, and of bytes that never become any."""
    tokenizer = make_tokenizer("plain")

    class Counting:
        decoded = 0

        def decode(self, tokens: list[int], **options: Any) -> str:
            Counting.decoded += len(tokens)
            return tokenizer.decode(tokens, **options)

        def convert_ids_to_tokens(self, token: int) -> str:
            return tokenizer.convert_ids_to_tokens(token)

    for text in ("the truth " * 60, "\u65e5" * 100):
        Counting.decoded, tokens = 0, ids(tokenizer, text)
        pieces(Counting(), tokens)
        assert Counting.decoded <= 10 * len(tokens)
    Counting.decoded, (_, broken, _) = 0, ids(tokenizer, "\u65e5")
    pieces(Counting(), [broken] * 300)
    assert Counting.decoded <= 10 * 300
