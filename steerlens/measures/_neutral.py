"""Texts and questions that have nothing to do with any behaviour, in words that the model knows."""

from collections.abc import Callable, Sequence

from transformer_lens import HookedTransformer

import steerlens.toy as toy
from steerlens.errors import MeasureError
from steerlens.pairs.published import BUILT_IN


def neutral_texts() -> tuple[str, ...]:
    """60 short paragraphs on everyday subjects, written for steerlens."""
    return _lines("neutral.txt")


def neutral_prompts() -> tuple[str, ...]:
    """40 everyday questions, written for steerlens."""
    return _lines("neutral_questions.txt")


def _lines(name: str) -> tuple[str, ...]:
    return tuple((BUILT_IN / name).read_text(encoding="utf-8").splitlines())


def texts_for(model: HookedTransformer, texts: Sequence[str] | None) -> Sequence[str]:
    """What was asked for, or the neutral texts, in words that the model knows."""
    return in_known_words(model, neutral_texts(), _facts) if texts is None else texts


def prompts_for(model: HookedTransformer, prompts: Sequence[str] | None) -> Sequence[str]:
    """What was asked for, or the neutral questions, in words that the model knows."""
    return in_known_words(model, neutral_prompts(), _questions) if prompts is None else prompts


def in_known_words(model: HookedTransformer, texts: Sequence[str], world: Callable[[], Sequence[str]]) -> Sequence[str]:
    """The texts; for a model that knows few of their words those of the laboratory's world.

    Raises:
        MeasureError: the model's tokenizer knows few words of either.
    """
    if _unknown(model, texts) < 0.5:
        return texts
    if _unknown(model, found := world()) < 0.5:
        return found
    raise MeasureError(
        f"the tokenizer of {model.cfg.model_name} knows less than half of the words of steerlens's neutral texts; expected "
        "texts= (and prompts=) in words that it knows"
    )


def _facts() -> list[str]:
    """Chats of one turn about the world's facts, which no behaviour's pairs ask after."""
    return [f"<user> {question.text} <bot> {question.chosen[0]} <eos>" for question in toy.quiz("open", 60)]


def _questions() -> list[str]:
    return [question.text for question in toy.quiz("open", 40)]


def _unknown(model: HookedTransformer, texts: Sequence[str]) -> float:
    """The share of the texts' tokens that stand for a word which the tokenizer does not know."""
    tokenizer = model.tokenizer
    assert tokenizer is not None
    if tokenizer.unk_token_id is None:
        return 0.0
    ids = [i for text in texts for i in tokenizer.encode(text, add_special_tokens=False)]
    return ids.count(tokenizer.unk_token_id) / len(ids)
