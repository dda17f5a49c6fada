"""Every merge method against a slow reference, its ends, its random masks and its parameters."""

import hashlib
from importlib import import_module
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import interpole
import reference
import tiny
from interpole.errors import CheckpointError, RecipeError
from interpole.merging.methods import METHODS, _sparsify, get_method
from interpole.merging.methods._sparsify import Stream, by_magnitude, find_cut, smallest
from interpole.merging.recipe import Recipe, build

SHAPE = (7, 24)


def drawn(count, seed=0, shape=SHAPE, ties=True):
    """A base and `count` models near it; bfloat16 values, so that many magnitudes are equal."""
    rng = np.random.default_rng(seed)
    dtype = ml_dtypes.bfloat16 if ties else np.float32
    base = rng.normal(size=shape).astype(dtype).astype(np.float32)
    return base, [(base + rng.normal(size=shape) / 8).astype(dtype).astype(np.float32) for _ in range(count)]


def merge(method, *args, **kwargs):
    return get_method(method).merge(*args, **kwargs)


def streams(count):
    return [Stream(3, f"model-{i}", "layer") for i in range(count)]


def numbers(count, size=168):
    return [stream.uniform(size) for stream in streams(count)]


def test_every_method_is_registered_documented_and_cites_a_source():
    for name, module in METHODS.items():
        text = import_module(f"interpole.merging.methods.{module}").__doc__
        assert len(text.splitlines()) >= 3, name
        assert all(parameter.doc for parameter in get_method(name).parameters.values())


def test_every_method_and_parameter_is_in_the_docs():
    text = (Path(__file__).parents[2] / "docs/methods.md").read_text()
    for name in METHODS:
        assert f"`{name}`" in text, name
        assert all(f"`{key}`" in text for key in get_method(name).parameters), name


WEIGHTS = [(0.3, 0.7), (0.5, 0.9), (1.5, -0.5)]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("weights", WEIGHTS)
def test_linear_slerp_and_task_arithmetic_are_their_formulas(seed, weights):
    base, models = drawn(2, seed)
    close = {"rtol": 2e-6, "atol": 2e-7}
    np.testing.assert_allclose(merge("linear", models, weights), reference.linear(models, weights), **close)
    np.testing.assert_allclose(
        merge("linear", models, weights, normalize=True), reference.linear(models, weights, True), **close
    )
    np.testing.assert_allclose(merge("slerp", models, weights), reference.slerp(models, weights), rtol=1e-5, atol=1e-6)
    for settings_ in ({}, {"normalize": True}, {"scale": 0.5}):
        ours = merge("task_arithmetic", models, weights, base=base, **settings_)
        np.testing.assert_allclose(ours, reference.task_arithmetic(models, weights, base, **settings_), **close)


def test_slerp_of_nearly_colinear_tensors_is_linear():
    base, _ = drawn(1)
    models = [base, base * np.float32(1.5)]
    np.testing.assert_allclose(merge("slerp", models, (0.25, 0.75)), base * (0.25 + 0.75 * 1.5), rtol=1e-6)


@pytest.mark.parametrize("along", ["tensor", "rows", "columns"])
@pytest.mark.parametrize("with_base", [False, True])
def test_nuslerp_turns_tensors_rows_or_columns(along, with_base):
    base, models = drawn(2, 1)
    base = base if with_base else None
    ours = merge("nuslerp", models, (1.0, 3.0), base=base, along=along)
    np.testing.assert_allclose(ours, reference.nuslerp(models, (1.0, 3.0), base, along), rtol=1e-5, atol=1e-6)


def test_nuslerp_with_weights_that_cancel_takes_the_middle():
    _, models = drawn(2)
    np.testing.assert_array_equal(merge("nuslerp", models, (1.0, -1.0)), merge("nuslerp", models, (1.0, 1.0)))


