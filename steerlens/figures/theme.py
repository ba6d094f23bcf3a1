"""One look for all figures: Okabe and Ito's colour-blind-safe palette, one colour per method, readable at 3.3 inches."""

from collections.abc import Sequence
from html import escape

import plotly.graph_objects as go

from steerlens.vectors.names import seed_families, without_seed

COLOURS = {
    "bipo": "#0072B2",
    "caa": "#D55E00",
    "pca": "#56B4E9",
    "supervised": "#009E73",
    "difference in means": "#E69F00",
    "dpo-lora": "#AA3377",
    "mean activation": "#999933",
    "toy reference": "#000000",
    "random": "#8A8A8A",
    "shuffled labels": "#CC79A7",
    "sum": "#009E73",
}
# In print without colour, and to eyes that take two of the colours for one, a method is its marker.
SYMBOLS = {
    "caa": "square",
    "pca": "diamond",
    "supervised": "triangle-up",
    "difference in means": "triangle-down",
    "dpo-lora": "x",
    "mean activation": "pentagon",
    "toy reference": "star",
    "random": "line-ew-open",
    "shuffled labels": "circle-open",
    "sum": "hexagon",
}
PARTS = {"along": "#009E73", "off": "#E69F00"}
# Of labels without a method. BiPO's and CAA's colours are not among them; those like them, of parts and of controls come late.
OTHERS = ("#AA3377", "#000000", "#999933", "#56B4E9", "#E69F00", "#009E73", "#CC79A7")
NAMES = {
    "bipo": "BiPO",
    "caa": "CAA",
    "pca": "PCA",
    "dpo-lora": "DPO-LoRA",
    "random": "random directions",
    "shuffled labels": "shuffled labels",
}
DASHES = ("solid", "dash", "dot", "dashdot")

# What is neither data nor white: a dark page gives these, and no others, a light counterpart (`page.py`).
INK, LINE, FAINT, GRID = "#222222", "#444444", "#999999", "#ececec"
AXIS = {
    "showline": True,
    "linecolor": LINE,
    "linewidth": 1,
    "ticks": "outside",
    "tickcolor": LINE,
    "gridcolor": GRID,
    "zeroline": True,
    "zerolinecolor": FAINT,
    "zerolinewidth": 1,
    "title": {"standoff": 8, "font": {"size": 15}},
}


def colour(label: str, among: Sequence[str] = ()) -> str:
    """A method's colour; the same in every figure. A numbered label ("bipo 2") and a seed's ("bipo seed 0") have their method's.

    A label without a method takes the first colour that neither a method in the figure nor a label before it has.

    among: all labels of the figure, in its order.
    """
    fixed = _fixed_colour(label)
    if fixed is not None:
        return fixed
    taken = {_fixed_colour(other) for other in among}
    free = [paint for paint in OTHERS if paint not in taken] or OTHERS
    return free[_place(label, among) % len(free)]


def method_of(label: str) -> str:
    """A label without its number and its seed."""
    return without_seed(label).rstrip("0123456789 ")


def _fixed_colour(label: str) -> str | None:
    base = method_of(label)
    for part in (" along ", " off "):  # of a vector taken apart
        if part in base:
            return PARTS[part.strip()]
    return COLOURS.get(base)


def _place(label: str, among: Sequence[str]) -> int:
    """Which of the labels without a method this one is."""
    own = list(dict.fromkeys(without_seed(other) for other in among if _fixed_colour(other) is None))
    return own.index(without_seed(label)) if without_seed(label) in own else 0


def symbol(label: str) -> str:
    """A method's marker; the same in every figure."""
    return SYMBOLS.get(method_of(label), "circle")


def dash(label: str, among: Sequence[str] = ()) -> str:
    """Solid for the first vector of a method, dashed for the next; in turn for labels without a method, as their colours."""
    if _fixed_colour(label) is None:
        return DASHES[_place(label, among) % len(DASHES)]
    name = without_seed(label)
    number = name[len(name.rstrip("0123456789")) :]
    return DASHES[(int(number) - 1) % len(DASHES)] if number and int(number) else DASHES[0]


def width(label: str, among: Sequence[str] = ()) -> float:
    """Of a curve, in pixels; seeds of one method are thin, for they stand together."""
    return 1.2 if without_seed(label) in seed_families(among) and without_seed(label) != label else 2.5


def display_name(label: str) -> str:
    """A label as a reader of a paper knows it."""
    for part in (" along ", " off "):  # of a vector taken apart
        if part in label:
            return part.join(map(display_name, label.split(part)))
    base = method_of(label)
    return NAMES.get(base, base) + label[len(base) :]


def plain(text: str) -> str:
    """A text that plotly shows as it is: no markup, and no %{...} of a hover template."""
    return escape(text, quote=False).replace("%{", "%\u200b{")


def faded(hex_colour: str, alpha: float) -> str:
    """A palette colour as rgba."""
    red, green, blue = (int(hex_colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{alpha})"


def style(figure: go.Figure, *, width: int = 760, height: int = 400) -> go.Figure:
    """Fonts, white ground and axes for a figure of that size in pixels."""
    figure.update_layout(
        template="plotly_white",
        width=width,
        height=height,
        font={"family": "Arial, Helvetica, sans-serif", "size": 15, "color": INK},
        margin={"l": 70, "r": 20, "t": 50, "b": 100},
        legend={"orientation": "h", "y": -0.22, "yanchor": "top", "x": 0.5, "xanchor": "center", "font": {"size": 14}},
        # Nothing leaves the machine: plotly's "Share chart..." would upload the data behind the figure.
        modebar={"remove": ["sendChartToCloud", "lasso2d", "select2d"], "bgcolor": "rgba(0,0,0,0)", "color": FAINT},
        hoverlabel={"align": "left", "bgcolor": "white", "font": {"color": INK}},
    )
    figure.update_xaxes(**AXIS)
    figure.update_yaxes(**AXIS)
    figure.update_annotations(font_size=15)
    figure.update_traces(colorbar_title_font_size=15, selector={"type": "heatmap"})
    return figure
