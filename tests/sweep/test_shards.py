"""Shares of a sweep: dealt without a coordinator, made apart, united to what one engine makes, to the byte."""

import json
import random
import shutil
from itertools import pairwise

import pytest

from bench import PROBLEMS, Bench, call, content, script_at
from interpole import tasks
from interpole.cli.watch import Watcher, to_json
from interpole.errors import OutputError, RunError
from interpole.runs import samples
from interpole.runs.combine import combine
from interpole.runs.progress import Progress
from interpole.runs.runfile import Block, Part, RunFile, Shard
from interpole.sweep import run as sweep
from interpole.sweep.plan import Plan
from interpole.sweep.units import blocks, deal, missing_parts, unit_name

TOTAL = 3
LAMBDAS = (0.0, 0.25, 0.5, 1.0)
SCRIPT = script_at(LAMBDAS)


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    """One sweep by one engine in `run`, and the same in three shares in `shard-1` to `shard-3`."""
    bench = Bench(tmp_path_factory.mktemp("shards"))
    bench.write(SCRIPT)
    bench.settings = {"lambdas": list(LAMBDAS), "samples": 3}
    bench.sweep(**bench.settings)
    for number in range(1, TOTAL + 1):
        sweep.run(bench.config(**bench.settings), bench.folder / f"shard-{number}", shard=Shard(number=number, total=3))
    return bench


def test_shards_are_united_to_the_bytes_of_one_engine(bench, tmp_path):
    shards = [bench.folder / f"shard-{number}" for number in (3, 1, 2)]
    made = combine(shards, tmp_path / "all")
    assert (made.num_samples, made.num_duplicates, made.unfinished, made.missing) == (4 * 4 * 3, 0, (), ())
    assert content(tmp_path / "all") == content(bench.out)
    whole, united = RunFile.load(bench.out), RunFile.load(tmp_path / "all")
    assert united.shard is None
    assert [entry.key for entry in united.entries] == [entry.key for entry in whole.entries]
    assert united.model_copy(update={"entries": (), "updated": whole.updated}) == whole.model_copy(
        update={"entries": (), "created": united.created}
    )


def test_two_engines_make_the_bytes_of_one_and_load_each_lambda_once(bench, tmp_path):
    config = bench.config(**bench.settings, engines=2)
    with sweep.pool_of(Plan(config)) as pool:
        summary = sweep.run(config, tmp_path / "two", pool=pool)
        rates = pool.rates()
    assert (summary.num_generated, summary.failed) == (4 * 4 * 3, ())
    assert content(tmp_path / "two") == content(bench.out)
    one, two = RunFile.load(bench.out), RunFile.load(tmp_path / "two")
    assert [entry.key for entry in two.entries] == [entry.key for entry in one.entries]
    assert two.model_copy(update={"entries": one.entries, "created": one.created, "updated": one.updated}) == one
    assert len(LAMBDAS) <= sum(rate.num_loads for rate in rates) <= len(LAMBDAS) + 1
    assert sum(rate.num_answers for rate in rates) == 4 * 4 * 3
    assert all(rate.num_answers for rate in rates)
    assert Progress.load(tmp_path / "two").engines == rates
    assert not (tmp_path / "two" / sweep.UNFINISHED).exists()


def test_every_response_is_made_by_one_shard_and_a_shard_has_few_lambdas(bench):
    made = [samples.read(bench.folder / f"shard-{number}") for number in range(1, TOTAL + 1)]
    keys = [(one.point, one.problem_id, one.number) for shard in made for one in shard]
    assert len(keys) == len(set(keys)) == 4 * 4 * 3
    assert [len({one.lam for one in shard}) for shard in made] == [2, 2, 1]
    assert max(map(len, made)) <= 2 * min(map(len, made))


