"""Where thinking will set in on a pair, from forward passes alone: an engine says how likely responses open it.

λ are found by bisection, a few passes over a few prompts; parts of the model are moved one at a time. No token is generated.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from interpole import __version__
from interpole.analysis.intervals import Array, Interval, interval_text
from interpole.analysis.metrics import measure
from interpole.analysis.prediction import Attribution, Curve, attribute, next_lam, predict
from interpole.checkpoints.names import KINDS, num_layers, role_of
from interpole.diagnostics.doctor import Finding
from interpole.engines.pool import Pool, Visit
from interpole.errors import AnalysisError, EngineError, InterpoleError, RunError, TaskError
from interpole.files import read_text
from interpole.formats import plain
from interpole.records import Chance, Generation, Sampler, dial_name
from interpole.runs.prediction import PartFound, PartsFound, PredictionFile, TaskPrediction
from interpole.runs.runfile import RunFile
from interpole.runs.samples import read
from interpole.search.space import layer_groups
from interpole.sweep.config import PointConfig, SweepConfig
from interpole.sweep.plan import Plan, Point, adjusted
from interpole.sweep.run import pool_of
from interpole.tasks import Benchmark
from interpole.tasks.data import read_jsonl

__all__ = [
    "BY",
    "NUM_PROMPTS",
    "TOLERANCE",
    "Beside",
    "ForwardPasses",
    "Prompt",
    "against",
    "ask_parts",
    "opened",
    "prompts_in",
    "prompts_of",
    "to_file",
    "where_thinking_sets_in",
]  # fmt: skip

BY = ("kinds", "layers", "groups", "cells")
"""How a model is divided into parts; `cells`: each kind in each layer."""
NUM_PROMPTS = 16
TOLERANCE = 1 / 64
ENDS = (0.0, 1.0)
NUM_BEGINNING_TOKENS = 8  # of Thinking's own response, where the prompt opens the thinking
BEGINNING = "Thinking's own beginning"
LEAST_SCALE = 1e-6
OUTSIDE = "outside the layers"
NUM_GROUPS = 3
Tell = Callable[[str], None]


class Prompt(NamedTuple):
    """A rendered prompt, how it will be answered, and what a response that thinks begins with."""

    task: str
    question: str  # its id
    text: str
    sampler: Sampler
    begins: str


def prompts_of(planned: Plan, limit: int = NUM_PROMPTS, benchmarks: Sequence[Benchmark] | None = None) -> list[Prompt]:
    """The first questions of every task of a sweep, or of `benchmarks`, as the sweep asks them.

    Raises:
        TaskError: a task asks in its own way.
    """
    found = []
    for bench in planned.benchmarks.values() if benchmarks is None else benchmarks:
        name = bench.name
        if bench.foreign:
            raise TaskError(f"task {name} asks in its own way, so its prompts are not known", remedy="give --prompts")
        for problem in bench.problems[:limit]:
            text = planned.render([{"role": "user", "content": bench.prompt(problem)}])
            found.append(Prompt(name, problem.id, text, bench.sampler, planned.form.markers.open))
    return found


def prompts_in(planned: Plan, path: Path, sampler: Sampler, limit: int = NUM_PROMPTS) -> list[Prompt]:
    """User messages of a file: a jsonl with `question`, `prompt` or `messages`, or text with one a line.

    Raises:
        TaskError: it cannot be read, or a row is none of these.
    """
    if path.suffix == ".jsonl":
        chats = [_chat(row, place) for place, row in read_jsonl(path)]
    else:
        lines = read_text(path, TaskError, "the prompts").splitlines()
        chats = [[{"role": "user", "content": line}] for line in lines if line.strip()]
    if not chats:
        raise TaskError("no prompts", path, "write one a line")
    begins = planned.form.markers.open
    return [
        Prompt(path.stem, str(number), planned.render(chat), sampler, begins)
        for number, chat in enumerate(chats[:limit], 1)
    ]


def _chat(row: Mapping[str, Any], place: str) -> list[dict[str, Any]]:
    if isinstance(chat := row.get("messages"), list) and all(isinstance(one, dict) for one in chat) and chat:
        return chat
    text = row.get("question", row.get("prompt"))
    if not isinstance(text, str) or not text.strip():
        raise TaskError("a row without a question", place, 'write {"question": …}, {"prompt": …} or {"messages": […]}')
    return [{"role": "user", "content": text}]


@contextmanager
def opened(
    config: SweepConfig, prompts: Path | None = None, tell: Tell = lambda _: None
) -> Iterator[tuple[ForwardPasses, dict[str, str]]]:
    """An engine that is asked about the prompts of a sweep, or of a file; with its versions.

    Raises:
        InterpoleError: the engine cannot say how likely a text is, or something does not fit.
    """
    if not config.kind.chances:
        raise EngineError(
            f"the engine {config.engine} does not say how likely a text is", remedy="take transformers or vllm"
        )
    planned = Plan(config)
    limit = config.limit or NUM_PROMPTS
    if prompts is None:
        asked = prompts_of(planned, limit)
    else:
        asked = prompts_in(planned, prompts, adjusted(Sampler(), config.sampler), limit)
    with pool_of(planned, tell) as pool:
        if not planned.form.prompt_opens_thinking:
            yield ForwardPasses(planned, pool, asked, planned.form.markers.open), pool.versions()
            return
        tell(
            "the prompts open the thinking themselves, so the first token says nothing of it: asked is how likely responses "
            f"begin as Thinking's own do, whose first {NUM_BEGINNING_TOKENS} tokens are generated (docs/predict.md)"
        )
        yield ForwardPasses(planned, pool, _beginnings(planned, pool, asked), BEGINNING, relative=True), pool.versions()


def _beginnings(planned: Plan, pool: Pool, prompts: Sequence[Prompt]) -> list[Prompt]:
    """Prompts that open the thinking themselves, each with how Thinking's own response begins: its likeliest few tokens."""
    thinking, few = planned.dial_point(1.0), Sampler(temperature=0, max_tokens=NUM_BEGINNING_TOKENS)

    async def all_of_them(visit: Visit) -> list[Generation]:
        return await asyncio.gather(*(visit.answer(prompt.text, few, 0) for prompt in prompts))

    with pool.visit(thinking.where, thinking.fingerprint, label=thinking.name, num_expected=len(prompts)) as visit:
        answers = asyncio.run(all_of_them(visit))
    found = [one._replace(begins=answer.text) for one, answer in zip(prompts, answers, strict=True) if answer.text]
    if not found:
        raise AnalysisError("Thinking answers nothing at all", planned.config.template_from, "see `interpole samples`")
    return found


