"""A ResNet-20 and a MobileNetV2 of half width to half of their multiply-accumulates, beside a search 20 times as long.

    SHRINKNET_DATA=... python benchmarks/effort/cifar_networks.py [resnet20 mobilenetv2] [--kinds none least-squares]

The networks are those that `networks.py` trains. Scores and refits see 1,000 of the training images (drawn by a seed),
accuracy is that on all 10,000 test images, which nothing else sees. Efforts are in forward passes over the 1,000
images; seconds are of `prune` alone, tracing, cut and proof included. The forecast is what the passes of the effort
take, one being timed before; its steps are what it forecasts. Killed, the same command goes on from there.
"""

import argparse
import json
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / folder) for folder in ("effort", "ablation", "zoo")]

import torch
from networks import NETWORKS, accuracy, cifar, trained
from rounds import RESULTS, SEED, once, write

import shrinknet as sn

NUM_CALIBRATION, KEPT, EFFORT, LONGER = 1000, "50%", 60, 20
KINDS = ("none", "least-squares")
RESULT = RESULTS / "effort_cifar_networks.json"
PARTIAL = RESULTS / "effort_cifar_networks.partial.jsonl"


def main() -> None:
    """Measure what is asked for, beside what was measured before."""
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="*", default=list(NETWORKS))
    parser.add_argument("--kinds", nargs="+", default=list(KINDS))
    asked = parser.parse_args()
    before = json.loads(RESULT.read_text())["rows"] if RESULT.exists() else []
    done = before + ([json.loads(line) for line in PARTIAL.read_text().splitlines()] if PARTIAL.exists() else [])
    known = {(row["network"], row["kind"], row["passes"]) for row in done}
    with open(PARTIAL, "a") as file:
        for name in asked.names:
            for kind in asked.kinds:
                for passes in (EFFORT, LONGER * EFFORT):
                    if (name, kind, passes) not in known:
                        done.append(pruned(name, kind, passes))
                        file.write(json.dumps(done[-1]) + "\n")
                        file.flush()
    write("effort_cifar_networks", {"num_calibration": NUM_CALIBRATION, "kept_of_macs": KEPT, "rows": done})
    PARTIAL.unlink()


def pruned(name: str, kind: str, passes: int) -> dict[str, object]:
    """One search."""
    model, (inputs, targets), test = trained(name), cifar("train"), cifar("test")
    rows = torch.randperm(len(targets), generator=torch.Generator().manual_seed(SEED))[:NUM_CALIBRATION]
    task = sn.Task(model, "cross-entropy", (inputs[rows].float(), targets[rows]), batch_size=250)
    a_pass, runs = once(lambda: accuracy(model, (inputs[rows], targets[rows]))), list[sn.Run]()
    seconds = once(lambda: runs.append(
        sn.prune(task, goals=[sn.Macs(KEPT)], effort=passes, compensate=kind, price="macs", seed=SEED)
    ))  # fmt: skip
    found = {"before": accuracy(model, test), "after": accuracy(runs[0].model.eval(), test)}
    return {
        "network": name, "kind": kind, "passes": passes, "seconds": seconds, "accuracy": found,
        "forecast_seconds": passes * a_pass, "steps_seconds": sum(step.seconds for step in runs[0].history[1:]),
        "removed": len(runs[0].plan.removed), "is_met": runs[0].is_met, "num_threads": torch.get_num_threads(),
    }  # fmt: skip


if __name__ == "__main__":
    main()
