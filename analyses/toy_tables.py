"""What `toy_methods` measured, as tables for people: toy_methods.md, and the effects of several runs side by side."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

import steerlens as sl
from analyses.toy_choice import CONTROLS, Config, as_bipo, methods


def by_method(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows of one behaviour (and model) together, methods in their own order."""
    first = [column for column in ("model", "behaviour", "vector", "sum") if column in frame]
    order = {
        name: i for i, name in enumerate((*sl.toy.MODELS, *sl.toy.BEHAVIOURS, *methods(), *map(as_bipo, CONTROLS)))
    }
    return frame.sort_values(
        [*first, "method"], key=lambda column: column.map(lambda name: order.get(name, len(order))), kind="stable"
    )


def write(config: Config, frames: Mapping[str, pd.DataFrame], seconds: float) -> None:
    """toy_methods.json and toy_methods.md."""
    config.out.mkdir(parents=True, exist_ok=True)
    settings = {name: value for name, value in asdict(config).items() if name != "out"}
    record = {"config": settings, "seconds": seconds, **{n: f.to_dict("records") for n, f in frames.items()}}
    (config.out / "toy_methods.json").write_text(json.dumps(record, indent=1, default=str) + "\n")
    shown = {"effects": effects([frames["methods"]]), "cosines": cosines([frames["methods"]]), **frames}
    text = "\n\n".join(f"## {name}\n\n{markdown(frame)}" for name, frame in shown.items())
    (config.out / "toy_methods.md").write_text(f"{text}\n\n{seconds:.0f} s\n")


def effects(runs: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Each method's effect on its own behaviour, of one run with its interval, of several side by side."""
    if len(runs) > 1:
        return _side_by_side(runs, "effect")
    shown = runs[0].assign(text=[_interval(row) for row in runs[0].to_dict("records")])
    return _by_behaviour(shown, "text", "effect on its own behaviour")


def cosines(runs: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Each method's cosine with the known direction at its layer."""
    return _side_by_side(runs, "cosine with the system phrase's")


def _interval(row: Mapping[str, Any]) -> str:
    return f"{row['effect']:.2f} [{row['low']:.2f}, {row['high']:.2f}]" if row["effect"] == row["effect"] else "none"


def _side_by_side(runs: Sequence[pd.DataFrame], column: str) -> pd.DataFrame:
    texts = [run.assign(text=run[column].map("{:.2f}".format)) for run in runs]
    joined = pd.concat(texts).groupby(["method", "behaviour"], sort=False)["text"].agg(", ".join).reset_index()
    return _by_behaviour(joined, "text", column)


def _by_behaviour(frame: pd.DataFrame, column: str, title: str) -> pd.DataFrame:
    table = frame.pivot(index="method", columns="behaviour", values=column)
    ordered = table.loc[list(dict.fromkeys(frame["method"])), list(dict.fromkeys(frame["behaviour"]))]
    return ordered.rename_axis(title).reset_index()


def show(folders: Sequence[Path]) -> str:
    """The effects and cosines of several runs, in the order of their folders."""
    runs = [pd.DataFrame(json.loads((folder / "toy_methods.json").read_text())["methods"]) for folder in folders]
    return f"{markdown(effects(runs))}\n\n{markdown(cosines(runs))}"


def markdown(frame: pd.DataFrame) -> str:
    """A table in Markdown, numbers to two digits."""

    def text(value: object) -> str:
        small = isinstance(value, float) and 0 < abs(value) < 0.005
        return f"{value:.0e}" if small else f"{value:.2f}" if isinstance(value, float) else str(value)

    shown = frame.map(text)
    lines = [shown.columns, ["---"] * len(shown.columns), *shown.itertuples(index=False)]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)
