"""mergekit's YAML: what it means here, and what is refused with its line. (Whole merges by mergekit: test_golden.py.)"""

import json
import os
from textwrap import dedent

import ml_dtypes
import numpy as np
import pytest
import yaml

import interpole
import reference
import tiny
from interpole.errors import RecipeError
from interpole.merging.mergekit import translate
from interpole.merging.recipe import Recipe

QUERY, UP, DOWN = (f"model.layers.{{}}.{x}_proj.weight" for x in ("self_attn.q", "mlp.up", "mlp.down"))
EMBEDDING, NORM = "model.embed_tokens.weight", "model.norm.weight"


@pytest.fixture
def models(tmp_path, monkeypatch):
    """Folders A, B and C with three layers each, where relative paths start."""
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate("ABC"):
        tiny.write(tmp_path / name, tiny.tensors(seed), template=f"template {name}")
    return tmp_path


def recipe_of(text, folder):
    path = folder / "mergekit.yml"
    path.write_text(dedent(text))
    return Recipe.load(path)


def weights(merged, name):
    return merged.coefficients(name).weights


LINEAR = """\
    merge_method: linear
    models:
    - model: A
      parameters: {weight: 1.0}
    - model: B
      parameters:
        weight: %s
    """


def test_what_is_loaded_is_our_recipe_and_survives_its_own_yaml(models):
    recipe = recipe_of(LINEAR % "0.5", models)
    assert recipe.method == "linear"
    assert list(recipe.sources) == ["A", "B"]
    assert recipe.weights == {"A": 1.0, "B": 0.5}
    assert recipe.parameters == {"normalize": True}
    assert "merge_method" not in recipe.to_yaml()
    (models / "ours.yml").write_text(recipe.to_yaml())
    assert Recipe.load(models / "ours.yml") == recipe


def test_gradients_run_over_the_layers_and_their_first_number_holds_outside(models):
    merged = interpole.merge(recipe_of(LINEAR % "[0.0, 1.0]", models))
    assert [weights(merged, QUERY.format(i))[1] for i in range(3)] == [0, 0.5, 1]
    assert weights(merged, EMBEDDING)[1] == weights(merged, NORM)[1] == 0


def test_filters_are_substrings_and_the_first_that_fits_counts(models):
    value = "[{filter: up_proj, value: 0.1}, {filter: mlp, value: [0.2, 0.4]}, {value: 0.9}]"
    merged = interpole.merge(recipe_of(LINEAR % value, models))
    assert weights(merged, UP.format(2))[1] == 0.1
    assert [weights(merged, DOWN.format(i))[1] for i in range(3)] == pytest.approx([0.2, 0.3, 0.4])
    assert weights(merged, QUERY.format(0))[1] == weights(merged, EMBEDDING)[1] == 0.9
    assert all(weights(merged, name)[0] == 1.0 for name in merged)


def test_each_model_has_filters_of_its_own(models):
    text = """\
        merge_method: ties
        base_model: C
        models:
        - model: A
          parameters:
            weight: [{filter: mlp, value: 0.1}, {filter: q_proj, value: 0.2}, {value: 0.3}]
            density: [{filter: q_proj, value: 0.5}, {value: 0.4}]
        - model: B
          parameters: {weight: [{filter: q_proj, value: 1}, {filter: "*", value: 2}]}
        - model: C
        parameters: {density: 0.6, lambda: 0.7, int8_mask: true}
        """
    merged = interpole.merge(recipe_of(text, models))
    found = {n: merged.coefficients(n.format(1)) for n in (QUERY, UP, "model.layers.{}.self_attn.k_proj.weight")}
    assert [c.weights for c in found.values()] == [(0.2, 1), (0.1, 2), (0.3, 2)]
    assert [dict(c.parameters)["density"] for c in found.values()] == [(0.5, 0.6), (0.4, 0.6), (0.4, 0.6)]
    assert all(dict(c.parameters)["scale"] == 0.7 for c in found.values())
    assert all(dict(c.parameters)["normalize"] is True for c in found.values())
    assert merged.recipe.template_source == "base"


