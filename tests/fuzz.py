"""Hostile files, many of them: every command on inputs with one thing wrong in one file, each in a process of its own.

The processes are forked from one that has imported everything, so that an input costs what the command does and not its imports.

    python tests/fuzz.py --inputs 5000        # prints a table; exit 1 if anything was not held
    python tests/fuzz.py --seconds 120 --seed 7

What must hold for each: an exit code that is documented, an error of ours and no traceback, bounded memory and time, nothing
written but what the command may write. An input is named by its seed; `--only SEED` runs one again and shows what it said.
"""

from __future__ import annotations

import argparse
import importlib
import json
import multiprocessing
import os
import pkgutil
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

from zipfile_zstd import ZipFile  # Inspect writes zstd

sys.path.insert(0, str(Path(__file__).parent))

CODES = {0, 1, 2, 3}
"""Exit codes: done, an error of ours, wrong usage, nothing meets the budget."""
SECONDS, MEMORY_BYTES = 30, 3 << 30
PAIR = ("instruct", "thinking")
TASK = ("--task", "questions.jsonl", "-l", "0", "-k", "1")
SCRIPTED = ("--engine", "scripted", "--engine-option", "script=script.json", "--no-doctor")

COMMANDS: list[tuple[str, tuple[str, ...], tuple[str, ...]]] = [  # name, what it reads, its words
    ("merge", ("instruct", "thinking"), ("merge", *PAIR, "-l", "0.5", "-o", "out")),
    ("merge adapter", ("adapter",), ("merge", "adapter", "thinking", "-l", "0.5", "-o", "out")),
    ("merge fp8", ("fp8",), ("merge", "fp8", "thinking", "-l", "0.5", "-o", "out", "--no-doctor")),
    ("merge recipe", ("recipe.yml",), ("merge", "recipe.yml", "-o", "out")),
    ("merge mergekit", ("mergekit.yml",), ("merge", "mergekit.yml", "-o", "out")),
    ("recipe convert", ("mergekit.yml", "recipe.yml"), ("recipe", "convert", "mergekit.yml")),
    ("doctor", ("instruct", "thinking"), ("doctor", *PAIR, "--weights")),
    ("similarity", ("instruct", "thinking"), ("similarity", *PAIR)),
    ("audit", ("merged",), ("audit", "merged", *PAIR)),
    ("score", ("run",), ("score", "run")),
    ("regrade", ("run",), ("score", "run", "--regrade")),
    ("stages", ("run",), ("stages", "run")),
    ("stages csv", ("curves.csv",), ("stages", "curves.csv")),
    ("recommend csv", ("curves.csv",), ("recommend", "curves.csv", "--balanced")),
    ("compare", ("run",), ("compare", "run", "0", "1")),
    ("samples", ("run",), ("samples", "run")),
    ("runs list", ("run",), ("runs", "list", ".")),
    ("runs merge", ("run",), ("runs", "merge", "run", "other", "-o", "out")),
    ("report", ("run",), ("report", "run", "-o", "out.html")),
    ("recommend run", ("run",), ("recommend", "run", "--max-tokens", "500")),
    ("watch", ("run",), ("watch", "run", "--json")),
    ("plot run", ("run",), ("plot", "run", "--figure", "3", "-o", "out.svg")),
    ("search", ("space.yml",), ("search", "space.yml", "--trials", "1", "-o", "out")),
    ("search again", ("found",), ("search", "space.yml", "--trials", "1", "-o", "found")),
    ("plot csv", ("curves.csv",), ("plot", "curves.csv", "--figure", "3", "-o", "out.svg")),
    ("sweep plan", ("sweep.yml",), ("sweep", "sweep.yml", "--dry-run", "-o", "out")),
    ("sweep task", ("questions.jsonl",), ("sweep", *PAIR, *TASK, *SCRIPTED, "-o", "out")),
    ("sweep pair", ("instruct", "thinking"), ("sweep", *PAIR, *TASK, *SCRIPTED, "-o", "out")),
    ("sweep again", ("run",), ("sweep", "sweep.yml", "-o", "run")),
    ("sweep stopped", ("stopped",), ("sweep", "sweep.yml", "-o", "stopped")),
]  # fmt: skip
WRITES = {"run", "found", "stopped", "out", "out.html", "out.svg", ".interpole"}
"""Names at the top of the folder that a command may make or change."""

