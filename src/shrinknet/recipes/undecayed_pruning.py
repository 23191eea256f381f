"""Recall distortion and undecayed pruning, on an unbalanced MNIST."""

import copy
from itertools import pairwise, product
from typing import Any

import numpy as np
import torch
from scipy import stats
from torch import nn

from shrinknet.core.progress import Tell
from shrinknet.core.recall import intensification, normalised_balance, recalls
from shrinknet.recipes.base import Recipe, Results, Row, Table, Verdict, mean, spread, told, where
from shrinknet.recipes.files import Files, Rows
from shrinknet.recipes.nets import lenet5
from shrinknet.recipes.training import Course, sgd
from shrinknet.report.pictures import COLOURS, GREY, legend, png, sheet
from shrinknet.sparsify.methods.undecayed_pruning import OneShot, mean_slopes
from shrinknet.sparsify.training import accuracy
from shrinknet.task.per_sample import cross_entropy

SEEDS = 10
ASKED = 5
"""How many of them the claim on up and gp is judged by."""
RULES = ("magnitude", "gp", "up", "up-literal", "random")
RATIOS = (2, 4, 10, 20)
MOST, FALL = 600, 0.6
"""Training images of class 0, and the factor from each class to the next."""
DENSE_EPOCHS, TUNING_EPOCHS = 30, 15
RATE, DECAY, BATCH = 0.01, 5e-4, 128
PRUNED = ("0.weight", "2.weight", "5.weight")
"""All but the classifier."""

Vector = np.ndarray[tuple[int, ...], np.dtype[np.float64]]

PUBLISHED = {
    "magnitude": (0.928, 0.953, 1.057, 1.239),
    "gp": (0.932, 0.983, 1.128, 1.368),
    "up": (0.920, 0.931, 1.005, 1.160),
    "random": (-1.395, -0.756, -0.968, -1.19),
}
COURSE = Course(optimizer=sgd(RATE, DECAY), batch=BATCH)


def measure(source: Files, seed: int, tell: Tell) -> Results:
    """Train networks, prune each by every rule at every ratio, tune, and compare recalls with the network before."""
    tell("reading", 0.0)
    train, test = source.mnist_rows()
    seeds = range(seed * 100, seed * 100 + SEEDS)
    words = "network {} of {}".format
    own = told(tell, seeds, lambda one: words(one - seeds[0] + 1, SEEDS))
    networks = [_one(unbalanced(train, one), test, one) for one in own]
    facts = {
        "epochs": DENSE_EPOCHS,
        "tuning epochs": TUNING_EPOCHS,
        "batch": BATCH,
        "weight decay": DECAY,
        "optimizer": f"SGD {RATE}, momentum 0.9",
        "seeds": SEEDS,
        "rows": networks[0]["rows"],
    }
    return {"networks": networks, "training": facts}


def unbalanced(rows: Rows, seed: int) -> Rows:
    """Return a draw of training images, each class 0.6 times as often as the one before it."""
    generator, labels = np.random.default_rng(seed), rows[1].numpy()
    drawn = [
        generator.choice(np.flatnonzero(labels == c), max(5, int(MOST * FALL**c)), replace=False) for c in range(10)
    ]
    chosen = torch.from_numpy(np.concatenate(drawn))
    return rows[0][chosen], rows[1][chosen]


def _one(rows: Rows, test: Rows, seed: int) -> Row:
    torch.manual_seed(seed)
    model = lenet5()
    COURSE.train(model, rows, DENSE_EPOCHS, seed)
    before = _recalls(model, test)
    balance = normalised_balance(before, accuracy(model, test))
    slopes = mean_slopes(model, cross_entropy, [rows])
    pruned = list[Row]()
    for rule, ratio in product(RULES, RATIOS):
        smaller = copy.deepcopy(model)
        sparsifier = OneShot(smaller, rule, ratio=ratio, decay=DECAY, layers=PRUNED, seed=seed)
        sparsifier.prune(slopes)
        COURSE.train(smaller, rows, TUNING_EPOCHS, seed + 50, sparsifier)
        after, right = _recalls(smaller, test), accuracy(smaller, test)
        alpha = intensification(balance, normalised_balance(after, right))
        pruned.append(
            {
                "rule": rule,
                "ratio": ratio,
                "accuracy": round(right, 5),
                "alpha": round(alpha, 5),
                "recall": _rounded(after),
                "density": round(sparsifier.density, 5),
            }
        )
    right = round(accuracy(model, test), 5)
    return {"rows": len(rows[0]), "accuracy": right, "recall": _rounded(before), "pruned": pruned}


def _rounded(recall: Vector) -> list[float]:
    return [round(float(value), 4) for value in recall]


def _recalls(model: nn.Module, test: Rows) -> Vector:
    with torch.no_grad():
        predicted = torch.cat([model(some).argmax(1) for some in test[0].split(2000)])
    return recalls(predicted.numpy(), test[1].numpy(), 10)


def _of(results: Results, rule: str, ratio: int, what: str = "alpha") -> list[Any]:
    return [row[what] for network in results["networks"] for row in where(network["pruned"], rule=rule, ratio=ratio)]


