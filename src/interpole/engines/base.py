"""Engines: what turns prompts into responses. Here is what every engine offers; each engine is one file.

An engine is driven step by step: `add` requests at any time, call `step` until everything is finished. Nothing here knows of
benchmarks or recipes; `engines.open` opens engines with a recipe, `engines.process` keeps one in a child process.
"""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol, Self, final

from interpole.checkpoints.checkpoint import Checkpoint
from interpole.errors import EngineError
from interpole.records import Chance, Generation, Sampler
from interpole.schema import Strict

__all__ = [
    "MESSAGES", "Answer", "Engine", "Finished", "PerRequest", "RemoteModel", "Request", "Resolve", "Token",
    "chance_finished", "chance_of", "eos_tokens", "lam_of", "marker_tokens", "pair_fingerprint", "refuse_second",
]  # fmt: skip

Answer = Callable[[str, Sampler, int], Coroutine[Any, Any, Generation]]
"""Answers a rendered prompt with these settings and this seed: `EngineProcess.answer`, or what wraps it."""
Resolve = Callable[[Any], Checkpoint]
"""Makes a checkpoint of what `Engine.load` is given: λ, a recipe or a checkpoint."""
MESSAGES = "{# the server renders with its own template #}{{ messages | tojson }}"
"""The chat template where a server has its own: what is sent are the messages."""

MOST_MARGIN = 100.0  # of log odds: beyond, a token is simply certain, or impossible


class RemoteModel(Strict):
    """A model that somebody else serves, as a point of a sweep: a name at an address, in the place of a recipe and its weights.

    Nothing is known of its weights: it counts as the same while name and address are.
    """

    base_url: str
    model: str
    markers: tuple[str, str]  # around thinking that the server has split off

    def fingerprint(self) -> str:
        """Hash of address and name."""
        return "served-" + hashlib.sha256(f"{self.base_url.rstrip('/')} {self.model}".encode()).hexdigest()


class Request(NamedTuple):
    """One prompt to answer. `key` is the caller's, and comes back with the response.

    What has a default is for some engines only (`Engine.takes`); another refuses a request that sets it.
    """

    key: int
    prompt: str  # rendered, with its special tokens
    sampler: Sampler
    seed: int  # equal seeds give equal draws, whatever else is in the batch
    lam: float | None = None  # a λ of its own
    top_logprobs: int | None = (
        None  # how many likely tokens to report beside each one drawn; None: no log-probabilities
    )
    min_p: float = 0.0  # tokens are drawn whose probability is at least this share of the likeliest one's
    begins: str | None = None  # nothing is drawn: the answer is how likely a response begins with this text


class Finished(NamedTuple):
    """One answered request, or one that failed alone."""

    key: int
    generation: Generation
    error: EngineError | None = None  # where set, there is no response
    chance: Chance | None = None  # of what the request `begins` with


class Token(NamedTuple):
    """One token as it was drawn.

    The log-probabilities are those of the model's own distribution, before temperature, top-k, top-p and min-p.
    """

    key: int  # of the request
    token_id: int  # the end-of-sequence token included
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()  # the likeliest tokens, with theirs


class Engine(ABC):
    """What generates. Not safe to share between threads.

    An engine defines the abstract methods; `load`, `at` and `generate` are the same for all.

    Attributes:
        where: what the weights are now, as `load` was told; None: nowhere yet.
        progress: grows whenever something moves (a step, a reply). Where it stands still for long, the engine hangs.
        patience_seconds: for how long it may wait for somebody else, in which nothing moves.
        notice: what whoever waits for it should know, in words; the last thing that was.
        takes: those fields of a `Request` with a default that it knows what to do with.
    """

    takes: frozenset[str] = frozenset()
    where: Any = None
    progress: int = 0
    patience_seconds: float = 0.0
    notice: str = ""

    @abstractmethod
    def versions(self) -> dict[str, str]:
        """Name, versions and settings that responses depend on; they become part of a sample's identity."""

    @property
    @abstractmethod
    def busy(self) -> bool:
        """Whether requests are in flight."""

    @abstractmethod
    def add(self, request: Request) -> None:
        """Queue a request.

        Raises:
            EngineError: it cannot be answered, e.g. its prompt is longer than the model's context.
        """

    @abstractmethod
    def step(self) -> list[Finished]:
        """Do a little work and return what finished; nothing where nothing is queued."""

    @abstractmethod
    def abandon(self) -> None:
        """Forget all requests in flight; they are never answered."""

    @abstractmethod
    def _move(self, where: Any) -> str:
        """Go to other weights and return their fingerprint ("": not known); nothing is in flight. None: back to nowhere."""

    @final
    def _check(self, request: Request) -> None:
        """Refuse a request that asks for what this engine does not do.

        Raises:
            EngineError: it sets a field that is not among `takes`.
        """
        for name, default in Request._field_defaults.items():
            if getattr(request, name) != default and name not in self.takes:
                raise EngineError(
                    f"this engine takes no {name} with a request", remedy="take another engine, or leave it out"
                )

    @final
    def load(self, where: Any) -> str:
        """Go to other weights (λ, a recipe, a checkpoint) and stay there; returns their fingerprint, where it is known.

        Raises:
            EngineError: requests are in flight, or the weights cannot be had.
            MismatchError: the weights do not fit the model.
        """
        if self.busy:
            raise EngineError("the weights cannot change under running requests", remedy="finish them first")
        fingerprint = self._move(where)
        self.where = where
        return fingerprint

    @final
    @contextmanager
    def at(self, where: Any) -> Iterator[Self]:
        """Other weights for the length of a `with` block, then the former; what is in flight at its end is abandoned.

        Raises:
            EngineError: requests are in flight when it begins.
        """
        before = self.where
        self.load(where)
        try:
            yield self
        finally:
            self.abandon()
            self.load(before)

    @final
    def generate(self, prompts: Sequence[str], sampler: Sampler, seeds: Sequence[int]) -> list[Generation]:
        """Answer all prompts by `add` and `step`, in the order given; blocks until the last is finished.

        Raises:
            EngineError: a request failed, or there are not as many seeds as prompts.
        """
        if len(prompts) != len(seeds):
            raise EngineError(f"{len(prompts)} prompts but {len(seeds)} seeds", remedy="give one seed per prompt")
        for key, (prompt, seed) in enumerate(zip(prompts, seeds, strict=True)):
            self.add(Request(key, prompt, sampler, seed))
        answers: dict[int, Generation] = {}
        while len(answers) < len(prompts):
            for key, generation, error, _ in self.step():
                if error is not None:
                    raise error
                answers[key] = generation
        return [answers[key] for key in range(len(prompts))]


