"""λ per request over one vLLM: requests queue by λ, and the weights move in place from one λ to the next.

vLLM's scheduler holds requests of one λ at a time, and is drained before the weights change. Whose turn it is says
`engines.turns`; how the weights move, and what is checked then, `engines.vllm`.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import fields
from functools import cached_property, partial
from typing import Any, NoReturn

from vllm.engine.arg_utils import EngineArgs
from vllm.sampling_params import RequestOutputKind
from vllm.utils.argparse_utils import FlexibleArgumentParser

from interpole.engines.base import Finished, Request, Token, lam_of, pair_fingerprint
from interpole.engines.open import dial
from interpole.engines.turns import Turns
from interpole.engines.vllm import Prepared, VllmEngine
from interpole.errors import EngineError
from interpole.merging.recipe import Recipe
from interpole.records import Generation

__all__ = ["GroupedVllm", "open_grouped_vllm", "settings_of_flags"]

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


class GroupedVllm(VllmEngine):
    """One vLLM, dialled in place; driven request by request, each with a λ.

    `load` and `at` move the weights, and their λ is that of requests that bring none.

    Attributes:
        instruct, thinking: the checkpoints at λ = 0 and λ = 1.
    """

    takes = frozenset({"lam", "top_logprobs", "min_p"})
    _output_kind = RequestOutputKind.DELTA

    def __init__(self, recipe: Recipe, *, patience_steps: int = 256, **options: Any) -> None:
        """Start vLLM at a recipe's λ = 0.

        Args:
            recipe: the pair.
            patience_steps: as in `Turns`.
            **options: those of `VllmEngine`.

        Raises:
            EngineError: vLLM cannot be started, or there is no patience.
            MismatchError: the checkpoints do not fit each other.
        """
        self._turns = Turns[Prepared](None, patience_steps)
        self._running: dict[int, tuple[Prepared, list[int]]] = {}  # by key, with the tokens so far
        self._events: list[Token] = []
        super().__init__(0.0, partial(dial, recipe), **options)
        self.instruct, self.thinking = self._resolve(0.0), self._resolve(1.0)
        self._check_fits(self.thinking)
        self._max_rows = self._llm.vllm_config.scheduler_config.max_num_seqs

    def versions(self) -> dict[str, str]:
        """Those of `VllmEngine`, and that requests of a λ go together."""
        return super().versions() | {"lambda": "grouped"}

    @cached_property
    def fingerprint(self) -> str:
        """Hash of both checkpoints."""
        return pair_fingerprint(self.instruct, self.thinking)

    @property
    def busy(self) -> bool:
        """Whether requests wait, or are not finished."""
        return super().busy or len(self._turns) > 0

    @property
    def moving(self) -> bool:
        """Whether the weights move just now."""
        return self._turns.moving

    @property
    def num_turns(self) -> int:
        """How often the weights have moved from one λ to another for requests that waited."""
        return self._turns.num_turns

    @property
    def num_running(self) -> int:
        """Requests that vLLM has."""
        return len(self._running)

    @property
    def num_waiting(self) -> int:
        """Requests that wait for their λ, or for a place in the batch."""
        return len(self._turns)

    def add(self, request: Request) -> None:
        """Tokenise a request and queue it at its λ.

        Raises:
            EngineError: it has no λ, one outside of [0, 1], the key of another, or is refused by `VllmEngine`.
        """
        lam = lam_of(self.where if request.lam is None else request.lam)
        if request.key in self._running or any(one.key == request.key for one in self._turns):
            raise EngineError(f"two requests with the key {request.key}", remedy="give each a key of its own")
        self._turns.put(lam, request.key, self._prepared(request))

    def cancel(self, key: int) -> bool:
        """Forget a request, wherever it is. Returns whether it was there: it is never answered."""
        if self._running.pop(key, None) is None:
            return self._turns.drop(key)
        self._llm.abort_request([str(key)])
        return True

    def events(self) -> list[Token]:
        """The tokens that the last `step` drew, in order; handed out once."""
        events, self._events = self._events, []
        return events

    def abandon(self) -> None:
        """Empty queues and batch."""
        super().abandon()
        self._turns.clear()
        self._running.clear()
        self._events = []

    def step(self) -> list[Finished]:
        """One step of vLLM's scheduler, at one λ; moves the weights where nobody is left at theirs."""
        self._events = []
        finished = self._enter(self._turns.let_in(self.num_running, self._max_rows, self._move))
        if not super().busy:
            return finished
        self.progress += 1
        try:
            outputs = self._llm.step()
        except Exception:
            self._turns.lam = None  # a prefix may be cached whose step was not computed: load again, which forgets it
            raise
        for output in outputs:
            finished += self._take(output)
        return finished

    def _move(self, where: Any) -> str:
        """As the parent's; those at this λ may come in then.

        Raises:
            EngineError: also where it is no λ.
        """
        lam, self._turns.lam = lam_of(where), None
        fingerprint = super()._move(lam)
        self._turns.lam = lam
        return fingerprint

    def _enter(self, entering: Sequence[Prepared]) -> list[Finished]:
        """Hand requests to vLLM; returns those that it refuses."""
        refused = []
        for prepared in entering:
            try:
                self._submit(prepared)
                self._running[prepared.key] = prepared, []
            except EngineError as error:
                refused.append(Finished(prepared.key, Generation("", 0, "error"), error))
        return refused

    def _take(self, output: Any) -> list[Finished]:
        """Note what a step brought to a request; returns it where it is finished."""
        key, (answer,) = int(output.request_id), output.outputs
        prepared, tokens = self._running[key]
        num_top = prepared.settings.logprobs
        for number, token in enumerate(answer.token_ids):
            tokens.append(token)
            likely = () if num_top is None else _logprobs(token, answer.logprobs[number], num_top)
            self._events.append(Token(key, token, *likely))
        if not output.finished:
            return []
        del self._running[key]
        return [self._finished(key, tokens, answer.finish_reason)]


def _logprobs(token: int, found: Mapping[int, Any], num_top: int) -> tuple[float, tuple[tuple[int, float], ...]]:
    """The log-probability of a token that was drawn, and the likeliest tokens with theirs; vLLM says both as one mapping."""
    by_rank = sorted(found.items(), key=lambda item: item[1].rank)
    return found[token].logprob, tuple((one, said.logprob) for one, said in by_rank[:num_top])


def open_grouped_vllm(recipe: Recipe, **options: Any) -> GroupedVllm:
    """The engine for a recipe's pair; `options` are those of `GroupedVllm`."""
    return GroupedVllm(recipe, **options)


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
