"""Read a run's samples from its Inspect logs: the one truth from which everything after generation is computed.

Only logs that `run.json` names are read. An `.eval` log is a zip of JSON; it is read as that (`interpole.runs.archive`), so
neither Inspect nor a model is needed and 20,000 samples take seconds. Grades that `interpole.runs.regrade` made anew lie beside
a log and stand in for its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import fields
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
_ATTACHMENT = "attachment://"
_AGAIN = "run the sweep again: it makes what is missing"
_GRADE_AGAIN = "delete it, or grade again: score RUN --regrade"


Same = dict[Any, Any]
LARGE_BYTES = 16 << 20
"""Of a run's logs; reading fewer takes less than a second, and other processes are not worth their start."""
STRETCH_BYTES = 4 << 20
"""Of a log that are read at once, about a thousand samples."""


class Take(NamedTuple):
    """What becomes of responses as they are read, so that memory holds few of them at a time."""

    digest: Callable[[Sample, str], Any]
    """Is given a sample and its response, perhaps in another process; what it gives can be pickled."""
    keep: Callable[[Sample, Any], None]
    """Is given each of the samples that `read` returns, without its response, and its digest."""


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


class _Held(NamedTuple):
    """What a stretch holds: samples, the digests of their responses where they are wanted, the problems that the log asks."""

    samples: list[Any]
    records: list[Any]
    asked: list[str]


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
    contents = _contents(logs, texts, take)
    found: dict[tuple[str, str, str, int], Sample] = {}
    for entry in entries:
        own: dict[tuple[str, int], Sample] = {}
        order: dict[str, int] = {}
        for part in entry.parts:
            if part.log is None:
                continue
            made, asked = next(contents)
            names = asked or dict.fromkeys(one.problem_id for one in made)
            order |= {name: place for place, name in enumerate(names, part.place[1])}
            own |= {(one.problem_id, one.number): one for one in made}
        for problem, number in sorted(own, key=lambda key: (order.get(key[0], len(order)), key)):
            found[entry.task, entry.point, problem, number] = own[problem, number]
    return list(found.values())


def _contents(logs: Sequence[_Log], texts: bool, take: Take | None) -> Iterator[tuple[list[Sample], list[str]]]:
    """The samples of every log, and the problems that it asks; texts of large logs are read in several processes."""
    sizes = [log.path.stat().st_size if log.path.is_file() else 0 for log in logs]
    stretches = [
        _Stretch(log, number, num)
        for log, size in zip(logs, sizes, strict=True)
        for num in [
            1 + size // STRETCH_BYTES if texts else 1
        ]  # summaries are one member, read sooner than they are sent
        for number in range(num)
    ]
    reader, same = _Reader(stretches, texts, take), dict[Any, Any]()
    if not texts or sum(sizes) < LARGE_BYTES or (processes := num_processes()) == 1:
        read: Iterator[_Held] = map(reader.read, range(len(stretches)))
    else:
        killed = RunError("a process that read its logs was killed", logs[0].entry.task, "is there memory for it?")
        sent = mapped(reader.sent, len(stretches), processes, killed)
        read = (_Held([_again(row, same) for row in rows], *others) for rows, *others in sent)
    samples, asked = list[Sample](), list[str]()
    for stretch, content in zip(stretches, read, strict=True):
        if take:
            for sample, record in zip(content.samples, content.records, strict=True):
                take.keep(sample, record)
        samples += content.samples
        asked += content.asked
        if stretch.number + 1 == stretch.num:
            yield samples, asked
            samples, asked = [], []


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
    same: Same = {}
    with Archive(path) as opened:
        anew = regraded(path)
        for one in _logged(opened, path, texts=texts):
            yield _sample(one, _Log(path, entry, part), anew.get((str(one.id), one.epoch), {}), None, same)[0]


class _Reader:
    """Reads stretches by their places; a log stays open until its last one is read."""

    def __init__(self, stretches: Sequence[_Stretch], texts: bool, take: Take | None) -> None:
        self._stretches, self._texts, self._digest = stretches, texts, take and take.digest
        self._log: _Log | None = None
        self._open = ExitStack()
        self._same: Same = {}

    def read(self, place: int) -> _Held:
        """What a stretch holds."""
        log, number, num = self._stretches[place]
        if log is not self._log:
            self._open.close()
            self._archive, self._log = self._open.enter_context(Archive(log.path)), log
            self._anew = regraded(log.path)
        with self._open:
            read = [
                _sample(one, log, self._anew.get((str(one.id), one.epoch), {}), self._digest, self._same)
                for one in _logged(self._archive, log.path, texts=self._texts, stretch=(number, num))
            ]
            asked = [] if number else _asked(self._archive, log.path)
            if number + 1 < num:
                self._open = self._open.pop_all()
        return _Held([sample for sample, _ in read], [digest for _, digest in read] if self._digest else [], asked)

    def sent(self, place: int) -> _Held:
        """What a stretch holds, with samples as tuples, which are pickled several times faster."""
        content = self.read(place)
        return content._replace(samples=[_FIELDS(sample) for sample in content.samples])


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


def _sample(
    one: Logged, log: _Log, anew: Mapping[str, Any], digest: Callable[[Sample, str], Any] | None, same: Same
) -> tuple[Sample, Any]:
    """A `Sample` of one logged sample or summary, with the grades that were made `anew`, if any were, and its digest.

    Texts and grades that several samples have are in memory once: `same` has those seen before.
    """
    path, entry, part = log
    where = f"{path}, {one.id} in epoch {one.epoch}"
    content = {**one.score_metadata, **anew}
    error = one.error.message or "unknown" if isinstance(one.error, _Error) else one.error or ""
    metadata = validated(ScoreMetadata, content, where, RunError, _AGAIN) if content and not error else None
    response = "" if metadata is None else response_of(one, where)
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
        "response": "" if digest else response,
    }
    answers = (metadata and metadata.answers) or {}
    if metadata is None:
        found = Sample(
            **common, num_tokens=0, finish="error", outcome=Outcome.FAILED, closed=False, answer=None,
            grades={}, error=error or "no score", private=content.get("private") is True,
        )  # fmt: skip
    else:
        found = Sample(
            **common,
            num_tokens=metadata.num_tokens,
            finish=metadata.finish,
            outcome=metadata.outcome,
            closed=metadata.closed,
            answer=metadata.answer,
            grades=_once(metadata.grades, same),
            answers=_once(answers, same),
            pseudo_close=metadata.pseudo_close,
            near_close=metadata.near_close,
            private=metadata.private,
            budget_forced=metadata.budget_forced,
            chosen_lam=metadata.chosen_lam,
        )
    return found, digest(found, response) if digest else None


_FIELDS = attrgetter(*(field.name for field in fields(Sample)))


def _again(row: tuple[Any, ...], same: Same) -> Sample:
    """A sample that another process sent, with the texts and grades of those before it where they are the same."""
    return Sample(*(_once(value, same) if type(value) in (str, dict) else value for value in row))


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
    if not text.startswith(_ATTACHMENT):
        return text
    try:
        return one.attachments[text.removeprefix(_ATTACHMENT)]
    except KeyError:
        raise RunError("the log lacks the text of a response", where, _AGAIN) from None


def _text(messages: str | list[_Message]) -> str:
    """The text of the last message."""
    content = messages if isinstance(messages, str) else messages[-1].content if messages else ""
    if isinstance(content, str):
        return content
    return "".join(piece.reasoning or piece.text or "" for piece in content)
