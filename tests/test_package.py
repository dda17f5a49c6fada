"""What people install: sdist and wheel, each in an environment of its own that has neither torch nor this repository."""

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import interpole
from interpole.lab import shipped
from interpole.merging.recipe import Recipe

pytestmark = pytest.mark.package
ROOT = Path(__file__).parents[1]
UV = Path(sys.executable).with_name("uv")
COPIED = ("pyproject.toml", "setup.py", "README.md", "LICENSE", "CHANGELOG.md", "MANIFEST.in", "src")


def run(*words, code=0, **options):
    """Run a program outside of the repository; what it wrote."""
    environ = {name: text for name, text in os.environ.items() if not name.startswith("PYTHON")}
    environ |= options.pop("environ", {})
    done = subprocess.run([*map(str, words)], env=environ, capture_output=True, text=True, timeout=600, **options)
    assert done.returncode == code, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The sdist, and the wheel that is built of it."""
    folder = tmp_path_factory.mktemp("built")
    for name in COPIED:
        place = ROOT / name
        ignored = shutil.ignore_patterns("__pycache__", "*.egg-info", "*.so")
        if place.is_dir():
            shutil.copytree(place, folder / name, ignore=ignored)
        else:
            shutil.copy(place, folder / name)
    run(sys.executable, "-m", "build", "--outdir", folder / "dist", folder, cwd=folder)
    (sdist,), (wheel,) = folder.glob("dist/*.tar.gz"), folder.glob("dist/*.whl")
    return sdist, wheel


def installed(what, folder):
    """The programs of an environment that holds what was built, and what it asks for."""
    run(UV, "venv", "--quiet", "--python", sys.executable, folder / "env")
    install = (UV, "pip", "install", "--quiet", "--python", folder / "env", "-c", ROOT / "constraints.txt")
    run(*install, what, cwd=folder)
    return folder / "env/bin"


@pytest.fixture(scope="module")
def of_wheel(built, tmp_path_factory):
    return installed(built[1], tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def of_sdist(built, tmp_path_factory):
    return installed(built[0], tmp_path_factory.mktemp("sdist"))


@pytest.fixture(scope="module")
def merged(tmp_path_factory):
    """The bytes of a merge, by this repository."""
    pair = shipped()
    out = tmp_path_factory.mktemp("merged") / "out"
    interpole.save(interpole.merge(Recipe.between(pair.instruct, pair.thinking, 0.6)), out)
    return (out / "model.safetensors").read_bytes()


def pair_of(programs):
    code = "from interpole.lab import shipped; pair = shipped(); print(pair.instruct, pair.thinking)"
    return run(programs / "python", "-c", code, cwd="/").split()


def test_one_wheel_serves_all_pythons_and_holds_what_is_needed_and_no_tests(built):
    sdist, wheel = built
    assert re.fullmatch(rf"interpole-{re.escape(interpole.__version__)}-cp311-abi3-\w+\.whl", wheel.name)
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        metadata = archive.read(next(name for name in names if name.endswith(".dist-info/METADATA"))).decode()
    assert any(name.endswith("_kernels.abi3.so") for name in names)
    assert {"interpole/py.typed", "interpole/lab/pair/instruct/model.safetensors"} <= {*names}
    ours = {path.relative_to(ROOT / "src").as_posix() for path in (ROOT / "src/interpole").rglob("*.py")}
    assert ours <= {*names}
    assert not [name for name in names if "test" in name.split("/")[0]]
    assert "License-Expression: Apache-2.0" in metadata
    assert "](https://raw.githubusercontent.com/" in metadata
    assert not re.findall(r"\]\((?!https?://)", metadata)  # PyPI has none of the files that the README links to
    assert all(f"Programming Language :: Python :: 3.{minor}" in metadata for minor in (11, 12, 13, 14))
    assert all(f"Provides-Extra: {extra}" in metadata for extra in ("all", "serve", "ray", "vllm", "transformers"))
    with tarfile.open(sdist) as archive:
        there = {name.split("/", 1)[-1] for name in archive.getnames()}
    assert {"pyproject.toml", "LICENSE", "src/interpole/checkpoints/_kernels.c"} <= there
    assert not any(name.startswith("tests") for name in there)


@pytest.mark.parametrize("kind", ["of_wheel", "of_sdist"])
def test_it_looks_and_merges_without_torch(kind, request, merged, tmp_path):
    programs = request.getfixturevalue(kind)
    pair, ours = pair_of(programs), programs / "interpole"
    assert run(ours, "--version") == f"interpole {interpole.__version__}\n"
    found = json.loads(run(ours, "env", "--json", cwd=tmp_path))
    assert found["c_loops"]
    assert (found["packages"]["torch"], found["engines"]["openai"]["found"]) == (None, True)
    assert json.loads(run(ours, "doctor", *pair, "--json", cwd=tmp_path))["verdict"] == "go"
    assert "to write" in run(ours, "merge", *pair, "-l", "0.6", "-o", "out", "--dry-run", cwd=tmp_path)
    run(ours, "merge", *pair, "-l", "0.6", "-o", "out", cwd=tmp_path)
    assert (tmp_path / "out/model.safetensors").read_bytes() == merged


class Model(BaseHTTPRequestHandler):
    """An endpoint whose model thinks, and always answers 7."""

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        reply = {
            "choices": [{"finish_reason": "stop", "message": {"content": "<think>\nhm\n</think>\n\n7"}, "text": "7"}],
            "usage": {"completion_tokens": 5, "prompt_tokens": 9},
        }
        data = json.dumps(reply).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


def test_it_asks_scores_and_draws_without_torch(of_wheel, tmp_path):
    ours, pair = of_wheel / "interpole", pair_of(of_wheel)
    script = [
        {"contains": "", "lambda": 1.0, "responses": ["<think>\nhm\n</think>\n\n7"]},
        {"contains": "", "responses": ["7"]},
    ]
    (tmp_path / "script.json").write_text(json.dumps(script))
    task = ("--task", "arithmetic", "--limit", "3", "--samples", "2", "--no-doctor")
    scripted = ("--engine", "scripted", "--engine-option", "script=script.json", "-l", "0,0.5,1")
    run(ours, "sweep", *pair, *task, *scripted, "-o", "run", cwd=tmp_path)
    curves = (tmp_path / "run/curves.csv").read_bytes()
    (tmp_path / "run/curves.csv").unlink()
    run(ours, "score", "run", cwd=tmp_path)
    assert (tmp_path / "run/curves.csv").read_bytes() == curves
    run(ours, "report", "run", cwd=tmp_path)
    assert "λ=0.5" in (tmp_path / "run/report.html").read_text(encoding="utf-8")
    run(ours, "plot", "run", "--figure", "3", "-o", "figure.pdf", cwd=tmp_path)
    assert (tmp_path / "figure.pdf").read_bytes().startswith(b"%PDF")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Model)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}/v1"
    remote = ("--base-url", address, "--model", "seven", "-o", "asked", "--json")
    run(ours, "sweep", *task[:-1], *remote, cwd=tmp_path, environ={"OPENAI_API_KEY": "none"})
    server.shutdown()
    assert "seven" in (tmp_path / "asked/metrics.json").read_text(encoding="utf-8")


def test_what_needs_an_extra_names_it_at_once(of_wheel, tmp_path):
    said = run(of_wheel / "interpole", "demo", "-o", "demo", cwd=tmp_path, code=1)
    assert said.endswith("remedy: pip install 'interpole[all]'\n")
    assert not (tmp_path / "demo").exists()
    said = run(of_wheel / "interpole", "serve", *pair_of(of_wheel), cwd=tmp_path, code=1)
    assert re.search(r"pip install 'interpole\[(serve|transformers)\]'", said)


def test_uvx_runs_it_from_the_wheel(built, tmp_path):
    """As pipx does: an environment made for the one command."""
    said = run(
        UV.with_name("uvx"),
        "--quiet",
        "--python",
        sys.executable,
        "--from",
        built[1],
        "interpole",
        "recipe",
        "presets",
        cwd=tmp_path,
    )
    assert "ties" in said
