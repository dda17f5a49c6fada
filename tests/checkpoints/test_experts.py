"""Experts that lie apart on one side and fused on the other meet, straight or transposed."""

import ml_dtypes
import numpy as np
import pytest

import interpole
import tiny
from interpole.checkpoints.views.experts import PerExpert
from interpole.errors import MismatchError
from interpole.merging.recipe import Recipe

NUM_EXPERTS, HIDDEN = 3, 16
STEM = "model.layers.{}.mlp.experts"


def apart(seed, intermediate=12, layers=2):
    """A tiny mixture of experts with one tensor per expert and projection."""
    rng = np.random.default_rng(seed)
    weights = {name: array for name, array in tiny.tensors(seed, layers=layers).items() if ".mlp." not in name}
    for layer in range(layers):
        weights[f"model.layers.{layer}.mlp.gate.weight"] = rng.normal(size=(NUM_EXPERTS, HIDDEN)).astype(
            ml_dtypes.bfloat16
        )
        for expert in range(NUM_EXPERTS):
            for part, shape in (
                ("gate", (intermediate, HIDDEN)),
                ("up", (intermediate, HIDDEN)),
                ("down", (HIDDEN, intermediate)),
            ):
                name = f"{STEM.format(layer)}.{expert}.{part}_proj.weight"
                weights[name] = rng.normal(size=shape).astype(ml_dtypes.bfloat16)
    return weights


def fused(weights, *, swapped, layers=2):
    """The same weights with the experts of a layer in two tensors, as transformers 5 (or, swapped, Qwen3-VL) has them."""
    result = {name: array for name, array in weights.items() if ".experts." not in name}
    for layer in range(layers):
        stem = STEM.format(layer)
        matrix = {
            p: [weights[f"{stem}.{e}.{p}_proj.weight"] for e in range(NUM_EXPERTS)] for p in ("gate", "up", "down")
        }
        gate_up = np.stack([np.concatenate(pair) for pair in zip(matrix["gate"], matrix["up"], strict=True)])
        down = np.stack(matrix["down"])
        for name, array in (("gate_up_proj", gate_up), ("down_proj", down)):
            result[f"{stem}.{name}"] = np.ascontiguousarray(array.transpose(0, 2, 1) if swapped else array)
    return result


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("intermediate", [12, 8, 16])  # at 8 gate_up is square, at 16 down
@pytest.mark.parametrize("side", [0, 1])
def test_a_fused_and_an_unfused_checkpoint_merge_as_two_unfused_ones(tmp_path, swapped, intermediate, side):
    weights = [apart(seed, intermediate) for seed in (0, 1)]
    plain = [tiny.write(tmp_path / f"apart{i}", weights[i], shards=2) for i in (0, 1)]
    mixed = list(plain)
    mixed[side] = tiny.write(tmp_path / "fused", fused(weights[side], swapped=swapped), shards=3)
    expected = interpole.merge(Recipe.between(*plain, 0.3))
    merged = interpole.merge(Recipe.between(*mixed, 0.3))
    assert set(merged) == set(expected)
    out = interpole.open(interpole.save(merged, tmp_path / "out"))
    assert all(out[name].tobytes() == expected[name].tobytes() for name in expected)


@pytest.mark.parametrize("swapped", [False, True])
def test_where_a_fused_expert_is_cut_does_not_matter(tmp_path, swapped):
    weights = apart(0)
    like = interpole.open(tiny.write(tmp_path / "apart", weights))
    view = PerExpert(interpole.open(tiny.write(tmp_path / "fused", fused(weights, swapped=swapped))), like)
    rng = np.random.default_rng(0)
    for name in (STEM.format(1) + ".2.up_proj.weight", STEM.format(0) + ".1.down_proj.weight"):
        whole = weights[name].reshape(-1)
        for start, stop in np.sort(rng.integers(0, len(whole) + 1, (30, 2))):
            assert view.read(name, start, stop).tobytes() == whole[start:stop].tobytes()


def test_an_expert_that_lies_in_one_piece_is_copied_by_the_kernel(tmp_path):
    weights = apart(0)
    like = interpole.open(tiny.write(tmp_path / "apart", weights))
    name = STEM.format(1) + ".2.up_proj.weight"
    for swapped in (False, True):
        folder = tiny.write(tmp_path / f"fused{swapped}", fused(weights, swapped=swapped))
        origin = PerExpert(interpole.open(folder), like).origin(name)
        if swapped:
            assert origin is None
        else:
            raw = origin.path.read_bytes()[origin.offset_bytes :][: weights[name].nbytes]
            assert raw == weights[name].tobytes()


def test_two_fused_checkpoints_stay_fused(tmp_path):
    paths = [tiny.write(tmp_path / str(seed), fused(apart(seed), swapped=True)) for seed in (0, 1)]
    assert set(interpole.merge(Recipe.between(*paths, 0.5))) == set(interpole.open(paths[0]))


def clash(tmp_path, first, second):
    paths = [tiny.write(tmp_path / name, weights) for name, weights in (("apart", first), ("fused", second))]
    with pytest.raises(MismatchError) as error:
        interpole.merge(Recipe.between(*paths, 0.5))
    return str(error.value)


def test_experts_that_do_not_fit_are_named(tmp_path):
    weights = apart(0)
    message = clash(tmp_path / "a", weights, fused(apart(0, intermediate=10), swapped=False))
    assert "model.layers.0.mlp.experts.down_proj" in message
    assert "expert 0 is [16, 12] there" in message
    short = {name: array for name, array in weights.items() if ".experts.2." not in name}
    assert "experts.2." in clash(tmp_path / "b", short, fused(weights, swapped=False))
