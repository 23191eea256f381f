"""Rankings of one-tensor tasks beside another checkout of this project: is today's engine as fast?

    SHRINKNET_DATA=... python benchmarks/ablation/against.py OTHER_CHECKOUT

Every round starts an interpreter for each of the two, in turns, in which every ranking below runs once to warm up and
then so often as its row says; its time is the shortest of these. The ratio of a round is today's time by the other's.
Networks have random weights but for ResNet8; images are CIFAR-10's there, random elsewhere.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

HERE = Path(__file__).resolve().parents[2]
ROUNDS = 10
ROWS = [
    ("784-100-10", "ablation", 5000, 8),
    ("784-100-10", "taylor-1", 5000, 8),
    ("784-100-10", "taylor-2", 5000, 4),
    ("784-50-50-10", "ablation", 5000, 8),
    ("784-50-50-10", "gauss-newton", 5000, 4),
    ("20-16-16-10", "ablation", 1000, 40),
    ("20-16-16-10", "taylor-1", 1000, 40),
    ("ResNet8", "ablation", 200, 2),
    ("ResNet8", "taylor-1", 1000, 3),
]
"""Network, criterion, samples, and how often a round times the ranking."""


def main() -> None:
    """Time both in turns, and write ratios."""
    from rounds import write

    other = Path(sys.argv[1]).resolve()
    times: dict[Path, list[list[float]]] = {HERE: [], other: []}
    for turn in range(ROUNDS):
        for checkout in (HERE, other) if turn % 2 else (other, HERE):
            times[checkout].append(_one_round(checkout))
        print(f"round {turn + 1} of {ROUNDS}", flush=True)
    rows = []
    for place, (network, criterion, samples, _) in enumerate(ROWS):
        now, before = ([found[place] for found in times[checkout]] for checkout in (HERE, other))
        ratios = [a / b for a, b in zip(now, before, strict=True)]
        rows.append({
            "network": network, "criterion": criterion, "samples": samples,
            "seconds": min(now), "ratio_of_shortest": min(now) / min(before),
            "median_ratio": statistics.median(ratios), "ratios": [round(ratio, 4) for ratio in sorted(ratios)],
        })  # fmt: skip
    commit = subprocess.run(["git", "-C", other, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    write("against", {
        "other": commit.stdout.strip(), "rounds": ROUNDS,
        "median_of_median_ratios": statistics.median(row["median_ratio"] for row in rows), "rows": rows,
    })  # fmt: skip


def _one_round(checkout: Path) -> list[float]:
    environment = {**os.environ, "PYTHONPATH": str(checkout / "src")}
    command = [sys.executable, __file__, "--one-round"]
    found = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    *seconds, source = json.loads(found.stdout.splitlines()[-1])
    assert Path(source).is_relative_to(checkout), source
    return seconds


def one_round() -> None:
    """Time every row once, with the package that the interpreter finds."""
    import torch

    import shrinknet as sn
    from shrinknet.criteria import find_criterion
    from shrinknet.engine.gates import gated
    from shrinknet.engine.memory import in_memory

    found: list[float | str] = []
    for name, criterion, samples, repeats in ROWS:
        torch.manual_seed(0)
        model, inputs = _network(name, samples)
        task = sn.Task(model.eval(), "cross-entropy", (inputs, torch.randint(0, 10, (samples,))))
        network = gated(task)
        task = in_memory(task, network)
        seconds = []
        for _ in range(repeats + 1):
            started = time.perf_counter()
            find_criterion(criterion).score(network, task.calibration.batches())
            seconds.append(time.perf_counter() - started)
        found.append(min(seconds[1:]))
    print(json.dumps([*found, sn.__file__]))


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
    one_round() if sys.argv[1] == "--one-round" else main()
