"""Checkpoints read over the network by ranges: the bytes of a copy, whatever the connection does, and no copy on the disk."""

import itertools
import shlex

import ml_dtypes
import numpy as np
import pytest
from huggingface_hub import constants

import interpole
import tiny
from bench import call
from hub_server import serving
from interpole.checkpoints import remote
from interpole.checkpoints.open import open_source
from interpole.checkpoints.remote import Remote
from interpole.checkpoints.save import Target, save_all
from interpole.checkpoints.shards import Share
from interpole.errors import CheckpointError, CorruptError, UnreachableError
from interpole.merging.merged import open_part
from interpole.merging.recipe import Recipe

FILE = "model-00001-of-00002.safetensors"


@pytest.fixture
def hub(pair, tmp_path, monkeypatch):
    """What was served and what goes wrong, of a hub with the pair; this process asks it."""
    monkeypatch.setattr(remote, "BLOCK_BYTES", 1500)
    monkeypatch.setattr(remote, "FIRST_BYTES", 400)  # less than a header
    monkeypatch.setattr(remote, "WAITS_SECONDS", (0.0, 0.0, 0.0))
    faults = {}
    repos = {("models", f"lab/{path.name}"): path for path in (*pair, tmp_path / "coded")}
    with serving(repos, faults) as (url, served):
        monkeypatch.setattr(constants, "ENDPOINT", url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf"))
        yield served, faults


RECIPE = Recipe.between("lab/instruct", "lab/thinking", 0.6)


def streamed(recipe=RECIPE):
    return interpole.merge(recipe, {name: open_part(part, stream=True) for name, part in recipe.sources.items()})


def weights(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix not in (".md", ".yml")}


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize(("start", "stop"), [(0, None), (3, 7), (0, 0), (100, 640)])
def test_what_is_read_is_what_lies_in_the_files(pair, start, stop):
    over, here = open_source("lab/instruct", stream=True), interpole.open(pair[0])
    assert isinstance(over, Remote)
    assert (dict(over.specs), dict(over.layout), over.config) == (dict(here.specs), dict(here.layout), here.config)
    for name, spec in here.specs.items():
        part = start, None if stop is None else min(stop, spec.num_elements)
        if start <= spec.num_elements:
            assert over.read(name, *part).tobytes() == here.read(name, *part).tobytes()


def test_a_streamed_merge_is_that_of_copies_and_keeps_none(hub, pair, tmp_path):
    served, _ = hub
    save_all([Target(streamed(), tmp_path / "out")], threads=4)
    interpole.save(interpole.merge(Recipe.between(*pair, 0.6)), tmp_path / "local")
    assert weights(tmp_path / "out") == weights(tmp_path / "local")
    assert not list((tmp_path / "hf").rglob("*.safetensors"))
    fetched = sum(num_bytes for name, num_bytes in served if name.endswith(".safetensors"))
    stored = sum(path.stat().st_size for side in pair for path in side.glob("*.safetensors"))
    assert fetched < 1.6 * stored  # headers come twice, and blocks are kept
    text = (tmp_path / "out/interpole_recipe.yml").read_text()
    assert "revision: c0ffee" in text


@pytest.mark.parametrize("fault", ["drop", "busy"])
def test_a_connection_that_drops_again_and_again_is_taken_up_where_it_dropped(hub, pair, fault):
    served, faults = hub
    faults[FILE] = itertools.cycle([fault, None, fault])
    over, here = open_source("lab/instruct", stream=True), interpole.open(pair[0])
    assert all(over[name].tobytes() == here[name].tobytes() for name in here)
    num_bytes = sum(size for name, size in served if name == FILE)
    assert num_bytes < 2 * (pair[0] / FILE).stat().st_size  # nothing comes twice but the header


def test_a_hub_that_is_gone_ends_the_merge_which_goes_on_when_it_is_back(hub, pair, tmp_path, monkeypatch):
    _, faults = hub
    monkeypatch.setattr(remote, "KEPT_BLOCKS", 2)
    merged, partial = streamed(), tmp_path / ".out.partial"
    faults["model-00001-of-00003.safetensors"] = (
        "busy" if list(partial.glob("*.safetensors")) else None for _ in itertools.count()
    )
    with pytest.raises(UnreachableError, match="cannot be fetched: the hub answers 503, 4 times on end"):
        interpole.save(merged, tmp_path / "out", threads=1)
    done = {path.name: path.stat().st_ino for path in partial.glob("*.safetensors")}
    assert list(done) == [FILE]
    faults.clear()
    interpole.save(streamed(), tmp_path / "out")
    assert (tmp_path / "out" / FILE).stat().st_ino == done[FILE]
    interpole.save(interpole.merge(Recipe.between(*pair, 0.6)), tmp_path / "local")
    assert weights(tmp_path / "out") == weights(tmp_path / "local")


def test_a_stopped_merge_goes_on_without_fetching_what_is_written(hub, tmp_path):
    served, _ = hub
    save_all([Target(streamed(), tmp_path / "out")], share=Share(1, 2))
    before = len(served)
    done = {path.name for path in (tmp_path / ".out.partial").glob("*.safetensors")}
    interpole.save(streamed(), tmp_path / "out")
    fetched = sum(size for name, size in served[before:] if name in done and name == FILE)
    assert done == {FILE}
    assert fetched < 2500  # its header


def test_a_hub_that_serves_no_ranges_is_named_with_what_to_do(hub):
    _, faults = hub
    faults["no ranges"] = True
    with pytest.raises(CheckpointError, match=r"whole instead of the part(.|\n)*merge without --stream"):
        open_source("lab/instruct", stream=True)


@pytest.mark.usefixtures("hub")
def test_a_header_that_lies_is_refused_as_that_of_a_file_is(pair):
    with (pair[0] / FILE).open("r+b") as file:
        file.write((1 << 40).to_bytes(8, "little"))
    with pytest.raises(CorruptError, match=f"lab/instruct, {FILE}"):
        open_source("lab/instruct", stream=True)


@pytest.mark.usefixtures("hub")
def test_other_content_of_a_file_is_another_fingerprint(pair):
    before = open_source("lab/instruct", stream=True)
    assert open_source("lab/instruct", stream=True).fingerprint() == before.fingerprint()
    content = bytearray((pair[0] / FILE).read_bytes())
    content[-1] ^= 1
    (pair[0] / FILE).write_bytes(content)
    assert open_source("lab/instruct", stream=True).fingerprint() != before.fingerprint()


@pytest.mark.usefixtures("hub")
def test_what_lies_in_the_cache_is_read_there(pair):
    open_source("lab/instruct")  # downloads it
    assert not isinstance(open_source("lab/instruct", stream=True), Remote)
    assert not isinstance(open_source(pair[0], stream=True), Remote)


@pytest.mark.usefixtures("hub")
def test_fp8_is_decoded_from_what_is_fetched(tmp_path):
    plain = tiny.tensors(0)
    name = "model.layers.0.mlp.up_proj.weight"
    plain[name] = np.arange(32 * 16).reshape(32, 16).astype(ml_dtypes.float8_e4m3fn)
    plain[name + "_scale_inv"] = np.full((4, 2), 0.25, np.float32)
    config = {"quantization_config": {"quant_method": "fp8", "weight_block_size": [8, 8]}}
    coded = tiny.write(tmp_path / "coded", plain, config=config)
    over, here = open_source("lab/coded", stream=True), interpole.open(coded)
    assert all(over[tensor].tobytes() == here[tensor].tobytes() for tensor in here)


@pytest.mark.usefixtures("hub")
def test_the_command_streams(pair, tmp_path):
    line = [*shlex.split("merge lab/instruct lab/thinking -l 0.6 -o"), str(tmp_path / "out"), "--no-doctor", "--stream"]
    call(*line)
    expected = interpole.merge(Recipe.between(*pair, 0.6))
    written = interpole.open(tmp_path / "out")
    assert all(written[name].tobytes() == expected[name].tobytes() for name in expected)
    assert not list((tmp_path / "hf").rglob("*.safetensors"))
