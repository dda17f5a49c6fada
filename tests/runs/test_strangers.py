"""Run folders from strangers: damaged or hostile; they run nothing, write nothing outside, and end in errors of ours."""

import json
import os
import shutil
import sys
import zipfile

import pytest
from typer.testing import CliRunner

import synthetic
from interpole.analysis.scoring import score
from interpole.cli import app
from interpole.errors import OutputError, RunError, TaskError
from interpole.files import open_to_append
from interpole.formats import parse_json
from interpole.runs import archive, samples
from interpole.runs.combine import combine
from interpole.runs.regrade import code_of, regrade
from interpole.runs.runfile import RunFile, exclusive

EXACT = {"task": "sums.jsonl", "grader": "exact"}


@pytest.fixture
def run(tmp_path):
    """Two points of two questions, as a jsonl task leaves them."""
    folder = synthetic.write_run(tmp_path / "run", synthetic.samples(2, 1, lams=(0.0, 1.0)))
    change(folder, lambda file: file["tasks"]["arithmetic"].update(spec=EXACT))
    for log in folder.rglob("*.eval"):
        rewrite(log, lambda one: one["metadata"].update(choices=[], extra={}))
    return folder


def change(folder, how):
    """Change a run's run.json."""
    file = json.loads((folder / "run.json").read_text())
    how(file)
    (folder / "run.json").write_text(json.dumps(file))


def rewrite(log, how):
    """Change every sample in a log."""
    with zipfile.ZipFile(log) as old:
        content = {name: json.loads(old.read(name)) for name in old.namelist()}
    for value in content.values():
        for one in value if isinstance(value, list) else [value]:
            how(one)
    pack(log, {name: json.dumps(value) for name, value in content.items()})


def pack(log, members, method=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(log, "w", method) as new:
        for name, text in members.items():
            new.writestr(name, text)


# ── code ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_grader_that_a_run_names_is_run_on_the_users_word_only(run, tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text("def half(response, answer):\n    return 0.5\n")
    monkeypatch.chdir(tmp_path)
    change(run, lambda file: file["tasks"]["arithmetic"]["spec"].update(grader="python:mine.half"))
    named = f"task arithmetic: python:mine.half ({tmp_path / 'mine.py'})"
    with pytest.raises(TaskError) as refused:
        regrade(run)
    assert named in str(refused.value)
    assert "--trust" in refused.value.remedy
    assert "mine" not in sys.modules
    assert code_of(run) == (named,)
    shown = CliRunner().invoke(app, ["score", str(run), "--regrade", "--trust"], catch_exceptions=False)
    assert f"grades with {named}" in shown.stderr
    assert {one.score for one in samples.read(run) if one.response} == {0.5}
    monkeypatch.delitem(sys.modules, "mine")


@pytest.mark.parametrize("place", ["beside the data", "the working directory", "a package in it"])
def test_nothing_in_a_run_folder_is_importable_even_when_it_is_trusted(run, tmp_path, monkeypatch, place):
    (run / "theirs.py").write_text(
        "import pathlib\npathlib.Path('ran').touch()\ndef grade(response, answer): return 1\n"
    )
    monkeypatch.chdir(run if place == "the working directory" else tmp_path)
    spec = {"task": str(run / "q.jsonl") if place == "beside the data" else "q.jsonl", "grader": "python:theirs.grade"}
    if place == "a package in it":
        spec["grader"] = "python:run.theirs.grade"
    if place == "the working directory":
        monkeypatch.syspath_prepend("")
    change(run, lambda file: file["tasks"]["arithmetic"].update(spec=spec))
    with pytest.raises(TaskError, match="lies in the run folder"):
        regrade(run, trust=True)
    assert not list(tmp_path.rglob("ran"))


# ── paths and links ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "path", ["../up", "/tmp/x", "logs/../../up", "", ".", "logs//x", ".git/hooks", "a\\b", "a\0b", "x" * 300]
)
def test_a_path_out_of_the_run_is_refused_wherever_run_json_names_one(run, tmp_path, path):
    change(run, lambda file: file["entries"][0].update(folder=path))
    with pytest.raises(RunError, match=r"entries\.0\.folder.*plain path"):
        combine([run], tmp_path / "both")
    change(
        run, lambda file: (file["entries"][0].update(folder="logs/x"), file["entries"][0]["parts"][0].update(log=path))
    )
    with pytest.raises(RunError, match=r"entries\.0\.parts\.0\.log"):
        samples.read(run)
    assert not (tmp_path / "both").exists()


