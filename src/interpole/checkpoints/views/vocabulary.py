"""Vocabularies that differ between sources: rows of the embeddings and lm_head matched by token, or the choice put to the reader.

The vocabulary of the result is that of the source whose tokenizer goes with it. Rows of the other sources are put in its order;
where another source has no such token, the row is that source's of the tokenizer, so that every method leaves it as it is.
"""

from __future__ import annotations

import filecmp
import hashlib
from abc import abstractmethod
from base64 import b64decode
from collections.abc import Callable, Mapping
from functools import lru_cache
from itertools import islice
from math import prod
from pathlib import Path
from typing import Any, NamedTuple, final

import numpy as np
from numpy.typing import NDArray

from interpole.checkpoints.assets import TekkenFile, TokenizerFile, read_asset
from interpole.checkpoints.checkpoint import Checkpoint, Origin
from interpole.checkpoints.names import has_token_rows
from interpole.checkpoints.safetensors import DTYPES, TensorSpec
from interpole.errors import MismatchError

__all__ = [
    "NO_CHANGES",
    "POLICIES",
    "Aligned",
    "RowChanges",
    "TokenRow",
    "changed_rows",
    "same_tokenizer",
    "same_vocabulary",
    "vocabulary",
    "vocabulary_tensors",
]

POLICIES = {
    "refuse": "go on only if every id that both tokenizers have means the same token",
    "align": "match rows by token; the vocabulary is that of the source whose tokenizer goes with the result",
    "ids": "match rows by number, whatever they mean",
}
"""What to do about vocabularies that differ."""

MOST_LETTERS, MOST_LIKE = 40, 1000
"""Of a token that is not there, those most like it are looked for among so many, not longer than that."""
Rows = NDArray[np.int64]


class TokenRow(NamedTuple):
    """Where the row of a token comes from in a source that has none, or, with `force`, in all of them.

    Attributes:
        source: the name of the source whose row it is; None: zeros.
        token: that source's token, if it is another one.
        row: that source's row by number.
        force: the row is this one in every source, also where they have their own.
        where: file and line that say so, where it is a file.
    """

    source: str | None
    token: str | None = None
    row: int | None = None
    force: bool = False
    where: str = ""


class RowChanges(NamedTuple):
    """What is done to the rows of tokens beyond matching them.

    Attributes:
        tokens: token → where its row comes from.
        multiple: the number of rows is the next multiple of this above that of the tokens; None: as it is.
    """

    tokens: tuple[tuple[str, TokenRow], ...] = ()
    multiple: int | None = None


NO_CHANGES = RowChanges()


class _Elsewhere(NamedTuple):
    """A row of another checkpoint; None: zeros."""

    checkpoint: Checkpoint | None
    row: int


class _OtherRows(Checkpoint):
    """A checkpoint with other rows of tokens; all else is its source's.

    Attributes:
        source: the checkpoint as it is.
    """

    def __init__(self, source: Checkpoint, names: set[str], num_rows: int) -> None:
        """Plan the view; reads no tensor.

        Args:
            source: the checkpoint as it is.
            names: the tensors with other rows.
            num_rows: how many rows these have.
        """
        self.source, self._names = source, names
        self.label, self.config, self.assets = source.label, source.config, source.assets
        self.given_template = source.given_template
        self.layout = source.layout
        self.specs = {
            name: TensorSpec(spec.dtype, (num_rows, *spec.shape[1:])) if name in names else spec
            for name, spec in source.specs.items()
        }

    @abstractmethod
    def _read_rows(self, name: str, first: int, last: int, width: int) -> NDArray[Any]:
        """Rows [first, last) of a tensor with other rows, each of `width` elements."""

    @final
    def read(self, name: str, start: int = 0, stop: int | None = None) -> NDArray[Any]:
        """Elements [start, stop), cut out of the rows that hold them."""
        if name not in self._names:
            return self.source.read(name, start, stop)
        spec = self.specs[name]
        width, stop = prod(spec.shape[1:]), spec.num_elements if stop is None else stop
        first, last = start // width, -(-stop // width)
        return self._read_rows(name, first, last, width).reshape(-1)[start - first * width : stop - first * width]

    @final
    def origin(self, name: str) -> Origin | None:
        """Where the tensor lies in the source, if it has no rows of tokens."""
        return None if name in self._names else self.source.origin(name)

    @final
    def chunk_elements(self, name: str) -> int | None:
        """As the source."""
        return self.source.chunk_elements(name)


