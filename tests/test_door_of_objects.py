"""Careless values for what runs no model: loaders, constructors, the toy world, and methods of what measures return."""

import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import made_up
import numpy as np
import pytest
import torch
from test_door import CARELESS, outcome, shown
from transformer_lens import HookedTransformer

import steerlens as sl

NEVER = (object(), b"x", 1j, [[1]], np.datetime64("2020-01-01"))
"""what no argument may be"""
Calls = dict[str, tuple[Callable[..., Any], dict[str, Any]]]


def results(model: HookedTransformer) -> dict[str, Any]:
    """One of each kind of result, and of what they are made from."""
    pairs = sl.load_pairs("toy/wealth")
    test, questions = pairs.test[:3], pairs.as_choices()[:3]
    prompts, texts = list(test.prompts), [f"{p.prompt} {p.chosen}" for p in test]
    one, two = (sl.SteeringVector(t, 2) for t in torch.randn(2, model.cfg.d_model))
    vectors = {"one": one, "two": two}
    quiet: dict[str, Any] = {"progress": False}
    short = {"multipliers": (-1, 0, 1), "max_new_tokens": 2, **quiet}
    answers = sl.answers(model, vectors, prompts, **short)
    shift = sl.preference_shift(model, one, test, **quiet)
    effects = sl.side_effects(model, one, texts=texts, prompts=prompts, **short)
    return {
        "vector": one,
        "pairs": test,
        "questions": questions,
        "answers": answers,
        "choices": sl.multiple_choice(model, vectors, questions, multipliers=(0, 1), **quiet),
        "truthful": sl.truthful_qa(model, vectors, questions, multipliers=(0, 1), **quiet),
        "knowledge": sl.knowledge(model, one, questions, multipliers=(0, 1), **quiet),
        "doses": sl.DoseResponse(shift, (), effects),
        "downstream": sl.downstream_lens(model, one, prompts, **quiet),
        "inspection": sl.inspect(model, test, **quiet),
        "judged": sl.judge(answers, sl.judges.refusal()),
        "match": sl.match_multiplier(model, one, target=0.05, texts=texts, **quiet),
        "shift": shift,
        "side effects": effects,
        "similarity": sl.similarity([one, two], model=model, pairs=test, **quiet),
        "projection": sl.token_projection(model, vectors, texts, **quiet),
        "comparison": made_up.comparison(),
        "sweep": sl.Sweep(("caa",), (2,), (0,), (shift,), (0.1,)),
    }


# Arguments without a default that no error is expected of.
RIGHT: dict[str, Any] = {
    "index": 0, "multiplier": 1.0, "divisor": 2.0, "norm": 1.0, "path": "r.json", "known": frozenset(), "template": "plain",
    "seed": 0, "label": "one", "method": "caa", "steps": 0,
}  # fmt: skip
OF_CALLS: dict[str, dict[str, Any]] = {
    "vector.save": {"path": "v.safetensors"},
    "similarity.subspace_angles": {"a": ["user 1"], "b": ["user 2"]},
    "comparison.difference": {"a": "bipo", "b": "caa"},
    "comparison.shift": {"name": "bipo"},
    "choices.difference": {"label": "one", "other": "two"},
    "truthful.difference": {"label": "one", "other": "two"},
    "side effects.difference": {"label": "user", "other": "user"},
    "side effects.row": {"label": "user"},
}
QUANTITY = {"choices": "accuracy", "truthful": "mc1", "side effects": "kl", "shift": "odd"}
LACKING = {"choices.by_category", "truthful.by_category", "match.difference", "vector.after"}
"""what these have not: categories, another vector, snapshots"""


def methods(found: dict[str, Any], model: HookedTransformer) -> Calls:
    """Every public method that takes an argument."""
    calls: Calls = {}
    for name, owner in found.items():
        for method in dir(type(owner)):
            public = not method.startswith("_") or method in ("__getitem__", "__mul__", "__truediv__")
            static = inspect.getattr_static(type(owner), method)
            if not public or not inspect.isfunction(static) or method in ("index", "count"):
                continue
            call = getattr(owner, method)
            own = {
                "quantity": QUANTITY.get(name),
                "other": found["vector"],
                "model": model,
                **OF_CALLS.get(f"{name}.{method}", {}),
            }
            needed = [p.name for p in inspect.signature(call).parameters.values() if p.default is p.empty]
            if inspect.signature(call).parameters:
                calls[f"{name}.{method}"] = call, {p: own[p] if p in own else RIGHT[p] for p in needed}
    return calls


