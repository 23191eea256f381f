"""The source paper's error surfaces (figures 5 to 7 and 10 to 12) and its dualism, measured: which neurons cancel."""

import time
from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from shrinknet.analysis.cancellation import Cancellation, cancellation
from shrinknet.analysis.error_surface import Alphas, Surface, error_surfaces
from shrinknet.analysis.files import few
from shrinknet.api import prune
from shrinknet.core.progress import Tell
from shrinknet.recipes.base import Recipe, Results, Row, Verdict
from shrinknet.recipes.files import Files
from shrinknet.recipes.isnn_mnist import NETWORKS, trained
from shrinknet.recipes.mnist import paper_subset
from shrinknet.report.pictures import COLOURS, legend, png, sheet
from shrinknet.task.task import Task

CRITERIA = ("ablation", "taylor-1", "taylor-2")
FIGURES = {"isnn-mnist-1x100": (5, 6, 7), "isnn-mnist-2x50": (10, 11, 12)}
"""The paper's figures of brute force, first and second order."""

KINDS = ("harmful", "redundant", "cancelling", "essential")
EVERY = 10
POINTS = 201


def measure(source: Files, seed: int, tell: Tell) -> Results:
    """Train both networks, prune them by three criteria, draw every tenth decision; measure all pairs."""
    scored, held_out = paper_subset(source.mnist(), seed)
    found, pairs = dict[str, Any](), dict[str, Any]()
    jobs = len(NETWORKS) * (1 + len(CRITERIA))
    for done, (name, network) in enumerate(NETWORKS.items()):
        part = done * (1 + len(CRITERIA))
        tell(f"{name}: training", part / jobs)
        model, _ = trained(network, scored, seed)
        task = Task(model, "squared-error", calibration=scored, validation=held_out, batch_size=4500)
        begun = time.perf_counter()
        pairs[name] = [_pairs(one) for one in cancellation(task)]
        pairs[f"{name} seconds"] = round(time.perf_counter() - begun, 2)
        for place, criterion in enumerate(CRITERIA):
            tell(f"{name}: {criterion}", (part + 1 + place) / jobs)
            pruned = prune(task, criterion)
            begun = time.perf_counter()
            surfaces = error_surfaces(pruned, every=EVERY, alphas=Alphas())
            seconds = (time.perf_counter() - begun) / len(surfaces)
            losses = [step.measures.calibration_loss for step in pruned.history]
            scores = [step.scores[0] if step.scores else 0.0 for step in pruned.history]
            facts = [_facts(one, losses, scores) for one in surfaces]
            found[f"{name}/{criterion}"] = {"surfaces": facts, "seconds each": round(seconds, 3)}
    return {"found": found, "pairs": pairs, "rows": len(scored[0])}


def _facts(one: Surface, losses: Sequence[float], scores: Sequence[float]) -> Row:
    places = few(one.alphas, POINTS)
    at_zero = float(one.losses[int(np.searchsorted(one.alphas, 0.0))])
    said = ("verdict", "ground", "loss", "rise", "slope", "curvature")
    return {
        "step": one.step,
        "neuron": str(one.neuron),
        **{name: getattr(one, name) for name in said},
        "off by at 0": abs(at_zero - losses[one.step]) / losses[one.step],
        "off by at 1": abs(one.loss - losses[one.step - 1]) / losses[one.step - 1],
        "parabola at 0": one.curvature / 2 - one.slope,
        "score": scores[one.step],
        "alphas": [round(float(a), 6) for a in one.alphas[places]],
        "losses": [float(f"{value:.6g}") for value in one.losses[places]],
    }


def _pairs(one: Cancellation) -> Row:
    rows, columns = np.triu_indices(len(one.neurons), 1)
    values = one.interactions[rows, columns]
    cosines = None if one.cosines is None else float(np.corrcoef(one.cosines[rows, columns], values)[0, 1])
    return {
        "group": one.group,
        "neurons": len(one.neurons),
        "pairs": one.num_pairs,
        "chosen": one.chosen,
        "negative": float((values < 0).mean()),
        "strongest": one.strongest(3),
        "cosine and interaction": cosines,
        "together": [
            {"neurons": list(g.neurons), "sum": g.sum_of_rises, "joint": g.joint_rise, "p": g.p, "role": g.role}
            for g in one.together
        ],
    }


def _of(results: Results) -> list[Row]:
    return [one for group in results["found"].values() for one in group["surfaces"]]


def _groups(results: Results) -> list[Row]:
    """The cancelling groups whose members have a price on the data that did not choose them."""
    parts = [part for name in NETWORKS for part in results["pairs"][name]]
    return [group for part in parts for group in part["together"] if group["sum"] > 0]


