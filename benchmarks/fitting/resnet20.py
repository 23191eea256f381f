"""A ResNet-20 at 36 % of its parameters: refits without labels beside folding and one epoch of training with labels.

    SHRINKNET_DATA=... python benchmarks/fitting/resnet20.py

The network is the one that `benchmarks/effort/networks.py` trains for 12 epochs. Ours see 1,000 of the training images,
drawn by each of three seeds; the rival (`benchmarks/rivals/folding.py`, each block's inner width folded to the same
share, its norms repaired, then all 50,000 training images once) sees labels and fifty times as many images. Accuracy is
that on all 10,000 test images, which nothing else sees: no setting of `joint` was chosen on this network. Killed, the
same command goes on from there.
"""

import json
import statistics
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / name) for name in ("effort", "ablation", "zoo", "rivals")]

import torch
from blocks import reestimate
from folding import fold
from networks import Block, accuracy, cifar, trained
from one_labelled_epoch import one_epoch
from rounds import RESULTS, once, write
from torch import Tensor, nn

import shrinknet as sn
from shrinknet.recovery.joint import EPOCHS, PASSES_AN_EPOCH

SEEDS, NUM_CALIBRATION, SHARE, EFFORT = (0, 1, 2), 1000, 0.36, 150
WAYS = ("joint", "least-squares", "folding", "folding, one labelled epoch")
PARTIAL = RESULTS / "fitting_resnet20.partial.jsonl"


def main() -> None:
    """Measure what was not measured before it was killed."""
    done = [json.loads(line) for line in PARTIAL.read_text().splitlines()] if PARTIAL.exists() else []
    known = {(row["seed"], row["way"]) for row in done}
    with open(PARTIAL, "a") as file:
        for job in [(seed, way) for seed in SEEDS for way in WAYS]:
            if job not in known:
                done.append(measured(*job))
                file.write(json.dumps(done[-1]) + "\n")
                file.flush()
                print(done[-1], flush=True)
    means = {way: statistics.mean(row["accuracy"] for row in done if row["way"] == way) for way in WAYS}
    write("fitting_resnet20", {"share": SHARE, "num_calibration": NUM_CALIBRATION, "means": means, "runs": done})
    PARTIAL.unlink()


def measured(seed: int, way: str) -> dict[str, object]:
    """One network."""
    model, (inputs, targets), test = trained("resnet20-short"), cifar("train"), cifar("test")
    rows = torch.randperm(len(targets), generator=torch.Generator().manual_seed(seed))[:NUM_CALIBRATION]
    size, made = sum(parameter.numel() for parameter in model.parameters()), list[nn.Module]()
    if way in ("joint", "least-squares"):
        seconds = once(lambda: made.append(ours(way, model, inputs[rows].float(), targets[rows], seed)))
    else:
        seconds = once(lambda: made.append(folded(model, inputs[rows].float(), seed)))
        if way != "folding":
            seconds += once(lambda: one_epoch(made[0], seed))
    return {
        "seed": seed, "way": way, "whole": accuracy(model, test), "accuracy": accuracy(made[0].eval(), test),
        "share": sum(parameter.numel() for parameter in made[0].parameters()) / size, "seconds": seconds,
    }  # fmt: skip


def ours(way: str, model: nn.Module, inputs: Tensor, targets: Tensor, seed: int) -> nn.Module:
    """The same search, then all weights together or not."""
    task = sn.Task(model, "cross-entropy", (inputs, targets), batch_size=250)
    how = {"compensate": way, "effort": EFFORT}
    if way == "joint":
        how |= {"effort": EFFORT + EPOCHS * PASSES_AN_EPOCH, "augment": ("flip", "shift")}
    return sn.prune(task, goals=[sn.NumParameters(f"{SHARE:.0%}")], seed=seed, **how).model


@torch.no_grad()
def folded(model: nn.Module, images: Tensor, seed: int) -> nn.Module:
    """Every block's inner channels merged, as many of each as the budget lets stay."""
    for block in (one for one in model if isinstance(one, Block)):
        for name in ("conv1", "conv2"):
            conv = getattr(block, name)
            conv.bias = nn.Parameter(torch.zeros(len(conv.weight)))
        block.norm1 = block.bn1
        fold(block, seed, SHARE)
        block.bn1, block.norm1 = block.norm1, nn.Identity()
        block.conv1.bias = block.conv2.bias = None  # the norms behind them have their own
    return reestimate(model, images)


if __name__ == "__main__":
    main()
