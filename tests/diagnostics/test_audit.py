"""Audits of mergekit's golden merges, of our own, and of others made here by plain numpy."""

import hashlib
import json
import shutil
import sys
import warnings
from collections import Counter
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

import tiny
from interpole.checkpoints.checkpoint import Tensors, open_checkpoint
from interpole.checkpoints.save import save
from interpole.diagnostics.audit import audit
from interpole.diagnostics.audit.arithmetic import ARITHMETICS
from interpole.diagnostics.audit.estimate import simplest
from interpole.diagnostics.audit.mapping import find_map
from interpole.errors import InterpoleWarning, MismatchError
from interpole.merging.merged import merge
from interpole.merging.recipe import Recipe, build

BF16 = np.dtype(ml_dtypes.bfloat16)
TOKENS = {f"t{i}": i for i in range(38)} | {"<think>": 38, "</think>": 39}


def near(seed, base, scale=0.1):
    rng = np.random.default_rng(seed)
    return {n: (w.astype(np.float32) + scale * rng.normal(size=w.shape)).astype(w.dtype) for n, w in base.items()}


def write(folder, weights, **settings):
    tiny.write(folder, weights, **settings)
    tokens = [{"id": i, "content": token, "special": False} for token, i in TOKENS.items()]
    (folder / "tokenizer.json").write_text(json.dumps({"model": {"vocab": {}}, "added_tokens": tokens}))
    return open_checkpoint(folder)


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    """A base and two that moved from it; the Thinking side has a template, generation config and rope of its own."""
    folder = tmp_path_factory.mktemp("family")
    base = tiny.tensors(0, layers=6, hidden=32)
    write(folder / "base", base)
    write(folder / "instruct", near(1, base))
    write(folder / "thinking", near(2, base), template="<think>{{ messages[0].content }}", config={"rope_theta": 7})
    return {name: open_checkpoint(folder / name) for name in ("base", "instruct", "thinking")}


def pair(family):
    return {name: family[name] for name in ("instruct", "thinking")}


def made(family, tmp_path, lam=0.6, **more):
    recipe = Recipe.between("instruct", "thinking", lam, **more)
    out = save(merge(recipe, pair(family)), tmp_path / "merged")
    for said in ("interpole_recipe.yml", "README.md"):  # what the merge says of itself is not to be asked
        (out / said).unlink()
    return open_checkpoint(out)


def handmade(family, tmp_path, function):
    """A merge by `function(name, a, b, base)` on float32 arrays, with Thinking's files."""
    sides = [family[name] for name in ("instruct", "thinking", "base")]
    weights = {n: function(n, *(side[n].astype(np.float32) for side in sides)).astype(BF16) for n in sides[0]}
    return write(tmp_path / "handmade", weights, template="<think>{{ messages[0].content }}", config={"rope_theta": 7})


def golden(data, tmp_path, case, family="qwen3"):
    """A golden merge by mergekit with Instruct's config, and its sources."""
    models = data / "golden/models"
    folder = tmp_path / case
    folder.mkdir()
    shutil.copy(data / f"golden/outputs/{case}.safetensors", folder / "model.safetensors")
    shutil.copy(models / f"{family}-instruct/config.json", folder)
    sources = {name: open_checkpoint(models / f"{family}-{name}") for name in ("instruct", "thinking", "base")}
    return open_checkpoint(folder), sources


def test_progress_counts_every_byte_of_the_merge_once(family, tmp_path):
    merged = save(merge(Recipe.between("instruct", "thinking", 0.6), pair(family)), tmp_path / "merged")
    for changed in (False, True):  # by a recipe beside it, which is computed meanwhile, and without
        read = []
        audit(open_checkpoint(merged), **family, progress=read.append)
        assert sum(read) == family["instruct"].num_bytes
        if not changed:
            (merged / "interpole_recipe.yml").unlink()


