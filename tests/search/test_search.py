"""Search over λ maps on the shipped tiny pair: resumable, honest about what it saw, and without a checkpoint written."""

import json
import shutil
from dataclasses import replace
from itertools import islice
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.stats import ks_2samp
from typer.testing import CliRunner

from interpole.actors import Actors, Done
from interpole.analysis.intervals import share_interval
from interpole.cli import app
from interpole.cli.choose import show_searched
from interpole.errors import InterpoleError, RunError
from interpole.lab import shipped
from interpole.merging.recipe import Recipe
from interpole.report import write_report
from interpole.runs import samples
from interpole.runs.runfile import RunFile
from interpole.runs.simplex import simplex_of
from interpole.search import optuna_search as search
from interpole.search.allocation import Goal
from interpole.search.finals import split, winner_of
from interpole.search.space import (
    Choices,
    Range,
    Space,
    SpaceFile,
    begin_with,
    layer_groups,
    leading,
    point_of,
    uniform,
)
from interpole.search.study import CONFIRMED, HELD_OUT, STUDY, batch_size, confirm_share, open_study, role_of
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
    from interpole.formats import seed_of

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


def test_the_questions_to_choose_on_and_to_confirm_on_were_seen_by_no_trial_and_are_others(found):
    all_ids = {problem.id for problem in Plan(found.file.sweep).benchmarks["arithmetic"].problems}
    choosing, confirming = (samples.read(found.folder / name) for name in (HELD_OUT, CONFIRMED))
    parts = [{s.problem_id for s in part} for part in (choosing, confirming)]
    assert len(found.asked) == 7
    assert all({p.id for p in problems} == all_ids - parts[0] - parts[1] for _, problems in found.asked.values())
    assert [len(all_ids), *map(len, parts)] == [10, 3, 2]
    assert not parts[0] & parts[1]
    shown = json.loads(found.shown.stdout)
    assert shown == json.loads((found.folder / search.RESULT).read_text())
    assert {one["name"] for one in shown["finalists"]} >= {"λ=0", "λ=1"}
    for one in shown["finalists"]:
        mine = [s for s in choosing if s.point == one["name"]]
        assert one["accuracy"] == pytest.approx(np.mean([s.score for s in mine]))
        assert one["tokens"] == pytest.approx(np.mean([s.num_tokens for s in mine]))
    assert (shown["num_trials"], shown["num_failed"]) == (7, 0)
    assert [shown[f"num_{part}_questions"] for part in ("search", "choose", "confirm")] == [5, 3, 2]


def test_the_front_is_of_those_that_none_beats_where_the_winner_is_chosen(found):
    finalists = json.loads(found.shown.stdout)["finalists"]
    shown = [(one["accuracy"], one["tokens"], one["on_front"]) for one in finalists]
    for accuracy, tokens, on_front in shown:
        no_worse = [(a, t) for a, t, _ in shown if a >= accuracy and t <= tokens]
        assert on_front == all(other == (accuracy, tokens) for other in no_worse)
    (winner,) = [one for one in finalists if one["is_winner"]]
    enough = [one for one in finalists if one["accuracy"] >= 0.95 * max(one["accuracy"] for one in finalists)]
    assert winner["tokens"] == min(one["tokens"] for one in enough)  # balanced


def test_the_winner_has_its_numbers_from_the_questions_that_confirm_it(found):
    shown = json.loads(found.shown.stdout)
    (winner,) = [one["name"] for one in shown["finalists"] if one["is_winner"]]
    told, confirming = shown["confirmed"], samples.read(found.folder / CONFIRMED)
    mine = [s for s in confirming if s.point == winner]
    assert (told["winner"], told["num_before"]) == (winner, 0)
    assert told["accuracy"]["value"] == pytest.approx(np.mean([s.score for s in mine]))
    assert told["tokens"]["value"] == pytest.approx(np.mean([s.num_tokens for s in mine]))
    assert told["accuracy"]["low"] < told["accuracy"]["high"]
    assert {s.point for s in confirming} == {winner, told["against"]} - {None}
    assert [(one["a"], one["b"]) for one in told["changes"]] == (
        [] if told["against"] is None else [(told["against"], winner)]
    )


