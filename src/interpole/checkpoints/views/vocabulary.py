"""Vocabularies that differ between sources: rows of the embeddings and lm_head matched by token, or the choice put to the reader.

The vocabulary of the result is that of the source whose tokenizer goes with it. Rows of the other sources are put in its order;
where another source has no such token, the row is that source's of the tokenizer, so that every method leaves it as it is.
"""

from __future__ import annotations

import filecmp
import hashlib
from base64 import b64decode
from collections.abc import Callable, Mapping
from functools import lru_cache
from math import prod
from pathlib import Path
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from interpole.checkpoints.assets import TekkenFile, TokenizerFile, read_asset
from interpole.checkpoints.checkpoint import Checkpoint, Origin
from interpole.checkpoints.names import has_token_rows
from interpole.checkpoints.safetensors import TensorSpec
from interpole.errors import MismatchError

__all__ = ["POLICIES", "Aligned", "same_tokenizer", "same_vocabulary", "vocabulary", "vocabulary_tensors"]

POLICIES = {
    "refuse": "go on only if every id that both tokenizers have means the same token",
    "align": "match rows by token; the vocabulary is that of the source whose tokenizer goes with the result",
    "ids": "match rows by number, whatever they mean",
}
"""What to do about vocabularies that differ."""

Rows = NDArray[np.int64]


@final
class Aligned(Checkpoint):
    """A checkpoint with its vocabulary in the order of another's.

    Attributes:
        source: the checkpoint as it is.
        target: the one whose vocabulary it takes.
    """

    def __init__(self, source: Checkpoint, target: Checkpoint, rows: Rows) -> None:
        """Plan the view; reads no tensor.

        Args:
            source: the checkpoint to put in order.
            target: the checkpoint whose order it is.
            rows: row of `source` for every row of `target`; -1: the its own row.
        """
        self.source, self.target, self._rows = source, target, rows
        self.label, self.config, self.assets = source.label, source.config, source.assets
        self.given_template = source.given_template
        self.layout = source.layout
        self._names = vocabulary_tensors(source) & vocabulary_tensors(target)
        self.specs = {
            name: TensorSpec(spec.dtype, (len(rows), *spec.shape[1:])) if name in self._names else spec
            for name, spec in source.specs.items()
        }

    def read(self, name: str, start: int = 0, stop: int | None = None) -> NDArray[Any]:
        """Elements [start, stop); runs of neighbouring rows are read together."""
        if name not in self._names:
            return self.source.read(name, start, stop)
        spec = self.specs[name]
        width = prod(spec.shape[1:])
        stop = spec.num_elements if stop is None else stop
        first, last = start // width, -(-stop // width)
        chosen = self._rows[first:last]
        same_run = np.where(chosen[:-1] < 0, chosen[1:] < 0, np.diff(chosen) == 1)  # all -1, or counting up
        ends = np.flatnonzero(~same_run) + 1
        parts = [self.source.read(name, 0, 0)]
        for begin, end in zip([0, *ends], [*ends, len(chosen)], strict=True):
            reader, row = (self.source, chosen[begin]) if chosen[begin] >= 0 else (self.target, first + begin)
            part = reader.read(name, int(row) * width, (int(row) + int(end - begin)) * width)
            parts.append(part.astype(parts[0].dtype, copy=False))
        return np.concatenate(parts)[start - first * width : stop - first * width]

    def origin(self, name: str) -> Origin | None:
        """Where the tensor lies in the source, if it has no rows of tokens."""
        return None if name in self._names else self.source.origin(name)

    def chunk_elements(self, name: str) -> int | None:
        """As the source."""
        return self.source.chunk_elements(name)

    def fingerprint(self, *, quick: bool = False) -> str:
        """Hash of both fingerprints and the order."""
        parts = f"aligned {self.source.fingerprint(quick=quick)} {self.target.fingerprint(quick=quick)} "
        return hashlib.sha256(parts.encode() + self._rows.tobytes()).hexdigest()


def same_vocabulary(
    sources: Mapping[str, Checkpoint], target: str, policy: str = "refuse"
) -> tuple[dict[str, Checkpoint], tuple[str, ...]]:
    """The sources with one vocabulary, the very same ones where nothing differs, and what was done in words.

    Args:
        sources: checkpoints by name.
        target: the name of the source whose vocabulary all take.
        policy: one of `POLICIES`.

    Raises:
        MismatchError: an id means different tokens, or nothing tells what the further rows mean; with the choices.
    """
    aligned, notes = {}, []
    for name, source in sources.items():
        rows = None if name == target else _match(source, sources[target], policy)
        aligned[name] = source if rows is None else Aligned(source, sources[target], rows)
        if rows is not None:
            notes.append(_note(name, source, target, rows))
    return aligned, tuple(notes)


def vocabulary(checkpoint: Checkpoint) -> Mapping[str, int] | None:
    """Token → id, added tokens included, from `tokenizer.json` or `tekken.json`; None where there is neither.

    Tokens that tekken keeps as bytes are spelt as byte-level tokenizers spell them, so that both files can be compared.
    """
    for name, reader in (("tokenizer.json", _from_tokenizer), ("tekken.json", _from_tekken)):
        if path := checkpoint.assets.get(name):
            return _read(reader, path, path.stat().st_mtime_ns)
    return None


@lru_cache(maxsize=3)
def _read(reader: Callable[[Path], dict[str, int]], path: Path, _: int) -> Mapping[str, int]:
    """Several checks ask for the same large file; its time tells versions apart."""
    return reader(path)


