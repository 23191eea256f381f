"""How the effort grows that comes within a point of the exact search: with neurons, with samples, with outputs.

    SHRINKNET_DATA=... python benchmarks/effort/growth.py

784-N-C with ReLU on MNIST, trained by the benchmark; half of its neurons go, and three quarters. Outputs: images of
one, two or three digits in a row, squeezed to 28 x 28 pixels in all, are of 10, 100 or 1,000 classes.
For each network the exact search and searches of more and more passes, three seeds each; what is needed is the least
effort from which on the mean accuracy on test images stays within a point of the exact search's at both sizes.
Killed, the same command goes on from there.
"""

import json
import math
import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "ablation"))

import torch
from rounds import RESULTS, SEED, once, write
from torch import Tensor, nn
from torch.nn import functional

import shrinknet as sn
from shrinknet.recipes.files import Files, read_idx

NEURONS, ROWS, OUTPUTS = (16, 64, 256, 1024), (100, 1000, 10_000), (10, 100, 1000)
BETWEEN = {"neurons": 256, "rows": 1000, "outputs": 10}
"""What a network has while something else grows."""

EFFORTS = tuple(round(3 * 2 ** (k / 2), 1) for k in range(15))
KEPT, WITHIN, SEEDS = (0.5, 0.25), 0.01, (0, 1, 2)
PARTIAL = RESULTS / "effort_growth.partial.jsonl"
NUM_TRAINED_ON, NUM_TESTED, EPOCHS, BATCH = 40_000, 5000, {10: 4, 100: 6, 1000: 10}, 100


def main() -> None:
    """Measure each network once."""
    grown = {
        "neurons": [(count, BETWEEN["rows"], BETWEEN["outputs"]) for count in NEURONS],
        "rows": [(BETWEEN["neurons"], count, BETWEEN["outputs"]) for count in ROWS],
        "outputs": [(BETWEEN["neurons"], BETWEEN["rows"], count) for count in OUTPUTS],
    }
    sizes = dict.fromkeys(size for some in grown.values() for size in some)
    done = [json.loads(line) for line in PARTIAL.read_text().splitlines()] if PARTIAL.exists() else []
    found = {(row["neurons"], row["rows"], row["outputs"]): row for row in done}
    with open(PARTIAL, "a") as file:
        for size in sizes:
            if size not in found:
                found[size] = needed(*size)
                file.write(json.dumps(found[size]) + "\n")
                file.flush()
    write("effort_growth", {
        "kept": KEPT, "within": WITHIN, "seeds": SEEDS, "efforts": EFFORTS,
        **{name: [found[size] for size in some] for name, some in grown.items()},
    })  # fmt: skip
    PARTIAL.unlink()


def needed(neurons: int, rows: int, outputs: int) -> dict[str, object]:
    """Return what the exact search takes and gives, and the least effort that comes near it."""
    torch.manual_seed(SEED)
    digits = round(math.log10(outputs))
    x, y = joined("train", digits, NUM_TRAINED_ON)
    test = joined("t10k", digits, NUM_TESTED)
    model = train(nn.Sequential(nn.Linear(784, neurons), nn.ReLU(), nn.Linear(neurons, outputs)), x, y)
    task = sn.Task(model.eval(), "cross-entropy", (x[:rows], y[:rows]))
    exact = exact_search(task, neurons, test)
    by_effort = {}
    for effort in EFFORTS:
        runs = [searched(task, neurons, test, effort, seed) for seed in SEEDS]
        by_effort[effort] = [statistics.mean(values) for values in zip(*runs, strict=True)]
    near = [all(a >= b - WITHIN for a, b in zip(by_effort[e], exact["accuracy"], strict=True)) for e in EFFORTS]
    far = [place for place, is_near in enumerate(near) if not is_near]
    first = far[-1] + 1 if far else 0
    result = {
        "neurons": neurons, "rows": rows, "outputs": outputs, "accuracy_whole": accuracy(model, test), "exact": exact,
        "by_effort": by_effort, "needed": EFFORTS[first] if first < len(EFFORTS) else None,
    }  # fmt: skip
    print({key: value for key, value in result.items() if key != "by_effort"}, flush=True)
    return result


def joined(part: str, digits: int, count: int) -> tuple[Tensor, Tensor]:
    """Return images [count, 784] of so many digits in a row, drawn at random, and their classes."""
    folder = Files().mnist()
    images, labels = (read_idx(folder / f"{part}-{kind}.gz") for kind in ("images-idx3-ubyte", "labels-idx1-ubyte"))
    images = torch.tensor(images / 255, dtype=torch.float32).view(-1, 1, 28, 28)
    classes = torch.tensor(labels.astype("int64"))
    drawn = torch.randint(0, len(images), (count, digits))
    wide = torch.cat([images[drawn[:, place]] for place in range(digits)], 3)
    number = sum(classes[drawn[:, place]] * 10**place for place in range(digits))
    return functional.adaptive_avg_pool2d(wide, 28).flatten(1), number


def train(model: nn.Module, x: Tensor, y: Tensor) -> nn.Module:
    """Train by Adam with one cycle of the step size."""
    epochs = EPOCHS[model[-1].out_features]
    optimizer = torch.optim.Adam(model.parameters())
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, epochs * len(x) // BATCH)
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(BATCH):
            optimizer.zero_grad()
            functional.cross_entropy(model(x[rows]), y[rows]).backward()
            optimizer.step()
            cycle.step()
    return model


@torch.no_grad()
def accuracy(model: nn.Module, rows: tuple[Tensor, Tensor]) -> float:
    """Return the share of right answers."""
    return float((model(rows[0]).argmax(1) == rows[1]).double().mean())


def exact_search(task: sn.Task, neurons: int, test: tuple[Tensor, Tensor]) -> dict[str, object]:
    """Return the accuracies on test images after one exact search, at each size, and how long it took."""
    gone = [sn.RemovedNeurons(neurons - round(kept * neurons)) for kept in KEPT]
    runs: list[sn.Run] = []
    seconds = once(lambda: runs.append(sn.prune(task, goals=[gone[-1]], effort="exact")))
    return {"accuracy": [accuracy(runs[0].at(goal).model, test) for goal in gone], "seconds": seconds}


def searched(task: sn.Task, neurons: int, test: tuple[Tensor, Tensor], effort: float, seed: int) -> list[float]:
    """Return the accuracies on test images at each size, each by the whole effort; 0 where that is too small."""
    goals = [sn.RemovedNeurons(neurons - round(kept * neurons)) for kept in KEPT]
    try:
        return [accuracy(sn.prune(task, goals=[goal], effort=effort, seed=seed).model, test) for goal in goals]
    except sn.BadInputError as error:
        if not str(error).startswith("effort must be at least"):
            raise
        return [0.0, 0.0]


if __name__ == "__main__":
    main()