def test_another_goal_takes_up_the_same_trials_and_says_for_whom_the_questions_were_used(found, tmp_path):
    folder = tmp_path / "again"
    shutil.copytree(found.folder, folder, symlinks=True)
    first = json.loads(found.shown.stdout)["confirmed"]["winner"]
    most = max(json.loads(found.shown.stdout)["finalists"], key=lambda one: one["tokens"])
    wanted = f"min-accuracy={max(0.01, most['accuracy'])}" if most["name"] != first else "max-tokens=1"
    result = search.run(found.file.model_copy(update={"goal": wanted}), folder)
    assert result.num_trials == 7
    assert result.num_tokens == 0
    assert result.confirmed.num_before == (result.confirmed.winner != first)
    with pytest.raises(RunError, match=r"the folder keeps 0\.5 of what is held out"):
        search.run(found.file.model_copy(update={"confirm": 0.4}), folder)


def test_a_folder_from_before_questions_were_kept_for_the_winner_is_taken_up_and_says_so(found, tmp_path, capsys):
    (tmp_path / HELD_OUT).mkdir()
    (tmp_path / HELD_OUT / "run.json").write_text("{}")
    with open_study(tmp_path, "x", "random", 0, 9, print) as study:
        for _ in range(2):
            assert confirm_share(study, tmp_path, 0.5) == 0
    benches = Plan(found.file.sweep).benchmarks.values()
    old, new = (split(benches, 0.5, share, found.file.sweep.seed) for share in (0.0, 0.5))
    assert (old.sizes, new.sizes) == ((5, 5, 0), (5, 3, 2))
    assert old.seen == new.seen
    assert set(old.choose["arithmetic"]) == {*new.choose["arithmetic"], *new.confirm["arithmetic"]}
    result = search.run(found.file, found.folder)
    show_searched(replace(result, confirmed=None, num_confirm_questions=0), tmp_path)
    assert "Not confirmed: this folder is of a search in two parts" in capsys.readouterr().out
    assert "no questions were kept to confirm it on" in role_of(tmp_path / HELD_OUT)


def test_what_was_confirmed_is_told_apart_from_what_was_chosen_by(found, capsys):
    result = search.run(found.file, found.folder)
    show_searched(replace(result, confirmed=replace(result.confirmed, num_before=2)), found.folder)
    told = " ".join(capsys.readouterr().out.split())
    assert "Chosen on 3 questions, after a search on 5 others: the winner was chosen by these numbers" in told
    value = result.confirmed.accuracy
    shown = f"{100 * value.value:.1f} % [{100 * value.low:.1f}, {100 * value.high:.1f}]"
    assert f"on 2 questions that were used for nothing else: {result.confirmed.winner}: {shown}" in told
    assert "They have confirmed 2 other winners before" in told


def test_a_report_of_its_runs_says_what_they_are_in_the_search(found, tmp_path):
    page = write_report(found.folder / HELD_OUT, tmp_path / "report.html").read_text()
    assert "chosen on these questions, so what is best here is partly the luckiest" in page
    assert "its own numbers are in the run confirmed beside this one" in page
    assert "on questions that were used for nothing else" in role_of(found.folder / CONFIRMED)
    assert role_of(found.folder) == ""


def test_of_equals_the_winner_is_confirmed_at_what_it_is():
    """And is flattered by the numbers that it was chosen by."""
    rng, chosen_at, confirmed_at, covered = np.random.default_rng(4), [], [], []
    for _ in range(300):
        each = rng.binomial(4, rng.beta(1.5, 1.0, (50, 1)), (50, 12)) / 4  # of twelve equal points
        best = winner_of(each[:25].mean(axis=0), np.full(12, 9.0), Goal("accuracy"))
        chosen_at.append(each[:25, best].mean())
        confirmed_at.append(each[25:, best].mean())
        covered.append(share_interval(each[25:, best], 4).includes(0.6))
    assert np.mean(chosen_at) > 0.63
    assert np.mean(confirmed_at) == pytest.approx(0.6, abs=0.015)
    assert np.mean(covered) > 0.92


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


def test_a_trial_of_which_a_crash_tore_a_value_is_no_finalist_and_stops_nobody(found, tmp_path):
    shutil.copytree(found.folder, tmp_path / "out", symlinks=True)
    lines = (tmp_path / "out" / STUDY).read_text().splitlines(keepends=True)
    kept = [line for line in lines if '"param_name": "λ"' not in line and '"param_name":"\\u03bb"' not in line]
    assert len(lines) - len(kept) == 7  # one of every trial
    (tmp_path / "out" / STUDY).write_text("".join(kept))
    result = search.run(found.file, tmp_path / "out")
    assert not [one.name for one in result.finalists if one.name.startswith("trial")]


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


