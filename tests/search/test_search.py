"""Search over λ maps on the shipped tiny pair: resumable, honest about what it saw, and without a checkpoint written."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from typer.testing import CliRunner

from interpole.cli import app
from interpole.errors import InterpoleError, RunError
from interpole.lab import shipped
from interpole.merging.recipe import Recipe
from interpole.runs import samples
from interpole.search import optuna_search as search
from interpole.search.space import Choices, Range, Space, SpaceFile, layer_groups, point_of, uniform
from interpole.search.study import STUDY, open_study
from interpole.sweep.plan import Plan

PAIR = shipped()
TEXT = f"""
sources: {{instruct: {PAIR.instruct}, thinking: {PAIR.thinking}, base: {PAIR.base}}}
tasks: arithmetic
samples: 1
limit: 10
lambdas: [0, 1]
sampler: {{max_tokens: 100}}
engine_options: {{dtype: float32}}
space:
  lambda: [0.3, 1]
  groups: 2
  parts: {{ends: {{layers: none, lambda: [0.5, 1]}}}}
  methods: {{linear: {{}}, ties: {{density: [0.3, 1.0]}}}}
  sampler: {{temperature: [0.4, 0.8]}}
trials: 7
finalists: 2
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """A search that was stopped after its third trial's answers came, and run again to its end."""
    folder = tmp_path_factory.mktemp("search")
    (folder / "space.yml").write_text(TEXT)
    file, told, asked = SpaceFile.load(folder / "space.yml"), [], {}
    ask = search.ask
    command = ["search", str(folder / "space.yml"), "--out", str(folder / "out"), "--json"]
    with pytest.MonkeyPatch.context() as patch:

        def watched(planned, engine, point, bench, journal):
            first = point.name not in asked
            asked[point.name] = (point, bench.problems)
            answers = ask(planned, engine, point, bench, journal)
            return answers if point.name != "trial 3" or not first else 1 / 0

        patch.setattr(search, "ask", watched)
        with pytest.raises(ZeroDivisionError):
            search.run(file, folder / "out", on_progress=lambda progress: told.append(progress.message))
        waiting = (folder / "out/answers/2.jsonl").read_text()
        (folder / "out" / f"{STUDY}.lock").symlink_to("x")  # as a search that is killed leaves it
        with (folder / "out" / STUDY).open("a") as journal:
            journal.write('{"op_code":5,"wor')
        shown = CliRunner().invoke(app, command, catch_exceptions=False)
    return SimpleNamespace(folder=folder / "out", file=file, told=told, waiting=waiting, shown=shown, asked=asked)


def study(found):
    import optuna

    backend = optuna.storages.journal.JournalFileBackend(str(found.folder / STUDY))
    return optuna.load_study(study_name="interpole", storage=optuna.storages.JournalStorage(backend))


def test_a_stopped_search_goes_on_within_its_trial(found):
    assert [line[:12] for line in found.told] == ["trial 1 of 7", "trial 2 of 7"]
    assert "1 lines were torn and are left out" in found.shown.stderr
    assert len(found.waiting.splitlines()) == 5
    trials = study(found).trials
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * 7
    tokens = np.mean([json.loads(line)[2] for line in found.waiting.splitlines()])
    assert trials[2].values[1] == tokens  # the answers that were there
    assert not list((found.folder / "answers").iterdir())


def test_it_begins_with_the_dial_itself(found):
    first = [trial.params for trial in study(found).trials[:3]]
    for lam, params in zip((0.65, 0.825, 1.0), first, strict=True):  # the ends' own range leaves out 0.3 and 0.475
        assert all(value == pytest.approx(lam) for name, value in params.items() if name.startswith("λ"))
        assert {name for name in params if name.startswith("λ")} == {"λ", "λ ends", "λ layers 0-2", "λ layers 3-5"}


