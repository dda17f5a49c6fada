"""The engine over vLLM: one engine runs through a whole sweep, and λ moves in it while it stays up.

`EngineProcess` supervises it like any other engine. Loading is vLLM's own, so fused projections, experts and tensor parallelism
are its business; `vllm_worker` streams the merge into it. No weights are read twice: the model starts empty (`vllm_running`), and
the first `load` fills it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

from interpole.checkpoints.checkpoint import Checkpoint
from interpole.engines.base import Engine, Finished, Request, Resolve
from interpole.engines.open import dial
from interpole.engines.vllm_running import RunningVllm
from interpole.engines.vllm_worker import Proof, checksum
from interpole.errors import EngineError, MismatchError
from interpole.merging.recipe import Recipe

__all__ = ["VllmDial", "VllmEngine", "Weights", "open_vllm"]


class VllmDial:
    """A running vLLM whose weights are replaced in place, and proved to be what they shall be.

    Attributes:
        running: it answers.
        takes: as in `Engine`.
        resolve: makes checkpoints of places.
        proofs: what each worker reported of the last move.
    """

    takes = frozenset({"min_p", "begins"})

    def __init__(
        self,
        where: Any,
        opener: Callable[[], Resolve],
        *,
        max_rows: int | None,
        check: str,
        settings: dict[str, Any],
        as_drawn: bool = False,
    ) -> None:
        """Start vLLM with the architecture, config and tokenizer of `where`, and no weights yet.

        Args:
            where: λ, or a recipe.
            opener: makes `resolve`. Every worker calls it, so it must pickle.
            max_rows: see `open_vllm`.
            check: see there.
            settings: see there.
            as_drawn: see `RunningVllm`.

        Raises:
            EngineError: vLLM cannot be started with these settings.
        """
        if check not in ("sample", "all"):
            raise EngineError(f"check: {check!r}", remedy="say `sample` or `all`")
        self._check_all, self.resolve = check == "all", opener()
        first: Checkpoint = self.resolve(where)
        self._specs = dict(first.specs)
        self.running = RunningVllm(first, max_rows, settings, as_drawn=as_drawn)
        self.running.llm.collective_rpc("interpole_open", args=(opener,))
        self.proofs = list[Proof]()

    def go(self, where: Any) -> str:
        """Replace the weights in every worker, forget all cached prefixes, prove it, and return the fingerprint.

        Raises:
            EngineError: the proof failed; do not generate after that, but load again.
            MismatchError: the weights are not those of the running architecture; nothing was changed.
        """
        checkpoint = self.resolve(where)
        self.check_fits(checkpoint)
        self.proofs = self.running.llm.collective_rpc("interpole_load", args=(where, self._check_all))
        if not self.running.llm.reset_prefix_cache():
            raise EngineError("vLLM did not reset its prefix cache", remedy="load again, or start another engine")
        expected = checksum(checkpoint, self._check_all)
        for rank, proof in enumerate(self.proofs):
            if proof.checksum != expected:
                raise EngineError(
                    f"worker {rank} loaded other weights than `merge` would write",
                    checkpoint.label,
                    "every worker must see the same, unchanged source folders; then load again",
                )
        self._refuse([proof.wrong for proof in self.proofs])
        return checkpoint.fingerprint()

    def verify(self) -> None:
        """Read live weights again.

        Raises:
            EngineError: some of them are not what was last loaded; names them.
        """
        self._refuse(self.running.llm.collective_rpc("interpole_read_back"))

    def check_fits(self, checkpoint: Checkpoint) -> None:
        """Refuse a checkpoint that is not of the running architecture.

        Raises:
            MismatchError: with a tensor that differs.
        """
        for name in self._specs.keys() | checkpoint.specs.keys():
            ours, theirs = self._specs.get(name), checkpoint.specs.get(name)
            if ours is None or theirs is None or ours.shape != theirs.shape:
                raise MismatchError(
                    f"tensor {name} is {theirs or 'missing'}, the running model's is {ours or 'missing'}",
                    checkpoint.label,
                    "start another engine for another architecture",
                )

    def _refuse(self, wrong: Sequence[Sequence[str]]) -> None:
        for rank, names in enumerate(wrong):
            if names:
                raise EngineError(
                    f"{len(names)} live modules of worker {rank} do not hold what was loaded, the first: {names[0]}",
                    remedy="load again; if it stays, this vLLM loads this architecture otherwise: please report it",
                )


class Weights(Protocol):
    """A running vLLM, and what can be done about the weights in it.

    Attributes:
        running: it answers.
        takes: as in `Engine`.
    """

    running: RunningVllm
    takes: frozenset[str]

    def go(self, where: Any) -> str:
        """As `Engine.load`, while nothing is in flight."""


class VllmEngine(Engine):
    """A vLLM engine, driven step by step (see `engines.base.Engine`).

    Attributes:
        weights: where they come from: a `VllmDial`, or both ends at once (`vllm_sweep`).
        tokenizer: the model's tokenizer.
        context_tokens: most tokens of a prompt and its response together.
    """

    def __init__(self, weights: Weights) -> None:
        """Drive it; nobody else does."""
        self.weights, self.takes, self._running = weights, weights.takes, weights.running
        self.tokenizer, self.context_tokens = self._running.tokenizer, self._running.context_tokens

    def versions(self) -> dict[str, str]:
        """Name, versions, dtype, device, number of workers, and whether the model is compiled: each may change roundings."""
        return self._running.versions()

    @property
    def busy(self) -> bool:
        """Whether vLLM has requests that are not finished."""
        return self._running.busy

    def add(self, request: Request) -> None:
        """Tokenise and queue a request.

        Raises:
            EngineError: its prompt leaves no room in the model's context, it asks for what is not done here, or vLLM refuses it.
        """
        self._check(request)
        self._running.add(request)

    def step(self) -> list[Finished]:
        """One step of vLLM's scheduler."""
        self.progress += 1
        return self._running.step()

    def abandon(self) -> None:
        """Abort all requests."""
        self._running.abandon()

    def close(self) -> None:
        """End vLLM and its workers."""
        self._running.close()

    def _move(self, where: Any) -> str:
        return self.weights.go(where)


def open_vllm(recipe: Recipe, *, max_rows: int | None = None, check: str = "sample", **settings: Any) -> VllmEngine:
    """The engine that the registry calls `vllm`, at a recipe; every worker opens the recipe's checkpoints itself.

    Args:
        recipe: the first weights, and the sources of all others.
        max_rows: most responses generated at the same time; default vLLM's own (`max_num_seqs`).
        check: how much of the weights is checked after every `load`: `sample`, or `all` (costs about as much as the switch).
        **settings: vLLM's own `EngineArgs`: `tensor_parallel_size`, `gpu_memory_utilization`, `max_model_len`, `dtype` …

    Raises:
        EngineError: vLLM cannot be started with these settings, or loaded something else than it was given.
    """
    engine = VllmEngine(VllmDial(recipe, partial(dial, recipe), max_rows=max_rows, check=check, settings=settings))
    engine.load(recipe)
    return engine
