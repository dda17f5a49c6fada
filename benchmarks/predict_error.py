"""How far is a prediction's λ50 off, by how many prompts it rests on? Over pairs and their sweeps.

python benchmarks/predict_error.py NAME=INSTRUCT,THINKING[,RUN] … [--task arithmetic] [--into docs]
python benchmarks/predict_error.py --studies DIR [--sweep] [--into docs]  # each pair that `interpole lab study` has swept there

The chances of the prompts (204, in studies theirs) are asked once at 51 λ; what any few of them predict is then arithmetic. The
truth is λ50 of the run, a sweep of the pair (`interpole sweep`), read as `interpole stages` reads it; where there is no run, what
all prompts predict. `--sweep` first sweeps a third of the pairs that the study of scale has measured by forward passes alone.
`--into` puts the table between its marks in predict.md, that of studies with what is beyond ±.03 between marks of its own, and
draws them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import altair as alt
import numpy as np

from interpole.analysis.intervals import Interval
from interpole.analysis.prediction import predict
from interpole.analysis.transition import find_transition, from_samples
from interpole.lab.studies import drawing, families, overlap, scale
from interpole.lab.studies.bench import Bench
from interpole.lab.studies.study import FULL, Case
from interpole.report.render import save
from interpole.report.style import COLOURS
from interpole.runs.runfile import NAME
from interpole.runs.samples import read
from interpole.search.predict import ForwardPasses, opened
from interpole.sweep.config import SweepConfig
from pages import put

SIZES = (1, 2, 4, 8, 16, 32, 96)
STUDY_SIZES = (4, 8, 16, 32)  # of 48 questions
GOAL = 0.03
NUM_SUBSETS = 200
DOSES = ((0.5, 2.0), (1.0, 1.0), (2.0, 0.5))  # of the study of scale: where λ50 is lowest, in the middle, and highest
LAMS = np.linspace(0, 1, 51).round(4).tolist()


Table = tuple[np.ndarray, np.ndarray, np.ndarray]
"""λ (L,), probabilities (Q, L) and margins (Q, L) of a pair, between 0 and 1."""


def chances(instruct: str, thinking: str, task: str) -> Table:
    """What forward passes say of a pair."""
    content = {"sources": {"instruct": instruct, "thinking": thinking}, "tasks": [task], "lambdas": [0, 1]}
    config = SweepConfig.of(content | {"limit": 204, "engine_options": {"dtype": "float32"}})
    with opened(config) as (asked, _):
        return all_of(asked)


def all_of(asked: ForwardPasses) -> Table:
    """Ask at every λ."""
    for lam in LAMS:
        asked.at(lam)
    return asked.table(next(iter(asked.tasks)))


def studied(folder: Path, sweep: bool) -> Iterator[tuple[str, Table, Path]]:
    """Every pair that was swept in a folder of studies: its name, what forward passes say of it, and its run."""
    bench = Bench(folder, FULL, lambda text: print(text, file=sys.stderr, flush=True))
    try:
        cases = {case: one.STUDY for one in (scale, families, overlap) for case in one.STUDY.cases(FULL.num_seeds)}
        for case, study in sorted(cases.items(), key=lambda item: (item[0].body.arch, str(item[0]))):
            done = (folder / study.name / "pairs" / f"{case.key(FULL)}.csv").exists()
            if sweep and done and study is scale.STUDY and (case.instruct, case.thinking) in DOSES:
                bench.sweep(case)
            if (bench.run_of(case) / NAME).exists():
                yield case.name, kept(bench, case), bench.run_of(case)
    finally:
        bench.close()


def kept(bench: Bench, case: Case) -> Table:
    """What forward passes say of a pair of the studies, asked once."""
    file = bench.folder / "predict" / f"{case.key(FULL)}.npz"
    if not file.exists():
        file.parent.mkdir(exist_ok=True)
        with file.with_suffix(".part").open("wb") as part:
            np.savez(part, *all_of(bench.asked(case)))
        file.with_suffix(".part").rename(file)
    with np.load(file) as there:
        return there["arr_0"], there["arr_1"], there["arr_2"]


def middle(lams: np.ndarray, probabilities: np.ndarray, margins: np.ndarray) -> float:
    """λ50; NaN where it is not reached."""
    found = predict(lams, probabilities, margins, resamples=1).mid
    return float("nan") if found is None else found.value


class Pair(NamedTuple):
    """What came of one pair: λ50 of its sweep, of all prompts, of the first 16, and how far draws of few are off."""

    name: str
    measured: Interval | None
    whole: float
    first: float
    draws: list[np.ndarray]  # (200,) errors for each number of prompts

    @property
    def truth(self) -> float:
        """What a prediction is held against."""
        return self.whole if self.measured is None else self.measured.value

    @property
    def row(self) -> str:
        """Its line of the table."""
        said = "–" if self.measured is None else "{:.3f} [{:.3f}, {:.3f}]".format(*self.measured)
        cells = " | ".join(map(few, self.draws))
        whole, first = (f"{value:.3f} ({value - self.truth:+.3f})" for value in (self.whole, self.first))
        return f"| {self.name} | {said} | {whole} | {first} | {cells} |"


def few(off: np.ndarray) -> str:
    """Errors of many draws: the root of their mean square, and how many are within the goal."""
    within = np.mean(np.abs(np.nan_to_num(off, nan=9.0)) <= GOAL)
    return f"{np.sqrt(np.nanmean(off**2)):.3f} ({within:.0%})"


def pair(name: str, table: Table, run: Path | None, sizes: Sequence[int], seed: int = 0) -> Pair:
    """Hold what a pair's prompts predict against its sweep."""
    lams, probabilities, margins = table
    whole, first = middle(*table), middle(lams, probabilities[:16], margins[:16])
    measured = find_transition(from_samples(read(run, texts=False))).mid if run else None
    found = Pair(name, measured, whole, first, [])
    rng = np.random.default_rng(seed)
    for size in sizes:
        drawn = [rng.choice(len(probabilities), size, replace=False) for _ in range(NUM_SUBSETS)]
        off = [middle(lams, probabilities[one], margins[one]) - found.truth for one in drawn]
        found.draws.append(np.array(off))
    return found


