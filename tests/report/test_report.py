"""Figures and the page's contents: what is drawn and written is what was measured."""

from __future__ import annotations

import base64
import csv
import gzip
import json
import os
import re
import signal
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import interpole.report.payload as pack
import interpole.report.runs as of_runs
from interpole.analysis.intervals import Interval
from interpole.analysis.metrics import measure
from interpole.analysis.recommend import recommend
from interpole.analysis.routing import route
from interpole.analysis.stages import Stages, find_stages
from interpole.analysis.tables import PointMetrics, write_curves
from interpole.chat import Span
from interpole.cli import app
from interpole.errors import AnalysisError, OutputError, RunError
from interpole.paper.printed import TABLES
from interpole.records import Outcome, Sample
from interpole.report import FIGURES, hero, plot, write_figures, write_page_and_figures, write_report
from interpole.report import figures as f
from interpole.report.marks import Mark, marks
from interpole.report.pareto import pareto
from interpole.report.payload import cell, payload, texts
from interpole.report.plots import chart
from interpole.report.render import save, svg
from interpole.report.responses import MAX_CHARS, Responses
from interpole.report.style import COLOURS, OUTCOMES
from interpole.report.verdicts import bands, verdicts
from interpole.runs.prediction import PredictionFile
from interpole.runs.runfile import RunFile
from interpole.runs.samples import read
from synthetic import samples, write_run


@pytest.fixture(scope="module")
def sweep() -> list[Sample]:
    return samples(num_questions=18, k=4)


@pytest.fixture(scope="module")
def measured(sweep: list[Sample]) -> list[PointMetrics]:
    return measure(sweep, resamples=200)


@pytest.fixture(scope="module")
def stages(sweep: list[Sample]) -> list[Stages]:
    return find_stages(sweep, resamples=200)


@pytest.fixture(scope="module")
def run(sweep: list[Sample], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "tiny", sweep)


@pytest.fixture(scope="module")
def page(run: Path) -> Path:
    return write_report(run, run.parent / "report.html")


def values(spec: object) -> list[dict]:
    """Every data row anywhere in a Vega-Lite specification."""
    if isinstance(spec, dict):
        own = spec.get("values", []) if all(isinstance(v, dict) for v in spec.get("values", [0])) else []
        return [*own, *(row for part in spec.values() for row in values(part))]
    return [row for part in spec for row in values(part)] if isinstance(spec, list) else []


def table(name: str) -> list[dict[str, str]]:
    with (TABLES / name).open() as file:
        return list(csv.DictReader(file))


# ── figures ──


def test_curves_show_the_measured_numbers_with_their_intervals(measured: list[PointMetrics]) -> None:
    rows = {
        (v["series"], v["lam"]): v for v in values(f.curves(marks(measured)).to_dict()) if "series" in v and "low" in v
    }
    for m in measured:
        for name, interval in {
            "mean": m.mean,
            "pass": m.pass_at[-1],
            "vote": m.vote,
            "think": m.think,
            "tokens": m.tokens,
        }.items():
            row = rows[name, m.lam]
            assert (row["value"], row["low"], row["high"]) == pytest.approx(tuple(interval)), (name, m.lam)


def test_stage_two_is_shaded_where_the_fit_puts_it(measured: list[PointMetrics], stages: list[Stages]) -> None:
    (band,) = [b for b in bands(stages) if b.task == "arithmetic"]
    assert (band.low, band.high) == (stages[0].lambda_on.value, stages[0].lambda_off.value)
    shaded = [v for v in values(f.panel(marks(measured), "arithmetic", "think", [band]).to_dict()) if "end" in v]
    assert shaded == [{"lam": band.low, "end": band.high}]


def test_without_fitted_ends_the_swept_bracket_is_shaded(stages: list[Stages]) -> None:
    rough = replace(stages[0], lambda_on=None, lambda_off=None, stage2=(0.3, 0.9))
    assert [(b.low, b.high) for b in bands([rough])] == [(0.3, 0.9)]
    assert bands([replace(rough, stage2=None)]) == []


def test_labels_at_line_ends_keep_apart_and_inside() -> None:
    same = {name: Interval(1.0, 1.0, 1.0) for name in ("mean", "pass", "vote")}
    drawn = f.panel([Mark("t", "a", lam, same, 8) for lam in (0.0, 1.0)], "t", "accuracy").to_dict()
    places = sorted(
        v["value"] for layer in drawn["layer"] if layer["mark"]["type"] == "text" for v in layer["data"]["values"]
    )
    assert len(places) == 3
    assert places[-1] <= 1
    assert min(b - a for a, b in pairwise(places)) == pytest.approx(f.LABEL_GAP)


