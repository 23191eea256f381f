"""The Power of Sparsity in Convolutional Neural Networks, on its two-convolution networks."""

import time
from collections.abc import Sequence
from itertools import product
from typing import Any

import torch
from matplotlib.axes import Axes
from torch import Tensor, nn

from shrinknet.core.folder import environment
from shrinknet.core.progress import Tell
from shrinknet.recipes.base import Recipe, Results, Table, Verdict, mean, spread
from shrinknet.recipes.files import Files, Rows
from shrinknet.recipes.nets import split
from shrinknet.report.pictures import COLOURS, figure
from shrinknet.sparsify.methods.power_of_sparsity import RandomConnections, depth_multiplier
from shrinknet.sparsify.schedules import cosine
from shrinknet.sparsify.training import Training, accuracy
from shrinknet.task.losses import cross_entropy

SEEDS = 3
DENSITIES = (0.05, 0.1, 0.25, 0.5)
TASKS = ("CIFAR-10", "MNIST")
FILTERS = {"CIFAR-10": (3, 64, 64), "MNIST": (1, 32, 64)}
SIZE = {"CIFAR-10": 24, "MNIST": 28}
EPOCHS = {"CIFAR-10": 6, "MNIST": 3}
NUM_ROWS = 6_000
BATCH = 64
RATE = 3e-3
GROWN_EPOCHS = 12
"""Of the network that grows and of the full one beside it."""
DOUBLE_EVERY = 40
FIRST_DENSITY = 1 / 64
WITHIN = 0.02


def network(channels: int, first: int, second: int) -> nn.Sequential:
    """Return two 5 x 5 convolutions with batch norm and pooling, a global mean, and the classifier."""
    return nn.Sequential(
        nn.Conv2d(channels, first, 5, padding=2, bias=False), nn.BatchNorm2d(first), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(first, second, 5, padding=2, bias=False), nn.BatchNorm2d(second), nn.ReLU(), nn.MaxPool2d(2),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(second, 10),
    )  # fmt: skip


def run(source: Files, seed: int, tell: Tell) -> Results:
    """Train random-sparse networks, narrow ones of as many parameters, the full one, and one that grows into it."""
    started = time.perf_counter()
    tell("reading", 0.0)
    rows = {}
    for task, (train, test) in (("CIFAR-10", source.cifar10_rows()), ("MNIST", source.mnist_rows())):
        rows[task] = [split(train, NUM_ROWS)[0], _cropped(test, SIZE[task])]
    jobs = [(task, kind, density) for task in TASKS for density in DENSITIES for kind in ("random", "narrow")]
    jobs += [(task, kind, 1.0) for task in TASKS for kind in ("full", "incremental")]
    found = []
    for done, (task, kind, density) in enumerate(jobs):
        seeds = []
        for number in range(SEEDS):
            tell(f"{task}, {kind} {density:g}", (done + number / SEEDS) / len(jobs))
            seeds.append(_one(task, kind, density, rows[task], seed * 100 + number))
        found.append({"task": task, "kind": kind, "density": density, "seeds": seeds})
    return {
        "recipe": "power-of-sparsity", "seed": seed, "rows": found,
        "training": {"epochs": EPOCHS, "batch": BATCH, "rows": NUM_ROWS, "optimizer": f"Adam {RATE}, cosine",
                     "seeds": SEEDS, "doubling every": DOUBLE_EVERY,
                     "epochs, full and growing": GROWN_EPOCHS, "first density": FIRST_DENSITY},
        "seconds": round(time.perf_counter() - started, 1),
        "environment": {**environment(), "num_threads": torch.get_num_threads()},
    }  # fmt: skip


def _cropped(rows: Rows, size: int) -> Rows:
    edge = (rows[0].shape[-1] - size) // 2
    return rows[0][..., edge : edge + size, edge : edge + size].contiguous(), rows[1]


def augmented(images: Tensor, generator: torch.Generator) -> Tensor:
    """Return one random 24 x 24 window of a batch of CIFAR images, half of the batches mirrored."""
    top, left = torch.randint(0, 9, (2,), generator=generator).tolist()
    window = images[..., top : top + 24, left : left + 24]
    return window.flip(-1) if float(torch.rand((), generator=generator)) < 0.5 else window


