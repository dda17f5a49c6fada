"""vLLM's own OpenAI server with a λ in every request: its command line, what it is told, and the plugin it loads.

`main` starts vLLM's server in this process with the loader of `engines.vllm_per_request`, the middleware of `vllm_middleware` and
the reader of thoughts of `engines.vllm_thoughts`. The middleware finds what is served in the environment.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from interpole.analysis.policies import FittedPolicy
from interpole.engines.open import dial
from interpole.errors import EngineError, TaskError
from interpole.files import StrPath
from interpole.merging.recipe import Recipe
from interpole.packages import require
from interpole.serve.levels import Level, Levels
from interpole.serve.vllm_ending import ENDING

__all__ = ["arguments", "main", "of_environment", "to_environment"]

SERVER = "vllm.entrypoints.launchers.api_server.entry"
PLUGIN, GROUP = "interpole", "vllm.general_plugins"
_ENVIRONMENT = "INTERPOLE_SERVED"
KEEP_ALIVE_SECONDS = 75
"""As in `serve.run`: longer than clients keep a connection; vLLM's own 5 s are just as long, and some ask as it closes."""
DRAIN_SECONDS = 60
"""As in `serve.run`."""
_OURS = {
    "model": "it is INSTRUCT and THINKING",
    "served-model-name": "say --name",
    "host": "say it before --",
    "port": "say it before --",
    "api-key": "say it before --",
    "load-format": "both checkpoints are loaded by Interpole",
    "model-loader-extra-config": "both checkpoints are loaded by Interpole",
    "additional-config": "it holds what is served",
    "reasoning-parser": "thoughts are read by Interpole",
    "fingerprint-mode": "it is that of the weights",
    "fingerprint-value": "it is that of the weights",
}
_INEXACT = {
    "quantization": "quantised weights", "q": "quantised weights",
    "enable-lora": "LoRA adapters", "lora-modules": "LoRA adapters",
    "speculative-config": "speculative decoding",
    "enable-prompt-embeds": "embeddings as prompts",
    "enable-dbo": "microbatches", "ubatch-size": "microbatches",
    "pipeline-parallel-size": "pipeline parallelism", "pp": "pipeline parallelism",
    "data-parallel-size": "data parallelism", "dp": "data parallelism",
    "enable-expert-parallel": "expert parallelism", "ep": "expert parallelism", "enable-eplb": "expert parallelism",
    "decode-context-parallel-size": "context parallelism", "dcp": "context parallelism",
    "prefill-context-parallel-size": "context parallelism", "pcp": "context parallelism",
    "kv-transfer-config": "a key-value cache from elsewhere",
    "kv-sharing-fast-prefill": "fast prefill with shared keys and values",
    "cpu-offload-gb": "weights kept in main memory",
    "enable-sleep-mode": "weights that come and go",
}  # fmt: skip


def to_environment(levels: Levels, host: str) -> dict[str, str]:
    """What is served and at which address, for the processes that vLLM starts."""
    auto = levels.auto and levels.auto.model_dump(mode="json")
    return {_ENVIRONMENT: json.dumps({"levels": asdict(replace(levels, auto=None)), "auto": auto, "host": host})}


def of_environment() -> tuple[Levels, str]:
    """What the process that started this one serves, and at which address.

    Raises:
        EngineError: it serves nothing.
    """
    if _ENVIRONMENT not in os.environ:
        raise EngineError("this is a part of a server", remedy="start it by `interpole serve --engine vllm`")
    content = json.loads(os.environ[_ENVIRONMENT])
    levels = content["levels"]
    efforts = {name: Level(**level) for name, level in levels["efforts"].items()}
    auto = content["auto"] and FittedPolicy.model_validate(content["auto"])
    return Levels(**levels | {"efforts": efforts, "auto": auto}), content["host"]


