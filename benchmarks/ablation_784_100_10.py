"""Ablation of the paper's 784-100-10 network on 10,000 images: ours, three forward passes, and the plain loop.

    python benchmarks/ablation_784_100_10.py

The claim: a whole exact ranking takes less time than three forward passes over the data. The rival is the honest plain
loop: for each of the 100 neurons, one forward pass with that neuron masked. All run in this one process, interleaved,
several times; medians and ratios go to benchmarks/results/. Both criteria's scores must agree before anything is timed.
The network has random weights and the images are random numbers: only the shapes matter here.
"""

import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

import shrinknet as sn
from shrinknet.criteria import find_criterion
from shrinknet.gates import gated
from shrinknet.losses import find_loss
from shrinknet.runs import environment

NUM_IMAGES, NUM_HIDDEN, BATCH_SIZE, ROUNDS, LOOP_ROUNDS, SEED = 10_000, 100, 1024, 41, 5, 0


def plain_loop(model: nn.Sequential, rows: tuple[torch.Tensor, torch.Tensor], loss) -> torch.Tensor:
    """The brute force of the paper: a masked forward pass over all rows for each neuron."""
    inputs, targets = rows
    with torch.no_grad():
        start = loss(model(inputs), targets).mean()
        scores = torch.empty(NUM_HIDDEN)
        for neuron in range(NUM_HIDDEN):
            mask = torch.ones(NUM_HIDDEN)
            mask[neuron] = 0
            hidden = model[1](model[0](inputs)) * mask
            scores[neuron] = (
                loss(model[3](model[2](hidden)) if len(model) > 3 else model[2](hidden), targets).mean() - start
            )
    return scores


def timed(work: Callable[[], object]) -> float:
    """Seconds for one call."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def compare(name: str, model: nn.Sequential, loss_name: str) -> dict[str, object]:
    """Time the three ways on one network and loss."""
    rows = (torch.rand(NUM_IMAGES, 784), torch.randint(0, 10, (NUM_IMAGES,)))
    task = sn.Task(model, loss_name, rows, batch_size=BATCH_SIZE)
    network, criterion, loss = gated(task), find_criterion("ablation"), find_loss(loss_name).of

    def ours() -> object:
        return criterion.score(network, task.calibration.batches())

    def three_passes() -> None:
        with torch.no_grad():
            for _ in range(3):
                for inputs in rows[0].split(BATCH_SIZE):
                    model(inputs)

    def loop() -> torch.Tensor:
        return plain_loop(model, rows, loss)

    ways = {"ours": ours, "three forward passes": three_passes, "plain loop": loop}
    torch.testing.assert_close(torch.from_numpy(ours().values["0"]).float(), loop(), rtol=1e-3, atol=2e-6)
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for turn in range(ROUNDS):
        for way, work in ways.items():
            if way != "plain loop" or turn < LOOP_ROUNDS:
                seconds[way].append(timed(work))
    median = {way: statistics.median(times) for way, times in seconds.items()}
    return {
        "network": name,
        "loss": loss_name,
        "median_seconds": median,
        "best_seconds": {way: min(times) for way, times in seconds.items()},
        "ours_over_three_passes": median["ours"] / median["three forward passes"],
        "plain_loop_over_ours": median["plain loop"] / median["ours"],
    }


def main() -> None:
    """Run, print, and write the results."""
    torch.manual_seed(SEED)
    paper = nn.Sequential(nn.Linear(784, NUM_HIDDEN), nn.Sigmoid(), nn.Linear(NUM_HIDDEN, 10), nn.Sigmoid())
    modern = nn.Sequential(nn.Linear(784, NUM_HIDDEN), nn.ReLU(), nn.Linear(NUM_HIDDEN, 10))
    results = [
        compare("784-100-10, logistic", paper, "squared-error"),
        compare("784-100-10, ReLU", modern, "cross-entropy"),
    ]
    facts = {"num_images": NUM_IMAGES, "batch_size": BATCH_SIZE, "rounds": ROUNDS, "seed": SEED, "dtype": "float32",
             "num_threads": torch.get_num_threads(), **environment()}  # fmt: skip
    out = Path(__file__).parent / "results" / "ablation_784_100_10.json"
    out.write_text(json.dumps({"results": results, "environment": facts}, indent=1) + "\n")
    for result in results:
        median = result["median_seconds"]
        print(f"{result['network']}, {result['loss']}: " + ", ".join(f"{way} {s:.4f} s" for way, s in median.items()))
        print(f"  ours takes {result['ours_over_three_passes']:.2f} of three forward passes; "
              f"the plain loop takes {result['plain_loop_over_ours']:.1f} times ours")  # fmt: skip
    print(f"Written: {out}")


if __name__ == "__main__":
    main()
