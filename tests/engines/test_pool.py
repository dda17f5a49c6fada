"""The pool: every request is answered once, by as few switches as can be, whatever dies."""

import asyncio
import json
import os
import signal
import sys
from collections import Counter

import psutil
import pytest

from interpole.engines.devices import Device, devices
from interpole.engines.pool import Pool
from interpole.engines.registry import engine_kind
from interpole.errors import EngineError, MismatchError
from interpole.records import Generation, Sampler

GREEDY = Sampler(temperature=0.0, top_p=1.0, top_k=0, max_tokens=8, seed=0)
RECIPE = {"sources": {"instruct": "nowhere", "thinking": "nowhere"}, "lambda": 0.0}


class Work:
    """A pool of scripted engines, and what they wrote down of what they answered."""

    def __init__(self, folder, num, script=({"contains": "", "responses": ["good"]},), *, step_seconds=0.0, **options):
        self.journal, self.reports = folder / "journal.jsonl", []
        engine = {"script": list(script), "rows": 1, "step_seconds": step_seconds, "journal": str(self.journal)}
        spec = {"engine": "scripted", "recipe": RECIPE, "options": engine | {"failed": str(folder / "failed")}}
        self.pool = Pool(spec, [Device()] * num, most_requests=1, report=self.reports.append, **options)
        self.pool.versions()

    def ask(self, *wanted):
        """Answers at each λ of so many questions, or the error in place of one; all asked at once, places in this order."""

        async def one(visit, lam, number):
            try:
                return await visit.answer(f"{lam} {number}", GREEDY, number)
            except EngineError as error:
                return error

        async def everything():
            visits = [self.pool.visit({"lambda": lam}, label=f"{lam}", num_expected=num) for lam, num in wanted]
            asked = [
                one(visit, lam, number)
                for visit, (lam, num) in zip(visits, wanted, strict=True)
                for number in range(num)
            ]
            found = await asyncio.wait_for(asyncio.gather(*asked), 120)
            for visit in visits:
                visit.close()
            return found

        return asyncio.run(everything())

    @property
    def answered(self):
        return [json.loads(line) for line in self.journal.read_text().splitlines()]

    @property
    def num_loads(self):
        return sum(rate.num_loads for rate in self.pool.rates())


@pytest.fixture
def pool(tmp_path):
    opened = []

    def start(num, *args, **options):
        opened.append(Work(tmp_path, num, *args, **options))
        return opened[-1]

    yield start
    for work in opened:
        work.pool.close()


def test_one_engine_takes_place_after_place_in_the_order_in_which_they_were_opened(pool):
    work = pool(1)
    found = work.ask((0.5, 4), (0.0, 3), (1.0, 5))
    assert found == [Generation("good", 2, "stop")] * 12
    assert [one["lambda"] for one in work.answered] == [0.5] * 4 + [0.0] * 3 + [1.0] * 5
    assert [one["prompt"] for one in work.answered[:4]] == [f"0.5 {i}" for i in range(4)]
    (rate,) = work.pool.rates()
    assert (rate.num_loads, rate.num_answers, rate.num_tokens, rate.place) == (3, 12, 24, "1.0")
    work.ask((1.0, 2))
    assert work.num_loads == 3  # it was there
    assert rate.tokens_per_second == pytest.approx(24 / rate.busy_seconds)


def test_two_engines_answer_each_question_once_and_load_each_place_once_until_the_last_which_they_share(pool):
    work = pool(2, step_seconds=0.01)
    wanted = [(0.0, 6), (0.25, 6), (0.5, 6), (0.75, 6), (1.0, 20)]
    found = work.ask(*wanted)
    assert found == [Generation("good", 2, "stop")] * 44
    assert Counter(one["prompt"] for one in work.answered) == Counter(
        f"{lam} {i}" for lam, n in wanted for i in range(n)
    )
    assert 5 <= work.num_loads <= 6  # the sixth: the second engine at the last place
    assert all(rate.num_answers > 5 for rate in work.pool.rates())
    assert {rate.place for rate in work.pool.rates()} == {"1.0"}


