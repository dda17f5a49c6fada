"""A LoRA adapter out of two checkpoints: what leads from the base to the other, of low rank, in the format of peft.

For each matrix Δ = Θ − Θ_base the adapter holds B·A, the best approximation of its rank in the sum of squares (Eckart and Young
1936). The largest singular vectors come from the smaller Gram matrix (`scipy.linalg.eigh`) or, where that costs more, from a
random sketch with power iterations (Halko, Martinsson and Tropp 2011, https://arxiv.org/abs/0909.4061, algorithm 4.4). Vectors,
embeddings and whatever else is no matrix of a linear layer are named, and left out or saved whole (peft's `modules_to_save`).
What is lost is measured on the adapter as it is read back (`views.adapter`), not on the factors.
"""

from __future__ import annotations

import filecmp
import json
import math
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh

from interpole.checkpoints.assets import copy
from interpole.checkpoints.checkpoint import Checkpoint, TensorSpec, template_of
from interpole.checkpoints.hub import is_hub_id
from interpole.checkpoints.names import role_of
from interpole.checkpoints.open import fit
from interpole.checkpoints.reduce import (
    AbsoluteSums,
    OnBytes,
    absolute_sums,
    all_finite,
    count_differing,
    dot,
    sum_tensors,
)
from interpole.checkpoints.safetensors import DTYPES, header_bytes
from interpole.checkpoints.views.adapter import CONFIG, OWN_FILES, WEIGHTS, Adapted
from interpole.checkpoints.views.heads import is_tied
from interpole.checkpoints.views.vocabulary import Aligned
from interpole.errors import CheckpointError, MismatchError, OutputError, RecipeError
from interpole.files import StrPath, exclusive, make_folder, refuse_existing, writing
from interpole.formats import seed_of
from interpole.merging.recipe import DTYPE_NAMES

__all__ = ["Extracted", "Loss", "extract", "low_rank"]

Array = NDArray[np.float32]

OVERSAMPLING = 16
POWER_ITERATIONS = 3
PREFIX = "base_model.model."
LINEAR = ("attention", "ffn", "lm_head")
"""Kinds whose matrices are linear layers."""
NEVER_WHOLE = ("experts", "mtp")
"""Kinds whose tensors peft finds under no module of their name: transformers fuses experts, and does not load `mtp`."""


@dataclass(frozen=True, slots=True)
class Loss:
    """What became of one tensor.

    Attributes:
        kept: `lora`, `whole` (saved as it is), `left out`, or `equal` (it is the base's).
        rank: of B·A; 0 where there is none.
        why: why it is no B·A, in words; else empty.
        relative_error: √(Σ(Θ − Θ')² / Σ(Θ − Θ_base)²), Θ' being base and adapter: 0 is Θ itself, 1 is the base.
        before: the sums of σ between Θ and the base.
        after: the sums of σ between Θ and Θ'.
    """

    kept: str
    rank: int
    why: str
    relative_error: float
    before: AbsoluteSums
    after: AbsoluteSums


@dataclass(frozen=True, slots=True)
class Extracted:
    """An adapter, and what it loses.

    Attributes:
        folder: where it lies; None where it was only measured.
        rank: of every B·A.
        num_bytes: size of its weights.
        tensors: every tensor of the checkpoint that it was made of, by name.
    """

    folder: Path | None
    rank: int
    num_bytes: int
    tensors: Mapping[str, Loss]

    @property
    def before(self) -> float:
        """σ between the checkpoint and the base."""
        return _sigma(loss.before for loss in self.tensors.values())

    @property
    def after(self) -> float:
        """σ between the checkpoint and base + adapter."""
        return _sigma(loss.after for loss in self.tensors.values())

    def named(self, kept: str) -> list[str]:
        """The tensors of which became `kept`."""
        return [name for name, loss in self.tensors.items() if loss.kept == kept]

    def to_json(self) -> dict[str, Any]:
        """All of it, as JSON has it."""
        tensors = {
            name: {"kept": loss.kept, "rank": loss.rank, "why": loss.why, "relative_error": loss.relative_error}
            | {"sigma_before": loss.before.sigma, "sigma_after": loss.after.sigma}
            for name, loss in self.tensors.items()
        }
        return {
            "folder": None if self.folder is None else str(self.folder),
            "rank": self.rank,
            "num_bytes": self.num_bytes,
            "sigma_before": self.before,
            "sigma_after": self.after,
            "tensors": tensors,
        }