def test_filters_match_as_by_hand_for_every_tensor(models):
    """The chain of settings, resolved by a few lines that know nothing of rules."""
    settings = {
        "A": [("0.mlp", 1.0), ("norm", 2.0), ("v_proj", 3.0), (None, 4.0)],
        "B": [("v_proj", 5.0), ("layernorm", 6.0), ("0.mlp", 7.0), (None, 8.0)],
    }
    content = {
        "merge_method": "linear",
        "models": [
            {"model": m, "parameters": {"weight": [{"filter": f, "value": v} if f else {"value": v} for f, v in s]}}
            for m, s in settings.items()
        ],
    }
    merged = interpole.merge(recipe_of(yaml.safe_dump(content), models))
    for name in merged:
        by_hand = tuple(next(v for f, v in s if f is None or f in name) for s in settings.values())
        assert weights(merged, name) == by_hand, name


SLERP = """\
    merge_method: slerp
    base_model: B
    slices:
    - sources:
      - {model: A, layer_range: [0, 3]}
      - {model: B, layer_range: [0, 3]}
    parameters:
      t:
      - {filter: lm_head, value: 0.75}
      - {filter: self_attn, value: [0, 0.5, 1]}
      - {filter: mlp, value: [1, 0]}
      - {value: 0.5}
    dtype: bfloat16
    """


def test_the_classical_slerp_file_runs_from_the_base_to_the_other(models):
    merged = interpole.merge(recipe_of(SLERP, models))
    assert [weights(merged, QUERY.format(i)) for i in range(3)] == [(0, 1), (0.5, 0.5), (1, 0)]
    assert [weights(merged, UP.format(i)) for i in range(3)] == [(1, 0), (0.5, 0.5), (0, 1)]
    assert weights(merged, EMBEDDING) == weights(merged, NORM) == (0.5, 0.5)
    assert merged[QUERY.format(0)].tobytes() == interpole.open("B")[QUERY.format(0)].tobytes()
    assert merged.chat_template == "template B"


def test_in_slices_gradients_run_over_the_slice(models):
    text = """\
        merge_method: linear
        slices:
        - sources:
          - {model: A, layer_range: [0, 2], parameters: {weight: [1, 0]}}
          - {model: B, layer_range: [0, 2], parameters: {weight: [0, 1]}}
        - sources:
          - {model: A, layer_range: [2, 3], parameters: {weight: [0.1, 0.2]}}
          - {model: B, layer_range: [2, 3], parameters: {weight: 0.5}}
        """
    merged = interpole.merge(recipe_of(text, models))
    found = [weights(merged, QUERY.format(i)) for i in range(3)]
    assert found == [(1, 0), (0, 1), (0.2, 0.5)]  # a slice of one layer stands at its end
    assert weights(merged, EMBEDDING) == (1, 0)  # from the first slice
    assert weights(merged, NORM) == (0.1, 0.5)  # from the last, at its beginning


STACK = """\
    merge_method: passthrough
    slices:
    - sources: [{model: A, layer_range: [0, 2]}]
    - sources:
      - model: B
        layer_range: [1, 3]
        parameters: {scale: [{filter: down_proj, value: 0.0}, {value: 1.0}]}
    """


def test_frankenmerges_stack_layers_of_several_models(models, tmp_path):
    for name, dtype in (("A", "full_attention"), ("B", "full_attention")):
        config = json.loads((models / name / "config.json").read_text())
        config |= {"num_hidden_layers": 3, "layer_types": [dtype, "sliding_attention", dtype]}
        (models / name / "config.json").write_text(json.dumps(config))
    merged = interpole.merge(recipe_of(STACK, models))
    a, b = interpole.open("A"), interpole.open("B")
    for layer, (source, of) in enumerate([(a, 0), (a, 1), (b, 1), (b, 2)]):
        assert merged[QUERY.format(layer)].tobytes() == source[QUERY.format(of)].tobytes()
    assert merged[EMBEDDING].tobytes() == a[EMBEDDING].tobytes()
    assert merged[NORM].tobytes() == b[NORM].tobytes()
    assert not merged[DOWN.format(3)].any()
    assert merged[DOWN.format(1)].any()
    saved = interpole.open(interpole.save(merged, tmp_path / "out"))
    assert saved.config["num_hidden_layers"] == 4
    assert saved.config["layer_types"] == ["full_attention", "sliding_attention", "sliding_attention", "full_attention"]
    assert all(saved[name].tobytes() == merged[name].tobytes() for name in merged)
    assert len(saved) == 2 + 4 * (len(a) - 2) // 3


