"""What is asked: variables for the chat template, and the prompt shown before anything is generated."""

from typer.testing import CliRunner

import tiny
from bench import Bench, call
from interpole.cli import app
from interpole.records import Outcome
from interpole.runs.runfile import RunFile
from interpole.sweep.plan import Plan

SWITCH = (
    "<|im_start|>user\n{{ messages[0].content }}<|im_end|>\n{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is not defined or enable_thinking %}<think>\n{% endif %}{% endif %}"
)
QUESTION = [{"role": "user", "content": "3 + 4 = ?"}]
OFF = {"template_variables": {"enable_thinking": False}, "markers": ("<think>", "</think>")}


def bench_with(folder, template):
    bench = Bench(folder)
    for number, name in enumerate(("instruct", "thinking")):
        bench.sources[name] = str(tiny.write(folder / f"own-{name}", tiny.tensors(number, layers=1), template=template))
    return bench


def test_template_variables_reach_prompt_identity_and_reading(tmp_path):
    bench = bench_with(tmp_path, SWITCH)
    bench.write([{"contains": "", "responses": ["7"]}])
    points = [{"name": "off", "lambda": 0.5, "template_variables": {"enable_thinking": False}}]
    settings = {"lambdas": [0.5], "points": points, "markers": OFF["markers"], "limit": 1, "samples": 1}
    planned, whole = Plan(bench.config(**settings)), Plan(bench.config(lambdas=[0.5], **OFF))
    on, off = planned.points
    assert planned.render(QUESTION, on).endswith("assistant\n<think>\n")
    assert planned.render(QUESTION, off) == whole.render(QUESTION, whole.points[0])
    assert whole.render(QUESTION).endswith("assistant\n")
    asked = ((planned, on), (planned, off), (whole, whole.points[0]))
    assert len({plan.entry(plan.benchmarks["arithmetic"], point, {}).identity for plan, point in asked}) == 3
    bench.sweep(**settings)
    assert {s.point: s.outcome for s in bench.read()} == {"λ=0.5": Outcome.UNMARKED, "off": Outcome.DIRECT}
    file = RunFile.load(bench.out)
    opens = {entry.point: file.format_of(entry).prompt_opens_thinking for entry in file.entries}
    assert opens == {"λ=0.5": True, "off": False}
    assert file.format_of(file.entries[1]).render(QUESTION) == planned.render(QUESTION, off)


def test_show_prompt_prints_what_the_model_will_see_and_generates_nothing(tmp_path):
    bench = bench_with(tmp_path, SWITCH + "{{ '\x1b[2J' }}")
    question = Plan(bench.config(markers=OFF["markers"])).benchmarks["arithmetic"].problems[0].question
    (tmp_path / "s.yml").write_text(
        bench.config(markers=OFF["markers"]).model_dump_json(by_alias=True, exclude_unset=True)
    )
    command = ["sweep", tmp_path / "s.yml", "-o", tmp_path / "out", "--show-prompt", "--trust"]
    told = call(*command, "--template-variable", "enable_thinking=false")
    assert f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n" in told
    assert "<think>" not in told
    assert "\x1b" not in told
    assert "at λ=0, λ=0.5, λ=1" in told
    assert "<think>\n" in CliRunner().invoke(app, [*map(str, command)]).stdout
    assert not (tmp_path / "out").exists()
    assert bench.num_generated == 0
