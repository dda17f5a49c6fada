"""Adapters out of two checkpoints: factors against numpy's SVD, losses as they are, and what the adapter view makes of them."""

import errno
import json
import os

import ml_dtypes
import numpy as np
import pytest
from typer.testing import CliRunner

import interpole
import tiny
from bench import call
from interpole.checkpoints.reduce import absolute_sums
from interpole.cli.commands import app
from interpole.errors import MismatchError, OutputError, RecipeError
from interpole.merging import lora
from interpole.merging.lora import extract, low_rank

QUERY, NORM, EMBEDDING = "model.layers.1.self_attn.q_proj.weight", "model.norm.weight", "model.embed_tokens.weight"


@pytest.fixture
def pair(tmp_path):
    """A base, and a model that differs from it in all but the first layer, by changes of falling singular values."""
    rng = np.random.default_rng(0)
    base = tiny.tensors(0, hidden=48, vocab=60)
    other = {}
    for name, array in base.items():
        change = rng.normal(size=array.shape) * 0.1
        if array.ndim == 2:
            u, s, vt = np.linalg.svd(change, full_matrices=False)
            change = (u * s * 0.8 ** np.arange(len(s))) @ vt
        other[name] = array if ".layers.0." in name else (array.astype(np.float32) + change).astype(ml_dtypes.bfloat16)
    return tiny.write(tmp_path / "base", base), tiny.write(tmp_path / "other", other, template="another template")


def opened(pair):
    return interpole.open(pair[1]), interpole.open(pair[0])


def optimum(delta, rank):
    """√(Σ of the squares of the singular values beyond the rank / Σ of all), the least that can be lost."""
    values = np.linalg.svd(delta.astype(np.float64), compute_uv=False) ** 2
    return np.sqrt(values[rank:].sum() / values.sum())


@pytest.mark.parametrize("shape", [(40, 90), (90, 40), (64, 64)])
@pytest.mark.parametrize("way", ["gram", "sketch"])
def test_the_product_is_the_best_of_its_rank(monkeypatch, shape, way):
    monkeypatch.setattr(lora, "_gram_is_cheaper", lambda *_: way == "gram")
    delta = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    a, b = low_rank(delta, 12)
    assert a.shape == (12, shape[1])
    assert b.shape == (shape[0], 12)
    lost = np.linalg.norm(delta - b @ a) / np.linalg.norm(delta)
    assert optimum(delta, 12) <= lost + 1e-6
    assert lost < optimum(delta, 12) * (1 + 1e-5 if way == "gram" else 1.01)
    assert np.allclose(np.linalg.norm(a, axis=1), np.linalg.norm(b, axis=0), rtol=1e-4)


def test_at_full_rank_and_beyond_the_product_is_the_matrix_to_the_last_bit():
    delta = np.random.default_rng(2).normal(size=(7, 5)).astype(np.float32)
    for rank in (5, 9):
        a, b = low_rank(delta, rank)
        assert (b @ a).tobytes() == delta.tobytes()


def test_what_has_less_than_the_rank_is_filled_with_zeros_and_not_with_nan():
    delta = np.outer(np.arange(30), np.arange(40)).astype(np.float32)
    a, b = low_rank(delta, 6)
    assert np.isfinite(a).all()
    assert np.allclose(b @ a, delta, atol=1e-3)
    assert not low_rank(np.zeros((30, 40), np.float32), 3)[0].any()


def test_of_two_ways_the_cheaper_one_is_taken():
    assert lora._gram_is_cheaper(256, 4096, 64)
    assert not lora._gram_is_cheaper(4096, 4096, 64)
    assert lora._gram_is_cheaper(4096, 4096, 4090)


@pytest.mark.parametrize("save_rest", [False, True])
def test_base_and_adapter_are_the_merge_within_the_reported_error(pair, tmp_path, save_rest):
    merged, base = opened(pair)
    found = extract(merged, base, 6, tmp_path / "adapter", save_rest=save_rest)
    again = interpole.open(pair[0], adapter=tmp_path / "adapter")
    before = after = np.zeros(3)
    for name, loss in found.tensors.items():
        far, near, made = (one[name].astype(np.float64) for one in (merged, base, again))
        lost = np.linalg.norm(far - made) / np.linalg.norm(far - near) if loss.kept != "equal" else 0
        assert loss.relative_error == pytest.approx(lost, rel=1e-4, abs=1e-7), name
        before = before + absolute_sums(merged.read(name), base.read(name))
        after = after + absolute_sums(merged.read(name), again.read(name))
        if loss.kept == "lora":
            floor = optimum((far - near).astype(np.float32), 6)
            assert floor * 0.99 < lost < floor + 0.05, name  # above it lies the rounding to bfloat16
    assert found.before == pytest.approx(before[0] / (before[1] + before[2]))
    assert found.after == pytest.approx(after[0] / (after[1] + after[2]))
    assert found.after < 0.7 * found.before
    assert found.named("whole" if save_rest else "left out") == [
        name for name in merged if ("norm" in name and ".0." not in name) or name == EMBEDDING
    ]
    assert found.tensors[NORM].why == "norm, no matrix"
    assert set(found.named("equal")) == {name for name in merged if ".layers.0." in name}


