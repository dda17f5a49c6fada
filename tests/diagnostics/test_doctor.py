"""The doctor on tiny pairs, each sound but for one thing."""

import base64
import json
import struct

import ml_dtypes
import numpy as np
import pytest

import tiny
from interpole.checkpoints.architectures import rope
from interpole.checkpoints.checkpoint import open_checkpoint
from interpole.diagnostics.doctor import examine

CONFIG = {
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "vocab_size": 40,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "rope_theta": 5_000_000,
    "eos_token_id": 1,
}
TOKENS = {"a": 0, "<|end|>": 1, "b": 2, "c": 3}
MARKERS = {"<think>": 30, "</think>": 31}
INSTRUCT_TEMPLATE = "{{ messages[0].content }}{% if add_generation_prompt %}<|bot|>{% endif %}"
THINKING_TEMPLATE = "{{ messages[0].content }}{% if add_generation_prompt %}<|bot|><think>\n{% endif %}"


def close(weights, seed):
    """The same weights, moved by a twentieth."""
    rng = np.random.default_rng(seed)
    return {
        n: (w.astype(np.float32) * (1 + 0.1 * rng.normal(size=w.shape))).astype(w.dtype) for n, w in weights.items()
    }


def write(folder, *, weights=None, config=None, tokens=None, generation=None, template=INSTRUCT_TEMPLATE):
    """A sound checkpoint but for what is given; a config value of None takes the key away."""
    weights = close(tiny.tensors(0), len(folder.name)) if weights is None else weights
    tiny.write(folder, weights, template=template or "", config=CONFIG)
    content = {key: value for key, value in (tiny.CONFIG | CONFIG | (config or {})).items() if value is not None}
    (folder / "config.json").write_text(json.dumps(content))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": 1, "top_p": 0.8} | (generation or {})))
    if tokens is not False:
        known = TOKENS | MARKERS if tokens is None else tokens
        added = [{"id": i, "content": t, "special": False} for t, i in known.items() if t.startswith("<")]
        vocab = {t: i for t, i in known.items() if not t.startswith("<")}
        (folder / "tokenizer.json").write_text(json.dumps({"model": {"vocab": vocab}, "added_tokens": added}))
    if template is None:
        (folder / "chat_template.jinja").unlink()
    return folder


def diagnose(tmp_path, instruct=None, thinking=None, **settings):
    thinking = {"template": THINKING_TEMPLATE} | (thinking or {})
    sides = write(tmp_path / "i", **(instruct or {})), write(tmp_path / "think", **thinking)
    return examine(*map(open_checkpoint, sides), **settings)


def graver(diagnosis):
    return [(f.code, f.severity) for f in diagnosis.findings if f.severity != "note"]


def test_a_sound_pair_goes_and_says_what_its_markers_and_prompt_do(tmp_path):
    diagnosis = diagnose(tmp_path)
    assert (diagnosis.verdict, diagnosis.exit_code, graver(diagnosis)) == ("go", 0, [])
    told = " ".join(f.what for f in diagnosis.findings)
    assert "</think> is token 31 on both sides" in told
    assert "the generation prompt of Thinking opens a think block" in told


