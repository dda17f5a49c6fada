"""Where problems come from: a local file, or a file of a Hugging Face dataset repository."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from interpole.errors import TaskError

__all__ = ["fetch", "read_jsonl"]


def fetch(repo: str, file: str, remedy: str) -> Path:
    """Fetch one file of a dataset repository (cached by huggingface_hub, which also reads the user's token).

    Raises:
        TaskError: it cannot be had; `remedy` says what else to do.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(repo, file, repo_type="dataset"))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise TaskError(f"cannot fetch {file}: {reason}", where=f"dataset {repo}", remedy=remedy) from error


def read_jsonl(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Read a jsonl as (place, row) pairs, where place is "file:line" for messages; blank lines are passed over.

    Raises:
        TaskError: no such file, or a line that is not a JSON object.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise TaskError(f"cannot read the problems: {error}", where=path, remedy="give a UTF-8 jsonl file") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        place = f"{path}:{number}"
        try:
            row = json.loads(line)
        except ValueError as error:
            raise TaskError(f"not JSON: {error}", where=place, remedy="write one JSON object per line") from error
        if not isinstance(row, dict):
            raise TaskError(f"not an object: {line[:40]}", where=place, remedy='write {"question": …, "answer": …}')
        yield place, row