def test_an_engine_waits_where_questions_are_still_to_come_and_leaves_when_none_are(pool, monkeypatch):
    monkeypatch.setattr("interpole.engines.pool.PATIENCE_SECONDS", 60.0)
    work = pool(1)

    async def scenario():
        first = work.pool.visit({"lambda": 0.0}, num_expected=2)
        second = work.pool.visit({"lambda": 1.0}, num_expected=1)
        await first.answer("a", GREEDY, 0)
        later = asyncio.create_task(second.answer("b", GREEDY, 0))
        await asyncio.sleep(0.3)
        assert not later.done()
        await first.answer("c", GREEDY, 0)
        await asyncio.wait_for(later, 30)
        unknown = work.pool.visit({"lambda": 0.5})
        await unknown.answer("d", GREEDY, 0)
        last = asyncio.create_task(second.answer("e", GREEDY, 0))
        await asyncio.sleep(0.3)
        assert not last.done()
        unknown.close()
        await asyncio.wait_for(last, 30)

    asyncio.run(scenario())
    assert [one["prompt"] for one in work.answered] == ["a", "c", "b", "d", "e"]
    assert work.num_loads == 4


def test_whoever_asks_at_places_in_turn_is_answered_though_more_is_to_come_at_each(pool, monkeypatch):
    """What is to come where the engines are may wait for an answer elsewhere; with two engines they are held at two places."""
    monkeypatch.setattr("interpole.engines.pool.PATIENCE_SECONDS", 0.05)
    order = [0.0, 0.5, 1.0, 0.5, 0.0, 1.0]

    async def scenario(work):
        visits = {lam: work.pool.visit({"lambda": lam}, num_expected=2) for lam in (0.25, *sorted(set(order)))}
        for number, lam in enumerate(order):
            await asyncio.wait_for(visits[lam].answer(f"{lam}", GREEDY, number), 30)

    for num in (1, 2):
        work = pool(num)
        asyncio.run(scenario(work))
        assert [one["lambda"] for one in work.answered[-len(order) :]] == order


def test_what_is_made_of_several_requests_counts_as_one_question(pool):
    work = pool(1)

    def twice(answer):
        async def both(prompt, sampler, seed):
            return await answer((await answer(prompt, sampler, seed)).text, sampler, seed)

        return both

    async def scenario():
        first = work.pool.visit({"lambda": 0.0}, num_expected=1, wrap=twice)
        second = work.pool.visit({"lambda": 1.0}, num_expected=1)
        await asyncio.gather(first.answer("a", GREEDY, 0), second.answer("b", GREEDY, 0))

    asyncio.run(scenario())
    assert [one["prompt"] for one in work.answered] == ["a", "good", "b"]


def test_an_engine_that_is_killed_is_replaced_and_its_questions_are_asked_again(pool):
    work = pool(2, step_seconds=0.02)
    process = work.pool._members[1].process

    async def scenario():
        visits = [work.pool.visit({"lambda": lam}, num_expected=30) for lam in (0.0, 1.0)]
        asked = [asyncio.create_task(visit.answer(f"{i}", GREEDY, i)) for visit in visits for i in range(30)]
        await asyncio.wait(asked[30:], return_when=asyncio.FIRST_COMPLETED, timeout=60)
        os.kill(process._child.pid, signal.SIGKILL)
        return await asyncio.wait_for(asyncio.gather(*asked), 120)

    assert asyncio.run(scenario()) == [Generation("good", 2, "stop")] * 60
    (report,) = work.reports
    assert report.startswith("engine 2: the engine ended with exit status -9; starting another")


def test_an_engine_that_is_given_up_leaves_its_questions_to_another(pool):
    bad = {"contains": "0.5 1", "responses": [{"text": "late", "fail": "die", "once": True}]}
    work = pool(2, [bad, {"contains": "", "responses": ["good"]}], max_failures=0)
    found = work.ask((0.5, 4), (1.0, 4))
    assert [one.text for one in found] == ["good", "late", "good", "good"] + ["good"] * 4