def main(
    instruct: StrPath,
    thinking: StrPath,
    levels: Levels,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    api_key: str | None = None,
    flags: Sequence[str] = (),
) -> None:
    """Serve a pair by vLLM until it is told to end.

    Args:
        instruct: the checkpoint at λ = 0, a folder or hub id.
        thinking: that at λ = 1.
        levels: the name of the model, the default λ, and the levels of effort.
        host: the address to listen at.
        port: the port.
        api_key: what clients must know; None: nothing.
        flags: vLLM's own.

    Raises:
        EngineError: vLLM or its plugin is not installed, a flag is refused, or the engine died.
        InterpoleError: the checkpoints do not fit each other.
    """
    require("vllm")
    _check(flags)
    if not any(point.name == PLUGIN for point in entry_points(group=GROUP)):
        raise EngineError(
            "vLLM does not see the plugin of this Interpole", remedy="install Interpole again: pip install …"
        )
    from interpole.engines.vllm_per_request import FOLDER, settings
    from interpole.engines.vllm_running import write_assets

    recipe = Recipe.between(instruct, thinking, levels.default)
    with TemporaryDirectory(prefix="interpole-serve-") as folder:
        write_assets(dial(recipe)(0.5), Path(folder))
        os.environ |= to_environment(levels, host) | {FOLDER: folder} | ({"VLLM_API_KEY": api_key} if api_key else {})
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
        os.environ.setdefault("VLLM_HTTP_TIMEOUT_KEEP_ALIVE", str(KEEP_ALIVE_SECONDS))
        os.environ.setdefault("VLLM_KEEP_ALIVE_ON_ENGINE_DEATH", "1")  # it ends by `vllm_ending`
        allowed = os.environ.get("VLLM_PLUGINS")
        if allowed is not None and PLUGIN not in allowed.split(","):
            os.environ["VLLM_PLUGINS"] = ",".join([*filter(None, allowed.split(",")), PLUGIN])
        sys.argv = [SERVER, *arguments(folder, levels.name, settings(recipe), host, port, flags)]
        import_module(SERVER).main()
    if ENDING.exit_code is not None:
        raise EngineError(
            f"vLLM's engine died (exit code {ENDING.exit_code}), and the server has ended",
            remedy="its last words are above; where there are none, it may have been out of memory",
        )


def arguments(folder: str, name: str, pair: Mapping[str, Any], host: str, port: int, flags: Sequence[str]) -> list[str]:
    """The command line of vLLM's server.

    Args:
        folder: config, tokenizer and chat template.
        name: of the model.
        pair: `engines.vllm_per_request.settings` of what is served.
        host: the address.
        port: the port.
        flags: vLLM's own flags, as the user gave them; they count where they say something else.
    """
    from interpole.engines.vllm_running import cpu_defaults
    from interpole.engines.vllm_thoughts import form_in

    given = {_name(flag) for flag in flags if flag.startswith("-")}
    settings = {
        "model": folder,
        "served_model_name": name,
        "host": host,
        "port": port,
        "shutdown_timeout": DRAIN_SECONDS,
        "middleware": "interpole.serve.vllm_middleware.LambdaMiddleware",
        "fingerprint_mode": "custom",
        "fingerprint_value": "-".join(end[:16] for end in pair["additional_config"]["interpole"]["ends"]),
        **pair,
        **cpu_defaults({"tensor_parallel_size": 2} if given & {"tensor-parallel-size", "tp"} else {}),
    }
    with suppress(TaskError):  # no markers: nothing to tell apart, and no budget for it
        form_in(folder)
        settings |= {"reasoning_parser": PLUGIN, "structured_outputs_config": {"enable_in_reasoning": True}}
    return [*_as_flags({key: value for key, value in settings.items() if _name(key) not in given}), *flags]


def _as_flags(settings: Mapping[str, Any]) -> list[str]:
    found = []
    for key, value in settings.items():
        name = key.replace("_", "-")
        if isinstance(value, bool):
            found.append(f"--{name}" if value else f"--no-{name}")
        else:
            found += [f"--{name}", json.dumps(value) if isinstance(value, Mapping) else str(value)]
    return found


def _name(flag: str) -> str:
    """The option that a flag sets: `--no-enforce_eager=…` is `enforce-eager`."""
    return flag.partition("=")[0].lstrip("-").replace("_", "-").removeprefix("no-")


def _check(flags: Sequence[str]) -> None:
    """Refuse flags that are not for the user, and those with which λ per request would not be exact.

    Raises:
        EngineError: with the flag and the reason.
    """
    for flag in flags:
        name = _name(flag) if flag.startswith("-") else ""
        if name in _OURS:
            raise EngineError(
                f"{flag.partition('=')[0]} is not for vLLM: {_OURS[name]}", remedy="leave it out after --"
            )
        if name in _INEXACT:
            what = f"{flag.partition('=')[0]}: {_INEXACT[name]} are not served with a λ per request"
            raise EngineError(what, remedy="leave it out, or serve the folder that `interpole merge` writes")
