"""λ per request in vLLM: both ends are loaded, and every row of a batch is mixed at its own request's λ.

A plugin of vLLM (`vllm.general_plugins`): the loader `interpole` reads two checkpoints through the model's own `load_weights`, so
fused projections, experts and tensor parallelism are vLLM's business, and gives its layers both (`engines.vllm_layers`). What
cannot be exact is refused when vLLM starts (`_refuse`), and what a request may not ask for by `serve.vllm`.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Generator
from multiprocessing import parent_process
from typing import Any

import numpy as np
import torch
from vllm.model_executor.model_loader import register_model_loader
from vllm.model_executor.model_loader.default_loader import DefaultModelLoader
from vllm.platforms import current_platform
from vllm.reasoning import ReasoningParserManager

from interpole.engines.open import dial
from interpole.engines.stream import Named, tensors
from interpole.engines.vllm_layers import IN_PLACE, RowLambdas, twins
from interpole.errors import EngineError
from interpole.merging.recipe import Recipe, build

__all__ = ["ARCHITECTURES", "FOLDER", "LOAD_FORMAT", "PairLoader", "register", "settings"]

LOAD_FORMAT = "interpole"
FOLDER = "INTERPOLE_SERVED_FOLDER"
"""The variable of the environment that says where a server's config, tokenizer and chat template are; vLLM starts processes."""
ARCHITECTURES = ("LlamaForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM", "Qwen3MoeForCausalLM")
"""vLLM's classes that are tested: others may read weights where no twin is asked."""
VERSION = 1
"""Of what is done to a model; part of the key of vLLM's cache of compiled models."""


def settings(recipe: Recipe) -> dict[str, Any]:
    """What vLLM's `EngineArgs` need besides a folder of config and tokenizer, to load a recipe's two ends; its λ is the default.

    Raises:
        EngineError: the recipe's weights are no straight line between two ends.
    """
    default, resolve = _default(recipe), dial(recipe)
    content = recipe.at(default).model_dump(mode="json", by_alias=True, exclude_none=True)
    identity = {
        "version": VERSION,
        "pair": recipe.identity(),
        "ends": [resolve(lam).fingerprint() for lam in (0.0, 1.0)],
    }
    return {
        "load_format": LOAD_FORMAT,
        "model_loader_extra_config": {"recipe": content},
        "additional_config": {"interpole": identity},
    }


def _default(recipe: Recipe) -> float:
    """λ of a request that names none."""
    if recipe.method != "linear" or not isinstance(recipe.lam, int | float):
        raise EngineError(
            f"{recipe.method} has no λ per request", remedy="use the plain interpolation of a pair, or switch in place"
        )
    return float(recipe.lam)


class PairLoader(DefaultModelLoader):
    """Loads the two ends of a recipe into one model (`load_format: interpole`)."""

    _source: Any = None

    def __init__(self, load_config: Any) -> None:
        extra = dict(load_config.model_loader_extra_config)
        if "recipe" not in extra:
            raise EngineError(
                "the loader `interpole` needs a recipe", remedy="start it by `interpole serve --engine vllm`"
            )
        recipe = build(extra.pop("recipe"), "model_loader_extra_config")
        self._default, self._resolve = _default(recipe), dial(recipe)
        super().__init__(dataclasses.replace(load_config, load_format="auto", model_loader_extra_config=extra))

    def load_model(self, vllm_config: Any, model_config: Any, prefix: str = "") -> torch.nn.Module:
        """The model, ready to run.

        Raises:
            EngineError: λ per request would not be exact with this configuration, or this model.
        """
        _refuse(vllm_config)
        graphs = vllm_config.compilation_config
        self._rows = RowLambdas(
            max(vllm_config.scheduler_config.max_num_batched_tokens, *(graphs.cudagraph_capture_sizes or (0,)), 1),
            vllm_config.scheduler_config.max_num_seqs,
            default=self._default,
            eager=model_config.enforce_eager,
            device=vllm_config.device_config.device,
        )
        model = super().load_model(vllm_config, model_config, prefix)
        _follow_steps(model, self._rows, vllm_config)
        return model

    def download_model(self, model_config: Any) -> None:  # noqa: ARG002
        """Opening the sources has fetched them."""
        self._resolve(0.5)

    def get_all_weights(self, model_config: Any, model: torch.nn.Module) -> Generator[Named, None, None]:  # noqa: ARG002
        """The tensors of the end that is being loaded."""
        yield from tensors(self._source, next(model.parameters()).device)

    def load_weights(self, model: torch.nn.Module, model_config: Any) -> None:
        """Load Instruct, then Thinking, and part them.

        Raises:
            EngineError: a layer that differs has no form with a λ per row, or the checkpoints' head is not the model's.
        """
        self._source = self._resolve(0.0)
        super().load_weights(model, model_config)
        instruct = {id(one): one.data.clone() for one in model.parameters()}
        self._source = self._resolve(1.0)
        super().load_weights(model, model_config)
        for end in (0.0, 1.0):
            _check_head(self._resolve(end), model_config)
        twins(model, instruct, self._rows)


