"""Merged checkpoints: values against float64, exact ends, rules, and clashes."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import interpole
import tiny
from interpole.checkpoints import kernels
from interpole.checkpoints.open import fit
from interpole.errors import InterpoleWarning, MismatchError, RecipeError
from interpole.merging import merged as module
from interpole.merging.merged import merge, merge_all
from interpole.merging.methods import _sparsify, get_method, ties
from interpole.merging.recipe import Recipe, build, parse_lambdas
from interpole.merging.rules import ablation, parse_layers


def between(pair, lam, **settings):
    return interpole.merge(Recipe.between(*pair, lam, **settings))


def misses(pair, merged, name, lam):
    """Per element: 0 where it is (1 − λ)·a + λ·b in float64 rounded once to bfloat16, 1 where it is the neighbouring number."""
    a, b = (interpole.open(path)[name].astype(np.float64) for path in pair)
    true = (1 - lam) * a + lam * b
    rounded = true.astype(np.float32).astype(ml_dtypes.bfloat16)
    ulp = np.maximum(np.abs(true) * 2.0**-7, (np.abs(a) + np.abs(b)) * 2.0**-22)  # the latter where a and b cancel
    assert (np.abs(merged[name].astype(np.float64) - true) <= ulp).all(), name
    return merged[name] != rounded


@pytest.mark.parametrize("end", [0, 1])
def test_the_ends_are_the_sources_byte_for_byte(pair, end):
    source, merged = interpole.open(pair[end]), between(pair, end)
    assert all(merged[name].tobytes() == source[name].tobytes() for name in source)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lam=st.floats(0.001, 0.999))
def test_between_the_ends_it_is_float64_rounded_once_almost_everywhere(pair, lam):
    merged = between(pair, lam)
    names = ["model.embed_tokens.weight", "model.layers.1.mlp.up_proj.weight"]
    assert np.concatenate([misses(pair, merged, name, lam).ravel() for name in names]).mean() < 0.01


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lam=st.floats(0, 1), start=st.integers(0, 200), length=st.integers(0, 300))
def test_where_a_tensor_is_cut_does_not_matter(pair, lam, start, length):
    merged, name = between(pair, lam), "model.embed_tokens.weight"
    assert (
        merged.read(name, start, start + length).tobytes() == merged[name].reshape(-1)[start : start + length].tobytes()
    )


@pytest.mark.parametrize("loops", ["C", "numpy"])
@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float16])
def test_ties_of_a_large_tensor_is_computed_in_pieces_and_finds_each_threshold_once(
    tmp_path, monkeypatch, loops, dtype
):
    sides = {name: tiny.write(tmp_path / name, tiny.tensors(seed, dtype=dtype)) for seed, name in enumerate("abc")}
    content = {"method": "ties", "sources": {"a": str(sides["a"]), "b": str(sides["b"]), "base": str(sides["c"])}}
    content |= {"weights": {"a": 1, "b": 0.5}, "parameters": {"density": {"a": 0.3, "b": 0.8}}}
    content["rules"] = [{"layers": "1", "weights": {"a": 0.2, "b": 0.9}}]
    whole = merge(build(content, "the test"))
    assert {whole.chunk_elements(name) for name in whole} == {whole.specs[name].num_elements for name in whole}
    assert not any(whole.is_read_ahead(name) for name in whole)
    expected = {name: whole[name].tobytes() for name in whole}
    if loops == "numpy":
        monkeypatch.setattr(kernels, "_kernels", None)
    monkeypatch.setattr(module, "WHOLE_ELEMENTS", 23)
    for name in ("PIECE_ELEMENTS", "SAMPLE_STEP"):
        monkeypatch.setattr(_sparsify, name, 64)
    cut, calls = ties._cut, []
    counted = replace(get_method("ties"), cut=lambda *args, **rest: calls.append(args[2]) or cut(*args, **rest))
    monkeypatch.setattr(module, "get_method", lambda name: counted)  # noqa: ARG005
    pieces = merge(build(content, "the test"))
    large = [name for name in pieces if pieces.specs[name].num_elements > 23]
    assert {(pieces.chunk_elements(name), pieces.is_read_ahead(name)) for name in large} == {(None, True)}
    assert pieces.stored_bytes(large[0]) == 7 * pieces.specs[large[0]].num_bytes  # a and c, b and c, then all three
    spans = [
        (name, at, min(at + 23, pieces.specs[name].num_elements))
        for name in pieces
        for at in range(0, pieces.specs[name].num_elements, 23)
    ]
    with ThreadPoolExecutor(4) as pool:
        found = [*pool.map(lambda span: pieces.read(*span).tobytes(), spans)]
    joined = dict.fromkeys(pieces, b"")
    for (name, *_), data in zip(spans, found, strict=True):
        joined[name] += data
    assert joined == expected
    assert sorted(calls) == sorted([0, 1] * len(large))
    computed = {name: merge(Recipe.between(sides["a"], sides["b"], 0.5)) for name in content["sources"]}
    over = merge(build(content, "the test"), computed)
    assert over.chunk_elements(large[0]) == over.specs[large[0]].num_elements  # what is computed is not computed twice
    content["parameters"]["rescale"] = True
    assert merge(build(content, "the test")).chunk_elements(large[0]) == pieces.specs[large[0]].num_elements


def test_a_merge_of_equal_models_is_that_model(pair):
    merged, source = between((pair[0], pair[0]), 0.3), interpole.open(pair[0])
    assert all(merged[name].tobytes() == source[name].tobytes() for name in source)


def test_layers_outside_the_range_keep_instructs_weights(pair):
    merged, instruct = between(pair, 0.8, rules=ablation("1-2")), interpole.open(pair[0])
    for name in merged:
        inside = name.startswith(("model.layers.1.", "model.layers.2."))
        if inside:
            missed = misses(pair, merged, name, 0.8)
            assert missed.sum() <= max(2, missed.size // 20)
        else:
            assert merged[name].tobytes() == instruct[name].tobytes()


@pytest.mark.parametrize(("skip", "kept"), [("attention", ".self_attn."), ("ffn", ".mlp.")])
def test_a_skipped_sublayer_keeps_instructs_weights_and_only_that(pair, skip, kept):
    merged, instruct = between(pair, 0.8, rules=ablation(skip=[skip])), interpole.open(pair[0])
    same = {name for name in merged if merged[name].tobytes() == instruct[name].tobytes()}
    assert same == {name for name in merged if kept in name}


@pytest.mark.parametrize(("choice", "end"), [("instruct", 0), ("thinking", 1)])
def test_embeddings_can_come_from_one_side(pair, choice, end):
    merged, source = between(pair, 0.5, rules=ablation(embeddings=choice)), interpole.open(pair[end])
    for name in ("model.embed_tokens.weight", "model.norm.weight"):
        assert merged[name].tobytes() == source[name].tobytes()


def test_the_first_rule_that_matches_wins(pair):
    rules = [{"name": "*q_proj*", "lambda": 1}, {"kind": "attention", "lambda": 0}]
    merged = between(pair, 0.5, rules=rules)
    weights = {x: merged.coefficients(f"model.layers.0.self_attn.{x}_proj.weight").weights for x in "qk"}
    assert weights == {"q": (0.0, 1.0), "k": (1.0, 0.0)}
    assert merged.coefficients("model.norm.weight").weights == (0.5, 0.5)


def test_a_gradient_runs_evenly_over_the_layers(pair):
    merged = between(pair, [0, 1])
    lams = [merged.coefficients(f"model.layers.{i}.mlp.up_proj.weight").weights[1] for i in range(3)]
    assert lams == [0, 0.5, 1]


def test_config_and_template_come_from_thinking_but_at_zero_from_instruct(pair):
    assert between(pair, 0.4).generation_config == {"top_k": len("thinking")}
    assert between(pair, 0).generation_config == {"top_k": len("instruct")}
    assert between(pair, 0.4, template_from="instruct").generation_config == {"top_k": len("instruct")}


def test_a_result_dtype_is_rounded_from_float32_and_written_in_the_config(pair):
    merged = between(pair, 0.5, dtype="float32")
    a, b = (interpole.open(path)["model.norm.weight"].astype(np.float32) for path in pair)
    assert merged["model.norm.weight"].dtype == np.float32
    assert np.array_equal(merged["model.norm.weight"], a * np.float32(0.5) + b * np.float32(0.5))
    assert merged.config["torch_dtype"] == "float32"


def test_the_fingerprint_changes_with_lambda_rules_and_sources(pair):
    prints = [
        between(pair, 0.5).fingerprint(),
        between(pair, 0.6).fingerprint(),
        between(pair[::-1], 0.5).fingerprint(),
        between(pair, 0.5, rules=ablation("0-1")).fingerprint(),
    ]
    assert len(set(prints)) == 4
    moved = tuple(path.rename(path.with_name(path.name + "-moved")) for path in pair)
    assert between(moved, 0.5).fingerprint() == prints[0]


def other(tmp_path, change, **kwargs):
    weights = tiny.tensors(1, **kwargs)
    change(weights)
    return tiny.write(tmp_path / "other", weights)


CLASHES = {
    "missing": (
        lambda w: w.pop("model.layers.1.mlp.up_proj.weight"),
        r"1 tensors are only in .*instruct.*layers\.1\.mlp\.up_proj",
    ),
    "extra": (
        lambda w: w.update({"model.layers.0.x": w["model.norm.weight"]}),
        r"only in .*other.*model\.layers\.0\.x",
    ),
    "shape": (
        lambda w: w.update({"model.norm.weight": np.ones(7, ml_dtypes.bfloat16)}),
        r"norm\.weight is \[16\] .* and \[7\]",
    ),
    "vocabulary": (
        lambda w: w.update({"model.embed_tokens.weight": np.ones((44, 16), ml_dtypes.bfloat16)}),
        "different vocabulary: .* 40 rows .* 44",
    ),
    "dtype": (lambda w: w.update({"model.norm.weight": np.ones(16, np.float16)}), r"BF16 in .* F16 in(.|\n)*--dtype"),
}


@pytest.mark.parametrize("clash", CLASHES)
def test_a_clash_names_the_tensor_both_sides_and_a_remedy(pair, tmp_path, clash):
    change, words = CLASHES[clash]
    with pytest.raises(MismatchError, match=words) as error:
        between((pair[0], other(tmp_path, change)), 0.5)
    assert error.value.remedy
    assert str(pair[0]) in str(error.value)
    assert "other" in str(error.value)


def test_a_tied_model_meets_an_untied_one_with_its_embeddings_as_its_head(pair, tmp_path):
    weights = tiny.tensors(1, tied=False)
    untied = tiny.write(tmp_path / "untied", weights, config={"tie_word_embeddings": False})
    for sides in ((pair[0], untied), (untied, pair[0])):
        merged, ends = between(sides, 0.25), [interpole.open(side) for side in sides]
        heads = [end["lm_head.weight" if end.label == str(untied) else "model.embed_tokens.weight"] for end in ends]
        wanted = 0.75 * heads[0].astype(np.float64) + 0.25 * heads[1].astype(np.float64)
        assert np.abs(merged["lm_head.weight"].astype(np.float64) - wanted).max() < 0.02
        assert merged.config["tie_word_embeddings"] is False
        assert any("tied to its embeddings" in note for note in merged.notes)


@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("factor", [1, 2])
def test_a_head_beside_tied_embeddings_is_theirs_if_it_equals_them_and_else_the_models(tmp_path, side, factor):
    sides = [tiny.tensors(seed) for seed in (0, 1)]
    embeddings = [weights["model.embed_tokens.weight"] for weights in sides]
    head = (embeddings[side].astype(np.float32) * factor).astype(embeddings[side].dtype)
    sides[side]["lm_head.weight"] = head
    folders = [tiny.write(tmp_path / str(i), weights) for i, weights in enumerate(sides)]
    out = interpole.open(interpole.save(between(folders, 1.0), tmp_path / "out"))
    assert out["model.embed_tokens.weight"].tobytes() == embeddings[1].tobytes()
    if factor == 1:
        assert "lm_head.weight" not in out
        assert out.config["tie_word_embeddings"] is True
    else:
        assert out["lm_head.weight"].tobytes() == (head if side == 1 else embeddings[1]).tobytes()
        assert out.config["tie_word_embeddings"] is False


def test_names_that_begin_otherwise_are_matched_and_others_are_shown_from_both_sides(pair, tmp_path):
    weights = tiny.tensors(1)
    longer = {name.replace("model.", "model.language_model.", 1): array for name, array in weights.items()}
    folder = tiny.write(tmp_path / "longer", longer)
    merged = between((pair[0], folder), 0.5)
    same = between((pair[0], tiny.write(tmp_path / "same", weights)), 0.5)
    assert set(merged) == set(longer)
    assert all(
        merged[name.replace("model.", "model.language_model.", 1)].tobytes() == same[name].tobytes() for name in same
    )
    assert any("model.language_model." in note for note in merged.notes)
    foreign = {name.replace("model.", "backbone.", 1): array for name, array in weights.items()}
    with pytest.raises(MismatchError, match=r"only in .*, e\.g\. model\.\w+(.|\n)*has e\.g\. backbone\.\w+"):
        between((pair[0], tiny.write(tmp_path / "foreign", foreign)), 0.5)


def test_different_dtypes_merge_when_the_recipe_says_the_result(pair, tmp_path):
    half = tiny.write(tmp_path / "half", tiny.tensors(1, dtype=np.float16))
    assert between((pair[0], half), 0.5, dtype="bfloat16")["model.norm.weight"].dtype == ml_dtypes.bfloat16


def test_integers_that_differ_are_refused_and_equal_ones_kept(tmp_path):
    paths = [
        tiny.write(tmp_path / s, tiny.tensors(0) | {"model.steps": np.array([n])}) for s, n in (("a", 1), ("b", 2))
    ]
    with pytest.raises(MismatchError, match=r"model\.steps .* integers"):
        between(paths, 0.5)
    assert between((paths[0], paths[0]), 0.5)["model.steps"].tolist() == [1]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"lambda": "much"}, "lambda"),
        ({"lambda": float("nan")}, "finite"),
        ({}, "neither `lambda` nor `weights`"),
        ({"lambda": 0.5, "colour": 1}, "colour"),
        ({"lambda": 0.5, "method": "soup"}, "unknown merge method 'soup'"),
        ({"lambda": 0.5, "rules": [{"layers": "9-3", "lambda": 0}]}, "not a layer range"),
        ({"lambda": 0.5, "rules": [{"kind": "brain", "lambda": 0}]}, "unknown module kind 'brain'"),
        ({"lambda": 0.5, "template_from": "nobody"}, "no source 'nobody'"),
        ({"lambda": 0.5, "weights": {"instruct": 1}}, "not both"),
        ({"weights": {"someone": 1}}, "no source 'someone'"),
        ({"lambda": 0.5, "dtype": "int4"}, "unknown dtype"),
        ({"lambda": 0.5, "parameters": {"depth": 1}}, "no parameter 'depth'"),
    ],
)
def test_a_recipe_that_makes_no_sense_says_which_key(content, words):
    with pytest.raises(RecipeError, match=words):
        build({"sources": {"instruct": "a", "thinking": "b"}} | content, "test")


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ({"layers": "2-7", "lambda": 0}, r"layers beyond the last(.|\n)*0-2"),
        ({"kind": "experts", "lambda": 0}, "matches no tensor"),
        ({"name": "*.qq_proj*", "lambda": 0}, "matches no tensor"),
    ],
)
def test_a_rule_that_does_not_fit_the_model_is_refused(pair, rule, words):
    with pytest.raises(RecipeError, match=words):
        between(pair, 0.5, rules=[rule])


def test_a_name_of_no_known_family_is_an_error_only_where_a_rule_needs_its_place(tmp_path):
    weights = {"transformer.blocks.0.mixer.weight": np.ones((2, 2), ml_dtypes.bfloat16)}
    paths = [tiny.write(tmp_path / side, weights) for side in "ab"]
    assert len(between(paths, 0.5)) == 1
    with pytest.raises(RecipeError, match=r"cannot tell layer and kind of tensor transformer\.blocks\.0\.mixer"):
        between(paths, 0.5, rules=[{"kind": "ffn", "lambda": 0}])


def test_lambda_outside_the_pair_warns_and_extrapolates(pair):
    with pytest.warns(InterpoleWarning, match=r"outside \[0, 1\]"):
        merged = between(pair, 1.2)
    a, b = (interpole.open(path)["model.norm.weight"].astype(np.float64) for path in pair)
    assert np.allclose(merged["model.norm.weight"].astype(np.float64), -0.2 * a + 1.2 * b, rtol=0.01)


def test_a_recipe_survives_yaml(pair, tmp_path):
    recipe = Recipe.between(*pair, 0.7, rules=ablation("0-1", ["ffn"], "thinking"), dtype="bfloat16")
    path = tmp_path / "r.yml"
    path.write_text(recipe.to_yaml())
    assert Recipe.load(path) == recipe
    assert recipe.at(0.2).lam == 0.2
    assert recipe.at(0.2).rules == recipe.rules


@given(st.sets(st.integers(0, 60), min_size=1))
def test_a_list_of_layers_means_these_layers(layers):
    assert parse_layers(",".join(map(str, sorted(layers)))) == layers


@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(shards=st.tuples(st.integers(1, 6), st.integers(1, 6)), reverse=st.tuples(st.booleans(), st.booleans()))
def test_how_shards_are_laid_out_does_not_matter(tmp_path, shards, reverse):
    shutil.rmtree(tmp_path)
    paths = [
        tiny.write(tmp_path / str(i), tiny.tensors(i, layers=1), shards=shards[i], reverse=reverse[i]) for i in (0, 1)
    ]
    merged = between(paths, 0.25)
    for name, a in tiny.tensors(0, layers=1).items():
        b = tiny.tensors(1, layers=1)[name]
        expected = a.astype(np.float32) * np.float32(0.75) + b.astype(np.float32) * np.float32(0.25)
        assert merged[name].tobytes() == expected.astype(ml_dtypes.bfloat16).tobytes()


def test_linear_equals_mergekit_to_the_last_bit_in_float32(data):
    import hashlib

    models, manifest = data / "golden/models", json.loads((data / "golden/manifest.json").read_text())
    cases = {case["name"]: case["tensors"] for case in manifest["cases"]}
    for lam in (0.1, 0.4, 0.5, 0.55, 0.6, 0.8):
        merged = between((models / "qwen3-instruct", models / "qwen3-thinking"), lam)
        golden = cases[f"qwen3-linear-{lam}-f32"]
        assert {name: hashlib.sha256(merged[name].tobytes()).hexdigest()[:24] for name in merged} == {
            name: entry[3] for name, entry in golden.items()
        }


def test_sources_are_fitted_once_for_all_points_of_a_dial(pair, monkeypatch):
    calls = []
    monkeypatch.setattr(module, "fit", lambda *args: calls.append(args) or fit(*args))
    sources = dict(zip(("instruct", "thinking"), map(interpole.open, pair), strict=True))
    recipes = [Recipe.between(*pair, lam, template_from="thinking") for lam in (0, 0.2, 0.6, 1)]
    merged = merge_all(recipes, sources)
    assert len(calls) == 1
    for recipe, one in zip(recipes, merged, strict=True):
        alone = interpole.merge(recipe, sources)
        assert all(one[name].tobytes() == alone[name].tobytes() for name in alone)
        assert one.fingerprint() == alone.fingerprint()


@pytest.mark.parametrize("lam", [-0.6, 1.6, 6, [0, 3]])
def test_lambda_far_beyond_the_pair_must_be_meant(pair, lam):
    with pytest.raises(RecipeError, match=r"far beyond the pair(.|\n)*extrapolate: true"):
        Recipe.between(*pair, lam)
    with pytest.raises(RecipeError, match="far beyond the pair"):
        Recipe.between(*pair, 0.5, rules=[{"kind": "ffn", "lambda": lam}])
    with pytest.warns(InterpoleWarning):
        meant = Recipe.between(*pair, lam, extrapolate=True)
    with pytest.warns(InterpoleWarning):
        assert meant.at(2).identity() == meant.at(2).with_(extrapolate=True).identity()


@pytest.mark.parametrize(("text", "words"), [("0,6", "write 0.6"), ("1,5", "write 1.5"), ("0:1:1e-9", "more than")])
def test_a_lambda_that_is_not_meant_is_named(text, words):
    with pytest.raises(RecipeError, match=words):
        parse_lambdas(text)


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("0:1:0.3", [0, 0.3, 0.6, 0.9, 1]),
        ("0:1:0.25", [0, 0.25, 0.5, 0.75, 1]),
        ("0:1:5", [0, 1]),
        ("0,1", [0, 1]),
        ("0.2:0.2:1", [0.2]),
        ("0,2.0", [0, 2]),
    ],
)
def test_a_range_has_both_its_ends(text, values):
    assert parse_lambdas(text) == values


def test_a_decimal_comma_in_a_recipe_is_named(pair):
    sources = {"instruct": str(pair[0]), "thinking": str(pair[1])}
    for content in ({"lambda": "0,6"}, {"lambda": 0.5, "rules": [{"kind": "ffn", "lambda": "0,6"}]}):
        with pytest.raises(RecipeError, match=r"lambda(.|\n)*decimal comma; write 0\.6"):
            build({"sources": sources} | content, "t")


def test_a_rule_that_matches_nothing_is_named_with_its_line(pair, tmp_path):
    path = tmp_path / "recipe.yml"
    ours = f"sources: {{instruct: {pair[0]}, thinking: {pair[1]}}}\nlambda: 0.5\nrules:\n- kind: ffn\n  lambda: 1\n"
    path.write_text(ours + "- name: '*nothing*'\n  lambda: 1\n")
    with pytest.raises(RecipeError, match=r"matches no tensor(.|\n)*recipe\.yml, line 6"):
        merge(Recipe.load(path).with_(dtype="bfloat16"))
    path.write_text(ours + "- layers: 0-99\n  lambda: 1\n")
    with pytest.raises(RecipeError, match=r"beyond the last(.|\n)*recipe\.yml, line 6"):
        merge(Recipe.load(path))
    path.write_text(
        f"merge_method: linear\nmodels:\n- model: {pair[0]}\n  parameters: {{weight: 1}}\n- model: {pair[1]}\n"
        "  parameters:\n    weight:\n    - filter: no[thing]\n      value: 0\n    - value: 1\n"
    )
    with pytest.raises(RecipeError, match=r"matches no tensor(.|\n)*recipe\.yml, line 8"):
        merge(Recipe.load(path))


HOSTILE = {
    "a key twice": ("lambda: 1\ndtype: float16\nlambda: 0\n", r"'lambda' stands here and in line 1(.|\n)*line 3"),
    "a key twice, deeper": ("rules:\n- {kind: ffn, kind: norm}\n", r"'kind' stands here and in line 2"),
    "aliases that multiply": (
        "a: &a [x]\n" + "".join(f"b{i}: &b{i} [{', '.join([f'*b{i - 1}' if i else '*a'] * 9)}]\n" for i in range(12)),
        "multiply"),
    "merges that multiply": (
        "a: &a {x: 1}\n"
        + "".join(f"b{i}: &b{i} {{<<: [{', '.join([f'*b{i - 1}' if i else '*a'] * 9)}]}}\n" for i in range(12)),
        "multiply"),
    "itself": ("merge_method: linear\nmodels: &a [*a]\n", "holds itself"),
    "depth": ("[" * 50_000, "nested too deep"),
    "a tag that does not fit": ("lambda: !!bool maybe\n", "does not fit its tag"),
    "a moment that is none": ("lambda: !!timestamp abc\n", "does not fit its tag"),
    "a date that is none": ("lambda: 2001-13-45\n", "not valid YAML"),
    "a number of hundreds of digits": (f"sources: {{instruct: i, thinking: t}}\nlambda: {'9' * 400}\n", "400 digits"),
    "rules that are a number": ("sources: {instruct: i, thinking: t}\nlambda: 1\nrules: 1\n", r"rules.*valid tuple"),
    "half of a character": ('chat_template: "\\uD800"\n', "lone surrogate"),
    "more layers than memory": (
        "sources: {instruct: i, thinking: t}\nlambda: 1\nrules: [{layers: 0-9999999999, lambda: 1}]\n", "so many layers"),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_yaml_is_refused_in_our_words(tmp_path, case):
    text, words = HOSTILE[case]
    (tmp_path / "recipe.yml").write_text(text)
    with pytest.raises(RecipeError, match=words):
        Recipe.load(tmp_path / "recipe.yml")
