"""Commands about the tiny trained pair: demo, lab train, lab study, lab path."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from interpole.cli.options import Json, RayAddress
from interpole.errors import EngineError

if TYPE_CHECKING:
    from interpole.lab import Pair
    from interpole.lab.studies.conduct import Conducted

__all__ = ["demo", "path", "register", "study", "train"]

lab = typer.Typer(
    help="The tiny trained Instruct/Thinking pair: where it lies, and how to train another.", no_args_is_help=True
)

SWEEP = """\
# What to measure: the dial from Instruct (0) to Thinking (1), and what people set in its place.
sources:
  instruct: {instruct}
  thinking: {thinking}
  base: {base}
tasks: arithmetic
lambdas: 0:0.4:0.1,0.45,0.5,0.55,0.6:1:0.1
points:
  - {{lambda: 1, budget_tokens: 40}}  # Thinking, whose thought is cut after 40 tokens
  - {{preset: ties}}                  # another way to merge
samples: {samples}
limit: {limit}
engine_options: {{dtype: float32}}    # faster on a CPU
"""
SPACE = """\
# What to search: a λ for attention and one for feed-forward in each half of the layers.
sources:
  instruct: {instruct}
  thinking: {thinking}
tasks: arithmetic
samples: 1
limit: {limit}
lambdas: [0.5, 0.6, 1]               # measured beside what is found
engine_options: {{dtype: float32}}
space:
  groups: 2
  kinds: [attention, ffn]
