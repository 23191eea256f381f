"""MNIST, one hidden layer: how far compensation carries without retraining, on data that nothing else has seen.

    SHRINKNET_DATA=... python benchmarks/fitting/mnist.py

784-100-10, sigmoid, cross-entropy: trained on 50,000 images by Adam (learning rate 0.001, batches of 64) until the
10,000 training images left out are answered to 97 %, and then on to 97.5 %, which is the harder network to prune;
scores and refits see 10,000 of the 50,000, accuracy is the test set's. `joint` refits each size by itself, so that it
is looked at in steps of two neurons and more. And the paper's network of the first recipe,
400-100-10 and squared error, trained from three seeds: accuracy on the 4,500 images that are scored, and how long the
whole run takes.
"""

import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "ablation"))

import torch
from rounds import SEED, once, write
from torch import Tensor, nn

import shrinknet as sn
from shrinknet.recipes.files import Files, read_idx
from shrinknet.recipes.isnn_mnist import NETWORKS, trained
from shrinknet.recipes.mnist import paper_subset
from shrinknet.recipes.training import train_epochs, train_until
from shrinknet.task.per_sample import cross_entropy

KINDS = ("none", "mean", "constant", "scale", "least-squares", "newton")
NUM_TRAINED_ON, NUM_SCORED, MOST_EPOCHS = 50_000, 10_000, 40
GOOD_ENOUGH = (0.97, 0.975)
SEEDS = (0, 1, 2)
SHOWN = (30, 45, 55, 60, 65, 70, 80, 90)
JOINTLY = (55, 58, 60, 62, 64, 66, 68, 70, 80, 90)


def main() -> None:
    """Measure both networks."""
    folder = Files().mnist()
    train, test = rows(folder, "train"), rows(folder, "t10k")
    used, left_out = (tuple(part[rows] for part in train)
                      for rows in (slice(NUM_TRAINED_ON), slice(NUM_TRAINED_ON, None)))  # fmt: skip
    torch.manual_seed(SEED)
    model = nn.Sequential(nn.Linear(784, 100), nn.Sigmoid(), nn.Linear(100, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    epochs = train_epochs(model, cross_entropy, used, optimizer, batch_size=64, seed=SEED)
    scored = tuple(part[:NUM_SCORED] for part in used)
    curves = {}
    for enough in GOOD_ENOUGH:
        num_epochs = train_until(model, epochs, partial(answers, model, left_out, enough), MOST_EPOCHS)
        found = {kind: curve(model, "cross-entropy", scored, test, kind) for kind in KINDS}
        found["joint"] = jointly(model, "cross-entropy", scored, test)
        curves[str(enough)] = {"num_epochs": num_epochs, **found}
        print(enough, curves[str(enough)], flush=True)
    papers = {}
    for seed in SEEDS:
        rows_of_paper, _ = paper_subset(folder, seed)
        network, _ = trained(NETWORKS["isnn-mnist-1x100"], rows_of_paper, seed)
        papers[str(seed)] = {
            kind: curve(network, "squared-error", rows_of_paper, rows_of_paper, kind) for kind in KINDS
        } | {"joint": jointly(network, "squared-error", rows_of_paper, rows_of_paper)}
        print(seed, papers[str(seed)], flush=True)
    write("fitting_mnist", {
        "784-100-10": curves,
        "paper's 1x100": papers,
    })  # fmt: skip


def answers(model: nn.Module, rows: tuple, enough: float) -> bool:
    """Whether enough rows are answered right."""
    return accuracy(model, rows) >= enough


def accuracy(model: nn.Module, rows: tuple) -> float:
    """The share of right answers."""
    with torch.no_grad():
        return float((model(rows[0]).argmax(1) == rows[1]).double().mean())


def rows(folder: Path, part: str) -> tuple[Tensor, Tensor]:
    """Return images as rows in [0, 1] and classes."""
    images, labels = (read_idx(folder / f"{part}-{kind}.gz") for kind in ("images-idx3-ubyte", "labels-idx1-ubyte"))
    return torch.tensor(images.reshape(-1, 784) / 255, dtype=torch.float32), torch.tensor(labels.astype("int64"))


def curve(model: nn.Module, loss: str, scored: tuple, shown: tuple, kind: str) -> dict[str, object]:
    """Remove all but one neuron; accuracy on `shown` (as validation data, which nothing decides by) at every size."""
    task = sn.Task(model, loss, scored, shown, batch_size=10_000)
    runs: list[sn.Run] = []
    seconds = once(lambda: runs.append(sn.prune(task, compensate=kind, effort="exact")))
    found = [step.measures.metrics["accuracy"] for step in runs[0].history]
    lost = next((count for count, value in enumerate(found) if value < found[0] - 0.01), len(found))
    return {
        "accuracy_whole": found[0], "removed_for_one_point": lost - 1, "seconds": seconds,
        "accuracy_after": {str(count): found[count] for count in SHOWN},
    }  # fmt: skip


def jointly(model: nn.Module, loss: str, scored: tuple, shown: tuple) -> dict[str, object]:
    """The same where all weights are refit at the end, which each size is by itself: at some sizes only."""
    task, start, runs = sn.Task(model, loss, scored), accuracy(model, shown), list[sn.Run]()
    goal = sn.RemovedNeurons(JOINTLY[-1])
    seconds = once(lambda: runs.append(sn.prune(task, goals=[goal], compensate="joint", effort="exact")))
    found = {count: accuracy(runs[0].at(sn.RemovedNeurons(count)).model.eval(), shown) for count in JOINTLY}
    kept = [count for count in JOINTLY if found[count] >= start - 0.01]
    return {
        "accuracy_whole": start, "removed_for_one_point": max(kept, default=0), "seconds": seconds,
        "accuracy_after": {str(count): value for count, value in found.items()},
    }  # fmt: skip


if __name__ == "__main__":
    main()
