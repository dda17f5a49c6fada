"""A merge written in shares, by processes that know nothing of one another: the folder is that of a plain merge, to the byte."""

import json
import os
import re
import shutil
from contextlib import suppress

import numpy as np
import pytest
from typer.testing import CliRunner

import interpole
import tiny
from forked import APART
from interpole.checkpoints import save as saving
from interpole.checkpoints.save import Saved, Target, save_all
from interpole.checkpoints.shards import Share, shards_of
from interpole.cli import app
from interpole.errors import CheckpointError, InterpoleWarning, OutputError
from interpole.files import exclusive, shared
from interpole.merging.recipe import Recipe


@pytest.fixture
def merged(pair):
    return interpole.merge(Recipe.between(*pair, 0.6))


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def leftovers(folder):
    return sorted(path.name for path in folder.iterdir() if "out" in path.name)


def write(merged, out, number, of, **options):
    return save_all([Target(merged, out)], share=Share(number, of), **options)


def test_shares_in_any_order_make_the_folder_of_a_plain_merge(merged, tmp_path):
    interpole.save(merged, tmp_path / "plain", shard_bytes=4000)
    num, written = len(shards_of(merged, 4000)), 0
    for number in (3, 1):
        saved = write(merged, tmp_path / "out", number, 3, shard_bytes=4000)
        assert not saved.is_whole
        written += saved.written_bytes
        assert write(merged, tmp_path / "out", number, 3, shard_bytes=4000) == saved._replace(written_bytes=0)
        assert not (tmp_path / "out").exists()
        with pytest.raises(CheckpointError, match="no config"):
            interpole.open(tmp_path / ".out.partial")
    rest = merged.num_bytes - written
    assert write(merged, tmp_path / "out", 2, 3, shard_bytes=4000) == Saved(num, num, True, rest)
    assert content(tmp_path / "out") == content(tmp_path / "plain")
    assert leftovers(tmp_path) == ["out"]


@pytest.mark.parametrize("of", [1, 2, 5, 40])
def test_every_file_is_in_one_share_and_no_share_is_heavier_by_more_than_a_file(merged, of):
    whole = shards_of(merged, 3000)
    parts = [shards_of(merged, 3000, Share(i + 1, of)) for i in range(of)]
    assert sorted(shard for part in parts for shard in part) == sorted(whole)
    assert all(part[shard] == whole[shard] for part in parts for shard in part)
    size = {shard: sum(merged.specs[name].num_bytes for name in names) for shard, names in whole.items()}
    loads = [sum(size[shard] for shard in part) for part in parts]
    assert max(loads) - min(loads) <= max(size.values())


def test_a_share_that_is_run_again_after_all_is_done_says_so_and_changes_nothing(merged, tmp_path):
    for number in (1, 2):
        write(merged, tmp_path / "out", number, 2)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    assert write(merged, tmp_path / "out", 1, 2).is_whole
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()} == before
    assert leftovers(tmp_path) == ["out"]


def test_a_folder_of_another_merge_is_not_taken_for_done(merged, pair, tmp_path):
    interpole.save(interpole.merge(Recipe.between(*pair, 0.7)), tmp_path / "out")
    with pytest.raises(OutputError, match="exists already"):
        write(merged, tmp_path / "out", 1, 2)
    assert leftovers(tmp_path) == ["out"]


def test_a_plain_merge_goes_on_with_what_shares_left(merged, tmp_path):
    write(merged, tmp_path / "out", 1, 2)
    done = {path.name: path.stat().st_ino for path in (tmp_path / ".out.partial").glob("*.safetensors")}
    interpole.save(merged, tmp_path / "out")
    assert {path.name: path.stat().st_ino for path in (tmp_path / "out").glob("*.safetensors")}.items() >= done.items()
    assert done
    assert leftovers(tmp_path) == ["out"]


def test_plain_merges_and_shares_refuse_one_another(merged, tmp_path):
    me = re.escape(f"process {os.getpid()} on")
    lock = tmp_path / ".out.lock"
    with exclusive(lock, OutputError, "is writing", ""), pytest.raises(OutputError, match=f"{me} .* is writing"):
        write(merged, tmp_path / "out", 1, 2)
    with shared(lock, OutputError, "", ""):
        with pytest.raises(OutputError, match=f"{me} .* is writing"):
            interpole.save(merged, tmp_path / "out")
        assert write(merged, tmp_path / "out", 1, 1).is_whole