STRANGE: list[Callable[[random.Random], object]] = [
    *(
        lambda _, value=value: value
        for value in (None, True, -1, 0, 1, 1e308, -0.5, "", "x", [], {}, "1", "none", "auto")
    ),
    lambda _: float("nan"),
    lambda _: float("inf"),
    lambda _: 10**400,
    lambda _: "../../outside",
    lambda _: "/etc/passwd",
    lambda _: "a\x00b",
    lambda _: "\x1b[31m[/red]\u202e",
    lambda _: "x" * 100_000,
    lambda _: "python:os.popen",
    lambda _: _nested(3000),
    lambda _: [0] * 20_000,
    lambda rng: {str(rng.random()): rng.random()},
    lambda rng: rng.randrange(2**63),
    lambda _: "\ud800",
]


def _nested(depth: int) -> object:
    value: object = 1
    for _ in range(depth):
        value = [value]
    return value


# ── one thing wrong ──────────────────────────────────────────────────────────────────────────────────────────────


def spoil(path: Path, rng: random.Random) -> str:
    """Make one thing of a file wrong; returns what."""
    kinds = [_bytes, _bytes, _as_another]
    if path.suffix in (".json", ".jsonl", ".yml", ".csv", ".safetensors", ".eval"):
        kinds += [_structure] * 6
    for _ in range(5):
        try:
            return rng.choice(kinds)(path, rng)
        except (ValueError, KeyError, TypeError, RecursionError, IndexError, OverflowError):
            continue
    return _bytes(path, rng)


def _bytes(path: Path, rng: random.Random) -> str:
    data = bytearray(path.read_bytes())
    at = rng.randrange(len(data) + 1)
    what = rng.choice(["cut", "flip", "insert", "empty", "double", "BOM", "UTF-16", "CRLF", "NUL"])
    if what == "cut":
        del data[at:]
    elif what == "flip":
        for _ in range(rng.choice([1, 8, 64])):
            if data:
                data[rng.randrange(len(data))] = rng.randrange(256)
    elif what == "insert":
        data[at:at] = rng.randbytes(rng.choice([1, 7, 4096]))
    elif what == "empty":
        data.clear()
    elif what == "double":
        data = data * 2
    elif what == "BOM":
        data[:0] = b"\xef\xbb\xbf"
    elif what == "UTF-16":
        data = bytearray(data.decode("latin-1").encode("utf-16"))
    elif what == "CRLF":
        data = bytearray(data.replace(b"\n", b"\r\n"))
    else:
        data[at:at] = b"\0"
    path.write_bytes(data)
    return f"{path.name}: {what}"


def _as_another(path: Path, rng: random.Random) -> str:
    """The file is no file."""
    what = rng.choice(["missing", "folder", "dangling link", "link to itself", "link outside", "pipe"])
    path.unlink()
    if what == "folder":
        path.mkdir()
    elif what == "dangling link":
        path.symlink_to("nowhere")
    elif what == "link to itself":
        path.symlink_to(path.name)
    elif what == "link outside":
        path.symlink_to("/etc/hostname")
    elif what == "pipe":
        os.mkfifo(path)
    return f"{path.name}: {what}"


def _structure(path: Path, rng: random.Random) -> str:
    """A value within the file, or a key, is another."""
    if path.suffix == ".safetensors":
        data = path.read_bytes()
        size = int.from_bytes(data[:8], "little")
        text, what = _json(data[8 : 8 + size].decode(), rng)
        path.write_bytes(len(text.encode()).to_bytes(8, "little") + text.encode() + data[8 + size :])
    elif path.suffix == ".eval":
        with ZipFile(path) as log:
            entries = {name: log.read(name) for name in log.namelist()}
        name = rng.choice(list(entries))
        text, what = _json(entries[name].decode(), rng)
        with ZipFile(path, "w") as log:
            for other, content in entries.items():
                log.writestr(other, text if other == name else content)
    elif path.suffix == ".jsonl":
        lines = path.read_text().splitlines()
        at = rng.randrange(len(lines))
        lines[at], what = _json(lines[at], rng)
        path.write_text("\n".join(lines), errors="surrogatepass")
    elif path.suffix == ".csv":
        rows = [line.split(",") for line in path.read_text().splitlines()]
        row = rng.choice(rows)
        row[rng.randrange(len(row))] = what = rng.choice(
            ["", "x", "nan", "inf", "-1", "1e400", "2", '"', "=1+1", "\x1b[0m", "\x00"]
        )
        path.write_text("\n".join(map(",".join, rows)))
    elif path.suffix == ".yml":
        import yaml

        value = yaml.safe_load(path.read_text())
        where = _change(value, rng)
        path.write_text(yaml.safe_dump(value, allow_unicode=True))
        what = where
    else:
        text, what = _json(path.read_text(), rng)
        path.write_text(text, errors="surrogatepass")
    return f"{path.name}: {what}"[:300]


