"""A causal language model of transformers, and the requests that it answers, as rows of one batch.

Rows leave the batch as they finish and waiting prompts take their place, so a long straggler idles nobody. Every request draws
from a generator of its own, so its response does not depend on who shares its batch (up to the rounding of batched arithmetic).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, AutoTokenizer, DynamicCache

from interpole.checkpoints.checkpoint import Checkpoint
from interpole.engines.attention import attend_in_groups, growing_cache
from interpole.engines.base import Finished, Request, chance_finished, eos_tokens, marker_tokens
from interpole.engines.devices import SMALL_PARAMETERS
from interpole.engines.sampling import NO_TOKEN, Settings, chances, draw
from interpole.engines.weights import load_into
from interpole.errors import EngineError
from interpole.records import Generation

__all__ = ["BatchRow", "Rows"]

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
OTHERWISE = (
    "code that comes with a model is never run here: take a model that transformers knows by itself, "
    "or serve it elsewhere and sweep it with --base-url"
)
LONGEST_REASON = 600  # characters


@dataclass(slots=True, eq=False)
class BatchRow:
    """One request on its way: its prompt, what was generated so far, and its random numbers."""

    request: Request
    prompt: list[int]
    cap_tokens: int
    random: np.random.Generator
    tokens: list[int] = field(default_factory=list)
    finish: str = ""
    uniforms: list[float] = field(default_factory=list)
    begins: list[int] = field(default_factory=list)  # tokens that it is led through, in place of drawn ones
    steps: list[list[float]] = field(default_factory=list)  # how likely each of them was

    @property
    def key(self) -> int:
        """The request's."""
        return self.request.key

    def next_uniform(self) -> float:
        """The next number of this row's own stream, drawn ahead by the hundred."""
        if not self.uniforms:
            self.uniforms = self.random.random(128).tolist()[::-1]
        return self.uniforms.pop()


@dataclass(slots=True)
class _Batch:
    """Rows that advance together, left-padded to one length."""

    rows: list[BatchRow]
    cache: DynamicCache
    mask: torch.Tensor  # (B, T) bool: True where a token stands
    settings: Settings


