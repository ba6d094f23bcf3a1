"""Figures as files: vector graphics with their fonts in them, and the data behind them as CSV."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from steerlens.errors import FigureError
from steerlens.figures.paper import Columns, for_print
from steerlens.files import whole_file

IMAGES = (".pdf", ".svg", ".png")
_OFFLINE = (
    "--disable-background-networking",
    "--disable-extensions",
    "--disable-domain-reliability",
    "--disable-client-side-phishing-detection",
    "--no-pings",
    "--no-proxy-server",
    "--host-resolver-rules=MAP * ~NOTFOUND",
)


def write_image(
    figure: go.Figure, path: str | Path, *, data: pd.DataFrame | None = None, columns: Columns | None = None
) -> Path:
    """Write a figure to .pdf or .svg (vectors, fonts embedded in .pdf) or .png, and its data to a .csv of the same name.

    Args:
        columns: for print, at the width of one or two columns of a paper (`for_print`); default: as on the screen.

    Raises:
        FigureError: another file ending, no such folder, nothing to draw with, or a .csv of that name that holds other
            columns, which is somebody's own and stays as it is.
    """
    path = check_path(path, IMAGES)
    table = path.with_suffix(".csv")
    text = None if data is None else data.to_csv(index=False)
    if text is not None and table.exists() and _first_line(table) != text.partition("\n")[0]:
        raise FigureError(f"the data of {path.name} would go to {table}, which holds other columns: take another name")
    image = _drawn(figure if columns is None else for_print(figure, columns=columns), path.suffix[1:], columns)
    with whole_file(path, FigureError) as partial:
        partial.write_bytes(image)
    if text is not None:
        with whole_file(table, FigureError) as partial:
            partial.write_text(text, encoding="utf-8", newline="\n")
    return path


def check_path(path: str | Path, endings: Sequence[str]) -> Path:
    """The path, if it has one of the endings and its folder exists; else FigureError."""
    path = Path(path)
    if path.suffix not in endings:
        raise FigureError(f"can't save to {path.name!r}; expected a name that ends in {', '.join(endings)}")
    if not path.parent.is_dir():
        raise FigureError(f"can't save to {path}: there is no folder {path.parent}")
    return path


def _first_line(path: Path) -> str:
    with path.open(encoding="utf-8", errors="replace") as file:
        return file.readline().rstrip("\r\n")


def _drawn(figure: go.Figure, kind: str, columns: Columns | None) -> bytes:
    sharper = 1 if kind != "png" else 2 if columns is None else 300 / 96  # 300 dots per inch for print
    size = {"width": figure.layout.width or 700, "height": figure.layout.height or 500}
    try:
        import kaleido

        # Not figure.to_image, which lets the browser fetch a script for formulas; our figures have none.
        options = {"format": kind, "scale": sharper, **size}
        return kaleido.calc_fig_sync(figure.to_dict(), opts=options, kopts=offline())
    except Exception as error:  # kaleido raises errors of its own for a missing package and a missing browser alike
        raise FigureError(
            f"can't draw a .{kind} ({type(error).__name__}: {str(error).splitlines()[0][:150] if str(error) else ''}). It takes "
            "kaleido (pip install 'steerlens[export]') and Chrome or Chromium (apt-get install chromium); .html needs neither"
        ) from error


def offline() -> dict[str, Any]:
    """Options of kaleido for a browser that asks nothing of the network."""
    from choreographer.browsers.chromium import Chromium

    class Offline(Chromium):
        """Neither updates nor reports of its own, and no name leads anywhere."""

        def get_cli(self) -> Sequence[str]:
            return [*super().get_cli(), *_OFFLINE]

    return {"mathjax": False, "browser_cls": Offline}
