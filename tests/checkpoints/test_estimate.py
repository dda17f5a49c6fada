"""What a merge would take, said before it: the bytes are those that it reads and writes, and nothing stays on the disk."""

import json
import re

import ml_dtypes
import numpy as np
import pytest
from typer.testing import CliRunner

import interpole
import tiny
from interpole.checkpoints import estimate as estimating
from interpole.checkpoints.checkpoint import Headers, Tensors
from interpole.checkpoints.estimate import estimate
from interpole.checkpoints.save import Target, save_all
from interpole.checkpoints.shards import Share, shards_of
from interpole.cli import app
from interpole.errors import OutputError
from interpole.merging.merged import merge_all
from interpole.merging.recipe import Recipe


def fp8_pair(folder):
    """A pair with an FP8 matrix in blocks of 8 × 8."""
    rng, paths = np.random.default_rng(0), []
    config = {"quantization_config": {"quant_method": "fp8", "weight_block_size": [8, 8]}}
    for side in ("instruct", "thinking"):
        weights = tiny.tensors(len(paths))
        name = "model.layers.0.mlp.up_proj.weight"
        weights[name] = rng.normal(size=(32, 16)).astype(ml_dtypes.float8_e4m3fn)
        weights[name + "_scale_inv"] = np.full((4, 2), 0.5, np.float32)
        paths.append(tiny.write(folder / side, weights, config=config))
    return paths


def targets_of(recipe, out):
    return [Target(interpole.merge(recipe), out)]


