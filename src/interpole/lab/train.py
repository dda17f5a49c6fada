"""Train the tiny family: one base on a mixture of answer styles, then a light Instruct and a light Thinking fine-tune.

One core, minutes, the same weights for the same seed on the same kind of machine. It does not evaluate: that is
`interpole sweep`'s work. The recipe (sizes, steps, rates) and what came of it: docs/tiny-pair.md.
"""

from __future__ import annotations

import json
import math
import os
import platform
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
import transformers
from torch.nn.utils.rnn import pad_sequence
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

from interpole.errors import CheckpointError, MismatchError, OutputError, TaskError
from interpole.files import StrPath
from interpole.lab.tokenizer import END_OF_TEXT, IM_END, OPENED, build_tokenizer, prompt
from interpole.tasks import chains

__all__ = ["SCHEDULE", "Schedule", "Stage", "learning_rate_factor", "train"]

ARCHITECTURES = {"qwen3": (Qwen3Config, Qwen3ForCausalLM), "llama": (LlamaConfig, LlamaForCausalLM)}
IGNORED = -100  # the label of tokens that are not learned: prompts and padding
WARMUP_STEPS = 20
WEIGHT_DECAY = 0.05

OnStep = Callable[[str, int, int, float], None]  # stage, steps done, steps of the stage, running loss per token
Style = Callable[[np.random.Generator, str], str]  # draws an answer to a question


@dataclass(frozen=True, slots=True)
class Stage:
    """How one checkpoint is trained: optimiser steps, answers per step, peak learning rates."""

    steps: int
    batch: int
    lr: float  # AdamW: embeddings and norms
    lr_muon: float  # Muon: the matrices of the layers


@dataclass(frozen=True, slots=True)
class Schedule:
    """The three stages; the two fine-tunes both start from the base."""

    base: Stage = Stage(steps=2300, batch=48, lr=3e-3, lr_muon=0.02)
    instruct: Stage = Stage(steps=250, batch=64, lr=5e-4, lr_muon=0.003)
    thinking: Stage = Stage(steps=200, batch=48, lr=5e-4, lr_muon=0.003)


SCHEDULE = Schedule()


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


STYLES: dict[str, Style] = {"base": _mixed_answer, "instruct": _direct_answer, "thinking": _thinking_answer}


def _build_model(arch: str, vocab_size: int, eos: int, pad: int) -> transformers.PreTrainedModel:
    """A fresh model of about 350,000 fp32 parameters, drawn from torch's global generator.

    Raises:
        TaskError: an architecture that is not in `ARCHITECTURES`.
    """
    if arch not in ARCHITECTURES:
        raise TaskError(f"no architecture {arch!r} in the lab", remedy=f"choose from {', '.join(ARCHITECTURES)}")
    make_config, make_model = ARCHITECTURES[arch]
    config = make_config(
        vocab_size=vocab_size,
        hidden_size=64,
        intermediate_size=192,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=24,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        eos_token_id=eos,
        pad_token_id=pad,
        bos_token_id=None,
        attn_implementation="eager",  # SDPA's backward pass in bf16 is slower on a CPU
    )
    return make_model(config)


def _questions(rng: np.random.Generator) -> Iterator[str]:
    """Endless training questions, all difficulties alike."""
    while True:
        question = chains.draw(rng, int(rng.choice(chains.DIFFICULTIES)))
        if chains.split_of(question) == "train":
            yield question


