import json
import struct

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

import interpole
import tiny
from interpole.checkpoints.safetensors import unique
from interpole.errors import CheckpointError, CorruptError, InterpoleError, InterpoleWarning


def rewrite_header(path, change):
    """Replace the JSON header of a safetensors file by `change(header)`, leaving the data as it is."""
    raw = path.read_bytes()
    length = struct.unpack("<Q", raw[:8])[0]
    header = json.loads(raw[8 : 8 + length])
    text = json.dumps(change(header)).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + raw[8 + length :])


def test_every_tensor_reads_as_it_was_written(tmp_path):
    weights = tiny.tensors(3) | {"extra.f32": np.arange(6, dtype=np.float32).reshape(2, 3)}
    checkpoint = interpole.open(tiny.write(tmp_path / "m", weights, shards=2))
    assert set(checkpoint) == set(weights)
    for name, expected in weights.items():
        assert checkpoint[name].dtype == expected.dtype
        assert checkpoint[name].tobytes() == expected.tobytes()
        assert checkpoint[name].shape == expected.shape


def test_a_range_of_a_tensor_is_that_part_of_it(pair):
    checkpoint = interpole.open(pair[0])
    whole = checkpoint["model.embed_tokens.weight"].reshape(-1)
    assert checkpoint.read("model.embed_tokens.weight", 5, 77).tobytes() == whole[5:77].tobytes()


def test_config_template_and_generation_config_come_along(pair):
    checkpoint = interpole.open(pair[0])
    assert checkpoint.config["model_type"] == "qwen3"
    assert checkpoint.chat_template == "{{ messages[0].content }}"
    assert checkpoint.generation_config == {"top_k": len("instruct")}
    assert set(checkpoint.assets) >= {"config.json", "tokenizer_config.json", "chat_template.jinja"}


def test_a_template_list_gives_the_default_one(pair):
    (pair[0] / "chat_template.jinja").unlink()
    templates = [{"name": "tool_use", "template": "T"}, {"name": "default", "template": "D"}]
    (pair[0] / "tokenizer_config.json").write_text(json.dumps({"chat_template": templates}))
    assert interpole.open(pair[0]).chat_template == "D"


def test_the_fingerprint_sees_one_changed_tensor_but_not_the_layout(tmp_path):
    weights = tiny.tensors(0)
    prints = [
        interpole.open(tiny.write(tmp_path / f"m{n}", weights, shards=n, reverse=n > 1)).fingerprint()
        for n in (1, 2, 5)
    ]
    assert len(set(prints)) == 1
    changed = weights | {"model.norm.weight": weights["model.norm.weight"] + ml_dtypes.bfloat16(0.5)}
    assert interpole.open(tiny.write(tmp_path / "changed", changed)).fingerprint() != prints[0]