def test_at_full_rank_nothing_is_lost_and_files_that_differ_come_along(pair, tmp_path):
    merged, base = opened(pair)
    found = extract(merged, base, 1000, tmp_path / "adapter", save_rest=True)
    assert found.rank == 48
    again = interpole.open(tmp_path / "adapter")  # the base is named by the adapter
    assert all(again[name].tobytes() == merged[name].tobytes() for name in merged)
    assert found.after == 0
    assert again.chat_template == "another template"
    assert again["lm_head.weight"].tobytes() == merged[EMBEDDING].tobytes()  # tied in the merge, saved apart by peft
    assert sorted(path.name for path in (tmp_path / "adapter").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "chat_template.jinja",
        "generation_config.json",
    ]


def test_a_smaller_dtype_is_half_the_size_and_its_error_is_what_is_reported(pair, tmp_path):
    merged, base = opened(pair)
    wide = extract(merged, base, 48)
    narrow = extract(merged, base, 48, tmp_path / "adapter", dtype="bfloat16")
    assert narrow.num_bytes < 0.6 * wide.num_bytes
    assert wide.tensors[QUERY].relative_error == 0
    assert 0 < narrow.tensors[QUERY].relative_error < 0.05
    made = interpole.open(tmp_path / "adapter")[QUERY].astype(np.float64)
    lost = np.linalg.norm(merged[QUERY] - made) / np.linalg.norm(merged[QUERY].astype(np.float64) - base[QUERY])
    assert narrow.tensors[QUERY].relative_error == pytest.approx(lost, rel=1e-4)
    assert not list(tmp_path.glob(".*"))


def test_what_cannot_be_is_refused_with_its_reason(pair, tmp_path):
    merged, base = opened(pair)
    with pytest.raises(MismatchError, match="no matrix of a linear layer differs"):
        extract(base, base, 4)
    with pytest.raises(RecipeError, match="rank 0"):
        extract(merged, base, 0)
    with pytest.raises(OutputError, match="exists already"):
        extract(merged, base, 4, tmp_path)
    larger = interpole.open(tiny.write(tmp_path / "larger", tiny.tensors(1, hidden=48, vocab=64)))
    with pytest.raises(MismatchError, match=r"vocabular|embed_tokens"):
        extract(larger, base, 4)
    extract(merged, base, 4, tmp_path / "adapter")
    with pytest.raises(MismatchError, match="adapter on another base"):
        extract(merged, interpole.open(tmp_path / "adapter"), 4)
    old = [tiny.write(tmp_path / f"gpt{i}", tiny.tensors(i), config={"model_type": "gpt2"}) for i in (0, 1)]
    with pytest.raises(MismatchError, match="fan_in_fan_out"):
        extract(*map(interpole.open, old), 4)


@pytest.mark.parametrize(("number", "words"), [(errno.ENOSPC, "disk full"), (errno.EROFS, "cannot write")])
def test_a_full_disk_and_one_that_is_only_read_are_said_and_leave_nothing(pair, tmp_path, monkeypatch, number, words):
    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    merged, base = opened(pair)
    before = sorted(tmp_path.iterdir())
    for name in ("_write_weights", "make_folder"):
        with monkeypatch.context() as patch:
            patch.setattr(lora, name, fail)
            with pytest.raises(OutputError, match=words) as raised:
                extract(merged, base, 4, tmp_path / "adapter")
        assert raised.value.remedy
        assert sorted(tmp_path.iterdir()) == before


def test_the_command_line_takes_a_recipe_and_says_what_is_lost(pair, tmp_path):
    recipe = tmp_path / "half.yml"
    recipe.write_text(json.dumps({"sources": {"instruct": str(pair[0]), "thinking": str(pair[1])}, "lambda": 0.5}))
    words = ["extract-lora", str(recipe), str(pair[0]), "-r", "8", "--out", str(tmp_path / "adapter")]
    shown = call(*words, errors=True)
    assert "14 matrices of rank 8" in shown
    assert "left out, so that they stay the base's: model.embed_tokens.weight" in shown
    told = CliRunner().invoke(app, [*words[:5], "--json"])
    found = json.loads(told.output)
    assert found["folder"] is None
    assert found["sigma_after"] < found["sigma_before"]
    assert found["tensors"][QUERY]["rank"] == 8
    assert found["tensors"][QUERY]["relative_error"] < 0.5
