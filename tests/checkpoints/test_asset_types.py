"""The small files of a checkpoint with values of other types: an error of ours that names file and key, or nothing."""

import json

import pytest

import interpole
from interpole.chat import added_tokens, find_markers, special_variables
from interpole.checkpoints.views.vocabulary import vocabulary
from interpole.diagnostics.doctor import examine
from interpole.errors import CorruptError, InterpoleError
from interpole.lab import shipped
from interpole.merging.recipe import Recipe

VALUES = [
    None,
    5,
    -1,
    10**19,
    "x",
    "\ud800",
    [],
    [1],
    [[1]],
    {},
    {"a": 1},
    {"1": {}},
    {"full_attention": 5},
    float("inf"),
]
KEYS = {
    "config.json": ["text_config", "vision_config", "rope_parameters", "rope_scaling", "vocab_size", "num_hidden_layers",
                    "num_attention_heads", "layer_types", "quantization_config", "sliding_window", "eos_token_id"],
    "generation_config.json": ["eos_token_id", "temperature"],
    "tokenizer_config.json": ["chat_template", "added_tokens_decoder", "eos_token"],
    "tokenizer.json": ["model", "added_tokens"],
}  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    """The shipped Thinking model, with files of its own."""
    for path in shipped().thinking.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


@pytest.mark.parametrize(("file", "key"), [(file, key) for file, keys in KEYS.items() for key in keys])
def test_a_value_of_another_type_is_an_error_of_ours_or_none(folder, file, key):
    content, refused = json.loads((folder / file).read_text()), []
    for value in VALUES:
        (folder / file).write_text(json.dumps({**content, key: value}))
        try:
            examine(interpole.open(shipped().instruct), interpole.open(folder))
            interpole.merge(Recipe.between(shipped().instruct, folder, 0.5))
        except InterpoleError as error:
            refused.append(str(error))
    assert all(key in message or "is quantised by" in message for message in refused)
    assert refused or key == "temperature" or file == "tokenizer_config.json"  # a finding of the doctor


WRONG = {
    "words of tokens": ("tokenizer.json", {"model": {"vocab": {"a": "x"}}}, r"model\.vocab.*a", vocabulary),
    "ids out of range": ("tokenizer.json", {"model": {"vocab": {"a": 10**19}}}, r"model\.vocab", vocabulary),
    "tokens without text": ("tokenizer.json", {"added_tokens": [{"id": 1}]}, r"added_tokens\.0\.content", vocabulary),
    "no object": ("tokenizer.json", [], "expected a JSON object", vocabulary),
    "bytes that are none": ("tekken.json", {"vocab": [{"rank": 0, "token_bytes": "é"}]}, r"vocab\.0\.token_bytes", vocabulary),
    "a special token of Mistral's": (
        "tekken.json", {"special_tokens": [1]}, r"special_tokens", lambda c: added_tokens(c.assets)),
    "tokens beside the vocabulary": (
        "tokenizer_config.json", {"added_tokens_decoder": {"1": 1}}, r"added_tokens_decoder\.1",
        lambda c: find_markers(c.assets, None)),
    "an end of turn": (
        "tokenizer_config.json", {"eos_token": {}}, r"eos_token", lambda c: special_variables(c.assets)),
    "a list of templates": ("tokenizer_config.json", {"chat_template": [1]}, r"chat_template", lambda c: c.chat_template),
    "ends of turn": ("generation_config.json", {"eos_token_id": [{}]}, r"eos_token_id", lambda c: c.generation_config),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_the_error_names_file_and_key(folder, case):
    file, content, key, read = WRONG[case]
    for name in ("tokenizer.json", "chat_template.jinja"):
        (folder / name).unlink()
    (folder / file).write_text(json.dumps(content))
    with pytest.raises(InterpoleError, match=key) as error:
        read(interpole.open(folder))
    assert file in str(error.value)


def test_a_template_in_another_encoding_is_named(folder):
    (folder / "chat_template.jinja").write_bytes(b"\xff\xfe")
    with pytest.raises(CorruptError, match=r"UTF-8(.|\n)*chat_template\.jinja"):
        _ = interpole.open(folder).chat_template