class PerRequest(Protocol):
    """What an engine offers besides, whose requests bring a λ each: what a server needs.

    Attributes:
        instruct, thinking: the checkpoints at λ = 0 and λ = 1.
        tokenizer: the model's tokenizer.
        context_tokens: most tokens of a prompt and its response together.
    """

    instruct: Checkpoint
    thinking: Checkpoint
    tokenizer: Any
    context_tokens: int

    @property
    def fingerprint(self) -> str:
        """Hash of both checkpoints."""

    @property
    def busy(self) -> bool:
        """As `Engine.busy`."""

    @property
    def num_running(self) -> int:
        """Requests in the batch; may be asked in any thread."""

    @property
    def moving(self) -> bool:
        """Whether the step that runs takes the weights to another λ, which may take long; may be asked in any thread."""

    def add(self, request: Request) -> None:
        """As `Engine.add`."""

    def step(self) -> list[Finished]:
        """As `Engine.step`."""

    def abandon(self) -> None:
        """As `Engine.abandon`."""

    def cancel(self, key: int) -> bool:
        """Forget a request, wherever it is. Returns whether it was there: it is never answered."""

    def events(self) -> list[Token]:
        """The tokens that the last `step` drew, in order; handed out once."""


def chance_of(steps: Sequence[Sequence[float]]) -> Chance:
    """The chance of a text from those of its tokens in turn, each after the ones before it.

    Args:
        steps: of each token its probability under the sampler, and by the model's own distribution the logarithms of its
            probability and of all other tokens' together (`sampling.chances`).

    Raises:
        EngineError: they are no numbers.
    """
    drawn, own, others = 1.0, 0.0, -math.inf
    for probability, log_own, log_others in steps:
        drawn *= probability
        others = _log_sum(others, own + log_others)  # log of 1 − Π p, without cancellation
        own += log_own
    if math.isnan(drawn) or math.isnan(own - others):
        raise EngineError("the model's logits are not finite", remedy="its weights are broken, or need a wider dtype")
    return Chance(min(1.0, max(0.0, drawn)), min(MOST_MARGIN, max(-MOST_MARGIN, own - others)))


def chance_finished(request: Request, steps: Sequence[Sequence[float]]) -> Finished:
    """A request that `begins` with a text, answered by what was found of its tokens (`chance_of`)."""
    try:
        return Finished(request.key, Generation("", 0, "stop"), chance=chance_of(steps))
    except EngineError as error:
        return Finished(request.key, Generation("", 0, "error"), error)


def marker_tokens(tokenizer: Any, text: str, room: int) -> list[int]:
    """The tokens of a text that responses may begin with, as it stands alone.

    Raises:
        EngineError: it has none, or more than there is room for.
    """
    tokens = list(tokenizer(text, add_special_tokens=False)["input_ids"])
    if not 0 < len(tokens) <= room:
        raise EngineError(f"{text!r} of {len(tokens)} tokens does not fit after the prompt", remedy="shorten either")
    return tokens


def _log_sum(a: float, b: float) -> float:
    """The logarithm of the sum of two numbers that are given by theirs."""
    high, low = max(a, b), min(a, b)
    return high if low == -math.inf else high + math.log1p(math.exp(low - high))


def lam_of(where: Any) -> float:
    """A λ that a request may have.

    Raises:
        EngineError: it is no number between 0 and 1.
    """
    if not isinstance(where, int | float) or not 0 <= where <= 1:
        raise EngineError(f"a request at λ = {where}", remedy="give it a `lam` between 0 and 1")
    return float(where)


def refuse_second(key: int, is_there: bool) -> None:
    """Refuse a request whose key another one has.

    Raises:
        EngineError: `is_there`.
    """
    if is_there:
        raise EngineError(f"two requests with the key {key}", remedy="give each a key of its own")


def pair_fingerprint(instruct: Checkpoint, thinking: Checkpoint) -> str:
    """Hash of both ends of a pair."""
    return hashlib.sha256(f"{instruct.fingerprint()} {thinking.fingerprint()}".encode()).hexdigest()


def eos_tokens(checkpoint: Checkpoint, tokenizer: Any) -> frozenset[int]:
    """The tokens that end a response: those of the generation config, else of the config, and the tokenizer's."""
    given = checkpoint.generation_config.get("eos_token_id", checkpoint.config.get("eos_token_id"))
    listed = given if isinstance(given, list) else [given]
    return frozenset(token for token in (*listed, tokenizer.eos_token_id) if token is not None)
