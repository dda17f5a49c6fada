"""Optuna's study in a search's folder: opened, mended after a crash, with nobody else's at the same time.

Optuna's journal is one JSON object a line. Its own lock is a file that a killed search leaves behind, and the next one would wait
for; the folder's lock (`interpole.runs.runfile.exclusive`) goes with its process, so that is the one that is held.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from interpole.errors import RunError
from interpole.files import open_regular, unlink_others, write_atomic
from interpole.runs.runfile import NAME as RUN_NAME
from interpole.runs.runfile import exclusive

if TYPE_CHECKING:
    from optuna import Study
    from optuna.samplers import BaseSampler

__all__ = ["CONFIRMED", "HELD_OUT", "STUDY", "batch_size", "confirm_share", "open_study", "role_of", "sampler_of"]

HELD_OUT, CONFIRMED = "held-out", "confirmed"
"""In the folder of a search: the runs of the finalists, on questions to choose on, and of the winner, on those to confirm on."""

STUDY = "study.journal"
"""Optuna's study, in the folder of a search."""
NAME = "interpole"
START = b'{"op_code":'  # of every line of Optuna's


@contextmanager
def open_study(
    out: Path,
    about: str,
    algorithm: str,
    seed: int,
    num_trials: int,
    tell: Callable[[str], None],
) -> Iterator[Study]:
    """The study in the folder `out`, made or opened; others are kept from the folder meanwhile.

    Args:
        out: the folder.
        about: hash of what is searched; a study of something else is refused.
        algorithm: tpe, nsga2 or random.
        seed: of the algorithm; trials that are there are counted in.
        num_trials: how many there shall be.
        tell: told what was mended.

    Raises:
        RunError: Optuna is not installed, the study cannot be read, or is about something else.
    """
    try:
        import optuna
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend
    except ImportError as error:
        raise RunError(f"Optuna is not installed: {error}", remedy="pip install 'interpole[search]'") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with exclusive(out):
        path = out / STUDY
        if num_lost := _mend(path):
            tell(f"{path}: {num_lost} lines were torn and are left out")
        try:
            storage = JournalStorage(JournalFileBackend(str(path), lock_obj=_FolderIsLocked()))
            study = optuna.create_study(
                storage=storage, study_name=NAME, load_if_exists=True, directions=["maximize", "minimize"]
            )
            found = study.user_attrs.get("about", about)
        except Exception as error:  # whatever a damaged study makes Optuna raise
            what = f"the study cannot be read: {type(error).__name__}: {error}"
            raise RunError(what, path, "choose another --out") from error
        if found != about:
            raise RunError("the folder holds a search of another space or pair", out, "choose another --out")
        study.set_user_attr("about", about)
        study.sampler = sampler_of(algorithm, seed + len(study.trials), num_trials)
        yield study


def sampler_of(algorithm: str, seed: int, num_trials: int, *, at_once: bool = False) -> BaseSampler:
    """What proposes values.

    Args:
        algorithm: tpe, nsga2 or random.
        seed: of its draws.
        num_trials: how many there shall be.
        at_once: several are proposed before any of them is told: TPE takes those for bad, so that it proposes no place twice.
    """
    from optuna import samplers

    if algorithm == "tpe":
        return samplers.TPESampler(seed=seed, constant_liar=at_once)
    if algorithm == "nsga2":
        return samplers.NSGAIISampler(seed=seed, population_size=min(24, num_trials))
    return samplers.RandomSampler(seed=seed)


def batch_size(study: Study, out: Path, wanted: int | None, default: int) -> int:
    """How many recipes a search proposes at a time; the study remembers it.

    Raises:
        RunError: the study proposes another number than is wanted.
    """
    kept = study.user_attrs.get("batch")
    if kept is None:
        kept = wanted or default
        study.set_user_attr("batch", kept)
    if wanted not in (None, kept):
        raise RunError(
            f"the search proposes {kept} recipes at a time, not {wanted}", out, "say the same, or choose another --out"
        )
    return int(kept)


def confirm_share(study: Study, out: Path, wanted: float) -> float:
    """The share of the questions held out that the winner is confirmed on; 0 in a folder that was made before any were kept.

    Raises:
        RunError: the folder keeps another share than is wanted.
    """
    kept = study.user_attrs.get("confirm")
    if kept is None:
        kept = 0.0 if (out / HELD_OUT / RUN_NAME).exists() else wanted
        study.set_user_attr("confirm", kept)
    if kept not in (0.0, wanted):
        raise RunError(
            f"the folder keeps {kept:g} of what is held out for the winner, not {wanted:g}", out, "say the same"
        )
    return float(kept)


def role_of(run: Path) -> str:
    """What a run is in a search, in words to read its numbers by; empty where it is none of a search."""
    run = run.resolve()
    if not (run.parent / STUDY).is_file():
        return ""
    if run.name == CONFIRMED:
        return (
            "The winner of a search, and the dial's point (or a corner of the simplex) for the same goal, on questions that were "
            "used for nothing else: "
            "these intervals are what to expect."
        )
    if run.name != HELD_OUT:
        return ""
    kept = (run.parent / CONFIRMED).is_dir()
    where = (
        f"its own numbers are in the run {CONFIRMED} beside this one"
        if kept
        else "no questions were kept to confirm it on"
    )
    return (
        f"The winner of a search was chosen on these questions, so what is best here is partly the luckiest; {where}."
    )


class _FolderIsLocked:
    """The lock that Optuna asks for: whoever opens a study holds that of its folder."""

    def acquire(self) -> bool:
        return True

    def release(self) -> None:
        pass


def _mend(path: Path) -> int:
    """Leave out of a journal what a crash tore, and what is glued to it on its line. Returns how many lines were torn."""
    if path.is_symlink():
        raise RunError("the study is a link", path, "remove it, or choose another --out")
    try:
        with open_regular(path) as file:
            content = file.read()
    except FileNotFoundError:
        return 0
    except OSError as error:
        raise RunError(f"the study cannot be read: {error.strerror}", path, "choose another --out") from error
    kept, num_torn = [], 0
    for line in content.split(b"\n"):
        if not line or _is_whole(line):
            kept.append(line)
            continue
        num_torn += 1
        starts = [at for at in range(1, len(line)) if line.startswith(START, at)]
        kept += [rest for at in starts[-1:] if _is_whole(rest := line[at:])]
    mended = b"\n".join(line for line in kept if line)
    mended += b"\n" if mended else b""
    if mended != content:
        write_atomic(path, mended, durable=True)
    unlink_others(path)
    return num_torn


def _is_whole(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False