def test_points_are_filled_by_their_probability_of_being_on_the_front(measured: list[PointMetrics]) -> None:
    chances = dict(zip([m.point for m in measured], [1.0, 0.97, 0.94, 0.5, 0.49, 0.06, 0.04, 0, 0, 0, 0], strict=True))
    shown = [replace(m, on_front=chances[m.point]) for m in measured]
    drawn = {v["lam"]: v for v in values(pareto(marks(shown), "arithmetic").to_dict()) if "front" in v}
    assert [drawn[m.lam]["fill"] for m in shown] == list(chances.values())
    assert [drawn[m.lam]["front"] for m in shown] == [True] * 4 + [False] * 7
    labels = ["λ=0", "0.1", "0.2 · 94 %", "0.3 · 50 %", "0.4 · 49 %", "0.5 · 6 %", "0.6", "0.7", "0.8", "0.9", "λ=1"]
    assert [drawn[m.lam]["label"] for m in shown] == labels
    assert drawn[0.3]["text"].endswith("on the front with a probability of 50 %")
    assert "probability" in json.dumps(pareto(marks(shown), "arithmetic").to_dict()["title"])


def test_without_samples_the_front_is_that_of_the_measured_values(measured: list[PointMetrics], tmp_path: Path) -> None:
    write_curves(measured, tmp_path / "curves.csv")
    drawn = chart(tmp_path / "curves.csv", "pareto").to_dict()
    rows = {v["lam"]: v for v in values(drawn) if "front" in v}
    at = {m.lam: (m.mean.value, m.tokens.value) for m in measured}
    for lam, (mean, tokens) in at.items():
        beaten = any(a >= mean and t <= tokens and (a, t) != (mean, tokens) for a, t in at.values())
        assert (rows[lam]["front"], rows[lam]["fill"], rows[lam]["chance"]) == (not beaten, float(not beaten), None)
    assert "probability" not in json.dumps(drawn)


def test_outcome_shares_sum_to_one_at_every_lambda(measured: list[PointMetrics]) -> None:
    shares: dict[float, float] = {}
    for row in values(f.outcomes(measured, "arithmetic").to_dict()):
        shares[row["lam"]] = shares.get(row["lam"], 0) + row["share"]
    assert set(shares) == {m.lam for m in measured}
    assert all(share == pytest.approx(1) for share in shares.values())


def test_every_outcome_has_a_word_and_a_colour_of_the_palette() -> None:
    assert set(OUTCOMES) == set(Outcome)
    assert {colour for _, colour in OUTCOMES.values()} <= set(COLOURS)


def test_figures_use_only_colours_that_dark_mode_repaints(measured: list[PointMetrics], stages: list[Stages]) -> None:
    points, shaded = marks(measured), bands(stages)
    for drawn in (
        f.panel(points, "arithmetic", "accuracy", shaded),
        pareto(points, "arithmetic"),
        f.outcomes(measured, "arithmetic"),
    ):
        used = set(re.findall(r'(?:fill|stroke)="(#[0-9a-fA-F]+|[a-z]+)"', svg(drawn))) - {"none", "transparent"}
        assert used <= set(COLOURS.values())


def test_write_figures_writes_png_and_svg_of_each(
    measured: list[PointMetrics], stages: list[Stages], tmp_path: Path
) -> None:
    paths = write_figures(measured, stages, tmp_path)
    assert {p.name for p in paths} == {
        f"{n}.{e}" for n in ("hero", "curves", "pareto", "outcomes") for e in ("png", "svg")
    }
    for path in paths:
        start = path.read_bytes()[:8]
        assert start.startswith(b"\x89PNG" if path.suffix == ".png" else b"<svg"), path


def test_the_hero_is_wide_and_shows_one_task(stages: list[Stages]) -> None:
    two = measure(samples(8, 2, tasks=("arithmetic", "other")), resamples=50)
    drawn = svg(hero(two, stages))
    width, height = map(float, re.search(r'width="([\d.]+)" height="([\d.]+)"', drawn).groups())
    assert width > 2.5 * height


def test_a_figure_in_an_unknown_format_is_refused(measured: list[PointMetrics], tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"\.pdf, \.png, \.svg"):
        save(pareto(marks(measured), "arithmetic"), tmp_path / "figure.jpeg")


@pytest.mark.parametrize("form", ["svg", "pdf", "png"])
def test_a_chart_that_cannot_be_drawn_is_an_error_of_ours(form: str, tmp_path: Path) -> None:
    class Chart:
        def to_dict(self, **_: object) -> dict[str, object]:
            return {"mark": {"no": "mark"}, "encoding": 3}

    with pytest.raises(OutputError, match=f"could not be drawn as {form}"):
        save(Chart(), tmp_path / f"figure.{form}")
    assert not list(tmp_path.iterdir())


