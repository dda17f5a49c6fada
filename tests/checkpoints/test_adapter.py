"""LoRA adapters on their base, against peft's arithmetic written out in float64."""

import json

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

import interpole
import tiny
from interpole.errors import CheckpointError, InterpoleError, MismatchError
from interpole.merging.recipe import Recipe, Source, build

BF16 = ml_dtypes.bfloat16
CONFIG = {"peft_type": "LORA", "r": 4, "lora_alpha": 10, "target_modules": ["q_proj", "down_proj"]}
UP, Q = "model.layers.1.mlp.down_proj", "model.layers.0.self_attn.q_proj"


def lora(shape, rank=4, seed=0):
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(rank, shape[1])), rng.normal(size=(shape[0], rank))
    return a.astype(np.float32), b.astype(np.float32)


def write(folder, tensors, **config):
    """An adapter folder; names are peft's without their common prefix."""
    folder.mkdir()
    save_file(
        {f"base_model.model.{name}": array for name, array in tensors.items()}, folder / "adapter_model.safetensors"
    )
    (folder / "adapter_config.json").write_text(json.dumps(CONFIG | config))
    return folder


@pytest.fixture
def base(tmp_path):
    """A folder with rows that are no multiple of the tiles."""
    return tiny.write(tmp_path / "base", tiny.tensors(0, hidden=80, vocab=70, tied=False), shards=2)


def adapter(folder, **config):
    (a, b), (c, d) = lora((80, 160)), lora((80, 80), seed=1)
    return write(
        folder,
        {f"{UP}.lora_A.weight": a, f"{UP}.lora_B.weight": b, f"{Q}.lora_A.weight": c, f"{Q}.lora_B.weight": d},
        **config,
    )


def expected(weight, a, b, scale):
    return (weight.astype(np.float64) + scale * (b.astype(np.float64) @ a.astype(np.float64))).astype(np.float32)


def close(found, wanted):
    """Within one rounding to bfloat16."""
    return found.dtype == BF16 and (np.abs(found.astype(np.float64) - wanted) <= np.abs(wanted) * 2.0**-8 + 1e-6).all()


@pytest.mark.parametrize(
    ("config", "scale"), [({}, 2.5), ({"use_rslora": True}, 5.0), ({"alpha_pattern": {"down_proj": 2}}, 0.5)]
)
def test_the_weights_are_those_of_the_base_plus_scale_times_b_a(base, tmp_path, config, scale):
    checkpoint = interpole.open(base, adapter=adapter(tmp_path / "adapter", **config))
    plain = interpole.open(base)
    wanted = expected(plain[UP + ".weight"], *lora((80, 160)), scale)
    assert close(checkpoint[UP + ".weight"], wanted)
    assert (checkpoint[UP + ".weight"] == wanted.astype(BF16)).mean() > 0.999
    untouched = [name for name in plain if name not in (UP + ".weight", Q + ".weight")]
    assert all(checkpoint[name].tobytes() == plain[name].tobytes() for name in untouched)
    assert checkpoint.origin(UP + ".weight") is None
    assert checkpoint.origin(untouched[0]) == plain.origin(untouched[0])


def test_where_an_adapted_tensor_is_cut_does_not_matter(base, tmp_path):
    checkpoint = interpole.open(base, adapter=adapter(tmp_path / "adapter"))
    whole = checkpoint.read(UP + ".weight")
    for start, stop in np.sort(np.random.default_rng(0).integers(0, len(whole) + 1, (40, 2))):
        assert checkpoint.read(UP + ".weight", start, stop).tobytes() == whole[start:stop].tobytes()


def test_embeddings_whole_modules_and_biases_come_along(base, tmp_path):
    rng = np.random.default_rng(2)
    a, b = rng.normal(size=(4, 70)).astype(np.float32), rng.normal(size=(80, 4)).astype(np.float32)
    head, norm = rng.normal(size=(70, 80)).astype(np.float32), rng.normal(size=80).astype(BF16)
    folder = write(
        tmp_path / "adapter",
        {
            "model.embed_tokens.lora_embedding_A": a,
            "model.embed_tokens.lora_embedding_B": b,
            "lm_head.weight": head,
            "model.norm.weight": norm,
        },
        modules_to_save=["lm_head", "norm"],
    )
    checkpoint, plain = interpole.open(base, adapter=folder), interpole.open(base)
    saved = write(  # peft saves the embeddings below an adapter too
        tmp_path / "saved",
        {
            "model.embed_tokens.base_layer.weight": plain["model.embed_tokens.weight"],
            "model.embed_tokens.lora_embedding_A": a,
            "model.embed_tokens.lora_embedding_B": b,
        },
    )
    name = "model.embed_tokens.weight"
    assert interpole.open(base, adapter=saved)[name].tobytes() == checkpoint[name].tobytes()
    wanted = (plain["model.embed_tokens.weight"].astype(np.float64) + 2.5 * (b @ a).T).astype(np.float32)
    assert close(checkpoint["model.embed_tokens.weight"], wanted)
    assert checkpoint["lm_head.weight"].tobytes() == head.astype(BF16).tobytes()
    assert checkpoint["model.norm.weight"].tobytes() == norm.tobytes()


