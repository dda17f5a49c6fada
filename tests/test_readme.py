"""The README tells the truth: its Python runs, its commands exist."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_the_ten_lines_of_python_run_and_dial_from_short_to_thinking(tmp_path, monkeypatch, capsys):
    pytest.importorskip("transformers")
    code = re.search(r"```python\n(.*?)```", README, re.S)[1]
    monkeypatch.chdir(tmp_path)
    exec(code, {})
    direct, thought = capsys.readouterr().out.split("\n", 2)[1:]
    assert re.fullmatch(r"\d+", direct)
    assert thought.startswith("<think>")
    assert "</think>" in thought
    assert (tmp_path / "merged-0.6/model.safetensors").exists()


def test_every_command_it_names_exists():
    from typer.main import get_command

    from interpole.cli import app
    from interpole.cli.reference import commands

    known = {name for name, _ in commands(get_command(app), "interpole")}
    named = set(re.findall(r"`(interpole (?:lab |runs |recipe )?[a-z-]+)", README))
    assert named
    assert named <= known


def test_every_target_it_names_is_in_the_makefile():
    makefile = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"make ([a-z-]+)", README)):
        assert re.search(rf"^{target}:", makefile, re.M), target


def test_every_file_in_its_tree_is_there():
    tree = re.search(r"```\n(src/interpole/.*?)```", README, re.S)[1]
    for line in tree.splitlines()[1:]:
        parent = ROOT if not line.startswith(("├", "└")) else ROOT / "src/interpole"
        for name in re.findall(r"([a-z0-9_]+(?:\.py|/))(?=[, ])", line):
            assert (parent / name).exists(), name
