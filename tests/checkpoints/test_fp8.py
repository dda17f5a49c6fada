"""FP8 with block scales: read, merged and written, against slow float64 loops."""

import json
from collections import Counter

import ml_dtypes
import numpy as np
import pytest

import interpole
import tiny
from interpole.checkpoints.checkpoint import open_checkpoint
from interpole.checkpoints.views.fp8 import quantise
from interpole.errors import CheckpointError, CorruptError, RecipeError
from interpole.merging.recipe import Recipe, build

E4M3 = ml_dtypes.float8_e4m3fn
BF16 = ml_dtypes.bfloat16
QUANTISED = {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "weight_block_size": [8, 8]}
EXPERTS = "model.layers.0.mlp.experts.gate_up_proj"


def is_quantised(name, array):
    return array.ndim >= 2 and "embed" not in name


def slow_quantise(weight, scale_dtype, block=8):
    """Block by block, in float64 but for the rounding of scales and codes."""
    flat = weight.astype(np.float64).reshape(-1, *weight.shape[-2:])
    codes, scales = np.zeros(flat.shape, E4M3), []
    for m, matrix in enumerate(flat):
        scales.append([])
        for i in range(0, matrix.shape[0], block):
            scales[-1].append([])
            for j in range(0, matrix.shape[1], block):
                part = matrix[i : i + block, j : j + block]
                scale = np.float64(np.float32(np.abs(part).max()) / np.float32(448)).astype(scale_dtype)
                scales[-1][-1].append(scale)
                codes[m, i : i + block, j : j + block] = (part / np.float64(scale)).clip(-448, 448).astype(E4M3)
    return codes.reshape(weight.shape), np.array(scales, scale_dtype).reshape(*weight.shape[:-2], *np.shape(scales)[1:])


