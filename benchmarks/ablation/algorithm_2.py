"""All of Algorithm 2 by exact ablation: 784-100-10 and 784-50-50-10 on 10,000 images, 99 and 98 removals.

    python benchmarks/ablation/algorithm_2.py

`rankings` is what the algorithm is: rank, remove the first, rank again. `prune` is the whole of `sn.prune`, which also
measures loss, accuracy and costs after each step, cuts and proves. The plain loop runs the whole masked network once
for each neuron that is left; it is timed on a sample of its forward passes, which all cost the same, and multiplied by
how many there are (the paper's own way would take a minute here).
"""

import sys

import torch
from rounds import SEED, in_turns, once, write
from torch import nn

import shrinknet as sn
from shrinknet.criteria import find_criterion
from shrinknet.engine.gates import gated
from shrinknet.search.rank import ranked, takeable
from shrinknet.task.losses import find_loss

NUM_IMAGES, ROUNDS, PASSES_TIMED = 10_000, 5, 25


def main() -> None:
    """Time both networks."""
    torch.manual_seed(SEED)
    one = nn.Sequential(nn.Linear(784, 100), nn.Sigmoid(), nn.Linear(100, 10), nn.Sigmoid())
    two = nn.Sequential(
        nn.Linear(784, 50), nn.Sigmoid(), nn.Linear(50, 50), nn.Sigmoid(), nn.Linear(50, 10), nn.Sigmoid()
    )
    rows = [compare("784-100-10", one), compare("784-50-50-10", two)]
    write("algorithm_2", {"num_images": NUM_IMAGES, "rows": rows})


def compare(name: str, model: nn.Sequential) -> dict[str, object]:
    """Time every way on one network."""
    model.eval().requires_grad_(False)
    inputs, targets = torch.rand(NUM_IMAGES, 784), torch.randint(0, 10, (NUM_IMAGES,))
    task = sn.Task(model, "squared-error", (inputs, targets), batch_size=NUM_IMAGES)
    ablation, loss = find_criterion("ablation"), find_loss("squared-error").of
    removals = {}

    def rankings(kind: str) -> None:
        network = gated(task, scoring=sn.Scoring(compile=kind == "compiled", keeps_passes=True))
        order = []
        while taken := takeable(network, ranked(network, ablation.score(network, task.calibration.batches())), 1):
            network = network.without([taken[0][0]])
            order.append(taken[0][0])
        removals[kind] = order

    def forward_pass() -> None:
        with torch.no_grad():
            loss(model(inputs), targets).mean()

    def masked_passes() -> None:
        with torch.no_grad():
            mask = torch.ones(model[0].out_features)
            for neuron in range(PASSES_TIMED):
                mask[neuron] = 0
                loss(model[2:](model[1](model[0](inputs)) * mask), targets).mean()
                mask[neuron] = 1

    compile_seconds = once(lambda: rankings("compiled"))
    seconds = in_turns(
        {
            "forward pass": forward_pass,
            "rankings": lambda: rankings("eager"),
            "rankings, compiled": lambda: rankings("compiled"),
            "prune": lambda: sn.prune(task, effort="exact"),
            "masked passes": masked_passes,
        },
        ROUNDS,
    )
    assert len(removals["eager"]) == len(removals["compiled"]) > 90
    median = {way: times["median"] for way, times in seconds.items()}
    total = sum(layer.out_features for layer in model if isinstance(layer, nn.Linear)) - 10
    groups = sum(isinstance(layer, nn.Linear) for layer in model) - 1
    num_passes = sum(range(total, groups, -1)) + total - groups
    loop = median["masked passes"] / PASSES_TIMED * num_passes
    return {
        "network": name,
        "removals": total - groups,
        "seconds": seconds,
        "seconds_first_time_compiled": compile_seconds,
        "passes_of_the_plain_loop": num_passes,
        "plain_loop_seconds": loop,
        "same_order_compiled": removals["eager"] == removals["compiled"],
        "over_a_forward_pass": {way: median[way] / median["forward pass"] for way in median},
        "plain_loop_over_ours": {way: loop / median[way] for way in ("rankings", "rankings, compiled", "prune")},
        "plain_loop_over_ours_compilation_counted": loop / compile_seconds,
    }


if __name__ == "__main__":
    sys.exit(main())