def test_logs_behind_a_link_out_of_the_run_are_neither_read_nor_written(run, tmp_path):
    logs = (run / "logs").rename(tmp_path / "elsewhere")
    before = sorted(path.name for path in logs.rglob("*"))
    (run / "logs").symlink_to(logs)
    for call in (lambda: samples.read(run), lambda: regrade(run), lambda: combine([run], tmp_path / "both")):
        with pytest.raises(RunError, match="leads out of the run folder"):
            call()
    assert sorted(path.name for path in logs.rglob("*")) == before
    (run / "logs").unlink()
    (run / "real").mkdir()
    shutil.move(logs, run / "real/logs")
    (run / "logs").symlink_to("real/logs")  # within the run, links are the user's own
    assert len(samples.read(run)) == 4


def test_no_link_in_a_run_is_written_through(run, tmp_path):
    precious = tmp_path / "precious"
    precious.write_text("precious")
    for name in ("curves.csv", "metrics.json", "stages.json", ".run.json.new", f".stages.json.{os.getpid()}.new"):
        (run / name).symlink_to(precious)
    for log in run.rglob("*.eval"):
        log.with_suffix(".regraded.json").symlink_to(tmp_path / "nothing")
        rewrite(log, lambda one: one["scores"]["grade"]["metadata"].update(grades={"exact": 0.25}))
    regrade(run)
    score(run)
    assert precious.read_text() == "precious"
    assert not (tmp_path / "nothing").exists()
    assert all(not path.is_symlink() for path in run.rglob("*") if path.name != ".run.json.new")
    (run / ".lock").unlink()
    (run / ".lock").symlink_to(precious)
    with pytest.raises(OutputError, match=r"its \.lock is a link"), exclusive(run):
        pass
    assert precious.read_text() == "precious"


def test_a_file_that_has_another_name_elsewhere_is_not_written_to(run, tmp_path):
    precious = tmp_path / "precious"
    for name in (".lock", ".run.json.new", "curves.csv", "metrics.json"):
        precious.write_text("precious")
        (run / name).unlink(missing_ok=True)
        (run / name).hardlink_to(precious)
    (run / "kept.jsonl").hardlink_to(precious)
    with exclusive(run):
        score(run)
    with open_to_append(run / "kept.jsonl") as kept:
        kept.write(b" and more")
    assert precious.read_text() == "precious"
    assert (run / "kept.jsonl").read_text() == "precious and more"


# ── content ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("scores",), "x", "scores: Input should be a valid dictionary"),
        (("target",), None, "target"),
        (("epoch",), 0, "epoch: Input should be greater than or equal to 1"),
        (("epoch",), 10**30, "epoch"),
        (("scores", "grade", "metadata", "closed"), [], "closed: Input should be a valid boolean"),
        (("scores", "grade", "metadata", "num_tokens"), "12", "num_tokens: Input should be a valid integer"),
        (("scores", "grade", "metadata", "num_tokens"), float("nan"), "num_tokens"),
        (("scores", "grade", "metadata", "grades"), {"exact": float("inf")}, "grades.exact: Input should be a finite"),
        (("scores", "grade", "metadata", "outcome"), "won", "outcome: Input should be 'failed'"),
        (("output", "choices"), [{"message": "x"}], "message"),
        (("output", "choices"), [{"message": {"content": f"attachment://{0:032x}"}}], "lacks the text"),
    ],
)
def test_a_sample_of_wrong_types_is_named_with_its_file_and_its_key(run, path, value, message):
    def put(one):
        *before, last = path
        for key in before:
            one = one[key]
        one[last] = value

    log = next(run.rglob("*.eval"))
    rewrite(log, put)
    with pytest.raises(RunError) as refused:
        samples.read(run)
    assert message in str(refused.value)
    assert log.name in refused.value.where