class Backwards(Actors):
    """A cluster whose engines end in the reverse order, each third one only after it was lost."""

    def do(self, orders, most_failures, **_):
        assert most_failures > 1
        for number, order in reversed([*enumerate(orders)]):
            if number % 3 == 0:
                yield Done(order, 0, "node 1", None, "it is gone", gone=True, again=True)
            yield Done(order, 0, "node 2", value_at(order.args[1]))


def value_at(point, *_):
    """What a trial of a λ comes to."""
    lam = point.recipe["lambda"]
    return search._Values(1 - (lam - 0.6) ** 2, 100 * lam, 7)


@pytest.fixture
def tried(found, tmp_path, monkeypatch):
    """Tries 23 λ in batches of 4, in sessions that end after so many trials (None: all): every trial as the study has it."""
    monkeypatch.setattr(search, "_try_point", lambda _, __, point, *___: value_at(point))
    planned = SimpleNamespace(config=found.file.sweep)

    def tries(name, engines, ends=(None,), **changes):
        space = Space.model_validate({"lambda": (0.0, 1.0)})
        file = found.file.model_copy(update={"space": space, "trials": 23, "algorithm": "tpe"} | changes)
        for end in ends:
            with open_study(tmp_path / name, "x", file.algorithm, 0, 23, print) as study:
                batch = batch_size(study, tmp_path / name, file.batch, 4)
                trials = search._Trials(file, tmp_path / name, planned, [], {}, batch)
                told = [*islice(trials.try_all(study, engines), end)]
        assert {number for number, _ in told} <= set(range(23))
        return [(trial.number, trial.state.name, trial.params, trial.values) for trial in study.trials]

    return tries


def test_a_batch_comes_to_the_same_on_a_cluster_whatever_ends_first_and_after_stops(tried, tmp_path):
    here = tried("here", None)
    assert [state for _, state, *_ in here] == ["COMPLETE"] * 23
    there = Backwards(None, (), tmp_path)
    assert tried("there", there) == here
    assert tried("stopped", there, ends=(3, 6, 2, None)) == here
    drawn = tried("drawn", None, algorithm="random")
    assert drawn[:8] == here[:8]  # TPE draws at random at first,
    assert drawn[16:] != here[16:]  # and goes by what came of it then


def test_a_search_goes_on_in_batches_of_the_size_that_it_began_with(tried, tmp_path):
    tried("one", None, batch=6)
    with open_study(tmp_path / "one", "x", "tpe", 0, 23, print) as study:
        assert batch_size(study, tmp_path / "one", None, 8) == 6
        with pytest.raises(RunError, match="proposes 6 recipes at a time, not 2"):
            batch_size(study, tmp_path / "one", 2, 8)


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
    assert uniform(space, ["head"]) == [{"λ": 0.0, "λ head": 0.0}]
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


def test_parts_that_hardly_bring_thinking_are_not_varied_and_the_others_lead_in_order(tmp_path):
    (tmp_path / "space.yml").write_text(TEXT.replace("groups: 2", "groups: 6") + "prune: 0.1\n")
    file = SpaceFile.load(tmp_path / "space.yml")
    planned, parts = Plan(file.sweep), file.space.rules(6)
    seen = split(planned.benchmarks.values(), 0.5, 0.5, 0).seen
    with search.pool_of(planned) as pool:
        ranked = search._ranked(0.1, planned, pool, seen, parts)
    assert ranked[0] == "layers 5-5"
    assert {*ranked} == {"layers 5-5", "ends", "layers 0-0"}  # 41, 20 and 18 % of it: docs/predict.md
    lowest = {"λ": 0.3, "λ ends": 0.5, "λ layers 0-0": 0.3, "λ layers 5-5": 0.3}
    assert leading(file.space, ["layers 5-5", "ends", "layers 0-0"])[:2] == [
        lowest | {"λ layers 5-5": 1.0},
        lowest | {"λ layers 5-5": 1.0, "λ ends": 1.0},
    ]
    served = SimpleNamespace(config=file.sweep.model_copy(update={"engine": "openai"}), form=planned.form)
    with pytest.raises(RunError, match="`prune` needs an engine"):
        search._ranked(0.1, served, None, seen, parts)


