"""The paper's Tables 2 (4B) and 5 (30B), as the curves of three tasks."""

from __future__ import annotations

import csv
from pathlib import Path

from interpole.analysis.tables import CurveRow
from interpole.paper.printed import TABLES

TABLE2, TABLE5 = TABLES / "table2_qwen3_4b.csv", TABLES / "table5_qwen3_30b.csv"
TASKS = {"aime25": ("aime25", 30, 64), "ifeval": ("ifeval", 541, 8), "gpqa": ("gpqa_diamond", 198, 8)}


def table2(*, counts: bool = True, path: Path = TABLE2) -> list[CurveRow]:
    """Rows of the dial points: percentages as shares, with questions and samples from the paper's text."""
    with path.open(encoding="utf-8") as file:
        lines = [line for line in csv.DictReader(file) if line["lam"]]
    rows = []
    for name, (task, questions, k) in TASKS.items():
        for line in lines:
            share = {
                c: float(line[f"{name}_{c}"]) / 100
                for c in (f"mean{k}", f"pass{k}", f"vote{k}", "think")
                if f"{name}_{c}" in line
            }
            rows.append(
                CurveRow(
                    task, float(line["lam"]), share["think"],
                    questions if counts else None, k if counts else None, mean=share[f"mean{k}"],
                    pass_=share.get(f"pass{k}"), vote=share.get(f"vote{k}"), tokens=float(line[f"{name}_tokens"]),
                )
            )  # fmt: skip
    return rows


def table5() -> list[CurveRow]:
    """As `table2`, of the 30B pair."""
    return table2(path=TABLE5)
