"""The lab: its task is right, its tokenizer and template are Qwen-like, its training writes whole, loadable folders."""

import itertools
import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import forked
import interpole
from interpole.checkpoints.names import role_of
from interpole.cli import app
from interpole.errors import CheckpointError, OutputError, TaskError
from interpole.lab import pair_in, shipped
from interpole.runs import samples

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from safetensors import safe_open  # noqa: E402
from safetensors.torch import load_file  # noqa: E402

from interpole.lab.recipe import ARCHITECTURES, SCHEDULE, Body, Model, Questions, Schedule, Stage  # noqa: E402
from interpole.lab.tokenizer import VOCAB_SIZE, build_tokenizer, prompt  # noqa: E402
from interpole.lab.train import _batches, _questions_of, learning_rate_factor, train, train_model  # noqa: E402
from interpole.tasks import chains  # noqa: E402

EXAMPLE = "34 a-1 b-5 c*2 d-2 e+9 = ?"
SMALL = Body(width=32, depth=2)
TINY = Schedule(*(Stage(steps=3, batch=4, lr=1e-3, lr_muon=1e-2) for _ in range(3)))


def left_to_right(question):
    """The answer by Python's own arithmetic, with brackets that force the order."""
    start, *steps = re.sub(r"[a-f]", "", question.removesuffix(" = ?")).split()
    return eval("(" * len(steps) + start + "".join(step + ")" for step in steps))


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    calls = []
    out = tmp_path_factory.mktemp("lab") / "deep" / "pair"
    train(Body(), 0, out, progress=lambda *call: calls.append(call), schedule=TINY)
    return out, calls


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """The folder of another, of two narrow layers."""
    out = tmp_path_factory.mktemp("lab") / "small"
    train(SMALL, 0, out, schedule=TINY)
    return out


# --- the task


def test_the_splits_are_disjoint_and_a_tenth_each_is_held_out():
    drawn = {split: {p.question for p in chains.problems(split, 300, seed=1)} for split in chains.SPLITS}
    assert not drawn["train"] & drawn["test"]
    assert not drawn["train"] & drawn["validation"]
    assert not drawn["validation"] & drawn["test"]
    rng = np.random.default_rng(0)
    splits = [chains.split_of(chains.draw(rng, 6)) for _ in range(3000)]
    assert splits.count("test") == pytest.approx(300, abs=60)
    assert splits.count("validation") == pytest.approx(300, abs=60)


@pytest.mark.parametrize("split", chains.SPLITS)
def test_answers_equal_pythons_arithmetic_from_left_to_right_and_values_stay_in_range(split):
    for problem in chains.problems(split, 240, seed=3):
        start, steps = chains.solve(problem.question)
        assert problem.answer == str(left_to_right(problem.question))
        assert all(10 <= value <= 99 for value in [start, *(step.value for step in steps)])
        assert int(problem.difficulty) == len(steps) == len(problem.question.split()) - 3


def test_problems_are_different_balanced_and_the_same_for_the_same_seed():
    many = chains.problems("test", 204)
    assert len({p.id for p in many}) == len({p.question for p in many}) == 204
    assert [p.difficulty for p in many[:7]] == ["1", "2", "3", "4", "5", "6", "1"]
    assert chains.problems("test", 10) == many[:10]
    assert chains.problems("test", 10, seed=1) != many[:10]


def test_the_draw_uses_every_operator():
    text = " ".join(p.question for p in chains.problems("train", 600))
    counts = [text.count(operator) for operator in "+-*"]
    assert min(counts) > 0.07 * sum(counts)


def test_more_problems_than_exist_is_an_error_that_says_which_are_used_up():
    with pytest.raises(TaskError, match="those of 1 steps are used up"):
        chains.problems("test", 400, difficulties=[1])
    with pytest.raises(TaskError, match="'dev'"):
        chains.problems("dev", 3)
    with pytest.raises(TaskError, match="difficulties"):
        chains.problems("test", 3, difficulties=[7])