def test_a_question_that_kills_every_engine_costs_its_place_and_no_other(pool):
    bad = {"contains": "0.5 1", "responses": [{"fail": "die"}]}
    work = pool(2, [bad, {"contains": "", "responses": ["good"]}], max_failures=0)
    found = work.ask((0.5, 4), (1.0, 4), (0.0, 4))
    assert isinstance(found[1], EngineError)
    assert "failed 1 times: ended with exit status 9" in str(found[1])
    assert [one.text for one in found[4:]] == ["good"] * 8
    assert [one.text for one in work.ask((0.25, 2))] == ["good"] * 2


def test_an_engine_that_answers_nothing_gets_no_more_work_but_the_last_one_tries_everywhere(pool):
    work = pool(2, [{"contains": "", "responses": [{"fail": "die"}]}], max_failures=0)
    found = work.ask((0.0, 2), (0.5, 2), (1.0, 2))
    assert all(isinstance(one, EngineError) for one in found)
    told = [text for text in work.reports if "gets no more work" in text]
    assert len(told) == 1


def test_a_place_to_which_no_engine_can_go_or_where_other_weights_are_fails_alone():
    code = (
        "from interpole.engines.child import serve; from interpole.engines.scripted import ScriptedEngine\n"
        "from interpole.errors import MismatchError\n"
        "class Engine(ScriptedEngine):\n"
        "    def _move(self, where):\n"
        "        if where == 'nowhere': raise MismatchError('does not fit', 'nowhere')\n"
        "        return 'hash of ' + where\n"
        "serve(lambda spec: Engine([{'responses': ['good']}]))"
    )
    with Pool({}, command=[sys.executable, "-c", code]) as pool:
        visits = [pool.visit(where, f"hash of {name}") for where, name in (("nowhere", "it"), ("a", "b"), ("c", "c"))]

        async def ask():
            return await asyncio.gather(*(visit.answer("x", GREEDY, 0) for visit in visits), return_exceptions=True)

        unfit, changed, good = asyncio.run(ask())
    assert (type(unfit), unfit.what) == (MismatchError, "does not fit")
    assert "the sources were changed" in changed.what
    assert good.text == "good"
    assert [visit.load_error for visit in visits] == [unfit, changed, None]


def test_engines_that_cannot_be_opened_say_why():
    with Pool({"engine": "parrot", "recipe": None}) as pool, pytest.raises(EngineError, match="no engine 'parrot'"):
        pool.versions()


def test_a_pool_says_how_likely_a_response_begins_with_a_text(pool):
    work = pool(2, [{"contains": "x", "chance": 0.75, "responses": ["7"]}, {"chance": 0.25, "responses": ["7"]}])

    async def scenario():
        visit = work.pool.visit({"lambda": 0.0}, num_expected=2)
        return await asyncio.gather(*(visit.chance(prompt, "<think>", GREEDY) for prompt in ("x", "y")))

    assert [one.probability for one in asyncio.run(scenario())] == [0.75, 0.25]


def test_a_question_nobody_awaits_any_more_is_dropped(pool):
    work = pool(1, [{"contains": "slow", "responses": ["late"]}, {"responses": ["good"]}], step_seconds=0.2)

    async def scenario():
        visit = work.pool.visit({"lambda": 0.0})
        tasks = [asyncio.create_task(visit.answer(f"slow {i}", GREEDY, i)) for i in range(20)]
        await tasks[0]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        visit.close()
        other = work.pool.visit({"lambda": 1.0})
        return await asyncio.wait_for(other.answer("quick", GREEDY, 0), 30)

    assert asyncio.run(scenario()).text == "good"
    assert len(work.answered) < 5
    assert not any(rate.busy_seconds > 20 for rate in work.pool.rates())


def test_a_closed_pool_leaves_no_process_and_no_one_waiting(pool):
    work = pool(3, step_seconds=5.0)
    children = [psutil.Process(member.process._child.pid) for member in work.pool._members]

    async def scenario():
        visit = work.pool.visit({"lambda": 0.0})
        tasks = [asyncio.create_task(visit.answer(f"{i}", GREEDY, i)) for i in range(8)]
        await asyncio.sleep(0.1)
        await asyncio.to_thread(work.pool.close)
        return await asyncio.gather(*tasks, return_exceptions=True)

    assert all(isinstance(one, EngineError) for one in asyncio.run(scenario()))
    psutil.wait_procs(children, timeout=20)
    assert not any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in children)


