"""What is served: a pair's levels, how it is asked at a λ, and the settings of requests that bring none.

At λ = 0 the model is Instruct, asked with Instruct's own template; elsewhere Thinking's is taken, as a sweep does.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from threading import Lock
from typing import Any

from interpole.chat import ThinkFormat, opens_thinking
from interpole.checkpoints.checkpoint import Checkpoint
from interpole.errors import TaskError
from interpole.records import Sampler
from interpole.serve.levels import AUTO, Levels

__all__ = ["Served", "serve_pair"]

RESERVED = {"template", "messages", "add_generation_prompt", "tools", "documents"}
_TOKENIZER = Lock()


@dataclass(frozen=True)
class Served:
    """See the module's docstring.

    Attributes:
        levels: the model's name, its default λ and its levels.
        forms: how either end is asked and read, Instruct's first.
        samplers: the settings that either end's generation config names.
        tokenizer: for counting and decoding here; the engine has its own.
        context_tokens: most tokens of a prompt and its response together.
        fingerprint: of the weights.
        max_tokens: the longest response; None: what the context leaves.
        numbers: what the engine has said of the question of one request, for the policy.
    """

    levels: Levels
    forms: tuple[ThinkFormat, ThinkFormat]
    samplers: tuple[Sampler, Sampler]
    tokenizer: Any
    context_tokens: int
    fingerprint: str
    max_tokens: int | None = None
    numbers: Mapping[str, float] = field(default_factory=dict)

    def form_at(self, lam: float, variables: Mapping[str, Any]) -> ThinkFormat:
        """How the model is asked at λ, with the template variables of a request.

        Raises:
            TaskError: the template does not take them.
        """
        form = self.forms[lam > 0]
        if not variables:
            return form
        if taken := RESERVED & variables.keys():
            raise TaskError(f"{sorted(taken)[0]} is no variable that a request may set")
        known = {**form.variables, **variables}
        return replace(
            form, variables=known, prompt_opens_thinking=opens_thinking(form.template, form.markers, **known)
        )

    def sampler_at(self, lam: float) -> Sampler:
        """The settings of a request at λ that brings none."""
        return self.samplers[lam > 0]

    def num_tokens(self, text: str) -> int:
        """How many tokens a rendered prompt has."""
        with _TOKENIZER:
            return len(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def text_of(self, token_id: int) -> str:
        """What one token looks like."""
        return str(self.tokenizer.decode([token_id], skip_special_tokens=False, clean_up_tokenization_spaces=False))

    def stamp(self, lam: float | None) -> str:
        """λ and weights, as every response names them; None: λ is the policy's to choose."""
        return f"lam={AUTO if lam is None else f'{lam:g}'};{self.fingerprint[:16]}"


def serve_pair(
    instruct: Checkpoint,
    thinking: Checkpoint,
    levels: Levels,
    *,
    tokenizer: Any,
    context_tokens: int,
    fingerprint: str,
    max_tokens: int | None = None,
) -> Served:
    """What is served of a pair; see `Served` for the rest.

    Raises:
        TaskError: a chat template is missing, or has no think markers.
    """
    for end in (instruct, thinking):
        if end.chat_template is None:
            raise TaskError("no chat template", end.label, "put a chat_template.jinja into its folder")
    far = ThinkFormat.of(thinking.assets, thinking.chat_template or "")
    markers = (far.markers.open, far.markers.close)
    near = ThinkFormat.of(instruct.assets, instruct.chat_template or "", markers=markers)
    own = copy.deepcopy(tokenizer)
    samplers = (_sampler(instruct), _sampler(thinking))
    return Served(
        levels=levels,
        forms=(near, far),
        samplers=samplers,
        tokenizer=own,
        context_tokens=context_tokens,
        fingerprint=fingerprint,
        max_tokens=max_tokens,
    )


def _sampler(end: Checkpoint) -> Sampler:
    """The settings of a generation config; as in vLLM, what it does not name is off."""
    said = end.generation_config
    temperature = said.get("temperature", 1.0) if said.get("do_sample", True) else 0.0
    top_k = said.get("top_k") or 0
    return Sampler(float(temperature), float(said.get("top_p") or 1.0), max(int(top_k), 0), max_tokens=1)
