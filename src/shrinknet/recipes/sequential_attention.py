"""SequentialAttention++ beside AC/DC and magnitude, on blocks of a first dense layer."""

from collections.abc import Callable
from itertools import product
from typing import Any

import torch
from torch import nn

from shrinknet.core.progress import Tell
from shrinknet.recipes.base import Recipe, Results, Row, Verdict, mean, spread, told, where
from shrinknet.recipes.files import Files, Rows
from shrinknet.recipes.nets import Embedded, adult_rows, dense, split
from shrinknet.recipes.training import Course
from shrinknet.report.pictures import COLOURS, legend, png, sheet
from shrinknet.sparsify.base import Sparsifier
from shrinknet.sparsify.methods.acdc import AlternatingCompression
from shrinknet.sparsify.methods.sequential_attention import SequentialAttention
from shrinknet.sparsify.methods.undecayed_pruning import OneShot
from shrinknet.sparsify.training import accuracy, mean_loss
from shrinknet.task.per_sample import cross_entropy

SEEDS = 5
SPARSITIES = (0.90, 0.97, 0.99)
LOGIT_RATES = (0.001, 0.02, 0.05)
METHODS = ("magnitude", "AC/DC", *(f"SA++, logit rate {rate:g}" for rate in LOGIT_RATES), "SA++ over candidates")
FAR = 0.8
OURS = "SA++, logit rate 0.05"
TASKS = ("MNIST", "UCI Adult")
EPOCHS = {"MNIST": 20, "UCI Adult": 10}
BATCH = {"MNIST": 128, "UCI Adult": 256}
BLOCK = {"MNIST": 16, "UCI Adult": 10}
FIRST = {"MNIST": "1.weight", "UCI Adult": "first_dense.weight"}


COURSES = {task: Course(optimizer=lambda own: torch.optim.Adam(own, lr=1e-3), batch=BATCH[task]) for task in TASKS}


def measure(source: Files, seed: int, tell: Tell) -> Results:
    """Train every method at every sparsity, five seeds each, and a dense network."""
    tell("reading", 0.0)
    rows, made = _tasks(source)
    jobs = [(task, "dense", 0.0) for task in TASKS]
    jobs += [(task, method, sparsity) for task in TASKS for sparsity in SPARSITIES for method in METHODS]
    jobs_of_seeds = [(*job, number) for job in jobs for number in range(SEEDS)]
    found = list[Row]()
    for task, method, sparsity, number in told(tell, jobs_of_seeds, _words):
        if number == 0:
            found.append({"task": task, "method": method, "sparsity": sparsity, "seeds": []})
        found[-1]["seeds"].append(_one(task, made[task], rows[task], method, sparsity, seed * 100 + number))
    facts = {
        "epochs": EPOCHS,
        "batch": BATCH,
        "block": BLOCK,
        "optimizer": "Adam 1e-3",
        "seeds": SEEDS,
        "rows": {task: len(rows[task][0][0]) for task in TASKS},
    }
    return {"rows": found, "map": _block_map(made, rows, seed), "training": facts}


def _words(job: tuple[str, str, float, int]) -> str:
    task, method, sparsity, _ = job
    return f"{task}, {method}, {100 * sparsity:.0f} %"


def _tasks(source: Files) -> tuple[dict[str, list[Rows]], dict[str, Callable[[], nn.Module]]]:
    """Training and validation rows, and a maker of the network, for each task."""
    mnist, _ = source.mnist_rows()
    adult, _, counts = adult_rows(*source.adult())
    rows = {"MNIST": split(mnist, 12_000, 10_000), "UCI Adult": split(adult, 24_000, 8_561)}
    return rows, {"MNIST": lambda: dense(784, 400, 100, 10), "UCI Adult": lambda: Embedded(counts)}


def _sparsifier(task: str, model: nn.Module, method: str, sparsity: float, steps: int) -> Sparsifier | None:
    block, layers = BLOCK[task], FIRST[task]
    if method == "dense":
        return None
    if method == "magnitude":  # dense for 85 % of the training, then fine-tuned as the others are
        return OneShot(model, sparsity=sparsity, at=round(0.85 * steps), block=block, layers=layers)
    shared: dict[str, Any] = {"num_steps": steps, "block": block, "sparsity": sparsity, "layers": layers}
    if method == "AC/DC":
        return AlternatingCompression(model, **shared)
    if method.endswith("candidates"):
        return SequentialAttention(model, **shared, logit_lr=0.05, softmax="candidates")
    return SequentialAttention(model, **shared, logit_lr=float(method.split()[-1]))


def _one(task: str, made: Callable[[], nn.Module], rows: list[Rows], method: str, sparsity: float, seed: int) -> Row:
    model, sparsifier = _trained(task, made, rows, method, sparsity, seed)
    if sparsifier is not None:
        sparsifier.finish()
    kept = None if sparsifier is None else sparsifier.num_kept // BLOCK[task] ** 2
    return {
        "loss": round(mean_loss(model, cross_entropy, rows[1]), 5),
        "accuracy": round(accuracy(model, rows[1]), 5),
        "blocks": kept,
    }


