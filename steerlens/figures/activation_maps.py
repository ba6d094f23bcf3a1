"""The plane of two principal components, with both responses of every pair and the vectors in it."""

import numpy as np
import plotly.graph_objects as go

from steerlens.figures.effects import wrapped
from steerlens.figures.theme import FAINT, colour, display_name, faded, plain, style
from steerlens.measures.activation_map import ActivationMap

POINTS = "#56606b"  # no method's colour: those are the arrows'


def activation_plane(found: ActivationMap) -> go.Figure:
    """Chosen and rejected responses as points with their prompts; vectors as arrows from the mean of all points.

    An arrow that reached the dotted circle would lie in the plane wholly; a short one points out of it.
    """
    points = np.concatenate([found.chosen, found.rejected])
    reach = 0.85 * float(np.quantile(np.linalg.norm(points, axis=1), 0.9))
    figure = go.Figure()
    for name, at, shape in (("chosen", found.chosen, "circle"), ("rejected", found.rejected, "circle-open")):
        marker = {
            "size": 7,
            "color": faded(POINTS, 0.65),
            "symbol": shape,
            "line": {"width": 0 if name == "chosen" else 1.5},
        }
        figure.add_trace(
            go.Scatter(
                x=at[:, 0], y=at[:, 1], mode="markers", name=name, marker=marker,
                text=[wrapped(prompt) for prompt in found.prompts], hovertemplate=f"%{{text}}<br>{name}<extra></extra>",
            )
        )  # fmt: skip
    circle = {"line": {"color": FAINT, "width": 1.5, "dash": "dot"}, "layer": "below"}
    figure.add_shape(type="circle", x0=-reach, x1=reach, y0=-reach, y1=reach, **circle)
    for label, direction, share in zip(found.labels, found.directions, found.in_plane, strict=True):
        x, y = (float(part) for part in reach * direction)
        name, paint = plain(display_name(label)), colour(label, found.labels)
        figure.add_trace(
            go.Scatter(
                x=[0, x], y=[0, y], mode="lines", line={"color": paint, "width": 3}, name=f"{name} ({share:.0%} in the plane)",
                hovertemplate=f"{name}: {share:.1%} of its squared norm lies in the plane<extra></extra>",
            )
        )  # fmt: skip
        figure.add_annotation(
            x=x, y=y, ax=0, ay=0, xref="x", yref="y", axref="x", ayref="y", text="", showarrow=True, arrowhead=2, arrowsize=1,
            arrowwidth=3, arrowcolor=paint,
        )  # fmt: skip
    sides = np.concatenate([points, [[-reach, -reach], [reach, reach]]])
    low, high = sides.min(0), sides.max(0)
    margin = 0.04 * (high - low).max()
    for update, i in ((figure.update_xaxes, 0), (figure.update_yaxes, 1)):
        title = f"component {i + 1}<br>({found.explained[i]:.0%} of the variance)"
        update(range=[low[i] - margin, high[i] + margin], title_text=title)
    width, height = high - low + 2 * margin
    style(figure, width=560, height=150 + min(600, max(240, round(470 * height / width))))
    return figure.update_layout(margin={"t": 20, "b": 130}).update_yaxes(scaleanchor="x", constrain="domain")
