"""Skeletonization, Optimal Cell Damage and Unit-OBS on the source paper's network."""

import time
from copy import deepcopy
from itertools import product
from typing import Any

import torch
from torch import nn

from shrinknet.api import prune
from shrinknet.core.progress import Tell
from shrinknet.recipes.base import Recipe, Results, Row, Verdict, mean, told, where
from shrinknet.recipes.files import Files, Rows
from shrinknet.recipes.isnn_mnist import NETWORKS, trained
from shrinknet.recipes.mnist import paper_subset
from shrinknet.report.pictures import COLOURS, legend, png, sheet
from shrinknet.search.goals import RemovedNeurons
from shrinknet.sparsify.methods.skeletonization import Skeletonization
from shrinknet.sparsify.training import Training, accuracy, mean_loss
from shrinknet.task.per_sample import squared_error
from shrinknet.task.task import Task

SEEDS = 3
SHOWN = (20, 40, 60, 80, 90)
RATE = 0.5
BATCH = 45
METHODS: dict[str, dict[str, str]] = {
    "ablation": {"criterion": "ablation"},
    "skeletonization": {"criterion": "skeletonization"},
    "optimal-cell-damage": {"criterion": "optimal-cell-damage"},
    "sequential-attention, ranked once": {"criterion": "sequential-attention", "method": "single-ranking"},
    "unit-obs, least squares": {"criterion": "unit-obs", "compensate": "least-squares"},
    "ablation, least squares": {"criterion": "ablation", "compensate": "least-squares"},
}
RETRAINED = "skeletonization, retrained between removals"
OURS = "unit-obs, least squares"


def measure(source: Files, seed: int, tell: Tell) -> Results:
    """Train the paper's network and remove 90 of its 100 neurons by every method, for three seeds."""
    folder = source.mnist()
    found = []
    jobs = list(product(range(SEEDS), ("training", *METHODS, RETRAINED)))
    for number, name in told(tell, jobs, lambda job: job[1]):
        if name == "training":
            rows, held_out = paper_subset(folder, seed * 100 + number)
            model, _ = trained(NETWORKS["isnn-mnist-1x100"], rows, seed * 100 + number)
            continue
        begun = time.perf_counter()
        curve = _removed(model, rows, held_out, name) if name in METHODS else _retrained(model, rows, held_out, seed)
        seconds = round(time.perf_counter() - begun, 2)
        found.append({"method": name, "seed": number, "curve": curve, "seconds": seconds})
    facts = {
        "network": "isnn-mnist-1x100",
        "seeds": SEEDS,
        "retraining": f"an epoch of SGD {RATE}, batches of {BATCH}, after each removal",
    }
    return {"rows": found, "training": facts}


def _removed(model: nn.Module, rows: Rows, held_out: Rows, name: str) -> list[Row]:
    task = Task(model, "squared-error", calibration=rows, validation=held_out, batch_size=4500)
    history = prune(task, goals=[RemovedNeurons(max(SHOWN))], **METHODS[name]).history  # type: ignore[arg-type]
    return [
        {
            "removed": step.number,
            "error": round(step.measures.calibration_loss * len(rows[0]), 3),
            "held_out": step.measures.metrics["accuracy"],
        }
        for step in history
    ]


def _retrained(model: nn.Module, rows: Rows, held_out: Rows, seed: int) -> list[Row]:
    """The paper's own loop: an epoch of training after each removal."""
    model = deepcopy(model)
    task = Task(model, "squared-error", calibration=rows, batch_size=4500)
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    training = Training(model, squared_error, rows, optimizer, BATCH, seed, num_epochs=max(SHOWN))
    training.sparsifier = Skeletonization(task, every=training.steps_per_epoch, count=max(SHOWN))
    start = _figures(model, rows, held_out, 0)
    return [start, *(_figures(model, rows, held_out, epoch) for epoch in training.epochs())]


def _figures(model: nn.Module, rows: Rows, held_out: Rows, removed: int) -> Row:
    error = mean_loss(model, squared_error, rows) * len(rows[0])
    return {"removed": removed, "error": round(error, 3), "held_out": accuracy(model, held_out)}


def _at(results: Results, method: str, removed: int, what: str) -> float:
    """Mean over the seeds."""
    rows = where(results["rows"], method=method)
    return mean([where(row["curve"], removed=removed)[0][what] for row in rows])


def verdicts(results: Results) -> list[Verdict]:
    """Return whether Unit-OBS loses less than ablation, without any training by gradients."""
    found: list[Verdict] = []
    for removed in (40, 60):
        ours, ablation = (_at(results, name, removed, "error") for name in (OURS, "ablation"))
        what = f"Unit-OBS with its compensation: error at {removed} of 100 removed at most that of ablation"
        found.append((what, ours <= ablation, f"{ours:.1f} against {ablation:.1f}"))
    half = _at(results, OURS, 60, "error") / _at(results, "ablation", 60, "error")
    found.append(("at most half of it at 60 removed", half <= 0.5, f"{half:.2f} of it"))
    order = [_at(results, name, 40, "error") for name in ("ablation", "optimal-cell-damage")]
    what = "ablation is at least as good as Optimal Cell Damage at 40 removed"
    found.append((what, order[0] <= order[1], f"{order[0]:.1f} against {order[1]:.1f}"))
    return found


def draw(results: Results) -> bytes:
    """Draw error and accuracy against neurons removed, for each method."""
    whole, axes = sheet(2)
    places = range(max(SHOWN) + 1)
    for colour, name in zip(COLOURS, (*METHODS, RETRAINED), strict=False):
        for axis, what in zip(axes, ("error", "held_out"), strict=True):
            axis.plot(places, [_at(results, name, k, what) for k in places], color=colour, label=name)
    axes[0].set(yscale="log", ylabel="error: half the sum of squares, 4,500 images")
    axes[1].set_ylabel("accuracy on 500 other images")
    legend(axes[1])
    for axis in axes:
        axis.set_xlabel("neurons removed, of 100")
    return png(whole)


def figures(results: Results) -> dict[str, Any]:
    """Return error and held-out accuracy, mean over the seeds."""
    rows = list[Row]()
    for name in (*METHODS, RETRAINED):
        pairs = {k: (_at(results, name, k, "error"), _at(results, name, k, "held_out")) for k in SHOWN}
        cells = {f"at_{k}": f"{error:.0f} ({right:.3f})" for k, (error, right) in pairs.items()}
        seconds = mean([row["seconds"] for row in where(results["rows"], method=name)])
        rows.append({"name": name, **cells, "seconds": seconds})
    return {"methods": rows}


PICTURES = {"curves.png": ("error and accuracy against neurons removed, for each method", draw)}
RECIPES = (Recipe("unit-obs", measure, verdicts, figures, PICTURES),)
