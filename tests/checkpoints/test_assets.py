"""What goes with the weights: every file that holds none, whatever it is called; and what is refused as no file or no model."""

import pytest

import interpole
import tiny
from interpole.checkpoints.hub import is_hub_id, locate
from interpole.errors import CheckpointError, CorruptError

POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'4d7a2146' * 8}\nsize 9\n"
KEPT = (
    *(
        "tokenizer.json",
        "tokenizer.model",
        "tiktoken.model",
        "spiece.model",
        "sentencepiece.bpe.model",
        "vocab.txt",
        "vocab.json",
    ),
    *(
        "merges.txt",
        "bpe.codes",
        "ice_text.model",
        "special_tokens_map.json",
        "added_tokens.json",
        "preprocessor_config.json",
    ),
    *(
        "LICENSE",
        "LICENSE.txt",
        "NOTICE",
        "USE_POLICY.md",
        "modeling_own.py",
        "configuration_own.py",
        "chat_template.json",
    ),
    *("additional_chat_templates/tool_use.jinja", "tokenization/words.txt", "a b.tiktoken"),
)
LEFT = (
    *(
        "pytorch_model.bin",
        "consolidated.safetensors",
        "model.gguf",
        "optimizer.pt",
        "rng_state_0.pth",
        "training_args.bin",
    ),
    *(
        "trainer_state.json",
        ".gitattributes",
        ".git/config",
        "README.md",
        "interpole_recipe.yml",
        "figure.png",
        "onnx/model.json",
    ),
    *(
        "checkpoint-500/trainer_state.json",
        "other/config.json",
        "other/tokenizer.json",
        "lora/adapter_model.safetensors",
    ),
    *(
        "lora/notes.json",
        "original/params.json",
        "pytorch_model.bin.index.json",
        "__pycache__/x.py",
        "events.out.tfevents.1.x",
    ),
)


@pytest.fixture
def model(tmp_path):
    folder = tiny.write(tmp_path / "m", tiny.tensors(0))
    for name in (*KEPT, *LEFT):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(f'{{"it is": "{name}"}}')
    return folder


def test_a_merge_takes_along_every_file_but_weights_and_what_training_left(model, tmp_path):
    recipe = interpole.Recipe.between(model, model, 0.5)
    out = interpole.save(interpole.merge(recipe), tmp_path / "out")
    assert all((out / name).read_bytes() == (model / name).read_bytes() for name in KEPT)
    assert not [name for name in LEFT if (out / name).exists() and name not in ("README.md", "interpole_recipe.yml")]
    assert "Merge of" in (out / "README.md").read_text()


def test_a_merge_stopped_after_some_assets_goes_on(model, tmp_path, monkeypatch):
    merged = interpole.merge(interpole.Recipe.between(model, model, 0.5))
    with monkeypatch.context() as patch:
        patch.setattr(interpole.Merged, "documents", lambda _: {"x": lambda: (_ for _ in ()).throw(KeyboardInterrupt)})
        with pytest.raises(KeyboardInterrupt):
            interpole.save(merged, tmp_path / "out")
    assert (tmp_path / ".out.partial/additional_chat_templates").is_dir()
    out = interpole.save(merged, tmp_path / "out")
    assert (out / KEPT[-3]).is_file()


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "tiktoken.model", "config.json"])
def test_a_pointer_of_git_lfs_says_what_to_run(model, name):
    (model / name).write_text(POINTER)
    with pytest.raises(CorruptError, match=rf"{name} is a pointer of Git LFS(.|\n)*git lfs pull"):
        interpole.open(model)


@pytest.mark.parametrize(
    "place", ["./models", "../x/y", "a/b/c", "/a/b", "a", "a/", "~/x", "-a/b", "a\\b", "models/none", ""]
)
def test_a_path_that_does_not_exist_is_no_hub_id(tmp_path, monkeypatch, place):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    if place == "./models":
        place = "./model"
    assert not is_hub_id(place)
    if place:
        with pytest.raises(CheckpointError, match="no such folder"):
            locate(place)


@pytest.mark.parametrize("place", ["Qwen/Qwen3-4B", "lab/x.y_z", "01-ai/Yi-1.5-6B"])
def test_an_owner_and_a_name_are_a_hub_id(tmp_path, monkeypatch, place):
    monkeypatch.chdir(tmp_path)
    assert is_hub_id(place)


def test_an_index_that_is_a_pointer_says_what_to_run(pair):
    (pair[0] / "model.safetensors.index.json").write_text(POINTER)
    with pytest.raises(CorruptError, match=r"git lfs pull"):
        interpole.open(pair[0])
