"""Systems that lack what POSIX has: the same bytes, the same locks. What Windows is without is hidden, or behaves as there."""

import ctypes
import errno
import fcntl
import os
import pkgutil
import re
import struct
import sys
from functools import partial
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import interpole
import interpole.chat
import interpole.tasks
from interpole.checkpoints import kernels
from interpole.checkpoints.save import Target, save_all
from interpole.checkpoints.shards import Share
from interpole.errors import InterpoleWarning, OutputError, RunError
from interpole.files import exclusive, open_to_append, shared
from interpole.guarded import Guarded
from interpole.merging.recipe import Recipe
from interpole.runs import runfile
from interpole.systems import read_at, write_at

HIDDEN = ("pread", "preadv", "pwrite", "pwritev", "sched_getaffinity", "copy_file_range", "sendfile", "posix_fallocate")
HIDDEN_FLAGS = ("O_NOFOLLOW", "O_CLOEXEC")  # shutil itself asks for O_NONBLOCK where it removes folders as Linux does
F_OFD_SETLK = 37


def locking(handle, mode, num):
    """Windows' locks of bytes, by those of Linux that belong to an open file."""
    writable = fcntl.fcntl(handle, fcntl.F_GETFL) & os.O_ACCMODE
    kind = fcntl.F_UNLCK if mode == "unlock" else fcntl.F_WRLCK if writable else fcntl.F_RDLCK
    at = os.lseek(handle, 0, os.SEEK_CUR)
    try:
        fcntl.fcntl(handle, F_OFD_SETLK, struct.pack("hhqqi4x", kind, os.SEEK_SET, at, num, 0))
    except BlockingIOError as error:
        raise PermissionError(errno.EACCES, "locked") from error


def is_open(path):
    """Whether this process has a file open, or one in the folder."""
    names = [name.readlink() for name in Path("/proc/self/fd").iterdir() if name.is_symlink()]
    return any(name.is_relative_to(Path(path).absolute()) for name in names)


def refusing(do, path, *rest, **options):
    if "dir_fd" not in options and is_open(path):
        raise PermissionError(errno.EACCES, "in use by another process", str(path))
    return do(path, *rest, **options)


@pytest.fixture
def windows(monkeypatch):
    """This process without what Windows lacks; files that are open are neither renamed nor removed."""
    if not sys.platform.startswith("linux"):
        pytest.skip("stands in for Windows by what Linux has")
    for name in (*HIDDEN, *HIDDEN_FLAGS):
        monkeypatch.delattr(os, name)
    for name in ("fcntl", "resource"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delattr(kernels._kernels, "sum_files", raising=False)  # it is not built where pread and pwrite lack
    msvcrt = SimpleNamespace(locking=locking, LK_NBLCK="lock", LK_UNLCK="unlock")
    monkeypatch.setitem(sys.modules, "msvcrt", msvcrt)
    library = ctypes.CDLL
    monkeypatch.setattr(ctypes, "CDLL", lambda name: library(name + ""))
    for name in ("rename", "replace", "unlink", "remove"):
        monkeypatch.setattr(os, name, partial(refusing, getattr(os, name)))


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_merge_has_the_same_bytes_without_what_posix_has(pair, tmp_path, request):
    merged = interpole.merge(Recipe.between(*pair, 0.3))
    interpole.save(merged, tmp_path / "whole", shard_bytes=4000)
    interpole.save(merged, tmp_path / "parts", shard_bytes=4000)
    request.getfixturevalue("windows")
    again = interpole.merge(Recipe.between(*pair, 0.3))
    interpole.save(again, tmp_path / "there", shard_bytes=4000)
    assert content(tmp_path / "there") == content(tmp_path / "whole")
    for number in (2, 1, 3):
        saved = save_all([Target(again, tmp_path / "shares")], shard_bytes=4000, share=Share(number, 3))
    assert saved.is_whole
    assert content(tmp_path / "shares") == content(tmp_path / "whole")
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith(".")]


