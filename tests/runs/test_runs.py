"""Run folders: combined, moved, listed, looked into, estimated; never generating anything."""

import errno
import json
import re
import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest

from bench import Bench, call
from interpole.errors import OutputError, RunError
from interpole.records import Outcome
from interpole.runs import samples
from interpole.runs.combine import combine
from interpole.runs.runfile import RunFile, exclusive
from interpole.sweep import run as sweep
from interpole.sweep.config import SweepConfig
from interpole.sweep.estimate import estimate, kv_bytes_per_token


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    """Five runs of one pair, made once: two halves of the dial, more samples, another seed, other settings."""
    bench = Bench(tmp_path_factory.mktemp("runs"))

    def make(name, **changes):
        bench.out = bench.folder / name
        bench.sweep(**changes)

    own = bench.folder / "own.jsonl"
    own.write_text('{"id": "sum", "question": "3+4", "answer": "7"}\n{"id": "two", "question": "1+1", "answer": "2"}\n')
    task = [{"task": str(own), "grader": "exact"}]
    make("low", lambdas="0,0.5", tasks=task)
    make("high", lambdas="0.5,1", tasks=task, samples=3)
    make("more", lambdas="0.5", tasks=task, samples=2)
    make("more", lambdas="0.5", tasks=task, samples=5)
    make("seed", lambdas="0.5", tasks=task, seed=1)
    make("hot", lambdas="0.5", tasks=task, sampler={"temperature": 0.9})
    make("other", lambdas="0.5", limit=2)
    return bench


def keys(run):
    return {(one.task, one.point, one.problem_id, one.number) for one in samples.read(run)}


def test_runs_combine_into_one_with_every_response_once(bench, tmp_path):
    before = bench.num_generated
    runs = [bench.folder / name for name in ("low", "high", "other")]
    told = call("runs", "merge", *runs, "--out", tmp_path / "all")
    assert "20 responses; 4 were there more than once" in told
    num_samples = {"λ=0": 2, "λ=0.5": 3, "λ=1": 3}
    expected = {
        ("own", point, name, epoch)
        for point, num in num_samples.items()
        for name in ("sum", "two")
        for epoch in range(1, num + 1)
    }
    assert keys(tmp_path / "all") == expected | keys(bench.folder / "other")
    originals = {one for run in runs for one in map(repr, samples.read(run))}
    assert {repr(one) for one in samples.read(tmp_path / "all")} <= originals
    file = RunFile.load(tmp_path / "all")
    assert {name: info.samples for name, info in file.tasks.items()} == {"own": 3, "arithmetic": 2}
    assert len({entry.settings for entry in file.current}) == 1
    bench.out = tmp_path / "all"
    task = [{"task": str(bench.folder / "own.jsonl"), "grader": "exact"}]
    assert bench.sweep(lambdas="0,0.5,1", tasks=task, samples=3) == 2  # what λ = 0 lacks, and nothing else
    assert bench.num_generated == before + 2


def test_another_seed_adds_samples_and_the_same_one_never_twice(bench, tmp_path):
    low, more, seed = (bench.folder / name for name in ("low", "more", "seed"))
    made = combine([low, more, seed], tmp_path / "a")
    half = {(one.problem_id, one.number) for one in samples.read(tmp_path / "a") if one.lam == 0.5}
    assert half == {(name, epoch) for name in ("sum", "two") for epoch in range(1, 8)}
    assert (made.num_samples, made.num_duplicates) == (4 + 14, 4)
    again = combine([tmp_path / "a", seed, more], tmp_path / "b")  # what is in it already is known by its log
    assert (again.num_samples, again.num_duplicates) == (18, 4 + 10)
    assert {repr(one) for one in samples.read(tmp_path / "b")} == {repr(one) for one in samples.read(tmp_path / "a")}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prefix": "<think>"}, "the runs differ in prefix:  and <think>"),
        ({"template": "?"}, "the runs differ in chat template"),
        ({"engine": {"engine": "vllm"}}, "the runs differ in engine: {'engine': 'scripted'} and {'engine': 'vllm'}"),
        ({"sources.thinking.fingerprint": "f"}, "the weights of sources differ in thinking"),
        ({"tasks.own.problems_hash": "p"}, "the problems of tasks differ in own"),
        ({"entries.0.fingerprint": "f"}, "own at λ=0.5 differ in weights"),
        ({"entries.0.sampler.top_k": 3}, "own at λ=0.5 differ in sampler"),
        ({"entries.0.asking.instruction": "Be brief."}, "own at λ=0.5 differ in instruction or budget"),
    ],
)
def test_runs_that_cannot_stand_in_one_table_are_refused_with_the_reason(bench, tmp_path, change, message):
    other = shutil.copytree(bench.folder / "more", tmp_path / "other")
    content = json.loads((other / "run.json").read_text())
    for path, value in change.items():
        *parts, last = [int(part) if part.isdigit() else part for part in path.split(".")]
        where = content
        for part in parts:
            where = where[part]
        where[last] = value
    (other / "run.json").write_text(json.dumps(content))
    with pytest.raises(RunError, match=re.escape(message)):
        combine([bench.folder / "low", other], tmp_path / "all")
    assert not (tmp_path / "all").exists()


