"""What is known by name: the built-in sets, and published ones that a user has on disk."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Literal

import pandas as pd

from steerlens.checks.values import checked_path
from steerlens.errors import PairsError
from steerlens.pairs.tables import Table, read_file

BUILT_IN = Path(__file__).parent / "data"
DATA_VARIABLE = "STEERLENS_DATA"
Kind = Literal["pairs", "questions", "prompts"]
KINDS: tuple[Kind, ...] = ("pairs", "questions", "prompts")
Files = Mapping[str, str]  # {part: file}; the part "" is a file that declares none


@dataclass(frozen=True)
class Known:
    """One published set: the files of each kind of thing that it holds, below the user's folder for data."""

    name: str
    rows: str
    licence: str
    source: str
    citation: str
    pairs: Files = field(default_factory=dict)
    questions: Files = field(default_factory=dict)
    prompts: Files = field(default_factory=dict)

    def files(self, kind: Kind, name: str) -> dict[str, str]:
        """{part: path below the data folder} for a name that fits this one's."""
        chosen: Files = {"pairs": self.pairs, "questions": self.questions, "prompts": self.prompts}[kind]
        named = name[len(self.name) - 1 :] if self.name.endswith("*") else ""
        return {part: path.replace("*", named) for part, path in chosen.items()}


_BIPO = ("MIT", "https://github.com/CaoYuanpu/BiPO", "Cao et al. 2024, arXiv 2406.00045")
_CAA = ("MIT", "https://github.com/nrimsky/CAA", "Rimsky et al. 2023, arXiv 2312.06681")
_MWE = ("CC-BY-4.0", "https://github.com/anthropics/evals", "Perez et al. 2022, arXiv 2212.09251")


def _bipo(behaviour: str, rows: str, asked: str = "test_infer.csv") -> Known:
    pairs = {part: f"bipo/{behaviour}/{part}.csv" for part in ("train", "test")}
    questions = {"test": f"bipo/{behaviour}/{asked}"}
    has_options = questions if asked == "test_infer.csv" else {}
    return Known(f"bipo/{behaviour}", rows, *_BIPO, pairs=pairs, questions=has_options, prompts=questions)


def _caa(behaviour: str, rows: str) -> Known:
    folder = f"caa/{behaviour}"
    asked = {"train": f"{folder}/generate_dataset.json", "test": f"{folder}/test_dataset_ab.json"}
    prompts = {"test": f"{folder}/test_dataset_open_ended.json"}
    return Known(folder, rows, *_CAA, pairs=asked, questions=asked, prompts=prompts)


def _one_file(name: str, rows: str, told: tuple[str, str, str], path: str, *kinds: Kind) -> Known:
    pairs, questions, prompts = ({"": path} if kind in kinds else {} for kind in KINDS)
    return Known(name, rows, *told, pairs, questions, prompts)


PUBLISHED = (
    _bipo("wealth-seeking", "623 train, 200 test"),
    _bipo("power-seeking", "642 train, 200 test"),
    _bipo("hallucination", "700 train, 200 test"),
    _bipo("jailbreak", "320 train, 100 test", asked="test.csv"),
    _caa("coordinate-other-ais", ""),
    _caa("corrigible-neutral-HHH", "290 train, 50 test, 50 open-ended"),
    _caa("hallucination", ""),
    _caa("myopic-reward", ""),
    _caa("refusal", ""),
    _caa("survival-instinct", ""),
    _caa("sycophancy", "1000 train, 50 test, 53 open-ended"),
    _one_file("caa/mmlu", "570", _CAA, "caa/mmlu.json", "pairs", "questions"),
    _one_file("caa/truthful_qa", "817", _CAA, "caa/truthful_qa.json", "pairs", "questions"),
    _one_file("mwe/*", "about 1000 a file", _MWE, "mwe/*.jsonl", "pairs", "questions"),
    _one_file(
        "truthfulqa",
        "817",
        ("Apache-2.0", "https://github.com/sylinrl/TruthfulQA", "Lin et al. 2022, arXiv 2109.07958"),
        "truthfulqa/TruthfulQA.csv",
        "pairs",
        "questions",
        "prompts",
    ),
    _one_file(
        "advbench",
        "520",
        ("MIT", "https://github.com/llm-attacks/llm-attacks", "Zou et al. 2023, arXiv 2307.15043"),
        "advbench/harmful_behaviors.csv",
        "prompts",
    ),
)
_HUB = {
    "name": "hf:cais/mmlu:all/test",
    "kind": "questions",
    "rows": "14042",
    "licence": "MIT",
    "source": "https://huggingface.co/datasets/cais/mmlu",
    "citation": "Hendrycks et al. 2021, arXiv 2009.03300",
    "load": 'sl.load_questions("hf:cais/mmlu:all/test")',
}


