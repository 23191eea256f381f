"""What tracing costs: ResNet-50 at 224 x 224, beside torch.export alone and Torch-Pruning, and the memory of labels.

    python benchmarks/tracing.py

Timed in turns in this one process, several rounds after one that does not count; medians and ratios go to
benchmarks/results/tracing.json. Torch-Pruning builds its graph and takes one step as its README says (magnitude, 30 %,
the classifier ignored); ours traces and cuts 30 % of every group. Weights are random.
"""

import json
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

sys.path[:0] = [str(Path(__file__).parent / "zoo")]
from architectures import ALL
from cpu_torchvision import models
from prove import chosen
from rival import pruner_of

from shrinknet.core.machine import environment
from shrinknet.graph import trace as tracing
from shrinknet.surgery.remove import cut_graph

ROUNDS = 9
LABELLED = ("resnet50", "densenet121", "vit_b_16", "swin_t", "maxvit_t", "halonet_h1", "cait_xxs24_224")


def main() -> None:
    """Time, measure, write."""
    warnings.simplefilter("ignore")
    images, times = torch.randn(2, 3, 224, 224), {name: [] for name in ("export", "trace", "cut", "rival")}
    for _ in range(ROUNDS + 1):
        model = models.resnet50(weights=None).eval()
        times["export"].append(seconds(lambda model=model: tracing.export_program(model, images)))
        started = time.perf_counter()
        traced = tracing.trace(model, images)
        times["trace"].append(time.perf_counter() - started)
        present = chosen(traced, np.random.default_rng(0))
        times["cut"].append(seconds(lambda traced=traced, present=present: cut_graph(traced, present)))
        times["rival"].append(seconds(lambda model=model: pruner_of(model, (images[:1],), 1000).step()))
    medians = {name: statistics.median(values[1:]) for name, values in times.items()}
    result = {
        "median_seconds": medians,
        "trace_over_export": medians["trace"] / medians["export"],
        "trace_and_cut_over_torch_pruning": (medians["trace"] + medians["cut"]) / medians["rival"],
        "label_mib": {name: label_bytes(name) / 2**20 for name in LABELLED},
        "rounds": ROUNDS,
        "environment": {**environment(), "num_threads": torch.get_num_threads()},
    }
    Path(__file__).with_name("results").joinpath("tracing.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps({key: value for key, value in result.items() if key != "environment"}, indent=1))


def seconds(work: Callable[[], object]) -> float:
    """Return how long it takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def label_bytes(name: str) -> int:
    """Return the memory of all label tensors of an architecture, each storage once."""
    model, inputs = next(one for one in ALL if one.name == name).build()
    module = tracing._own_copy(tracing.export_program(model, inputs).module(check_guards=False))
    tracing.rewrite(module)
    store, slots, _ = tracing._send_labels(module)
    held: dict[int, int] = {}
    for slot in (slot for of_node in slots.values() for slot in of_node):
        held[slot.untyped_storage().data_ptr()] = slot.untyped_storage().nbytes()
    return sum(held.values()) + sum(edge.nbytes for edge in store.edges)


if __name__ == "__main__":
    main()
