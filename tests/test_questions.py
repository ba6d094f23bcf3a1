"""Questions: written in and read back to the byte, the same question known in every form, no letter favoured."""

import itertools
import logging
import random
import re
from collections.abc import Callable
from typing import Any

import pytest
from transformer_lens import HookedTransformer

from steerlens import (
    ChoiceLayout,
    ChoiceQuestion,
    ChoiceQuestions,
    PairsError,
    PreferencePair,
    PreferencePairs,
    SteerLensError,
    extract_caa,
    load_pairs,
    load_questions,
    preference_shift,
)
from steerlens.pairs import lettered
from steerlens.pairs.lettered import read_choices, read_letter

NAMES = ("train", "val", "test")
OPTIONS = ("No, never.", "Yes (A) and (B),\nover two lines", "", "the p(A)rt", "4")


def asked(n: int = 6, n_options: int = 2, **options: Any) -> ChoiceQuestions:
    """n questions of their own, the right option at every place in turn."""
    texts = [tuple(f"option {i}.{j}" for j in range(n_options)) for i in range(n)]
    return ChoiceQuestions([ChoiceQuestion(f"Question {i}?", texts[i], (i % n_options,)) for i in range(n)], **options)


def made(n: int = 40, **options: Any) -> PreferencePairs:
    return PreferencePairs(
        [f"Question {i}?" for i in range(n)], [f"yes {i}" for i in range(n)], [f"no {i}" for i in range(n)], **options
    )


def right(questions: ChoiceQuestions) -> list[list[str]]:
    return [[q.options[i] for i in q.correct] for q in questions]


# -- texts ------------------------------------------------------------------------------------------------------------


def test_the_prompt_is_written_as_the_caa_authors_write_it() -> None:
    questions = ChoiceQuestions([ChoiceQuestion("Do you agree?", ("No", "Yes"), (1,))])
    assert questions.prompts == ("Do you agree?\n\nChoices:\n (A) No\n (B) Yes",)
    assert questions.letters == (("(A)", "(B)"),)


@pytest.mark.parametrize("opening", ["\n\nChoices:\n", "\n", "\nChoices: \n", "\n\n\n", "  \nAnswer choices:\n\n"])
@pytest.mark.parametrize("head", ["", "Question: ", "Please help me answer the following question.\n"])
def test_what_is_written_is_read_back_to_the_byte(opening: str, head: str) -> None:
    ways = itertools.product(("", " ", "\t"), ("", "\n\nAnswer:", "\n\nAssistant: I think it is"), (" ", ": ", ""))
    for indent, tail, after in ways:
        layout = ChoiceLayout(opening, indent, tail, head, after=after)
        for n in range(2, 6):
            question, options = "Which\n(one) of (A) and (B)?", OPTIONS[:n]
            assert read_choices(layout.write(question, options)) == (question, options, layout)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "No options here",
        "One\n (A) alone",
        "In one line (A) yes (B) no",
        "Out of order\n (B) yes\n (A) no",
        "A gap\n (A) yes\n (C) no",
        "\n (A) no\n (B) question",
        "Two indents\n (A) yes\n  (B) no",
    ],
)
def test_other_texts_are_not_taken_for_questions(text: str) -> None:
    assert read_choices(text) is None


def test_options_before_the_last_list_belong_to_the_question() -> None:
    text = "Given\n (A) one\n (B) two\nwhich?\n\nChoices:\n (A) the first\n (B) the second"
    question, options, _ = read_choices(text) or ("", (), None)
    assert options == ("the first", "the second")
    assert question.endswith("which?")


@pytest.mark.parametrize(
    ("answer", "place"),
    [("(A)", 0), (" (B)", 1), ("C", 2), ("B. No", 1), ("D)", 3), ("A walk", None), ("I refuse", None), ("", None)],
)
def test_an_answers_letter_is_read(answer: str, place: int | None) -> None:
    assert read_letter(answer) == place


# -- fingerprints -----------------------------------------------------------------------------------------------------


def test_a_question_has_one_fingerprint_in_words_in_letters_in_any_order_and_any_layout() -> None:
    pair = PreferencePair("Will you?", "Yes", "No")
    texts = [
        ("Will you?\n\nChoices:\n (A) Yes\n (B) No", "(A)", "(B)"),
        ("Will you?\n\nChoices:\n (A) No\n (B) Yes", "(B)", "(A)"),
        ("Question: Will  you?\n (A) No\n (B) Yes\n\nAnswer:", " (B)", " (A)"),
        ("Question: Will you?", "No", "Yes"),
        ("Will you?\n (A) Yes\n (B) No", "A", "B. No"),
    ]
    assert {PreferencePair(*text).fingerprint for text in texts} == {pair.fingerprint}
    others = [
        ("Will you?\n\nChoices:\n (A) Yes\n (B) Never", "(A)", "(B)"),
        ("Will he?\n\nChoices:\n (A) Yes\n (B) No", "(A)", "(B)"),
        ("Will you?", "(A)", "(B)"),
        ("Will you?\n (A) Yes\n (B) No", "(A)", "(C)"),
    ]
    assert len({PreferencePair(*text).fingerprint for text in others} | {pair.fingerprint}) == 5


