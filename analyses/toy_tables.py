"""What `toy_methods` measured, for people: toy_methods.md, the effects of several runs side by side, and their figure."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

import steerlens as sl
from analyses.toy_choice import CONTROLS, Config, as_bipo, methods
from steerlens.figures.theme import COLOURS, style

COSINE = "cosine with the planted direction"


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
    return _side_by_side(runs, COSINE)


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


def markdown(frame: pd.DataFrame) -> str:
    """A table in Markdown, numbers to two digits."""

    def text(value: object) -> str:
        if not isinstance(value, float):
            return str(value)
        return "–" if math.isnan(value) else f"{value:.0e}" if 0 < abs(value) < 0.005 else f"{value:.2f}"

    shown = frame.map(text)
    lines = [shown.columns, ["---"] * len(shown.columns), *shown.itertuples(index=False)]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def read(folders: Sequence[Path]) -> list[pd.DataFrame]:
    """The methods' rows of runs that wrote to those folders.

    Raises:
        MeasureError: there are none in a folder, or of other behaviours or methods than in the first.
    """
    runs = []
    for folder in folders:
        file = folder / "toy_methods.json"
        if not file.is_file():
            raise sl.MeasureError(f"{folder} has no toy_methods.json; expected a folder that --out of a run named")
        runs.append(pd.DataFrame(json.loads(file.read_text())["methods"]))
        for column in ("behaviour", "method"):
            here, first = (list(dict.fromkeys(run[column])) for run in (runs[-1], runs[0]))
            if here != first:
                raise sl.MeasureError(
                    f"{folder} has the {column}s {here}, {folders[0]} has {first}; expected runs of the same ones"
                )
    return runs


def figure(runs: Sequence[pd.DataFrame]) -> go.Figure:
    """A panel for each behaviour: every method's effect, with its interval, beside its cosine with the known direction.

    Runs after the first are drawn smaller.
    """
    behaviours = list(dict.fromkeys(runs[0]["behaviour"]))
    names = list(dict.fromkeys(runs[0]["method"]))
    sizes = " (large: the first run)" if len(runs) > 1 else ""
    made = make_subplots(1, len(behaviours), subplot_titles=behaviours, shared_yaxes=True, horizontal_spacing=0.02)
    for column, (number, run) in product(range(len(behaviours)), enumerate(runs)):
        rows = run[run["behaviour"] == behaviours[column]].set_index("method").loc[names]
        places = [i + 0.22 * (number - (len(runs) - 1) / 2) for i in range(len(names))]
        error = {"type": "data", "array": rows["high"] - rows["effect"], "arrayminus": rows["effect"] - rows["low"]}
        size = 9 if number == 0 else 6
        effect = {"color": COLOURS["bipo"], "size": size}
        cosine = {"color": COLOURS["caa"], "size": size, "symbol": "diamond-open", "line": {"width": 2}}
        shared = {"mode": "markers", "y": places, "customdata": names, "showlegend": column + number == 0}
        shared |= {"hovertemplate": f"%{{customdata}}, run {number}: %{{x:.2f}}", "row": 1, "col": column + 1}
        made.add_scatter(
            x=rows["effect"],
            error_x=error | {"thickness": 1.2, "width": 2},
            marker=effect,
            name=f"effect: mean score at +v less at -v, 95% interval{sizes}",
            **shared,
        )
        made.add_scatter(
            x=rows[COSINE],
            marker=cosine,
            name=COSINE,
            **shared,
        )
    style(made, width=175 + 215 * len(behaviours), height=150 + 36 * len(names))
    made.update_layout(margin={"l": 150, "r": 20, "t": 40, "b": 90}, legend={"y": -0.12})
    lowest = min(run["low"].min() for run in runs)
    made.update_xaxes(range=[min(-0.3, lowest - 0.05), 1.09], tickvals=[-0.5, 0, 0.5, 1])
    ticks = {"tickvals": list(range(len(names))), "ticktext": names, "range": [len(names) - 0.4, -0.6]}
    return made.update_yaxes(**ticks, zeroline=False)