SICK = {
    "another architecture": ({}, {"config": {"model_type": "llama"}}, "architecture", "stop", "qwen3"),
    "other heads in one shape": ({}, {"config": {"num_attention_heads": 2}},
        "settings", "stop", "num_attention_heads: 4"),
    "other experts per token": ({"config": {"num_experts_per_tok": 8}}, {"config": {"num_experts_per_tok": 6}},
        "settings", "warn", "8 in Instruct, 6 in Thinking"),
    "another rope theta": ({}, {"config": {"rope_theta": 1_000_000}}, "rope", "warn", "1000000.0 in Thinking"),
    "rope scaled on one side": ({}, {"config": {"rope_scaling": {"type": "yarn", "factor": 4.0}}},
        "rope", "warn", "yarn"),
    "another window": ({}, {"config": {"use_sliding_window": True, "sliding_window": 4096, "max_window_layers": 1}},
        "window", "warn",
        "sliding layers: not set in Instruct, [1, 2] in Thinking; sliding_window: not set in Instruct, 4096 in Thinking"),
    "a missing layer": ({}, {"weights": tiny.tensors(0, layers=2)}, "tensors", "stop", "only in"),
    "another width": ({}, {"weights": tiny.tensors(0, hidden=8)}, "tensors", "stop", "more like it"),
    "a larger vocabulary": ({}, {"weights": tiny.tensors(0, vocab=48)}, "rows", "note", "8 rows that instruct lacks"),
    "tied and untied": ({}, {"weights": tiny.tensors(0, tied=False), "config": {"tie_word_embeddings": False}},
        "rows", "note", "lm_head of instruct is tied"),
    "two precisions": ({}, {"weights": tiny.tensors(0, dtype=np.float32)},
        "dtype", "warn", "BF16 in Instruct and F32 in Thinking"),
    "fp8 on one side": ({},
        {"weights": tiny.tensors(0, dtype=ml_dtypes.float8_e4m3fn), "config": {"quantization_config": {"quant_method": "fp8"}}},
        "quantised", "stop", "fp8"),
    "packed integers": ({},
        {"weights": tiny.tensors(0) | {"model.layers.0.mlp.down_proj.qweight": np.zeros((4, 4), np.int32)}},
        "quantised", "stop", "qweight"),
    "a config that announces scales": ({"config": {"quantization_config": {"quant_method": "fp8"}}}, {},
        "quantised", "warn", "plain numbers"),
    "names of no family": ({"weights": tiny.tensors(0) | {"transformer.h.0.x": np.ones(2, np.float32)}},
        {"weights": tiny.tensors(0) | {"transformer.h.0.x": np.ones(2, np.float32)}},
        "names", "warn", "transformer.h.0.x"),
    "fewer layers than the config says": ({"weights": tiny.tensors(0, layers=2)},
        {"weights": tiny.tensors(0, layers=2)},
        "depth", "stop", "2 layers on disk and 3"),
    "a reused id": ({"tokens": {f"t{i}": i for i in range(200)} | {"x": 210}, "config": {"vocab_size": 300}},
        {"tokens": {f"t{i}": i for i in range(200)} | {"y": 210}, "config": {"vocab_size": 300}},
        "vocabulary", "warn", "id 210 is 'x' in Instruct and 'y' in Thinking"),
    "another tokenizer": ({"tokens": {"b": 0, "a": 1}}, {}, "vocabulary", "stop", "different tokens"),
    "markers that only Thinking has": ({"tokens": TOKENS}, {}, "markers", "warn", "in Instruct that id is no token"),
    "a marker's id reused": ({"tokens": TOKENS | {"<|old|>": 30, "<|older|>": 31}}, {},
        "markers", "warn", "that id is '<|old|>'"),
    "no markers at all": ({"tokens": TOKENS}, {"tokens": TOKENS, "template": INSTRUCT_TEMPLATE},
        "markers", "warn", "no pair of think markers"),
    "a token beyond the embeddings": ({}, {"tokens": TOKENS | {"z": 40}}, "rows", "stop", "'z' has id 40"),
    "no tokenizer": ({"tokens": False}, {}, "vocabulary", "warn", "Instruct has no tokenizer.json"),
    "another end of turn": ({}, {"generation": {"eos_token_id": [1, 2]}}, "eos", "warn", "[1] in Instruct, [1, 2]"),
    "no end of turn": ({"generation": {"eos_token_id": None}, "config": {"eos_token_id": None}}, {},
        "eos", "warn", "Instruct names no eos"),
    "no template": ({"template": None}, {}, "template", "warn", "Instruct has no chat template"),
    "swapped sides": ({"template": THINKING_TEMPLATE}, {"template": INSTRUCT_TEMPLATE},
        "template", "warn", "opens a think block and that of Thinking does not"),
    "a template that does not render": ({"template": "{{ raise_exception('no') }}"}, {},
        "template", "warn", "does not render"),
    "another sampler": ({}, {"generation": {"top_p": 0.95}}, "sampling", "note", "0.8 in Instruct, 0.95 in Thinking"),
    "a setting nobody knows": ({}, {"config": {"frobnicate": 3}}, "other-settings", "note", "frobnicate"),
}  # fmt: skip


