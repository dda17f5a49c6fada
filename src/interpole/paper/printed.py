"""The printed numbers of arXiv 2510.10977, as rows: a point of a sweep, a task, a statistic and its value.

Points are called as a sweep calls them (`λ=0.4`, `ta`, `skip-ffn-0.8`), so a run's results are found by the same names.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from interpole.records import dial_name
from interpole.tasks import profile

__all__ = ["INSTRUCT", "QUESTIONS", "SAMPLES", "TABLES", "THIRDS", "Printed", "Statistic", "printed", "sigmas"]

TABLES = Path(__file__).parent / "tables"
QUESTIONS = {"aime25": 30, "ifeval": 541, "gpqa_diamond": 198}
SAMPLES = profile("paper-4b").k
INSTRUCT = "Instruct, its own sampler"
THIRDS = {
    "0-11": "first third", "12-23": "second third", "24-35": "last third",
    "0-23": "first two thirds", "12-35": "last two thirds",
}  # fmt: skip
"""The layers that Table 3 interpolates, of 36, and what these points are called at any depth."""
MODULES = {"MI-0.8 without attention": "skip-attention-0.8", "MI-0.8 without FFN": "skip-ffn-0.8"}
BACKBONES = {"instruct": dial_name(0.8), "mix": "mix-0.8", "base": "base-0.8"}

Statistic = Literal["mean", "pass", "vote", "tokens", "think", "length"]
"""`length`: tokens as a share of Thinking's."""


@dataclass(frozen=True, slots=True)
class Printed:
    """One printed number: a share in [0, 1], or tokens."""

    task: str
    point: str
    statistic: Statistic
    k: int  # of Mean@k, Pass@k, Vote@k; of the others the samples per question
    value: float

    @property
    def name(self) -> str:
        """As the paper heads it: `Mean@64`, `Token #N`."""
        known = {"tokens": "Token #N", "think": "Think #R", "length": "length, of Thinking's"}
        return known.get(self.statistic, f"{self.statistic.capitalize()}@{self.k}")


def printed(table: str) -> list[Printed]:
    """The rows of one printed table, points in its order.

    Args:
        table: the name of its file without `.csv`; not that of Table 1, which has no samples (`sigmas`).
    """
    return list(_READERS[table](table))


def sigmas() -> list[tuple[str, str, float]]:
    """Table 1: two models of the family, and σ between them."""
    return [(row["model_a"], row["model_b"], float(row["sigma"])) for row in _lines("table1_similarity")]


def _lines(table: str) -> Iterable[dict[str, str]]:
    with (TABLES / f"{table}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _row(task: str, point: str, head: str, text: str) -> Printed:
    """A cell under a head such as `mean64`, `tokens` or `think_ratio`."""
    found = re.fullmatch(r"([a-z]+?)(\d*)(?:_ratio)?", head)
    task = "gpqa_diamond" if task == "gpqa" else task
    statistic: Statistic | None = next((one for one in get_args(Statistic) if found and found[1] == one), None)
    if found is None or statistic is None:
        raise ValueError(f"no statistic {head!r}")
    value = float(text) if statistic == "tokens" else round(float(text) / 100, 6)
    return Printed(task, point, statistic, int(found[2] or SAMPLES[task]), value)


def _merge(method: str, lam: str) -> str:
    """The point of a method of Tables 2 and 5."""
    if method == "Instruct":
        return INSTRUCT
    return dial_name(float(lam)) if lam else method.lower()


def _methods(table: str) -> Iterator[Printed]:
    for line in _lines(table):
        point = _merge(line.pop("method"), line.pop("lam"))
        for head, text in line.items():
            task, _, statistic = head.partition("_")
            yield _row(task, point, statistic, text)


def _layers(table: str) -> Iterator[Printed]:
    ends = {"Instruct": INSTRUCT, "Thinking": dial_name(1.0)}
    for line in _lines(table):
        model, layers = line.pop("model"), line.pop("layers")
        point = ends.get(model) or THIRDS.get(layers, dial_name(0.8))
        yield from (_row("aime25", point, head, text) for head, text in line.items())


def _backbones(table: str) -> Iterator[Printed]:
    for line in _lines(table):
        task, head = line["benchmark"], line["metric"]
        yield from (_row(task, point, head, line[column]) for column, point in BACKBONES.items())


def _decoding(table: str) -> Iterator[Printed]:
    for line in _lines(table):
        task, head, top_p = line.pop("benchmark"), line.pop("metric"), float(line.pop("top_p"))
        for column, text in line.items():
            point = f"temperature {float(column.removeprefix('t')):g}, top_p {top_p:g}"
            yield _row(task, point, head, text)


def _modules(table: str) -> Iterator[Printed]:
    for line in _lines(table):
        point = MODULES.get(line.pop("model"), dial_name(0.8))
        yield from (_row("aime25", point, head, text) for head, text in line.items())


_READERS = {
    "table2_qwen3_4b": _methods,
    "table3_layers": _layers,
    "table4_backbones": _backbones,
    "table5_qwen3_30b": _methods,
    "figure4_decoding": _decoding,
    "figure5_modules": _modules,
}