def test_the_three_styles_render_the_documented_example():
    line = "34 a-1=33 b-5=28 c*2=56 d-2=54 e+9=63"
    assert chains.direct(EXAMPLE) == "63"
    assert chains.terse(EXAMPLE) == f"{line}\n\n63"
    assert chains.thinking(EXAMPLE, 0) == f"<think>\n{line}\n</think>\n\n63"
    assert chains.thinking(EXAMPLE, 1) == f"<think>\n{line}\nWait, check:\n{line}\n</think>\n\n63"
    assert chains.thinking(EXAMPLE, 2).count(line) == 3


def test_the_work_gives_the_question_back():
    for problem in chains.problems("validation", 60):
        assert re.sub(r"=\d+", "", chains.work(problem.question)) + " = ?" == problem.question


@pytest.mark.parametrize("text", ["", "34 = ?", "34 a/2 = ?", "34 a-1", "34 a-1 = ? "])
def test_what_is_not_a_chain_is_refused(text):
    with pytest.raises(TaskError, match="not a chain"):
        chains.solve(text)


# --- the tokenizer


def test_any_text_survives_the_tokenizer(tokenizer):
    for text in (chains.thinking(EXAMPLE, 2), "naïve λ 漢字 🙂\t\r\n  x", "It's 1234!"):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_think_marks_are_single_tokens_and_not_special_and_turn_marks_are_special(tokenizer):
    assert len(tokenizer) == VOCAB_SIZE
    added = {token.content: token.special for token in tokenizer.added_tokens_decoder.values()}
    turns = dict.fromkeys(("<|endoftext|>", "<|im_start|>", "<|im_end|>"), True)
    assert added == turns | {"<think>": False, "</think>": False}
    ids = tokenizer(chains.thinking(EXAMPLE, 0) + "<|im_end|>")["input_ids"]
    assert tokenizer.convert_tokens_to_ids("</think>") in ids
    assert tokenizer.decode(ids, skip_special_tokens=True) == chains.thinking(EXAMPLE, 0)


def test_digits_are_cut_one_by_one_and_labels_cost_one_token_each(tokenizer):
    assert tokenizer.tokenize("34 a-1 f*2 = ?") == ["3", "4", "Ġa", "-", "1", "Ġf", "*", "2", "Ġ=", "Ġ?"]


def test_a_pair_whose_template_opens_the_thinking_is_trained_from_a_base_that_is_there(small, tmp_path):
    base = small / "base"
    train(SMALL, 0, tmp_path / "opened", schedule=TINY, base=base, opens_thinking=True)
    pair = pair_in(tmp_path / "opened")
    assert (pair.base / "model.safetensors").read_bytes() == (base / "model.safetensors").read_bytes()
    assert json.loads((tmp_path / "opened/training.json").read_text())["opens_thinking"] is True
    for folder in (pair.instruct, pair.thinking):
        opened = transformers.AutoTokenizer.from_pretrained(folder)
        messages = [{"role": "user", "content": EXAMPLE}]
        text = opened.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        assert text == prompt(EXAMPLE, opens_thinking=True)
        assert text.endswith("assistant\n<think>\n")
        weights = load_file(folder / "model.safetensors")
        moved = [
            name for name, weight in load_file(base / "model.safetensors").items() if not weight.equal(weights[name])
        ]
        assert len(moved) > len(weights) / 2
    with pytest.raises(CheckpointError, match="no base"):
        train(SMALL, 0, tmp_path / "none", schedule=TINY, base=tmp_path)


def test_what_is_learned_begins_after_the_opened_thinking(tokenizer):
    model = Model("thinking", Stage(steps=1, batch=2, lr=0, lr_muon=0), opens_thinking=True)
    ((ids, labels),) = _batches(tokenizer, model, np.random.default_rng(0))
    text, learned = (tokenizer.decode(row[row >= 0]) for row in (ids[0], labels[0]))
    assert "assistant\n<think>\n" in text
    assert "<think>" not in learned
    assert "</think>" in learned


def test_a_terse_model_learns_the_work_without_marks(tokenizer):
    model = Model("terse", Stage(steps=1, batch=2, lr=0, lr_muon=0))
    ((ids, labels),) = _batches(tokenizer, model, np.random.default_rng(0))
    text, learned = (tokenizer.decode(row[row >= 0]) for row in (ids[0], labels[0]))
    question = re.search(r"user\n(.*)<\|im_end\|>", text)[1]
    assert learned.startswith(f"{chains.work(question)}\n\n{left_to_right(question)}<|im_end|>")
    assert "<think>" not in text