def verdicts(results: Results) -> list[Verdict]:
    """Return whether pruning narrows gaps between classes at first and widens them later."""
    slopes = [mean(_of(results, "magnitude", ratio)) for ratio in RATIOS]
    seen = ", ".join(f"{ratio}x: {slope:.3f}" for ratio, slope in zip(RATIOS, slopes, strict=True))
    up, gp = (_of(results, rule, 20) for rule in ("up", "gp"))
    first, all_of_them = ([mean(values[:count]) for values in (up, gp)] for count in (ASKED, SEEDS))
    return [
        ("magnitude: the slope of intensification rises with the ratio", slopes == sorted(slopes), seen),
        ("magnitude: below 1 at 2x (gaps narrow)", slopes[0] < 1, f"{slopes[0]:.3f}"),
        ("magnitude: above 1.1 at 20x (gaps widen)", slopes[-1] > 1.1, f"{slopes[-1]:.3f}"),
        (
            f"up is not above gp at 20x (mean of the first {ASKED} seeds)",
            first[0] <= first[1],
            f"{first[0]:.3f} against {first[1]:.3f}; of all {SEEDS}: {all_of_them[0]:.3f} against {all_of_them[1]:.3f}",
        ),
    ]


def more_tables(results: Results) -> list[Table]:
    """Return slopes with their intervals, tests between ratios and rules, and recalls."""
    rows, theirs = list[list[str]](), set[int]()
    for rule in RULES:
        rows.append([rule, *(_slope(results, rule, ratio) for ratio in RATIOS)])
        if rule in PUBLISHED:
            theirs.add(len(rows))
            rows.append([f"{rule}, published", *(f"{value:.3f}" for value in PUBLISHED[rule])])
    columns = ("slope of intensification, 99 % interval (accuracy)", *(f"{ratio}x" for ratio in RATIOS))
    recall = {"before": [network["recall"] for network in results["networks"]]}
    recall |= {f"magnitude {ratio}x": _of(results, "magnitude", ratio, "recall") for ratio in RATIOS}
    means = [[name, *(f"{value:.3f}" for value in np.mean(found, 0))] for name, found in recall.items()]
    return [
        Table("Slope of intensification (published: ResNet-56 on CIFAR-10)", columns, rows, frozenset(theirs)),
        Table("Paired t-tests over the networks, p times the number of lines", ("", "p"), _tests(results)),
        Table("Recall of each class, mean over the networks", ("", *map(str, range(10))), means),
    ]


def _slope(results: Results, rule: str, ratio: int) -> str:
    alphas, right = _of(results, rule, ratio), _of(results, rule, ratio, "accuracy")
    return f"{mean(alphas):.3f} ± {_half_width(alphas):.3f} ({mean(right):.3f})"


def _tests(results: Results) -> list[list[str]]:
    magnitude = {ratio: _of(results, "magnitude", ratio) for ratio in RATIOS}
    tests = [
        (f"magnitude, {a}x to {b}x: rises", stats.ttest_rel(magnitude[a], magnitude[b], alternative="less").pvalue)
        for a, b in pairwise(RATIOS)
    ]
    gp = _of(results, "gp", 20)
    for rule in ("up", "magnitude"):
        tests.append((f"{rule} and gp differ at 20x", stats.ttest_rel(_of(results, rule, 20), gp).pvalue))
    return [[what, f"{min(1.0, float(p) * len(tests)):.2g}"] for what, p in tests]


def _half_width(values: list[float]) -> float:
    """Half of the 99 % confidence interval of the mean."""
    return float(stats.t.ppf(0.995, len(values) - 1) * spread(values) / len(values) ** 0.5)


def draw(results: Results) -> bytes:
    """Draw slopes against ratios, and the balances of one network's classes."""
    whole, axes = sheet(2)
    for colour, rule in zip(COLOURS, RULES[:-1], strict=False):
        alphas = [_of(results, rule, ratio) for ratio in RATIOS]
        means, widths = map(mean, alphas), map(_half_width, alphas)
        axes[0].errorbar(RATIOS, list(means), list(widths), fmt="o-", color=colour, label=rule, capsize=3)
        if rule in PUBLISHED:
            axes[0].plot(RATIOS, PUBLISHED[rule], "o:", color=colour, markerfacecolor="white")
    axes[0].axhline(1, color=GREY, linewidth=1)
    axes[0].set(xscale="log", xlabel="parameters before / after (dotted: published, ResNet-56)")
    axes[0].set_ylabel("slope of intensification")
    first = results["networks"][0]
    before = normalised_balance(np.array(first["recall"]), first["accuracy"])
    for colour, ratio in zip(COLOURS, (2, 20), strict=False):
        pruned = where(first["pruned"], rule="magnitude", ratio=ratio)[0]
        after = normalised_balance(np.array(pruned["recall"]), pruned["accuracy"])
        axes[1].plot(before, after, "o", color=colour, label=f"{ratio}x: slope {pruned['alpha']:.2f}")
        axes[1].plot(before, pruned["alpha"] * before, color=colour, linewidth=1)
    axes[1].set(xlabel="normalised recall balance of each class before", ylabel="after (first network, magnitude)")
    for axis in axes:
        legend(axis, size=None)
    return png(whole)


def figures(results: Results) -> dict[str, Any]:
    """Return what the notes say of results."""
    slopes = {rule: mean(_of(results, rule, 20)) for rule in ("up", "magnitude", "random")}
    return {**slopes, "asked": ASKED, "num_seeds": SEEDS}


PICTURES = {"slopes.png": ("slope of intensification against the ratio, and one network's classes", draw)}
RECIPES = (Recipe("undecayed-pruning", measure, verdicts, figures, PICTURES, more_tables),)
