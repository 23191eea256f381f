"""Two small networks at 25 and 10 % of their parameters: the default and `joint` beside a search over widths.

    SHRINKNET_DATA=... python benchmarks/fitting/held_out.py

A dense network (MNIST, 784-256-128-10) and a convolutional one (CIFAR-10 as JPEG, 16, 32 and 64 channels, pooled, 64
dense), trained by the benchmark from three seeds, each of which also draws the 1,000 training images that scores and
refits see, with their labels. Accuracy is the test set's. The rival is `benchmarks/rivals/width_search.py`, written by
us: it sees the same images and labels. Ours searches within 300 passes over these images, `joint` pays for its epochs
on top; no other option is given. Killed, the same command goes on from there.
"""

import json
import statistics
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / folder) for folder in ("ablation", "effort", "rivals")]

import torch
import width_search
from networks import accuracy
from rounds import RESULTS, once, write
from torch import Tensor, nn

import shrinknet as sn
from shrinknet.recipes.files import Files
from shrinknet.recovery.joint import EPOCHS, PASSES_AN_EPOCH

SEEDS, SHARES, NUM_CALIBRATION, EFFORT = (0, 1, 2), (0.25, 0.1), 1000, 300
TRAINED_FOR, BATCH, RATE = 4, 128, 2e-3
WAYS = ("width search", "default", "joint")
PARTIAL = RESULTS / "fitting_held_out.partial.jsonl"


def main() -> None:
    """Measure what was not measured before it was killed."""
    done = [json.loads(line) for line in PARTIAL.read_text().splitlines()] if PARTIAL.exists() else []
    known = {(row["network"], row["seed"], row["share"], row["way"]) for row in done}
    with open(PARTIAL, "a") as file:
        for name, made in NETWORKS.items():
            train, test = DATA[name](Files())
            for seed in SEEDS:
                jobs = [(name, seed, share, way) for share in SHARES for way in WAYS]
                if known.issuperset(jobs):
                    continue
                model = trained(made, train, seed)
                for job in jobs:
                    if job not in known:
                        done.append(measured(model, train, test, *job))
                        file.write(json.dumps(done[-1]) + "\n")
                        file.flush()
                        print(done[-1], flush=True)
    jobs = [(name, share, way) for name in NETWORKS for share in SHARES for way in WAYS]
    write("fitting_held_out", {"num_calibration": NUM_CALIBRATION, "means": [mean(*job, done) for job in jobs],
                               "runs": done})  # fmt: skip
    PARTIAL.unlink()


def dense() -> nn.Sequential:
    """The dense network, untrained."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 10)
    )


def convolutional() -> nn.Sequential:
    """The convolutional one, untrained."""
    layers, before = list[nn.Module](), 3
    for width in (16, 32, 64):
        layers += [nn.Conv2d(before, width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        before = width
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(16 * before, 64), nn.ReLU(), nn.Linear(64, 10))


NETWORKS = {"dense": dense, "convolutional": convolutional}
DATA = {"dense": Files.mnist_rows, "convolutional": Files.cifar10_rows}


def trained(made: object, train: tuple[Tensor, Tensor], seed: int) -> nn.Sequential:
    """A network trained by Adam, whose rate rises and falls once."""
    torch.manual_seed(seed)
    model = made()
    steps = TRAINED_FOR * (len(train[1]) // BATCH)
    optimizer = torch.optim.Adam(model.parameters(), RATE)
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, steps)
    for _ in range(TRAINED_FOR):
        for rows in torch.randperm(len(train[1])).split(BATCH)[: steps // TRAINED_FOR]:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(train[0][rows]), train[1][rows]).backward()
            optimizer.step()
            cycle.step()
    return model.eval()


def measured(model, train, test, name: str, seed: int, share: float, way: str) -> dict[str, object]:
    """One network at one size."""
    drawn = torch.randperm(len(train[1]), generator=torch.Generator().manual_seed(seed))[:NUM_CALIBRATION]
    inputs, targets = train[0][drawn], train[1][drawn]
    budget, made = int(share * size_of(model)), list[nn.Module]()
    if way == "width search":
        seconds = once(lambda: made.append(width_search.shrunk(model, inputs, targets, budget, seed)))
    else:
        how = {"effort": EFFORT}
        if way == "joint":
            how = {"effort": EFFORT + EPOCHS * PASSES_AN_EPOCH, "compensate": "joint"}
            how |= {"augment": ("flip", "shift")} if name == "convolutional" else {}
        task = sn.Task(model, "cross-entropy", (inputs, targets), batch_size=250)
        goals = [sn.NumParameters(budget)]
        seconds = once(lambda: made.append(sn.prune(task, goals=goals, seed=seed, **how).model))
    return {
        "network": name, "seed": seed, "share": share, "way": way, "whole": accuracy(model, test),
        "accuracy": accuracy(made[0], test), "parameters": size_of(made[0]), "budget": budget,
        "seconds": seconds,
    }  # fmt: skip


def size_of(model: nn.Module) -> int:
    """How many parameters a network has."""
    return sum(parameter.numel() for parameter in model.parameters())


def mean(name: str, share: float, way: str, runs: list[dict]) -> dict[str, object]:
    """The mean over the seeds, and between what it lies."""
    own = [row["accuracy"] for row in runs if (row["network"], row["share"], row["way"]) == (name, share, way)]
    return {"network": name, "share": share, "way": way, "mean": statistics.mean(own), "least": min(own),
            "most": max(own)}  # fmt: skip


if __name__ == "__main__":
    main()