def test_what_was_measured_before_gives_the_stages_and_the_choice_of_samples_measured_anew() -> None:
    dial = samples(8, 2, lams=(0.0, 0.3, 0.5, 0.7, 1.0), tasks=("second", "first"))
    aside = [replace(one, point="budget", lam=None) for one in reversed(dial) if one.lam == 0.3]
    every = [*aside, *dial]
    measured = measure(every)
    assert repr(find_stages(every, metrics=measured)) == repr(find_stages(every))  # NaN is equal to nothing
    for task in (None, "first"):
        assert repr(recommend(every, task=task, metrics=measured)) == repr(recommend(every, task=task))


# ── the paper's figures ──


def test_figure_3_from_table_2_shows_the_papers_numbers_and_stage() -> None:
    drawn = values(chart(TABLES / "table2_qwen3_4b.csv", "3").to_dict())
    shown = {(v["text"].split(":")[0], v["series"], round(v["value"], 6)) for v in drawn if "low" in v}
    on_dial = [row for row in table("table2_qwen3_4b.csv") if row["lam"]]
    for row in on_dial:
        label = f"λ={float(row['lam']):g}"
        for task, k in (("aime25", "64"), ("ifeval", "8"), ("gpqa", "8")):
            assert (label, "mean", round(float(row[f"{task}_mean{k}"]) / 100, 6)) in shown
            assert (label, "think", round(float(row[f"{task}_think"]) / 100, 6)) in shown
            assert (label, "tokens", float(row[f"{task}_tokens"])) in shown
    assert len(on_dial) == 9
    shaded = [(v["lam"], v["end"]) for v in drawn if "end" in v]
    assert all(0.38 < low < 0.45 < 0.5 < high < 0.62 for low, high in shaded)
    assert shaded


def test_the_pareto_figure_from_table_2_has_the_baselines_as_diamonds() -> None:
    drawn = values(chart(TABLES / "table2_qwen3_4b.csv", "pareto", "aime25").to_dict())
    shown = {v["label"]: (round(100 * v["mean"], 6), v["tokens"], v["dial"]) for v in drawn if "front" in v}
    for row in table("table2_qwen3_4b.csv"):
        lam = float(row["lam"]) if row["lam"] else None
        label = row["method"] if lam is None else f"λ={lam:g}" if lam in (0, 1) else f"{lam:g}"
        assert shown[label] == (float(row["aime25_mean64"]), float(row["aime25_tokens"]), lam is not None)


def test_ends_of_intervals_that_are_not_known_are_null_in_the_figures(measured: list[PointMetrics]) -> None:
    points = [
        replace(mark, statistics={name: Interval(i.value, np.nan, np.nan) for name, i in mark.statistics.items()})
        for mark in marks(measured)
    ]
    for drawn in (f.curves(points), pareto(points, "arithmetic")):
        written = json.loads(json.dumps(drawn.to_dict(), allow_nan=False))
        with_ends = [v for v in values(written) if "low" in v]
        assert with_ends
        assert all(v["low"] is None and v["high"] is None for v in with_ends)


def test_figure_4_shows_every_decoding_setting() -> None:
    shown = {
        (v["temperature"], v["top_p"], v["text"]) for v in values(chart(TABLES / "figure4_decoding.csv", "4").to_dict())
    }
    for row in table("figure4_decoding.csv"):
        for head in ("t0.60", "t0.65", "t0.70"):
            assert (f"{float(head[1:]):g}", f"{float(row['top_p']):g}", row[head]) in shown


@pytest.mark.parametrize(
    ("figure", "name"),
    [("layers", "table3_layers.csv"), ("5", "figure5_modules.csv"), ("modules", "figure5_modules.csv")],
)
def test_ablations_show_every_number_of_their_table(figure: str, name: str) -> None:
    shown = [(v["point"], round(v["value"], 6)) for v in values(chart(TABLES / name, figure).to_dict())]
    rows = table(name)
    for row in rows:
        point = row["model"] + (f", layers {row['layers'].replace('-', '–')}" if row.get("layers") else "")
        for column in ("mean64", "pass64", "vote64"):
            assert (point, round(float(row[column]) / 100, 6)) in shown
    assert len({point for point, _ in shown}) == len(rows)


def test_the_similarity_figure_shows_sigma_both_ways() -> None:
    shown = {
        (v["a"], v["b"]): v["value"] for v in values(chart(TABLES / "table1_similarity.csv", "similarity").to_dict())
    }
    for row in table("table1_similarity.csv"):
        assert shown[row["model_a"], row["model_b"]] == shown[row["model_b"], row["model_a"]] == float(row["sigma"])


