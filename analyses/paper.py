"""Every study of the two papers, one after another, and an index page that lays published beside reproduced.

    python -m analyses.paper                        # the toy model
    python -m analyses.paper --model smollm2 --behaviour wealth-seeking --other power-seeking --only personas,layer_sweep

    python -m analyses.paper --model llama-2-7b-chat --data path/to/data --behaviour wealth-seeking --other power-seeking

A second run does only what is missing: a study whose finding is there, made by the same program with the same settings, is not
run again, and within a study the finished cells are read from the store. --data names the folder that holds bipo/; questions of
knowledge and TruthfulQA are found in it where they lie as `sl.datasets()` says.
"""

import dataclasses
import importlib
import inspect
import json
import time
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import steerlens as sl
from analyses import transfer
from analyses.index import FINDING, read_finding, write_index
from analyses.study import StudyConfig, from_command_line, plain_config, study_folder
from steerlens.models.identity import identify
from steerlens.vectors.origin import library_versions

STUDIES = (
    "personas", "truthfulness", "hallucination", "jailbreak", "knowledge", "composition", "transfer", "layer_sweep", "epochs",
    "separation", "geometry", "tokens", "baselines", "what_is_bipo",
)  # fmt: skip
FIXED = {"truthfulness": "hallucination", "hallucination": "hallucination", "jailbreak": "refusal"}
QUESTIONS = {"knowledge": "caa/mmlu.json", "truthfulness": "truthfulqa/TruthfulQA.csv"}
"""where --data has them"""


@dataclass(frozen=True)
class Config(StudyConfig):
    """Which studies, on what."""

    other: str = "power"
    """the second behaviour, for composition and geometry"""
    siblings: tuple[str, ...] = ()
    """for transfer; default: the toy model's, for the toy model"""
    base: str | None = None
    """what the model was trained further from, for transfer; default: known for the presets"""
    only: tuple[str, ...] = ()
    """studies to run; default: all that the model has the data for"""


def settings_of(config: Config, study: str) -> tuple[Any, StudyConfig]:
    """A study's module and its Config, made from the suite's."""
    module = importlib.import_module(f"analyses.{'personas' if study == 'hallucination' else study}")
    shared = {f.name: getattr(config, f.name) for f in dataclasses.fields(StudyConfig)}
    shared["behaviour"] = FIXED.get(study, config.behaviour)
    known = {f.name for f in dataclasses.fields(module.Config)}
    shared |= {name: getattr(config, name) for name in ("other", "siblings", "base") if name in known}
    if study == "jailbreak":
        shared["data"] = None  # trained on the built-in, harmless refusals
    if config.data is not None and study in QUESTIONS and (config.data / QUESTIONS[study]).is_file():
        shared["questions"] = str(config.data / QUESTIONS[study])
    if study == "what_is_bipo" and len(config.seeds) == 1:
        shared.pop("seeds")
    return module, module.Config(**shared)


def needs(asked: StudyConfig, study: str) -> str:
    """Why a study can't run on this model by itself; empty when it can."""
    if asked.is_toy:
        return ""
    if study in QUESTIONS and getattr(asked, "questions", None) is None:
        return f"questions: python -m analyses.{study} --questions path/to/file, or {QUESTIONS[study]} in the folder of --data"
    if isinstance(asked, transfer.Config) and asked.related is None and not asked.siblings:
        return "the model's base (--base) or siblings of it (--siblings name,name)"
    return ""


def run(config: Config) -> Path:
    """Run what is missing and write the index page; returns it."""
    unknown = set(config.only) - set(STUDIES)
    if unknown:
        raise sl.MeasureError(f"there is no study {sorted(unknown)}; expected among {', '.join(STUDIES)}")
    chosen = config.only or STUDIES
    for study in chosen:
        settings_of(config, study)[1].check()
    made_with = {"weights": identify(config.load()).fingerprint, "versions": library_versions()}
    rows: list[tuple[str, FINDING, Path]] = []
    for study in chosen:
        module, asked = settings_of(config, study)
        folder = study_folder(asked, "personas" if study == "hallucination" else study)
        why = needs(asked, study)
        if why:
            rows.append((study, f"needs {why}", folder))
            continue
        text = inspect.getsource(module)
        with_ = json.loads(
            json.dumps({**made_with, "config": plain_config(asked), "program": zlib.crc32(text.encode())})
        )
        if (read_finding(folder) or {}).get("made with") != with_:
            print(f"== {study} ({asked.behaviour})", flush=True)
            started = time.perf_counter()
            try:
                module.run(asked).write(asked, time.perf_counter() - started, made_with=with_)
            except Exception as error:  # one study's failure is told on the page, and the others run
                print(f"   not run: {type(error).__name__}: {error}")
                rows.append((study, f"not run: {error}", folder))
                continue
            print(f"   {time.perf_counter() - started:.0f} s", flush=True)
        rows.append((study, read_finding(folder) or "left no finding", folder))
    return write_index(config, rows)


def main() -> None:
    """Read the command line and run."""
    started = time.perf_counter()
    try:
        path = run(from_command_line(Config, str(__doc__)))
    except sl.SteerLensError as error:
        raise SystemExit(f"{type(error).__name__}: {error}") from None
    print(f"{time.perf_counter() - started:.0f} s; look at {path}")


if __name__ == "__main__":
    main()
