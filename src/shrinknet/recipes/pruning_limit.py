"""How small can it get: the predicted limit beside the one found by pruning, for weights and for whole neurons."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from shrinknet.analysis.pruning_limit import Limit, neuron_limit, weight_limit
from shrinknet.core.progress import Tell
from shrinknet.recipes.base import Recipe, Results, Row, Verdict, told, where
from shrinknet.recipes.files import Files, Rows
from shrinknet.recipes.nets import dense, split
from shrinknet.report.pictures import COLOURS, GREY, legend, png, sheet
from shrinknet.sparsify.training import Training
from shrinknet.task.per_sample import cross_entropy
from shrinknet.task.task import Task

ROWS, SCORED = 12_000, 4_000
EPOCHS, BATCH, RATE = 25, 128, 0.05
WITHIN = 0.05


@dataclass(frozen=True, slots=True)
class Subject:
    """A network and how it is trained."""

    name: str
    build: Callable[[], nn.Module]
    penalty: float
    neurons: bool = False


def small_lenet() -> nn.Sequential:
    """Two convolutions and two dense layers: 20,522 weights and biases."""
    first = (nn.Conv2d(1, 8, 5), nn.ReLU(), nn.MaxPool2d(2))
    second = (nn.Conv2d(8, 16, 5), nn.ReLU(), nn.MaxPool2d(2))
    return nn.Sequential(*first, *second, nn.Flatten(), nn.Linear(256, 64), nn.ReLU(), nn.Linear(64, 10))


SUBJECTS = (
    Subject("784-300-100-10, l1 1e-4", partial(dense, 784, 300, 100, 10), 1e-4, neurons=True),
    Subject("784-500-300-100-10, l1 1e-4", partial(dense, 784, 500, 300, 100, 10), 1e-4),
    Subject("convolutions 8-16, dense 64, l1 1e-4", small_lenet, 1e-4),
    Subject("784-300-100-10, l1 3e-5", partial(dense, 784, 300, 100, 10), 3e-5),
    Subject("784-300-100-10, no penalty", partial(dense, 784, 300, 100, 10), 0.0, neurons=True),
)
CLAIMED = SUBJECTS[:3]
"""Those at the bottom of a penalised loss, of which the prediction speaks."""


def measure(source: Files, seed: int, tell: Tell) -> Results:
    """Train the networks; predict each limit, then look for it."""
    train, test = source.mnist_rows()
    rows, found = split(train, ROWS)[0], []
    for subject in told(tell, SUBJECTS, lambda one: one.name):
        torch.manual_seed(seed)
        model = _trained(subject, rows, seed)
        task = Task(model, "cross-entropy", split(rows, SCORED)[0], test)
        limits = [weight_limit(task, seed=seed)]
        if subject.neurons:
            limits.append(neuron_limit(task, seed=seed))
        with torch.no_grad():
            right = float((model(test[0]).argmax(1) == test[1]).double().mean())
        found.append({"name": subject.name, "accuracy": right, "limits": [_facts(limit) for limit in limits]})
    facts = {
        "rows": ROWS,
        "rows looked at": SCORED,
        "epochs": EPOCHS,
        "batch": BATCH,
        "optimizer": "SGD, momentum 0.9, cosine",
    }
    return {"networks": found, "training": facts}


def _trained(subject: Subject, rows: Rows, seed: int) -> nn.Module:
    """Train under cross-entropy and `penalty` times the sum of all absolute weights, as the paper does."""
    model, order = subject.build(), torch.Generator().manual_seed(seed)
    optimizer = torch.optim.SGD(model.parameters(), RATE, momentum=0.9)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS * (len(rows[0]) // BATCH))
    optimizer.register_step_post_hook(lambda *_: schedule.step())

    def penalised(outputs: Tensor, targets: Tensor) -> Tensor:
        sizes = torch.stack([parameter.abs().sum() for parameter in model.parameters()]).sum()
        return cross_entropy(outputs, targets) + subject.penalty * sizes

    training = Training(model, penalised, rows, optimizer, BATCH, seed, EPOCHS, order=order, only_whole=True)
    list(training.epochs())
    return model


def _facts(one: Limit) -> Row:
    few = slice(None, None, max(1, len(one.shares) // 100))
    return {
        "what": one.what,
        "num": one.num,
        "eps": one.eps,
        "predicted": one.predicted,
        "found": list(one.found),
        "mean": one.mean_found,
        "error": one.error_bar,
        "largest": one.spectrum.largest,
        "trace": one.spectrum.trace,
        "seconds": round(one.seconds, 1),
        "shares": [round(float(s), 4) for s in one.shares[few]],
        "free": [round(float(f), 4) for f in one.free[few]],
        "losses": None if one.losses is None else [float(f"{v:.5g}") for v in one.losses[few]],
    }


def _weights(results: Results, subject: Subject) -> Row:
    found: Row = where(results["networks"], name=subject.name)[0]["limits"][0]
    return found


def verdicts(results: Results) -> list[Verdict]:
    """Return whether prediction and search agree where the theory speaks, and how it fails where it does not."""
    found: list[Verdict] = []
    for subject in CLAIMED:
        one = _weights(results, subject)
        what = f"{subject.name}: predicted within {100 * WITHIN:.0f} points of the found limit"
        seen = f"{100 * one['predicted']:.1f} against {100 * one['mean']:.1f} % of the weights"
        found.append((what, abs(one["predicted"] - one["mean"]) <= WITHIN, seen))
    chain = [_weights(results, SUBJECTS[k])["predicted"] for k in (4, 3, 0)]
    seen = ", ".join(f"{100 * value:.1f} %" for value in chain)
    found.append(("the predicted limit rises with the penalty", chain == sorted(chain), seen))
    return found


def draw(results: Results) -> bytes:
    """Draw the crossing that predicts each limit, and the loss while pruning."""
    whole, axes = sheet(2)
    for colour, network in zip(COLOURS, results["networks"], strict=False):
        one = network["limits"][0]
        axes[0].plot(one["shares"], one["free"], color=colour, label=network["name"])
        axes[0].plot([one["predicted"]], [one["predicted"]], "o", color=colour)
        rise = [loss - one["losses"][0] + one["eps"] for loss in one["losses"]]
        axes[1].plot(one["shares"], rise, color=colour)
        axes[1].axvline(one["predicted"], color=colour, linestyle="--", linewidth=1)
        axes[1].plot([one["mean"]], [2 * one["eps"]], "s", color=colour)
    axes[0].plot([0, 1], [0, 1], color=GREY, linewidth=1)
    share = "share of the weights removed, s"
    axes[0].set(xlabel=share, ylabel="delta(R(s)) / D; the limit is where it meets s")
    axes[1].set(xlabel=share, ylabel="loss - start + eps (dashes: predicted, squares: found)", yscale="log")
    legend(axes[0])
    return png(whole)


def figures(results: Results) -> dict[str, Any]:
    """Return predicted and found limits."""
    limits = [
        {**network, **one, "bar": f" ± {100 * one['error']:.1f}" if one["error"] else ""}
        for network in results["networks"]
        for one in network["limits"]
    ]
    return {
        "limits": limits,
        "convolutions": _weights(results, CLAIMED[2]),
        "bare": _weights(results, SUBJECTS[4]),
        "neurons": where(results["networks"][0]["limits"], what="neurons")[0],
    }


PICTURES = {"limits.png": ("the crossing that predicts the limit, and the loss while pruning", draw)}
RECIPES = (Recipe("pruning-limit", measure, verdicts, figures, PICTURES),)
