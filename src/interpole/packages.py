"""Which packages are installed, and what of ours installs one that is not."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

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
    """How to install a module where this program is: `pip install 'interpole[transformers]'`, or `pip install MODULE`."""
    name = module.partition(".")[0]
    extra = extra or EXTRAS.get(name, "")
    ours, added = _COMMANDS[_installer()]
    return ours.format(f"'interpole[{extra}]'") if extra else added.format(name)


_COMMANDS = {
    "pip": ("pip install {}", "pip install {}"),
    "uv tool": ("uv tool install {}", "uv tool install interpole --with {}"),
    "uvx": ("uvx {} …", "uvx --with {} interpole …"),
    "pipx": ("pipx install --force {}", "pipx inject interpole {}"),
}
"""What installs an extra of ours, and another package, beside a program that was installed so."""


def _installer() -> str:
    """What made this environment, by what it leaves there; what leaves nothing is taken for pip."""
    prefix = Path(sys.prefix)
    if (prefix / "uv-receipt.toml").is_file():
        return "uv tool"
    if (prefix / "pipx_metadata.json").is_file():
        return "pipx"
    return "uvx" if {"archive-v0", "environments-v2"} & set(prefix.parts) else "pip"  # folders of uv's cache


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
