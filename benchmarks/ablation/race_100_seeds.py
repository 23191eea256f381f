"""Racing for the next 8 of ResNet8's 224 channels at 0.99, over 100 seeds, beside the exact ranking.

    SHRINKNET_DATA=... python benchmarks/ablation/race_100_seeds.py

The rises of every channel on every image are computed once by the exact engine; the races then read them (the same
code decides, only the replays are looked up), so that 100 seeds take a minute. Work is counted in multiply-accumulates
of what is replayed, the forward and backward pass for the tangents included; a few seeds are also run for real, and
timed in turns with the exact ranking.
"""

import sys

import numpy as np
import torch
from cifar import images
from rounds import SEED, in_turns, write

import shrinknet as sn
from shrinknet.core.records import Neuron
from shrinknet.criteria import find_criterion
from shrinknet.engine import racing
from shrinknet.engine.gates import gated
from shrinknet.engine.memory import in_memory
from shrinknet.engine.racing import parts_of, race
from shrinknet.execution.cost_model import forward_work, replay_work

SIZES, NUM_WANTED, CONFIDENCE, SEEDS, ROUNDS = (1000, 5000), 8, 0.99, 100, 3


def main() -> None:
    """Race on two sizes of data."""
    from trained_networks import resnet8

    torch.manual_seed(SEED)
    write("racing", {"num_wanted": NUM_WANTED, "confidence": CONFIDENCE, "seeds": SEEDS,
                     "rows": [one_size(resnet8().eval(), size) for size in SIZES]})  # fmt: skip


def one_size(model, num_images: int) -> dict[str, object]:
    """Race 100 times on so many images."""
    task = sn.Task(model, "cross-entropy", images(num_images, SEED))
    network = gated(task, scoring=sn.Scoring(keeps_passes=True))
    task = in_memory(task, network)
    neurons = [Neuron(group.name, index) for group in network.groups for index in range(group.width)]
    rises = racing._rises(network, task.calibration, neurons)
    foreseen = racing._foreseen(network, [task.calibration.rows(0, 1), task.calibration.rows(1, num_images)], neurons)
    exact = sorted(neurons, key=lambda one: rises[one].mean())
    group_of = {group.name: group for group in network.groups}
    macs = {neuron: replay_work(network, group_of[neuron.group]).macs for neuron in neurons}
    tangents = 3 * forward_work(network).macs * num_images
    whole = sum(macs.values()) * num_images
    right, shares = 0, []
    honest = racing._rises, racing._foreseen
    for seed in range(SEEDS):
        order = np.random.default_rng(seed).permutation(num_images)
        parts = parts_of(task.calibration, seed)
        starts = np.cumsum([0, *map(len, parts)])
        rows = {id(part): order[start : start + len(part)] for part, start in zip(parts, starts, strict=False)}
        racing._rises = lambda _, part, some, rows=rows: {one: rises[one][rows[id(part)]] for one in some}
        racing._foreseen = lambda _, parts, some, order=order: {one: foreseen[one][order] for one in some}
        result = race(network, parts, neurons, NUM_WANTED, CONFIDENCE)
        right += {one.neuron for one in result.contenders[:NUM_WANTED]} == set(exact[:NUM_WANTED])
        shares.append((tangents + sum(macs[one.neuron] * one.num_samples for one in result.contenders)) / whole)
    racing._rises, racing._foreseen = honest
    parts = iter([parts_of(task.calibration, seed) for seed in range(ROUNDS + 1)])
    seconds = in_turns({
        "exact": lambda: find_criterion("ablation").score(network, task.calibration.batches()),
        "race": lambda: race(network, next(parts), neurons, NUM_WANTED, CONFIDENCE),
    }, ROUNDS)  # fmt: skip
    means = [rises[one].mean() for one in exact]
    return {
        "num_images": num_images,
        "same_set_as_exact": right,
        "work": {"mean": float(np.mean(shares)), "most": float(np.max(shares))},
        "times_less_work": float(1 / np.mean(shares)),
        "seconds": seconds,
        "times_less_time": seconds["exact"]["median"] / seconds["race"]["median"],
        "gap_between_8th_and_9th": float(means[NUM_WANTED] - means[NUM_WANTED - 1]),
        "deviation_of_their_difference": float((rises[exact[NUM_WANTED]] - rises[exact[NUM_WANTED - 1]]).std()),
    }


if __name__ == "__main__":
    sys.exit(main())
