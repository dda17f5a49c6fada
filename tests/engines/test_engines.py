"""Engines: what is drawn, how much, and what happens when one fails."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress

import numpy as np
import psutil
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import forked
import live
from interpole.checkpoints.checkpoint import open_checkpoint
from interpole.engines.base import Request, chance_of
from interpole.engines.process import EngineProcess
from interpole.engines.sampling import NO_TOKEN, Settings, chances, draw
from interpole.engines.scripted import ScriptedEngine
from interpole.engines.transformers import TransformersEngine
from interpole.errors import EngineError
from interpole.records import Generation, Sampler

GREEDY = Sampler(temperature=0, max_tokens=24)
WARM = Sampler(temperature=0.8, top_p=0.95, top_k=0, max_tokens=24)
PROMPTS = [f"{i}{' a+1' * (i % 5)} = ?" for i in range(12)]


@pytest.fixture(autouse=True)
def started_engines(monkeypatch):
    """Engines are started here as users start them: the process is the point."""
    monkeypatch.setattr("interpole.engines.process.subprocess", subprocess)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return live.write(tmp_path_factory.mktemp("model") / "m", 3)


@pytest.fixture(scope="module")
def engine(folder):
    return TransformersEngine(open_checkpoint(folder), dtype="float32", max_rows=8)


# ── the sampler ──────────────────────────────────────────────────────────────────────────────────────────────────


def reference(logits, sampler, min_p=0.0):
    """Probabilities by the plain definition, one row at a time, in float64."""
    scores = logits.astype(np.float64) / sampler.temperature
    if 0 < sampler.top_k < len(scores):
        scores[scores < np.sort(scores)[-sampler.top_k]] = -np.inf
    p = np.exp(scores - scores.max())
    p /= p.sum()
    kept = np.zeros(len(p), bool)
    for token in np.argsort(-p, kind="stable"):
        if sampler.top_p >= 1 or p[kept].sum() < sampler.top_p:
            kept[token] = p[token] >= min_p * p.max()
    return np.where(kept, p, 0) / p[kept].sum()


def drawn(logits, sampler, num_draws=10_001, min_p=0.0):
    """Probabilities of `draw`, read off an even grid of uniforms: exact to one grid step per token."""
    uniforms = torch.linspace(0, 1 - 1e-7, num_draws)
    rows = torch.tensor(logits).expand(num_draws, -1)
    settings = Settings.of([sampler] * num_draws, len(logits), torch.device("cpu"), [min_p] * num_draws)
    tokens = draw(rows, settings, uniforms)
    return np.bincount(tokens, minlength=len(logits)) / num_draws


@pytest.mark.parametrize("top_k", [0, 1, 5, 63, 64, 100])
@pytest.mark.parametrize("top_p", [0.1, 0.8, 0.95, 1.0])
@pytest.mark.parametrize("scale", [0.3, 3.0], ids=["flat", "peaked"])
def test_the_one_pass_sampler_has_the_probabilities_of_the_definition(top_k, top_p, scale):
    logits = np.random.default_rng(0).normal(scale=scale, size=150).astype(np.float32)
    sampler = Sampler(temperature=0.7, top_k=top_k, top_p=top_p)
    expected, seen = reference(logits, sampler), drawn(logits, sampler)
    assert not seen[expected == 0].any()
    assert np.abs(seen - expected).max() < 2e-4


@pytest.mark.parametrize("top_k", [0, 5, 100])
@pytest.mark.parametrize("top_p", [0.5, 1.0])
@pytest.mark.parametrize("temperature", [0, 0.6])
@pytest.mark.parametrize("min_p", [0.0, 0.2])
def test_the_chance_of_a_token_is_what_the_definition_gives_and_its_margin_the_models_log_odds(
    top_k, top_p, temperature, min_p
):
    logits = np.random.default_rng(3).normal(scale=2, size=150).astype(np.float32)
    sampler = Sampler(temperature=temperature, top_k=top_k, top_p=top_p)
    one_hot = np.eye(150)[logits.argmax()]
    expected = reference(logits, sampler, min_p=min_p) if temperature else one_hot
    settings = Settings.of([sampler] * 150, 150, torch.device("cpu"), [min_p] * 150)
    found = chances(torch.tensor(logits).expand(150, -1), settings, torch.arange(150)).numpy()
    assert found[:, 0] == pytest.approx(expected, abs=1e-6)
    p = np.exp(logits - logits.max().astype(np.float64))
    p /= p.sum()
    assert found[:, 1] - found[:, 2] == pytest.approx(np.log(p / (1 - p)), abs=1e-9)


def test_the_chance_of_a_text_is_the_product_over_its_tokens():
    p, own = np.array([0.9, 0.5, 0.2]), np.array([0.999999999999, 0.6, 0.3])
    found = chance_of([*zip(p, np.log(own), np.log(1 - own), strict=True)])
    assert found.probability == pytest.approx(0.09)
    assert found.margin == pytest.approx(np.log(own.prod() / (1 - own.prod())))
    assert chance_of([(1.0, 0.0, -np.inf)]).margin == 100
    with pytest.raises(EngineError, match="not finite"):
        chance_of([(np.nan, np.nan, np.nan)])


@pytest.mark.parametrize("top_k", [0, 5])
@pytest.mark.parametrize("top_p", [0.5, 1.0])
@pytest.mark.parametrize("scale", [0.1, 3.0], ids=["flat", "peaked"])
def test_min_p_leaves_what_is_nearly_as_likely_as_the_likeliest(top_k, top_p, scale):
    logits = np.random.default_rng(2).normal(scale=scale, size=150).astype(np.float32)
    sampler = Sampler(temperature=0.7, top_k=top_k, top_p=top_p)
    expected = reference(logits, sampler, min_p=0.3)
    seen = drawn(logits, sampler, min_p=0.3)
    assert not seen[expected == 0].any()
    assert np.abs(seen - expected).max() < 2e-4


def test_tokens_tied_with_the_last_of_top_k_are_all_kept():
    logits = np.zeros(100, np.float32)
    logits[:2] = 1.0
    seen = drawn(logits, Sampler(temperature=1, top_k=3, top_p=1))
    assert (seen > 0).all()
    assert seen == pytest.approx(reference(logits, Sampler(temperature=1, top_k=3, top_p=1)), abs=2e-4)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("temperature", [0, 0.7])
def test_logits_that_are_no_numbers_give_no_token_in_their_row_only(value, temperature):
    logits = torch.zeros(2, 100)
    logits[0, 7], logits[1, 3] = 90.0, value
    settings = Settings.of([Sampler(temperature=temperature)] * 2, 100, logits.device)
    assert draw(logits, settings, torch.zeros(2)).tolist() == [7, NO_TOKEN]


def test_rows_of_one_batch_keep_their_own_settings():
    logits = torch.tensor(np.random.default_rng(1).normal(size=(3, 150)).astype(np.float32))
    samplers = [Sampler(temperature=0), Sampler(temperature=5, top_p=1, top_k=0), Sampler(temperature=1, top_k=1)]
    tokens = draw(logits, Settings.of(samplers, 150, torch.device("cpu")), torch.tensor([0.9999, 0.9999, 0.9999]))
    best = logits.argmax(-1)
    assert (tokens == best).tolist() == [True, False, True]


# ── generation ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_greedy_text_equals_that_of_plain_generate(folder, engine):
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    for prompt, ours in zip(PROMPTS, engine.generate(PROMPTS, GREEDY, range(12)), strict=True):
        tokens = tokenizer(prompt, return_tensors="pt", add_special_tokens=False)
        plain = model.generate(**tokens, do_sample=False, max_new_tokens=24)[0, tokens["input_ids"].shape[1] :].tolist()
        ended = plain[-1] in (256, 257)
        assert ours.num_tokens == len(plain)
        assert ours.finish == ("stop" if ended else "length")
        assert ours.text == tokenizer.decode(plain[:-1] if ended else plain, skip_special_tokens=False)


def test_responses_do_not_depend_on_the_batch_they_are_in(engine):
    prompts, seeds = PROMPTS * 4, range(48)
    together = engine.generate(prompts, WARM, seeds)
    alone = [engine.generate([prompt], WARM, [seed])[0] for prompt, seed in zip(prompts, seeds, strict=True)]
    backwards = engine.generate(prompts[::-1], WARM, list(seeds)[::-1])[::-1]
    assert together == alone == backwards
    assert len({answer.num_tokens for answer in together}) > 5  # rows left at different times, others took their places


def test_other_seeds_give_other_responses(engine):
    answers = engine.generate(["1 = ?"] * 20, WARM, range(20))
    assert len({answer.text for answer in answers}) > 15


def test_sampled_first_tokens_follow_the_models_distribution(folder, engine):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokens = engine.tokenizer("7 = ?", return_tensors="pt")
    with torch.inference_mode():
        logits = model(tokens["input_ids"]).logits[0, -1].numpy()
    sampler = Sampler(temperature=0.6, top_p=0.9, top_k=20, max_tokens=1)
    expected = reference(logits, sampler)
    num = 2000
    answers = engine.generate(["7 = ?"] * num, sampler, range(num))
    expected_by_text, counts = Counter(), Counter(answer.text for answer in answers)
    for token in np.flatnonzero(expected):  # bytes that are no text of their own look alike
        expected_by_text["" if token in (256, 257) else engine.tokenizer.decode([token])] += num * expected[token]
    assert counts.keys() <= expected_by_text.keys()
    chi_square = sum((counts[text] - mean) ** 2 / mean for text, mean in expected_by_text.items())
    assert chi_square < len(expected_by_text) + 5 * np.sqrt(2 * len(expected_by_text))


def test_how_likely_a_response_begins_with_a_text_is_said_beside_others_that_are_generated(folder, engine):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    sampler, text, greedy = Sampler(temperature=0.6, top_p=1.0, top_k=0), "<think>\n7", Sampler(0, max_tokens=4)
    (alone,) = engine.generate(["7 = ?"], greedy, [1])
    engine.add(Request(1, "7 = ?", sampler, 0, begins=text))
    engine.add(Request(2, "7 = ?", greedy, 1))
    engine.add(Request(3, "a longer prompt", sampler, 0, begins="<think>"))
    done = {}
    while engine.busy:
        done |= {one.key: one for one in engine.step()}
    assert (done[2].generation, done[2].chance) == (alone, None)
    for key, prompt, begins in ((1, "7 = ?", text), (3, "a longer prompt", "<think>")):
        before, after = (engine.tokenizer(part)["input_ids"] for part in (prompt, begins))
        with torch.inference_mode():
            logits = model(torch.tensor([before + after])).logits[0, len(before) - 1 : -1].double()  # (S, V)
        at = torch.arange(len(after)), torch.tensor(after)
        assert done[key].chance.probability == pytest.approx((logits / 0.6).softmax(-1)[at].prod().item(), rel=1e-4)
        assert done[key].chance.margin == pytest.approx(torch.logit(logits.softmax(-1)[at].prod()).item(), abs=1e-4)
    with pytest.raises(EngineError, match="does not fit after the prompt"):
        engine.add(Request(4, "7 = ?", sampler, 0, begins=""))


def test_both_ends_of_sequence_stop_and_all_other_special_tokens_stay(engine, monkeypatch):
    script = iter([260, 258, 65, 256, 65, 257])  # </think> <|im_start|> b <eos>, then b <eos>

    def next_token(logits, *_):
        return torch.tensor([next(script)] * len(logits))

    monkeypatch.setattr("interpole.engines.rows.draw", next_token)
    first = engine.generate(["x"], GREEDY, [0])
    second = engine.generate(["x"], GREEDY, [0])
    letter = engine.tokenizer.decode([65])
    assert first == [Generation(f"</think><|im_start|>{letter}", 4, "stop")]
    assert second == [Generation(letter, 2, "stop")]


def test_the_context_limits_prompt_and_response(engine):
    (answer,) = engine.generate(["a" * 250], Sampler(temperature=0, max_tokens=99), [0])
    assert answer.finish == "stop" or (answer.finish, answer.num_tokens) == ("length", 6)
    with pytest.raises(EngineError, match="300 tokens does not fit a context of 256"):
        engine.generate(["a" * 300], GREEDY, [0])


@pytest.mark.parametrize(
    ("option", "words"), [({"dtype": "float23"}, "choose auto, bf"), ({"device": "xyz"}, "device: (.|\n)*choose cpu")]
)
def test_a_dtype_or_device_that_there_is_not_is_an_error_of_the_engine(folder, option, words):
    with pytest.raises(EngineError, match=words):
        TransformersEngine(open_checkpoint(folder), **option)


def test_weights_do_not_change_under_running_requests(engine, folder):
    from interpole.engines.base import Request

    engine.add(Request(0, "x", GREEDY, 0))
    with pytest.raises(EngineError, match="finish them first"):
        engine.load(open_checkpoint(folder))
    while not engine.step():
        pass
    engine.load(open_checkpoint(folder))


# ── a scripted engine, in a child process ────────────────────────────────────────────────────────────────────────


def test_a_script_answers_by_prompt_and_lambda_in_turn():
    script = [
        {"contains": "1+1", "lambda": 0.5, "responses": ["<think>2</think>2"]},
        {"contains": "1+1", "responses": ["2", {"text": "3 3", "finish": "length", "num_tokens": 9}]},
    ]
    engine = ScriptedEngine(script)
    with engine.at(0.5):
        assert engine.generate(["1+1"], GREEDY, [0]) == [Generation("<think>2</think>2", 2, "stop")]
    two = engine.generate(["1+1", "1+1", "1+1"], GREEDY, [0, 1, 2])
    assert two == [Generation("2", 2, "stop"), Generation("3 3", 9, "length"), Generation("2", 2, "stop")]
    with pytest.raises(EngineError, match="no answer"):
        engine.generate(["2+2"], GREEDY, [0])


RECIPE = {"sources": {"instruct": "nowhere", "thinking": "nowhere"}, "lambda": 0.0}


def scripted(script, reports=None, failed=None, **options):
    spec = {"engine": "scripted", "recipe": RECIPE, "options": {"script": script, "failed": failed}}
    return EngineProcess(spec, report=(reports if reports is not None else []).append, **options)


def answers(engine, *prompts):
    async def all_of_them():
        waiting = (engine.answer(prompt, GREEDY, seed) for seed, prompt in enumerate(prompts))
        return await asyncio.wait_for(asyncio.gather(*waiting), 30)

    return asyncio.run(all_of_them())


def test_a_child_process_answers_like_the_engine_itself():
    with scripted([{"contains": "", "lambda": 0.25, "responses": ["ö <think>"]}]) as engine:
        assert engine.versions() == {"engine": "scripted"}
        engine.load({"lambda": 0.25})
        assert answers(engine, "x") == [Generation("ö <think>", 3, "stop")]
        engine.load({"lambda": 0.5})
        with pytest.raises(EngineError, match="no answer at λ"):
            answers(engine, "x")


@pytest.mark.parametrize("how", ["die", "hang"])
def test_an_engine_that_fails_once_is_replaced_and_nothing_is_lost(tmp_path, how):
    bad = {"text": "late", "fail": how, "once": True}
    script = [{"contains": "bad", "responses": [bad]}, {"contains": "", "lambda": 0.5, "responses": ["good"]}]
    reports = []
    with scripted(script, reports, hang_seconds=1.0, failed=str(tmp_path / "failed")) as engine:
        engine.load({"lambda": 0.5})
        texts = [one.text for one in answers(engine, *("bad" if i == 7 else "x" for i in range(40)))]
    assert texts == ["good"] * 7 + ["late"] + ["good"] * 32  # the new child is at λ = 0.5 again
    assert len(reports) == 1
    assert ("exit status 9" if how == "die" else "stood still for") in reports[0]


@pytest.mark.parametrize("nonsense", ["?", "[]", '{"key": 3, "generation": ["7", -1, "stop"]}'])
def test_an_engine_that_answers_nonsense_is_replaced_and_nothing_is_lost(tmp_path, nonsense):
    first = 'if mkdir "$0" 2>&-; then read; read; echo "$1"; cat >&2; else exec "$2" -m interpole.engines.child; fi'
    command, reports = ["bash", "-c", first, str(tmp_path / "mark"), nonsense, sys.executable], []
    with scripted([{"contains": "", "responses": ["good"]}], reports, command=command) as engine:
        engine.load({"lambda": 0.5})
        assert answers(engine, "x")[0].text == "good"
    (report,) = reports
    assert "answered what makes no sense" in report


def test_a_child_process_says_how_likely_a_response_begins_with_a_text():
    script = [{"contains": "7", "chance": 0.25, "responses": ["7"]}, {"responses": ["8"]}]
    with EngineProcess({"engine": "scripted", "recipe": {}, "options": {"script": script}}) as process:
        process.load(0.5)
        found = asyncio.run(process.chance("7 = ?", "<think>", Sampler()))
        assert (found.probability, found.margin) == (0.25, pytest.approx(np.log(1 / 3)))
        with pytest.raises(EngineError, match="knows no chance"):
            asyncio.run(process.chance("8 = ?", "<think>", Sampler()))


def test_an_engine_that_keeps_failing_is_given_up_until_the_next_place():
    script = [{"contains": "bad", "responses": [{"fail": "die"}]}, {"contains": "", "responses": ["good"]}]
    reports = []
    with scripted(script, reports, max_failures=1) as engine:
        engine.load({"lambda": 0.5})
        assert answers(engine, "x")[0].text == "good"
        with pytest.raises(EngineError, match="failed 2 times: ended with exit status 9"):
            answers(engine, "bad")
        with pytest.raises(EngineError, match="failed 2 times"):
            answers(engine, "x")
        engine.load({"lambda": 0.6})
        assert answers(engine, "x")[0].text == "good"
    assert len(reports) == 2


def test_an_engine_that_cannot_be_opened_says_why(monkeypatch):
    monkeypatch.setattr("interpole.engines.process.subprocess", forked)  # it imports torch before it looks
    spec = {"engine": "transformers", "recipe": RECIPE}
    with EngineProcess(spec) as engine, pytest.raises(Exception, match="no such folder: nowhere"):
        engine.versions()


def test_a_child_ends_with_its_parent():
    code = (
        "from interpole.engines.process import EngineProcess as P; import time\n"
        f"p = P({{'engine': 'scripted', 'recipe': {RECIPE!r}, 'options': {{'script': []}}}}); p.versions()\n"
        "print(p._child.pid, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        child = int(parent.stdout.readline())
        parent.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            os.kill(child, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    raise AssertionError("the child outlived its parent")


def wait_until(condition, seconds=20):
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return condition()


def is_gone(pid):
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    return True


def test_a_stopped_child_ends_with_its_killed_parent():
    code = (
        "from interpole.engines.process import EngineProcess as P; import time\n"
        f"p = P({{'engine': 'scripted', 'recipe': {RECIPE!r}, 'options': {{'script': []}}}}); p.versions()\n"
        "print(p._child.pid, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        child = int(parent.stdout.readline())
        os.kill(child, signal.SIGSTOP)
        parent.send_signal(signal.SIGKILL)
    assert wait_until(lambda: is_gone(child))


def test_a_child_that_is_stopped_while_it_opens_is_replaced(monkeypatch):
    monkeypatch.setattr("interpole.engines.process.START_SECONDS", 2.0)
    reports = []
    with scripted([{"responses": ["good"]}], reports, hang_seconds=1.0) as engine:
        assert wait_until(lambda: engine._child is not None)
        os.kill(engine._child.pid, signal.SIGSTOP)
        assert engine.versions() == {"engine": "scripted"}
    assert "was silent for" in reports[0]


@pytest.mark.parametrize("order", ["open", "load"])
def test_a_child_that_opens_or_loads_for_long_is_spoken_of_and_waited_for(monkeypatch, order):
    monkeypatch.setattr("interpole.waiting.FIRST_SECONDS", 0.1)
    code = (
        "import time; from interpole.engines.child import serve; from interpole.engines.scripted import ScriptedEngine\n"
        "class Slow(ScriptedEngine):\n"
        f"    def _move(self, where): time.sleep(0.7 if {order!r} == 'load' else 0); return super()._move(where)\n"
        f"def slow(_): time.sleep(0.7 if {order!r} == 'open' else 0); return Slow([])\n"
        "serve(slow)"
    )
    reports = []
    with scripted([], reports, command=[sys.executable, "-c", code], hang_seconds=1.0) as engine:
        assert engine.versions() == {"engine": "scripted"}
        engine.load(0.5)
    what = {"open": "opening", "load": "moving its weights"}[order]
    assert any(f"has been {what} for" in one and "It lives, and is waited for" in one for one in reports)
    assert all("has been" in one for one in reports)


def test_a_listener_that_fails_costs_its_message_only(capsys):
    bad = {"text": "7", "fail": "no [/INST] here"}

    def report(_):
        raise ValueError("no markup")

    spec = {"engine": "scripted", "recipe": RECIPE, "options": {"script": [{"responses": [bad]}]}}
    with EngineProcess(spec, max_failures=1, report=report) as engine:
        engine.load({"lambda": 0.5})
        with pytest.raises(EngineError, match=r"scripted failure: no \[/INST\] here"):
            answers(engine, "x")
    assert "could not be shown: ValueError" in capsys.readouterr().err


def test_a_program_that_cannot_be_run_is_an_error_and_no_endless_wait():
    refused = pytest.raises(EngineError, match=r"failed 2 times: cannot be run: .*No such file")
    with EngineProcess({}, command=["/nonexistent/program"], max_failures=1) as engine, refused:
        engine.versions()


def test_an_engine_that_reads_its_standard_input_finds_nothing_there():
    code = (
        "from interpole.engines.child import serve; from interpole.engines.scripted import ScriptedEngine\n"
        "def opened(spec):\n"
        "    try: said = input('run the custom code? [y/N] ')\n"
        "    except EOFError: said = 'nothing'\n"
        "    return ScriptedEngine([{'responses': [said]}])\n"
        "serve(opened)"
    )
    with EngineProcess({}, command=[sys.executable, "-c", code]) as engine:
        assert answers(engine, "x")[0].text == "nothing"


def test_an_answer_nobody_awaits_any_more_is_dropped_and_the_engine_goes_on():
    script = [{"contains": "slow", "responses": ["late"]}, {"responses": ["good"]}]

    async def cancelled(engine):
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(engine.answer("slow", GREEDY, 0), 0.1)

    spec = {"engine": "scripted", "recipe": RECIPE, "options": {"script": script, "step_seconds": 0.3}}
    with EngineProcess(spec) as engine:
        engine.load({"lambda": 0.1})
        asyncio.run(cancelled(engine))
        engine.load({"lambda": 0.5})  # what nobody awaits does not stand in the way
        assert answers(engine, "x")[0].text == "good"
        assert engine.failures == 0


# ── the Inspect provider ─────────────────────────────────────────────────────────────────────────────────────────


def provider(generation, asked):
    from interpole.engines.provider import inspect_model

    async def answer(prompt, sampler, seed):
        asked.append((prompt, sampler, seed))
        if isinstance(generation, Exception):
            raise generation
        return generation

    return inspect_model("lam-0.6-abc", answer, lambda messages: json.dumps(messages), WARM)


def ask(model, **config):
    from inspect_ai.model import GenerateConfig

    return asyncio.run(model.generate("1+1", config=GenerateConfig(**config)))


def test_the_provider_hands_on_text_tokens_and_finish_untouched():
    text, asked = "<think>\n2\n</think><tool_call>\n\n2 <|im_start|>", []
    output = ask(
        provider(Generation(text, 17, "length"), asked), temperature=0.3, top_p=0.5, top_k=7, max_tokens=99, seed=5
    )
    assert output.message.content == output.completion == text
    assert (output.usage.output_tokens, output.stop_reason, output.model) == (17, "max_tokens", "lam-0.6-abc")
    assert asked == [('[{"role": "user", "content": "1+1"}]', Sampler(0.3, 0.5, 7, 99), 5)]


def test_the_provider_draws_its_own_seeds_where_a_task_gives_none():
    asked = []
    model = provider(Generation("2", 2, "stop"), asked)
    for _ in range(3):
        ask(model)
    seeds = [seed for _, _, seed in asked]
    assert len(set(seeds)) == 3
    again = []
    ask(provider(Generation("2", 2, "stop"), again))
    assert again[0] == (asked[0][0], WARM, seeds[0])


def test_a_model_that_inspect_makes_by_the_name_in_a_log_answers_nothing():
    from inspect_ai.model import get_model

    with pytest.raises(EngineError, match="only a sweep asks this model"):
        ask(get_model("interpole/lam-0.6-abc"))


def test_the_provider_passes_an_engine_error_on():
    with pytest.raises(EngineError, match="out of memory"):
        ask(provider(EngineError("out of memory"), []))