def test_shards_of_another_number_and_a_whole_run_unite_with_every_response_once(bench, tmp_path):
    halves = [tmp_path / f"half-{number}" for number in (1, 2)]
    for number, out in enumerate(halves, 1):
        sweep.run(bench.config(**bench.settings), out, shard=Shard(number=number, total=2))
    thirds = [bench.folder / f"shard-{number}" for number in (1, 2, 3)]
    made = combine([*thirds, *halves, bench.out], tmp_path / "all")
    assert (made.num_samples, made.num_duplicates, made.missing) == (48, 96, ())
    assert content(tmp_path / "all") == content(bench.out)


def test_shards_are_watched_as_the_run_that_they_will_be(bench, tmp_path):
    shards = [bench.folder / f"shard-{number}" for number in (3, 1, 2)]
    whole, seen = Watcher(bench.out).read(), Watcher(*shards).read()
    assert [(one.point, one.status) for one in seen.entries] == [(one.point, one.status) for one in whole.entries]
    assert (seen.done, seen.total) == (whole.done, whole.total) == ((12,) * 4, (12,) * 4)
    assert [one.mean.value for one in seen.metrics] == [one.mean.value for one in whole.metrics]
    assert [one.tokens.value for one in seen.metrics] == [one.tokens.value for one in whole.metrics]
    assert {rate.name for rate in seen.engines} == {f"shard-{number}, engine 1" for number in (1, 2, 3)}
    assert not seen.unfinished
    assert seen.missing_shards == ()
    fewer = Watcher(*shards[:2]).read()
    assert (fewer.missing_shards, to_json(fewer)["missing_shards"]) == (("2/3",), ["2/3"])
    half = shutil.copytree(shards[0], tmp_path / "half")
    (half / "run.json").write_text((half / "run.json").read_text().replace('"done"', '"planned"', 1))
    part = next(part for entry in RunFile.load(half).entries for part in entry.parts if part.status == "planned")
    seen = Watcher(half, *shards[1:]).read()
    assert seen.unfinished
    assert sum(seen.done) == sum(seen.total) - part.num_responses(4)
    (other,) = shares(bench, tmp_path, [2], TOTAL, samples=2)
    with pytest.raises(RunError, match="these are not shards of one sweep"):
        Watcher(shards[0], other).read()
    with pytest.raises(RunError, match="these are not shards of one sweep"):
        Watcher(shards[0], bench.out).read()


def shares(bench, folder, numbers, total, **changes):
    """Run folders of some shards of the sweep, with settings changed; no engine runs, for only run files matter."""
    for number in numbers:
        out = folder / f"{'-'.join(changes) or 'as is'} {number} of {total}"
        sweep.run(bench.config(**bench.settings | changes), out, shard=Shard(number=number, total=total))
        yield out


def test_shards_of_another_sweep_do_not_stand_for_those_that_are_missing(bench, tmp_path):
    mine = [bench.folder / "shard-1", bench.folder / "shard-3"]
    (other,) = shares(bench, tmp_path, [2], TOTAL, samples=2)
    made = combine([*mine, other], tmp_path / "all")
    assert made.missing == (
        f"shard 2 of 3 of the sweep of {mine[0]}",
        f"shard 1 of 3 of the sweep of {other}",
        f"shard 3 of 3 of the sweep of {other}",
    )


def test_nothing_is_missing_where_the_whole_sweep_is_there_otherwise(bench, tmp_path):
    assert combine([bench.folder / "shard-1", bench.out], tmp_path / "all").missing == ()
    (far,) = shares(bench, tmp_path, [99], 100)
    assert RunFile.load(far).entries == ()
    thirds = [bench.folder / f"shard-{number}" for number in (1, 2, 3)]
    assert combine([far, *thirds], tmp_path / "thirds").missing == ()
    assert combine([far, *thirds[:2]], tmp_path / "few").missing == (
        "shards 1 to 98 of 100",
        "shard 100 of 100",
        "shard 3 of 3",
    )


def test_a_run_that_is_united_is_not_written_into(bench):
    shard = bench.folder / "shard-1"
    with pytest.raises(OutputError, match="lies in a run"):
        combine([shard, bench.folder / "shard-2"], shard / "all")
    assert not (shard / "all").exists()


