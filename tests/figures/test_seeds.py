"""Several seeds are drawn each in their method's colour, beside their mean; what was not reached is named and not drawn."""

import dataclasses

import made_up
import numpy as np
import pytest

from steerlens.comparison.comparison import Comparison
from steerlens.figures.effects import effects_at, pair_by_pair
from steerlens.figures.theme import COLOURS, colour, dash, display_name, symbol, width
from steerlens.figures.training import path


@pytest.fixture(scope="module")
def found() -> Comparison:
    return made_up.of_seeds()


def test_a_seed_has_its_method_s_colour_marker_and_name() -> None:
    labels = ("bipo seed 0", "bipo seed 1", "mine seed 2", "mine seed 3", "caa")
    assert {colour(label, labels) for label in labels[:2]} == {COLOURS["bipo"]}
    assert len({colour(label, labels) for label in labels[2:4]}) == 1
    assert {dash(label, labels) for label in labels} == {"solid"}
    assert dash("bipo 2 seed 1") == "dash"
    assert symbol("caa seed 3") == "square"
    assert display_name("caa along bipo seed 3") == "CAA along BiPO seed 3"
    assert width("bipo seed 0", labels) < width("bipo", labels) == width("bipo seed 0", ["bipo seed 0"])


def test_each_seed_is_a_thin_line_and_their_mean_the_method_s_curve(found: Comparison) -> None:
    figure = found.figure()
    lines = [trace for trace in figure.data if trace.mode == "lines+markers" and trace.legendgroup == "bipo"]
    lines = [trace for trace in lines if trace.yaxis in ("y", "y2")]  # the margins; below them both responses
    assert len(lines) == 2 * 4
    assert {line.line.color for line in lines} == {COLOURS["bipo"]}
    for panel, shifts in ((lines[:4], found.own), (lines[4:], found.matched)):
        *seeds, mean = panel
        for line, label in zip(seeds, found.seeds["bipo"], strict=True):
            np.testing.assert_allclose(line.y, shifts[label].mean())
            assert line.line.width < mean.line.width
        np.testing.assert_allclose(mean.y, np.mean([line.y for line in seeds], axis=0))
    named = [trace.name for trace in figure.data if trace.showlegend is not False]
    sides = ["log p(chosen)", "log p(rejected)"]
    assert named == ["BiPO, mean of 3 seeds", "CAA", "random directions", "shuffled labels", *sides]


def test_seeds_share_a_row_of_the_effects_and_what_was_not_reached_has_one_without_a_mark(found: Comparison) -> None:
    figure, table = effects_at(found), found.effects()
    assert list(figure.layout.yaxis.ticktext) == [
        "BiPO (3 seeds), own norm", "CAA, own norm", "BiPO (3 seeds), equal norm", "CAA, equal norm",
        "BiPO (3 seeds), equal KL", "CAA, equal KL: not reached", "shuffled labels", "random directions",
        "random directions, equal KL",
    ]  # fmt: skip
    for trace, (_, row) in zip(figure.data, table.iterrows(), strict=False):
        if row["strength"] == "equal KL: not reached":
            assert trace.x == (None,)
        elif row["vector"] != "random":
            assert trace.x[0] == row["odd"]
            at = figure.layout.yaxis.ticktext[round(trace.y[0])]
            assert at.endswith(row["strength"].replace("control", ""))
    assert len({trace.y[0] for trace in figure.data[:3]}) == 3


def test_pair_by_pair_has_the_mean_over_seeds(found: Comparison) -> None:
    points = pair_by_pair(found, 1).data[1]
    np.testing.assert_allclose(points.x, np.mean([found.matched[s].odd[:, 0] for s in found.seeds["bipo"]], axis=0))
    np.testing.assert_array_equal(points.y, found.matched["caa"].odd[:, 0])


def test_the_path_goes_to_the_other_method_and_not_to_other_seeds(found: Comparison) -> None:
    names = [trace.name for trace in path(found).data if " to " in trace.name]
    assert names == [f"BiPO seed {i} to CAA" for i in (0, 1, 7)]


def test_the_page_and_the_text_sum_the_seeds_up(found: Comparison) -> None:
    html, text = found._repr_html_(), repr(found)
    assert "Seeds</label>" in html
    assert "<img" not in html
    row = found.seed_spread().iloc[0]
    told = f"{row['odd']:+.3g} (from {row['odd_low']:+.3g} to {row['odd_high']:+.3g})"
    assert f"own norm {told}" in text
    assert "BiPO - CAA" in text
    assert "no multiplier of CAA reaches BiPO seed 0's KL" in text


def test_where_seeds_are_on_both_sides_of_the_other_vector_none_is_ahead(found: Comparison) -> None:
    halves = made_up.of_seeds()
    middle = dataclasses.replace(found.matched["bipo seed 1"], label="caa")
    object.__setattr__(halves, "matched", {**found.matched, "caa": middle})
    gaps = [halves.difference(label, "caa").mean for label in halves.seeds["bipo"]]
    assert min(gaps) < 0 < max(gaps), "the point of the test"
    line = next(line for line in repr(halves).splitlines() if "at equal norm" in line)
    assert line.endswith("seeds disagree")