def _one(task: str, kind: str, density: float, rows: list[Rows], seed: int) -> dict[str, Any]:
    started = time.perf_counter()
    torch.manual_seed(seed)
    channels, first, second = FILTERS[task]
    if kind == "narrow":
        first, second = narrow_widths(task, _num_parameters(task, density))
    model = network(channels, first, second)
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE)
    augment = augmented if task == "CIFAR-10" else None
    epochs = GROWN_EPOCHS if kind in {"full", "incremental"} else EPOCHS[task]
    training = Training(model, cross_entropy, rows[0], optimizer, BATCH, seed, epochs, cosine, augment)
    if kind in {"random", "incremental"}:
        every = DOUBLE_EVERY if kind == "incremental" else 0
        start = FIRST_DENSITY if kind == "incremental" else density
        training.sparsifier = RandomConnections(model, start, every=every, new="zero", layers="4.weight", seed=seed)
    list(training.epochs())
    if training.sparsifier is not None:
        training.sparsifier.finish()
        _check_alive(model)
    used = sum(int(parameter.count_nonzero()) for parameter in model.parameters())
    return {
        "accuracy": round(accuracy(model, rows[1]), 5), "parameters": used, "macs": _macs(model, SIZE[task]),
        "widths": [first, second], "seconds": round(time.perf_counter() - started, 1),
    }  # fmt: skip


def _check_alive(model: nn.Sequential) -> None:
    """Every filter reads something and is read by something."""
    kernel = model[4].weight
    assert isinstance(kernel, Tensor)
    read = kernel.flatten(2).abs().sum(2) > 0
    assert bool(read.any(0).all()), "a filter that nothing reads"
    assert bool(read.any(1).all()), "a filter that reads nothing"


def _num_parameters(task: str, density: float) -> int:
    channels, first, second = FILTERS[task]
    connected = max(1, round(density * first))
    return 25 * (channels * first + connected * second) + 2 * (first + second) + 10 * (second + 1)


def narrow_widths(task: str, num_parameters: int) -> tuple[int, int]:
    """Return the widths nearest to the depth multiplier's whose parameters agree with a number within 1 %.

    The multiplier's own, `ceil(sqrt(a) n)`, are too coarse in networks this small.
    """
    channels, first, second = FILTERS[task]
    wanted = depth_multiplier((first, second), num_parameters / _size(channels, first, second))

    def misses(pair: tuple[int, int]) -> tuple[bool, float]:
        off = abs(_size(channels, *pair) / num_parameters - 1)
        far = sum(abs(width / goal - 1) for width, goal in zip(pair, wanted, strict=True))
        return off > WITHIN / 2, off if off > WITHIN / 2 else far

    return min(product(range(1, first + 1), range(1, second + 1)), key=misses)


def _size(channels: int, first: int, second: int) -> int:
    return 25 * first * (channels + second) + 2 * (first + second) + 10 * (second + 1)


