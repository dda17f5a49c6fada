"""A run in the terminal while it is made, or after: how far each point is, the curves as sparklines, what is left.

It only reads: `run.json`, finished logs, how many answers the unfinished ones have, and what the engines do. It never waits on
a sweep and never disturbs one. Shards of a sweep are shown as the one run that they will be.
"""

from __future__ import annotations

import glob
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from interpole.analysis.metrics import measure
from interpole.analysis.tables import PointMetrics
from interpole.cli.show import Terminal
from interpole.engines.pool import EngineRate
from interpole.errors import RunError
from interpole.files import open_regular
from interpole.records import Sample
from interpole.runs.journal import JOURNAL
from interpole.runs.progress import Progress
from interpole.runs.runfile import UNITS, Entry, RunFile, Shard, is_written
from interpole.runs.samples import read_log

__all__ = ["MAX_IDLE", "Reading", "Watcher", "sparkline", "to_json", "view", "watch"]

BARS = "▁▂▃▄▅▆▇█"
MAX_IDLE = 5  # looks in a row at which nobody writes: a sweep that has ended, not one that thinks between two rounds
RESAMPLES = 100  # intervals are not shown while watching; the report has them


@dataclass(frozen=True, slots=True)
class Reading:
    """Where a run stands at one moment, or the shards of one that are there; counts are samples."""

    entries: tuple[Entry, ...]  # one of several shards has the parts of all
    done: tuple[int, ...]  # of each entry, in the order of `entries`
    total: tuple[int, ...]
    metrics: Sequence[PointMetrics]  # of finished logs
    written: bool = True  # a process is writing to the run
    engines: Sequence[EngineRate] = ()  # of whoever writes, or wrote last
    missing_shards: tuple[str, ...] = ()  # `3/3`, where several are watched

    @property
    def unfinished(self) -> bool:
        """Whether there is something that was neither done nor tried."""
        return any(part.status == "planned" for entry in self.entries for part in entry.parts)

    @property
    def left(self) -> int:
        """Samples still to be made."""
        return sum(self.total) - sum(self.done)


class Watcher:
    """Reads a run again and again, or the shards of one; logs that were read once are kept, as they do not change."""

    def __init__(self, *runs: Path) -> None:
        """Watch these."""
        self.runs = runs
        self._logs: dict[Path, list[Sample]] = {}
        self._metrics: list[PointMetrics] = []

    def read(self) -> Reading:
        """How far the run is now.

        Raises:
            RunError: no run, one of its finished logs cannot be read, or several runs are no shards of one sweep.
        """
        files = self._files()
        known = len(self._logs)
        here: dict[tuple[str, str], list[tuple[Path, RunFile, Entry]]] = {}
        for run, file in files.items():
            for entry in file.current:
                here.setdefault((entry.task, entry.point), []).append((run, file, entry))
                self._read_logs(run, entry)
        if len(self._logs) > known:
            found = [samples for of in here.values() for run, _, entry in of for samples in self._samples(run, entry)]
            self._metrics = measure([one for samples in found for one in samples], resamples=RESAMPLES)
        return Reading(
            tuple(_together([entry for *_, entry in of]) for of in here.values()),
            tuple(sum(_done(*one) for one in of) for of in here.values()),
            tuple(sum(file.num_responses(entry) for _, file, entry in of) for of in here.values()),
            self._metrics,
            written=any(is_written(run) for run in files),
            engines=[rate for run in files for rate in self._rates(run)],
            missing_shards=_missing_shards([file.shard for file in files.values() if file.shard is not None]),
        )

    def _files(self) -> dict[Path, RunFile]:
        """Run → its file; shards by their numbers."""
        files = {run: RunFile.load(run) for run in self.runs}
        sweeps = {file.shard and file.shard.sweep for file in files.values()}
        if len(files) > 1 and (None in sweeps or len(sweeps) > 1):
            others = ", ".join(map(str, files))
            raise RunError("these are not shards of one sweep", others, "watch one run, or the shards of one sweep")
        return dict(sorted(files.items(), key=lambda one: one[1].shard.number if one[1].shard else 0))

    def _read_logs(self, run: Path, entry: Entry) -> None:
        """Read the finished logs that are new."""
        for part in entry.parts:
            if part.status == "done" and part.log is not None and (run / entry.folder / part.log) not in self._logs:
                path = entry.within(run, part.log)
                self._logs[run / entry.folder / part.log] = list(read_log(path, entry, part, texts=False))

    def _samples(self, run: Path, entry: Entry) -> list[list[Sample]]:
        """Of an entry's finished logs."""
        paths = [run / entry.folder / part.log for part in entry.parts if part.log]
        return [self._logs[path] for path in paths if path in self._logs]

    def _rates(self, run: Path) -> list[EngineRate]:
        """What the engines of a run do; of several runs each is named."""
        rates = Progress.load(run).engines
        if len(self.runs) == 1:
            return rates
        return [rate.model_copy(update={"name": f"{run.name}, {rate.name}"}) for rate in rates]


