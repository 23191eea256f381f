"""Pricing by the scarce thing beside pricing by neuron: what is a network worth at the same budget?

    SHRINKNET_DATA=... python benchmarks/fitting/prices.py [digits activity resnet8]

Real networks and data: the demo's digits (test images), ST's activity network (other recordings), MLPerf Tiny's
ResNet8 (9,500 other images). Nothing is made up for (`--compensate none`), ablation is exact and ranked again. For each
cost the budget is a share of the untouched network's, flash and RAM being those of ExecuTorch's file; the accuracy is
that of the first network within it. Neither price wins everywhere, and the rows say where which does.
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "ablation"))

import torch
from budgets import activity_task
from cifar import images
from rounds import RESULTS, SEED, write

import shrinknet as sn
from shrinknet.engine.gates import gated
from shrinknet.export.artefact import Artefact
from shrinknet.recipes import digits

SHARES = {"parameters": 0.3, "flash": 0.4, "ram": 0.6, "macs": 0.4}
GOALS = {"parameters": sn.NumParameters, "flash": sn.FlashBytes, "ram": sn.PeakRamBytes, "macs": sn.Macs}
COSTS = {"parameters": "num_parameters", "flash": "flash_bytes", "ram": "peak_ram_bytes", "macs": "macs"}


def main() -> None:
    """Fit the networks asked for to every budget by both prices, beside what was fitted before."""
    path = RESULTS / "fitting_prices.json"
    found = json.loads(path.read_text())["networks"] if path.exists() else {}
    for name in sys.argv[1:] or JOBS:
        make, step = JOBS[name]
        found[name] = compared(make(), step)
        write("fitting_prices", {"shares": SHARES, "networks": found})


def compared(task: sn.Task, step: int) -> dict[str, dict[str, object]]:
    """Accuracy within each budget, by neuron and by what is scarce."""
    trace = gated(task).trace
    whole = Artefact(task, trace, "executorch").costs(trace.present())
    rows = {}
    for scarce, share in SHARES.items():
        goal = GOALS[scarce](int(share * getattr(whole, COSTS[scarce])))
        found = {}
        for price in ("neuron", scarce):
            run = sn.prune(task, goals=[goal], price=price, compensate="none", artefact="executorch", step=step)
            found["by neuron" if price == "neuron" else "by what is scarce"] = {
                "accuracy": run.test.metrics_after["accuracy"], "is_met": run.is_met,
                "neurons_left": run.measures.costs.num_neurons,
            }  # fmt: skip
        rows[scarce] = {"budget": str(goal), **found}
    return {"accuracy_whole": run.test.metrics_before["accuracy"], **rows}


def digits_task() -> sn.Task:
    """The demo's network."""
    roles = digits.data(SEED)
    model = digits.trained(roles["calibration"], SEED, lambda text, done: None)
    return sn.Task(model, "cross-entropy", roles["calibration"], None, roles["test"])


def resnet8_task() -> sn.Task:
    """The image classifier; 500 images calibrate."""
    from trained_networks import resnet8

    rows, classes = images(10_000, SEED)
    first, rest = slice(500), slice(500, None)
    return sn.Task(resnet8(), "cross-entropy", (rows[first], classes[first]), None, (rows[rest], classes[rest]), 250)


JOBS = {"digits": (digits_task, 1), "activity": (activity_task, 1), "resnet8": (resnet8_task, 16)}


if __name__ == "__main__":
    torch.manual_seed(SEED)
    main()