trials: 10
finalists: 3
"""


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.command(rich_help_panel="Begin here")(demo)
    app.add_typer(lab, name="lab", rich_help_panel="Begin here")


def demo(
    context: typer.Context,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder for it all; kept, and continued if it is there.")
    ] = Path("demo"),
    samples: Annotated[int, typer.Option("--samples", "-k", min=2, help="Responses per question.")] = 4,
    limit: Annotated[int, typer.Option(min=12, help="Number of questions.")] = 96,
) -> None:
    """Walk through it all on the shipped tiny pair, in minutes: each step shows its command, then really runs it.

    It generates and serves: `pip install 'interpole[all]'`, or `uvx 'interpole[all]' demo`.
    """
    from interpole.analysis.recommend import recommend
    from interpole.analysis.scoring import load
    from interpole.cli.show import console
    from interpole.files import make_folder, write_atomic
    from interpole.lab import shipped
    from interpole.packages import require

    for module in ("torch", "transformers", "optuna", "uvicorn"):  # at once, not after half of it
        require(module, extra="all")
    step = partial(_step, context.find_root().command)
    pair, run, budget = shipped(), out / "run", 50
    ends = (pair.instruct, pair.thinking)
    sources = {name: json.dumps(str(getattr(pair, name))) for name in ("instruct", "thinking", "base")}
    make_folder(out)
    for name, text, num in (("sweep.yml", SWEEP, limit), ("space.yml", SPACE, min(limit, 48))):
        write_atomic(out / name, text.format(**sources, samples=samples, limit=num))
    size = ("--task", "arithmetic", "--samples", samples, "--limit", limit, "--engine-option", "dtype=float32")
    goal = ("--goal", f"max-tokens={budget}")

    step("Sweep the dial, and what people set in its place", "sweep", out / "sweep.yml", "--out", run)
    step("Where thinking sets in", "stages", run)
    step("The λ to use", "recommend", run, "--balanced")
    step(f"The λ for {budget} tokens a response", "recommend", run, "--max-tokens", budget)
    step("Is it better than a thinking budget, or TIES?", "compare", run, "0.5", "λ=1, budget 40", "ties")
    step("The same λ for fewer tokens", "sweep", *ends, *size, "--adaptive", *goal, "--out", out / "adaptive")
    step("Is there more in λ by layers and modules?", "search", out / "space.yml", "--out", out / "search")
    step("The page", "report", run)
    step("A figure for a paper", "plot", run, "--figure", "pareto", "--out", out / "pareto.svg")
    choice = recommend(load(run), balanced=True).lam
    merged = out / f"merged-{choice:g}"
    if not merged.exists():
        step("The model", "merge", *ends, "--lambda", f"{choice:g}", "--out", merged)
    _served(ends, run)
    console.print()
    console.rule("There it is", align="left")
    console.print(f"The page is {run / 'report.html'}, the model {merged}.", soft_wrap=True)
    console.print("For a pair and questions of your own, docs/tutorial.md goes the same way.")


def _step(program: Callable[..., Any], title: str, *words: object) -> None:
    """One command: its title, the file it reads, the line a user would type, and what it says."""
    from interpole.cli.show import console

    arguments = [str(word) for word in words]
    console.print()
    console.rule(title, align="left")
    if arguments[1].endswith(".yml"):
        console.print(Path(arguments[1]).read_text(encoding="utf-8"), style="dim", soft_wrap=True)
    console.print(f"$ interpole {shlex.join(arguments)}\n", style="bold", soft_wrap=True)
    if code := program(arguments, standalone_mode=False):
        raise typer.Exit(code)


def _served(ends: tuple[Path, Path], run: Path) -> None:
    """Serve the pair with the levels of the run, and ask it once at each effort."""
    from interpole.cli.show import console, table

    console.print()
    console.rule("One server, λ in every request", align="left")
    words = ["serve", *map(str, ends), "--from", str(run), "--port", "0", "--dtype", "float32"]
    console.print(f"$ interpole {shlex.join(words)}\n", style="bold", soft_wrap=True)
    server = subprocess.Popen([sys.executable, "-m", "interpole", *words], stdout=subprocess.PIPE, text=True)
    try:
        address = ""
        for line in server.stdout or ():
            if "Serving at " in line:
                address = line.split("Serving at ")[1].split(" ")[0]
                break
            console.print(line, end="")
        if server.poll() is not None or not address:
            raise EngineError("the server did not start", remedy="run the command above to see why")
        rows = [[effort, *_asked(address, effort)] for effort in ("none", "low", "medium", "high")]
    finally:
        server.terminate()
        server.wait()
    table(f"{QUESTION} (right: {ANSWER}), asked once at each effort", ["effort", "λ", "tokens", "answer"], rows)


QUESTION, ANSWER = "34 a-1 b-5 c*2 d+7 e-9 = ?", "54"


def _asked(address: str, effort: str) -> list[str]:
    """λ, tokens and answer of one request."""
    from urllib.request import Request, urlopen

    body = {"messages": [{"role": "user", "content": QUESTION}], "reasoning_effort": effort, "temperature": 0}
    request = Request(f"{address}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urlopen(request, timeout=60) as response:
        reply = json.load(response)
        lam = response.headers["x-interpole-lambda"]
    usage = reply["usage"]
    thought = usage["completion_tokens_details"]["reasoning_tokens"]
    tokens = f"{usage['completion_tokens']} ({thought} thinking)"
    return [lam, tokens, reply["choices"][0]["message"]["content"]]


@lab.command()
def train(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to make, with base, instruct and thinking in it.")],
    arch: Annotated[str, typer.Option(help="qwen3, llama, mistral, gemma3 or qwen3_moe.")] = "qwen3",
    width: Annotated[int, typer.Option(help="Of the hidden states: a multiple of 16.")] = 64,
    depth: Annotated[int, typer.Option(help="Layers.")] = 6,
    seed: Annotated[int, typer.Option(help="Of weights, data and order.")] = 0,
    base: Annotated[
        Path | None, typer.Option(help="Fine-tune this base, e.g. PAIR/base, in place of a new one.")
    ] = None,
    opens_thinking: Annotated[
        bool, typer.Option("--opens-thinking", help="A pair whose chat template opens the thinking.")
    ] = False,
    terse: Annotated[
        bool, typer.Option("--terse", help="Also a third specialist from the same base, which works without marks.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Train the tiny pair anew: a base and its two fine-tunes, on one core, in minutes."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

    from interpole.cli.show import Terminal
    from interpole.lab import pair_in
    from interpole.lab.recipe import TERSE, Body
    from interpole.lab.train import train as train_pair

    body = Body(arch, width, depth)

    columns = (
        TextColumn("{task.description:10}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Terminal(stderr=True)) as bar:
        tasks: dict[str, TaskID] = {}

        def progress(stage: str, step: int, total: int, loss: float) -> None:
            if stage not in tasks:
                tasks[stage] = bar.add_task(stage, total=total)
            bar.update(tasks[stage], completed=step, description=f"{stage} {loss:.3f}")

        third = TERSE if terse else None
        train_pair(body, seed, out, progress=progress, base=base, opens_thinking=opens_thinking, terse=third)
    _show_pair(pair_in(out), as_json, {"terse": out / "terse"} if terse else {})


@lab.command()
def study(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="families, scale, overlap … [default: list what there is]")
    ] = None,
    *,
    out: Annotated[
        Path,
        typer.Option(
            "--out", "-o", help="Folder that studies share: models, runs and results. Kept, and gone on with."
        ),
    ] = Path("studies"),
    seeds: Annotated[int | None, typer.Option(min=1, help="How many of each pair. [default: 3]")] = None,
    at_most: Annotated[
        int | None, typer.Option(min=0, help="Measure so many pairs and stop; run it again to go on. [default: all]")
    ] = None,
    smoke: Annotated[
        bool, typer.Option("--smoke", help="One pair, trained for three steps: to see that it runs.")
    ] = False,
    ray: RayAddress = None,
    as_json: Json = False,
) -> None:
    """Run a study on tiny pairs: train what is not there, measure it, and say of each hypothesis whether it holds.

    Hypotheses, and what came of them, are in docs/studies. Models are shared between studies in one folder.
    """
    from interpole.cli.show import show_json
    from interpole.lab.studies.conduct import conduct, study_of, to_json, workers
    from interpole.lab.studies.study import FULL, SMOKE

    if name is None:
        _list_studies(as_json)
        return
    say = partial(typer.echo, err=True)
    size = SMOKE if smoke else FULL
    with nullcontext() if ray is None else workers(out, size, ray) as actors:
        found = conduct(study_of(name), out, size=size, num_seeds=seeds, at_most=at_most, tell=say, actors=actors)
    if as_json:
        show_json(to_json(found))
    else:
        _show_study(found, out / name)


def _list_studies(as_json: bool) -> None:
    """Say which studies there are."""
    from interpole.cli.show import console, show_json
    from interpole.lab.studies.conduct import STUDIES

    titles = {name: one.title for name, one in STUDIES.items()}
    if as_json:
        show_json(titles)
        return
    for name, title in titles.items():
        console.print(f"{name:10} {title}")


def _show_study(found: Conducted, folder: Path) -> None:
    """A line for every hypothesis, and where the rest lies."""
    from interpole.cli.show import console, table

    rows = [[one.name, one.text, *found.verdicts[one.name]] for one in found.study.hypotheses]
    title = f"{found.study.title}: {found.num_pairs} of {found.num_wanted} pairs"
    table(title, ["", "hypothesis", "verdict", "measured"], rows)
    console.print(f"{folder}: results.csv, page.md, figure.svg", soft_wrap=True)


@lab.command()
def path(*, as_json: Json = False) -> None:
    """Print where the shipped base, Instruct and Thinking checkpoints lie."""
    from interpole.lab import shipped

    _show_pair(shipped(), as_json)


def _show_pair(pair: Pair, as_json: bool, more: Mapping[str, Path] = MappingProxyType({})) -> None:
    from dataclasses import asdict

    from interpole.cli.show import show_json

    folders = {name: str(folder) for name, folder in {**asdict(pair), **more}.items()}
    if as_json:
        show_json(folders)
    else:
        for name, folder in folders.items():
            typer.echo(f"{name} {folder}")
