"""λ per request in vLLM: a batch of mixed λ says, row by row, what a fresh vLLM says on the folder that `merge` writes.

These tests need vLLM: `make test-vllm` runs them in an environment of their own, on a CPU.
"""
# ruff: noqa: E402

import gc
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import vllm_here  # noqa: F401

pytestmark = pytest.mark.vllm

import numpy as np
import torch
from vllm import LLM, SamplingParams
from vllm.engine.arg_utils import EngineArgs

import live
from interpole.checkpoints.save import save
from interpole.engines import vllm_layers
from interpole.engines import vllm_per_request as per_request
from interpole.engines.open import dial
from interpole.engines.vllm_running import write_assets
from interpole.errors import EngineError
from interpole.merging.merged import merge
from interpole.merging.recipe import Recipe
from interpole.runs import samples
from interpole.sweep import run as sweep
from interpole.sweep.config import SweepConfig

gc.freeze()  # vLLM collects garbage at every start: not among all that was imported
per_request.register()

SIZES = {"head_dim": 32, "num_key_value_heads": 2, "intermediate_size": 64}
KINDS = {
    "Qwen3, tied": {"tied": True},
    "Llama, untied": {"family": "llama", "tied": False},
    "Qwen2, with biases": {"family": "qwen2", "tied": True, "hidden_size": 64},
    "Qwen3 with experts, untied": {"moe": True, "moe_intermediate_size": 64, "tied": False},
}
LAMS = (0.0, 0.45, 1.0)
PROMPTS = ["34 a-1 b+2 = ?", "x", "7 a*3 = ?" * 5]
LONG = ["the same long beginning, " * 7 + end for end in ("a", "b", "c")]  # several blocks of the prefix cache
SETTINGS = {
    "kv_cache_memory_bytes": 1 << 26,
    "enforce_eager": True,
    "enable_chunked_prefill": False,
    "generation_config": "vllm",
    "dtype": "float32",
    "distributed_executor_backend": "uni",
}


def scores(llm, jobs, *, salted=True):
    """Greedy tokens with their log-probabilities for pairs of prompt and λ, all in one batch; answers go on past their end."""
    for number, (prompt, lam) in enumerate(jobs):
        tokens = list(live.tokenizer()(prompt, add_special_tokens=False)["input_ids"])
        settings = SamplingParams(
            temperature=0, max_tokens=24, logprobs=1, ignore_eos=True, detokenize=False,
            extra_args=None if lam is None else {"lam": lam},
        )  # fmt: skip
        salt = {"cache_salt": f"lam={lam}"} if salted and lam is not None else {}
        llm.llm_engine.add_request(str(number), {"prompt_token_ids": tokens} | salt, settings)
    found = {}
    while llm.llm_engine.has_unfinished_requests():
        for output in llm.llm_engine.step():
            if output.finished:
                (answer,) = output.outputs
                pairs = zip(answer.token_ids, answer.logprobs, strict=True)
                found[int(output.request_id)] = [(token, step[token].logprob) for token, step in pairs]
    return [found[number] for number in range(len(jobs))]


def of_folder(folder, prompts, **settings):
    """The same from a plain vLLM on a folder, which Interpole has no part in: prompt → tokens and log-probabilities."""
    llm = LLM(str(folder), **SETTINGS | settings)
    try:
        return dict(zip(prompts, scores(llm, [(prompt, None) for prompt in prompts]), strict=True))
    finally:
        llm.llm_engine.engine_core.shutdown()


def start(recipe, folder, **settings):
    folder.mkdir()
    write_assets(dial(recipe)(0.5), folder)
    return LLM(str(folder), **SETTINGS | per_request.settings(recipe) | settings)