def _macs(model: nn.Sequential, size: int) -> int:
    """Multiplications of one sample by weights that are there."""
    first, second, last = (int(model[place].weight.count_nonzero()) for place in (0, 4, 10))  # type: ignore[operator]
    return first * size**2 + second * (size // 2) ** 2 + last


def _seeds(results: Results, task: str, kind: str, density: float) -> list[dict[str, Any]]:
    row = next(r for r in results["rows"] if (r["task"], r["kind"], r["density"]) == (task, kind, density))
    seeds: list[dict[str, Any]] = row["seeds"]
    return seeds


def _accuracy(results: Results, task: str, kind: str, density: float) -> float:
    return mean([one["accuracy"] for one in _seeds(results, task, kind, density)])


def verdicts(results: Results) -> list[Verdict]:
    """Return whether sizes are equal, how sparse compares, and whether the growing network catches up."""
    found: list[Verdict] = []
    for task in TASKS:
        sizes = [
            (one["parameters"], _seeds(results, task, "narrow", d)[0]["parameters"])
            for d in DENSITIES
            for one in _seeds(results, task, "random", d)
        ]
        worst = max(abs(a - b) / b for a, b in sizes)
        found.append((f"{task}: compared at equal parameters, within {100 * WITHIN:.0f} %", worst <= WITHIN,
                      f"largest difference {100 * worst:.2f} %"))  # fmt: skip
        gaps = [_accuracy(results, task, "random", d) - _accuracy(results, task, "narrow", d) for d in DENSITIES]
        seen = ", ".join(f"{d:g}: {100 * gap:+.1f}" for d, gap in zip(DENSITIES, gaps, strict=True))
        what = f"{task}: random-sparse within 1.5 points of the depth multiplier, or above, at every density"
        found.append((what, min(gaps) >= -0.015, seen))
        full, grown = (_accuracy(results, task, kind, 1.0) for kind in ("full", "incremental"))
        found.append((f"{task}: incremental densification catches up with the full network within 0.5 point",
                      grown >= full - 0.005, f"{grown:.4f} against {full:.4f}"))  # fmt: skip
    return found


def tables(results: Results) -> list[Table]:
    """Return accuracy, parameters and MACs of each pair."""
    shown = []
    for task in TASKS:
        rows = []
        for kind, density in [(k, d) for d in DENSITIES for k in ("random", "narrow")] + [
            ("full", 1.0),
            ("incremental", 1.0),
        ]:
            seeds = _seeds(results, task, kind, density)
            values = [one["accuracy"] for one in seeds]
            rows.append([
                kind, f"{density:g}", " - ".join(map(str, seeds[0]["widths"])), f"{seeds[0]['parameters']:,}",
                f"{seeds[0]['macs']:,}", f"{mean(values):.4f} ± {spread(values):.4f}",
                f"{mean([one['seconds'] for one in seeds]):.0f}",
            ])  # fmt: skip
        shown.append(Table(f"{task}, test accuracy, {SEEDS} seeds",
                           ("", "density", "filters", "parameters", "MACs", "accuracy", "seconds"), rows))  # fmt: skip
    published = [["density .01", "287k", "104M", "50.5"], ["depth multiplier .10", "170k", "75M", "36.8"],
                 ["density .10", "2.3M", "628M", "65.4"], ["depth multiplier .30", "1.8M", "439M", "61.65"],
                 ["density .60", "13M", "3.5B", "73.6"], ["depth multiplier .80", "13M", "3.4B", "74.14"]]  # fmt: skip
    columns = ("", "parameters", "MACs", "precision at 1, %")
    shown.append(Table("Published: Inception-V3 on ImageNet", columns, published, frozenset(range(len(published)))))
    return shown


def _draw(results: Results) -> bytes:
    def panels(whole: Any, axes: Sequence[Axes]) -> None:
        for row, what in enumerate(("parameters", "macs")):
            for place, task in enumerate(TASKS):
                axis = axes[2 * row + place]
                for colour, kind in zip(COLOURS, ("random", "narrow"), strict=False):
                    seeds = [_seeds(results, task, kind, d) for d in DENSITIES]
                    axis.errorbar([s[0][what] for s in seeds], [mean([o["accuracy"] for o in s]) for s in seeds],
                                  [spread([o["accuracy"] for o in s]) for s in seeds], fmt="o-", color=colour,
                                  label=kind, capsize=3)  # fmt: skip
                axis.set_xscale("log")
                axis.set_xlabel(what if what == "parameters" else "MACs")
                axis.set_title(task)
        axes[0].set_ylabel("test accuracy")
        axes[0].legend(frameon=False)

    return figure(4, panels, width=4.5)


def notes(results: Results) -> list[str]:
    """Return what the figures mean."""
    gaps = {task: [100 * (_accuracy(results, task, "random", d) - _accuracy(results, task, "narrow", d))
                   for d in DENSITIES] for task in TASKS}  # fmt: skip
    text = "; ".join(f"{task} {', '.join(f'{g:+.1f}' for g in found)}" for task, found in gaps.items())
    return [
        f"Random-sparse minus depth multiplier at equal parameters, densities {', '.join(map(str, DENSITIES))}, in "
        f"points: {text}. The paper's clear wins are on Inception-V3 and VGG-16 at high compression; on MNIST and "
        "CIFAR-10 it speaks of comparable or higher accuracy. The curve is shown whichever way it falls, and MACs "
        "beside it: at equal parameters a sparse network multiplies more, since its filters are many and wide.",
        "The paper's networks end in dense layers that hold most of their parameters and take no part; here a global "
        "mean stands in their place, so that equal parameters means all of the network's. The first convolution, with "
        "one or three input filters, stays whole in the sparse networks and shrinks with the narrow ones.",
        "Narrow widths are those nearest to the multiplier's rounded-up root whose parameters agree. Nothing was "
        "tuned for either side.",
        "The growing network's schedule was chosen after a first run, shorter and with new connections at the values "
        "they were drawn with, in which it did not catch up.",
        f"Incremental: connections start at one of 64, double every {DOUBLE_EVERY} steps, new ones at zero; the "
        f"growing network and the full one beside it train for {GROWN_EPOCHS} epochs, longer than the pairs above, "
        "since the paper compares them where both have converged.",
    ]


RECIPES = (
    Recipe(
        "power-of-sparsity",
        "The power of sparsity: random connections against fewer filters",
        "Changpinyo, Sandler, Zhmoginov, The Power of Sparsity in Convolutional Neural Networks (2017, arXiv "
        "1702.06257).",
        run,
        verdicts,
        tables,
        {"accuracy.png": ("accuracy against parameters and MACs", _draw)},
        notes,
    ),
)
