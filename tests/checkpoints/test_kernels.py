"""The loops in C give numpy's bits, for every bfloat16 there is; without them numpy does the same work."""

import math
import sys
from contextlib import ExitStack
from pathlib import Path
from shutil import which
from types import SimpleNamespace

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import interpole
import interpole.diagnostics.audit
import tiny
from interpole.checkpoints import kernels
from interpole.checkpoints.reduce import absolute_sums
from interpole.merging.methods import get_method
from interpole.merging.methods.linear import linear
from interpole.merging.recipe import build

needs_c = pytest.mark.skipif(kernels._kernels is None, reason="installed without a C compiler")

needs_files = pytest.mark.skipif(not hasattr(kernels._kernels, "sum_files"), reason="no C compiler, or no pread")

ALL = np.arange(1 << 16, dtype=np.uint16).view(ml_dtypes.bfloat16)
SHUFFLED = ALL[np.random.default_rng(0).permutation(ALL.size)]


def by_numpy(inputs, weights):
    with np.errstate(all="ignore"):
        return linear([x.astype(np.float32) for x in inputs], weights).astype(ml_dtypes.bfloat16)


def same_bits(found, expected):
    """Equal bits, or NaN in both, whose sign IEEE leaves open."""
    same = found.view(np.uint16) == expected.view(np.uint16)
    return same | np.isnan(found.astype(np.float32)) & np.isnan(expected.astype(np.float32))


def both_ways(method, tensors, weights, base, **options):
    """A method on task vectors by its loop in C, and by numpy with one rounding."""
    found = get_method(method).rounded(tensors, weights, base=base, **options)
    wide = [x.astype(np.float32) for x in (*tensors, base)]
    with np.errstate(all="ignore"):
        expected = get_method(method).merge(wide[:-1], weights, base=wide[-1], **options)
        return found, expected.astype(ml_dtypes.bfloat16)


@pytest.mark.skipif(not which("cc"), reason="no C compiler")
def test_where_there_is_a_compiler_the_loops_are_built():
    assert kernels._kernels is not None


@needs_c
@given(
    st.lists(st.floats(-3, 3) | st.sampled_from([0.0, 1.0, 1e-30, 1e30]), min_size=1, max_size=4), st.integers(1, 4099)
)
def test_a_weighted_sum_has_numpys_bits_for_every_number(weights, size):
    inputs = [np.roll(SHUFFLED if k else ALL, 7 * k) for k in range(len(weights))]
    for part in (slice(None), slice(size, 2 * size)):
        pieces = [x[part] for x in inputs]
        found = kernels.weighted_sum(pieces, weights)
        expected = by_numpy(pieces, weights)
        assert found.dtype == ml_dtypes.bfloat16
        assert same_bits(found, expected).all()


@pytest.fixture
def files(tmp_path):
    """Descriptors of a file to write and of two that hold 150,000 numbers each after a few bytes, and the numbers."""
    numbers = np.random.default_rng(1).normal(size=(2, 150_000)).astype(ml_dtypes.bfloat16)
    paths = [tmp_path / name for name in ("out", "a", "b")]
    for path, begin in zip(paths, [b"", b"x" * 6, b"y" * 11 + numbers[1].tobytes()], strict=True):
        path.write_bytes(begin)
    with paths[1].open("ab") as file:
        file.write(numbers[0].tobytes())
    with ExitStack() as opened:
        yield [opened.enter_context(path.open("r+b")) for path in paths], numbers


def summed(files, out=None):
    (to, a, b), _ = files
    places = [(a.fileno(), 6), (b.fileno(), 11)]
    return kernels.sum_files(places, (0.3, 0.7), (to.fileno() if out is None else out, 3), 150_000)