@pytest.mark.parametrize("seed", range(3))
def test_every_form_of_the_same_questions_has_the_same_fingerprints(seed: int) -> None:
    pairs = made(20)
    questions = pairs.as_choices(seed=seed)
    forms = [questions.as_pairs(), questions.reordered().as_pairs(), questions.answer_pairs(), pairs.flip()]
    for form in forms:
        assert form.fingerprints == pairs.fingerprints
    assert set(questions.fingerprints) == set(pairs.fingerprints)


def test_a_question_with_many_options_is_known_again_from_any_two_of_them() -> None:
    question = ChoiceQuestion("Why?", ("a", "b", "c", "d"), (1, 3))
    expected = {PreferencePair("Why?", x, y).fingerprint for x in "bd" for y in "ac"}
    assert question.fingerprints == expected
    text = ChoiceQuestions([question]).prompts[0]
    assert PreferencePair(text, "(D)", "(A)").fingerprint in expected
    assert PreferencePair(text, "(B)", "(D)").fingerprint not in expected


def test_seen_rows_are_the_sources_rows() -> None:
    pairs = made(20)
    questions = pairs.as_choices()[4:12]
    assert questions.seen_rows(pairs[[5, 9, 15]].fingerprints) == (5, 9)
    assert questions.seen_rows(()) == ()


@pytest.mark.parametrize("trained_in", ["letters", "words"])
def test_a_vector_made_in_one_form_is_not_reported_on_in_the_other(
    tiny_chat_model: HookedTransformer, trained_in: str
) -> None:
    pairs = made(12)
    letters = pairs.as_choices().as_pairs()
    train, report = (letters, pairs) if trained_in == "letters" else (pairs, letters.flip())
    position = "answer" if trained_in == "letters" else "mean"
    vector = extract_caa(tiny_chat_model, train[:8], 1, position=position, progress=False)
    with pytest.raises(SteerLensError, match="allow_seen"):
        preference_shift(tiny_chat_model, vector, report[6:], progress=False)
    shift = preference_shift(tiny_chat_model, vector, report[8:], multipliers=(0, 1), progress=False)
    assert len(shift.values) == 4


# -- from pairs -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("splits", [None, [NAMES[i % 3] for i in range(40)]])
def test_half_of_each_part_has_a_right(seed: int, splits: Any) -> None:
    questions = made(40, splits=splits).as_choices(seed=seed)
    for name in NAMES:
        part = getattr(questions, name)
        assert sum(q.correct == (0,) for q in part) == (len(part) + 1) // 2
    assert sum(len(getattr(questions, name)) for name in NAMES) == 40


@pytest.mark.parametrize("splits", [None, ["train"] * 12 + ["val"] * 3 + ["test"] * 5])
def test_choices_keep_the_pairs_parts_rows_template_and_what_is_right(splits: Any) -> None:
    pairs = made(20, splits=splits, template="llama-2", system_prompt="Be kind.")
    questions = pairs.as_choices(seed=3)
    for name in NAMES:
        part, own = getattr(questions, name), getattr(pairs, name)
        assert part.rows == own.rows
        assert right(part) == [[text] for text in own.chosen]
    again = questions.answer_pairs()
    assert (list(again), again.rows) == (list(pairs), pairs.rows)
    assert (again.template, again.system_prompt) == ("llama-2", "Be kind.")
    assert [getattr(again, name).rows for name in NAMES] == [getattr(pairs, name).rows for name in NAMES]


def test_the_order_of_the_options_is_the_seeds_and_leaves_the_global_state_alone() -> None:
    pairs, state = made(), random.getstate()
    orders = [[q.options for q in pairs.as_choices(seed=seed)] for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]
    assert random.getstate() == state


def test_flipped_pairs_have_the_other_option_right() -> None:
    pairs = made(8)
    assert right(pairs.flip().as_choices()) == [[text] for text in pairs.rejected]


def test_responses_that_cannot_be_options_are_named_by_the_sources_rows() -> None:
    pairs = PreferencePairs(["p", "q", "r"], ["a", "b", "c\n (B) d"], ["x", "b ", "z"])
    with pytest.raises(PairsError, match=r"2 of 2 pairs .*rows 1, 2;"):
        pairs[1:].as_choices()
    assert len(pairs[:1].as_choices()) == 1


