"""Multiple choice: which option a steered model prefers, by its letter or by its text; and TruthfulQA's scores.

>>> questions = sl.load_questions("wealth-seeking").test
>>> control = sl.random_vectors(bipo, 1, seed=0)[0]
>>> scores = sl.multiple_choice(model, {"bipo": bipo, "caa": caa, "random": control}, questions)
>>> scores.summary(); scores.difference("bipo", "caa", "probability"); scores.letter_bias()
"""

from collections.abc import Sequence
from itertools import takewhile
from typing import Any, Literal, NamedTuple

import numpy as np
from transformer_lens import HookedTransformer

from steerlens.checks.calls import flag, one_of, words
from steerlens.errors import MeasureError, PairsError
from steerlens.forward.continuations import option_logprobs
from steerlens.forward.door import checked
from steerlens.forward.steer import Positions
from steerlens.measures.choice_scores import ChoiceScores, TruthfulScores
from steerlens.models.identity import identify
from steerlens.pairs.questions import ChoiceQuestions
from steerlens.text.encode import EncodedChoice, Encoder
from steerlens.text.rows import listed
from steerlens.vectors.labels import Vectors, labelled
from steerlens.vectors.vector import SteeringVector, check_fits, union_seen

ChoiceForm = Literal["letters", "answers"]
TruthfulForm = Literal["template", "qa"]


class _Item(NamedTuple):
    """One question in one order of its options, as it is asked."""

    question: int
    order: int
    sides: EncodedChoice


@checked(MeasureError, form=one_of(ChoiceForm), swap=flag)
def multiple_choice(
    model: HookedTransformer,
    vectors: Vectors,
    questions: ChoiceQuestions,
    multipliers: Sequence[float] = (-1, 0, 1),
    *,
    form: ChoiceForm = "letters",
    swap: bool = True,
    positions: Positions = "all",
    allow_seen: bool = False,
    batch_size: int = 8,
    progress: bool = True,
) -> ChoiceScores:
    """The probability that a model, steered by each vector, gives to every option of every question.

    Args:
        model: any HookedTransformer with the vectors' weights.
        vectors: one, a list, or a dict from names to vectors; put a control among them (`random_vectors`).
        questions: held out; asked in their own layout and template. MMLU is asked like any other.
        multipliers: 0 is the unsteered model.
        form: "letters" shows the options and reads the next token where the answers "(A)", "(B)", ... first differ, after
            the tokens that they begin with alike, such as "(". "answers" shows the bare question and scores each option's
            text as the answer, the token that ends the turn included; yes/no questions are asked so, or any others.
        swap: ask in every rotation of the options (with two: in both orders), so that each stands behind each letter once, and
            average: a liking for a letter cancels. `scores.letter_bias()` says how large it was. For form="letters".
        positions: "all" (as BiPO trains), or "response" (from the last prompt token on, as CAA steers).
        allow_seen: report on questions that trained or selected a vector all the same; the result says so.
        batch_size: questions at once; an order of options counts as one.

    Raises:
        MeasureError: questions trained or selected a vector, a multiplier is not finite, or the tokenizer has no token of
            its own for each letter.
        PairsError: questions are longer than the model's context (the rows are listed).
        VectorError: a vector does not fit the model.

    Source:
        letters: Rimsky et al. 2023, arXiv 2312.06681v4: p_match / (p_A + p_B).
    """
    found = _checked(model, vectors, questions, multipliers, positions, allow_seen=allow_seen)
    encoder = Encoder(model, questions.template, questions.system_prompt)
    if form == "letters":
        items = _in_letters(encoder, questions, swap=swap)
    else:
        items = [_Item(i, 0, encoder.choice(q.question, q.options, ends=True)) for i, q in enumerate(questions)]
    measured = _measure(model, items, found, questions, multipliers, positions, batch_size, progress)
    return ChoiceScores(**measured, form=form)


@checked(MeasureError, form=one_of(TruthfulForm), primer=words)
def truthful_qa(
    model: HookedTransformer,
    vectors: Vectors,
    questions: ChoiceQuestions,
    multipliers: Sequence[float] = (-1, 0, 1),
    *,
    form: TruthfulForm = "template",
    primer: str = "",
    positions: Positions = "all",
    allow_seen: bool = False,
    batch_size: int = 8,
    progress: bool = True,
) -> TruthfulScores:
    """TruthfulQA's MC1 and MC2: the log-probabilities of all answers to the bare question, summed over their tokens.

    An answer ends with a full stop, and what ends a turn is not scored, as in the authors' code.

    Args:
        model, vectors, multipliers, positions, allow_seen, batch_size: as in `multiple_choice`.
        questions: with all correct and incorrect answers, the best one first among `correct`: `load_questions` of TruthfulQA.
        form: "template" asks in the questions' own template, in which vectors are trained and used. "qa" writes "Q: ...",
            a new line and "A:", plain, as the authors do: most published scores are of this form behind the authors' six
            example questions, which you can give as `primer`.
        primer: for "qa": put in front, with an empty line between.

    Raises:
        MeasureError, PairsError, VectorError: as `multiple_choice`; a primer with another form than "qa".

    Source:
        Lin et al. 2022, "TruthfulQA: Measuring How Models Mimic Human Falsehoods", arXiv 2109.07958.
    """
    if primer and form != "qa":
        raise MeasureError(f"primer={primer!r:.40} belongs to form='qa'; form={form!r} asks in the questions' template")
    found = _checked(model, vectors, questions, multipliers, positions, allow_seen=allow_seen)
    if form == "qa":
        encoder, before = Encoder(model, "plain"), f"{primer.rstrip()}\n\n" if primer else ""
    else:
        encoder = Encoder(model, questions.template, questions.system_prompt)
    items = []
    for i, q in enumerate(questions):
        answers = [text.strip().removesuffix(".") + "." for text in q.options]
        asked, lead = (f"{before}Q: {q.question}\nA:", " ") if form == "qa" else (q.question, "")
        items.append(_Item(i, 0, encoder.choice(asked, [lead + text for text in answers], ends=False)))
    measured = _measure(model, items, found, questions, multipliers, positions, batch_size, progress)
    return TruthfulScores(**measured, form=form)


