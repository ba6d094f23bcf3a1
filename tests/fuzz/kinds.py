"""Valid small files of every kind that steerlens reads, and what is done with each once it is read."""

import json
import shutil
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import made_up
import numpy as np
import torch
from conftest import make_hf_model, make_tokenizer

import steerlens as sl
from steerlens.comparison.sweep import Sweep
from steerlens.measures.inspection import EncodedExample, Inspection
from steerlens.measures.judges._endpoint import RECORD
from steerlens.measures.judges._prompt import read_reply
from steerlens.measures.judges._rubrics import RUBRICS
from steerlens.measures.projection import ProjectedText, TokenProjection
from steerlens.measures.similarity import Similarity
from steerlens.methods._descent import Descent, DescentSettings, read_checkpoint, write_checkpoint
from steerlens.models.identity import ModelIdentity
from steerlens.results.ledger import Ledger

Read = Callable[[Path], object]
PAGES = {"are drawn": False}  # a page takes half a second: `make fuzz` draws them, the quick part doesn't
D = 16


def valid(folder: Path) -> dict[str, tuple[Path, Read]]:
    """By kind: a file, and what reads it and uses what was read."""
    found: dict[str, tuple[Path, Read]] = {}
    vector = _vector()
    for ending in ("safetensors", "gguf"):
        found[f"vector .{ending}"] = vector.save(folder / f"layer1.{ending}"), _use_vector
    torch.save(vector.tensor, folder / "layer1.pt")
    found["vector .pt"] = folder / "layer1.pt", _use_vector
    for name, result in _results().items():
        found[f"result {name}"] = result.save(folder / f"{name}.json"), _use_result
    answers = Ledger(folder / "answers.jsonl", "answer", _ANSWER)
    answers.add({key: {"text": key * 9, "tokens": 3, "ended": True} for key in "abc"})
    found["ledger of answers"] = folder / "answers.jsonl", _use_answers
    judged = Ledger(folder / "judged.jsonl", "judgement", RECORD)
    judged.add({k: {"reply": "Score: 2", "refused": False, "input_tokens": 1, "output_tokens": 2} for k in "abc"})
    found["cache of a judge"] = folder / "judged.jsonl", _use_judgements
    descent = _descent()
    descent.keep()
    write_checkpoint(folder / "run.ck", descent.state(), _RUN)
    found["checkpoint"] = folder / "run.ck", _use_checkpoint
    return found | _tables(folder) | _model(folder)


def _vector() -> sl.SteeringVector:
    generator = torch.Generator().manual_seed(0)
    row = {"step": 0, "epoch": 0, "loss": 0.6, "sign": 1, "lr": 0.1, "grad_norm": 1.0, "norm": 2.0, "norm_ratio": 0.1}
    history = tuple({**row, "step": i, "val_plus": 0.1, "val_minus": None} for i in range(3))
    identity = ModelIdentity("tiny", D, 4, "RMS", "none", "torch.float32", (0.1, -0.5))
    tensor = torch.randn(D, generator=generator)
    settings = {"lr": 0.1, "template": "plain", "steps": 3}
    return sl.SteeringVector(
        tensor, 1, "bipo", identity, settings, "made up", frozenset({"aa", "bb"}), 0, history, {1: tensor / 2}
    )


def _use_vector(path: Path) -> None:
    vector = sl.load_vector(path)
    assert isinstance(repr((2 * vector) + vector), str)
    assert vector.norm >= 0
    for ending in ("safetensors", "gguf"):
        if vector.layer > 0:
            vector.save(path.with_name(f"again.{ending}"))
    if vector.norm > 0:
        sl.compare(vector, sl.SteeringVector(torch.ones(vector.tensor.numel()), vector.layer, "caa")).to_frame()


def _results() -> Mapping[str, Any]:
    rng = np.random.default_rng(0)
    shape = (2, 1, 3, 1)
    texts = ((((("a",), ("b",), ("c",))),),) * 2
    said = sl.Answers(
        "tiny",
        ("bipo",),
        (1.0,),
        (-1.0, 0.0, 1.0),
        ("p", "q"),
        texts,
        np.ones(shape, int),
        np.ones(shape, bool),
        8,
        "all",
        0.0,
        0,
    )
    quiz = sl.ChoiceScores(
        labels=("caa",), norms=(2.0,), multipliers=(1.0, -1.0, 0.0), logprobs=np.log([[[0.6, 0.4]] * 3]),
        tokens=np.ones(2, int), question=np.zeros(2, int), order=np.zeros(2, int), option=np.arange(2), questions=("q",),
        options=(("a", "b"),), correct=((0,),), categories=("x",), form="letters", positions="all", data="made up",
    )  # fmt: skip
    costs = sl.SideEffects(
        ("caa",), (2.0,), (1.0, -1.0, 0.0), np.zeros((1, 3, 2)), np.ones((1, 3, 2)), np.zeros((1, 3, 2)), np.full((1, 3, 2), 9),
        np.ones((1, 3, 2), bool), ("a", "b"), (3, 3), ("p", "q"), ((("x", "y"),) * 3,), 9, "all", quiz,
    )  # fmt: skip
    shifts = tuple(made_up.shift(name, 2.0, 1.0, n=4) for name in ("bipo", "caa"))
    values = rng.normal(size=(1, 3))
    units = np.eye(2, 4)
    return {
        "PreferenceShift": shifts[0],
        "Comparison": made_up.comparison(),
        "Comparison of seeds": made_up.of_seeds(),
        "LogitLens": made_up.lens("bipo"),
        "Answers": said,
        "Judged": sl.judge(said, sl.judges.rule(lambda p, a: None if a == "a" else 1.0, name="r")),
        "ChoiceScores": quiz,
        "SideEffects": costs,
        "DoseResponse": sl.DoseResponse(shifts[0], (shifts[1],), costs),
        "Sweep": Sweep(("bipo", "caa"), (1, 1), (0, 0), shifts, (0.1, 0.2)),
        "Similarity": Similarity(("a", "b"), (1, 1), 4, {"plain": units}, {"plain": {"shuffled labels": np.zeros((2, 2, 3))}}),
        "TokenProjection": TokenProjection(
            ("bipo",), (3,), (ProjectedText("t", ("a", "b", "c"), 1, values),), values[:, 1:].mean(1), True, "made up"
        ),
        "Match": sl.Match("caa", 2.0, "kl", 1.0, 0.5, 0.5, 0.0, 0.01, np.arange(3.0), np.ones((3, 2))),
        "Inspection": Inspection(
            "m", "d", (0, 1), ("p", "q"), "plain", "none", "1", "</s>", -3.0, 512, *(np.full(2, 9) for _ in range(3)),
            np.full(2, -9.0), np.full(2, -8.0), (("Yes", 9, 2),), {"yes": (1, 0)}, (), (), (), (),
            (EncodedExample(0, ("a",), ("b",), ("c",), (-1.0,), (-2.0,)),), ("odd",),
        ),
    }  # fmt: skip


