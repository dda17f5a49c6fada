"""Saved folders: whole, loadable, reproducible; nothing half-written stays."""

import errno
import fcntl
import json
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors import safe_open
from safetensors.numpy import save_file

import interpole
import tiny
from forked import APART
from interpole.checkpoints import kernels, shards
from interpole.checkpoints import save as saving
from interpole.checkpoints.reduce import all_finite
from interpole.checkpoints.safetensors import DTYPES
from interpole.checkpoints.save import Target
from interpole.errors import CheckpointError, CorruptError, InterpoleWarning, OutputError
from interpole.files import exclusive
from interpole.lab import shipped
from interpole.merging.card import model_card, pinned
from interpole.merging.merged import merge_all
from interpole.merging.presets import marker_rows
from interpole.merging.recipe import Recipe
from interpole.merging.rules import ablation


@pytest.fixture
def merged(pair):
    return interpole.merge(Recipe.between(*pair, 0.6, rules=ablation("1-2")))


def test_a_saved_folder_holds_what_the_merge_computes(merged, tmp_path):
    out = interpole.open(interpole.save(merged, tmp_path / "out", threads=3))
    assert list(out) == list(merged)
    assert all(out[name].tobytes() == merged[name].tobytes() for name in merged)
    assert out.layout == merged.layout


