"""Sections as one self-contained page that works offline, or as tabs in a notebook; every text in them is escaped before."""

import math
from collections.abc import Iterable, Sequence
from html import escape
from typing import NamedTuple

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from steerlens.figures.theme import FAINT, GRID, INK, LINE, colour, display_name

# A notebook styles tables by rules of its own, which only !important outranks.
# Colours are the surroundings' own or translucent, so that a notebook's dark theme, which no media query tells, is served too.
CSS = """
.sl { font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Arial, sans-serif; max-width: 1080px; }
.sl h1 { font-size: 26px; line-height: 1.25; margin: 0 0 8px; } .sl h2 { font-size: 19px; margin: 34px 0 8px; }
.sl h3 { font-size: 16px; margin: 20px 0 6px; }
.sl p { margin: 6px 0; } .sl .note { opacity: .74; font-size: 14px; max-width: 84ch; }
.sl table { border-collapse: collapse; margin: 8px 0; font-size: 14px; }
.sl tr { background: none !important; } .sl :is(th, td) { text-align: left !important; }
.sl th, .sl td { padding: 4px 14px 4px 0; border-bottom: 1px solid rgba(128,128,128,.3);
  vertical-align: top; }
.sl th { font-weight: 600; } .sl td.n { font-variant-numeric: tabular-nums; white-space: nowrap; }
.sl code { font: 13px ui-monospace, Menlo, Consolas, monospace; background: rgba(128,128,128,.15); border-radius: 3px;
  padding: 1px 4px; white-space: pre; display: inline-block; max-width: 28ch; overflow: hidden; text-overflow: ellipsis;
  vertical-align: bottom; }
.sl pre { font: 13px/1.45 ui-monospace, Menlo, Consolas, monospace; white-space: pre-wrap; overflow-wrap: anywhere; }
.sl .dot { display: inline-block; width: 10px; height: 10px; border-radius: 5px; margin-right: 6px;
  print-color-adjust: exact; -webkit-print-color-adjust: exact; }
.sl .wide { overflow-x: auto; } .sl .answer { white-space: pre-wrap; min-width: 150px; }
.sl .side { display: block; font-size: 13px; opacity: .8; }
.sl .settings { white-space: normal; min-width: 260px; overflow-wrap: anywhere; display: inline-block; }
"""
_TABS = """
.sl.tabs { display: flex; flex-wrap: wrap; column-gap: 4px; align-items: end; }
.sl.tabs > .lead { width: 100%; }
.sl.tabs > label { order: 1; padding: 5px 11px; cursor: pointer; border-bottom: 3px solid rgba(128,128,128,.25);
  font-weight: 600; font-size: 14px; }
.sl.tabs > label input { position: absolute; opacity: 0; width: 0; }
.sl.tabs > label:has(:focus-visible) { outline: 2px solid #56B4E9; }
.sl.tabs > label:has(:checked) { border-bottom-color: #0072B2; }
.sl.tabs > .panel { order: 2; width: 100%; }
@supports selector(:has(*)) { .sl.tabs > label:not(:has(:checked)) + .panel { display: none; } }
@media print { .sl.tabs > label:not(:has(:checked)) + .panel { display: block; } }
"""
_PAGE = """
html { color-scheme: light dark; scroll-behavior: smooth; }
body { margin: 32px auto; max-width: 1080px; padding: 0 20px; color: #1d1d1f; background: #fff; }
.sl nav { position: sticky; top: 0; z-index: 5; background: #fff; margin: 14px 0 0; padding: 6px 0; font-size: 14px;
  border-bottom: 1px solid rgba(128,128,128,.3); display: flex; flex-wrap: wrap; gap: 2px 16px; }
.sl nav a { color: inherit; opacity: .8; text-decoration: none; } .sl nav a:hover { text-decoration: underline; }
.sl section { scroll-margin-top: 60px; }
.sl .figure { overflow-x: auto; overflow-y: hidden; margin: 10px 0; }
@media screen and (prefers-color-scheme: dark) {
  body, .sl nav { color: #e4e4e7; background: #16181d; }
  .adapts text[style*="fill: INK"]:not(.hovertext *) { fill: #dedee2 !important; }
  .adapts text[style*="fill: rgb(85, 85, 85)"], .adapts .annotation-text[style*="fill: LINE"] { fill: #b4b4bb !important; }
  .adapts :not(text)[style*="stroke: INK"], .adapts :not(text)[style*="stroke: rgb(51, 51, 51)"],
  .adapts :not(text)[style*="stroke: rgb(85, 85, 85)"],
  .adapts :not(text)[style*="stroke: LINE"] { stroke: #a0a0a8 !important; }
  .adapts :not(text)[style*="stroke: FAINT"] { stroke: #85858d !important; }
  .adapts :not(text)[style*="stroke: GRID"] { stroke: #33363e !important; }
  .adapts :not(text)[style*="stroke: rgb(0, 0, 0)"] { stroke: #dedee2 !important; }
  .adapts .point[style*="fill: rgb(0, 0, 0)"] { fill: #dedee2 !important; }
  .adapts .annotation .bg[style*="fill: rgb(255, 255, 255)"] { fill: #16181d !important; }
  .adapts .modebar-btn path { fill: #a0a0a8 !important; }
}
@media print {
  @page { margin: 14mm; }
  body { margin: 0; padding: 0; max-width: none; } .sl { font-size: 12px; max-width: none; } .sl .note { font-size: 11px; }
  .sl h1 { font-size: 20px; } .sl h2 { font-size: 16px; margin-top: 22px; } .sl h3 { font-size: 13px; }
  .sl nav, .modebar-container { display: none; }
  .sl .figure { zoom: var(--print); overflow: visible; break-inside: avoid; }
  .sl .wide { overflow: visible; } .sl table, .sl code { font-size: 10.5px; } .sl td.n { white-space: normal; }
  .sl tr { break-inside: avoid; } .sl h2, .sl h3 { break-after: avoid; }
}
"""
_CLEAR = "rgba(0,0,0,0)"
_PRINTED = 680  # pixels between the margins of A4