DEEP = "[" * 100_000


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (DEEP, "nested too deep"),
        ("5", "expected a JSON list"),
        ("[5]", "valid dictionary"),
        ("[" + "[]," * 600 + "[]]", "more than 1,000 values"),
        ("\xff", "not valid JSON"),
        ('[{"id": 1, "epoch": 1e400}]', "epoch"),
    ],
)
def test_a_log_that_is_odd_json_is_named(run, text, message, monkeypatch):
    monkeypatch.setattr(archive, "MAX_VALUES", 10**3 if "[]," in text else 10**6)
    pack(next(run.rglob("*.eval")), {"summaries.json": text})
    with pytest.raises(RunError, match=message):
        samples.read(run, texts=False)


def damage(log, at, value):
    """Set a byte of every local header (first offset) and of the directory (second)."""
    content = bytearray(log.read_bytes())
    for sign, offset in zip((b"PK\x03\x04", b"PK\x01\x02"), at, strict=True):
        place = content.find(sign)
        while place >= 0:
            content[place + offset] = value
            place = content.find(sign, place + 4)
    log.write_bytes(content)


@pytest.mark.parametrize(
    "how",
    [
        lambda log: damage(log, (6, 8), 1),  # encrypted
        lambda log: damage(log, (8, 10), 99),  # packed by a method of nobody's
        lambda log: damage(log, (8, 10), 93),  # zstd, so it says
        lambda log: damage(log, (8, 10), 12),  # bzip2
        lambda log: log.write_bytes(log.read_bytes()[:200]),
        lambda log: (log.unlink(), os.mkfifo(log)),
        lambda log: (log.unlink(), log.mkdir()),
        lambda log: (log.unlink(), log.symlink_to(log)),
        lambda log: pack(log, {"other.json": "[]"}),
    ],
)
def test_a_damaged_log_or_what_is_none_is_an_error_and_blocks_nobody(run, how):
    how(next(run.rglob("*.eval")))
    for texts in (False, True):
        with pytest.raises(RunError):
            samples.read(run, texts=texts)


def test_flipped_bits_in_a_packed_sample_are_noticed(run):
    log = next(run.rglob("*.eval"))
    for method in (zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED):
        pack(log, {"summaries.json": "[]" + " " * 999}, method)
        content = bytearray(log.read_bytes())
        place = content.find(b"summaries.json") + len("summaries.json")
        content[place + 2] ^= 0xFF
        log.write_bytes(content)
        with pytest.raises(RunError):
            samples.read(run, texts=False)


def test_logs_packed_with_zstd_are_read_as_inspect_writes_them_and_no_further_than_they_say(run):
    import zipfile_zstd

    before = samples.read(run)
    logs = list(run.rglob("*.eval"))
    for log in logs:
        with zipfile.ZipFile(log) as old:
            pack(log, {name: old.read(name) for name in old.namelist()}, zipfile_zstd.ZIP_ZSTANDARD)
    assert samples.read(run) == before
    pack(logs[0], {"summaries.json": "[" + " " * 50_000_000 + "]"}, zipfile_zstd.ZIP_ZSTANDARD)
    with pytest.raises(RunError, match=r"unpack from [\d,]+ to 50,000,002 bytes"):
        samples.read(run, texts=False)
    content = bytearray(logs[0].read_bytes())
    place = content.find(b"PK\x01\x02")
    content[place + 24 : place + 28] = (100).to_bytes(4, "little")  # it says less than it holds
    logs[0].write_bytes(content)
    with pytest.raises(RunError, match="damaged"):
        samples.read(run, texts=False)


