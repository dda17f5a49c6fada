"""Fingerprints: other weights have another, the same weights the same whatever their files, and a model is read once."""

import os

import numpy as np
import pytest

import interpole
import tiny
from interpole.checkpoints import fingerprint as module
from interpole.checkpoints import kernels
from interpole.checkpoints.checkpoint import Tensors, open_checkpoint
from interpole.checkpoints.fingerprint import BLOCK_BYTES, block_sums


def test_sums_of_blocks_are_those_of_whole_numbers_in_python_with_and_without_the_loop_in_c(monkeypatch):
    data = np.random.default_rng(0).integers(0, 256, 2 * BLOCK_BYTES + 1001, dtype=np.uint8)
    padded = data.tobytes() + bytes(-len(data) % BLOCK_BYTES)
    keys = [int(key) for key in module._KEYS]

    def word(at):
        return (int.from_bytes(padded[at : at + 4], "little") + keys[at % BLOCK_BYTES // 4]) % 2**32

    half = BLOCK_BYTES // 2
    starts = range(0, len(padded), BLOCK_BYTES)
    expected = [sum(word(at) * word(at + half) for at in range(s, s + half, 4)) % 2**64 for s in starts]
    assert block_sums(data).tolist() == expected
    monkeypatch.setattr(kernels, "_kernels", None)
    assert block_sums(data).tolist() == expected


def test_one_retrained_row_of_a_large_tensor_changes_the_fingerprint(tmp_path):
    weights = tiny.tensors(0, vocab=3000, hidden=64)
    before = open_checkpoint(tiny.write(tmp_path / "before", weights)).fingerprint()
    seen = {before}
    for row in (0, 1234, 1235, 2999):
        changed = weights | {"model.embed_tokens.weight": weights["model.embed_tokens.weight"].copy()}
        changed["model.embed_tokens.weight"][row] *= 1.01
        seen.add(open_checkpoint(tiny.write(tmp_path / f"row{row}", changed)).fingerprint())
    assert len(seen) == 5


def test_any_flipped_bit_changes_the_fingerprint(tmp_path):
    folder = tiny.write(tmp_path / "m", tiny.tensors(0))
    path, seen = folder / "model.safetensors", {open_checkpoint(folder).fingerprint()}
    content = path.read_bytes()
    places = np.random.default_rng(0).integers(len(content) // 2, len(content), 20)
    for number, at in enumerate(places):
        changed = bytearray(content)
        changed[at] ^= 1 << number % 8
        path.write_bytes(changed)
        seen.add(open_checkpoint(folder).fingerprint())
    assert len(seen) == 21


def test_names_of_files_do_not_count_and_names_of_tensors_do(tmp_path):
    weights = tiny.tensors(0)
    one, three = (open_checkpoint(tiny.write(tmp_path / f"{n}", weights, shards=n)) for n in (1, 3))
    assert one.fingerprint() == three.fingerprint()
    weights["model.norm.bias"] = weights.pop("model.norm.weight")
    assert open_checkpoint(tiny.write(tmp_path / "renamed", weights)).fingerprint() != one.fingerprint()


@pytest.fixture
def counted(monkeypatch, tmp_path):
    """How often the content of files was read; the cache lies in a folder of its own."""
    calls, digest = [], Tensors.digest
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(Tensors, "digest", lambda self: calls.append(self) or digest(self))
    return calls


def test_a_model_is_read_once_and_again_after_a_change(tmp_path, counted, monkeypatch):
    monkeypatch.setattr(module, "_SETTLED_SECONDS", -60)
    folder = tiny.write(tmp_path / "m", tiny.tensors(0))
    first = open_checkpoint(folder).fingerprint()
    assert open_checkpoint(folder).fingerprint() == first
    assert len(counted) == 1
    path = folder / "model.safetensors"
    times = path.stat()
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    with path.open("r+b") as file:
        file.write(content)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert open_checkpoint(folder).fingerprint() != first
    assert len(counted) == 2


def test_files_that_just_changed_are_read_again(tmp_path, counted):
    folder = tiny.write(tmp_path / "m", tiny.tensors(0))
    assert open_checkpoint(folder).fingerprint() == open_checkpoint(folder).fingerprint()
    assert len(counted) == 2


def test_a_cache_that_cannot_be_written_or_is_torn_does_no_harm(tmp_path, counted, monkeypatch):
    monkeypatch.setattr(module, "_SETTLED_SECONDS", -60)
    folder = tiny.write(tmp_path / "m", tiny.tensors(0))
    first = open_checkpoint(folder).fingerprint()
    (kept,) = (tmp_path / "cache/interpole/fingerprints").iterdir()
    kept.write_text(first[:7])
    assert open_checkpoint(folder).fingerprint() == first
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nowhere")
    assert open_checkpoint(folder).fingerprint() == first
    assert len(counted) == 3


def test_a_quick_fingerprint_reads_no_weights_and_sees_every_file(pair, counted):
    merged = interpole.merge(interpole.Recipe.between(*pair, 0.5))
    seen = {merged.fingerprint(quick=True)}
    for name in ("config.json", "chat_template.jinja", "model-00002-of-00003.safetensors"):
        os.utime(pair[1] / name, (1, 1))
        seen.add(merged.fingerprint(quick=True))
    assert len(seen) == 4
    assert not counted