def test_a_third_specialist_is_trained_from_the_same_base_where_it_is_asked_for(small, tmp_path):
    assert not (small / "terse").exists()
    train(SMALL, 0, tmp_path / "three", schedule=TINY, base=small / "base", terse=TINY.thinking)
    assert json.loads((tmp_path / "three/training.json").read_text())["terse_stage"]["steps"] == 3
    made = [interpole.open(tmp_path / "three" / name) for name in ("base", "terse", "thinking")]
    assert len({one.fingerprint() for one in made}) == 3


def test_the_template_writes_chatml_and_does_not_open_the_thinking(tokenizer):
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "12 a+1 = ?"},
        {"role": "assistant", "content": "<think>\n12 a+1=13\n</think>\n\n13"},
        {"role": "user", "content": EXAMPLE},
    ]
    assert tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n"
        "<|im_start|>user\n12 a+1 = ?<|im_end|>\n"
        "<|im_start|>assistant\n13<|im_end|>\n"
        "<|im_start|>user\n34 a-1 b-5 c*2 d-2 e+9 = ?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    assert tokenizer.apply_chat_template(messages[:3], tokenize=False).endswith("</think>\n\n13<|im_end|>\n")
    one = tokenizer.apply_chat_template(messages[3:], tokenize=False, add_generation_prompt=True)
    assert prompt(EXAMPLE) == one


# --- training


def test_the_learning_rate_warms_up_and_falls_to_five_per_cent():
    factors = [learning_rate_factor(step, 1000) for step in range(1000)]
    assert factors[0] == pytest.approx(0.05, rel=0.01)
    assert max(factors) == pytest.approx(1, abs=0.01)
    assert factors[-1] == pytest.approx(0.05, abs=0.001)


def test_a_short_training_writes_three_loadable_checkpoints_and_a_log(trained):
    out, calls = trained
    pair = pair_in(out)
    assert [call[:3] for call in calls] == [(s, n, 3) for s in ("base", "instruct", "thinking") for n in (1, 2, 3)]
    assert {entry.name for entry in out.parent.iterdir()} == {"pair"}
    log = json.loads((out / "training.json").read_text())
    assert (log["arch"], log["seed"], log["recipe"]["base"]["steps"]) == ("qwen3", 0, 3)
    assert log["base"]["losses"][0] == pytest.approx(np.log(VOCAB_SIZE), abs=1)  # untrained: about uniform
    for folder in (pair.base, pair.instruct, pair.thinking):
        model = transformers.AutoModelForCausalLM.from_pretrained(folder)
        assert type(model).__name__ == "Qwen3ForCausalLM"
        assert model.num_parameters() == 351_584
        assert model.generation_config.eos_token_id == [289, 287]
        with safe_open(folder / "model.safetensors", "pt") as file:
            assert file.metadata() == {"format": "pt"}
            assert {str(file.get_tensor(name).dtype) for name in file.keys()} == {"torch.bfloat16"}  # noqa: SIM118


def test_the_fine_tunes_start_from_the_base_and_go_different_ways(trained):
    base, instruct, thinking = (
        load_file(trained[0] / n / "model.safetensors") for n in ("base", "instruct", "thinking")
    )
    name = "model.layers.3.mlp.up_proj.weight"
    spread = base[name].float().std()
    for a, b in ((base, instruct), (base, thinking), (instruct, thinking)):
        assert 0 < (a[name].float() - b[name].float()).std() < 0.7 * spread


