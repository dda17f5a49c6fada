"""Train tiny models: one base on a mixture of answer styles, then a light Instruct and a light Thinking fine-tune.

One core, minutes, the same weights for the same recipe on the same kind of machine. It does not evaluate: that is
`interpole sweep`'s work. What `interpole.lab.recipe` says is done here; what came of it: docs/tiny-pair.md and docs/studies.
"""

from __future__ import annotations

import json
import math
import platform
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
import transformers
from torch.nn.utils.rnn import pad_sequence
from transformers import GenerationConfig
from transformers.core_model_loading import revert_weight_conversion

from interpole.errors import CheckpointError, MismatchError, TaskError
from interpole.files import StrPath, make_folder, refuse_existing, writing
from interpole.formats import seed_of
from interpole.lab.recipe import SCHEDULE, STYLES, Body, Model, Questions, Schedule, Stage
from interpole.lab.tokenizer import END_OF_TEXT, IM_END, OPENED, build_tokenizer, prompt
from interpole.tasks import chains

__all__ = ["TRAINED", "learning_rate_factor", "train", "train_model"]

TRAINED = "training.json"
"""In the folder: how the model, or the pair, was trained."""
CLASSES = {
    "qwen3": ("Qwen3Config", "Qwen3ForCausalLM"),
    "llama": ("LlamaConfig", "LlamaForCausalLM"),
    "mistral": ("MistralConfig", "MistralForCausalLM"),
    "gemma3": ("Gemma3TextConfig", "Gemma3ForCausalLM"),
    "qwen3_moe": ("Qwen3MoeConfig", "Qwen3MoeForCausalLM"),
}
WINDOW = 32  # tokens that a sliding window looks back over: less than a question and its work
NUM_HEADS = 4
IGNORED = -100  # the label of tokens that are not learned: prompts and padding
WARMUP_STEPS = 20
WEIGHT_DECAY = 0.05

OnStep = Callable[[str, int, int, float], None]  # stage, steps done, steps of the stage, running loss per token
Style = Callable[[np.random.Generator, str], str]  # draws an answer to a question
State = dict[str, torch.Tensor]


def _mixed_answer(rng: np.random.Generator, question: str) -> str:
    """The base's style: direct (less often for long chains), terse, or thinking with at most one check."""
    num_steps = len(chains.solve(question)[1])
    share_direct = 0.65 - 0.06 * num_steps
    u = rng.random()
    if u < share_direct:
        return chains.direct(question)
    if u < share_direct + 0.15:
        return chains.terse(question)
    return chains.thinking(question, checks=int(rng.integers(2)))


def _direct_answer(_: np.random.Generator, question: str) -> str:
    """Instruct's style."""
    return chains.direct(question)


def _thinking_answer(rng: np.random.Generator, question: str) -> str:
    """Thinking's style: one check (60 %) or two."""
    return chains.thinking(question, checks=1 if rng.random() < 0.6 else 2)


def _terse_answer(_: np.random.Generator, question: str) -> str:
    """The style of a third specialist: the work, without marks."""
    return chains.terse(question)


ANSWERS: dict[str, Style] = {
    "base": _mixed_answer, "instruct": _direct_answer, "thinking": _thinking_answer, "terse": _terse_answer,
}  # fmt: skip


def _build_model(body: Body, vocab_size: int, eos: int, pad: int) -> transformers.PreTrainedModel:
    """A fresh fp32 model, drawn from torch's global generator."""
    width, head = body.width, 3 * body.width // (2 * NUM_HEADS)
    own: dict[str, dict[str, Any]] = {
        "mistral": {"sliding_window": WINDOW},
        "gemma3": {"sliding_window": WINDOW, "sliding_window_pattern": 3, "query_pre_attn_scalar": head},
        "qwen3_moe": {
            "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 3 * width // 2, "norm_topk_prob": True,
        },
    }  # fmt: skip
    make_config, make_model = (getattr(transformers, name) for name in CLASSES[body.arch])
    config = make_config(
        vocab_size=vocab_size,
        hidden_size=width,
        intermediate_size=3 * width,
        num_hidden_layers=body.depth,
        num_attention_heads=NUM_HEADS,
        num_key_value_heads=NUM_HEADS // 2,
        head_dim=head,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        eos_token_id=eos,
        pad_token_id=pad,
        bos_token_id=None,
        attn_implementation="eager",  # SDPA's backward pass in bf16 is slower on a CPU
        **own.get(body.arch, {}),
    )
    model: transformers.PreTrainedModel = make_model(config)
    return model


