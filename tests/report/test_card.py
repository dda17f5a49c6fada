"""Model cards with what a run measured: valid to the hub's library, and only of the weights that were measured."""

import math
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

import interpole
from bench import Bench, call
from interpole.analysis.metrics import measure
from interpole.errors import RunError
from interpole.merging.card import model_card
from interpole.merging.recipe import Recipe
from interpole.report.card import card_at, card_from


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    bench = Bench(tmp_path_factory.mktemp("card"))
    bench.sweep()
    return bench


def told(card):
    """What a card says but for its recipe, which may leave out what is the default."""
    read = ModelCard(card.read_text() if isinstance(card, Path) else card)
    return read.data.to_dict(), read.text.split("`interpole_recipe.yml`")[0]


def test_a_points_card_holds_its_numbers_as_the_hub_reads_them(bench):
    card = ModelCard(card_at(bench.out, 0.5))
    (point,) = [one for one in measure(bench.read()) if one.lam == 0.5]
    found = {one.metric_name: one for one in card.data.eval_results}
    assert {*found} == {"Mean@2", "Token #N", "Think #R"}
    assert found["Mean@2"].metric_value == pytest.approx(100 * point.mean.value, abs=0.01)
    assert found["Token #N"].metric_value == pytest.approx(point.tokens.value, abs=0.01)
    assert found["Think #R"].metric_args["interval_95"] == [
        round(100 * point.think.low, 2),
        round(100 * point.think.high, 2),
    ]
    assert found["Mean@2"].metric_args["questions"] == 4
    assert (found["Mean@2"].dataset_type, found["Mean@2"].task_type) == ("arithmetic", "text-generation")
    assert all(math.isfinite(one.metric_value) for one in found.values())
    assert f"| arithmetic | Token #N | {point.tokens.value:.1f} [" in card.text
    assert call("card", bench.out, "0.5") == str(card)


def test_merge_puts_what_the_run_measured_into_the_card_of_the_same_merge(bench, tmp_path):
    flags = ("--card-from", bench.out, "--no-doctor", "-o", tmp_path / "out")
    call("merge", *bench.sources.values(), "-l", "0.5", *flags)
    assert told(tmp_path / "out/README.md") == told(card_at(bench.out, 0.5))
    assert call("merge", *bench.sources.values(), "-l", "0.5,1", *flags).count("tensors") == 2
    assert told(tmp_path / "out-1/README.md") == told(card_at(bench.out, 1))


@pytest.mark.parametrize("change", ["lambda", "method", "weights", "template"])
def test_what_was_not_measured_gets_no_numbers(bench, change):
    sources = dict(bench.sources)
    settings = {"lam": 0.5} | ({"lam": 0.4} if change == "lambda" else {})
    if change == "weights":
        sources["thinking"] = sources["instruct"]
    if change == "template":
        settings["template_from"] = "instruct"
    if change == "method":
        settings["method"] = "slerp"
    merged = interpole.merge(Recipe.between(sources["instruct"], sources["thinking"], **settings))
    with pytest.raises(RunError, match=r"has not measured this merge .* it has λ = 0, 0.5, 1"):
        card_from(bench.out, merged)


def test_a_point_that_is_not_there_is_named_with_those_that_are(bench):
    with pytest.raises(RunError, match=r"no merge at λ = 0\.3[\s\S]*λ = 0, 0\.5, 1"):
        card_at(bench.out, 0.3)


def test_a_card_without_a_run_says_what_kind_of_model_it_is_and_is_valid(pair):
    for folder, licence in zip(pair, ("mit", "apache-2.0"), strict=True):
        (folder / "README.md").write_text(f"---\nlicense: {licence}\n---\n")
    data = ModelCard(model_card(interpole.merge(Recipe.between(*pair, 0.5)))).data
    assert (data.pipeline_tag, data.library_name, data.license) == ("text-generation", "transformers", "other")
    assert data.license_name == "those-of-the-sources"
    assert data.base_model_relation == "merge"
    assert data.eval_results is None