@dataclass
class ForwardPasses:
    """What an engine has said of some prompts so far; each λ is asked once."""

    planned: Plan
    pool: Pool
    prompts: Sequence[Prompt]
    begins: str  # what responses are to begin with, in words
    relative: bool = False  # to how likely that is at λ = 1

    def __post_init__(self) -> None:
        """Begin with nothing known."""
        self.known: dict[float, list[Chance]] = {}

    @property
    def tasks(self) -> dict[str, list[int]]:
        """Task → the numbers of its prompts."""
        names = dict.fromkeys(prompt.task for prompt in self.prompts)
        return {name: [i for i, prompt in enumerate(self.prompts) if prompt.task == name] for name in names}

    def at(self, lam: float) -> list[Chance]:
        """The chances at λ on the dial."""
        if lam not in self.known:
            self.known[lam] = self.weigh(self.planned.dial_point(lam))
        return self.known[lam]

    def weigh(self, point: Point) -> list[Chance]:
        """The chances at a point: one forward pass over every prompt.

        Raises:
            InterpoleError: the engine cannot say, or the sources were changed meanwhile.
        """

        async def all_of_them(visit: Visit) -> list[Chance]:
            return await asyncio.gather(*(visit.chance(one.text, one.begins, one.sampler) for one in self.prompts))

        num = len(self.prompts)
        with self.pool.visit(point.where, point.fingerprint, label=point.name, num_expected=num) as visit:
            return asyncio.run(all_of_them(visit))

    def bisect(self, tolerance: float = TOLERANCE, tell: Tell = lambda _: None) -> None:
        """Ask at as few λ as make 5 %, 50 % and 95 % of every task known to `tolerance`."""
        for numbers in self.tasks.values():
            while (lam := next_lam(list(self.known), self._shares(numbers), tolerance, ENDS)) is not None:
                self.at(lam)
                tell(f"λ={lam:.4g}: {self._shares(numbers)[-1]:.1%} of responses begin with {self.begins}")

    def share(self, lam: float, numbers: Sequence[int]) -> float:
        """P at λ over some of the prompts."""
        return float(np.mean([self.at(lam)[i].probability for i in numbers])) / self._scale(numbers)

    def _scale(self, numbers: Sequence[int]) -> float:
        """What counts as all of them."""
        if not self.relative:
            return 1.0
        return max(float(np.mean([self.at(1.0)[i].probability for i in numbers])), LEAST_SCALE)

    def _shares(self, numbers: Sequence[int]) -> list[float]:
        return [self.share(lam, numbers) for lam in list(self.known)]

    def table(self, task: str) -> tuple[Array, Array, Array]:
        """λ (L,), probabilities (Q, L) and margins (Q, L) of a task."""
        numbers = self.tasks[task]
        scale, lams = self._scale(numbers), sorted(self.known)
        probabilities = [[min(1.0, self.known[lam][i].probability / scale) for lam in lams] for i in numbers]
        margins = [[self.known[lam][i].margin for lam in lams] for i in numbers]
        return np.array(lams), np.array(probabilities), np.array(margins)

    def curve(self, task: str, seed: int = 0) -> Curve:
        """The curve of a task.

        Raises:
            AnalysisError: fewer than two λ are known.
        """
        if len(self.known) < 2:
            raise AnalysisError("a curve over fewer than two λ", task, "give two or more")
        return predict(*self.table(task), seed=seed)


