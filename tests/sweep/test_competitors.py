"""Competitors as points of a sweep: a thinking budget, an instruction, presets; and points compared in pairs."""

import asyncio
import json

import pytest
from typer.testing import CliRunner

import live
import synthetic
import tiny
from bench import call
from interpole.analysis.compare import compare
from interpole.analysis.metrics import difference, measure
from interpole.cli import app
from interpole.engines.budget_forcing import Budget, within
from interpole.errors import EngineError, InterpoleError, RunError
from interpole.records import Generation, Sampler
from interpole.report import write_report
from interpole.runs import samples
from interpole.runs.journal import Journal
from interpole.runs.progress import Progress
from interpole.runs.runfile import RunFile
from interpole.sweep import run as sweep
from interpole.sweep.config import SweepConfig
from interpole.sweep.plan import Plan

CUT = "\n</think>\n\n"


def answered(replies, sampler, num_tokens=4):
    """What comes of a prompt whose requests are answered in turn, and the requests."""
    asked = []

    async def answer(prompt, sampler, seed):
        asked.append((prompt, sampler.max_tokens, seed))
        if isinstance(reply := replies[len(asked) - 1], Exception):
            raise reply
        return reply

    limited = within(answer, Budget(num_tokens, CUT), lambda text: "<think>" in text and "</think>" not in text)
    return asyncio.run(limited("Q:", sampler, 7)), asked


def test_a_thought_is_cut_closed_and_answered_and_only_generated_tokens_count():
    whole, asked = answered(
        [Generation("<think>\na b ", 4, "length"), Generation("7", 2, "stop")], Sampler(max_tokens=10)
    )
    assert whole == Generation("<think>\na b\n</think>\n\n7", 6, "stop", budget_forced=True)
    assert [(prompt, cap) for prompt, cap, _ in asked] == [("Q:", 4), ("Q:<think>\na b" + CUT, 6)]
    assert asked[0][2] == 7
    assert asked[1][2] not in (7, 8)


@pytest.mark.parametrize("begun", ["<think>\na\n</think>\n\nso ", "the sum is ", "<think>a</think> caf\ufffd"])
def test_a_response_that_does_not_think_at_the_cut_goes_on_as_it_is(begun):
    whole, asked = answered([Generation(begun, 4, "length"), Generation("7", 2, "length")], Sampler(max_tokens=10))
    assert whole == Generation(begun.rstrip("\ufffd") + "7", 6, "length")
    assert asked[1][0] == "Q:" + begun.rstrip("\ufffd")


@pytest.mark.parametrize(
    ("first", "cap"),
    [
        (Generation("<think>a</think>7", 3, "stop"), 10),  # done within the budget
        (Generation("<think>a b c", 4, "length"), 4),  # the cap leaves nothing
        (Generation("<think>a b", 3, "length"), 10),  # the context is full
    ],
)
def test_nothing_more_is_asked_where_nothing_more_can_come(first, cap):
    whole, asked = answered([first], Sampler(max_tokens=cap))
    assert whole == first
    assert len(asked) == 1


def test_a_request_that_fails_fails_the_response():
    with pytest.raises(EngineError, match="lost"):
        answered([Generation("<think>a", 4, "length"), EngineError("lost")], Sampler(max_tokens=9))


# ── in a sweep ───────────────────────────────────────────────────────────────────────────────────────────────────


SCRIPT = [
    {"contains": "Be brief.", "responses": ["7"]},
    {"contains": CUT, "responses": [{"text": "8", "num_tokens": 2}]},
    {"contains": "", "lambda": 1.0, "responses": [{"text": "<think>\nlong", "num_tokens": 5, "finish": "length"}]},
    {"contains": "", "responses": [{"text": "9", "num_tokens": 2}]},
]
POINTS = [
    {"lambda": 1, "budget_tokens": 5},
    {"lambda": 1, "instruction": "Be brief."},
    {"lambda": 0.4, "budget_tokens": 5},
]


@pytest.fixture
def config(tmp_path):
    """A function: points → a sweep of two questions over scripted answers."""
    sources = {
        name: str(tiny.write(tmp_path / name, tiny.tensors(i, layers=1), template=live.TEMPLATE))
        for i, name in enumerate(("instruct", "thinking", "base"))
    }

    def make(points, **changes):
        content = {
            "sources": sources, "tasks": "arithmetic", "points": points, "samples": 1, "limit": 2,
            "engine": "scripted", "engine_options": {"script": SCRIPT, "journal": str(tmp_path / "asked")},
        }  # fmt: skip
        return SweepConfig.of(content | changes)

    return make