def test_pairs_with_two_prompts_are_no_questions() -> None:
    with pytest.raises(PairsError, match="rejected_prompts"):
        made(2, rejected_prompts=["a", "b"]).as_choices()


# -- to pairs ---------------------------------------------------------------------------------------------------------


def test_letters_name_the_right_option_first() -> None:
    questions = asked(4)
    pairs = questions.as_pairs()
    assert pairs.prompts == questions.prompts
    assert [(p.chosen, p.rejected) for p in pairs] == [("(A)", "(B)"), ("(B)", "(A)")] * 2


def test_letters_are_written_as_the_source_writes_them() -> None:
    layout = ChoiceLayout(tail="\n\nAnswer:", before_answer=" ")
    (pair,) = asked(1, layout=layout).as_pairs()
    assert (pair.prompt[-8:], pair.chosen, pair.rejected) == ("\nAnswer:", " (A)", " (B)")


def test_more_than_two_options_make_no_pairs_of_letters_and_the_error_names_the_way() -> None:
    with pytest.raises(PairsError, match=r"3 of 3 .*more than two options: rows 0, 1, 2.*answer_pairs\(wrong='each'\)"):
        asked(3, 4).as_pairs()


def test_answers_are_paired_with_the_first_or_with_each_wrong_one() -> None:
    questions = ChoiceQuestions(
        [ChoiceQuestion("q", ("a", "b", "c", "d"), (2, 0)), ChoiceQuestion("r", ("x", "y"), (1,))]
    )
    first, each = questions.answer_pairs(), questions.answer_pairs(wrong="each")
    assert [tuple(vars(p).values()) for p in first] == [("q", "c", "b"), ("r", "y", "x")]
    assert [(p.prompt, p.chosen, p.rejected) for p in each] == [("q", "c", "b"), ("q", "c", "d"), ("r", "y", "x")]
    assert each.rows == (0, 0, 1)
    with pytest.raises(PairsError, match="wrong='all'"):
        questions.answer_pairs(wrong="all")  # type: ignore[arg-type]


# -- orders -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_options", [2, 3, 5])
def test_turning_the_options_all_the_way_round_is_the_identity_and_visits_every_letter(n_options: int) -> None:
    questions = asked(7, n_options)
    turned, places = questions, []
    for _ in range(n_options):
        turned = turned.reordered()
        places.append([q.correct[0] for q in turned])
        assert right(turned) == right(questions)
    assert list(turned) == list(questions)
    assert [sorted(set(column)) for column in zip(*places, strict=True)] == [list(range(n_options))] * 7
    assert questions.reordered()[0].options[1] == questions[0].options[0]
    assert list(questions.reordered(2)) == list(questions.reordered().reordered())
    assert list(questions.reordered(-1).reordered()) == list(questions)


def test_shuffled_options_keep_what_is_right_and_the_best_first() -> None:
    questions = ChoiceQuestions([ChoiceQuestion(f"q{i}", tuple("abcdef"), (4, 1, 2)) for i in range(30)])
    shuffled = questions.shuffled(seed=1)
    assert right(shuffled) == right(questions) == [["e", "b", "c"]] * 30
    assert all(sorted(q.options) == list("abcdef") for q in shuffled)
    assert len({q.correct[0] for q in shuffled}) == 6
    assert list(shuffled) == list(questions.shuffled(seed=1)) != list(questions.shuffled(seed=2))


# -- a sequence, and what is no question ------------------------------------------------------------------------------


def test_questions_are_indexed_sliced_and_iterated_like_a_sequence() -> None:
    questions = asked(6, categories=list("aabbcc"))
    assert len(questions) == len(list(questions)) == 6
    assert questions[-1] == questions[5] == list(questions)[5]
    part = questions[1:4]
    assert (list(part), part.rows, part.categories) == (list(questions)[1:4], (1, 2, 3), ("a", "b", "b"))
    assert questions[[4, 0]].rows == (4, 0)
    assert part.digest != questions.digest == questions[:].digest != questions.reordered().digest
    with pytest.raises(PairsError, match="expected a row, a slice or rows"):
        questions["first"]  # type: ignore[call-overload]
    with pytest.raises(IndexError):
        questions[6]


