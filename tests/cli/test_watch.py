"""Watching a run: what is shown is what is on disk, and nothing is touched."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest
from rich.console import Console

from interpole.analysis.metrics import measure
from interpole.cli.watch import MAX_IDLE, Watcher, sparkline, to_json, view, watch
from interpole.engines.pool import EngineRate
from interpole.errors import RunError
from interpole.runs.progress import ProgressFile
from interpole.runs.runfile import RunFile, exclusive
from synthetic import samples, write_run

LAMS = (0.0, 0.5, 1.0)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run", samples(6, 2, lams=LAMS))


def unfinish(run: Path, point: str, num_answers: int) -> RunFile:
    """Put one point back to where its sweep still writes answers. Returns the finished file."""
    file = RunFile.load(run)
    tasks = {name: task.model_copy(update={"num_problems": 6}) for name, task in file.tasks.items()}
    finished = file.model_copy(update={"tasks": tasks})
    entries = []
    for entry in file.entries:
        if entry.point == point:
            parts = tuple(part.model_copy(update={"status": "planned", "log": None}) for part in entry.parts)
            entry = entry.model_copy(update={"parts": parts})
            (run / entry.folder / "sample-1.answers.jsonl").write_text("{}\n" * num_answers + '{"half')
        entries.append(entry)
    finished.model_copy(update={"entries": tuple(entries)}).save(run)
    return finished


def shown(renderable: object) -> str:
    console = Console(width=110, record=True, file=None, quiet=False, force_terminal=False)
    with console.capture() as capture:
        console.print(renderable)
    return capture.get()


def test_sparklines_rise_with_their_values() -> None:
    assert sparkline([0, 0.5, 1], 0, 1) == "▁▅█"
    assert sparkline([3, 3, 3], 0) == "███"
    assert sparkline([-1, 2], 0, 1) == "▁█"


def test_a_finished_run_shows_its_metrics(run: Path) -> None:
    text = shown(view(Watcher(run).read()))
    for m in measure(samples(6, 2, lams=LAMS), resamples=10):
        line = next(line for line in text.splitlines() if f" {m.point} " in line)
        assert f"{m.mean.value:.1%}" in line
        assert f"{m.tokens.value:,.1f}" in line


def test_what_is_shown_in_a_pipe_ends_its_last_line(run: Path) -> None:
    console = Console(width=110, force_terminal=False)
    with console.capture() as capture:
        watch(run, console=console)
    assert capture.get().endswith(" samples\n")
    assert not capture.get().endswith("\n\n")


def test_an_unfinished_point_counts_its_whole_answers_and_leaves_the_journal_alone(run: Path) -> None:
    unfinish(run, "λ=1", 5)
    journal = next(run.rglob("*.answers.jsonl"))
    before = journal.read_bytes()
    reading = Watcher(run).read()
    assert (reading.done, reading.total, reading.left) == ((12, 12, 5), (12, 12, 12), 7)
    assert {m.point for m in reading.metrics} == {"λ=0", "λ=0.5"}
    assert journal.read_bytes() == before


def test_answers_of_units_that_other_machines_do_count_as_well(run: Path) -> None:
    finished = unfinish(run, "λ=1", 5)
    entry = next(entry for entry in finished.entries if entry.point == "λ=1")
    unit = run / "units/.0123456789abcdef.4567" / entry.folder
    unit.mkdir(parents=True)
    (unit / "sample-1-problem-1-3.answers.jsonl").write_text("{}\n" * 2 + '{"half')
    assert Watcher(run).read().done == (12, 12, 7)


def test_what_is_left_to_pay_goes_by_the_tokens_seen(run: Path) -> None:
    unfinish(run, "λ=1", 5)
    with exclusive(run):
        reading = Watcher(run).read()
    made = [s for s in samples(6, 2, lams=LAMS) if s.lam < 1]
    each = sum(s.num_tokens for s in made) / len(made)
    assert f"about ${each * 7 * 10_000 / 1e6:,.2f} left to pay" in shown(view(reading, 90.0, 10_000))
    assert "time left: 0:01:30" in shown(view(reading, 90.0))


def test_what_the_engines_do_is_shown_while_they_do_it(run: Path) -> None:
    unfinish(run, "λ=1", 5)
    rate = EngineRate(
        name="engine 2 (GPU 1)", place="λ=1", num_loads=2, num_answers=29, num_tokens=1200, busy_seconds=8.0
    )
    ProgressFile(run).write([rate])
    line = "engine 2 (GPU 1) at λ=1: 29 responses, 150 tokens/s"
    assert line not in shown(view(Watcher(run).read()))  # nobody is at it
    with exclusive(run):
        reading = Watcher(run).read()
        assert line in shown(view(reading))
    assert to_json(reading)["engines"][0]["tokens_per_second"] == 150
    (run / "progress.json").write_text('{"engines": [{"name": 7}]}')
    with pytest.raises(RunError, match=r"engines.0.name"):
        Watcher(run).read()


def test_watching_ends_when_the_sweep_does(run: Path) -> None:
    finished = unfinish(run, "λ=1", 5)
    waits = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 3:
            finished.save(run)

    console = Console(width=110, force_terminal=False, quiet=True)
    watch(run, every_seconds=0.5, console=console, sleep=sleep)
    assert waits == [0.5, 0.5, 0.5]


def test_a_sweep_that_stopped_is_noticed_and_one_that_runs_is_not_disturbed(run: Path) -> None:
    unfinish(run, "λ=1", 5)
    note, waits = "nobody is writing to this run", []
    with exclusive(run):
        assert Watcher(run).read().written
        assert note not in shown(view(Watcher(run).read()))

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 2:  # somebody goes on for a moment
            stack.enter_context(exclusive(run))
        if len(waits) == 3:
            stack.close()

    with ExitStack() as stack:
        watch(run, every_seconds=0.5, console=Console(quiet=True), sleep=sleep)
    assert len(waits) == 2 + MAX_IDLE
    assert note in shown(view(Watcher(run).read()))
    assert note not in shown(view(Watcher(write_run(run.parent / "done", samples(2, 1))).read()))


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError):
        watch(tmp_path)
