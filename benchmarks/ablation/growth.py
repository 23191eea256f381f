"""How the cost of an exact ranking grows with neurons, samples and depth, beside the plain loop.

    python benchmarks/ablation/growth.py     # writes results/growth.json and docs/growth.png

Dense networks 64-...-10 with tanh, random numbers. The plain loop is one masked forward pass for each neuron: one pass
is timed in turns with our ranking and multiplied. Each axis runs over two orders of magnitude, the others held at 128
neurons in each of 2 layers and 2,000 samples.
"""

import itertools
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from rounds import SEED, in_turns, write
from torch import nn

import shrinknet as sn
from shrinknet.criteria import find_criterion
from shrinknet.engine.gates import gated
from shrinknet.engine.memory import in_memory

AXES = {
    "neurons in each layer": [16, 48, 128, 400, 1600],
    "samples": [200, 600, 2000, 6000, 20_000],
    "hidden layers": [1, 3, 10, 30, 100],
}
NEURONS, SAMPLES, LAYERS, ROUNDS = 128, 2000, 2, 3


def main() -> None:
    """Time every point, and draw."""
    torch.manual_seed(SEED)
    curves = {}
    for axis, values in AXES.items():
        points = []
        for value in values:
            size = {"neurons in each layer": NEURONS, "samples": SAMPLES, "hidden layers": LAYERS} | {axis: value}
            if axis == "hidden layers":
                size["neurons in each layer"], size["samples"] = 24, 500
            points.append({"at": value, **point(*size.values())})
            print(axis, points[-1], flush=True)
        curves[axis] = points
    write("growth", {"curves": curves})
    draw(curves)


def point(width: int, num_samples: int, depth: int) -> dict[str, float]:
    """Time one network."""
    widths = [64, *[width] * depth]
    hidden = [part for below, above in itertools.pairwise(widths)
              for part in (nn.Linear(below, above), nn.Tanh())]  # fmt: skip
    model = nn.Sequential(*hidden, nn.Linear(width, 10)).eval()
    inputs, targets = torch.randn(num_samples, 64), torch.randint(0, 10, (num_samples,))
    task = sn.Task(model, "cross-entropy", (inputs, targets))
    network = gated(task)
    task = in_memory(task, network)

    def plain_pass() -> None:
        with torch.no_grad():
            for rows, classes in zip(inputs.split(1024), targets.split(1024), strict=True):
                nn.functional.cross_entropy(model(rows), classes)

    seconds = in_turns({
        "ours": lambda: find_criterion("ablation").score(network, task.calibration.batches()),
        "plain pass": plain_pass,
    }, ROUNDS)  # fmt: skip
    loop = seconds["plain pass"]["median"] * width * depth
    return {"ours": seconds["ours"]["median"], "plain_loop": loop, "ratio": loop / seconds["ours"]["median"]}


def draw(curves: dict[str, list[dict[str, float]]]) -> None:
    """Three panels on logarithmic axes."""
    figure, panels = plt.subplots(1, 3, figsize=(13, 4), constrained_layout=True)
    for panel, (axis, points) in zip(panels, curves.items(), strict=True):
        at = [one["at"] for one in points]
        panel.loglog(at, [one["plain_loop"] for one in points], "o-", color="#999999", label="plain loop")
        panel.loglog(at, [one["ours"] for one in points], "o-", color="#0072b2", label="shrinknet")
        for one in points:
            panel.annotate(f"{one['ratio']:.0f}x", (one["at"], one["ours"]), textcoords="offset points",
                           xytext=(0, -14), ha="center", fontsize=8)  # fmt: skip
        panel.margins(0.1)
        panel.set_xlabel(axis)
        panel.grid(True, which="major", alpha=0.3)
    panels[0].set_ylabel("seconds for one exact ranking")
    panels[0].legend(frameon=False)
    figure.savefig(Path(__file__).resolve().parents[2] / "docs" / "growth.png", dpi=110)


if __name__ == "__main__":
    main()
