"""A sweep's work in units: blocks of one task's questions at one point. They are the same whoever does them, and where.

A unit is named by the hash of all that its responses depend on. A shard is a stretch of the units in the order of the sweep, so
that it holds few λ; which one follows from the configuration alone, so machines need not talk to each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np

from interpole.formats import content_hash
from interpole.runs.runfile import Block, Entry, Part, Shard
from interpole.tasks import Benchmark

__all__ = ["Made", "Unit", "blocks", "deal", "missing_parts", "unit_name", "units"]

UNIT_RESPONSES = 512
"""About so many are in a unit: enough to keep an engine busy, few enough to hand them out evenly and to lose one."""
UNITS_PER_SHARD = 4


class Unit(NamedTuple):
    """A block of one task's questions at a point, by their names in the sweep."""

    task: str
    point: str
    part: Part

    def __str__(self) -> str:
        part = self.part
        block = f", questions {part.block.first} to {part.block.first + part.block.num - 1}" if part.block else ""
        return f"{self.point} · {self.task}{block}"


class Made(NamedTuple):
    """A unit that somebody else did."""

    unit: Unit
    run: Path | None  # a run folder with that unit alone; None: nobody could do it
    error: str = ""  # why not
    num_generated: int = 0
    num_tokens: int = 0


class _Dealt(NamedTuple):
    """A part of a job, by its number, and what it is expected to cost, in any measure."""

    job: int
    part: Part
    cost: float


def unit_name(entry: Entry, part: Part) -> str:
    """The name of a unit: a hash of what its responses depend on, the entry's identity, and of which they are."""
    block = part.block and [part.block.first, part.block.num]
    return content_hash([entry.folder, entry.identity, part.first_sample, part.num_samples, block])[:24]


def blocks(benchmark: Benchmark, num_parts: int) -> list[Block | None]:
    """A task's questions cut into about `num_parts` blocks of neighbours: a power of two, so that finer cuts keep the coarser.

    A task that brings its own solver is never cut, nor one into more blocks than it has questions.
    """
    num, cuts = len(benchmark.problems), 1
    if benchmark.foreign is not None:
        return [None]
    while cuts < num_parts and 2 * cuts <= num:
        cuts *= 2
    bounds = [num * i // cuts for i in range(cuts + 1)]
    return [_block(range(start, end), num) for start, end in pairwise(bounds)]


def _block(problems: range, num_problems: int) -> Block | None:
    """Problems, counted from 0, as a block; None where it is all of them."""
    if len(problems) == num_problems:
        return None
    return Block(first=problems.start + 1, num=len(problems))


def units(benchmark: Benchmark, finer: int = 1) -> list[Part]:
    """A task at one point in units; `finer`: in so many times as many as there would be."""
    num_parts = finer * max(1, -(-len(benchmark.problems) * benchmark.k // UNIT_RESPONSES))
    return [Part(first_sample=1, num_samples=benchmark.k, block=block) for block in blocks(benchmark, num_parts)]


def _dealt(jobs: Sequence[tuple[Benchmark, float]], finer: int = 1) -> list[_Dealt]:
    """All units of a sweep in its order."""
    return [
        _Dealt(number, part, tokens * part.num_responses(len(bench.problems)))
        for number, (bench, tokens) in enumerate(jobs)
        for part in units(bench, finer)
    ]


def deal(jobs: Sequence[tuple[Benchmark, float]], shard: Shard) -> list[list[Part]]:
    """What a shard has to do of each job: a stretch of all units that costs as much as any other shard's.

    Units are cut finer only where there would be too few to deal out evenly.

    Args:
        jobs: each task at each point: the benchmark with its k, and the tokens that a response is expected to have.
        shard: which share.
    """
    found, finer = _dealt(jobs), 1
    while len(found) < UNITS_PER_SHARD * shard.total:
        finer, before = 2 * finer, len(found)
        found = _dealt(jobs, finer)
        if len(found) == before:  # every unit is one question
            break
    costs = np.array([unit.cost for unit in found])
    middles = (np.cumsum(costs) - costs / 2) / costs.sum() * shard.total
    mine: list[list[Part]] = [[] for _ in jobs]
    for unit, middle in zip(found, middles, strict=True):
        if int(middle) + 1 == shard.number:
            mine[unit.job].append(unit.part)
    return mine


def missing_parts(before: Sequence[Part], wanted: Sequence[Part], num_problems: int) -> tuple[Part, ...]:
    """The parts of an entry that shall have what is wanted: those that are done, and what is missing as planned ones.

    What is done is never given up; unfinished parts end where nothing more is wanted, and stay where it is they that are wanted;
    of what is not covered, each wanted part becomes as few as will do.

    Args:
        before: the parts that there are.
        wanted: which responses there shall be.
        num_problems: of the task.
    """
    samples = max((part.first_sample + part.num_samples - 1 for part in wanted), default=0)
    left = np.zeros((num_problems, samples), dtype=bool)  # (problem, sample): wanted, and in no part so far
    for part in wanted:
        left[_cells(part, num_problems)] = True
    kept = [part for part in before if part.status == "done"]
    for part in kept:
        left[_cells(part, num_problems)] = False
    for part in (part for part in before if part.status != "done"):
        num_samples = min(part.num_samples, samples - part.first_sample + 1)
        if num_samples < 1:
            continue
        short = part if num_samples == part.num_samples else part.model_copy(update={"num_samples": num_samples})
        if left[_cells(short, num_problems)].all():
            left[_cells(short, num_problems)] = False
            kept.append(short)
    for part in wanted:
        kept += _rectangles(left, part, num_problems)
    return tuple(sorted(kept, key=lambda part: part.place))


def _cells(part: Part, num_problems: int) -> tuple[slice, slice]:
    problems = part.problems(num_problems)
    return slice(problems.start, problems.stop), slice(part.first_sample - 1, part.first_sample - 1 + part.num_samples)


def _rectangles(left: np.ndarray, wanted: Part, num_problems: int) -> list[Part]:
    """What is left within a wanted part, as parts: neighbouring problems that lack the same samples go together."""
    rows, columns = _cells(wanted, num_problems)
    found, start = list[Part](), rows.start
    for end in range(rows.start + 1, rows.stop + 1):
        if end < rows.stop and (left[end, columns] == left[start, columns]).all():
            continue
        edges = np.flatnonzero(np.diff(left[start, columns].astype(int), prepend=0, append=0)).reshape(-1, 2)
        found += [
            Part(
                first_sample=columns.start + 1 + first,
                num_samples=last - first,
                block=_block(range(start, end), num_problems),
            )
            for first, last in edges.tolist()
        ]
        start = end
    left[rows, columns] = False
    return found
