"""A running vLLM, and the requests that it answers, as tokens in and tokens out; whose they are is the business of an engine.

It runs inside of this process (several workers are processes of their own): there is no port to find and no server to wait for.
It starts empty, with config and tokenizer of a checkpoint; where its weights come from is said by who starts it.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
import vllm
from transformers import AutoTokenizer
from vllm.engine.arg_utils import EngineArgs
from vllm.exceptions import VLLMError
from vllm.platforms import current_platform
from vllm.sampling_params import RequestOutputKind, SamplingParams
from vllm.usage.usage_lib import UsageContext
from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackend
from vllm.v1.engine.llm_engine import LLMEngine

from interpole.checkpoints.assets import copy
from interpole.checkpoints.checkpoint import Checkpoint
from interpole.engines.base import Finished, Request, chance_finished, eos_tokens, lam_of, marker_tokens
from interpole.engines.sampling import Settings, chances
from interpole.errors import EngineError
from interpole.records import Generation

__all__ = ["Prepared", "RunningVllm", "cpu_defaults", "write_assets"]

WORKER = "interpole.engines.vllm_worker.DialWorker"
SMALLER = "shorten it, or raise max_model_len; an empty prompt cannot be answered"


class Prepared(NamedTuple):
    """A request as vLLM takes it."""

    key: int
    prompt: list[int]  # token ids
    settings: SamplingParams
    number: int | None = None  # of several that are asked for one request


class _Weighed(NamedTuple):
    """A request that `begins` with a text, under way: its tokens, and what is known of each."""

    request: Request
    tokens: list[int]
    steps: dict[int, list[float]]


class RunningVllm:
    """vLLM's engine, driven step by step.

    Attributes:
        llm: vLLM's own.
        tokenizer: the model's tokenizer.
        context_tokens: most tokens of a prompt and its response together.
        max_rows: most responses generated at the same time.
    """

    def __init__(
        self,
        first: Checkpoint,
        max_rows: int | None,
        settings: Mapping[str, Any],
        *,
        with_lam: bool = False,
        as_drawn: bool = False,
    ) -> None:
        """Start vLLM with architecture, config and tokenizer of a checkpoint.

        Args:
            first: the checkpoint.
            max_rows: most responses generated at the same time; default vLLM's own (`max_num_seqs`).
            settings: vLLM's own `EngineArgs`.
            with_lam: requests bring a λ, which vLLM is told.
            as_drawn: vLLM says the tokens of each step, not all at the end.

        Raises:
            EngineError: vLLM cannot be started with these settings.
        """
        with TemporaryDirectory(prefix="interpole-vllm-") as folder:
            write_assets(first, Path(folder))
            self.tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
            self.llm = _start(folder, max_rows, settings)
        config = self.llm.vllm_config
        self.context_tokens, self._dtype = config.model_config.max_model_len, config.model_config.dtype
        self.max_rows: int = config.scheduler_config.max_num_seqs
        self._num_workers = config.parallel_config.world_size
        self._eager = bool(config.model_config.enforce_eager)
        self._eos = sorted(eos_tokens(first, self.tokenizer))
        self._with_lam = with_lam
        self._output_kind = RequestOutputKind.DELTA if as_drawn else RequestOutputKind.FINAL_ONLY
        self._weighed = dict[int, _Weighed]()

    def versions(self) -> dict[str, str]:
        """Name, versions, dtype, device, number of workers, whether the model is compiled: what may change roundings."""
        return {
            "engine": "vllm",
            "vllm": vllm.__version__,
            "torch": torch.__version__,
            "dtype": str(self._dtype).removeprefix("torch."),
            "device": current_platform.device_type,
            "workers": str(self._num_workers),
            "compiled": "no" if self._eager else "yes",
        } | ({"lambda": "per request"} if self._with_lam else {})

    @property
    def busy(self) -> bool:
        """Whether vLLM has requests that are not finished."""
        return bool(self.llm.has_unfinished_requests())

    def abandon(self) -> None:
        """Abort all requests."""
        self.llm.abort_request(list(self.llm.output_processor.request_states), internal=True)
        self._weighed.clear()

    def add(self, request: Request) -> None:
        """Tokenise and queue a request.

        Raises:
            EngineError: its prompt leaves no room in the model's context, it asks for what is not done here, or vLLM refuses it.
        """
        if request.begins is None:
            self.submit(self.prepared(request))
        else:
            self._weigh(request, request.begins)

    def _weigh(self, request: Request, text: str) -> None:
        """Ask for what comes next before each of a text's tokens: one token each, of which all chances are wanted.

        Raises:
            EngineError: as `add`.
        """
        key, prompt, *_ = self.prepared(request)
        tokens = marker_tokens(self.tokenizer, text, self.context_tokens - len(prompt))
        settings = SamplingParams(
            max_tokens=1, logprobs=-1, flat_logprobs=True, detokenize=False, output_kind=self._output_kind,
            extra_args=self._extra(request),
        )  # fmt: skip
        self._weighed[key] = _Weighed(request, tokens, {})
        for number in range(len(tokens)):
            self.submit(Prepared(key, [*prompt, *tokens[:number]], settings, number))

    def prepared(self, request: Request) -> Prepared:
        """A request as vLLM takes it.

        Raises:
            EngineError: as `add`.
        """
        prompt = self.tokenizer(request.prompt, add_special_tokens=False)["input_ids"]
        room = self.context_tokens - len(prompt)
        if not prompt or room <= 0:
            raise EngineError(
                f"a prompt of {len(prompt)} tokens does not fit a context of {self.context_tokens}", remedy=SMALLER
            )
        try:
            return Prepared(request.key, prompt, self._settings(request, room))
        except (VLLMError, ValueError) as error:
            raise EngineError(f"vLLM refuses a request: {error}") from error

    def submit(self, prepared: Prepared) -> None:
        """Hand a request to vLLM.

        Raises:
            EngineError: vLLM refuses it.
        """
        key, prompt, settings, number = prepared
        name = str(key) if number is None else f"{key}:{number}"
        lam = (settings.extra_args or {}).get("lam")
        salt = {} if lam is None else {"cache_salt": f"lam={lam!r}"}  # prefixes of one λ are no other's
        try:
            self.llm.add_request(name, {"prompt_token_ids": prompt} | salt, settings)
        except (VLLMError, ValueError) as error:
            raise EngineError(f"vLLM refuses a request: {error}") from error

    def step(self) -> list[Finished]:
        """One step of vLLM's scheduler."""
        if not self.busy:
            return []
        finished = []
        for output in self.llm.step():
            if output.finished and ":" in output.request_id:
                finished += self._seen(output)
            elif output.finished:
                answer = output.outputs[0]
                finished.append(self.finished(int(output.request_id), answer.token_ids, answer.finish_reason))
        return finished

    def _seen(self, output: Any) -> list[Finished]:
        """Take in what comes before one token of a text; returns the request when its last is known."""
        key, number = map(int, output.request_id.split(":"))
        request, tokens, steps = self._weighed[key]
        found = output.outputs[0].logprobs
        logits = torch.full((1, max(found.token_ids) + 1), -torch.inf, dtype=torch.float64)
        logits[0, found.token_ids] = torch.tensor(found.logprobs, dtype=torch.float64)
        settings = Settings.of([request.sampler], logits.shape[1], logits.device, [request.min_p])
        steps[number] = chances(logits, settings, torch.tensor([tokens[number]]))[0].tolist()
        if len(steps) < len(tokens):
            return []
        del self._weighed[key]
        return [chance_finished(request, [step for _, step in sorted(steps.items())])]

    def close(self) -> None:
        """End vLLM and its workers."""
        self.llm.engine_core.shutdown()

    def finished(self, key: int, token_ids: Sequence[int], finish: str) -> Finished:
        """The response without its final end-of-sequence token; everything else, special or not, stays."""
        if finish not in ("stop", "length"):
            error = EngineError(f"vLLM gave a response up: {finish}", remedy="run again; see vLLM's log")
            return Finished(key, Generation("", 0, "error"), error)
        tokens = list(token_ids)
        kept = tokens[:-1] if finish == "stop" else tokens
        text = self.tokenizer.decode(kept, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return Finished(key, Generation(text, len(tokens), finish))

    def _settings(self, request: Request, room: int) -> SamplingParams:
        sampler = request.sampler
        return SamplingParams(
            temperature=sampler.temperature,
            top_p=sampler.top_p,
            top_k=sampler.top_k,
            max_tokens=min(sampler.max_tokens, room),
            min_p=request.min_p,
            seed=request.seed % 2**63,
            stop_token_ids=self._eos,
            detokenize=False,
            skip_special_tokens=False,
            logprobs=request.top_logprobs,
            output_kind=self._output_kind,
            extra_args=self._extra(request),
        )

    def _extra(self, request: Request) -> dict[str, Any] | None:
        return {"lam": lam_of(request.lam)} if self._with_lam else None


def _start(folder: str, max_rows: int | None, settings: Mapping[str, Any]) -> LLMEngine:
    """A vLLM engine over a folder of config and tokenizer, with weights yet to come."""
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # the scheduler lives in this process
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    logging.getLogger("vllm").setLevel(os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR"))
    options = cpu_defaults(settings) | dict(settings)
    try:
        arguments = EngineArgs(
            model=folder,
            max_num_seqs=max_rows,
            seed=0,
            worker_extension_cls=WORKER,
            generation_config="vllm",
            **{"load_format": "dummy", "max_logprobs": -1} | options,
        )
        config = arguments.create_engine_config(UsageContext.ENGINE_CONTEXT)
        size = config.model_config.get_head_size()
        if current_platform.is_cpu() and size not in CPUAttentionBackend.get_supported_head_sizes():
            raise EngineError(
                f"vLLM has no attention for heads of {size} on a CPU", remedy="use the transformers engine"
            )
        return LLMEngine.from_vllm_config(config, disable_log_stats=True)
    except (VLLMError, ValueError, RuntimeError, OSError, AssertionError) as error:
        raise EngineError(
            f"vLLM cannot be started: {error}", remedy="check engine_options: vLLM's EngineArgs"
        ) from error


def cpu_defaults(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What suits a CPU, where this is one: no compiling (minutes), one process for one worker, several not pinned to NUMA nodes.

    Prompts are read whole: between two pieces of one vLLM 0.32 rewinds its request's generator, which a CPU's cannot do.
    """
    if not current_platform.is_cpu():
        return {}
    defaults: dict[str, Any] = {"enforce_eager": True, "enable_chunked_prefill": False}
    if not {"kv_cache_memory_bytes", "gpu_memory_utilization"} & settings.keys():
        defaults["kv_cache_memory_bytes"] = 4 << 30
    if settings.get("tensor_parallel_size", 1) == 1:
        defaults["distributed_executor_backend"] = "uni"
    else:
        os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    return defaults


def write_assets(checkpoint: Checkpoint, folder: Path) -> None:
    """Config, tokenizer and templates of a checkpoint, and nothing else, for vLLM to start from."""
    for name, path in checkpoint.assets.items():
        copy(path, folder / name)
    (folder / "config.json").write_text(json.dumps(dict(checkpoint.config)), encoding="utf-8")