def test_curves_from_a_run_and_from_its_csv_show_the_same_numbers(
    run: Path, measured: list[PointMetrics], tmp_path: Path
) -> None:
    write_curves(measured, tmp_path / "curves.csv")
    sides = [values(chart(source, "3").to_dict()) for source in (run, tmp_path / "curves.csv")]
    of_run, of_csv = ({(v["series"], v["lam"]): v["value"] for v in side if "low" in v} for side in sides)
    assert of_csv == pytest.approx(of_run, abs=1e-6)


@pytest.mark.parametrize("end", ["pdf", "png", "svg"])
def test_plot_writes_what_the_name_ends_in(run: Path, tmp_path: Path, end: str) -> None:
    path = plot(run, "2", tmp_path / "new" / f"figure.{end}")
    assert path.read_bytes()[:4] == {"pdf": b"%PDF", "png": b"\x89PNG", "svg": b"<svg"}[end]


@pytest.mark.parametrize(
    ("figure", "message"), [("7", "no figure '7'"), ("similarity", "no σ"), ("4", "one decoding setting")]
)
def test_plot_says_what_a_figure_needs(run: Path, tmp_path: Path, figure: str, message: str) -> None:
    with pytest.raises(AnalysisError, match=message):
        plot(run, figure, tmp_path / "x.png")


def test_the_figure_of_policies_has_the_runs_static_points_and_every_policys_numbers(run: Path, tmp_path: Path) -> None:
    drawn, found = chart(run, "route").to_dict(), route(read(run, texts=False))
    shown = [value for layer in drawn["layer"] for value in layer["data"]["values"]]
    assert {(v["label"], v["accuracy"]) for v in shown if "label" in v} == {
        (f"{lam:g}", a) for lam, _, a in found.static
    }
    lines = [(v["policy"], v["tokens"], v["accuracy"]) for v in shown if "policy" in v]
    assert lines == [(one.name, p.tokens, p.accuracy) for one in found.policies for p in one.points]
    (tmp_path / "curves.csv").write_text("task,lam,think\nt,0,0\n")
    with pytest.raises(AnalysisError, match="scored from samples"):
        chart(tmp_path / "curves.csv", "route")


def test_the_page_says_whether_choosing_lam_by_the_question_pays_where_there_is_enough_to_say_it(
    run: Path, page: Path, sweep: list[Sample], tmp_path: Path
) -> None:
    found, text = route(read(run, texts=False)), page.read_text()
    section = text[text.index("λ by the question</h2>") :].split("</section>")[0]
    assert f"{found.verdict}." in section
    for one in found.policies:
        assert re.search(rf"</span>{one.name}</th><td>(<b>)?{re.escape(f'{100 * one.gain.value:+.1f}')}<", section)
    lines = re.findall(r'style="--c: var\(--(\w+)\)"', section)
    assert len(lines) == len(found.policies)
    assert set(re.findall(r'(?:fill|stroke)="(#\w{6})"', section)) <= set(COLOURS.values())  # they follow in the dark
    assert 'data-point="λ=0.5"' in section  # a static point is ringed when the dial is there
    few = write_run(tmp_path / "few", [s for s in sweep if s.problem_id in {t.problem_id for t in sweep[:9]}])
    assert "λ by the question" not in write_report(few, tmp_path / "few.html").read_text()


def test_a_task_that_was_not_measured_is_refused(run: Path, tmp_path: Path) -> None:
    for figure in FIGURES.keys() - {"4", "similarity", "prediction", "parts"}:
        with pytest.raises(AnalysisError):
            plot(run, figure, tmp_path / "x.png", task="astrology")


def test_ablations_and_decoding_of_a_run_show_its_points(sweep: list[Sample], tmp_path: Path) -> None:
    names = {"layers 0–2": 0.6, "layers 3–5": 0.9}
    made = [replace(s, lam=None, point=name) for name, lam in names.items() for s in sweep if s.lam == lam]
    samplers = {"layers 0–2": {"temperature": 0.7, "top_p": 0.8}}
    rules = {name: {"lambda": 0.8, "rules": [{"layers": f"not {name[7:]}", "lambda": 0.0}]} for name in names}
    run = write_run(tmp_path / "run", made, samplers=samplers, recipes=rules)
    measured = {m.point: m.mean for m in measure(made, resamples=10)}
    means = {point: mean.value for point, mean in measured.items()}
    first_panel = chart(run, "layers").to_dict()["vconcat"][0]["hconcat"][0]
    assert {v["point"]: v["value"] for v in values(first_panel)} == pytest.approx(means)
    assert {v["point"]: (v["low"], v["high"]) for v in values(first_panel)} == {
        point: pytest.approx((mean.low, mean.high), abs=0.1) for point, mean in measured.items()
    }
    with pytest.raises(AnalysisError, match="no point of this run interpolates some sublayers only"):
        chart(run, "modules")
    cells = {
        (v["temperature"], v["top_p"]): v["value"]
        for v in values(chart(run, "4").to_dict()["vconcat"][0]["hconcat"][0])
    }
    assert cells == {
        ("0.7", "0.8"): pytest.approx(means["layers 0–2"]),
        ("0.6", "0.95"): pytest.approx(means["layers 3–5"]),
    }
    with pytest.raises(AnalysisError, match="points on the dial"):
        plot(run, "3", tmp_path / "x.png")
    assert [p.name for p in write_figures(measure(made, resamples=10), [], tmp_path)] == ["pareto.png", "pareto.svg"]