def test_competitors_are_points_off_the_dial_with_true_token_counts(config, tmp_path):
    assert sweep.run(config(POINTS, lambdas="0"), tmp_path / "run").failed == ()
    found = {
        (s.point, s.lam, s.response, s.num_tokens, s.closed) for s in samples.read(tmp_path / "run") if s.number == 1
    }
    assert found == {
        ("λ=0", 0.0, "9", 2, False),
        ("λ=1, budget 5", None, "<think>\nlong\n</think>\n\n8", 7, True),
        ("λ=1, “Be brief.”", None, "7", 2, False),
        ("λ=0.4, budget 5", None, "9", 2, False),
    }
    assert {s.point for s in samples.read(tmp_path / "run", texts=False) if s.budget_forced} == {"λ=1, budget 5"}
    entries = {entry.point: entry for entry in RunFile.load(tmp_path / "run").current}
    assert entries["λ=1, budget 5"].asking == {"budget_tokens": 5, "close": CUT}
    assert entries["λ=1, “Be brief.”"].asking == {"instruction": "Be brief."}
    assert entries["λ=0.4, budget 5"].recipe["lambda"] == 0.4
    asked = [json.loads(line)["prompt"] for line in (tmp_path / "asked").read_text().splitlines()]
    assert sum("= ?\n\nBe brief.<|im_end|>" in prompt for prompt in asked) == 2

    before = len(asked)
    sweep.run(config(POINTS, lambdas="0"), tmp_path / "run")
    other = [{**POINTS[0], "name": "λ=1, budget 5", "close": " enough.\n</think>\n\n"}, *POINTS[1:]]
    assert sweep.run(config(other, lambdas="0"), tmp_path / "run", changed="also").num_generated == 2
    asked = (tmp_path / "asked").read_text().splitlines()
    assert len(asked) == before + 4  # two questions, in two requests each
    assert {s.point for s in samples.read(tmp_path / "run")} == {point for point, *_ in found}


@pytest.mark.parametrize("tasks", ["arithmetic", "two"])
def test_points_that_share_weights_may_stand_far_apart(config, tmp_path, tasks):
    """An engine stays where more is to be asked; that point's turn is next, so that weights are loaded once."""
    (tmp_path / "mine.jsonl").write_text('{"question": "1 + 1 = ?", "answer": "2"}\n')
    also = (
        {"tasks": ["arithmetic", {"task": str(tmp_path / "mine.jsonl"), "grader": "exact"}]} if tasks == "two" else {}
    )
    hot = {"name": "hot", "recipe": {"lambda": 0.0}, "sampler": {"temperature": 0.9}}
    summary = sweep.run(config([hot], lambdas="0:0.5:0.1", engine_options={"script": SCRIPT}, **also), tmp_path / "run")
    assert summary.num_generated == 7 * (3 if tasks == "two" else 2)
    assert [engine.num_loads for engine in Progress.load(tmp_path / "run").engines] == [6]
    assert {s.point for s in samples.read(tmp_path / "run")} >= {"hot", "λ=0", "λ=0.5"}


def test_a_thought_closed_by_force_is_told_from_one_that_closed_itself(config, tmp_path):
    run = tmp_path / "run"
    sweep.run(config(POINTS), run)
    shown = CliRunner().invoke(app, ["samples", str(run), "--point", "λ=1, budget 5", "-n", "1"]).stdout
    assert "closed (thought closed by force), 7 tokens" in " ".join(shown.split())
    assert "force" not in CliRunner().invoke(app, ["samples", str(run), "--point", "λ=0.4, budget 5"]).stdout
    assert {m.point: m.num_forced for m in measure(samples.read(run))} == {
        "λ=1, budget 5": 2, "λ=1, “Be brief.”": 0, "λ=0.4, budget 5": 0,
    }  # fmt: skip
    (found,) = compare(samples.read(run), ["λ=0.4, budget 5", "λ=1, budget 5"])
    assert "of 2 responses at λ=1, budget 5, 2 count as thinking by force" in found.verdict
    assert "forced" in CliRunner().invoke(app, ["score", str(run)]).stdout
    write_report(run, tmp_path / "report.html")
    assert ">of it forced</th>" in (tmp_path / "report.html").read_text()


def test_answers_and_logs_from_before_force_was_noted_are_read_as_not_forced(tmp_path):
    journal = tmp_path / "sample-1.answers.jsonl"
    forced = Generation("a", 1, "stop", budget_forced=True)

    async def answer(*_):
        return forced

    asyncio.run(Journal(journal, answer, lambda *_: None).answer("Q", Sampler(), 0))
    key, *fields = json.loads(journal.read_text())
    assert fields == ["a", 1, "stop", True, None]
    journal.write_text(json.dumps([key, *fields[:3]]) + "\n")
    known = asyncio.run(Journal(journal, None, lambda *_: None).answer("Q", Sampler(), 0))
    assert known == Generation("a", 1, "stop", budget_forced=False)
    synthetic.write_run(tmp_path / "run", synthetic.samples(num_questions=2, lams=(0.0,)))  # its logs do not say
    assert not any(s.budget_forced for s in samples.read(tmp_path / "run"))


