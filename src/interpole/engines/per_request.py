"""λ per request: a pair of checkpoints in one model, in whose batch every row has its own λ.

Each layer that is affine in its weights gives lerp(A x, B x, λ of the row), which is what it would give with the weights merged
at that λ; experts do so for both of their products, routers for their scores. Both ends are exact: at λ = 0 and λ = 1 a row gets
the product of the one checkpoint, bit for bit. Weights that are equal in both are held, and multiplied, once. In dtypes narrower
than float32 a row between the ends differs from the merged folder by where it is rounded: outputs here, weights there.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import torch

from interpole.checkpoints.checkpoint import Checkpoint
from interpole.engines.base import Engine, Finished, Request, Token, lam_of, pair_fingerprint, refuse_second
from interpole.engines.open import dial
from interpole.engines.rows import BatchRow, Rows
from interpole.engines.streamed import StreamedRows
from interpole.engines.weights import load_into
from interpole.errors import EngineError
from interpole.merging.recipe import Recipe

__all__ = ["PerRequestEngine", "open_per_request"]

Forward = Callable[..., Any]

AFFINE = {
    "torch.nn.modules.linear.Linear", "torch.nn.modules.normalization.LayerNorm", "torch.nn.modules.sparse.Embedding",
    "transformers.pytorch_utils.Conv1D",
    "gemma.GemmaRMSNorm", "gemma.GemmaTextScaledWordEmbedding", "gemma2.Gemma2RMSNorm", "gemma2.Gemma2TextScaledWordEmbedding",
    "gemma3.Gemma3RMSNorm", "gemma3.Gemma3TextScaledWordEmbedding", "glm4.Glm4RMSNorm", "granite.GraniteRMSNorm",
    "llama.LlamaRMSNorm", "ministral3.Ministral3RMSNorm", "mistral.MistralRMSNorm", "mixtral.MixtralRMSNorm",
    "olmo2.Olmo2RMSNorm", "olmo3.Olmo3RMSNorm", "olmoe.OlmoeRMSNorm", "phi3.Phi3RMSNorm", "qwen2.Qwen2RMSNorm",
    "qwen2_moe.Qwen2MoeRMSNorm", "qwen3.Qwen3RMSNorm", "qwen3_moe.Qwen3MoeRMSNorm", "smollm3.SmolLM3RMSNorm",
}  # fmt: skip
"""Classes of modules whose output is affine in all their weights together; `family.Class` for those of transformers' models."""
EXPERTS = {"mixtral.MixtralExperts", "olmoe.OlmoeExperts", "qwen2_moe.Qwen2MoeExperts", "qwen3_moe.Qwen3MoeExperts"}
"""Classes of experts: a product, an activation, a product."""
ROUTERS = {
    "mixtral.MixtralTopKRouter",
    "olmoe.OlmoeTopKRouter",
    "qwen2_moe.Qwen2MoeTopKRouter",
    "qwen3_moe.Qwen3MoeTopKRouter",
}
"""Classes of routers: a product with one weight, and then what has none."""
PROBE_TOKENS = 8
_MODELING = re.compile(r"transformers\.models\.(\w+)\.modeling_\1\.")


