"""Files: ours are written whole or not at all, and over nothing that is no file."""

import os
from pathlib import Path

import pytest

from interpole.errors import OutputError
from interpole.files import make_folder, open_regular, write_atomic


@pytest.mark.parametrize("what", ["pipe", "link to a pipe", "name of an open file", "folder"])
def test_what_is_no_file_is_not_replaced_by_one(tmp_path, what):
    path = tmp_path / "out.html"
    with (tmp_path / "open").open("w") as opened:
        if what == "folder":
            path.mkdir()
        elif what == "name of an open file":  # as /dev/stdout is
            path.symlink_to(f"/proc/{os.getpid()}/fd/{opened.fileno()}")
        else:
            os.mkfifo(tmp_path / "pipe" if what == "link to a pipe" else path)
            if what == "link to a pipe":
                path.symlink_to("pipe")
        before = path.lstat().st_ino, path.lstat().st_mode
        with pytest.raises(
            OutputError, match="Is a directory" if what == "folder" else "a device or a pipe, not a file"
        ):
            write_atomic(path, "page")
        assert (path.lstat().st_ino, path.lstat().st_mode) == before
    assert {one.name for one in tmp_path.iterdir()} <= {"out.html", "open", "pipe"}
    write_atomic(tmp_path / "open", "page")
    assert (tmp_path / "open").read_text() == "page"


@pytest.mark.skipif(
    not Path("/proc/kmsg").exists(), reason="a Linux kernel's messages: a regular file that is waited for"
)
def test_a_file_that_the_system_makes_up_and_would_be_waited_for_is_refused():
    with pytest.raises(OSError, match=r"unavailable|seek|permitted|denied"):
        open_regular(Path("/proc/kmsg"))


@pytest.mark.parametrize(
    ("place", "what"),
    [
        ("loop", "loop is a link that leads to itself or to nothing"),
        ("loop/inside", "loop is a link that leads to itself or to nothing"),
        ("dangling/inside", "dangling is a link that leads to itself or to nothing"),
        ("file", "a file is in its place"),
        ("file/inside", "a file is in its place"),
        ("x" * 300, "name too long"),
        ("nul\0", "null"),
    ],
)
def test_a_folder_that_cannot_be_made_says_what_is_in_its_place(tmp_path, place, what):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "dangling").symlink_to("gone/far")
    with pytest.raises(OutputError, match=f"(?i){what}"):
        make_folder(tmp_path / place)
    make_folder(tmp_path / "a" / "b")
    make_folder(tmp_path / "a")
    assert sorted(one.name for one in tmp_path.iterdir()) == ["a", "dangling", "file", "loop"]