# ── golden merges by mergekit ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("case", "lam", "rules"),
    [
        ("qwen3-linear-0.8-f32", 0.8, []),
        ("qwen3-linear-0.8-skipattn-f32", 0.8, [{"kind": "attention", "lambda": 0.0}]),
        ("qwen3-linear-0.8-skipffn-f32", 0.8, [{"kind": "ffn", "lambda": 0.0}]),
        ("qwen3-linear-0.8-layers2-3-f32", 0.0, [{"layers": "2-3", "lambda": 0.8}]),
        ("llama-linear-0.8", 0.8, []),
        ("qwen3_moe-linear-0.8-f32", 0.8, []),
    ],
)
def test_mergekits_linear_merges_are_read_back_byte_for_byte(case, lam, rules, data, tmp_path):
    merged, sources = golden(data, tmp_path, case, case.split("-")[0])
    found = audit(merged, sources["instruct"], sources["thinking"])
    assert found.verdict == "linear"
    assert (found.lambda_map.lam, list(found.lambda_map.rules)) == (lam, rules)
    assert found.arithmetic == "weighted"
    assert found.byte_for_byte


def mergekit_bf16(data, tmp_path, lam, case):
    """mergekit 0.1.4's merge in bfloat16, made again here; the manifest's hashes vouch for it."""
    arithmetic, _ = ARITHMETICS["weighted, narrow"]
    models = data / "golden/models"
    a, b = (load_file(models / f"qwen3-{side}/model.safetensors") for side in ("instruct", "thinking"))
    weights = {n: arithmetic(a[n].astype(np.float32), b[n].astype(np.float32), lam, BF16) for n in a}
    manifest = json.loads((data / "golden/manifest.json").read_text())
    expected = next(entry for entry in manifest["cases"] if entry["name"] == case)["tensors"]
    for name, (_, _, _, sha, _) in expected.items():
        assert hashlib.sha256(weights[name].tobytes()).hexdigest().startswith(sha), name
    folder = tmp_path / case
    folder.mkdir()
    save_file(weights, folder / "model.safetensors")
    shutil.copy(models / "qwen3-thinking/config.json", folder)
    return open_checkpoint(folder)


@pytest.mark.parametrize("lam", [0.1, 0.4, 0.55, 0.6, 0.8])
def test_mergekits_bfloat16_arithmetic_is_recognised_by_its_bits(lam, data, tmp_path):
    merged = mergekit_bf16(data, tmp_path, lam, f"qwen3-linear-{lam}-bf16")
    sides = [open_checkpoint(data / f"golden/models/qwen3-{side}") for side in ("instruct", "thinking")]
    found = audit(merged, *sides)
    assert found.verdict == "linear"
    assert (found.lambda_map.lam, found.lambda_map.rules) == (lam, ())
    assert found.arithmetic == "weighted, narrow"
    assert found.recipe.lam == lam
    assert not found.byte_for_byte
    wrong = sum(tensor.num_wrong for tensor in found.tensors) / sum(tensor.num_elements for tensor in found.tensors)
    assert 0.05 < wrong < 0.5


def test_task_arithmetic_is_recognised_with_a_base_and_its_recipe_gives_the_bytes(data, tmp_path):
    merged, sources = golden(data, tmp_path, "qwen3-ta-0.7-f32")
    found = audit(merged, **{name: sources[name] for name in ("instruct", "thinking", "base")})
    assert found.verdict == "combination"
    assert (found.recipe.method, found.recipe.weights) == ("task_arithmetic", {"instruct": 0.7, "thinking": 0.7})
    assert found.byte_for_byte
    assert audit(merged, sources["instruct"], sources["thinking"]).verdict == "not linear"


def test_slerp_is_told_from_linear(data, tmp_path):
    merged, sources = golden(data, tmp_path, "qwen3-slerp-0.8-f32")
    found = audit(merged, sources["instruct"], sources["thinking"])
    assert found.verdict == "combination"
    assert (found.recipe.method, found.recipe.lam) == ("slerp", 0.8)
    assert sum(tensor.num_wrong for tensor in found.tensors) < 10


