"""Who pays when whole neurons go: recall distortion on a long-tailed MNIST, over networks trained apart."""

import copy
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from torch import nn

from shrinknet.analysis.recall_distortion import over_slopes, recall_distortion
from shrinknet.api import prune
from shrinknet.core.config import Compensate
from shrinknet.core.folder import environment
from shrinknet.core.progress import Tell
from shrinknet.core.recall import intensification, normalised_balance, recalls
from shrinknet.recipes.base import Recipe, Results, Table, Verdict
from shrinknet.recipes.files import Files, Rows
from shrinknet.recipes.nets import dense, one_cycle
from shrinknet.recipes.undecayed_pruning import FALL, MOST, unbalanced
from shrinknet.report.pictures import COLOURS, figure
from shrinknet.search.goals import NumParameters
from shrinknet.sparsify.training import Training
from shrinknet.task.losses import cross_entropy
from shrinknet.task.task import Task

SEEDS = 20
WIDTHS = (784, 100, 50, 10)
RATIOS = (1.5, 2, 4, 10)
EPOCHS, TUNING_EPOCHS, BATCH, RATE, DECAY = 20, 10, 32, 0.05, 5e-4
WAYS = ("ablation", "ablation, least squares", "ablation, least squares, tuned")
COMPENSATIONS: tuple[Compensate, ...] = ("none", "least-squares")


def run(source: Files, seed: int, tell: Tell) -> Results:
    """Train networks apart; prune each with and without compensation; tune what is left; measure every class."""
    started = time.perf_counter()
    train, test = source.mnist_rows()
    networks = []
    for number in range(SEEDS):
        tell(f"network {number + 1} of {SEEDS}", number / SEEDS)
        networks.append(_one(unbalanced(train, seed + number), test, seed + number))
    return {
        "recipe": "recall-distortion", "seed": seed, "networks": networks, "ratios": RATIOS,
        "training": {"epochs": EPOCHS, "batch": BATCH, "optimizer": f"SGD, momentum 0.9, one cycle to {RATE}",
                     "weight decay": DECAY, "tuning epochs": TUNING_EPOCHS, "most of a class": MOST, "fall": FALL},
        "seconds": round(time.perf_counter() - started, 1),
        "environment": {**environment(), "num_threads": torch.get_num_threads()},
    }  # fmt: skip


def _one(rows: Rows, test: Rows, seed: int) -> dict[str, Any]:
    torch.manual_seed(seed)
    model = dense(*WIDTHS)
    _train(model, rows, EPOCHS, seed)
    task = Task(model.eval(), "cross-entropy", rows, test)
    found: dict[str, Any] = {"rows": len(rows[0]), "ways": {}}
    for way, compensate in zip(WAYS, COMPENSATIONS, strict=False):
        pruned = prune(task, compensate=compensate)
        distortion = recall_distortion(pruned.history)
        answers = distortion.history
        places = [int(np.flatnonzero(answers.ratios >= ratio)[0]) for ratio in RATIOS]
        found["ways"][way] = {
            "alpha": [float(distortion.slopes[place]) for place in places],
            "accuracy": [float(answers.accuracies[place]) for place in places],
            "recall": [[round(float(r), 4) for r in answers.recalls[place]] for place in places],
        }
        found["before"] = {"accuracy": float(answers.accuracies[0]), "recall": answers.recalls[0].tolist()}
    balance = normalised_balance(answers.recalls[0], float(answers.accuracies[0]))
    found["ways"][WAYS[2]] = _tuned(pruned, balance, rows, test, seed)
    return found


def _tuned(pruned: Any, balance: Any, rows: Rows, test: Rows, seed: int) -> dict[str, Any]:
    """The networks of the family, each trained on for a while."""
    whole = pruned.history[0].measures.costs.num_parameters
    found: dict[str, Any] = {"alpha": [], "accuracy": [], "recall": []}
    for ratio in RATIOS:
        small = copy.deepcopy(pruned.at(NumParameters(int(whole / ratio))).model)
        _train(small, rows, TUNING_EPOCHS, seed + 50)
        with torch.no_grad():
            predicted = small.eval()(test[0]).argmax(1)
        right = float((predicted == test[1]).double().mean())
        recall = recalls(predicted.numpy(), test[1].numpy(), 10)
        found["alpha"].append(intensification(balance, normalised_balance(recall, right)))
        found["accuracy"].append(right)
        found["recall"].append([round(float(r), 4) for r in recall])
    return found


def _train(model: nn.Module, rows: Rows, epochs: int, seed: int) -> None:
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), RATE, momentum=0.9, weight_decay=DECAY)
    list(Training(model, cross_entropy, rows, optimizer, BATCH, seed, epochs, rate=one_cycle).epochs())


def _tests(results: Results, way: str) -> list[Any]:
    slopes, accuracies = (
        np.array([network["ways"][way][what] for network in results["networks"]]).T for what in ("alpha", "accuracy")
    )
    return over_slopes(results["ratios"], slopes, accuracies)


