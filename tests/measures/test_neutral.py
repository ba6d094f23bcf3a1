"""Neutral texts are in words that the model knows."""

import pytest
from transformer_lens import HookedTransformer

import steerlens as sl
from steerlens.measures._neutral import in_known_words, neutral_prompts, neutral_texts, prompts_for, texts_for
from steerlens.toy.world import read


def test_a_model_that_knows_the_words_gets_the_texts_as_they_are(tiny_chat_model: HookedTransformer) -> None:
    assert texts_for(tiny_chat_model, None) == neutral_texts()
    assert prompts_for(tiny_chat_model, None) == neutral_prompts()
    assert texts_for(tiny_chat_model, ["Hi"]) == ["Hi"]


def test_the_laboratory_gets_questions_of_its_world() -> None:
    model = sl.load_model("toy")
    texts, prompts = texts_for(model, None), prompts_for(model, None)
    asked = [read(prompt) for prompt in prompts]
    assert all(question is not None and question.behaviour == "facts" for question in asked)
    unknown = model.tokenizer.unk_token_id  # type: ignore[union-attr]
    assert not any(unknown in model.tokenizer.encode(text) for text in (*texts, *prompts))  # type: ignore[union-attr]
    assert tuple(
        sl.side_effects(model, vector(model), multipliers=(0,), max_new_tokens=1, progress=False).texts
    ) == tuple(texts)


def test_a_model_that_knows_neither_is_an_error_with_the_cure(
    tiny_chat_model: HookedTransformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("steerlens.measures._neutral._unknown", lambda _model, _texts: 0.9)
    with pytest.raises(sl.MeasureError, match="expected texts="):
        in_known_words(tiny_chat_model, neutral_texts(), lambda: [])


def vector(model: HookedTransformer) -> sl.SteeringVector:
    return sl.random_vectors(sl.toy_reference(model, "wealth", 1, progress=False), 1, seed=0)[0]