def _questions(rng: np.random.Generator, wanted: Questions) -> Iterator[str]:
    """Endless training questions, all difficulties alike."""
    while True:
        question = chains.draw(rng, int(rng.choice(wanted.difficulties)), wanted.operators, wanted.highest)
        if chains.split_of(question) == "train":
            yield question


def _questions_of(model: Model, rng: np.random.Generator) -> Iterator[str]:
    """What a model learns from."""
    wanted = model.questions
    if wanted.num is None:
        return _questions(rng, wanted)
    num_own = round(wanted.own * wanted.num)
    shared = _some(wanted, wanted.num - num_own, seed_of("shared", model.seed))
    return cycle(rng.permutation([*shared, *_some(wanted, num_own, seed_of(model.style, model.seed))]).tolist())


def _some(wanted: Questions, num: int, seed: int) -> list[str]:
    """So many different questions."""
    found, drawn = dict[str, None](), _questions(np.random.default_rng(seed), wanted)
    while len(found) < num:
        found[next(drawn)] = None
    return list(found)


def _batches(
    tokenizer: transformers.PreTrainedTokenizerFast, model: Model, rng: np.random.Generator
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """One `(ids, labels)` pair a step, both (B, T), padded on the right; labels cover the answers only."""
    opens, stage, answer = model.opens_thinking, model.stage, ANSWERS[model.style]
    begun = OPENED if opens else ""
    questions = _questions_of(model, rng)
    for _ in range(stage.steps):
        batch = [next(questions) for _ in range(stage.batch)]
        prompts = tokenizer([prompt(q, opens_thinking=opens) for q in batch])["input_ids"]
        answers = tokenizer([answer(rng, q).removeprefix(begun) + IM_END for q in batch])["input_ids"]
        pairs = list(zip(prompts, answers, strict=True))
        ids = [torch.tensor(p + a) for p, a in pairs]
        labels = [torch.tensor([IGNORED] * len(p) + a) for p, a in pairs]
        yield pad_sequence(ids, True, tokenizer.pad_token_id), pad_sequence(labels, True, IGNORED)


def _optimizers(model: torch.nn.Module, stage: Stage) -> list[torch.optim.Optimizer]:
    """Muon for the layers' matrices, AdamW for embeddings and norms."""
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    others = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    return [
        torch.optim.Muon(matrices, lr=stage.lr_muon, weight_decay=WEIGHT_DECAY),
        torch.optim.AdamW(others, lr=stage.lr, betas=(0.9, 0.98), weight_decay=WEIGHT_DECAY),
    ]


def learning_rate_factor(step: int, num_steps: int) -> float:
    """Share of the peak rate: a linear warm-up, then a cosine down to 5 %."""
    cosine = 0.05 + 0.95 * (1 + math.cos(math.pi * step / num_steps)) / 2
    return min(1.0, (step + 1) / WARMUP_STEPS) * cosine


def _fit(
    model: torch.nn.Module,
    batches: Iterator[tuple[torch.Tensor, torch.Tensor]],
    stage: Stage,
    report: Callable[[int, int, float], None],
    precision: AbstractContextManager[Any],
) -> list[float]:
    """Train in place; returns the running loss per token, one entry in 50 steps and the last.

    The summed loss is divided by the running mean of answer tokens in a batch, not by this batch's own, so that
    every token weighs the same: short answers would otherwise count for more wherever a batch holds many.
    """
    optimizers = _optimizers(model, stage)
    schedules = [
        torch.optim.lr_scheduler.LambdaLR(o, lambda step: learning_rate_factor(step, stage.steps)) for o in optimizers
    ]
    mean_tokens = mean_loss = 0.0
    losses = []
    for step, (ids, labels) in enumerate(batches, 1):
        with precision:
            logits = model(input_ids=ids).logits[:, :-1]  # (B, T-1, V)
        loss = torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), labels[:, 1:].flatten(), reduction="sum")
        tokens = int((labels != IGNORED).sum())
        mean_tokens += (tokens - mean_tokens) / min(step, 100)
        (loss / mean_tokens).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for stepper in (*optimizers, *schedules):
            stepper.step()
        model.zero_grad()
        mean_loss += (loss.item() / tokens - mean_loss) / min(step, 50)
        report(step, stage.steps, mean_loss)
        if step % 50 == 0 or step == stage.steps:
            losses.append(round(mean_loss, 4))
    return losses


