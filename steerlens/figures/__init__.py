"""Results -> figures: `draw` gives a plotly Figure, `save` writes a file; nothing here needs a model."""

from pathlib import Path

import plotly.graph_objects as go

from steerlens.comparison.comparison import Comparison
from steerlens.comparison.sweep import Sweep
from steerlens.errors import FigureError
from steerlens.figures.activation_maps import activation_plane
from steerlens.figures.choices import choice_curves
from steerlens.figures.curves import dose_response, side_by_side
from steerlens.figures.doses import dose_curve, match_search
from steerlens.figures.heatmaps import cosine_map
from steerlens.figures.images import IMAGES, check_path, write_image
from steerlens.figures.inspection import lengths_and_margins
from steerlens.figures.judgements import answer_table, score_curves
from steerlens.figures.paper import Columns, for_print
from steerlens.figures.report import report as write_page
from steerlens.figures.side_effects import side_effect_curves
from steerlens.figures.strips import token_strip
from steerlens.figures.sweeps import layer_sweep
from steerlens.figures.tables import downstream_bars, lens_bars
from steerlens.measures.activation_map import ActivationMap
from steerlens.measures.answers import Answers
from steerlens.measures.choice_scores import ChoiceScores, TruthfulScores
from steerlens.measures.dose_response import DoseResponse
from steerlens.measures.downstream_lens import DownstreamLens
from steerlens.measures.effect import PreferenceShift
from steerlens.measures.inspection import Inspection
from steerlens.measures.judged import Judged
from steerlens.measures.knowledge import Knowledge
from steerlens.measures.logit_lens import LogitLens
from steerlens.measures.matched import Match
from steerlens.measures.projection import TokenProjection
from steerlens.measures.side_effects import SideEffects
from steerlens.measures.similarity import Similarity
from steerlens.results.result import Result

__all__ = ["draw", "for_print", "save", "write_image"]


def draw(result: Result) -> go.Figure:
    """The figure that shows a result; nothing is shown or saved."""
    if isinstance(result, Comparison):
        return side_by_side(result)
    if isinstance(result, PreferenceShift):
        return dose_response([result])
    if isinstance(result, LogitLens):
        return lens_bars(result)
    if isinstance(result, DownstreamLens):
        return downstream_bars(result)
    if isinstance(result, Similarity):
        return cosine_map(result)
    if isinstance(result, TokenProjection):
        return token_strip(result)
    if isinstance(result, Inspection):
        return lengths_and_margins(result)
    if isinstance(result, (ChoiceScores, TruthfulScores)):
        return choice_curves(result)
    if isinstance(result, Knowledge):
        return choice_curves(result.scores)
    if isinstance(result, SideEffects):
        return side_effect_curves(result)
    if isinstance(result, DoseResponse):
        return dose_curve(result)
    if isinstance(result, Match):
        return match_search(result)
    if isinstance(result, ActivationMap):
        return activation_plane(result)
    if isinstance(result, Sweep):
        return layer_sweep(result)
    if isinstance(result, Judged):
        return score_curves(result)
    if isinstance(result, Answers):
        return answer_table(result)
    raise FigureError(f"there is no figure for a {type(result).__name__}")


def save(result: Result, path: str | Path, *, columns: Columns | None = None) -> Path:
    """Write a result to a self-contained .html page, or its figure to .pdf, .svg or .png with its data as .csv beside it."""
    path = check_path(path, (".html", *IMAGES))
    if path.suffix != ".html":
        return write_image(draw(result), path, data=result.to_frame(), columns=columns)
    if columns is not None:
        raise FigureError(
            f"columns={columns!r} is for print; expected a name that ends in {', '.join(IMAGES)}, not .html"
        )
    return write_page(result, path)