@pytest.mark.usefixtures("windows")
def test_a_merge_that_fails_leaves_nothing_there_either(pair, tmp_path, monkeypatch):
    merged = interpole.merge(Recipe.between(*pair, 0.3))
    with monkeypatch.context() as patch:
        patch.setattr("interpole.checkpoints.shards.all_finite", lambda _: False)
        with pytest.raises(interpole.InterpoleError, match="infinity"):
            interpole.save(merged, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["instruct", "thinking"]


@pytest.mark.parametrize("hidden", [("preadv",), ("preadv", "pread", "pwrite")])
def test_reads_and_writes_at_an_offset_leave_the_place_of_the_file_alone(tmp_path, monkeypatch, hidden):
    for name in hidden:
        monkeypatch.delattr(os, name)
    with (tmp_path / "file").open("w+b") as file:
        file.write(b"0123456789")
        file.seek(4)
        assert write_at(file.fileno(), b"abc", 8) == 3
        buffer = bytearray(5)
        assert read_at(file.fileno(), memoryview(buffer), 7) == 4
        assert bytes(buffer) == b"7abc\0"
        assert os.lseek(file.fileno(), 0, os.SEEK_CUR) == 4


@pytest.mark.usefixtures("windows")
def test_threads_that_share_a_file_read_their_own_bytes_without_pread(pair):
    from concurrent.futures import ThreadPoolExecutor

    source = interpole.open(pair[0])
    whole = {name: source[name].tobytes() for name in source}
    with ThreadPoolExecutor(8) as pool:
        for _ in range(5):
            assert dict(zip(source, pool.map(lambda name: source[name].tobytes(), source), strict=True)) == whole
    assert np.frombuffer(whole["model.norm.weight"], np.uint8).any()


@pytest.mark.usefixtures("windows")
def test_locks_of_bytes_are_shared_or_held_alone_and_name_their_holder(tmp_path):
    lock = tmp_path / "lock"
    with exclusive(lock, OutputError, "writes", "go"):
        for other in (exclusive, shared):
            with (
                pytest.raises(OutputError, match=f"process {os.getpid()} on .* writes"),
                other(lock, OutputError, "writes", ""),
            ):
                pass
    assert not lock.exists()
    with shared(lock, OutputError, "writes", "go") as first:
        assert first.is_alone()
        with shared(lock, OutputError, "writes", "go") as second:
            assert not first.is_alone()
            assert not second.is_alone()
            with pytest.raises(OutputError, match="writes"), exclusive(lock, OutputError, "writes", ""):
                pass
        assert first.is_alone()
    with exclusive(lock, OutputError, "writes", "go"):
        pass


@pytest.mark.usefixtures("windows")
def test_a_run_folder_is_held_and_renamed_where_open_files_keep_their_names(tmp_path):
    with runfile.exclusive(tmp_path / "run") as rename_to:
        assert runfile.is_written(tmp_path / "run")
        with pytest.raises(RunError, match="another sweep"), runfile.exclusive(tmp_path / "run"):
            pass
        rename_to(tmp_path / "other")
    assert (tmp_path / "other").is_dir()
    assert not (tmp_path / "run").exists()
    assert not runfile.is_written(tmp_path / "other")


@pytest.mark.usefixtures("windows")
def test_a_link_is_not_written_through_where_the_system_cannot_be_asked_to_refuse_it(tmp_path):
    (tmp_path / "other").write_text("theirs")
    (tmp_path / "journal").symlink_to("other")
    with pytest.raises(OSError, match="symbolic links"):
        open_to_append(tmp_path / "journal")
    assert (tmp_path / "other").read_text() == "theirs"


@pytest.mark.usefixtures("windows")
def test_a_system_of_no_locks_at_all_is_named(pair, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "msvcrt", None)
    with pytest.warns(InterpoleWarning, match="keeps no locks"):
        interpole.save(interpole.merge(Recipe.between(*pair, 0.5)), tmp_path / "out")
    assert (tmp_path / "out/config.json").exists()


def test_a_worker_without_limits_of_memory_answers(tmp_path):
    worker = tmp_path / "worker.py"
    worker.write_text(
        "import sys\nsys.modules['resource'] = None\n"
        "from interpole.guarded import serve\nserve(lambda question: {'is': question['of'] * 2})\n"
    )
    guarded = Guarded(worker, 60)
    try:
        assert guarded.ask(of=21) == {"is": 42}
    finally:
        guarded.close()


def test_no_reader_repeats_possessively_which_pythons_before_3_11_5_misread():
    """There `(?:ab?c)++` takes all of "aca": a repeat that fails keeps what it had taken."""
    packages = (interpole.chat, interpole.tasks)
    names = [
        module.name for package in packages for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}.")
    ]
    patterns = [
        value for name in names for value in vars(import_module(name)).values() if isinstance(value, re.Pattern)
    ]
    assert len(patterns) > 50
    forms = {pattern.pattern: str(re._parser.parse(pattern.pattern, pattern.flags)) for pattern in patterns}
    assert [text for text, form in forms.items() if "POSSESSIVE" in form or "ATOMIC" in form] == []