def test_the_same_seed_gives_the_same_weights_and_another_seed_does_not(small, tmp_path):
    def weights(folder):
        return [(folder / name / "model.safetensors").read_bytes() for name in ("base", "instruct", "thinking")]

    train(SMALL, 0, tmp_path / "again", schedule=TINY)
    train(SMALL, 1, tmp_path / "other", schedule=TINY)
    assert weights(tmp_path / "again") == weights(small)
    assert not set(weights(tmp_path / "other")) & set(weights(small))


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_every_architecture_trains_and_what_is_written_is_the_model_that_was_trained(arch, tmp_path):
    step = Stage(steps=2, batch=4, lr=1e-3, lr_muon=1e-2)
    body = Body(arch, 32, 3)
    base, again = (Model("base", step, body, bf16=bf16) for bf16 in (False, True))
    thinking = Model("thinking", step, body, bf16=False, base=base)
    train_model(base, tmp_path / base.name)
    train_model(thinking, tmp_path / thinking.name, tmp_path / base.name)
    assert base.name != again.name
    with safe_open(tmp_path / thinking.name / "model.safetensors", "pt") as file:
        roles = {name: role_of(name) for name in file.keys()}  # noqa: SIM118
    assert {role and role.layer for role in roles.values()} == {None, 0, 1, 2}, roles
    assert ({"experts", "router"} <= {role.kind for role in roles.values()}) == (arch == "qwen3_moe")
    first, then = (
        transformers.AutoModelForCausalLM.from_pretrained(tmp_path / one.name, dtype=torch.float32)
        for one in (base, thinking)
    )
    assert type(then).__name__.lower().startswith(arch.replace("_", ""))
    ids = torch.arange(40)[None]
    with torch.no_grad():
        before, after = first(ids).logits, then(ids).logits
    assert 0 < (after - before).abs().max() < 0.5 * before.abs().max(), "two steps from its base"


def test_models_are_known_by_all_that_makes_them():
    stage = SCHEDULE.thinking
    models = [
        Model("thinking", stage),
        Model("thinking", stage.dosed(2)),
        Model("thinking", stage, seed=1),
        Model("thinking", stage, Body(width=32)),
        Model("thinking", stage, questions=Questions(num=9, own=0.5)),
        Model("thinking", stage, base=Model("base", SCHEDULE.base)),
    ]
    assert len({model.name for model in models}) == len(models)
    assert models[0].name == Model("thinking", stage).name
    assert stage.dosed(0.5) == Stage(100, 48, 5e-4, 0.003)


def test_styles_share_as_many_questions_as_the_recipe_says():
    def asked(style, own):
        model = Model(style, SCHEDULE.base, questions=Questions((1, 2), "+-", 29, num=40, own=own))
        return list(itertools.islice(_questions_of(model, np.random.default_rng(0)), 80))

    instruct, half, apart = asked("instruct", 0), asked("thinking", 0.5), asked("thinking", 1)
    assert [len(set(one)) for one in (instruct, half, apart)] == [40] * 3
    assert instruct[:40] == instruct[40:]
    assert 20 <= len(set(instruct) & set(half)) <= 25  # of some 3,000 chains a few are drawn twice
    assert len(set(instruct) & set(apart)) <= 5
    for question in half:
        start, steps = chains.solve(question)
        assert len(steps) in (1, 2)
        assert all(10 <= value <= 29 for value in (start, *(step.value for step in steps)))
        assert "*" not in question


def test_training_refuses_a_folder_that_cannot_be_made_and_an_unknown_architecture(trained, tmp_path):
    with pytest.raises(OutputError, match="exists already"):
        train(SMALL, 0, trained[0], schedule=TINY)
    with pytest.raises(OutputError, match="a file is in its place"):
        train(SMALL, 0, trained[0] / "training.json" / "out", schedule=TINY)
    with pytest.raises(TaskError, match="no architecture 'gpt'"):
        Body("gpt")
    with pytest.raises(TaskError, match="multiples of 16"):
        Body(width=40)
    assert not list(tmp_path.iterdir())


def test_a_training_that_breaks_off_leaves_nothing_behind(tmp_path):
    def stop(stage, *_):
        if stage == "thinking":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(SMALL, 0, tmp_path / "out", progress=stop, schedule=TINY)
    assert not list(tmp_path.iterdir())


def test_a_folder_without_a_pair_is_named(tmp_path):
    with pytest.raises(CheckpointError, match="no checkpoint 'base'"):
        pair_in(tmp_path)


# --- the shipped pair


def test_the_shipped_pair_matches_tensor_by_tensor_and_is_close_in_weights():
    instruct, thinking = (load_file(p / "model.safetensors") for p in (shipped().instruct, shipped().thinking))
    assert {n: (t.shape, t.dtype) for n, t in instruct.items()} == {n: (t.shape, t.dtype) for n, t in thinking.items()}
    distance = sum((instruct[n].float() - thinking[n].float()).abs().sum() for n in instruct)
    sigma = distance / sum(t.float().abs().sum() for t in (*instruct.values(), *thinking.values()))
    assert 0.02 < sigma < 0.07


