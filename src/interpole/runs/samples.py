"""Read a run's samples from its Inspect logs: the one truth from which everything after generation is computed.

Only logs that `run.json` names are read. An `.eval` log is a zip of JSON; it is read as that (`interpole.runs.archive`), so
neither Inspect nor a model is needed and 20,000 samples take seconds. Grades that `interpole.runs.regrade` made anew lie beside
a log and stand in for its own.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from itertools import repeat
from operator import attrgetter
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import AliasChoices, Field, FiniteFloat, RootModel

from interpole.errors import RunError
from interpole.files import StrPath, open_regular
from interpole.forks import mapped, num_processes
from interpole.formats import json_items, parse_json
from interpole.records import Outcome, Sample
from interpole.runs.archive import Archive
from interpole.runs.runfile import Count, Entry, Part, RunFile
from interpole.schema import Foreign, validated, validated_json

__all__ = [
    "Logged",
    "ScoreMetadata",
    "Take",
    "logged",
    "read",
    "read_log",
    "read_some",
    "regraded",
    "regraded_path",
    "response_of",
]

SCORE = "grade"
"""The score in Inspect's logs that `tasks.inspect` keeps."""
_ATTACHMENT = re.compile("attachment://([0-9a-f]{32})")
"""How Inspect writes that a text stands elsewhere in a log: by its hash."""
_AGAIN = "run the sweep again: it makes what is missing"
_GRADE_AGAIN = "delete it, or grade again: score RUN --regrade"


Same = dict[Any, Any]
LARGE_BYTES = 16 << 20
"""Of a run's logs; reading fewer takes less than a second, and other processes are not worth their start."""
STRETCHES = 3
"""For each process: a run's logs are divided into as many or more, so that no process waits long for another at the end."""


class Take(NamedTuple):
    """What becomes of responses as they are read, so that memory holds few of them at a time."""

    digest: Callable[[Iterator[Sample]], Any]
    """Goes through samples with their responses, perhaps in another process; what it gives can be pickled."""
    keep: Callable[[Sequence[Sample], Any], None]
    """Is given the same samples as `read` returns them, without their responses, and what `digest` gave."""


class _Log(NamedTuple):
    """A log, and what it is of."""

    path: Path
    entry: Entry
    part: Part


class _Stretch(NamedTuple):
    """One of `num` equal stretches of a log."""

    log: _Log
    number: int
    num: int


class _Digested(NamedTuple):
    """What a stretch holds, as it goes from process to process."""

    rows: list[tuple[Any, ...]]  # the fields of its samples, without responses
    digest: Any  # of the responses
    asked: list[str]  # the problems that its log asks


class ScoreMetadata(Foreign):
    """What `tasks.benchmark.score_metadata` wrote down of a graded response, and how long it was."""

    num_tokens: Annotated[int, Field(ge=0, le=10**12)]
    finish: Literal["stop", "length", "error"]
    outcome: Annotated[Outcome, Field(strict=False)]
    closed: bool
    answer: str | None
    grades: dict[str, FiniteFloat]
    answers: dict[str, str | None] | None = None
    pseudo_close: str | None = None
    near_close: bool = False
    private: bool = False
    budget_forced: bool = Field(False, validation_alias=AliasChoices("budget_forced", "forced"))  # the older name
    chosen_lam: FiniteFloat | None = None


class _Content(Foreign):
    reasoning: str | None = None
    text: str | None = None


class _Message(Foreign):
    content: str | list[_Content] = ""


class _Choice(Foreign):
    message: _Message


class _Output(Foreign):
    choices: list[_Choice] = Field(default_factory=list)


class _Score(Foreign):
    metadata: dict[str, Any] | None = None


class _Error(Foreign):
    message: str = ""


