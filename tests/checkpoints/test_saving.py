"""Saved folders: whole, loadable, reproducible; nothing half-written stays."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import yaml
from safetensors import safe_open

import interpole
import tiny
from interpole.checkpoints import save as saving
from interpole.checkpoints.save import Target
from interpole.errors import OutputError
from interpole.lab import shipped
from interpole.merging.card import texts
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


def test_the_recipe_in_the_folder_makes_the_same_folder(merged, tmp_path):
    first = interpole.save(merged, tmp_path / "first", extra=texts(merged))
    again = interpole.merge(Recipe.load(first / "interpole_recipe.yml"))
    second = interpole.save(again, tmp_path / "second", extra=texts(again))
    files = sorted(path.name for path in first.iterdir())
    assert files == sorted(path.name for path in second.iterdir())
    assert all((first / name).read_bytes() == (second / name).read_bytes() for name in files)


def test_the_model_card_has_the_hubs_front_matter(pair):
    named = Recipe.model_validate(
        {"sources": {"instruct": "acme/Instruct", "thinking": "acme/Thinking"}, "lambda": 0.6}
    )
    sources = dict(zip(("instruct", "thinking"), map(interpole.open, pair), strict=True))
    card = texts(interpole.merge(named, sources))["README.md"]
    matter = yaml.safe_load(card.split("---")[1])
    assert matter["base_model"] == ["acme/Instruct", "acme/Thinking"]
    assert matter["base_model_relation"] == "merge"
    assert {"merge", "interpole"} <= set(matter["tags"])
    assert all(source.fingerprint() in card for source in sources.values())


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


def test_a_folder_that_cannot_be_written_says_why(merged):
    with pytest.raises(OutputError, match="cannot write"):
        interpole.save(merged, "/proc/nowhere/out")


def test_memory_does_not_grow_with_the_model(tmp_path):
    peaks = []
    for layers in (2, 24):
        paths = [tiny.write(tmp_path / f"{s}{layers}", tiny.tensors(s, layers=layers, hidden=512)) for s in (0, 1)]
        code = (
            "import re, sys, interpole; p = sys.argv[1:];"
            "interpole.save(interpole.merge(interpole.Recipe.between(p[0], p[1], 0.5)), p[2]);"
            "print(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1])"
        )
        run = [sys.executable, "-c", code, *map(str, paths), str(tmp_path / f"out{layers}")]
        peaks.append(int(subprocess.run(run, capture_output=True, check=True).stdout) / 1024)  # MB
    assert peaks[1] < 150
    assert peaks[1] - peaks[0] < 20  # the model grew by 110 MB


@pytest.mark.slow
def test_a_merge_killed_at_random_moments_leaves_no_model_and_is_finished_by_the_next_run(tmp_path):
    rng = np.random.default_rng(0)
    paths = [tiny.write(tmp_path / str(s), tiny.tensors(s, layers=8, hidden=256), shards=6) for s in (0, 1)]
    merged = interpole.merge(Recipe.between(*paths, 0.5))
    code = (
        "import sys, interpole; p = sys.argv[1:];"
        "merged = interpole.merge(interpole.Recipe.between(p[0], p[1], 0.5));"
        "interpole.save(merged, p[2], threads=1, progress=lambda n: print(n, flush=True))"
    )
    out, partial = tmp_path / "out", tmp_path / ".out.partial"
    resumed = finished = 0
    for _ in range(20):
        resumed += bool(list(partial.glob("*.safetensors")))
        process = subprocess.Popen([sys.executable, "-c", code, *map(str, paths), str(out)], stdout=subprocess.PIPE)
        for _ in range(rng.integers(1, len(merged))):
            process.stdout.readline()
        process.kill()
        process.communicate()
        assert not (partial / "config.json").exists()
        if out.exists():
            written = interpole.open(out)
            assert all(written[name].tobytes() == merged[name].tobytes() for name in merged)
            finished += 1
            shutil.rmtree(out)
    assert resumed > 3
    assert finished > 0


def test_a_leftover_of_another_merge_is_not_reused(merged, pair, tmp_path):
    other = interpole.merge(Recipe.between(*pair, 0.1))
    partial = tmp_path / ".out.partial"
    shard = next(iter(saving.shards_of(other.layout, other)))
    interpole.save(other, tmp_path / "other")
    partial.mkdir()
    shards = saving.shards_of(other.layout, other)
    (partial / ".fingerprint").write_text(other.fingerprint() + json.dumps(shards))
    (partial / shard).write_bytes((tmp_path / "other" / shard).read_bytes())
    out = interpole.open(interpole.save(merged, tmp_path / "out"))
    assert all(out[name].tobytes() == merged[name].tobytes() for name in merged)


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
    merged = {lam: interpole.merge(recipe.at(lam), sources) for lam in (0, 0.25, 0.7, 1)}
    alone = {lam: interpole.save(checkpoint, tmp_path / f"alone-{lam}") for lam, checkpoint in merged.items()}
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
    monkeypatch.setattr(saving, "CHUNK_ELEMENTS", chunk)
    written = interpole.open(interpole.save(interpole.merge(recipe), tmp_path / "out", threads=threads))
    assert all(written[name].tobytes() == expected[name].tobytes() for name in expected)
