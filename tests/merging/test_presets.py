"""Presets by name, and rows of single tokens."""

import json

import ml_dtypes
import numpy as np
import pytest

import interpole
import tiny
from interpole.errors import RecipeError
from interpole.merging.presets import PRESETS, marker_rows, preset
from interpole.merging.recipe import Recipe

TOKENIZER = {
    "model": {"vocab": {chr(97 + i): i for i in range(20)}},
    "added_tokens": [{"content": "<think>", "id": 30}, {"content": "</think>", "id": 31}],
}
EMBEDDING, HEAD, QUERY = "model.embed_tokens.weight", "lm_head.weight", "model.layers.1.self_attn.q_proj.weight"


@pytest.fixture
def trio(tmp_path):
    """Paths of an untied tiny pair and its base, with a tokenizer that has think markers."""
    folders = {}
    for seed, name in enumerate(("instruct", "thinking", "base")):
        folders[name] = tiny.write(
            tmp_path / name, tiny.tensors(seed, tied=False), config={"tie_word_embeddings": False}
        )
        (folders[name] / "tokenizer.json").write_text(json.dumps(TOKENIZER))
    return folders


def merged_by(trio, name, **settings):
    return interpole.merge(preset(name, **trio, **settings))


def blend(trio, name, weights):
    """The weighted sum of instruct, thinking and base in float64."""
    opened = [interpole.open(trio[key])[name].astype(np.float64) for key in ("instruct", "thinking", "base")]
    return sum(w * x for w, x in zip(weights, opened, strict=True))


def assert_rounded(array, true):
    assert (np.abs(array.astype(np.float64) - true) <= 2.0**-8 * np.abs(true) + 1e-6).all()


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_listed_can_be_made_and_written_as_yaml(trio, name, tmp_path):
    recipe = preset(name, **trio)
    (tmp_path / "recipe.yml").write_text(recipe.to_yaml())
    assert Recipe.load(tmp_path / "recipe.yml") == recipe


@pytest.mark.parametrize(
    ("name", "weights"),
    [
        ("mi-0.6", (0.4, 0.6, 0)),
        ("mi", (0.2, 0.8, 0)),
        ("mix-0.6", (0, 0.6, 0.4)),
        ("base", (0, 0.8, 0.2)),
        ("ta", (0.7, 0.7, -0.4)),
        ("ta-base", (0.7, 0.7, -0.4)),
        ("skip-ffn-0.6", (0.4, 0.6, 0)),
        ("skip-attention-0.6", (1, 0, 0)),
        ("layers-1-2-0.6", (0.4, 0.6, 0)),
        ("layers-2-2-0.6", (1, 0, 0)),
        ("gradient-0-1", (0.5, 0.5, 0)),
        ("gradient-0.2-0.8-0.4", (0.2, 0.8, 0)),
    ],
)
def test_presets_are_the_sums_they_say(trio, name, weights):
    assert_rounded(merged_by(trio, name)[QUERY], blend(trio, QUERY, weights))


def test_task_arithmetic_with_halves_is_interpolation_at_one_half(trio):
    """TA with 0.5/0.5 is MI-0.5: the base cancels. Up to fp32: after the rounding to bf16 equal but for rounding ties."""
    half = preset("ta", **trio).with_(weights={"instruct": 0.5, "thinking": 0.5})
    different = total = 0
    for dtype, bound in (("float32", 1e-6), ("bfloat16", 2.0**-7)):
        ta, mi = interpole.merge(half.with_(dtype=dtype)), merged_by(trio, "mi-0.5", dtype=dtype)
        for name in mi:
            a, b = ta[name].astype(np.float64), mi[name].astype(np.float64)
            assert (np.abs(a - b) <= bound * np.maximum(1, np.abs(b))).all()
            if dtype == "bfloat16":
                different, total = different + (a != b).sum(), total + a.size
    assert different < 1e-3 * total


def test_ties_has_the_papers_setting_in_both_words(trio):
    recipe = preset("ties", **trio)
    assert recipe.parameters == {"sparsity": 0.2, "scale": 0.5}
    parameters = dict(interpole.merge(recipe).coefficients(QUERY).parameters)
    assert parameters["density"] == (0.8, 0.8)
    assert parameters["scale"] == 0.5


