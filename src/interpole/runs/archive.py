"""An Inspect log as what it is, a zip of JSON, read with limits: it may come from a stranger, or be damaged.

A member is never unpacked beyond what the log says of its size, and what a log cannot honestly hold is refused before it is
unpacked: some bytes can stand for gigabytes.
"""

from __future__ import annotations

import io
from binascii import crc32
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile, ZipInfo

import zstandard

from interpole.errors import RunError, reason_of
from interpole.files import open_regular

__all__ = ["MAX_VALUES", "Archive"]

MAX_MEMBER_BYTES = 256 << 20  # summaries take some 3 kB a sample
MAX_VALUES = 10_000_000  # that one member may hold: each takes about 100 bytes of memory
MAX_RATIO = 200  # texts become 5 to 50 times smaller
FREE_BYTES = 16 << 20  # up to here any ratio will do, e.g. that of a response that is one endless loop
FREE_LOG_BYTES = 512 << 20  # likewise, of all members of a log
ZIP_ZSTANDARD = 93
LOCAL_HEADER_BYTES = 30
REMEDY = "run the sweep again: it makes what is missing"


class Archive:
    """A log that is open; used as a context, which closes it."""

    def __init__(self, path: Path) -> None:
        """Open it.

        Raises:
            RunError: it is missing or damaged.
        """
        self._path = path
        self._unpacker = zstandard.ZstdDecompressor(max_window_size=FREE_BYTES)
        with _damage(path):
            self._file = open_regular(path)
            try:
                self._zip = ZipFile(self._file)
            except BaseException:
                self._file.close()
                raise

    def __enter__(self) -> Archive:
        """Itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self._zip.close()
        self._file.close()

    def members(
        self, wanted: Callable[[str], bool], *, needed: bool = True, stretch: tuple[int, int] = (0, 1)
    ) -> Iterator[tuple[str, bytes]]:
        """The names and the bytes of members, which are no more than what a log can hold.

        Args:
            wanted: takes a name, and says whether that member shall be read.
            needed: a log without any such member is no log.
            stretch: (number, of how many) equal stretches of them to read.

        Raises:
            RunError: the log is damaged, or would unpack to more than a log can hold.
        """
        infos = [info for info in self._zip.infolist() if wanted(info.filename)]
        _check(infos, self._path)
        if needed and not infos:
            raise RunError("a log cannot be read: it holds no samples", self._path, REMEDY)
        number, num = stretch
        with _damage(self._path):
            for info in infos[len(infos) * number // num : len(infos) * (number + 1) // num]:
                data = self._unpacked(info)
                if len(data) > MAX_VALUES and data.count(b",") + data.count(b"[") + data.count(b"{") > MAX_VALUES:
                    raise RunError(f"more than {MAX_VALUES:,} values", f"{self._path}, {info.filename}", REMEDY)
                yield info.filename, data

    def _unpacked(self, info: ZipInfo) -> bytes:
        """A member's bytes, no more than its size."""
        if info.compress_type in (ZIP_STORED, ZIP_DEFLATED):
            with self._zip.open(info) as member:
                return member.read(info.file_size + 1)  # zipfile unpacks these by and by, and checks the sum
        if info.compress_type != ZIP_ZSTANDARD or info.flag_bits & 1:
            where = f"{self._path}, {info.filename}"
            raise RunError(f"packed by method {info.compress_type}, or encrypted", where, REMEDY)
        self._file.seek(info.header_offset)
        header = self._file.read(LOCAL_HEADER_BYTES)
        self._file.seek(int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little"), io.SEEK_CUR)
        packed = self._file.read(info.compress_size)
        if zstandard.frame_content_size(packed) not in (-1, info.file_size):  # it would be believed; -1: not said
            raise RunError("damaged", f"{self._path}, {info.filename}", REMEDY)
        try:
            data: bytes = self._unpacker.decompress(packed, max_output_size=info.file_size)
        except zstandard.ZstdError:
            raise RunError("damaged", f"{self._path}, {info.filename}", REMEDY) from None
        if len(data) != info.file_size or crc32(data) != info.CRC:
            raise RunError("damaged", f"{self._path}, {info.filename}", REMEDY)
        return data


@contextmanager
def _damage(path: Path) -> Iterator[None]:
    """Turn whatever a damaged archive makes zipfile, zlib and zstandard raise into an error of ours."""
    try:
        yield
    except RunError:
        raise
    except Exception as error:
        raise RunError(f"a log cannot be read: {reason_of(error) or type(error).__name__}", path, REMEDY) from error


def _check(infos: list[ZipInfo], path: Path) -> None:
    """Refuse what would unpack to more than a log can hold."""
    for info in infos:
        bomb = info.file_size > FREE_BYTES and info.file_size > MAX_RATIO * info.compress_size
        if bomb or info.file_size > MAX_MEMBER_BYTES:
            what = f"it would unpack from {info.compress_size:,} to {info.file_size:,} bytes"
            raise RunError(f"a log cannot be read: {what}", f"{path}, {info.filename}", REMEDY)
    packed, size = sum(info.compress_size for info in infos), sum(info.file_size for info in infos)
    if size > FREE_LOG_BYTES and size > MAX_RATIO * packed:
        raise RunError(f"a log cannot be read: it would unpack from {packed:,} to {size:,} bytes", path, REMEDY)
