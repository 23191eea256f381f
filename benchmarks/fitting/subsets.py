"""How far a search ends from the best of all subsets, with exchanges at the end and without.

    python benchmarks/fitting/subsets.py

Networks 6-8-6-3 with tanh, trained on 200 rows of a task that wants both layers, each from a seed of its own: 14
neurons, of which 7 go. All 3,432 subsets are measured on the same rows; the best keeps one neuron of each layer,
as every search does. Nothing is made up for.
"""

import itertools
import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "ablation"))

import torch
from rounds import write
from torch import nn

import shrinknet as sn
from shrinknet.engine.gates import gated

SEEDS, REMOVED = range(20), 7


def main() -> None:
    """Search, polish and try all subsets of each network, and write how far apart they are."""
    rows = [measured(seed) for seed in SEEDS]
    above = {how: [row[how] - row["best"] for row in rows] for how in ("greedy", "polished")}
    found = {
        how: {"mean_above_best": statistics.mean(some), "at_the_best": sum(one < 1e-6 for one in some)}
        for how, some in above.items()
    }
    print(found)
    write("fitting_subsets", {"removed": REMOVED, "found": found, "networks": rows})


def measured(seed: int) -> dict[str, float]:
    """Return the calibration losses of one network's searches, and the lowest of all."""
    torch.manual_seed(seed)
    x = torch.randn(200, 6)
    y = (x[:, 0] * x[:, 1] > 0).long() + (x[:, 2] + x[:, 3] > 1).long()
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 3))
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    for _ in range(150):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    task = sn.Task(model, "cross-entropy", (x, y))
    runs = {
        how: sn.prune(task, goals=[sn.RemovedNeurons(REMOVED)], effort="exact", polish=how == "polished")
        for how in ("greedy", "polished")
    }
    losses = {how: run.measures.calibration_loss for how, run in runs.items()}
    whole = runs["greedy"].history[0].measures.calibration_loss
    return {"seed": seed, "whole": whole, **losses, "best": best_of_all(task)}


@torch.no_grad()
def best_of_all(task: sn.Task) -> float:
    """Return the lowest loss of a network that lacks so many neurons and keeps one of each layer."""
    network, (batch,) = gated(task), task.calibration.batches()
    neurons, losses = [neuron for group in network.groups for neuron in group.neurons], []
    for gone in itertools.combinations(neurons, REMOVED):
        here = network.without(gone)
        if all(len(here.alive(group)) for group in here.groups):
            losses.append(float(here.losses(batch).mean()))
    return min(losses)


if __name__ == "__main__":
    main()