@pytest.mark.parametrize(
    "case", ["qwen3-ties-d0.2-w1-lambda0.5-f32", "llama-breadcrumbs-d0.5-g0.05", "llama-sce-topk0.5", "llama-ta-0.7"]
)
def test_what_is_not_linear_is_not_called_so_and_gets_no_recipe(case, data, tmp_path):
    merged, sources = golden(data, tmp_path, case, case.split("-")[0])
    found = audit(merged, sources["instruct"], sources["thinking"])
    assert (found.verdict, found.recipe, found.byte_for_byte) == ("not linear", None, False)
    others = [tensor for tensor in found.tensors if tensor.state == "other"]
    assert max(tensor.estimate.residual for tensor in others) > 10


# ── our own merges ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "rules",
    [
        [],
        [{"layers": "0-1", "lambda": 0.0}],
        [{"layers": "none", "lambda": 1.0}, {"layers": "0,4-5", "lambda": 0.25}],
        [{"kind": ["attention", "norm"], "lambda": 0.35}],
        [{"kind": "ffn", "layers": "2-3", "lambda": 0.9}],
    ],
    ids=["uniform", "layers", "outside", "kinds", "kind in layers"],
)
def test_the_rules_of_a_merge_are_found_again(rules, family, tmp_path):
    merged = made(family, tmp_path, rules=rules)
    found = audit(merged, **pair(family))
    assert found.verdict == "linear"
    assert found.byte_for_byte
    assert len(found.lambda_map.rules) <= len(rules)
    wanted = merge(Recipe.between("instruct", "thinking", 0.6, rules=rules), pair(family))
    assert {name: found.lambda_map.by_name[name] for name in wanted} == pytest.approx(
        {name: wanted.coefficients(name).weights[1] for name in wanted}
    )


def test_a_gradient_over_the_layers_is_read_as_one(family, tmp_path):
    found = audit(made(family, tmp_path, [0.2, 0.75]), **pair(family))
    assert (found.lambda_map.lam, found.lambda_map.rules) == ([0.2, 0.75], ())
    assert found.byte_for_byte


def test_marker_rows_from_thinking_are_found(family, tmp_path):
    found = audit(made(family, tmp_path, rules=[{"rows": "markers", "lambda": 1.0}]), **pair(family))
    assert found.byte_for_byte
    assert found.recipe.rules[0].rows == ["<think>", "</think>"]
    assert found.recipe.rules[0].lam == 1.0


@given(st.integers(-200, 1200), st.sampled_from(["weighted", "difference", "nearer end"]))
@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_lambda_of_three_decimals_is_recovered_exactly(family, tmp_path_factory, thousandths, way):
    lam = thousandths / 1000
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InterpoleWarning)
        merged = handmade(
            family, tmp_path_factory.mktemp("any"), lambda _, a, b, __: ARITHMETICS[way][0](a, b, lam, BF16)
        )
        found = audit(merged, **pair(family))
    assert found.verdict in ("linear", "copy")
    assert found.lambda_map.lam == pytest.approx(lam, abs=1e-9)
    assert found.lambda_map.rules == ()


@pytest.mark.parametrize("way", ARITHMETICS)
def test_every_arithmetic_is_told_from_the_others(way, family, tmp_path):
    merged = handmade(family, tmp_path, lambda _, a, b, __: ARITHMETICS[way][0](a, b, 0.3, BF16))
    found = audit(merged, **pair(family))
    assert found.verdict == "linear"
    assert found.lambda_map.lam == 0.3
    same = ARITHMETICS[found.arithmetic][0]
    for name in family["instruct"]:  # in 16 bits, ways with one rounding differ in few numbers or none
        a, b = (family[side][name].astype(np.float32) for side in ("instruct", "thinking"))
        assert np.mean(same(a, b, 0.3, BF16) == merged[name]) > 0.99
    assert ("narrow" in found.arithmetic) == ("narrow" in way)