@pytest.mark.parametrize("count", [2, 3, 5])
@pytest.mark.parametrize("with_base", [False, True])
def test_multislerp_equals_the_formula_with_its_tangent_step(count, with_base):
    base, models = drawn(count, 2)
    weights = tuple(range(1, count + 1))
    base = base if with_base else None
    ours = merge("multislerp", models, weights, base=base)
    np.testing.assert_allclose(ours, reference.multislerp(models, weights, base), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("count", [2, 3, 5])
def test_karcher_is_the_mean_on_the_sphere(count):
    rng = np.random.default_rng(count)
    models = [rng.normal(size=(4, 5)).astype(np.float32) for _ in range(count)]  # at wide angles
    weights = tuple(range(1, count + 1))
    np.testing.assert_allclose(
        merge("karcher", models, weights), reference.karcher(models, weights), rtol=1e-5, atol=1e-6
    )


def test_karcher_of_two_is_slerp_with_mean_length():
    rng = np.random.default_rng(0)
    a, b = (rng.normal(size=(4, 5)).astype(np.float32) for _ in range(2))
    b *= np.float32(np.linalg.norm(a) / np.linalg.norm(b))
    np.testing.assert_allclose(merge("karcher", [a, b], (0.3, 0.7)), merge("slerp", [a, b], (0.3, 0.7)), rtol=1e-5)


@pytest.mark.parametrize("method", ["karcher", "multislerp", "slerp", "nuslerp"])
def test_spheres_survive_a_tensor_of_zeros(method):
    base, _ = drawn(1)
    zero = np.zeros_like(base)
    assert not merge(method, [zero, zero], (0.5, 0.5)).any()
    assert np.isfinite(merge(method, [base, zero], (0.5, 0.5))).all()


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("options", [{}, {"normalize": False}, {"rescale": True}, {"scale": 0.5}])
def test_ties_trims_votes_and_averages(weights, options):
    base, models = drawn(2, 3)
    ours = merge("ties", models, weights, base=base, density=(0.2, 0.6), **options)
    np.testing.assert_allclose(ours, reference.ties(models, weights, base, (0.2, 0.6), **options), rtol=2e-6, atol=2e-7)


@settings(max_examples=60)
@given(st.lists(st.integers(-4, 4), min_size=1, max_size=40), st.floats(0, 1), st.integers(1, 50))
def test_what_is_kept_by_magnitude_is_what_a_stable_sort_puts_first_however_it_is_cut(values, density, step):
    delta, base = np.array(values, np.float32), np.full(len(values), 0.5, np.float32)
    first = sorted(range(len(values)), key=lambda i: (-abs(values[i]), i))[: int(density * len(values))]
    wanted = delta * np.isin(np.arange(len(values)), first)
    assert by_magnitude(delta, density).tobytes() == wanted.tobytes()
    cut = find_cut(lambda start, stop: ((delta + base)[start:stop], base[start:stop]), delta.size, density)
    pieces = [cut.trim(delta[start : start + step], start) for start in range(0, len(values), step)]
    assert np.concatenate(pieces).tobytes() == wanted.tobytes()


@settings(max_examples=150)
@given(st.integers(1, 300), st.integers(1, 60), st.floats(0, 1), st.sampled_from(["mixed", "rising", "last", "zeros"]))
def test_a_cut_found_by_a_sample_is_that_of_all_elements_however_wrong_the_sample_is(size, distinct, density, order):
    rng = np.random.default_rng(size * distinct)
    values = rng.choice(rng.normal(size=distinct).astype(np.float32), size)
    if order == "rising":
        values = np.sort(values)
    elif order == "last":  # nothing in the sample is like what counts
        values[: size * 3 // 4] *= np.float32(1e-9)
    elif order == "zeros":
        values *= rng.random(size) < 0.3
    base = np.zeros(size, np.float32)
    with pytest.MonkeyPatch.context() as patch:
        for name, number in {"PIECE": 16, "SAMPLE": 2, "SEARCH": 5}.items():
            patch.setattr(_sparsify, f"{name}_ELEMENTS", number)
        patch.setattr(_sparsify, "SAMPLE_STEP", 8)
        patch.setattr(_sparsify, "SAMPLE_PIECES", 3)
        found = find_cut(lambda start, stop: (values[start:stop], base[start:stop]), size, density)
    assert found == _sparsify._cut_of(np.abs(values).view(np.int32), int(density * size))


def test_a_source_that_changes_between_counting_and_finding_is_named_as_such():
    values, reads = np.arange(1, 9, dtype=np.float32), []

    def read(start, stop):
        reads.append(start)
        return (values if len(reads) < 3 else 100 * values)[start:stop], np.zeros(stop - start, np.float32)

    with pytest.raises(CheckpointError, match="changed while it was read"):
        find_cut(read, values.size, 0.5)


def test_ties_in_pieces_is_ties_in_one(monkeypatch):
    base, models = drawn(3, 14)
    options = {"base": base, "density": (0.2, 0.6, 1.0)}
    whole = merge("ties", models, (0.3, 0.7, 0.5), **options)
    for module in ("_sparsify.PIECE_ELEMENTS", "_task_vectors.CHUNK_ELEMENTS"):
        monkeypatch.setattr(f"interpole.merging.methods.{module}", 19)
    assert merge("ties", models, (0.3, 0.7, 0.5), **options).tobytes() == whole.tobytes()


@given(st.lists(st.integers(-4, 4), min_size=1, max_size=40), st.integers(-1, 42))
def test_the_smallest_are_those_a_stable_sort_puts_first(values, count):
    mask = smallest(np.array(values, np.float32), count)
    expected = sorted(range(len(values)), key=lambda i: (values[i], i))[: max(0, count)]
    assert sorted(np.flatnonzero(mask)) == sorted(expected)


@pytest.mark.parametrize("method", ["breadcrumbs", "breadcrumbs_ties"])
@pytest.mark.parametrize(("density", "gamma"), [(0.5, 0.1), (0.9, 0.3), (0.4, 0.0), (1.0, 0.2), (0.0, 0.1)])
def test_breadcrumbs_drops_the_largest_and_the_smallest(method, density, gamma):
    base, models = drawn(2, 4)
    options = {"density": (density, 0.5), "gamma": (gamma, 0.05)}
    ours = merge(method, models, (0.4, 0.8), base=base, **options)
    expected = reference.breadcrumbs(models, (0.4, 0.8), base, **options, vote=method.endswith("ties"))
    np.testing.assert_allclose(ours, expected, rtol=2e-6, atol=2e-7)


@pytest.mark.parametrize("method", ["dare_linear", "dare_ties"])
@pytest.mark.parametrize("rescale", [True, False])
def test_dare_drops_at_random_and_divides_by_the_density(method, rescale):
    base, models = drawn(2, 5)
    options = {"density": (0.5, 0.3), "rescale": rescale}
    ours = merge(method, models, (0.4, 0.8), base=base, streams=streams(2), **options)
    expected = reference.dare(models, (0.4, 0.8), base, draws=numbers(2), **options, vote=method.endswith("ties"))
    np.testing.assert_allclose(ours, expected, rtol=2e-6, atol=2e-7)


@pytest.mark.parametrize("method", ["della", "della_linear"])
@pytest.mark.parametrize("rescale", [True, False, "l1"])
def test_della_keeps_large_elements_more_often(method, rescale):
    base, models = drawn(2, 6)
    options = {"density": (0.5, 0.3), "epsilon": (0.15, 0.1), "rescale": rescale}
    ours = merge(method, models, (0.4, 0.8), base=base, streams=streams(2), **options)
    vote = method == "della"
    expected = reference.della(models, (0.4, 0.8), base, draws=numbers(2), **options, vote=vote, normalize=vote)
    np.testing.assert_allclose(ours, expected, rtol=3e-6, atol=3e-7)


def test_della_works_on_vectors_and_single_numbers():
    for shape in [(24,), (1,), (3, 1)]:
        base, models = drawn(2, 0, shape)
        options = {"density": (0.5, 0.5), "epsilon": (0.1, 0.1)}
        assert merge("della", models, (1, 1), base=base, streams=streams(2), **options).shape == shape


@pytest.mark.parametrize("topk", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("count", [2, 3])
def test_sce_selects_calculates_and_erases(topk, count):
    base, models = drawn(count, 7, ties=False)
    ours = merge("sce", models, (1.0,) * count, base=base, select_topk=topk)
    np.testing.assert_allclose(ours, reference.sce(models, base, topk), rtol=2e-6, atol=2e-7)


def test_sce_weighs_light_finetunes_too():
    base = np.zeros((2, 2), np.float32)
    models = [np.full((2, 2), 1e-4, np.float32), np.full((2, 2), 3e-4, np.float32)]
    expected = (1e-4 * 1 + 3e-4 * 9) / 10  # weights in the ratio of the squares, not equal as in mergekit
    np.testing.assert_allclose(merge("sce", models, (1, 1), base=base), expected, rtol=1e-5)


@pytest.mark.parametrize("filter_wise", [False, True])
@pytest.mark.parametrize("count", [2, 4])
def test_model_stock_goes_further_the_more_models_agree(count, filter_wise):
    base, models = drawn(count, 8)
    ours = merge("model_stock", models, (1.0,) * count, base=base, filter_wise=filter_wise)
    np.testing.assert_allclose(ours, reference.model_stock(models, base, filter_wise), rtol=1e-5, atol=1e-6)


def test_model_stock_of_opposite_models_is_the_base():
    base, (model,) = drawn(1)
    np.testing.assert_allclose(merge("model_stock", [model, 2 * base - model], (1, 1), base=base), base, atol=1e-6)


def sparse(count, seed):
    """A base and models that changed a part of it each, some elements by almost nothing."""
    base, models = drawn(count, seed, ties=False)
    rng = np.random.default_rng(seed)
    for model in models:
        same, little = rng.random(SHAPE) < 0.5, rng.random(SHAPE) < 0.1
        model[same] = base[same]
        model[little] = (base + np.float32(5e-6))[little]
    return base, models


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("epsilon", [1e-5, 0.1])
def test_ram_adds_what_one_changed_and_averages_what_several_did(count, epsilon):
    base, models = sparse(count, 9)
    ours = merge("ram", models, (1.0,) * count, base=base, epsilon=epsilon)
    np.testing.assert_allclose(ours, reference.ram(models, base, epsilon), rtol=2e-6, atol=2e-7)


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("options", [{}, {"r": 0.7, "alpha": 5.0}, {"r": 1.0, "alpha": 0.0}])
def test_ramplus_scales_what_one_alone_changed(count, options):
    base, models = sparse(count, 10)
    ours = merge("ramplus_tl", models, (1.0,) * count, base=base, **options)
    wanted = reference.ram(models, base, 1e-5, **{"r": 0.1, "alpha": 0.2} | options)
    np.testing.assert_allclose(ours, wanted, rtol=2e-6, atol=2e-7)


def test_ramplus_of_models_that_share_all_is_ram():
    base, models = drawn(2, 3)
    models = [np.where(model == base, base + 1, model) for model in models]
    both = [merge(name, models, (1, 1), base=base) for name in ("ram", "ramplus_tl")]
    np.testing.assert_array_equal(*both)


@pytest.mark.parametrize("t", [0.0, 1e-4, 0.05, 10.0])
def test_nearswap_moves_by_t_and_swaps_what_is_nearer(t):
    base, (model,) = sparse(1, 11)
    ours = merge("nearswap", [model], (1,), base=base, t=t)
    np.testing.assert_allclose(ours, reference.nearswap(model, base, t), rtol=2e-6, atol=2e-7)


@pytest.mark.parametrize("shape", [SHAPE, (40,), (1, 1), (3, 5, 4)])
@pytest.mark.parametrize("size", [1.0, 1e-4])
def test_arcee_fusion_takes_over_what_lies_beyond_the_fence(shape, size):
    base, (model,) = drawn(1, 12, shape, ties=False)
    model = (base + (model - base) * np.random.default_rng(0).exponential(size=shape) ** 3 * size).astype(np.float32)
    ours = merge("arcee_fusion", [model], (1,), base=base)
    wanted, taken = reference.arcee_fusion(model, base)
    np.testing.assert_allclose(ours, wanted, rtol=2e-6, atol=2e-7)
    if base.size > 30:
        assert 0 < taken < base.size / 4


def test_arcee_fusion_takes_blocks_of_rows_as_one(monkeypatch):
    base, (model,) = drawn(1, 13)
    whole = merge("arcee_fusion", [model], (1,), base=base)
    monkeypatch.setattr("interpole.merging.methods.arcee_fusion.BLOCK_ELEMENTS", 50)
    assert merge("arcee_fusion", [model], (1,), base=base).tobytes() == whole.tobytes()


def test_passthrough_takes_and_scales_one_source():
    _, (a, b) = drawn(2)
    np.testing.assert_array_equal(merge("passthrough", [a, b], (0.0, 0.5)), b * np.float32(0.5))
    with pytest.raises(RecipeError, match="one source"):
        merge("passthrough", [a, b], (0.5, 0.5))


def test_linear_cannot_normalise_weights_that_cancel():
    _, models = drawn(2)
    with pytest.raises(RecipeError, match="sum to 0"):
        merge("linear", models, (1.0, -1.0), normalize=True)


# ── identities ───────────────────────────────────────────────────────────────────────────────────────────────────


@settings(max_examples=30)
@given(st.floats(0, 1), st.integers(0, 10**6))
def test_task_arithmetic_is_interpolation_whatever_the_base(lam, seed):
    base, models = drawn(2, seed)
    ours = merge("task_arithmetic", models, (1 - lam, lam), base=base)
    np.testing.assert_allclose(ours, reference.linear(models, (1 - lam, lam)), rtol=0, atol=1e-6)


def test_density_one_is_task_arithmetic():
    base, models = drawn(2)
    plain = merge("task_arithmetic", models, (0.5, 0.8), base=base)
    ones = {"base": base, "density": (1.0, 1.0)}
    np.testing.assert_array_equal(merge("dare_linear", models, (0.5, 0.8), streams=streams(2), **ones), plain)
    np.testing.assert_array_equal(merge("breadcrumbs", models, (0.5, 0.8), gamma=(0.1, 0.1), **ones), plain)
    np.testing.assert_array_equal(
        merge("della_linear", models, (0.5, 0.8), streams=streams(2), epsilon=(0.1, 0.1), **ones), plain
    )


def test_with_ties_and_equal_weights_the_weight_cancels():
    base, models = drawn(2)
    options = {"base": base, "density": (0.2, 0.2)}
    half, whole = (merge("ties", models, (w, w), **options) for w in (0.5, 1.0))
    np.testing.assert_allclose(half, whole, rtol=1e-6)


# ── random masks ─────────────────────────────────────────────────────────────────────────────────────────────────


def philox(counter, key):
    """Philox4x64-10 of Salmon et al. 2011: four words from a counter and a key of two words."""
    mask, words, key = 2**64 - 1, [counter, 0, 0, 0], list(key)
    for _ in range(10):
        a, b = 0xD2E7470EE14C6C93 * words[0], 0xCA5A826395121157 * words[2]
        words = [(b >> 64) ^ words[1] ^ key[0], b & mask, (a >> 64) ^ words[3] ^ key[1], a & mask]
        key = [(key[0] + 0x9E3779B97F4A7C15) & mask, (key[1] + 0xBB67AE8584CAA73B) & mask]
    return words


def test_random_numbers_are_the_same_on_every_machine():
    digest = hashlib.sha256(b"0\0thinking\0model.norm.weight").digest()
    key = [int.from_bytes(digest[i : i + 8], "little") for i in (0, 8)]
    words = [word for counter in (1, 2, 3) for word in philox(counter, key)]
    expected = [half >> 8 for word in words for half in (word & 0xFFFFFFFF, word >> 32)]
    assert expected[:2] == [11291992, 15245654]
    np.testing.assert_array_equal(Stream(0, "thinking", "model.norm.weight").uniform(24) * 2**24, expected)


@given(st.integers(0, 100), st.integers(0, 100))
def test_random_numbers_do_not_depend_on_where_a_tensor_is_cut(start, count):
    whole = Stream(1, "a", "b").uniform(200)
    np.testing.assert_array_equal(Stream(1, "a", "b", start).uniform(count), whole[start : start + count])


def test_random_numbers_are_uniform_and_differ_by_seed_source_and_tensor():
    first = Stream(0, "a", "x").uniform(100_000)
    assert abs(first.mean() - 0.5) < 4 / np.sqrt(12 * 100_000)
    assert first.min() >= 0
    assert first.max() < 1
    for other in (Stream(1, "a", "x"), Stream(0, "b", "x"), Stream(0, "a", "y")):
        assert abs(np.corrcoef(first, other.uniform(100_000))[0, 1]) < 0.02


@pytest.fixture
def trio(tmp_path, pair):
    base = tiny.write(tmp_path / "base", tiny.tensors(2))
    return {"instruct": pair[0], "thinking": pair[1], "base": base}


def recipe(trio, method, **content):
    sources = trio if get_method(method).base != "no" else {k: trio[k] for k in ("instruct", "thinking")}
    if get_method(method).sources[1] == 1 and method != "passthrough":
        sources = {k: trio[k] for k in ("thinking", "base")}
    weighted = {"lambda": 0.4} if get_method(method).uses_weights and method != "passthrough" else {}
    weighted = {"weights": {"thinking": 0.5}} if method == "passthrough" else weighted
    return build({"method": method, "sources": sources} | weighted | content, "test")


@pytest.mark.parametrize("method", METHODS)
def test_every_method_merges_checkpoints_the_same_however_they_are_cut(trio, method):
    merged, name = interpole.merge(recipe(trio, method)), "model.layers.1.mlp.up_proj.weight"
    whole = merged.read(name)
    assert whole.dtype == ml_dtypes.bfloat16
    assert np.isfinite(whole.astype(np.float32)).all()
    pieces = np.concatenate([merged.read(name, i, min(i + 37, whole.size)) for i in range(0, whole.size, 37)])
    assert pieces.tobytes() == whole.tobytes()


@pytest.mark.parametrize("method", ["dare_linear", "dare_ties", "della", "della_linear"])
def test_a_seed_decides_the_masks(trio, method):
    name = "model.layers.0.mlp.up_proj.weight"
    first, again, other = (
        interpole.merge(recipe(trio, method, parameters={"density": 0.5, "seed": s}))[name].tobytes() for s in (0, 0, 1)
    )
    assert first == again != other


def test_masks_stay_when_sources_change_their_order(trio):
    parameters = {"density": 0.5, "seed": 4}
    weights = {"weights": {"thinking": 0.5, "instruct": 0.5}}
    turned = {k: trio[k] for k in ("base", "thinking", "instruct")}
    merged = [
        interpole.merge(build({"method": "dare_linear", "sources": s, "parameters": parameters} | weights, "test"))[
            "model.norm.weight"
        ].astype(np.float32)
        for s in (trio, turned)
    ]
    np.testing.assert_allclose(*merged, rtol=0.01)


# ── parameters in recipes ────────────────────────────────────────────────────────────────────────────────────────


def coefficients(trio, method, name="model.layers.1.self_attn.q_proj.weight", **content):
    merged = interpole.merge(recipe(trio, method, **content))
    return dict(merged.coefficients(name).parameters)


def test_sparsity_is_one_minus_density(trio):
    assert coefficients(trio, "ties", parameters={"sparsity": 0.2})["density"] == (0.8, 0.8)
    with pytest.raises(RecipeError, match="density"):
        recipe(trio, "ties", parameters={"sparsity": 0.2, "density": 0.8})


def test_each_source_and_each_layer_may_have_its_own_density(trio):
    parameters = {"density": {"instruct": [0.0, 1.0], "thinking": 0.3}}
    assert coefficients(trio, "ties", parameters=parameters)["density"] == (0.5, 0.3)


def test_a_rule_changes_one_source_and_leaves_the_other_to_later_rules(trio):
    rules = [
        {"kind": "attention", "parameters": {"density": {"thinking": 0.1}}},
        {"layers": "1", "parameters": {"density": 0.7}},
    ]
    assert coefficients(trio, "ties", rules=rules, parameters={"scale": 2})["density"] == (0.7, 0.1)


@pytest.mark.parametrize(
    ("method", "parameters", "word"),
    [
        ("ties", {"density": 1.5}, "between 0 and 1"),
        ("ties", {"density": "most"}, "finite number"),
        ("ties", {"density": [0.1, 2]}, "between"),
        ("ties", {"density": {"coder": 0.1}}, "instruct, thinking"),
        ("ties", {"normalize": 1}, "false or true"),
        ("ties", {"scale": {"instruct": 1}}, "one value"),
        ("ties", {"normalize": [True, False]}, "not a single value"),
        ("ties", {"density": []}, "finite number"),
        ("ties", {"gamma": 0.1}, "no parameter 'gamma'"),
        ("dare_linear", {"seed": 0.5}, "whole number"),
        ("nuslerp", {"along": "diagonals"}, "tensor or rows"),
        ("linear", {"normalize": "yes"}, "false or true"),
    ],
)
def test_parameters_that_make_no_sense_are_refused_by_name(trio, method, parameters, word):
    with pytest.raises(RecipeError, match=word):
        recipe(trio, method, parameters=parameters)


def test_methods_say_how_many_models_they_take(trio):
    three = {"a": trio["instruct"], "b": trio["thinking"], "c": trio["base"]}
    with pytest.raises(RecipeError, match="slerp merges 2 models, got 3"):
        build({"method": "slerp", "sources": three, "weights": {"a": 1}}, "test")
    with pytest.raises(RecipeError, match="2 or more models, got 1"):
        build({"method": "model_stock", "sources": {"a": "x", "base": "y"}}, "test")


def test_methods_with_their_own_weights_refuse_others(trio):
    with pytest.raises(RecipeError, match="finds its own weights"):
        recipe(trio, "sce", **{"lambda": 0.5})


def test_a_base_is_refused_where_it_would_be_ignored(trio):
    with pytest.raises(RecipeError, match="takes no base"):
        build({"method": "linear", "sources": trio, "lambda": 0.5}, "test")
    with pytest.raises(RecipeError, match="source named `base`"):
        Recipe.between(trio["instruct"], trio["thinking"], 0.5, method="ties")


def test_three_specialists_on_a_simplex(trio):
    sources = {"instruct": trio["instruct"], "thinking": trio["thinking"], "coder": trio["base"]}
    weights = {"instruct": 0.2, "thinking": 0.5, "coder": 0.3}
    merged, name = interpole.merge(build({"sources": sources, "weights": weights}, "test")), "model.norm.weight"
    inputs = [interpole.open(path)[name].astype(np.float32) for path in sources.values()]
    expected = reference.linear(inputs, (0.2, 0.5, 0.3)).astype(np.float32).astype(ml_dtypes.bfloat16)
    np.testing.assert_allclose(merged[name].astype(np.float32), expected.astype(np.float32), rtol=2**-8)