def verdicts(results: Results) -> list[Verdict]:
    """Return whether the curves are the engine's, what they look like, and whether cancelling groups are real."""
    surfaces = _of(results)
    second = [one for name, group in results["found"].items() if name.endswith("taylor-2") for one in group["surfaces"]]
    parabola = max(abs(one["parabola at 0"] - one["score"]) / max(abs(one["score"]), 1e-9) for one in second)
    zero, at_one = (max(one[f"off by at {k}"] for one in surfaces) for k in (0, 1))
    ablation = [results["found"][f"{name}/ablation"]["surfaces"] for name in NETWORKS]
    early = max(one["rise"] for run in ablation for one in run if one["step"] <= 40)
    late = min(max(one["rise"] for one in run[-3:]) for run in ablation)
    groups = _groups(results)
    less = [group for group in groups if group["joint"] < group["sum"]]
    flat = "by ablation, decisions up to 40 removed are flat from 1 to 0; among the last three some are steep"
    rises = f"largest rise up to 40 removed {early:.3g}, among the last three {late:.3g}"
    together = "on other images, most cancelling groups cost less together than their members' rises add up to"
    return [
        ("at alpha = 0 a curve is at the loss after the removal", zero < 1e-6, f"off by at most {zero:.1e} of it"),
        ("at alpha = 1 it is at the loss before", at_one < 1e-6, f"off by at most {at_one:.1e} of it"),
        ("the parabola has taylor-2's curvature", parabola < 1e-6, f"off by at most {parabola:.1e} of the score"),
        (flat, early < late / 10, rises),
        (together, len(less) > len(groups) / 2, f"{len(less)} of {len(groups)}"),
    ]


def draw(results: Results, name: str, criterion: str) -> bytes:
    """Draw error surfaces of one run as the paper does: a log axis left, a linear one right."""
    surfaces, rows = results["found"][f"{name}/{criterion}"]["surfaces"], results["rows"]
    whole, axes = sheet(2, width=6.4)
    for axis in axes:
        for colour, one in zip([*COLOURS, *COLOURS], surfaces, strict=False):
            alphas, losses = np.array(one["alphas"]), rows * np.array(one["losses"])
            axis.plot(alphas, losses, color=colour, linewidth=1.5, label=f"{one['step']} removed: {one['neuron']}")
            near = alphas <= 2
            line = one["loss"] + one["slope"] * (alphas - 1)
            axis.plot(alphas[near], rows * line[near], "--", color=colour, linewidth=0.9)
            parabola = line + one["curvature"] / 2 * (alphas - 1) ** 2
            axis.plot(alphas[near], rows * parabola[near], ":", color=colour, linewidth=1.1)
        axis.axvline(1, color="#b3261e", linewidth=1)
        axis.set_xlabel("alpha: 0 the removal, 1 the network as it is")
    values = [value * rows for one in surfaces for value in one["losses"]]
    axes[0].set(yscale="log", ylim=(min(values) / 1.5, max(values) * 1.3))
    axes[0].set_ylabel(f"error, {rows:,} images (dashes: taylor-1, dots: taylor-2)")
    axes[1].set_ylim(-0.03 * max(values), 1.05 * max(values))
    legend(axes[1], size=7)
    number = FIGURES[name][CRITERIA.index(criterion)]
    whole.suptitle(f"{name}, pruned by {criterion}: the paper's figure {number}")
    return png(whole)


def figures(results: Results) -> dict[str, Any]:
    """Return the verdicts on the neurons along each run, the cancelling groups, and where the error falls."""
    runs = [(*key.split("/"), run) for key, run in results["found"].items()]
    layers = [(name, part) for name in NETWORKS for part in results["pairs"][name]]
    falls = [
        f"{name}, step {one['step']}, falls by {-one['rise']:.2g}"
        for name, run in results["found"].items()
        for one in run["surfaces"]
        if one["rise"] < 0
    ]
    return {
        "moments": [_moments(*run) for run in runs],
        "layers": [_layer(name, part) for name, part in layers],
        "together": [
            {"network": name, "shown": ", ".join(map(str, group["neurons"])), **group}
            for name, part in layers
            for group in sorted(part["together"], key=lambda one: one["joint"] - one["sum"])[:6]
        ],
        "falls": "; ".join(falls) or "here no tenth removal lowers it",
    }


def _moments(network: str, criterion: str, run: Row) -> Row:
    counts = Counter(one["verdict"] for one in run["surfaces"])
    kinds = {kind: counts[kind] for kind in KINDS}
    return {"network": network, "criterion": criterion, **kinds, "seconds": run["seconds each"]}


def _layer(network: str, part: Row) -> Row:
    correlation, together = part["cosine and interaction"], part["together"]
    return {
        **part,
        "network": network,
        "correlation": "" if correlation is None else f"{correlation:.2f}",
        "num_groups": len(together),
        "largest": max((len(one["neurons"]) for one in together), default=0),
    }


PICTURES = {
    f"figure-{number}.png": (f"error surfaces, {name}, {which}", partial(draw, name=name, criterion=which))
    for name, numbers in FIGURES.items()
    for number, which in zip(numbers, CRITERIA, strict=True)
}
RECIPES = (Recipe("error-surfaces", measure, verdicts, figures, PICTURES),)
