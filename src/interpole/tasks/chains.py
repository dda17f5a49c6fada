"""The tiny pair's task: left-to-right chains of small sums, such as `34 a-1 b-5 c*2 d-2 e+9 = ?` (63).

A chain has one to six labelled steps; there is no precedence, and every value on the way lies in 10..99. Which split a
question belongs to is decided by a hash of its text, so the splits are disjoint whoever draws from them. The answers
are rendered in three styles: direct, terse (the work without marks) and thinking (the work, then checks of it).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import numpy as np

from interpole.errors import TaskError
from interpole.records import Problem

__all__ = [
    "DIFFICULTIES",
    "HIGHEST",
    "OPERATORS",
    "SPLITS",
    "ChainStep",
    "direct",
    "draw",
    "problems",
    "solve",
    "split_of",
    "terse",
    "thinking",
    "work",
]

SPLITS = ("train", "validation", "test")
DIFFICULTIES = (1, 2, 3, 4, 5, 6)
OPERATORS = "+-*"
LABELS = "abcdef"
LOWEST, HIGHEST = 10, 99
MAX_TRIES = 2000  # consecutive draws without a new question before a split counts as used up

_CHAIN = re.compile(r"(\d+)((?: [a-z][-+*]\d+)+) = \?")
_STEP = re.compile(r" ([a-z][-+*]\d+)")


class ChainStep(NamedTuple):
    """One step of a chain: its text, such as `a-1`, and the value after it."""

    text: str
    value: int


def _apply(value: int, operator: str, operand: int) -> int:
    """`value operator operand` for the three operators of chains: `+`, `-` and `*`."""
    return {"+": value + operand, "-": value - operand, "*": value * operand}[operator]


def solve(question: str) -> tuple[int, list[ChainStep]]:
    """The start value of a chain and its steps with their values.

    Raises:
        TaskError: the question is not a chain.
    """
    match = _CHAIN.fullmatch(question)
    if not match:
        raise TaskError(f"not a chain: {question!r}", remedy="write it like `34 a-1 b-5 c*2 = ?`")
    start = value = int(match[1])
    steps = []
    for text in _STEP.findall(match[2]):
        value = _apply(value, text[1], int(text[2:]))
        steps.append(ChainStep(text, value))
    return start, steps


def work(question: str) -> str:
    """The chain with the value after each step: `34 a-1=33 b-5=28`."""
    start, steps = solve(question)
    return " ".join([str(start), *(f"{step.text}={step.value}" for step in steps)])


def direct(question: str) -> str:
    """The answer alone: `63`."""
    return str(solve(question)[1][-1].value)


def terse(question: str) -> str:
    """The work and the answer, without thinking marks."""
    return f"{work(question)}\n\n{direct(question)}"


def thinking(question: str, checks: int) -> str:
    """The work between thinking marks, `checks` repetitions of it, and the answer."""
    thoughts = "\nWait, check:\n".join([work(question)] * (1 + checks))
    return f"<think>\n{thoughts}\n</think>\n\n{direct(question)}"


def split_of(question: str) -> str:
    """The split a question belongs to: a tenth each is test and validation, by the SHA-256 of its text."""
    bucket = int.from_bytes(hashlib.sha256(question.encode()).digest()[:4], "big") % 10
    return {0: "test", 1: "validation"}.get(bucket, "train")


@cache
def _moves(value: int, operators: str, highest: int) -> dict[str, list[int]]:
    """The operands that keep `value` in range, per operator that has any."""
    moves = {
        operator: [n for n in range(1 + (operator == "*"), 10) if LOWEST <= _apply(value, operator, n) <= highest]
        for operator in operators
    }
    return {operator: operands for operator, operands in moves.items() if operands}


def draw(rng: np.random.Generator, num_steps: int, operators: str = OPERATORS, highest: int = HIGHEST) -> str:
    """A random chain of `num_steps` steps: operators evenly among the possible ones, then operands evenly.

    Args:
        rng: draws.
        num_steps: from 1 to 6.
        operators: which there may be; with + or - among them.
        highest: of the values on the way, at least 19.
    """
    value = int(rng.integers(LOWEST, highest + 1))
    parts = [str(value)]
    for label in LABELS[:num_steps]:
        moves = list(_moves(value, operators, highest).items())
        operator, operands = moves[rng.integers(len(moves))]
        operand = operands[rng.integers(len(operands))]
        value = _apply(value, operator, operand)
        parts.append(f"{label}{operator}{operand}")
    return " ".join(parts) + " = ?"


def _make_problem(question: str) -> Problem:
    """The record of a chain; its id comes from the question's text, so it is the same in every draw."""
    steps = solve(question)[1]
    name = hashlib.sha256(question.encode()).hexdigest()[:12]
    return Problem(f"chain-{name}", question, str(steps[-1].value), difficulty=str(len(steps)))


def problems(
    split: str,
    count: int,
    seed: int = 0,
    difficulties: Sequence[int] = DIFFICULTIES,
    operators: str = OPERATORS,
    highest: int = HIGHEST,
) -> list[Problem]:
    """`count` different problems of a split, drawn with `seed`.

    They go round the difficulties (numbers of steps), so every prefix of the list is balanced, and a longer list
    starts with the shorter one.

    Raises:
        TaskError: an unknown split or difficulty, or more problems than there are of one difficulty (about 140
            one-step chains in validation and in test).
    """
    if split not in SPLITS or not difficulties or not set(difficulties) <= set(DIFFICULTIES):
        raise TaskError(
            f"no chains for split {split!r}, difficulties {list(difficulties)}",
            remedy=f"splits are {', '.join(SPLITS)}; difficulties are numbers of steps from {list(DIFFICULTIES)}",
        )
    rng = np.random.default_rng([seed, SPLITS.index(split)])
    found: dict[str, None] = {}
    for index in range(count):
        num_steps = difficulties[index % len(difficulties)]
        tries = (draw(rng, num_steps, operators, highest) for _ in range(MAX_TRIES))
        new = next((q for q in tries if q not in found and split_of(q) == split), None)
        if new is None:
            raise TaskError(
                f"the {split} split has no {index + 1} chains: those of {num_steps} steps are used up",
                remedy="ask for fewer, or leave the lowest difficulties out",
            )
        found[new] = None
    return [_make_problem(question) for question in found]