def test_a_hub_id_is_read_from_the_cache_offline(tmp_path, monkeypatch):
    commit = "a" * 40
    repo = tmp_path / "models--acme--tiny"
    tiny.write(repo / "snapshots" / commit, tiny.tensors(0), shards=2)
    (repo / "refs").mkdir()
    (repo / "refs/main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    checkpoint = interpole.open("acme/tiny")
    assert checkpoint.label == "acme/tiny"
    assert checkpoint["model.norm.weight"].tobytes() == tiny.tensors(0)["model.norm.weight"].tobytes()
    with pytest.raises(CheckpointError, match=r"acme/other.*from the hub"):
        interpole.open("acme/other")


@pytest.mark.parametrize(
    ("source", "words"),
    [("no/such/folder", "no such folder"), ("nowhere", "no such folder")],
)
def test_a_path_that_is_nothing_says_so(source, words):
    with pytest.raises(CheckpointError, match=words):
        interpole.open(source)


def test_pytorch_bin_weights_are_refused_with_the_command_that_converts(pair):
    for path in pair[0].glob("*.safetensors*"):
        path.unlink()
    (pair[0] / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(CheckpointError, match="save_pretrained"):
        interpole.open(pair[0])


def test_a_missing_shard_is_named(pair):
    (pair[0] / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(CorruptError, match=r"shard model-00002-of-00002.safetensors is missing"):
        interpole.open(pair[0])


def test_a_truncated_shard_is_named_with_both_sizes(pair):
    shard = pair[0] / "model-00001-of-00002.safetensors"
    shard.write_bytes(shard.read_bytes()[:-10])
    with pytest.raises(CorruptError, match=r"announces \d+ bytes of tensors, the file holds \d+") as error:
        interpole.open(pair[0])
    assert shard.name in str(error.value)


def test_a_file_that_shrinks_after_opening_is_noticed(pair):
    checkpoint = interpole.open(pair[0])
    for shard in pair[0].glob("*.safetensors"):
        shard.write_bytes(shard.read_bytes()[:100])
    with pytest.raises(CorruptError, match="ended inside tensor"):
        checkpoint["model.norm.weight"]


LIES = {
    "overlap": (
        lambda e: e | {"data_offsets": [0, e["data_offsets"][1] - e["data_offsets"][0]]},
        "overlaps|hole|takes",
    ),
    "size": (lambda e: e | {"shape": [*e["shape"], 2]}, "takes"),
    "huge": (lambda e: e | {"shape": [2**62, 2**62]}, "takes"),
    "negative": (lambda e: e | {"data_offsets": [-8, 8]}, "takes|malformed"),
    "dtype": (lambda e: e | {"dtype": "Q4"}, "dtype Q4"),
    "form": (lambda _: [1, 2], "malformed"),
    "bool": (lambda e: e | {"shape": [True]}, "malformed"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_header_that_lies_is_refused_with_the_tensor(tmp_path, lie):
    change, words = LIES[lie]
    folder = tiny.write(tmp_path / "m", tiny.tensors(0))
    name = "model.layers.1.mlp.up_proj.weight"
    rewrite_header(folder / "model.safetensors", lambda h: h | {name: change(h[name])})
    with pytest.raises(CheckpointError, match=words) as error:
        interpole.open(folder)
    assert name in str(error.value)


def test_a_tensor_that_the_index_places_elsewhere_is_named(pair):
    index = pair[0] / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    content["weight_map"]["model.norm.weight"] = "model-00001-of-00002.safetensors"
    other = content["weight_map"] | {"model.norm.weight": "model-00002-of-00002.safetensors"}
    lies = (
        other
        if interpole.open(pair[0]).layout["model.norm.weight"].startswith("model-00001")
        else content["weight_map"]
    )
    index.write_text(json.dumps({"weight_map": lies}))
    with pytest.raises(CorruptError, match=r"index places tensor model\.norm\.weight"):
        interpole.open(pair[0])


def test_an_index_cannot_point_outside_the_folder(pair):
    (pair[0] / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"x": "../../etc/passwd"}}))
    with pytest.raises(CorruptError, match="plain file names"):
        interpole.open(pair[0])


def test_weights_beside_an_index_of_other_shards_are_refused_as_programs_differ_in_which_they_read(pair):
    save_file(tiny.tensors(5), pair[0] / "model.safetensors")
    with pytest.raises(CorruptError, match=r"transformers reads.*vLLM reads"):
        interpole.open(pair[0])


def test_an_index_of_shards_that_are_all_gone_is_named_and_the_weights_are_read(pair):
    for shard in pair[0].glob("*.safetensors"):
        shard.unlink()
    weights = tiny.tensors(5)
    save_file(weights, pair[0] / "model.safetensors")
    with pytest.warns(InterpoleWarning, match="files that are not there"):
        read = interpole.open(pair[0])
    assert all(read[name].tobytes() == array.tobytes() for name, array in weights.items())


HOSTILE_NAMES = [
    "",
    "x" * 5000,
    "model.layers." + "9" * 5000 + ".mlp.up_proj.weight",
    "a\x1b[2J",
    "a\x9b2J",
    "a\ud800",
    "a\u202eb",
]


@pytest.mark.parametrize("name", HOSTILE_NAMES, ids=range(len(HOSTILE_NAMES)))
def test_a_name_that_cannot_be_shown_is_refused_and_not_obeyed(tmp_path, name):
    folder = tiny.write(tmp_path / "m", tiny.tensors(0))
    old = "model.layers.1.mlp.up_proj.weight"
    rewrite_header(folder / "model.safetensors", lambda h: {name if key == old else key: e for key, e in h.items()})
    with pytest.raises(CorruptError, match="is called") as error:
        interpole.open(folder)
    assert error.value.what.isprintable()
    assert len(error.value.what) < 300


@pytest.mark.parametrize("shape", [[1] * 65 + [32, 16], [2**62, 0, 2**62], [10**4000] * 2, [10**4000] * 99])
def test_a_shape_that_numpy_cannot_hold_is_refused(tmp_path, shape):
    folder = tiny.write(tmp_path / "m", tiny.tensors(0))
    name, size = "model.layers.1.mlp.up_proj.weight", 1024 if 0 not in shape else 0

    def change(header):
        start = header[name]["data_offsets"][0]
        return header | {name: header[name] | {"shape": shape, "data_offsets": [start, start + size]}}

    rewrite_header(folder / "model.safetensors", change)
    with pytest.raises(CorruptError, match="shape"):
        interpole.open(folder)


def test_a_name_twice_is_found_in_linear_time():
    """Comparisons of names grow with their number, not with its square."""

    class Counted(str):
        seen = 0
        __hash__ = str.__hash__

        def __eq__(self, other):
            Counted.seen += 1
            return str.__eq__(self, other)

    seen = []
    for size in (1000, 2000):
        Counted.seen = 0
        pairs = [(Counted(f"t{i}"), {}) for i in range(size)] + [(Counted(f"t{size - 1}"), {})]
        with pytest.raises(ValueError, match=f"'t{size - 1}' occurs twice"):
            unique(pairs)
        seen.append(Counted.seen)
    assert seen[1] <= 3 * seen[0]


@settings(max_examples=500, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_mutated_files_give_only_our_errors(tmp_path_factory, data):
    folder = _fuzz_folder(tmp_path_factory)
    path = folder / "model.safetensors"
    raw = bytearray(ORIGINAL["raw"])
    where = st.integers(0, 12) | st.integers(0, min(len(raw), 3000) - 1)
    for _ in range(data.draw(st.integers(1, 4))):
        kind, at = data.draw(st.sampled_from(["set", "cut", "insert", "swap"])), data.draw(where)
        if kind == "set":
            raw[at : at + 1] = bytes([data.draw(st.integers(0, 255))])
        elif kind == "cut":
            del raw[at : at + data.draw(st.integers(1, 40))]
        elif kind == "insert":
            raw[at:at] = data.draw(
                st.sampled_from([b"{", b"[[", b"\xff", b"9" * 30, b"-", b'"', b"1e999", b"null", b"\\u0000"])
            )
        else:
            raw[at : at + 4] = raw[at : at + 4][::-1]
    path.write_bytes(raw)
    try:
        checkpoint = interpole.open(folder)
        for name in checkpoint:
            assert checkpoint[name].nbytes <= len(raw)
    except InterpoleError as error:
        assert str(error)  # noqa: PT017


ORIGINAL = {}


def _fuzz_folder(factory):
    if not ORIGINAL:
        folder = tiny.write(factory.mktemp("fuzz") / "m", tiny.tensors(0, layers=1, hidden=4, vocab=6))
        ORIGINAL.update(folder=folder, raw=(folder / "model.safetensors").read_bytes())
    return ORIGINAL["folder"]