class Beside(NamedTuple):
    """What a sweep measured at a λ, and what was predicted there."""

    task: str
    lam: float
    measured: Interval  # Think #R
    predicted: float  # P


def against(asked: ForwardPasses, run: Path) -> list[Beside]:
    """P at every λ of a run, beside its Think #R.

    Raises:
        RunError: it is a run of other weights, of other tasks, or asks in another way.
    """
    file, planned = RunFile.load(run), asked.planned
    shares = {(m.task, m.lam): m.think for m in measure(read(run, texts=False)) if m.lam is not None}
    for entry in file.current:
        if entry.lam is None or entry.task not in asked.tasks:
            continue
        point = planned.dial_point(entry.lam)
        if point.fingerprint != entry.fingerprint:
            raise RunError(
                f"other weights than the run's at λ={entry.lam:g}", run, "name the pair and recipe of the run"
            )
        mine = asdict(planned.sampler(planned.benchmarks[entry.task], point))
        differ = [name for name in ("temperature", "top_p", "top_k") if mine[name] != entry.sampler.get(name)]
        same = (file.template, file.prefix) == (planned.form.template, planned.form.prefix)
        if differ or not same:
            what = ", ".join(differ or ["chat template or prefix"])
            raise RunError(f"the run asks with another {what}", run, "say what the run was made with")
    if not any(task in asked.tasks for task, _ in shares):
        raise RunError(f"the run has none of {', '.join(asked.tasks)} on its dial", run, "name the run's tasks")
    return [
        Beside(task, lam, share, asked.share(lam, asked.tasks[task]))
        for (task, lam), share in sorted(shares.items())
        if task in asked.tasks
    ]


def _parts(by: str, names: Iterable[str], num_groups: int) -> dict[str, dict[str, Any]]:
    """Part → the selectors of its rule."""
    names = list(names)
    roles = {role for name in names if (role := role_of(name)) is not None}
    if by == "kinds":
        there = {role.kind for role in roles}
        return {kind: {"kind": kind} for kind in KINDS if kind in there}
    depth, outside = num_layers(names), {OUTSIDE: {"layers": "none"}}
    if by == "layers":
        return {f"layer {i}": {"layers": str(i)} for i in range(depth)} | outside
    if by == "groups":
        return {f"layers {group}": {"layers": group} for group in layer_groups(depth, min(num_groups, depth))} | outside
    if by == "cells":
        cells = {
            f"layer {i} {k}": {"layers": str(i), "kind": k} for i, k in product(range(depth), KINDS) if (i, k) in roles
        }
        return cells | {
            f"{kind} {OUTSIDE}": {"layers": "none", "kind": kind} for kind in KINDS if (None, kind) in roles
        }
    raise AnalysisError(f"no parts by {by!r}", remedy=f"there are {', '.join(BY)}")