def _in_letters(encoder: Encoder, questions: ChoiceQuestions, *, swap: bool) -> list[_Item]:
    most = max(len(q.options) for q in questions)
    items = []
    for order in range(most if swap else 1):
        turned = questions.reordered(order)
        texts = zip(turned.prompts, turned.letters, strict=True)
        items += [
            _Item(i, order, _letter_sides(encoder, prompt, names))
            for i, (prompt, names) in enumerate(texts)
            if order < len(names)
        ]
    return sorted(items, key=lambda item: item[:2])


def _letter_sides(encoder: Encoder, prompt: str, names: Sequence[str]) -> EncodedChoice:
    """The tokens that name each option, up to the first in which they differ."""
    whole = encoder.choice(prompt, names, ends=False)
    shared = len(list(takewhile(lambda same: len(set(same)) == 1, zip(*whole.sides, strict=False))))
    sides = tuple(side[: shared + 1] for side in whole.sides)
    tokens = [side[shared:] for side in sides]
    pieces = [str(encoder.tokenizer.convert_ids_to_tokens(list(token))[0]) if token else "" for token in tokens]
    letters = [name.strip(" ()") for name in names]
    # "A" beside "B)" would be two events of different size; what stands around the letter must be the same.
    around = {
        piece.replace(letter, "", 1) if letter in piece else None for piece, letter in zip(pieces, letters, strict=True)
    }
    if len(set(tokens)) < len(names) or len(around) > 1 or None in around:
        read = ", ".join(f"{name!r} -> {piece!r}" for name, piece in zip(names, pieces, strict=True))
        raise MeasureError(
            f"this tokenizer has no token of its own for each letter ({read}), so their probabilities don't compare; score "
            "the options' texts: form='answers'"
        )
    return EncodedChoice(whole.prompt, sides)


def _checked(
    model: HookedTransformer,
    vectors: Vectors,
    questions: ChoiceQuestions,
    multipliers: Sequence[float],
    positions: Positions,
    *,
    allow_seen: bool,
) -> dict[str, SteeringVector]:
    found, identity = labelled(vectors), identify(model)
    for vector in found.values():
        check_fits(vector, identity)
    seen = questions.seen_rows(union_seen(list(found.values())))
    if seen and not allow_seen:
        raise MeasureError(
            f"{len(seen)} of these {len(questions)} questions trained or selected a vector (rows {listed(seen)}); a report on "
            "them would flatter it. Use held-out questions (questions.test), or allow_seen=True, and the result will say so"
        )
    return found


def _measure(
    model: HookedTransformer,
    items: Sequence[_Item],
    vectors: dict[str, SteeringVector],
    questions: ChoiceQuestions,
    multipliers: Sequence[float],
    positions: Positions,
    batch_size: int,
    progress: bool,
) -> dict[str, Any]:
    """The fields that all results have, `form` left out."""
    long = sorted({questions.rows[item.question] for item in items if item.sides.length > model.cfg.n_ctx})
    if long:
        raise PairsError(
            f"{len(long)} of {len(questions)} questions are longer than the model's context of {model.cfg.n_ctx} tokens: rows "
            f"{listed(long)} of {questions.provenance}. Leave them out: questions[[...]]"
        )
    encoded, asked = [item.sides for item in items], list(vectors.values())
    nats = option_logprobs(model, encoded, asked, multipliers, positions, batch_size=batch_size, progress=progress)
    cells = [(item, place) for item in items for place in range(len(item.sides.sides))]
    counts = [len(q.options) for q in questions]
    return {
        "labels": tuple(vectors),
        "norms": tuple(vector.norm for vector in asked),
        "multipliers": tuple(float(m) for m in multipliers),
        "logprobs": np.concatenate(nats, axis=-1),
        "tokens": np.array([len(item.sides.sides[place]) for item, place in cells]),
        "question": np.array([item.question for item, _ in cells]),
        "order": np.array([item.order for item, _ in cells]),
        "option": np.array([(place - item.order) % counts[item.question] for item, place in cells]),
        "questions": tuple(q.question for q in questions),
        "options": tuple(q.options for q in questions),
        "correct": tuple(q.correct for q in questions),
        "categories": questions.categories,
        "positions": positions,
        "data": questions.provenance,
        "seen_questions": len(questions.seen_rows(union_seen(asked))),
    }