def _sigma(sums: Iterable[AbsoluteSums]) -> float:
    return AbsoluteSums(*(math.fsum(column) for column in zip(*sums, strict=True))).sigma


class _Plan(NamedTuple):
    """What is written: matrices as B·A, tensors as they are, and why the others are neither."""

    lora: Sequence[str]
    whole: Sequence[str]
    why: Mapping[str, str]
    equal: frozenset[str]


def extract(
    merged: Checkpoint,
    base: Checkpoint,
    rank: int,
    out: StrPath | None = None,
    *,
    save_rest: bool = False,
    dtype: str = "float32",
    progress: OnBytes | None = None,
) -> Extracted:
    """Write the adapter that leads from `base` to `merged`, and measure what it loses.

    Args:
        merged: the checkpoint to come to.
        base: the checkpoint that the adapter is for.
        rank: columns of B and rows of A; matrices with fewer rows or columns are held exactly, filled up with zeros.
        out: folder to write; must not exist. None: only measure.
        save_rest: save norms, biases and embeddings whole, where peft can; otherwise they are left out.
        dtype: of A and B, and of what is saved whole.
        progress: called with the number of bytes done since the last call, of two passes over `merged`.

    Raises:
        MismatchError: names, shapes or vocabularies differ, or no matrix does.
        CheckpointError: NaN or infinity.
        RecipeError: a rank below 1, or another dtype.
        OutputError: it cannot be written.
    """
    if rank < 1 or dtype not in ("float32", "bfloat16", "float16"):
        raise RecipeError(f"an adapter of rank {rank} in {dtype}", remedy="a rank from 1; float32, bfloat16 or float16")
    fitted, _ = fit({"base": base, "merged": merged}, "base")
    near, far = fitted["base"], fitted["merged"]
    _check(near, far)
    plan = _planned(near, far, save_rest)
    rank = min(rank, max(min(far.specs[name].shape) for name in plan.lora))
    with ExitStack() as stack:
        stack.enter_context(writing("the temporary folder" if out is None else out))
        if out is None:
            partial = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "adapter"
        else:
            partial = _hidden(Path(out), stack)
        try:
            partial.mkdir()
            _write_weights(
                path=partial / WEIGHTS,
                near=near,
                far=far,
                plan=plan,
                rank=rank,
                dtype=DTYPE_NAMES[dtype],
                progress=progress,
            )
            _write_config(partial, base, near, plan, rank)
            _copy_assets(partial, base, merged)
            losses = _measure(near, far, Adapted(base, partial), plan, rank, progress)
            num_bytes = (partial / WEIGHTS).stat().st_size
            if out is not None:
                partial.rename(out)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
    return Extracted(None if out is None else Path(out), rank, num_bytes, losses)


def low_rank(delta: Array, rank: int, seed: int = 0) -> tuple[Array, Array]:
    """A and B whose product B·A is (nearly) the nearest to a matrix among those of a rank.

    Args:
        delta: float32 array of shape (m, n).
        rank: r. From min(m, n) on, B·A is the matrix itself to the last bit.
        seed: of the sketch.

    Returns:
        A of shape (r, n) and B of shape (m, r), float32; what the matrix has no rank for is 0.
    """
    if delta.shape[0] > delta.shape[1]:
        a, b = low_rank(delta.T, rank, seed)
        return b.T, a.T
    m, n = delta.shape
    a, b = np.zeros((rank, n), np.float32), np.zeros((m, rank), np.float32)
    if rank >= m:
        a[:m], b[:, :m] = delta, np.eye(m, dtype=np.float32)
        return a, b
    basis = _by_gram(delta, rank) if _gram_is_cheaper(m, n, rank) else _by_sketch(delta, rank, seed)  # (m, r)
    rows = basis.T @ delta  # (r, n): singular values times right vectors
    scales = np.sqrt(np.linalg.norm(rows, axis=1))  # both factors get the root, so that neither is out of range
    np.divide(rows, scales[:, None], out=a, where=scales[:, None] > 0)
    np.multiply(basis, scales, out=b)
    return a, b


