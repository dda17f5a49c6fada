"""Whether an installed Interpole looks, merges and draws, on any system: `python .github/smoke.py`.

The merge must have the bytes that it has everywhere.
"""

import hashlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from interpole.lab import shipped

SHA256 = "287b8f62b523452d61c549e2b56759e1a2ed3e4ab90ca665bcb9cb4999b89db0"
"""Of the weights of the shipped pair at λ = 0.6."""


def run(*words: object) -> str:
    """A command of ours; what it prints."""
    done = subprocess.run([sys.executable, "-m", "interpole", *map(str, words)], stdout=subprocess.PIPE, check=True)
    return done.stdout.decode("utf-8")


def main() -> None:
    """Run the commands that need no engine."""
    pair = shipped()
    ends = (pair.instruct, pair.thinking)
    with tempfile.TemporaryDirectory() as folder:
        print(run("--version"), run("env"))
        assert json.loads(run("doctor", *ends, "--json"))["verdict"] == "go"
        run("merge", *ends, "--lambda", "0.6", "--out", Path(folder) / "merged")
        found = hashlib.sha256((Path(folder) / "merged/model.safetensors").read_bytes()).hexdigest()
        assert found == SHA256, found
    print("all is well")


if __name__ == "__main__":
    main()