def test_small_norms_do_not_disturb_the_map_of_a_merge_in_narrow_arithmetic(tmp_path):
    from interpole.lab import shipped

    sides = {name: open_checkpoint(getattr(shipped(), name)) for name in ("instruct", "thinking", "base")}
    merged = handmade(sides, tmp_path, lambda _, a, b, __: ARITHMETICS["weighted, narrow"][0](a, b, 0.8, BF16))
    found = audit(merged, **pair(sides))
    assert (found.lambda_map.lam, found.lambda_map.rules) == (0.8, ())
    wrong = sum(tensor.num_wrong for tensor in found.tensors) / sum(tensor.num_elements for tensor in found.tensors)
    assert 0.2 < wrong < 0.3  # the share of weights that bfloat16 arithmetic changes


def test_the_ends_are_copies(family, tmp_path):
    for lam, state in ((0.0, "instruct"), (1.0, "thinking")):
        found = audit(made(family, tmp_path / state, lam), **pair(family))
        assert found.verdict == "copy"
        assert {tensor.state for tensor in found.tensors} == {state}
        assert found.recipe.lam == lam
        assert found.byte_for_byte


def test_tensors_that_both_sides_share_have_no_lambda_and_do_not_disturb(family, tmp_path):
    shared = family["instruct"]["model.layers.3.mlp.up_proj.weight"]
    weights = {name: family["thinking"][name] for name in family["thinking"]} | {
        "model.layers.3.mlp.up_proj.weight": shared
    }
    thinking = write(tmp_path / "thinking", weights)
    sides = {"instruct": family["instruct"], "thinking": thinking}
    merged = open_checkpoint(save(merge(Recipe.between("i", "t", 0.4), sides), tmp_path / "merged"))
    found = audit(merged, **sides)
    state = next(tensor for tensor in found.tensors if tensor.name == "model.layers.3.mlp.up_proj.weight")
    assert (state.state, state.lam) == ("same", None)
    assert (found.verdict, found.lambda_map.lam, found.byte_for_byte) == ("linear", 0.4, True)


def test_a_tensor_that_was_trained_on_is_singled_out(family, tmp_path):
    odd = "model.layers.2.mlp.down_proj.weight"
    rng = np.random.default_rng(3)
    merged = handmade(
        family,
        tmp_path,
        lambda n, a, b, _: (
            ARITHMETICS["weighted"][0](a, b, 0.6, BF16) + (n == odd) * rng.normal(size=a.shape).astype(BF16)
        ),
    )
    found = audit(merged, **pair(family))
    assert found.verdict == "partly linear"
    assert [tensor.name for tensor in found.tensors if tensor.state == "other"] == [odd]
    assert found.lambda_map.lam == 0.6
    assert found.recipe is None


def test_a_tensor_copied_from_the_base_is_told(family, tmp_path):
    odd = "model.layers.2.mlp.down_proj.weight"
    merged = handmade(
        family, tmp_path, lambda n, a, b, base: base if n == odd else ARITHMETICS["weighted"][0](a, b, 0.6, BF16)
    )
    found = audit(merged, **pair(family), base=family["base"])
    assert [tensor.name for tensor in found.tensors if tensor.state == "base"] == [odd]