def _gram_is_cheaper(m: int, n: int, rank: int) -> bool:
    """Operations in float32's time: the Gram matrix in float64 and its vectors, or passes over the matrix and QR."""
    width = rank + OVERSAMPLING
    gram = 2 * m * m * n + 20 * m**3
    sketch = 4 * (POWER_ITERATIONS + 1) * m * n * width + 8 * (POWER_ITERATIONS + 1) * (m + n) * width**2
    return gram <= sketch or width >= m


def _by_gram(delta: Array, rank: int) -> Array:
    """The left singular vectors of the largest singular values, by descending value: (m, r)."""
    wide = delta.astype(np.float64)
    m = len(delta)
    _, vectors = eigh(wide @ wide.T, subset_by_index=[m - rank, m - 1], check_finite=False)
    return np.ascontiguousarray(vectors[:, ::-1], np.float32)


def _by_sketch(delta: Array, rank: int, seed: int) -> Array:
    """The same, nearly: the range of Δ·Ω after power iterations, and the singular vectors within it."""
    start = np.random.default_rng(seed).standard_normal((delta.shape[1], rank + OVERSAMPLING), np.float32)
    basis, _ = np.linalg.qr(delta @ start)
    for _ in range(POWER_ITERATIONS):
        across, _ = np.linalg.qr(delta.T @ basis)
        basis, _ = np.linalg.qr(delta @ across)
    within: Array = basis @ _by_gram(basis.T @ delta, rank)
    return within


def _check(near: Checkpoint, far: Checkpoint) -> None:
    """Refuse what an adapter on this base cannot come to."""
    if isinstance(far, Aligned):
        raise MismatchError(
            "the vocabularies differ: an adapter has its base's rows of tokens",
            f"{far.label} ↔ {near.label}",
            "take a base with the same tokenizer; if tokens were added, resize and save that base first",
        )
    if isinstance(near, Adapted):
        raise MismatchError(
            "the base is an adapter on another base", near.label, "save it as a model and name that one"
        )
    if str(near.config.get("model_type")) == "gpt2":
        raise MismatchError(
            "layers of GPT-2 store their weights transposed (fan_in_fan_out), which is not written", near.label
        )
    if missing := near.keys() ^ far.keys():
        name = min(missing)
        raise MismatchError(
            f"tensor {name} is only in {(near if name in near else far).label}", f"{far.label} ↔ {near.label}"
        )
    for name, spec in near.specs.items():
        if spec.shape != far.specs[name].shape:
            raise MismatchError(
                f"tensor {name} is {far.specs[name]}, in the base {spec}", f"{far.label} ↔ {near.label}"
            )


def _planned(near: Checkpoint, far: Checkpoint, save_rest: bool) -> _Plan:
    """What is to be written; reads both once."""
    names = list(near.specs)
    counts = sum_tensors([near, far], names, lambda a, b: count_differing(_alike(a), _alike(b)))
    differing = [name for name in names if counts[name][0]]
    why = {name: reason for name in differing if (reason := _no_matrix(name, near.specs[name]))}
    lora = [name for name in differing if name not in why]
    if not lora:
        raise MismatchError(
            "no matrix of a linear layer differs, so there is nothing for an adapter to hold",
            f"{far.label} ↔ {near.label}",
        )
    whole = [name for name in why if save_rest and _can_be_whole(name, lora)]
    modules = {name.rpartition(".")[0] for name in whole} - {name.rpartition(".")[0] for name in lora}
    whole = [
        name for name in names if name in whole or name.rpartition(".")[0] in modules
    ]  # a module is saved with all it has
    return _Plan(lora, whole, why, frozenset(names) - set(differing))


def _alike(array: NDArray[Any]) -> NDArray[Any]:
    """Floats of any width as float32, so that what differs are values."""
    return array if array.dtype.kind in "iub" else array.astype(np.float32)


