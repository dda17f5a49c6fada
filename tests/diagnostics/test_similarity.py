"""σ and kinship against plain float64 sums over whole tensors, which is the slow and obvious way."""

import math

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tiny
from bench import call
from interpole.checkpoints import reduce as sums
from interpole.checkpoints.checkpoint import open_checkpoint
from interpole.diagnostics.similarity import VARIANTS, compare
from interpole.errors import AnalysisError, MismatchError
from interpole.merging.merged import merge
from interpole.merging.recipe import Recipe

DTYPES = (ml_dtypes.bfloat16, np.float16, np.float32, np.float64)


def exact(array):
    return np.asarray(array).astype(np.float64).ravel()


def slow_sigma(a, b):
    a, b = exact(a), exact(b)
    return np.abs(a - b).sum() / (np.abs(a).sum() + np.abs(b).sum())


def flat(weights):
    return np.concatenate([exact(weights[name]) for name in sorted(weights)])


@pytest.fixture
def near(tmp_path):
    """(weights, checkpoint) of an Instruct, a Thinking and the base that both moved a little from."""
    rng = np.random.default_rng(7)
    base = tiny.tensors(0)

    def moved():
        return {
            name: (w.astype(np.float32) + 0.1 * rng.normal(size=w.shape)).astype(w.dtype) for name, w in base.items()
        }

    weights = {"base": base, "instruct": moved(), "thinking": moved()}
    return weights, {name: open_checkpoint(tiny.write(tmp_path / name, w)) for name, w in weights.items()}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [0, 1, 2, 1023, 1024, 5000, 5001])
def test_the_sums_of_sigma_equal_float64_sums_for_every_dtype_and_length(dtype, size):
    rng = np.random.default_rng(size)
    a, b = (rng.normal(size=size).astype(dtype) for _ in range(2))
    before = a.tobytes()
    found = sums.absolute_sums(a, b)
    expected = [np.abs(exact(a) - exact(b)).sum(), np.abs(exact(a)).sum(), np.abs(exact(b)).sum()]
    assert list(found) == pytest.approx(expected, rel=2e-6)
    assert a.tobytes() == before


def test_sums_of_mixed_dtypes_pair_the_right_elements():
    a = np.arange(100, dtype=np.float32).astype(ml_dtypes.bfloat16)
    assert sums.absolute_sums(a, a.astype(np.float32)).difference == 0
    assert sums.absolute_sums(a, a.astype(np.float16) + np.float16(1)).difference == 100


@given(st.lists(st.tuples(st.floats(-1e4, 1e4, width=16), st.floats(-1e4, 1e4, width=16)), max_size=50))
@settings(max_examples=60)
def test_sigma_is_symmetric_within_zero_and_one_and_scale_free(pairs):
    a, b = (np.array([pair[i] for pair in pairs], np.float32) for i in (0, 1))
    sigma = sums.absolute_sums(a, b).sigma
    assert 0 <= sigma <= 1 + 1e-6
    assert sums.absolute_sums(b, a).sigma == pytest.approx(sigma, rel=1e-6)
    assert sums.absolute_sums(a * 4, b * 4).sigma == pytest.approx(sigma, rel=1e-6)


def test_independent_models_of_one_scale_differ_by_141_per_cent():
    rng = np.random.default_rng(0)
    a, b = (rng.normal(size=200_000).astype(np.float32) for _ in range(2))
    assert sums.absolute_sums(a, b).relative_change == pytest.approx(math.sqrt(2), abs=0.01)


def test_the_three_sigmas_are_what_their_definitions_say(near):
    weights, checkpoints = near
    a, b = weights["instruct"], weights["thinking"]
    result = compare(checkpoints["instruct"], checkpoints["thinking"])
    in_layers = [name for name in a if ".layers." in name]
    matrices = [name for name in in_layers if "norm" not in name]
    assert len(matrices) < len(in_layers) < len(a)
    for variant, names in (("matrices", matrices), ("layer_tensors", in_layers)):
        expected = np.mean([slow_sigma(a[name], b[name]) for name in names])
        assert result.sigma(variant) == pytest.approx(expected, rel=1e-5)
    assert result.sigma("global") == pytest.approx(slow_sigma(flat(a), flat(b)), rel=1e-5)


