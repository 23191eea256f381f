"""All methods on one network at equal bytes: what each costs, and what it leaves."""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from matplotlib.axes import Axes
from torch import nn

from shrinknet.api import prune
from shrinknet.core.folder import environment
from shrinknet.core.progress import Tell
from shrinknet.recipes.base import Recipe, Results, Table, Verdict
from shrinknet.recipes.files import Files, Rows
from shrinknet.recipes.nets import dense, one_cycle, split
from shrinknet.report.pictures import COLOURS, figure
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
from shrinknet.sparsify.training import Training, accuracy
from shrinknet.task.losses import cross_entropy
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
        "neurons", lambda model, task, steps: FisherPruning(model, task.example_inputs, every=EVERY)
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


def run(source: Files, seed: int, tell: Tell) -> Results:
    """Train the dense network, then bring it under the budget by every method."""
    started = time.perf_counter()
    train, test = source.mnist_rows()
    rows = split(train, 55_000)[0]
    torch.manual_seed(seed)
    model = dense(*WIDTHS)
    tell("dense", 0.0)
    begun = time.perf_counter()
    _train(model, rows, DENSE_EPOCHS, seed)
    model.eval()
    task = Task(model, "cross-entropy", calibration=split(rows, SCORED)[0], test=test)
    family = Family(model, task.example_inputs)
    whole = _figures(model, test, family, None)
    found = [{"method": "dense", "kind": "", "epochs": DENSE_EPOCHS, "seconds": time.perf_counter() - begun, **whole}]
    jobs = [*NEURONS, *TRAINED, "smaller network, from scratch"]
    for done, name in enumerate(jobs):
        tell(name, (1 + done) / (1 + len(jobs)))
        begun = time.perf_counter()
        if name in NEURONS:
            smaller = prune(task, goals=[FlashBytes(BUDGET)], step=STEP, **NEURONS[name]).model
            row = {"kind": "neurons", "epochs": 0, **_figures(smaller, test, None, None)}
        elif name in TRAINED:
            row = _trained(model, TRAINED[name], rows, test, family, seed)
        else:
            row = _from_scratch(family, rows, test, seed)
        found.append({"method": name, "seconds": time.perf_counter() - begun, **row})
    for row in found:
        row["seconds"] = round(row["seconds"], 2)
    return {
        "recipe": "relatives", "seed": seed, "rows": found, "budget": BUDGET,
        "training": {"epochs": EPOCHS, "batch": BATCH, "optimizer": f"SGD, momentum 0.9, one cycle to {RATE}",
                     "weight decay": DECAY, "scored rows": SCORED},
        "seconds": round(time.perf_counter() - started, 1),
        "environment": {**environment(), "num_threads": torch.get_num_threads()},
    }  # fmt: skip


def _train(
    model: nn.Module, rows: Rows, epochs: int, seed: int, sparsifier: Sparsifier | None = None, stop: Any = None
) -> None:
    optimizer = torch.optim.SGD(model.parameters(), RATE, momentum=0.9, weight_decay=DECAY)
    training = Training(
        model, cross_entropy, rows, optimizer, BATCH, seed, epochs, rate=one_cycle, sparsifier=sparsifier
    )
    if stop is not None:
        optimizer.register_step_post_hook(lambda *_: stop())
    list(training.epochs())
    if sparsifier is not None:
        sparsifier.finish()