def _use_result(path: Path) -> None:
    result = sl.load_result(path)
    result.to_frame()
    assert isinstance(repr(result), str)
    result.figure()
    if PAGES["are drawn"]:
        result.save(path.with_name("again.html"))
    result.save(path.with_name("again.json"))


_ANSWER: Mapping[str, type] = {"text": str, "tokens": int, "ended": bool}


def _use_answers(path: Path) -> None:
    ledger = Ledger(path, "answer", _ANSWER)
    for key in "abc":
        if key in ledger:
            record = ledger[key]
            np.array([record["tokens"], record["ended"]], dtype=int)
            assert isinstance(record["text"], str)
    ledger.add({"z": {"text": "", "tokens": 0, "ended": False}})


def _use_judgements(path: Path) -> None:
    ledger = Ledger(path, "judgement", RECORD)
    for key in "abc":
        if key in ledger:
            read_reply(ledger[key]["reply"], RUBRICS["wealth-seeking"])


_RUN = {"method": "bipo", "layer": 1}


def _descent() -> Descent:
    settings = DescentSettings(0.1, 0, "cosine", None, 1.0, 0.0, None, 2)
    descent = Descent(D, settings, 5, scale=1.0, device="cpu", dtype=torch.float32)
    for step in range(2):
        descent.advance(0.5, torch.ones(D) / (step + 1), epoch=0, sign=1)
        descent.evaluated(0.1, -0.1)
    return descent


def _use_checkpoint(path: Path) -> None:
    state = read_checkpoint(path, _RUN)
    descent = Descent(D, _descent().settings, 5, scale=1.0, device="cpu", dtype=torch.float32)
    if state is not None:
        descent.restore(*state)
    if not descent.done:
        descent.advance(0.5, torch.ones(D), epoch=0, sign=1)
    write_checkpoint(path.with_name("again.ck"), descent.state(), _RUN)


def _tables(folder: Path) -> dict[str, tuple[Path, Read]]:
    pairs = [{"prompt": f"Why {i}?", "chosen": f"Yes {i}.", "rejected": f"No {i}."} for i in range(4)]
    questions = [{"question": f"What {i}?", "choices": ["one", "two"], "answer": i % 2} for i in range(4)]
    (folder / "pairs.jsonl").write_text("\n".join(map(json.dumps, pairs)))
    (folder / "pairs.json").write_text(json.dumps(pairs))
    (folder / "pairs.csv").write_text("prompt,chosen,rejected\n" + "\n".join(",".join(p.values()) for p in pairs))
    (folder / "questions.json").write_text(json.dumps(questions))
    (folder / "prompts.json").write_text(json.dumps([p["prompt"] for p in pairs]))
    readers: dict[str, Callable[..., Any]] = {
        "pairs.jsonl": sl.load_pairs, "pairs.json": sl.load_pairs, "pairs.csv": sl.load_pairs,
        "questions.json": sl.load_questions, "prompts.json": sl.load_prompts,
    }  # fmt: skip
    return {name: (folder / name, partial(_use_table, reader)) for name, reader in readers.items()}


def _use_table(reader: Callable[..., Any], path: Path) -> None:
    assert isinstance(repr(reader(str(path))), str)


def _model(folder: Path) -> dict[str, tuple[Path, Read]]:
    """A model's folder; its files are changed one at a time."""
    home = folder / "model"
    make_hf_model("llama", num_hidden_layers=1).save_pretrained(home)
    make_tokenizer("chat").save_pretrained(home)
    names = [path.name for path in sorted(home.iterdir()) if path.suffix in (".json", ".jinja", ".safetensors")]
    return {f"model {name}": (home / name, _use_model) for name in names}


def _use_model(path: Path) -> None:
    model = sl.load_model(path.parent, device="cpu")
    sl.PreferencePairs(["Why?"], ["Yes."], ["No."]).encode(model)


def with_changed(path: Path, content: bytes, scratch: Path) -> Path:
    """A copy of a file with other content; a model's with the rest of its folder."""
    if path.parent.name == "model":
        shutil.copytree(path.parent, scratch / "model")
        changed = scratch / "model" / path.name
    else:
        changed = scratch / path.name
    changed.write_bytes(content)
    return changed
