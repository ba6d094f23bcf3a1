"""Curves over training show the numbers of the history."""

import numpy as np
import pytest
import torch

import steerlens as sl
from steerlens.figures.training import path, training_curves

HISTORY = [
    {"step": i, "loss": 0.7 - 0.01 * i, "norm_ratio": 0.01 * i, "val_plus": i if i % 5 == 4 else None,
     "val_minus": -i if i % 5 == 4 else None}
    for i in range(15)
]  # fmt: skip


def test_training_curves_show_loss_margins_and_norm() -> None:
    figure = training_curves({"bipo": HISTORY, "caa": ()})
    raw, smooth, plus, minus, ratio = figure.data
    np.testing.assert_allclose(raw.y, [row["loss"] for row in HISTORY])
    np.testing.assert_allclose(smooth.y[-1], np.mean([row["loss"] for row in HISTORY[-10:]]))
    np.testing.assert_allclose(smooth.y[0], HISTORY[0]["loss"])
    assert (list(plus.x), list(plus.y), list(minus.y)) == ([5, 10, 15], [4, 9, 14], [-4, -9, -14])
    np.testing.assert_allclose(ratio.y, [row["norm_ratio"] for row in HISTORY])
    with pytest.raises(sl.FigureError, match="no history"):
        training_curves({"caa": ()})


def test_no_panel_stays_empty_where_nothing_was_measured_on_validation_pairs() -> None:
    blind = [{**row, "val_plus": None, "val_minus": None} for row in HISTORY]
    figure = training_curves({"lr 0.001": blind, "lr 0.01": blind})
    titles = [title.text for title in figure.layout.annotations]
    assert titles == ["loss (nats)", "|v| / stream's norm"]
    assert {trace.xaxis for trace in figure.data} == {"x", "x2"}
    assert figure.data[1].line.color != figure.data[4].line.color
    both = training_curves({"lr 0.001": blind, "bipo": HISTORY})
    assert len(both.layout.annotations) == 3
    assert {trace.name for trace in both.data if trace.xaxis == "x2"} == {"BiPO, +v", "BiPO, \N{MINUS SIGN}v"}


def test_the_path_shows_norm_and_cosine_over_snapshots() -> None:
    a, b = torch.tensor([3.0, 4.0, 0.0]), torch.tensor([1.0, 0.0, 0.0])
    trained = sl.SteeringVector(a, 1, method="bipo", snapshots={2: a / 2, 4: a})
    comparison = sl.compare(trained, sl.SteeringVector(b, 1, method="caa"))
    norm, cosine = path(comparison).data
    np.testing.assert_allclose(norm.y, [2.5, 5.0])
    np.testing.assert_allclose(cosine.y, [0.6, 0.6], rtol=1e-6)
    with pytest.raises(sl.FigureError, match="snapshots"):
        path(sl.compare(*comparison.vectors[::-1][:1], sl.SteeringVector(a, 1)))
