"""Open a checkpoint lazily: headers first, tensors by byte range.

A `Checkpoint` is a read-only mapping *name → tensor*. `Folder` reads a local safetensors folder (single file or sharded);
`merging.merged.Merged` computes its tensors on read. Nothing here needs torch; bfloat16 and float8 arrays are `ml_dtypes`.
"""

from __future__ import annotations

import hashlib
import os
import re
import warnings
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, KeysView, Mapping
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, final

import numpy as np
from numpy.typing import NDArray

from interpole.checkpoints.assets import GenerationConfig, TokenizerConfig, read_asset, read_config, read_text
from interpole.checkpoints.fingerprint import block_sums, remembered, state_of
from interpole.checkpoints.hub import NO_ASSETS, fetch_headers, locate
from interpole.checkpoints.names import has_token_rows
from interpole.checkpoints.safetensors import DTYPES, TensorSpec, read_header, refuse_pointer
from interpole.errors import CheckpointError, CorruptError, InterpoleWarning
from interpole.files import LONGEST_NAME, StrPath
from interpole.formats import read_json
from interpole.systems import open_handle, read_at

__all__ = [
    "DTYPES",
    "Checkpoint",
    "Folder",
    "Headers",
    "Origin",
    "TensorSpec",
    "Tensors",
    "assets_of",
    "holds_weights",
    "open_checkpoint",
    "open_headers",
    "template_of",
]

Array = NDArray[Any]

CONVERT = (
    'convert once: python -c "from transformers import AutoModelForCausalLM as M; '
    "M.from_pretrained('{path}').save_pretrained('{path}-safetensors')\""
)


class Origin(NamedTuple):
    """Where the exact bytes of a tensor lie."""

    path: Path
    offset_bytes: int


class Checkpoint(Mapping[str, Array], ABC):
    """A read-only mapping from tensor name to array, with the files that make it a model.

    Attributes:
        label: what the user called it (path or hub id), for messages and logs.
        specs: name → `TensorSpec`, in file order, known without reading a tensor.
        layout: name → shard file name.
        config: the parsed `config.json`.
        assets: file name → path of the files that hold no weights: config, tokenizer, templates, code, licence; in folders
            below by their path from the model's folder. The README is none, as it speaks of other weights.
        notes: of a merge what had to be done to its sources so that they fit, in words.
        given_template: a chat template that takes the place of the one in the assets.
    """

    label: str
    notes: tuple[str, ...] = ()
    given_template: str | None = None
    specs: Mapping[str, TensorSpec]
    layout: Mapping[str, str]
    config: Mapping[str, Any]
    assets: Mapping[str, Path]

    @abstractmethod
    def read(self, name: str, start: int = 0, stop: int | None = None) -> Array:
        """Elements [start, stop) of the flattened tensor `name`, in the dtype of its spec, shape (stop - start,)."""

    @abstractmethod
    def origin(self, name: str) -> Origin | None:
        """Where the tensor's bytes lie on disk as they are, or None where they are computed."""

    @abstractmethod
    def chunk_elements(self, name: str) -> int | None:
        """How the tensor is best read: None in pieces of any size, or a number of elements to take at once."""

    @abstractmethod
    def fingerprint(self, *, quick: bool = False) -> str:
        """A hexadecimal id of the weights: other weights, other id.

        Args:
            quick: by place, size and times of the files instead of their content: other where a file was touched or moved.
        """

    def terms(self, name: str) -> tuple[tuple[Checkpoint, float], ...] | None:  # noqa: ARG002
        """The tensor as Σ wᵢ·Θᵢ, to be summed left to right in float32 and rounded once at the end; None if it is no such sum.

        One term of weight 1 is that checkpoint's tensor as it is. Only merges have terms.
        """
        return None

    def documents(self) -> Mapping[str, Callable[[], str]]:
        """File name → what makes the text that is written beside the weights: of a merge its model card and recipe."""
        return {}

    def __getitem__(self, name: str) -> Array:
        """The whole tensor in its own shape."""
        return self.read(name).reshape(self.specs[name].shape)

    def __iter__(self) -> Iterator[str]:
        """Tensor names in file order."""
        return iter(self.specs)

    def __len__(self) -> int:
        """Number of tensors."""
        return len(self.specs)

    def keys(self) -> KeysView[str]:
        """Tensor names, as a set of `specs`."""
        return self.specs.keys()

    def __contains__(self, name: object) -> bool:
        """Whether there is a tensor of this name; reads nothing."""
        return name in self.specs

    @property
    def num_bytes(self) -> int:
        """Size of all tensors on disk."""
        return sum(spec.num_bytes for spec in self.specs.values())

    def stored_bytes(self, name: str) -> int:
        """About how many bytes are read for the tensor where it is stored."""
        return self.specs[name].num_bytes

    def is_read_ahead(self, name: str) -> bool:  # noqa: ARG002
        """Whether all of the tensor is read before its first piece is computed, though it is computed in pieces."""
        return False

    @cached_property
    def token_rows(self) -> tuple[str, ...]:
        """The tensors with one row per token, if their shapes are those of such."""
        return tuple(filter(has_token_rows, self.specs))

    @cached_property
    def chat_template(self) -> str | None:
        """The default chat template: the one that was given, else that of `chat_template.jinja` or the tokenizer's config."""
        return template_of(self.assets) if self.given_template is None else self.given_template

    @cached_property
    def generation_config(self) -> Mapping[str, Any]:
        """The parsed `generation_config.json`; empty where there is none."""
        if (path := self.assets.get("generation_config.json")) is None:
            return {}
        read_asset(path, GenerationConfig)  # of the right types
        return read_json(path)