class Section(NamedTuple):
    """A part of a page or a tab: what it is about, figures, then tables; HTML that is escaped already."""

    title: str
    about: str = ""
    tables: str = ""
    figures: tuple[go.Figure, ...] = ()


def page(title: str, lead: str, sections: Sequence[Section]) -> str:
    """One HTML page that works offline: plotly's script once, nothing loaded from elsewhere; the same bytes every time."""
    links = "".join(f'<a href="#s{i}">{escape(s.title)}</a>' for i, s in enumerate(sections))
    drawn = any(section.figures for section in sections)
    body = "".join(
        f'<section id="s{i}"><h2>{escape(section.title)}</h2>{section.about}'
        + "".join(_figure(figure, f"f{i}-{j}", section.title) for j, figure in enumerate(section.figures))
        + f"{section.tables}</section>"
        for i, section in enumerate(sections)
    )
    return (
        f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{CSS}{_coloured(_PAGE)}</style>"
        + (f"<script>{get_plotlyjs()}</script>" if drawn else "")
        + f'</head><body><main class="sl"><h1>{escape(title)}</h1>{lead}'
        + ('<noscript><p class="note">The figures need scripts; their numbers stand in the tables.</p></noscript>' if drawn else "")
        + (f"<nav>{links}</nav>" if len(sections) > 1 else "")
        + f"{body}</main></body></html>"
    )  # fmt: skip


def _coloured(css: str) -> str:
    """The theme's colours as browsers write them into a style."""
    for name, colour_ in (("INK", INK), ("LINE", LINE), ("FAINT", FAINT), ("GRID", GRID)):
        red, green, blue = (int(colour_[i : i + 2], 16) for i in (1, 3, 5))
        css = css.replace(name, f"rgb({red}, {green}, {blue})")
    return css


def _figure(figure: go.Figure, name: str, title: str) -> str:
    """A figure as wide as its column allows, on the page's own ground."""
    shown = placed(go.Figure(figure))
    width, height = shown.layout.width or 760, shown.layout.height or 400
    # Figures that paint their own ground, and tables, are made for paper: they stay light on a dark page too.
    adapts = shown.layout.plot_bgcolor is None and all(trace.type != "table" for trace in shown.data)
    shown.update_layout(width=None, autosize=True)
    if adapts:
        shown.update_layout(paper_bgcolor=_CLEAR, plot_bgcolor=_CLEAR)
    drawn = shown.to_html(
        include_plotlyjs=False,
        full_html=False,
        div_id=name,
        default_width="100%",
        default_height=f"{height}px",
        config={
            "displaylogo": False,
            "responsive": True,
            "plotlyServerURL": "",
            "toImageButtonOptions": {"format": "svg"},
        },
    )
    size = f"max-width:{width}px;min-width:{round(0.7 * width)}px;height:{height}px"
    zoom = f"--print:{min(1.0, _PRINTED / width):.3f}"
    kind = "figure adapts" if adapts else "figure"
    return f'<div class="{kind}" role="figure" aria-label="{escape(title)}" style="{zoom}"><div style="{size}">{drawn}</div></div>'


def placed(figure: go.Figure) -> go.Figure:
    """The figure without the texts, arrows and lines that a number which is none would put nowhere, or beside the page."""
    for kind, ends in (("annotations", ("x", "y", "ax", "ay")), ("shapes", ("x0", "x1", "y0", "y1"))):
        every = figure.layout[kind]
        kept = [
            one for one in every if not any(isinstance(one[end], float) and not math.isfinite(one[end]) for end in ends)
        ]
        if len(kept) < len(every):
            figure.layout[kind] = kept
    return figure


def tabs(lead: str, sections: Sequence[Section]) -> str:
    """The sections' HTML as tabs for a notebook, without scripts or figures; one below the other where CSS is taken out."""
    # Radio buttons of one name belong together within a form: two pages in a notebook don't switch each other's tabs.
    parts = [
        f'<label><input type="radio" name="tab"{" checked" if not i else ""}>{escape(section.title)}</label>'
        f'<div class="panel">{section.about}{section.tables}</div>'
        for i, section in enumerate(s for s in sections if s.tables)
    ]
    return f'<form class="sl tabs"><style>{CSS}{_TABS}</style><div class="lead">{lead}</div>{"".join(parts)}</form>'


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of cells that are HTML already."""
    top = "".join(f"<th>{cell}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f'<td class="n">{cell}</td>' for cell in row) + "</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def note(text: str) -> str:
    """A paragraph that explains; escaped."""
    return f'<p class="note">{escape(text)}</p>'


def named(label: str, among: Sequence[str] = (), sign: str = "") -> str:
    """A vector's name behind a dot of its colour; `among` is all labels of the page."""
    return f'<span class="dot" style="background:{colour(label, among)}"></span>{sign}{escape(display_name(label))}'