# ── more than two models ─────────────────────────────────────────────────────────────────────────────────────────


CORNERS = ("base", "instruct", "thinking", "other")


def drawn_by(rng):
    return lambda _, vary: float(rng.uniform(vary.low, vary.high)) if isinstance(vary, Range) else vary


def test_numbers_drawn_evenly_make_all_points_of_a_simplex_alike():
    rng = np.random.default_rng(0)
    space = Space(simplex=CORNERS)
    found = [point_of("x", space, {}, drawn_by(rng)).weights for _ in range(4000)]
    weights = np.array([[one.get(corner, 0.0) for corner in CORNERS] for one in found])
    np.testing.assert_allclose(weights.sum(axis=1), 1, atol=1e-12)
    assert weights.min() >= 0
    even = rng.dirichlet(np.ones(4), 4000)  # numpy's own
    for i in range(4):
        assert ks_2samp(weights[:, i], even[:, i]).pvalue > 1e-3
    np.testing.assert_allclose(np.cov(weights.T), np.cov(even.T), atol=0.004)


def test_it_begins_with_the_corners_and_the_centre():
    space = Space(simplex=CORNERS)
    begun = [point_of("x", space, {}, lambda name, _, v=values: v[name]).weights for values in begin_with(space, [])]
    assert begun[:4] == [{corner: 1.0} for corner in CORNERS]
    assert begun[4] == dict.fromkeys(CORNERS, 0.25)


SIMPLEX = f"""
sources: {{base: {PAIR.base}, instruct: {PAIR.instruct}, thinking: {PAIR.thinking}, other: {PAIR.base}}}
tasks: arithmetic
samples: 1
limit: 6
sampler: {{max_tokens: 40}}
engine_options: {{dtype: float32}}
space: {{simplex: [base, instruct, thinking, other]}}
trials: 6
finalists: 1
"""


def test_a_simplex_of_four_models_is_searched_and_its_winner_stands_beside_the_corners(tmp_path):
    (tmp_path / "space.yml").write_text(SIMPLEX)
    file = SpaceFile.load(tmp_path / "space.yml")
    result = search.run(file, tmp_path / "out")
    assert {one.name for one in result.finalists if one.recipe is None} == {*CORNERS}
    (best,) = (one for one in result.finalists if one.recipe)
    recipe = Recipe.load(tmp_path / "out" / best.recipe)
    assert sum(recipe.weights.values()) == pytest.approx(1)
    assert {*recipe.weights} <= {*CORNERS}
    assert result.confirmed.winner in {one.name for one in result.finalists}
    assert search.run(file, tmp_path / "out").num_tokens == 0
    assert simplex_of(RunFile.load(tmp_path / "out" / HELD_OUT)).corners == ("base", "other", "instruct", "thinking")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"space: {simplex: [base, instruct, thinking, other]}": "space: {simplex: [base, thinking]}"},
            "three sources",
        ),
        ({"thinking, other]}": "thinking, terse]}"}, "no source 'terse'"),
        ({"other]}": "other], groups: 2}"}, "leave out lambda, groups"),
        ({"trials: 6": "prune: 0.1"}, "a simplex has none"),
        ({"trials: 6": "points: [{weights: {base: 0.5, other: 0.5}}]"}, "finds its own points"),
    ],
)
def test_a_simplex_that_makes_no_sense_is_refused(tmp_path, change, message):
    text = SIMPLEX
    for old, new in change.items():
        assert old in text
        text = text.replace(old, new)
    (tmp_path / "space.yml").write_text(text)
    with pytest.raises(RunError, match=message):
        SpaceFile.load(tmp_path / "space.yml")


def test_searches_from_before_there_was_a_simplex_go_on(tmp_path):
    (tmp_path / "space.yml").write_text(TEXT)
    file = SpaceFile.load(tmp_path / "space.yml")
    plan = Plan(file.sweep)
    hashed = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search, "content_hash", hashed.append)
        search._about(file, plan)
    ((space, _),) = hashed
    assert "simplex" not in space["space"]
    assert "simplex" not in space["sweep"]
