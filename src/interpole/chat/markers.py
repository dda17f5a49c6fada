"""A family's think markers and its added tokens, found in its tokenizer's files and its template, never by token id."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from interpole.checkpoints.assets import SpecialTokens, TekkenFile, TokenizerConfig, TokenizerFile, read_asset
from interpole.errors import TaskError

__all__ = ["Markers", "added_tokens", "find_markers", "markers_in", "special_variables"]


@dataclass(frozen=True, slots=True)
class Markers:
    """The strings that open and close a think block, e.g. `<think>` and `</think>`."""

    open: str
    close: str

    def __post_init__(self) -> None:
        """Refuse markers that cannot be told apart."""
        if not self.open or not self.close or self.open == self.close:
            raise TaskError(
                f"think markers must be two different, non-empty strings; got {self.open!r} and {self.close!r}",
                remedy="give both, e.g. <think> and </think>",
            )

    def rejoin(self, thinking: str, text: str) -> str:
        """The whole response, where somebody has split the thinking off; without any text after it, it was never closed."""
        if not thinking or self.close in text:
            return text
        return f"{self.open}{thinking}" + (f"{self.close}{text}" if text.strip() else "")


_THINKS = re.compile(r"think|thought|reason", re.IGNORECASE)
_TAG = re.compile(r"<\|[^\s<>|'\"]{2,40}\|>|<[^\s<>'\"]{2,40}>|\[[^\s\[\]'\"]{2,40}\]|◁[^\s◁▷]{2,40}▷")
_OPENERS = (("/", ""), ("end", "begin"), ("end", "start"), ("END", "BEGIN"), ("END", "START"))


def find_markers(assets: Mapping[str, Path], template: str | None) -> Markers:
    """Find a family's think markers in its tokenizer's added tokens and its chat template.

    A pair is a closing tag and the opening tag of the same shape (`</think>`/`<think>`, `[/THINK]`/`[THINK]`,
    `<|END_THINKING|>`/`<|START_THINKING|>`). Pairs that tokenizer and template agree on come first, then the
    template's, then the tokenizer's; last, an opening tag that stands alone in the template is closed in its shape.

    Args:
        assets: the checkpoint's files by name (`tokenizer.json`, `tokenizer_config.json`, `tekken.json`).
        template: its chat template, if it has one.

    Raises:
        TaskError: no pair, or several with nothing to choose by; the message lists what was seen.
    """
    tokens = added_tokens(assets)
    known = _pairs(token for token in tokens if _THINKS.search(token))
    named = _pairs(_tags(template or ""))
    lone = [Markers(tag, f"{tag[0]}/{tag[1:]}") for tag in _tags(template or "") if "/" not in tag and "|" not in tag]
    for pairs in ([pair for pair in known if pair in named], named, known, lone):
        if len(pairs) == 1:
            return pairs[0]
        if pairs:
            break
    seen = [f"{pair.open} {pair.close}" for pair in (*known, *named)]
    raise TaskError(
        f"{'several' if seen else 'no'} think markers in tokenizer and chat template",
        where=", ".join(dict.fromkeys(seen)) or f"added tokens: {', '.join(tokens[:40]) or 'none'}",
        remedy='name the pair, e.g. Markers("<think>", "</think>")',
    )


def added_tokens(assets: Mapping[str, Path]) -> tuple[str, ...]:
    """List the tokenizer's added (special and control) tokens: those that a pseudo-close can be made of.

    Raises:
        CorruptError: a tokenizer file cannot be read, or an entry of it makes no sense.
    """
    found: list[str] = []
    if path := assets.get("tokenizer.json"):
        found += [token.content for token in read_asset(path, TokenizerFile).added_tokens or []]
    if path := assets.get("tokenizer_config.json"):
        found += (read_asset(path, TokenizerConfig).added_tokens_decoder or {}).values()
    if path := assets.get("tekken.json"):
        found += [token.token_str for token in read_asset(path, TekkenFile).special_tokens or []]
    return tuple(dict.fromkeys(found))


def special_variables(assets: Mapping[str, Path]) -> dict[str, str]:
    """Give the special tokens that templates may name (`bos_token`, `eos_token` …), as transformers passes them.

    Raises:
        CorruptError: a tokenizer file cannot be read, or a token in it is no text.
    """
    found: dict[str, str] = {}
    for file in ("special_tokens_map.json", "tokenizer_config.json"):
        if path := assets.get(file):
            tokens = read_asset(path, SpecialTokens)
            found |= {name: text for name, text in tokens if text is not None}
    return found


def markers_in(template: str) -> Markers | None:
    """The pair of markers that a template names; None where there is none, or more than one."""
    pairs = _pairs(_tags(template))
    return pairs[0] if len(pairs) == 1 else None


def _tags(template: str) -> list[str]:
    return [tag for tag in dict.fromkeys(_TAG.findall(template)) if _THINKS.search(tag)]


def _pairs(tokens: Iterable[str]) -> list[Markers]:
    """Pair each closing token with the opening token of the same shape."""
    known = dict.fromkeys(tokens)
    found = [
        Markers(opener, close)
        for close in known
        for old, new in _OPENERS
        if old in close and (opener := close.replace(old, new, 1)) in known
    ]
    return list(dict.fromkeys(found))
