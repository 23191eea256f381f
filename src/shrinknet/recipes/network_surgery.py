"""Dynamic Network Surgery on LeNet-300-100 and LeNet-5."""

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import nn

from shrinknet.core.progress import Tell
from shrinknet.recipes.base import Recipe, Results, Row, Verdict, told, where
from shrinknet.recipes.files import Files, Rows
from shrinknet.recipes.nets import dense, lenet5, one_cycle, split
from shrinknet.recipes.training import Course, sgd
from shrinknet.report.pictures import COLOURS, legend, png, sheet
from shrinknet.sparsify.methods.network_surgery import DynamicNetworkSurgery
from shrinknet.sparsify.training import accuracy

BATCH = 128
RATE = 0.05
GAMMA = 1e-4
WINDOW = 0.7
"""Masks stand still after this part of the training."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One surgery: how far each layer is cut, how strongly weights decay, whether weights may come back."""

    name: str
    c_rate: dict[str, float]
    decay: float = 5e-4
    splice: bool = True


@dataclass(frozen=True, slots=True)
class Network:
    """A network, how long it is trained first, how long surgery lasts, and which surgeries."""

    name: str
    build: Callable[[], nn.Module]
    dense_epochs: int
    epochs: int
    settings: tuple[Setting, ...]
    published: tuple[str, str]


_THREE, _FOUR = ("1", "3", "5"), ("0", "2", "5", "7")
"""The layers with weights of each network."""

_MILDER_THREE = dict(zip(_THREE, (4.2, 3.5, 1.3), strict=True))
_HARDER_THREE = dict(zip(_THREE, (5.2, 4.5, 1.8), strict=True))
_MILDER_FOUR = dict(zip(_FOUR, (1.0, 3.0, 5.0, 2.0), strict=True))
_HARDER_FOUR = dict(zip(_FOUR, (1.2, 3.5, 6.0, 2.5), strict=True))

NETWORKS = (
    Network(
        "LeNet-300-100",
        partial(dense, 784, 300, 100, 10),
        dense_epochs=5,
        epochs=40,
        settings=(
            Setting("milder", _MILDER_THREE),
            Setting("harder", _HARDER_THREE),
            Setting("hardest", _HARDER_THREE, decay=1e-3),
            Setting("milder, no splicing", _MILDER_THREE, splice=False),
        ),
        published=("2.28 -> 1.99", "56"),
    ),
    Network(
        "LeNet-5",
        lenet5,
        dense_epochs=5,
        epochs=20,
        settings=(
            Setting("milder", _MILDER_FOUR),
            Setting("harder", _HARDER_FOUR, decay=1e-3),
            Setting("milder, no splicing", _MILDER_FOUR, splice=False),
        ),
        published=("0.91 -> 0.91", "108"),
    ),
)
DENSE = Setting("dense", {}, decay=0.0)
AS_LONG = Setting("dense, trained as long", {})


def measure(source: Files, seed: int, tell: Tell) -> Results:
    """Train each network, operate on it with every setting, and train it on without surgery for as long."""
    train, test = source.mnist_rows()
    rows, validation = split(train, 55_000, 5_000)
    jobs = [(network, one) for network in NETWORKS for one in (DENSE, AS_LONG, *network.settings)]
    found = []
    for network, setting in told(tell, jobs, lambda job: f"{job[0].name}, {job[1].name}"):
        if setting is DENSE:
            torch.manual_seed(seed)
            model = network.build()
            _course(setting).train(model, rows, network.dense_epochs, seed)
            row: Row = {"network": network.name, "setting": "dense", **_errors(model, validation, test), "ratio": 1.0}
        else:
            row = _operated(copy.deepcopy(model), network, setting, rows, validation, test, seed)
        found.append(row)
    facts = {
        "optimizer": f"SGD, momentum 0.9, one cycle to {RATE}",
        "batch": BATCH,
        "rows": len(rows[0]),
        "gamma": GAMMA,
        "window": WINDOW,
    }
    return {"rows": found, "training": facts}


def _course(setting: Setting) -> Course:
    return Course(optimizer=sgd(RATE, setting.decay), batch=BATCH, rate=one_cycle)


def _operated(
    model: nn.Module, network: Network, setting: Setting, rows: Rows, validation: Rows, test: Rows, seed: int
) -> Row:
    started = time.perf_counter()
    training = _course(setting).training(model, rows, network.epochs, seed)
    kept, ratio, counts = dict[str, float](), 1.0, list[list[int]]()
    if setting.c_rate:
        window = (0, round(WINDOW * network.epochs * training.steps_per_epoch))
        training.sparsifier = surgeon = DynamicNetworkSurgery(
            model, setting.c_rate, gamma=GAMMA, window=window, splice=setting.splice, seed=seed
        )
        moved = [[0, 0], *([*_moved(surgeon), surgeon.num_kept] for _ in training.epochs())]
        counts = [[after[0] - before[0], after[1] - before[1], after[2]] for before, after in pairwise(moved)]
        surgeon.finish()
        ratio = round(1 / surgeon.density, 2)
        kept = {name: round(float(mask.float().mean()), 5) for name, mask in surgeon.masks.items() if mask.dim() > 1}
    else:
        list(training.epochs())
    return {
        "network": network.name,
        "setting": setting.name,
        "c_rate": setting.c_rate,
        "decay": setting.decay,
        **_errors(model, validation, test),
        "ratio": ratio,
        "kept": kept,
        "epochs": counts,
        "seconds": round(time.perf_counter() - started, 1),
    }