@needs_files
def test_a_sum_over_files_has_numpys_bits_and_touches_nothing_beside_it(files):
    (out, a, _), numbers = files
    out.write(b"." * 300_010)
    out.flush()
    assert summed(files) == 150_000
    out.seek(0)
    assert out.read() == b"..." + by_numpy(numbers, (0.3, 0.7)).tobytes() + b"." * 7
    places = [(a.fileno(), 6 + 2 * k) for k in range(3)]
    assert kernels.sum_files(places, (1, -0.5, 2), (out.fileno(), 0), 9) == 9
    out.seek(0)
    assert out.read(18) == by_numpy([numbers[0][k : k + 9] for k in range(3)], (1, -0.5, 2)).tobytes()


@needs_files
@pytest.mark.parametrize("fault", ["short", "not finite", "not to be written"])
def test_a_sum_over_files_ends_before_the_piece_that_it_cannot_write(files, fault):
    (out, a, b), numbers = files
    if fault == "short":
        b.truncate(11 + 2 * 140_000)
    elif fault == "not finite":
        a.seek(6 + 2 * 149_999)
        a.write(np.array([np.inf], ml_dtypes.bfloat16).tobytes())
        a.flush()
    else:
        with Path(out.name).open("rb") as read_only:
            assert summed(files, out=read_only.fileno()) == 0
        return
    written = summed(files)
    assert 0 < written <= 140_000
    out.seek(0)
    assert out.read()[3:] == by_numpy(numbers[:, :written], (0.3, 0.7)).tobytes()


WEIGHTS = st.floats(-3, 3, width=32) | st.sampled_from([0.0, -0.0, 1.0, 1e-9, 1e-30, 1e30])
SCALES = st.sampled_from([0.0, 0.5, 1.0, -1.7, 1e38])
# for a vote with many equal magnitudes: zeros of both signs, subnormals, and what becomes infinite
FEW = np.array([0, -0.0, 1, -1, 1.5, -2, 1e-40, -1e-40, 3e38, -3e38], np.float32).astype(ml_dtypes.bfloat16)


@needs_c
@settings(max_examples=40)
@given(st.lists(WEIGHTS, min_size=1, max_size=4), st.integers(1, 4099), st.booleans(), SCALES)
def test_task_vectors_have_numpys_bits_for_every_number(weights, size, normalize, scale):
    tensors = [np.roll(SHUFFLED if k else ALL, 7 * k) for k in range(len(weights))]
    base = np.roll(SHUFFLED, -size)
    for part in (slice(None), slice(size, 2 * size)):
        pieces = [x[part] for x in tensors]
        found, expected = both_ways("task_arithmetic", pieces, weights, base[part], normalize=normalize, scale=scale)
        assert found.dtype == ml_dtypes.bfloat16
        assert same_bits(found, expected).all()


@needs_c
@settings(max_examples=40)
@given(
    st.lists(st.tuples(WEIGHTS, st.sampled_from([0.0, 0.2, 0.5, 0.8, 0.999, 1.0])), min_size=1, max_size=3),
    st.integers(0, 4099),
    st.sampled_from(["every number", "few", "near", "finite"]),
    st.booleans(),
    SCALES,
)
def test_ties_has_numpys_bits_for_every_number_and_for_equal_magnitudes(models, size, kind, normalize, scale):
    weights, density = zip(*models, strict=True)
    rng = np.random.default_rng(size)
    if kind == "few":
        base, *tensors = (rng.choice(FEW, size) for _ in range(len(models) + 1))
    elif kind == "near":  # as models are: most differences are a step of bfloat16 or none
        codes = rng.integers(0x3C00, 0x3D00, size)
        base, *tensors = ((codes + rng.integers(-1, 2, size) * k).astype(np.uint16) for k in range(len(models) + 1))
        base, *tensors = (x.view(ml_dtypes.bfloat16) for x in (base, *tensors))
    else:
        numbers = SHUFFLED if kind == "every number" else SHUFFLED[np.isfinite(SHUFFLED.astype(np.float32))]
        base, *tensors = (np.roll(numbers, 7 * k * k + size) for k in range(len(models) + 1))
    found, expected = both_ways("ties", tensors, weights, base, density=density, normalize=normalize, scale=scale)
    assert same_bits(found, expected).all()