def test_where_nothing_can_be_written_a_dry_run_says_so_as_the_merge_would(pair, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(estimating.os, "access", lambda folder, mode: asked.append((folder, mode)))
    with pytest.raises(OutputError, match="cannot write there"):
        estimate(targets_of(Recipe.between(*pair, 0.6), tmp_path / "not there" / "out"))
    assert asked == [(tmp_path, estimating.os.W_OK)]


@pytest.mark.parametrize("kind", ["plain", "at an end", "skipping", "fp8 read", "with a base"])
def test_the_bytes_to_read_are_those_that_reading_every_tensor_reads(pair, tmp_path, monkeypatch, kind):
    recipe = {
        "plain": lambda: Recipe.between(*pair, 0.6),
        "at an end": lambda: Recipe.between(*pair, 1),
        "skipping": lambda: Recipe.between(*pair, 0.6, rules=[{"kind": "attention", "lambda": 0}]),
        "fp8 read": lambda: Recipe.between(*fp8_pair(tmp_path / "fp8"), 0.6),
        "with a base": lambda: Recipe.model_validate(
            {
                "method": "task_arithmetic",
                "sources": {"instruct": str(pair[0]), "thinking": str(pair[1]), "base": str(pair[0])},
                "weights": {"instruct": 0.5, "thinking": 0.5},
            }
        ),
    }[kind]()
    targets = targets_of(recipe, tmp_path / "out")
    found, counted, real = estimate(targets), [], Tensors.read

    def read(self, *arguments):
        counted.append((data := real(self, *arguments)).nbytes)
        return data

    monkeypatch.setattr(Tensors, "read", read)
    for name in targets[0].checkpoint:
        targets[0].checkpoint.read(name)
    assert found.read_bytes == sum(counted)


def test_fp8_is_read_for_the_codes_and_again_for_the_scales(tmp_path):
    pair = fp8_pair(tmp_path / "fp8")
    bf16, fp8 = (
        estimate(targets_of(Recipe.between(*pair, 0.6, **kind), tmp_path / "out")) for kind in ({}, {"dtype": "fp8"})
    )
    assert fp8.read_bytes - bf16.read_bytes == 2 * (32 * 16 + 4 * 2 * 4)
    assert bf16.write_bytes - fp8.write_bytes == 32 * 16 - 4 * 2 * 4


def test_what_is_there_and_what_other_shares_write_is_not_to_be_written(pair, tmp_path):
    targets = targets_of(Recipe.between(*pair, 0.6), tmp_path / "out")
    whole = targets[0].checkpoint.num_bytes
    share = estimate(targets, shard_bytes=4000, share=Share(1, 3))
    files = shards_of(targets[0].checkpoint, 4000, Share(1, 3))
    assert share.num_files == len(files)
    assert share.write_bytes == share.read_bytes // 2 < whole
    assert 4000 >= share.largest_file_bytes > 0
    save_all(targets, shard_bytes=4000, share=Share(1, 3))
    rest = estimate(targets, shard_bytes=4000)
    assert rest.there_bytes == share.write_bytes
    assert rest.write_bytes == whole - share.write_bytes
    assert estimate(targets, shard_bytes=4000, share=Share(1, 3)).write_bytes == 0
    assert estimate(targets).there_bytes == 0  # other files


def test_several_results_are_written_each_and_read_once(pair, tmp_path):
    recipe = Recipe.between(*pair, 0)
    opened = {name: interpole.open(path) for name, path in zip(("instruct", "thinking"), pair, strict=True)}
    merged = merge_all([recipe.at(lam) for lam in (0.2, 0.4)], opened)
    targets = [Target(checkpoint, tmp_path / f"out-{i}") for i, checkpoint in enumerate(merged)]
    found = estimate(targets)
    assert found.write_bytes == found.result_bytes == sum(checkpoint.num_bytes for checkpoint in merged)
    assert found.read_bytes == sum(checkpoint.num_bytes for checkpoint in opened.values())


def test_the_rate_is_that_of_a_sample_of_which_nothing_stays(pair, tmp_path, monkeypatch):
    targets = targets_of(Recipe.between(*pair, 0.6), tmp_path / "below/out")
    before = sorted(tmp_path.rglob("*"))
    found = estimate(targets)
    assert sorted(tmp_path.rglob("*")) == before
    assert found.rate.num_pieces == estimating.SAMPLE_PIECES
    assert found.rate.sample_bytes > 0
    assert found.seconds == pytest.approx(found.write_bytes * found.rate.seconds / found.rate.sample_bytes)
    assert found.fits
    monkeypatch.setattr(estimating.shutil, "disk_usage", lambda _: type("usage", (), {"free": 10}))
    assert not estimate(targets).fits


def test_a_merge_that_would_be_refused_is_refused(pair, tmp_path):
    targets = targets_of(Recipe.between(*pair, 0.6), tmp_path / "out")
    (tmp_path / "out").mkdir()
    with pytest.raises(OutputError, match="exists already"):
        estimate(targets)


def test_without_weights_the_time_is_not_known(pair, tmp_path):
    opened = {name: interpole.open(path) for name, path in zip(("instruct", "thinking"), pair, strict=True)}
    headers = {name: Headers(folder.path, name, folder.specs, folder.layout) for name, folder in opened.items()}
    recipe = Recipe.between(*pair, 0.6)
    seen, whole = (
        estimate([Target(interpole.merge(recipe, sources), tmp_path / "out")]) for sources in (headers, opened)
    )
    assert seen.rate is seen.seconds is None
    assert (seen.read_bytes, seen.write_bytes) == (whole.read_bytes, whole.write_bytes)


def test_the_command_says_what_it_would_do_and_writes_nothing(pair, tmp_path):
    def run(*options):
        paths = [str(path) for path in pair]
        line = ["merge", *paths, "-l", "0.6", "-o", str(tmp_path / "out"), "--no-doctor", "--dry-run", *options]
        return CliRunner().invoke(app, line)

    told = run("--shard", "1/2")
    assert told.exit_code == 0, told.output
    for words in (f"would write {tmp_path / 'out'}, share 1 of 2", "to write", "to read", "free", "tried: 48 pieces"):
        assert words in told.output
    said = json.loads(run("--json").stdout)
    assert said["write_bytes"] == interpole.merge(Recipe.between(*pair, 0.6)).num_bytes
    assert said["num_files"] == 2
    assert said["fits"] is True
    assert not [path for path in tmp_path.iterdir() if "out" in path.name]


def test_a_dry_run_ends_with_an_error_where_there_is_no_room(pair, tmp_path, monkeypatch):
    class Usage:
        free = 100

    monkeypatch.setattr(estimating.shutil, "disk_usage", lambda _: Usage)
    line = ["merge", *map(str, pair), "-l", "0.6", "-o", str(tmp_path / "out"), "--no-doctor", "--dry-run"]
    told, said = (CliRunner().invoke(app, [*line, *options]) for options in ([], ["--json"]))
    assert (told.exit_code, said.exit_code) == (1, 1)
    assert re.search("free +100 bytes where it goes: .* are lacking", told.output)
    assert (json.loads(said.stdout)["fits"], json.loads(said.stdout)["free_bytes"]) == (False, 100)
