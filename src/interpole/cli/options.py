"""Arguments and options of the commands: those that several share, then those of `merge` and of `sweep`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from interpole.engines.registry import BUILT_IN, default_engine
from interpole.errors import printable

__all__ = [
    "LAMBDAS",
    "Adaptive",
    "AllowNonFinite",
    "Also",
    "Base",
    "BaseUrl",
    "BudgetSamples",
    "BudgetTokens",
    "CardFrom",
    "Data",
    "DryRun",
    "Dtype",
    "Embeddings",
    "EngineName",
    "EngineOptions",
    "Engines",
    "EstimandOption",
    "Extrapolate",
    "Fresh",
    "GoalText",
    "Grader",
    "Grading",
    "GuessTokens",
    "Instruct",
    "InstructGiven",
    "Json",
    "KeyVariable",
    "Lambdas",
    "Layers",
    "Limit",
    "MarkerRows",
    "MaxTokens",
    "MergeDryRun",
    "MergeLambda",
    "MergeOut",
    "Models",
    "NoDoctor",
    "PerRequest",
    "Policies",
    "Prefix",
    "Preset",
    "PricePerMillion",
    "ProfileName",
    "Prompt",
    "PushToHub",
    "Rounds",
    "Run",
    "RunOrCurves",
    "RunOut",
    "Samples",
    "Seed",
    "Shard",
    "ShardSize",
    "ShowPrompt",
    "SimplexCorners",
    "SimplexSteps",
    "Skip",
    "Sources",
    "Stream",
    "Tasks",
    "Temperature",
    "TemplateFrom",
    "TemplateVariables",
    "Tensors",
    "Thinking",
    "ThinkingGiven",
    "ThinkingOfSweep",
    "TokensPerSecond",
    "TopK",
    "TopP",
    "Trust",
    "Vocabulary",
    "file_not_model",
    "panel",
    "say_what_is_run",
    "share_of",
]

LAMBDAS = "0:1:0.1"
"""The points of a sweep that names none."""
MOST_SHARES = 100_000


def panel(title: str) -> Callable[..., Any]:
    """Makes the options that help shows under this title."""
    return partial(typer.Option, rich_help_panel=title)


_of_dial = panel("Where on the dial")
_of_task = panel("What to ask")
_of_engine = panel("The engine")
_of_run = panel("The run")
_of_served = panel("Models that are served")
_of_result = panel("The result")
_of_sampler = panel("How to sample")
_of_adaptive = panel("Fewer tokens (--adaptive)")
_of_cluster = panel("More than one machine")

Instruct = Annotated[str, typer.Argument(metavar="INSTRUCT", help="Instruct checkpoint (λ = 0): a folder or a hub id.")]
Thinking = Annotated[str, typer.Argument(metavar="THINKING", help="Thinking checkpoint (λ = 1): a folder or a hub id.")]
Base = Annotated[str | None, typer.Option(help="What both were made from: a folder or a hub id.")]
Extrapolate = Annotated[bool, _of_dial("--extrapolate", help="Allow λ beyond [-0.5, 1.5].")]
NoDoctor = Annotated[bool, typer.Option("--no-doctor", help="Do not examine the pair first.")]
Run = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, as `interpole sweep` writes it.")]
RunOrCurves = Annotated[Path, typer.Argument(metavar="RUN|CURVES.csv", help="A run folder, or a curves.csv.")]
Grading = Annotated[str | None, typer.Option(help="Score by this grading. [default: each task's own]")]
EstimandOption = Annotated[
    str,
    typer.Option("--estimand", help="What intervals are about: like-these (questions like these) or these questions."),
]
Trust = Annotated[bool, typer.Option("--trust", help="Run code that the file names: python: graders, tasks in files.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for machines.")]
Tensors = Annotated[bool, typer.Option("--tensors", help="Also one row per tensor.")]
PricePerMillion = Annotated[float | None, typer.Option(help="US dollars for a million generated tokens.")]
Layers = Annotated[str | None, _of_dial(help="Interpolate these layers only, e.g. 12-35; the others keep Instruct's.")]
Skip = Annotated[
    list[str] | None, _of_dial(help="Sublayers that keep Instruct's weights: attention or ffn. Repeatable.")
]
Embeddings = Annotated[
    str | None,
    _of_dial(
        help="Embeddings, final norm, lm_head: instruct, thinking or interpolate. [default: interpolate; --layers: instruct]"
    ),
]
TemplateFrom = Annotated[
    str | None,
    typer.Option(help="Source of config, tokenizer, template. [default: thinking; a merge at λ = 0: instruct]"),
]


# ── of `merge` ──

Dtype = Annotated[
    str | None, _of_result(help="dtype of the result: bfloat16, float16, float32, or fp8 if a source is FP8.")
]
Vocabulary = Annotated[
    str | None,
    _of_result(help="If tokenizers differ: refuse, align (rows by token) or ids (by number). [default: refuse]"),
]
InstructGiven = Annotated[str, typer.Argument(metavar="INSTRUCT|RECIPE.yml", help="Instruct checkpoint, or a recipe.")]
ThinkingGiven = Annotated[
    str | None, typer.Argument(metavar="[THINKING]", help="Thinking checkpoint: a folder or a hub id.")
]
MergeLambda = Annotated[
    str | None, _of_dial("--lambda", "-l", help="λ: 0 is Instruct, 1 is Thinking. Several: 0.2,0.4 or 0:1:0.1.")
]
MergeOut = Annotated[
    Path, _of_result("--out", "-o", help="Folder to write; must not exist. With several λ: OUT-0.2, …")
]
Preset = Annotated[
    str | None, _of_dial(help="A merge by name: ta, ties, skip-ffn-0.8, … (`interpole recipe presets`).")
]
MarkerRows = Annotated[
    str | None, _of_dial(help="Rows of the think markers from instruct or thinking, whatever λ is elsewhere.")
]
Sources = Annotated[
    list[str] | None,
    _of_dial(
        metavar="NAME=PLACE",
        help="Where a recipe's source lies now: a folder or a hub id; of a merge within it: OUTER/NAME. Repeat it.",
    ),
]
ShardSize = Annotated[str | None, _of_result(help="Cut the weights into files of this size, e.g. 5GB.")]
MergeDryRun = Annotated[
    bool,
    _of_result(
        "--dry-run", help="Write nothing; say what would be read and written, in what time, and whether there is room."
    ),
]
Shard = Annotated[
    str | None,
    _of_result(
        metavar="I/N",
        help="Write the I-th of N parts of OUT's files; others may write theirs at once, the last one finishes OUT.",
    ),
]
Stream = Annotated[
    bool,
    _of_result(
        "--stream",
        help="Read hub ids over the network as they are merged, without a copy of their weights on the disk.",
    ),
]
PushToHub = Annotated[
    str | None, _of_result(metavar="REPO", help="Upload the result to this hub repository; several: REPO-0.2, …")
]
CardFrom = Annotated[
    Path | None,
    _of_result(
        metavar="RUN",
        help="Put what this run measured of the same weights into the model card, also as the hub's model-index.",
    ),
]
AllowNonFinite = Annotated[
    bool, _of_result("--allow-non-finite", help="Write NaN and infinity too, with a warning, as --no-doctor does.")
]


# ── of `sweep` ──

Temperature = Annotated[float | None, _of_sampler(help="Sampling temperature; 0 is greedy. [default: the task's]")]
TopP = Annotated[float | None, _of_sampler(help="Nucleus. [default: the task's]")]
TopK = Annotated[int | None, _of_sampler(help="Only the k likeliest tokens; 0: off. [default: the task's]")]
MaxTokens = Annotated[int | None, _of_sampler(help="Cap on generated tokens. [default: the task's]")]
Models = Annotated[
    list[str] | None,
    _of_served(
        "--model", help="With --base-url: a model as the endpoint calls it; 'name@{lambda}' is a dial. Repeatable."
    ),
]
KeyVariable = Annotated[
    str | None,
    _of_served(
        "--api-key-env",
        metavar="NAME",
        help="With --base-url: the environment variable whose API key is sent there. [default: OPENAI_API_KEY]",
    ),
]
EngineOptions = Annotated[
    list[str] | None,
    _of_engine("--engine-option", metavar="NAME=VALUE", help="Of the engine, e.g. dtype=float32. Repeatable."),
]
Engines = Annotated[
    str | None,
    _of_engine(
        metavar="N|auto",
        help="How many engines, each on a device of its own; auto: one per GPU, or per core for small models. [default: 1]",
    ),
]
PerRequest = Annotated[
    bool, _of_engine("--per-request", help="Hold both checkpoints, and answer all λ in one batch (docs/sweep.md).")
]
TemplateVariables = Annotated[
    list[str] | None,
    _of_task(metavar="NAME=VALUE", help="For the chat template, e.g. enable_thinking=false. Repeatable."),
]
ShowPrompt = Annotated[
    bool, _of_run("--show-prompt", help="Print the first question's prompt of every task, as the model sees it.")
]
Lambdas = Annotated[
    str | None, _of_dial("--lambda", "-l", help=f"Points on the dial: 0:1:0.1 or 0,0.5,1. [default: {LAMBDAS}]")
]
Policies = Annotated[
    list[Path] | None,
    _of_dial(
        "--policy",
        metavar="FILE.json",
        help="Also a point where a policy chooses λ for each question: a file of `route --fit`. Repeatable.",
    ),
]
SimplexCorners = Annotated[
    str | None,
    _of_dial(
        "--simplex",
        metavar="A,B,C",
        help="Points all over the triangle of three models: folders, hub ids, sources by name, or NAME=PLACE.",
    ),
]
SimplexSteps = Annotated[
    int | None, _of_dial("--steps", help="With --simplex: steps from corner to corner. [default: 4]")
]
Samples = Annotated[int | None, _of_sampler("--samples", "-k", help="Responses per question. [default: the task's]")]
GuessTokens = Annotated[
    float | None, _of_run(help="With --dry-run: tokens of a response, where the run has none to go by.")
]
TokensPerSecond = Annotated[
    float | None, _of_run(help="With --dry-run: of the engine. [default: as measured in the run]")
]
Grader = Annotated[str | None, _of_task(help="Of a FILE.jsonl: math, choice, exact, regex or python:module.function.")]
Tasks = Annotated[
    list[str] | None,
    _of_task(help="arithmetic, aime25, ifeval, gpqa_diamond, FILE.jsonl or an Inspect task. Repeatable."),
]
Prompt = Annotated[str | None, _of_task(help="The user message, with {question} in it. [default: the task's]")]
DryRun = Annotated[
    bool, _of_run("--dry-run", help="Say what would be done, what is there already, and what the rest costs.")
]
Also = Annotated[
    bool, _of_run("--also", help="Go on in a run made with other settings; tables leave its responses out.")
]
Fresh = Annotated[bool, _of_run("--fresh", help="Begin anew; a run that is there is moved beside (OUT.1).")]
ShardOf = Annotated[
    str | None,
    _of_cluster(
        "--shard",
        metavar="I/N",
        help="Only share I of N, into a run folder of its own; `interpole runs merge` unites them (docs/cluster.md).",
    ),
]
RayAddress = Annotated[
    str | None,
    _of_cluster(
        "--ray",
        metavar="ADDRESS",
        help="On a Ray cluster; auto: the one that this machine belongs to (docs/cluster.md).",
    ),
]
BaseUrl = Annotated[
    str | None, _of_served(help="The endpoint of models that somebody serves, e.g. http://localhost:8000/v1.")
]
EngineName = Annotated[
    str | None,
    _of_engine(
        help=f"{', '.join(BUILT_IN)}, or a package's. [default: {default_engine(remote=False)}; with --base-url: "
        f"{default_engine(remote=True)}]"
    ),
]
Adaptive = Annotated[
    bool, _of_adaptive("--adaptive", help="Find the λ for a goal with fewer tokens than the grid (docs/searches.md).")
]
GoalText = Annotated[
    str, _of_adaptive("--goal", help="With --adaptive: balanced, accuracy, max-tokens=1200 or min-accuracy=0.8.")
]
Rounds = Annotated[int, _of_adaptive(help="With --adaptive: at most so many rounds after the bisection.")]
BudgetTokens = Annotated[
    float | None, _of_adaptive(help="With --adaptive: tokens to spend. [default: 35 % of the grid's]")
]
BudgetSamples = Annotated[int | None, _of_adaptive(help="With --adaptive: responses to spend.")]
ThinkingOfSweep = Annotated[str | None, typer.Argument(metavar="[THINKING]", help="Thinking checkpoint.")]
RunOut = Annotated[Path, _of_run("--out", "-o", help="Run folder: made, continued or extended.")]
ProfileName = Annotated[str | None, _of_task(help="A published experiment's settings: paper-4b, paper-30b.")]
Limit = Annotated[int | None, _of_task(help="Only the first so many questions.")]
Data = Annotated[Path | None, _of_task(help="A local file with the task's problems.")]
Prefix = Annotated[str | None, _of_task(help="Text put after every prompt, e.g. `<think>\\n`.")]
Seed = Annotated[int | None, _of_sampler(help="Of problems and responses.")]


def file_not_model(text: str, what: str) -> Path:
    """The file of an only argument. A model there means that the second was forgotten: wrong usage, which says so.

    Args:
        text: the argument.
        what: what the file is, `a recipe`.
    """
    from interpole.checkpoints.hub import is_hub_id

    path = Path(text)
    is_model = path.is_dir() or (is_hub_id(text) and not path.exists() and path.suffix not in (".yml", ".yaml"))
    if is_model:
        kind = "a folder" if path.is_dir() else "a hub id"
        words = f"the second model is missing: {text} is {kind}; give INSTRUCT THINKING, or {what} as a .yml file"
        raise typer.BadParameter(printable(words))
    return path


def say_what_is_run(code: Iterable[str]) -> None:
    """Name, on stderr, the code of others that is about to be run."""
    for one in code:
        typer.echo(printable(f"runs {one}"), err=True)


def share_of(text: str) -> tuple[int, int]:
    """I and N of `--shard I/N`."""
    number, _, total = text.partition("/")
    if not (number.isdecimal() and total.isdecimal() and 1 <= int(number) <= int(total) <= MOST_SHARES):
        raise typer.BadParameter(f"--shard {text}: write I/N, from 1/N to N/N, e.g. 2/8")
    return int(number), int(total)