def test_an_unknown_variant_is_refused_with_the_known_ones(near):
    _, checkpoints = near
    result = compare(checkpoints["instruct"], checkpoints["thinking"])
    with pytest.raises(AnalysisError, match="layer_tensors"):
        result.sigma("mean")
    with pytest.raises(AnalysisError, match="tensor"):
        result.rows("row")


def test_rows_by_kind_layer_and_tensor_pool_the_right_tensors(near):
    weights, checkpoints = near
    a, b = weights["instruct"], weights["thinking"]
    result = compare(checkpoints["instruct"], checkpoints["thinking"])

    def pooled(part):
        names = [name for name in a if part in name]
        return slow_sigma(flat({n: a[n] for n in names}), flat({n: b[n] for n in names}))

    by_kind = {key: sigma for key, _, sigma, _ in result.rows("kind")}
    assert by_kind["attention"] == pytest.approx(pooled("self_attn"), rel=1e-5)
    assert by_kind["ffn"] == pytest.approx(pooled("mlp"), rel=1e-5)
    by_layer = {key: sigma for key, _, sigma, _ in result.rows("layer")}
    assert list(by_layer) == ["layer 0", "layer 1", "layer 2", "outside"]
    assert by_layer["layer 1"] == pytest.approx(pooled("layers.1."), rel=1e-5)
    assert sum(size for _, size, _, _ in result.rows("tensor")) == sum(w.size for w in a.values())
    cells = {(cell.layer, cell.kind): cell.sigma for cell in result.cells()}
    assert cells[2, "ffn"] == pytest.approx(pooled("layers.2.mlp"), rel=1e-5)
    assert (None, "embedding") in cells


def test_kinship_equals_numpy_on_the_concatenated_deltas(near):
    weights, checkpoints = near
    result = compare(checkpoints["instruct"], checkpoints["thinking"], checkpoints["base"])
    base = flat(weights["base"])
    x, y = flat(weights["instruct"]) - base, flat(weights["thinking"]) - base
    assert result.kinship.pearson == pytest.approx(np.corrcoef(x, y)[0, 1], abs=1e-6)
    assert result.kinship.cosine == pytest.approx(x @ y / np.linalg.norm(x) / np.linalg.norm(y), abs=1e-6)
    assert result.kinship.euclidean == pytest.approx(np.linalg.norm(x - y), rel=1e-5)
    without = compare(checkpoints["instruct"], checkpoints["thinking"])
    assert without.kinship is None
    assert without.sigma("global") == pytest.approx(result.sigma("global"), rel=1e-6)


def test_kinship_of_a_model_with_itself_is_one_and_with_its_base_undefined(near):
    _, checkpoints = near
    instruct, base = checkpoints["instruct"], checkpoints["base"]
    same = compare(instruct, instruct, base)
    assert same.kinship.cosine == pytest.approx(1)
    assert same.kinship.euclidean == same.sigma("global") == 0
    assert math.isnan(compare(instruct, base, base).kinship.cosine)
    assert compare(instruct, base, base).to_json()["kinship"]["cosine"] is None


def test_neither_threads_nor_the_size_of_spans_show_in_the_result(near, monkeypatch):
    _, checkpoints = near
    pair = checkpoints["instruct"], checkpoints["thinking"], checkpoints["base"]
    once = compare(*pair, threads=1)
    monkeypatch.setattr(sums, "SPAN_ELEMENTS", 128)
    monkeypatch.setattr(sums, "PIECE_ELEMENTS", 64)
    split = compare(*pair, threads=5)
    assert compare(*pair, threads=2) == split
    for one, other in zip(once.tensors, split.tensors, strict=True):
        assert other.sums == pytest.approx(one.sums, rel=1e-6)