@pytest.mark.parametrize("figure", ["3", "4", "layers", "similarity"])
def test_a_table_with_a_word_for_a_number_is_refused(tmp_path: Path, figure: str) -> None:
    path = tmp_path / "table.csv"
    head = {"4": "benchmark,metric,top_p,t0.6", "similarity": "model_a,model_b,sigma"}.get(figure, "model,lam,think64")
    path.write_text(f"{head}\n" + ",".join(["0"] * head.count(",") + ["many"]) + "\n")
    with pytest.raises(AnalysisError, match="is not a number: 'many'"):
        plot(path, figure, tmp_path / "x.png")


def test_a_row_longer_than_its_header_is_named_and_a_short_one_is_read(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("model,lam,think\na,0,0\na,1,100,3\n")
    with pytest.raises(AnalysisError, match="row 2 has more cells than the header"):
        chart(path, "3")
    path.write_text("model,lam,think,note\na,0,0,x\na,1,100\n")
    assert {row["lam"] for row in values(chart(path, "3").to_dict()) if "lam" in row} >= {0, 1}


# ── verdicts ──


def test_verdicts_say_the_boundaries_with_intervals(
    measured: list[PointMetrics], stages: list[Stages], sweep: list[Sample]
) -> None:
    (found,) = [v for v in verdicts(measured, stages, sweep) if v.kind == "stages"]
    on, off = stages[0].lambda_on, stages[0].lambda_off
    assert found.headline == f"Thinking switches on between λ = {on.value:.2f} and {off.value:.2f}"
    assert f"{on.value:.2f} [{on.low:.2f}, {on.high:.2f}]" in found.text


def test_the_lambda_to_use_is_the_cheapest_that_is_not_seen_to_be_worse(sweep: list[Sample]) -> None:
    twin = [replace(s, lam=0.9, point="λ=0.9", num_tokens=s.num_tokens - 1) for s in sweep if s.lam == 1.0]
    both = [s for s in sweep if s.lam in (0.0, 0.5, 1.0)] + twin
    (found,) = [v for v in verdicts(measure(both, resamples=200), [], both) if v.kind == "use"]
    assert found.headline.startswith("No winner: differences below")  # so few questions
    assert found.headline == recommend(both).headline
    assert found.text.startswith("Mean@4 100.0 %")


def test_the_page_and_the_command_line_say_the_same_of_the_lambda_to_use(run: Path, page: Path) -> None:
    told = json.loads(CliRunner().invoke(app, ["recommend", str(run), "--json"]).stdout)
    words = " ".join(CliRunner().invoke(app, ["recommend", str(run)]).stdout.split())
    (found,) = re.findall(r'<article class="verdict use".*?</article>', page.read_text(), re.DOTALL)
    assert told["tied"]
    assert told["optimism"] > 0.0005
    assert f"λ = {', '.join(f'{lam:g}' for lam in told['tied'])}" in found
    expected = told["expected"]
    less = f"{100 * told['optimism']:.1f} points less"
    assert f"Corrected for having been chosen as the best of several: {100 * expected['value']:.1f} % [" in found
    assert less in found
    assert f"best of several: accuracy {100 * expected['value']:.1f} [" in words
    assert less in words
    headline = re.search("<h3>(.*?)</h3>", found)[1]
    assert headline in words


def test_a_run_without_a_transition_says_so(sweep: list[Sample]) -> None:
    low = [s for s in sweep if s.lam <= 0.2]
    found = verdicts(measure(low, resamples=50), find_stages(low, resamples=50), low)
    assert found[0].headline == "No transition was found"


def test_over_thinking_is_named_with_both_numbers(sweep: list[Sample]) -> None:
    more = [replace(s, num_tokens=s.num_tokens * 2) if s.lam == 1.0 else s for s in sweep]
    same = [replace(s, grades={"exact": 1.0}) if s.lam >= 0.9 else s for s in more]
    sure = [replace(s, closed=True, outcome=Outcome.CLOSED) if s.lam >= 0.9 else s for s in same]
    stages = find_stages(sure, resamples=200, margin=0.3)  # what so few questions can rule out
    found = [v for v in verdicts(measure(sure, resamples=200), stages, sure) if v.kind == "cost"]
    assert [v.headline for v in found] == ["Beyond λ = 0.9 it over-thinks"]
    assert re.search(
        r"\+[\d.]+ \[\+[\d.]+, \+[\d.]+\] tokens and \+0\.0 .* a gain of 30 points or more is ruled out", found[0].text
    )


# ── what the page carries ──


def test_the_payload_gives_back_every_response(sweep: list[Sample], measured: list[PointMetrics]) -> None:
    packed = payload(measured, sweep)
    index = json.loads(gzip.decompress(base64.b64decode(packed.index)))
    chunks = list(texts(packed.chunks))
    found = {}
    for question in index["questions"]:
        chunk, place = question["at"]
        for point, row in zip(index["points"], chunks[chunk][place]["rows"], strict=True):
            for response in row:
                key = question["task"], question["id"], point["name"], response["number"]
                found[key] = "".join(text for _, text in response["parts"])
    assert found == {(s.task, s.problem_id, s.point, s.number): s.response for s in sweep}


def test_a_cell_says_outcome_and_score(sweep: list[Sample]) -> None:
    closed = next(s for s in sweep if s.outcome is Outcome.CLOSED)
    right, wrong = (replace(closed, grades={"exact": score}) for score in (1.0, 0.5))
    assert ord(cell(right)) - ord(cell(wrong)) == 1
    assert (ord(cell(right)) - ord("A")) // 2 == list(OUTCOMES).index(Outcome.CLOSED)


def test_long_responses_keep_their_ends_and_say_what_is_missing(sweep: list[Sample]) -> None:
    text = "a" * 50_000 + "b" * 50_000
    long = [replace(s, response=text) for s in sweep[:4]]
    packed = payload(measure(long, resamples=50), long)
    response = next(texts(packed.chunks))[0]["rows"][0][0]
    parts = [["answer", "a" * 6000], ["gap", 100_000 - MAX_CHARS], ["answer", "b" * 3000]]
    assert (response["parts"], packed.num_cut) == (parts, 4)


@pytest.mark.parametrize("keep", [0, 1, 2, 3, 7, 100, 8999, 9000])
@pytest.mark.parametrize("num_chars", [0, 1, 99, 8999, 9000, 9001, 15_000])
def test_what_is_kept_of_a_response_is_cut_out_of_the_whole(sweep: list[Sample], num_chars: int, keep: int) -> None:
    text = "".join(chr(0x4E00 + i) for i in range(num_chars))
    spans = [Span("thinking", 0, num_chars // 3), Span("answer", num_chars // 3, num_chars)]
    spans = [span for span in spans if span.end > span.start]
    kept = Responses()
    given = {"another": [Span("answer", 0, 7)], text: spans, "not shown": None}
    first, second, third = (replace(one, response=one_text) for one, one_text in zip(sweep, given, strict=False))
    for some in ([first], [second, third]):
        kept.put(some, kept.write(some, lambda sample: given[sample.response]))
    kept.arrange([third, second])
    head, cut = round(keep * 2 / 3), max(0, num_chars - keep)
    out = set(range(head, head + cut))
    expected = [
        (kind, "".join(text[i] for i in range(start, end) if (i < head) == first and i not in out))
        for first in ((True, False) if cut else (True,))
        for kind, start, end in spans
    ] if cut else [(kind, text[start:end]) for kind, start, end in spans]  # fmt: skip
    found = kept.parts(1, keep)
    assert [part for part in found if part[0] != "gap"] == [part for part in expected if part[1]]
    assert [part for part in found if part[0] == "gap"] == [("gap", cut)] * (cut > 0)
    assert kept.parts(0, keep) == []
    assert kept.lengths.tolist() == [9, num_chars]


def test_the_more_responses_the_less_of_each(sweep: list[Sample], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pack, "BUDGET_BYTES", 1000 * len(sweep))
    half = len(sweep) // 2
    mixed = [replace(s, response="a" * (5000 if i < half else 1000)) for i, s in enumerate(sweep)]
    rows = [
        row
        for chunk in texts(payload(measure(mixed, resamples=20), mixed).chunks)
        for question in chunk
        for row in question["rows"]
    ]
    kept = [sum(len(text) for kind, text in r["parts"] if kind != "gap") for row in rows for r in row]
    assert sorted(set(kept)) == [1000, 3000]  # what the short ones leave goes to the long ones


@pytest.mark.parametrize(("chunk_chars", "num_tries"), [(400_000, 3), (500, 1)])  # of many chunks some tell beforehand
def test_the_budget_holds_for_texts_that_hardly_get_smaller(
    chunk_chars: int, num_tries: int, sweep: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    tries, whole = [], pack._Packing.pack
    monkeypatch.setattr(pack, "CHUNK_CHARS", chunk_chars)
    monkeypatch.setattr(pack, "MANY_CHUNKS", 3)
    monkeypatch.setattr(pack._Packing, "pack", lambda self, *given: tries.append(given) or whole(self, *given))
    rng = np.random.default_rng(0)
    hard = [replace(s, response="".join(map(chr, rng.integers(0x4E00, 0x9FFF, 3000)))) for s in sweep[:200]]
    monkeypatch.setattr(pack, "BUDGET_BYTES", 300_000)
    packed = payload(measure(hard, resamples=20), hard)
    assert 150_000 < sum(map(len, packed.chunks)) <= 300_000
    assert (packed.num_cut, len(tries)) == (200, num_tries)


@pytest.mark.skipif(sys.platform != "linux", reason="only there processes are forked")
def test_a_page_that_another_process_packs_is_the_same_and_its_end_is_an_error(
    sweep: list[Sample], measured: list[PointMetrics], monkeypatch: pytest.MonkeyPatch
) -> None:
    def begun() -> pack.Payload:
        return pack.begin(measured, sweep, (), lambda one: one.question, Responses.of(sweep, pack.as_it_stands))()

    here = begun()
    monkeypatch.setattr(pack, "MANY_SAMPLES", len(sweep) - 1)
    monkeypatch.setattr("interpole.forks.num_processes", lambda: 2)
    assert begun() == here
    monkeypatch.setattr(pack, "payload", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(OutputError, match="the process that packs responses was killed"):
        begun()


def test_half_a_character_is_a_question_mark_in_the_page(sweep: list[Sample]) -> None:
    given = [replace(sweep[0], response="é\ud83d!", answer="\udc00")]
    (question,) = next(texts(payload(measure(given, resamples=20), given).chunks))
    (response,) = next(row for row in question["rows"] if row)
    assert ("".join(text for _, text in response["parts"]), response["answer"]) == ("é?!", "?")


def test_the_pages_script_is_laid_out_like_the_rest() -> None:
    lines = (Path(pack.__file__).parent / "page.js").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if len(line) > 120 or "\t" in line or line != line.rstrip()] == []


def unpacked(page: str) -> str:
    """A page with all its compressed parts written out."""
    parts = re.findall(r'<script type="application/gzip"[^>]*>([^<]*)</script>', page)
    return page + "".join(gzip.decompress(base64.b64decode(part)).decode() for part in parts)


def test_texts_of_private_tasks_are_left_out_unless_asked_for(tmp_path: Path) -> None:
    made = samples(4, 2, lams=(0.0, 0.5, 1.0), tasks=("arithmetic", "gpqa_diamond"))
    secret = [s for s in made if s.task == "gpqa_diamond"]
    secret = [
        replace(s, question="SECRET-Q", response="SECRET-R", target="SECRET-T", answer="SECRET-A", error="SECRET-E")
        for s in secret
    ]
    run = write_run(tmp_path / "run", [s for s in made if s.task == "arithmetic"] + secret, private=("gpqa_diamond",))
    shut = unpacked(write_report(run, tmp_path / "shut.html").read_text())
    assert "SECRET" not in shut
    assert "gpqa_diamond-0000" in shut
    assert "ask that they not be published" in shut
    assert "SECRET-R" in unpacked(write_report(run, tmp_path / "open.html", include_texts=True).read_text())


def test_the_report_says_how_it_was_run(page: Path) -> None:
    text = page.read_text()
    for said in (
        "Tiny-Instruct ↔ Tiny-Thinking",
        "thinkingthinking",
        "max_tokens 256",
        "temperature 0.6",
        "nothing added",
        "generated tokens",
    ):
        assert said in text
    assert not re.search(r"""(?:src|href)=["']?(?!#)[^"'>]""", text.split("<script")[0])


def test_a_report_of_two_runs_keeps_their_tasks_apart_and_draws_each(
    run: Path, sweep: list[Sample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[tuple[str, Path]] = []
    monkeypatch.setattr(
        of_runs, "write_figures", lambda found, _, where, __: drawn.append((str(found), where)) or [where]
    )
    other = write_run(tmp_path / "second", [s for s in sweep if s.lam in (0.0, 0.4, 1.0)])
    page, figures = write_page_and_figures([run, other], tmp_path / "both.html")
    assert drawn == [(str(measure(read(one))), one / "figures") for one in (run, other)]
    assert figures == [run / "figures", other / "figures"]
    text = page.read_text()
    assert 'data-choose="arithmetic · tiny"' in text
    assert 'data-choose="arithmetic · second"' in text


def test_the_same_run_gives_the_same_page(run: Path, page: Path, tmp_path: Path) -> None:
    assert write_report(run, tmp_path / "again.html").read_bytes() == page.read_bytes()


def test_a_folder_without_a_run_or_samples_is_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError):
        write_report(tmp_path, tmp_path / "x.html")
    empty = tmp_path / "empty"
    empty.mkdir()
    kept = json.loads((run / "run.json").read_text()) | {"entries": []}
    (empty / "run.json").write_text(json.dumps(kept))
    with pytest.raises(RunError, match="no samples yet"):
        write_report(empty, tmp_path / "x.html")
    assert not (tmp_path / "x.html").exists()


def test_dark_mode_names_colours_that_exist() -> None:
    css = (Path(f.__file__).parent / "page.css").read_text()
    dark = css[css.index("prefers-color-scheme: dark") :]
    named = set(re.findall(r"--(\w+): #", dark[: dark.index("}")]))
    assert named - {"surface"} == set(COLOURS)


def test_a_prediction_in_the_folder_is_on_the_page_beside_the_sweep_unless_it_is_of_other_weights(
    sweep: list[Sample], tmp_path: Path
) -> None:
    run = write_run(tmp_path / "run", sweep)
    sources = {name: one.fingerprint for name, one in RunFile.load(run).sources.items()}
    parts = [
        {"name": "a", "layer": 0, "kind": "ffn", "change": [4.484, 4, 5], "share": [0.9, None, None]},
        {"name": "b", "layer": None, "kind": "norm", "change": [-0.004, None, None], "share": [0, None, None]},
        {"name": "c", "layer": 0, "kind": "attention", "change": [-0.5, None, None], "share": [0.1, None, None]},
    ]
    whole = {"at": 1, "start": -6, "whole": [4, 3, 5], "together": [1, 1, 1], "parts": parts}
    found = {
        "questions": ["a", "b"], "sampler": {}, "lams": [0, 0.5, 1], "probabilities": [[0, 0], [0.4, 0.6], [1, 1]],
        "margins": [[-6, -6], [0, 1], [6, 6]], "on": None, "mid": [0.5, 0.48, 0.52], "off": None, "parts": {"cells": whole},
    }  # fmt: skip
    content = {"interpole": "1", "marker": "<think>", "sources": sources, "engine": {}, "tasks": {sweep[0].task: found}}
    file = PredictionFile.model_validate(content)
    file.save(run)
    page = write_report(run, tmp_path / "report.html").read_text()
    assert page.count("Before a token was generated") == 1
    assert "half of the\nresponses were to think at λ=0.500 [0.480, 0.520]" in page
    assert all(f">{text}</text>" in page for text in ("+4.48", "+0.00", "−0.50"))
    drawn = plot(run, "parts", tmp_path / "parts.svg").read_text()
    used = set(re.findall(r'(?:fill|stroke)="(#\w{6})"', drawn))
    assert used <= set(COLOURS.values())  # so that they follow in the dark
    plot(run, "prediction", tmp_path / "prediction.svg", task=sweep[0].task)
    with pytest.raises(AnalysisError, match="nothing was predicted"):
        plot(run, "prediction", tmp_path / "x.png", task="astrology")
    file.model_copy(update={"sources": dict.fromkeys(sources, "other")}).save(run)
    assert "Before a token was generated" not in write_report(run, tmp_path / "other.html").read_text()


def test_the_recommended_model_is_made_from_two_names_only_where_the_dial_is_their_plain_merge(
    sweep: list[Sample], tmp_path: Path
) -> None:
    run = write_run(tmp_path / "run", sweep)
    file = RunFile.load(run)
    plain = CliRunner().invoke(app, ["recommend", str(run), "--balanced"]).output
    assert "interpole merge models/Tiny-Instruct models/Tiny-Thinking --lambda" in " ".join(plain.split())
    stage = {"method": "linear", "sources": {"a": {"model": "a"}, "b": {"model": "b"}}, "weights": {"a": 0.5, "b": 0.5}}
    sources = {"instruct": {"model": "models/Tiny-Instruct"}, "thinking": stage}
    chained = tuple(e.model_copy(update={"recipe": {"sources": sources, "lambda": e.lam}}) for e in file.entries)
    file.model_copy(update={"entries": chained}).save(run)
    shown = CliRunner().invoke(app, ["recommend", str(run), "--balanced"]).output
    assert "interpole merge RECIPE.yml --out merged-" in " ".join(shown.split())
    assert "recommend … --recipe RECIPE.yml" in shown