def _no_matrix(name: str, spec: TensorSpec) -> str:
    """Why a tensor cannot be B·A in peft, in words; empty where it can."""
    role = role_of(name)
    if not spec.is_float:
        return "integers"
    if role is None:
        return "of no known place in the model"
    if len(spec.shape) != 2 or not name.endswith(".weight"):
        return f"{role.kind}, no matrix" if len(spec.shape) != 2 else f"{role.kind}, no layer's weight"
    return "" if role.kind in LINEAR else f"{role.kind}, no linear layer that peft finds by this name"


def _can_be_whole(name: str, lora: Sequence[str]) -> bool:
    """Whether peft can save a tensor whole: with its module, or as the bias of a layer that has B·A."""
    role, (module, _, last) = role_of(name), name.rpartition(".")
    if role is not None and role.kind in NEVER_WHOLE:
        return False
    return last in ("weight", "bias") and (last == "bias" or f"{module}.weight" not in lora)


def _layout(plan: _Plan, near: Checkpoint, rank: int, dtype: str) -> dict[str, tuple[str, str, TensorSpec]]:
    """Tensor of the adapter → the base's tensor that it is for, its side, and its spec."""
    found = {}
    for name in plan.lora:
        module, (rows, columns) = PREFIX + name.removesuffix(".weight"), near.specs[name].shape
        found[f"{module}.lora_A.weight"] = (name, "A", TensorSpec(dtype, (rank, columns)))
        found[f"{module}.lora_B.weight"] = (name, "B", TensorSpec(dtype, (rows, rank)))
    for name in plan.whole:
        found[PREFIX + _whole_name(name, plan)] = (name, "", TensorSpec(dtype, near.specs[name].shape))
    if (head := _tied_head(plan, near)) is not None:
        embeddings, name = head
        found[PREFIX + name] = (embeddings, "", TensorSpec(dtype, near.specs[embeddings].shape))
    return found


def _whole_name(name: str, plan: _Plan) -> str:
    """What peft calls a tensor that is saved whole: the bias of a layer with B·A lies in the layer that it wraps."""
    module, _, last = name.rpartition(".")
    return f"{module}.base_layer.bias" if last == "bias" and f"{module}.weight" in plan.lora else name


def _tied_head(plan: _Plan, near: Checkpoint) -> tuple[str, str] | None:
    """The embeddings that are saved whole and the head that is tied to them, which peft saves apart; None if there are none."""
    if not is_tied(near):
        return None
    embeddings = next(
        (name for name in plan.whole if role_of(name) == (None, "embedding") and name.endswith(".weight")), None
    )
    if embeddings is None:
        return None
    return embeddings, "language_model." * embeddings.startswith("language_model.") + "lm_head.weight"


def _write_weights(
    path: Path, near: Checkpoint, far: Checkpoint, plan: _Plan, rank: int, dtype: str, progress: OnBytes | None
) -> None:
    """The file of the adapter, tensor by tensor; memory is that of the largest one."""
    layout = _layout(plan, near, rank, dtype)
    header, offsets = header_bytes({name: spec for name, (_, _, spec) in layout.items()}, layout)
    factors: dict[str, Array] = {}
    with path.open("wb") as file:
        file.write(header)
        for name, (tensor, side, _) in layout.items():
            if side == "A":
                delta = _float32(far[tensor]) - _float32(near[tensor])
                if not all_finite(delta.reshape(-1)):
                    raise CheckpointError(f"tensor {tensor} holds NaN or infinity", f"{far.label} ↔ {near.label}")
                factors["A"], factors["B"] = low_rank(delta, rank, seed_of("lora", tensor))
            data = factors[side] if side else _float32(far[tensor])
            file.seek(offsets[name])
            with np.errstate(over="ignore"):
                written = np.ascontiguousarray(data).astype(DTYPES[dtype])
            if not all_finite(written.reshape(-1)):
                raise CheckpointError(f"{name} overflows {dtype}", far.label, "take float32 or bfloat16")
            file.write(written.tobytes())
            if progress and side != "B":
                progress(far.specs[tensor].num_bytes)


def _float32(array: NDArray[Any]) -> Array:
    return array.astype(np.float32)


