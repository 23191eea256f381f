"""Rankings of one-tensor tasks beside another checkout of this project: is today's engine as fast?

    SHRINKNET_DATA=... python benchmarks/ablation/against.py OTHER_CHECKOUT

Two interpreters, one for each checkout, hold the same networks; rankings run in the one and in the other by turns, so
that a slow minute of the machine slows both. A ratio is that of two neighbours in time, today's by the other's.
Networks have random weights but for ResNet8; images are CIFAR-10's there, random elsewhere.
"""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

HERE = Path(__file__).resolve().parents[2]
ROWS = [
    ("784-100-10", "ablation", 5000, 400),
    ("784-100-10", "taylor-1", 5000, 400),
    ("784-100-10", "taylor-2", 5000, 100),
    ("784-50-50-10", "ablation", 5000, 400),
    ("784-50-50-10", "gauss-newton", 5000, 80),
    ("20-16-16-10", "ablation", 1000, 2000),
    ("20-16-16-10", "taylor-1", 1000, 2000),
    ("ResNet8", "ablation", 200, 16),
    ("ResNet8", "taylor-1", 1000, 40),
]
"""Network, criterion, samples, and how often both rank."""


def main() -> None:
    """Time both in turns, and write ratios."""
    from rounds import write

    other = Path(sys.argv[1]).resolve()
    ours, theirs = Ranker(HERE), Ranker(other)
    rows = []
    for place, (network, criterion, samples, rounds) in enumerate(ROWS):
        pairs = []
        for turn in range(-2, rounds):  # the first two warm up
            first, second = (ours, theirs) if turn % 2 else (theirs, ours)
            found = {one: one.rank(place) for one in (first, second)}
            if turn >= 0:
                pairs.append((found[ours], found[theirs]))
        ratios = [ours / theirs for ours, theirs in pairs]
        rows.append({
            "network": network, "criterion": criterion, "samples": samples, "rounds": rounds,
            "seconds": statistics.median(now for now, _ in pairs), "median_ratio": statistics.median(ratios),
            "quarters": [round(value, 4) for value in statistics.quantiles(ratios, n=4)],
            "ratio_of_shortest": min(now for now, _ in pairs) / min(before for _, before in pairs),
        })  # fmt: skip
        print(rows[-1], flush=True)
    commit = subprocess.run(["git", "-C", other, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    middle = statistics.median(row["median_ratio"] for row in rows)
    write("against", {"other": commit.stdout.strip(), "median_of_median_ratios": middle, "rows": rows})


class Ranker:
    """An interpreter that ranks with the package of one checkout, one ranking after another, as it is told."""

    def __init__(self, checkout: Path) -> None:
        command, environment = (
            [sys.executable, __file__, "--ranks"],
            {**os.environ, "PYTHONPATH": str(checkout / "src")},
        )
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self._process = subprocess.Popen(command, env=environment, text=True, **pipes)
        source = self._process.stdout.readline().strip()
        assert Path(source).is_relative_to(checkout), source

    def rank(self, place: int) -> float:
        """Return the seconds that the ranking of a row took."""
        self._process.stdin.write(f"{place}\n")
        self._process.stdin.flush()
        return float(self._process.stdout.readline())


def ranks() -> None:
    """Rank with the package that the interpreter finds, a row for each line that comes in."""
    import shrinknet as sn

    made = prepared(ROWS)
    print(sn.__file__, flush=True)
    for line in sys.stdin:
        rule, network, task = made[int(line)]
        started = time.perf_counter()
        rule.score(network, task.calibration.batches())
        print(time.perf_counter() - started, flush=True)


def prepared(rows: Sequence[tuple[str, str, int, int]]) -> list[tuple]:
    """Return the criterion, the masked network and the task of each row."""
    import torch

    import shrinknet as sn
    from shrinknet.criteria import find_criterion
    from shrinknet.engine.gates import gated
    from shrinknet.engine.memory import in_memory

    made = []
    for name, criterion, samples, _ in rows:
        torch.manual_seed(0)
        model, inputs = _network(name, samples)
        task = sn.Task(model.eval(), "cross-entropy", (inputs, torch.randint(0, 10, (samples,))))
        network = gated(task)
        made.append((find_criterion(criterion), network, in_memory(task, network)))
    return made


def _network(name: str, samples: int):
    """Return a network and its inputs."""
    import torch
    from torch import nn

    if name == "ResNet8":
        import rounds  # noqa: F401  (makes the next import possible)
        from cifar import images
        from trained_networks import resnet8

        return resnet8(), images(samples, 0)[0]
    widths = [int(width) for width in name.split("-")]
    layers = [part for a, b in pairwise(widths) for part in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*layers[:-1]), torch.rand(samples, widths[0])


if __name__ == "__main__":
    ranks() if sys.argv[1] == "--ranks" else main()
