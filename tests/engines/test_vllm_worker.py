"""What a vLLM worker is fed, tested without vLLM: the same bits as the merge, and a checksum of them."""

import numpy as np
import pytest

import tiny
from interpole.checkpoints.checkpoint import open_checkpoint
from interpole.merging.merged import merge
from interpole.merging.recipe import Recipe

torch = pytest.importorskip("torch")

from interpole.engines.stream import tensors  # noqa: E402
from interpole.engines.vllm_worker import checksum, pieces  # noqa: E402

CPU = torch.device("cpu")
RULES = {
    "the whole model": [],
    "a layer range": [{"layers": "0", "lambda": 0.0}],
    "a gradient": [{"kind": "ffn", "lambda": [0.1, 0.9]}],
}


def same_bits(tensor, array):
    return np.array_equal(tensor.contiguous().view(torch.uint8).numpy().ravel(), array.view(np.uint8).ravel())


@pytest.mark.parametrize("rules", RULES.values(), ids=RULES)
@pytest.mark.parametrize("lam", [0.0, 0.3, 0.5, 0.7777, 1.0])
def test_the_stream_equals_the_merge_bit_for_bit(pair, lam, rules):
    merged = merge(Recipe.between(*pair, lam, rules=rules))
    streamed = dict(tensors(merged, CPU))
    assert list(streamed) == list(merged)
    for name, tensor in streamed.items():
        assert tuple(tensor.shape) == merged.specs[name].shape
        assert same_bits(tensor, merged[name]), name


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_the_stream_equals_the_merge_in_other_dtypes(pair, dtype):
    merged = merge(Recipe.between(*pair, 0.4, dtype=dtype))
    assert all(same_bits(tensor, merged[name]) for name, tensor in tensors(merged, CPU))


def test_a_method_that_is_no_sum_is_streamed_too(pair):
    merged = merge(Recipe.between(*pair, 0.4, method="slerp"))
    assert merged.terms("model.embed_tokens.weight") is None
    assert all(same_bits(tensor, merged[name]) for name, tensor in tensors(merged, CPU))


def test_sums_are_read_from_the_files_and_not_from_the_merge(pair, monkeypatch):
    merged = merge(Recipe.between(*pair, 0.4))
    monkeypatch.setattr(type(merged), "read", None)
    assert len(dict(tensors(merged, CPU))) == len(merged)


@pytest.mark.parametrize("whole", [False, True])
def test_a_checksum_tells_weights_apart(tmp_path, whole):
    arrays = tiny.tensors(0)
    a = open_checkpoint(tiny.write(tmp_path / "a", arrays))
    same = open_checkpoint(tiny.write(tmp_path / "same", tiny.tensors(0), shards=2))
    name = "model.embed_tokens.weight"
    changed = arrays | {name: arrays[name].copy()}
    changed[name].flat[-1] += 1
    b = open_checkpoint(tiny.write(tmp_path / "b", changed))
    assert checksum(a, whole) == checksum(merge(Recipe.between(tmp_path / "a", tmp_path / "b", 0.0)), whole)
    assert checksum(a, whole) != checksum(b, whole)
    assert sorted(same) != list(same) or checksum(a, whole) == checksum(same, whole)


@pytest.mark.parametrize("num_elements", [0, 1, 256, 257, 1000, 70_000, 200_001])
def test_the_pieces_of_a_checksum_lie_inside_and_cover_both_ends(num_elements):
    whole = pieces(num_elements, True)
    assert [i for start, stop in whole for i in (start, stop)] == sorted(i for piece in whole for i in piece)
    assert sum(stop - start for start, stop in whole) == num_elements
    some = pieces(num_elements, False)
    assert all(0 <= start < stop <= num_elements for start, stop in some)
    assert not num_elements or (some[0][0], some[-1][1]) == (0, num_elements)
    assert sum(stop - start for start, stop in some) == min(num_elements, 256)