@needs_c
@given(st.integers(0, 3000), st.integers(1, 40), st.integers(-1, 40), st.integers(0, 40))
def test_what_lies_in_a_band_of_magnitudes_is_counted_and_kept_in_order(size, distinct, low, width):
    rng = np.random.default_rng(size)
    x, base = (rng.choice(rng.normal(size=distinct), size).astype(ml_dtypes.bfloat16) for _ in range(2))
    bits = np.abs(x.astype(np.float32) - base.astype(np.float32)).view(np.int32)
    places = [-1, *sorted(set(bits.tolist())), 2**31 - 1]
    first = min(max(0, low), len(places) - 2)
    low, high = places[first], places[min(first + 1 + width, len(places) - 1)]
    above, at_high, inside, at_low = kernels.magnitude_band(x, base, low, high)
    assert (above, at_high, at_low) == (np.sum(bits > high), np.sum(bits == high), np.sum(bits == low))
    np.testing.assert_array_equal(inside, bits[(bits > low) & (bits < high)])


@needs_c
@given(st.integers(0, 5000))
def test_absolute_sums_are_those_of_exact_arithmetic(size):
    a, b = (np.random.default_rng(s).normal(size=size).astype(ml_dtypes.bfloat16) for s in (1, 2))
    x, y = a.astype(float), b.astype(float)
    exact = [math.fsum(np.abs(part)) for part in (x - y, x, y)]
    assert kernels.absolute_sums(a, b) == pytest.approx(exact, rel=1e-6)


@needs_c
def test_what_does_not_fit_is_refused_by_the_module_and_left_to_numpy_by_its_wrapper():
    codes = np.zeros(8, np.uint16)
    for wrong in [((codes, codes[:4]), (0.5, 0.5), codes), ((codes,), (0.5, 0.5), codes), ((), (), codes)]:
        with pytest.raises(ValueError, match="needed"):
            kernels._kernels.weighted_sum(*wrong)
    with pytest.raises((ValueError, BufferError)):
        kernels._kernels.weighted_sum((codes,), (1.0,), bytes(16))
    for wrong in [
        ((codes,), (1.0,), (), False, 1.0, codes[:4], codes),
        ((codes,), (1.0,), ((0, 0),) * 2, False, 1.0, codes, codes),
    ]:
        with pytest.raises(ValueError, match="needed"):
            kernels._kernels.task_vector_sum(*wrong)
    for wrong in [(codes, codes[:4], 0, 1, np.zeros(8, np.int32)), (codes, codes, 0, 1, np.zeros(7, np.int32))]:
        with pytest.raises(ValueError, match="needed"):
            kernels._kernels.magnitude_band(*wrong)
    half, wide = ALL[:8], np.zeros(8, np.float32)
    assert kernels.task_vector_sum([half], wide, [1.0]) is kernels.task_vector_sum([wide], half, [1.0]) is None
    assert kernels.magnitude_band(half, wide, 1, 2) is None
    assert get_method("ties").rounded([half], (1.0,), base=half, density=(0.5,), rescale=True) is None
    assert kernels.weighted_sum([np.zeros(8, np.float32)], [1.0]) is None
    assert kernels.weighted_sum([SHUFFLED[::2]], [1.0]) is None
    assert kernels.weighted_sum([ALL] * 17, [1 / 17] * 17) is None