def _missing_shards(shards: Sequence[Shard]) -> tuple[str, ...]:
    """Which shards are not among several that were cut alike; nothing of one alone."""
    if len(shards) < 2 or len({shard.total for shard in shards}) > 1:
        return ()
    there, total = {shard.number for shard in shards}, shards[0].total
    return tuple(f"{number}/{total}" for number in range(1, total + 1) if number not in there)


def _together(entries: Sequence[Entry]) -> Entry:
    """One task at one point, of which several shards have parts."""
    first, *others = entries
    return first.model_copy(update={"parts": first.parts + tuple(part for one in others for part in one.parts)})


def _done(run: Path, file: RunFile, entry: Entry) -> int:
    """Samples of finished logs, and whole lines of journals. A journal belongs to its sweep: it is only read."""
    here = entry.within(run).glob(f"*{JOURNAL}")
    elsewhere = (run / UNITS).glob(f"*/{glob.escape(entry.folder)}/*{JOURNAL}")
    answers = sum(_num_lines(path) for path in (*here, *elsewhere))
    return min(file.num_responses(entry), file.num_responses(entry, "done") + answers)


def to_json(reading: Reading) -> dict[str, Any]:
    """Where a run stands, as plain values: every entry with its samples made and wanted."""
    entries = [
        {"task": entry.task, "point": entry.point, "status": entry.status, "done": done, "total": total}
        for entry, done, total in zip(reading.entries, reading.done, reading.total, strict=True)
    ]
    engines = [one.model_dump() | {"tokens_per_second": one.tokens_per_second} for one in reading.engines]
    return {
        "done": sum(reading.done), "total": sum(reading.total), "missing_shards": list(reading.missing_shards),
        "entries": entries, "engines": engines,
    }  # fmt: skip


def _num_lines(path: Path) -> int:
    try:
        with open_regular(path) as file:
            return file.read().count(b"\n")
    except OSError:  # its log was finished meanwhile; or something else is in its place, which a sweep will name
        return 0