def test_experts_only_leaves_everything_else_to_instruct(tmp_path):
    names = {"model.layers.0.mlp.experts.0.up_proj.weight": (4, 4), "model.layers.0.mlp.gate.weight": (2, 4)}
    names |= {EMBEDDING: (8, 4), QUERY.replace("1", "0"): (4, 4)}
    rng = np.random.default_rng(0)
    folders = [
        tiny.write(tmp_path / str(i), {n: rng.normal(size=s).astype(ml_dtypes.bfloat16) for n, s in names.items()})
        for i in range(2)
    ]
    merged = interpole.merge(preset("experts-only-1", instruct=folders[0], thinking=folders[1]))
    for name in names:
        side = interpole.open(folders["experts" in name])
        assert merged[name].tobytes() == side[name].tobytes()


def test_experts_only_refuses_models_without_experts(trio):
    with pytest.raises(RecipeError, match=r"experts.*matches no tensor"):
        merged_by(trio, "experts-only")


def test_unknown_presets_and_missing_bases_are_named(trio):
    with pytest.raises(RecipeError, match="ties-base"):
        preset("tis", **trio)
    with pytest.raises(RecipeError, match=r"(?s)needs the base.*Qwen3-4B-Base"):
        preset("ta-base", instruct=trio["instruct"], thinking=trio["thinking"])


# ── rows ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("which", ["instruct", "thinking"])
def test_marker_rows_come_from_one_side_while_the_rest_interpolates(trio, which):
    merged = merged_by(trio, "mi-0.6", rules=[marker_rows(which)])
    side = interpole.open(trio[which])
    for name in (EMBEDDING, HEAD):
        assert merged[name][[30, 31]].tobytes() == side[name][[30, 31]].tobytes()
        others = [row for row in range(40) if row not in (30, 31)]
        assert_rounded(merged[name][others], blend(trio, name, (0.4, 0.6, 0))[others])
    assert merged.copied_from(QUERY) is None


def test_rows_do_not_depend_on_where_a_tensor_is_cut(trio):
    merged = merged_by(trio, "mi-0", rules=[{"rows": ["</think>", "c"], "lambda": 0.5}])
    whole = merged[EMBEDDING].reshape(-1)
    assert_rounded(merged[EMBEDDING][[31, 2]], blend(trio, EMBEDDING, (0.5, 0.5, 0))[[31, 2]])
    for step in (1, 7, 16, 100):
        pieces = [merged.read(EMBEDDING, i, min(i + step, whole.size)) for i in range(0, whole.size, step)]
        assert np.concatenate(pieces).tobytes() == whole.tobytes()


def test_rows_are_written_to_disk_as_they_are_read(trio, tmp_path):
    merged = merged_by(trio, "mi-0", rules=[marker_rows("thinking")])
    assert merged.origin(EMBEDDING) is None  # copied whole it would lose its rows
    saved = interpole.open(interpole.save(merged, tmp_path / "out"))
    assert saved[EMBEDDING].tobytes() == merged[EMBEDDING].tobytes()
    assert saved[EMBEDDING][31].tobytes() == interpole.open(trio["thinking"])[EMBEDDING][31].tobytes()


def test_crane_gives_every_part_its_own_coefficient(trio):
    merged = merged_by(trio, "crane-0.6")
    markers = [30, 31]
    assert_rounded(merged[EMBEDDING][markers], blend(trio, EMBEDDING, (0.2, 0.8, 0))[markers])
    assert merged[EMBEDDING][:30].tobytes() == interpole.open(trio["instruct"])[EMBEDDING][:30].tobytes()
    assert_rounded(merged[HEAD][:30], blend(trio, HEAD, (0.97, 0.03, 0))[:30])
    assert_rounded(merged[QUERY], blend(trio, QUERY, (0.4, 0.6, 0)))


def test_rows_of_unknown_tokens_are_refused_by_name(trio):
    with pytest.raises(RecipeError, match="no token '<ponder>'"):
        merged_by(trio, "mi", rules=[{"rows": ["<ponder>"], "lambda": 1}])
    with pytest.raises(RecipeError, match="marker rows"):
        marker_rows("base")


def test_rows_also_work_with_methods_on_whole_tensors(trio):
    recipe = preset("mi-0.6", **trio).with_(method="slerp", rules=[marker_rows("thinking")])
    merged, plain = interpole.merge(recipe), interpole.merge(recipe.with_(rules=[]))
    assert merged[EMBEDDING][31].tobytes() == interpole.open(trio["thinking"])[EMBEDDING][31].tobytes()
    assert merged[EMBEDDING][:30].tobytes() == plain[EMBEDDING][:30].tobytes()
