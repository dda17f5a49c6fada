"""Every command of the tutorial runs, in order, on the tiny pair in place of the hub ids."""

import json
import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from interpole.cli import app
from interpole.lab import shipped
from interpole.tasks.chains import problems

TUTORIAL = (Path(__file__).parents[2] / "docs/tutorial.md").read_text()
COMMANDS = [
    line for block in re.findall(r"```bash\n(.*?)```", TUTORIAL, re.S) for line in block.splitlines() if line.strip()
]


@pytest.mark.slow
def test_the_tutorial_from_doctor_to_the_paper(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    where = shipped()
    rows = [
        {"id": p.id, "question": p.question, "answer": p.answer, "difficulty": p.difficulty}
        for p in problems("test", 10)
    ]
    (tmp_path / "my.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    outputs = {}
    for command in COMMANDS:
        ours = command.replace("Qwen/Qwen3-4B-Instruct-2507", str(where.instruct))
        ours = ours.replace("Qwen/Qwen3-4B-Thinking-2507", str(where.thinking))
        ours = ours.replace("Qwen/Qwen3-4B-Base", str(where.base))
        program, *arguments = shlex.split(ours)
        assert program == "interpole"
        run = CliRunner().invoke(app, arguments, env={"COLUMNS": "100"})
        assert run.exit_code == 0, f"{command}\n{run.output}\n{run.exception!r}"
        outputs[command] = run.stdout
    made = json.loads(next(out for command, out in outputs.items() if "--balanced --json" in command))
    assert made["met"]
    assert (tmp_path / "mine-0.6/config.json").exists()
    assert "byte for byte" in next(out for command, out in outputs.items() if command.startswith("interpole audit"))
    assert "50 %" in next(out for command, out in outputs.items() if command.startswith("interpole predict"))
    assert "seen over static λ" in outputs["interpole route runs/mine"]
    assert "policy" in {
        point["point"] for point in json.loads((tmp_path / "runs/mine/metrics.json").read_text())["points"]
    }
    assert (tmp_path / "paper-figure5/sweep.yml").exists()
    assert (tmp_path / "runs/mine/report.html").exists()
    assert (tmp_path / "sigma.svg").exists()
