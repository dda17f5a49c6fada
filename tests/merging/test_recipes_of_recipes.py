"""Recipes of recipes: a chain in one pass is what its stages give one by one on disk, and every text names all of it."""

import json
import os
from textwrap import dedent

import ml_dtypes
import numpy as np
import pytest
import torch
import yaml
from typer.testing import CliRunner

import interpole
import tiny
from interpole.cli.commands import app
from interpole.diagnostics.audit.stated import verify
from interpole.engines.open import dial
from interpole.engines.stream import tensors
from interpole.errors import RecipeError
from interpole.merging.recipe import Recipe, build
from interpole.sweep.config import SweepConfig

UP = "model.layers.1.mlp.up_proj.weight"
INNER = {"method": "linear", "sources": {"a": "A", "b": "B"}, "weights": {"a": 0.3, "b": 0.7}}


@pytest.fixture
def models(tmp_path, monkeypatch):
    """Folders A, B and C, where relative paths start; C is in two files."""
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate("ABC"):
        tiny.write(tmp_path / name, tiny.tensors(seed), template=f"template {name}", shards=1 + seed // 2)
    return tmp_path


def write(path, content):
    path.write_text(yaml.safe_dump(content))
    return path


def chain(inner=INNER, **outer):
    return {"method": "linear", "sources": {"instruct": inner, "thinking": "C"}, "lambda": 0.4} | outer


def contents(folder):
    return {
        path.name: path.read_bytes() for path in folder.iterdir() if path.suffix != ".md" and "recipe" not in path.name
    }


STAGES = {
    "bf16 in bf16": (INNER, {}),
    "float32 below": (INNER | {"dtype": "float32"}, {"dtype": "bfloat16"}),
    "float16 below, so that it rounds twice": (INNER | {"dtype": "float16"}, {"dtype": "float32"}),
    "a method that takes whole tensors": (
        {"method": "slerp", "sources": {"a": "A", "b": "B"}, "weights": {"a": 1, "b": 2}, "chat_template": "its own"},
        {"template_from": "instruct"},
    ),
    "rules, rows of none, and a stack": (
        INNER | {"stack": "0-1,1-2", "rules": [{"kind": "ffn", "weights": {"a": 1, "b": 0}}]},
        {"sources": {"instruct": INNER, "thinking": INNER | {"weights": {"a": 1, "b": 1}}}, "stack": "2,0"},
    ),
    "task vectors": (
        INNER,
        {
            "method": "ties",
            "sources": {"x": INNER, "y": "C", "base": "A"},
            "weights": {"x": 1, "y": 1},
            "parameters": {"density": 0.4},
            "lambda": None,
        },
    ),
}


def on_disk(recipe, folder):
    """The recipe's stages written one by one, the innermost first, and merged from there."""
    places = {}
    for number, (name, source) in enumerate(recipe.sources.items()):
        places[name] = source.model if not isinstance(source, Recipe) else str(on_disk(source, folder / str(number)))
    plain = recipe.with_(sources=places)
    return interpole.save(interpole.merge(plain), folder / "out")


@pytest.mark.parametrize("name", STAGES)
def test_a_chain_in_one_pass_is_byte_for_byte_what_its_stages_give_on_disk(models, name):
    inner, outer = STAGES[name]
    recipe = build(chain(inner, **outer), "here")
    lazily = interpole.save(interpole.merge(recipe), models / "lazy")
    assert contents(lazily) == contents(on_disk(recipe, models / "disk"))


@pytest.mark.usefixtures("models")
def test_each_stage_rounds_to_its_own_dtype():
    weights = {name: interpole.open(name)[UP].astype(np.float32) for name in "ABC"}
    f32 = np.float32
    between = (weights["A"] * f32(0.3) + weights["B"] * f32(0.7)).astype(ml_dtypes.bfloat16).astype(f32)
    wanted = (between * f32(0.6) + weights["C"] * f32(0.4)).astype(ml_dtypes.bfloat16)
    found = interpole.merge(build(chain(), "here"))[UP]
    assert found.tobytes() == wanted.tobytes()


@pytest.mark.usefixtures("models")
def test_a_stage_that_is_read_in_pieces_is_computed_once_for_all_of_them(monkeypatch):
    inner = interpole.merge(build(STAGES["a method that takes whole tensors"][0], "here"))
    whole, calls = inner[UP].reshape(-1), []
    merge = inner._merge
    monkeypatch.setattr(inner, "_merge", lambda *given: calls.append(given[0]) or merge(*given))
    pieces = [inner.read(UP, start, start + 100) for start in range(0, whole.size, 100)]
    pieces[0][:] = 0  # is the caller's own
    assert np.concatenate([inner.read(UP, 0, 100), *pieces[1:]]).tobytes() == whole.tobytes()
    assert calls == [UP]


def test_a_stage_may_be_named_by_its_file_or_stand_inside(models):
    (models / "deep").mkdir()
    write(models / "deep" / "inner.yml", INNER)
    write(models / "deep" / "named.yml", chain("inner.yml"))  # beside the file that names it
    write(models / "deep" / "said.yaml", chain({"recipe": "deep/inner.yml"}))  # or from where one is
    ways = [build(chain(), "here"), build(chain({"recipe": INNER}), "here"), build(chain("deep/inner.yml"), "here")]
    ways += [Recipe.load("deep/named.yml"), Recipe.load("deep/said.yaml"), Recipe.between("deep/inner.yml", "C", 0.4)]
    assert all(way == ways[0] for way in ways)
    assert len({hash(way) for way in ways}) == 1
    assert ways[0].places.keys() == {"instruct/a", "instruct/b", "thinking"}
    again = write(models / "again.yml", yaml.safe_load(ways[0].to_yaml()))
    assert Recipe.load(again) == ways[0]


def test_a_recipe_that_is_made_of_itself_is_refused_by_name(models):
    write(models / "a.yml", chain("b.yml"))
    write(models / "b.yml", chain({"recipe": "c.yml"}))
    write(models / "c.yml", chain("a.yml"))
    with pytest.raises(RecipeError, match=r"made of itself: a.yml → b.yml → c.yml → a.yml"):
        Recipe.load("a.yml")
    write(models / "c.yml", chain("c.yml"))
    with pytest.raises(RecipeError, match=r"made of itself: c.yml → c.yml"):
        Recipe.load("a.yml")
    (models / "c.yml").unlink()
    (models / "c.yml").symlink_to("c.yml")
    for name in ("a.yml", "c.yml"):
        with pytest.raises(RecipeError, match=r"c\.yml"):
            Recipe.load(name)


def test_what_a_recipe_names_is_a_file_and_nobody_waits_for_anything_else(models):
    os.mkfifo(models / "pipe.yml")
    for name in ("pipe.yml", "gone.yml"):
        write(models / "outer.yml", chain(name))
        with pytest.raises(RecipeError, match=f"there is no recipe {name}"):
            Recipe.load("outer.yml")


def test_a_chain_that_multiplies_is_refused_before_it_has_grown(models):
    write(models / "0.yml", INNER)
    for number in range(1, 40):
        write(
            models / f"{number}.yml",
            chain(f"{number - 1}.yml") | {"sources": dict.fromkeys(("instruct", "thinking"), f"{number - 1}.yml")},
        )
    with pytest.raises(RecipeError, match="merges in one chain; there can be 100"):
        Recipe.load("39.yml")


def test_what_is_wrong_in_a_stage_is_named_with_its_key_its_file_and_its_line(models):
    with pytest.raises(RecipeError, match=r"sources\.instruct: weights: no source 'z'"):
        build(chain(INNER | {"weights": {"z": 1}}), "here")
    with pytest.raises(RecipeError, match=r"sources\.instruct\.method_: there is no such key; is it method"):
        build(chain(INNER | {"method_": "x"}), "here")
    with pytest.raises(RecipeError, match=r"sources\.instruct\.model: Field required"):
        build(chain({"revision": "x"}), "here")
    (models / "inner.yml").write_text(yaml.safe_dump(INNER) + "rules:\n- name: nothing*\n  weights: {a: 1}\n")
    write(models / "outer.yml", chain("inner.yml"))
    with pytest.raises(RecipeError) as caught:
        interpole.merge(Recipe.load("outer.yml").at(0.2))
    assert caught.value.where == "inner.yml, line 9"
    (models / "whole.yml").write_text(
        dedent("""\
        sources:
          instruct:
            sources: {a: A, b: B}
            weights: {a: 1, b: 1}
            rules:
            - {name: nothing*, weights: {a: 1}}
          thinking: C
        lambda: 0.5
        """)
    )
    with pytest.raises(RecipeError) as caught:
        interpole.merge(Recipe.load("whole.yml"))
    assert caught.value.where == "whole.yml, line 6"


@pytest.mark.usefixtures("models")
def test_the_fingerprint_tells_chains_apart_by_any_of_their_stages():
    changed = [
        chain(),
        chain(INNER | {"weights": {"a": 0.4, "b": 0.6}}),
        chain(INNER | {"sources": {"a": "A", "b": "C"}}),
        chain(INNER | {"dtype": "float16"}, dtype="bfloat16"),
        chain(**{"lambda": 0.5}),
    ]
    assert len({interpole.merge(build(content, "here")).fingerprint() for content in changed}) == len(changed)


def test_the_card_names_the_whole_chain_and_its_recipe_makes_it_again(models):
    (models / "B" / "README.md").write_text("---\nlicense: mit\n---\n")
    (models / "C" / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    absolute = INNER | {"sources": {"a": str(models / "A"), "b": str(models / "B")}}
    out = interpole.save(interpole.merge(build(chain(absolute), "here")), models / "out")
    card = (out / "README.md").read_text()
    assert "# Merge of 3 models by `linear` at λ = 0.4 in 2 stages" in card
    assert "Licences of the sources: instruct/a: not said, instruct/b: mit, thinking: apache-2.0." in card
    assert str(models) not in card
    for name, folder in (("instruct/a", "A"), ("instruct/b", "B"), ("thinking", "C")):
        assert f"| `{name}` | {folder} | `{interpole.open(folder).fingerprint()}` |" in card
    assert "| `instruct` | linear(a, b) |" in card
    again = interpole.save(interpole.merge(Recipe.load(out / "interpole_recipe.yml")), models / "again")
    assert {path.name: path.read_bytes() for path in again.iterdir()} == {
        path.name: path.read_bytes() for path in out.iterdir()
    }


def test_the_audit_makes_a_chain_again_from_the_models_it_was_made_of(models):
    out = interpole.save(interpole.merge(build(chain(), "here")), models / "out")
    sources = {"instruct": interpole.open("A"), "thinking": interpole.open("C"), "base": interpole.open("B")}
    assert verify(interpole.open(out), sources).byte_for_byte
    del sources["base"]
    assert "'instruct/b' (B) is none of those given" in str(verify(interpole.open(out), sources))


def test_a_live_engine_gets_the_bytes_of_the_folder_at_every_point_of_the_dial(models):
    recipe = build(chain(), "here")
    resolve = dial(recipe)
    for lam in (0.0, 0.7):
        folder = interpole.open(interpole.save(interpole.merge(recipe.at(lam)), models / f"out-{lam}"))
        live = dict(tensors(resolve(lam), torch.device("cpu")))
        assert all(live[name].view(torch.int16).numpy().tobytes() == folder[name].tobytes() for name in folder)
    assert resolve(recipe.sources["instruct"])[UP].tobytes() == interpole.merge(build(INNER, "here"))[UP].tobytes()


def test_a_sweep_may_have_a_merge_at_one_end_of_its_dial(models):
    write(models / "inner.yml", INNER)
    content = {"sources": {"instruct": "inner.yml", "thinking": "C"}, "tasks": ["arithmetic"], "lambdas": "0,1"}
    config = SweepConfig.of(content)
    assert config.sources["instruct"] == build(INNER, "here")
    assert SweepConfig.of(json.loads(config.model_dump_json(by_alias=True, exclude_unset=True))) == config
    ((sources, template_source),) = config.merges()
    assert (sources, template_source) == (config.sources, "thinking")


def run(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


def test_the_command_line_merges_a_chain_whose_models_lie_elsewhere(models):
    write(models / "outer.yml", chain(INNER | {"sources": {"a": "gone", "b": "B"}}))
    done = run("merge", "outer.yml", "--source", "instruct/a=A", "--lambda", "0.4", "--out", "out", "--json")
    assert done.exit_code == 0, done.output
    assert contents(models / "out") == contents(
        interpole.save(interpole.merge(build(chain(), "here")), models / "again")
    )
    unknown = run("merge", "outer.yml", "--source", "a=A", "--out", "other")
    assert unknown.exit_code == 2
    assert "instruct/a" in unknown.output


def test_the_doctor_is_asked_about_every_stage(models):
    other = {"tie_word_embeddings": True, "rope_theta": 1e7, "hidden_act": "relu"}
    tiny.write(models / "D", tiny.tensors(3), config=other)
    recipe = write(models / "outer.yml", chain(INNER | {"sources": {"a": "A", "b": "D"}}))
    found = run("merge", recipe, "--out", "out")
    assert found.exit_code == 2, found.output
    assert "hidden_act" in found.output
    assert not (models / "out").exists()
    assert run("merge", recipe, "--out", "out", "--no-doctor").exit_code == 0


MERGEKIT = """\
    name: halfway
    merge_method: linear
    models:
    - {model: A, parameters: {weight: 0.3}}
    - {model: B, parameters: {weight: 0.7}}
    dtype: bfloat16
    ---
    merge_method: task_arithmetic
    base_model: A
    models:
    - {model: halfway, parameters: {weight: 1}}
    - {model: C, parameters: {weight: [{filter: mlp, value: 0.2}, {value: 0.5}]}}
    dtype: bfloat16
    """


def test_documents_of_a_mergekit_file_name_one_another(models):
    (models / "both.yml").write_text(dedent(MERGEKIT))
    first, second = dedent(MERGEKIT).split("---\n")
    (models / "first.yml").write_text(first)
    (models / "second.yml").write_text(second)
    interpole.save(interpole.merge(Recipe.load("first.yml")), models / "halfway")
    wanted = interpole.save(interpole.merge(Recipe.load("second.yml")), models / "wanted")
    recipe = Recipe.load("both.yml")
    assert recipe.num_stages == 2
    assert contents(interpole.save(interpole.merge(recipe), models / "out")) == contents(wanted)
    (models / "both.yml").write_text(second + "---\n" + first)  # the order does not count where the result has no name
    assert Recipe.load("both.yml") == recipe
    (models / "both.yml").write_text(first + "---\nname: last\n" + second)
    assert Recipe.load("both.yml") == recipe


@pytest.mark.parametrize(
    ("change", "line", "words"),
    [
        (("model: A, parameters", "model: halfway, parameters"), 1, "made of itself: halfway → halfway"),
        (("name: halfway", "name: unused"), 1, "does not use unused"),
        (("---\n", "---\nname: halfway\n"), 8, "two documents are called halfway"),
        (("model: halfway", "model: halfway+lora"), 8, "a revision or an adapter of halfway"),
        (("filter: mlp", "filter: nothing"), 12, "matches no tensor"),
        (("name: halfway", "naming: halfway"), 1, "'naming' is not supported"),
    ],
)  # fmt: skip
def test_documents_that_make_no_sense_are_refused_with_their_line(models, change, line, words):
    (models / "both.yml").write_text(dedent(MERGEKIT).replace(*change, 1))
    with pytest.raises(RecipeError, match=words) as caught:
        interpole.merge(Recipe.load("both.yml"))
    assert caught.value.where == f"both.yml, line {line}"


@pytest.mark.parametrize("model", ["''", "null", "7"])
def test_a_document_without_a_name_and_a_model_without_one_are_no_pair(models, model):
    (models / "one.yml").write_text(f"merge_method: linear\nmodels:\n- model: {model}\n  parameters: {{weight: 1}}\n")
    with pytest.raises(RecipeError):
        Recipe.load("one.yml")


def test_several_documents_of_ours_are_refused_with_what_to_do(models):
    (models / "both.yml").write_text(yaml.safe_dump(INNER) + "---\n" + yaml.safe_dump(chain()))
    with pytest.raises(RecipeError, match=r"several documents(.|\n)*recipe: FILE"):
        Recipe.load("both.yml")


def test_documents_that_say_nothing_count_for_nothing(models):
    text = yaml.safe_dump(INNER)
    (models / "one.yml").write_text(text)
    for around in ("# a file\n---\n{}---\n", "---\n---\n{}", "{}...\n---\nnull\n"):
        (models / "around.yml").write_text(around.format(text))
        assert Recipe.load("around.yml") == Recipe.load("one.yml")
    for nothing in ("", "---\n---\n", "# nothing\n---\nnull\n---\n"):
        (models / "none.yml").write_text(nothing)
        with pytest.raises(RecipeError, match="a recipe is a YAML mapping"):
            Recipe.load("none.yml")