def slow_dequantise(codes, scales, block=8):
    out = np.zeros(codes.shape)
    for index in np.ndindex(*codes.shape):
        out[index] = np.float64(codes[index]) * np.float64(
            scales[(*index[:-2], index[-2] // block, index[-1] // block)]
        )
    return out


def write(folder, seed, *, scale_dtype=np.float32, **config):
    """An FP8 folder with odd shapes (20 × 12 in blocks of 8), and its bfloat16 twin as arrays."""
    weights = tiny.tensors(seed, layers=2, hidden=12, vocab=20)
    weights[EXPERTS] = np.random.default_rng(seed).normal(size=(3, 20, 12)).astype(BF16)
    stored, plain = {}, {}
    for name, array in weights.items():
        if not is_quantised(name, array):
            stored[name] = plain[name] = array
            continue
        codes, scales = slow_quantise(array, scale_dtype)
        stored |= {name: codes, name + "_scale_inv": scales}
        plain[name] = slow_dequantise(codes, scales).astype(np.float32).astype(BF16)
    settings = {"tie_word_embeddings": True, "quantization_config": QUANTISED | config}
    return tiny.write(folder, stored, shards=2, config=settings), plain


@pytest.fixture
def fp8_pair(tmp_path):
    return [write(tmp_path / side, seed)[0] for seed, side in enumerate(("instruct", "thinking"))]


@pytest.mark.parametrize("scale_dtype", [np.float32, BF16])
def test_codes_are_read_as_code_times_scale_in_bfloat16(tmp_path, scale_dtype):
    folder, plain = write(tmp_path / "m", 0, scale_dtype=scale_dtype)
    checkpoint = interpole.open(folder)
    assert set(checkpoint) == set(plain)
    assert all(checkpoint[name].tobytes() == array.tobytes() for name, array in plain.items())
    assert all(checkpoint[name].dtype == BF16 for name in checkpoint)
    assert "quantization_config" not in checkpoint.config


@pytest.mark.parametrize("name", ["model.layers.1.mlp.down_proj.weight", EXPERTS])
def test_where_a_quantised_tensor_is_cut_does_not_matter(fp8_pair, name):
    checkpoint = interpole.open(fp8_pair[0])
    whole = checkpoint.read(name)
    rng = np.random.default_rng(0)
    for start, stop in np.sort(rng.integers(0, len(whole) + 1, (50, 2))):
        assert checkpoint.read(name, start, stop).tobytes() == whole[start:stop].tobytes()


def test_fp8_merges_with_bfloat16(tmp_path):
    folder, _ = write(tmp_path / "fp8", 0)
    other, plain = write(tmp_path / "twin", 1)
    bf16 = tiny.write(tmp_path / "bf16", plain)
    as_fp8, as_bf16 = (interpole.merge(Recipe.between(folder, path, 0.3)) for path in (other, bf16))
    assert as_fp8.config.get("quantization_config") is None
    for name in as_bf16:
        assert as_fp8[name].tobytes() == as_bf16[name].tobytes()
    out = interpole.save(as_bf16, tmp_path / "out")
    assert "quantization_config" not in json.loads((out / "config.json").read_text())
    assert all(open_checkpoint(out)[name].tobytes() == as_bf16[name].tobytes() for name in as_bf16)


@pytest.mark.parametrize("scale_dtype", [np.float32, BF16])
def test_a_merge_written_as_fp8_is_quantised_from_float32_block_by_block(tmp_path, scale_dtype):
    paths = [write(tmp_path / str(seed), seed, scale_dtype=scale_dtype)[0] for seed in (0, 1)]
    exact = interpole.merge(Recipe.between(*paths, 0.25, dtype="float32"))
    out = open_checkpoint(interpole.save(interpole.merge(Recipe.between(*paths, 0.25, dtype="fp8")), tmp_path / "out"))
    assert out.specs == open_checkpoint(paths[0]).specs
    assert out.config == open_checkpoint(paths[1]).config
    assert (out.path / "config.json").read_bytes() == (paths[1] / "config.json").read_bytes()
    differing = total = 0
    for name in exact:
        if name + "_scale_inv" not in out:
            assert out[name].tobytes() == exact[name].astype(BF16).tobytes()
            continue
        codes, scales = slow_quantise(exact[name], scale_dtype)
        assert out[name + "_scale_inv"].tobytes() == scales.tobytes()
        differing, total = differing + (out[name] != codes).sum(), total + codes.size
        assert np.abs(out[name].astype(float) - codes.astype(float)).max() <= 32  # one step of the largest codes
    assert differing / total < 0.001  # float32 and float64 quotients on either side of a tie


@pytest.mark.parametrize("end", [0, 1])
def test_at_the_ends_fp8_in_and_out_is_byte_for_byte(fp8_pair, tmp_path, end):
    merged = interpole.merge(Recipe.between(*fp8_pair, end, dtype="float8_e4m3fn"))
    out, source = open_checkpoint(interpole.save(merged, tmp_path / "out")), open_checkpoint(fp8_pair[end])
    assert all(out[name].tobytes() == source[name].tobytes() for name in source)
    assert all(merged.read(name, 1, 5).tobytes() == source.read(name, 1, 5).tobytes() for name in source)
    assert (out.path / "config.json").read_bytes() == (fp8_pair[end] / "config.json").read_bytes()


def test_a_method_on_whole_tensors_is_computed_once_for_a_tensor_of_codes(fp8_pair, tmp_path, monkeypatch):
    recipe = {
        "method": "slerp",
        "sources": dict(zip(("instruct", "thinking"), map(str, fp8_pair), strict=True)),
        "lambda": 0.3,
    }
    exact, merged = (interpole.merge(build(recipe | {"dtype": dtype}, "test")) for dtype in ("float32", "fp8"))
    calls, read = [], interpole.Merged._merge
    monkeypatch.setattr(interpole.Merged, "_merge", lambda *args: calls.append(args[1]) or read(*args))
    out = open_checkpoint(interpole.save(merged, tmp_path / "out"))
    assert max(Counter(calls).values()) == 2  # once for codes, once for scales
    name = "model.layers.1.mlp.down_proj.weight"
    assert out[name + "_scale_inv"].tobytes() == slow_quantise(exact[name], np.float32)[1].tobytes()
    assert (out[name] == slow_quantise(exact[name], np.float32)[0]).mean() > 0.99


def test_where_a_written_tensor_is_cut_does_not_matter(fp8_pair):
    merged = interpole.merge(Recipe.between(*fp8_pair, 0.5, dtype="fp8"))
    rng = np.random.default_rng(0)
    for name in (EXPERTS, EXPERTS + "_scale_inv", "model.layers.0.mlp.up_proj.weight_scale_inv"):
        whole = merged.read(name)
        for start, stop in np.sort(rng.integers(0, len(whole) + 1, (30, 2))):
            assert merged.read(name, start, stop).tobytes() == whole[start:stop].tobytes()


def test_what_is_quantised_once_stays_so():
    values = np.random.default_rng(0).normal(size=(40, 24)).astype(np.float32)
    codes, scales = quantise(values, (8, 8), np.dtype(np.float32))
    again = quantise(slow_dequantise(codes, scales).astype(np.float32), (8, 8), np.dtype(np.float32))
    assert again[0].tobytes() == codes.tobytes()
    assert np.allclose(again[1], scales, rtol=1e-6)


def test_blocks_of_zeros_stay_zero_and_powers_of_two_hold_every_value():
    values = np.random.default_rng(0).normal(size=(16, 16)).astype(np.float32)
    values[:8, 8:] = 0
    codes, scales = quantise(values, (8, 8), np.dtype(np.float32), power_of_two=True)
    assert (codes[:8, 8:] == 0).all()
    assert np.isfinite(slow_dequantise(codes, scales)).all()
    assert np.array_equal(np.exp2(np.round(np.log2(scales))), scales)
    assert np.abs(slow_dequantise(codes, scales) - values).max() <= np.abs(values).max() / 16


def test_one_scale_for_the_whole_tensor_is_read_but_not_written(tmp_path):
    weights = tiny.tensors(0, layers=1)
    name, scale = "model.layers.0.mlp.up_proj.weight", np.float32(0.013)
    codes = weights.pop(name).astype(np.float32).astype(E4M3)
    stored = {
        name: codes,
        name + "_scale_inv": np.array(scale),
        name.replace("weight", "activation_scale"): np.array(scale),
    }
    config = {"quantization_config": {"quant_method": "fp8", "weight_block_size": None}}
    folder = tiny.write(tmp_path / "m", weights | stored, config=config)
    checkpoint = interpole.open(folder)
    assert checkpoint[name].tobytes() == (codes.astype(np.float32) * scale).astype(BF16).tobytes()
    assert not any("scale" in other for other in checkpoint)
    with pytest.raises(RecipeError, match=r"one scale per tensor(.|\n)*--dtype bfloat16"):
        interpole.merge(Recipe.between(folder, folder, 0.5, dtype="fp8"))


def test_fp8_is_not_written_where_no_source_says_how(pair):
    with pytest.raises(RecipeError, match=r"no source is FP8 in the layout"):
        interpole.merge(Recipe.between(*pair, 0.5, dtype="fp8"))


def test_codes_without_scales_or_with_wrong_ones_are_named(tmp_path):
    folder, _ = write(tmp_path / "m", 0)
    stored = dict(open_checkpoint(folder))
    name = "model.layers.1.mlp.up_proj.weight"
    config = {"quantization_config": QUANTISED}
    lacking = {key: value for key, value in stored.items() if key != name + "_scale_inv"}
    with pytest.raises(CheckpointError, match=rf"FP8 tensor {name} has no"):
        interpole.open(tiny.write(tmp_path / "lacking", lacking, config=config))
    wrong = stored | {name + "_scale_inv": np.ones((1, 2), np.float32)}
    with pytest.raises(CheckpointError, match=r"is F32 \[1, 2\]; for .* it must be \[3, 2\]"):
        interpole.open(tiny.write(tmp_path / "wrong", wrong, config=config))


@pytest.mark.parametrize("block", [[0, 0], [-8, 8], "ab", [8], [8, 8, 8], [1.5, 2.5], [True, True], {"rows": 8}])
def test_blocks_that_make_no_sense_are_named(tmp_path, block):
    folder, _ = write(tmp_path / "m", 0, weight_block_size=block)
    with pytest.raises(CorruptError, match=r"weight_block_size(.|\n)*config\.json, quantization_config"):
        interpole.open(folder)


def test_a_block_larger_than_every_tensor_is_one_scale_per_matrix(tmp_path):
    name, codes = "model.layers.0.mlp.up_proj.weight", np.ones((24, 12), E4M3)
    stored = tiny.tensors(0, layers=1, hidden=12) | {name: codes, name + "_scale_inv": np.array([[0.25]], np.float32)}
    config = {"quantization_config": QUANTISED | {"weight_block_size": [10**15, 10**15]}}
    assert (interpole.open(tiny.write(tmp_path / "m", stored, config=config))[name] == 0.25).all()


@pytest.mark.parametrize("scale", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("block", [[8, 8], None])
def test_a_scale_that_is_no_number_is_an_error_that_names_its_tensor(tmp_path, scale, block):
    name, codes = "model.layers.0.mlp.up_proj.weight", np.ones((32, 16), E4M3)
    scales = np.ones((4, 2) if block else (1,), np.float32)
    scales.flat[-1] = scale
    stored = tiny.tensors(0, layers=1) | {name: codes, name + "_scale_inv": scales}
    config = {"quantization_config": QUANTISED | {"weight_block_size": block}}
    folder = tiny.write(tmp_path / "m", stored, config=config)
    merged = interpole.merge(Recipe.between(folder, folder, 0.5))
    with pytest.raises(CorruptError, match=rf"{name}_scale_inv holds a scale that is {scale}"):
        interpole.save(merged, tmp_path / "out")


CODES = {
    "scales beside the codes, method in another file": ({"": E4M3, "_scale": np.float32}, {}),
    "codes alone": ({"": E4M3}, {}),
    "integers": ({"": np.int8, "_scale": np.float32}, {}),
    "packed integers": ({"_packed": np.int32, "_shape": np.int64}, {}),
    "other scales under the name fp8": ({"": E4M3, "_scale": np.float32}, {"quantization_config": QUANTISED}),
    "announced for the language model": (
        {"": np.uint8},
        {"text_config": {"quantization_config": {"quant_method": "nf4"}}},
    ),
    "announced in another key": ({}, {"compression_config": {"quant_method": "compressed-tensors"}}),
}


@pytest.mark.parametrize("case", CODES)
def test_codes_are_refused_whatever_announces_them(tmp_path, case):
    kinds, config = CODES[case]
    name = "model.layers.0.mlp.up_proj.weight"
    stored = tiny.tensors(0, layers=1)
    if kinds:
        del stored[name]
    stored |= {name + suffix: np.ones((32, 16), dtype) for suffix, dtype in kinds.items()}
    folder = tiny.write(tmp_path / "A", stored, config=config)
    plain = tiny.write(tmp_path / "B", tiny.tensors(1, layers=1))
    recipe = {"sources": {"a": str(plain), "b": str(folder)}, "weights": {"a": 0.5, "b": 0.5}}
    for act in (
        lambda: interpole.open(folder),
        lambda: interpole.merge(build(recipe, "t")),
        lambda: interpole.merge(build(recipe, "t"), {"a": open_checkpoint(plain), "b": open_checkpoint(folder)}),
    ):
        with pytest.raises(
            CheckpointError, match=r"is quantised by|has no .*_scale_inv; its .*_scale is of another layout"
        ):
            act()


def test_blocks_announced_for_the_language_model_alone_are_decoded(tmp_path):
    folder, plain = write(tmp_path / "m", 0)
    config = json.loads((folder / "config.json").read_text())
    config["text_config"] = {"quantization_config": config.pop("quantization_config"), "hidden_size": 12}
    (folder / "config.json").write_text(json.dumps(config))
    checkpoint = interpole.open(folder)
    assert all(checkpoint[name].tobytes() == array.tobytes() for name, array in plain.items())
    assert checkpoint.config["text_config"] == {"hidden_size": 12}


def test_counters_and_masks_are_no_codes(tmp_path):
    harmless = {"position_ids": np.arange(8)[None], "num_batches": np.array(3), "mask": np.ones((1, 1, 4, 4), np.uint8)}
    assert len(interpole.open(tiny.write(tmp_path / "m", tiny.tensors(0) | harmless))) == len(tiny.tensors(0)) + 3


@pytest.mark.parametrize("method", ["awq", "gptq", "bitsandbytes", "compressed-tensors", "mxfp4"])
def test_other_quantisations_are_refused_with_the_remedy(tmp_path, method):
    config = {"quantization_config": {"quant_method": method}}
    folder = tiny.write(tmp_path / "m", tiny.tensors(0), config=config)
    with pytest.raises(
        CheckpointError, match=rf"quantised by {method}(.|\n)*remedy: take the checkpoint it was made from"
    ):
        interpole.open(folder)


# ── one scale per tensor or row ──────────────────────────────────────────────────────────────────────────────────

COMPRESSED = {"quant_method": "compressed-tensors", "format": "float-quantized"}
UP = "model.layers.0.mlp.up_proj.weight"


def write_scaled(folder, seed, per_row, scale_dtype=np.float32, config=COMPRESSED, files=()):
    """A folder with `weight_scale`, and its bfloat16 twin as torch computes it."""
    torch = pytest.importorskip("torch")
    stored, plain = {}, {}
    for name, array in tiny.tensors(seed, layers=2, hidden=12, vocab=20).items():
        stored[name] = plain[name] = array
        if not is_quantised(name, array):
            continue
        weight = torch.from_numpy(array.astype(np.float32))
        largest = weight.abs().amax(dim=-1, keepdim=True) if per_row else weight.abs().amax()
        scale = torch.from_numpy((largest / 448).numpy().astype(scale_dtype).astype(np.float32))
        codes = (weight / scale).clamp(-448, 448).to(torch.float8_e4m3fn)
        read = (codes.to(torch.float32) * scale).to(torch.bfloat16)
        stored[name] = codes.view(torch.uint8).numpy().view(E4M3)
        stored[name + "_scale"] = scale.numpy().astype(scale_dtype)
        stored[name.replace("weight", "input_scale")] = np.array([0.5], np.float32)
        plain[name] = read.view(torch.uint16).numpy().view(BF16)
    stored["model.layers.0.self_attn.k_scale"] = np.array(0.25, np.float32)
    tiny.write(folder, stored, shards=2, config={"quantization_config": config} if config else {})
    for name, content in dict(files).items():
        (folder / name).write_text(json.dumps(content))
    return folder, plain


@pytest.mark.parametrize("scale_dtype", [np.float32, BF16])
@pytest.mark.parametrize("per_row", [False, True])
@pytest.mark.parametrize(
    ("config", "files"),
    [
        (COMPRESSED, {}),
        ({"quant_method": "fbgemm_fp8"}, {}),
        ({"quant_method": "modelopt", "quant_algo": "FP8"}, {}),
        (None, {"hf_quant_config.json": {"quantization": {"quant_algo": "FP8", "kv_cache_quant_algo": "FP8"}}}),
    ],
)
def test_codes_with_a_scale_per_tensor_or_row_are_read_as_torch_computes_them(
    tmp_path, per_row, scale_dtype, config, files
):
    folder, plain = write_scaled(tmp_path / "m", 0, per_row, scale_dtype, config, files)
    checkpoint = interpole.open(folder)
    assert set(checkpoint) == set(plain)
    assert all(checkpoint[name].tobytes() == array.tobytes() for name, array in plain.items())
    assert all(checkpoint.read(UP, 5, stop).tobytes() == plain[UP].reshape(-1)[5:stop].tobytes() for stop in (5, 9, 31))
    interpole.save(interpole.merge(Recipe.between(folder, folder, 0.5)), tmp_path / "out")
    assert "quantization_config" not in json.loads((tmp_path / "out/config.json").read_text())
    assert not (tmp_path / "out/hf_quant_config.json").exists()


def test_a_model_with_a_scale_per_row_merges_with_its_bfloat16_twin(tmp_path):
    folder, plain = write_scaled(tmp_path / "m", 0, per_row=True)
    twin = tiny.write(tmp_path / "twin", plain)
    merged = interpole.merge(Recipe.between(folder, twin, 0.3))
    for name, array in plain.items():
        exact = (0.7 * array.astype(np.float64) + 0.3 * array.astype(np.float64)).astype(np.float32).astype(BF16)
        assert merged[name].tobytes() == exact.tobytes()
    with pytest.raises(RecipeError, match="no source is FP8 in the layout of the result"):
        interpole.merge(Recipe.between(folder, twin, 0.3, dtype="float8_e4m3fn"))


@pytest.mark.parametrize(
    ("changed", "config", "message"),
    [
        ({"_scale": np.ones((4, 2), np.float32)}, {}, r"up_proj.weight_scale is F32 \[4, 2\]"),
        ({"_scale": np.ones((32,), np.float32)}, {}, r"up_proj.weight_scale is F32 \[32\]"),
        ({"_scale": None}, {}, "up_proj.weight has no .*up_proj.weight_scale"),
        ({"_zero_point": np.zeros((1,), np.float32)}, {}, "up_proj.weight_zero_point beside"),
        ({"_scale_inv": np.ones((1,), np.float32)}, {}, "up_proj.weight_scale_inv beside"),
        ({"": np.ones((32, 16), ml_dtypes.float8_e5m2)}, {}, "matrices of E4M3 are read"),
        ({}, {"transform_config": {"config_groups": {"u": {}}}}, "stored rotated"),
        ({}, {"sparsity_config": {"format": "sparse-24-bitmask"}}, "stored packed"),
    ],
)
def test_what_is_more_than_codes_times_scales_is_refused_by_name(tmp_path, changed, config, message):
    stored = tiny.tensors(0, layers=1) | {UP: np.ones((32, 16), E4M3), UP + "_scale": np.ones((1,), np.float32)}
    stored |= {UP + suffix: array for suffix, array in changed.items()}
    stored = {name: array for name, array in stored.items() if array is not None}
    folder = tiny.write(tmp_path / "m", stored, config={"quantization_config": COMPRESSED | config})
    with pytest.raises(CheckpointError, match=rf"{message}[\s\S]*remedy: take the checkpoint it was made from"):
        interpole.open(folder)