def test_a_budget_over_a_live_model_is_two_requests_by_hand(tmp_path):
    from interpole.engines.open import open_engine
    from interpole.formats import seed_of

    instruct, thinking = live.pair(tmp_path)
    config = SweepConfig.of(
        {
            "sources": {"instruct": str(instruct), "thinking": str(thinking)}, "tasks": "arithmetic", "samples": 1,
            "limit": 3, "prefix": "<think>\n", "sampler": {"max_tokens": 12}, "points": [{"lambda": 0.3, "budget_tokens": 5}],
            "engine_options": {"dtype": "float32", "max_rows": 1},
        }
    )  # fmt: skip
    sweep.run(config, tmp_path / "run")
    planned = Plan(config)
    engine = open_engine("transformers", planned.base_recipe, dtype="float32", max_rows=1)
    found = {s.problem_id: s for s in samples.read(tmp_path / "run")}
    cuts = 0
    with engine.at(0.3):
        for problem in planned.benchmarks["arithmetic"].problems:
            seed, settings = seed_of(0, problem.id, 1), planned.benchmarks["arithmetic"].sampler
            prompt = planned.render([{"role": "user", "content": problem.question}])
            (first,) = engine.generate([prompt], Sampler(**{**_plain(settings), "max_tokens": 5}), [seed])
            text, num_tokens, finish = first.text, first.num_tokens, first.finish
            if finish == "length":
                cuts += 1
                text = text.rstrip("\ufffd").rstrip() + ("" if "</think>" in text else CUT)
                rest = Sampler(**{**_plain(settings), "max_tokens": 7})
                (second,) = engine.generate([prompt + text], rest, [seed_of(seed, "go on")])
                text, num_tokens, finish = text + second.text, num_tokens + second.num_tokens, second.finish
            assert (found[problem.id].response, found[problem.id].num_tokens) == (text, num_tokens)
    assert cuts


def _plain(sampler):
    return {name: getattr(sampler, name) for name in Sampler.__slots__}


def test_baselines_are_points_by_the_name_of_their_preset(config):
    from interpole.checkpoints.open import open_source
    from interpole.merging.merged import merge
    from interpole.merging.presets import preset

    made = config(
        [{"preset": "ta"}, {"preset": "mix-0.6"}, {"preset": "skip-ffn", "lambda": 0.5, "budget_tokens": 9}],
        lambdas="0.4",
    )
    plan = Plan(made)
    assert [(point.name, point.lam) for point in plan.points] == [
        ("λ=0.4", 0.4), ("ta", None), ("mix-0.6", None), ("λ=0.5, skip-ffn, budget 9", None),
    ]  # fmt: skip
    folders = {name: source.model for name, source in made.sources.items()}
    names = ["mi-0.4", "ta", "mix-0.6", "skip-ffn-0.5"]
    for point, name in zip(plan.points, names, strict=True):
        recipe = preset(name, **folders)
        expected = merge(recipe, {key: open_source(source.model) for key, source in recipe.sources.items()})
        assert {n: expected.read(n).tobytes() for n in expected.specs} == {
            n: point.weights.read(n).tobytes() for n in point.weights.specs
        }, name
    assert len({point.fingerprint for point in plan.points}) == 4


def test_what_makes_no_sense_is_refused_by_name(config):
    for point, message in {
        '{"close": "stop"}': "name",
        '{"name": "x", "close": "stop"}': "give budget_tokens too",
        '{"name": "x", "budget_tokens": 0}': "budget_tokens",
    }.items():
        with pytest.raises(RunError, match=message):
            config([json.loads(point)])
    with pytest.raises(InterpoleError, match="unknown preset 'tax'"):
        Plan(config([{"preset": "tax"}]))
    served = {"base_url": "http://localhost/v1", "model": "m", "budget_tokens": 9}
    with pytest.raises(RunError, match="cannot go on with a thought"):
        config([served | {"name": "s"}], engine="openai", engine_options={})
    no_base = config([{"preset": "ties"}])
    two = {name: no_base.sources[name].model for name in ("instruct", "thinking")}
    with pytest.raises(InterpoleError, match="needs the base"):
        Plan(config([{"preset": "ties"}], sources=two))


# ── compared in pairs ────────────────────────────────────────────────────────────────────────────────────────────


def test_compare_says_what_differs_and_what_it_would_take(tmp_path):
    made = synthetic.samples()
    synthetic.write_run(tmp_path / "run", made)
    found = json.loads(call("compare", tmp_path / "run", "1", "0.5", "λ=0.9", "--json"))
    assert [(one["a"], one["b"]) for one in found] == [("λ=1", "λ=0.5"), ("λ=1", "λ=0.9")]
    at = {lam: [s for s in made if s.lam == lam] for lam in (1.0, 0.5)}
    expected = difference(at[1.0], at[0.5])
    assert found[0]["accuracy"]["value"]["value"] == pytest.approx(expected.value.value)
    assert found[0]["accuracy"]["detectable"] == pytest.approx(expected.detectable)
    words = CliRunner().invoke(app, ["compare", str(tmp_path / "run"), "1", "0.5"]).stdout
    flat = " ".join(words.split())
    assert "λ=0.5 is worse than λ=1" in flat
    assert "24 questions show a difference of" in flat
    assert "which would take about" in flat


def test_compare_refuses_points_that_are_not_there(tmp_path):
    synthetic.write_run(tmp_path / "run", synthetic.samples(lams=(0.0, 1.0)))
    with pytest.raises(InterpoleError, match="no point"):
        CliRunner().invoke(app, ["compare", str(tmp_path / "run"), "0.3", "1"], catch_exceptions=False)