def _batches(
    tokenizer: transformers.PreTrainedTokenizerFast,
    style: Style,
    stage: Stage,
    rng: np.random.Generator,
    *,
    opens_thinking: bool = False,
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """One `(ids, labels)` pair a step, both (B, T), padded on the right; labels cover the answers only."""
    begun = OPENED if opens_thinking else ""
    questions = _questions(rng)
    for _ in range(stage.steps):
        batch = [next(questions) for _ in range(stage.batch)]
        prompts = tokenizer([prompt(q, opens_thinking=opens_thinking) for q in batch])["input_ids"]
        answers = tokenizer([style(rng, q).removeprefix(begun) + IM_END for q in batch])["input_ids"]
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
        with torch.autocast("cpu", torch.bfloat16):
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
    """Write an ordinary Hugging Face folder in bf16; the model itself stays as it is."""
    folder.mkdir(parents=True)
    weights = {name: tensor.detach().bfloat16() for name, tensor in model.named_parameters()}
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


def _train_into(
    folder: Path, arch: str, seed: int, schedule: Schedule, progress: OnStep, base_from: Path | None, opens: bool
) -> None:
    """`train` without the care for the output folder."""
    torch.manual_seed(seed)
    tokenizer = build_tokenizer()
    model = _build_model(arch, len(tokenizer), tokenizer.eos_token_id, tokenizer.pad_token_id)
    versions = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    log: dict[str, object] = {"arch": arch, "seed": seed, "recipe": asdict(schedule), "versions": versions}
    log |= {"opens_thinking": True} if opens else {}
    base: dict[str, torch.Tensor] = {}
    if base_from is not None:
        base = _weights_of(base_from, model)
        shutil.copytree(base_from, folder / "base")
        log["base_from"] = str(base_from)
    for number, (name, style) in enumerate(STYLES.items()):
        if name == "base" and base:
            continue
        model.load_state_dict(base or model.state_dict())
        stage: Stage = getattr(schedule, name)
        opened = opens and name != "base"
        tokenizer = build_tokenizer(opens_thinking=opened)
        started = time.perf_counter()
        batches = _batches(tokenizer, style, stage, np.random.default_rng([seed, number]), opens_thinking=opened)
        losses = _fit(model, batches, stage, partial(progress, name))
        base = base or {key: value.clone() for key, value in model.state_dict().items()}
        log[name] = {"seconds": round(time.perf_counter() - started, 1), "losses": losses}
        _save(model, tokenizer, folder / name)
    (folder / "training.json").write_text(json.dumps(log, indent=2) + "\n")


def _weights_of(folder: Path, model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The weights of a checkpoint that `_save` wrote, by the names of the model's state."""
    if not (folder / "model.safetensors").is_file():
        raise CheckpointError("no base that the lab has trained", folder, "name a folder such as PAIR/base")
    found = safetensors.torch.load_file(folder / "model.safetensors")
    if found.keys() != dict(model.named_parameters()).keys():
        raise MismatchError("the base is of another architecture", folder, "say the same --arch")
    tied = {name: found.get(name, found["model.embed_tokens.weight"]) for name in model.state_dict()}
    return {name: weight.float() for name, weight in tied.items()}


def train(
    arch: str,
    seed: int,
    out: StrPath,
    *,
    progress: OnStep = lambda *_: None,
    schedule: Schedule = SCHEDULE,
    base: StrPath | None = None,
    opens_thinking: bool = False,
) -> None:
    """Train base, Instruct and Thinking and write them to `out/base`, `out/instruct` and `out/thinking`.

    `out/training.json` says how. The folder appears when it is whole. Puts torch on one thread and seeds its global
    generator.

    Args:
        arch: `qwen3` or `llama`.
        seed: of the first weights and of the data.
        out: a folder that does not exist yet.
        progress: called after every step with stage, steps done, steps of the stage and running loss per token.
        schedule: steps, batch sizes and learning rates; the default made the shipped pair.
        base: a base that was trained before (in bfloat16), to fine-tune from in place of a new one.
        opens_thinking: the template of Instruct and Thinking opens the thinking. Instruct then answers at once and never
            closes it, as a model does that was never taught to think.

    Raises:
        OutputError: `out` exists already.
        TaskError: an unknown architecture.
        CheckpointError: there is no such base.
        MismatchError: it is of another architecture.
    """
    out = Path(out)
    if out.exists():
        raise OutputError("the output folder exists already", where=out, remedy="give another --out, or remove it")
    torch.set_num_threads(1)
    beside = out.with_name(f".{out.name}.partial-{os.getpid()}")
    try:
        _train_into(beside, arch, seed, schedule, progress, None if base is None else Path(base), opens_thinking)
        beside.rename(out)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
