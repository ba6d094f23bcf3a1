"""Effects at one multiplier and pair by pair show the numbers of the shifts; prompts are under the mouse, never markup."""

import made_up
import numpy as np
import pytest

import steerlens as sl
from steerlens.comparison.comparison import Comparison
from steerlens.figures.effects import effects_at, pair_by_pair, pair_strip, wrapped


@pytest.fixture(scope="module")
def found() -> Comparison:
    return made_up.comparison()


def test_effects_have_a_row_per_vector_part_and_control_with_its_interval(found: Comparison) -> None:
    figure, table = effects_at(found), found.effects()
    assert len(figure.data) == 4 * len(table)
    for panel, quantity in enumerate(("odd", "even", "even_chosen", "even_rejected")):
        for trace, (_, row) in zip(figure.data[panel * len(table) :], table.iterrows(), strict=False):
            if row["vector"] == "random":
                assert list(trace.x) == [row[f"{quantity}_low"], row[f"{quantity}_high"]]
            else:
                assert trace.x[0] == row[quantity]
                assert trace.x[0] + trace.error_x.array[0] == pytest.approx(row[f"{quantity}_high"])
                assert trace.x[0] - trace.error_x.arrayminus[0] == pytest.approx(row[f"{quantity}_low"])
    names = figure.layout.yaxis.ticktext
    assert (names[0], names[4], names[-1]) == ("BiPO, own norm", "CAA along BiPO", "random directions")
    ends = figure.layout.xaxis.range
    assert ends[0] < table[["odd_low"]].to_numpy().min() < table[["odd_high"]].to_numpy().max() < ends[1]
    with pytest.raises(sl.FigureError, match="multipliers 7 and -7"):
        effects_at(found, 7)


def test_pair_by_pair_has_a_point_per_pair_and_the_line_where_both_do_the_same(found: Comparison) -> None:
    line, points = pair_by_pair(found, 2).data
    np.testing.assert_array_equal(points.x, found.matched["bipo"].odd[:, 1])
    np.testing.assert_array_equal(points.y, found.matched["caa"].odd[:, 1])
    assert list(line.x) == list(line.y)
    assert line.x[0] < min(points.x) < max(points.y) < line.x[1]
    assert len(points.text) == 12
    assert pair_by_pair(found).data[1].x == pytest.approx(found.matched["bipo"].odd[:, 0])
    with pytest.raises(sl.FigureError, match="multiplier=3 was not measured"):
        pair_by_pair(found, 3)


def test_a_strip_has_every_pair_and_the_mean_with_its_interval(found: Comparison) -> None:
    shifts = list(found.matched.values())
    figure = pair_strip(shifts, "values", -1)
    for at, shift in enumerate(shifts):
        points, mean = figure.data[2 * at : 2 * at + 2]
        np.testing.assert_array_equal(points.y, shift.values[:, 1])
        assert np.abs(points.x - at).max() < 0.3
        assert len(set(points.x)) == len(points.x)
        low, high = (side[1] for side in shift.interval("values"))
        assert mean.y[0] == pytest.approx(shift.values[:, 1].mean())
        assert (mean.y[0] - mean.error_y.arrayminus[0], mean.y[0] + mean.error_y.array[0]) == pytest.approx((low, high))
    with pytest.raises(sl.FigureError, match="nothing to draw"):
        pair_strip([])
    with pytest.raises(sl.FigureError, match="odd has"):
        pair_strip(shifts, multiplier=-1)


def test_a_prompt_under_the_mouse_is_wrapped_cut_and_no_markup() -> None:
    assert wrapped("<b>x</b> %{y}") == "&lt;b&gt;x&lt;/b&gt; %\u200b{y}"
    long = wrapped("word " * 200)
    assert long.endswith("...")
    assert max(map(len, long.split("<br>"))) <= 70
    assert wrapped("") == "(empty)"
