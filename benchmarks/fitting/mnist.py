"""MNIST, one hidden layer: how far compensation carries without retraining, on data that nothing else has seen.

    SHRINKNET_DATA=... python benchmarks/fitting/mnist.py

784-100-10, sigmoid, cross-entropy: trained on 50,000 images by Adam (learning rate 0.001, batches of 128, 8 epochs);
scores and refits see 10,000 of these, accuracy is the test set's. And the paper's network of the first recipe,
400-100-10 and squared error: accuracy on the 4,500 images that are scored, and how long the whole run takes.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "ablation"))

import torch
from rounds import SEED, once, write
from torch import Tensor, nn

import shrinknet as sn
from shrinknet.recipes.isnn_mnist import RECIPES, trained
from shrinknet.recipes.mnist import find_mnist, paper_subset, read_idx
from shrinknet.recipes.training import train_epochs

KINDS = ("none", "mean", "least-squares", "newton")
NUM_TRAINED_ON, NUM_SCORED, EPOCHS = 50_000, 10_000, 8
SHOWN = (30, 45, 55, 60, 65, 70, 80, 90)


def main() -> None:
    """Measure both networks."""
    folder = find_mnist(None)
    train, test = rows(folder, "train"), rows(folder, "t10k")
    train = tuple(part[:NUM_TRAINED_ON] for part in train)
    torch.manual_seed(SEED)
    model = nn.Sequential(nn.Linear(784, 100), nn.Sigmoid(), nn.Linear(100, 10))
    from shrinknet.losses import cross_entropy

    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for epoch in train_epochs(model, cross_entropy, train, optimizer, batch_size=128, seed=SEED):
        if epoch == EPOCHS:
            break
    scored = tuple(part[:NUM_SCORED] for part in train)
    write("fitting_mnist", {
        "784-100-10": {kind: curve(model, "cross-entropy", scored, test, kind) for kind in KINDS},
        "paper's 1x100": {kind: paper(folder, kind) for kind in KINDS},
    })  # fmt: skip


def rows(folder: Path, part: str) -> tuple[Tensor, Tensor]:
    """Return images as rows in [0, 1] and classes."""
    images, labels = (read_idx(folder / f"{part}-{kind}.gz") for kind in ("images-idx3-ubyte", "labels-idx1-ubyte"))
    return torch.tensor(images.reshape(-1, 784) / 255, dtype=torch.float32), torch.tensor(labels.astype("int64"))


def curve(model: nn.Module, loss: str, scored: tuple, shown: tuple, kind: str) -> dict[str, object]:
    """Remove all but one neuron; accuracy on `shown` (as validation data, which nothing decides by) at every size."""
    task = sn.Task(model, loss, scored, shown, batch_size=10_000)
    runs: list[sn.Run] = []
    seconds = once(lambda: runs.append(sn.prune(task, compensate=kind)))
    found = [step.measures.validation_accuracy for step in runs[0].history]
    lost = next((count for count, value in enumerate(found) if value < found[0] - 0.01), len(found))
    return {
        "accuracy_whole": found[0], "removed_for_one_point": lost - 1, "seconds": seconds,
        "accuracy_after": {str(count): found[count] for count in SHOWN},
    }  # fmt: skip


def paper(folder: Path, kind: str) -> dict[str, object]:
    """The recipe's network, on the images that are scored."""
    scored, _ = paper_subset(folder, SEED)
    model, _ = trained(RECIPES["isnn-mnist-1x100"], scored, SEED)
    return curve(model, "squared-error", scored, scored, kind)


if __name__ == "__main__":
    main()