def _trained(model: nn.Module, how: Trained, rows: Rows, test: Rows, family: Family, seed: int) -> dict[str, Any]:
    own = deepcopy(model)
    if not how.from_dense:
        torch.manual_seed(seed + 1)
        own = dense(*WIDTHS)
    task = Task(own, "cross-entropy", calibration=split(rows, SCORED)[0])
    steps = EPOCHS * -(-len(rows[0]) // BATCH)
    sparsifier = how.make(own, task, steps)

    def enough() -> None:
        """Removals end as soon as the file is small enough."""
        if isinstance(sparsifier, NeuronRemoval) and len(sparsifier.removed) < sparsifier.count:
            profile = Architecture.after(sparsifier.widths, sparsifier.removed)
            if family.costs(profile).flash_bytes <= BUDGET:
                sparsifier.count = len(sparsifier.removed)

    _train(own, rows, EPOCHS, seed, sparsifier, enough)
    if isinstance(sparsifier, NeuronRemoval):
        profile = Architecture.after(sparsifier.widths, sparsifier.removed)
        cost = family.costs(profile)
        gone = Counter(neuron.group for neuron in sparsifier.removed)
        figures = {"accuracy": accuracy(own, test), "bytes": cost.flash_bytes, "macs": cost.macs,
                   "kept": {name: width - gone[name] for name, width in sparsifier.widths.items()}}  # fmt: skip
    else:
        figures = _figures(own, test, None, sparsifier, how.block)
    return {"kind": how.kind, "epochs": EPOCHS, **figures}


def _from_scratch(family: Family, rows: Rows, test: Rows, seed: int) -> dict[str, Any]:
    """An evenly narrower network, trained as long as the dense one and the tuning together."""
    full = {group.name: group.width for group in family.trace.groups}
    factor = 1.0
    while family.costs(Architecture(full, full).scaled(factor)).flash_bytes > BUDGET:
        factor -= 0.002
    profile = Architecture(full, full).scaled(factor)
    member = family.build(profile, seed + 1)
    _train(member, rows, DENSE_EPOCHS + EPOCHS, seed)
    cost = family.costs(profile)
    return {"kind": "neurons", "epochs": DENSE_EPOCHS + EPOCHS, "accuracy": accuracy(member, test),
            "bytes": cost.flash_bytes, "macs": cost.macs}  # fmt: skip


def _figures(
    model: nn.Module, test: Rows, family: Family | None, sparsifier: Sparsifier | None, block: int | None = None
) -> dict[str, Any]:
    weights = [parameter for parameter in model.parameters() if parameter.dim() > 1]
    tensors = {name: parameter.detach() for name, parameter in model.named_parameters()}
    if sparsifier is None:
        task = Task(model, "cross-entropy", calibration=split(test, 2)[0])
        cost = (family or Family(model, task.example_inputs)).costs(Architecture({}, {}))
        return {"accuracy": accuracy(model, test), "bytes": cost.flash_bytes, "macs": cost.macs}
    return {
        "accuracy": accuracy(model, test), "bytes": len(sparse_bytes(tensors, block)),
        "macs": sum(int(weight.count_nonzero()) for weight in weights),
    }  # fmt: skip


def verdicts(results: Results) -> list[Verdict]:
    """Return whether every method met the budget, and what the comparison must show."""
    rows = {row["method"]: row for row in results["rows"]}
    over = [name for name, row in rows.items() if name != "dense" and row["bytes"] > results["budget"]]
    plain, refit = rows["ablation"]["accuracy"], rows["ablation, least squares"]["accuracy"]
    return [
        (f"every method's file is at most {results['budget']:,} bytes", not over, ", ".join(over) or "all"),
        ("without training, least squares loses less than ablation alone", refit > plain, f"{refit:.4f}, {plain:.4f}"),
    ]


def tables(results: Results) -> list[Table]:
    """Return the comparison, the most accurate first."""
    rows = sorted(results["rows"], key=lambda row: -row["accuracy"])
    cells = [
        [row["method"], row["kind"], f"{100 * row['accuracy']:.2f}", f"{row['bytes']:,}", f"{row['macs']:,}",
         f"{row['seconds']:.1f}", "none" if not row["epochs"] else f"{row['epochs']} epochs"]
        for row in rows
    ]  # fmt: skip
    columns = ("method", "what goes", "test accuracy, %", "bytes", "MACs", "seconds", "training")
    return [Table(f"LeNet-300-100 on MNIST in {results['budget']:,} bytes", columns, cells)]


def _draw(results: Results) -> bytes:
    def panels(whole: Any, axes: Sequence[Axes]) -> None:
        kinds = ("neurons", "weights", "blocks")
        rows = sorted((row for row in results["rows"] if row["kind"]), key=lambda row: row["accuracy"])
        for place, row in enumerate(rows):
            colour = COLOURS[kinds.index(row["kind"])]
            axes[0].plot([100 * row["accuracy"]], [place], "o" if row["epochs"] else "s", color=colour)
        axes[0].axvline(100 * results["rows"][0]["accuracy"], color="#66788a", linewidth=1)
        axes[0].set_yticks(range(len(rows)), [row["method"] for row in rows], fontsize=8)
        axes[0].set_xlabel(
            "test accuracy, % (line: dense; squares: no training; blue neurons, red weights, green blocks)"
        )

    return figure(1, panels, width=10)


def notes(results: Results) -> list[str]:
    """Return what the figures mean."""
    left = "; ".join(
        f"{row['method']}: {' and '.join(map(str, row['kept'].values()))}" for row in results["rows"] if "kept" in row
    )
    return [
        "One network, one budget of bytes of the file, one seed: differences below a few tenths of a point say "
        "nothing. Methods that remove neurons are stored dense; masked weights in compressed rows (4 bytes for the "
        "value, 2 for the column), blocks in compressed rows of blocks. MACs are multiplications by weights that are "
        "there; only removed neurons make an ordinary runtime faster.",
        "Settings are the methods' defaults or those of their own recipes, with densities that fill the budget; "
        "network surgery's density is an outcome, so that its file is smaller than allowed. Nothing was tuned on this "
        "page.",
        f"What is left of the two hidden layers where neurons go one by one while training goes on: {left}. "
        "The paper's relevance, the slope of the linear error, empties the last hidden layer of this network, and no "
        "training brings back what one neuron cannot say. Ablation's scores in the same loop keep the layer.",
        f"Scores see {SCORED:,} training images; {STEP} neurons go at a time. Training methods begin with the dense "
        f"network ({DENSE_EPOCHS} epochs) and train for {EPOCHS} more, except random connections, which begin anew; "
        "the smaller network is trained for as long as both together.",
    ]


RECIPES = (
    Recipe(
        "relatives",
        "The relatives side by side: one network, one budget of bytes",
        "Every method of this package on LeNet-300-100; the sources are on the methods' own pages.",
        run,
        verdicts,
        tables,
        {"comparison.png": ("test accuracy of every method at equal bytes", _draw)},
        notes,
    ),
)