def ask_parts(
    asked: ForwardPasses,
    by: str | Mapping[str, Mapping[str, Any]],
    *,
    lam: float = 1.0,
    num_groups: int = NUM_GROUPS,
    tell: Tell = lambda _: None,
) -> dict[str, PartsFound]:
    """Move one part of the model at a time from λ = 0, and see what that does to the margin.

    Args:
        asked: the pair and its prompts.
        by: one of `BY`; or part → the selectors of its rule.
        lam: where a part moves to.
        num_groups: of neighbouring layers, for `groups`.
        tell: told of every part.

    Returns:
        What was found, of each task.

    Raises:
        AnalysisError: no such division.
        RunError: the recipe has rules of its own.
    """
    planned = asked.planned
    if planned.config.recipe.get("rules"):
        raise RunError("parts of a recipe that has rules", remedy="leave --layers, --skip and `rules` out")
    rules = _parts(by, planned.dial_point(lam).specs, num_groups) if isinstance(by, str) else by
    start, whole = asked.at(0.0), asked.at(lam)
    moved = {}
    for name, rule in rules.items():
        recipe = {"lambda": 0.0, "rules": [{**rule, "lambda": lam}]}
        moved[name] = asked.weigh(planned.point(PointConfig(name=f"{name} at {dial_name(lam)}", recipe=recipe)))
        change = np.mean([after.margin - before.margin for after, before in zip(moved[name], start, strict=True)])
        tell(f"{name}: {change:+.2f}")
    found = {}
    for task, numbers in asked.tasks.items():
        margins = {name: np.array([chances[i].margin for i in numbers]) for name, chances in moved.items()}
        before, after = (np.array([chances[i].margin for i in numbers]) for chances in (start, whole))
        found[task] = _parts_found(attribute(before, after, margins), rules, lam)
    return found


def _parts_found(found: Attribution, rules: Mapping[str, Mapping[str, Any]], lam: float) -> PartsFound:
    parts = [
        PartFound(
            name=part.name,
            layer=int(layers) if (layers := str(rules[part.name].get("layers"))).isdigit() else None,
            kind=rules[part.name].get("kind"),
            change=_ends(part.change),
            share=_ends(part.share),
        )
        for part in found.parts
    ]
    return PartsFound(
        at=lam, start=found.start, whole=_ends(found.whole), together=_ends(found.together), parts=tuple(parts)
    )


def _ends(interval: Interval) -> tuple[float | None, float | None, float | None]:
    value, low, high = plain(tuple(interval))
    return value, low, high


def to_file(
    asked: ForwardPasses,
    curves: Mapping[str, Curve],
    parts: Mapping[str, Mapping[str, PartsFound]],
    engine: Mapping[str, str],
) -> PredictionFile:
    """What was found, to be written down.

    Args:
        asked: what the engine has said.
        curves: by task.
        parts: by division, then by task.
        engine: its versions.
    """
    tasks = {}
    for task, curve in curves.items():
        lams, probabilities, margins = asked.table(task)
        first = next(prompt for prompt in asked.prompts if prompt.task == task)
        on, mid, off = (None if one is None else _ends(one) for one in (curve.on, curve.mid, curve.off))
        tasks[task] = TaskPrediction(
            questions=tuple(prompt.question for prompt in asked.prompts if prompt.task == task),
            sampler={name: value for name, value in asdict(first.sampler).items() if name != "seed"},
            lams=tuple(lams.tolist()),
            probabilities=tuple(map(tuple, probabilities.T.tolist())),
            margins=tuple(map(tuple, margins.T.tolist())),
            on=on,
            mid=mid,
            off=off,
            notes=curve.notes,
            parts={by: of_task[task] for by, of_task in parts.items()},
        )
    sources = {name: source.fingerprint for name, source in asked.planned.sources.items()}
    return PredictionFile(interpole=__version__, marker=asked.begins, sources=sources, engine=dict(engine), tasks=tasks)


def where_thinking_sets_in(instruct: str, thinking: str, engine: str, task: str) -> Finding:
    """λ50 of a pair by forward passes over a few prompts, as the doctor says it; a failure is said, too."""
    finding = partial(Finding, "lambda50", why="around it a merge turns from answering at once to thinking first")
    content = {
        "sources": {"instruct": instruct, "thinking": thinking},
        "tasks": [task],
        "lambdas": ENDS,
        "engine": engine,
    }
    try:
        with opened(SweepConfig.of(content)) as (asked, _):
            asked.bisect()
            curve = asked.curve(next(iter(asked.tasks)))
    except InterpoleError as error:
        what = f"where thinking sets in could not be said: {error.what}"
        return finding("warn", what, remedy=error.remedy or "nothing")
    if curve.mid is None:
        return finding("note", f"thinking does not set in: {'; '.join(curve.notes)}", remedy="nothing")
    what = f"half of the responses are likely to think from λ = {interval_text(curve.mid, digits=2)} on"
    asked_of = f"by forward passes over {curve.num_questions} questions of {task}"
    remedy = f"`interpole predict` says more; sweep λ around {curve.mid.value:.1f}"
    return finding("note", f"{what}, {asked_of}", remedy=remedy)
