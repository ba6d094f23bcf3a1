"""Answers against `sl.generate`, one by one; kept whole, resumed exactly, and never read from another setting's file."""

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformer_lens import HookedTransformer

import steerlens as sl
from steerlens.errors import MeasureError, SteeringError, VectorError
from steerlens.measures import _answering

PROMPTS = ["Would you like to earn more money?", "Tell the truth.", "What is a good day today, in 2024, for you?"]
NEW = 8


def vector(seed: int, layer: int = 1) -> sl.SteeringVector:
    return sl.SteeringVector(2 * torch.randn(32, generator=torch.Generator().manual_seed(seed)), layer)


VECTORS = {"one": vector(0), "other": vector(1), "higher": vector(2, layer=2)}


def answers(model: HookedTransformer, vectors: Any = None, prompts: Any = PROMPTS, **options: Any) -> sl.Answers:
    settings = {"multipliers": (-1, 0, 2), "max_new_tokens": NEW, "progress": False, **options}
    return sl.answers(model, VECTORS if vectors is None else vectors, prompts, **settings)


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of rows of every batch that is decoded."""
    seen: list[int] = []
    decode = _answering.decode

    def watched(model: Any, rows: Any, *others: Any) -> Any:
        seen.append(len(rows))
        return decode(model, rows, *others)

    monkeypatch.setattr(_answering, "decode", watched)
    return seen


@pytest.mark.usefixtures("no_ties")
@pytest.mark.parametrize("positions", ["all", "response"])
def test_greedy_answers_are_those_of_generate(
    tiny_chat_model: HookedTransformer, positions: Any, decoded: list[int]
) -> None:
    said = answers(tiny_chat_model, positions=positions)
    assert sum(decoded) == 3 * (3 * 2 + 1)  # the unsteered ones once
    for j, (label, vec) in enumerate(VECTORS.items()):
        expected = sl.generate(
            tiny_chat_model,
            PROMPTS,
            vector=vec,
            multipliers=(-1, 0, 2),
            max_new_tokens=NEW,
            positions=positions,
            progress=False,
        )
        assert [[cell[0] for cell in row[j]] for row in said.texts] == expected
        assert said.at(label, 2) == tuple((row[2],) for row in expected)
    assert said.tokens.shape == said.ended.shape == (3, 3, 3, 1)
    assert said.norms == tuple(v.norm for v in VECTORS.values())


def test_tokens_are_counted_and_an_end_is_told_from_a_cut(tiny_chat_model: HookedTransformer) -> None:
    model = tiny_chat_model
    end = model.W_U[:, model.tokenizer.eos_token_id]
    ending = sl.SteeringVector(80 * end / end.norm(), 3)
    said = answers(model, ending, multipliers=(0, 1))
    assert said.ended[:, 0, 1].all()
    assert (said.tokens[:, 0, 1] == 0).all()
    cut = ~said.ended[:, 0, 0, 0]
    assert cut.any()
    assert (said.tokens[cut, 0, 0] == NEW).all()


@pytest.mark.slow
@pytest.mark.parametrize("sample", [False, True])
def test_neither_batch_size_nor_order_nor_company_changes_an_answer(
    exact_model: HookedTransformer, sample: bool
) -> None:
    options: dict[str, Any] = {"sample": sample, "n": 3 if sample else 1, "seed": 5}
    whole = answers(exact_model, **options)
    for size in (1, 5):
        assert answers(exact_model, batch_size=size, **options).texts == whole.texts
    turned = answers(exact_model, prompts=PROMPTS[::-1], multipliers=(2, 0, -1), **options)
    assert turned.at("other", 2) == whole.at("other", 2)[::-1]
    alone = answers(exact_model, VECTORS["higher"], prompts=PROMPTS[1:2], multipliers=(2,), **options)
    assert alone.texts[0][0][0] == whole.at("higher", 2)[1]


def test_sampled_answers_differ_by_sample_and_seed_and_come_again(
    exact_model: HookedTransformer,
) -> None:
    options: dict[str, Any] = {"vectors": VECTORS["one"], "prompts": PROMPTS[:1], "sample": True, "n": 4}
    said = answers(exact_model, **options)
    assert said.samples == 4
    assert len(set(said.texts[0][0][1])) == 4
    assert answers(exact_model, **options).texts == said.texts
    assert answers(exact_model, seed=1, **options).texts != said.texts
    assert answers(exact_model, **{**options, "n": 2}).texts[0][0][1] == said.texts[0][0][1][:2]
    cold = answers(exact_model, temperature=1e-4, **{**options, "n": 1})
    assert cold.texts == answers(exact_model, VECTORS["one"], prompts=PROMPTS[:1]).texts


def nudge(seed: int, times: float = 1e-7, layer: int = 1) -> sl.SteeringVector:
    """A vector too weak to change an answer: what differs is drawn apart."""
    return sl.SteeringVector(times * torch.randn(32, generator=torch.Generator().manual_seed(seed)), layer)


def test_multipliers_of_a_vector_share_their_draws_and_vectors_don_t(exact_model: HookedTransformer) -> None:
    vectors = {f"v{i}": nudge(i) for i in range(4)}
    options: dict[str, Any] = {"multipliers": (-1, 0, 0.5, 1), "sample": True, "n": 2, "max_new_tokens": 5}
    said = answers(exact_model, vectors, **options)
    for row in said.texts:
        for columns in row:
            assert set(columns) == {columns[0]}  # all multipliers, 0 among them
            assert columns[0][0] != columns[0][1]  # and each sample its own
        assert len({columns[0] for columns in row}) == len(vectors)
    turned = answers(exact_model, dict(reversed(vectors.items())), **options)
    for label in vectors:
        assert turned.at(label, 1) == said.at(label, 1)
    # A vector's multiples are one line: scaled to another norm, or turned round.
    multiples = {"half": vectors["v0"] * 0.5, "back": -vectors["v0"], "scaled": vectors["v0"].scaled_to(2e-7)}
    assert {columns[0] for row in answers(exact_model, multiples, **options).texts for columns in row} == {
        row[0][0] for row in said.texts
    }
    elsewhere = answers(exact_model, {"v0": nudge(0, layer=2)}, **options)
    assert elsewhere.at("v0", 1) != said.at("v0", 1)


def test_a_line_is_known_again_behind_rounding_and_told_from_every_other() -> None:
    for d_model in (32, 128, 576):
        generator = torch.Generator().manual_seed(d_model)
        lines = [sl.SteeringVector(torch.randn(d_model, generator=generator), 1) for _ in range(20)]
        assert len({_answering.line_key(vector) for vector in lines}) == 20
        again = [1.7 * (vector * (-1 / 1.7)) for vector in lines]
        kept = [_answering.line_key(a) == _answering.line_key(b) for a, b in zip(lines, again, strict=True)]
        assert sum(kept) >= 19
    zero = sl.SteeringVector(torch.zeros(32), 1)
    assert _answering.line_key(zero) == _answering.line_key(-zero)


def test_a_mean_over_weak_random_vectors_is_as_exact_as_their_number_says(tiny_chat_model: HookedTransformer) -> None:
    """+v less -v: nothing at all where the draws are the vector's own; with draws by multiplier all vectors were off alike."""
    vectors = {str(i): nudge(i) for i in range(12)}
    said = answers(tiny_chat_model, vectors, multipliers=(-1, 0, 1), sample=True, max_new_tokens=4)
    judged = sl.judge(said, sl.judges.rule(lambda prompt, answer: float(len(answer) % 5), scale=(0, 4)))
    odd = judged.values[:, :, 2] - judged.values[:, :, 0]
    assert (odd == 0).all()
    table = judged.differences()
    assert (table[table["less"] == "unsteered"]["difference"] == 0).all()
    level = judged.values[:, :, 2].mean(0)  # what vectors have in common is the model, and not its draws
    assert level.std() > 0.1