def _json(text: str, rng: random.Random) -> tuple[str, str]:
    value = json.loads(text)
    where = _change(value, rng)
    return json.dumps(value, ensure_ascii=True), where


def _change(value: object, rng: random.Random) -> str:
    """Change one node of a tree of lists and mappings in place; returns where."""
    parents = list(_parents(value))
    holder, keys = rng.choice(parents)
    key = rng.choice(keys)
    what = rng.choice(["other", "other", "other", "gone", "renamed"])
    if what == "gone":
        del holder[key]
        return f"no {key!r}"
    if what == "renamed" and isinstance(holder, dict):
        holder[rng.choice(["", "x", "../x", "\x1b[0m", "__class__", "README.md"])] = holder.pop(key)
        return f"{key!r} renamed"
    holder[key] = rng.choice(STRANGE)(rng)
    return f"{key!r} is {str(holder[key])[:60]!r}"


def _parents(value: object) -> Iterator[tuple[object, list[object]]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    keys = []
    for key, inner in items:
        keys.append(key)
        yield from _parents(inner)
    if keys:
        yield value, keys


# ── the world that is spoilt ─────────────────────────────────────────────────────────────────────────────────────


def build(world: Path) -> None:
    """Everything that commands read, whole: a pair, an adapter, FP8, recipes, runs, tables, tasks."""
    import numpy as np
    from safetensors.numpy import save_file

    import tiny
    from interpole.cli import app
    from interpole.lab import shipped

    tokenizer = shipped().thinking
    base, sizes = (
        tiny.tensors(0, layers=2, vocab=292),
        {
            "vocab_size": 292,
            "hidden_size": 16,
            "num_hidden_layers": 2,
            "intermediate_size": 32,
            "eos_token_id": 289,
        },
    )
    for number, side in enumerate((*PAIR, "fp8")):
        change = tiny.tensors(number, layers=2, vocab=292)  # of one base, as the doctor wants a pair
        weights = {name: (0.95 * base[name] + 0.05 * change[name]).astype(base[name].dtype) for name in base}
        tiny.write(world / side, weights, shards=2, config=sizes)
        for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
            shutil.copyfile(tokenizer / name, world / side / name)
    shutil.rmtree(world / "merged", ignore_errors=True)
    app(
        ["merge", *(str(world / side) for side in PAIR), "-l", "0.5", "-o", str(world / "merged")],
        standalone_mode=False,
    )
    _to_fp8(world / "fp8")
    rng = np.random.default_rng(0)
    pairs = {"A": (4, 16), "B": (16, 4)}
    low = {
        f"base_model.model.model.layers.0.self_attn.q_proj.lora_{x}.weight": rng.normal(size=s).astype(np.float32)
        for x, s in pairs.items()
    }
    (world / "adapter").mkdir()
    save_file(low, world / "adapter/adapter_model.safetensors")
    about = {
        "peft_type": "LORA",
        "r": 4,
        "lora_alpha": 8,
        "target_modules": ["q_proj"],
        "base_model_name_or_path": "instruct",
    }
    (world / "adapter/adapter_config.json").write_text(json.dumps(about))
    sources = "sources:\n  instruct: {model: instruct}\n  thinking: {model: thinking}\n"
    (world / "recipe.yml").write_text(
        f"method: linear\nlambda: 0.5\n{sources}rules:\n  - {{layers: '0', kind: ffn, lambda: 0.2}}\n"
    )
    (world / "mergekit.yml").write_text(
        "merge_method: linear\nmodels:\n  - model: instruct\n    parameters: {weight: 0.5}\n"
        "  - model: thinking\n    parameters: {weight: [0.2, 0.8]}\ndtype: bfloat16\n"
    )
    (world / "questions.jsonl").write_text(
        '{"id": "a", "question": "1 + 1 = ?", "answer": "2"}\n{"question": "2 + 2 = ?", "answer": "4", "difficulty": "x"}\n'
        '{"question": "3 + 3 = ?", "answer": "6"}\n{"question": "4 + 4 = ?", "answer": "8"}\n'
    )
    (world / "script.json").write_text(json.dumps([{"responses": ["<think>\nhm\n</think>\n\n2"]}]))
    (world / "sweep.yml").write_text(
        f"{sources}tasks: [{{task: questions.jsonl}}]\nlambdas: [0, 0.5, 1]\nsamples: 2\n"
        "engine: scripted\nengine_options: {script: script.json}\n"
    )
    lines = (
        f"math,{lam},30,4,{mean},{tokens},{think}"
        for lam, mean, tokens, think in ((0, 0.3, 100, 0), (0.5, 0.6, 300, 0.6), (1, 0.7, 900, 1))
    )
    (world / "space.yml").write_text(
        f"{sources}tasks: [questions.jsonl]\nsamples: 1\nlambdas: [0, 1]\nspace: {{lambda: [0.3, 1], groups: 2}}\n"
        "finalists: 1\nengine: scripted\nengine_options: {script: script.json}\n"
    )
    (world / "curves.csv").write_text("\n".join(["task,lam,questions,samples,mean,tokens,think", *lines]) + "\n")
    before = Path.cwd()
    os.chdir(world)
    try:
        for out in ("run", "other"):
            app(["sweep", "sweep.yml", "-o", out, "--no-doctor"], standalone_mode=False)
        app(["search", "space.yml", "--trials", "1", "-o", "found"], standalone_mode=False)
        _stop(Path("stopped"))
    finally:
        os.chdir(before)


def _stop(run: Path) -> None:
    """Make `run`: a copy of the run folder `run` as a kill at its last point leaves it."""
    shutil.copytree("run", run)
    content = json.loads((run / "run.json").read_text())
    last = content["entries"][-1]
    (part,) = last["parts"]
    (run / last["folder"] / part["log"]).unlink()
    part |= {"status": "planned", "log": None}
    (run / "run.json").write_text(json.dumps(content))
    answers = [[f"{number:032x}", "<think>\nhm\n</think>\n\n2", 5, "stop", False] for number in range(2)]
    (run / last["folder"] / "sample-1.answers.jsonl").write_text("".join(json.dumps(one) + "\n" for one in answers))


def _made(world: Path) -> None:
    """The world, made in a process of its own, so that this one has no threads when it forks."""
    world.mkdir()
    command = [sys.executable, __file__, "--build", str(world)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _to_fp8(folder: Path) -> None:
    """The model in `folder` with FP8 codes and block scales."""
    import ml_dtypes
    import numpy as np
    from safetensors.numpy import load_file, save_file

    (index,) = folder.glob("*.index.json")
    content = json.loads(index.read_text())
    for file in folder.glob("*.safetensors"):
        weights = load_file(file)
        for name, array in list(weights.items()):
            if array.ndim == 2 and "embed" not in name:
                weights[name] = array.astype(np.float32).astype(ml_dtypes.float8_e4m3fn)
                weights[f"{name}_scale_inv"] = np.ones([-(-size // 8) for size in array.shape], np.float32)
        save_file(weights, file, {"format": "pt"})
        content["weight_map"] |= dict.fromkeys(weights, file.name)
    index.write_text(json.dumps(content))
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [8, 8]}
    (folder / "config.json").write_text(json.dumps(config))


# ── one input ────────────────────────────────────────────────────────────────────────────────────────────────────


def try_one(world: Path, seed: int, say: Callable[[str], None] = lambda _: None) -> tuple[str, str, str]:
    """Run one command on one spoilt input.

    Returns:
        The command's name, how it ended ("held", "done", or what was not held), and what was spoilt.
    """
    rng = random.Random(seed)
    name, reads, words = rng.choice(COMMANDS)
    with tempfile.TemporaryDirectory(prefix="fuzz-") as made:
        folder = Path(made) / "in"
        shutil.copytree(world, folder)
        files = sorted(
            path
            for read in reads
            for path in ([folder / read] if (folder / read).is_file() else (folder / read).rglob("*"))
        )
        what = spoil(rng.choice([path for path in files if path.is_file()]), rng)
        before = _seen(Path(made))
        ended, told = _run(folder, words)
        say(f"$ interpole {' '.join(words)}\n{what}\n{ended}\n{told[-4000:]}")
        if ended in ("done", "held") and _seen(Path(made)) != before:
            ended = "wrote elsewhere"
    return name, ended, what


def _seen(made: Path) -> dict[str, tuple[int, int]]:
    """Size and time of every file that the command must not touch."""
    found = {}
    for path in made.rglob("*"):
        inside = path.relative_to(made).parts[1:2]
        if (
            path.name != "said"
            and not (inside and (inside[0] in WRITES or inside[0].startswith((".out", "out"))))
            and not path.is_dir()
        ):
            about = path.lstat()
            found[str(path)] = (about.st_size, about.st_mtime_ns)
    return found


def _run(folder: Path, words: tuple[str, ...]) -> tuple[str, str]:
    """The command in a forked process with limits: how it ended, and what it said."""
    said = folder.parent / "said"
    child = os.fork()
    if child == 0:
        _in_child(folder, words, said)
    crowd = max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))  # where others take the cores, a second lasts longer
    deadline = time.monotonic() + SECONDS * crowd
    status = None
    while status is None and time.monotonic() < deadline:
        pid, code = os.waitpid(child, os.WNOHANG)
        status = code if pid else None
        if status is None:
            time.sleep(0.005)
    if status is None:
        os.killpg(child, signal.SIGKILL)
        os.waitpid(child, 0)
        return f"hangs ({SECONDS * crowd:.0f} s)", said.read_text(errors="replace")
    told = said.read_text(errors="replace")
    if os.WIFSIGNALED(status):
        return f"killed by {signal.Signals(os.WTERMSIG(status)).name}", told
    code = os.WEXITSTATUS(status)
    if "Traceback (most recent call last)" in told:
        return "traceback", told
    if "MemoryError" in told:
        return "memory", told
    if any(ord(c) < 32 and c not in "\n\t\r" for c in told):
        return "control characters", told
    if code not in CODES:
        return f"exit code {code}", told
    return ("done" if code in (0, 3) else "held"), told


def _in_child(folder: Path, words: tuple[str, ...], said: Path) -> None:
    os.setpgid(0, 0)
    os.chdir(folder)
    out = os.open(said, os.O_WRONLY | os.O_CREAT)
    os.dup2(out, 1)
    os.dup2(out, 2)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS + 1))
    code = 70
    try:
        from interpole.cli import main

        sys.argv = ["interpole", *words]
        sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
        try:
            main()
            code = 0
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
        except BaseException:
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