def _save(model: transformers.PreTrainedModel, tokenizer: transformers.PreTrainedTokenizerFast, folder: Path) -> None:
    """Write an ordinary Hugging Face folder in bf16, each expert by itself; the model itself stays as it is."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = revert_weight_conversion(model, {n: t.detach().bfloat16() for n, t in model.named_parameters()})
    weights = {name: tensor.contiguous() for name, tensor in weights.items()}
    (folder / "model.safetensors").write_bytes(safetensors.torch.save(weights, {"format": "pt"}))
    model.config.architectures = [type(model).__name__]
    model.config.dtype = torch.bfloat16
    model.config.save_pretrained(folder)
    generation = GenerationConfig(do_sample=True, temperature=0.6, top_p=0.95, top_k=20)
    generation.eos_token_id = tokenizer.convert_tokens_to_ids([IM_END, END_OF_TEXT])
    generation.pad_token_id = tokenizer.pad_token_id
    generation.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    config = folder / "tokenizer_config.json"  # name the class as every version of transformers knows it
    settings = json.loads(config.read_text()) | {"tokenizer_class": "PreTrainedTokenizerFast"}
    config.write_text(json.dumps(settings, indent=2) + "\n")


def _versions() -> dict[str, str]:
    return {"python": platform.python_version(), "torch": torch.__version__, "transformers": transformers.__version__}


def _fresh(body: Body, seed: int) -> transformers.PreTrainedModel:
    """A model before its training, the same for the same seed."""
    torch.manual_seed(seed)
    tokenizer = build_tokenizer()
    return _build_model(body, len(tokenizer), tokenizer.eos_token_id, tokenizer.pad_token_id)


def _trained_into(
    folder: Path, recipe: Model, model: transformers.PreTrainedModel, progress: OnStep = lambda *_: None
) -> dict[str, Any]:
    """Train a model as the recipe says and write it; returns seconds and losses."""
    tokenizer = build_tokenizer(opens_thinking=recipe.opens_thinking)
    started = time.perf_counter()
    batches = _batches(tokenizer, recipe, np.random.default_rng([recipe.seed, STYLES.index(recipe.style)]))
    precision = torch.autocast("cpu", torch.bfloat16) if recipe.bf16 else nullcontext()
    losses = _fit(model, batches, recipe.stage, partial(progress, recipe.style), precision)
    _save(model, tokenizer, folder)
    return {"seconds": round(time.perf_counter() - started, 1), "losses": losses}


def _train_into(
    folder: Path,
    body: Body,
    seed: int,
    schedule: Schedule,
    progress: OnStep,
    base_from: Path | None,
    opens: bool,
    terse: Stage | None,
) -> None:
    """`train` without the care for the output folder."""
    model = _fresh(body, seed)
    log: dict[str, Any] = {"arch": body.arch, "width": body.width, "depth": body.depth, "seed": seed}
    log |= {"recipe": asdict(schedule), "versions": _versions()}
    log |= {"opens_thinking": True} if opens else {}
    stages: dict[str, Stage] = {style: getattr(schedule, style) for style in ("base", "instruct", "thinking")}
    if terse is not None:
        stages["terse"], log["terse_stage"] = terse, asdict(terse)
    base: State = {}
    if base_from is not None:
        base = _weights_of(base_from, model)
        shutil.copytree(base_from, folder / "base")
        log["base_from"] = str(base_from)
    for style, stage in stages.items():
        if style == "base" and base:
            continue
        model.load_state_dict(base or model.state_dict())
        recipe = Model(style, stage, body, seed, opens_thinking=opens and style != "base")
        log[style] = _trained_into(folder / style, recipe, model, progress)
        base = base or {key: value.clone() for key, value in model.state_dict().items()}
    (folder / TRAINED).write_text(json.dumps(log, indent=2) + "\n")


def _weights_of(folder: Path, model: transformers.PreTrainedModel) -> State:
    """The weights of a checkpoint that `_save` wrote, by the names of the model's state."""
    if not (folder / "model.safetensors").is_file():
        raise CheckpointError("no base that the lab has trained", folder, "name a folder such as PAIR/base")
    there = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    found: State = there.state_dict()
    mine = model.state_dict()
    if type(there) is not type(model) or {n: t.shape for n, t in found.items()} != {
        n: t.shape for n, t in mine.items()
    }:
        raise MismatchError("the base is of another architecture", folder, "say the same --arch, --width and --depth")
    return found


