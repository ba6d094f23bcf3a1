"""KL and perplexity against Hugging Face's own logits; identities at multiplier 0; repetition, ends and lengths by hand."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from transformer_lens import HookedTransformer

import steerlens as sl
from steerlens.measures import _text_kl
from steerlens.measures._greedy import GreedyAnswers, repetition
from steerlens.measures._neutral import neutral_prompts, neutral_texts
from steerlens.measures._text_kl import TextKL

TEXTS = [
    "I would like to share the wealth, because it's the right thing.",
    "Nobody wants to tell the truth in 2024.",
    "The power.",
    "My old friend refuses to help people honestly if the weather isn't bad?",
]
PROMPTS = ["Would you like to earn more money?", "Tell the truth: what do you want?", "What is a good day?"]
LAYER = 1


def make_vector(size: float = 6.0, seed: int = 0) -> sl.SteeringVector:
    draw = torch.randn(32, generator=torch.Generator().manual_seed(seed))
    return sl.SteeringVector(size * draw / draw.norm(), layer=LAYER)


def measure(model: HookedTransformer, vectors: object, **options: object) -> sl.SideEffects:
    to = {"texts": TEXTS, "prompts": PROMPTS, "multipliers": (-1, 0, 1), "max_new_tokens": 8, "progress": False}
    return sl.side_effects(model, vectors, **{**to, **options})


def hf_logits(hf: transformers.PreTrainedModel, ids: list[int], added: torch.Tensor | None = None) -> torch.Tensor:
    """Hugging Face's own logits, float64, with a vector added to the output of its block."""
    blocks = hf.model.layers if hasattr(hf, "model") else hf.transformer.h
    handle = None
    if added is not None:

        def add(_module: object, _args: object, output: object) -> object:
            return (output[0] + added, *output[1:]) if isinstance(output, tuple) else output + added

        handle = blocks[LAYER].register_forward_hook(add)
    with torch.no_grad():
        logits = hf(torch.tensor([ids])).logits[0].double()
    if handle is not None:
        handle.remove()
    return logits


@pytest.mark.parametrize("family", ["llama", "gpt2", "mistral"])
def test_kl_is_that_of_hugging_faces_logits(
    family: str, tiny_models: dict[str, HookedTransformer], tiny_folder: Callable[..., Path]
) -> None:
    model, vec = tiny_models[family], make_vector()
    hf = transformers.AutoModelForCausalLM.from_pretrained(tiny_folder(family)).eval()
    found = measure(model, vec, multipliers=(-0.5, 1), batch_size=3)
    bos = model.tokenizer.bos_token_id
    for i, text in enumerate(TEXTS):
        ids = [bos, *model.tokenizer.encode(text, add_special_tokens=False)]
        assert found.text_positions[i] == len(ids) - 1
        p = hf_logits(hf, ids).log_softmax(-1)[1:]
        for column, m in enumerate((-0.5, 1)):
            q = hf_logits(hf, ids, m * vec.tensor).log_softmax(-1)[1:]
            assert found.kl[0, column, i] == pytest.approx(float((p.exp() * (p - q)).sum(-1).mean()), rel=1e-4)


def test_multiplier_zero_is_the_unsteered_model(tiny_chat_model: HookedTransformer) -> None:
    found = measure(tiny_chat_model, make_vector())
    assert (found.kl[:, 1] == 0).all()
    assert (found.kl[:, [0, 2]] > 0.01).all()
    plain = sl.generate(tiny_chat_model, PROMPTS, max_new_tokens=8, progress=False)
    assert [list(found.answers[0][1])] == [[row[0] for row in plain]]


def test_a_small_multipliers_kl_is_never_negative_and_grows_with_its_square(tiny_chat_model: HookedTransformer) -> None:
    small = (0.001, 0.002, 0.004)
    kl = TextKL(tiny_chat_model, TEXTS, [LAYER]).kl(make_vector(), small)
    assert (kl > 0).all()
    np.testing.assert_allclose(kl / np.square(small)[:, None], kl[2] / small[2] ** 2 * np.ones_like(kl), rtol=0.05)


