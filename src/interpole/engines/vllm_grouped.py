"""λ per request over one vLLM: requests queue by λ, and the weights move in place from one λ to the next.

vLLM's scheduler holds requests of one λ at a time. Who comes in when is said by `engines.grouped`; how the weights move, and what
is checked then, by `engines.vllm`.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import fields
from functools import partial
from typing import Any, NoReturn

from vllm.engine.arg_utils import EngineArgs
from vllm.utils.argparse_utils import FlexibleArgumentParser

from interpole.engines.base import Finished, Request, Token
from interpole.engines.grouped import GroupedEngine
from interpole.engines.open import dial
from interpole.engines.turns import Turns
from interpole.engines.vllm import VllmDial
from interpole.engines.vllm_running import Prepared, RunningVllm
from interpole.errors import EngineError
from interpole.merging.recipe import Recipe

__all__ = ["VllmBatch", "open_grouped_vllm", "settings_of_flags"]

OURS = {
    "model": "it is INSTRUCT and THINKING",
    "tokenizer": "it is that of the checkpoints",
    "served_model_name": "say --name",
    "dtype": "say it before --",
    "max_num_seqs": "say --max-rows",
    "load_format": "the weights are loaded by Interpole",
    "worker_extension_cls": "the weights are loaded by Interpole",
    "generation_config": "every request brings its settings",
    "disable_log_stats": "there are no such statistics here",
    "seed": "every request brings its own",
}
"""Settings of vLLM's engine that are not for the user to give, and why."""


class VllmBatch:
    """Requests in one vLLM, whose tokens are told as they are drawn: what `GroupedEngine` drives."""

    takes = frozenset({"lam", "top_logprobs", "min_p"})

    def __init__(self, running: RunningVllm) -> None:
        """Drive this vLLM, which says tokens as they are drawn (`as_drawn`)."""
        self._running = running
        self.tokenizer, self.context_tokens = running.tokenizer, running.context_tokens
        self.max_rows = running.max_rows
        self._requests: dict[int, tuple[Prepared, list[int]]] = {}  # by key, with the tokens so far
        self._events: list[Token] = []

    def versions(self) -> dict[str, str]:
        """Those of vLLM."""
        return self._running.versions()

    @property
    def busy(self) -> bool:
        """Whether vLLM has requests that are not finished."""
        return self._running.busy

    @property
    def num_running(self) -> int:
        """Requests that vLLM has; may be asked in any thread."""
        return len(self._requests)

    def __len__(self) -> int:
        """The same."""
        return len(self._requests)

    def has(self, key: int) -> bool:
        """Whether vLLM has the request with this key."""
        return key in self._requests

    def prepared(self, request: Request) -> Prepared:
        """A request as vLLM takes it.

        Raises:
            EngineError: vLLM refuses it, or its prompt leaves no room.
        """
        return self._running.prepared(request)

    def enter(self, item: Prepared) -> None:
        """Hand a request to vLLM.

        Raises:
            EngineError: vLLM refuses it.
        """
        self._running.submit(item)
        self._requests[item.key] = item, []

    def cancel(self, key: int) -> bool:
        """Forget a request; returns whether it was there."""
        if self._requests.pop(key, None) is None:
            return False
        self._running.llm.abort_request([str(key)])
        return True

    def events(self) -> list[Token]:
        """The tokens that the last `step` drew, in order; handed out once."""
        events, self._events = self._events, []
        return events

    def abandon(self) -> None:
        """Abort all requests."""
        self._running.abandon()
        self._requests.clear()
        self._events = []

    def close(self) -> None:
        """End vLLM and its workers."""
        self._running.close()

    def step(self) -> list[Finished]:
        """One step of vLLM's scheduler."""
        self._events = []
        outputs = self._running.llm.step() if self.busy else []
        return [finished for output in outputs for finished in self._take(output)]

    def _take(self, output: Any) -> list[Finished]:
        """Note what a step brought to a request; returns it where it is finished."""
        key, (answer,) = int(output.request_id), output.outputs
        prepared, tokens = self._requests[key]
        num_top = prepared.settings.logprobs
        for number, token in enumerate(answer.token_ids):
            tokens.append(token)
            likely = () if num_top is None else _logprobs(token, answer.logprobs[number], num_top)
            self._events.append(Token(key, token, *likely))
        if not output.finished:
            return []
        del self._requests[key]
        return [self._running.finished(key, tokens, answer.finish_reason)]


def _logprobs(token: int, found: Mapping[int, Any], num_top: int) -> tuple[float, tuple[tuple[int, float], ...]]:
    """The log-probability of a token that was drawn, and the likeliest tokens with theirs; vLLM says both as one mapping."""
    by_rank = sorted(found.items(), key=lambda item: item[1].rank)
    return found[token].logprob, tuple((one, said.logprob) for one, said in by_rank[:num_top])


def open_grouped_vllm(
    recipe: Recipe, *, patience_steps: int = 256, max_rows: int | None = None, check: str = "sample", **settings: Any
) -> GroupedEngine[Prepared]:
    """The engine for a recipe's pair over one vLLM.

    Args:
        recipe: the pair.
        patience_steps: as in `Turns`.
        max_rows: as of `open_vllm`.
        check: how much is checked after every move.
        **settings: vLLM's own `EngineArgs`.

    Raises:
        EngineError: vLLM cannot be started, or there is no patience.
        MismatchError: the checkpoints do not fit each other.
    """
    turns = Turns[Prepared](0.0, patience_steps)
    dialled = VllmDial(0.0, partial(dial, recipe), max_rows=max_rows, check=check, settings=settings, as_drawn=True)
    ends = dialled.resolve(0.0), dialled.resolve(1.0)
    dialled.check_fits(ends[1])
    dialled.go(0.0)
    return GroupedEngine(VllmBatch(dialled.running), dialled.go, ends, turns)


class _Parser(FlexibleArgumentParser):
    """vLLM's parser, whose errors are ours."""

    def error(self, message: str) -> NoReturn:
        raise EngineError(f"vLLM's flags: {message}", remedy="what stands after -- are flags of vLLM's engine")


def settings_of_flags(flags: Sequence[str]) -> dict[str, Any]:
    """The settings of `EngineArgs` that flags of vLLM's command line name.

    Raises:
        EngineError: there is no such flag, or it is not for the user.
    """
    parser = EngineArgs.add_cli_args(_Parser(prog="interpole serve … --", allow_abbrev=False))
    unset = object()
    blank = argparse.Namespace(**dict.fromkeys(vars(parser.parse_args([])), unset))
    try:
        parsed = parser.parse_args(list(flags), blank)
    except (ValueError, IndexError, OSError) as error:  # vLLM's own reading of --a.b and --config
        parser.error(str(error))
    given = {name: value for name, value in vars(parsed).items() if value is not unset}
    for name in given:
        if name in OURS:
            raise EngineError(
                f"--{name.replace('_', '-')} is not for vLLM: {OURS[name]}", remedy="leave it out after --"
            )
    known = {one.name for one in fields(EngineArgs)}
    return {name: value for name, value in given.items() if name in known}