def test_a_trial_is_what_an_engine_by_hand_gives(found):
    from interpole.chat import parse_response
    from interpole.engines.open import open_engine
    from interpole.files import seed_of

    trial = study(found).trials[5]
    planned = Plan(found.file.sweep)
    at, problems = found.asked["trial 6"]
    assert [rule["lambda"] for rule in at.where["rules"]] == [
        trial.params[f"λ {part}"] for part in ("ends", "layers 0-2", "layers 3-5")
    ]
    bench = planned.benchmarks["arithmetic"]
    engine = open_engine("transformers", planned.base_recipe, dtype="float32")
    prompts = [planned.render([{"role": "user", "content": problem.question}]) for problem in problems]
    seeds = [seed_of(0, problem.id, 1) for problem in problems]
    with engine.at(at.where):
        answers = engine.generate(prompts, planned.sampler(bench, at), seeds)
    right = [
        parse_response(a.text, a.finish, planned.form.markers).answer.strip() == p.answer
        for a, p in zip(answers, problems, strict=True)
    ]
    assert trial.values == [np.mean(right), np.mean([a.num_tokens for a in answers])]


def test_what_is_reported_was_measured_on_questions_that_no_trial_saw(found):
    all_ids = {problem.id for problem in Plan(found.file.sweep).benchmarks["arithmetic"].problems}
    held = {s.problem_id for s in samples.read(found.folder / search.HELD_OUT)}
    assert len(found.asked) == 7
    assert all({p.id for p in problems} == all_ids - held for _, problems in found.asked.values())
    assert (len(all_ids), len(held)) == (10, 5)
    held = samples.read(found.folder / search.HELD_OUT)
    shown = json.loads(found.shown.stdout)
    assert shown == json.loads((found.folder / search.RESULT).read_text())
    assert {one["name"] for one in shown["finalists"]} >= {"λ=0", "λ=1"}
    for one in shown["finalists"]:
        mine = [s for s in held if s.point == one["name"]]
        assert one["accuracy"] == pytest.approx(np.mean([s.score for s in mine]))
        assert one["tokens"] == pytest.approx(np.mean([s.num_tokens for s in mine]))
    assert (shown["num_trials"], shown["num_failed"], shown["num_held_out_questions"]) == (7, 0, 5)


def test_the_best_are_those_that_none_beats_on_the_questions_held_out(found):
    shown = [(one["accuracy"], one["tokens"], one["is_best"]) for one in json.loads(found.shown.stdout)["finalists"]]
    for accuracy, tokens, is_best in shown:
        no_worse = [(a, t) for a, t, _ in shown if a >= accuracy and t <= tokens]
        assert is_best == all(other == (accuracy, tokens) for other in no_worse)


def test_nothing_is_said_of_what_matters_after_a_few_trials(found):
    assert json.loads(found.shown.stdout)["importance"] == {}


def test_recipes_are_saved_and_no_checkpoint_is(found):
    finalists = [one for one in json.loads(found.shown.stdout)["finalists"] if one["recipe"]]
    assert 0 < len(finalists) <= 2
    trials = {f"trial {trial.number + 1}": trial for trial in study(found).trials}
    for one in finalists:
        recipe = Recipe.load(found.folder / one["recipe"])
        assert recipe.lam == trials[one["name"]].params["λ"]
        assert recipe.method == trials[one["name"]].params["method"]
        assert [one["seen_accuracy"], one["seen_tokens"]] == trials[one["name"]].values
    assert not list(found.folder.rglob("*.safetensors"))


def test_another_space_does_not_go_into_the_folder(found):
    other = found.file.model_copy(update={"held_out": 0.3})
    with pytest.raises(RunError, match="another space"):
        search.run(other, found.folder)


