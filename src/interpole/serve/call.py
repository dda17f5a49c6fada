"""A request as the engine needs it: what all endpoints share. `read` checks the fields, `Draft.call` renders and counts.

An endpoint turns its own fields into a `Draft`; what it does not know is refused. Rendering runs a template, so it is done in a
thread.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from interpole.chat import ThinkFormat
from interpole.engines.budget_forcing import Budget
from interpole.errors import TaskError
from interpole.formats import MAX_SEED
from interpole.records import Sampler
from interpole.serve.errors import RequestError
from interpole.serve.fields import WITHOUT_EFFECT, Fields
from interpole.serve.levels import Chosen, choose
from interpole.serve.served import Served

__all__ = ["Call", "Draft", "read"]

MOST_CHOICES, MOST_STOPS, MOST_LOGPROBS = 128, 16, 20
NO_TOOLS = "tools are not called here; serve with --engine vllm and its --tool-call-parser"
_OFF = "it is not supported here; leave it out"


@dataclass(frozen=True)
class Call:
    """One request, ready for the engine.

    Attributes:
        chosen: its λ, and the model's name.
        prompt: rendered.
        form: how the response is read.
        raw: the response is given out as it is, markers and all.
        num_prompt_tokens: of the prompt.
        sampler: its settings, with `max_tokens` as the context allows.
        settings: what the request said.
    """

    chosen: Chosen
    prompt: str
    form: ThinkFormat
    raw: bool
    num_prompt_tokens: int
    sampler: Sampler
    settings: Draft

    @property
    def budget(self) -> Budget | None:
        """How long it may think."""
        num_tokens = self.settings.budget_tokens
        return None if num_tokens is None else Budget(num_tokens, f"\n{self.form.markers.close}\n\n")


@dataclass(frozen=True)
class Draft:
    """What a request said, checked; `messages` or `prompt` is what is asked."""

    chosen: Chosen
    sampler: Sampler
    min_p: float
    max_tokens: int | None
    seed: int
    num_choices: int
    stop: tuple[str, ...]
    budget_tokens: int | None
    budget_param: str
    stream: bool
    show_thinking: bool
    variables: Mapping[str, Any]
    messages: Sequence[Mapping[str, Any]] = ()
    prompt: str | None = None
    top_logprobs: int | None = None
    include_usage: bool = False
    param: str = "messages"
    extra: Mapping[str, Any] = field(default_factory=dict)  # an endpoint's own

    def call(self, served: Served) -> Call:
        """Render the prompt, count it, and settle how long the response may be.

        Raises:
            RequestError: the template refuses the messages, the prompt does not fit, or a budget leaves no answer.
        """
        try:
            form = served.form_at(self.chosen.lam, self.variables)
            prompt = form.render(self.messages) if self.prompt is None else self.prompt
        except TaskError as error:
            raise RequestError(error.what, param=self.param, code="invalid_value") from error
        if self.prompt is not None:
            opens, closes = (prompt.rfind(marker) for marker in (form.markers.open, form.markers.close))
            form = replace(form, prompt_opens_thinking=opens > closes)
        num_prompt = served.num_tokens(prompt)
        room = served.context_tokens - num_prompt
        if not num_prompt or room <= 0:
            what = f"a prompt of {num_prompt} tokens does not fit a context of {served.context_tokens}; none of 0 is answered"
            raise RequestError(what, param=self.param, code="context_length_exceeded")
        limit = min(one for one in (self.max_tokens, served.max_tokens, room) if one is not None)
        if self.budget_tokens is not None and self.budget_tokens >= limit:
            what = f"a budget of {self.budget_tokens} tokens leaves no room for an answer in a response of {limit}"
            raise RequestError(what, param=self.budget_param, code="invalid_value")
        sampler = replace(self.sampler, max_tokens=limit)
        return Call(
            chosen=self.chosen,
            prompt=prompt,
            form=form,
            raw=self.prompt is not None,
            num_prompt_tokens=num_prompt,
            sampler=sampler,
            settings=self,
        )


def read(fields: Fields, body: Mapping[str, Any], served: Served, *, max_tokens: Sequence[str]) -> Draft:
    """The fields that all endpoints share.

    Args:
        fields: of the body.
        body: the body itself.
        served: what is served.
        max_tokens: the names that the most tokens go by here.

    Raises:
        RequestError: one of them makes no sense.
    """
    chosen = choose(body, served.levels, served.numbers)
    fields.passed_over("lam", "model", "reasoning_effort", "output_config", *WITHOUT_EFFECT)
    if fields.get("output_config") is not None:
        inner = fields.inner("output_config")
        inner.passed_over("effort")
        inner.done()
    budget_tokens, budget_param, show = _thinking(fields)
    default = served.sampler_at(chosen.lam)
    temperature = fields.number("temperature", 0, 2)
    top_p = fields.number("top_p", 0, 1)
    if top_p == 0:
        raise fields.wrong("top_p", "more than 0 is expected")
    top_k = fields.integer("top_k", -1)
    seed = fields.integer("seed", -(2**63), 2**64 - 1)
    _only_neutral(fields)
    return Draft(
        chosen=chosen,
        sampler=Sampler(
            default.temperature if temperature is None else temperature,
            default.top_p if top_p is None else top_p,
            default.top_k if top_k is None else max(top_k, 0),
            max_tokens=1,
        ),
        min_p=fields.number("min_p", 0, 1) or 0.0,
        max_tokens=_agreed(fields, max_tokens),
        seed=secrets.randbelow(MAX_SEED) if seed is None else seed,
        num_choices=fields.integer("n", 1, MOST_CHOICES) or 1,
        stop=fields.texts("stop", MOST_STOPS),
        budget_tokens=budget_tokens,
        budget_param=budget_param,
        stream=fields.flag("stream"),
        show_thinking=show,
        variables=_variables(fields),
    )


def _thinking(fields: Fields) -> tuple[int | None, str, bool]:
    """The budget, the field that named it, and whether the thinking is given out."""
    inner = fields.inner("reasoning")
    inner.passed_over("effort", "enabled")
    inner.only("summary", "auto", "concise", "detailed", why="auto, concise or detailed is expected")
    inner.only("generate_summary", "auto", "concise", "detailed", why="auto, concise or detailed is expected")
    exclude = inner.flag("exclude")
    given = {
        fields.name("thinking_token_budget"): fields.integer("thinking_token_budget", 1),
        inner.name("max_tokens"): inner.integer("max_tokens", 1),
    }
    enabled = inner.get("enabled")
    if enabled is not None and not isinstance(enabled, bool):
        raise inner.wrong("enabled", "true or false is expected", "invalid_type")
    inner.done()
    named = {param: value for param, value in given.items() if value is not None}
    if len(set(named.values())) > 1:
        raise RequestError("two budgets that differ: give one of them", param=list(named)[1], code="invalid_value")
    param = next(iter(named), "")
    return named.get(param), param, not exclude


def _agreed(fields: Fields, names: Sequence[str]) -> int | None:
    """A whole number that goes by several names."""
    given = {name: value for name in names if (value := fields.integer(name, 1)) is not None}
    if len(set(given.values())) > 1:
        raise fields.wrong(list(given)[1], f"it contradicts {next(iter(given))}: give one of them")
    return next(iter(given.values()), None)


def _variables(fields: Fields) -> dict[str, Any]:
    """Variables for the template."""
    value = fields.get("chat_template_kwargs")
    if value is not None and not isinstance(value, dict):
        raise fields.wrong("chat_template_kwargs", "an object is expected", "invalid_type")
    return dict(value or {})


def _only_neutral(fields: Fields) -> None:
    """Refuse what would change a response and is not done here; the values that change nothing are welcome."""
    for name in ("presence_penalty", "frequency_penalty"):
        fields.only(name, 0, 0.0, why=_OFF)
    fields.only("repetition_penalty", 1, 1.0, why=_OFF)
    fields.only("logit_bias", {}, why=_OFF)
    fields.only("store", False, why="nothing is stored here: leave it out, or say false")
    fields.only("service_tier", "auto", "default", "standard_only", why="there is one tier: leave it out")
    fields.only("tools", [], why=NO_TOOLS)
    fields.only("tool_choice", "none", "auto", why=NO_TOOLS)
    fields.only("functions", [], why=NO_TOOLS)
    fields.only("parallel_tool_calls", True, False, why="true or false is expected")
