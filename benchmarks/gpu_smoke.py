"""The tests that are marked `gpu`, on a machine that has one, and what came of them as JSON.

make gpu-smoke        # or: python benchmarks/gpu_smoke.py, in an environment with torch for CUDA and, if it shall be tried, vLLM
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

ROOT = Path(__file__).parents[1]
PACKAGES = ("interpole", "torch", "transformers", "vllm")


def device() -> str:
    """The name of the first CUDA device."""
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else "none"


def installed(package: str) -> str | None:
    """The version of a package, if it is there."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def outcomes() -> dict[str, dict[str, Any]]:
    """Test → outcome, seconds, and the end of what it said."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:xdist",
            "-m",
            "gpu",
            "tests/engines/test_gpu.py",
            f"--junitxml={report}",
        ]
        subprocess.run(command, cwd=ROOT, stdout=sys.stderr, check=False)
        cases = list(ElementTree.parse(report).iter("testcase"))
    found = {}
    for case in cases:
        kinds = [child for child in case if child.tag in ("failure", "error", "skipped")]
        said = (kinds[0].text or kinds[0].get("message") or "")[-2000:] if kinds else ""
        outcome = kinds[0].tag if kinds else "passed"
        found[case.get("name", "")] = {"outcome": outcome, "seconds": float(case.get("time", 0)), "said": said}
    return found


def main() -> None:
    """Run and print."""
    tests = outcomes()
    print(
        json.dumps(
            {"device": device(), "packages": {one: installed(one) for one in PACKAGES}, "tests": tests}, indent=1
        )
    )
    sys.exit(any(test["outcome"] in ("failure", "error") for test in tests.values()))


if __name__ == "__main__":
    main()
