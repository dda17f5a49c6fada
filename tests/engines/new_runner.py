"""A batch of mixed λ in vLLM's new model runner, on a CPU: `python new_runner.py INSTRUCT THINKING FOLDER JOBS` prints JSON.

The new runner is written in Triton, which has no compiler for CPUs on PyPI, but an interpreter. It has to be chosen before
anything is imported, and for a whole process.
"""
# ruff: noqa: E402

import os

os.environ |= {"TRITON_INTERPRET": "1", "VLLM_USE_V2_MODEL_RUNNER": "1"}

from types import SimpleNamespace

import triton.backends

triton.backends.backends["cpu"] = SimpleNamespace(driver=SimpleNamespace(is_active=lambda: True))  # what vLLM looks for

import json
import sys
from pathlib import Path

import test_vllm_per_request as tests

from interpole.merging.recipe import Recipe

if __name__ == "__main__":
    instruct, thinking, folder, jobs = sys.argv[1:]
    llm = tests.start(Recipe.between(instruct, thinking, 0.45), Path(folder))
    assert llm.llm_engine.vllm_config.use_v2_model_runner
    print(json.dumps([tests.scores(llm, batch) for batch in json.loads(jobs)]))
