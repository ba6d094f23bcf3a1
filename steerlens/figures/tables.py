"""What a direction speaks, as bars."""

import plotly.graph_objects as go

from steerlens.figures.theme import display_name, plain, style
from steerlens.measures.logit_lens import LogitLens

UP, DOWN = "#0072B2", "#D55E00"


def visible(token: str) -> str:
    """A token with its white space made visible; not yet escaped for HTML."""
    marked = token.replace("\n", "\u21b5").replace("\t", "\u21e5").replace(" ", "\u00b7")
    return marked if marked.isprintable() else marked.encode("unicode_escape").decode()


def lens_bars(lens: LogitLens) -> go.Figure:
    """The tokens that the unit vector raises and lowers most."""
    cells = sorted((*lens.top, *lens.bottom), key=lambda cell: cell[1])
    figure = go.Figure(
        go.Bar(
            x=[value for _, value in cells],
            y=list(range(len(cells))),
            orientation="h",
            marker={"color": [UP if value > 0 else DOWN for _, value in cells]},
            hovertemplate="%{x:+.4f}<extra></extra>",
        )
    )
    labels = [plain(visible(token)) for token, _ in cells]
    figure.update_yaxes(tickmode="array", tickvals=list(range(len(cells))), ticktext=labels)
    figure.update_xaxes(title_text=f"logit per unit of {plain(display_name(lens.label))}")
    style(figure, width=520, height=160 + 22 * len(cells))
    figure.update_yaxes(zeroline=False)
    return figure