class _Lambdas:
    """The λ of the rows of the forward pass that runs now."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.set([0.0], 1)

    def set(self, lams: Sequence[float], num_tokens: int) -> None:
        """Take the λ of each row; each has `num_tokens` tokens."""
        self._one = lams[0] if min(lams) == max(lams) else None
        self.end = self._one if self._one in (0.0, 1.0) else None
        self._num_rows, self._num_tokens = len(lams), num_tokens
        self._lams = torch.tensor(lams, dtype=torch.float32, device=self._device)  # (B,)
        self._shaped: dict[tuple[int, int], torch.Tensor] = {}

    def between(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        """The outputs of both ends, whose first dimension is that of the rows or of their tokens, as one output."""
        if self._one is not None:
            return torch.lerp(a, b, self._one)
        key = a.shape[0], a.dim()
        if key not in self._shaped:
            self._shaped[key] = self.of_tokens(a.shape[0]).view(-1, *[1] * (a.dim() - 1))
        return _lerp(a, b, self._shaped[key])

    def of_tokens(self, size: int) -> torch.Tensor:
        """λ (N,) of what has N = `size` entries, one for each row or one for each of their tokens.

        Raises:
            EngineError: it has not.
        """
        if size == self._num_rows:
            return self._lams
        if size == self._num_rows * self._num_tokens:
            return self._lams.repeat_interleave(self._num_tokens)
        raise EngineError(f"an output of {size} entries cannot be told by rows: there are {self._num_rows}")


def _lerp(a: torch.Tensor, b: torch.Tensor, lams: torch.Tensor) -> torch.Tensor:
    """`torch.lerp` with float32 weights: computed in float32, rounded once, exact at both ends."""
    if a.dtype == torch.float32:
        return torch.lerp(a, b, lams)
    return torch.lerp(a.float(), b.float(), lams).to(a.dtype)


class PerRequestEngine(Engine):
    """Two checkpoints of one architecture as one model; each request is answered at its own λ.

    `load` and `at` take the λ of those requests that bring none. An error fails what was in the model, and the engine goes on.

    Attributes:
        instruct, thinking: the checkpoints at λ = 0 and λ = 1.
        model: the live torch model of both.
        tokenizer: its tokenizer.
        context_tokens: most tokens of a prompt and its response together.
    """

    takes = StreamedRows.takes
    moving = False  # both ends are held

    def __init__(
        self,
        instruct: Checkpoint,
        thinking: Checkpoint,
        *,
        dtype: str = "auto",
        device: str | None = None,
        threads: int | None = None,
        max_rows: int = 128,
    ) -> None:
        """Load both. Config and tokenizer are those of `instruct`; the other options are those of `TransformersEngine`.

        Raises:
            EngineError: transformers cannot load the folder, or the model has no exact form for λ per row.
            MismatchError: the checkpoints do not fit each other.
        """
        rows = Rows(instruct, dtype=dtype, device=device, threads=threads, max_rows=max_rows)
        self.instruct, self.thinking = instruct, thinking
        self.model, self.tokenizer, self.context_tokens = rows.model, rows.tokenizer, rows.context_tokens
        self._lams = _Lambdas(rows.device)
        _pair(self.model, thinking, self._lams)
        rows.before_forward = self._take_lambdas
        self._rows = StreamedRows(rows)

    def versions(self) -> dict[str, str]:
        """Those of `TransformersEngine`, and that λ is in the batch."""
        return self._rows.versions() | {"lambda": "per request"}

    @cached_property
    def fingerprint(self) -> str:
        """Hash of both checkpoints."""
        return pair_fingerprint(self.instruct, self.thinking)

    @property
    def busy(self) -> bool:
        """Whether requests wait, or rows are not finished."""
        return self._rows.busy

    @property
    def num_running(self) -> int:
        """Requests in the batch; may be asked in any thread."""
        return self._rows.num_running

    @property
    def num_waiting(self) -> int:
        """Requests that wait for a place in the batch."""
        return len(self._rows) - self._rows.num_running

    def add(self, request: Request) -> None:
        """Tokenise and queue a request.

        Raises:
            EngineError: it has no λ, one outside of [0, 1], a setting out of range, or a prompt that leaves no room.
        """
        self._check(request)
        request = request._replace(lam=lam_of(self.where if request.lam is None else request.lam))
        refuse_second(request.key, self._rows.has(request.key))
        self._rows.enter(self._rows.prepared(request))

    def cancel(self, key: int) -> bool:
        """Forget a request, wherever it is. Returns whether it was there: it is never answered."""
        return self._rows.cancel(key)

    def events(self) -> list[Token]:
        """The tokens that the last `step` drew, in order; handed out once."""
        return self._rows.events()

    def abandon(self) -> None:
        """Empty queue and batch."""
        self._rows.abandon()

    def step(self) -> list[Finished]:
        """As `TransformersEngine.step`. Where the model fails, so does what was in it; what waits goes on."""
        self.progress += 1
        return self._rows.step()

    def _move(self, where: Any) -> str:
        """Take the λ of requests that bring none; None: they must.

        Raises:
            EngineError: it is no λ.
        """
        if where is not None:
            lam_of(where)
        return f"{self.fingerprint}@{where}"

    def _take_lambdas(self, rows: Sequence[BatchRow], num_tokens: int) -> None:
        """Tell the layers the λ of the rows; those that have left have none of their own."""
        live = [_lam(row) for row in rows if not row.finish]
        self._lams.set([live[0] if row.finish else _lam(row) for row in rows], num_tokens)


def _lam(row: BatchRow) -> float:
    lam = row.request.lam
    assert lam is not None  # `add` saw to it
    return lam


# ── a model of two ends ─────────────────────────────────────────────────────────────────────────────────────────


def _pair(model: Any, thinking: Checkpoint, lams: _Lambdas) -> None:
    """Give a model the weights of `thinking` beside its own, and check that both ends are exact.

    Raises:
        EngineError: a parameter that differs has no exact form for λ per row.
        MismatchError: `thinking` does not fit.
    """
    ours = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    load_into(model, thinking)
    for name, buffer in model.named_buffers():
        if not torch.equal(buffer, buffers[name]):
            raise _inexact(f"the buffer {name} differs between the checkpoints", thinking)
    far = _probe(model)
    theirs: dict[int, torch.Tensor] = {}  # identity of a parameter → its values at λ = 1, where they differ
    for name, parameter in model.named_parameters():
        if not torch.equal(parameter.data, ours[name]):
            theirs[id(parameter)], parameter.data = parameter.data, ours[name]
    near = _probe(model)
    for name, module in list(model.named_modules()):
        if differing := [own for own, one in module._parameters.items() if id(one) in theirs]:
            _wrap(module, _twin(module, theirs), lams, f"{name}.{differing[0]}")
    _check_ends(model, lams, near, far)


def _twin(module: torch.nn.Module, theirs: dict[int, torch.Tensor]) -> torch.nn.Module:
    """The same module with the weights of λ = 1; what is equal is shared."""
    twin = copy.copy(module)
    twin._parameters = {
        name: torch.nn.Parameter(theirs[id(one)], requires_grad=False) if id(one) in theirs else one
        for name, one in module._parameters.items()
    }
    return twin


def _wrap(module: torch.nn.Module, twin: torch.nn.Module, lams: _Lambdas, name: str) -> None:
    """Have the module answer by the λ of the rows.

    Raises:
        EngineError: there is no form for its class.
    """
    kind = _MODELING.sub(r"\1.", f"{type(module).__module__}.{type(module).__qualname__}")
    forms = ((AFFINE, _affine), (EXPERTS, _experts), (ROUTERS, _router))
    form = next((form for kinds, form in forms if kind in kinds), None)
    if form is None:
        raise _inexact(f"{name} differs between the checkpoints, and λ per row is not known for {kind}", name)
    near, far, between = module.forward, twin.forward, form(module, twin, lams)

    def forward(*args: Any, **kwargs: Any) -> Any:
        if lams.end is None:
            return between(*args, **kwargs)
        return far(*args, **kwargs) if lams.end else near(*args, **kwargs)

    module.forward = forward


def _affine(module: torch.nn.Module, twin: torch.nn.Module, lams: _Lambdas) -> Forward:
    """What is affine in its weights: both outputs, and between them by λ."""
    near, far = module.forward, twin.forward
    return lambda *args, **kwargs: lams.between(near(*args, **kwargs), far(*args, **kwargs))


def _router(module: Any, twin: Any, lams: _Lambdas) -> Forward:
    """A router's own formula on scores that are known: its weight is the unit matrix, its input the scores."""
    known = copy.copy(module)
    size = module.weight.shape[0]
    known._parameters = {"weight": torch.nn.Parameter(torch.eye(size).to(module.weight), requires_grad=False)}
    known.hidden_dim = size

    def forward(hidden: torch.Tensor) -> Any:
        flat = hidden.reshape(-1, hidden.shape[-1])  # (N, H)
        linear = torch.nn.functional.linear
        return known.forward(lams.between(linear(flat, module.weight), linear(flat, twin.weight)))

    return forward


