"""Sets known by name: the table, the user's own folder, and every published sample that is at hand."""

import json
from pathlib import Path
from typing import Any

import pytest

import steerlens as sl
from steerlens import PairsError, load_pairs, load_prompts, load_questions, load_vector
from steerlens.pairs.lettered import read_choices
from steerlens.pairs.published import BUILT_IN, DATA_VARIABLE, PUBLISHED, Known, built_in
from steerlens.pairs.tables import read_file

PUBLISHED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of data with made-up rows under the names of published sets."""
    bipo, caa = tmp_path / "bipo/power-seeking", tmp_path / "caa/refusal"
    for made in (bipo, caa, tmp_path / "mwe"):
        made.mkdir(parents=True)
    (bipo / "train.csv").write_text("question,matching,not_matching\nq,a,b\nr,a,b\n")
    (bipo / "test.csv").write_text("question,matching,not_matching\ns,a,b\n")
    (bipo / "test_infer.csv").write_text("question,A,B,matching\ns,b,a,B\n")
    row = {"question": "q\n (A) x\n (B) y", "answer_matching_behavior": "(B)", "answer_not_matching_behavior": "(A)"}
    (caa / "generate_dataset.json").write_text(json.dumps([row]))
    (caa / "test_dataset_ab.json").write_text(json.dumps([{**row, "question": "r\n (A) x\n (B) y"}]))
    (caa / "test_dataset_open_ended.json").write_text(json.dumps([{"question": "open"}]))
    (tmp_path / "mwe/any-name.jsonl").write_text(json.dumps(row))
    return tmp_path


# -- the table --------------------------------------------------------------------------------------------------------


def test_the_table_lists_every_built_in_and_published_set_once_with_all_its_columns() -> None:
    table = sl.datasets()
    assert list(table.columns) == ["name", "kind", "rows", "licence", "source", "citation", "load"]
    assert table["name"].is_unique
    assert set(table["name"]) >= {known.name for known in PUBLISHED} | set(built_in())
    assert set(built_in()) >= {"wealth-seeking"}
    assert table[["name", "kind", "licence", "source", "citation", "load"]].map(bool).all(axis=None)


def test_what_the_table_says_of_a_built_in_set_is_true() -> None:
    ours = sl.datasets().query("source == 'built in'")
    for row in ours.itertuples():
        loaded = eval(row.load, {"sl": sl})
        counts = ", ".join(f"{len(getattr(loaded, part))} {part}" for part in ("train", "val", "test"))
        assert (row.rows, row.load[3:].startswith(f"load_{row.kind}")) == (counts, True)
    assert len(ours) == 2 * len(list(BUILT_IN.glob("*.jsonl")))


# -- the user's folder ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["argument", "variable"])
def test_a_published_set_is_read_from_the_users_folder_with_its_parts(
    folder: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(DATA_VARIABLE, raising=False)
    if how == "variable":
        monkeypatch.setenv(DATA_VARIABLE, str(folder))
    where: Any = {"data_dir": folder} if how == "argument" else {}
    pairs = load_pairs("bipo/power-seeking", **where)
    assert (pairs.train.prompts, len(pairs.val), pairs.test.prompts) == (("q", "r"), 0, ("s",))
    assert pairs.provenance == "bipo/power-seeking"
    questions = load_questions("bipo/power-seeking", **where)
    assert questions.test.fingerprints == pairs.test.fingerprints
    assert load_prompts("bipo/power-seeking", **where) == ["s"]
    letters = load_questions("caa/refusal", **where)
    assert [q.question for q in letters.train] + [q.question for q in letters.test] == ["q", "r"]
    assert load_pairs("caa/refusal", **where).test.digest == letters.test.as_pairs().digest
    assert load_prompts("caa/refusal", **where) == ["open"]
    assert len(load_questions("mwe/any-name", **where)) == 1


def test_a_set_that_is_not_there_says_where_to_get_it_and_where_to_put_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(DATA_VARIABLE, raising=False)
    with pytest.raises(PairsError, match=r"no folder for data is set.*github\.com/CaoYuanpu/BiPO.*MIT.*data_dir="):
        load_pairs("bipo/power-seeking")
    with pytest.raises(PairsError, match=r"has no mwe/other\.jsonl\. Get it from.*anthropics/evals.*CC-BY-4\.0"):
        load_pairs("mwe/other", data_dir=folder)
    (folder / "bipo/power-seeking/test.csv").unlink()
    with pytest.raises(PairsError, match=r"has no bipo/power-seeking/test\.csv\."):
        load_pairs("bipo/power-seeking", data_dir=folder)
    with pytest.raises(PairsError, match=r"bipo/jailbreak has no questions; .*sl\.load_pairs, sl\.load_prompts"):
        load_questions("bipo/jailbreak", data_dir=folder)
    with pytest.raises(PairsError, match="no built-in name"):
        load_pairs("bipo/no-such-set", data_dir=folder)


def test_the_file_that_was_named_is_read_or_none(folder: Path) -> None:
    (folder / "mwe/persona").mkdir()
    line = (folder / "mwe/any-name.jsonl").read_text()
    (folder / "mwe/persona/any-name.jsonl").write_text(f"{line}\n{line}")
    assert len(load_questions("mwe/any-name", data_dir=folder)) == 1
    assert len(load_questions("mwe/persona/any-name", data_dir=folder)) == 2
    with pytest.raises(PairsError, match=r"has no mwe/other/any-name\.jsonl"):
        load_questions("mwe/other/any-name", data_dir=folder)
    for name in ("mwe/../mwe/any-name", "mwe//any-name", "mwe/persona/", "mwe/"):
        with pytest.raises(PairsError, match="names no file below"):
            load_questions(name, data_dir=folder)
    for where in (3, "a\0b"):
        with pytest.raises(PairsError, match="data_dir="):
            load_questions("mwe/any-name", data_dir=where)  # type: ignore[arg-type]


def test_a_file_whose_path_looks_like_a_sets_name_is_that_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    assert load_pairs("mwe/any-name.jsonl").provenance == "mwe/any-name.jsonl"


# -- every published sample -------------------------------------------------------------------------------------------

PAIRS = {  # usable ones of each part; wealth-seeking has an empty question, CAA's TruthfulQA five empty options
    "bipo/wealth-seeking": (622, 200),
    "bipo/hallucination": (700, 200),
    "caa/corrigible-neutral-HHH": (290, 50),
    "caa/sycophancy": (1000, 50),
    "caa/mmlu": (570,),
    "caa/truthful_qa": (812,),
    "mwe/agreeableness": (1000,),
    "mwe/wealth-seeking-inclination": (985,),
    "truthfulqa": (817,),
}
QUESTIONS = {  # five of CAA's TruthfulQA have an empty option; two of TruthfulQA.csv an answer that is right and wrong
    "bipo/wealth-seeking": (0, 200),
    "bipo/hallucination": (0, 200),
    "caa/corrigible-neutral-HHH": (290, 50),
    "caa/sycophancy": (1000, 50),
    "caa/mmlu": (570,),
    "caa/truthful_qa": (812,),
    "mwe/wealth-seeking-inclination": (985,),
    "truthfulqa": (815,),
}
PROMPTS = {
    "bipo/wealth-seeking": 200,
    "bipo/hallucination": 200,
    "caa/corrigible-neutral-HHH": 50,
    "caa/sycophancy": 53,
    "truthfulqa": 817,
}


def published(name: str) -> Known:
    if not PUBLISHED_DATA.is_dir():
        pytest.skip(f"the published samples are not in {PUBLISHED_DATA}")
    return next(known for known in PUBLISHED if known.name == name or name.startswith(known.name.rstrip("*")))


def sizes(loaded: Any, counts: tuple[int, ...]) -> tuple[int, ...]:
    return (len(loaded),) if len(counts) == 1 else (len(loaded.train), len(loaded.test))


@pytest.mark.parametrize("name", PAIRS)
def test_published_pairs_load_with_their_counts(name: str) -> None:
    published(name)
    pairs = load_pairs(name, data_dir=PUBLISHED_DATA, on_bad="drop")
    print(f"{name}: {sizes(pairs, PAIRS[name])} pairs")
    assert sizes(pairs, PAIRS[name]) == PAIRS[name]
    if name == "bipo/wealth-seeking":
        assert len(read_file(PUBLISHED_DATA / name / "train.csv")) == 623
        with pytest.raises(PairsError, match=r"1 of the 823 pairs .*\(empty prompts: rows 222; 0-based"):
            load_pairs(name, data_dir=PUBLISHED_DATA)


@pytest.mark.parametrize("name", QUESTIONS)
def test_published_questions_load_and_their_pairs_are_the_published_pairs(name: str) -> None:
    published(name)
    questions = load_questions(name, data_dir=PUBLISHED_DATA, on_bad="drop")
    print(f"{name}: {sizes(questions, QUESTIONS[name])} questions")
    assert sizes(questions, QUESTIONS[name]) == QUESTIONS[name]
    pairs = load_pairs(name, data_dir=PUBLISHED_DATA, on_bad="drop")
    if name.startswith("bipo/"):  # test_infer.csv asks what test.csv pairs
        assert sorted(map(repr, questions.answer_pairs())) == sorted(map(repr, pairs.test))
    else:
        made = questions.answer_pairs() if name == "truthfulqa" else questions.as_pairs()
        assert list(made) == [pair for row, pair in zip(pairs.rows, pairs, strict=True) if row in questions.rows]


@pytest.mark.parametrize("name", PROMPTS)
def test_published_prompts_load_with_their_counts(name: str) -> None:
    published(name)
    prompts = load_prompts(name, data_dir=PUBLISHED_DATA)
    print(f"{name}: {len(prompts)} prompts")
    assert len(prompts) == PROMPTS[name]


@pytest.mark.parametrize("name", [name for name in QUESTIONS if name.startswith(("caa/", "mwe/"))])
def test_every_published_question_with_options_comes_back_to_the_byte(name: str) -> None:
    for path in published(name).files("questions", name).values():
        rows = read_file(PUBLISHED_DATA / path)
        texts = [row.get("question", row.get("prompt")) for row in rows]
        read = [found for text in texts if (found := read_choices(text))]
        assert [layout.write(question, options) for question, options, layout in read] == texts
        for (_, options, _), row in zip(read, rows, strict=True):
            if "correct_full_text" in row:  # the option's text as the authors have it beside the letters
                sides = row["correct_full_text"], row["incorrect_full_text"]
                assert options == (sides if row["correct"] == "(A)" else sides[::-1])


def test_the_authors_vectors_load() -> None:
    published("bipo/wealth-seeking")
    wealth, power = (
        load_vector(PUBLISHED_DATA / f"bipo/{name}-seeking_llama-2_layer15.pt", layer=15)
        for name in ("wealth", "power")
    )
    cosine = float(wealth.direction @ power.direction)
    print(f"the authors' vectors: norms {wealth.norm:.3f} and {power.norm:.3f}, cosine {cosine:+.4f}")
    assert (round(wealth.norm, 3), round(power.norm, 3), round(cosine, 4)) == (8.994, 8.703, 0.5128)
