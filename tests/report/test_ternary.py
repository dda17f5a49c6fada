"""The triangle of three models: where points are drawn, against the weights that their places have, and how strong they are."""

import re

import numpy as np
import pytest

from interpole.analysis.intervals import UNKNOWN
from interpole.merging.simplex import grid, weights_name
from interpole.report.marks import Mark
from interpole.report.render import svg
from interpole.report.ternary import STRENGTH, ternary, triangles
from interpole.runs.simplex import Simplex

CORNERS = ("base", "instruct", "thinking")


def run_of(steps, corners=CORNERS, tasks=("t",)):
    """Marks on a grid whose values are told by their weights, and the simplex."""
    points = {weights_name(weights): weights for weights in grid(corners, steps)}
    values = {name: 0.2 + 0.6 * weights.get(corners[-1], 0) for name, weights in points.items()}
    made = [
        Mark(task, name, None, {s: UNKNOWN._replace(value=v * scale) for s, scale in (("mean", 1), ("tokens", 100))}, 2)
        for task in tasks
        for name, v in values.items()
    ]
    return made, Simplex(corners, points)


def drawn(text):
    """Point → (x, y) in pixels and opacity, of an SVG."""
    found = re.findall(r'aria-label="([^":]*): [^>]*transform="translate\(([\d.]+),([\d.]+)\)"[^>]*', text)
    strengths = dict(re.findall(r'aria-label="([^":]*): [^>]*fill-opacity="([\d.]+)"', text))
    return {name: (float(x), float(y), float(strengths[name])) for name, x, y in found}


@pytest.mark.parametrize("steps", [1, 3, 4, 20])
def test_every_point_is_drawn_where_its_weights_are_the_share_of_each_corner(steps):
    points, simplex = run_of(steps)
    places = drawn(svg(ternary(points, simplex, "t", "mean")))
    assert places.keys() == simplex.points.keys()
    corners = np.array([[*places[corner][:2], 1.0] for corner in CORNERS])
    lengths = [np.hypot(*(corners[i] - corners[j])[:2]) for i, j in ((0, 1), (1, 2), (2, 0))]
    np.testing.assert_allclose(lengths, lengths[0], rtol=0.01)  # the panel is a whole number of pixels high
    (top, left, right), upright = corners, corners[:, 1]
    assert top[1] == min(upright)
    assert left[0] < top[0] < right[0]
    for name, weights in simplex.points.items():
        shares = np.linalg.solve(corners.T, [*places[name][:2], 1.0])
        np.testing.assert_allclose(shares, [weights.get(corner, 0.0) for corner in CORNERS], atol=1e-6)


def test_strength_goes_from_the_smallest_value_to_the_largest_and_is_one_where_all_are_alike():
    points, simplex = run_of(4)
    places = drawn(svg(ternary(points, simplex, "t", "tokens")))
    for name, weights in simplex.points.items():
        expected = STRENGTH[0] + weights.get("thinking", 0) * (STRENGTH[1] - STRENGTH[0])
        assert places[name][2] == pytest.approx(expected, abs=1e-6)
    alike = [Mark("t", mark.point, None, {"mean": UNKNOWN._replace(value=0.5)}) for mark in points]
    assert len({one[2] for one in drawn(svg(ternary(alike, simplex, "t", "mean"))).values()}) == 1


def test_numbers_are_written_where_there_is_room_and_points_never_touch():
    few, many = (svg(ternary(*run_of(steps), "t", "tokens")) for steps in (4, 25))
    assert "Token #N 80.0" in few
    assert re.search(">80</text>", few)
    assert not re.search(">80</text>", many)
    for text in (few, many):
        radius = float(re.search(r'aria-label="base: [^>]*d="M([\d.]+),0', text)[1])
        at = np.array([place[:2] for place in drawn(text).values()])
        apart = np.hypot(*(at[:, None] - at[None]).transpose(2, 0, 1))
        assert 2 * radius <= apart[apart > 0].min() + 1e-6


def test_what_is_no_triangle_or_not_known_is_not_drawn():
    points, simplex = run_of(2)
    assert ternary(points, simplex, "t", "think") is None
    assert ternary(points, simplex, "another", "mean") is None
    assert ternary(*run_of(2, (*CORNERS, "terse")), "t", "mean") is None
    assert triangles([Mark("t", "else", None, {"mean": UNKNOWN._replace(value=0.5)})], simplex) is None


def test_several_tasks_are_a_row_each():
    text = svg(triangles(*run_of(1, tasks=("one", "two"))))
    assert [text.count(f">{word}<") for word in ("one", "two", "Mean@2 (%)", "Token #N")] == [1, 1, 2, 2]


def test_of_two_points_at_one_place_that_of_the_triangle_is_drawn():
    points, simplex = run_of(2)
    twice = Mark("t", "λ=0.5", 0.5, {"mean": UNKNOWN._replace(value=0.1)})
    both = Simplex(CORNERS, {**simplex.points, "λ=0.5": {"instruct": 0.5, "thinking": 0.5}})
    assert drawn(svg(ternary([*points, twice], both, "t", "mean"))).keys() == simplex.points.keys()