class Logged(Foreign):
    """A sample as Inspect logs it, or its summary, as far as we use it."""

    id: str | int
    epoch: Count
    input: str | list[_Message]
    target: str | list[str]
    metadata: dict[str, Any] | None = None  # the problem's; a foreign task has its own
    scores: dict[str, _Score] | None = None
    error: str | _Error | None = None
    output: _Output | None = None  # None: a summary
    attachments: dict[str, str] = Field(default_factory=dict)

    @property
    def score_metadata(self) -> Mapping[str, Any]:
        """What our scorer wrote down; empty where it did not come to that."""
        score = (self.scores or {}).get(SCORE)
        return (score and score.metadata) or {}

    @property
    def answer_key(self) -> str:
        """The reference answer as one text."""
        return self.target if isinstance(self.target, str) else "\n".join(self.target)


class _Dataset(Foreign):
    sample_ids: list[str | int] | None = None


class _Eval(Foreign):
    dataset: _Dataset = _Dataset()


class _Header(Foreign):
    eval: _Eval = _Eval()


class _Differences(RootModel[list[tuple[str, int, dict[str, Any]]]]):
    """The content of a file of new grades: problem, epoch within the log, and what is another now."""


def read(run: StrPath, *, texts: bool = True, take: Take | None = None) -> list[Sample]:
    """All samples of a run, one per task, point, problem and number, in the order of `run.json`, the problems and the numbers.

    The order is the same whichever engines, shards and machines made the logs, and in whatever order the responses came.

    Args:
        run: the run folder; parts of it that were never finished are not among the samples.
        texts: whether responses are wanted (else they are empty, and long questions cut at 1,000 characters): about three
            times slower.
        take: is handed every sample and its response as they are read, log by log; the samples themselves then have none.

    Raises:
        RunError: no run, or one of its logs is missing or damaged.
    """
    run = Path(run)
    entries = RunFile.load(run).current
    logs = [
        _Log(entry.within(run, part.log), entry, part)
        for entry in entries
        for part in entry.parts
        if part.log is not None
    ]
    contents = _taken(logs, take) if take else _contents(logs, texts)
    found: dict[tuple[str, str, str, int], Sample] = {}
    for entry in entries:
        own: defaultdict[str, dict[int, Sample]] = defaultdict(dict)
        order: dict[str, int] = {}
        for part in entry.parts:
            if part.log is None:
                continue
            made, asked = next(contents)
            names = asked or dict.fromkeys(one.problem_id for one in made)
            order |= {name: place for place, name in enumerate(names, part.place[1])}
            for one in made:
                own[one.problem_id][one.number] = one
        for problem in sorted(own, key=lambda name: (order.get(name, len(order)), name)):
            for number in sorted(own[problem]):
                found[entry.task, entry.point, problem, number] = own[problem][number]
    return list(found.values())


def _contents(logs: Sequence[_Log], texts: bool) -> Iterator[tuple[list[Sample], list[str]]]:
    """The samples of every log, and the problems that it asks."""
    same: Same = {}
    for log in logs:
        with Archive(log.path) as opened:
            yield list(_samples(opened, log, same, texts=texts)), _asked(opened, log.path)


