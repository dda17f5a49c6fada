"""The command `sweep`: flags or a file → a checked configuration, then the run or its estimate."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from interpole.cli import options
from interpole.cli.cluster import actors_of
from interpole.cli.options import file_not_model, say_what_is_run, share_of
from interpole.engines.registry import default_engine
from interpole.errors import RunError, printable
from interpole.files import size_text

if TYPE_CHECKING:
    from interpole.runs.runfile import Shard
    from interpole.sweep.config import SweepConfig
    from interpole.sweep.estimate import SweepEstimate
    from interpole.sweep.run import Changed, Summary

__all__ = [
    "config_of",
    "cost_sentences",
    "engine_options_of",
    "examine",
    "named",
    "ran",
    "recipe_of",
    "said",
    "say_costs",
    "start",
    "sweep",
]


def sweep(
    instruct: Annotated[
        str | None, typer.Argument(metavar="[INSTRUCT|SWEEP.yml]", help="Instruct checkpoint, or a sweep as YAML.")
    ] = None,
    thinking: options.ThinkingOfSweep = None,
    *,
    out: options.RunOut,
    task: options.Tasks = None,
    profile: options.ProfileName = None,
    lam: options.Lambdas = None,
    policy: options.Policies = None,
    simplex: options.SimplexCorners = None,
    steps: options.SimplexSteps = None,
    samples: options.Samples = None,
    limit: options.Limit = None,
    data: options.Data = None,
    grader: options.Grader = None,
    prompt: options.Prompt = None,
    layers: options.Layers = None,
    skip: options.Skip = None,
    embeddings: options.Embeddings = None,
    template_from: options.TemplateFrom = None,
    temperature: options.Temperature = None,
    top_p: options.TopP = None,
    top_k: options.TopK = None,
    max_tokens: options.MaxTokens = None,
    prefix: options.Prefix = None,
    template_variable: options.TemplateVariables = None,
    seed: options.Seed = None,
    engine: options.EngineName = None,
    engine_option: options.EngineOptions = None,
    engines: options.Engines = None,
    per_request: options.PerRequest = False,
    base_url: options.BaseUrl = None,
    model: options.Models = None,
    api_key_env: options.KeyVariable = None,
    shard: options.ShardOf = None,
    ray: options.RayAddress = None,
    also: options.Also = False,
    fresh: options.Fresh = False,
    dry_run: options.DryRun = False,
    show_prompt: options.ShowPrompt = False,
    guess_tokens: options.GuessTokens = None,
    tokens_per_second: options.TokensPerSecond = None,
    trust: options.Trust = False,
    adaptive: options.Adaptive = False,
    goal: options.GoalText = "balanced",
    rounds: options.Rounds = 8,
    budget_tokens: options.BudgetTokens = None,
    budget_samples: options.BudgetSamples = None,
    extrapolate: options.Extrapolate = False,
    no_doctor: options.NoDoctor = False,
    as_json: options.Json = False,
) -> None:
    """Evaluate points between two checkpoints on tasks; killed and run again it goes on where it stopped.

    `interpole sweep INSTRUCT THINKING --task arithmetic --lambda 0:1:0.1 --samples 8 --out runs/x`

    `interpole sweep sweep.yml --out runs/x` takes everything from a file (docs/sweep.md); flags go before it.
    `interpole sweep --base-url URL --model NAME --task aime25 --out runs/x` asks what others serve.
    """
    served = _served(model or (), base_url, lam, engine)
    settings: dict[str, Any] = {
        "profile": profile, "samples": samples, "limit": limit, "template_from": template_from, "prefix": prefix, "seed": seed,
        "engine_options": engine_options_of(engine_option or (), api_key_env) | served.pop("engine_options", {}),
        "engine": engine, "policies": policy, **_triangle(simplex, steps, instruct, thinking, profile),
        "template_variables": named("--template-variable", template_variable or ()), "engines": engines, "lambdas": lam,
        "sampler": said(temperature=temperature, top_p=top_p, top_k=top_k, max_tokens=max_tokens),
        "tasks": _tasks(task or (), data=data, grader=grader, prompt=prompt),
        "recipe": recipe_of(layers, skip or (), embeddings, extrapolate=extrapolate), "per_request": per_request or None,
    } | served  # fmt: skip
    config = config_of(instruct, thinking, settings, served=bool(served), trust=trust)
    changed, share = _changed(also=also, fresh=fresh, adaptive=adaptive), _share(shard, ray, adaptive=adaptive)
    if show_prompt:
        return _show_prompt(config)
    common = {"doctor": not no_doctor, "as_json": as_json}
    if dry_run:
        return say_costs(config, out, guess_tokens, tokens_per_second, changed=changed, shard=share, **common)
    if adaptive:
        return _start_adaptive(config, out, goal, rounds, (budget_tokens, budget_samples), **common)
    return start(config, out, changed=changed, shard=share, ray=ray, **common)


def _triangle(
    corners: str | None, steps: int | None, instruct: str | None, thinking: str | None, profile: str | None
) -> dict[str, Any]:
    """`--simplex A,B,C --steps N` as settings; a folder or hub id is called by its last part, unless it is NAME=PLACE."""
    named: tuple[str, ...] | None = ("instruct", "thinking") if thinking is not None else ()
    if profile is not None or (instruct is not None and thinking is None):
        named = None  # whatever the profile, or the file, has a source for
    names, places = list[str](), dict[str, str]()
    for one in filter(None, (word.strip().rstrip("/") for word in (corners or "").split(","))):
        name, said_so, place = one.partition("=")
        if not said_so and named is not None and one not in named:
            name, place = Path(one).name, one
        if name in names:
            raise typer.BadParameter(f"two corners are called {name}: write NAME=PLACE")
        names.append(name)
        places |= {name: place} if place else {}
    if steps is not None and not names and named is not None:
        raise typer.BadParameter("--steps goes with --simplex, or with a SWEEP.yml that has one")
    grid = ({"corners": names} if names else {}) | said(steps=steps)
    return ({"simplex": grid} if grid else {}) | ({"sources": places} if places else {})


def _tasks(names: Sequence[str], **own: Any) -> list[dict[str, Any]]:
    """The tasks, with settings that go with all of them."""
    if any(own.values()) and not names:
        raise typer.BadParameter("--data, --grader and --prompt go with --task")
    return [{"task": name, **own} for name in names]


def engine_options_of(given: Sequence[str], api_key_env: str | None = None) -> dict[str, Any]:
    """`--engine-option NAME=VALUE …` as settings."""
    return named("--engine-option", given) | said(api_key_env=api_key_env)


def said(**settings: Any) -> dict[str, Any]:
    """The settings that were given."""
    return {name: value for name, value in settings.items() if value is not None}


def config_of(
    instruct: str | None, thinking: str | None, settings: dict[str, Any], *, served: bool, trust: bool
) -> SweepConfig:
    """The sweep that the arguments say, and what was given of the settings on the command line."""
    from interpole.sweep.config import SweepConfig

    given = {name: value for name, value in settings.items() if value not in (None, {}, [])}
    policies = [{"policy": str(path)} for path in given.pop("policies", ())]
    profile = "profile" in given
    if instruct is None and not served and not profile and "sources" not in given:
        raise typer.BadParameter("give INSTRUCT THINKING, a SWEEP.yml, --simplex, or --base-url with --model")
    if instruct is not None and thinking is None:
        if profile:
            raise typer.BadParameter("--profile goes with INSTRUCT THINKING, or alone; a SWEEP.yml says it all itself")
        config = SweepConfig.load(file_not_model(instruct, "a sweep"), given, trust=trust)
        say_what_is_run(config.code(given))
        return config.and_points(policies)
    pair = {} if instruct is None else {"instruct": instruct, "thinking": thinking}
    sources = {"sources": {**pair, **given.get("sources", {})}} if pair or "sources" in given else {}
    dial = {} if {"points", "simplex"} & set(given) else {"lambdas": options.LAMBDAS}
    defaults = {} if profile else {"tasks": ["arithmetic"]} | dial
    return SweepConfig.of(defaults | given | sources).and_points(policies)


def recipe_of(
    layers: str | None, skip: Sequence[str], embeddings: str | None, *, extrapolate: bool = False
) -> dict[str, Any]:
    """`--layers`, `--skip`, `--embeddings` and `--extrapolate` as fields of the recipe."""
    from interpole.merging.rules import ablation

    rules = ablation(layers, skip, embeddings)
    return ({"rules": rules} if rules else {}) | ({"extrapolate": True} if extrapolate else {})


def _served(models: Sequence[str], base_url: str | None, lam: str | None, engine: str | None) -> dict[str, Any]:
    """Settings of points that are served: names with `{lambda}` in them are a dial, the others points of their own."""
    dial = [name for name in models if "{lambda}" in name]
    if len(dial) > 1:
        raise typer.BadParameter("only one --model can have {lambda} in it: a run has one dial")
    if not dial and lam is not None and models:
        raise typer.BadParameter("--lambda needs a --model with {lambda} in it, e.g. 'name@{lambda}'")
    given = ({"base_url": base_url} if base_url else {}) | ({"model": dial[0]} if dial else {})
    points = [{"name": name, "model": name} for name in models if name not in dial]
    lambdas = {"lambdas": lam or options.LAMBDAS} if dial else {}
    if not (models or base_url):
        return {}
    return {"engine": engine or default_engine(remote=True), "engine_options": given, "points": points} | lambdas


def named(option: str, given: Sequence[str]) -> dict[str, Any]:
    """`NAME=VALUE` pairs; values are read as YAML."""
    from interpole.formats import parse_yaml

    if wrong := next((one for one in given if "=" not in one), None):
        raise typer.BadParameter(f"{option} {wrong}: write NAME=VALUE, e.g. dtype=float32 or enable_thinking=false")
    return {
        name: parse_yaml(value, f"{option} {name}", RunError)
        for name, _, value in (one.partition("=") for one in given)
    }


def _changed(*, also: bool, fresh: bool, adaptive: bool) -> Changed:
    """What the flags say of a run that was made with other settings."""
    if also and fresh:
        raise typer.BadParameter("--also goes on in the run, --fresh begins another: choose one")
    if adaptive and (also or fresh):
        raise typer.BadParameter("--adaptive has neither --also nor --fresh: choose another --out")
    return "also" if also else "fresh" if fresh else "refuse"


def _share(shard: str | None, ray: str | None, *, adaptive: bool) -> Shard | None:
    """The share of the sweep that `I/N` says."""
    if ray is not None and shard:
        raise typer.BadParameter("--ray shares the sweep out itself: leave --shard out")
    if ray is not None and adaptive:
        raise typer.BadParameter(
            "--adaptive asks a little, looks, and asks again: a cluster would mostly wait. Use it with --engines, or sweep all λ "
            "with --ray"
        )
    if shard is None:
        return None
    if adaptive:
        raise typer.BadParameter("--adaptive goes by what it has seen so far, so it has no shards")
    from interpole.runs.runfile import Shard

    number, total = share_of(shard)
    return Shard(number=number, total=total)


def start(
    config: SweepConfig,
    out: Path,
    *,
    doctor: bool = True,
    as_json: bool = False,
    changed: Changed = "refuse",
    shard: Shard | None = None,
    ray: str | None = None,
) -> None:
    """Run a sweep or a share of it with a progress display, write its tables and say what came of it."""
    from interpole.analysis.scoring import score
    from interpole.cli.show import show_json, show_metrics, show_next

    summary = ran(config, out, doctor=doctor, changed=changed, shard=shard, ray=ray)
    made = {"num_generated": summary.num_generated, "num_tokens": summary.num_tokens, "seconds": summary.seconds}
    if shard is not None and not summary.run.current:
        typer.echo(
            f"nothing to do for shard {shard}: there are fewer questions, at all points, than shards", err=as_json
        )
        if as_json:
            show_json({"run": str(out)} | made | {"failed": [], "points": []})
        return
    metrics = score(out)
    if as_json:
        from interpole.formats import read_json

        failed = [{"task": entry.task, "point": entry.point} for entry in summary.failed]
        show_json({"run": str(out)} | made | {"failed": failed} | read_json(out / "metrics.json", RunError))
    else:
        show_metrics(metrics)
        made_here = f"{summary.num_generated:,} responses, {summary.num_tokens:,} tokens in {summary.seconds:.0f} s"
        typer.echo(f"{made_here} → {out}")
        if shard is None:
            show_next("report", out)
        else:
            typer.echo(f"shard {shard}; when all are done: interpole runs merge RUN RUN … --out NEW")
    if summary.failed:
        raise typer.Exit(1)


def ran(
    config: SweepConfig,
    out: Path,
    *,
    doctor: bool = True,
    changed: Changed = "refuse",
    shard: Shard | None = None,
    ray: str | None = None,
) -> Summary:
    """Run a sweep or a share of it with a progress display, and name on stderr what failed."""
    from interpole.cli.show import sweep_bar
    from interpole.sweep.cluster import Cluster
    from interpole.sweep.run import run

    if doctor:
        examine(config)
    _say_where_the_key_goes(config)
    with actors_of(config, out, ray) as actors, sweep_bar() as on_progress:
        crew = None if actors is None else Cluster(actors)
        summary = run(config, out, on_progress, changed=changed, shard=shard, crew=crew)
    for entry in summary.failed:
        reason = next((part.error for part in entry.parts if part.error), "")
        where = f"{entry.task} at {entry.point}"
        typer.echo(printable(f"failed: {where}; run the same command to try again. {reason}"), err=True)
    return summary


def _start_adaptive(
    config: SweepConfig,
    out: Path,
    goal: str,
    rounds: int,
    budget: tuple[float | None, int | None],
    *,
    doctor: bool,
    as_json: bool,
) -> None:
    """Run an adaptive sweep, and say what it recommends, what it spent and what it saved."""
    from interpole.analysis.recommend import recommend
    from interpole.analysis.recommend import to_json as recommendation
    from interpole.analysis.scoring import score
    from interpole.cli.choose import show_found
    from interpole.cli.show import show_json, show_metrics, show_next, show_recommendation
    from interpole.report.commands import ends
    from interpole.runs.runfile import RunFile
    from interpole.search.adaptive import run
    from interpole.search.adaptive import to_json as explored
    from interpole.search.allocation import parse_goal
    from interpole.search.explore import Spending

    wanted = parse_goal(goal)
    if doctor:
        examine(config)
    _say_where_the_key_goes(config)
    found = run(
        config, out, wanted, rounds=rounds, spending=Spending(*budget), tell=lambda text: typer.echo(text, err=True)
    )
    metrics = score(out)
    chosen = recommend(found.samples, sources=ends(RunFile.load(out)), **wanted.options)
    if as_json:
        from interpole.formats import read_json

        own = {"adaptive": explored(found), "recommendation": recommendation(chosen)}
        show_json({"run": str(out)} | own | read_json(out / "metrics.json", RunError))
        return
    show_metrics(metrics)
    show_recommendation(chosen)
    show_found(found)
    show_next("report", out)


def _say_where_the_key_goes(config: SweepConfig) -> None:
    if os.environ.get(config.key_variable, "").strip():
        urls = printable(", ".join(config.base_urls))
        typer.echo(f"the API key in {config.key_variable} is sent to {urls}", err=True)


def examine(config: SweepConfig) -> None:
    """Ask the doctor about whatever is merged in a sweep of weights at hand."""
    from interpole.cli.questions import open_examined

    for sources, template_source in config.merges():
        open_examined(sources, template_source)


def say_costs(
    config: SweepConfig,
    out: Path,
    guess_tokens: float | None,
    tokens_per_second: float | None,
    *,
    changed: Changed = "refuse",
    shard: Shard | None = None,
    doctor: bool = False,
    as_json: bool,
) -> None:
    """Say what a sweep would do, what is there already and what the rest costs; first what the doctor says, if asked."""
    from dataclasses import asdict

    from interpole.cli.show import show_json, show_plan
    from interpole.sweep.estimate import estimate
    from interpole.sweep.run import plan

    if doctor:
        examine(config)
    planned = plan(config, out, changed=changed, shard=shard)
    found = estimate(config, out, planned, guess_tokens=guess_tokens, tokens_per_second=tokens_per_second)
    if as_json:
        show_json({"points": [asdict(point) for point in planned], **asdict(found), "hours": found.hours})
        return
    show_plan(planned)
    for line in cost_sentences(found):
        typer.echo(line)


def _show_prompt(config: SweepConfig) -> None:
    """Print a rendered prompt of each task; where points have one of their own, that too."""
    from interpole.sweep.plan import Plan

    planned = Plan(config)
    for name, benchmark in planned.benchmarks.items():
        question = [{"role": "user", "content": benchmark.prompt(benchmark.problems[0])}]
        shown: dict[str, list[str]] = {}
        for point in planned.points:
            shown.setdefault(planned.render(question, point), []).append(point.name)
        for prompt, points in shown.items():
            typer.echo(printable(f"── {name}, {benchmark.problems[0].id}, at {', '.join(points)} ──"))
            typer.echo(printable(prompt))


def cost_sentences(found: SweepEstimate) -> list[str]:
    """Tokens, hours and memory in words, with what they rest on."""
    if not found.num_samples:
        return []
    if found.num_tokens is None:
        lines = [
            f"at most {found.most_tokens:,} tokens, if every response went on to its cap; for an estimate "
            "give --guess-tokens, or run a pilot: the same command with --samples 1"
        ]
    else:
        bases = ", ".join(f"{basis} ({num:,})" for basis, num in found.bases.items())
        lines = [f"about {found.num_tokens:,.0f} tokens, at most {found.most_tokens:,}; lengths: {bases}"]
    if found.hours is not None:
        lines.append(f"about {found.hours:,.2f} hours at {found.tokens_per_second:,.0f} tokens per second")
    elif found.num_tokens is not None:
        lines.append("hours: give --tokens-per-second, or run a pilot: the same command with --samples 1")
    if found.memory is not None:
        cache = found.memory.cache_bytes
        kept = "an unknown size" if cache is None else size_text(cache)
        weights = size_text(found.memory.weights_bytes)
        lines.append(
            f"memory: {weights} of weights (one model; the two ends stay on disk), and {kept} of cache for "
            f"{found.memory.rows} responses at once; vllm takes what its gpu_memory_utilization allows"
        )
    return lines