class Rows:
    """A model with its batch, and the rows that wait for a place in it; whose requests they are is the business of an engine.

    Attributes:
        model: the live torch model.
        tokenizer: its tokenizer.
        device: where the model is.
        context_tokens: most tokens of a prompt and its response together.
        vocab_size: how many logits there are.
        max_rows: most responses generated at the same time.
        waiting: rows that are not in the batch yet.
        before_forward: called before each forward pass, over so many tokens of each of these rows.
        after_draw: called when a token of each row is drawn from logits (B, V); finished rows are among them.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        dtype: str = "auto",
        device: str | None = None,
        threads: int | None = None,
        max_rows: int = 128,
    ) -> None:
        """Load architecture, tokenizer and weights.

        Args:
            checkpoint: the first weights; its assets name the folder of config and tokenizer.
            dtype: `auto` (that of the config), `bfloat16`, `float16` or `float32` (on CPU twice as fast for tiny models).
            device: default `cuda` where there is one.
            threads: CPU threads; default one for models under 50 million parameters, else torch's own choice.
            max_rows: most responses generated at the same time.

        Raises:
            EngineError: transformers cannot load the folder, or there is no such dtype or device.
        """
        if dtype != "auto" and dtype not in DTYPES:
            raise EngineError(f"dtype: there is no {dtype!r} here", remedy=f"choose auto, {', '.join(DTYPES)}")
        folder = Path(checkpoint.assets["config.json"]).parent
        try:
            self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
            torch.empty(0, device=self.device)
        except (RuntimeError, AssertionError) as error:
            raise EngineError(f"device: {error}", remedy="choose cpu, or leave it out") from error
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
            _refuse_code(checkpoint.config)
            self.model = _model_class(folder).from_pretrained(
                folder, dtype=DTYPES.get(dtype, dtype), trust_remote_code=False
            )
        except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
            what = str(error) if len(str(error)) < LONGEST_REASON else f"{str(error)[:LONGEST_REASON]} …"
            raise EngineError(f"transformers cannot load the model: {what}", folder, OTHERWISE) from error
        self.model.to(self.device).eval()
        attend_in_groups(self.model)
        if self.device.type == "cpu" and (threads or self.model.num_parameters() < SMALL_PARAMETERS):
            torch.set_num_threads(threads or 1)
        self._eos = eos_tokens(checkpoint, self.tokenizer)
        self.context_tokens = getattr(self.model.config.get_text_config(), "max_position_embeddings", None) or 2**31
        self.vocab_size = self.model.get_output_embeddings().weight.shape[0]
        self.max_rows = max_rows
        self.waiting: deque[BatchRow] = deque()
        self._entering: list[BatchRow] = []  # rows that an error would cost just now, before they are in the batch
        self._batch: _Batch | None = None
        self.before_forward: Callable[[Sequence[BatchRow], int], None] = lambda *_: None
        self.after_draw: Callable[[Sequence[BatchRow], Sequence[int], torch.Tensor], None] = lambda *_: None
        self.load(checkpoint)

    def versions(self) -> dict[str, str]:
        """Name, versions, dtype and device."""
        return {
            "engine": "transformers",
            "transformers": transformers.__version__,
            "torch": torch.__version__,
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "device": self.device.type,
        }

    @property
    def running(self) -> list[BatchRow]:
        """Rows of the batch that are not finished; may be asked in any thread."""
        batch = self._batch
        return [row for row in batch.rows if not row.finish] if batch else []

    @property
    def busy(self) -> bool:
        """Whether rows wait, or are not finished."""
        return bool(self.waiting or self.running)

    def abandon(self) -> None:
        """Empty queue and batch."""
        self.waiting.clear()
        self._entering, self._batch = [], None

    def fail(self) -> list[BatchRow]:
        """Take out the rows that the step which just failed had in the model; what else is there goes on."""
        failed, self._entering = self._entering, []
        if not failed:
            failed, self._batch = self.running, None
        return failed

    def cancel(self, key: int) -> bool:
        """Forget a row; returns whether it was there. Of the batch it is dropped with the next step."""
        for row in (*self.waiting, *self.running):
            if row.key == key:
                row.finish = "cancelled"
                if row in self.waiting:
                    self.waiting.remove(row)
                if not self.running:
                    self._batch = None
                return True
        return False

    def load(self, checkpoint: Checkpoint) -> None:
        """Replace the weights in place.

        Raises:
            MismatchError: a tensor does not fit; the weights are as they were.
        """
        load_into(self.model, checkpoint)

    def row(self, request: Request) -> BatchRow:
        """Tokenise a request; it waits once it is put among `waiting`.

        Raises:
            EngineError: its prompt leaves no room in the model's context.
        """
        prompt = self.tokenizer(request.prompt, add_special_tokens=False)["input_ids"]
        room = self.context_tokens - len(prompt)
        if not prompt or room <= 0:
            raise EngineError(
                f"a prompt of {len(prompt)} tokens does not fit a context of {self.context_tokens}",
                remedy="shorten it; an empty prompt cannot be answered",
            )
        begins = [] if request.begins is None else marker_tokens(self.tokenizer, request.begins, room)
        random = np.random.Generator(np.random.Philox(request.seed % 2**64))
        return BatchRow(request, prompt, min(request.sampler.max_tokens, room), random, begins=begins)

    @torch.inference_mode()
    def step(self) -> list[Finished]:
        """Give every running row one more token, after letting waiting rows in where there is room for a good few."""
        self._leave()
        room = self.max_rows - (len(self._batch.rows) if self._batch else 0)
        if room and self.waiting and room >= min(len(self.waiting), self.max_rows // 4):
            return self._enter([self.waiting.popleft() for _ in range(min(room, len(self.waiting)))])
        if self._batch is None:
            return []
        batch = self._batch
        tokens = torch.tensor([[row.tokens[-1]] for row in batch.rows], device=self.device)
        batch.mask = torch.cat([batch.mask, batch.mask.new_ones(len(batch.rows), 1)], dim=1)
        return self._advance(batch, self._forward(tokens, batch))

    def _enter(self, rows: list[BatchRow]) -> list[Finished]:
        """Read the prompts of new rows, draw their first tokens, and join them to the batch."""
        self._entering = rows
        longest = max(len(row.prompt) for row in rows)
        pads = [longest - len(row.prompt) for row in rows]
        tokens = torch.tensor([[0] * pad + row.prompt for pad, row in zip(pads, rows, strict=True)], device=self.device)
        columns = torch.arange(longest, device=self.device)
        mask = columns >= torch.tensor(pads, device=self.device)[:, None]  # (B, T)
        batch = _Batch(rows, growing_cache(), mask, self._settings(rows))
        finished = self._advance(batch, self._forward(tokens, batch))
        joined, self._batch = self._batch, None
        if joined is not None:
            self._entering = rows + [row for row in joined.rows if not row.finish]
            batch = _join(joined, batch, self._settings)
        self._batch, self._entering = batch, []
        return finished

    def _forward(self, tokens: torch.Tensor, batch: _Batch) -> torch.Tensor:
        """Logits (B, V) after the last of `tokens` (B, S)."""
        self.before_forward(batch.rows, tokens.shape[1])
        positions = (batch.mask.cumsum(-1) - 1).clamp(min=0)[:, -tokens.shape[1] :]
        logits = self.model(
            input_ids=tokens,
            attention_mask=batch.mask,
            position_ids=positions,
            past_key_values=batch.cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits
        return logits[:, -1]

    def _advance(self, batch: _Batch, logits: torch.Tensor) -> list[Finished]:
        """Draw a token per row; returns the rows that this finished."""
        uniforms = torch.tensor([row.next_uniform() for row in batch.rows], device=self.device)
        drawn = draw(logits, batch.settings, uniforms).tolist()
        finished = self._lead(batch, logits, drawn)
        self.after_draw(batch.rows, drawn, logits)
        for row, token in zip(batch.rows, drawn, strict=True):
            if row.finish:
                continue
            if token == NO_TOKEN:
                row.finish = "error"
                error = EngineError(
                    "the model's logits are not finite", remedy="its weights are broken, or need a wider dtype"
                )
                finished.append(Finished(row.key, Generation("", 0, "error"), error))
                continue
            row.tokens.append(token)
            if row.begins:
                continue
            row.finish = "stop" if token in self._eos else "length" if len(row.tokens) >= row.cap_tokens else ""
            if row.finish:
                finished.append(Finished(row.key, self._generation(row)))
        return finished

    def _lead(self, batch: _Batch, logits: torch.Tensor, drawn: list[int]) -> list[Finished]:
        """Weigh the next tokens of rows that are led through a text, and put them into `drawn`; returns the rows at its end."""
        led = [i for i, row in enumerate(batch.rows) if row.begins and not row.finish]
        if not led:
            return []
        rows, finished = [batch.rows[i] for i in led], []
        tokens = [row.begins[len(row.tokens)] for row in rows]
        found = chances(logits[led], self._settings(rows), torch.tensor(tokens, device=self.device)).tolist()
        for i, row, token, step in zip(led, rows, tokens, found, strict=True):
            drawn[i] = token
            row.steps.append(step)
            if len(row.steps) == len(row.begins):
                row.finish = "stop"
                finished.append(chance_finished(row.request, row.steps))
        return finished

    def _leave(self) -> None:
        """Drop finished rows once they are a quarter of the batch (each drop copies the cache), or others wait."""
        if self._batch is None:
            return
        live = [i for i, row in enumerate(self._batch.rows) if not row.finish]
        if not live:
            self._batch = None
        elif len(live) <= 0.75 * len(self._batch.rows) or (self.waiting and len(live) < len(self._batch.rows)):
            self._batch = _keep(self._batch, live, self._settings)

    def _settings(self, rows: Sequence[BatchRow]) -> Settings:
        requests = [row.request for row in rows]
        samplers, min_p = [one.sampler for one in requests], [one.min_p for one in requests]
        return Settings.of(samplers, self.vocab_size, self.device, min_p)

    def _generation(self, row: BatchRow) -> Generation:
        """The response without its final end-of-sequence token; everything else, special or not, stays."""
        text_tokens = row.tokens[:-1] if row.finish == "stop" else row.tokens
        text = self.tokenizer.decode(text_tokens, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return Generation(text, len(row.tokens), row.finish)


def _refuse_code(config: Any) -> None:
    """Look for kernels of the hub that a config names: transformers would fetch and run them, where `kernels` is installed.

    Raises:
        ValueError: it names one.
    """
    for key, value in config.items() if isinstance(config, Mapping) else enumerate(config):
        if isinstance(value, Mapping | list):
            _refuse_code(value)
        if str(key).endswith("_implementation") and "/" in str(value):
            raise ValueError(f"its config.json asks for code from elsewhere: {key}: {value!r}")


def _model_class(folder: Path) -> Any:
    """What to load a folder's model with: the language model, or the one with eyes that it is part of.

    Raises:
        ValueError: transformers knows no such model.
    """
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    for mapped in (AutoModelForCausalLM, AutoModelForImageTextToText):
        if type(config) in mapped._model_mapping:
            return mapped
    raise ValueError(f"it has no language model for model_type {config.model_type!r}")


def _keep(batch: _Batch, live: list[int], settings: Any) -> _Batch:
    """The rows numbered `live`, without the columns at the left in which none of them has a token."""
    index = torch.tensor(live, device=batch.mask.device)
    mask = batch.mask[index]
    start = int(mask.any(0).int().argmax())
    for layer in batch.cache.layers:
        layer.keys, layer.values = layer.keys[index, :, start:], layer.values[index, :, start:]
    rows = [batch.rows[i] for i in live]
    return _Batch(rows, batch.cache, mask[:, start:], settings(rows))


def _join(a: _Batch, b: _Batch, settings: Any) -> _Batch:
    """Both batches as one, the shorter padded on the left."""
    length = max(a.mask.shape[1], b.mask.shape[1])
    for ours, theirs in zip(a.cache.layers, b.cache.layers, strict=True):
        ours.keys = torch.cat([_pad(ours.keys, length, -2), _pad(theirs.keys, length, -2)])  # (B, H, T, D)
        ours.values = torch.cat([_pad(ours.values, length, -2), _pad(theirs.values, length, -2)])
    mask = torch.cat([_pad(a.mask, length, -1), _pad(b.mask, length, -1)])
    rows = a.rows + b.rows
    return _Batch(rows, a.cache, mask, settings(rows))


def _pad(tensor: torch.Tensor, length: int, dim: int) -> torch.Tensor:
    """`tensor` filled with zeros at the start of dimension `dim` (-1 or -2) up to `length`."""
    before = [0, 0] * (-1 - dim) + [length - tensor.shape[dim], 0]
    return torch.nn.functional.pad(tensor, before)
