"""The studies behind docs/statistics.md can be run by anyone, in one command."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_studies_of_shares_and_decisions_run_and_their_intervals_cover():
    command = [sys.executable, "benchmarks/statistics.py", "shares", "decisions", "--smoke"]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    (line,) = [line for line in told.splitlines() if line.startswith("| 30 × 8 | 0.98 |")]
    assert float(line.split("|")[3].strip().rstrip("%")) >= 88  # the least coverage, of 60 sets each
    assert "| 541 × 64 | +4 points | 0% | 100% | 0% |" in told
