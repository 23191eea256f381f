"""ResNet8, every block's inner width halved: ours beside six rivals, three draws of calibration images.

    SHRINKNET_DATA=... python benchmarks/rivals [ours joint folding ...]   # beside what was measured before

1,000 of the 10,000 test images calibrate (their labels are for those rivals that take them), accuracy is that on the
other 9,000; a seed draws which. Ours: exact ablation within each block, an eighth of its channels at a time, and least
squares; `joint`: from there, as `--compensate joint --augment flip,shift` ends. Each rival is one file of at most 60
lines, with its source, written from what is published of it and not held against its authors' code.
"""

import json
import sys
from importlib import import_module
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "ablation"), str(HERE.parent / "effort")]

import torch
from cifar import images
from networks import accuracy
from rounds import RESULTS, once, write
from torch import nn

import shrinknet as sn
from shrinknet.compensation.compensate import compensation_of
from shrinknet.engine.gates import GatedNetwork, gated
from shrinknet.recovery.augment import AUGMENTATIONS, augmented
from shrinknet.recovery.joint import EPOCHS, refit_jointly
from shrinknet.surgery.remove import cut_graph

SEEDS, NUM_CALIBRATION = (0, 1, 2), 1000
RIVALS = ("folding", "folding_least_squares", "grail", "osscar", "torch_pruning_taylor", "one_labelled_epoch")
OURS = ("ours", "joint")


def main() -> None:
    """Measure what is asked for."""
    from trained_networks import resnet8

    path = RESULTS / "rivals_resnet8.json"
    found = json.loads(path.read_text())["accuracy"] if path.exists() else {}
    for name in sys.argv[1:] or (*OURS, *RIVALS):
        found[name] = [measured(name, resnet8().eval(), seed) for seed in SEEDS]
        write("rivals_resnet8", {"num_calibration": NUM_CALIBRATION, "accuracy": found})


def measured(name: str, model: nn.Module, seed: int) -> dict[str, float]:
    """Make one network and measure it."""
    inputs, targets = images(10_000, seed)
    calibration, test = (
        (inputs[rows], targets[rows]) for rows in (slice(NUM_CALIBRATION), slice(NUM_CALIBRATION, None))
    )
    made: list[nn.Module] = []
    seconds = once(lambda: made.append(shrunk(name, model, *calibration, seed)))
    size = sum(parameter.numel() for parameter in made[0].parameters())
    return {"seed": seed, "accuracy": accuracy(made[0], test), "parameters": size, "seconds": seconds}


def shrunk(name: str, model: nn.Module, inputs: torch.Tensor, targets: torch.Tensor, seed: int) -> nn.Module:
    """Return what one of them makes of the network."""
    if name in RIVALS:
        return import_module(name).shrunk(model, inputs, targets, seed)
    task = sn.Task(model, "cross-entropy", (inputs, targets), batch_size=250)
    network = ours(task)
    if name == "joint":
        network = refit_jointly(task, network, augmented(AUGMENTATIONS), EPOCHS, seed)
    return cut_graph(network.trace, network.present, network.program.tensors)


def ours(task: sn.Task) -> GatedNetwork:
    """The masked network without half of each block's inner channels, its readers refit."""
    network, gone = gated(task), list[tuple[sn.Neuron, ...]]()
    for group in (one for one in network.groups if one.name.endswith("conv1")):
        goals = [sn.RemovedNeurons(group.width // 2)]
        run = sn.prune(
            task, "ablation", only=[group.name], goals=goals, step=group.width // 8, compensate="least-squares"
        )
        gone.append(run.plan.removed)
    return compensation_of("least-squares", task, network).after(gone)


if __name__ == "__main__":
    main()
