"""`interpole similarity` against the floor, `cat A B > /dev/null`: interleaved in one run, with a warm cache.

    python benchmarks/similarity.py            # 0.6B
    python benchmarks/similarity.py --audit    # `interpole audit` of a merge of the two against `cat` of the three
    python benchmarks/similarity.py --size 4b  # 8 GB a side, which the page cache must hold

The pair is random with Qwen3's exact shapes (pairs.py). Last line: JSON.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from merge import compare, report
from pairs import SHAPES, build_apart


def main() -> None:
    """Build, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SHAPES, default="0.6b")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--work", type=Path, help="folder for the pair (kept); default a temporary one")
    parser.add_argument("--audit", action="store_true", help="audit of a merge, with its recipe beside it")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="interpole-bench-") as temporary:
        work = options.work or Path(temporary)
        a, b = build_apart(work, options.size)
        interpole = str(Path(sys.executable).with_name("interpole"))
        commands = {
            "floor (cat)": ["sh", "-c", f"cat {a}/*.safetensors {b}/*.safetensors > /dev/null"],
            "interpole similarity": [interpole, "similarity", str(a), str(b), "--json"],
            "start-up alone": [
                sys.executable,
                "-c",
                "import interpole.cli, interpole.diagnostics.similarity, rich.progress",
            ],
        }
        if options.audit:
            merged = work / f"{options.size}-merged"
            if not merged.exists():
                subprocess.run([interpole, "merge", a, b, "-l", "0.6", "-o", merged, "--no-doctor"], check=True)
            commands = {
                "floor (cat)": [
                    "sh",
                    "-c",
                    f"cat {merged}/*.safetensors {a}/*.safetensors {b}/*.safetensors > /dev/null",
                ],
                "interpole audit": [interpole, "audit", str(merged), str(a), str(b), "--json"],
            }
        report(options.size, options.rounds, compare(commands, work / "out", options.rounds))


if __name__ == "__main__":
    main()