def test_real_differences_are_refused_too_and_nothing_is_overwritten(bench, tmp_path):
    low, hot = bench.folder / "low", bench.folder / "hot"
    with pytest.raises(RunError, match=r"own at λ=0\.5 differ in sampler"):
        combine([low, hot], tmp_path / "all")
    with pytest.raises(OutputError, match="exists already"):
        combine([low, bench.folder / "more"], hot)
    with pytest.raises(RunError, match="not a run folder"):
        combine([low, tmp_path], tmp_path / "all")


def test_a_merge_that_was_killed_left_nothing_at_its_place_and_goes_on_when_run_again(bench, tmp_path, monkeypatch):
    runs, out = [bench.folder / "low", bench.folder / "high"], tmp_path / "all"
    combine(runs, tmp_path / "expected")
    for moment in ("copy2", "rename"):
        with monkeypatch.context() as patch:
            calls = []

            def kill(*arguments, calls=calls, last=2 if moment == "copy2" else 1):
                calls.append(arguments)
                if len(calls) == last:
                    raise KeyboardInterrupt

            patch.setattr(shutil if moment == "copy2" else Path, moment, kill)
            with pytest.raises(KeyboardInterrupt):
                combine(runs, out)
        assert not out.exists()
        assert len(calls) == (2 if moment == "copy2" else 1)
    made = combine(runs, out)
    assert made.num_samples == 2 * (2 + 3 + 3)
    assert samples.read(out) == samples.read(tmp_path / "expected")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["all", "expected"]


def test_a_merge_for_which_the_disk_is_too_full_says_so_and_leaves_nothing(bench, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shutil, "copy2", full)
    with pytest.raises(OutputError, match="disk full: No space left on device") as caught:
        combine([bench.folder / "low", bench.folder / "high"], tmp_path / "all")
    assert (caught.value.where, list(tmp_path.iterdir())) == (str(tmp_path / "all"), [])


def test_unfinished_parts_are_left_out_and_named(bench, tmp_path):
    other = shutil.copytree(bench.folder / "more", tmp_path / "other")
    text = (other / "run.json").read_text()
    (other / "run.json").write_text(text.replace('"done"', '"planned"', 1))
    told = call("runs", "merge", bench.folder / "low", other, "--out", tmp_path / "all", code=1, errors=True)
    assert f"left out, as it is not finished: own at λ=0.5 in {other}, samples 1 to 2" in told
    assert {one.number for one in samples.read(tmp_path / "all") if one.lam == 0.5} == {1, 2, 3, 4, 5}


@pytest.mark.parametrize("name", ["config.json", "model-00001-of-00002.safetensors"])
def test_a_models_folder_is_no_place_for_a_run(bench, tmp_path, name):
    (tmp_path / name).write_text("{}")
    with pytest.raises(OutputError, match=f"the folder holds a model .{name}. and no run"), exclusive(tmp_path):
        pass
    assert [path.name for path in tmp_path.iterdir()] == [name]
    shutil.copy(bench.folder / "low" / "run.json", tmp_path)  # it was one before there was a model
    with exclusive(tmp_path):
        assert (tmp_path / ".lock").exists()


