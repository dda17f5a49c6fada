"""Points of a simplex of models: their weights, and the merges that they are, against the models and the dial between two."""

import math
from itertools import product

import ml_dtypes
import numpy as np
import pytest

import interpole
import reference
import tiny
from interpole.errors import RecipeError
from interpole.merging.recipe import Recipe, build
from interpole.merging.simplex import centre, grid, weights_name

CORNERS = ("base", "instruct", "thinking")


@pytest.fixture(scope="module")
def trio(tmp_path_factory):
    """Three models in which some numbers are minus zero, whose sign a product with a weight of 0 would lose."""
    folder, made = tmp_path_factory.mktemp("trio"), {}
    for seed, name in enumerate(CORNERS):
        weights = tiny.tensors(seed, layers=1)
        weights["model.norm.weight"][:4] = -0.0
        made[name] = str(tiny.write(folder / name, weights, shards=seed + 1))
    return made


def at(trio, weights, **settings):
    content = {"sources": {name: trio[name] for name in weights}, "weights": weights}
    return interpole.merge(build(content | settings, "a test"))


@pytest.mark.parametrize(("corners", "steps"), [("abc", 1), ("abc", 4), ("abc", 7), ("abcd", 3)])
def test_a_grid_has_every_way_to_share_out_the_steps_once(corners, steps):
    found = [tuple(round(point.get(corner, 0) * steps) for corner in corners) for point in grid(corners, steps)]
    every = [parts for parts in product(range(steps + 1), repeat=len(corners)) if sum(parts) == steps]
    assert sorted(found) == every
    assert len(every) == math.comb(steps + len(corners) - 1, len(corners) - 1)
    assert all(math.fsum(point.values()) == pytest.approx(1, abs=1e-15) for point in grid(corners, steps))


def test_a_point_is_called_by_its_weights_and_a_corner_by_its_name():
    assert weights_name({"base": 0.25, "instruct": 0, "thinking": 0.75}) == "base 0.25, thinking 0.75"
    assert weights_name({"base": 0, "instruct": 1.0}) == "instruct"
    assert weights_name(centre("abc")) == "a 0.3333, b 0.3333, c 0.3333"


@pytest.mark.parametrize("corner", CORNERS)
def test_a_corner_is_its_checkpoint_to_the_bit(trio, corner):
    merged, source = at(trio, {corner: 1.0}), interpole.open(trio[corner])
    assert {name: merged.read(name).tobytes() for name in merged.specs} == {
        name: source.read(name).tobytes() for name in source.specs
    }


@pytest.mark.parametrize("steps", [3, 4, 10])
def test_a_point_on_an_edge_is_the_interpolation_of_its_two_models_to_the_bit(trio, steps):
    for weights in grid(("instruct", "thinking"), steps)[1:-1]:
        lam = weights["thinking"]
        between = interpole.merge(Recipe.between(trio["instruct"], trio["thinking"], lam))
        merged = at(trio, weights)
        for name in merged.specs:
            assert merged.read(name).tobytes() == between.read(name).tobytes()
    norm = merged.read("model.norm.weight", 0, 4)
    assert np.signbit(norm).all()
    assert (norm == 0).all()


def test_a_point_inside_is_the_weighted_sum_in_float64_rounded_almost_everywhere(trio):
    weights = {"base": 0.2, "instruct": 0.3, "thinking": 0.5}
    merged, sources = at(trio, weights), [interpole.open(path) for path in trio.values()]
    for name in merged.specs:
        inputs = [source[name].astype(np.float32) for source in sources]
        exact = reference.linear(inputs, list(weights.values())).astype(np.float32).astype(ml_dtypes.bfloat16)
        assert np.mean(merged[name] != exact) < 0.005


def test_a_source_called_base_is_one_like_any_other_where_it_has_a_weight_and_the_method_takes_no_base(trio):
    merged = at(trio, {"base": 0.5, "thinking": 0.5})
    assert [source.label for source, _ in merged.terms("model.norm.weight")] == [trio["base"], trio["thinking"]]
    with pytest.raises(RecipeError, match="no source 'base'"):
        at(trio, {"base": 0.5, "thinking": 0.5}, method="ties")
    with pytest.raises(RecipeError, match="takes no base; give it a weight"):
        build({"sources": trio, "weights": {"instruct": 0.5, "thinking": 0.5}}, "a test")
