"""ResNet-18 at 224 x 224 on 64 images: the channels inside one residual block of each stage, by exact ablation.

    python benchmarks/ablation/resnet18.py

The rival is the plain loop, at the batch size at which it is fastest here. A pass of it costs the same whatever channel
is masked; it is timed in turns with ours and multiplied. Ours is timed once where it takes about a minute. Beside the
time stands what the graph says must be multiplied: the deeper the group, the less lies behind it. Random weights,
random images; the process's peak of memory is written.
"""

import resource
from functools import partial

import torch
from rounds import SEED, in_turns, write  # first: it tells Python where the zoo is
from torch import nn

import shrinknet as sn
from shrinknet.criteria import find_criterion
from shrinknet.engine.gates import gated
from shrinknet.engine.memory import in_memory
from shrinknet.execution.cost_model import forward_work, replay_work

NUM_IMAGES, ROUNDS = 64, 3
GROUPS = ("layer2.1.conv1", "layer3.1.conv1", "layer4.0.conv1", "layer4.1.conv1")


def score(network, task) -> object:
    """An exact ranking."""
    return find_criterion("ablation").score(network, task.calibration.batches())


def main() -> None:
    """Time one group of each stage."""
    from cpu_torchvision import models

    torch.manual_seed(SEED)
    model = models.resnet18().eval().requires_grad_(False)
    inputs, targets = torch.randn(NUM_IMAGES, 3, 224, 224), torch.randint(0, 1000, (NUM_IMAGES,))
    loss = nn.CrossEntropyLoss()

    def plain_pass(batch_size: int) -> None:
        with torch.no_grad():
            for rows, classes in zip(inputs.split(batch_size), targets.split(batch_size), strict=True):
                loss(model(rows), classes)

    rows = []
    for name in GROUPS:
        task = sn.Task(model, "cross-entropy", (inputs, targets))
        network = gated(task, only=name)
        (group,) = network.groups
        ways = {f"plain pass, batches of {size}": lambda size=size: plain_pass(size) for size in (4, 16, 64)}
        ours = {"ours": partial(score, network, in_memory(task, network))}
        seconds = in_turns({**ours, **ways}, ROUNDS, {} if name == GROUPS[-1] else {"ours": 1})  # nearly a minute each
        fastest = min(seconds[way]["median"] for way in ways)
        rows.append({
            "group": name, "channels": group.width, "seconds": seconds,
            "plain_loop_seconds": fastest * group.width,
            "plain_loop_over_ours": fastest * group.width / seconds["ours"]["median"],
            "plain_loop_macs_over_ours": forward_work(network).macs / replay_work(network, group).macs,
            "peak_gib_of_the_process": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        })  # fmt: skip
        print(rows[-1]["group"], rows[-1]["plain_loop_over_ours"], rows[-1]["plain_loop_macs_over_ours"], flush=True)
    write("resnet18", {"num_images": NUM_IMAGES, "rows": rows})


if __name__ == "__main__":
    main()