# ── where they run ───────────────────────────────────────────────────────────────────────────────────────────────

OURS, THEIRS = engine_kind("transformers"), engine_kind("vllm")


def where(num, kind=OURS, num_parameters=10**9, **options):
    return devices(num, kind, options, lambda: num_parameters)


def test_more_engines_than_a_machine_bears_are_refused_before_one_is_started():
    assert len(where(256, device="cpu")) == 256
    for kind in (OURS, engine_kind("scripted")):
        with pytest.raises(EngineError, match="1,000,000 engines on one machine"):
            where(1_000_000, kind, device="cpu")


def test_each_engine_sees_one_gpu_and_a_model_that_is_spread_a_group_of_them(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,GPU-7a,7,9")
    assert [one.environ["CUDA_VISIBLE_DEVICES"] for one in where("auto")] == ["4", "5", "GPU-7a", "7", "9"]
    pairs = where("auto", THEIRS, tensor_parallel_size=2)
    assert [(one.name, one.environ["CUDA_VISIBLE_DEVICES"]) for one in pairs] == [
        ("GPU 4,5", "4,5"),
        ("GPU GPU-7a,7", "GPU-7a,7"),
    ]
    assert [one.name for one in where(7)][4:] == ["GPU 9", "GPU 4", "GPU 5"]
    assert where(1) == [Device()]
    with pytest.raises(EngineError, match="a model over 8 GPUs, but 5 can be seen"):
        where("auto", THEIRS, tensor_parallel_size=4, pipeline_parallel_size=2)
    with pytest.raises(EngineError, match="all on the device cuda:1"):
        where(2, device="cuda:1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,-1,5")
    assert [one.name for one in where("auto")] == ["GPU 3"]


def test_gpus_are_listed_by_nvidia_smi_and_parts_of_them_go_before_the_whole(monkeypatch, tmp_path):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    program = tmp_path / "nvidia-smi"
    program.write_text(
        "#!/bin/sh\necho 'GPU 0: NVIDIA H200 (UUID: GPU-aa)'\necho 'GPU 1: NVIDIA H200 (UUID: GPU-bb)'\n"
    )
    program.chmod(0o755)
    assert [one.environ["CUDA_VISIBLE_DEVICES"] for one in where("auto")] == ["0", "1"]
    program.write_text(program.read_text() + "echo '  MIG 3g.71gb Device 0: (UUID: MIG-cc)'\n")
    assert [one.environ["CUDA_VISIBLE_DEVICES"] for one in where("auto")] == ["MIG-cc"]
    program.write_text("#!/bin/sh\nexit 9\n")
    assert where("auto") == [Device()]


def test_on_a_cpu_small_models_have_an_engine_to_a_core_and_threads_are_divided(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(12)), raising=False)
    assert where("auto", num_parameters=10**6) == [Device("", {"OMP_NUM_THREADS": "1"})] * 12
    assert where("auto") == [Device()]
    assert where("auto", threads=4) == [Device("", {"OMP_NUM_THREADS": "4"})] * 3
    assert where(5) == [Device("", {"OMP_NUM_THREADS": "2"})] * 5
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    assert where("auto", device="cpu") == [Device()]
    assert where("auto", engine_kind("openai")) == [Device()]


def test_a_childs_environment_says_where_it_runs():
    where = [Device("GPU 3", {"CUDA_VISIBLE_DEVICES": "3"}), Device("", {"OMP_NUM_THREADS": "4"})]
    code = "from interpole.engines.child import serve; from interpole.engines.scripted import ScriptedEngine as E\n"
    with Pool({}, where, command=[sys.executable, "-c", code + "serve(lambda spec: E([]))"]) as pool:
        pool.versions()
        assert [rate.name for rate in pool.rates()] == ["engine 1 (GPU 3)", "engine 2"]
        found = [psutil.Process(member.process._child.pid).environ() for member in pool._members]
    assert found[0]["CUDA_VISIBLE_DEVICES"] == "3"
    assert found[1]["OMP_NUM_THREADS"] == "4"
    assert found[1]["PATH"] == os.environ["PATH"]