def verdicts(results: Results) -> list[Verdict]:
    """Return the signs that the paper reports: gaps narrow at low compression, widen at high."""
    found = []
    for way in WAYS:
        first, *_, last = _tests(results, way)
        if way == WAYS[2]:
            found.append((f"{way}: gaps narrow at {first.ratio:g}x (the interval lies below 1)", first.label == "<",
                          f"{first.mean:.3f}, {first.low:.3f} to {first.high:.3f}"))  # fmt: skip
        found.append((f"{way}: gaps widen at {last.ratio:g}x (the interval lies above 1)", last.label == ">",
                      f"{last.mean:.3f}, {last.low:.3f} to {last.high:.3f}"))  # fmt: skip
        rises = [one.p_rise for one in _tests(results, way)[1:]]
        found.append((f"{way}: the slope rises with the ratio (each paired test below 0.05)", max(rises) < 0.05,
                      ", ".join(f"{p:.1e}" for p in rises)))  # fmt: skip
    return found


def tables(results: Results) -> list[Table]:
    """Return the slopes with their intervals, and the recalls."""
    rows = [
        [way, f"{one.ratio:g}x", f"{one.mean:.3f}", f"{one.low:.3f} to {one.high:.3f}", one.label,
         "" if one.p_rise != one.p_rise else f"{one.p_rise:.1e}", f"{np.mean(one.accuracies):.3f}"]
        for way in WAYS for one in _tests(results, way)
    ]  # fmt: skip
    recall = [["before", "", *(f"{v:.3f}" for v in np.mean([n["before"]["recall"] for n in results["networks"]], 0))]]
    for way in WAYS:
        for place, ratio in enumerate(results["ratios"]):
            means = np.mean([network["ways"][way]["recall"][place] for network in results["networks"]], 0)
            recall.append([way, f"{ratio:g}x", *(f"{v:.3f}" for v in means)])
    return [
        Table("Slope of intensification over networks trained apart",
              ("", "ratio", "mean", "95 % of families", "", "p that it rises", "accuracy"), rows),
        Table("Recall of each class, mean over the networks", ("", "ratio", *map(str, range(10))), recall),
    ]  # fmt: skip


def _draw(results: Results) -> bytes:
    def panels(whole: Any, axes: Sequence[Axes]) -> None:
        for colour, way in zip(COLOURS, WAYS, strict=False):
            found = _tests(results, way)
            means = [one.mean for one in found]
            widths = [one.high - one.mean for one in found]
            axes[0].errorbar(results["ratios"], means, widths, color=colour, marker="o", capsize=3, label=way)
            last = [network["ways"][way]["recall"][-1] for network in results["networks"]]
            axes[1].plot(range(10), np.mean(last, 0), "o-", color=colour, label=f"{way}, {results['ratios'][-1]:g}x")
        before = np.mean([network["before"]["recall"] for network in results["networks"]], 0)
        axes[1].plot(range(10), before, color="#22303c", linewidth=2, label="before")
        axes[0].axhline(1, color="#66788a", linewidth=1)
        axes[0].set_xscale("log")
        axes[0].set_yscale("log")
        axes[0].set_xlabel("parameters before / after")
        axes[0].set_ylabel("slope of intensification")
        axes[1].set_xlabel("class, the rarest last")
        axes[1].set_ylabel("recall")
        for axis in axes:
            axis.legend(fontsize=8, frameon=False)

    return figure(2, panels)


def notes(results: Results) -> list[str]:
    """Return what the figures mean."""
    first = asdict(_tests(results, WAYS[0])[0])
    return [
        f"Training images are long-tailed: {MOST} of class 0, each class {FALL} times the one before, at least 5; the "
        "10,000 test images are MNIST's own, and choose nothing: scores see the training images only.",
        "The paper prunes single weights and trains on; here whole neurons go, by ablation re-ranked after each. "
        "'tuned' is the paper's protocol on what is left: train on, then measure. The same on single weights is the "
        "recipe undecayed-pruning.",
        f"Without training on, low compression ({first['ratio']:g}x) leaves the balances about where they are: slope "
        f"{first['mean']:.3f}. What narrows the gaps at low compression is the training after it.",
        "Intervals hold the means of all ratios of a line together in 95 of 100 repetitions (Student's t, Bonferroni); "
        f"{len(results['networks'])} networks, each with its own draw of images, first weights and order.",
    ]


RECIPES = (
    Recipe(
        "recall-distortion",
        "Recall distortion: which classes pay when neurons go",
        "Good, Lin, Yu et al., Recall Distortion in Neural Network Pruning and the Undecayed Pruning Algorithm "
        "(NeurIPS 2022, arXiv 2206.02976).",
        run,
        verdicts,
        tables,
        {"intensification.png": ("slopes of intensification, and recalls of each class", _draw)},
        notes,
    ),
)