def _trained(
    task: str, made: Callable[[], nn.Module], rows: list[Rows], method: str, sparsity: float, seed: int
) -> tuple[nn.Module, Sparsifier | None]:
    """Train; the sparsifier, where there is one, is not finished yet."""
    torch.manual_seed(seed)
    model = made()
    training = COURSES[task].training(model, rows[0], EPOCHS[task], seed)
    training.sparsifier = _sparsifier(task, model, method, sparsity, EPOCHS[task] * training.steps_per_epoch)
    list(training.epochs())
    return model, training.sparsifier


def _block_map(made: dict[str, Callable[[], nn.Module]], rows: dict[str, list[Rows]], seed: int) -> list[list[float]]:
    """The attention of each block of MNIST's first layer, kept ones above 0, at 97 %."""
    _, sparsifier = _trained("MNIST", made["MNIST"], rows["MNIST"], OURS, 0.97, seed * 100)
    assert isinstance(sparsifier, SequentialAttention)
    kept = sparsifier.attention(FIRST["MNIST"]).detach() * sparsifier.tensors[f"used/{FIRST['MNIST']}"]
    return [[round(value, 4) for value in line] for line in kept.tolist()]


def _losses(results: Results, task: str, method: str, sparsity: float) -> list[float]:
    return [one["loss"] for one in where(results["rows"], task=task, method=method, sparsity=sparsity)[0]["seeds"]]


def verdicts(results: Results) -> list[Verdict]:
    """Return whether SA++ ends with a lower validation loss than its rivals where it matters."""
    found: list[Verdict] = []
    for task, sparsity, rival in product(TASKS, (0.97, 0.99), ("magnitude", "AC/DC")):
        ours, theirs = (mean(_losses(results, task, method, sparsity)) for method in (OURS, rival))
        gone = f"{100 * sparsity:.0f} % of the blocks gone"
        far = "" if rival == "AC/DC" else "by a fifth or more "
        what = f"{task}, {gone}: SA++ {far}below {rival} (mean of {SEEDS} seeds)"
        holds = ours < theirs if rival == "AC/DC" else ours <= FAR * theirs
        found.append((what, holds, f"{ours:.4f} against {theirs:.4f}"))
    kept = [(one["blocks"], row) for row in where(results["rows"], method=OURS) for one in row["seeds"]]
    holds = all(count == _num_blocks(row["task"], row["sparsity"]) for count, row in kept)
    found.append(("Exactly k blocks are kept", holds, f"{sorted({count for count, _ in kept})}"))
    return found


def _num_blocks(task: str, sparsity: float) -> int:
    total = {"MNIST": 25 * 49, "UCI Adult": 40 * 14}[task]
    return round(total * (1 - sparsity))


def draw_losses(results: Results) -> bytes:
    """Draw the validation loss against sparsity for each method."""
    whole, axes = sheet(2)
    for axis, task in zip(axes, TASKS, strict=True):
        for colour, method in zip(COLOURS, METHODS, strict=False):
            losses = [_losses(results, task, method, s) for s in SPARSITIES]
            means, widths = list(map(mean, losses)), list(map(spread, losses))
            gone = [100 * s for s in SPARSITIES]
            axis.errorbar(gone, means, widths, fmt="o-", color=colour, label=method, capsize=3)
        axis.set(xlabel="% of the blocks gone", title=task)
    axes[0].set(ylabel="validation loss", yscale="log")
    legend(axes[1])
    return png(whole)


def draw_map(results: Results) -> bytes:
    """Draw which blocks of MNIST's first layer are kept."""
    whole, (axis,) = sheet(1, width=10)
    axis.grid(visible=False)
    image = axis.imshow(results["map"], cmap="viridis", aspect="auto")
    axis.set(xlabel="blocks of 16 pixels, from the top of the image to its bottom", ylabel="blocks of 16 neurons")
    whole.colorbar(image, label="attention of a kept block")
    return png(whole)


def figures(results: Results) -> dict[str, Any]:
    """Return validation loss and accuracy of every method, and what the notes say of them."""
    slow, fast = (
        [mean(_losses(results, task, f"SA++, logit rate {rate:g}", 0.99)) for task in TASKS] for rate in (0.001, 0.05)
    )
    return {**{task: _methods(results, task) for task in TASKS}, "slow": slow, "fast": fast}


def _methods(results: Results, task: str) -> list[Row]:
    found = list[Row]()
    for method in ("dense", *METHODS):
        cells = [_cell(row["seeds"]) for row in where(results["rows"], task=task, method=method)]
        found.append({"method": method, "cells": cells * len(SPARSITIES) if method == "dense" else cells})
    return found


def _cell(seeds: list[Row]) -> str:
    losses, accuracies = ([one[name] for one in seeds] for name in ("loss", "accuracy"))
    return f"{mean(losses):.4f} ± {spread(losses):.4f} ({mean(accuracies):.4f})"


PICTURES = {
    "losses.png": ("validation loss against sparsity for each method", draw_losses),
    "blocks.png": ("which blocks of MNIST's first layer are kept, by their attention", draw_map),
}
RECIPES = (Recipe("sequential-attention", measure, verdicts, figures, PICTURES),)
