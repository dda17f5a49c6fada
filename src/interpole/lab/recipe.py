"""How a tiny model comes to be, as data: architecture and sizes, questions, steps and rates, and what it is fine-tuned from.

Two models with one name are the same model: whoever needs one that is there need not train it again. Nothing here imports torch.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace

from interpole.errors import TaskError
from interpole.formats import content_hash
from interpole.tasks import chains

__all__ = ["ARCHITECTURES", "SCHEDULE", "STYLES", "TERSE", "Body", "Model", "Questions", "Schedule", "Stage"]

ARCHITECTURES = ("qwen3", "llama", "mistral", "gemma3", "qwen3_moe")
"""`mistral` and most layers of `gemma3` look back over a sliding window; `qwen3_moe` has four experts, two of them active."""
STYLES = ("base", "instruct", "thinking", "terse")
"""What a model is taught to answer like; all but the first start from a base. `terse` works without thinking marks."""
WIDTH_STEP = 16  # so that heads have an even width


@dataclass(frozen=True, slots=True)
class Stage:
    """How one checkpoint is trained: optimiser steps, answers per step, peak learning rates."""

    steps: int
    batch: int
    lr: float  # AdamW: embeddings, norms and experts
    lr_muon: float  # Muon: the other matrices of the layers

    def dosed(self, dose: float) -> Stage:
        """So many times the steps."""
        return replace(self, steps=max(1, round(dose * self.steps)))


@dataclass(frozen=True, slots=True)
class Schedule:
    """The three stages; the two fine-tunes both start from the base."""

    base: Stage = Stage(steps=2300, batch=48, lr=3e-3, lr_muon=0.02)
    instruct: Stage = Stage(steps=250, batch=64, lr=5e-4, lr_muon=0.003)
    thinking: Stage = Stage(steps=200, batch=48, lr=5e-4, lr_muon=0.003)


SCHEDULE = Schedule()
TERSE = Stage(steps=200, batch=48, lr=5e-4, lr_muon=0.003)
"""The stage of a terse model, which a pair does without."""


@dataclass(frozen=True, slots=True)
class Body:
    """An architecture and its sizes.

    Raises:
        TaskError: an architecture that is not in `ARCHITECTURES`, or sizes that cannot be.
    """

    arch: str = "qwen3"
    width: int = 64  # of the hidden states; the FFN is three times as wide
    depth: int = 6  # layers

    def __post_init__(self) -> None:
        """Refuse what cannot be built."""
        if self.arch not in ARCHITECTURES:
            raise TaskError(
                f"no architecture {self.arch!r} in the lab", remedy=f"choose from {', '.join(ARCHITECTURES)}"
            )
        if self.width < WIDTH_STEP or self.width % WIDTH_STEP or self.depth < 1:
            raise TaskError(
                f"no model of width {self.width} and {self.depth} layers",
                remedy=f"widths are multiples of {WIDTH_STEP}, and there is at least one layer",
            )


@dataclass(frozen=True, slots=True)
class Questions:
    """What a model learns from: endless training questions, or a set of them that is gone through again and again.

    Attributes:
        difficulties: numbers of steps, all alike.
        operators: which there may be.
        highest: of the values on the way.
        num: how many questions the set has; None: endless ones.
        own: the share of the set that is this style's own; the rest is the same for every style.
    """

    difficulties: tuple[int, ...] = chains.DIFFICULTIES
    operators: str = chains.OPERATORS
    highest: int = chains.HIGHEST
    num: int | None = None
    own: float = 0.0


@dataclass(frozen=True, slots=True)
class Model:
    """One checkpoint: what it is trained on, how, and from what.

    Attributes:
        style: one of `STYLES`.
        stage: steps and rates.
        body: what is trained.
        seed: of the first weights and of the data.
        questions: what it learns from.
        bf16: forward and backward passes in bfloat16; the weights are in float32 either way.
        opens_thinking: its template opens the thinking.
        base: what it is fine-tuned from.
    """

    style: str
    stage: Stage
    body: Body = field(default_factory=Body)
    seed: int = 0
    questions: Questions = field(default_factory=Questions)
    bf16: bool = True
    opens_thinking: bool = False
    base: Model | None = None

    @property
    def name(self) -> str:
        """Readable, and a hash of everything: `qwen3-w64-d6-s0-thinking-1f2e3d4c`."""
        body = self.body
        return f"{body.arch}-w{body.width}-d{body.depth}-s{self.seed}-{self.style}-{content_hash(asdict(self))[:8]}"