def test_a_merge_can_be_compared_without_being_written(near):
    _, checkpoints = near
    sources = {name: checkpoints[name] for name in ("instruct", "thinking")}
    halfway = merge(Recipe.between("instruct", "thinking", 0.25), sources)
    whole = compare(sources["instruct"], sources["thinking"]).tensors[0]
    part = compare(sources["instruct"], halfway).tensors[0]
    assert part.sums.difference == pytest.approx(0.25 * whole.sums.difference, rel=0.02)


def test_progress_counts_every_byte_of_the_first_once(near):
    _, checkpoints = near
    read = []
    compare(*checkpoints.values(), progress=read.append)
    assert sum(read) == checkpoints["instruct"].num_bytes


def test_checkpoints_that_do_not_fit_are_refused_with_both_sides(near, tmp_path):
    _, checkpoints = near
    other = open_checkpoint(tiny.write(tmp_path / "deeper", tiny.tensors(0, layers=4)))
    with pytest.raises(MismatchError, match="only in"):
        compare(checkpoints["instruct"], other)
    with pytest.raises(MismatchError, match="only in"):
        compare(checkpoints["instruct"], checkpoints["thinking"], other)


def test_tensors_that_sigma_is_not_defined_for_are_named(tmp_path):
    weights = tiny.tensors(0) | {"model.layers.0.self_attn.rotary": np.arange(4)}
    a, b = (open_checkpoint(tiny.write(tmp_path / name, weights)) for name in "ab")
    assert compare(a, b).left_out == (("model.layers.0.self_attn.rotary", "integers"),)


def test_a_reading_error_in_a_thread_reaches_the_caller_and_stops_the_rest(near):
    _, checkpoints = near
    calls = []

    def failing(*_pieces):
        calls.append(1)
        raise ValueError("broken piece")

    pair = [checkpoints["instruct"], checkpoints["thinking"]]
    with pytest.raises(ValueError, match="broken piece"):
        sums.sum_tensors(pair, list(pair[0]), failing, threads=2)
    assert len(calls) <= 2


def test_json_holds_the_three_sigmas_and_the_tables(near):
    _, checkpoints = near
    result = compare(checkpoints["instruct"], checkpoints["thinking"], checkpoints["base"])
    content = result.to_json()
    assert content["sigma"]["matrices"] == result.sigma("matrices")
    assert len(content["by_tensor"]) == len(result.tensors)
    assert content["by_kind"][0]["kinship"]["pearson"] == pytest.approx(result.rows()[0][3].pearson)


@pytest.mark.parametrize("with_base", [False, True])
def test_a_tensor_with_nan_or_infinity_is_left_out_with_its_count_and_every_figure_is_that_of_the_rest(
    tmp_path, with_base
):
    weights = [tiny.tensors(seed) for seed in (1, 2, 3)]
    name = "model.layers.1.mlp.up_proj.weight"
    rest = [{key: array for key, array in tensors.items() if key != name} for tensors in weights]
    weights[1][name] = weights[1][name].copy()
    weights[1][name][0, :3] = [np.nan, np.inf, -np.inf]
    sides = [open_checkpoint(tiny.write(tmp_path / f"s{i}", tensors)) for i, tensors in enumerate(weights)]
    others = [open_checkpoint(tiny.write(tmp_path / f"r{i}", tensors)) for i, tensors in enumerate(rest)]
    count = 3 if with_base else 2
    found, expected = compare(*sides[:count]), compare(*others[:count])
    assert found.left_out == ((name, f"3 NaN or infinite in {sides[1].label}"),)
    assert [found.sigma(variant) for variant in VARIANTS] == [expected.sigma(variant) for variant in VARIANTS]
    assert found.kinship == expected.kinship


def test_a_table_that_there_is_not_is_refused_before_anything_is_read():
    with pytest.raises(AnalysisError, match="choose kind, layer, tensor"):
        call("similarity", "no/such", "no/such", "--by", "tensors")