def _check_head(checkpoint: Any, model_config: Any) -> None:
    """Refuse a checkpoint that says it is tied but has another head: vLLM would leave that out here, and use it from a folder."""
    head, embedding = "lm_head.weight", "model.embed_tokens.weight"
    if not getattr(model_config.hf_text_config, "tie_word_embeddings", False) or head not in checkpoint:
        return
    if embedding not in checkpoint or not np.array_equal(
        checkpoint[head].view(np.uint8), checkpoint[embedding].view(np.uint8)
    ):
        raise EngineError(
            f"config.json says that {head} is the embedding, but it is another tensor",
            checkpoint.label,
            "set tie_word_embeddings to false in config.json",
        )


def _follow_steps(model: Any, rows: RowLambdas, vllm_config: Any) -> None:
    """Have the model runner, old or new, fill `rows` before each step."""
    model.interpole_rows = rows
    if vllm_config.use_v2_model_runner:
        from vllm.v1.worker.gpu.model_states.default import DefaultModelState

        model.get_model_state_cls = lambda: _state_class(DefaultModelState)
        return
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner

    plain = GPUModelRunner._prepare_inputs
    if hasattr(plain, "interpole"):
        return

    @functools.wraps(plain)
    def prepare_inputs(self: Any, scheduler_output: Any, num_scheduled_tokens: np.ndarray[Any, Any]) -> Any:
        rows = getattr(self.get_model(), "interpole_rows", None)
        if rows is not None:
            batch = self.input_batch.req_ids
            rows.fill(np.array([rows.of(self.requests[one].sampling_params) for one in batch]), num_scheduled_tokens)
        return plain(self, scheduler_output, num_scheduled_tokens)

    prepare_inputs.interpole = True  # type: ignore[attr-defined]
    GPUModelRunner._prepare_inputs = prepare_inputs


@functools.cache
def _state_class(base: Any) -> Any:
    """The new model runner's hook: λ of each slot for a request, and of each row before a step."""

    class PerRequestState(base):
        def __init__(self, vllm_config: Any, model: Any, *args: Any, **kwargs: Any) -> None:
            super().__init__(vllm_config, model, *args, **kwargs)
            self._rows = model.interpole_rows
            self._lams = np.zeros(self.max_num_reqs, np.float32)

        def add_request(self, req_index: int, new_req_data: Any) -> None:
            super().add_request(req_index, new_req_data)
            self._lams[req_index] = self._rows.of(new_req_data.sampling_params)

        def preprocess_state(self, input_batch: Any, *args: Any, **kwargs: Any) -> None:
            super().preprocess_state(input_batch, *args, **kwargs)
            self._rows.fill(self._lams[input_batch.idx_mapping_np], input_batch.num_scheduled_tokens)

    return PerRequestState


def _refuse(config: Any) -> None:
    """Refuse a configuration in which rows would not be computed at their λ, or nobody has checked that they are.

    Raises:
        EngineError: with every reason.
    """
    model, parallel = config.model_config, config.parallel_config
    [architecture, *_] = model.architectures
    checks = {
        f"{architecture} is not among the tested: {', '.join(ARCHITECTURES)}": architecture not in ARCHITECTURES,
        "quantised weights": model.quantization is not None or config.quant_config is not None,
        "LoRA adapters": config.lora_config is not None,
        "speculative decoding": config.speculative_config is not None,
        "models that do not generate": model.runner_type != "generate",
        "several inputs (multimodal)": model.is_multimodal_model,
        "a head of another dtype": model.head_dtype != model.dtype,
        "embeddings as prompts": bool(model.enable_prompt_embeds),
        "microbatches (--enable-dbo, --ubatch-size)": bool(parallel.use_ubatching),
        "pipeline parallelism": parallel.pipeline_parallel_size > 1,
        "data parallelism": parallel.data_parallel_size > 1,
        "expert parallelism": bool(parallel.enable_expert_parallel or parallel.enable_eplb),
        "context parallelism": parallel.decode_context_parallel_size > 1 or parallel.prefill_context_parallel_size > 1,
        "sequence parallelism": bool(parallel.use_sequence_parallel_moe),
        "a key-value cache from elsewhere": config.kv_transfer_config is not None,
        "fast prefill with shared keys and values": bool(config.cache_config.kv_sharing_fast_prefill),
        "weights kept in main memory (--cpu-offload-gb)": config.offload_config.uva.cpu_offload_gb > 0,
        "experts in graphs on a GPU (say --enforce-eager)": bool(
            model.is_moe and not current_platform.is_cpu() and not model.enforce_eager
        ),
    }
    reasons = [reason for reason, holds in checks.items() if holds]
    if reasons:
        raise EngineError(
            f"λ per request is not served with: {'; '.join(reasons)}", remedy=f"leave it out, or {IN_PLACE}"
        )


def register() -> None:
    """Called by vLLM in each of its processes (`vllm.general_plugins`): the loader, and the reader of thoughts of the server.

    A server's engine leaves the server's group of processes: a terminal's Ctrl-C is for the server, which first has it finish.
    """
    if FOLDER in os.environ and parent_process() is not None:
        os.setpgid(0, 0)
    from vllm.model_executor.model_loader import _LOAD_FORMAT_TO_MODEL_LOADER

    if _LOAD_FORMAT_TO_MODEL_LOADER.get(LOAD_FORMAT) is not PairLoader:
        register_model_loader(LOAD_FORMAT)(PairLoader)
    ReasoningParserManager.register_lazy_module("interpole", "interpole.engines.vllm_thoughts", "ThoughtReader")