def template_of(assets: Mapping[str, Path]) -> str | None:
    """The default chat template that a checkpoint's files hold, if any."""
    if path := assets.get("chat_template.jinja"):
        return read_text(path)
    for name in ("chat_template.json", "tokenizer_config.json"):
        template = read_asset(assets[name], TokenizerConfig).chat_template if name in assets else None
        if isinstance(template, list):  # several named templates: the one called "default"
            template = next((one.template for one in template if one.name == "default"), None)
        if template is not None:
            return template
    return None


_PIECE = 1 << 18
"""Elements hashed at a time."""


@final
class Tensors:
    """The tensors of some safetensors files, read by byte range; safe to use from several threads.

    Attributes:
        files: where they lie.
        specs: name → `TensorSpec`, in file order.
        origins: name → where its bytes lie.
    """

    def __init__(self, files: Iterable[Path]) -> None:
        """Read the headers of `files`.

        Raises:
            CorruptError: a header contradicts its file, or two files hold one name.
        """
        self.files = tuple(files)
        self.specs: dict[str, TensorSpec] = {}
        self.origins: dict[str, Origin] = {}
        for path in self.files:
            specs, offsets = read_header(path)
            if doubled := self.specs.keys() & specs.keys():
                name = min(doubled)
                other = self.origins[name].path.name
                raise CorruptError(f"tensor {name} is in {other} and in {path.name}", path.parent, "remove one")
            self.specs |= specs
            self.origins |= {name: Origin(path, offset) for name, offset in offsets.items()}
        self._descriptors: dict[Path, int] = {}
        weakref.finalize(self, _close_all, self._descriptors)

    def read(self, name: str, start: int = 0, stop: int | None = None) -> Array:
        """Elements [start, stop) of the flattened tensor, in its own dtype.

        Raises:
            CorruptError: the file ends inside of it.
        """
        spec, origin = self.specs[name], self.origins[name]
        dtype = DTYPES[spec.dtype]
        stop = spec.num_elements if stop is None else stop
        out = np.empty(stop - start, dtype)
        view, offset = out.view(np.uint8).data, origin.offset_bytes + start * dtype.itemsize
        while len(view):
            num_read = read_at(self._descriptor(origin.path), view, offset)
            if num_read <= 0:
                raise CorruptError(f"the file ended inside tensor {name}", origin.path, "fetch the file again")
            view, offset = view[num_read:], offset + num_read
        return out

    def digest(self) -> str:
        """Hash of all names, dtypes, shapes and bytes; reads everything, on several threads."""
        pieces = [
            (name, start) for name in sorted(self.specs) for start in range(0, self.specs[name].num_elements, _PIECE)
        ]
        digest = hashlib.sha256(repr(sorted(self.specs.items())).encode())
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            for sums in pool.map(self._sums, pieces):
                digest.update(sums)
        return digest.hexdigest()

    def _sums(self, piece: tuple[str, int]) -> bytes:
        name, start = piece
        data = self.read(name, start, min(start + _PIECE, self.specs[name].num_elements))
        return hashlib.sha256(block_sums(data.view(np.uint8)).tobytes()).digest()

    def _descriptor(self, path: Path) -> int:
        if path not in self._descriptors:
            self._descriptors.setdefault(path, open_handle(path, os.O_RDONLY))
        return self._descriptors[path]