def test_a_shard_with_nothing_to_do_says_so_in_json_too(bench, tmp_path):
    options = {"script": str(bench.folder / "script.json")}
    config = bench.config(**bench.settings, engine_options=options)
    text = json.dumps(config.model_dump(mode="json", exclude_defaults=True, by_alias=True))
    (tmp_path / "sweep.yml").write_text(text)
    out = tmp_path / "far"
    command = ["sweep", tmp_path / "sweep.yml", "--out", out, "--shard", "99/100", "--json", "--no-doctor"]
    told = call(*command)
    assert json.loads(told) == {
        "run": str(out),
        "num_generated": 0,
        "num_tokens": 0,
        "failed": [],
        "points": [],
    } | {"seconds": json.loads(told)["seconds"]}


def test_a_shard_that_is_missing_or_half_done_is_said_by_name_and_a_sweep_makes_the_rest(bench, tmp_path):
    half = shutil.copytree(bench.folder / "shard-3", tmp_path / "half")
    text = (half / "run.json").read_text()
    (half / "run.json").write_text(text.replace('"done"', '"planned"', 1))
    command = ["runs", "merge", bench.folder / "shard-1", half, "--out", tmp_path / "all"]
    told = call(*command, code=1, errors=True)
    parts = [part for entry in RunFile.load(half).entries for part in entry.parts if part.status != "done"]
    first, last = parts[0].block.first, parts[0].block.first + parts[0].block.num - 1
    assert f"in {half} (shard 3 of 3), questions {first} to {last}, samples 1 to 3" in told
    assert "not there: shard 2 of 3" in told
    assert "merge all that belongs together into another --out" in told
    bench.out, whole, before = tmp_path / "all", bench.out, len(samples.read(tmp_path / "all"))
    try:
        assert bench.sweep(**bench.settings) == 48 - before > 0
        assert content(bench.out) == content(whole)
    finally:
        bench.out = whole


def test_a_finished_shard_does_nothing_and_its_folder_is_for_no_other(bench):
    config, out = bench.config(**bench.settings), bench.folder / "shard-2"
    before = bench.num_generated
    assert sweep.run(config, out, shard=Shard(number=2, total=3)).num_generated == 0
    with pytest.raises(RunError, match="the folder holds shard 2 of 3, not shard 1 of 3"):
        sweep.run(config, out, shard=Shard(number=1, total=3))
    with pytest.raises(RunError, match="the folder holds a whole sweep, not shard 1 of 3"):
        sweep.plan(config, bench.out, shard=Shard(number=1, total=3))
    assert bench.num_generated == before


def test_more_shards_than_questions_leave_some_empty_and_unite_all_the_same(bench, tmp_path):
    config, total = bench.config(lambdas="0.5", samples=1), 6
    outs = [tmp_path / f"s{number}" for number in range(1, total + 1)]
    shares = [
        len(sweep.run(config, out, shard=Shard(number=i, total=total)).run.entries) for i, out in enumerate(outs, 1)
    ]
    assert sorted(shares) == [0, 0, 1, 1, 1, 1]
    made = combine(outs, tmp_path / "all")
    assert (made.num_samples, made.missing) == (4, ())
    assert [one.problem_id for one in samples.read(tmp_path / "all")] == [problem.id for problem in PROBLEMS]


@pytest.mark.parametrize("said", ["0/3", "4/3", "1/0", "2", "x/y", "-1/3"])
def test_a_share_that_is_none_is_wrong_usage(bench, said):
    told = call("sweep", "a", "b", "--out", bench.out, "--shard", said, code=2, errors=True)
    assert "write I/N, from 1/N to N/N" in " ".join(told.replace("│", " ").split())


# ── units ────────────────────────────────────────────────────────────────────────────────────────────────────────


def arithmetic(num, k):
    whole = tasks.load("arithmetic", limit=num)
    return type(whole)(whole.name, whole.problems, whole.prompt, whole.gradings, k=k)