def test_dropped_extra_and_reshaped_tensors_are_named(family, tmp_path):
    whole = merge(Recipe.between("instruct", "thinking", 0.6), pair(family))
    weights = {name: whole[name] for name in whole}
    del weights["model.layers.1.mlp.gate_proj.weight"]
    weights["model.layers.1.mlp.up_proj.weight"] = weights["model.layers.1.mlp.up_proj.weight"][:5].copy()
    weights["model.layers.1.self_attn.lora.weight"] = np.ones((2, 2), np.float32)
    found = audit(write(tmp_path / "broken", weights), **pair(family))
    states = {tensor.name: tensor.state for tensor in found.tensors}
    assert states["model.layers.1.mlp.gate_proj.weight"] == "dropped"
    assert states["model.layers.1.mlp.up_proj.weight"] == "reshaped"
    assert states["model.layers.1.self_attn.lora.weight"] == "extra"
    assert found.verdict == "partly linear"
    assert not found.byte_for_byte
    assert any("missing in the merge" in line for line in found.summary())


def test_unnormalised_weights_are_found(family, tmp_path):
    content = {"sources": {"instruct": "i", "thinking": "t"}, "weights": {"instruct": 0.5, "thinking": 0.7}}
    merged = open_checkpoint(save(merge(build(content, "test"), pair(family)), tmp_path / "merged"))
    found = audit(merged, **pair(family))
    assert found.verdict == "combination"
    assert (found.recipe.method, found.recipe.weights) == ("linear", {"instruct": 0.5, "thinking": 0.7})
    assert found.byte_for_byte


def test_a_result_in_float32_is_audited_in_float32(family, tmp_path):
    found = audit(made(family, tmp_path, 0.123456, dtype="float32"), **pair(family))
    assert found.recipe.dtype == "float32"
    assert found.recipe.lam == 0.123456
    assert found.byte_for_byte


def test_sources_that_do_not_fit_each_other_are_refused(family, tmp_path):
    other = write(tmp_path / "other", tiny.tensors(0, layers=2, hidden=32))
    with pytest.raises(MismatchError):
        audit(family["instruct"], family["instruct"], other)


# ── files ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_files_are_traced_to_their_source(family, tmp_path):
    merged = made(family, tmp_path, template_from="instruct")
    like = {asset.name: (asset.like, asset.exact) for asset in audit(merged, **pair(family)).assets}
    assert like["config.json"] == (("instruct",), True)
    assert like["chat template"] == (("instruct",), True)
    assert like["tokenizer.json"] == (("instruct", "thinking"), True)
    assert audit(merged, **pair(family)).recipe.template_from == "instruct"


def test_a_config_that_was_written_anew_is_traced_by_what_it_says(family, tmp_path):
    merged = made(family, tmp_path)
    path = Path(merged.path) / "config.json"
    content = json.loads(path.read_text()) | {"transformers_version": "99", "torch_dtype": "float32"}
    path.write_text(json.dumps(content, sort_keys=True))
    (Path(merged.path) / "chat_template.jinja").write_text("mine")
    like = {
        asset.name: (asset.like, asset.exact) for asset in audit(open_checkpoint(merged.path), **pair(family)).assets
    }
    assert like["config.json"] == (("thinking",), False)
    assert like["chat template"] == ((), True)


# ── small parts ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.79, 0.83, 0.8),
        (0.52, 0.58, 0.55),
        (-0.1, 0.2, 0.0),
        (0.12345, 0.12346, 0.12345),
        (0.9, 1.1, 1.0),
        (-0.29, -0.2, -0.2),
    ],
)
def test_the_simplest_number_has_the_fewest_decimals(low, high, expected):
    assert simplest(low, high) == pytest.approx(expected, abs=1e-12)


def test_a_map_needs_no_rule_for_a_tensor_that_allows_anything():
    names = [f"model.layers.{i}.{part}.weight" for i in range(4) for part in ("self_attn.q_proj", "mlp.up_proj")]
    intervals = dict.fromkeys(names, (0.6, 0.6)) | {"model.norm.weight": (-5.0, 5.0)}
    assert find_map(intervals).rules == ()
    intervals["model.layers.2.mlp.up_proj.weight"] = (0.2, 0.2)
    found = find_map(intervals)
    assert list(found.rules) == [{"layers": "2", "kind": "ffn", "lambda": 0.2}]
    assert str(found) == "λ = 0.6 but for 0.2 in ffn, layers 2"
    assert find_map({}) is None