@final
class Folder(Checkpoint):
    """A safetensors folder on disk, as it is. Opening reads headers only; every inconsistency is a `CorruptError`."""

    def __init__(self, path: Path, label: str = "") -> None:
        """Open the folder `path`.

        Raises:
            CheckpointError: no such folder, no config, no safetensors weights.
            CorruptError: headers, index and files contradict each other.
        """
        self.path = path
        self.label = label or str(path)
        self.assets = assets_of(path)
        self.config = read_config(self.assets["config.json"])
        self._tensors = _read_tensors(path)
        self.specs = self._tensors.specs
        names = {path: path.name for path in self._tensors.files}
        self.layout = {name: names[origin.path] for name, origin in self._tensors.origins.items()}

    def read(self, name: str, start: int = 0, stop: int | None = None) -> Array:
        """Elements [start, stop) of tensor `name`, read from its byte range; safe to call from several threads."""
        return self._tensors.read(name, start, stop)

    def origin(self, name: str) -> Origin:
        """The shard and byte offset of tensor `name`."""
        return self._tensors.origins[name]

    def chunk_elements(self, name: str) -> None:  # noqa: ARG002
        """None: a file can be read in pieces of any size."""
        return

    def fingerprint(self, *, quick: bool = False) -> str:
        """Hash of all names, dtypes, shapes and weights (`checkpoints.fingerprint`), whatever the files are called.

        Args:
            quick: by place, size and times of all files of the folder instead.
        """
        return state_of([*self._tensors.files, *self.assets.values()]) if quick else self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        return remembered(self._tensors.files, self._tensors.digest)


@final
class Headers(Checkpoint):
    """A hub repository of which only the small files and the headers of the weights were fetched; no tensor can be read."""

    def __init__(self, path: Path, label: str, specs: Mapping[str, TensorSpec], layout: Mapping[str, str]) -> None:
        """Take the folder of the small files, and what the headers say."""
        self.label, self.specs, self.layout = label, specs, layout
        self.assets = assets_of(path)
        self.config = read_config(self.assets["config.json"])

    def read(self, name: str, start: int = 0, stop: int | None = None) -> Array:  # noqa: ARG002
        """Refuse.

        Raises:
            CheckpointError: always.
        """
        raise CheckpointError(f"of {self.label} only the headers were fetched, not {name}", remedy="open it whole")

    def origin(self, name: str) -> None:  # noqa: ARG002
        """None: nothing lies here."""
        return

    def chunk_elements(self, name: str) -> None:  # noqa: ARG002
        """None: nothing is read."""
        return

    def fingerprint(self, *, quick: bool = False) -> str:  # noqa: ARG002
        """Hash of names, dtypes and shapes; says nothing of the weights."""
        return hashlib.sha256(repr(sorted(self.specs.items())).encode()).hexdigest()


def open_checkpoint(source: StrPath, revision: str | None = None) -> Folder:
    """Open a local folder, or a Hugging Face hub id through the `hf` cache, as it lies on disk.

    Args:
        source: a folder, or a hub id such as `Qwen/Qwen3-4B-Thinking-2507`.
        revision: branch, tag or commit of a hub id.

    Raises:
        CheckpointError: nothing is there, or it cannot be downloaded.
        CorruptError: the files contradict themselves.
    """
    return Folder(locate(source, revision), str(source))


def open_headers(source: StrPath, folder: Path) -> Folder | Headers:
    """The model in `folder`; if that is a hub's, and its weights were not downloaded, only what their headers say.

    Args:
        source: a folder or a hub id.
        folder: where `locate` found it.

    Raises:
        CheckpointError: nothing is there, or the headers cannot be fetched.
        CorruptError: the files contradict themselves.
    """
    try:
        return Folder(folder, str(source))
    except CheckpointError:
        if Path(source).expanduser().exists():
            raise
        return Headers(folder, str(source), *fetch_headers(str(source), folder.name))