def test_the_first_sampled_token_has_the_models_own_probabilities(tiny_chat_model: HookedTransformer) -> None:
    model, vec, n = tiny_chat_model, VECTORS["one"], 400
    said = answers(
        model, vec, prompts=PROMPTS[:1], multipliers=(0.3,), sample=True, n=n, max_new_tokens=1, temperature=2.0
    )
    chat = model.tokenizer.apply_chat_template(
        [{"role": "user", "content": PROMPTS[0]}], tokenize=False, add_generation_prompt=True
    )
    tokens = model.tokenizer.encode(chat, add_special_tokens=False)
    with sl.steer(model, vec, 0.3):
        p = (model(torch.tensor([tokens]))[0, -1].double() / 2.0).softmax(-1)
    expected: dict[str, float] = defaultdict(float)
    for token, chance in enumerate(p.tolist()):
        expected[model.tokenizer.decode([token], skip_special_tokens=True)] += chance
    for text, chance in sorted(expected.items(), key=lambda item: -item[1])[:4]:
        share = np.mean([got == text for got in said.texts[0][0][0]])
        assert share == pytest.approx(chance, abs=4 * (chance * (1 - chance) / n) ** 0.5)


# -- the file ---------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_ties")
def test_a_second_call_reads_what_the_first_one_wrote(
    tiny_chat_model: HookedTransformer, tmp_path: Path, decoded: list[int]
) -> None:
    file = tmp_path / "answers.jsonl"
    said = answers(tiny_chat_model, file=file, batch_size=4)
    written = file.read_text().splitlines()
    assert len(written) == sum(decoded) == 21
    assert max(decoded) == 4
    decoded.clear()
    again = answers(tiny_chat_model, file=file)
    assert (decoded, again.texts) == ([], said.texts)
    assert np.array_equal(again.tokens, said.tokens)
    assert np.array_equal(again.ended, said.ended)
    more = answers(tiny_chat_model, file=file, multipliers=(-1, 0, 1, 2), prompts=[*PROMPTS, "Nobody?"])
    assert sum(decoded) == 3 * 3 + (3 * 3 + 1)
    assert more.at("one", -1)[:3] == said.at("one", -1)
    record = json.loads(written[0])
    assert {"prompt", "vector", "multiplier", "text", "tokens", "ended"} <= record.keys()