def watch(
    *runs: Path,
    price_per_million: float | None = None,
    every_seconds: float = 2.0,
    console: Console | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Show a run until it is finished, or Ctrl-C; a finished run is shown once. A run that nobody writes to is soon left.

    Args:
        runs: the run folder, or those of a sweep's shards.
        price_per_million: US dollars for a million generated tokens, to say what is left to pay.
        every_seconds: how often to look.
        console: where to show it.
        sleep: how to wait; for tests.

    Raises:
        RunError: as `Watcher.read`.
    """
    watcher = Watcher(*runs)
    reading, start = watcher.read(), time.monotonic()
    first = sum(reading.done)
    console = console or Terminal()  # not Rich's global one, which other libraries redirect
    with Live(view(reading, price=price_per_million), console=console, auto_refresh=False) as live:
        num_idle = 0
        while reading.unfinished and num_idle < MAX_IDLE:
            sleep(every_seconds)
            reading = watcher.read()
            num_idle = 0 if reading.written else num_idle + 1
            made = sum(reading.done) - first
            seconds = (time.monotonic() - start) / made * reading.left if made > 0 else None
            live.update(view(reading, seconds, price_per_million), refresh=True)
    if not console.is_terminal:
        console.line()  # which Rich leaves out there


def view(reading: Reading, seconds_left: float | None = None, price: float | None = None) -> Group:
    """What is shown of a reading."""
    by_key = {(m.task, m.point): m for m in reading.metrics}
    parts: list[Table | Text] = []
    for task in dict.fromkeys(entry.task for entry in reading.entries):
        table = _table(task)
        for entry, done, total in zip(reading.entries, reading.done, reading.total, strict=True):
            if entry.task == task:
                table.add_row(*_row(entry, done, total, by_key.get((task, entry.point))))
        parts += [
            table,
            *_curves([m for m in reading.metrics if m.task == task and m.lam is not None and m.num_questions]),
        ]
    working = [Text(f"{one}", "dim") for one in reading.engines if reading.unfinished and reading.written]
    return Group(*parts, *working, _summary(reading, seconds_left, price))


def _table(task: str) -> Table:
    table = Table(title=Text(task), title_justify="left", title_style="bold", box=None, header_style="dim")
    for name in ("point", "", "samples", "Mean@k", "Think #R", "Token #N"):
        table.add_column(name, justify="left" if name in ("point", "") else "right", no_wrap=True)
    return table


def _row(entry: Entry, done: int, total: int, m: PointMetrics | None) -> tuple[str | Text | ProgressBar, ...]:
    state = Text("failed", "red") if entry.status == "failed" else Text(f"{done:,}/{total:,}")
    bar = ProgressBar(total=total, completed=done, width=18)
    if m is None or not m.num_questions:
        return entry.point, bar, state, "", "", ""
    return entry.point, bar, state, f"{m.mean.value:.1%}", f"{m.think.value:.1%}", f"{m.tokens.value:,.1f}"


def _curves(metrics: Sequence[PointMetrics]) -> list[Text]:
    """The three curves of the dial so far."""
    if len(metrics) < 2:
        return []
    ordered = sorted(metrics, key=lambda m: m.lam or 0.0)
    line = Text(f"λ {ordered[0].lam:g}…{ordered[-1].lam:g}", "dim")
    for name, colour, values, high in (
        ("Mean@k", "blue", [m.mean.value for m in ordered], 1.0),
        ("Think #R", "dark_orange", [m.think.value for m in ordered], 1.0),
        ("Token #N", "green", [m.tokens.value for m in ordered], None),
    ):
        line.append(f"  {name} ", "dim").append(sparkline(values, 0.0, high), colour)
    return [line, Text()]


def sparkline(values: Sequence[float], low: float | None = None, high: float | None = None) -> str:
    """Values as bars of eight heights between `low` and `high`, by default the smallest and the largest value."""
    low = min(values) if low is None else low
    high = max(values) if high is None else high
    width = (high - low) or 1
    return "".join(BARS[round(min(1.0, max(0.0, (v - low) / width)) * (len(BARS) - 1))] for v in values)


def _summary(reading: Reading, seconds_left: float | None, price: float | None) -> Text:
    done, total = sum(reading.done), sum(reading.total)
    missing = ", ".join(reading.missing_shards)
    words = [f"{done:,} of {total:,} samples" + (f", without those of shard {missing}" if missing else "")]
    if reading.unfinished and not reading.written:
        words.append("nobody is writing to this run: run the sweep again to go on")
    elif reading.left:
        words.append(
            "time left: " + ("not known yet" if seconds_left is None else str(timedelta(seconds=round(seconds_left))))
        )
    if price is not None and reading.metrics:
        each = sum(m.tokens.value * m.num_samples for m in reading.metrics) / sum(
            m.num_samples for m in reading.metrics
        )
        words.append(f"about ${each * reading.left * price / 1e6:,.2f} left to pay")
    failed = sum(entry.status == "failed" for entry in reading.entries)
    words += [f"{failed} failed; run the sweep again to try them again"] if failed else []
    return Text(" · ".join(words), "bold" if not reading.left else "")
