"""Results -> figures: `draw` gives a plotly Figure, `save` writes a file; nothing here needs a model."""

from pathlib import Path

import plotly.graph_objects as go

from steerlens._comparison import Comparison
from steerlens._files import whole_file
from steerlens._results import Result
from steerlens.errors import FigureError
from steerlens.figures.curves import dose_response, side_by_side
from steerlens.figures.report import page
from steerlens.figures.tables import lens_bars
from steerlens.measures.effect import PreferenceShift
from steerlens.measures.logit_lens import LogitLens

IMAGES = (".pdf", ".svg", ".png")


def draw(result: Result) -> go.Figure:
    """The figure that shows a result; nothing is shown or saved."""
    if isinstance(result, Comparison):
        return side_by_side(result)
    if isinstance(result, PreferenceShift):
        return dose_response([result])
    if isinstance(result, LogitLens):
        return lens_bars(result)
    raise FigureError(f"there is no figure for a {type(result).__name__}")


def save(result: Result, path: str | Path) -> Path:
    """Write a result to a self-contained .html page, or its figure to .pdf, .svg or .png."""
    path = Path(path)
    if path.suffix not in (".html", *IMAGES):
        raise FigureError(f"can't save to {path.name!r}; expected a name that ends in .html, {', '.join(IMAGES)}")
    if not path.parent.is_dir():
        raise FigureError(f"can't save to {path}: there is no folder {path.parent}")
    figure = draw(result)
    content = page(result, figure).encode() if path.suffix == ".html" else _image(figure, path.suffix[1:])
    with whole_file(path) as partial:
        partial.write_bytes(content)
    return path


def _image(figure: go.Figure, kind: str) -> bytes:
    try:
        return figure.to_image(format=kind, scale=1 if kind != "png" else 2)
    except Exception as error:  # kaleido raises errors of its own for a missing package and a missing browser alike
        raise FigureError(
            f"can't draw a .{kind} ({type(error).__name__}: {str(error).splitlines()[0][:150] if str(error) else ''}). It takes "
            "kaleido (pip install 'steerlens[export]') and Chrome or Chromium (apt-get install chromium); .html needs neither"
        ) from error