def test_a_model_may_be_stacked_on_itself(models):
    text = """\
        merge_method: passthrough
        slices:
        - sources: [{model: A, layer_range: [0, 3]}]
        - sources: [{model: A, layer_range: [0, 3]}]
        """
    merged, a = interpole.merge(recipe_of(text, models)), interpole.open("A")
    assert merged.recipe.stack == "0-2,0-2"
    assert [merged[QUERY.format(i)].tobytes() for i in range(6)] == [a[QUERY.format(i % 3)].tobytes() for i in range(6)]


def test_layers_that_no_slice_names_are_left_out(models):
    text = "merge_method: passthrough\nslices:\n- sources: [{model: A, layer_range: [1, 2]}]\n"
    merged = interpole.merge(recipe_of(text, models))
    assert QUERY.format(0) in merged
    assert QUERY.format(1) not in merged


def test_karcher_takes_all_models_alike_the_base_too(models):
    recipe = recipe_of("merge_method: karcher\nbase_model: C\nmodels: [{model: A}, {model: B}]\n", models)
    assert recipe.weights == {"A": 1.0, "B": 1.0, "C": 1.0}
    assert recipe.template_from == "C"


def test_della_rescales_as_mergekit_does(models):
    text = "merge_method: della\nbase_model: C\nmodels: [{model: A, parameters: {weight: 1}}]\n"
    assert recipe_of(text, models).parameters["rescale"] == "l1"
    assert recipe_of(text + "parameters: {rescale: false}\n", models).parameters["rescale"] is False


@pytest.mark.parametrize(
    ("parameters", "along"),
    [
        ("", "tensor"),
        ("parameters: {nuslerp_flatten: false}", "rows"),
        ("parameters: {nuslerp_flatten: false, nuslerp_row_wise: true}", "columns"),
    ],
)
def test_nuslerp_turns_what_mergekit_turns(models, parameters, along):
    listed = "models: [{model: A, parameters: {weight: 1}}, {model: B, parameters: {weight: 3}}]"
    recipe = recipe_of(f"merge_method: nuslerp\n{listed}\n{parameters}\n", models)
    assert recipe.parameters == {"along": along}


# ── models, dtypes, tokenizers, templates ────────────────────────────────────────────────────────────────────────


def test_models_may_have_revisions_and_adapters():
    text = """\
        merge_method: linear
        models:
        - {model: org/one@v2, parameters: {weight: 1}}
        - {model: {model: {path: org/two, revision: main}, lora: org/adapter}, parameters: {weight: 1}}
        - {model: other/one+org/adapter, parameters: {weight: 1}}
        """
    assert translate(dedent(text), "x.yml")["sources"] == {
        "one": {"model": "org/one", "revision": "v2"},
        "two": {"model": "org/two", "revision": "main", "adapter": "org/adapter"},
        "one-2": {"model": "other/one", "adapter": "org/adapter"},
    }


@pytest.mark.parametrize(
    ("lines", "dtype"),
    [("dtype: bfloat16", "bfloat16"), ("dtype: float32\nout_dtype: float16", "float16"), ("", None)],
)
def test_the_result_has_the_output_dtype(models, lines, dtype):
    recipe = recipe_of(dedent(LINEAR % "1") + lines, models)
    assert recipe.dtype == dtype


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("", ("A", "refuse")),
        ("base_model: B", ("B", "refuse")),
        ("tokenizer_source: B", ("B", "align")),
        ("tokenizer_source: union", ("A", "refuse")),
        ("base_model: B\ntokenizer: {source: base}", ("B", "align")),
        ("base_model: B\ntokenizer: {source: A}", ("A", "align")),
    ],
)
def test_config_and_tokenizer_come_from_the_base_or_the_first_or_the_one_named(models, lines, expected):
    recipe = recipe_of(dedent(LINEAR % "1") + lines, models)
    assert (recipe.template_from, recipe.vocabulary) == expected