def _experts(module: Any, twin: Any, lams: _Lambdas) -> Forward:
    """Experts, sorted so that tokens of one lie together, as in transformers' `grouped_mm_experts_forward`; each product by λ."""
    from transformers.integrations.moe import _grouped_linear as grouped

    def forward(hidden: torch.Tensor, index: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        (num_tokens, size), num_chosen = hidden.shape, index.shape[-1]
        experts, order = index.reshape(-1).sort()  # (N·K,)
        offsets = torch.bincount(experts, minlength=module.num_experts).cumsum(0, dtype=torch.int32)
        of_each = lams.of_tokens(num_tokens)[order // num_chosen, None]

        def product(x: torch.Tensor, part: str) -> torch.Tensor:
            near, far = (grouped(x, getattr(one, part), offsets) for one in (module, twin))
            return _lerp(near, far, of_each)

        inner = module._apply_gate(product(hidden[order // num_chosen], "gate_up_proj"))
        outer = product(inner, "down_proj") * weights.reshape(-1)[order, None]
        back = torch.empty_like(outer)
        back[order] = outer
        return back.view(num_tokens, num_chosen, size).sum(1).to(hidden.dtype)

    return forward


def _probe(model: Any) -> torch.Tensor:
    """Logits (2, T, V) of two rows of tokens."""
    size = min(2 * PROBE_TOKENS, model.get_input_embeddings().weight.shape[0])
    tokens = (torch.arange(2 * PROBE_TOKENS, device=model.device) % size).view(2, -1)
    with torch.inference_mode():
        logits: torch.Tensor = model(
            input_ids=tokens,
            attention_mask=torch.ones_like(tokens),
            position_ids=torch.arange(PROBE_TOKENS, device=model.device).expand(2, -1),
            use_cache=False,
        ).logits
    return logits


def _check_ends(model: Any, lams: _Lambdas, near: torch.Tensor, far: torch.Tensor) -> None:
    """Compare with the logits of either checkpoint alone: code that reads weights past their module would show here.

    Raises:
        EngineError: the model is not exact.
    """
    if not bool((near + far).isfinite().all()):
        raise EngineError("the model's logits are not finite", remedy="its weights are broken, or need a wider dtype")
    for lam, alone in ((0.0, near), (1.0, far)):
        lams.set([lam, lam], PROBE_TOKENS)
        if not _same(_probe(model), alone):
            raise _inexact(f"at λ = {lam:g} the model is not what it is with one checkpoint alone", "a forward pass")
    lams.set([0.0, 1.0], PROBE_TOKENS)
    mixed = _probe(model)
    for row, (own, other) in enumerate(((near, far), (far, near))):
        if (mixed[row] - own[row]).norm() > 0.1 * (other[row] - own[row]).norm():
            raise _inexact("rows of one batch do not keep to their own λ", "a forward pass")


def _same(found: torch.Tensor, alone: torch.Tensor) -> bool:
    """Whether logits are equal; on a GPU, where sums may run in another order each time, up to rounding."""
    if torch.equal(found, alone):
        return True
    return found.device.type != "cpu" and bool((found - alone).norm() <= torch.finfo(found.dtype).eps * alone.norm())


def _inexact(what: str, where: object) -> EngineError:
    return EngineError(what, where, "serve it with one λ for all: merge it, and serve the folder")


def open_per_request(recipe: Recipe, **options: Any) -> PerRequestEngine:
    """The engine over both ends of a recipe, as `merge` would write them.

    Raises:
        EngineError: its points do not lie on a straight line between its ends.
    """
    if recipe.method != "linear":
        raise EngineError(
            f"λ per request is for linear merges, not for {recipe.method}", remedy="merge it, and serve the folder"
        )
    resolve = dial(recipe)
    return PerRequestEngine(resolve(recipe.at(0.0)), resolve(recipe.at(1.0)), **options)