def test_a_combined_run_and_its_new_grades_move_with_the_folder(bench, tmp_path):
    run = tmp_path / "low"
    shutil.copytree(bench.folder / "low", run)
    log = next(run.rglob("*lam-0-*/*.eval"))
    one = json.dumps([["sum", 1, {"grades": {"exact": 0.5}}]])
    log.with_suffix(".regraded.json").write_text(one)
    combine([run, bench.folder / "high"], tmp_path / "all")
    moved = (tmp_path / "all").rename(tmp_path / "moved")
    shutil.rmtree(run)
    assert [s.score for s in samples.read(moved, texts=False)].count(0.5) == 1
    text = (moved / "run.json").read_text()
    assert str(tmp_path) not in re.sub(r'"(script|journal)": "[^"]*"|"(model|label|task)": "[^"]*"', "", text)
    told = call("score", moved)
    assert "Mean@" in told
    assert "moved" in call("runs", "list", tmp_path)


# ── looking into a run ───────────────────────────────────────────────────────────────────────────────────────────


def test_responses_are_shown_and_chosen(bench):
    high = bench.folder / "high"
    told = call("samples", high, "--lambda", "1", "--right", "-n", "1")
    assert "own · λ=1 · sum · sample" in told
    assert "<think>" in told
    assert "→ 7 (should be 7); closed, 5 tokens, exact 1" in told
    assert told.count("should be") == 1
    assert call("samples", high, "-n", "99").count("should be") == 12
    chosen = json.loads(call("samples", high, "--wrong", "--lambda", "0.5,1", "--id", "two", "-n", "99", "--json"))
    assert {(one["problem_id"], one["grades"]["exact"]) for one in chosen} == {("two", 0.0)}
    assert len(chosen) == 6
    with pytest.raises(Exception, match=r"no response is like that[\s\S]*points: λ=0.5, λ=1"):
        call("samples", high, "--task", "aime25")


