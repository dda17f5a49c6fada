"""A hub's checkpoint read by ranges of its files, without a copy of them on the disk.

Config, tokenizer and index lie in the `hf` cache as ever; headers are fetched at once and checked like those of files; weights in
blocks when they are read, of which the last ones are kept in memory. A connection that drops is taken up where it dropped.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, final

import numpy as np
from numpy.typing import NDArray

from interpole.checkpoints.assets import read_config
from interpole.checkpoints.checkpoint import Checkpoint, assets_of
from interpole.checkpoints.hub import from_hub
from interpole.checkpoints.safetensors import DTYPES, HEADER_LIMIT, TensorSpec, parse_header
from interpole.errors import CheckpointError, CorruptError, UnreachableError
from interpole.formats import content_hash, read_json

__all__ = ["Remote", "RemoteFile", "open_remote"]

BLOCK_BYTES = 16 << 20
"""Fetched at a time: a hub counts requests."""
KEPT_BLOCKS = 16
"""Per source: those that eight threads are at, and as many."""
FIRST_BYTES = 1 << 17
"""Fetched of a file for its header; what is longer is fetched after."""
WAITS_SECONDS = (0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0)
"""Before a request is made again that brought nothing; one that brought something begins anew with the first."""
LONGEST_WAIT_SECONDS = 300.0
TIMEOUT_SECONDS = 60.0
PASSING = (408, 425, 429, 500, 502, 503, 504)
"""Answers after which one asks again."""
THREADS = 8

Fetch = Callable[[str, int, int], bytes]
"""A file, and the range of its bytes to fetch."""


class RemoteFile(NamedTuple):
    """A file of a hub: its size, and the hub's hash of its content."""

    num_bytes: int
    content_id: str


@final
class Remote(Checkpoint):
    """A checkpoint of which every tensor is fetched when it is read; attributes are those of `Checkpoint`."""

    def __init__(self, folder: Path, label: str, files: Mapping[str, RemoteFile], fetch: Fetch) -> None:
        """Fetch the headers of `files`.

        Args:
            folder: where its small files lie.
            label: what the user called it.
            files: those with weights, by name.
            fetch: how to get bytes of them.

        Raises:
            CheckpointError: a file cannot be fetched.
            CorruptError: a header contradicts its file, or two files hold one name.
        """
        self.label, self.assets, self._files = label, assets_of(folder), files
        self.config = read_config(self.assets["config.json"])
        self._blocks = _Blocks(files, fetch)
        specs, layout = dict[str, TensorSpec](), dict[str, str]()
        self._offsets: dict[str, int] = {}
        with ThreadPoolExecutor(THREADS) as pool:
            headers = pool.map(lambda file: _header(label, file, files[file].num_bytes, fetch), files)
            for file, (found, offsets) in zip(files, headers, strict=True):
                if doubled := specs.keys() & found.keys():
                    name = min(doubled)
                    raise CorruptError(
                        f"tensor {name} is in {layout[name]} and in {file}", label, "take another source"
                    )
                specs |= found
                layout |= dict.fromkeys(found, file)
                self._offsets |= offsets
        self.specs, self.layout = specs, layout

    def read(self, name: str, start: int = 0, stop: int | None = None) -> NDArray[Any]:
        """Elements [start, stop) of the flattened tensor; fetches the blocks that hold them, where they are not kept."""
        spec, dtype = self.specs[name], DTYPES[self.specs[name].dtype]
        out = np.empty((spec.num_elements if stop is None else stop) - start, dtype)
        self._blocks.read_into(out.view(np.uint8), self.layout[name], self._offsets[name] + start * dtype.itemsize)
        return out

    def origin(self, name: str) -> None:  # noqa: ARG002
        """None: nothing lies here."""
        return

    def chunk_elements(self, name: str) -> None:  # noqa: ARG002
        """None: pieces of any size."""
        return

    def fingerprint(self, *, quick: bool = False) -> str:  # noqa: ARG002
        """Hash of the hub's hashes of the files' content: another than that of a copy, as it is known without reading it."""
        return content_hash(["hub", {name: list(file) for name, file in self._files.items()}])