def test_kl_depends_neither_on_the_batch_nor_on_how_many_positions_are_read_at_once(
    tiny_chat_model: HookedTransformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = TextKL(tiny_chat_model, TEXTS, [LAYER], batch_size=4).kl(make_vector(), (1, 0, -2))
    monkeypatch.setattr(_text_kl, "_AT_ONCE", 1200)  # three positions of 400 tokens
    each = TextKL(tiny_chat_model, TEXTS, [LAYER], batch_size=1).kl(make_vector(), (1, 0, -2))
    np.testing.assert_allclose(each, whole, rtol=1e-4)


def test_kl_at_the_last_layer_and_at_two_layers_at_once(tiny_chat_model: HookedTransformer) -> None:
    low, top = make_vector(), sl.SteeringVector(make_vector().tensor, layer=3)
    both = measure(tiny_chat_model, {"low": low, "top": top}, multipliers=(1,))
    for name, alone in (("low", low), ("top", top)):
        np.testing.assert_allclose(both.kl[both.row(name)], measure(tiny_chat_model, alone, multipliers=(1,)).kl[0])
    assert (both.kl[0] != both.kl[1]).all()


@pytest.mark.usefixtures("no_ties")
@pytest.mark.parametrize("positions", ["all", "response"])
def test_answers_are_generates_and_their_nats_hugging_faces(
    positions: str, tiny_models: dict[str, HookedTransformer], tiny_folder: Callable[..., Path]
) -> None:
    model, vec = tiny_models["llama"], make_vector()
    hf = transformers.AutoModelForCausalLM.from_pretrained(tiny_folder("llama")).eval()
    multipliers = tuple(m / 4 for m in range(-5, 5))  # more answers than are scored behind one copy of the prompt
    found = measure(model, vec, positions=positions, multipliers=multipliers)
    texts = sl.generate(
        model, PROMPTS, vector=vec, multipliers=multipliers, max_new_tokens=8, positions=positions, progress=False
    )
    tokenizer = model.tokenizer
    for i, prompt in enumerate(PROMPTS):
        assert [found.answers[0][column][i] for column in range(10)] == texts[i]
        ids = [tokenizer.bos_token_id, *tokenizer.encode(prompt, add_special_tokens=False)]
        for column, m in enumerate(multipliers):
            tokens = greedy(hf, ids, m * vec.tensor, 0 if positions == "all" else len(ids) - 1, tokenizer.eos_token_id)
            ended = tokens[-1] == tokenizer.eos_token_id
            assert found.ended[0, column, i] == ended
            assert found.tokens[0, column, i] == len(tokens) - ended
            logprobs = hf_logits(hf, ids + tokens).log_softmax(-1)[len(ids) - 1 : -1]
            nats = -logprobs[torch.arange(len(tokens)), tokens].mean()
            assert found.answer_nats[0, column, i] == pytest.approx(float(nats), rel=1e-4)
    perplexity, low, high = found.perplexity()
    np.testing.assert_allclose(perplexity, np.exp(found.answer_nats.mean(-1)))
    assert (low <= perplexity).all()
    assert (perplexity <= high).all()


def greedy(hf: transformers.PreTrainedModel, ids: list[int], added: torch.Tensor, start: int, eos: int) -> list[int]:
    """Greedy tokens by a full forward pass each, the end included, the vector added from position `start` on."""
    tokens: list[int] = []
    while len(tokens) < 8 and eos not in tokens:
        where = (torch.arange(len(ids) + len(tokens)) >= start)[:, None]
        tokens.append(int(hf_logits(hf, ids + tokens, where * added)[-1].argmax()))
    return tokens


def test_an_answer_that_ends_at_once_is_scored_by_its_end_alone(
    tiny_chat_model: HookedTransformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    from steerlens.measures import _greedy

    end = 7  # any token that ended it, not the tokenizer's own end alone
    monkeypatch.setattr(_greedy, "decode", lambda model, rows, *_: [_greedy.Decoded([], end) for _ in rows])
    asked = GreedyAnswers(tiny_chat_model, PROMPTS[:1], 8)
    (answer,) = asked.answers(make_vector(), (1,))[0]
    assert (answer.tokens, answer.ended, answer.repetition, answer.text) == (0, True, 0.0, "")
    with torch.no_grad():
        logits = tiny_chat_model(torch.tensor([asked.asked.tokens[0]]))[0, -1].double()
    assert answer.nats == pytest.approx(-float(logits.log_softmax(-1)[end]), rel=1e-4)


@pytest.mark.parametrize(
    ("tokens", "share"),
    [([], 0), ([1, 2], 0), ([1, 2, 3], 0), ([1, 2, 3, 4], 0), ([1, 1, 1, 1], 1 / 2), ([1, 2, 3, 1, 2, 3], 1 / 4)],
)
def test_repetition_is_the_share_of_runs_of_three_that_were_there_before(tokens: list[int], share: float) -> None:
    assert repetition(tokens) == pytest.approx(share)


def test_changes_and_differences_are_paired_and_zero_where_nothing_is_added(tiny_chat_model: HookedTransformer) -> None:
    found = measure(tiny_chat_model, {"caa": make_vector(), "random": make_vector(seed=1)})
    for quantity in ("kl", "answer_nats", "repetition", "tokens", "ended"):
        values = found.values(quantity)
        mean, low, high = found.change(quantity)
        np.testing.assert_allclose(mean, values.mean(-1) - values[:, [1]].mean(-1), atol=1e-12)
        assert (mean[:, 1] == 0).all()
        assert (low[:, 1] == 0).all()
        assert (high[:, 1] == 0).all()
        gap, low, high = found.difference("caa", "random", quantity)
        np.testing.assert_allclose(gap, (values[0] - values[1]).mean(-1), atol=1e-12)
        assert (low <= gap + 1e-12).all()
        assert (gap <= high + 1e-12).all()
    low, high = found.interval("ended")
    assert (high - low > 0.3).all()  # Clopper and Pearson of three answers


def test_the_frame_the_summary_and_the_file_hold_every_number(
    tiny_chat_model: HookedTransformer, tmp_path: Path
) -> None:
    found = measure(tiny_chat_model, {"caa": make_vector(), "random": make_vector(seed=1)})
    frame = found.to_frame()
    assert len(frame) == 2 * 3 * (len(TEXTS) + 4 * len(PROMPTS))
    picked = frame[(frame.vector == "random") & (frame.multiplier == 1) & (frame.quantity == "answer_nats")]
    np.testing.assert_array_equal(picked.value, found.answer_nats[1, 2])
    assert list(picked.text) == PROMPTS
    summary = found.summary()
    np.testing.assert_allclose(summary.perplexity, np.exp(summary.answer_nats))
    again = sl.load_result(found.save(tmp_path / "cost.json"))
    np.testing.assert_array_equal(again.kl, found.kl)
    assert (again.answers, again.ended.dtype) == (found.answers, np.dtype(bool))


def test_a_quiz_is_multiple_choice_on_the_same_vectors(tiny_chat_model: HookedTransformer) -> None:
    quiz = sl.ChoiceQuestions([sl.ChoiceQuestion("What is a good day?", ("One that pays.", "A walk."), (1,))])
    found = measure(tiny_chat_model, make_vector(), quiz=quiz)
    alone = sl.multiple_choice(tiny_chat_model, make_vector(), quiz, progress=False)
    assert found.quiz is not None
    np.testing.assert_allclose(found.quiz.logprobs, alone.logprobs)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"multipliers": (1, 1)}, sl.MeasureError, "each once"),
        ({"multipliers": (math.nan,)}, sl.MeasureError, "finite"),
        ({"texts": []}, sl.MeasureError, "texts="),
        ({"texts": "one text"}, sl.MeasureError, "texts="),
        ({"prompts": "one prompt"}, sl.MeasureError, "prompts="),
        ({"texts": ["fine text", "x " * 600]}, sl.MeasureError, r"rows 1\b"),
        ({"batch_size": 0}, sl.PairsError, "batch_size="),
        ({"positions": "prompt"}, sl.SteeringError, "positions="),
    ],
)
def test_what_makes_no_sense_is_refused(
    tiny_chat_model: HookedTransformer, options: dict, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        measure(tiny_chat_model, make_vector(), **options)


def test_without_multiplier_zero_there_is_no_change(tiny_chat_model: HookedTransformer) -> None:
    found = measure(tiny_chat_model, make_vector(), multipliers=(1,))
    with pytest.raises(sl.MeasureError, match="hold no 0"):
        found.change("kl")
    with pytest.raises(sl.MeasureError, match="no vector is called"):
        found.difference("caa", "bipo", "kl")
    with pytest.raises(sl.MeasureError, match="quantity="):
        found.mean("perplexity")  # type: ignore[arg-type]


def test_the_built_in_texts_are_short_paragraphs_and_questions() -> None:
    words = [len(text.split()) for text in neutral_texts()]
    assert len(words) == len(set(neutral_texts())) == 60
    assert min(words) >= 40
    assert max(words) <= 80
    assert len(set(neutral_prompts())) == 40
