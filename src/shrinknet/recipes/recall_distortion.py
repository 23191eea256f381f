"""Who pays when whole neurons go: recall distortion on a long-tailed MNIST, over networks trained apart."""

import copy
from typing import Any

import numpy as np
import torch

from shrinknet.analysis.recall_distortion import AtRatio, over_slopes, recall_distortion
from shrinknet.api import prune
from shrinknet.core.config import Compensate
from shrinknet.core.progress import Tell
from shrinknet.core.recall import intensification, normalised_balance, recalls
from shrinknet.recipes.base import Recipe, Results, Row, Table, Verdict, told
from shrinknet.recipes.files import Files, Rows
from shrinknet.recipes.nets import dense, one_cycle
from shrinknet.recipes.training import Course, sgd
from shrinknet.recipes.undecayed_pruning import FALL, MOST, unbalanced
from shrinknet.report.pictures import COLOURS, GREY, legend, png, sheet
from shrinknet.search.goals import NumParameters
from shrinknet.task.task import Task

SEEDS = 20
WIDTHS = (784, 100, 50, 10)
RATIOS = (1.5, 2, 4, 10)
EPOCHS, TUNING_EPOCHS, BATCH, RATE, DECAY = 20, 10, 32, 0.05, 5e-4
WAYS = ("ablation", "ablation, least squares", "ablation, least squares, tuned")
COMPENSATIONS: tuple[Compensate, ...] = ("none", "least-squares")


COURSE = Course(optimizer=sgd(RATE, DECAY), batch=BATCH, rate=one_cycle)


def measure(source: Files, seed: int, tell: Tell) -> Results:
    """Train networks apart; prune each with and without compensation; tune what is left; measure every class."""
    train, test = source.mnist_rows()
    seeds = range(seed, seed + SEEDS)
    words = "network {} of {}".format
    networks = [
        _one(unbalanced(train, own), test, own) for own in told(tell, seeds, lambda s: words(s - seed + 1, SEEDS))
    ]
    facts = {
        "epochs": EPOCHS,
        "batch": BATCH,
        "optimizer": f"SGD, momentum 0.9, one cycle to {RATE}",
        "weight decay": DECAY,
        "tuning epochs": TUNING_EPOCHS,
        "most of a class": MOST,
        "fall": FALL,
    }
    return {"networks": networks, "ratios": RATIOS, "training": facts}


def _one(rows: Rows, test: Rows, seed: int) -> Row:
    torch.manual_seed(seed)
    model = dense(*WIDTHS)
    COURSE.train(model, rows, EPOCHS, seed)
    task = Task(model, "cross-entropy", rows, test)
    found: Row = {"rows": len(rows[0]), "ways": {}}
    for way, compensate in zip(WAYS, COMPENSATIONS, strict=False):
        pruned = prune(task, compensate=compensate, effort="exact")
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


def _tuned(pruned: Any, balance: Any, rows: Rows, test: Rows, seed: int) -> Row:
    """The networks of the family, each trained on for a while."""
    whole = pruned.history[0].measures.costs.num_parameters
    found: Row = {"alpha": [], "accuracy": [], "recall": []}
    for ratio in RATIOS:
        small = copy.deepcopy(pruned.at(NumParameters(int(whole / ratio))).model)
        COURSE.train(small, rows, TUNING_EPOCHS, seed + 50)
        with torch.no_grad():
            predicted = small(test[0]).argmax(1)
        right = float((predicted == test[1]).double().mean())
        recall = recalls(predicted.numpy(), test[1].numpy(), 10)
        found["alpha"].append(intensification(balance, normalised_balance(recall, right)))
        found["accuracy"].append(right)
        found["recall"].append([round(float(r), 4) for r in recall])
    return found


def _tests(results: Results, way: str) -> list[AtRatio]:
    slopes, accuracies = (
        np.array([network["ways"][way][what] for network in results["networks"]]).T for what in ("alpha", "accuracy")
    )
    return over_slopes(results["ratios"], slopes, accuracies)


def verdicts(results: Results) -> list[Verdict]:
    """Return the signs that the paper reports: gaps narrow at low compression, widen at high."""
    found = list[Verdict]()
    for way in WAYS:
        first, *others = _tests(results, way)
        if way == WAYS[2]:
            what = f"{way}: gaps narrow at {first.ratio:g}x (the interval lies below 1)"
            found.append((what, first.label == "<", _interval(first)))
        what = f"{way}: gaps widen at {others[-1].ratio:g}x (the interval lies above 1)"
        found.append((what, others[-1].label == ">", _interval(others[-1])))
        rises = [one.p_rise for one in others]
        what = f"{way}: the slope rises with the ratio (each paired test below 0.05)"
        found.append((what, max(rises) < 0.05, ", ".join(f"{p:.1e}" for p in rises)))
    return found


def _interval(one: AtRatio) -> str:
    return f"{one.mean:.3f}, {one.low:.3f} to {one.high:.3f}"


def _mean_recalls(results: Results, way: str, place: int) -> Any:
    return np.mean([network["ways"][way]["recall"][place] for network in results["networks"]], 0)


def _recalls_before(results: Results) -> Any:
    return np.mean([network["before"]["recall"] for network in results["networks"]], 0)


def more_tables(results: Results) -> list[Table]:
    """Return the recalls."""
    shown = {("before", ""): _recalls_before(results)}
    for way in WAYS:
        for place, ratio in enumerate(results["ratios"]):
            shown[way, f"{ratio:g}x"] = _mean_recalls(results, way, place)
    rows = [[*names, *(f"{value:.3f}" for value in means)] for names, means in shown.items()]
    return [Table("Recall of each class, mean over the networks", ("", "ratio", *map(str, range(10))), rows)]


def draw(results: Results) -> bytes:
    """Draw slopes of intensification, and recalls of each class."""
    whole, axes = sheet(2)
    for colour, way in zip(COLOURS, WAYS, strict=False):
        found = _tests(results, way)
        widths = [one.high - one.mean for one in found]
        style: Row = {"color": colour, "marker": "o", "capsize": 3, "label": way}
        axes[0].errorbar(results["ratios"], [one.mean for one in found], widths, **style)
        label = f"{way}, {results['ratios'][-1]:g}x"
        axes[1].plot(range(10), _mean_recalls(results, way, -1), "o-", color=colour, label=label)
    axes[1].plot(range(10), _recalls_before(results), color="#22303c", linewidth=2, label="before")
    axes[0].axhline(1, color=GREY, linewidth=1)
    axes[0].set(xscale="log", yscale="log", xlabel="parameters before / after", ylabel="slope of intensification")
    axes[1].set(xlabel="class, the rarest last", ylabel="recall")
    for axis in axes:
        legend(axis)
    return png(whole)


def figures(results: Results) -> dict[str, Any]:
    """Return the slopes with their intervals."""
    slopes = [
        {
            "way": way,
            "one": one,
            "p_rise": "" if np.isnan(one.p_rise) else f"{one.p_rise:.1e}",
            "accuracy": np.mean(one.accuracies),
        }
        for way in WAYS
        for one in _tests(results, way)
    ]
    return {
        "slopes": slopes,
        "first": slopes[0]["one"],
        "most": MOST,
        "fall": FALL,
        "num_networks": len(results["networks"]),
    }


PICTURES = {"intensification.png": ("slopes of intensification, and recalls of each class", draw)}
RECIPES = (Recipe("recall-distortion", measure, verdicts, figures, PICTURES, more_tables),)
