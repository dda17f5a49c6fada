"""An engine that replays written responses: for tests of everything around generation, and for re-playing recorded runs.

A script is a list of entries; the first whose `contains` is in the prompt, and whose `lambda` (if it has one) is the current λ,
answers with its `responses` in turn. `chance` of an entry is how likely its responses begin with whatever they are asked to begin
with. A response is a text, or a mapping: `text`, `num_tokens`, `finish`, or `fail` for what can
go wrong (`"refuse"`: this request; `"die"`: the process; `"memory"`: there is none left; `"hang"`: never; with `once: true`
only the first time, which the file `failed` tells a new process).
"""

from __future__ import annotations

import json
import math
import os
import time
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from interpole.engines.base import Engine, Finished, Request, chance_finished
from interpole.errors import EngineError
from interpole.files import read_text
from interpole.formats import parse_json
from interpole.merging.recipe import Recipe
from interpole.records import Generation

__all__ = ["ScriptedEngine", "open_scripted"]


class ScriptedEngine(Engine):
    """Replays a script (see the module's docstring and `engines.base.Engine`)."""

    takes = frozenset({"begins"})

    def __init__(
        self,
        script: Sequence[Mapping[str, Any]] | str | Path,
        *,
        rows: int = 16,
        step_seconds: float = 0.0,
        journal: str | Path | None = None,
        failed: str | Path | None = None,
    ) -> None:
        """Take a script.

        Args:
            script: the entries, or a JSON file of them.
            rows: how many requests one step answers.
            step_seconds: how long a step takes.
            journal: a file that gets one line for every answer given.
            failed: a file that is made at the first failure of `once`.

        Raises:
            EngineError: the file is not one.
        """
        self._script = _script_in(Path(script)) if isinstance(script, str | Path) else list(script)
        self._rows, self._step_seconds, self._journal = rows, step_seconds, journal and Path(journal)
        self._failed = failed and Path(failed)
        self._queue: deque[Request] = deque()
        self._turns: Counter[int] = Counter()
        self._lam: float | None = None

    def versions(self) -> dict[str, str]:
        """The name alone."""
        return {"engine": "scripted"}

    @property
    def busy(self) -> bool:
        """Whether requests are in the queue."""
        return bool(self._queue)

    def abandon(self) -> None:
        """Empty the queue."""
        self._queue.clear()

    def _move(self, where: Any) -> str:
        """Remember λ; `where` is a number, a recipe or its mapping. There are no weights, so there is no fingerprint."""
        if isinstance(where, Recipe):
            where = where.lam
        self._lam = where.get("lambda") if isinstance(where, Mapping) else where
        return ""

    def add(self, request: Request) -> None:
        """Queue a request.

        Raises:
            EngineError: the script has no answer, or answers `"fail": "refuse"`; or it asks for what is not done here.
        """
        self._check(request)
        if request.begins is not None and "chance" not in self._script[self._entry(request.prompt)]:
            raise EngineError("the script knows no chance for this prompt", request.prompt[-80:], "give the entry one")
        if self._response(request.prompt).get("fail") == "refuse":
            raise EngineError("the script refuses this prompt", request.prompt[-80:])
        self._queue.append(request)

    def step(self) -> list[Finished]:
        """Answer the next few requests."""
        time.sleep(self._step_seconds)
        self.progress += bool(self._queue)
        return [self._answer(self._queue.popleft()) for _ in range(min(self._rows, len(self._queue)))]

    def _entry(self, prompt: str) -> int:
        for number, entry in enumerate(self._script):
            if entry.get("contains", "") in prompt and entry.get("lambda", self._lam) == self._lam:
                return number
        raise EngineError(f"the script has no answer at λ = {self._lam}", prompt[-80:], "add an entry")

    def _response(self, prompt: str) -> dict[str, Any]:
        """The response whose turn it is."""
        number = self._entry(prompt)
        responses = self._script[number]["responses"]
        response = responses[self._turns[number] % len(responses)]
        return {"text": response} if isinstance(response, str) else dict(response)

    def _answer(self, request: Request) -> Finished:
        if request.begins is not None:
            chance = float(self._script[self._entry(request.prompt)]["chance"])
            return chance_finished(request, [(chance, math.log(chance), math.log1p(-chance))])
        response = self._response(request.prompt)
        self._turns[self._entry(request.prompt)] += 1
        if response.get("once") and self._failed:
            if self._failed.exists():
                response.pop("fail", None)
            self._failed.touch()
        self._fail(response.get("fail", ""))
        if self._journal:
            with self._journal.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"lambda": self._lam, "seed": request.seed, "prompt": request.prompt}) + "\n")
        text = response["text"]
        num_tokens = response.get("num_tokens", len(text.split()) + 1)
        return Finished(request.key, Generation(text, num_tokens, response.get("finish", "stop")))

    def _fail(self, how: str) -> None:
        if how == "die":
            os._exit(9)
        if how == "memory":
            bytearray(1 << 62)  # more than any machine has: Python's own MemoryError
        while how == "hang":
            time.sleep(1)
        if how:
            raise EngineError(f"scripted failure: {how}")


def open_scripted(_: Recipe | None, **options: Any) -> ScriptedEngine:
    """The engine that the registry calls `scripted`; it holds no weights."""
    return ScriptedEngine(**options)


def _script_in(path: Path) -> list[Any]:
    """The entries in a file.

    Raises:
        EngineError: it cannot be read, or is no JSON list.
    """
    script = parse_json(read_text(path, EngineError, "the script"), path, EngineError)
    if not isinstance(script, list):
        raise EngineError("the script is no list of entries", path)
    return script