@pytest.mark.parametrize("name", SICK)
def test_the_doctor_finds(name, tmp_path):
    instruct, thinking, code, severity, words = SICK[name]
    diagnosis = diagnose(tmp_path, instruct, thinking)
    found = [f for f in diagnosis.findings if (f.code, f.severity) == (code, severity) and words in f.what]
    assert found, diagnosis.rows()
    assert found[0].why
    assert found[0].remedy
    if severity == "stop":
        assert (diagnosis.verdict, diagnosis.exit_code) == ("stop", 2)
    assert diagnosis.verdict != "go" or severity == "note"


@pytest.mark.parametrize(
    "change",
    [
        {"rope_theta": None, "rope_parameters": {"rope_theta": 5e6, "rope_type": "default"}},
        {"transformers_version": "9.0", "torch_dtype": None, "dtype": "bfloat16"},
        {"use_sliding_window": False, "sliding_window": 4096},
        {"head_dim": 128},
    ],
    ids=["rope_parameters", "library version", "a window not used", "a default written out"],
)
def test_two_spellings_of_one_config_are_no_finding(tmp_path, change):
    diagnosis = diagnose(tmp_path, {}, {"config": change})
    assert {f.code for f in diagnosis.findings} <= {"markers", "template"}, diagnosis.rows()


def test_a_language_model_inside_a_larger_one_is_read_by_its_own_settings(tmp_path):
    nested = {"text_config": {"rope_theta": 1e6, "num_attention_heads": 2}, "rope_theta": None}
    codes = {f.code for f in diagnose(tmp_path, {}, {"config": nested}).findings}
    assert {"rope", "settings"} <= codes


def test_rope_of_each_layer_type_is_told_apart():
    one = {"rope_parameters": {"full_attention": {"rope_theta": 1e6}, "sliding_attention": {"rope_theta": 1e4}}}
    assert rope(one)["full_attention.rope_theta"] == 1e6
    assert rope(one)["sliding_attention.rope_type"] == "default"
    linear = {"rope_theta": 10_000, "rope_scaling": {"type": "linear", "factor": 2}}
    assert rope(linear) == {"rope_theta": 1e4, "rope_type": "linear", "factor": 2.0}


def test_fused_experts_beside_those_apart_are_a_note(tmp_path):
    layer = "model.layers.0.mlp.experts"
    apart = tiny.tensors(0)
    for e in range(2):
        apart |= {f"{layer}.{e}.{p}_proj.weight": np.ones((8, 16), np.float32) for p in ("gate", "up")}
        apart[f"{layer}.{e}.down_proj.weight"] = np.ones((16, 8), np.float32)
    fused = {name: w for name, w in apart.items() if "experts" not in name}
    fused |= {
        f"{layer}.gate_up_proj": np.ones((2, 16, 16), np.float32),
        f"{layer}.down_proj": np.ones((2, 16, 8), np.float32),
    }
    findings = diagnose(tmp_path, {"weights": fused}, {"weights": apart}).findings
    assert [f.severity for f in findings if f.code == "experts"] == ["note"]
    assert not [f for f in findings if f.code == "tensors"]


