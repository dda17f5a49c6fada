"""An Inspect model provider over any engine: renders the chat, awaits the answer, hands it on whole.

Think text and special tokens stay in the response, usage is the true token count, and sampling settings and seed come from
Inspect's `GenerateConfig`. Batching is the engine's business: requests are awaited concurrently.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from inspect_ai.model import (
    ChatCompletionChoice,
    ChatMessage,
    ChatMessageAssistant,
    GenerateConfig,
    Model,
    ModelAPI,
    ModelOutput,
    ModelUsage,
    modelapi,
)
from inspect_ai.tool import ToolChoice, ToolInfo

from interpole.engines.base import Answer
from interpole.errors import EngineError
from interpole.formats import seed_of
from interpole.records import Sampler

__all__ = ["inspect_model", "respond_with"]

Render = Callable[[Sequence[dict[str, Any]]], str]
"""Chat messages → prompt."""


async def _gone(*_: object) -> NoReturn:
    raise EngineError("only a sweep asks this model", remedy="name the model that shall answer: --model")


class _Provider(ModelAPI):
    """The Inspect provider (see the module's docstring). One per point: its name is part of every log."""

    def __init__(
        self,
        model_name: str,
        *,
        answer: Answer = _gone,
        render: Render = lambda _: "",
        sampler: Sampler = Sampler(),  # noqa: B008 (it is frozen)
        **_given: Any,
    ) -> None:
        """Wrap `answer`; `sampler` holds what a request's own config leaves open, and the run's seed.

        Inspect itself makes one by name alone, to read or score a log: it answers nothing.
        """
        super().__init__(model_name)
        self._answer, self._render, self._sampler = answer, render, sampler
        self._asked: Counter[str] = Counter()

    def connection_key(self) -> str:
        """Models do not wait for each other's requests."""
        return self.model_name

    async def generate(
        self,
        input: list[ChatMessage],
        tools: list[ToolInfo],
        tool_choice: ToolChoice,  # noqa: ARG002
        config: GenerateConfig,
    ) -> ModelOutput:
        """One response.

        Raises:
            EngineError: the engine failed for good, or the task asks for tools.
        """
        if tools:
            raise EngineError("this task calls tools, which engines here do not", remedy="choose a task without tools")
        prompt = self._render([{"role": message.role, "content": message.text} for message in input])
        seed = self._next_seed(prompt) if config.seed is None else config.seed
        try:
            generation = await self._answer(prompt, self._settings(config), seed)
        except EngineError as error:  # one object may fail many samples; raised again it would grow by a traceback each
            raise EngineError(error.what, error.where, error.remedy) from None
        message = ChatMessageAssistant(content=generation.text, model=self.model_name, source="generate")
        stop_reason = "max_tokens" if generation.finish == "length" else "stop"
        usage = ModelUsage(output_tokens=generation.num_tokens, total_tokens=generation.num_tokens)
        choice = ChatCompletionChoice(message=message, stop_reason=stop_reason)
        metadata: dict[str, Any] = {"budget_forced": True} if generation.budget_forced else {}
        metadata |= {} if generation.chosen_lam is None else {"chosen_lam": generation.chosen_lam}
        return ModelOutput(model=self.model_name, choices=[choice], usage=usage, metadata=metadata or None)

    def _next_seed(self, prompt: str) -> int:
        """A seed for a task that gives none: of the run, the prompt, and how often it was asked."""
        self._asked[prompt] += 1
        return seed_of(self._sampler.seed, self._asked[prompt], prompt)

    def _settings(self, config: GenerateConfig) -> Sampler:
        own = self._sampler
        return Sampler(
            temperature=own.temperature if config.temperature is None else config.temperature,
            top_p=own.top_p if config.top_p is None else config.top_p,
            top_k=own.top_k if config.top_k is None else config.top_k,
            max_tokens=config.max_tokens or own.max_tokens,
            seed=own.seed,
        )


@modelapi(name="interpole")
def _provider() -> type[ModelAPI]:
    return _Provider


def inspect_model(name: str, answer: Answer, render: Render, sampler: Sampler) -> Model:
    """An Inspect `Model` called `interpole/{name}`, outside of Inspect's own memory of models."""
    return Model(_provider(name, answer=answer, render=render, sampler=sampler), GenerateConfig())


async def respond_with(model: Model, messages: list[ChatMessage], config: GenerateConfig) -> ModelOutput:
    """One response of such a model, without Inspect's retries, limits and events around it: the pool has its own.

    Raises:
        EngineError: the engine failed for good.
    """
    output = await model.api.generate(messages, [], "none", config)
    if not isinstance(output, ModelOutput):
        raise EngineError("no output", model.name)
    return output
