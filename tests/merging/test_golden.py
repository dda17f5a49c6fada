"""mergekit's own results, reached through mergekit's own configs: to the last bit, or within one rounding of the true value.

The reference data holds 48 configs, tiny models, and hashes (some whole results) of what mergekit 0.1.4 and 0.1.5 made of them.
"""

import hashlib
import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file

import interpole
import reference
from interpole.merging.methods import get_method
from interpole.merging.recipe import Recipe

GOLDEN = Path(__file__).parents[1] / "data/golden"
CASES = {c["name"]: c for c in json.loads((GOLDEN / "manifest.json").read_text())["cases"]}
RANDOM = [name for name in CASES if "dare" in name or "della" in name]
CHOSEN_AT_THRESHOLD = [
    name for name in CASES if "qwen3" in name and "ties" in name
]  # bf16 task vectors are full of ties
IN_BF16 = [name for name in CASES if name.endswith("-bf16")]
ROUNDED_OTHERWISE = [  # angles and norms by other sums, and iterations
    *(name for name in CASES if any(word in name for word in ("slerp", "karcher", "model_stock", "rescale", "sce"))),
]
EXACT = [name for name in CASES if name not in {*RANDOM, *CHOSEN_AT_THRESHOLD, *IN_BF16, *ROUNDED_OTHERWISE}]
F32_ROUNDING = 2.5e-7  # one unit in the last place of the largest weights here, which are below 4


@pytest.fixture(autouse=True)
def _golden(monkeypatch):
    """Be where the configs' relative paths start."""
    monkeypatch.chdir(GOLDEN)


def merged_by(name):
    return interpole.merge(Recipe.load(Path(CASES[name]["config"])))


def fused(tensors, name):
    """The tensor `name` of mergekit's result, whose experts lie stacked, from per-expert tensors."""
    if "mlp.experts" not in name:
        return np.asarray(tensors[name])
    prefix, _, kind = name.rpartition(".")
    experts = range(sum(key.startswith(f"{prefix}.") and key.endswith("up_proj.weight") for key in tensors))
    parts = ("gate", "up") if kind == "gate_up_proj" else ("down",)
    return np.stack(
        [np.concatenate([np.asarray(tensors[f"{prefix}.{e}.{part}_proj.weight"]) for part in parts]) for e in experts]
    )


def digest(array):
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()[:24]


def ulps_apart(a, b):
    """Distance of two bfloat16 arrays in units in the last place."""
    ordered = [np.where(x < 0, -(x & 0x7FFF), x) for x in (v.view(np.int16).astype(np.int32) for v in (a, b))]
    return np.abs(ordered[0] - ordered[1])


def inputs(name):
    """(base, [instruct, thinking]) as mappings of float32 tensors."""
    return inputs_of_family(name.partition("-")[0])


@cache
def inputs_of_family(family):
    models = [interpole.open(GOLDEN / f"models/{family}-{role}") for role in ("base", "instruct", "thinking")]
    base, *others = ({key: model[key].astype(np.float32) for key in model} for model in models)
    return base, others


def truth(name, key):
    """The result in float64 by the slow reference, and the parameters read from the YAML by nothing of ours."""
    config = yaml.safe_load((GOLDEN / CASES[name]["config"]).read_text())
    base, models = inputs(name)
    base, models = fused(base, key), [fused(model, key) for model in models]
    own = [model.get("parameters", {}) for model in config["models"]]
    weights = [parameters.get("weight", 1.0) for parameters in own]
    common = config.get("parameters", {})
    match config["merge_method"]:
        case "linear":
            return reference.linear(models, weights, normalize=True)
        case "slerp":
            return reference.slerp(models, (1 - common["t"], common["t"]))
        case "nuslerp":
            return reference.nuslerp(models, weights)
        case "multislerp":
            return reference.multislerp(models, weights, base)
        case "karcher":
            return reference.karcher(models, weights)
        case "model_stock":
            return reference.model_stock(models, base)
        case "sce":
            return reference.sce(models, base, common["select_topk"])
        case "task_arithmetic":
            return reference.task_arithmetic(models, weights, base)
        case "ties":
            options = {"rescale": common.get("rescale", False), "scale": common.get("lambda", 1.0)}
            options["normalize"] = common.get("normalize", True)
            return reference.ties(models, weights, base, [p["density"] for p in own], **options)


def test_every_case_is_in_one_group():
    assert len(CASES) == 48
    assert len(EXACT) == 21


@pytest.mark.parametrize("name", EXACT)
def test_fp32_merges_equal_mergekit_to_the_last_bit(name):
    merged = merged_by(name)
    for key, (dtype, shape, _, expected, _) in CASES[name]["tensors"].items():
        ours = fused(merged, key)
        assert (str(ours.dtype), list(ours.shape)) == (dtype, shape)
        assert digest(ours) == expected, key