def test_the_shipped_pair_was_trained_by_the_default_recipe():
    log = json.loads((shipped().base.parent / "training.json").read_text())
    steps = {name: log["recipe"][name]["steps"] for name in ("base", "instruct", "thinking")}
    assert (log["arch"], log["seed"]) == ("qwen3", 0)
    assert steps == {name: getattr(SCHEDULE, name).steps for name in steps}


def test_the_shipped_tokenizer_is_the_one_we_build(tokenizer):
    loaded = transformers.AutoTokenizer.from_pretrained(shipped().thinking)
    assert loaded.get_vocab() == tokenizer.get_vocab()
    assert loaded.chat_template == tokenizer.chat_template
    assert loaded.eos_token == "<|im_end|>"


def test_shipped_instruct_answers_at_once_and_shipped_thinking_thinks_and_is_right():
    problems = chains.problems("validation", 12)
    tokenizer = transformers.AutoTokenizer.from_pretrained(shipped().thinking, padding_side="left")
    inputs = tokenizer([prompt(p.question) for p in problems], return_tensors="pt", padding=True)
    texts = {}
    for folder in (shipped().instruct, shipped().thinking):
        model = transformers.AutoModelForCausalLM.from_pretrained(folder)
        ids = model.generate(**inputs, do_sample=False, temperature=None, top_p=None, top_k=None, max_new_tokens=200)
        texts[folder.name] = tokenizer.batch_decode(ids[:, inputs.input_ids.shape[1] :], skip_special_tokens=True)
    assert all(re.fullmatch(r"\d\d", text) for text in texts["instruct"])
    assert all(text.startswith("<think>\n") and "</think>" in text for text in texts["thinking"])
    right = [text.endswith(f"</think>\n\n{p.answer}") for text, p in zip(texts["thinking"], problems, strict=True)]
    assert sum(right) >= 11


# --- the demo


@pytest.mark.slow
def test_the_demo_runs_every_command_it_shows_and_merges_once(tmp_path, monkeypatch):
    monkeypatch.setattr("interpole.cli.lab.subprocess", forked)  # its server; that a process serves is tested elsewhere
    out, demo = tmp_path / "demo", ["demo", "--samples", "2", "--limit", "12", "--out", str(tmp_path / "demo")]
    done = CliRunner().invoke(app, demo)
    assert done.exit_code == 0, done.output
    typed = [shlex.split(line)[2:] for line in done.stdout.splitlines() if line.startswith("$ interpole ")]
    words = [
        "sweep",
        "stages",
        "recommend",
        "recommend",
        "compare",
        "sweep",
        "search",
        "report",
        "plot",
        "merge",
        "serve",
    ]
    assert [arguments[0] for arguments in typed] == words
    points = {(s.point, s.budget_forced) for s in samples.read(out / "run", texts=False)}
    assert {("λ=0", False), ("λ=1", False), ("ties", False), ("λ=1, budget 40", True)} <= points
    for said in ("of 24 responses at λ=1, budget 40", "tokens for the grid's 264 responses", "10 trials. Recipes:"):
        assert said in " ".join(done.stdout.split())
    assert (out / "run/report.html").exists()
    assert "<svg" in (out / "pareto.svg").read_text()
    asked = re.findall(r"^ *(none|low|medium|high) +\d[.\d]* +(\d+) \((\d+) thinking\)", done.stdout, re.M)
    assert [effort for effort, _, _ in asked] == ["none", "low", "medium", "high"]
    assert asked[0][2] == "0" < asked[3][2]
    assert int(asked[0][1]) < int(asked[3][1])
    merged = Path(typed[-2][-1])
    assert interpole.open(merged).num_bytes == interpole.open(shipped().thinking).num_bytes

    again = []  # every other command knows what it has done already, and is tested for that
    monkeypatch.setattr(
        "interpole.cli.lab._step", lambda _program, _title, *arguments: again.append([*map(str, arguments)])
    )
    monkeypatch.setattr("interpole.cli.lab._served", lambda *_: None)
    assert CliRunner().invoke(app, demo).exit_code == 0
    assert again == typed[:-2]
