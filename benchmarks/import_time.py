"""How long it takes until something can be typed: imports beside torch's own, and the command line's answers.

Wall time of fresh processes, in turns, several rounds after one that does not count; the fastest of each, since other
programs only add to it. Writes `results/import_time.json`.

    python benchmarks/import_time.py
"""

import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

import torch

OUT = Path(__file__).parent / "results" / "import_time.json"
ROUNDS = 9
LINES = {
    "python alone": "pass",
    "import torch": "import torch",
    "import shrinknet": "import shrinknet",
    "import torch, shrinknet": "import torch, shrinknet",
    "import torch; from shrinknet import Task, prune": "import torch; from shrinknet import Task, prune",
    "import torch; from shrinknet import *": "import torch; from shrinknet import *",
}
COMMANDS = (["--version"], ["--help"], ["report", "--help"], ["prune", "--help"])


def seconds(words: tuple[str, ...]) -> float:
    """Return the time that a fresh process takes."""
    started = time.perf_counter()
    subprocess.run([sys.executable, *words], check=True, capture_output=True)
    return time.perf_counter() - started


def main() -> None:
    """Measure, print and write."""
    typed = {name: ("-c", line) for name, line in LINES.items()}
    typed |= {f"shrinknet {' '.join(words)}": ("-m", "shrinknet", *words) for words in COMMANDS}
    rounds = [{name: seconds(words) for name, words in typed.items()} for _ in range(ROUNDS + 1)]
    found = {name: min(one[name] for one in rounds[1:]) for name in typed}
    torch_alone = found["import torch"] - found["python alone"]
    on_top = {
        name: (found[name] - found["import torch"]) / torch_alone
        for name in LINES
        if "torch" in name and name != "import torch"
    }
    OUT.write_text(json.dumps({
        "seconds": {name: round(value, 3) for name, value in found.items()},
        "on top of torch, as a share of torch": {name: round(value, 3) for name, value in on_top.items()},
        "rounds": ROUNDS, "torch": torch.__version__, "python": platform.python_version(), "cpus": os.cpu_count(),
    }, indent=1) + "\n")  # fmt: skip
    print(OUT.read_text())


if __name__ == "__main__":
    main()