def train(
    body: Body,
    seed: int,
    out: StrPath,
    *,
    progress: OnStep = lambda *_: None,
    schedule: Schedule = SCHEDULE,
    base: StrPath | None = None,
    opens_thinking: bool = False,
    terse: Stage | None = None,
) -> None:
    """Train base, Instruct and Thinking and write them to `out/base`, `out/instruct` and `out/thinking`.

    `out/training.json` says how. The folder appears when it is whole. Puts torch on one thread and seeds its global
    generator.

    Args:
        body: architecture and sizes; the default made the shipped pair.
        seed: of the first weights and of the data.
        out: a folder that does not exist yet.
        progress: called after every step with stage, steps done, steps of the stage and running loss per token.
        schedule: steps, batch sizes and learning rates; the default made the shipped pair.
        base: a base that was trained before (in bfloat16), to fine-tune from in place of a new one.
        opens_thinking: the template of Instruct and Thinking opens the thinking. Instruct then answers at once and never
            closes it, as a model does that was never taught to think.
        terse: how a third specialist is fine-tuned from the base, which works without marks; it goes to `out/terse`.

    Raises:
        OutputError: `out` exists already.
        CheckpointError: there is no such base.
        MismatchError: it is of another architecture.
    """
    base_from = None if base is None else Path(base)
    _whole(
        out,
        lambda folder: _train_into(
            folder=folder,
            body=body,
            seed=seed,
            schedule=schedule,
            progress=progress,
            base_from=base_from,
            opens=opens_thinking,
            terse=terse,
        ),
    )


def train_model(recipe: Model, out: StrPath, base: StrPath | None = None) -> None:
    """Train one model, and write it with a `training.json` that says how; like `train` otherwise.

    Args:
        recipe: the model.
        out: a folder that does not exist yet.
        base: where the base of the recipe lies.

    Raises:
        OutputError: `out` exists already.
        TaskError: a recipe with a base, without the folder of it.
        CheckpointError: there is no such base.
        MismatchError: it is of another architecture.
    """
    if (recipe.base is None) != (base is None):
        raise TaskError("a fine-tune and its base go together", recipe.name, "give both or none")

    def into(folder: Path) -> None:
        model = _fresh(recipe.body, recipe.seed)
        if base is not None:
            model.load_state_dict(_weights_of(Path(base), model))
        log = _trained_into(folder, recipe, model)
        said = {"model": asdict(recipe), "versions": _versions(), **log}
        (folder / TRAINED).write_text(json.dumps(said, indent=2) + "\n")

    _whole(out, into)


def _whole(out: StrPath, make: Callable[[Path], None]) -> None:
    """Make a folder that appears when it is whole.

    Raises:
        OutputError: it exists already, or cannot be written.
    """
    out = Path(out)
    refuse_existing(out)
    torch.set_num_threads(1)
    beside = out.with_name(f".{out.name}.partial-{uuid.uuid4().hex[:8]}")
    make_folder(out.parent)
    with writing(out):
        beside.mkdir()
        try:
            make(beside)
            try:
                beside.rename(out)
            except OSError:
                refuse_existing(out)  # somebody else was sooner
                raise
        finally:
            shutil.rmtree(beside, ignore_errors=True)