BAD = [
    (("", ("a", "b"), (0,)), "empty question"),
    (("q", ("a",), (0,)), "not 2 to 26 options"),
    (("q", tuple(map(str, range(27))), (0,)), "not 2 to 26 options"),
    (("q", ("a", " "), (0,)), "empty option"),
    (("q", ("a", " a"), (0,)), "options alike"),
    (("q", ("a", "b"), ()), "`correct`"),
    (("q", ("a", "b"), (2,)), "`correct`"),
    (("q", ("a", "b"), (-1,)), "`correct`"),
    (("q", ("a", "b", "c"), (1, 1)), "`correct`"),
    (("q", ("a", "b"), (0, 1)), "`correct`"),
    (("q", ("a\n (B) b", "c"), (0,)), "options that can't be told apart"),
    (("q", ("a", "b\n\nAnswer: c"), (0,)), "options that can't be told apart"),
]


@pytest.mark.parametrize(("fields", "why"), BAD)
def test_a_question_that_cannot_be_asked_is_named_with_its_reason_or_dropped(
    fields: Any, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    questions = [*asked(2), ChoiceQuestion(*fields), asked(1)[0]]
    with pytest.raises(PairsError, match=rf"1 of the 4 questions of x can't be used \({why}.*: rows 2; 0-based"):
        ChoiceQuestions(questions, provenance="x")
    with caplog.at_level(logging.WARNING, "steerlens"):
        kept = ChoiceQuestions(questions, on_bad="drop", categories=list("abcd"), splits=["test"] * 4)
    assert (kept.rows, kept.categories, len(kept.test)) == ((0, 1, 3), ("a", "b", "d"), 3)
    assert why.split("`")[-1] in caplog.text


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: ChoiceQuestions([]), "at least one"),
        (lambda: asked(2, layout=[ChoiceLayout()]), "layout has 1 entries for 2"),
        (lambda: asked(2, categories=["a"]), "categories has 1"),
        (lambda: asked(2, splits=["train", "dev"]), "splits must name"),
        (lambda: asked(2, template="chatml"), "chatml"),
        (lambda: asked(2, on_bad="keep"), "on_bad='keep'"),
        (lambda: asked(2, layout=ChoiceLayout(opening=" or: ")), "can't be told apart"),
    ],
)
def test_a_set_that_does_not_fit_together_is_refused(make: Callable[[], Any], said: str) -> None:
    with pytest.raises(PairsError, match=said):
        make()


def test_a_built_in_behaviour_in_letters_comes_from_the_same_pairs() -> None:
    pairs, questions = load_pairs("wealth-seeking"), load_questions("wealth-seeking")
    letters = load_pairs("wealth-seeking-ab")
    assert [tuple(letters.prompts), letters.digest] == [questions.prompts, questions.as_pairs().digest]
    assert letters.provenance == questions.provenance == "steerlens/wealth-seeking-ab"
    for name in NAMES:
        assert getattr(letters, name).fingerprints == getattr(pairs, name).fingerprints
        assert right(getattr(questions, name)) == [[text] for text in getattr(pairs, name).chosen]


# -- texts of any kind, read in one pass ------------------------------------------------------------------------------


def test_options_are_found_where_regular_expressions_find_them() -> None:
    """The oracle: two expressions that say it in a line each, and take minutes on a long run of white space."""
    opening = re.compile(r"\s*\n(?:[ \t]*(?:(?:answer )?choice|option|answer)s?:[ \t]*\n\s*)?\Z", re.IGNORECASE)
    tail = re.compile(r"\n\s*(?:Answer|Assistant):[^\n]*\Z")
    rng = random.Random(0)
    bits = [
        " ",
        "\n",
        "\t",
        "\r\n",
        "x",
        "Choices:",
        "answer choices:",
        "Answer:",
        "Assistant: (",
        "Options: ",
        "\u2003",
        "",
    ]
    found = 0
    for _ in range(3000):
        before = "".join(rng.choices(bits, k=rng.randrange(8)))
        behind = "".join(rng.choices(bits, k=rng.randrange(6)))
        text = f"Which?{before}(A) one\n(B) two{behind}"
        first = next(iter(lettered._OPTION.finditer(text)))
        start, end = first.start() if first[2] == "A" else 0, text.index("two") + 3
        own, asks = opening.search(text[:start]), tail.search(text, end - 3)
        assert lettered._opening(text[:start]) == (own.start() if own else None), text
        assert lettered._tail(text, end - 3) == (asks.start() if asks else len(text)), text
        found += bool(own) and bool(asks)
    assert found > 20


def test_long_white_space_before_options_is_no_long_wait() -> None:
    for space in (" ", "\n", "\t", "\n \t"):
        many = space * 30_000
        for text in (f"Which?{many}(A) one\n(B) two", f"Which?\n(A) one{many}\n(B) two{many}", f"{many}(A)"):
            read_choices(text)
            PreferencePair(text, "(A)", "(B)").fingerprint  # noqa: B018