@pytest.mark.usefixtures("no_ties")
def test_an_interrupted_run_goes_on_where_it_stopped(
    tiny_chat_model: HookedTransformer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, decoded: list[int]
) -> None:
    file, watched = tmp_path / "answers.jsonl", _answering.decode

    def interrupted(*given: Any) -> Any:
        if len(decoded) == 3:
            raise KeyboardInterrupt
        return watched(*given)

    monkeypatch.setattr(_answering, "decode", interrupted)
    with pytest.raises(KeyboardInterrupt):
        answers(tiny_chat_model, file=file, batch_size=4)
    monkeypatch.setattr(_answering, "decode", watched)
    assert len(file.read_text().splitlines()) == 12
    file.write_bytes(file.read_bytes()[:-20])  # and the last line was cut short
    decoded.clear()
    assert answers(tiny_chat_model, file=file).texts == answers(tiny_chat_model).texts
    assert sum(decoded) == 21 - 11 + 21


def test_another_setting_never_reads_a_stale_answer(
    tiny_chat_model: HookedTransformer, tmp_path: Path, decoded: list[int]
) -> None:
    file = tmp_path / "answers.jsonl"
    base: dict[str, Any] = {"vectors": VECTORS["one"], "prompts": PROMPTS[:1], "multipliers": (1,), "file": file}
    answers(tiny_chat_model, **base)
    changes: list[dict[str, Any]] = [
        {"vectors": VECTORS["other"]},
        {"vectors": sl.SteeringVector(VECTORS["one"].tensor, 2)},
        {"vectors": sl.SteeringVector(VECTORS["one"].tensor * 1.001, 1)},
        {"multipliers": (1.01,)},
        {"multipliers": (0,)},
        {"positions": "response"},
        {"max_new_tokens": 7},
        {"template": "plain"},
        {"system_prompt": "Be short."},
        {"sample": True},
        {"sample": True, "temperature": 0.9},
        {"sample": True, "seed": 1},
    ]
    for change in changes:
        decoded.clear()
        answers(tiny_chat_model, **{**base, **change})
        assert decoded == [1], change
    weight, kept = tiny_chat_model.unembed.W_U, tiny_chat_model.unembed.W_U[0, 0].clone()
    weight[0, 0] += 5
    try:
        answers(tiny_chat_model, **base)
        assert decoded == [1, 1]
    finally:
        weight[0, 0] = kept
    answers(tiny_chat_model, **{**base, "vectors": {"renamed": VECTORS["one"]}})
    assert decoded == [1, 1]