def test_json_and_rows_tell_the_same_as_the_audit(family, tmp_path):
    found = audit(made(family, tmp_path), **pair(family))
    content = found.to_json()
    assert content["verdict"] == "linear"
    assert content["lambda"] == 0.6
    assert len(content["tensors"]) == len(found.rows()) == len(found.tensors)
    assert Recipe.model_validate(__import__("yaml").safe_load(content["recipe"])) == found.recipe
    assert "makes it again byte for byte" in " ".join(found.summary())


def test_audit_memory_and_threads_do_not_show(family, tmp_path):
    merged = made(family, tmp_path)
    assert audit(merged, **pair(family), threads=1) == audit(merged, **pair(family), threads=3)


def test_a_tensor_with_nan_is_told_apart_and_the_rest_is_read_back_as_ever(family, tmp_path):
    sources = pair(family)
    weights = {n: family["thinking"][n] for n in family["thinking"]}
    name = "model.layers.1.mlp.up_proj.weight"
    weights[name] = weights[name].copy()
    weights[name][2, 3:5] = [np.nan, -np.inf]
    sources["thinking"] = write(tmp_path / "broken", weights, template="<think>{{ messages[0].content }}")
    merged = merge(Recipe.between("instruct", "thinking", 0.4), sources)
    found = audit(merged, **sources)
    assert [tensor.name for tensor in found.tensors if tensor.state == "not finite"] == [name]
    assert {tensor.lam for tensor in found.tensors if tensor.name != name} == {0.4}
    assert found.byte_for_byte
    assert any("NaN or infinity" in line and name in line for line in found.summary())


# ── the recipe that lies beside a merge ──────────────────────────────────────────────────────────────────────────


def with_recipe(family, tmp_path, **content):
    """A folder as `interpole merge` writes it, card and recipe included."""

    sources = {name: family[name] for name in content.pop("names", ("instruct", "thinking"))}
    recipe = build({"sources": {name: source.label for name, source in sources.items()}} | content, "a test")
    merged = merge(recipe, sources)
    return save(merged, tmp_path / "with-recipe")


TIES = {"method": "ties", "names": ("base", "instruct", "thinking"), "lambda": 0.7}


@pytest.mark.parametrize("content", [TIES, {"method": "slerp", "lambda": 0.3}, {"lambda": 0.35, "dtype": "float16"}])
@pytest.mark.parametrize("file", ["interpole_recipe.yml", "README.md"])
def test_a_merge_is_verified_by_the_recipe_beside_it_or_in_its_card(family, tmp_path, content, file):
    folder = with_recipe(family, tmp_path, **content)
    if file == "README.md":
        (folder / "interpole_recipe.yml").unlink()
    found = audit(open_checkpoint(folder), **family)
    assert (found.stated.file, found.stated.byte_for_byte, found.byte_for_byte) == (file, True, True)
    assert found.recipe == found.stated.recipe
    assert f"the recipe in {file} ({found.recipe.method}) makes it again byte for byte" in found.summary()
    told = found.to_json()
    assert told["lambda"] == content["lambda"]
    assert told["stated"] == {"file": file, "byte_for_byte": True, "problem": "", "num_wrong": 0}


def test_without_the_base_that_a_merge_needs_the_flag_that_gives_it_is_named(family, tmp_path):
    folder = with_recipe(family, tmp_path, **TIES)
    told = audit(open_checkpoint(folder), **pair(family)).summary()
    (line,) = [line for line in told if "--base" in line]
    assert line.startswith("the recipe in interpole_recipe.yml could not be tried: its source 'base' (")
    for said in ("interpole_recipe.yml", "README.md"):
        (folder / said).unlink()
    told = audit(open_checkpoint(folder), **pair(family)).summary()
    assert "no base was given: task arithmetic, TIES and DARE start from one; give it as --base" in told
    assert "--base" not in " ".join(audit(open_checkpoint(folder), **family).summary())