# ── without a model ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("damage", "num_left", "num_told"),
    [
        (lambda lines: lines, 3, 0),
        (lambda lines: [*lines[:-1], lines[-1][:20]], 2, 1),  # cut off at the end
        (lambda lines: [*lines[:-1], lines[-1][:20] + lines[-1]], 3, 1),  # cut off, and gone on behind it
        (lambda lines: [*lines[:-1], b"\0" * 50, lines[-1]], 3, 1),  # a block that never came to the disk
        (lambda lines: [*lines, b"[" * 100_000], 3, 1),
    ],
)
def test_a_torn_line_of_the_study_costs_what_it_said_and_a_lock_left_behind_nothing(
    tmp_path, damage, num_left, num_told
):
    import optuna

    told = []

    def opened(about="x"):
        return open_study(tmp_path, about, "random", 0, 9, told.append)

    with opened() as study:
        for number in range(3):
            study.add_trial(optuna.trial.create_trial(values=[number, 1.0]))
    path = tmp_path / STUDY
    path.write_bytes(b"\n".join(damage(path.read_bytes().splitlines())))
    (tmp_path / f"{STUDY}.lock").symlink_to(path)
    with opened() as study:
        assert [trial.values[0] for trial in study.trials] == list(range(num_left))
        study.add_trial(optuna.trial.create_trial(values=[9.0, 1.0]))
    with opened() as study:
        assert len(study.trials) == num_left + 1
    assert len(told) == num_told
    with pytest.raises(RunError, match="another space"), opened("y"):
        pass
    path.unlink()
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RunError, match="the study is a link"), opened():
        pass
    assert not (tmp_path / "elsewhere").exists()


def test_parts_are_layer_groups_times_module_kinds_after_those_that_are_named():
    space = Space(groups=2, kinds=("attention", "ffn"), parts={"head": {"kind": "lm_head", "lambda": [0, 0.1]}})
    assert layer_groups(36, 3) == ["0-11", "12-23", "24-35"]
    assert layer_groups(7, 2) == ["0-3", "4-6"]
    assert list(space.rules(6).items()) == [
        ("head", {"kind": "lm_head"}),
        ("layers 0-2 attention", {"layers": "0-2", "kind": "attention"}),
        ("layers 0-2 ffn", {"layers": "0-2", "kind": "ffn"}),
        ("layers 3-5 attention", {"layers": "3-5", "kind": "attention"}),
        ("layers 3-5 ffn", {"layers": "3-5", "kind": "ffn"}),
    ]
    assert space.range_of("head") == Range(0, 0.1)
    assert uniform(space, ["head"], 3) == [{"λ": 0.0, "λ head": 0.0}]
    with pytest.raises(RunError, match="3 groups of 2"):
        layer_groups(2, 3)


def test_a_point_is_made_of_what_is_drawn():
    space = Space(
        methods={"ties": {"density": Range(0.2, 1), "scale": 0.5}, "linear": {}},
        sampler={"top_k": Choices(choices=(0, 20))},
    )
    drawn = {"method": "ties", "λ": 0.4, "ties density": 0.7, "top_k": 20}
    point = point_of("x", space, {}, lambda name, vary: drawn[name] if isinstance(vary, Range | Choices) else vary)
    assert point.recipe == {"method": "ties", "lambda": 0.4, "rules": [], "parameters": {"density": 0.7, "scale": 0.5}}
    assert point.sampler == {"top_k": 20}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("trials: 7", "trails: 7"), "trails"),
        (("trials: 7", "trials: 0"), "trials"),
        (("[0.3, 1]", "[1, 0.3]"), "a range goes up"),
        (("finalists: 2", "algorithm: magic"), "no algorithm 'magic'"),
        (("groups: 2", "groups: 9"), "9 groups of 6 layers"),
        (("ties: {density:", "ties: {sparse:"), "no parameter 'sparse'"),
        (("groups: 2", "kinds: [router]"), "matches no tensor"),
        (("limit: 10", "limit: 1"), "1 questions cannot be split"),
    ],
)
def test_what_makes_no_sense_is_said_before_the_first_trial(tmp_path, change, message):
    assert change[0] in TEXT
    (tmp_path / "space.yml").write_text(TEXT.replace(*change))
    with pytest.raises(InterpoleError, match=message):
        search.run(SpaceFile.load(tmp_path / "space.yml"), tmp_path / "out")
    assert not (tmp_path / "out").exists()
