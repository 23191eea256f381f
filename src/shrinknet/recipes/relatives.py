"""All methods on one network at equal bytes: what each costs, and what it leaves."""

import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from shrinknet.api import prune
from shrinknet.core.progress import Tell
from shrinknet.core.records import Costs
from shrinknet.recipes.base import Recipe, Results, Row, Verdict, told
from shrinknet.recipes.files import Files, Rows
from shrinknet.recipes.nets import dense, one_cycle, split
from shrinknet.recipes.training import Course, sgd
from shrinknet.report.pictures import COLOURS, GREY, png, sheet
from shrinknet.search.goals import FlashBytes
from shrinknet.sparsify.base import Sparsifier
from shrinknet.sparsify.family import Architecture, Family
from shrinknet.sparsify.methods.acdc import AlternatingCompression
from shrinknet.sparsify.methods.fisher_pruning import FisherPruning
from shrinknet.sparsify.methods.gradual_threshold import GradualThreshold
from shrinknet.sparsify.methods.network_surgery import DynamicNetworkSurgery
from shrinknet.sparsify.methods.power_of_sparsity import RandomConnections
from shrinknet.sparsify.methods.sequential_attention import SequentialAttention
from shrinknet.sparsify.methods.skeletonization import Skeletonization
from shrinknet.sparsify.methods.undecayed_pruning import OneShot
from shrinknet.sparsify.removal import NeuronRemoval
from shrinknet.sparsify.stored import sparse_bytes
from shrinknet.sparsify.training import accuracy
from shrinknet.task.task import Task

WIDTHS = (784, 300, 100, 10)
BUDGET = 100 * 1024
DENSE_EPOCHS, EPOCHS = 5, 10
BATCH, RATE, DECAY = 128, 0.05, 5e-4
SCORED = 5_000
STEP = 4
BLOCK = 4
EVERY = 8
DENSITY = 0.058
"""Of single weights, 6 bytes each: a value and a column."""
BLOCK_DENSITY = 0.085
"""Of weights in blocks of 4 x 4, 66 bytes each."""
LARGE = ("1.weight", "3.weight")

NEURONS: dict[str, dict[str, Any]] = {
    "ablation": {"criterion": "ablation"},
    "taylor-2": {"criterion": "taylor-2"},
    "skeletonization": {"criterion": "skeletonization"},
    "optimal-cell-damage": {"criterion": "optimal-cell-damage"},
    "sequential-attention, ranked once": {"criterion": "sequential-attention", "method": "single-ranking"},
    "ablation, least squares": {"criterion": "ablation", "compensate": "least-squares"},
    "unit-obs, least squares": {"criterion": "unit-obs", "compensate": "least-squares"},
}


@dataclass(frozen=True, slots=True)
class Trained:
    """A method that trains: how it masks, whether it begins with the dense network's weights, how it is stored."""

    kind: str
    make: Callable[[nn.Module, Task, int], Sparsifier]
    from_dense: bool = True
    block: int | None = None


def _surgery(model: nn.Module, task: Task, steps: int) -> Sparsifier:
    rates = {"1": 2.8, "3": 2.3, "5": 0.6}
    return DynamicNetworkSurgery(model, rates, gamma=1e-4, window=(0, round(0.7 * steps)))