def test_a_recipe_that_does_not_make_the_merge_is_said_to_be_so_with_the_tensor(family, tmp_path):
    folder = with_recipe(family, tmp_path, **{"lambda": 0.4})
    weights, name = load_file(folder / "model.safetensors"), "model.layers.2.mlp.down_proj.weight"
    weights[name].view(np.uint16)[3, 1:4] ^= 1
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    found = audit(open_checkpoint(folder), **pair(family))
    assert not found.stated.byte_for_byte
    assert {key: number for key, number in found.stated.num_wrong.items() if number} == {name: 3}
    assert f"does not make it: 3 weights differ in 1 tensors, e.g. in {name}" in " ".join(found.summary())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("method: [", "not valid YAML"),
        (
            "sources: {instruct: a, other: b}\nweights: {instruct: 1, other: 2}",
            "its source 'other' (b) is none of those",
        ),
        ("method: nothing\nsources: {instruct: a, thinking: b}\nlambda: 0.5", "nothing"),
        (
            "sources: {instruct: a, thinking: b}\nlambda: 0.5\nrules: [{layers: 90-99, lambda: 1}]",
            "layers beyond the last",
        ),
    ],
)
def test_a_recipe_that_cannot_be_tried_is_told_with_the_reason_and_the_audit_goes_on(family, tmp_path, text, words):
    folder = with_recipe(family, tmp_path, **{"lambda": 0.4})
    (folder / "interpole_recipe.yml").write_text(text)
    found = audit(open_checkpoint(folder), **pair(family))
    assert words in found.stated.problem
    assert (found.lambda_map.lam, found.byte_for_byte, found.stated.byte_for_byte) == (0.4, True, False)
    assert found.to_json()["stated"]["num_wrong"] is None


def test_a_recipe_whose_sources_have_other_names_is_tried_with_those_of_the_same_places(family, tmp_path):
    labels = {"a": family["instruct"].label, "b": family["thinking"].label}
    recipe = build({"sources": labels, "weights": {"a": 0.5, "b": 0.7}}, "a test")
    merged = merge(recipe, {"a": family["instruct"], "b": family["thinking"]})
    folder = save(merged, tmp_path / "others", extra={"interpole_recipe.yml": recipe.to_yaml()})
    assert audit(open_checkpoint(folder), **pair(family)).stated.byte_for_byte


def test_json_of_a_merge_off_the_line_gives_the_nearest_point_of_it(family, tmp_path):
    merged = handmade(family, tmp_path, lambda _, a, b, base: a + 0.3 * (b - a) + 0.2 * np.abs(base))
    told = audit(merged, **pair(family)).to_json()
    assert (told["verdict"], told["lambda"], told["stated"]) == ("not linear", None, None)
    assert told["mean_lambda"] == pytest.approx(0.3, abs=0.1)


def many_tensors(folder, layers, lambdas):
    """A mixture of experts with a λ for each of its tensors, drawn from `lambdas`: (merge, Instruct, Thinking)."""
    rng = np.random.default_rng(layers)
    shapes = {"model.embed_tokens.weight": (40, 16), "model.norm.weight": (16,)}
    for i in range(layers):
        shapes |= {f"model.layers.{i}.mlp.experts.{e}.down_proj.weight": (16, 12) for e in range(40)}
    sides = [{name: rng.normal(size=shape).astype(BF16) for name, shape in shapes.items()} for _ in range(2)]
    lam = {name: np.float32(rng.choice(lambdas)) for name in shapes}
    a, b = ({name: array.astype(np.float32) for name, array in side.items()} for side in sides)
    merge_of = {n: (a[n] * (np.float32(1) - lam[n]) + b[n] * lam[n]).astype(BF16) for n in shapes}
    return [write(folder / name, weights) for name, weights in zip("mit", (merge_of, *sides), strict=True)]


