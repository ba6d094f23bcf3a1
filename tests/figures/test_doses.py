"""A dose-response's figure marks what was read off it; a match's figure shows the target and every evaluation."""

import dataclasses

import numpy as np

import steerlens as sl


def shift_of(label: str, multipliers: tuple[float, ...], values: tuple[float, ...]) -> sl.PreferenceShift:
    n = 3
    return sl.PreferenceShift(
        label=label,
        norm=2.0,
        multipliers=multipliers,
        chosen=np.outer([0.9, 1.0, 1.1], values),
        rejected=np.zeros((n, len(values))),
        chosen_tokens=np.full(n, 4),
        rejected_tokens=np.full(n, 5),
        prompts=("a", "b", "c"),
        positions="all",
        data="made up",
    )


def test_the_curve_the_slope_the_controls_and_the_marks_are_those_measured() -> None:
    shift = shift_of("caa", (-2.0, -1.0, 0.0, 1.0, 2.0, 3.0), (-4.0, -2.0, 0.0, 2.0, 4.0, 1.0))
    dose = sl.DoseResponse(shift, (shift_of("random", (-2.0, 3.0), (0.5, -0.5)),) * 2)
    figure = dose.figure()
    band, line, _, _, *controls, slope = figure.data
    np.testing.assert_allclose(line.y, shift.mean())
    assert [list(each.y) for each in controls] == [[0.5, -0.5]] * 2
    np.testing.assert_allclose(slope.y, dose.slope().value * np.array(slope.x))
    assert [shape.x0 for shape in figure.layout.shapes] == [2]  # -v still falls at -2: no mark there
    assert [note.text for note in figure.layout.annotations] == ["saturates"]
    assert len(band.x) == 2 * len(line.x)


def test_a_matchs_figure_shows_target_tolerance_and_evaluations() -> None:
    match = sl.Match(
        label="caa", norm=1.0, by="kl", multiplier=2.0, value=2.0, target=2.1, unsteered=0.0, tolerance=0.2,
        tried=np.array([1.0, 4.0, 2.0]), items=np.array([[1.0, 1.0], [4.0, 6.0], [1.0, 3.0]]), like="bipo",
    )  # fmt: skip
    tried, at = match.figure().data
    assert (list(tried.x), list(tried.y)) == ([1, 2, 4], [1, 2, 5])
    assert (at.x, at.y) == ((2.0,), (2.0,))
    band, line = match.figure().layout.shapes
    np.testing.assert_allclose([band.y0, band.y1, line.y0], [1.9, 2.3, 2.1])
    assert "nats per token" in match.figure().layout.yaxis.title.text


def test_a_match_of_norms_has_no_evaluations_to_show() -> None:
    match = sl.Match(
        label="caa", norm=1.0, by="norm", multiplier=2.0, value=2.0, target=2.0, unsteered=0.0, tolerance=0.0,
        tried=np.zeros(0), items=np.zeros((0, 0)),
    )  # fmt: skip
    assert len(match.figure().data) == 1
    perplexity = dataclasses.replace(
        match, by="perplexity", tried=np.array([2.0]), items=np.log([[2.0, 2.0]]), tolerance=0.1
    )
    assert list(perplexity.figure().data[0].y) == [2.0]
