"""Curves over layers are the means over seeds of the table's numbers."""

import made_up
import numpy as np
import pandas as pd
import pytest

import steerlens as sl
from steerlens.comparison.sweep import Sweep
from steerlens.figures.sweeps import layer_sweep, over_layers

TABLE = pd.DataFrame(
    {"method": ["bipo"] * 4 + ["caa"] * 2, "layer": [3, 3, 1, 1, 1, 3], "seed": [0, 1, 0, 1, 0, 0],
     "odd": [4.0, 2.0, 1.0, 0.0, 0.5, 1.5], "cosine to caa": [0.1, 0.3, 0.2, 0.0, 1.0, 1.0]}
)  # fmt: skip
TABLE["odd_low"], TABLE["odd_high"] = TABLE.odd - 1, TABLE.odd + 2


def test_curves_are_means_over_seeds_with_intervals_and_every_seed_is_a_point() -> None:
    figure = over_layers(TABLE, {"odd": "odd part (nats)", "cosine to caa": "cosine to CAA"})
    mean, seeds, alone = figure.data[:3]
    assert (list(mean.x), list(mean.y), mean.mode) == ([1, 3], [0.5, 3.0], "lines+markers")
    np.testing.assert_allclose(mean.error_y.array, [2, 2])
    np.testing.assert_allclose(mean.error_y.arrayminus, [1, 1])
    assert (sorted(seeds.y), seeds.mode) == ([0, 1, 2, 4], "markers")
    assert (alone.name, list(alone.y)) == ("CAA", [0.5, 1.5])
    assert len(figure.data) == 6
    assert tuple(figure.layout.yaxis2.range) == (-1.04, 1.04)
    assert figure.layout.yaxis.title.text == "odd part (nats)"
    assert sum(bool(trace.showlegend) for trace in figure.data) == 2


def test_a_sweep_s_own_figure_has_effect_what_both_responses_lose_and_norm() -> None:
    shifts = tuple(made_up.shift(method, norm, norm) for method in ("bipo", "caa") for norm in (2.0, 3.0))
    sweep = Sweep(("bipo", "bipo", "caa", "caa"), (1, 2, 1, 2), (0, 0, 0, 0), shifts, (0.1, 0.2, 0.1, 0.2))
    odd, _, chosen, _, rejected, _, norm, _ = layer_sweep(sweep).data
    np.testing.assert_allclose(odd.y, [shift.mean("odd")[0] for shift in shifts[:2]])
    for drawn, quantity in ((chosen, "even_chosen"), (rejected, "even_rejected")):
        np.testing.assert_allclose(drawn.y, [shift.mean(quantity)[0] for shift in shifts[:2]])
        low = [shift.interval(quantity)[0][0] for shift in shifts[:2]]
        np.testing.assert_allclose(drawn.y - drawn.error_y.arrayminus, low)
    assert list(norm.y) == [2.0, 3.0]
    assert len(sweep.figure().data) == 8
    assert {"chosen_nats", "rejected_nats", "wrong_way", "both_fall"} <= set(sweep.to_frame()) & set(sweep.scores())
    assert repr(sweep).count("log p(chosen)") == 4


@pytest.mark.parametrize(("table", "panels"), [(TABLE, {}), (TABLE, {"kl": "KL"}), (TABLE[:0], {"odd": "odd"})])
def test_a_table_without_rows_or_columns_is_refused(table: pd.DataFrame, panels: dict[str, str]) -> None:
    with pytest.raises(sl.FigureError, match="expected at least one row and one panel"):
        over_layers(table, panels)
