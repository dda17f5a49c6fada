"""The command `serve`: what is served and for whom, shown before it begins."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from interpole.cli.options import Instruct, Json, Thinking, panel
from interpole.errors import EngineError, RecipeError, printable

if TYPE_CHECKING:
    from interpole.serve.levels import Levels

__all__ = ["example", "register", "serve", "show_serving"]

EFFORTS = "low=0.4,medium=0.6,high=1"
_for_whom, _which_lambda, _limit = map(panel, ("For whom", "Which λ", "Limits"))

Flags = Annotated[
    list[str] | None, typer.Argument(metavar="[-- FLAGS]", help="With --engine vllm: flags for vLLM, after --.")
]
Engine = Annotated[str, _limit(help="transformers (here: CPU, one GPU, Apple), or vllm.")]
Lambda = Annotated[
    float | None, _which_lambda("--lambda", "-l", help="λ of requests that name none. [default: medium's]")
]
Effort = Annotated[str | None, _which_lambda(help=f"Levels that requests may name. [default: {EFFORTS}]")]
FromRun = Annotated[
    Path | None,
    _which_lambda(
        "--from", metavar="RUN", help="Levels from a run: λ at half, 90 % and the best of Thinking's accuracy."
    ),
]
Auto = Annotated[
    str | None,
    _which_lambda(
        metavar="POLICY",
        help="What `NAME@auto` asks for λ: a policy by name, fitted to --from, or a file of `route --fit`.",
    ),
]
Name = Annotated[str, _which_lambda(help="The model's name in requests.")]
Host = Annotated[str, _for_whom(help="Where to listen.")]
Port = Annotated[int, _for_whom(min=0, max=65535, help="0: any that is free.")]
ApiKey = Annotated[str | None, _for_whom(help="What clients must send. Others on this machine can see it.")]
ApiKeyEnv = Annotated[str | None, _for_whom(metavar="VARIABLE", help="The same, out of the environment.")]
Cors = Annotated[list[str] | None, _for_whom(metavar="ORIGIN", help="A site whose pages may ask. Repeatable.")]
LogPrompts = Annotated[bool, _for_whom("--log-prompts", help="Write prompts and responses to stderr.")]
MaxRows = Annotated[int, _limit(min=1, help="Most responses at a time.")]
MaxQueue = Annotated[int, _limit(min=0, help="Most that wait for a place; beyond, clients get 429.")]
MaxTokens = Annotated[int | None, _limit(min=1, help="Longest response. [default: the context]")]
Timeout = Annotated[float, _limit("--timeout", min=0.1, help="Longest request, in seconds.")]
Dtype = Annotated[str, _limit(help="auto, bfloat16, float16 or float32.")]
Device = Annotated[str | None, _limit(help="cpu, cuda, mps … [default: cuda where there is one]")]
Group = Annotated[
    bool,
    _limit(
        "--group", help="One copy of the weights: requests queue by λ, and the weights move from one λ to the next."
    ),
]


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command(rich_help_panel="Serve")(serve)


def serve(
    instruct: Instruct,
    thinking: Thinking,
    flags: Flags = None,
    *,
    lam: Lambda = None,
    effort: Effort = None,
    from_run: FromRun = None,
    auto: Auto = None,
    name: Name = "interpole",
    engine: Engine = "transformers",
    host: Host = "127.0.0.1",
    port: Port = 8000,
    api_key: ApiKey = None,
    api_key_env: ApiKeyEnv = None,
    cors: Cors = None,
    log_prompts: LogPrompts = False,
    max_rows: MaxRows = 128,
    max_queue: MaxQueue = 256,
    max_tokens: MaxTokens = None,
    timeout_seconds: Timeout = 600.0,
    dtype: Dtype = "auto",
    device: Device = None,
    group: Group = False,
    as_json: Json = False,
) -> None:
    """Serve a pair by OpenAI's protocol, with λ in every request; needs `pip install 'interpole[serve]'`.

    Both checkpoints are loaded once; requests of any λ run in one batch (--group: one λ after the other, with room for one
    checkpoint, by either engine). A request says how much it shall think by
    `"reasoning_effort": "low"`, by `"model": "interpole:low"` or `"interpole@0.55"`, or by `"lam": 0.55`; `none` is λ = 0.
    Open the address in a browser to compare three λ side by side.

    Endpoints: /v1/chat/completions, /v1/completions, /v1/responses, /v1/messages (Anthropic's), /v1/models, /health,
    /metrics. The fields, and what is refused: docs/serve.md.
    """
    levels = _levels(lam, effort, from_run, name)
    if auto is not None:
        levels = _with_policy(levels, auto, from_run, margins=engine != "vllm")
    key = _key(api_key, api_key_env)
    if engine == "vllm" and not group:
        from interpole.serve import vllm

        _refuse_ours(
            cors=cors,
            log_prompts=log_prompts,
            max_rows=max_rows != 128,
            max_queue=max_queue != 256,
            max_tokens=max_tokens,
            timeout=timeout_seconds != 600.0,
            dtype=dtype != "auto",
            device=device,
        )
        show_serving(levels, f"http://{host}:{port}", bool(key), as_json=as_json)
        vllm.main(instruct, thinking, levels, host=host, port=port, api_key=key or None, flags=flags or ())
        return
    settings = _settings(engine, flags or (), dtype, device)
    from interpole.serve import run
    from interpole.serve.app import Limits

    options = run.Options(
        host=host, port=port, api_key=key, cors=cors or (), max_rows=max_rows, max_queue=max_queue, max_tokens=max_tokens,
        limits=Limits(timeout_seconds=timeout_seconds), log_prompts=log_prompts, group=group,
        vllm=engine == "vllm", engine=settings,
    )  # fmt: skip
    _log(log_prompts)
    server = run.open_server(instruct, thinking, levels, options)
    run.listener(server, options, lambda address: show_serving(levels, address, bool(key), as_json=as_json)).run()


def _settings(engine: str, flags: Sequence[str], dtype: str, device: str | None) -> dict[str, Any]:
    """The settings of an engine that runs in this process."""
    if engine == "vllm":
        from interpole.packages import require

        _refuse_ours(device=device)
        require("vllm")
        from interpole.engines.vllm_grouped import settings_of_flags

        return {"dtype": dtype, **settings_of_flags(flags)}
    if engine != "transformers":
        raise EngineError(f"no engine {engine!r} serves", remedy="there are transformers and vllm")
    if flags:
        raise EngineError(f"these are no flags of ours: {shlex.join(flags)}", remedy="they are for --engine vllm")
    return {"dtype": dtype, "device": device}


_VLLMS = {
    "max_rows": "--max-num-seqs",
    "dtype": "--dtype",
    "cors": "--allowed-origins",
    "log_prompts": "--enable-log-requests",
}
"""The flags of vLLM's server that do what an option of ours does."""


def _refuse_ours(**given: object) -> None:
    """Refuse what is said to a server of ours where vLLM's own serves."""
    for name, value in given.items():
        if value:
            raise EngineError(f"--{name.replace('_', '-')} is not for vLLM's own server", remedy=_remedy(name))


def _remedy(name: str) -> str:
    """What to do about an option that vLLM's own server does not take."""
    if name == "device":
        return "vLLM chooses the device; leave it out, or serve by --engine transformers"
    theirs = (
        f"say {_VLLMS[name]} after --, vLLM's own"
        if name in _VLLMS
        else "vLLM's own server has no such limit: leave it out"
    )
    return f"{theirs}; or add --group: the server is ours then, and takes it"


def _levels(lam: float | None, effort: str | None, from_run: Path | None, name: str) -> Levels:
    """The levels of the command line or of a run."""
    from interpole.serve.levels import Levels, levels_of_run, parse_efforts

    if effort is not None and from_run is not None:
        raise RecipeError("levels by --effort and --from", remedy="give one of them")
    if from_run is not None:
        return levels_of_run(from_run, name=name, default=lam)
    efforts = parse_efforts(effort or EFFORTS)
    if lam is None and "medium" not in efforts:
        raise RecipeError("no level is called medium, so no λ is the default", remedy="add --lambda")
    return Levels(efforts["medium"].lam if lam is None else lam, efforts, name)


def _with_policy(levels: Levels, policy: str, from_run: Path | None, *, margins: bool) -> Levels:
    """Levels with a policy that chooses λ by the question."""
    from interpole.serve.auto import policy_for

    return replace(levels, auto=policy_for(policy, from_run, margins=margins))


def _key(given: str | None, variable: str | None) -> str:
    """The API key; it is not shown anywhere."""
    if variable is None:
        return given or ""
    if given is not None:
        raise RecipeError("a key by --api-key and --api-key-env", remedy="give one of them")
    key = os.environ.get(variable, "").strip()
    if not key:
        raise RecipeError(
            "the variable of --api-key-env is not set, or empty", remedy="export it, or leave the option out"
        )
    return key


def _log(prompts: bool) -> None:
    """Errors to stderr; prompts only where they are asked for."""
    import logging

    class Formatter(logging.Formatter):
        def format(self, record: logging.LogRecord) -> str:
            return printable(super().format(record))

    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Formatter("%(asctime)s %(message)s"))
    log = logging.getLogger("interpole.serve")
    log.handlers, log.propagate = [handler], False
    log.setLevel(logging.INFO if prompts else logging.WARNING)