def open_remote(repo: str, folder: Path) -> Remote:
    """The checkpoint of a hub's repository whose small files lie in `folder`, named after their commit.

    Raises:
        CheckpointError: the hub cannot be reached, or has no such files.
        CorruptError: headers, index and files contradict one another.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

    commit, index = folder.name, folder / "model.safetensors.index.json"
    weight_map = read_json(index).get("weight_map") if index.is_file() else {"": "model.safetensors"}
    if not isinstance(weight_map, dict) or not all(isinstance(shard, str) for shard in weight_map.values()):
        raise CorruptError("the index has no `weight_map` of file names", index, "fetch the file again")
    with from_hub(repo, commit):
        listed = {file.path: file for file in HfApi().list_repo_tree(repo, recursive=True, revision=commit)}
    files = {}
    for shard in sorted(set(weight_map.values())):
        if not isinstance(file := listed.get(shard), RepoFile):
            raise CheckpointError(
                f"{repo} has no file {shard}", commit, "only safetensors weights are read: take such a repository"
            )
        content = file.lfs.sha256 if file.lfs else file.blob_id
        files[shard] = RemoteFile(file.size, content)
    opened = Remote(folder, repo, files, _Hub(repo, commit))
    if index.is_file() and dict(weight_map) != dict(opened.layout):
        name = min(weight_map.items() ^ opened.layout.items())[0]
        raise CorruptError(
            f"index and headers of {repo} differ in where tensor {name} is", index, "take another revision"
        )
    return opened


def _header(label: str, file: str, size: int, fetch: Fetch) -> tuple[dict[str, TensorSpec], dict[str, int]]:
    """What the header of a file says, checked."""
    begin = fetch(file, 0, min(size, FIRST_BYTES))
    stop = 8 + int.from_bytes(begin[:8], "little")
    if len(begin) < stop <= min(size, HEADER_LIMIT):
        begin += fetch(file, len(begin), stop)
    return parse_header(begin, size, f"{label}, {file}")


@final
class _Blocks:
    """Blocks of files, each fetched once by whoever asks first; the last ones are kept."""

    def __init__(self, files: Mapping[str, RemoteFile], fetch: Fetch) -> None:
        self._files, self._fetch, self._lock = files, fetch, threading.Lock()
        self._kept: OrderedDict[tuple[str, int], Future[bytes]] = OrderedDict()

    def read_into(self, out: NDArray[np.uint8], file: str, offset: int) -> None:
        done = 0
        while done < len(out):
            number, begin = divmod(offset + done, BLOCK_BYTES)
            part = self._block(file, number)[begin : begin + len(out) - done]
            if not part:
                raise CorruptError(f"the file ends before byte {offset + len(out):,}", file, "take another source")
            out[done : done + len(part)] = np.frombuffer(part, np.uint8)
            done += len(part)

    def _block(self, file: str, number: int) -> bytes:
        key = file, number
        with self._lock:
            known = self._kept.get(key)
            future = self._kept.setdefault(key, Future())
            self._kept.move_to_end(key)
            while len(self._kept) > KEPT_BLOCKS:
                self._kept.popitem(last=False)
        if known is not None:
            return known.result()
        start = number * BLOCK_BYTES
        try:
            future.set_result(self._fetch(file, start, min(start + BLOCK_BYTES, self._files[file].num_bytes)))
        except BaseException as error:
            with self._lock:
                self._kept.pop(key, None)
            future.set_exception(error)
            raise
        return future.result()


@final
class _Hub:
    """Fetches ranges of a repository's files at a commit."""

    def __init__(self, repo: str, commit: str) -> None:
        self._repo, self._commit = repo, commit

    def __call__(self, file: str, start: int, stop: int) -> bytes:
        """The bytes [start, stop) of a file.

        Raises:
            CheckpointError: the hub refuses, or does not serve ranges.
            UnreachableError: it cannot be reached any more.
        """
        got, waits = bytearray(), iter(WAITS_SECONDS)
        while len(got) < stop - start:
            before = len(got)
            asked = self._ask(file, start + before, stop, got)
            if len(got) > before:
                waits = iter(WAITS_SECONDS)
            if asked is not None:
                if (wait := next(waits, None)) is None:
                    raise UnreachableError(
                        f"{file} of {self._repo} cannot be fetched: {asked.reason}, {len(WAITS_SECONDS) + 1} times on end",
                        remedy="run the same command again when the network is well: it goes on where it stopped",
                    )
                time.sleep(max(wait, min(asked.seconds, LONGEST_WAIT_SECONDS)))
        return bytes(got)

    def _ask(self, file: str, start: int, stop: int, got: bytearray) -> _Failed | None:
        """Add what comes of a range to `got`; why it ended early, where it did and may be asked for again."""
        from huggingface_hub import get_session, hf_hub_url
        from huggingface_hub.utils import build_hf_headers, hf_raise_for_status  # type: ignore[attr-defined]  # lazily there

        before = len(got)
        url = hf_hub_url(self._repo, file, revision=self._commit)
        headers = {**build_hf_headers(), "Range": f"bytes={start}-{stop - 1}", "Accept-Encoding": "identity"}
        try:
            with get_session().stream("GET", url, headers=headers, timeout=TIMEOUT_SECONDS) as answer:
                if answer.status_code in PASSING:
                    return _Failed(f"the hub answers {answer.status_code}", _seconds(answer.headers.get("Retry-After")))
                if answer.status_code >= 400:
                    answer.read()
                    with from_hub(self._repo, self._commit):
                        hf_raise_for_status(answer)
                said = answer.headers.get("Content-Range", "")
                if answer.status_code != 206 or (said and not said.startswith(f"bytes {start}-{stop - 1}/")):
                    raise CheckpointError(
                        f"the hub sends {file} whole instead of the part that was asked for (status {answer.status_code})",
                        self._repo,
                        "such a hub, or a proxy before it, serves no ranges: merge without --stream",
                    )
                for part in answer.iter_raw():
                    got += part[: stop - start - (len(got) - before)]
        except CheckpointError:
            raise
        except Exception as error:  # an HTTP client's: the library has changed which
            return _Failed(str(error).strip() or type(error).__name__, 0.0)
        return None if len(got) - before == stop - start else _Failed("the connection ended early", 0.0)


class _Failed(NamedTuple):
    """Why a request brought too little, and how long the server asks one to wait."""

    reason: str
    seconds: float


def _seconds(text: str | None) -> float:
    """`Retry-After` in seconds; dates are not read."""
    return float(text) if text and text.isdecimal() else 0.0