@pytest.mark.parametrize("method", ["linear", "task_arithmetic", "ties"])
@pytest.mark.parametrize(
    "earlier", [False, pytest.param(True, marks=needs_c)], ids=["no loops", "those of an earlier version"]
)
def test_without_the_loops_merges_are_the_same(pair, monkeypatch, method, earlier):
    sources = dict(zip("ab", map(str, pair), strict=True))
    if method != "linear":
        sources["base"] = str(tiny.write(pair[0].parent / "base", tiny.tensors(2)))
    parameters = {"density": 0.6} if method == "ties" else {}
    content = {"method": method, "sources": sources, "weights": {"a": 0.3, "b": 0.7}, "parameters": parameters}
    recipe = build(content, "test")
    fast = {name: tensor.tobytes() for name, tensor in interpole.merge(recipe).items()}
    built = SimpleNamespace(weighted_sum=kernels._kernels.weighted_sum) if earlier else None
    monkeypatch.setattr(kernels, "_kernels", built)
    assert {name: tensor.tobytes() for name, tensor in interpole.merge(recipe).items()} == fast


def test_without_a_compiler_sums_are_the_same(pair, monkeypatch):
    a, b = map(interpole.open, pair)
    name = "model.embed_tokens.weight"
    sums = absolute_sums(a.read(name), b.read(name))
    monkeypatch.setattr(kernels, "_kernels", None)
    assert absolute_sums(a.read(name), b.read(name)) == pytest.approx(sums, rel=1e-6)


@pytest.mark.parametrize("size", [0, 1, 15, 16, 1023, 1040, 70_001])
def test_the_products_of_an_audit_are_float64s_with_and_without_the_loop(size, monkeypatch):
    rng = np.random.default_rng(size)
    a = rng.normal(size=size).astype(ml_dtypes.bfloat16)
    b = (a + 0.1 * rng.normal(size=size)).astype(ml_dtypes.bfloat16)
    merged = np.where(rng.random(size) < 0.3, a, (0.4 * a.astype(float) + 0.6 * b.astype(float)).astype(a.dtype))
    merged[: size // 9] *= -0.0  # zeros of both signs are one number
    a[: size // 9] *= 0.0
    wide, wide_a, wide_b = (array.astype(np.float64) for array in (merged, a, b))
    e, d = wide - wide_a, wide_b - wide_a
    exact = [e @ e, e @ d, e @ wide_a, d @ d, d @ wide_a, wide_a @ wide_a]
    differing = [np.sum(wide != wide_a), np.sum(wide != wide_b)]
    moments = sys.modules["interpole.diagnostics.audit.estimate"]
    for loop in (kernels.line_products, lambda *_: None):
        monkeypatch.setattr(moments, "line_products", loop)
        found = moments.moments(merged, a, b)
        np.testing.assert_allclose(found[:6], exact, rtol=2e-5, atol=1e-4)
        assert found[6:] == differing


@pytest.mark.parametrize("weights", [(0.4, 0.6), (-0.4, -0.6), (1.5, -0.5), (math.inf, 0.0)])
@pytest.mark.parametrize("size", [1, 15, 1040, 5000])
def test_an_audit_counts_the_weights_that_differ_in_a_bit_from_the_sum_with_and_without_the_loop(
    size, weights, monkeypatch
):
    rng = np.random.default_rng(size)
    a, b = (
        rng.integers(0, 1 << 16, size, np.uint16).view(ml_dtypes.bfloat16) for _ in range(2)
    )  # NaN and infinity too
    a[:3], b[:3] = -0.0, 0.0
    first, second = map(np.float32, weights)
    with np.errstate(all="ignore"):
        merged = (a.astype(np.float32) * first + b.astype(np.float32) * second).astype(a.dtype)
        merged.view(np.uint16)[::7] ^= 1
        odd = -(-size // 7)
        merged.view(np.uint16)[1:2] ^= 0x8000  # a zero of the other sign, where the sum is one
        moments = sys.modules["interpole.diagnostics.audit.estimate"]
        for loop in (kernels.line_products, lambda *_: None):
            monkeypatch.setattr(moments, "line_products", loop)
            found = moments.moments(merged, a, b, weights=weights)
            assert found[6:] == [*(np.sum(merged.astype(float) != x.astype(float)) for x in (a, b)), odd + (size > 1)]