def _from_tokenizer(path: Path) -> dict[str, int]:
    content = read_asset(path, TokenizerFile)
    vocab = (content.model.vocab if content.model else None) or {}
    known = vocab if isinstance(vocab, dict) else {str(entry[0]): i for i, entry in enumerate(vocab)}
    return known | {token.content: token.id for token in content.added_tokens or ()}


def _from_tekken(path: Path) -> dict[str, int]:
    content = read_asset(path, TekkenFile)
    words, shift, size = content.vocab, content.config.default_num_special_tokens, content.config.default_vocab_size
    used = len(words) if size is None else max(0, size - shift)  # the file holds more than the model knows
    known = {_spell(b64decode(word.token_bytes)): word.rank + shift for word in words[:used]}
    return known | {token.token_str: token.rank for token in content.special_tokens or ()}


def _spell(token: bytes) -> str:
    """Bytes in the letters that byte-level BPE gives them: printable ones their own, the others those from 256 on, in order."""
    return token.decode("latin-1").translate(_LETTERS)


_UNPRINTABLE = [*range(33), *range(127, 161), 173]
_LETTERS = {byte: 256 + i for i, byte in enumerate(_UNPRINTABLE)}


def vocabulary_tensors(checkpoint: Checkpoint) -> set[str]:
    """Names of the tensors with one row per token."""
    rows = _num_rows(checkpoint)
    return {name for name in checkpoint.token_rows if checkpoint.specs[name].shape[:1] == (rows,)}


def _num_rows(checkpoint: Checkpoint) -> int:
    """Rows of the embeddings; 0 where there are none."""
    names = [name for name in checkpoint.token_rows if checkpoint.specs[name].shape]
    return max((checkpoint.specs[name].shape[0] for name in names), default=0)


def _match(source: Checkpoint, target: Checkpoint, policy: str) -> Rows | None:
    """Row of `source` for every row of `target`, -1 where it has none; None where they are the same."""
    have, want = _num_rows(source), _num_rows(target)
    if not (have and want) or isinstance(source, Aligned) or not _same_model(source, target):
        return None  # nothing to do, or for `matching` to say
    if have == want and (policy == "ids" or same_tokenizer(source, target)):
        return None
    rows = np.arange(want)
    rows[have:] = -1
    if policy != "ids":
        ours, theirs = vocabulary(source), vocabulary(target)
        if not ours or not theirs:
            if have == want:
                return None
            raise _unknown(source, target, have, want, source if not ours else target)
        if policy == "refuse":
            _check_ids(ours, theirs, source, target)
        rows = _by_token(ours, theirs, rows)
    rows[rows >= have] = -1  # a token of the tokenizer without a row
    return None if have == want and np.array_equal(rows, np.arange(want)) else rows


def _same_model(a: Checkpoint, b: Checkpoint) -> bool:
    """Whether the tensors have the same names and, number of tokens aside, those of the vocabulary the same shapes."""
    names = [name for name in a.specs if has_token_rows(name)]
    return a.keys() == b.keys() and all(a.specs[name].shape[1:] == b.specs[name].shape[1:] for name in names)


def _by_token(ours: Mapping[str, int], theirs: Mapping[str, int], rows: Rows) -> Rows:
    """Row by token where the target has one; padding rows by number where they are padding on both sides."""
    matched = rows.copy()
    matched[[row for row in ours.values() if row < len(rows)]] = -1
    for token, row in theirs.items():
        if row < len(rows):
            matched[row] = ours.get(token, -1)
    return matched


def same_tokenizer(a: Checkpoint, b: Checkpoint) -> bool:
    """Whether both have the same tokenizer file, byte for byte."""
    return any(
        name in a.assets and name in b.assets and filecmp.cmp(a.assets[name], b.assets[name], shallow=False)
        for name in ("tokenizer.json", "tekken.json")
    )


def _check_ids(ours: Mapping[str, int], theirs: Mapping[str, int], source: Checkpoint, target: Checkpoint) -> None:
    mine, other = ({row: token for token, row in tokens.items()} for tokens in (ours, theirs))
    if differing := sorted(row for row in mine.keys() & other.keys() if mine[row] != other[row]):
        first = differing[0]
        raise MismatchError(
            f"different vocabulary: id {first} is {mine[first]!r} in {source.label} and {other[first]!r} in {target.label}; "
            f"{len(differing)} ids differ",
            remedy=_choices("refuse"),
        )


def _unknown(source: Checkpoint, target: Checkpoint, have: int, want: int, lacking: Checkpoint) -> MismatchError:
    return MismatchError(
        f"different vocabulary: the embeddings have {have} rows in {source.label} and {want} in {target.label}, and "
        f"{lacking.label} has no tokenizer.json to tell what they mean",
        remedy="fetch the tokenizer, or match rows by number and take the further ones from where they are: --vocabulary ids",
    )


def _choices(policy: str) -> str:
    """The other policies, as a remedy."""
    return "choose: " + "; ".join(f"--vocabulary {name}: {what}" for name, what in POLICIES.items() if name != policy)


def _note(name: str, source: Checkpoint, target: str, rows: Rows) -> str:
    own, moved = int((rows < 0).sum()), int((rows[rows >= 0] != np.flatnonzero(rows >= 0)).sum())
    left = _num_rows(source) - len(np.unique(rows[rows >= 0]))
    return (
        f"vocabulary of {target} ({len(rows):,} rows): {own:,} rows that {name} lacks are {target}'s, {moved:,} rows of {name} "
        f"moved to their token's place, {left:,} rows of {name} left out"
    )