def _moved(surgeon: DynamicNetworkSurgery) -> tuple[int, int]:
    """How many weights were pruned and spliced so far."""
    return sum(surgeon.num_masked.values()), sum(surgeon.num_regrown.values())


def _errors(model: nn.Module, validation: Rows, test: Rows) -> dict[str, float]:
    parts = {"validation": validation, "test": test}
    return {name: round(100 * (1 - accuracy(model, rows)), 3) for name, rows in parts.items()}


def _row(results: Results, network: str, setting: str) -> Row:
    return where(results["rows"], network=network, setting=setting)[0]


def verdicts(results: Results) -> list[Verdict]:
    """Return whether the networks get as small as the paper's, by test error against the dense network's."""
    found: list[Verdict] = []
    for network, wanted, allowed in (("LeNet-300-100", 30, 0.1), ("LeNet-300-100", 50, 0.4), ("LeNet-5", 60, 0.2)):
        start = _row(results, network, "dense")["test"]
        fits = [r for r in where(results["rows"], network=network) if r["ratio"] >= wanted and r.get("c_rate")]
        best = min((r for r in fits if "splicing" not in r["setting"]), key=lambda r: r["validation"], default=None)
        seen = "no setting got there" if best is None else f"{best['ratio']:.1f}x: {start:.2f} -> {best['test']:.2f} %"
        what = f"{network}: at least {wanted}x smaller within {allowed} points of its dense error"
        found.append((what, best is not None and best["test"] - start <= allowed + 1e-9, seen))
    what = "LeNet-300-100: without splicing, from the same thresholds, at least 1 point worse"
    without, spliced = (_row(results, "LeNet-300-100", name) for name in ("milder, no splicing", "milder"))
    seen = " against ".join(f"{row['test']:.2f} % at {row['ratio']:.1f}x" for row in (spliced, without))
    found.append((what, without["test"] - spliced["test"] >= 1, seen))
    return found


def draw(results: Results) -> bytes:
    """Draw how many weights went and came back in each epoch."""
    whole, axes = sheet(2)
    for axis, network in zip(axes, NETWORKS, strict=True):
        operated = [r for r in where(results["rows"], network=network.name) if r.get("epochs")]
        for colour, row in zip(COLOURS, operated, strict=False):
            axis.plot([e[0] for e in row["epochs"]], color=colour, label=f"{row['setting']}: pruned")
            if any(e[1] for e in row["epochs"]):
                axis.plot([e[1] for e in row["epochs"]], ":", color=colour, label=f"{row['setting']}: spliced")
        axis.set(yscale="symlog", xlabel="epoch of surgery", title=network.name)
        legend(axis, size=7)
    axes[0].set_ylabel("weights that went or came back in an epoch")
    return png(whole)


def figures(results: Results) -> dict[str, Any]:
    """Return what each setting gives, what is kept of each layer, and the settings that the notes speak of."""
    rows = list[Row]()
    for network in NETWORKS:
        rows += map(_shown, where(results["rows"], network=network.name))
        errors, smaller = network.published
        rows.append(
            {"network": network.name, "setting": "published", "errors": errors, "smaller": smaller, "theirs": True}
        )
    fives = where(results["rows"], network="LeNet-5")
    return {
        "rows": rows,
        "smallest": max(fives, key=lambda r: r["ratio"]),
        "spliced": max((r for r in fives if "splicing" not in r["setting"]), key=lambda r: r["ratio"]),
        "dense": _row(results, "LeNet-5", "dense"),
        "without": _row(results, "LeNet-300-100", "milder, no splicing"),
    }


def _shown(row: Row) -> Row:
    shown = {**row, "errors": f"{row['test']:.2f} ({row['validation']:.2f})", "smaller": f"{row['ratio']:.1f}"}
    if row.get("kept") is not None:
        shown["kept"] = ", ".join(f"{100 * share:.2f}" for share in row["kept"].values())
    if row.get("epochs"):
        shown["pruned"], shown["spliced"], _ = map(sum, zip(*row["epochs"], strict=True))
    return shown


PICTURES = {"splices.png": ("weights pruned and spliced in each epoch", draw)}
RECIPES = (Recipe("network-surgery", measure, verdicts, figures, PICTURES),)
