"""vLLM as tests run it: in this process, bound to no cores, saying little. Where it is not installed, its tests are skipped."""

import os

import pytest

os.environ |= {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
}
pytest.importorskip("vllm", reason="vLLM is not installed here: make test-vllm")
