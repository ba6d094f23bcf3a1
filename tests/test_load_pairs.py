"""Published formats: told apart by their columns, read as their authors mean them, bad rows named with their reasons."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub
import pytest

from steerlens import ChoiceQuestion, PairsError, PreferencePair, load_pairs, load_prompts, load_questions
from steerlens.text.conversation import Conversation

Write = Callable[[str, Any], Path]
CHOICES = "Will you?\n\nChoices:\n (A) No\n (B) Yes"
MANY = "Question: Which?\n (A) one\n (B) two\n (C) three\n\nAnswer:"


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """write("x.json", rows): the rows in a file of that ending."""

    def write(name: str, rows: Any) -> Path:
        path = tmp_path / name
        if not isinstance(rows, str):
            rows = json.dumps(rows) if name.endswith("json") else "\n".join(map(json.dumps, rows))
        path.write_text(rows, encoding="utf-8")
        return path

    return write


def texts(pairs: Any) -> list[tuple[str, str, str]]:
    return [(p.prompt, p.chosen, p.rejected) for p in pairs]


def message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


# -- one format, or an error ------------------------------------------------------------------------------------------

ROWS = {
    "texts": {"prompt": "p", "chosen": "c", "rejected": "r"},
    "bipo": {"question": "q", "matching": "m", "not_matching": "n"},
    "options": {"question": "q", "A": "a", "B": "b", "matching": "B"},
    "answers": {"question": CHOICES, "answer_matching_behavior": "(B)", "answer_not_matching_behavior": "(A)"},
    "correct": {"prompt": CHOICES, "correct": "(A)", "incorrect": "(B)", "category": "c"},
    "mmlu": {"question": "q", "subject": "s", "choices": ["w", "x", "y", "z"], "answer": 2},
    "attacks": {"goal": "g", "target": "t", "refusal": "r"},
}
PAIRS = {
    "texts": ("p", "c", "r"),
    "bipo": ("q", "m", "n"),
    "options": ("q", "b", "a"),
    "answers": (CHOICES, "(B)", "(A)"),
    "correct": (CHOICES, "(A)", "(B)"),
    "mmlu": ("q", "y", "w"),
    "attacks": ("g", "t", "r"),
}
QUESTIONS = {
    "options": ("q", ("a", "b"), (1,)),
    "answers": ("Will you?", ("No", "Yes"), (1,)),
    "correct": ("Will you?", ("No", "Yes"), (0,)),
    "mmlu": ("q", ("w", "x", "y", "z"), (2,)),
}


@pytest.mark.parametrize("kind", ROWS)
def test_a_format_is_told_by_its_columns_and_other_columns_may_stand_beside_it(write: Write, kind: str) -> None:
    path = write("x.jsonl", [{**ROWS[kind], "id": 1}])
    assert texts(load_pairs(path)) == [PAIRS[kind]]
    if kind in QUESTIONS:
        (question,) = load_questions(path)
        assert question == ChoiceQuestion(*QUESTIONS[kind])
    else:
        with pytest.raises(PairsError, match=r"has the columns .*; expected \(question, answer_matching"):
            load_questions(path)


@pytest.mark.parametrize(
    ("one", "other"), [("texts", "bipo"), ("bipo", "options"), ("options", "mmlu"), ("answers", "bipo")]
)
def test_columns_of_two_formats_are_ambiguous(write: Write, one: str, other: str) -> None:
    path = write("x.json", [{**ROWS[one], **ROWS[other]}])
    with pytest.raises(PairsError, match=r"several formats: \(.*\) and \(.*\)"):
        load_pairs(path)


@pytest.mark.parametrize(
    "row",
    [
        {"goal": "g", "target": "t"},
        {"text": "t"},
        {"chosen": "c"},
        {"question": "q", "a": "x", "b": "y", "matching": "A"},
    ],
)
def test_unknown_columns_list_what_is_known(write: Write, row: Any) -> None:
    with pytest.raises(PairsError) as error:
        load_pairs(write("x.json", [row]))
    assert str(list(row)) in str(error.value)
    for names in ("(prompt, chosen, rejected)", "(question, A, B, matching)", "(goal, target, refusal)"):
        assert names in str(error.value)


# -- questions --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["answers", "correct"])
def test_pairs_of_letters_are_the_questions_own_and_the_published_text_comes_back(write: Write, kind: str) -> None:
    rows = [ROWS[kind], {**ROWS[kind]}]
    first, second = list(PAIRS[kind])[1:]
    names = list(rows[1])
    rows[1] |= {names[0]: "Else?\n(A) x\n(B) y", names[1]: second, names[2]: first}
    path = write("x.json", rows)
    questions, pairs = load_questions(path), load_pairs(path)
    assert questions.prompts == pairs.prompts == (CHOICES, "Else?\n(A) x\n(B) y")
    assert texts(questions.as_pairs()) == texts(pairs)
    assert questions.as_pairs().fingerprints == pairs.fingerprints


def test_options_beyond_b_and_lists_of_answers_are_read(write: Write) -> None:
    matching, other = "answer_matching_behavior", "answer_not_matching_behavior"
    rows = [
        {"question": MANY, matching: " (B)", other: " (A)"},
        {"question": MANY, matching: " (C)", other: [" (B)", " (A)"]},
        {"question": MANY, matching: [" (C)", " (A)"], other: [" (B)"]},
    ]
    path = write("x.jsonl", rows)
    questions = load_questions(path)
    assert [q.correct for q in questions] == [(1,), (2,), (2, 0)]
    assert set(questions.prompts) == {MANY}
    assert [q.question for q in questions] == ["Which?"] * 3
    assert questions.letters[0] == (" (A)", " (B)", " (C)")
    assert [pair[1:] for pair in texts(load_pairs(path))] == [(" (B)", " (A)"), (" (C)", " (B)"), (" (C)", " (B)")]
    for question, pair in zip(questions, load_pairs(path), strict=True):
        assert pair.fingerprint in question.fingerprints


def test_words_for_answers_are_pairs_and_no_questions(write: Write) -> None:
    row = {"question": "Would you say this?", "statement": "s"}
    row |= {"answer_matching_behavior": " Yes", "answer_not_matching_behavior": " No"}
    path = write("x.jsonl", [row])
    assert texts(load_pairs(path)) == [("Would you say this?", " Yes", " No")]
    with pytest.raises(PairsError, match=r"no question with lettered options \(.*sl\.load_pairs\): rows 0"):
        load_questions(path)
    (question,) = load_pairs(path).as_choices()
    assert question.options == ("Yes", "No")


HEADER = "Type,Category,Question,Best Answer,Correct Answers,Incorrect Answers,Source\n"


def test_truthfulqa_has_the_best_answer_first_each_answer_once_and_the_best_against_the_first_incorrect_one(
    write: Write,
) -> None:
    path = write("TruthfulQA.csv", HEADER + "A,Myths,Who?,b,a; b; c;  a ,x; y; x,\nA,Laws,Why?,d,d,z;,\n")
    questions = load_questions(path)
    assert list(questions) == [
        ChoiceQuestion("Who?", ("b", "a", "c", "x", "y"), (0, 1, 2)),
        ChoiceQuestion("Why?", ("d", "z"), (0,)),
    ]
    assert questions.categories == ("Myths", "Laws")
    assert questions[0].wrong == (3, 4)
    assert texts(load_pairs(path)) == texts(questions.answer_pairs()) == [("Who?", "b", "x"), ("Why?", "d", "z")]
    assert load_prompts(path) == ["Who?", "Why?"]


def test_truthfulqa_on_the_hub_holds_the_same(write: Write) -> None:
    path = write("x.csv", HEADER + "A,Myths,Who?,b,a; b; c,x; y,\n")
    row = {"category": "Myths", "question": "Who?", "best_answer": "b"}
    row |= {"correct_answers": ["a", "b", "c"], "incorrect_answers": ["x", "y"]}  # type: ignore[dict-item]
    other = write("y.jsonl", [row])
    assert list(load_questions(path)) == list(load_questions(other))
    assert texts(load_pairs(path)) == texts(load_pairs(other))


@pytest.mark.parametrize("answer", [1, "1", "B"])
def test_mmlus_answer_may_be_a_number_or_a_letter(write: Write, answer: Any) -> None:
    questions = load_questions(write("x.jsonl", [{**ROWS["mmlu"], "answer": answer}]))
    assert (questions[0].correct, questions.categories) == ((1,), ("s",))
    assert questions.prompts == ("q\n\nChoices:\n (A) w\n (B) x\n (C) y\n (D) z",)


BAD = [
    ("answers", {"question": "No options"}, "no question with lettered options"),
    ("answers", {"question": None}, "no text"),
    ("answers", {"question": "\n (A) No\n (B) Yes"}, "no question with lettered options"),
    ("answers", {"answer_matching_behavior": "(C)"}, "an answer that names none"),
    ("answers", {"answer_matching_behavior": "Yes"}, "an answer that names none"),
    ("answers", {"answer_matching_behavior": "(A)"}, "an option that is right and wrong"),
    ("answers", {"question": "Q?\n (A) x\n (B) "}, "empty option"),
    ("options", {"matching": "C"}, "`matching` that names none"),
    ("options", {"A": "b"}, "options alike"),
    ("options", {"B": None}, "no text"),
    ("mmlu", {"answer": 4}, "`answer` that names none"),
    ("mmlu", {"choices": "wxyz"}, "no text"),
    ("mmlu", {"choices": None}, "no text"),
]


@pytest.mark.parametrize(("kind", "change", "why"), BAD)
def test_a_row_that_is_no_question_is_named_with_its_reason_or_dropped(
    write: Write, kind: str, change: Any, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = write("x.jsonl", [ROWS[kind], {**ROWS[kind], **change}, ROWS[kind]])
    with pytest.raises(PairsError, match=rf"1 of the 3 questions .* can't be used \((?:{why}).*: rows 1; 0-based"):
        load_questions(path)
    with caplog.at_level(logging.WARNING, "steerlens"):
        questions = load_questions(path, on_bad="drop")
    assert questions.rows == (0, 2)
    assert "dropped 1 of 3 questions" in caplog.text


# -- Hugging Face's messages ------------------------------------------------------------------------------------------

USER, YES, NO = message("user", "Will you?"), message("assistant", "Yes"), message("assistant", "No")
SYSTEM = message("system", "Be kind.")


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": [USER], "chosen": [YES], "rejected": [NO]},
        {"chosen": [USER, YES], "rejected": [USER, NO]},
        {"prompt": [USER], "chosen": [USER, YES], "rejected": [USER, NO]},
        {"prompt": "Will you?", "chosen": [USER, YES], "rejected": [USER, NO]},
        {"prompt": "Will you?", "chosen": [YES], "rejected": [NO]},
        {"prompt": [{**USER, "name": "me"}], "chosen": [YES], "rejected": [NO], "score_chosen": 3},
    ],
)
def test_messages_are_read_with_the_prompt_apart_or_inside(write: Write, row: Any) -> None:
    pairs = load_pairs(write("x.jsonl", [row]))
    assert (texts(pairs), pairs.system_prompt) == ([("Will you?", "Yes", "No")], None)


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": [SYSTEM, USER], "chosen": [YES], "rejected": [NO]},
        {"chosen": [SYSTEM, USER, YES], "rejected": [SYSTEM, USER, NO]},
        {"prompt": "Will you?", "chosen": [SYSTEM, USER, YES], "rejected": [SYSTEM, USER, NO]},
    ],
)
def test_a_system_turn_that_all_rows_share_is_the_sets_and_yours_replaces_it(write: Write, row: Any) -> None:
    other = {
        "chosen": [SYSTEM, message("user", "And then?"), YES],
        "rejected": [SYSTEM, message("user", "And then?"), NO],
    }
    path = write("x.jsonl", [row, {"prompt": None, **other}])
    pairs = load_pairs(path)
    assert (pairs.prompts, pairs.system_prompt) == (("Will you?", "And then?"), "Be kind.")
    assert load_pairs(path, system_prompt="").system_prompt == ""


@pytest.mark.parametrize("second", [[USER], [message("system", "Be rude."), USER]])
def test_system_turns_that_differ_are_refused_unless_you_give_one(write: Write, second: Any) -> None:
    rows = [{"prompt": prompt, "chosen": [YES], "rejected": [NO]} for prompt in ([SYSTEM, USER], second)]
    path = write("x.jsonl", rows)
    with pytest.raises(PairsError, match=r"2 different system turns.*Pass system_prompt="):
        load_pairs(path)
    assert load_pairs(path, system_prompt="Be kind.").system_prompt == "Be kind."


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"chosen": [USER, YES], "rejected": [message("user", "Else?"), NO]}, "that answer different prompts"),
        ({"chosen": [USER, YES, YES], "rejected": [USER, YES, NO]}, "more, or other, turns"),
        ({"chosen": [USER, {**YES, "tool_calls": [{"name": "sell"}]}], "rejected": [USER, NO]}, "no list of messages"),
        ({"prompt": "Else?", "chosen": [USER, YES], "rejected": [USER, NO]}, "more, or other, turns"),
        ({"chosen": [YES], "rejected": [NO]}, "more, or other, turns"),
        ({"prompt": [SYSTEM, USER], "chosen": [USER, YES], "rejected": [USER, NO]}, "more, or other, turns"),
        ({"chosen": [USER, YES], "rejected": [USER, USER]}, "not the assistant's"),
        ({"chosen": [USER, YES], "rejected": "No"}, "that answer different prompts"),
        ({"chosen": [USER, YES], "rejected": None}, "rejected is null"),
        ({"chosen": 3, "rejected": [USER, NO]}, "chosen holds a int"),
        ({"prompt": ["Hi", "Sure."], "chosen": "Yes", "rejected": "No"}, "neither a text nor a list of messages"),
        ({"prompt": "Hi", "chosen": ["Yes"], "rejected": ["No"]}, "no list of messages"),
        ({"chosen": [USER, YES], "rejected": []}, "no list of messages"),
        ({"chosen": [USER, YES], "rejected": [{"role": "user"}]}, "no list of messages"),
        ({"prompt": 3, "chosen": [YES], "rejected": [NO]}, "neither a text nor a list"),
    ],
)
def test_a_conversation_that_is_no_pair_is_named_with_its_reason_or_dropped(
    write: Write, change: Any, why: str
) -> None:
    good = {"prompt": None, "chosen": [USER, YES], "rejected": [USER, NO]}
    path = write("x.jsonl", [good, {**good, **change}, good])
    with pytest.raises(PairsError, match=rf"1 of the 3 pairs .*{why}.*: rows 1; 0-based"):
        load_pairs(path)
    pairs = load_pairs(path, on_bad="drop")
    assert (pairs.rows, len(pairs)) == ((0, 2), 2)


def test_rows_keep_their_numbers_when_two_kinds_of_bad_rows_are_dropped(write: Write) -> None:
    empty = message("assistant", " ")
    good = {"prompt": [USER], "chosen": [YES], "rejected": [NO], "split": "train"}
    rows = [{**good, "rejected": 3}, good, {**good, "chosen": [empty]}, {**good, "split": "test"}]
    pairs = load_pairs(write("x.jsonl", rows), on_bad="drop")
    assert (pairs.rows, pairs.train.rows, pairs.test.rows) == ((1, 3), (1,), (3,))


def test_a_prompt_inside_plain_texts_is_not_guessed(write: Write) -> None:
    with pytest.raises(PairsError, match="no `prompt`, and"):
        load_pairs(write("x.jsonl", [{"chosen": "Human: q Assistant: a", "rejected": "Human: q Assistant: b"}]))


# -- prompts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("x.txt", "one\r\n\n  two\n"),
        ("x.json", [{"question": "one"}, {"question": "  two"}]),
        ("x.jsonl", [{"prompt": "one"}, {"prompt": "  two"}]),
        ("x.jsonl", [{"prompt": [message("user", "one")]}, {"prompt": "  two"}]),
        ("x.csv", "goal,target\none,Sure\n  two,Sure\n"),
        ("x.csv", "question,A,B,matching\none,a,b,A\n  two,a,b,B\n"),
    ],
)
def test_prompts_are_read_and_nothing_else(write: Write, name: str, rows: Any) -> None:
    assert load_prompts(write(name, rows)) == ["one", "  two"]


def test_prompts_that_are_none_are_named_or_dropped_or_sent_to_the_right_loader(write: Write) -> None:
    path = write("x.jsonl", [{"prompt": "a"}, {"prompt": ""}, {"prompt": None}, {"prompt": [YES]}])
    with pytest.raises(PairsError, match=r"3 of the 4 prompts .*rows 1, 2, 3"):
        load_prompts(path)
    assert load_prompts(path, on_bad="drop") == ["a"]
    with pytest.raises(PairsError, match=r"several formats: \(prompt\) and \(question\)"):
        load_prompts(write("y.json", [{"prompt": "a", "question": "b"}]))
    with pytest.raises(PairsError, match=r"lettered options.*sl\.load_questions"):
        load_prompts(write("z.json", [ROWS["answers"]]))
    with pytest.raises(PairsError, match=r"sl\.load_pairs\('wealth-seeking'\)\.test\.prompts"):
        load_prompts("wealth-seeking")


# -- files and the hub ------------------------------------------------------------------------------------------------


def test_a_jsonl_file_that_is_one_list_is_read(write: Write) -> None:
    assert texts(load_pairs(write("x.jsonl", json.dumps([ROWS["texts"]] * 2)))) == [PAIRS["texts"]] * 2


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """A hub with the same two parts for every name; the list holds what was asked for."""
    asked: list[tuple[str, ...]] = []

    def load(*names: str) -> datasets.DatasetDict:
        asked.append(names)
        parts = {"train_prefs": "q", "extra": "r"}
        rows = {
            part: [{"prompt": [message("user", text)], "chosen": [YES], "rejected": [NO]}]
            for part, text in parts.items()
        }
        return datasets.DatasetDict({part: datasets.Dataset.from_list(found) for part, found in rows.items()})

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", lambda self, name, timeout: None)
    monkeypatch.setattr(datasets, "load_dataset", load)
    return asked


@pytest.mark.parametrize(
    ("source", "names", "prompt"),
    [
        ("hf:owner/name/extra", ("owner/name",), "r"),
        ("hf:owner/name:some-config/train_prefs", ("owner/name", "some-config"), "q"),
    ],
)
def test_a_hub_sets_configuration_and_part_can_be_named(
    hub: list[tuple[str, ...]], source: str, names: tuple[str, ...], prompt: str
) -> None:
    pairs = load_pairs(source)
    assert (list(pairs), hub) == ([PreferencePair(prompt, "Yes", "No")], [names])
    assert pairs.provenance == source


def test_a_hub_part_that_is_none_of_ours_or_not_there_is_named(hub: list[tuple[str, ...]]) -> None:
    with pytest.raises(PairsError, match=r"a part 'extra'.*'hf:owner/name/extra'"):
        load_pairs("hf:owner/name")
    with pytest.raises(PairsError, match=r"no part 'test'; expected one of \['extra', 'train_prefs'\]"):
        load_pairs("hf:owner/name/test")
    with pytest.raises(PairsError, match="names no hub data set"):
        load_pairs("hf:name")


# -- turns ------------------------------------------------------------------------------------------------------------

HI, SURE = message("user", "Hi"), message("assistant", "Sure.")


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": [HI, SURE, USER], "chosen": [YES], "rejected": [NO]},
        {"prompt": [HI, SURE, USER], "chosen": YES, "rejected": NO},
        {"prompt": [HI, SURE, USER], "chosen": "Yes", "rejected": "No"},
        {"prompt": [HI, SURE, USER], "chosen": [HI, SURE, USER, YES], "rejected": [HI, SURE, USER, NO]},
        {"prompt": "Will you?", "chosen": [HI, SURE, USER, YES], "rejected": [HI, SURE, USER, NO]},
        {"chosen": [HI, SURE, USER, YES], "rejected": [HI, SURE, USER, NO]},
        {"prompt": ["Hi", "Sure.", "Will you?"], "chosen": "Yes", "rejected": "No"},
    ],
)
def test_prompts_of_several_turns_keep_their_turns(write: Write, row: Any) -> None:
    talk = Conversation([("user", "Hi"), ("assistant", "Sure."), ("user", "Will you?")])
    path = write("x.jsonl", [row])
    (pair,) = load_pairs(path)
    assert (pair, getattr(pair.prompt, "turns", None)) == (PreferencePair(talk, "Yes", "No"), talk.turns)
    if isinstance(row.get("prompt"), list):
        (prompt,) = load_prompts(path)
        assert getattr(prompt, "turns", None) == talk.turns


def test_a_message_or_text_for_an_answer_is_that_answer(write: Write) -> None:
    for row in (
        {"prompt": "Will you?", "chosen": YES, "rejected": NO},
        {"prompt": [USER], "chosen": "Yes", "rejected": "No"},
        {"prompt": USER, "chosen": "Yes", "rejected": [NO]},
    ):
        assert texts(load_pairs(write("x.jsonl", [row]))) == [("Will you?", "Yes", "No")]


def test_transcripts_are_parted_at_the_last_answer(write: Write, caplog: pytest.LogCaptureFixture) -> None:
    before = "\n\nHuman: Hi\n\nAssistant: Sure.\n\nHuman: Will you?\n\nAssistant:"
    row = {"chosen": f"{before} Yes", "rejected": f"{before} No"}
    assert texts(load_pairs(write("x.jsonl", [row]))) == [(before, " Yes", " No")]
    assert "template='plain'" in caplog.text
    row["rejected"] = "\n\nHuman: Else?\n\nAssistant: No"
    with pytest.raises(PairsError, match="different prompts"):
        load_pairs(write("x.jsonl", [row]))


# -- columns that say what the rows mean ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["system", "system_prompt", "System"])
def test_a_system_column_is_the_sets_system_prompt_or_refused(write: Write, name: str) -> None:
    for kind in ("texts", "bipo", "answers", "mmlu"):
        one, other = ({**ROWS[kind], name: text} for text in ("Be kind.", "Be rude."))
        load = load_questions if kind == "mmlu" else load_pairs
        assert load(write("x.jsonl", [one, one])).system_prompt == "Be kind."
        assert load(write("x.jsonl", [one]), system_prompt="Be brief.").system_prompt == "Be brief."
        assert load(write("x.jsonl", [{**one, name: ""}] * 2)).system_prompt is None
        for second in (other, {**one, name: None}, ROWS[kind]):
            with pytest.raises(PairsError, match=rf"column '{name}' would be lost.*Pass system_prompt="):
                load(write("x.jsonl", [one, second]))
        with pytest.raises(PairsError, match=f"column '{name}' would be lost"):
            load(write("x.jsonl", [{**one, name: ["Be kind."]}]))


@pytest.mark.parametrize(
    "name",
    ["history", "input", "context", "Instruction", "instructions", "conversations", "messages", "passage", "answers"],
)
def test_a_column_that_would_be_lost_is_refused_by_its_name(write: Write, name: str) -> None:
    for value in ("some text", [message("user", "Before?")], {"a": 1}):
        for kind in ("texts", "bipo"):
            rows = [ROWS[kind], {**ROWS[kind], name: value}]
            with pytest.raises(PairsError, match=rf"column '{name}' would be lost.*\(row 1, 1 rows in all\)"):
                load_pairs(write("x.jsonl", rows))
            if name != "answers":  # prompts are read without their answers
                with pytest.raises(PairsError, match=f"column '{name}' would be lost"):
                    load_prompts(write("x.jsonl", [{"prompt": "p", name: value}]))
    for empty in (None, "", [], "[]"):
        assert len(load_pairs(write("x.jsonl", [{**ROWS["texts"], name: empty}]))) == 1
    assert len(load_pairs(write("x.jsonl", [{**ROWS["texts"], name: "p"}]))) == 1  # what the prompt says too
    kept = {"id": 3, "score_chosen": 1.5, "source": "s", "split": "train"}
    assert len(load_pairs(write("x.jsonl", [{**ROWS["texts"], **kept}]))) == 1


def test_a_prompt_beside_two_transcripts_of_messages_is_not_lost(write: Write) -> None:
    row = {
        "prompt": "Will you?",
        "prompt_id": "1",
        "chosen": [USER, YES],
        "rejected": [USER, NO],
        "messages": [USER, YES],
    }
    assert texts(load_pairs(write("x.jsonl", [row]))) == [("Will you?", "Yes", "No")]
    with pytest.raises(PairsError, match="column 'instruction' would be lost"):
        load_pairs(write("x.jsonl", [{"instruction": "Do it.", "chosen": "Yes", "rejected": "No"}]))


def test_options_in_a_column_of_their_own_are_options_for_both_readers(write: Write) -> None:
    row = {"question": "Which?", "answer_matching_behavior": ["B"], "answer_not_matching_behavior": ["A"]}
    for options in ({"A": "one", "B": "two"}, {"(A)": "one", "(B)": "two"}, ["one", "two"]):
        path = write("x.jsonl", [{**row, "answers": options}])
        assert list(load_questions(path)) == [ChoiceQuestion("Which?", ("one", "two"), (1,))]
        assert texts(load_pairs(path)) == [("Which?", "two", "one")]
    with pytest.raises(PairsError, match="names none of the options"):
        load_pairs(write("x.jsonl", [{**row, "answers": {"A": "one", "C": "two"}}]))


def test_rows_whose_letters_have_no_options_are_bad_for_both_readers(write: Write) -> None:
    good = ROWS["answers"]
    rows = [good] + [{**good, "question": q} for q in ("Bare?", "\nChoices:\n (A) x\n (B) y", "Q?\n (A) x\n (B) x")]
    path = write("x.jsonl", rows)
    for load in (load_pairs, load_questions):
        with pytest.raises(PairsError, match="3 of the 4"):
            load(path)
        assert load(path, on_bad="drop").rows == (0,)
    letters = {"prompt": "Where to?", "chosen": "B", "rejected": "A"}
    with pytest.raises(PairsError, match="a letter for an answer"):
        load_pairs(write("x.jsonl", [letters]))
    assert len(load_pairs(write("x.jsonl", [{**letters, "prompt": "Where to? A. north B. south"}]))) == 1


def test_written_out_lists_are_no_texts(write: Write) -> None:
    talk = "[{'content': 'Will you?', 'role': 'user'}, {'content': 'Yes', 'role': 'assistant'}]"
    for written in (
        talk,
        talk.replace(", {", "\n {"),
        json.dumps([USER, YES]),
        str(YES),
        f"array([{YES}], dtype=object)",
    ):
        rows = [ROWS["texts"], {**ROWS["texts"], "chosen": written}]
        with pytest.raises(PairsError, match=r"`chosen` that is written out messages.*: rows 1;"):
            load_pairs(write("x.jsonl", rows))
        with pytest.raises(PairsError, match=r"written out messages.*: rows 0;"):
            load_prompts(write("x.jsonl", [{"prompt": written}]))
    for written in ("['yes', 'no']", "['yes' 'no']", '["yes"]'):
        with pytest.raises(PairsError, match="every text of the column 'rejected' is a list written out"):
            load_pairs(write("x.jsonl", [{**ROWS["texts"], "rejected": written}]))
    code = {**ROWS["texts"], "chosen": '["red", "blue"]'}  # an answer in JSON among others is an answer
    assert len(load_pairs(write("x.jsonl", [ROWS["texts"], code]))) == 2


FORMATTED = {
    "Alpaca": "Below is a task.\n\n### Instruction:\nWho?\n\n### Response:\n",
    "ChatML": "<|im_start|>user\nWho?<|im_end|>\n<|im_start|>assistant\n",
    "Gemma": "<start_of_turn>user\nWho?<end_of_turn>\n<start_of_turn>model\n",
    "Human/Assistant": "\n\nHuman: Who?\n\nAssistant:",
    "Llama 2 or Mistral": "<s>[INST] Who? [/INST]",
    "Llama 3": "<|start_header_id|>user<|end_header_id|>\n\nWho?<|eot_id|>",
    "Vicuna": "A chat. USER: Who? ASSISTANT:",
    "Zephyr or Phi-3": "<|user|>\nWho?<|end|>\n<|assistant|>\n",
}


def test_texts_in_a_chat_format_are_told_at_load(write: Write, caplog: pytest.LogCaptureFixture) -> None:
    for name, text in FORMATTED.items():
        caplog.clear()
        path = write("x.jsonl", [{**ROWS["texts"], "prompt": text}])
        assert load_pairs(path).prompts == (text,)
        assert f"{name} (1)" in caplog.text
        assert "template='plain'" in caplog.text
        caplog.clear()
        load_pairs(path, template="plain")
        assert caplog.text == ""
    load_pairs(write("x.jsonl", [{**ROWS["texts"], "prompt": "A human: an assistant? <b>[1]</b> USER: no"}]))
    assert caplog.text == ""


# -- rows and files that are bad --------------------------------------------------------------------------------------


def test_every_bad_column_and_row_is_named_with_the_file_and_dropped_with_a_count(
    write: Write, caplog: pytest.LogCaptureFixture
) -> None:
    good = ROWS["texts"]
    rows = [
        good,
        {**good, "rejected": None},
        {**good, "chosen": 12, "prompt": None},
        {**good, "chosen": " "},
        {"prompt": "p"},
    ]
    rows += [{**good, "chosen": "\ud83d"}, good]
    path = write("x.jsonl", rows)
    with pytest.raises(PairsError) as error:
        load_pairs(path)
    for said in (f"{path.parent.name}/x.jsonl", "5 of the 7", "rejected is null: rows 1, 4", "chosen holds a int: rows 2",
                 "empty chosen: rows 3", "chosen is null: rows 4", "chosen holds half of a surrogate pair"):  # fmt: skip
        assert said in str(error.value)
    assert load_pairs(path, on_bad="drop").rows == (0, 6)
    assert "dropped 5 of 7" in caplog.text


def test_mmlus_answers_count_from_0(write: Write) -> None:
    row = ROWS["mmlu"]
    counted = [{**row, "answer": answer} for answer in (1, 2, 3, 4, "4")]
    for on_bad in ("raise", "drop"):
        with pytest.raises(PairsError, match=r"`answer` is 4 of 4 options in rows 3, 4, and never 0: counted from 1\?"):
            load_questions(write("x.jsonl", counted), on_bad=on_bad)  # type: ignore[arg-type]
    for odd in ("\u00b2", "\u0662", "-1", "1.5", "9" * 5000, None, [1]):
        with pytest.raises(PairsError, match="`answer` that names none"):
            load_questions(write("x.jsonl", [row, {**row, "answer": odd}]))


def test_parts_are_known_by_their_words_and_by_the_files_own(write: Write) -> None:
    words = ["train", "validation", "dev", "test", "Valid", "train_prefs"]
    rows = [{"prompt": f"p{i}", "chosen": "c", "rejected": "r", "split": word} for i, word in enumerate(words)]
    assert load_pairs(write("x.jsonl", rows)).splits == ("train", "val", "val", "test", "val", "train")
    bare = [{"prompt": f"p{i}", "chosen": "c", "rejected": "r"} for i in range(3)]
    assert load_pairs(write("x.json", {"train": bare[:1], "test": bare[1:]})).splits == ("train", "test", "test")
    assert load_prompts(write("x.json", ["one", "two"])) == ["one", "two"]
    with pytest.raises(PairsError, match="expected a list of objects"):
        load_pairs(write("x.json", {"train": bare, "test": 3}))


def test_a_file_that_is_built_to_do_harm_is_refused_at_once(write: Write) -> None:
    deep = "[" * 200_000
    for name, text, said in (
        ("x.json", deep, "nested too deeply"),
        ("x.json", '{"a":' * 200_000, "nested too deeply"),
        ("x.jsonl", '{"prompt": "p"}\n{"prompt": ' + deep, "nested too deeply"),
        ("x.jsonl", '{"prompt": "p"}\n\n{"prompt": p}', "line 3"),
        ("x.csv", 'prompt,chosen,rejected\na,b,c\nd,"e,f\ng,h,i\n', "begins on line 3"),
        ("x.csv", 'prompt,chosen,rejected\na,b,c\nd,"e,f\ng,"h",i\n', r"begins on line 3.*\(line 4\)"),
        ("x.csv", "prompt,chosen,rejected\na,b,c\na,b,c,d\n", "line 3: .*more fields"),
        ("x.csv", "prompt,chosen,rejected\n" + '"' + "a,b\n" * 100_000, "begins on line 2"),
        ("x.csv", "prompt,chosen,rejected\na\n", "chosen is null"),
        ("x.csv", "prompt,chosen\0,rejected\na,b,c\n", "x.csv"),
    ):
        with pytest.raises(PairsError, match=said):
            load_pairs(write(name, text))
    wide = " \n\t" * 10_000
    path = write("x.jsonl", [{**ROWS["answers"], "question": f"Q?{wide}(A) x\n\t(B) y{wide}"}])
    assert load_pairs(path).rows == (0,)


@pytest.mark.parametrize("load", [load_pairs, load_questions, load_prompts])
def test_what_is_no_name_and_no_path_is_refused(load: Callable[..., Any], tmp_path: Path) -> None:
    for source in (None, 3, b"x.csv", ["x.csv"], [ROWS["texts"]], ROWS["texts"], object()):
        with pytest.raises(PairsError, match=r"source=.*expected a name"):
            load(source)
    long = [f"{tmp_path}/{'x' * 300}.csv", "y/" * 3000 + "x.csv"]
    for source in (*long, "a\0b.csv", "hf:a\0b/c", "mwe/a\0", "mwe/../x", "\ud800.csv"):
        with pytest.raises(PairsError):
            load(source)