def _threshold(model: nn.Module, task: Task, steps: int) -> Sparsifier:
    return GradualThreshold(model, start=steps // 10, ramp=steps // 4, end=steps // 2, freq=50, sparsity=1 - DENSITY)


def _attention(model: nn.Module, task: Task, steps: int) -> Sparsifier:
    return SequentialAttention(model, num_steps=steps, block=BLOCK, sparsity=1 - BLOCK_DENSITY, layers=LARGE)


TRAINED: dict[str, Trained] = {
    "fisher pruning, tuned between removals": Trained(
        "neurons",
        lambda model, task, steps: FisherPruning(model, task.example_inputs, every=EVERY),
    ),
    "skeletonization, tuned between removals": Trained(
        "neurons", lambda model, task, steps: Skeletonization(task, every=EVERY)
    ),
    "ablation, tuned between removals": Trained(
        "neurons", lambda model, task, steps: Skeletonization(task, criterion="ablation", every=EVERY)
    ),
    "one-shot magnitude, tuned": Trained(
        "weights", lambda model, task, steps: OneShot(model, sparsity=1 - DENSITY, at=1)
    ),
    "one-shot up, tuned": Trained(
        "weights", lambda model, task, steps: OneShot(model, "up", sparsity=1 - DENSITY, at=100, over=100, decay=DECAY)
    ),
    "gradual threshold, calibrated": Trained("weights", _threshold),
    "network surgery": Trained("weights", _surgery),
    "AC/DC": Trained(
        "weights", lambda model, task, steps: AlternatingCompression(model, num_steps=steps, sparsity=1 - DENSITY)
    ),
    "SequentialAttention++": Trained("blocks", _attention, block=BLOCK),
    "random connections, from scratch": Trained(
        "weights", lambda model, task, steps: RandomConnections(model, DENSITY - 0.003, layers=LARGE), from_dense=False
    ),
}


FROM_SCRATCH = "smaller network, from scratch"
COURSE = Course(optimizer=sgd(RATE, DECAY), batch=BATCH, rate=one_cycle)


def measure(source: Files, seed: int, tell: Tell) -> Results:
    """Train the dense network, then bring it under the budget by every method."""
    train, test = source.mnist_rows()
    rows = split(train, 55_000)[0]
    torch.manual_seed(seed)
    model = dense(*WIDTHS)
    family = Family(model, rows[0][:2])
    task = Task(model, "cross-entropy", calibration=split(rows, SCORED)[0], test=test)
    found = list[Row]()
    for name in told(tell, ["dense", *NEURONS, *TRAINED, FROM_SCRATCH], str):
        begun = time.perf_counter()
        if name == "dense":
            COURSE.train(model, rows, DENSE_EPOCHS, seed)
            row = _row("", DENSE_EPOCHS, model, test, family.costs(Architecture({}, {})))
        elif name in NEURONS:
            how = {"compensate": "none", **NEURONS[name]}
            smaller = prune(task, goals=[FlashBytes(BUDGET)], step=STEP, price="neuron", **how).model
            row = _row("neurons", 0, smaller, test, Family(smaller, test[0][:2]).costs(Architecture({}, {})))
        elif name in TRAINED:
            row = _trained(model, TRAINED[name], rows, test, family, seed)
        else:
            row = _from_scratch(family, rows, test, seed)
        seconds = round(time.perf_counter() - begun, 2)
        found.append({"method": name, "seconds": seconds, **row})
    facts = {
        "epochs": EPOCHS,
        "batch": BATCH,
        "optimizer": f"SGD, momentum 0.9, one cycle to {RATE}",
        "weight decay": DECAY,
        "scored rows": SCORED,
    }
    return {"rows": found, "budget": BUDGET, "training": facts}


def _row(kind: str, epochs: int, model: nn.Module, test: Rows, cost: Costs) -> Row:
    right = accuracy(model, test)
    return {"kind": kind, "epochs": epochs, "accuracy": right, "bytes": cost.flash_bytes, "macs": cost.macs}


def _trained(model: nn.Module, how: Trained, rows: Rows, test: Rows, family: Family, seed: int) -> Row:
    own = deepcopy(model)
    if not how.from_dense:
        torch.manual_seed(seed + 1)
        own = dense(*WIDTHS)
    task = Task(own, "cross-entropy", calibration=split(rows, SCORED)[0])
    training = COURSE.training(own, rows, EPOCHS, seed)
    sparsifier = how.make(own, task, EPOCHS * training.steps_per_epoch)
    training.sparsifier = sparsifier

    def cost() -> Costs:
        assert isinstance(sparsifier, NeuronRemoval)
        return family.costs(Architecture.after(sparsifier.widths, sparsifier.removed))

    def enough() -> None:
        """Removals end as soon as the file is small enough."""
        if not isinstance(sparsifier, NeuronRemoval) or len(sparsifier.removed) >= sparsifier.count:
            return
        if cost().flash_bytes <= BUDGET:
            sparsifier.count = len(sparsifier.removed)

    training.optimizer.register_step_post_hook(lambda *_: enough())
    list(training.epochs())
    sparsifier.finish()
    if isinstance(sparsifier, NeuronRemoval):
        kept = Architecture.after(sparsifier.widths, sparsifier.removed).kept
        return {**_row(how.kind, EPOCHS, own, test, cost()), "kept": dict(kept)}
    tensors = {name: parameter.detach() for name, parameter in own.named_parameters()}
    return {
        "kind": how.kind,
        "epochs": EPOCHS,
        "accuracy": accuracy(own, test),
        "bytes": len(sparse_bytes(tensors, how.block)),
        "macs": sum(int(weight.count_nonzero()) for weight in tensors.values() if weight.dim() > 1),
    }


def _from_scratch(family: Family, rows: Rows, test: Rows, seed: int) -> Row:
    """An evenly narrower network, trained as long as the dense one and the tuning together."""
    full = {group.name: group.width for group in family.trace.groups}
    factor = 1.0
    while family.costs(Architecture(full, full).scaled(factor)).flash_bytes > BUDGET:
        factor -= 0.002
    profile = Architecture(full, full).scaled(factor)
    member = family.build(profile, seed + 1)
    COURSE.train(member, rows, DENSE_EPOCHS + EPOCHS, seed)
    return _row("neurons", DENSE_EPOCHS + EPOCHS, member, test, family.costs(profile))


def verdicts(results: Results) -> list[Verdict]:
    """Return whether every method met the budget, and what the comparison must show."""
    rows = {row["method"]: row for row in results["rows"]}
    over = [name for name, row in rows.items() if name != "dense" and row["bytes"] > results["budget"]]
    plain, refit = rows["ablation"]["accuracy"], rows["ablation, least squares"]["accuracy"]
    return [
        (f"every method's file is at most {results['budget']:,} bytes", not over, ", ".join(over) or "all"),
        ("without training, least squares loses less than ablation alone", refit > plain, f"{refit:.4f}, {plain:.4f}"),
    ]


def draw(results: Results) -> bytes:
    """Draw the test accuracy of every method at equal bytes."""
    whole, (axis,) = sheet(1, width=10)
    kinds = ("neurons", "weights", "blocks")
    rows = sorted((row for row in results["rows"] if row["kind"]), key=lambda row: row["accuracy"])
    for place, row in enumerate(rows):
        colour = COLOURS[kinds.index(row["kind"])]
        axis.plot([100 * row["accuracy"]], [place], "o" if row["epochs"] else "s", color=colour)
    axis.axvline(100 * results["rows"][0]["accuracy"], color=GREY, linewidth=1)
    axis.set_yticks(range(len(rows)), [row["method"] for row in rows], fontsize=8)
    axis.set_xlabel("test accuracy, % (line: dense; squares: no training; blue neurons, red weights, green blocks)")
    return png(whole)


def figures(results: Results) -> dict[str, Any]:
    """Return the comparison, the most accurate first, and what the notes say of it."""
    rows = [
        {**row, "training": f"{row['epochs']} epochs" if row["epochs"] else "none"}
        for row in sorted(results["rows"], key=lambda row: -row["accuracy"])
    ]
    kept = {row["method"]: " and ".join(map(str, row["kept"].values())) for row in results["rows"] if "kept" in row}
    return {
        "rows": rows,
        "budget": results["budget"],
        "left": "; ".join(f"{method}: {widths}" for method, widths in kept.items()),
        "scored": SCORED,
        "step": STEP,
        "dense_epochs": DENSE_EPOCHS,
        "epochs": EPOCHS,
    }


PICTURES = {"comparison.png": ("test accuracy of every method at equal bytes", draw)}
RECIPES = (Recipe("relatives", measure, verdicts, figures, PICTURES),)
