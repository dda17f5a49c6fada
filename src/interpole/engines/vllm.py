"""The engine over vLLM: one engine runs through a whole sweep, and λ moves in it while it stays up.

It runs inside of this process (several workers are processes of their own): prompts and answers are tokens, there is no port to
find and no server to wait for, and `EngineProcess` supervises it like any other engine. Loading is vLLM's own, so fused
projections, experts and tensor parallelism are its business; `vllm_worker` streams the merge into it. No weights are read twice:
the model starts empty, and the first `load` fills it.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
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
from interpole.engines.base import (
    Engine,
    Finished,
    Request,
    Resolve,
    chance_finished,
    eos_tokens,
    marker_tokens,
)
from interpole.engines.open import dial
from interpole.engines.sampling import Settings, chances
from interpole.engines.vllm_worker import Proof, checksum
from interpole.errors import EngineError, MismatchError
from interpole.merging.recipe import Recipe
from interpole.records import Generation

__all__ = ["Prepared", "VllmEngine", "cpu_defaults", "open_vllm", "write_assets"]

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


class VllmEngine(Engine):
    """A vLLM engine, driven step by step (see `engines.base.Engine`).

    Attributes:
        tokenizer: the model's tokenizer.
        context_tokens: most tokens of a prompt and its response together.
        proofs: what each worker reported of them.
    """

    takes = frozenset({"min_p", "begins"})
    _output_kind = RequestOutputKind.FINAL_ONLY
    _lam_in_batch = False  # requests bring a λ, which vLLM is told

    def __init__(
        self,
        where: Any,
        opener: Callable[[], Resolve],
        *,
        max_rows: int | None = None,
        check: str = "sample",
        **settings: Any,
    ) -> None:
        """Start vLLM with the architecture, config and tokenizer of `where`, and load its weights.

        Args:
            where: the first weights: λ, or a recipe.
            opener: makes the function that makes checkpoints of what `at` and `load` are given. Every worker calls it, so it must
                pickle.
            max_rows: most responses generated at the same time; default vLLM's own (`max_num_seqs`).
            check: how much of the weights is checked after every `load`: `sample`, or `all` (costs about as much as the switch).
            **settings: vLLM's own `EngineArgs`: `tensor_parallel_size`, `gpu_memory_utilization`, `max_model_len`, `dtype` …

        Raises:
            EngineError: vLLM cannot be started with these settings, or loaded something else than it was given.
        """
        if check not in ("sample", "all"):
            raise EngineError(f"check: {check!r}", remedy="say `sample` or `all`")
        self._check_all, self._resolve = check == "all", opener()
        first: Checkpoint = self._resolve(where)
        self._specs = dict(first.specs)
        self._open(first, max_rows, settings)
        self._llm.collective_rpc("interpole_open", args=(opener,))
        self.load(where)

    def _open(self, first: Checkpoint, max_rows: int | None, settings: dict[str, Any]) -> None:
        """Start vLLM with config and tokenizer of a checkpoint."""
        with TemporaryDirectory(prefix="interpole-vllm-") as folder:
            write_assets(first, Path(folder))
            self.tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
            self._llm = _start(folder, max_rows, settings)
        config = self._llm.vllm_config
        self.context_tokens, self._dtype = config.model_config.max_model_len, config.model_config.dtype
        self._num_workers = config.parallel_config.world_size
        self._eager = bool(config.model_config.enforce_eager)
        self._eos = sorted(eos_tokens(first, self.tokenizer))
        self.proofs, self._weighed = list[Proof](), dict[int, _Weighed]()

    def versions(self) -> dict[str, str]:
        """Name, versions, dtype, device, number of workers, and whether the model is compiled: each may change roundings."""
        return {
            "engine": "vllm",
            "vllm": vllm.__version__,
            "torch": torch.__version__,
            "dtype": str(self._dtype).removeprefix("torch."),
            "device": current_platform.device_type,
            "workers": str(self._num_workers),
            "compiled": "no" if self._eager else "yes",
        }

    @property
    def busy(self) -> bool:
        """Whether vLLM has requests that are not finished."""
        return bool(self._llm.has_unfinished_requests())

    def abandon(self) -> None:
        """Abort all requests."""
        self._llm.abort_request(list(self._llm.output_processor.request_states), internal=True)
        self._weighed.clear()

    def _move(self, where: Any) -> str:
        """Replace the weights in every worker, forget all cached prefixes, prove it, and return the fingerprint.

        Raises:
            EngineError: the proof failed; do not generate after that, but load again.
            MismatchError: the weights are not those of the running architecture; nothing was changed.
        """
        checkpoint = self._resolve(where)
        self._check_fits(checkpoint)
        self.proofs = self._llm.collective_rpc("interpole_load", args=(where, self._check_all))
        if not self._llm.reset_prefix_cache():
            raise EngineError("vLLM did not reset its prefix cache", remedy="load again, or start another engine")
        expected = checksum(checkpoint, self._check_all)
        for rank, proof in enumerate(self.proofs):
            if proof.checksum != expected:
                raise EngineError(
                    f"worker {rank} loaded other weights than `merge` would write",
                    checkpoint.label,
                    "every worker must see the same, unchanged source folders; then load again",
                )
        self._refuse([proof.wrong for proof in self.proofs])
        return checkpoint.fingerprint()

    def verify(self) -> None:
        """Read live weights again.

        Raises:
            EngineError: some of them are not what was last loaded; names them.
        """
        self._refuse(self._llm.collective_rpc("interpole_read_back"))

    def add(self, request: Request) -> None:
        """Tokenise and queue a request.

        Raises:
            EngineError: its prompt leaves no room in the model's context, it asks for what is not done here, or vLLM refuses it.
        """
        if request.begins is None:
            self._submit(self._prepared(request))
        else:
            self._weigh(request, request.begins)

    def _weigh(self, request: Request, text: str) -> None:
        """Ask for what comes next before each of a text's tokens: one token each, of which all chances are wanted.

        Raises:
            EngineError: as `add`.
        """
        key, prompt, *_ = self._prepared(request)
        tokens = marker_tokens(self.tokenizer, text, self.context_tokens - len(prompt))
        settings = SamplingParams(
            max_tokens=1, logprobs=-1, flat_logprobs=True, detokenize=False, output_kind=self._output_kind,
            extra_args=self._extra(request),
        )  # fmt: skip
        self._weighed[key] = _Weighed(request, tokens, {})
        for number in range(len(tokens)):
            self._submit(Prepared(key, [*prompt, *tokens[:number]], settings, number))

    def _prepared(self, request: Request) -> Prepared:
        """A request as vLLM takes it.

        Raises:
            EngineError: as `add`.
        """
        self._check(request)
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

    def _submit(self, prepared: Prepared) -> None:
        """Hand a request to vLLM.

        Raises:
            EngineError: vLLM refuses it.
        """
        key, prompt, settings, number = prepared
        name = str(key) if number is None else f"{key}:{number}"
        lam = (settings.extra_args or {}).get("lam")
        salt = {} if lam is None else {"cache_salt": f"lam={lam!r}"}  # prefixes of one λ are no other's
        try:
            self._llm.add_request(name, {"prompt_token_ids": prompt} | salt, settings)
        except (VLLMError, ValueError) as error:
            raise EngineError(f"vLLM refuses a request: {error}") from error

    def step(self) -> list[Finished]:
        """One step of vLLM's scheduler."""
        if not self.busy:
            return []
        self.progress += 1
        finished = []
        for output in self._llm.step():
            if output.finished and ":" in output.request_id:
                finished += self._seen(output)
            elif output.finished:
                answer = output.outputs[0]
                finished.append(self._finished(int(output.request_id), answer.token_ids, answer.finish_reason))
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
        self._llm.engine_core.shutdown()

    def _finished(self, key: int, token_ids: Sequence[int], finish: str) -> Finished:
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
        return {"lam": request.lam} if self._lam_in_batch else None

    def _check_fits(self, checkpoint: Checkpoint) -> None:
        for name in self._specs.keys() | checkpoint.specs.keys():
            ours, theirs = self._specs.get(name), checkpoint.specs.get(name)
            if ours is None or theirs is None or ours.shape != theirs.shape:
                raise MismatchError(
                    f"tensor {name} is {theirs or 'missing'}, the running model's is {ours or 'missing'}",
                    checkpoint.label,
                    "start another engine for another architecture",
                )

    def _refuse(self, wrong: Sequence[Sequence[str]]) -> None:
        for rank, names in enumerate(wrong):
            if names:
                raise EngineError(
                    f"{len(names)} live modules of worker {rank} do not hold what was loaded, the first: {names[0]}",
                    remedy="load again; if it stays, this vLLM loads this architecture otherwise: please report it",
                )


def open_vllm(recipe: Recipe, **options: Any) -> VllmEngine:
    """The engine that the registry calls `vllm`, at a recipe; every worker opens the recipe's checkpoints itself."""
    return VllmEngine(recipe, partial(dial, recipe), **options)


def _start(folder: str, max_rows: int | None, settings: dict[str, Any]) -> LLMEngine:
    """A vLLM engine over a folder of config and tokenizer, with weights yet to come."""
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # the scheduler lives in this process
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    logging.getLogger("vllm").setLevel(os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR"))
    options = cpu_defaults(settings) | settings
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
