"""What a vector's record makes a comparison load: the package's own pairs by their very names, and nothing else."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from transformer_lens import HookedTransformer

import steerlens as sl
from steerlens.comparison import find as _find
from steerlens.pairs import load as _load_pairs


def recorded(data: str, **settings: Any) -> sl.SteeringVector:
    """A vector as a file gives it: made in no process."""
    told = {"template": "auto", "system_prompt": None, "pairs_digest": "none", **settings}
    return sl.SteeringVector(torch.ones(4), 1, data=data, settings=told)


def test_the_packages_own_pairs_are_found_by_the_digest_of_their_record() -> None:
    for name in ("wealth-seeking", "wealth-seeking-ab", "toy/wealth"):
        pairs = sl.load_pairs(name)
        for made_of in (pairs, pairs.flip()):
            vector = recorded(pairs.provenance, pairs_digest=made_of.train.digest)
            (found,) = _find.find_training({"it": vector}).values()
            assert found.pairs.digest == made_of.train.digest
            assert found.position == "mean"
        assert not _find.find_training({"it": recorded(pairs.provenance, pairs_digest="another")})
    for position, known in (("answer", "answer"), ("nowhere", "mean"), (["mean"], "mean"), (None, "mean")):
        vector = recorded("steerlens/toy/wealth", pairs_digest=pairs.train.digest, position=position)
        assert _find.find_training({"it": vector})["it"].position == known


def test_no_record_opens_a_file_or_asks_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = tmp_path / "mine.csv"
    mine.write_text("prompt,chosen,rejected\nWhy?,Yes.,No.\nHow?,So.,Not so.\n")
    (tmp_path / "bipo").mkdir()
    monkeypatch.setenv("STEERLENS_DATA", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    touched: list[Any] = []
    for reader in ("read_file", "read_hub", "read_published", "read_table"):
        monkeypatch.setattr(_load_pairs, reader, lambda *given, reader=reader: touched.append((reader, given)))
    monkeypatch.setattr(_find, "load_pairs", lambda name, **_: touched.append(name))
    names = (
        "hf:owner/name", "HF:owner/name", f"{mine}", f"/{mine}", "mine.csv", "./mine.csv", "../x", f"../{mine.name}", "..",
        "bipo/wealth-seeking", "mwe/agreeableness", "truthfulqa", "toy/nothing", "Toy/wealth", "TOY/WEALTH", "toy/Wealth",
        "toy/../toy/wealth", "Wealth-Seeking", "wealth-seeking ", "wealth-seeking-AB", "wealth-seeking-ab-ab",
        "wealth-seeking.jsonl", "../data/wealth-seeking", "", "-ab", "steerlens/wealth-seeking", "steerlens/toy/wealth",
    )  # fmt: skip
    for name in names:
        assert not _find.find_training({"it": recorded(f"steerlens/{name}")}), name
    for data in ("mine.csv", str(mine), "hf:owner/name", "wealth-seeking", "/steerlens/wealth-seeking"):
        assert not _find.find_training({"it": recorded(data)}), data
    assert touched == []


def test_a_record_whose_template_or_system_prompt_is_none_of_ours_finds_nothing() -> None:
    digest = sl.load_pairs("wealth-seeking").train.digest
    for odd in ({"template": "a function"}, {"template": ["auto"]}, {"template": None}, {"system_prompt": 5}):
        assert not _find.find_training({"it": recorded("steerlens/wealth-seeking", pairs_digest=digest, **odd)})


def test_a_comparison_of_such_vectors_names_what_it_misses(tiny_chat_model: HookedTransformer) -> None:
    vectors = [
        dataclasses.replace(recorded(f"steerlens/{name}"), tensor=torch.randn(32), method=method)
        for name, method in (("hf:owner/name", "bipo"), ("/etc/hosts.csv", "caa"))
    ]
    found = sl.compare(*vectors, model=tiny_chat_model, progress=False)
    assert "pass pairs=" in found.missing[0]