@pytest.mark.parametrize("name", sorted({*ROUNDED_OTHERWISE, *IN_BF16} - {*CHOSEN_AT_THRESHOLD}))
def test_other_merges_are_within_one_rounding_of_the_true_value(name):
    merged = merged_by(name)
    for key, (dtype, _, norm, _, _) in CASES[name]["tensors"].items():
        ours, true = fused(merged, key), truth(name, key)
        half_unit = 2.0**-8 if dtype == "bfloat16" else 2.0**-24  # of the last place, relative, at most
        assert (np.abs(ours - true) <= half_unit * np.abs(true) + F32_ROUNDING).all(), key
        assert np.linalg.norm(ours.astype(np.float64)) == pytest.approx(norm, rel=4e-3 if name in IN_BF16 else 1e-6)


@pytest.mark.parametrize("name", [name for name in ROUNDED_OTHERWISE if "output" in CASES[name]])
def test_they_are_within_one_rounding_of_mergekit_too(name):
    merged, expected = merged_by(name), load_file(GOLDEN / CASES[name]["output"])
    for key, array in expected.items():
        if array.dtype == np.float32:
            assert np.abs(merged[key] - array).max() <= F32_ROUNDING
        else:
            apart = ulps_apart(merged[key], array)
            assert apart.max() <= 1
            assert (apart > 0).sum() <= 2


def at_threshold(base, models, density):
    """Elements whose magnitude equals that of the last one kept: which of them stay is up to the sort."""
    found = np.zeros(base.shape, bool)
    for model in models:
        magnitudes = np.abs(model - base)
        kept = int(density * magnitudes.size)
        found |= magnitudes == np.sort(magnitudes.reshape(-1))[::-1][kept - 1]
    return found


def test_ties_on_bf16_differs_only_where_magnitudes_are_equal():
    name = "qwen3-ties-d0.2-w1-lambda0.5-f32"
    merged, expected = merged_by(name), load_file(GOLDEN / CASES[name]["output"])
    base, models = inputs(name)
    differing = 0
    for key, array in expected.items():
        undecided = at_threshold(base[key], [model[key] for model in models], 0.2)
        np.testing.assert_array_equal(merged[key][~undecided], array[~undecided])
        differing += (merged[key] != array).sum()
    assert 0 < differing < 0.01 * sum(array.size for array in expected.values())


@pytest.mark.parametrize("name", [name for name in CHOSEN_AT_THRESHOLD if "moe" not in name])
def test_ties_on_bf16_is_the_reference_with_the_first_of_equals(name):
    merged = merged_by(name)
    for key in [key for key in merged if ".1." in key or "norm" in key]:
        true = truth(name, key)
        assert (np.abs(merged[key] - true) <= 2.0**-8 * np.abs(true) + F32_ROUNDING).all(), key
        norm = CASES[name]["tensors"][key][2]
        assert np.linalg.norm(merged[key].astype(np.float64)) == pytest.approx(norm, rel=5e-3)


def test_ties_on_experts_differs_from_mergekit_by_trimming_each_expert():
    """mergekit trims over the stack of all experts; run over that stack, ours agrees."""
    name = "qwen3_moe-ties-d0.2-w1-lambda0.5-f32"
    expected, merged = load_file(GOLDEN / CASES[name]["output"]), merged_by(name)
    base, models = inputs(name)
    for key, array in expected.items():
        stacks = [fused(model, key) for model in models]
        below = fused(base, key)
        over_stack = get_method("ties").merge(stacks, (1, 1), base=below, density=(0.2, 0.2), scale=0.5)
        undecided = at_threshold(below, stacks, 0.2)
        np.testing.assert_array_equal(over_stack.astype(array.dtype)[~undecided], array[~undecided])
        per_expert = fused(merged, key)
        if "experts" not in key:
            np.testing.assert_array_equal(per_expert[~undecided], array[~undecided])
        else:  # each expert keeps its share: the same number in all, spread otherwise
            changed = (per_expert != array).mean()
            assert 0 < changed < 0.05


@pytest.mark.parametrize("name", RANDOM)
def test_random_merges_agree_in_their_statistics(name):
    merged = merged_by(name)
    base, models = inputs(name)
    for key, (_, _, norm, _, _) in CASES[name]["tensors"].items():
        ours = merged[key].astype(np.float64)
        size = ours.size
        assert np.linalg.norm(ours) == pytest.approx(norm, rel=0.02), key
        untouched = (merged[key] == base[key]).mean()  # dropped from both: density 0.5 each
        assert abs(untouched - 0.25) < 4.5 * np.sqrt(0.25 * 0.75 / size), key
        if "dare_linear" in name:  # unbiased: its mean is that of task arithmetic
            expected = reference.linear([model[key] - base[key] for model in models], (0.5, 0.5))
            error = (ours - base[key] - expected).mean()
            assert abs(error) < 5 * np.abs(expected).std() / np.sqrt(size) + 5e-4, key
