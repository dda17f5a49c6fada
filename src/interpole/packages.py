"""Which packages are installed, and what of ours installs one that is not."""

from __future__ import annotations

from importlib.util import find_spec

from interpole.errors import EngineError, InterpoleError

__all__ = ["is_ours", "remedy", "require"]

EXTRAS = {
    "torch": "transformers",
    "transformers": "transformers",
    "optuna": "search",
    "starlette": "serve",
    "uvicorn": "serve",
    "prometheus_client": "serve",
    "vllm": "vllm",
    "ray": "ray",
    "lm_eval": "ifeval",
    "langdetect": "ifeval",
    "immutabledict": "ifeval",
    "nltk": "ifeval",
}
"""Which extra of ours brings a module; one that stands here not is in the core, or another package's."""
LATE = frozenset(
    ("altair", "httpx", "huggingface_hub", "inspect_ai", "math_verify", "scipy", "vl_convert", "zstandard")
)
"""Modules of the core that are imported when they are needed."""


def is_ours(module: str) -> bool:
    """Whether we ask for a module: then it may be missing, and saying so is enough; any other that is not found is a fault."""
    return module.partition(".")[0] in EXTRAS.keys() | LATE


def remedy(module: str, extra: str = "") -> str:
    """How to install a module: `pip install 'interpole[transformers]'`, or `pip install MODULE`."""
    name = module.partition(".")[0]
    extra = extra or EXTRAS.get(name, "")
    return f"pip install 'interpole[{extra}]'" if extra else f"pip install {name}"


def require(module: str, error: type[InterpoleError] = EngineError, *, extra: str = "") -> None:
    """Refuse early, before anything is done, what needs a module that is not installed.

    Args:
        module: its name.
        error: what to raise.
        extra: what of ours to install for it, where one extra brings all that is needed; else the module's own.

    Raises:
        InterpoleError: of the kind `error`: it is not there.
    """
    try:
        there = find_spec(module) is not None
    except (ImportError, ValueError):
        there = False
    if not there:
        raise error(f"this needs {module}, which is not installed", remedy=remedy(module, extra))
