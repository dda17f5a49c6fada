"""The workflows of `.github`: they run nowhere but there, so what can be known of them is checked here."""

import hashlib
import re
import runpy
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml

import interpole
from interpole.lab import shipped
from interpole.merging.recipe import Recipe

ROOT = Path(__file__).parents[1]
GITHUB = ROOT / ".github"
WORKFLOWS = sorted((GITHUB / "workflows").glob("*.yml"))
FORMS = sorted(path for path in (GITHUB / "ISSUE_TEMPLATE").glob("*.yml") if path.name != "config.yml")
TARGETS = {*re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE)}

pytestmark = pytest.mark.skipif(not WORKFLOWS, reason="no workflows here: not a checkout of the repository")


def jobs(path):
    return yaml.safe_load(path.read_text())["jobs"]


def steps(path):
    return [step for job in jobs(path).values() for step in job.get("steps", [])]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_runs_targets_and_files_that_are_there(path):
    lines = [line for step in steps(path) for line in step.get("run", "").splitlines()]
    words = [shlex.split(part, comments=True) for line in lines for part in re.split(r"&&|\|\|?|;", line)]
    made = {word for one in words if one[:1] == ["make"] for word in one[1:] if "=" not in word}
    assert made <= TARGETS
    files = {word for one in words for word in one if word.endswith((".py", ".toml", ".md", ".txt", ".sh"))}
    assert all((ROOT / name).is_file() for name in files), files
    called = [job["uses"] for job in jobs(path).values() if job.get("uses", "").startswith("./")]
    assert all((ROOT / name).is_file() for name in called)
    assert lines or called


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_may_do_no_more_than_its_jobs_say_and_takes_actions_by_their_hash(path):
    content = yaml.safe_load(path.read_text())
    assert content["permissions"] == {}
    for job in content["jobs"].values():
        granted = job["permissions"]
        assert set(granted.items()) <= {("contents", "read"), ("id-token", "write"), ("pages", "write")}
        assert ("environment" in job) == (granted.get("id-token") == "write"), (
            "what publishes is what people can hold up"
        )
        assert "uses" in job or job["timeout-minutes"] <= 60
    for step in steps(path):
        if "actions/checkout" in step.get("uses", ""):
            assert step["with"]["persist-credentials"] is False
        assert "${{" not in step.get("run", ""), "a text from outside would be run"
    for action in re.findall(r"uses: (\S+)(.*)", path.read_text()):
        if not action[0].startswith("./"):
            assert re.fullmatch(r"[\w.-]+/[\w./-]+@[0-9a-f]{40}", action[0]), action
            assert re.fullmatch(r" # v\d+\.\d+\.\d+", action[1]), action


def test_an_action_has_one_hash_in_all_workflows():
    used = {found for path in WORKFLOWS for found in re.findall(r"uses: ([^.\s]\S*)@(\S+)", path.read_text())}
    assert len({name for name, _ in used}) == len(used)


def test_the_matrix_is_of_the_pythons_that_the_package_names():
    tested = jobs(GITHUB / "workflows/ci.yml")["test"]["strategy"]["matrix"]["python"]
    named = re.findall(r"Programming Language :: Python :: (3\.\d+)\"", (ROOT / "pyproject.toml").read_text())
    assert tested == named


def test_a_release_is_published_only_after_it_was_built_and_tried():
    release = jobs(GITHUB / "workflows/release.yml")
    assert [release[name].get("needs") for name in ("build", "testpypi", "try", "pypi")] == [
        "version", "build", "testpypi", "try",
    ]  # fmt: skip
    checks = [step["run"] for step in release["version"]["steps"] if "run" in step]
    version = f"v{interpole.__version__}"
    for ref, code in ((version, 0), (f"{version}0", 1)):
        done = subprocess.run(
            ["bash", "-ec", checks[0]], cwd=ROOT, env={"GITHUB_REF_NAME": ref, "PATH": "/usr/bin:/bin"}
        )
        assert done.returncode == code


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_a_form_has_what_the_site_asks_of_it(path):
    form = yaml.safe_load(path.read_text())
    assert {"name", "description", "body"} <= {*form}
    fields = [field for field in form["body"] if field["type"] != "markdown"]
    assert all(field["attributes"]["label"] for field in fields)
    assert len({field["id"] for field in fields}) == len(fields)
    assert all(re.fullmatch(r"[a-z-]+", field["id"]) for field in fields)


def test_who_reports_a_fault_is_asked_for_env_and_doctor():
    labels = [
        field["attributes"]["label"]
        for field in yaml.safe_load((GITHUB / "ISSUE_TEMPLATE/fault.yml").read_text())["body"]
    ]
    assert {"interpole env", "interpole doctor --json"} <= {*labels}


def test_the_smoke_test_knows_the_bytes_of_the_merge_it_makes(tmp_path):
    pair = shipped()
    interpole.save(interpole.merge(Recipe.between(pair.instruct, pair.thinking, 0.6)), tmp_path / "out")
    known = runpy.run_path(str(GITHUB / "smoke.py"), run_name="smoke")["SHA256"]
    assert hashlib.sha256((tmp_path / "out/model.safetensors").read_bytes()).hexdigest() == known


@pytest.mark.parametrize("name", ["Dockerfile", "Dockerfile.vllm"])
def test_an_image_is_made_of_files_that_are_there_and_let_in(name):
    lines = (ROOT / name).read_text().splitlines()
    copied = {
        word for line in lines if line.startswith("COPY ") and "--from" not in line for word in line.split()[1:-1]
    }
    let_in = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert copied
    assert all((ROOT / path).exists() for path in copied)
    assert copied <= let_in


def test_the_citation_is_of_this_version_and_names_the_paper():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == interpole.__version__
    assert [one["value"] for one in citation["references"][0]["identifiers"]] == ["arXiv:2510.10977"]
    assert f'\nversion = "{interpole.__version__}"\n' in (ROOT / "pyproject.toml").read_text()
