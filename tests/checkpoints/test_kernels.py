"""The loops in C give numpy's bits, for every bfloat16 there is; without them numpy does the same work."""

import math
import sys
from shutil import which

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import interpole
import interpole.diagnostics.audit
from interpole.checkpoints import kernels
from interpole.checkpoints.reduce import absolute_sums
from interpole.merging.methods.linear import linear
from interpole.merging.recipe import Recipe

needs_c = pytest.mark.skipif(kernels._kernels is None, reason="installed without a C compiler")

ALL = np.arange(1 << 16, dtype=np.uint16).view(ml_dtypes.bfloat16)
SHUFFLED = ALL[np.random.default_rng(0).permutation(ALL.size)]


def by_numpy(inputs, weights):
    with np.errstate(all="ignore"):
        return linear([x.astype(np.float32) for x in inputs], weights).astype(ml_dtypes.bfloat16)


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
        same = found.view(np.uint16) == expected.view(np.uint16)
        same |= np.isnan(found.astype(np.float32)) & np.isnan(
            expected.astype(np.float32)
        )  # whose sign IEEE leaves open
        assert found.dtype == ml_dtypes.bfloat16
        assert same.all()


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
    assert kernels.weighted_sum([np.zeros(8, np.float32)], [1.0]) is None
    assert kernels.weighted_sum([SHUFFLED[::2]], [1.0]) is None
    assert kernels.weighted_sum([ALL] * 17, [1 / 17] * 17) is None


def test_without_a_compiler_merges_and_sums_are_the_same(pair, monkeypatch):
    a, b = map(interpole.open, pair)
    recipe = Recipe.between(*pair, 0.3)
    fast = {name: tensor.tobytes() for name, tensor in interpole.merge(recipe).items()}
    name = "model.embed_tokens.weight"
    sums = absolute_sums(a.read(name), b.read(name))
    monkeypatch.setattr(kernels, "_kernels", None)
    assert {name: tensor.tobytes() for name, tensor in interpole.merge(recipe).items()} == fast
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