def test_a_folder_with_only_an_adapter_opens_its_base(base, tmp_path):
    folder = adapter(tmp_path / "adapter", base_model_name_or_path=str(base))
    direct, named = interpole.open(folder), interpole.open(base, adapter=folder)
    assert direct.fingerprint() == named.fingerprint() != interpole.open(base).fingerprint()
    assert direct[UP + ".weight"].tobytes() == named[UP + ".weight"].tobytes()
    assert direct.config == interpole.open(base).config


def test_an_adapter_is_a_source_of_a_recipe_and_of_the_recipe_left_in_the_folder(base, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = adapter(tmp_path / "adapter")
    recipe = build(
        {"sources": {"instruct": str(base), "thinking": {"model": str(base), "adapter": str(folder)}}, "lambda": 0.5},
        "t",
    )
    merged = interpole.merge(recipe)
    a, b = (interpole.open(base, adapter=x)[UP + ".weight"].astype(np.float32) for x in (None, folder))
    assert merged[UP + ".weight"].tobytes() == (a * np.float32(0.5) + b * np.float32(0.5)).astype(BF16).tobytes()
    out = interpole.save(merged, tmp_path / "out")
    assert all(interpole.open(out)[name].tobytes() == merged[name].tobytes() for name in merged)
    again = Recipe.load(out / "interpole_recipe.yml")
    assert again.sources["thinking"] == Source(model=base.name, adapter="adapter")
    assert interpole.merge(again).fingerprint() == merged.fingerprint()


def test_another_alpha_is_another_fingerprint(base, tmp_path):
    prints = {
        interpole.open(base, adapter=adapter(tmp_path / str(alpha), lora_alpha=alpha)).fingerprint()
        for alpha in (8, 10)
    }
    assert len(prints) == 2


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"peft_type": "IA3"}, "adapters of type IA3 are not read"),
        ({"use_dora": True}, "use_dora is set: DoRA"),
        ({"layer_replication": [[0, 1]]}, "repeats layers"),
    ],
)
def test_other_kinds_of_adapter_are_refused_with_the_remedy(base, tmp_path, config, words):
    with pytest.raises(CheckpointError, match=rf"{words}(.|\n)*merge_and_unload"):
        interpole.open(base, adapter=adapter(tmp_path / "adapter", **config))


def test_an_adapter_that_does_not_fit_is_named(base, tmp_path):
    a, b = lora((80, 99))
    wrong = write(tmp_path / "wrong", {f"{UP}.lora_A.weight": a, f"{UP}.lora_B.weight": b})
    with pytest.raises(MismatchError, match=r"is \[80, 99\], the base's tensor \[80, 160\]"):
        interpole.open(base, adapter=wrong)
    stray = write(tmp_path / "stray", {"model.layers.9.x.lora_A.weight": a, "model.layers.9.x.lora_B.weight": b})
    with pytest.raises(MismatchError, match=r"belongs to model\.layers\.9\.x\.weight, which .*base lacks"):
        interpole.open(base, adapter=stray)
    half = write(tmp_path / "half", {f"{UP}.lora_A.weight": a})
    with pytest.raises(CheckpointError, match=r"has .*lora_A.weight, but not .*lora_B.weight"):
        interpole.open(base, adapter=half)


