"""An Inspect log as what it is, a zip of JSON, read with limits: it may come from a stranger, or be damaged.

A member is never unpacked beyond what the log says of its size, and what a log cannot honestly hold is refused before it is
unpacked: some bytes can stand for gigabytes.
"""

from __future__ import annotations

import io
from binascii import crc32
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile, ZipInfo

import zstandard

from interpole.errors import RunError
from interpole.files import open_regular
from interpole.formats import parse_json

__all__ = ["MAX_VALUES", "members"]

MAX_MEMBER_BYTES = 256 << 20  # summaries take some 3 kB a sample
MAX_VALUES = 10_000_000  # that one member may hold: each takes about 100 bytes of memory
MAX_RATIO = 200  # texts become 5 to 50 times smaller
FREE_BYTES = 16 << 20  # up to here any ratio will do, e.g. that of a response that is one endless loop
FREE_LOG_BYTES = 512 << 20  # likewise, of all members of a log
ZIP_ZSTANDARD = 93
LOCAL_HEADER_BYTES = 30
REMEDY = "run the sweep again: it makes what is missing"


def members(path: Path, wanted: Callable[[str], bool], *, needed: bool = True) -> Iterator[tuple[str, Any]]:
    """The names and the contents of a log's members.

    Args:
        path: the log.
        wanted: takes a name, and says whether that member shall be read.
        needed: a log without any such member is no log.

    Raises:
        RunError: the log is missing, damaged, or would unpack to more than a log can hold.
    """
    found = False
    try:
        with open_regular(path) as file, ZipFile(file) as log:
            infos = [info for info in log.infolist() if wanted(info.filename)]
            _check(infos, path)
            for info in infos:
                where = f"{path}, {info.filename}"
                data = _unpacked(file, log, info)
                if data.count(b",") + data.count(b"[") + data.count(b"{") > MAX_VALUES:
                    raise RunError(f"more than {MAX_VALUES:,} values", where, REMEDY)
                found = True
                yield info.filename, parse_json(data, where, RunError, REMEDY)
    except RunError:
        raise
    except Exception as error:  # whatever a damaged archive makes zipfile, zlib and zstandard raise
        raise RunError(f"a log cannot be read: {error or type(error).__name__}", path, REMEDY) from error
    if needed and not found:
        raise RunError("a log cannot be read: it holds no samples", path, REMEDY)


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


def _unpacked(file: BinaryIO, log: ZipFile, info: ZipInfo) -> bytes:
    """A member's bytes, no more than its size."""
    if info.compress_type in (ZIP_STORED, ZIP_DEFLATED):
        with log.open(info) as member:
            return member.read(info.file_size + 1)  # zipfile unpacks these by and by, and checks the sum
    if info.compress_type != ZIP_ZSTANDARD or info.flag_bits & 1:
        raise RunError(f"packed by method {info.compress_type}, or encrypted", info.filename, REMEDY)
    file.seek(info.header_offset)
    header = file.read(LOCAL_HEADER_BYTES)
    file.seek(int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little"), io.SEEK_CUR)
    packed = io.BytesIO(file.read(info.compress_size))
    with zstandard.ZstdDecompressor(max_window_size=FREE_BYTES).stream_reader(packed) as reader:
        data: bytes = reader.read(info.file_size + 1)
    if len(data) != info.file_size or crc32(data) != info.CRC:
        raise RunError("damaged", info.filename, REMEDY)
    return data
