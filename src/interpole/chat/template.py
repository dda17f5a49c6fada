"""Prompts out of chat templates, equal to transformers' `apply_chat_template`, without transformers.

A template is a stranger's program: it runs in a process of its own (`template_worker`), with limits of time and memory.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from interpole.chat.markers import Markers, markers_in
from interpole.errors import TaskError
from interpole.guarded import Guarded

__all__ = ["opens_thinking", "prompt_of", "render"]

_WORKER = Guarded(Path(__file__).with_name("template_worker.py"), limit_seconds=3.0, memory_bytes=2**29)
_MOST_REMEMBERED_CHARS = 50_000  # of a template with its values
_PROBE = "How much is 7 + 35?"


class _NotRenderedError(TaskError):
    """A template refuses its messages, or fails on them; in another form they may do."""


def render(
    template: str, messages: Sequence[Mapping[str, Any]], *, add_generation_prompt: bool = True, **variables: Any
) -> str:
    """Render messages as a prompt, as transformers' `apply_chat_template(tokenize=False)` does.

    A template is a stranger's program: it runs in a process of its own, with limits of time and memory.

    Args:
        template: the model's jinja2 chat template.
        messages: `{"role": …, "content": …}` in order.
        add_generation_prompt: end with the header that opens the assistant's turn.
        **variables: further template variables: the special tokens (`special_variables`), `enable_thinking` …

    Raises:
        TaskError: the template is not valid, refuses these messages, or takes too long or too much memory.
    """
    values = {"tools": None, "documents": None, **variables, "add_generation_prompt": add_generation_prompt}
    try:
        question = json.dumps({"template": template, "values": {**values, "messages": list(messages)}})
    except (TypeError, ValueError) as error:
        raise TaskError(
            f"a template variable is no JSON: {error}", remedy="give text, numbers, lists or maps"
        ) from None
    found = _rendered(question)
    if "text" in found:
        return str(found["text"])
    raise _NotRenderedError(
        f"the chat template does not render {len(messages)} message(s) with roles "
        f"{[message.get('role') for message in messages]}: {found['problem']}",
        remedy="give messages in the form this model expects, or another template",
    )


def _rendered(question: str) -> dict[str, Any]:
    """As `_rendered_anew`; what is short is remembered: a question is asked k times. A conversation that is served is long."""
    return _remembered(question) if len(question) <= _MOST_REMEMBERED_CHARS else _rendered_anew(question)


@lru_cache(maxsize=1024)
def _remembered(question: str) -> dict[str, Any]:
    return _rendered_anew(question)


def _rendered_anew(question: str) -> dict[str, Any]:
    """What the worker makes of a template and its values.

    Raises:
        TaskError: it takes too long, or its process died.
    """
    found = _WORKER.ask(**json.loads(question))
    if not found:
        limits = f"{_WORKER.limit_seconds:g} seconds or {_WORKER.memory_bytes / 2**20:,.0f} MiB"
        raise TaskError(
            f"the chat template takes more than {limits}",
            remedy="give another template (template_from, chat_template.jinja)",
        )
    return found


def prompt_of(
    template: str, messages: Sequence[Mapping[str, Any]], variables: Mapping[str, Any], *, generation: bool = True
) -> str:
    """A prompt that holds the last question: rendered as text, else, for templates that take it so, as a list of parts.

    Raises:
        TaskError: the template does not render, or leaves the question out.
    """
    questions = [str(message.get("content") or "") for message in messages if message.get("role") == "user"]
    question = questions[-1] if questions else ""
    in_parts = [{**one, "content": [{"type": "text", "text": str(one.get("content") or "")}]} for one in messages]
    problem: TaskError = TaskError(
        "the chat template leaves the question out of the prompt",
        where=f"question {question[:80]!r}",
        remedy="give another template (template_from), one that writes message.content",
    )
    try:
        prompt = render(template, messages, add_generation_prompt=generation, **variables)
        if _holds(prompt, question):
            return prompt
    except _NotRenderedError as error:
        problem = error
    try:
        prompt = render(template, in_parts, add_generation_prompt=generation, **variables)
    except _NotRenderedError:
        raise problem from None
    if not _holds(prompt, question) or "{'type': 'text'" in prompt:  # the parts, written as Python would
        raise problem
    return prompt


def _holds(prompt: str, question: str) -> bool:
    """Whether a prompt has the question's text in it, white space aside; as JSON writes it will do."""
    if question.strip() in prompt:
        return True
    squeezed = "".join(prompt.split())
    return any("".join(text.split()) in squeezed for text in (question, json.dumps(question, ensure_ascii=False)[1:-1]))


def opens_thinking(template: str, markers: Markers | None = None, **variables: Any) -> bool:
    """Whether the generation prompt ends inside a think block, so that responses hold a closing marker only.

    Args:
        template: the model's chat template.
        markers: the family's markers; None finds them in the template (none there: it opens nothing).
        **variables: template variables, e.g. `enable_thinking=False`.

    Raises:
        TaskError: the template does not render, or leaves the question out.
    """
    markers = markers or markers_in(template)
    question = [{"role": "user", "content": _PROBE}]
    bare, full = (prompt_of(template, question, variables, generation=generation) for generation in (False, True))
    header = full.removeprefix(bare)
    return markers is not None and header.rfind(markers.open) > header.rfind(markers.close)