def test_an_adapter_without_a_base_or_weights_says_what_to_do(base, tmp_path):
    with pytest.raises(CheckpointError, match=r"does not say which model(.|\n)*name both"):
        interpole.open(adapter(tmp_path / "orphan"))
    (tmp_path / "orphan/adapter_model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"the adapter has no adapter_model\.safetensors"):
        interpole.open(base, adapter=tmp_path / "orphan")


HOSTILE = {
    "no kind": ({"peft_type": None}, r"peft_type"),
    "alpha text": ({"lora_alpha": "x"}, r"lora_alpha"),
    "alpha infinite": ({"lora_alpha": float("inf")}, r"lora_alpha"),
    "alpha no number": ({"alpha_pattern": {"q_proj": None}}, r"alpha_pattern\.q_proj"),
    "alpha of NaN": ({"alpha_pattern": {"q_proj": float("nan")}}, r"alpha_pattern\.q_proj"),
    "patterns no object": ({"rank_pattern": "x"}, r"rank_pattern"),
    "no expression": ({"alpha_pattern": {"[": 1}}, r"alpha_pattern: '\['"),
    "an expression that takes for ever": (
        {"alpha_pattern": {"(.*)*(.*)*x": 2}},
        r"alpha_pattern: .* is no name of modules",
    ),
    "many repetitions": ({"rank_pattern": {".*.*.*.*x": 2}}, r"rank_pattern .* is no name of modules"),
    "another rank than that of the weights": ({"r": 8}, r"of rank 8, its tensor A is of rank 4"),
    "a start of another type": ({"init_lora_weights": 3}, r"init_lora_weights"),
    "a variant that is not known": ({"use_future_lora": True}, r"use_future_lora is set"),
    "a list as base": ({"base_model_name_or_path": ["x"]}, r"base_model_name_or_path"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_settings_that_make_no_sense_are_named(base, tmp_path, case):
    settings, words = HOSTILE[case]
    with pytest.raises(InterpoleError, match=words):
        interpole.open(base, adapter=adapter(tmp_path / "adapter", **settings))


@pytest.mark.parametrize(
    ("a", "b", "words"),
    [
        ((0, 80), (80, 0), "rank 0"),
        ((4,), (80, 4), r"F32 \[4\], no matrix"),
        ((4, 80, 1), (80, 4, 1), "no matrix"),
        ((4, 80), (80, 3), "of rank 4 and .* of 3"),
    ],
)
def test_matrices_that_make_no_sense_are_named(base, tmp_path, a, b, words):
    tensors = {f"{Q}.lora_A.weight": np.ones(a, np.float32), f"{Q}.lora_B.weight": np.ones(b, np.float32)}
    with pytest.raises(InterpoleError, match=words):
        interpole.open(base, adapter=write(tmp_path / "adapter", tensors, r=a[0]))


def test_an_adapter_may_lie_on_another_but_not_on_itself(base, tmp_path):
    first = adapter(tmp_path / "first", base_model_name_or_path=str(base))
    second = adapter(tmp_path / "second", base_model_name_or_path=str(first))
    wanted = interpole.open(interpole.save(interpole.open(first), tmp_path / "saved"), adapter=second)
    assert interpole.open(second)[Q + ".weight"].tobytes() == wanted[Q + ".weight"].tobytes()
    ring = [adapter(tmp_path / name, base_model_name_or_path=str(tmp_path / other)) for name, other in ("ab", "ba")]
    with pytest.raises(CheckpointError, match="is its own base"):
        interpole.open(ring[0])
    with pytest.raises(CheckpointError, match=r"File name too long|no such folder"):  # as Python 3.14 sees it
        interpole.open(adapter(tmp_path / "long", base_model_name_or_path="x" * 5000))


def test_an_adapters_folder_may_hold_the_config_of_its_base(base, tmp_path):
    folder = adapter(tmp_path / "adapter", base_model_name_or_path=str(base))
    (folder / "config.json").write_bytes((base / "config.json").read_bytes())
    assert (
        interpole.open(folder)[Q + ".weight"].tobytes() == interpole.open(base, adapter=folder)[Q + ".weight"].tobytes()
    )


def test_the_adapters_own_tokenizer_and_template_go_with_it(base, tmp_path):
    (base / "tokenizer.json").write_text('{"model": {"vocab": {"a": 0}}}')
    (base / "vocab.json").write_text("{}")
    plain = interpole.open(base, adapter=adapter(tmp_path / "plain"))
    assert plain.assets == interpole.open(base).assets
    own = adapter(tmp_path / "own")
    (own / "chat_template.jinja").write_text("mine")
    assert interpole.open(base, adapter=own).chat_template == "mine"
    assert interpole.open(base, adapter=own).assets["tokenizer.json"] == base / "tokenizer.json"
    (own / "chat_template.jinja").unlink()
    (own / "tokenizer.json").write_text('{"model": {"vocab": {"b": 0}}}')
    (own / "tokenizer_config.json").write_text('{"chat_template": "in the config"}')
    whole = interpole.open(base, adapter=own)
    assert whole.chat_template == "in the config"
    assert whole.assets["tokenizer.json"] == own / "tokenizer.json"
    assert "vocab.json" not in whole.assets
    assert whole.assets["config.json"] == base / "config.json"
    saved = interpole.save(interpole.merge(Recipe.between(base, base, 1)), tmp_path / "untouched")
    assert (saved / "chat_template.jinja").read_bytes() == (base / "chat_template.jinja").read_bytes()