def _import_all() -> None:
    """Import what the commands would, once for all that are forked from here."""
    import interpole

    for module in pkgutil.walk_packages(interpole.__path__, "interpole."):
        if not module.name.endswith(("__main__", "_worker")):
            with suppress(ModuleNotFoundError):  # of an extra that is not installed
                importlib.import_module(module.name)


def fuzz(
    inputs: int, seconds: float, seed: int = 0, jobs: int = 1
) -> tuple[dict[str, Counter[str]], list[tuple[int, str, str, str]]]:
    """Try inputs until there were so many, or the time is up.

    Returns:
        How the inputs of each command ended, and those that were not held, which are told on stderr as they come.
    """
    _import_all()
    table: dict[str, Counter[str]] = defaultdict(Counter)
    wrong = []
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="fuzz-world-") as made:
        world = Path(made) / "world"
        _made(world)
        numbers = range(seed * 1_000_000, seed * 1_000_000 + inputs)
        with multiprocessing.get_context("fork").Pool(jobs) as pool:
            for number, (name, ended, what) in zip(numbers, pool.imap(partial(try_one, world), numbers), strict=False):
                table[name][ended if ended in ("done", "held") else "not held"] += 1
                if ended not in ("done", "held"):
                    wrong.append((number, name, ended, what))
                    print(*wrong[-1], sep=" · ", file=sys.stderr, flush=True)
                if time.monotonic() - start > seconds:
                    pool.terminate()
                    break
    return table, wrong


def main() -> int:
    """Fuzz, and print what was seen."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=5000)
    parser.add_argument("--seconds", type=float, default=3600.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--only", type=int)
    parser.add_argument("--build", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.build is not None:
        build(options.build)
        return 0
    if options.only is not None:
        with tempfile.TemporaryDirectory(prefix="fuzz-world-") as made:
            world = Path(made) / "world"
            _made(world)
            try_one(world, options.only, print)
        return 0
    table, wrong = fuzz(options.inputs, options.seconds, options.seed, options.jobs)
    print("| command | inputs | error of ours | done all the same | not held |\n| --- | --- | --- | --- | --- |")
    for name, ends in sorted(table.items()):
        print(f"| {name} | {ends.total()} | {ends['held']} | {ends['done']} | {ends['not held']} |")
    for one in wrong:
        print(*one, sep=" · ")
    print(f"{sum(ends.total() for ends in table.values())} passed, {len(wrong)} failed")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