@final
class _Rewritten(_OtherRows):
    """A checkpoint with some rows of tokens taken from elsewhere, and rows below them that are the mean of the others."""

    def __init__(self, source: Checkpoint, rows: Mapping[int, _Elsewhere], num_tokens: int, num_rows: int) -> None:
        """Plan the view; reads no tensor.

        Args:
            source: the checkpoint as it is.
            rows: row → what stands there instead.
            num_tokens: rows that stay; those from here on are the mean of the ones before.
            num_rows: rows of the view.
        """
        super().__init__(source, vocabulary_tensors(source), num_rows)
        self._rows, self._num_tokens, self._num_rows = dict(rows), num_tokens, num_rows
        self.config = _with_rows(source.config, num_rows) if num_rows != _num_rows(source) else source.config
        self._mean = lru_cache(maxsize=4)(self._mean_row)

    def _read_rows(self, name: str, first: int, last: int, width: int) -> NDArray[Any]:
        """As the source, then row by row what is otherwise."""
        kept = max(first, min(last, self._num_tokens))
        out = np.empty((last - first, width), DTYPES[self.specs[name].dtype])
        out[: kept - first] = self.source.read(name, first * width, kept * width).reshape(-1, width)
        for row, other in self._rows.items():
            if first <= row < kept:
                out[row - first] = self._row(name, other, width)
        if kept < last:
            out[kept - first :] = self._mean(name)
        return out

    def _row(self, name: str, other: _Elsewhere, width: int) -> Any:
        if other.checkpoint is None:
            return 0
        return other.checkpoint.read(name, other.row * width, (other.row + 1) * width)

    def _mean_row(self, name: str) -> NDArray[Any]:
        """The mean of all rows of tokens, in float64, rounded once."""
        width = prod(self.specs[name].shape[1:])
        total, step = np.zeros(width), max(1, _MEAN_ELEMENTS // width)
        for row in range(0, self._num_tokens, step):
            part = self.read(name, row * width, min(row + step, self._num_tokens) * width)
            total += part.reshape(-1, width).astype(np.float64).sum(axis=0)
        return (total / self._num_tokens).astype(np.float32).astype(DTYPES[self.specs[name].dtype])

    def fingerprint(self, *, quick: bool = False) -> str:
        """Hash of the source's fingerprint, of the others' and of what is where."""
        others = {row: (c and c.fingerprint(quick=quick), at) for row, (c, at) in self._rows.items()}
        parts = ["rewritten", self.source.fingerprint(quick=quick), others, self._num_tokens, self._num_rows]
        return hashlib.sha256(repr(parts).encode()).hexdigest()


_MEAN_ELEMENTS = 1 << 20


def changed_rows(
    aligned: Mapping[str, Checkpoint], originals: Mapping[str, Checkpoint], target: str, changes: RowChanges
) -> tuple[dict[str, Checkpoint], tuple[str, ...]]:
    """The sources with the changes done, the very same ones where there are none; what was done in words.

    Args:
        aligned: the sources in the target's order of rows.
        originals: the same before they were put in it.
        target: the name of the source whose vocabulary all have.
        changes: what is to be done.

    Raises:
        MismatchError: a token or a row is not there.
    """
    if changes == NO_CHANGES:
        return dict(aligned), ()
    known = vocabulary(originals[target])
    if not known:
        raise MismatchError(
            "no tokenizer.json tells the rows of tokens", originals[target].label, "fetch the tokenizer"
        )
    for token, row in changes.tokens:
        _check_token(token, row, known, originals[target].label)
    places = {token: _place_of(token, row, originals) for token, row in changes.tokens}
    there = _num_rows(aligned[target])
    num_tokens, num_rows = there, there
    if changes.multiple is not None:
        num_tokens = max(known.values()) + 1
        num_rows = -(-num_tokens // changes.multiple) * changes.multiple
    if num_tokens > there:
        raise MismatchError(
            f"the tokenizer has {num_tokens:,} tokens, the embeddings {there:,} rows",
            originals[target].label,
            "resize the embeddings and save that model first",
        )
    result: dict[str, Checkpoint] = {}
    forced = dict(changes.tokens)
    for name, source in aligned.items():
        ours = vocabulary(originals[name]) or known
        size = _num_rows(originals[name])
        rows = {
            known[token]: place
            for token, place in places.items()
            if forced[token].force or ours.get(token, size) >= size  # it has none
        }
        result[name] = _Rewritten(source, rows, num_tokens, num_rows)
    said = f"rows of {', '.join(map(repr, places))} as the recipe says" if places else ""
    filled = f"{num_rows - num_tokens:,} rows below the {num_tokens:,} tokens are the mean of theirs"
    return result, tuple(note for note in (said, filled if changes.multiple is not None else "") if note)


def _check_token(token: str, row: TokenRow, known: Mapping[str, int], label: str) -> None:
    """Refuse a token that the tokenizer of the result lacks; with those most like it."""
    if token not in known:
        from difflib import get_close_matches

        like = (one for one in known if one[:2] == token[:2] and len(one) <= MOST_LETTERS)
        near = ", ".join(map(repr, get_close_matches(token[:MOST_LETTERS], islice(like, MOST_LIKE), cutoff=0.5)))
        raise MismatchError(
            f"tokens: {token!r} is none of the {len(known):,} tokens of the result's tokenizer, {label}'s",
            row.where,
            (f"most like it: {near}; " if near else "")
            + "tokens are not added: add it to that tokenizer, resize the embeddings and save that model first",
        )


def _place_of(token: str, row: TokenRow, originals: Mapping[str, Checkpoint]) -> _Elsewhere:
    """Where the row of a token comes from."""
    if row.source is None:
        return _Elsewhere(None, 0)
    checkpoint = originals[row.source]
    number = row.row if row.row is not None else (vocabulary(checkpoint) or {}).get(row.token or token)
    if number is None or not 0 <= number < _num_rows(checkpoint):
        what = f"row {number}" if number is not None else f"token {row.token or token!r}"
        lacking = f"{row.source} ({checkpoint.label}), which has none"
        raise MismatchError(f"tokens: {token!r} is to be {what} of {lacking}", row.where, "name one that is there")
    return _Elsewhere(checkpoint, number)


def _with_rows(config: Mapping[str, Any], num_rows: int) -> dict[str, Any]:
    """The config with another size of the vocabulary, wherever it says one."""
    changed = dict(config)
    if isinstance(text := config.get("text_config"), Mapping) and "vocab_size" in text:
        changed["text_config"] = dict(text) | {"vocab_size": num_rows}
    return changed | ({"vocab_size": num_rows} if "vocab_size" in config else {})


@final
class Aligned(_OtherRows):
    """A checkpoint with its vocabulary in the order of another's.

    Attributes:
        target: the one whose vocabulary it takes.
    """

    def __init__(self, source: Checkpoint, target: Checkpoint, rows: Rows) -> None:
        """Plan the view; reads no tensor.

        Args:
            source: the checkpoint to put in order.
            target: the checkpoint whose order it is.
            rows: row of `source` for every row of `target`; -1: the its own row.
        """
        super().__init__(source, vocabulary_tensors(source) & vocabulary_tensors(target), len(rows))
        self.target, self._rows = target, rows

    def _read_rows(self, name: str, first: int, last: int, width: int) -> NDArray[Any]:
        """Runs of neighbouring rows are read together."""
        chosen = self._rows[first:last]
        same_run = np.where(chosen[:-1] < 0, chosen[1:] < 0, np.diff(chosen) == 1)  # all -1, or counting up
        ends = np.flatnonzero(~same_run) + 1
        parts = [self.source.read(name, 0, 0)]
        for begin, end in zip([0, *ends], [*ends, len(chosen)], strict=True):
            reader, row = (self.source, chosen[begin]) if chosen[begin] >= 0 else (self.target, first + begin)
            part = reader.read(name, int(row) * width, (int(row) + int(end - begin)) * width)
            parts.append(part.astype(parts[0].dtype, copy=False))
        return np.concatenate(parts)

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
