"""The study of a triangle's margins: its shape against least squares and closed forms, on margins that are made up."""

import numpy as np
import pytest

from interpole.lab.studies.simplex import STEPS, TRIANGLES, quadratic, shape_rows
from interpole.lab.studies.study import Case
from interpole.merging.simplex import grid, weights_name

NAME = "with terse"
CORNERS = TRIANGLES[NAME]
POINTS = {weights_name(at): at for at in grid(CORNERS, STEPS)}
THREE = np.array([[at.get(corner, 0.0) for corner in CORNERS] for at in POINTS.values()])  # (P, 3)


def rows_of(margins, shares=None, num=20, seed=0):
    """Statistic → value and the row's ends; each question's margins are the mean's, shifted."""
    shift = np.random.default_rng(seed).normal(0, 0.1, num)
    shift -= shift.mean()
    each = {point: margin + shift for point, margin in zip(POINTS, margins, strict=True)}
    shares = {
        point: np.full(num, share)
        for point, share in zip(POINTS, THREE[:, 2] if shares is None else shares, strict=True)
    }
    return {(row.point, row.statistic): row for row in shape_rows(Case(), NAME, each, shares)}


def value(rows, statistic):
    return rows[NAME, statistic].value


def test_margins_on_a_plane_are_off_neither_plane_nor_quadratic():
    found = rows_of(THREE @ [-5.0, -7.0, 6.0])
    assert value(found, "range") == pytest.approx(13)
    for statistic in ("plane", "quadratic", "inside", "bend terse–instruct", "bend instruct–thinking"):
        assert value(found, statistic) == pytest.approx(0, abs=1e-12)


def test_what_is_left_of_a_quadratic_is_what_least_squares_leaves_and_what_is_cubic():
    rng = np.random.default_rng(1)
    a, b, c = THREE.T
    design = np.stack([a * a, b * b, c * c, a * b, a * c, b * c], axis=1)  # all quadratics on the plane a + b + c = 1
    margins = design @ rng.normal(0, 3, 6)
    assert value(rows_of(margins), "quadratic") == pytest.approx(0, abs=1e-12)
    bump = margins + 27 * a * b * c  # of its own at the points inside alone: 27/32 there
    size = np.ptp(margins[[i for i, at in enumerate(POINTS.values()) if len(at) == 1]])
    assert value(rows_of(bump), "inside") == pytest.approx(27 / 32 / size)
    found = quadratic(CORNERS, {point: np.array([m]) for point, m in zip(POINTS, bump, strict=True)})
    known = [i for i, at in enumerate(POINTS.values()) if set(at.values()) <= {1.0, 0.5}]
    assert len(known) == 6
    fitted = design @ np.linalg.lstsq(design[known], bump[known], rcond=None)[0]
    np.testing.assert_allclose([found[point][0] for point in POINTS], fitted, atol=1e-10)


def test_the_bend_of_an_edge_is_its_middle_above_the_chord():
    a, b, c = THREE.T
    found = rows_of(-6 * b + 6 * c + 4 * b * c * 1.2 - 4 * a * b * 0.6)
    assert value(found, "range") == pytest.approx(12)
    assert value(found, "bend instruct–thinking") == pytest.approx(0.1)
    assert value(found, "bend terse–instruct") == pytest.approx(-0.05)
    assert value(found, "plane") == pytest.approx(0.1)
    assert found[f"{NAME}: instruct 0.5, thinking 0.5", "off the plane"].value == pytest.approx(0.1)


def test_the_weight_of_thinking_at_one_half_is_read_between_points_of_each_edge():
    shares = np.where(THREE[:, 0] > 0, np.clip(THREE[:, 2] * 2 - 0.75, 0, 1), np.clip(THREE[:, 2] * 2 - 0.5, 0, 1))
    found = rows_of(THREE @ [-5.0, -7.0, 6.0], shares)
    assert value(found, "half instruct") == pytest.approx(0.5)
    assert value(found, "half terse") == pytest.approx(0.625)
    assert value(found, "half apart") == pytest.approx(0.125)
    assert np.isnan(value(rows_of(THREE @ [-5.0, -7.0, 6.0], np.zeros(len(POINTS))), "half terse"))