def test_run_folders_are_listed_and_what_is_none_is_an_error(bench, tmp_path):
    told = call("runs", "list", bench.folder)
    assert all(f"{name} " in told for name in ("low", "high", "more"))
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad/run.json").write_text("[")
    shutil.copytree(bench.folder / "low", tmp_path / "good")
    told = call("runs", "list", tmp_path, errors=True)
    assert "bad is left out: not valid JSON" in told
    assert "good" in told
    assert "no run folders in" in call("runs", "list", tmp_path / "good", errors=True)
    for wrong in (tmp_path / "nosuch", tmp_path / "bad/run.json", tmp_path / ("x" * 300)):
        with pytest.raises(RunError, match="cannot be listed"):
            call("runs", "list", wrong)


def test_a_response_cannot_play_with_the_terminal_or_its_markup(tmp_path):
    bench = Bench(tmp_path)
    long = "x" * 5000
    bench.write([{"responses": ["<think>[bold]no[/bold]\x1b[2J[/closed]</think>[red]7[/red] " + long]}])
    bench.sweep(lambdas="0.5", limit=1, samples=1)
    told = call("samples", bench.out)
    assert "[bold]no[/bold]\\x1b[2J[/closed]" in told
    assert "\x1b" not in told
    assert "[red]7[/red]" in told
    assert re.search(r"\[… \d,\d{3} characters …\]", told)
    assert call("samples", bench.out, "--full").count("x") >= 5000


# ── what it will cost ────────────────────────────────────────────────────────────────────────────────────────────


def test_cost_is_estimated_from_what_is_there_or_guessed_or_said_to_be_unknown(bench, tmp_path, monkeypatch):
    config = bench.config(samples=10, lambdas="0,0.6,1", limit=4)
    planned = sweep.plan(config, tmp_path / "new")
    found = estimate(config, tmp_path / "new", planned)
    assert (found.num_samples, found.num_tokens, found.hours) == (120, None, None)
    assert found.most_tokens == 120 * 256
    assert (
        estimate(config, tmp_path / "new", planned, guess_tokens=40, tokens_per_second=4).hours == 120 * 40 / 4 / 3600
    )
    assert estimate(config, tmp_path / "new", planned, guess_tokens=999).num_tokens == 120 * 256  # the cap holds
    bench.out = tmp_path / "run"
    bench.sweep(lambdas="0,1")  # 2 tokens each at λ = 0, 5 at λ = 1
    planned = sweep.plan(config, bench.out)
    found = estimate(config, bench.out, planned)
    assert found.num_samples == 32 + 40 + 32
    assert found.num_tokens == 32 * 2 + 40 * 5 + 32 * 5
    assert found.bases == {"measured at this point": 64, "measured at the nearest λ": 40}
    for second, seconds in ((1, 3), (5, 4)):  # while the first log was made, and after it
        at = [datetime(2026, 1, 1, 0, 0, n, tzinfo=UTC) for n in (0, 2, second, second + 2)]
        spans = iter([(at[2], at[3]), (at[0], at[1])])
        monkeypatch.setattr("interpole.sweep.estimate._span", lambda _, spans=spans: next(spans))
        assert estimate(config, bench.out, planned).tokens_per_second == (8 * 2 + 8 * 5) / seconds


def test_a_dry_run_says_tokens_hours_and_memory(tmp_path):
    import live

    instruct, thinking = live.pair(tmp_path)
    flags = ["--lambda", "0,1", "-k", "2", "--limit", "4", "--out", tmp_path / "run", "--dry-run", "--no-doctor"]
    told = " ".join(call("sweep", instruct, thinking, *flags).split())
    assert "16 responses to generate" in told
    assert "arithmetic is graded by exact" in told
    assert "at most 4,096 tokens" in told
    assert "run a pilot" in told
    told = call("sweep", instruct, thinking, *flags, "--guess-tokens", "100", "--tokens-per-second", "2")
    assert "about 1,600 tokens, at most 4,096; lengths: your guess (16)" in told
    assert "about 0.22 hours at 2 tokens per second" in told
    assert "128 responses at once" in told
    told = json.loads(
        call("sweep", instruct, thinking, *flags, "--guess-tokens", "100", "--tokens-per-second", "2", "--json")
    )
    assert [(point["lam"], point["num_samples"], point["num_present"]) for point in told["points"]] == [
        (0, 8, 0),
        (1, 8, 0),
    ]
    assert (told["num_tokens"], told["most_tokens"], told["hours"]) == (1600, 4096, 1600 / 2 / 3600)
    assert not (tmp_path / "run").exists()


def test_a_profile_sets_everything_and_flags_go_before_it(tmp_path):
    from interpole.lab import shipped

    own = tmp_path / "aime.jsonl"
    own.write_text('{"question": "Two?", "answer": 5}\n{"question": "Three?", "answer": 6}\n')
    pair = shipped()
    flags = ["--profile", "paper-4b", "--task", "aime25", "--data", own, "--out", tmp_path / "run", "--dry-run"]
    told = " ".join(call("sweep", pair.instruct, pair.thinking, *flags, "--no-doctor").split())
    assert all(
        f"aime25 λ={lam} 128 0 128" in told for lam in ("0", "0.2", "0.4", "0.45", "0.5", "0.55", "0.6", "0.8", "1")
    )
    assert "aime25 Instruct, its own sampler 128 0 128" in told  # 2 problems × 64
    assert f"at most {10 * 128 * 81_920:,} tokens" in told
    less = ["--samples", "2", "--max-tokens", "100", "--lambda", "0.4"]
    told = " ".join(call("sweep", pair.instruct, pair.thinking, *flags, *less, "--no-doctor").split())
    assert "8 responses to generate" in told
    assert "at most 800 tokens" in told


def test_the_cache_of_known_models_is_as_large_as_their_configs_say():
    qwen3_4b = {"num_hidden_layers": 36, "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128}
    assert kv_bytes_per_token(qwen3_4b) == 147_456  # 144 KiB in bfloat16
    assert kv_bytes_per_token({"text_config": qwen3_4b}) == 147_456  # inside a vision model
    gpt2 = {"num_hidden_layers": 12, "num_attention_heads": 12, "hidden_size": 768}
    assert kv_bytes_per_token(gpt2) == 36_864
    assert kv_bytes_per_token({"n_layer": 12}) is None


def test_the_samples_of_a_failed_point_are_no_pilot(tmp_path):
    bench = Bench(tmp_path)
    bench.write([{"contains": "", "responses": [{"fail": "refuse"}]}])
    bench.sweep(lambdas="0.5", limit=1, samples=1)
    assert {one.outcome for one in bench.read()} == {Outcome.FAILED}
    config = bench.config(lambdas="0.5", limit=1, samples=2)
    assert estimate(config, bench.out, sweep.plan(config, bench.out)).num_tokens is None


def test_the_yaml_of_the_docs_is_a_sweep(tmp_path):
    text = (Path(__file__).parents[2] / "docs/sweep.md").read_text()
    blocks = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    assert len(blocks) >= 2
    for block in blocks:
        (tmp_path / "sweep.yml").write_text(block)
        SweepConfig.load(tmp_path / "sweep.yml")
