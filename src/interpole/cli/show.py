"""How results look in a terminal: Rich tables, and one progress display for sweeps."""

from __future__ import annotations

import json
import math
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console, ConsoleOptions
from rich.padding import Padding
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from interpole.errors import printable
from interpole.files import size_text

if TYPE_CHECKING:
    from interpole.analysis.choices import Recommendation
    from interpole.analysis.intervals import Interval
    from interpole.analysis.stages import Stages
    from interpole.analysis.tables import PointMetrics
    from interpole.diagnostics.audit import Audit
    from interpole.diagnostics.doctor import Diagnosis
    from interpole.diagnostics.similarity import Similarity
    from interpole.merging.lora import Extracted
    from interpole.sweep.progress import SweepProgress
    from interpole.sweep.run import Planned

__all__ = [
    "Terminal",
    "command_line",
    "console",
    "dim",
    "list_of",
    "share",
    "show_audit",
    "show_diagnosis",
    "show_extracted",
    "show_json",
    "show_metrics",
    "show_next",
    "show_plan",
    "show_recommendation",
    "show_similarity",
    "show_stages",
    "sweep_bar",
    "table",
]


PIPE_WIDTH = 400  # columns, where nobody reads them on a screen: a table is as wide as it needs


class Terminal(Console):
    """A console that takes text as it is: no markup, control characters shown; wrapped for terminals, whole for pipes."""

    def __init__(self, *, stderr: bool = False) -> None:
        """Write to stdout, or to stderr."""
        super().__init__(stderr=stderr, highlight=False, markup=False)

    @property
    def options(self) -> ConsoleOptions:
        """How wide things are."""
        return super().options if self.is_terminal else super().options.update_width(PIPE_WIDTH)

    def print(self, *objects: Any, **options: Any) -> None:
        """Print, without cutting lines where nobody reads them on a screen."""
        if not self.is_terminal:
            options["crop"] = False
            options["soft_wrap"] = all(isinstance(one, str | Text) for one in objects)
        super().print(*objects, **options)

    def render(self, renderable: Any, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        """Render, with control characters of any text made visible."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(printable(segment.text), segment.style)


console = Terminal()


def dim(text: str) -> Text:
    """Text that matters less."""
    return Text(text, "dim")


def command_line(*words: object) -> str:
    """A command of ours as it can be pasted into a shell."""
    return shlex.join(["interpole", *map(str, words)])


def show_next(*words: object) -> None:
    """What one would do next, as a command to paste; for people, so only where stdout is a terminal."""
    if console.is_terminal:
        console.print(Text.assemble(("next: ", "dim"), command_line(*words)), soft_wrap=True)


def show_json(data: Any) -> None:
    """Print data as JSON."""
    sys.stdout.write(json.dumps(data, indent=2, ensure_ascii=False) + "\n")


def list_of(rows: Sequence[tuple[str, str]]) -> None:
    """Print names and what each is, a line each."""
    width = max(len(name) for name, _ in rows)
    for name, text in rows:
        console.print(Text.assemble((name.ljust(width), "bold"), "  ", text))


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print a table of `str` and `Text`, whose first column is words and the others numbers."""
    shown = Table(box=None, pad_edge=False, header_style="bold")
    for i, column in enumerate(columns):
        shown.add_column(column, justify="left" if i == 0 else "right", no_wrap=True)
    for row in rows:
        shown.add_row(*row)
    console.print(title, style="bold", markup=False)  # a table's own title would be cut at the table's width
    console.print(shown)
    console.print()


def share(interval: Interval | None, ends: bool = True) -> Text:
    """A share as percent with its interval: `61.3 [58.0, 64.4]`."""
    if interval is None:
        return Text("–")
    from interpole.analysis.intervals import ends_text

    known = ends_text(interval, 100, digits=0) if ends else ""
    return Text.assemble(f"{100 * interval.value:.1f}", (f" {known}" if known else "", "dim"))


def _bounds(m: PointMetrics) -> str:
    """What Mean@k would be with every response in the right form lies between these."""
    return f"{100 * m.ability_low.value:.1f} to {100 * m.ability_high.value:.1f}"


def show_metrics(metrics: Sequence[PointMetrics]) -> None:
    """Two tables per task: every point's metrics, and how its responses ended."""
    from interpole.records import Outcome

    for task in dict.fromkeys(m.task for m in metrics):
        points = [m for m in metrics if m.task == task]
        k = max(m.k for m in points)
        broken = any(
            m.format_failures.value > 0 for m in points
        )  # then the score without format failures, beside the raw one
        rows = [
            [
                m.point,
                share(m.mean),
                *([share(m.well_formed, ends=False), _bounds(m)] if broken else []),
                share(m.pass_at[-1] if m.pass_at else None, ends=False),
                share(m.vote, ends=False),
                share(m.think),
                f"{m.tokens.value:,.1f}",
            ]
            for m in points
        ]
        by = f", graded by {points[0].grading!r}" if points[0].grading else ""
        each = f"{k} sample{'s' * (k > 1)}" if min(m.k for m in points) == k else f"up to {k} samples"
        title = f"{task}{by}: {points[0].num_questions} questions × {each}; in percent, with 95 % intervals"
        in_form = ["well-formed", "if in form"] if broken else []
        table(title, ["point", f"Mean@{k}", *in_form, f"Pass@{k}", f"Vote@{k}", "Think #R", "Token #N"], rows)
        seen = [outcome for outcome in Outcome if any(m.outcomes.get(outcome) for m in points)]
        near = any(m.num_near_closes for m in points)  # of the pseudo-closed: by the marker misspelt
        cut = any(m.num_forced for m in points)  # by a budget: of these, the thought was closed by force
        ends = [
            [
                m.point,
                f"{m.tokens_median:,.0f}",
                f"{m.tokens_p95:,.0f}",
                *(f"{m.outcomes.get(o, 0):,}" for o in seen),
                *([f"{m.num_near_closes:,}"] if near else []),
                *([f"{m.num_forced:,}"] if cut else []),
            ]
            for m in points
        ]
        columns = ["point", "median tokens", "p95", *(outcome.value.replace("_", "-") for outcome in seen)]
        columns += [*(["near-closes"] if near else []), *(["forced"] if cut else [])]
        table(f"{task}: how responses ended", columns, ends)


def show_stages(stages: Sequence[Stages]) -> None:
    """The stage boundaries per task and pooled, then notes, and what is still open."""
    from interpole.analysis.intervals import ends_text

    def boundary(found: Interval | None, method: str) -> Text:
        if found is None:
            return Text("–")
        return Text.assemble(
            f"{found.value:.2f} ", (f"{'within ' * (method == 'bracket')}{ends_text(found, digits=2)}", "dim")
        )

    rows = [
        [
            s.task,
            *(boundary(found, s.method) for found in (s.lambda_on, s.lambda_mid, s.lambda_off)),
            f"[{s.stage2[0]:g}, {s.stage2[1]:g}]" if s.stage2 else "–",
        ]
        for s in stages
    ]
    table(
        "Stages: λ where Think #R reaches …, with 95 % intervals (within: bounds), and the swept λ around stage 2",
        ["task", "5 %", "50 %", "95 %", "stage 2"],
        rows,
    )
    for s in stages:
        for line in (s.refusal, *s.notes, *(f"open: {need}" for need in s.needs)):
            if line:
                console.print(dim(f"{s.task}: {line}"))
        for one in s.steps:
            console.print(f"{s.task}: {one.words}.")
        for sign in s.signatures:
            console.print(Text.assemble(f"{s.task}: ", (sign.name, "bold"), f": {sign.numbers}. {sign.remedy}"))


def show_recommendation(found: Recommendation) -> None:
    """The λ, or the point, what to expect, why, and the command."""
    from interpole.analysis.choices import spelt

    choice = found.choice or found.nearest
    if choice is None:
        return
    head: tuple[str | tuple[str, str], ...] = ("Nothing measured meets the budget.",)
    if found.choice:
        head = ((spelt(choice.key), "bold"), f" ({choice.source})")
    console.print(Text.assemble(*head, f"  for {found.goal}, {found.task}"))
    if not found.choice:
        console.print(f"nearest: {spelt(choice.key)}")
    of_thinking = (
        f"; {100 * found.share_of_accuracy:.0f} % of Thinking's accuracy at {100 * found.share_of_tokens:.0f} % of its tokens"
        if found.share_of_accuracy is not None and found.share_of_tokens is not None
        else ""
    )
    console.print(f"accuracy {share(choice.accuracy)} %, {choice.tokens.value:,.0f} tokens{of_thinking}")
    if found.cost is not None:
        console.print(f"{found.cost:.6f} USD per response")
    console.print(found.why)
    if found.headline:
        console.print(found.headline, style="bold")
    if found.expected is not None and found.optimism and found.optimism >= 0.0005:
        console.print(
            f"corrected for having been chosen as the best of several: accuracy {share(found.expected)} %"
            f" ({100 * found.optimism:.1f} points less)"
        )
    if found.tied and not found.headline:
        console.print(f"cannot be told from it ({found.tied_by}): {spelt(*found.tied)}")
    for note in found.notes:
        console.print(Text(note, "bold red") if note.startswith("WARNING") else dim(note))
    console.print(f"\n  {found.command}", soft_wrap=True)
    if "RECIPE.yml" in found.command:
        console.print(dim("  (`recommend … --recipe RECIPE.yml` writes that file)"))


def show_diagnosis(diagnosis: Diagnosis) -> None:
    """The verdict, then every finding with its reason and its remedy."""
    colour = {"go": "green", "warn": "yellow", "stop": "red"}
    verdict = (diagnosis.verdict, f"bold {colour[diagnosis.verdict]}")
    console.print(Text.assemble(verdict, f"  {diagnosis.instruct} ↔ {diagnosis.thinking}"), soft_wrap=True)
    marks = {"note": "dim", "warn": "yellow", "stop": "red"}
    for severity, code, what, why, remedy in diagnosis.rows():
        console.print(Text.assemble("\n", (severity, marks[severity]), " ", (code, "bold")))
        for line in (what, why, *([] if remedy == "nothing" else [f"→ {remedy}"])):
            console.print(Padding(Text(line), (0, 0, 0, 5)) if console.is_terminal else f"     {line}")


def show_similarity(found: Similarity, by: str) -> None:
    """σ in its three variants, kinship where there is a base, and a table by kind, layer or tensor."""
    from interpole.diagnostics.similarity import VARIANTS

    for variant, meaning in VARIANTS.items():
        console.print(Text.assemble(f"σ {variant:14} {_figure(found.sigma(variant), '.4f')}  ", (meaning, "dim")))
    if kinship := found.kinship:
        console.print(
            f"kinship: Pearson {_figure(kinship.pearson, '.4f')}, cosine {_figure(kinship.cosine, '.4f')}, "
            f"Euclidean {kinship.euclidean:.4g}"
        )
    console.print()
    kin = ["Pearson", "cosine", "Euclidean"] if found.kinship else []
    rows = [
        [
            name,
            f"{size:,}",
            f"{sigma:.4f}",
            *((_figure(k.pearson, ".3f"), _figure(k.cosine, ".3f"), f"{k.euclidean:.4g}") if k else ()),
        ]
        for name, size, sigma, k in found.rows(by)
    ]
    table(f"σ by {by}", [by, "parameters", "σ", *kin], rows)
    for name, reason in found.left_out:
        console.print(dim(f"left out: {name} ({reason})"))


def _figure(value: float, form: str) -> str:
    """A number, or a dash where there is none (no tensor in a layer, a side that did not move, a tensor not compared)."""
    return "–" if math.isnan(value) else f"{value:{form}}"


def show_extracted(found: Extracted, *, tensors: bool) -> None:
    """What an adapter keeps and loses in sentences, and the tensors if wanted."""
    lora = [found.tensors[name] for name in found.named("lora")]
    place = f"{found.folder}: " if found.folder else "measured, not written: "
    console.print(f"{place}{len(lora)} matrices of rank {found.rank}, {size_text(found.num_bytes)}", markup=False)
    console.print(f"σ to base + adapter: {found.after:.3g} (to the base: {found.before:.3g})")
    errors = sorted(loss.relative_error for loss in lora)
    console.print(f"relative error of the matrices: median {errors[len(errors) // 2]:.3g}, largest {errors[-1]:.3g}")
    for kept in ("whole", "left out"):
        if names := found.named(kept):
            shown = ", ".join(names[:4]) + (f" and {len(names) - 4} more (--tensors)" if len(names) > 4 else "")
            verb = "saved whole" if kept == "whole" else "left out, so that they stay the base's"
            console.print(f"{len(names)} tensors {verb}: {shown}", markup=False)
    if tensors:
        rows = [
            [
                name,
                loss.why or loss.kept,
                f"{loss.relative_error:.3g}",
                f"{loss.before.sigma:.3g}",
                f"{loss.after.sigma:.3g}",
            ]
            for name, loss in found.tensors.items()
        ]
        console.print()
        table("Tensors", ["tensor", "as", "relative error", "σ before", "σ after"], rows)


def show_audit(found: Audit, *, tensors: bool) -> None:
    """The findings in sentences, the tensors if wanted, and the recipe."""
    for line in found.summary():
        console.print(Text(line))
    if tensors:
        rows = [
            [
                name,
                state,
                "–" if lam is None else f"{lam:g}",
                _figure(residual, ".2f"),
                arithmetic,
                f"{100 * exact:.1f}",
            ]
            for name, state, lam, residual, arithmetic, exact, _ in found.rows()
        ]
        console.print()
        table("Tensors", ["tensor", "state", "λ", "residual", "rounding", "exact %"], rows)
    if found.recipe:
        console.print(f"\n{found.recipe.to_yaml()}", markup=False, end="")


def show_plan(planned: Sequence[Planned]) -> None:
    """What a sweep would do: samples wanted and there already."""
    rows = [
        [f"{p.task} {p.point}", f"{p.num_samples:,}", f"{p.num_present:,}", f"{p.num_samples - p.num_present:,}"]
        for p in planned
    ]
    missing = sum(p.num_samples - p.num_present for p in planned)
    table("Dry run: nothing was generated", ["task, point", "samples", "present", "to generate"], rows)
    console.print(f"{missing:,} responses to generate")
    for task, graders in {p.task: p.graders for p in planned}.items():
        console.print(f"{task} is graded by {', '.join(graders) or 'its own scorers'}", markup=False)


@contextmanager
def sweep_bar() -> Iterator[Callable[[SweepProgress], None]]:
    """A progress display on stderr: point, task, samples done, time left, engines; plain lines where stderr is no terminal."""
    from datetime import timedelta

    from rich.console import Group
    from rich.live import Live
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    err = Terminal(stderr=True)

    def left(progress: SweepProgress) -> str:
        seconds = progress.seconds_left
        return "" if seconds is None else f"{timedelta(seconds=round(seconds))} left"

    if not err.is_terminal:
        yield (
            lambda p: (
                print(f"[{p.done}/{p.total}] " * (p.total > 0) + printable(p.message), file=sys.stderr, flush=True)
                if p.message
                else None
            )
        )
        return
    columns = (
        TextColumn("{task.description:24}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[left]}", markup=False),
    )
    bar, engines = Progress(*columns, console=err), Text(style="dim")
    with Live(Group(bar, engines), console=err, transient=True):
        whole = bar.add_task("sweep", total=None, left="")
        part = bar.add_task("starting the engine", total=None, left="")

        def on_progress(p: SweepProgress) -> None:
            bar.update(whole, completed=p.done, total=p.total or None, left=left(p))
            where = printable(f"{p.task} {p.point}".strip() or "starting")
            bar.update(part, description=where, completed=p.part_done, total=p.part_total or None)
            if len(p.engines) > 1:
                engines.plain = "\n".join(map(str, p.engines))
            if p.message:
                bar.console.print(printable(p.message), markup=False)

        yield on_progress
