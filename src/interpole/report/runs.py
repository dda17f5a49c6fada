"""`interpole report`: one page of one run folder, or of several with their tasks side by side."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from interpole.analysis.live import followed
from interpole.analysis.policies import MARGIN
from interpole.analysis.routing import Routes, route
from interpole.analysis.scoring import measured, under
from interpole.chat import Span, ThinkFormat
from interpole.errors import AnalysisError, RunError, TaskError
from interpole.files import StrPath, write_atomic
from interpole.garbage import rare_collection
from interpole.records import Sample
from interpole.report.commands import command_line, pair, recipes, short_name, sweep_command
from interpole.report.page import Command, html
from interpole.report.payload import begin
from interpole.report.plots import write_figures
from interpole.report.responses import Responses
from interpole.report.verdicts import Verdict, stages_of
from interpole.runs import samples as run_samples
from interpole.runs.prediction import PredictionFile, TaskPrediction, first_token_margins
from interpole.runs.runfile import RunFile
from interpole.runs.simplex import Simplex, simplex_of
from interpole.search.study import role_of

__all__ = ["write_page_and_figures", "write_report"]

Group = tuple[str, list[tuple[str, str]]]  # a heading, and (name, value) under it
HASH_CHARS = 16


@dataclass(frozen=True, slots=True)
class _Run:
    """A run as the page needs it; `suffix` tells its tasks from those of other runs."""

    folder: Path
    file: RunFile
    samples: list[Sample]
    suffix: str
    simplex: Simplex | None


def write_report(
    runs: StrPath | Sequence[StrPath], out: StrPath, *, grading: str | None = None, include_texts: bool = False
) -> Path:
    """Write the page of one or more runs: `write_page_and_figures` without the figures."""
    return write_page_and_figures(runs, out, grading=grading, include_texts=include_texts, figures=False)[0]


@rare_collection()
def write_page_and_figures(
    runs: StrPath | Sequence[StrPath],
    out: StrPath,
    *,
    grading: str | None = None,
    include_texts: bool = False,
    figures: bool = True,
) -> tuple[Path, list[Path]]:
    """Write the page of one or more runs, and every figure of each into its folder `figures`, read once.

    Args:
        runs: run folders. With several, every task is shown under the name of its run.
        out: the file to write, `report.html` for instance.
        grading: the grading to score by; tasks that do not have it keep their own, as the page says of each.
        include_texts: also show questions and responses of tasks whose authors ask that they not be published.
        figures: whether figures are wanted.

    Raises:
        RunError: a folder is not a run, has no samples yet, or its logs cannot be read.
        AnalysisError: no task of one of the runs has such a grading.
        OutputError: the page cannot be written.
    """
    folders = [Path(run) for run in ([runs] if isinstance(runs, str | os.PathLike) else runs)]
    responses = Responses()
    read = [_read(folder, len(folders) > 1, grading, responses, include_texts) for folder in folders]
    metrics, samples = measured([sample for run in read for sample in run.samples], grading)
    shown = [(f"{name}{run.suffix}", task) for run in read for name, task in run.file.tasks.items()]
    private = {name for name, task in shown if task.private and not include_texts}
    forms = {(f"{e.task}{run.suffix}", e.point): run.file.format_of(e) for run in read for e in run.file.current}
    packed = begin(metrics, samples, private, _Prompts(forms), responses)
    stages = stages_of(samples, metrics)
    page = html(
        metrics,
        stages,
        samples,
        remarks=[
            Verdict("warning", "", f"Part of a search{run.suffix}", role)
            for run in read
            if (role := role_of(run.folder))
        ],
        title=" · ".join(dict.fromkeys(_title(run.file) for run in read)),
        manifest=[group for run in read for group in _describe(run.file, run.samples, run.suffix)],
        private=private,
        packed=packed,
        sources={task: ends for run in read if (ends := pair(run.file)) for task in {s.task for s in run.samples}},
        commands=[command for run in read for command in _commands(run)],
        recipes=[(f"{name}{run.suffix}", text) for run in read for name, text in recipes(run.file)],
        predictions={f"{task}{run.suffix}": found for run in read for task, found in _predicted(run).items()},
        routed={task: found for run in read for task, found in _routed(run, grading).items()},
        simplexes={f"{task}{run.suffix}": run.simplex for run in read if run.simplex for task in run.file.tasks},
    )
    out = Path(out)
    write_atomic(out, page, parents=True)
    del page, packed  # figures take memory, too
    drawn: list[Path] = []
    for run in read if figures else ():
        if run.suffix:
            own = [replace(s, task=s.task.removesuffix(run.suffix)) for s in run.samples]
            metrics, _ = measured(own, grading, run.folder)
            stages = stages_of(own, metrics)
        drawn += write_figures(metrics, stages, run.folder / "figures", run.simplex)
    return out, drawn


def _predicted(run: _Run) -> Mapping[str, TaskPrediction]:
    """What was predicted of this run's pair."""
    file = PredictionFile.of_run(run.folder)
    return file.tasks if file is not None else {}