def test_a_file_is_refused_while_hooks_are_on(tiny_chat_model: HookedTransformer, tmp_path: Path) -> None:
    with sl.steer(tiny_chat_model, VECTORS["one"]), pytest.raises(MeasureError, match="has hooks on"):
        answers(tiny_chat_model, file=tmp_path / "a.jsonl")


# -- pairs, frames, files ---------------------------------------------------------------------------------------------


def test_pairs_that_made_a_vector_are_refused(tiny_chat_model: HookedTransformer) -> None:
    pairs = sl.PreferencePairs(PROMPTS, ["Yes."] * 3, ["No."] * 3, template="plain")
    caa = sl.extract_caa(tiny_chat_model, pairs[:1], 1, progress=False)
    with pytest.raises(MeasureError, match="1 of these 3 pairs trained or selected the vector"):
        answers(tiny_chat_model, caa, prompts=pairs)
    seen = answers(tiny_chat_model, caa, prompts=pairs, allow_seen=True)
    assert seen.seen_pairs == 1
    assert "1 of them SEEN" in repr(seen)
    fresh = answers(tiny_chat_model, caa, prompts=pairs[1:])
    assert fresh.texts == answers(tiny_chat_model, caa, prompts=PROMPTS[1:], template="plain").texts
    with pytest.raises(MeasureError, match="bring their own template"):
        answers(tiny_chat_model, caa, prompts=pairs[1:], template="plain")


def test_a_result_is_tidy_and_comes_back_from_its_file(tiny_chat_model: HookedTransformer, tmp_path: Path) -> None:
    said = answers(tiny_chat_model, sample=True, n=2)
    frame = said.to_frame()
    assert len(frame) == 3 * 3 * 3 * 2
    row = frame[
        (frame.vector == "other") & (frame.multiplier == 2) & (frame.prompt == PROMPTS[1]) & (frame["sample"] == 1)
    ]
    assert row.answer.tolist() == [said.at("other", 2)[1][1]]
    back = sl.load_result(said.save(tmp_path / "said.json"))
    assert back.texts == said.texts
    assert back.ended.dtype == bool
    assert repr(back) == repr(said)
    with pytest.raises(MeasureError, match=r"no answers at 'one', 7; there are \('one', 'other', 'higher'\)"):
        said.at("one", 7)


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"n": 2}, MeasureError, "add sample=True"),
        ({"temperature": 0.5}, MeasureError, "add sample=True"),
        ({"sample": True, "temperature": 0}, MeasureError, "expected a finite number above 0"),
        ({"sample": True, "n": 0}, SteeringError, "n=0; expected a whole number from 1"),
        ({"seed": 1.5}, MeasureError, "seed=1.5; expected"),
        ({"multipliers": (1, 1.0)}, SteeringError, "expected each once"),
        ({"multipliers": ()}, SteeringError, "expected a list of at least one"),
        ({"prompts": []}, SteeringError, "expected a list of at least one text"),
        ({"prompts": "a"}, SteeringError, "expected a list"),
        ({"max_new_tokens": 900}, SteeringError, "exceeds the model's context"),
        ({"batch_size": 0}, SteeringError, "batch_size=0"),
        ({"positions": "last"}, SteeringError, "positions='last' is not known"),
        ({"vectors": []}, VectorError, "expected a SteeringVector"),
        ({"vectors": sl.SteeringVector(torch.ones(31), 1)}, VectorError, "31"),
    ],
)
def test_what_makes_no_sense_is_refused(
    tiny_chat_model: HookedTransformer, options: dict[str, Any], error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        answers(tiny_chat_model, **options)