def show_serving(levels: Levels, address: str, has_key: bool, *, as_json: bool = False) -> None:
    """The levels, the address, and four lines of Python that ask it; or, for machines, the address and the levels."""
    from interpole.cli.show import console, show_json, table

    if as_json:
        told = {effort: asdict(level) for effort, level in levels.all.items()}
        auto = levels.auto and {"policy": levels.auto.name, "lams": levels.auto.lams}
        show_json({"address": address, "model": levels.name, "default": levels.default, "levels": told, "auto": auto})
        sys.stdout.flush()
        return
    rows = [
        [f"{levels.name}:{effort}", f"{one.lam:g}", *_expected(one.expected_tokens, one.expected_accuracy)]
        for effort, one in levels.all.items()
    ]
    if levels.auto is not None:
        by = f"{levels.auto.lams[0]:g} to {levels.auto.lams[-1]:g}, {levels.auto.name}"
        rows.append([f"{levels.name}@auto", by, *_expected(levels.auto.tokens, levels.auto.accuracy)])
    table("Levels", ["model", "λ", "tokens expected", "accuracy expected"], rows)
    measured = levels.auto is not None or any(one.expected_tokens is not None for one in levels.efforts.values())
    words = (
        "Expected where it was measured, in the run's task."
        if measured
        else "Not measured: --from RUN says what to expect."
    )
    console.print(f"{words} Others: {levels.name}@0.55; without any, λ = {levels.default:g}.")
    console.print(f"\nServing at {address} (the page), {address}/v1 (the API). Ctrl-C stops it.\n")
    console.print(example(levels, address, has_key), style="dim")
    console.file.flush()  # a log file or a pipe shall have it now, not when the server ends


def _expected(tokens: float | None, accuracy: float | None) -> tuple[str, str]:
    """What to expect, as the table shows it."""
    return ("–" if tokens is None else f"{tokens:,.0f}", "–" if accuracy is None else f"{100 * accuracy:.1f} %")


def example(levels: Levels, address: str, has_key: bool) -> str:
    """Four lines of Python that ask a server."""
    effort = next(iter(levels.efforts), "none")
    key = "…" if has_key else "none"
    return "\n".join(
        (
            "from openai import OpenAI",
            f'client = OpenAI(base_url="{address}/v1", api_key="{key}")',
            'messages = [{"role": "user", "content": "34 a-1 b-5 c*2 = ?"}]',
            f'print(client.chat.completions.create(model="{levels.name}:{effort}", messages=messages).choices[0].message)',
        )
    )
