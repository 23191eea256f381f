"""How small can it get: the predicted limit beside the one found by pruning, for weights and for whole neurons."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from matplotlib.axes import Axes
from torch import nn

from shrinknet.analysis.pruning_limit import Limit, neuron_limit, weight_limit
from shrinknet.core.folder import environment
from shrinknet.core.progress import Tell
from shrinknet.recipes.base import Recipe, Results, Table, Verdict
from shrinknet.recipes.files import Files, Rows
from shrinknet.recipes.nets import dense, split
from shrinknet.report.pictures import COLOURS, figure
from shrinknet.task.losses import cross_entropy
from shrinknet.task.task import Task

ROWS, SCORED = 12_000, 4_000
EPOCHS, BATCH = 25, 128
WITHIN = 0.05


@dataclass(frozen=True, slots=True)
class Subject:
    """A network and how it is trained."""

    name: str
    build: Callable[[], nn.Module]
    penalty: float
    rate: float
    neurons: bool = True


def small_lenet() -> nn.Sequential:
    """Two convolutions and two dense layers: 20,522 weights and biases."""
    return nn.Sequential(
        nn.Conv2d(1, 8, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 16, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(256, 64), nn.ReLU(), nn.Linear(64, 10),
    )  # fmt: skip


SUBJECTS = (
    Subject("784-300-100-10, l1 1e-4", lambda: dense(784, 300, 100, 10), 1e-4, 0.05),
    Subject("784-500-300-100-10, l1 1e-4", lambda: dense(784, 500, 300, 100, 10), 1e-4, 0.05, neurons=False),
    Subject("convolutions 8-16, dense 64, l1 1e-4", small_lenet, 1e-4, 0.05, neurons=False),
    Subject("784-300-100-10, l1 3e-5", lambda: dense(784, 300, 100, 10), 3e-5, 0.05, neurons=False),
    Subject("784-300-100-10, no penalty", lambda: dense(784, 300, 100, 10), 0.0, 0.05),
)
CLAIMED = SUBJECTS[:3]
"""Those at the bottom of a penalised loss, of which the prediction speaks."""


def run(source: Files, seed: int, tell: Tell) -> Results:
    """Train the networks; predict each limit, then look for it."""
    started = time.perf_counter()
    train, test = source.mnist_rows()
    rows, found = split(train, ROWS)[0], []
    for place, subject in enumerate(SUBJECTS):
        tell(subject.name, place / len(SUBJECTS))
        torch.manual_seed(seed)
        model = _trained(subject, rows, seed)
        task = Task(model, "cross-entropy", split(rows, SCORED)[0], test)
        limits = [weight_limit(task, seed=seed)]
        if subject.neurons:
            limits.append(neuron_limit(task, seed=seed))
        with torch.no_grad():
            right = float((model(test[0]).argmax(1) == test[1]).double().mean())
        found.append({"name": subject.name, "accuracy": right, "limits": [_facts(limit) for limit in limits]})
    return {
        "recipe": "pruning-limit", "seed": seed, "networks": found,
        "training": {"rows": ROWS, "rows looked at": SCORED, "epochs": EPOCHS, "batch": BATCH,
                     "optimizer": "SGD, momentum 0.9, cosine"},
        "seconds": round(time.perf_counter() - started, 1),
        "environment": {**environment(), "num_threads": torch.get_num_threads()},
    }  # fmt: skip


def _trained(subject: Subject, rows: Rows, seed: int) -> nn.Module:
    """Train under cross-entropy and `penalty` times the sum of all absolute weights, as the paper does."""
    model, generator = subject.build(), torch.Generator().manual_seed(seed)
    optimizer = torch.optim.SGD(model.parameters(), subject.rate, momentum=0.9)
    steps = EPOCHS * (len(rows[0]) // BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(EPOCHS):
        for some in torch.randperm(len(rows[0]), generator=generator).split(BATCH)[: len(rows[0]) // BATCH]:
            optimizer.zero_grad()
            sizes = torch.stack([parameter.abs().sum() for parameter in model.parameters()]).sum()
            (cross_entropy(model(rows[0][some]), rows[1][some]).mean() + subject.penalty * sizes).backward()
            optimizer.step()
            schedule.step()
    return model.eval()


def _facts(one: Limit) -> dict[str, Any]:
    few = slice(None, None, max(1, len(one.shares) // 100))
    return {
        "what": one.what, "num": one.num, "eps": one.eps, "predicted": one.predicted, "found": list(one.found),
        "mean": one.mean_found, "error": one.error_bar, "largest": one.spectrum.largest, "trace": one.spectrum.trace,
        "seconds": round(one.seconds, 1), "shares": [round(float(s), 4) for s in one.shares[few]],
        "free": [round(float(f), 4) for f in one.free[few]],
        "losses": None if one.losses is None else [float(f"{v:.5g}") for v in one.losses[few]],
    }  # fmt: skip


def _weights(results: Results, name: str) -> dict[str, Any]:
    found: dict[str, Any] = next(n["limits"][0] for n in results["networks"] if n["name"] == name)
    return found


def verdicts(results: Results) -> list[Verdict]:
    """Return whether prediction and search agree where the theory speaks, and how it fails where it does not."""
    found: list[Verdict] = []
    for subject in CLAIMED:
        one = _weights(results, subject.name)
        gap = abs(one["predicted"] - one["mean"])
        found.append((f"{subject.name}: predicted within {100 * WITHIN:.0f} points of the found limit", gap <= WITHIN,
                      f"{100 * one['predicted']:.1f} against {100 * one['mean']:.1f} % of the weights"))  # fmt: skip
    chain = [_weights(results, SUBJECTS[k].name)["predicted"] for k in (4, 3, 0)]
    found.append(("the predicted limit rises with the penalty", chain == sorted(chain),
                  ", ".join(f"{100 * value:.1f} %" for value in chain)))  # fmt: skip
    return found


def tables(results: Results) -> list[Table]:
    """Return predicted and found limits."""
    rows = [
        [network["name"], f"{network['accuracy']:.4f}", one["what"], f"{one['num']:,}", f"{one['eps']:.2g}",
         f"{100 * one['predicted']:.1f}",
         f"{100 * one['mean']:.1f}" + (f" ± {100 * one['error']:.1f}" if one["error"] else ""),
         f"{one['largest']:.3g}", f"{one['trace']:.3g}", f"{one['seconds']:.0f}"]
        for network in results["networks"] for one in network["limits"]
    ]  # fmt: skip
    columns = ("network", "test accuracy", "", "in all", "eps", "can go, predicted, %", "can go, found, %",
               "largest eigenvalue", "trace", "seconds")  # fmt: skip
    return [Table("Limits: the share that can go without the loss rising by more than its noise", columns, rows)]


def _draw(results: Results) -> bytes:
    def panels(whole: Any, axes: Sequence[Axes]) -> None:
        for colour, network in zip(COLOURS, results["networks"], strict=False):
            one = network["limits"][0]
            axes[0].plot(one["shares"], one["free"], color=colour, label=network["name"])
            axes[0].plot([one["predicted"]], [one["predicted"]], "o", color=colour)
            rise = [loss - one["losses"][0] + one["eps"] for loss in one["losses"]]
            axes[1].plot(one["shares"], rise, color=colour)
            axes[1].axvline(one["predicted"], color=colour, linestyle="--", linewidth=1)
            axes[1].plot([one["mean"]], [2 * one["eps"]], "s", color=colour)
        axes[0].plot([0, 1], [0, 1], color="#66788a", linewidth=1)
        axes[0].set_ylabel("delta(R(s)) / D; the limit is where it meets s")
        axes[1].set_yscale("log")
        axes[1].set_ylabel("loss - start + eps (dashes: predicted, squares: found)")
        for axis in axes:
            axis.set_xlabel("share of the weights removed, s")
        axes[0].legend(fontsize=8, frameon=False)

    return figure(2, panels)


def notes(results: Results) -> list[str]:
    """Return what the figures mean."""
    bare = _weights(results, SUBJECTS[4].name)
    neurons = next(one for one in results["networks"][0]["limits"] if one["what"] == "neurons")
    return [
        "Predicted from the trained network alone: the weights' sizes and the curvature of the loss. Found by one-shot "
        "magnitude pruning, no training after it: the largest share up to which the loss stays within eps of the "
        "start, eps being its standard deviation over batches of 128 images (the authors' rule).",
        "Caffe's LeNet-5 was meant to stand in the convolutional network's place and was given up after some minutes "
        "on one core. The small convolutional network lies further off: "
        f"{100 * _weights(results, CLAIMED[2].name)['predicted']:.0f} % predicted, "
        f"{100 * _weights(results, CLAIMED[2].name)['mean']:.0f} % found.",
        f"The rule breaks down where a network fits its data almost exactly: without a penalty it predicts "
        f"{100 * bare['predicted']:.0f} % and {100 * bare['mean']:.0f} % is found. The prediction speaks of weights at "
        "the bottom of a flat, penalised loss.",
        f"For whole neurons the same fixed point in the space of the gates says {100 * neurons['predicted']:.0f} %; "
        f"pruning by ablation under a guard of the same eps finds {100 * neurons['mean']:.0f} "
        f"± {100 * neurons['error']:.0f} % over draws of the images (the published theory does not speak of neurons).",
        "Only the trained network, its data and a rule for eps go in. The share removed and the share kept add up to "
        "1, and 'pruning ratio' means either in the literature.",
    ]


RECIPES = (
    Recipe(
        "pruning-limit",
        "How small can it get: predicted before, found after",
        "Zhang, Zhang, Sun, Liu, How Sparse Can We Prune A Deep Network: A Fundamental Limit Perspective (NeurIPS "
        "2024, arXiv 2306.05857).",
        run,
        verdicts,
        tables,
        {"limits.png": ("the crossing that predicts the limit, and the loss while pruning", _draw)},
        notes,
    ),
)
