"""The worker behind `template.render`: jinja2 as transformers sets it up, run by `Guarded`.

Questions: {"template", "values"}; answers: {"text"}, or {"problem"}, which is its author's or the messages' fault.
"""

from __future__ import annotations

import json
from datetime import datetime
from functools import lru_cache
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from interpole.guarded import serve

__all__: list[str] = []

_MAX_CHARS = 10_000_000


class _Generation(Extension):
    """`{% generation %}…{% endgeneration %}` marks the assistant's tokens for training; here it is transparent."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """Return the enclosed nodes as they are."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _refuse(message: str) -> None:
    """Let a template refuse its messages (`raise_exception`)."""
    raise jinja2.TemplateError(message)


def _to_json(value: Any, ensure_ascii: bool = False, **options: Any) -> str:
    """JSON as transformers writes it in templates: no HTML escapes (jinja2's own filter has them)."""
    return json.dumps(value, ensure_ascii=ensure_ascii, **options)


@lru_cache(maxsize=16)
def _compiled(template: str) -> jinja2.Template:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment.from_string(template)


def _render_here(question: dict[str, Any]) -> dict[str, Any]:
    """Render a template in this process, the worker; whatever it raises is its author's or the messages' fault."""
    try:
        text = _compiled(question["template"]).render(**question["values"])
    except MemoryError:
        return {"problem": "it takes too much memory"}
    except Exception as error:
        kind = "" if isinstance(error, jinja2.TemplateError) else f"{type(error).__name__}: "
        return {"problem": f"{kind}{str(error)[:1000]}"}
    if len(text) > _MAX_CHARS:
        return {"problem": f"it makes a prompt of {len(text):,} characters"}
    return {"text": text}


if __name__ == "__main__":
    serve(_render_here)