def test_shares_of_another_merge_are_left_alone_while_somebody_is_at_them_and_replaced_after(merged, pair, tmp_path):
    other = interpole.merge(Recipe.between(*pair, 0.7))
    write(other, tmp_path / "out", 1, 2)
    before = content(tmp_path / ".out.partial")
    with shared(tmp_path / ".out.lock", OutputError, "", ""):
        with pytest.raises(OutputError, match="other shares write another merge"):
            write(merged, tmp_path / "out", 2, 2)
        assert content(tmp_path / ".out.partial") == before
    with pytest.warns(
        InterpoleWarning, match=r"what shares of another merge had left for .*out is removed: \d+ of its files"
    ):
        write(merged, tmp_path / "out", 2, 2)
    write(merged, tmp_path / "out", 1, 2)  # of this merge: nothing is removed, so nothing is said
    interpole.save(merged, tmp_path / "plain")
    assert content(tmp_path / "out") == content(tmp_path / "plain")


def test_a_share_that_fails_leaves_what_others_wrote(merged, pair, tmp_path, monkeypatch):
    write(merged, tmp_path / "out", 1, 2)
    before = content(tmp_path / ".out.partial")

    def touch(_):  # the sources change while the second share reads them
        os.utime(pair[0] / "config.json")

    with pytest.raises(OutputError, match="was changed"):
        write(merged, tmp_path / "out", 2, 2, progress=touch)
    assert content(tmp_path / ".out.partial") == before
    shutil.rmtree(tmp_path / ".out.partial")
    monkeypatch.setattr(saving.shutil, "disk_usage", lambda _: type("usage", (), {"free": 10}))
    with pytest.raises(OutputError, match="disk full"):
        write(merged, tmp_path / "out", 2, 2)
    assert leftovers(tmp_path) == []


def test_several_lambdas_in_shares_are_put_in_place_together(pair, tmp_path):
    recipe = Recipe.between(*pair, 0)
    targets = [Target(interpole.merge(recipe.at(lam)), tmp_path / f"out-{lam}") for lam in (0.2, 0.6)]
    assert not save_all(targets, share=Share(1, 2)).is_whole
    assert not any(target.out.exists() for target in targets)
    assert save_all(targets, share=Share(2, 2)).is_whole
    for target in targets:
        interpole.save(target.checkpoint, tmp_path / "plain")
        assert content(target.out) == content(tmp_path / "plain")
        shutil.rmtree(tmp_path / "plain")


def one_share(paths, out, number, of, told):
    merged = interpole.merge(Recipe.between(*paths, 0.5))
    saved = save_all([Target(merged, out)], share=Share(number, of), shard_bytes=60_000, threads=1, progress=told.send)
    told.send(saved)


def test_shares_at_the_same_time_some_of_them_killed_and_some_run_twice_finish_the_folder_once(tmp_path):
    rng = np.random.default_rng(0)
    paths = [tiny.write(tmp_path / str(s), tiny.tensors(s, layers=4, hidden=64), shards=3) for s in (0, 1)]
    merged = interpole.merge(Recipe.between(*paths, 0.5))
    interpole.save(merged, tmp_path / "plain", shard_bytes=60_000)
    expected, killed = content(tmp_path / "plain"), 0

    def start(number):
        reader, writer = APART.Pipe(duplex=False)
        process = APART.Process(target=one_share, args=(paths, tmp_path / "out", number, 3, writer))
        process.start()
        writer.close()
        return process, reader

    for _ in range(3):
        for process, reader in [start(number) for number in (1, 2, 3)]:  # all are killed somewhere
            with suppress(EOFError):
                for _ in range(rng.integers(1, 8)):
                    reader.recv()
            process.kill()
            process.join()
            killed += process.exitcode != 0
        assert not (tmp_path / ".out.partial/config.json").exists() or (tmp_path / ".out.partial/README.md").exists()
        said = []
        for process, reader in [start(number) for number in (1, 1, 2, 3)]:
            with suppress(EOFError):
                while True:
                    said.append(reader.recv())
            process.join()
            assert process.exitcode == 0
        assert any(isinstance(one, Saved) and one.is_whole for one in said)
        assert content(tmp_path / "out") == expected
        assert leftovers(tmp_path) == ["out"]
        shutil.rmtree(tmp_path / "out")
    assert killed > 4


def test_the_command_writes_shares(pair, tmp_path):
    def run(part, *options):
        paths = [str(path) for path in pair]
        line = ["merge", *paths, "-l", "0.6", "-o", str(tmp_path / "out"), "--no-doctor", "--shard", part, *options]
        return CliRunner().invoke(app, line)

    first = run("1/2")
    assert first.exit_code == 0, first.output
    assert "share 1 of 2: " in first.output
    assert "the share that writes the last one finishes the folder" in first.output
    second = json.loads(run("2/2", "--json").stdout)["files"]
    assert second.pop("written_bytes") > 0
    assert second == {"num_there": 2, "num_shards": 2, "is_whole": True}
    assert re.search(r"\n0 bytes in .* s \(0 bytes/s\); .* kB were there\n", run("2/2").output)
    assert interpole.open(tmp_path / "out").layout
    for wrong in ("0/2", "3/2", "1", "a/b", "1/2/3", "1/1000000"):
        assert run(wrong).exit_code == 2