def test_a_chat_template_of_the_file_is_written_out(models, tmp_path):
    recipe = recipe_of(dedent(LINEAR % "1") + "chat_template: '{{ messages[0].content }}!'\n", models)
    merged = interpole.merge(recipe)
    assert merged.chat_template == "{{ messages[0].content }}!"
    out = interpole.save(merged, tmp_path / "out")
    assert (out / "chat_template.jinja").read_text() == "{{ messages[0].content }}!"
    assert recipe_of(dedent(LINEAR % "1") + "chat_template: auto\n", models).chat_template is None


# ── refusals ─────────────────────────────────────────────────────────────────────────────────────────────────────

ONE = "merge_method: linear\nmodels:\n- model: A\n  parameters:\n    weight: 1\n- model: B\n  parameters:\n"
TASK = "merge_method: ties\nbase_model: C\nmodels:\n- model: A\n  parameters:\n    weight: 1\n"


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("merge_method: fusion\nmodels: [{model: A}]\n", 1, "fusion"),
        ("merge_method: nearswap\nbase_model: A\nmodels: [{model: B}]\n", 3, "needs t"),
        ("merge_method: nearswap\nbase_model: A\nmodels: [{model: B, parameters: {t: 1}}]\n", 3, "all models"),
        ("merge_method: ram\nbase_model: A\nmodels: [{model: B, parameters: {epsilon: 1}}]\n", 3, "all models"),
        ("merge_method: ram\nbase_model: A\nmodels: [{model: B, parameters: {weight: 1}}]\n", 3, "'weight'"),
        ("models: [{model: A}]\nmerge_method: 3\n", 2, "'3'"),
        (ONE + "    weight: 1\nmodules: {}\n", 9, "'modules'"),
        (ONE + "    wieght: 1\n", 8, "'wieght'"),
        (ONE + "    normalize: true\n", 8, "all models"),
        (ONE + "    weight: heavy\n", 8, "heavy"),
        (ONE + "    weight: [{filter: mlp, value: 1}]\n", 6, "none of the filters"),
        (ONE + "    weight: [{filter: mlp, values: 1}]\n", 8, "'values'"),
        (ONE + "    {}\n", 6, "no weight for B"),
        (ONE + "    weight: 1\nslices: []\n", 1, "either"),
        (ONE.replace("model: B", "modle: B") + "    weight: 1\n", 6, "'modle'"),
        (ONE.replace("model: B", "model: A") + "    weight: 1\n", 6, "twice"),
        (ONE + "    weight: 1\ntokenizer:\n  source: A\n  tokens: [x]\n", 11, "mapping from tokens"),
        (ONE + "    weight: 1\ntokenizer:\n  tokens:\n    x: {source: C}\n", 11, "C is none of"),
        (ONE + "    weight: 1\ntokenizer:\n  tokens:\n    x: {force: true}\n", 11, "no source"),
        (ONE + "    weight: 1\ntokenizer:\n  tokens:\n    x: {source: {kind: one}}\n", 11, "model_token"),
        (ONE + "    weight: 1\ntokenizer:\n  pad_to_multiple_of: 0\n", 10, "whole number"),
        (ONE + "    weight: 1\ntokenizer:\n  pad: 8\n", 10, "'pad'"),
        (ONE + "    weight: 1\npad_to_multiple_of: 8\n", 9, "it belongs under `tokenizer`; known here: base_model"),
        (ONE + "    weight: 1\n- {model: C, weight: 1}\n", 9, "it belongs under `parameters`; known here: model"),
        (ONE + "    weight: 1\ntokenizer_source: D\n", 9, "D is none of"),
        (ONE + "    weight: 1\ntokenizer_source: base\n", 9, "no base_model"),
        (ONE + "    weight: 1\nchat_template: chatml\n", 9, "chatml"),
        (ONE + "    weight: 1\nparameters:\n  t: 0.5\n", 10, "'t'"),
        (TASK + "- model: C\n  parameters:\n    density: 0.5\n", 9, "base model"),
        ("merge_method: slerp\nmodels: [{model: A}, {model: B}]\nparameters: {t: 0.5}\n", 2, "base_model"),
        ("merge_method: passthrough\nmodels: [{model: A}, {model: B}]\n", 2, "one model"),
        ("merge_method: passthrough\nslices:\n- sources:\n  - model: A\n    layer_range: [2, 0]\n", 5, "layer_range"),
        (SLERP.replace("B, layer_range: [0, 3]", "B, layer_range: [1, 4]"), 6, "layers 1-4 beside 0-3"),
        ("merge_method: linear\nmodels: {model: A}\n", 2, "list"),
        ("- merge_method: linear\n", 1, "mapping"),
        ("merge_method: linear\nmodels:\n- model: [A]\n", 3, "expected a model"),
    ],
)
def test_what_is_not_supported_is_named_with_its_line(text, line, words):
    with pytest.raises(RecipeError) as caught:
        translate(dedent(text), "merge.yml")
    assert caught.value.where == f"merge.yml, line {line}"
    assert words in str(caught.value)