def _taken(logs: Sequence[_Log], take: Take) -> Iterator[tuple[list[Sample], list[str]]]:
    """Likewise, where their responses are taken: if the logs are large, in several processes."""
    sizes = [log.path.stat().st_size if log.path.is_file() else 0 for log in logs]
    processes = num_processes() if sum(sizes) >= LARGE_BYTES else 1
    parts = STRETCHES * processes if processes > 1 else 1
    nums = [-(-parts * size // sum(sizes)) if size else 1 for size in sizes]
    stretches = [_Stretch(log, number, num) for log, num in zip(logs, nums, strict=True) for number in range(num)]
    same: Same = {}

    def digested(place: int) -> _Digested:
        return _digested(stretches[place], take, same)

    if processes == 1:
        received: Iterator[_Digested] = map(digested, range(len(stretches)))
    else:
        killed = RunError("a process that read its logs was killed", logs[0].entry.task, "is there memory for it?")
        received = mapped(digested, len(stretches), processes, killed)
    samples, asked = list[Sample](), list[str]()
    for stretch, (rows, digest, problems) in zip(stretches, received, strict=True):
        bare = _bare(rows, same)
        take.keep(bare, digest)
        samples += bare
        asked += problems
        if stretch.number + 1 == stretch.num:
            yield samples, asked
            samples, asked = [], []


def _digested(stretch: _Stretch, take: Take, same: Same) -> _Digested:
    """Read a stretch."""
    log, number, num = stretch
    rows = []

    def seen(samples: Iterator[Sample]) -> Iterator[Sample]:
        for sample in samples:
            rows.append(_FIELDS(sample))
            yield sample

    with Archive(log.path) as opened:
        digest = take.digest(seen(_samples(opened, log, same, stretch=(number, num))))
        return _Digested(rows, digest, [] if number else _asked(opened, log.path))


_NAMES = [field.name for field in fields(Sample)]
_KEPT = [name for name in _NAMES if name != "response"]
_FIELDS = attrgetter(*_KEPT)
_SHARED = ("problem_id", "question", "message", "target", "difficulty", "grades", "answers")  # by many samples


def _bare(rows: Sequence[tuple[Any, ...]], same: Same) -> list[Sample]:
    """Samples without responses, with the texts and mappings of those before them where they are the same."""
    if not rows:
        return []
    columns: dict[str, Iterable[Any]] = dict(zip(_KEPT, zip(*rows, strict=True), strict=True))
    for name in _SHARED:
        known = {key: _once(value, same) for key, value in {id(value): value for value in columns[name]}.items()}
        columns[name] = [known[id(value)] for value in columns[name]]
    columns["response"] = repeat("")
    return list(map(Sample, *(columns[name] for name in _NAMES)))


def read_some(
    run: StrPath, *, task: str | None = None, point: str | None = None, lams: Sequence[float] | None = None
) -> Iterator[Sample]:
    """Samples of a task, a point or some λ, log by log as they are consumed; None: of all.

    Raises:
        RunError: as `read`.
    """
    run = Path(run)
    for entry in RunFile.load(run).current:
        there = lams is None or (entry.lam is not None and any(abs(entry.lam - lam) < 1e-9 for lam in lams))
        if task in (None, entry.task) and point in (None, entry.point) and there:
            for part in entry.parts:
                if part.log is not None:
                    yield from read_log(entry.within(run, part.log), entry, part)


def _asked(opened: Archive, log: Path) -> list[str]:
    """The problems that a log asks, in the order of the task; empty where it does not say."""
    for name, data in opened.members(lambda name: name == "header.json", needed=False):
        header = validated_json(_Header, data, f"{log}, {name}", RunError, _AGAIN)
        return [str(one) for one in header.eval.dataset.sample_ids or ()]
    return []


def read_log(path: Path, entry: Entry, part: Part, *, texts: bool = True) -> Iterator[Sample]:
    """The samples of one log.

    Raises:
        RunError: the log is missing or damaged.
    """
    with Archive(path) as opened:
        yield from _samples(opened, _Log(path, entry, part), {}, texts=texts)


def _samples(
    opened: Archive, log: _Log, same: Same, *, texts: bool = True, stretch: tuple[int, int] = (0, 1)
) -> Iterator[Sample]:
    """The samples of a stretch of a log."""
    anew = regraded(log.path)
    for one in _logged(opened, log.path, texts=texts, stretch=stretch):
        yield _sample(one, log, anew.get((str(one.id), one.epoch), {}), same)


def logged(path: Path, *, texts: bool = True) -> Iterator[Logged]:
    """The samples of one log as Inspect wrote them; without texts, their summaries.

    Raises:
        RunError: the log is missing or damaged.
    """
    with Archive(path) as opened:
        yield from _logged(opened, path, texts=texts)


def _logged(opened: Archive, path: Path, *, texts: bool, stretch: tuple[int, int] = (0, 1)) -> Iterator[Logged]:
    wanted = (lambda name: name.startswith("samples/")) if texts else (lambda name: name == "summaries.json")
    for name, data in opened.members(wanted, stretch=stretch):
        where = f"{path}, {name}"
        if texts:
            yield validated_json(Logged, data, where, RunError, _AGAIN)
        else:
            for one in json_items(data, where, RunError, _AGAIN):
                yield validated(Logged, one, where, RunError, _AGAIN)


def regraded_path(log: Path) -> Path:
    """Where the grades that were made anew for a log are metadata."""
    return log.with_suffix(".regraded.json")


def regraded(log: Path) -> dict[tuple[str, int], dict[str, Any]]:
    """What replaces parts of the log's own grades, by problem and by epoch within the log.

    Raises:
        RunError: the file is damaged.
    """
    path = regraded_path(log)
    try:
        with open_regular(path) as file:
            content = parse_json(file.read(), path, RunError, _GRADE_AGAIN)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise RunError(f"cannot be read: {error.strerror}", path, _GRADE_AGAIN) from error
    found = validated(_Differences, content, path, RunError, _GRADE_AGAIN)
    return {(problem, epoch): kept for problem, epoch, kept in found.root}


def _sample(one: Logged, log: _Log, anew: Mapping[str, Any], same: Same) -> Sample:
    """A `Sample` of one logged sample or summary, with the grades that were made `anew`, if any were.

    Texts and grades that several samples have are in memory once: `same` has those seen before.
    """
    path, entry, part = log
    where = f"{path}, {one.id} in epoch {one.epoch}"
    content = {**one.score_metadata, **anew}
    error = one.error.message or "unknown" if isinstance(one.error, _Error) else one.error or ""
    problem = one.metadata or {}
    question, difficulty = problem.get("question"), problem.get("difficulty")
    common: dict[str, Any] = {
        "task": entry.task,
        "point": entry.point,
        "lam": entry.lam,
        "problem_id": _once(str(one.id), same),
        "number": part.first_sample + one.epoch - 1,
        "question": _once(question if isinstance(question, str) and question else _text(one.input), same),
        "message": _once(one.input if isinstance(one.input, str) else "", same),
        "target": _once(one.answer_key, same),
        "difficulty": _once(str(difficulty) if isinstance(difficulty, str | int | float) else "", same),
    }
    if error or not content:
        return Sample(
            **common, response="", num_tokens=0, finish="error", outcome=Outcome.FAILED, closed=False, answer=None,
            grades={}, error=error or "no score", private=content.get("private") is True,
        )  # fmt: skip
    metadata = validated(ScoreMetadata, content, where, RunError, _AGAIN)
    return Sample(
        **common,
        response=response_of(one, where),
        num_tokens=metadata.num_tokens,
        finish=metadata.finish,
        outcome=metadata.outcome,
        closed=metadata.closed,
        answer=metadata.answer,
        grades=_once(metadata.grades, same),
        answers=_once(metadata.answers or {}, same),
        pseudo_close=metadata.pseudo_close,
        near_close=metadata.near_close,
        private=metadata.private,
        budget_forced=metadata.budget_forced,
        chosen_lam=metadata.chosen_lam,
    )


def _once(value: Any, same: Same) -> Any:
    """A text or a mapping, or the one like it that was seen before."""
    return same.setdefault((*value.items(),) if isinstance(value, dict) else value, value)


def response_of(one: Logged, where: object = "") -> str:
    """The response's text in a logged sample; empty in a summary.

    Raises:
        RunError: the log lacks the text.
    """
    if one.output is None or not one.output.choices:
        return ""
    text = _text([one.output.choices[0].message])
    elsewhere = _ATTACHMENT.fullmatch(text)
    if elsewhere is None:  # a model may write what only looks like it
        return text
    try:
        return one.attachments[elsewhere[1]]
    except KeyError:
        raise RunError("the log lacks the text of a response", where, _AGAIN) from None


def _text(messages: str | list[_Message]) -> str:
    """The text of the last message."""
    content = messages if isinstance(messages, str) else messages[-1].content if messages else ""
    if isinstance(content, str):
        return content
    return "".join(piece.reasoning or piece.text or "" for piece in content)