def _write_config(folder: Path, base: Checkpoint, near: Checkpoint, plan: _Plan, rank: int) -> None:
    """What peft reads first."""
    place = base.assets["config.json"].parent
    revision = place.name if is_hub_id(base.label) and place.parent.name == "snapshots" else None
    modules = [name.rpartition(".")[0] for name in plan.whole]
    layers = [name.removesuffix(".weight") for name in plan.lora]
    biases = [name for name in plan.whole if _whole_name(name, plan) != name]
    head = _tied_head(plan, near)
    whole = [module for module in modules if module not in layers] + ([head[1].removesuffix(".weight")] if head else [])
    causal = any(str(name).endswith("ForCausalLM") for name in near.config.get("architectures") or ())
    content = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM" if causal else None,
        "base_model_name_or_path": base.label,
        "revision": revision,
        "r": rank,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "bias": "all" if biases else "none",
        "target_modules": _shortest(layers, near),
        "modules_to_save": list(dict.fromkeys(whole)) or None,
        "fan_in_fan_out": False,
        "use_rslora": False,
        "init_lora_weights": True,
        "inference_mode": True,
    }
    (folder / CONFIG).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8", newline="\n")


def _shortest(modules: Sequence[str], near: Checkpoint) -> list[str]:
    """The last names of modules where all that are so called are meant, as loaders compare them; else whole paths."""
    everywhere: dict[str, set[str]] = {}
    for module in {name.rpartition(".")[0] for name in near}:
        everywhere.setdefault(module.rpartition(".")[2], set()).add(module)
    chosen = set(modules)
    return sorted(
        {last if everywhere[last] <= chosen else module for module in modules if (last := module.rpartition(".")[2])}
    )


def _copy_assets(folder: Path, base: Checkpoint, merged: Checkpoint) -> None:
    """Tokenizer, template and generation config of the checkpoint to come to, where they are not the base's."""
    for patterns in OWN_FILES:
        ours = {n: path for n, path in merged.assets.items() if any(fnmatchcase(n, pattern) for pattern in patterns)}
        if any(
            n not in base.assets or not filecmp.cmp(path, base.assets[n], shallow=False) for n, path in ours.items()
        ):
            for name, path in ours.items():
                copy(path, folder / name)
    template = merged.chat_template
    if template is not None and template not in (template_of(merged.assets), base.chat_template):
        (folder / "chat_template.jinja").write_text(template, encoding="utf-8", newline="\n")


def _measure(
    near: Checkpoint, far: Checkpoint, adapted: Checkpoint, plan: _Plan, rank: int, progress: OnBytes | None
) -> dict[str, Loss]:
    """What base and adapter give, against what they are to come to."""
    names = list(far.specs)
    again = fit({"base": near, "merged": adapted}, "base")[0]["merged"]
    sums = sum_tensors([far, near, again], names, _sums, progress=progress)
    return {
        name: Loss(
            _kept(name, plan),
            rank if name in plan.lora else 0,
            plan.why.get(name, ""),
            math.sqrt(squares[1] / squares[0]) if squares[0] else 0.0,
            AbsoluteSums(*before),
            AbsoluteSums(*after),
        )
        for name, (*columns,) in sums.items()
        for before, after, squares in [(columns[:3], columns[3:6], columns[6:])]
    }


def _kept(name: str, plan: _Plan) -> str:
    if name in plan.equal:
        return "equal"
    return "lora" if name in plan.lora else "whole" if name in plan.whole else "left out"


def _sums(far: NDArray[Any], near: NDArray[Any], again: NDArray[Any]) -> list[float]:
    """The sums of σ to the base and to base and adapter, and the squared distances to both."""
    distances = [_float32(far) - _float32(other) for other in (near, again)]
    return [*absolute_sums(far, near), *absolute_sums(far, again), *(dot(one, one) for one in distances)]


def _hidden(out: Path, stack: ExitStack) -> Path:
    """The folder beside `out` that is written, while no other process writes it."""
    refuse_existing(out)
    make_folder(out.parent)
    lock = out.parent / f".{out.name}.lock"
    stack.enter_context(exclusive(lock, OutputError, f"is writing {out}", "choose another --out"))
    partial = out.parent / f".{out.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    return partial