def test_broken_yaml_is_a_recipe_error(models):
    (models / "x.yml").write_text("merge_method: [")
    with pytest.raises(RecipeError, match=r'not valid YAML: (.|\n)*x.yml", line 1'):
        Recipe.load(models / "x.yml")


def test_a_filter_that_fits_nothing_is_said_to(models):
    recipe = recipe_of(LINEAR % "[{filter: atention, value: 0}, {value: 1}]", models)
    with pytest.raises(RecipeError, match=r"atention.*matches no tensor"):
        interpole.merge(recipe)


def test_a_filter_for_the_lm_head_may_fit_nothing_in_tied_models(models):
    merged = interpole.merge(recipe_of(LINEAR % "[{filter: lm_head, value: 0}, {value: 1}]", models))
    assert weights(merged, EMBEDDING) == (1, 1)


def test_anchors_and_merge_keys_of_yaml_work(models):
    text = """\
        merge_method: linear
        models:
        - model: A
          parameters: &p {weight: 0.5}
        - model: B
          parameters: {<<: *p}
        """
    merged = interpole.merge(recipe_of(text, models))
    expected = (interpole.open("A")[NORM].astype(np.float32) + interpole.open("B")[NORM].astype(np.float32)) / 2
    assert merged[NORM].tobytes() == expected.astype(ml_dtypes.bfloat16).tobytes()


def test_a_pipe_in_place_of_a_recipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "recipe.yml")
    with pytest.raises(RecipeError, match="cannot read the recipe"):
        Recipe.load(tmp_path / "recipe.yml")


@pytest.mark.parametrize("text", ["merge_method: lin\x15ear", "a: \x00", "\x1b[0m"])
def test_control_characters_in_yaml_are_a_recipe_error(tmp_path, text):
    (tmp_path / "x.yml").write_text(text)
    with pytest.raises(RecipeError, match="not valid YAML"):
        Recipe.load(tmp_path / "x.yml")


@pytest.mark.parametrize(
    ("method", "parameters", "models_", "wanted"),
    [
        ("ram", {"epsilon": 0.5}, "BC", lambda base, tensors: reference.ram(tensors, base, 0.5)),
        ("ramplus_tl", {"r": 0.5}, "BC", lambda base, tensors: reference.ram(tensors, base, 1e-5, 0.5, 0.2)),
        ("nearswap", {"t": 0.01}, "AB", lambda base, tensors: reference.nearswap(tensors[0], base, 0.01)),
        ("arcee_fusion", {}, "B", lambda base, tensors: reference.arcee_fusion(tensors[0], base)[0]),
    ],
    ids=["ram", "ramplus_tl", "nearswap", "arcee_fusion"],
)
def test_methods_without_weights_are_read_with_their_parameters(models, method, parameters, models_, wanted):
    content = {"merge_method": method, "base_model": "A", "models": [{"model": name} for name in models_]}
    merged = interpole.merge(
        recipe_of(yaml.safe_dump(content | {"parameters": parameters, "dtype": "float32"}), models)
    )
    base, *tensors = (
        interpole.open(name)[UP.format(1)].astype(np.float32) for name in ["A", *models_.removeprefix("A")]
    )
    np.testing.assert_allclose(merged[UP.format(1)], wanted(base, tensors), rtol=2e-6, atol=2e-7)
