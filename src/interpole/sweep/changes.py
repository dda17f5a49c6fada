"""What a sweep can know of an engine without starting it, and what other settings than a run's would leave aside of the run.

Tables never mix responses that were made with different settings, so what no longer counts is said before, with the settings that
differ.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

from interpole.errors import RunError
from interpole.runs.journal import journal_path, num_answers
from interpole.runs.runfile import Entry, RunFile, Shard, release
from interpole.sweep.config import SweepConfig

__all__ = ["Assumed", "assumed_engine", "refuse_changes", "refuse_shard"]


class Assumed(NamedTuple):
    """What the engine would say of itself."""

    versions: dict[str, str]
    certain: bool  # False: only the engine itself knows


def assumed_engine(config: SweepConfig, before: RunFile | None) -> Assumed:
    """What a run's engine said of itself, with the packages of today, where the sweep asks for the same engine."""
    kind = config.kind
    other = before is None or before.engine.get("engine") != config.engine
    if before is None or other or ("lambda" in before.engine) != config.per_request or _matters(config, before):
        return Assumed({"engine": config.engine}, certain=False)
    versions, certain = dict(before.engine), True
    for package in set(kind.packages) & set(versions):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:  # it is installed under another name
            certain = False
    return Assumed(versions, certain)


def refuse_shard(out: Path, before: RunFile | None, shard: Shard | None) -> None:
    """Refuse a folder that holds another share of a sweep, or all of it.

    Raises:
        RunError: with what it holds.
    """
    if before is None or shard is None:
        return
    if before.shard is None or str(before.shard) != str(shard):
        held = f"shard {before.shard}" if before.shard else "a whole sweep"
        raise RunError(f"the folder holds {held}, not shard {shard}", out, "give every shard an --out of its own")


def refuse_changes(config: SweepConfig, out: Path, before: RunFile | None, after: RunFile) -> None:
    """Refuse settings that would leave responses of a run aside.

    Args:
        config: the sweep.
        out: the run's folder.
        before: the run.
        after: what the sweep would make of it.

    Raises:
        RunError: with their number, and the settings that differ.
    """
    stays = {entry.key for entry in after.current}
    lost = [entry for entry in before.current if entry.key not in stays] if before else []
    if before is None or not (num := sum(_num_responses(before, entry, out) for entry in lost)):
        return
    found = [*_of_all(config, before, after), *(one for entry in lost for one in _of_entry(before, after, entry))]
    raise RunError(
        f"{num:,} responses in the run were made with other settings: {'; '.join(dict.fromkeys(found)) or 'other points'}",
        out,
        "repeat the former settings, choose another --out, or say --also (tables leave the former responses out) or "
        "--fresh (the former run is moved beside)",
    )


def _matters(config: SweepConfig, before: RunFile) -> list[str]:
    """The engine's options that differ, and that responses depend on."""
    matters, ours, theirs = config.kind.matters, config.engine_options, before.engine_options
    names = sorted(set(ours) | set(theirs)) if matters is None else matters
    return [_changed(name, theirs.get(name), ours.get(name)) for name in names if ours.get(name) != theirs.get(name)]


def _of_all(config: SweepConfig, before: RunFile, after: RunFile) -> Iterator[str]:
    """Differences in what all points share."""
    for name in ("prefix", "markers", "seed", "template_variables"):
        yield from _compared(name, getattr(before, name), getattr(after, name))
    if before.template != after.template:
        yield f"the chat template (of {after.template_from or 'the server'}) is another"
    for name in sorted(before.sources.keys() | after.sources.keys()):
        old, new = before.sources.get(name), after.sources.get(name)
        if old is None or new is None or old.fingerprint != new.fingerprint:
            yield _changed(f"source {name}", old and old.label, new and new.label)
    if before.engine.get("engine") != config.engine:
        yield _changed("engine", before.engine.get("engine"), config.engine)
    else:
        yield from _matters(config, before)
    yield from _compared("per_request", "lambda" in before.engine, config.per_request)
    for name in sorted(before.engine.keys() & after.engine.keys() - {"engine", "lambda"}):
        yield from _compared(name, release(before.engine[name]), release(after.engine[name]))


def _of_entry(before: RunFile, after: RunFile, entry: Entry) -> Iterator[str]:
    """Differences between an entry and what takes its place, or else what stands beside it."""
    beside = [one for one in after.current if one.task == entry.task]
    same = [one for one in beside if one.point == entry.point]
    for one in (same or beside)[:1]:
        for name in sorted(entry.sampler.keys() | one.sampler.keys()):
            yield from _compared(name, entry.sampler.get(name), one.sampler.get(name))
        if entry.problems_hash != one.problems_hash:
            old, new = before.tasks[entry.task].num_problems, after.tasks[entry.task].num_problems
            yield f"{entry.task} asks other questions, or asks otherwise ({new}, were {old})"
    of = "the dial" if entry.lam is not None else entry.point
    for one in same:
        yield from _compared(f"how {of} is asked", entry.asking, one.asking)
        yield from _compared(f"the recipe of {of}", _without_places(entry.recipe), _without_places(one.recipe))


def _without_places(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe without where its models lie: that they are the same their fingerprints tell."""
    sources = recipe.get("sources")
    if not isinstance(sources, Mapping):
        return dict(recipe)
    merges = {name: one for name, one in sources.items() if isinstance(one, Mapping) and "sources" in one}
    return {**recipe, "sources": dict.fromkeys(sources) | {name: _without_places(one) for name, one in merges.items()}}


def _num_responses(run: RunFile, entry: Entry, out: Path) -> int:
    """Responses in an entry's logs and journals."""
    num_problems, folder = run.tasks[entry.task].num_problems, entry.within(out)
    return sum(
        part.num_responses(num_problems) if part.log else num_answers(journal_path(folder, part))
        for part in entry.parts
    )


def _compared(name: str, old: Any, new: Any) -> Iterator[str]:
    if old != new:
        yield _changed(name, old, new)


def _changed(name: str, old: Any, new: Any) -> str:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        keys = [key for key in {**old, **new} if old.get(key) != new.get(key)]
        old, new = ({key: side[key] for key in keys if key in side} for side in (old, new))
    new_text, old_text = ("not set" if side is None else repr(side) for side in (new, old))
    return f"{name} is {_middle_out(new_text)}, was {_middle_out(old_text)}"


def _middle_out(text: str) -> str:
    """A long text by its two ends: of a path the last name tells more than the first."""
    return text if len(text) <= 100 else f"{text[:40]} … {text[-60:]}"
