"""The studies behind docs/statistics.md can be run by anyone, in one command."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import adaptive_simulation
import simulations
import stages_simulation

ROOT = Path(__file__).parents[2]
PARTS = ("links", "shares", "decisions", "budgets", "searches", "fronts")


def test_the_studies_of_shares_and_decisions_run_and_their_intervals_cover():
    command = [sys.executable, "benchmarks/simulations.py", *PARTS, "--smoke"]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    _, of_shares = told.split("## shares")
    line = next(line for line in of_shares.splitlines() if line.startswith("| 30 × 8 |"))
    assert float(line.split("|")[2].split("%")[0]) >= 85  # the least coverage, of 60 sets each
    (line,) = [line for line in told.splitlines() if line.startswith("| 541 × 64 |")]
    assert line.endswith("| 0 / 100 / 0 |")  # a gain of 4 points
    assert all(f"## {part}" in told for part in PARTS)


def test_the_study_of_stages_runs_and_its_brackets_cover():
    (line,) = [line for line in stages_simulation.tables(True) if line.startswith("| by a bracket |")]
    assert all(float(share.strip().rstrip("%")) >= 95 for share in line.split("|")[3:6])


def test_the_study_of_adaptive_sweeps_runs_and_they_cost_less_than_the_grid():
    lines = [line for line in adaptive_simulation.tables(True) if line.startswith("| 20 × 4 |")]
    assert [line.split("|")[2].strip() for line in lines] == list(adaptive_simulation.GOALS)
    assert all(float(line.split("|")[3].split("%")[0]) <= 60 for line in lines)


def test_a_study_that_was_stopped_goes_on_with_what_it_kept(tmp_path):
    done = []

    def half(number):
        if number > 4:
            raise KeyboardInterrupt
        done.append(number)
        return number / 2

    with pytest.raises(KeyboardInterrupt):
        list(simulations.Runner(SimpleNamespace(map=map), tmp_path)(half, [2, 4, 6]))
    assert done == [2, 4]
    again = simulations.Runner(SimpleNamespace(map=map), tmp_path)
    assert list(again(half, [2, 3, 4])) == [1, 1.5, 2]
    assert done == [2, 4, 3]
    assert list(simulations.Runner(SimpleNamespace(map=map), None)(half, [2, 4])) == [1, 2]
