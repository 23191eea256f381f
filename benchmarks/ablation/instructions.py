"""Rankings of one-tensor tasks beside another checkout, counted: how many instructions does today's engine take?

    python benchmarks/ablation/instructions.py OTHER_CHECKOUT

The dense rows of `against.py` on fewer samples, by valgrind's callgrind: what each ranking executes is the same number
whatever else the machine does. Memory's speed is not in it. Wants `valgrind`; some ten minutes on two cores.
"""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from against import HERE, ROWS, prepared

SAMPLES, ROUNDS = 500, 3


def main() -> None:
    """Count for both checkouts at the same time, and write ratios."""
    from rounds import write

    other = Path(sys.argv[1]).resolve()
    with tempfile.TemporaryDirectory() as folder:
        running = {tree: Counted(tree, Path(folder) / str(place)) for place, tree in enumerate((HERE, other))}
        ours, theirs = (running[tree].counts() for tree in (HERE, other))
    rows = [
        {"network": row[0], "criterion": row[1], "samples": SAMPLES, "instructions": one, "ratio": one / another}
        for row, one, another in zip(dense(), ours, theirs, strict=True)
    ]
    print(*rows, sep="\n")
    commit = subprocess.run(["git", "-C", other, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    write("instructions", {"other": commit.stdout.strip(), "rows": rows})


def dense() -> list[tuple]:
    """The rows whose networks are dense."""
    return [row for row in ROWS if row[0] != "ResNet8"]


class Counted:
    """An interpreter that ranks with the package of one checkout under callgrind, which counts meanwhile."""

    def __init__(self, checkout: Path, counts: Path) -> None:
        self._checkout, self._counts = checkout, counts
        valgrind = ["valgrind", "--tool=callgrind", "--collect-atstart=no", f"--callgrind-out-file={counts}"]
        environment = {**os.environ, "PYTHONPATH": str(checkout / "src")}
        command = [*valgrind, sys.executable, __file__, "--ranks"]
        self._process = subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE)

    def counts(self) -> list[int]:
        """Return the instructions of a ranking of each row."""
        source, _ = self._process.communicate()
        assert Path(source.strip()).is_relative_to(self._checkout), source
        files = sorted(self._counts.parent.glob(f"{self._counts.name}.*"), key=lambda path: int(path.suffix[1:]))
        return [int(re.search(r"^totals: (\d+)", file.read_text(), re.M)[1]) // ROUNDS for file in files]


def ranks() -> None:
    """Rank each row a few times, counted."""
    import torch

    import shrinknet as sn

    made = prepared([(name, criterion, SAMPLES, 0) for name, criterion, *_ in dense()])
    print(sn.__file__, flush=True)
    for rule, network, task in made:
        rule.score(network, task.calibration.batches())
        torch._C._valgrind_toggle()
        for _ in range(ROUNDS):
            rule.score(network, task.calibration.batches())
        torch._C._valgrind_toggle_and_dump_stats()


if __name__ == "__main__":
    ranks() if sys.argv[1] == "--ranks" else main()