def test_fp8_that_is_decoded_on_reading_is_a_warning(tmp_path):
    from interpole.checkpoints.open import readable

    weights = tiny.tensors(0)
    name = "model.layers.0.mlp.down_proj.weight"
    weights |= {name: weights[name].astype(ml_dtypes.float8_e4m3fn), f"{name}_scale_inv": np.ones((1, 1), np.float32)}
    said = {"quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}}
    coded = readable(open_checkpoint(write(tmp_path / "fp8", weights=weights, config=said)))
    plain = open_checkpoint(write(tmp_path / "bf16", template=THINKING_TEMPLATE))
    assert [(f.code, f.severity) for f in examine(coded, plain).findings if f.severity != "note"] == [
        ("quantised", "warn")
    ]


def test_tekken_and_unigram_vocabularies_are_read(tmp_path):
    folder = write(tmp_path / "tekken", tokens=False)
    (folder / "tekken.json").write_text(
        json.dumps(
            {
                "config": {"default_num_special_tokens": 10},
                "vocab": [{"rank": 0, "token_bytes": base64.b64encode(b"a").decode()}],
                "special_tokens": [{"rank": 3, "token_str": "[THINK]"}],
            }
        )
    )
    from interpole.checkpoints.views.vocabulary import vocabulary

    assert vocabulary(open_checkpoint(folder)) == {"a": 10, "[THINK]": 3}
    other = write(tmp_path / "unigram", tokens=False)
    (other / "tokenizer.json").write_text(json.dumps({"model": {"vocab": [["<s>", 0.0], ["a", -1.5]]}}))
    assert vocabulary(open_checkpoint(other)) == {"<s>": 0, "a": 1}


def test_with_weights_one_base_is_confirmed_with_the_numbers_seen_elsewhere(tmp_path):
    diagnosis = diagnose(tmp_path, weights=True)
    note = next(f for f in diagnosis.findings if f.code == "weights")
    assert (diagnosis.verdict, note.severity) == ("go", "note")
    assert "142 %" in note.why


def test_with_weights_the_wrong_base_is_a_stop_that_headers_cannot_see(tmp_path):
    strangers = {"weights": tiny.tensors(5)}, {"weights": tiny.tensors(6)}
    assert diagnose(tmp_path / "without", *strangers).verdict == "go"
    diagnosis = diagnose(tmp_path / "with", *strangers, weights=True)
    assert graver(diagnosis) == [("weights", "stop")]
    assert "14" in diagnosis.findings[0].what.split("differ by ")[1][:2]


def test_with_weights_twins_are_a_stop_and_a_part_made_anew_a_warning(tmp_path):
    same = {"weights": tiny.tensors(0)}
    twins = diagnose(tmp_path / "twins", same, same, weights=True)
    assert "the same weights" in next(f.what for f in twins.findings if f.code == "weights")
    assert twins.verdict == "stop"
    anew = close(tiny.tensors(0), 1)
    name = "model.layers.1.mlp.down_proj.weight"
    anew[name] = tiny.tensors(9)[name]
    diagnosis = diagnose(tmp_path / "anew", same, {"weights": anew}, weights=True)
    part = next(f for f in diagnosis.findings if f.code == "weights-parts")
    assert name in part.what
    assert diagnosis.verdict == "warn"


def test_a_base_of_another_family_is_found_by_its_own_findings(tmp_path):
    base = open_checkpoint(write(tmp_path / "base", config={"rope_theta": 1e6}, weights=tiny.tensors(8)))
    diagnosis = diagnose(tmp_path, base=base, weights=True)
    codes = [f.code for f in diagnosis.findings if f.severity != "note"]
    assert codes.count("base-rope") == 2
    assert codes.count("base-weights") == 2
    assert "the base" in diagnosis.findings[0].what
    assert diagnosis.to_json()["base"] == base.label


def test_json_carries_verdict_exit_code_and_findings(tmp_path):
    diagnosis = diagnose(tmp_path, {}, {"config": {"model_type": "llama"}})
    content = diagnosis.to_json()
    assert (content["verdict"], content["exit_code"]) == ("stop", 2)
    assert content["findings"][0]["code"] == "architecture"
    assert list(content["findings"][0]) == ["code", "severity", "what", "why", "remedy"]


def big_moe(folder, layers, experts, shards):
    """The headers of a Qwen3-MoE with this many layers and experts; the weights are holes in sparse files."""
    folder.mkdir()
    shapes = {
        "model.embed_tokens.weight": (151_936, 4096),
        "lm_head.weight": (151_936, 4096),
        "model.norm.weight": (4096,),
    }
    for i in range(layers):
        p = f"model.layers.{i}."
        shapes |= {f"{p}self_attn.{x}_proj.weight": (4096, 4096) for x in "qkvo"} | {
            f"{p}mlp.gate.weight": (experts, 4096)
        }
        for e in range(experts):
            shapes |= {f"{p}mlp.experts.{e}.{x}_proj.weight": (1536, 4096) for x in ("gate", "up", "down")}
    names, weight_map = list(shapes), {}
    for s in range(shards):
        header, end, file = {}, 0, f"model-{s:05d}.safetensors"
        for name in names[s::shards]:
            size = 2 * int(np.prod(shapes[name]))
            header[name] = {"dtype": "BF16", "shape": shapes[name], "data_offsets": [end, end + size]}
            weight_map[name], end = file, end + size
        text = json.dumps(header).encode()
        with (folder / file).open("wb") as out:
            out.write(struct.pack("<Q", len(text)) + text)
            out.truncate(8 + len(text) + end)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    sizes = {"num_hidden_layers": layers, "vocab_size": 151_936, "tie_word_embeddings": False}
    (folder / "config.json").write_text(json.dumps(tiny.CONFIG | sizes))
    return folder


def test_a_pair_of_235b_is_examined_from_its_headers(tmp_path):
    sides = [big_moe(tmp_path / name, 94, 128, shards) for name, shards in (("i", 118), ("t", 112))]
    pair = [open_checkpoint(side) for side in sides]
    diagnosis = examine(*pair)
    assert len(pair[0]) == 94 * (128 * 3 + 5) + 3
    assert pair[0].num_bytes > 400e9
    assert diagnosis.verdict != "stop"


def broken(weights, name, value):
    """The weights with one number of a tensor that is none."""
    weights[name] = weights[name].copy()
    weights[name].reshape(-1)[7] = value
    return weights


@pytest.mark.parametrize("name", ["model.norm.weight", "model.layers.1.mlp.up_proj.weight"])
@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_a_weight_that_is_no_number_is_found_wherever_it_is_and_named(tmp_path, name, value):
    sick = {"weights": broken(close(tiny.tensors(0), 1), name, value)}
    for place, sides in (("Instruct", (sick, {})), ("Thinking", ({}, sick))):
        diagnosis = diagnose(tmp_path / place, *sides, weights=True)
        found = [f for f in diagnosis.findings if f.code == "not-finite"]
        assert diagnosis.verdict == "stop"
        assert [f.what.startswith(f"{place} holds NaN or infinity in {name} (1 of ") for f in found] == [True]
        assert not any("nan" in f.what for f in diagnosis.findings if f.code == "weights")


def test_without_weights_nothing_is_read(tmp_path, monkeypatch):
    from interpole.checkpoints.checkpoint import Folder

    monkeypatch.setattr(Folder, "read", None)
    assert diagnose(tmp_path).verdict == "go"


def test_a_thinking_model_before_an_instruct_model_is_said_to_be_swapped(tmp_path):
    first, second = write(tmp_path / "Qwen3-4B-Thinking-2507"), write(tmp_path / "Qwen3-4B-Instruct-2507")
    swapped = [examine(*map(open_checkpoint, sides)) for sides in ((first, second), (second, first))]
    assert [("order", "warn") in graver(diagnosis) for diagnosis in swapped] == [True, False]
    assert "Instruct is " in next(f for f in swapped[0].findings if f.code == "order").what


@pytest.mark.parametrize(
    "names", [("a", "b"), ("Llama-3.1-8B-Instruct", "DeepSeek-R1-Distill-Llama-8B"), ("x-it", "y-it")]
)
def test_names_that_say_nothing_of_an_order_or_the_right_one_are_no_sign(tmp_path, names):
    sides = [open_checkpoint(write(tmp_path / name)) for name in names]
    assert "order" not in [f.code for f in examine(*sides).findings]


def test_markers_that_only_the_first_side_has_are_a_sign_that_sides_are_swapped(tmp_path):
    diagnosis = diagnose(tmp_path, {}, {"tokens": TOKENS, "template": INSTRUCT_TEMPLATE})
    assert "Instruct has think markers and Thinking has none" in next(
        f.what for f in diagnosis.findings if f.code == "order"
    )
