"""Arguments and options of the commands: those that several share, then those of `merge` and of `sweep`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

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
    "say_what_is_run",
    "share_of",
]

LAMBDAS = "0:1:0.1"
"""The points of a sweep that names none."""
MOST_SHARES = 100_000

Instruct = Annotated[str, typer.Argument(metavar="INSTRUCT", help="Instruct checkpoint (λ = 0): a folder or a hub id.")]
Thinking = Annotated[str, typer.Argument(metavar="THINKING", help="Thinking checkpoint (λ = 1): a folder or a hub id.")]
Base = Annotated[str | None, typer.Option(help="What both were made from: a folder or a hub id.")]
Extrapolate = Annotated[
    bool, typer.Option("--extrapolate", help="Allow λ beyond [-0.5, 1.5].", rich_help_panel="Where on the dial")
]
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
Layers = Annotated[
    str | None,
    typer.Option(
        help="Interpolate these layers only, e.g. 12-35; the others keep Instruct's.",
        rich_help_panel="Where on the dial",
    ),
]
Skip = Annotated[
    list[str] | None,
    typer.Option(
        help="Sublayers that keep Instruct's weights: attention or ffn. Repeatable.",
        rich_help_panel="Where on the dial",
    ),
]
Embeddings = Annotated[
    str | None,
    typer.Option(
        help="Embeddings, final norm, lm_head: instruct, thinking or interpolate. [default: interpolate; --layers: instruct]",
        rich_help_panel="Where on the dial",
    ),
]
TemplateFrom = Annotated[
    str | None,
    typer.Option(help="Source of config, tokenizer, template. [default: thinking; a merge at λ = 0: instruct]"),
]


# ── of `merge` ──

Dtype = Annotated[
    str | None,
    typer.Option(
        help="dtype of the result: bfloat16, float16, float32, or fp8 if a source is FP8.", rich_help_panel="The result"
    ),
]
Vocabulary = Annotated[
    str | None,
    typer.Option(
        help="If tokenizers differ: refuse, align (rows by token) or ids (by number). [default: refuse]",
        rich_help_panel="The result",
    ),
]
InstructGiven = Annotated[str, typer.Argument(metavar="INSTRUCT|RECIPE.yml", help="Instruct checkpoint, or a recipe.")]
ThinkingGiven = Annotated[
    str | None, typer.Argument(metavar="[THINKING]", help="Thinking checkpoint: a folder or a hub id.")
]
MergeLambda = Annotated[
    str | None,
    typer.Option(
        "--lambda",
        "-l",
        help="λ: 0 is Instruct, 1 is Thinking. Several: 0.2,0.4 or 0:1:0.1.",
        rich_help_panel="Where on the dial",
    ),
]
MergeOut = Annotated[
    Path,
    typer.Option(
        "--out",
        "-o",
        help="Folder to write; must not exist. With several λ: OUT-0.2, …",
        rich_help_panel="The result",
    ),
]
Preset = Annotated[
    str | None,
    typer.Option(
        help="A merge by name: ta, ties, skip-ffn-0.8, … (`interpole recipe presets`).",
        rich_help_panel="Where on the dial",
    ),
]
MarkerRows = Annotated[
    str | None,
    typer.Option(
        help="Rows of the think markers from instruct or thinking, whatever λ is elsewhere.",
        rich_help_panel="Where on the dial",
    ),
]
Sources = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=PLACE",
        help="Where a recipe's source lies now: a folder or a hub id; of a merge within it: OUTER/NAME. Repeat it.",
        rich_help_panel="Where on the dial",
    ),
]
ShardSize = Annotated[
    str | None,
    typer.Option(help="Cut the weights into files of this size, e.g. 5GB.", rich_help_panel="The result"),
]
MergeDryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        help="Write nothing; say what would be read and written, in what time, and whether there is room.",
        rich_help_panel="The result",
    ),
]
Shard = Annotated[
    str | None,
    typer.Option(
        metavar="I/N",
        help="Write the I-th of N parts of OUT's files; others may write theirs at once, the last one finishes OUT.",
        rich_help_panel="The result",
    ),
]
Stream = Annotated[
    bool,
    typer.Option(
        "--stream",
        help="Read hub ids over the network as they are merged, without a copy of their weights on the disk.",
        rich_help_panel="The result",
    ),
]
PushToHub = Annotated[
    str | None,
    typer.Option(
        metavar="REPO",
        help="Upload the result to this hub repository; several: REPO-0.2, …",
        rich_help_panel="The result",
    ),
]
CardFrom = Annotated[
    Path | None,
    typer.Option(
        metavar="RUN",
        help="Put what this run measured of the same weights into the model card, also as the hub's model-index.",
        rich_help_panel="The result",
    ),
]
AllowNonFinite = Annotated[
    bool,
    typer.Option(
        "--allow-non-finite",
        help="Write NaN and infinity too, with a warning, as --no-doctor does.",
        rich_help_panel="The result",
    ),
]


# ── of `sweep` ──

Temperature = Annotated[
    float | None,
    typer.Option(help="Sampling temperature; 0 is greedy. [default: the task's]", rich_help_panel="How to sample"),
]
TopP = Annotated[float | None, typer.Option(help="Nucleus. [default: the task's]", rich_help_panel="How to sample")]
TopK = Annotated[
    int | None,
    typer.Option(help="Only the k likeliest tokens; 0: off. [default: the task's]", rich_help_panel="How to sample"),
]
MaxTokens = Annotated[
    int | None, typer.Option(help="Cap on generated tokens. [default: the task's]", rich_help_panel="How to sample")
]
Models = Annotated[
    list[str] | None,
    typer.Option(
        "--model",
        help="With --base-url: a model as the endpoint calls it; 'name@{lambda}' is a dial. Repeatable.",
        rich_help_panel="Models that are served",
    ),
]
KeyVariable = Annotated[
    str | None,
    typer.Option(
        "--api-key-env",
        metavar="NAME",
        help="With --base-url: the environment variable whose API key is sent there. [default: OPENAI_API_KEY]",
        rich_help_panel="Models that are served",
    ),
]
EngineOptions = Annotated[
    list[str] | None,
    typer.Option(
        "--engine-option",
        metavar="NAME=VALUE",
        help="Of the engine, e.g. dtype=float32. Repeatable.",
        rich_help_panel="The engine",
    ),
]
Engines = Annotated[
    str | None,
    typer.Option(
        metavar="N|auto",
        help="How many engines, each on a device of its own; auto: one per GPU, or per core for small models. [default: 1]",
        rich_help_panel="The engine",
    ),
]
PerRequest = Annotated[
    bool,
    typer.Option(
        "--per-request",
        help="Hold both checkpoints, and answer all λ in one batch (docs/sweep.md).",
        rich_help_panel="The engine",
    ),
]
TemplateVariables = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=VALUE",
        help="For the chat template, e.g. enable_thinking=false. Repeatable.",
        rich_help_panel="What to ask",
    ),
]
ShowPrompt = Annotated[
    bool,
    typer.Option(
        "--show-prompt",
        help="Print the first question's prompt of every task, as the model sees it.",
        rich_help_panel="The run",
    ),
]
Lambdas = Annotated[
    str | None,
    typer.Option(
        "--lambda",
        "-l",
        help=f"Points on the dial: 0:1:0.1 or 0,0.5,1. [default: {LAMBDAS}]",
        rich_help_panel="Where on the dial",
    ),
]
Policies = Annotated[
    list[Path] | None,
    typer.Option(
        "--policy",
        metavar="FILE.json",
        help="Also a point where a policy chooses λ for each question: a file of `route --fit`. Repeatable.",
        rich_help_panel="Where on the dial",
    ),
]
SimplexCorners = Annotated[
    str | None,
    typer.Option(
        "--simplex",
        metavar="A,B,C",
        help="Points all over the triangle of three models: folders, hub ids, sources by name, or NAME=PLACE.",
        rich_help_panel="Where on the dial",
    ),
]
SimplexSteps = Annotated[
    int | None,
    typer.Option(
        "--steps", help="With --simplex: steps from corner to corner. [default: 4]", rich_help_panel="Where on the dial"
    ),
]
Samples = Annotated[
    int | None,
    typer.Option(
        "--samples", "-k", help="Responses per question. [default: the task's]", rich_help_panel="How to sample"
    ),
]
GuessTokens = Annotated[
    float | None,
    typer.Option(
        help="With --dry-run: tokens of a response, where the run has none to go by.", rich_help_panel="The run"
    ),
]
TokensPerSecond = Annotated[
    float | None,
    typer.Option(help="With --dry-run: of the engine. [default: as measured in the run]", rich_help_panel="The run"),
]
Grader = Annotated[
    str | None,
    typer.Option(
        help="Of a FILE.jsonl: math, choice, exact, regex or python:module.function.", rich_help_panel="What to ask"
    ),
]
Tasks = Annotated[
    list[str] | None,
    typer.Option(
        help="arithmetic, aime25, ifeval, gpqa_diamond, FILE.jsonl or an Inspect task. Repeatable.",
        rich_help_panel="What to ask",
    ),
]
Prompt = Annotated[
    str | None,
    typer.Option(help="The user message, with {question} in it. [default: the task's]", rich_help_panel="What to ask"),
]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        help="Say what would be done, what is there already, and what the rest costs.",
        rich_help_panel="The run",
    ),
]
Also = Annotated[
    bool,
    typer.Option(
        "--also",
        help="Go on in a run made with other settings; tables leave its responses out.",
        rich_help_panel="The run",
    ),
]
Fresh = Annotated[
    bool,
    typer.Option("--fresh", help="Begin anew; a run that is there is moved beside (OUT.1).", rich_help_panel="The run"),
]
ShardOf = Annotated[
    str | None,
    typer.Option(
        "--shard",
        metavar="I/N",
        help="Only share I of N, into a run folder of its own; `interpole runs merge` unites them (docs/cluster.md).",
        rich_help_panel="More than one machine",
    ),
]
RayAddress = Annotated[
    str | None,
    typer.Option(
        "--ray",
        metavar="ADDRESS",
        help="On a Ray cluster; auto: the one that this machine belongs to (docs/cluster.md).",
        rich_help_panel="More than one machine",
    ),
]
BaseUrl = Annotated[
    str | None,
    typer.Option(
        help="The endpoint of models that somebody serves, e.g. http://localhost:8000/v1.",
        rich_help_panel="Models that are served",
    ),
]
EngineName = Annotated[
    str | None,
    typer.Option(
        help=f"{', '.join(BUILT_IN)}, or a package's. [default: {default_engine(remote=False)}; with --base-url: "
        f"{default_engine(remote=True)}]",
        rich_help_panel="The engine",
    ),
]
Adaptive = Annotated[
    bool,
    typer.Option(
        "--adaptive",
        help="Find the λ for a goal with fewer tokens than the grid (docs/searches.md).",
        rich_help_panel="Fewer tokens (--adaptive)",
    ),
]
GoalText = Annotated[
    str,
    typer.Option(
        "--goal",
        help="With --adaptive: balanced, accuracy, max-tokens=1200 or min-accuracy=0.8.",
        rich_help_panel="Fewer tokens (--adaptive)",
    ),
]
Rounds = Annotated[
    int,
    typer.Option(
        help="With --adaptive: at most so many rounds after the bisection.", rich_help_panel="Fewer tokens (--adaptive)"
    ),
]
BudgetTokens = Annotated[
    float | None,
    typer.Option(
        help="With --adaptive: tokens to spend. [default: 35 % of the grid's]",
        rich_help_panel="Fewer tokens (--adaptive)",
    ),
]
BudgetSamples = Annotated[
    int | None, typer.Option(help="With --adaptive: responses to spend.", rich_help_panel="Fewer tokens (--adaptive)")
]
ThinkingOfSweep = Annotated[str | None, typer.Argument(metavar="[THINKING]", help="Thinking checkpoint.")]
RunOut = Annotated[
    Path, typer.Option("--out", "-o", help="Run folder: made, continued or extended.", rich_help_panel="The run")
]
ProfileName = Annotated[
    str | None,
    typer.Option(help="A published experiment's settings: paper-4b, paper-30b.", rich_help_panel="What to ask"),
]
Limit = Annotated[int | None, typer.Option(help="Only the first so many questions.", rich_help_panel="What to ask")]
Data = Annotated[
    Path | None, typer.Option(help="A local file with the task's problems.", rich_help_panel="What to ask")
]
Prefix = Annotated[
    str | None, typer.Option(help="Text put after every prompt, e.g. `<think>\\n`.", rich_help_panel="What to ask")
]
Seed = Annotated[int | None, typer.Option(help="Of problems and responses.", rich_help_panel="How to sample")]


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