def test_a_small_log_of_gigabytes_is_refused_before_it_is_unpacked(run, monkeypatch):
    for name, value in {"FREE_BYTES": 10**5, "FREE_LOG_BYTES": 10**6, "MAX_MEMBER_BYTES": 10**7}.items():
        monkeypatch.setattr(archive, name, value)
    log = next(run.rglob("*.eval"))
    sizes = {"a bomb": [200_000], "many small ones": [99_000] * 11, "too much of anything": [10**7 + 1]}
    for what, chars in sizes.items():
        method = zipfile.ZIP_STORED if what == "too much of anything" else zipfile.ZIP_DEFLATED
        pack(log, {f"samples/{number}.json": " " * num for number, num in enumerate(chars)}, method)
        with pytest.raises(RunError, match="unpack from"):
            samples.read(run)
    pack(log, {"samples/0.json": " " * 10**5})  # so little may be packed as well as it can
    with pytest.raises(RunError, match="not valid JSON"):
        samples.read(run)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (DEEP, "nested too deep"),
        ("[]", "valid dictionary"),
        ('{"format": 3}', "format"),
        ("\0", "not valid JSON"),
        ('{"format": %s}' % ("1" * 400), "whole number of 400 digits"),
    ],
)
def test_a_run_json_that_is_none_is_named(run, text, message):
    (run / "run.json").write_text(text)
    with pytest.raises(RunError, match=message) as refused:
        RunFile.load(run)
    assert refused.value.where == str(run / "run.json")


def test_a_number_in_a_text_may_have_hundreds_of_digits():
    digits = "3" * 400
    for text in (f'{{"pi": "{digits}", "e": 2.{digits}}}', f'{{"pi": "{digits}", "n": -7}}'.encode()):
        assert parse_json(text, "here") == json.loads(text)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("lam", float("nan")),
        ("lam", "half"),
        ("task", "another"),
        ("sampler", {"top_p": "x"}),
        ("parts", [{"first_sample": 0, "num_samples": 1}]),
    ],
)
def test_an_entry_that_makes_no_sense_is_named(run, key, value):
    change(run, lambda file: file["entries"][0].update({key: value}))
    with pytest.raises(RunError, match="entries" if key != "task" else "of the task 'another'"):
        RunFile.load(run)


@pytest.mark.parametrize("path", ["x" * 5000, "a\0b", "fifo", "file/below"])
def test_what_cannot_be_a_run_folder_is_said_to_be_none(tmp_path, path):
    (tmp_path / "file").touch()
    (tmp_path / "fifo").mkdir()
    os.mkfifo(tmp_path / "fifo/run.json")
    with pytest.raises(RunError, match="not a run folder"):
        RunFile.load(tmp_path / path)


@pytest.mark.parametrize("content", ["[5]", DEEP, "{}", "\0", '[["a", 1, 5]]'])
def test_new_grades_that_are_none_are_named(run, content):
    path = next(run.rglob("*.eval")).with_suffix(".regraded.json")
    path.write_text(content)
    with pytest.raises(RunError) as refused:
        samples.read(run)
    assert refused.value.where == str(path)


def test_run_folders_of_before_the_words_changed_are_read(run):
    expected = samples.read(run)

    def older(file):
        for entry in file["entries"]:
            for part in entry["parts"]:
                part["first_epoch"], part["epochs"] = part.pop("first_sample"), part.pop("num_samples")

    change(run, older)
    for log in run.rglob("*.eval"):
        rewrite(log, lambda one: one["scores"]["grade"]["metadata"].update(forced=False))
    assert samples.read(run) == expected


def test_control_characters_in_names_come_to_no_picture_and_no_terminal(run):
    change(run, lambda file: file["entries"][0].update(point="λ\x1b[31m\0"))
    assert {one.point for one in samples.read(run)} == {r"λ\x1b[31m\x00", "λ=1"}


def test_half_a_surrogate_pair_does_not_reach_files_and_terminals(run):
    assert parse_json(r'{"\ud800": ["\ude00", "\ud83d\ude00", 1]}', "") == {"�": ["�", "😀", 1]}
    for log in run.rglob("*.eval"):
        rewrite(log, lambda one: one["metadata"].update(question="\udc80?"))
    assert {one.question for one in samples.read(run)} == {"�?"}