def holds_weights(folder: Path) -> bool:
    """Whether all files of weights of a model are in its folder."""
    try:
        return bool(_shards(folder)[0])
    except CheckpointError:
        return False


def _read_tensors(folder: Path) -> Tensors:
    files, weight_map = _shards(folder)
    tensors = Tensors(files)
    names = {path: path.name for path in files}
    for name, shard in weight_map.items():
        if name not in tensors.origins or names[tensors.origins[name].path] != shard:
            raise CorruptError(f"the index places tensor {name} in {shard}, which lacks it", folder, "fetch both again")
    if weight_map and (extra := tensors.specs.keys() - weight_map.keys()):
        raise CorruptError(f"tensor {min(extra)} is in a shard but not in the index", folder, "fetch both again")
    return tensors


def _shards(folder: Path) -> tuple[list[Path], dict[str, str]]:
    """The weight files of a folder and, for sharded ones, the index's map from tensor to file name."""
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if index.is_file():
        weight_map = read_json(index).get("weight_map")
        if not isinstance(weight_map, dict) or not all(map(_is_shard_name, _once(weight_map.values()))):
            words = "the index has no `weight_map` of plain file names that end in .safetensors"
            raise CorruptError(words, index, "fetch the file again, or rename the shards")
        files = [folder / shard for shard in sorted(set(weight_map.values()))]
        if single.is_file() and single not in files:
            if not any(path.is_file() for path in files):
                warnings.warn(
                    f"{index} names files that are not there; {single.name} is read", InterpoleWarning, stacklevel=2
                )
                return [single], {}
            raise CorruptError(
                f"there is {single.name}, which transformers reads, and an index of other files, which vLLM reads",
                folder,
                "remove those that are not the model",
            )
        for path in files:
            if not path.is_file():
                raise CorruptError(f"shard {path.name} is missing", folder, "finish the download, or fetch the shard")
        return files, weight_map
    if single.is_file():
        return [single], {}
    if list(folder.glob("pytorch_model*.bin")):
        raise CheckpointError("PyTorch .bin weights are not read", folder, CONVERT.format(path=folder))
    raise CheckpointError(
        "no model.safetensors and no model.safetensors.index.json", folder, "give a folder with safetensors weights"
    )


def _once(values: Iterable[Any]) -> list[Any]:
    """Texts once each, and whatever else there is."""
    values = list(values)
    others = [value for value in values if not isinstance(value, str)]
    return [*{value for value in values if isinstance(value, str)}, *others]


def _is_shard_name(name: object) -> bool:
    """Whether it names a file of weights in the same folder: nothing that a config, a card or a lock is called."""
    return (
        isinstance(name, str)
        and name.isprintable()
        and len(name.encode()) <= LONGEST_NAME
        and re.fullmatch(r"[^./\\][^/\\]*\.safetensors", name) is not None
    )


def assets_of(folder: Path) -> dict[str, Path]:
    """Every file of a model that holds no weights, by its path from the folder; folders that are models of their own are not."""
    if not (folder / "config.json").is_file():
        raise CheckpointError("no config.json: not a model folder", folder, "give the folder that holds config.json")
    found: dict[str, Path] = {}
    for parent, folders, names in os.walk(folder):
        here = Path(parent)
        folders[:] = sorted(name for name in folders if _holds_assets(here / name, folder))
        for path in (here / name for name in sorted(names)):
            name = path.relative_to(folder).as_posix()
            if _is_asset(name) and name.lower() != "readme.md" and path.is_file():
                refuse_pointer(path, name)
                found[name] = path
    return found


def _is_asset(name: str) -> bool:
    return not any(fnmatchcase(name, pattern) for pattern in NO_ASSETS)


def _holds_assets(inner: Path, folder: Path) -> bool:
    """Whether a folder inside of a model's is part of it: neither what training left nor a model of its own."""
    of_its_own = ("config.json", "adapter_config.json", "model_index.json", "*.safetensors")
    return _is_asset(f"{inner.relative_to(folder).as_posix()}/x") and not any(
        any(inner.glob(name)) for name in of_its_own
    )


def _close_all(descriptors: dict[Path, int]) -> None:
    for descriptor in descriptors.values():
        os.close(descriptor)