def built_in() -> list[str]:
    """The names of the sets that come with the package."""
    return sorted(path.stem for path in BUILT_IN.glob("*.jsonl"))


def datasets() -> pd.DataFrame:
    """The data sets that are known by name: what they hold, how many rows, under which licence, from where, and how to load them.

    The built-in ones come with the package. A published one is read from your folder for data (the environment variable
    STEERLENS_DATA, or `data_dir=`); `source` is where to get it.
    """
    ours = []
    for name in built_in():
        splits = pd.Series([row["split"] for row in read_file(BUILT_IN / f"{name}.jsonl")])
        rows = ", ".join(f"{(splits == part).sum()} {part}" for part in ("train", "val", "test"))
        told = {"rows": rows, "licence": "MIT", "source": "built in", "citation": "steerlens"}
        ours.append({"name": name, "kind": "pairs", **told, "load": f'sl.load_pairs("{name}")'})
        ours.append({"name": f"{name}-ab", "kind": "questions", **told, "load": f'sl.load_questions("{name}-ab")'})
    theirs = [
        {
            "name": known.name,
            "kind": ", ".join(kinds),
            "rows": known.rows,
            "licence": known.licence,
            "source": known.source,
            "citation": known.citation,
            "load": f'sl.load_{kinds[0]}("{known.name.replace("*", "agreeableness")}")',
        }
        for known in PUBLISHED
        if (kinds := [kind for kind in KINDS if getattr(known, kind)])
    ]
    return pd.DataFrame([*ours, *theirs, _HUB])


def is_file(path: Path) -> bool:
    """Whether a file is there; False too for what the system takes for no path: a NUL, a name too long."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def read_published(name: str, kind: Kind, data_dir: str | Path | None) -> Table | None:
    """The rows of a published set by its name, each part's in the column `split`; None where the name is not known.

    Raises:
        PairsError: the set has nothing of that kind, or its files are not in the user's folder.
    """
    known = next((known for known in PUBLISHED if fnmatch(name, known.name)), None)
    if known is None:
        return None
    if any(part in ("", ".", "..") or "\0" in part for part in name.split("/")):
        raise PairsError(
            f"{name!r} names no file below the folder for data; expected {known.name.replace('*', 'a-file')!r}"
        )
    files = known.files(kind, name)
    if not files:
        has = [f"sl.load_{other}" for other in KINDS if getattr(known, other)]
        raise PairsError(f"{name} has no {kind}; expected one of {', '.join(has)} to read it")
    given = data_dir if data_dir is not None else os.environ.get(DATA_VARIABLE)
    folder = None if given is None else checked_path("data_dir", given, error=PairsError)
    missing = [path for path in files.values() if folder is None or not is_file(folder / path)]
    if folder is None or missing:
        where = (
            f"no folder for data is set ({DATA_VARIABLE})"
            if folder is None
            else f"{folder} has no {', '.join(missing)}"
        )
        raise PairsError(
            f"{name} is published data that steerlens doesn't ship, and {where}. Get it from {known.source} "
            f"({known.licence}), put it into a folder of yours as {', '.join(files.values())}, and name that folder: "
            f"data_dir=..., or the environment variable {DATA_VARIABLE}"
        )
    rows = [{**row, "split": part} if part else row for part, path in files.items() for row in read_file(folder / path)]
    return Table(tuple(rows), name)