def others(found: dict[str, Any], folder: Path) -> Calls:
    """Loaders, constructors, judges, and the toy world's functions."""
    vector, shift = found["vector"], found["shift"]
    question = sl.ChoiceQuestion("Which?", ("this", "that"), (0,))
    asked = sl.toy.questions("wealth", "test", 1)[0]
    return {
        "load_pairs": (sl.load_pairs, {"source": "wealth-seeking"}),
        "load_questions": (sl.load_questions, {"source": "wealth-seeking"}),
        "load_prompts": (sl.load_prompts, {"source": folder / "prompts.txt"}),
        "load_vector": (sl.load_vector, {"path": vector.save(folder / "v.safetensors")}),
        "load_result": (sl.load_result, {"path": shift.save(folder / "s.json")}),
        "report": (sl.report, {"results": shift, "path": folder / "page.html"}),
        "match_norms": (sl.match_norms, {"vectors": [vector, vector]}),
        "SteeringVector": (sl.SteeringVector, {"tensor": torch.ones(3), "layer": 1}),
        "PreferencePairs": (sl.PreferencePairs, {"prompts": ["a"], "chosen": ["b"], "rejected": ["c"]}),
        "ChoiceQuestions": (sl.ChoiceQuestions, {"questions": [question]}),
        "ChoiceLayout": (sl.ChoiceLayout, {}),
        "ChoiceLayout.write": (sl.ChoiceLayout().write, {"question": "Which?", "options": ("this", "that")}),
        "judges.llm": (
            sl.judges.llm,
            {"model": "m", "rubric": "refusal", "cache": None, "base_url": "http://localhost:1"},
        ),
        "judges.rule": (sl.judges.rule, {"function": len}),
        "judges.refuses": (sl.judges.refuses, {"answer": "No."}),
        "judges.Rubric": (sl.judges.Rubric, {"name": "n", "criterion": "c", "rules": {0: "no", 1: "yes"}}),
        "judges.Verdict": (sl.judges.Verdict, {"score": 1.0}),
        "toy.cipher": (sl.toy.cipher, {"text": asked.text}),
        "toy.decipher": (sl.toy.decipher, {"text": asked.text}),
        "toy.questions": (sl.toy.questions, {"behaviour": "wealth", "split": "test"}),
        "toy.forbidden_requests": (sl.toy.forbidden_requests, {"split": "test"}),
        "toy.harmless_requests": (sl.toy.harmless_requests, {}),
        "toy.quiz": (sl.toy.quiz, {}),
        "toy.score": (sl.toy.score, {"behaviour": "wealth", "question": asked.text, "answer": asked.chosen[0]}),
        "toy.is_grammatical": (sl.toy.is_grammatical, {"question": asked.text, "answer": asked.chosen[0]}),
        "toy.pair_rows": (sl.toy.pair_rows, {"name": "toy/wealth"}),
        "toy.model_folder": (sl.toy.model_folder, {"name": "toy"}),
    }


def faults(name: str, call: Callable[..., Any], right: dict[str, Any]) -> Iterator[str]:
    """What is wrong with how a call takes careless values, argument by argument."""
    expected = "ours" if name in LACKING else "passed"
    if (found := outcome(call, right)) != expected:
        yield f"{name}: the right call: {found}"
    for parameter in inspect.signature(call).parameters:
        for value in (*CARELESS, *NEVER):
            found = outcome(call, {**right, parameter: value})
            if found not in ("ours", "passed") or (found == "passed" and any(value is never for never in NEVER)):
                yield f"{name}({parameter}={shown(value):.50}): {found}"


def test_a_careless_value_meets_an_error_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("steerlens.figures.report.page", lambda *parts: "")  # 5 MB each time
    (tmp_path / "prompts.txt").write_text("Why?\n")
    model = sl.load_model("toy", device="cpu")
    found = results(model)
    calls = methods(found, model) | others(found, tmp_path)
    assert len(calls) > 110
    wrong = [fault for name, (call, right) in calls.items() for fault in faults(name, call, right)]
    assert not wrong, "\n".join(wrong)