def test_another_reader_agrees_and_finds_the_format(merged, tmp_path):
    out = interpole.save(merged, tmp_path / "out")
    index = json.loads((out / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == merged.num_bytes
    for name, shard in index["weight_map"].items():
        with safe_open(out / shard, "np") as file:
            assert file.metadata() == {"format": "pt"}
            assert file.get_tensor(name).tobytes() == merged[name].tobytes()


def test_config_and_tokenizer_keep_their_bytes(merged, pair, tmp_path):
    out = interpole.save(merged, tmp_path / "out")
    for name in ("config.json", "tokenizer_config.json", "generation_config.json", "chat_template.jinja"):
        assert (out / name).read_bytes() == (pair[1] / name).read_bytes()


def test_the_recipe_in_the_folder_makes_the_same_folder(merged, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first = interpole.save(merged, tmp_path / "first")
    again = interpole.merge(Recipe.load(first / "interpole_recipe.yml"))
    second = interpole.save(again, tmp_path / "second")
    files = sorted(path.name for path in first.iterdir())
    assert files == sorted(path.name for path in second.iterdir())
    assert all((first / name).read_bytes() == (second / name).read_bytes() for name in files)


def test_the_model_card_has_the_hubs_front_matter(pair):
    named = Recipe.model_validate(
        {"sources": {"instruct": "acme/Instruct", "thinking": "acme/Thinking"}, "lambda": 0.6}
    )
    sources = dict(zip(("instruct", "thinking"), map(interpole.open, pair), strict=True))
    card = model_card(interpole.merge(named, sources))
    matter = yaml.safe_load(card.split("---")[1])
    assert matter["base_model"] == ["acme/Instruct", "acme/Thinking"]
    assert matter["base_model_relation"] == "merge"
    assert {"merge", "interpole"} <= set(matter["tags"])
    assert all(source.fingerprint() in card for source in sources.values())


def card_of(folder, **matter):
    """Give a folder a model card with a front matter."""
    (folder / "README.md").write_text(f"---\n{yaml.safe_dump(matter)}---\n# A model\n")


def matter_of(card):
    return yaml.safe_load(card.split("---")[1])


def test_licence_and_pipeline_tag_are_carried_over(pair):
    for folder in pair:
        card_of(
            folder, license="other", license_name="acme", license_link="https://x/y", pipeline_tag="text-generation"
        )
    said = matter_of(model_card(interpole.merge(Recipe.between(*pair, 0.5))))
    wanted = {
        "license": "other",
        "license_name": "acme",
        "license_link": "https://x/y",
        "pipeline_tag": "text-generation",
    }
    assert {key: said[key] for key in wanted} == wanted


def test_licences_that_differ_are_all_named(pair):
    card_of(pair[0], license="mit")
    card_of(pair[1], license="apache-2.0")
    card = model_card(interpole.merge(Recipe.between(*pair, 0.5)))
    assert matter_of(card)["license"] == "other"
    assert "Licences of the sources: instruct: mit, thinking: apache-2.0." in card


@pytest.mark.parametrize(
    ("cards", "licence", "sentence"),
    [
        (
            ({"license": "other", "license_name": "a-1"}, {"license": "other", "license_name": "b-2"}),
            ("other", "those-of-the-sources"),
            "Licences of the sources: instruct: other (a-1), thinking: other (b-2).",
        ),
        (
            ({"license": "other", "license_name": "a-1"}, {}),
            ("other", "a-1"),
            "Licences of the sources: instruct: other (a-1), thinking: not said.",
        ),
        (({"license": ["mit"]}, {"license": "mit"}), ("mit", None), None),
    ],
    ids=["of two names", "of one alone", "as a list"],
)
def test_licences_are_compared_by_their_names_and_one_that_is_not_said_is_told(pair, cards, licence, sentence):
    for folder, matter in zip(pair, cards, strict=True):
        card_of(folder, **matter)
    card = model_card(interpole.merge(Recipe.between(*pair, 0.5)))
    assert (matter_of(card)["license"], matter_of(card).get("license_name")) == licence
    assert ("Licences of the sources" in card) == (sentence is not None)
    assert sentence is None or sentence in card


@pytest.mark.parametrize(
    "text", ["", "# none", "---\n{: [\n---\n", "---\n- a\n---\n", "---\nlicense: [1]\n---", b"---\n\xff"]
)
def test_a_card_that_cannot_be_read_carries_nothing(pair, text):
    (pair[1] / "README.md").write_bytes(text.encode() if isinstance(text, str) else text)
    said = matter_of(model_card(interpole.merge(Recipe.between(*pair, 0.5))))
    assert said["base_model_relation"] == "merge"


@pytest.mark.parametrize("here", [".", "instruct", "/"])
def test_what_is_published_does_not_say_where_folders_lie(pair, tmp_path, monkeypatch, here):
    monkeypatch.chdir(tmp_path / here)
    recipe = Recipe.between(*pair, 0.5)
    out = interpole.save(interpole.merge(recipe), tmp_path / "out")
    for name in ("README.md", "interpole_recipe.yml"):
        assert str(tmp_path).lstrip("/") not in (out / name).read_text() or here == "/"
        assert "thinking" in (out / name).read_text()


def test_folders_whose_names_are_no_text_are_merged(tmp_path):
    pair = [
        tiny.write(tmp_path / os.fsdecode(name), tiny.tensors(seed)) for seed, name in enumerate((b"i\xff", b"t\xfe"))
    ]
    recipe = Recipe.between(*pair, 0.5)
    out = interpole.save(interpole.merge(recipe), tmp_path / os.fsdecode(b"out\xfd"))
    assert is_the_merge_of(out, recipe)


def test_a_file_that_may_not_be_read_is_named(pair, monkeypatch):
    real = os.open

    def refuse(path, *args, **kwargs):
        if Path(path).name == "tokenizer_config.json":
            raise PermissionError(errno.EACCES, "Permission denied")
        return real(path, *args, **kwargs)

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(CheckpointError, match=r"tokenizer_config\.json cannot be read: Permission denied"):
        interpole.open(pair[0])


def test_hub_ids_are_pinned_to_the_commit_that_was_read(tmp_path):
    commit = "0123456789abcdef" * 2 + "01234567"
    folders = [tmp_path / name / "snapshots" / commit for name in ("i", "t")]
    sources = {
        name: interpole.open(tiny.write(folder, tiny.tensors(seed)))
        for seed, (name, folder) in enumerate(zip(("instruct", "thinking"), folders, strict=True))
    }
    merged = interpole.merge(Recipe.between("acme/Instruct", "acme/Thinking", 0.5), sources)
    assert {source.revision for source in pinned(merged).sources.values()} == {commit}
    assert f"acme/Thinking @ {commit}" in model_card(merged)


def test_progress_counts_every_byte(merged, tmp_path):
    done = []
    interpole.save(merged, tmp_path / "out", progress=done.append)
    assert sum(done) == merged.num_bytes


def test_an_existing_output_is_left_alone(merged, tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(OutputError, match="exists already"):
        interpole.save(merged, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def leftovers(folder):
    return [path.name for path in folder.iterdir() if "out" in path.name]


def test_a_disk_without_room_is_told_before_anything_is_written(merged, tmp_path, monkeypatch):
    usage = type("usage", (), {"free": 1000})
    monkeypatch.setattr(saving.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(OutputError, match=r"disk full: [\d,]+ bytes are needed, 1,000 are free"):
        interpole.save(merged, tmp_path / "out")
    assert leftovers(tmp_path) == []


def test_a_disk_that_fills_up_leaves_nothing(merged, tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(OutputError, match="disk full"):
            interpole.save(merged, tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert leftovers(tmp_path) == []


def test_an_error_in_the_middle_leaves_nothing(merged, pair, tmp_path):
    for shard in pair[1].glob("*.safetensors"):
        os.truncate(shard, 200)
    with pytest.raises(interpole.InterpoleError, match="ended"):
        interpole.save(merged, tmp_path / "out")
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("in_one_call", [True, False])
def test_a_source_that_ends_early_is_named_and_leaves_nothing(merged, tmp_path, monkeypatch, in_one_call):
    if not in_one_call:
        monkeypatch.setattr(shards, "sum_files", lambda *_: 0)
    name = list(merged)[-1]
    path, offset = merged.sources["thinking"].origin(name)
    os.truncate(path, offset + 4)
    with pytest.raises(CorruptError, match=f"the file ended inside tensor {name}"):
        interpole.save(merged, tmp_path / "out")
    assert not list(tmp_path.glob("*out*"))


def test_tensors_that_are_summed_in_one_call_are_those_of_the_merge(merged, tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr(
        shards, "sum_files", lambda *arguments: written.append(kernels.sum_files(*arguments)) or written[-1]
    )
    whole = interpole.open(interpole.save(merged, tmp_path / "whole"))
    assert sum(written) == sum(spec.num_elements for spec in merged.specs.values()) or not hasattr(
        kernels._kernels, "sum_files"
    )
    monkeypatch.setattr(shards, "sum_files", lambda *_: 0)
    pieces = interpole.open(interpole.save(merged, tmp_path / "pieces"))
    assert all(whole[name].tobytes() == pieces[name].tobytes() == merged[name].tobytes() for name in merged)


def test_a_folder_that_cannot_be_written_says_why(merged):
    with pytest.raises(OutputError, match="cannot make the folder"):
        interpole.save(merged, "/proc/nowhere/out")


def test_memory_does_not_grow_with_the_model(tmp_path):
    peaks = []
    for layers in (2, 14):
        paths = [tiny.write(tmp_path / f"{s}{layers}", tiny.tensors(s, layers=layers, hidden=512)) for s in (0, 1)]
        code = (
            "import re, sys, interpole; p = sys.argv[1:];"
            "interpole.save(interpole.merge(interpole.Recipe.between(p[0], p[1], 0.5)), p[2]);"
            "print(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1])"
        )
        run = [sys.executable, "-c", code, *map(str, paths), str(tmp_path / f"out{layers}")]
        peaks.append(int(subprocess.run(run, capture_output=True, check=True).stdout) / 1024)  # MB
    assert peaks[1] < 150
    assert peaks[1] - peaks[0] < 20  # the model grew by 63 MB


def merge_and_say(paths, out, told):
    interpole.save(interpole.merge(Recipe.between(*paths, 0.5)), out, threads=1, progress=told.send)


@pytest.mark.slow
def test_a_merge_killed_at_random_moments_leaves_no_model_and_is_finished_by_the_next_run(tmp_path):
    rng = np.random.default_rng(0)
    paths = [tiny.write(tmp_path / str(s), tiny.tensors(s, layers=8, hidden=64), shards=6) for s in (0, 1)]
    merged = interpole.merge(Recipe.between(*paths, 0.5))
    out, partial = tmp_path / "out", tmp_path / ".out.partial"
    resumed = finished = 0
    for _ in range(14):
        resumed += bool(list(partial.glob("*.safetensors")))
        reader, writer = APART.Pipe(duplex=False)
        process = APART.Process(target=merge_and_say, args=(paths, out, writer))
        process.start()
        writer.close()
        with suppress(EOFError):  # it has finished
            for _ in range(rng.integers(1, len(merged))):
                reader.recv()
        process.kill()
        process.join()
        for folder in (out, partial):  # config.json is written last, so whatever has one is whole
            if (folder / "config.json").exists():
                written = interpole.open(folder)
                assert all(written[name].tobytes() == merged[name].tobytes() for name in merged)
        if out.exists():
            finished += 1
            shutil.rmtree(out)
    assert resumed > 3
    assert finished > 0


def stop_after(num_calls):
    """A progress that ends the run, as Ctrl-C does, once so many pieces were written."""
    calls = iter(range(num_calls))

    def progress(_):
        if next(calls, None) is None:
            raise KeyboardInterrupt

    return progress


@pytest.fixture
def stopped(pair, tmp_path):
    """(recipe, unfinished folder) of a merge that was stopped after its first shard."""
    recipe = Recipe.between(*pair, 0.6)
    with pytest.raises(KeyboardInterrupt):
        interpole.save(interpole.merge(recipe), tmp_path / "out", threads=1, progress=stop_after(20))
    partial = tmp_path / ".out.partial"
    assert list(partial.glob("*.safetensors"))
    return recipe, partial


def is_the_merge_of(folder, recipe):
    written, expected = interpole.open(folder), interpole.merge(recipe)
    return all(written[name].tobytes() == expected[name].tobytes() for name in expected)


def inodes(folder):
    return {path.name: path.stat().st_ino for path in folder.glob("*.safetensors")}


def test_a_stopped_merge_goes_on_with_its_whole_shards(stopped, tmp_path):
    recipe, partial = stopped
    whole = inodes(partial)
    out = interpole.save(interpole.merge(recipe), tmp_path / "out")
    assert inodes(out).items() >= whole.items()
    assert is_the_merge_of(out, recipe)
    assert not list(out.glob(".*"))


def flip_a_bit(folder):
    """Change a weight as an in-place copy with preserved times does: neither the size nor the time of writing tells."""
    path = min(folder.glob("*.safetensors"))
    before = path.stat()
    content = bytearray(path.read_bytes())
    content[-101] ^= 4
    with path.open("r+b") as file:
        file.write(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


CHANGES = {
    "another merge": lambda recipe, _: recipe.at(0.1),
    "a source was written": lambda recipe, _: flip_a_bit(Path(recipe.sources["thinking"].model)) or recipe,
    "another version": lambda recipe, patch: patch.setattr(saving, "version", lambda _: "0.0.7") or recipe,
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_a_stopped_run_left_is_not_taken_over_after_a_change(stopped, tmp_path, monkeypatch, change):
    recipe, partial = stopped
    before = inodes(partial)
    keep = [path.open("rb") for path in partial.iterdir()]  # so that no inode is given again
    recipe = CHANGES[change](recipe, monkeypatch)
    out = interpole.save(interpole.merge(recipe), tmp_path / "out")
    assert not inodes(out).items() & before.items()
    assert is_the_merge_of(out, recipe)
    for file in keep:
        file.close()


def test_a_source_that_is_written_while_it_is_read_is_noticed(merged, pair, tmp_path):
    changes = iter([lambda: flip_a_bit(pair[1])])
    with pytest.raises(OutputError, match="changed while it was read"):
        interpole.save(merged, tmp_path / "out", progress=lambda _: next(changes, lambda: None)())
    assert leftovers(tmp_path) == []


def test_a_shard_that_is_too_short_is_written_anew(stopped, tmp_path):
    recipe, partial = stopped
    os.truncate(min(partial.glob("*.safetensors")), 100)
    assert is_the_merge_of(interpole.save(interpole.merge(recipe), tmp_path / "out"), recipe)


def test_an_unfinished_shard_does_not_count_as_used_room(stopped, tmp_path, monkeypatch):
    recipe, partial = stopped
    merged = interpole.merge(recipe)
    (partial / "model-00002-of-00003.unfinished").write_bytes(bytes(merged.num_bytes))
    room = merged.num_bytes + 5000

    def disk_usage(folder):
        used = sum(path.stat().st_size for path in folder.iterdir())
        return type("usage", (), {"free": room - used})

    monkeypatch.setattr(saving.shutil, "disk_usage", disk_usage)
    assert is_the_merge_of(interpole.save(merged, tmp_path / "out"), recipe)


def test_a_second_process_is_refused_and_told_who_is_writing(merged, tmp_path):
    with (
        exclusive(tmp_path / ".out.lock", OutputError, "is writing", "choose another"),
        pytest.raises(
            OutputError, match=f"process {os.getpid()} on {re.escape(socket.gethostname())} is writing .*out"
        ),
    ):
        interpole.save(merged, tmp_path / "out")
    interpole.save(merged, tmp_path / "out")
    assert leftovers(tmp_path) == ["out"]


def test_the_lock_of_a_killed_process_holds_nobody_up(merged, tmp_path):
    code = (
        "import os, sys; from pathlib import Path; from interpole.errors import OutputError;"
        "from interpole.files import exclusive\n"
        "with exclusive(Path(sys.argv[1]), OutputError, '', ''): os.kill(os.getpid(), 9)"
    )
    lock = tmp_path / ".out.lock"
    assert subprocess.run([sys.executable, "-c", code, str(lock)]).returncode == -signal.SIGKILL
    assert lock.exists()
    interpole.save(merged, tmp_path / "out")
    assert leftovers(tmp_path) == ["out"]


def test_a_file_system_without_locks_is_named_and_written_to(merged, tmp_path, monkeypatch):
    def flock(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.warns(InterpoleWarning, match="keeps no locks"):
        interpole.save(merged, tmp_path / "out")


@pytest.mark.parametrize("code", ["EXDEV", "EOPNOTSUPP", "EINVAL", "ENOSYS", "EPERM"])
def test_a_file_system_that_refuses_the_kernels_shortcuts_is_written_to_all_the_same(pair, tmp_path, monkeypatch, code):
    def refuse(*_, **__):
        raise OSError(getattr(errno, code), os.strerror(getattr(errno, code)))

    for shortcut in ("copy_file_range", "sendfile", "posix_fallocate", "splice"):
        monkeypatch.setattr(os, shortcut, refuse)
    monkeypatch.setattr(
        shards.ctypes, "CDLL", lambda _: type("libc", (), {"fallocate": lambda *_: -1, "mallopt": None})
    )
    for lam in (0, 0.5, 1):
        recipe = Recipe.between(*pair, lam)
        out = interpole.save(interpole.merge(recipe), tmp_path / f"out-{lam}")
        assert is_the_merge_of(out, recipe)
        side = pair[0] if lam == 0 else pair[1]
        assert (out / "tokenizer_config.json").read_bytes() == (side / "tokenizer_config.json").read_bytes()


def test_a_link_out_of_a_models_folder_is_named_when_its_content_is_copied(pair, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("secret")
    (pair[1] / "notes.txt").symlink_to(secret)
    (pair[1] / "same.json").symlink_to("config.json")
    with pytest.warns(InterpoleWarning) as told:
        interpole.save(interpole.merge(Recipe.between(*pair, 0.5)), tmp_path / "out")
    assert [str(one.message) for one in told] == [
        f"{pair[1] / 'notes.txt'} is a link to {secret}, whose content is now in {tmp_path / 'out/notes.txt'}"
    ]


def test_links_as_the_hubs_cache_has_them_are_none_to_speak_of(pair, tmp_path):
    snapshot, blobs = tmp_path / "models--a--b/snapshots/0f", tmp_path / "models--a--b/blobs"
    snapshot.mkdir(parents=True)
    shutil.copytree(pair[1], blobs)
    for path in blobs.iterdir():
        (snapshot / path.name).symlink_to(Path("../../blobs") / path.name)
    out = interpole.save(
        interpole.merge(Recipe.between(pair[0], snapshot, 0.5)), tmp_path / "out"
    )  # warnings are errors
    assert (out / "tokenizer_config.json").read_bytes() == (blobs / "tokenizer_config.json").read_bytes()


def test_no_link_is_followed_to_lock_or_to_write(merged, tmp_path):
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "kept").write_text("")
    (tmp_path / ".out.partial").symlink_to(victim)
    interpole.save(merged, tmp_path / "out")
    assert [path.name for path in victim.iterdir()] == ["kept"]
    (tmp_path / ".b.lock").symlink_to(victim / "kept")
    with pytest.raises(OutputError, match="cannot write"):
        interpole.save(merged, tmp_path / "b")
    assert (victim / "kept").read_text() == ""


def breaking_rename(monkeypatch, at, error):
    """The rename number `at` of a folder fails with `error`."""
    real, count = os.rename, iter(range(1, 100))

    def rename(source, *args, **kwargs):
        if Path(source).is_dir() and next(count) == at:
            raise error
        return real(source, *args, **kwargs)

    monkeypatch.setattr(os, "rename", rename)


@pytest.fixture
def three(pair, tmp_path):
    """Targets of three λ."""
    recipe = Recipe.between(*pair, 0)
    return [Target(interpole.merge(recipe.at(lam)), tmp_path / f"out-{lam}") for lam in (0.2, 0.4, 0.6)]


@pytest.mark.parametrize("at", [1, 2, 3])
def test_several_outputs_stopped_between_two_folders_are_completed_by_the_next_run(three, tmp_path, monkeypatch, at):
    with monkeypatch.context() as patch:
        breaking_rename(patch, at, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            saving.save_all(three)
    assert sum(target.out.exists() for target in three) == at - 1
    saving.save_all(three)
    assert sorted(leftovers(tmp_path)) == [target.out.name for target in three]
    assert all(is_the_merge_of(target.out, target.checkpoint.recipe) for target in three)
    assert not [path for target in three for path in target.out.glob(".*")]
    with pytest.raises(OutputError, match="exists already"):
        saving.save_all(three)


@pytest.mark.parametrize("at", [1, 2, 3])
def test_several_outputs_of_which_one_cannot_be_placed_leave_none(three, tmp_path, monkeypatch, at):
    breaking_rename(monkeypatch, at, OSError(errno.ENOSPC, "No space left on device"))
    with pytest.raises(OutputError, match="disk full"):
        saving.save_all(three)
    assert leftovers(tmp_path) == []


def test_two_results_are_not_written_to_one_folder(merged, tmp_path):
    with pytest.raises(OutputError, match="one output folder"):
        saving.save_all([Target(merged, tmp_path / "out"), Target(merged, tmp_path / "x/../out")])


def renamed_shard(pair, name):
    """The pair with its weights in one file called `name`."""
    for folder in pair:
        weights = interpole.open(folder)
        arrays = {tensor: weights[tensor] for tensor in weights}
        for path in folder.glob("model*"):
            path.unlink()
        save_file(arrays, folder / name, {"format": "pt"})
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": dict.fromkeys(arrays, name)}))


@pytest.mark.parametrize(
    "name",
    [
        "README.md",
        "interpole_recipe.yml",
        ".fingerprint",
        "modeling_x.py",
        "../config.json.safetensors/",
        f"{'x' * 300}.safetensors/",
        "a\x1b.safetensors",
    ],
)
def test_a_shard_that_is_not_called_like_one_is_refused(pair, name):
    if not name.endswith("/"):
        renamed_shard(pair, name)
    else:
        (pair[0] / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name[:-1]}}))
    with pytest.raises(CorruptError, match="weight_map"):
        interpole.open(pair[0])


def test_a_shard_with_a_name_of_its_own_keeps_it(pair, tmp_path):
    renamed_shard(pair, "tokenizer.safetensors")
    recipe = Recipe.between(*pair, 0.5)
    out = interpole.save(interpole.merge(recipe), tmp_path / "out")
    assert (out / "tokenizer.safetensors").is_file()
    assert is_the_merge_of(out, recipe)


@pytest.mark.parametrize("name", ["config.json", "Tokenizer_Config.json", "model-00001-of-00002.safetensors", "../x"])
def test_further_files_take_no_name_that_is_used(merged, tmp_path, name):
    with pytest.raises(OutputError, match="file name"):
        interpole.save(merged, tmp_path / "out", extra={name: ""})
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("kind", ["BF16", "F16", "F8_E4M3", "F8_E5M2"])
def test_every_code_that_is_no_finite_number_is_known(kind):
    dtype = DTYPES[kind]
    codes = np.arange(256**dtype.itemsize, dtype=f"u{dtype.itemsize}").view(dtype)
    finite = np.isfinite(codes.astype(np.float32))
    assert [all_finite(codes[i : i + 1]) for i in range(len(codes))] == finite.tolist()
    assert all_finite(codes[finite])
    assert not all_finite(codes)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("value", [np.nan, -np.nan, np.inf, -np.inf])
def test_wide_numbers_that_are_not_finite_are_known(dtype, value):
    limits = np.finfo(dtype)
    numbers = np.array([limits.max, limits.min, limits.tiny, 0, -0.0], dtype)
    assert all_finite(numbers)
    assert not all_finite(np.append(numbers, dtype(value)))


@pytest.mark.parametrize(("lam", "value", "dtype", "words"), [
    (0.5, np.nan, None, "holds NaN"),
    (1, np.nan, None, "holds NaN"),
    (0.5, -np.inf, None, "holds infinity"),
    (0.9, 1e5, "float16", "float16"),
])  # fmt: skip
def test_a_result_that_is_not_finite_is_refused_with_the_tensor_unless_asked_for(tmp_path, lam, value, dtype, words):
    weights = tiny.tensors(1)
    name = "model.layers.1.mlp.down_proj.weight"
    weights[name][3, 5] = value
    pair = tiny.write(tmp_path / "i", tiny.tensors(0)), tiny.write(tmp_path / "t", weights)
    merged = interpole.merge(Recipe.between(*pair, lam, dtype=dtype))
    with pytest.raises(CheckpointError, match=words) as error:
        interpole.save(merged, tmp_path / "out")
    assert name in str(error.value)
    assert leftovers(tmp_path) == []
    with pytest.warns(InterpoleWarning, match=f"infinity in {re.escape(name)}$"):
        out = interpole.open(interpole.save(merged, tmp_path / "out", allow_non_finite=True))
    assert out[name].tobytes() == merged[name].tobytes()


def test_transformers_loads_the_folder(tmp_path):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    config = transformers.Qwen3Config(
        vocab_size=40,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
    )
    paths = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        transformers.Qwen3ForCausalLM(config).to(torch.bfloat16).save_pretrained(tmp_path / str(seed))
        paths.append(tmp_path / str(seed))
    out = interpole.save(interpole.merge(Recipe.between(*paths, 0.3)), tmp_path / "out")
    model, info = transformers.AutoModelForCausalLM.from_pretrained(out, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    name = "model.layers.1.mlp.up_proj.weight"
    a, b = (transformers.AutoModelForCausalLM.from_pretrained(p).get_parameter(name).float() for p in paths)
    expected = (a * np.float32(0.7) + b * np.float32(0.3)).to(torch.bfloat16)
    assert torch.equal(model.get_parameter(name), expected)


def test_several_lambdas_written_together_equal_those_written_alone_and_read_the_sources_once(tmp_path, monkeypatch):
    pair = shipped()
    recipe = Recipe.between(pair.instruct, pair.thinking, 0).with_(rules=[marker_rows("thinking")])
    sources = dict(zip(recipe.sources, map(interpole.open, (pair.instruct, pair.thinking)), strict=True))
    lams = (0, 0.25, 0.7, 1)
    alone = {lam: interpole.save(interpole.merge(recipe.at(lam), sources), tmp_path / f"alone-{lam}") for lam in lams}
    merged = dict(zip(lams, merge_all([recipe.at(lam) for lam in lams], sources), strict=True))
    preadv, num_read = os.preadv, []
    monkeypatch.setattr(os, "preadv", lambda *args: num_read.append(preadv(*args)) or num_read[-1])
    saving.save_all([Target(checkpoint, tmp_path / f"together-{lam}") for lam, checkpoint in merged.items()])
    sizes = sum(source.num_bytes for source in sources.values())
    assert 0.9 * sizes < sum(num_read) <= 1.001 * sizes  # the marker rows are read beside
    for lam, folder in alone.items():
        for path in folder.iterdir():
            assert path.read_bytes() == (tmp_path / f"together-{lam}" / path.name).read_bytes()


def test_if_one_of_several_outputs_exists_none_is_made(merged, tmp_path):
    (tmp_path / "out-b").mkdir()
    with pytest.raises(OutputError, match="exists already"):
        saving.save_all([Target(merged, tmp_path / f"out-{x}") for x in "ab"])
    assert leftovers(tmp_path) == ["out-b"]


@pytest.mark.parametrize("shard_bytes", [1, 4000, 10**9])
def test_weights_are_cut_into_shards_of_a_size(merged, tmp_path, shard_bytes):
    out = interpole.open(interpole.save(merged, tmp_path / "out", shard_bytes=shard_bytes))
    assert all(out[name].tobytes() == merged[name].tobytes() for name in merged)
    for shard in set(out.layout.values()):
        tensors = [name for name in out if out.layout[name] == shard]
        assert len(tensors) == 1 or sum(out.specs[name].num_bytes for name in tensors) <= shard_bytes


@pytest.mark.parametrize(("chunk", "threads"), [(1, 2), (7, 1), (100, 5), (1 << 16, 3)])
def test_chunk_size_and_thread_count_do_not_matter(pair, tmp_path, monkeypatch, chunk, threads):
    recipe = Recipe.between(*pair, 0.37, rules=[{"name": "*mlp*", "lambda": 0.9}, {"name": "*norm*", "lambda": 1}])
    expected = interpole.merge(recipe)
    monkeypatch.setattr(shards, "CHUNK_ELEMENTS", chunk)
    written = interpole.open(interpole.save(interpole.merge(recipe), tmp_path / "out", threads=threads))
    assert all(written[name].tobytes() == expected[name].tobytes() for name in expected)
