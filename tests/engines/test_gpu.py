"""What only a GPU can show. Skipped without one; `make gpu-smoke` runs these and prints JSON."""

from importlib.util import find_spec

import pytest
import torch

import live
from interpole.checkpoints.save import save
from interpole.engines.open import dial, open_engine
from interpole.merging.merged import merge
from interpole.merging.recipe import Recipe
from interpole.records import Sampler

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here"),
]
needs_vllm = pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed here")

SIZES = {"head_dim": 64, "num_key_value_heads": 2, "intermediate_size": 64}
LAMS = (0.0, 0.45, 1.0)
PROMPTS = ["34 a-1 b+2 = ?", "x", "7 a*3 = ?" * 5]
GREEDY = Sampler(temperature=0, max_tokens=40)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    return live.pair(tmp_path_factory.mktemp("pair"), norms=True, **SIZES)


@pytest.fixture(scope="module")
def folders(pair, tmp_path_factory):
    folder = tmp_path_factory.mktemp("folders")
    return {lam: save(merge(Recipe.between(*pair, lam, dtype="float32")), folder / str(lam)) for lam in LAMS}


def test_weights_dialled_on_the_device_are_those_of_the_folder(pair):
    engine = open_engine("transformers", Recipe.between(*pair, 0.0), dtype="float32", device="cuda")
    for lam in LAMS:
        with engine.at(lam):
            expected = merge(Recipe.between(*pair, lam))
            for name, weight in engine.model.named_parameters():
                ours = torch.from_numpy(expected[name].astype("float32"))
                assert torch.equal(weight.cpu(), ours), (lam, name)


@needs_vllm
@pytest.mark.parametrize("eager", [True, False], ids=["eager", "graphs"])
def test_vllm_mixes_lambdas_in_one_batch_as_the_folders_say(pair, folders, tmp_path, eager, monkeypatch):
    from vllm import LLM, SamplingParams

    from interpole.engines import vllm_per_request
    from interpole.engines.vllm_running import write_assets

    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    vllm_per_request.register()
    settings = {
        "dtype": "float32", "enforce_eager": eager, "gpu_memory_utilization": 0.2, "generation_config": "vllm",
        "max_model_len": 256,
    }  # fmt: skip

    def scores(llm, jobs):
        asked = [
            {
                "prompt_token_ids": live.tokenizer()(prompt, add_special_tokens=False)["input_ids"],
                "cache_salt": str(lam),
            }
            for prompt, lam in jobs
        ]
        sampled = [
            SamplingParams(temperature=0, max_tokens=40, ignore_eos=True, logprobs=1, extra_args={"lam": lam})
            for _, lam in jobs
        ]
        answers = [answer.outputs[0] for answer in llm.generate(asked, sampled, use_tqdm=False)]
        return [
            [(token, step[token].logprob) for token, step in zip(one.token_ids, one.logprobs, strict=True)]
            for one in answers
        ]

    jobs = [(prompt, lam) for prompt in PROMPTS for lam in LAMS]
    expected = {}
    for lam, folder in folders.items():
        llm = LLM(str(folder), **settings)
        expected |= dict(
            zip([(prompt, lam) for prompt in PROMPTS], scores(llm, [(p, lam) for p in PROMPTS]), strict=True)
        )
        llm.llm_engine.engine_core.shutdown()
        del llm
        torch.cuda.empty_cache()
    recipe = Recipe.between(*pair, 0.45)
    write_assets(dial(recipe)(0.5), tmp_path)
    llm = LLM(str(tmp_path), **settings | vllm_per_request.settings(recipe))
    try:
        for job, found in zip(jobs, scores(llm, jobs), strict=True):
            assert [token for token, _ in found] == [token for token, _ in expected[job]], job
            assert max(abs(a[1] - b[1]) for a, b in zip(found, expected[job], strict=True)) < 1e-3, job
    finally:
        llm.llm_engine.engine_core.shutdown()