def table_of(pairs: Sequence[Pair], sizes: Sequence[int]) -> str:
    """Every pair, and all together."""
    heads = ["pair", "λ50 of its sweep", "of all prompts (error)", "of the first 16 (error)"]
    heads += [f"{size} prompt{'s' * (size > 1)}" for size in sizes]
    lines = [f"| {' | '.join(heads)} |", "| --- | --- |" + " ---: |" * (len(heads) - 2), *(one.row for one in pairs)]
    if len(pairs) > 3:
        whole, first = (few(np.array([getattr(one, at) - one.truth for one in pairs])) for at in ("whole", "first"))
        cells = [few(np.concatenate([one.draws[i] for one in pairs])) for i in range(len(sizes))]
        lines.append(f"| **all {len(pairs)}** | | {whole} | {first} | {' | '.join(cells)} |")
    return "\n".join(lines)


def misses(pairs: Sequence[Pair]) -> str:
    """Which pairs are beyond the goal, by name, and how often the sweep's own interval has the prediction in it."""
    lines = []
    for at, said in (("first", "the first 16 prompts"), ("whole", "all prompts")):
        off = [(one.name, getattr(one, at) - one.truth) for one in pairs]
        beyond = ", ".join(f"{name} ({error:+.3f})" for name, error in off if not abs(error) <= GOAL)
        lines.append(f"Beyond ±.03 by {said}: {beyond or 'none'}.")
    within = sum(one.measured.includes(one.whole) for one in pairs if one.measured)
    lines.append(f"The sweep's own 95 % interval has what all prompts predict in it at {within} of {len(pairs)} pairs.")
    return "\n".join(lines)


def picture(pairs: Sequence[Pair]) -> Any:
    """λ50 of each sweep, with its interval, against what its prompts predict; the goal as a band around the diagonal."""
    data = [
        {"x": one.whole, "y": one.measured.value, "low": one.measured.low, "high": one.measured.high, "kind": kind(one)}
        for one in pairs
        if one.measured
    ]
    ends = [
        min(min(one["x"], one["low"]) for one in data) - 0.02,
        max(max(one["x"], one["high"]) for one in data) + 0.02,
    ]
    scale = alt.Scale(domain=[round(ends[0], 2), round(ends[1], 2)], nice=False)
    up = partial(alt.Y, type="quantitative", title=None, scale=scale)
    line = alt.Chart(alt.Data(values=[{"x": x, "y": x, "low": x - GOAL, "high": x + GOAL} for x in ends]))
    goal = line.mark_area(color=COLOURS["grey"], opacity=0.25, clip=True).encode(x="x:Q", y=up("low"), y2="high:Q")
    same = line.mark_line(color=COLOURS["grey"], strokeDash=[4, 3], clip=True).encode(x="x:Q", y=up("y"))
    base = alt.Chart(alt.Data(values=data)).encode(
        x=alt.X("x:Q", title="λ50 from forward passes over the same 48 questions", scale=scale),
        color=drawing.colours(data, legend=True),
    )
    spread = base.mark_rule(opacity=0.45).encode(y=up("low"), y2="high:Q")
    marks = base.mark_point(filled=True, size=30, opacity=0.9).encode(y=up("y"))
    whole = alt.layer(goal, same, spread, marks).properties(width=380, height=380, title="λ50 of a sweep of each pair")
    return whole.configure(aria=False)


def kind(one: Pair) -> str:
    """What a pair is coloured by."""
    arch, width, depth, *_ = one.name.split()
    return arch if (width, depth) == (f"w{families.WIDTH}", f"d{families.DEPTH}") else f"{arch}, other sizes"


def main() -> None:
    """Print the table, or put it into a page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pairs", nargs="*", metavar="NAME=INSTRUCT,THINKING[,RUN]")
    parser.add_argument("--studies", type=Path)
    parser.add_argument("--sweep", action="store_true")
    parser.add_argument("--task", default="arithmetic")
    parser.add_argument("--into", type=Path)
    given = parser.parse_args()
    sizes = SIZES if given.studies is None else STUDY_SIZES
    pairs = []
    for one in given.pairs:
        name, _, folders = one.partition("=")
        instruct, thinking, *run = folders.split(",")
        pairs.append(pair(name, chances(instruct, thinking, given.task), Path(run[0]) if run else None, sizes))
    for found in studied(given.studies, given.sweep) if given.studies else ():
        pairs.append(pair(*found, sizes))
    text = table_of(pairs, sizes) + (f"\n\n{misses(pairs)}" if given.studies else "")
    print(text)
    if given.into:
        put(text, "errors of studies" if given.studies else "errors", given.into / "predict.md")
        if given.studies:
            save(picture(pairs), given.into / "images" / "predict-pairs.svg")


if __name__ == "__main__":
    main()