def differences(found, expected):
    assert [token for token, _ in found] == [token for token, _ in expected]
    return max(abs(ours - theirs) for (_, ours), (_, theirs) in zip(found, expected, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_of_mixed_lambdas_equals_the_written_folders(kind, tmp_path):
    pair = live.pair(tmp_path, norms=True, **SIZES, **KINDS[kind])
    folder = {lam: save(merge(Recipe.between(*pair, lam, dtype="float32")), tmp_path / f"at-{lam}") for lam in LAMS}
    first, experts = kind == "Qwen3, tied", "experts" in kind
    expected = {lam: of_folder(folder[lam], PROMPTS + LONG * first) for lam in LAMS}
    recipe = Recipe.between(*pair, 0.45)
    exact = not experts  # they are computed by other kernels than vLLM's own
    llm = start(recipe, tmp_path / "assets")
    try:
        jobs = [(prompt, lam) for prompt in PROMPTS for lam in LAMS]
        for (prompt, lam), found in zip(jobs, scores(llm, jobs), strict=True):
            difference = differences(found, expected[lam][prompt])
            assert difference == 0 if exact and lam in (0, 1) else difference < 1e-4, (prompt, lam)
        for lam in (0.0, 1.0):  # a whole step at one end reads that end's weights only
            for prompt, found in zip(PROMPTS, scores(llm, [(prompt, lam) for prompt in PROMPTS]), strict=True):
                assert differences(found, expected[lam][prompt]) <= (0 if exact else 1e-4)
        for prompt, found in zip(PROMPTS, scores(llm, [(prompt, None) for prompt in PROMPTS]), strict=True):
            assert differences(found, expected[0.45][prompt]) < 1e-4  # the default
        if first:
            _prefixes(llm, expected)
    finally:
        llm.llm_engine.engine_core.shutdown()
    if first:
        _in_the_new_runner(pair, tmp_path / "new", expected)
    if first or experts:
        llm = start(recipe, tmp_path / "workers", tensor_parallel_size=2, distributed_executor_backend="mp")
        try:
            for (prompt, lam), found in zip(jobs, scores(llm, jobs), strict=True):
                assert differences(found, expected[lam][prompt]) < 1e-4, (prompt, lam)
        finally:
            llm.llm_engine.engine_core.shutdown()


def _prefixes(llm, expected):
    """Prompts with a long common beginning, one λ after the other, the cache kept."""
    for lam in (0.0, 1.0, 0.0, 1.0):
        for prompt, found in zip(LONG, scores(llm, [(prompt, lam) for prompt in LONG]), strict=True):
            assert differences(found, expected[lam][prompt]) < 1e-4, (prompt, lam)
    scores(llm, [(prompt, 0.0) for prompt in LONG], salted=False)
    mixed_up = scores(llm, [(prompt, 1.0) for prompt in LONG], salted=False)
    assert mixed_up != [expected[1.0][prompt] for prompt in LONG]  # without salts these prompts do show it


def _in_the_new_runner(pair, folder, expected):
    """The same in vLLM's new model runner, in a process of its own."""
    together = [(prompt, lam) for prompt in PROMPTS for lam in LAMS]
    batches = [together, *([(prompt, lam) for prompt in LONG] for lam in (0.0, 1.0, 0.0))]
    here = Path(__file__).parent
    paths = os.pathsep.join([str(here), str(here.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    words = [here / "new_runner.py", *pair, folder, json.dumps(batches)]
    done = subprocess.run(
        [sys.executable, *map(str, words)], env=os.environ | {"PYTHONPATH": paths}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-4000:]
    for batch, answers in zip(batches, json.loads(done.stdout.splitlines()[-1]), strict=True):
        for (prompt, lam), found in zip(batch, answers, strict=True):
            assert differences([tuple(pair) for pair in found], expected[lam][prompt]) < 1e-4, (prompt, lam)


def test_in_bfloat16_the_ends_are_bit_equal_and_between_them_is_one_rounding(tmp_path):
    pair = live.pair(tmp_path, norms=True, **SIZES, **KINDS["Qwen3, tied"])
    recipe = Recipe.between(*pair, 0.45)
    folder = {lam: save(merge(recipe.at(lam)), tmp_path / f"at-{lam}") for lam in LAMS}
    expected = {lam: of_folder(folder[lam], PROMPTS, dtype="bfloat16") for lam in LAMS}
    llm = start(recipe, tmp_path / "assets", dtype="bfloat16")
    try:
        jobs = [(prompt, lam) for prompt in PROMPTS for lam in LAMS]
        for (prompt, lam), found in zip(jobs, scores(llm, jobs), strict=True):
            if lam in (0, 1):
                assert found == expected[lam][prompt]
                continue
            apart = [abs(ours - theirs) for (_, ours), (_, theirs) in _until_they_part(found, expected[lam][prompt])]
            assert 0 < max(apart) < 0.2
    finally:
        llm.llm_engine.engine_core.shutdown()


def _until_they_part(found, expected):
    """Pairs of steps up to and with the first of two tokens, which are about equally likely there."""
    pairs = list(zip(found, expected, strict=True))
    parted = next((number for number, ((ours, _), (theirs, _)) in enumerate(pairs) if ours != theirs), len(pairs))
    return pairs[: parted + 1]


# ── what is refused ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def configured(tmp_path_factory):
    """A function that makes vLLM's configuration of a pair with further settings, without starting it."""
    folder = tmp_path_factory.mktemp("configured")
    recipe = Recipe.between(*live.pair(folder, **SIZES), 0.5)
    write_assets(dial(recipe)(0.5), assets := folder / "assets")

    def make(**settings):
        return EngineArgs(str(assets), **SETTINGS | per_request.settings(recipe) | settings).create_engine_config()

    return make


def test_a_plain_configuration_is_not_refused(configured):
    per_request._refuse(configured())


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"enable_lora": True}, "LoRA"),
        (
            {"speculative_config": {"method": "ngram", "num_speculative_tokens": 2, "prompt_lookup_max": 2}},
            "speculative",
        ),
        ({"kv_sharing_fast_prefill": True}, "fast prefill"),
        ({"hf_overrides": {"head_dtype": "bfloat16"}}, "head of another dtype"),
    ],
)
def test_what_would_not_be_exact_is_refused_at_the_start(configured, settings, what):
    with pytest.raises(EngineError, match=what):
        per_request._refuse(configured(**settings))


def test_an_architecture_that_nobody_tested_is_refused(configured, monkeypatch):
    monkeypatch.setattr(per_request, "ARCHITECTURES", ("LlamaForCausalLM",))
    with pytest.raises(EngineError, match="Qwen3ForCausalLM is not among the tested: LlamaForCausalLM"):
        per_request._refuse(configured())


def test_a_recipe_that_is_no_straight_line_has_no_lambda_per_request(tmp_path):
    pair = live.pair(tmp_path)
    with pytest.raises(EngineError, match="slerp has no λ per request"):
        per_request.settings(Recipe.between(*pair, 0.5, method="slerp"))


def test_a_weight_that_no_layer_can_mix_is_refused_by_name():
    model = torch.nn.ModuleDict({"odd": torch.nn.LayerNorm(4), "same": torch.nn.LayerNorm(4)})
    instruct = {id(one): one.data.clone() for one in model.parameters()}
    model["odd"].weight.data += 1
    rows = vllm_layers.RowLambdas(8, 2, default=0.5, eager=True)
    with pytest.raises(EngineError, match="odd, a LayerNorm, differs"):
        vllm_layers.twins(model, instruct, rows)


# ── λ of every row ───────────────────────────────────────────────────────────────────────────────────────────────


def test_each_token_has_its_requests_lambda_and_each_request_one_row_of_logits():
    rows = vllm_layers.RowLambdas(8, 4, default=0.5, eager=True)
    rows.fill(np.array([0.0, 0.25, 1.0]), np.array([2, 1, 3]))
    assert rows.tokens[:6, 0].tolist() == [0, 0, 0.25, 1, 1, 1]
    assert rows.logits[:3, 0].tolist() == [0, 0.25, 1]
    assert rows.end is None


@pytest.mark.parametrize(
    ("lams", "eager", "end"), [([1, 1], True, 1), ([0, 0], True, 0), ([1, 1], False, None), ([0.5], True, None)]
)
def test_only_a_whole_step_at_an_end_outside_of_graphs_is_short(lams, eager, end):
    rows = vllm_layers.RowLambdas(8, 4, default=0.5, eager=eager)
    rows.fill(np.array(lams), np.ones(len(lams), int))
    assert rows.end == end


def test_the_new_model_runner_finds_lambda_by_the_slot_of_a_request():
    class Base:
        max_num_reqs = 4

        def __init__(self, vllm_config, model): ...
        def add_request(self, req_index, new_req_data): ...
        def preprocess_state(self, input_batch, *rest): ...

    rows = vllm_layers.RowLambdas(8, 4, default=0.5, eager=True)
    state = per_request._state_class(Base)(None, SimpleNamespace(interpole_rows=rows))
    for slot, arguments in ((3, {"lam": 0.25}), (0, None), (1, {"lam": 1})):
        state.add_request(slot, SimpleNamespace(sampling_params=SamplingParams(extra_args=arguments)))
    batch = SimpleNamespace(idx_mapping_np=np.array([1, 3, 0]), num_scheduled_tokens=np.array([1, 3, 1]))
    state.preprocess_state(batch, None, None)
    assert rows.tokens[:5, 0].tolist() == [1, 0.25, 0.25, 0.25, 0.5]


def test_a_sweep_with_all_lambdas_in_one_batch_gives_the_responses_of_one_from_point_to_point(tmp_path):
    content = live.sweep_of(live.pair(tmp_path, **SIZES), "0,0.45,1", max_tokens=8, kv_cache_memory_bytes=1 << 26)
    content["engine"] = "vllm"
    found = []
    for batched in (False, True):
        out = tmp_path / f"{batched}"
        summary = sweep.run(SweepConfig.of(content | {"per_request": batched}), out)
        assert (summary.num_generated, summary.failed) == (12, ())
        assert summary.run.engine.get("lambda") == ("per request" if batched else None)
        found.append({(one.point, one.problem_id): one.response for one in samples.read(out)})
    assert found[0] == found[1]
    assert len(set(found[0].values())) > 6