def _routed(run: _Run, grading: str | None) -> dict[str, Routes]:
    """What choosing λ by the question comes to in each task that has enough questions and λ for it."""
    known = {(f"{task}{run.suffix}", problem): at for (task, problem), at in first_token_margins(run.folder).of.items()}
    found = {}
    for task in dict.fromkeys(sample.task for sample in run.samples):
        with suppress(AnalysisError):
            found[task] = route(
                run.samples, task=task, grading=grading, numbers={MARGIN: known}, policies=followed(run.file)
            )
    return found


class _Prompts:
    """What the model saw of a question; nothing more of a run whose template fails, for each try may take seconds."""

    def __init__(self, forms: Mapping[tuple[str, str], ThinkFormat]) -> None:
        self._forms, self._broken = forms, set[str]()

    def __call__(self, sample: Sample) -> str:
        form = self._forms[sample.task, sample.point]
        if not sample.message or form.template in self._broken:
            return ""
        try:
            return form.render([{"role": "user", "content": sample.message}])
        except TaskError:
            self._broken.add(form.template)
            return ""


def _read(folder: Path, several: bool, grading: str | None, responses: Responses, include_texts: bool) -> _Run:
    """A run's numbers; its responses go to `responses`."""
    file = RunFile.load(folder)
    forms = {(entry.task, entry.point): file.format_of(entry) for entry in file.current}

    def spans(sample: Sample) -> Iterable[Span] | None:
        shown = include_texts or not file.tasks[sample.task].private
        return forms[sample.task, sample.point].spans(sample.response) if shown else None

    take = run_samples.Take(lambda samples: responses.write(samples, spans), responses.put)
    found = run_samples.read(folder, take=take)
    if not found:
        raise RunError("no samples yet", folder, "let the sweep finish at least one point")
    responses.arrange(found)
    samples = under(found, grading, folder)
    suffix = f" · {folder.resolve().name}" if several else ""
    named = [replace(s, task=s.task + suffix) for s in samples] if several else samples
    return _Run(folder, file, named, suffix, simplex_of(file))


def _title(file: RunFile) -> str:
    """`Instruct ↔ Thinking`, or the corners of a simplex, by the names of the checkpoints."""
    simplex = simplex_of(file)
    names = simplex.corners if simplex else ("instruct", "thinking")
    ends = [file.sources[name] for name in names if name in file.sources]
    return " ↔ ".join(short_name(source.label).rsplit("/", 1)[-1] for source in ends or file.sources.values())


def _commands(run: _Run) -> list[Command]:
    """What made the run, and what asks it for a λ."""
    folder = short_name(str(run.folder))
    sweep, unsaid = sweep_command(run.file, folder)
    note = f"Not in the command, for it takes a sweep.yml: {', '.join(unsaid)}." if unsaid else ""
    asked = command_line("recommend", folder, "--balanced")
    on_dial = any(sample.lam is not None for sample in run.samples)
    return [
        Command(f"The sweep{run.suffix}", sweep, note),
        *(
            [Command(f"The {'λ' if on_dial else 'point'} for a budget{run.suffix}", asked)]
            if on_dial or run.simplex
            else []
        ),
    ]


def _describe(file: RunFile, samples: Sequence[Sample], suffix: str = "") -> list[Group]:
    """How a run was made, in titled groups: models, prompt and sampling, tasks, engine, what was spent."""
    spent = sum(sample.num_tokens for sample in samples)
    failed = sum(sample.outcome == "failed" for sample in samples)
    samplers = {tuple(sorted(entry.sampler.items())): entry.sampler for entry in file.current}
    models = [
        (name, f"{short_name(s.label)}{f' @ {s.revision}' if s.revision else ''} · {s.fingerprint[:HASH_CHARS]}")
        for name, s in file.sources.items()
    ]
    prompt = [
        ("chat template", f"from {file.template_from} · sha256 {_hash(file.template)}"),
        ("after the prompt", repr(file.prefix) if file.prefix else "nothing added"),
        (
            "think markers",
            f"{file.markers[0]} … {file.markers[1]}" + (", opened by the prompt" if file.prompt_opens_thinking else ""),
        ),
        *[
            ("sampler", ", ".join(f"{key} {value:g}" for key, value in sampler.items() if key != "seed"))
            for sampler in samplers.values()
        ],
        ("seed", str(file.seed)),
    ]
    tasks = [
        (name, f"{t.num_problems:,} problems × {t.samples} · problems {t.problems_hash[:HASH_CHARS]}")
        for name, t in file.tasks.items()
    ]
    engine = [*file.engine.items(), *((key, str(value)) for key, value in file.engine_options.items())]
    spend = [
        ("responses", f"{len(samples):,}" + (f", {failed:,} failed" if failed else "")),
        ("generated tokens", f"{spent:,}"),
    ]
    made = [("Interpole", file.interpole), ("begun", file.created), ("last changed", file.updated)]
    points = [
        (entry.point, f"weights {entry.fingerprint[:HASH_CHARS]} · identity {entry.identity[:HASH_CHARS]}")
        for entry in file.current
    ]
    groups: list[Group] = [
        ("Models", models),
        ("Prompt and sampling", prompt),
        ("Tasks", tasks),
        ("Engine", engine),
        ("Spent", [*spend, *made]),
        ("Points", list(dict.fromkeys(points))),
    ]
    return [(f"{heading}{suffix}", entries) for heading, entries in groups if entries]


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:HASH_CHARS]