def num_calls(function):
    """How many functions, ours and built-in ones, this thread enters meanwhile."""
    number = 0

    def count(_, event, __):
        nonlocal number
        number += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        function()
    finally:
        sys.setprofile(None)
    return number


@pytest.mark.parametrize("lambdas", [[0.4], np.linspace(0, 1, 10_001).round(4)], ids=["one λ", "any λ"])
def test_every_tensor_more_is_as_much_work_as_the_last(tmp_path, lambdas):
    sizes = [many_tensors(tmp_path / str(layers), layers, lambdas) for layers in (4, 8, 12)]
    audit(*sizes[0], threads=1)  # what is imported and compiled once is no part of it
    calls = [num_calls(lambda sides=sides: audit(*sides, threads=1)) for sides in sizes]
    assert calls[2] - calls[1] < 1.2 * (calls[1] - calls[0]), calls


def test_every_product_of_two_vectors_is_computed_once(monkeypatch):
    module = sys.modules["interpole.diagnostics.audit.estimate"]
    sizes = []
    monkeypatch.setattr(module, "dot", lambda x, y: sizes.append(x.size) or float(np.dot(x, y)))
    for sides, expected in ((3, 6), (4, 10)):  # e, d, A, and A − base
        sizes.clear()
        module.moments(*(np.arange(8.0) + i for i in range(sides)))
        assert len(sizes) == expected


def slow_least_squares(e, vectors):
    coefficients, *_ = np.linalg.lstsq(np.stack(vectors, 1), e, rcond=None)
    return coefficients, float(np.sum((e - np.stack(vectors, 1) @ coefficients) ** 2))


@pytest.mark.parametrize("number", [1, 2])
def test_the_fit_by_sums_is_numpys_least_squares(number):
    from interpole.diagnostics.audit.estimate import least_squares

    rng = np.random.default_rng(number)
    vectors = list(rng.normal(size=(3, 500)))
    gram = {(i, j): float(vectors[i] @ vectors[j]) for i in range(3) for j in range(i, 3)}
    found, rest = least_squares(gram, range(1, 1 + number))
    expected, squared = slow_least_squares(vectors[0], vectors[1 : 1 + number])
    assert found == pytest.approx(expected)
    assert rest == pytest.approx(squared)


def test_vectors_that_are_parallel_or_nothing_have_no_coefficients():
    from interpole.diagnostics.audit.estimate import least_squares

    x = np.arange(1.0, 9.0)
    for others in ([x, 2 * x], [x, 0 * x]):
        vectors = [x**2, *others]
        gram = {(i, j): float(vectors[i] @ vectors[j]) for i in range(3) for j in range(i, 3)}
        coefficients, rest = least_squares(gram, (1, 2))
        assert np.isnan(coefficients).all()
        assert rest == gram[0, 0]


def test_the_recipe_beside_a_merge_is_tried_in_the_pass_that_estimates(family, tmp_path, monkeypatch):
    out = save(merge(Recipe.between(family["instruct"].label, family["thinking"].label, 0.6)), tmp_path / "out")
    sides, counted, real = (open_checkpoint(out), family["instruct"], family["thinking"]), Counter(), Tensors.read

    def read(self, name, start=0, stop=None):
        data = real(self, name, start, stop)
        counted[self.files[0].parent.name] += data.nbytes
        return data

    monkeypatch.setattr(Tensors, "read", read)
    with monkeypatch.context() as patch:
        patch.setattr(sys.modules["interpole.diagnostics.audit.estimate"], "_sample", lambda *_: (np.empty(0),) * 3)
        patch.setattr(sys.modules["interpole.diagnostics.audit"], "_map", lambda *_: None)
        found = audit(*sides, threads=1)
    assert found.stated.byte_for_byte
    assert set(counted.values()) == {sides[0].num_bytes}  # once each