def test_blocks_cover_all_questions_once_and_finer_ones_keep_the_bounds():
    bench = arithmetic(30, 1)
    assert blocks(bench, 1) == [None]
    for num in (2, 4, 8, 16):
        covered = [range(one.first, one.first + one.num) for one in blocks(bench, num)]
        assert [number for block in covered for number in block] == list(range(1, 31))
        finer = {one.first for one in blocks(bench, 2 * num)}
        assert {one.first for one in blocks(bench, num)} <= finer
    assert len(blocks(bench, 10**6)) == 16  # not 32: some would have no question


def test_shards_cost_about_the_same_and_are_stretches():
    jobs = [(arithmetic(100, 8), 1 + lam / 10) for lam in range(11)]
    total = 5
    shares = [deal(jobs, Shard(number=number, total=total)) for number in range(1, total + 1)]
    costs = [
        sum(tokens * part.num_responses(100) for (_, tokens), parts in zip(jobs, share, strict=True) for part in parts)
        for share in shares
    ]
    assert sum(costs) == pytest.approx(sum(800 * tokens for _, tokens in jobs))
    assert max(costs) < 1.35 * sum(costs) / total
    held = [[number for number, parts in enumerate(share) if parts] for share in shares]
    assert all(one == list(range(one[0], one[-1] + 1)) for one in held)
    assert all(before[-1] <= after[0] for before, after in pairwise(held))


def test_a_unit_is_called_by_all_that_its_responses_depend_on(bench):
    one, other, *_ = RunFile.load(bench.out).entries
    parts = [
        Part(first_sample=1, num_samples=2),
        Part(first_sample=1, num_samples=3),
        Part(first_sample=2, num_samples=2),
        Part(first_sample=1, num_samples=2, block=Block(first=1, num=2)),
        Part(first_sample=1, num_samples=2, block=Block(first=2, num=2)),
    ]
    names = {unit_name(entry, part) for entry in (one, other) for part in parts}
    assert len(names) == 10
    done = parts[0].model_copy(update={"status": "done", "log": "x.eval"})
    assert unit_name(one, done) == unit_name(one, parts[0])


def cells(parts, num_problems):
    return [
        (problem, part.first_sample + number)
        for part in parts
        for problem in part.problems(num_problems)
        for number in range(part.num_samples)
    ]


def test_parts_cover_exactly_what_is_missing():
    done, failed = (
        Part(first_sample=1, num_samples=4, status="done"),
        Part(first_sample=5, num_samples=4, status="failed"),
    )

    def missing(parts, samples):
        return missing_parts(parts, [Part(first_sample=1, num_samples=samples)], 6)

    assert missing((), 3) == (Part(first_sample=1, num_samples=3),)
    assert missing((done,), 2) == (done,)
    assert missing((done, failed), 6) == (done, failed.model_copy(update={"num_samples": 2}))
    assert missing((done, failed), 9) == (done, failed, Part(first_sample=9, num_samples=1))
    assert missing((done, failed), 4) == (done,)


@pytest.mark.parametrize("seed", range(20))
def test_whatever_is_there_every_wanted_response_is_in_one_part(seed):
    draw = random.Random(seed)

    def part(status):
        first = draw.randint(1, 6)
        block = Block(first=first, num=draw.randint(1, 7 - first)) if draw.random() < 0.7 else None
        return Part(first_sample=draw.randint(1, 4), num_samples=draw.randint(1, 3), block=block, status=status)

    before, covered = [], set()
    for one in (part(draw.choice(["done", "planned", "failed"])) for _ in range(6)):
        if not covered & set(cells([one], 6)):
            before.append(one)
            covered |= set(cells([one], 6))
    wanted = [part("planned"), Part(first_sample=1, num_samples=draw.randint(1, 4))]
    found = missing_parts(before, wanted, 6)
    made = cells(found, 6)
    assert len(made) == len(set(made))
    kept = [one for one in before if one.status == "done"]
    assert set(made) == set(cells(wanted, 6)) | set(cells(kept, 6))
    assert all(one in found for one in kept)
    assert len({one.place for one in found}) == len(found)
