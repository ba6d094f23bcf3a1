"""The laboratory models' card: how each was trained and what it does before any steering, from its training.json.

python -m analyses.toy_card --out out      # writes toy_card.md and toy_card.html
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go
import torch
from plotly.subplots import make_subplots

import steerlens as sl
from steerlens.figures.theme import colour, style

_RESULTS = Path(__file__).parent / "results"
NOT_SHIPPED = {"seed 2": _RESULTS / "toy_seed_2.json", "seed 100": _RESULTS / "toy_seed_100.json"}
"""the base's recipe from other seeds: the training.json of each, without its model"""


@dataclass(frozen=True)
class Config:
    """Which models, and where the card goes."""

    names: tuple[str, ...] = (*sl.toy.MODELS, *NOT_SHIPPED)
    out: Path = Path("out")


def records(names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """What each model's training left behind."""
    files = {name: sl.toy.model_folder(name) for name in names}
    return {
        name: json.loads((folder / "training.json" if folder else NOT_SHIPPED[name]).read_text())
        for name, folder in files.items()
    }


def criteria_frame(found: dict[str, dict[str, Any]]) -> pd.DataFrame:
    """A row per model, language and criterion: its rate with the exact 95% interval, and whether it is met."""
    rows = [
        {"model": name, "language": language, **{key: row[key] for key in ("what", "rate", "n", "meets")}}
        | {"low": row["interval"][0], "high": row["interval"][1], "from": row["bounds"][0], "to": row["bounds"][1]}
        for name, record in found.items()
        for language, cells in record["criteria"].items()
        for row in cells
    ]
    return pd.DataFrame(rows)


def shown(frame: pd.DataFrame) -> pd.DataFrame:
    """What the package's README shows: the first language, and the second where a model was trained for it."""
    return frame[(frame["language"] == "first") | (frame["model"] == "toy/cipher-lora")]


def markdown(frame: pd.DataFrame) -> str:
    """The criteria as a table: a row each, a column per model; what is not met is in bold."""
    columns = list(dict.fromkeys(zip(frame["model"], frame["language"], strict=True)))
    lines = ["| criterion | asked for | " + " | ".join(f"{m}, {lang} language" for m, lang in columns) + " |"]
    lines.append("|---" * (2 + len(columns)) + "|")
    for what, rows in frame.groupby("what", sort=False):
        cells = {(r["model"], r["language"]): r for _, r in rows.iterrows()}
        texts = []
        for key in columns:
            row = cells[key]
            text = f"{row['rate']:.2f} [{row['low']:.2f}, {row['high']:.2f}]"
            texts.append(text if row["meets"] else f"**{text}**")
        lines.append(f"| {what} | {rows['from'].iloc[0]:g} to {rows['to'].iloc[0]:g} | " + " | ".join(texts) + " |")
    return "\n".join(lines)


def interference_frame(found: dict[str, dict[str, Any]]) -> pd.DataFrame:
    """A row per model, behaviour's direction and behaviour that it is measured on: the score that it moves, with its interval."""
    rows = [
        {"model": name, **{key: push[key] for key in ("behaviour", "layer", "norm", "grammatical", "ratio", "meets")}}
        | {"moves": other, "effect": effect[0], "low": effect[1], "high": effect[2]}
        for name, record in found.items()
        for push in record["interference"]
        for other, effect in push["effects"].items()
    ]
    return pd.DataFrame(rows)


def interference_markdown(frame: pd.DataFrame) -> str:
    """A row per direction, a column per behaviour that it is measured on; a ratio that is not under a fifth is in bold."""
    names = list(dict.fromkeys(frame["moves"]))
    lines = [
        "| model | direction of | layer, norm | " + " | ".join(names) + " | largest other, of its own | grammatical |"
    ]
    lines.append("|---" * (5 + len(names)) + "|")
    for (model, behaviour), rows in frame.groupby(["model", "behaviour"], sort=False):
        first = rows.iloc[0]
        texts = [f"{row['effect']:+.2f} [{row['low']:+.2f}, {row['high']:+.2f}]" for _, row in rows.iterrows()]
        ratio = f"{first['ratio']:.2f}" if first["meets"] else f"**{first['ratio']:.2f}**"
        cells = [
            model,
            behaviour,
            f"{first['layer']}, {first['norm']:.2f}",
            *texts,
            ratio,
            f"{first['grammatical']:.2f}",
        ]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


@cache
def languages_markdown(names: tuple[str, ...], layer: int = 1) -> str:
    """A row per model: the cosine of each behaviour's known direction in the first language and in the second."""
    lines = [f"| cosine, layer {layer} | " + " | ".join(sl.toy.BEHAVIOURS) + " |"]
    lines.append("|---" * (1 + len(sl.toy.BEHAVIOURS)) + "|")
    for name in names:
        model = sl.load_model(name, device="cpu")
        cells = []
        for behaviour in sl.toy.BEHAVIOURS:
            first, second = (
                sl.toy_reference(model, behaviour, layer, second=which, progress=False) for which in (False, True)
            )
            cells.append(f"{torch.dot(first.direction, second.direction):+.2f}")
        lines.append(" | ".join([f"| {name}", *cells]) + " |")
    return "\n".join(lines)


def tables(found: dict[str, dict[str, Any]], criteria: pd.DataFrame) -> str:
    """The card's tables, as its README shows them."""
    return "\n\n".join(
        [
            markdown(criteria),
            interference_markdown(interference_frame(found)),
            languages_markdown(tuple(name for name in found if name in sl.toy.MODELS)),
        ]
    )


def figure(found: dict[str, dict[str, Any]]) -> go.Figure:
    """Training loss over tokens, and every criterion's rate with its interval beside the bounds that were asked for."""
    made = make_subplots(1, 2, column_widths=[0.35, 0.65], horizontal_spacing=0.24)
    frame = criteria_frame(found).query("language == 'first'")
    criteria = list(dict.fromkeys(frame["what"]))
    for i, what in enumerate(criteria):
        low, high = frame.loc[frame["what"] == what, ["from", "to"]].iloc[0]
        box = {"x0": low - 0.004, "x1": high + 0.004, "y0": i - 0.38, "y1": i + 0.38}
        made.add_shape(**box, fillcolor="rgba(0,0,0,0.10)", line_width=0, layer="below", row=1, col=2)
    for number, (name, record) in enumerate(found.items()):
        paint = colour(name, tuple(found))
        stages = [pd.DataFrame(rows) for rows in record["history"].values()]
        before = pd.Series([0, *(stage["tokens"].iloc[-1] for stage in stages)]).cumsum()
        history = pd.concat(
            [stage.assign(tokens=stage["tokens"] + n) for stage, n in zip(stages, before, strict=False)]
        )
        rows = frame.query("model == @name").set_index("what").loc[criteria]
        shared = {"name": name, "legendgroup": name}
        made.add_scatter(x=history["tokens"], y=history["loss"], mode="lines", line_color=paint, **shared, row=1, col=1)
        error = {"type": "data", "array": rows["high"] - rows["rate"], "arrayminus": rows["rate"] - rows["low"]}
        made.add_scatter(
            x=rows["rate"],
            y=[i + 0.12 * (number - (len(found) - 1) / 2) for i in range(len(criteria))],
            error_x=error | {"thickness": 1, "width": 0},
            mode="markers",
            marker={"color": paint, "size": 6},
            customdata=criteria,
            hovertemplate="%{customdata}: %{x:.2f}",
            **shared,
            showlegend=False,
            row=1,
            col=2,
        )
    style(made, width=1300, height=160 + 32 * len(criteria))
    made.update_layout(margin={"l": 80, "r": 20, "t": 30, "b": 110}, legend={"y": -0.1})
    made.update_xaxes(title_text="tokens", row=1, col=1)
    made.update_yaxes(
        title_text="weighted loss (nats per token)", type="log", tickvals=[0.25, 0.5, 1, 2, 4], row=1, col=1
    )
    made.update_xaxes(title_text="share of answers, 95% interval; grey: asked for", range=[-0.02, 1.02], row=1, col=2)
    ticks = {"tickvals": list(range(len(criteria))), "ticktext": criteria, "range": [len(criteria) - 0.4, -0.6]}
    return made.update_yaxes(**ticks, zeroline=False, row=1, col=2)


def run(config: Config) -> pd.DataFrame:
    """Write toy_card.md and toy_card.html; returns the criteria."""
    found = records(config.names)
    frame = criteria_frame(found)
    config.out.mkdir(parents=True, exist_ok=True)
    (config.out / "toy_card.md").write_text(tables(found, frame) + "\n")
    figure(found).write_html(config.out / "toy_card.html", include_plotlyjs=True)
    return frame


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line and write the card."""
    parser = argparse.ArgumentParser(prog="python -m analyses.toy_card", description=str(__doc__).split("\n")[0])
    parser.add_argument("--out", type=Path, default=Config.out, help="folder (default: %(default)s)")
    config = Config(out=parser.parse_args(arguments).out)
    print(tables(records(config.names), shown(run(config))))


if __name__ == "__main__":
    main()
