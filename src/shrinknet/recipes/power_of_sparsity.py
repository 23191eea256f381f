"""The Power of Sparsity in Convolutional Neural Networks, on its two-convolution networks."""

import time
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from shrinknet.core.progress import Tell
from shrinknet.recipes.base import Recipe, Results, Row, Verdict, mean, spread, told, where
from shrinknet.recipes.files import Files, Rows
from shrinknet.recipes.nets import shifted, split
from shrinknet.recipes.training import Course
from shrinknet.report.pictures import COLOURS, legend, png, sheet
from shrinknet.sparsify.methods.power_of_sparsity import RandomConnections, depth_multiplier
from shrinknet.sparsify.schedules import cosine
from shrinknet.sparsify.training import accuracy

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

PAIRS = [(kind, density) for density in DENSITIES for kind in ("random", "narrow")]
WHOLE = [(kind, 1.0) for kind in ("full", "incremental")]


def network(channels: int, first: int, second: int) -> nn.Sequential:
    """Return two 5 x 5 convolutions with batch norm and pooling, a global mean, and the classifier."""
    return nn.Sequential(
        *_convolution(channels, first),
        *_convolution(first, second),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(second, 10)),
    )


def _convolution(before: int, after: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(before, after, 5, padding=2, bias=False), nn.BatchNorm2d(after), nn.ReLU(), nn.MaxPool2d(2)


def measure(source: Files, seed: int, tell: Tell) -> Results:
    """Train random-sparse networks, narrow ones of as many parameters, the full one, and one that grows into it."""
    tell("reading", 0.0)
    data = {"CIFAR-10": source.cifar10_rows(), "MNIST": source.mnist_rows()}
    rows = {task: [split(train, NUM_ROWS)[0], _cropped(test, SIZE[task])] for task, (train, test) in data.items()}
    jobs = [(task, *one) for ones in (PAIRS, WHOLE) for task in TASKS for one in ones]
    jobs_of_seeds = [(*job, number) for job in jobs for number in range(SEEDS)]
    found = list[Row]()
    for task, kind, density, number in told(tell, jobs_of_seeds, lambda job: f"{job[0]}, {job[1]} {job[2]:g}"):
        if number == 0:
            found.append({"task": task, "kind": kind, "density": density, "seeds": []})
        found[-1]["seeds"].append(_one(task, kind, density, rows[task], seed * 100 + number))
    facts = {
        "epochs": EPOCHS,
        "batch": BATCH,
        "rows": NUM_ROWS,
        "optimizer": f"Adam {RATE}, cosine",
        "seeds": SEEDS,
        "doubling every": DOUBLE_EVERY,
        "epochs, full and growing": GROWN_EPOCHS,
        "first density": FIRST_DENSITY,
    }
    return {"rows": found, "training": facts}


def _cropped(rows: Rows, size: int) -> Rows:
    edge = (rows[0].shape[-1] - size) // 2
    return rows[0][..., edge : edge + size, edge : edge + size].contiguous(), rows[1]


def augmented(images: Tensor, generator: torch.Generator) -> Tensor:
    """Return one random 24 x 24 window of a batch of CIFAR images, half of the batches mirrored."""
    return shifted(images, 24, generator)


def _adam(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=RATE)


COURSES = {
    "CIFAR-10": Course(optimizer=_adam, batch=BATCH, rate=cosine, augment=augmented),
    "MNIST": Course(optimizer=_adam, batch=BATCH, rate=cosine),
}


def _one(task: str, kind: str, density: float, rows: list[Rows], seed: int) -> Row:
    started = time.perf_counter()
    torch.manual_seed(seed)
    channels, first, second = FILTERS[task]
    if kind == "narrow":
        first, second = narrow_widths(task, _num_parameters(task, density))
    model = network(channels, first, second)
    grows = kind == "incremental"
    sparsifier = None
    if kind == "random" or grows:
        start, every = (FIRST_DENSITY, DOUBLE_EVERY) if grows else (density, 0)
        sparsifier = RandomConnections(model, start, every=every, new="zero", layers="4.weight", seed=seed)
    epochs = GROWN_EPOCHS if kind in {"full", "incremental"} else EPOCHS[task]
    COURSES[task].train(model, rows[0], epochs, seed, sparsifier)
    if sparsifier is not None:
        _check_alive(model)
    return {
        "accuracy": round(accuracy(model, rows[1]), 5),
        "parameters": sum(int(parameter.count_nonzero()) for parameter in model.parameters()),
        "macs": _macs(model, SIZE[task]),
        "widths": [first, second],
        "seconds": round(time.perf_counter() - started, 1),
    }


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


def _seeds(results: Results, task: str, kind: str, density: float) -> list[Row]:
    seeds: list[Row] = where(results["rows"], task=task, kind=kind, density=density)[0]["seeds"]
    return seeds


def _accuracy(results: Results, task: str, kind: str, density: float) -> float:
    return mean([one["accuracy"] for one in _seeds(results, task, kind, density)])


def _gaps(results: Results, task: str) -> list[float]:
    """How far random-sparse networks lie above narrow ones, at each density."""
    return [_accuracy(results, task, "random", d) - _accuracy(results, task, "narrow", d) for d in DENSITIES]


def verdicts(results: Results) -> list[Verdict]:
    """Return whether sizes are equal, how sparse compares, and whether the growing network catches up."""
    found: list[Verdict] = []
    for task in TASKS:
        narrow = {density: _seeds(results, task, "narrow", density)[0]["parameters"] for density in DENSITIES}
        sizes = [(one["parameters"], narrow[d]) for d in DENSITIES for one in _seeds(results, task, "random", d)]
        worst = max(abs(a - b) / b for a, b in sizes)
        what = f"{task}: compared at equal parameters, within {100 * WITHIN:.0f} %"
        found.append((what, worst <= WITHIN, f"largest difference {100 * worst:.2f} %"))
        gaps = _gaps(results, task)
        seen = ", ".join(f"{d:g}: {100 * gap:+.1f}" for d, gap in zip(DENSITIES, gaps, strict=True))
        what = f"{task}: random-sparse within 1.5 points of the depth multiplier, or above, at every density"
        found.append((what, min(gaps) >= -0.015, seen))
        full, grown = (_accuracy(results, task, kind, density) for kind, density in WHOLE)
        what = f"{task}: incremental densification catches up with the full network within 0.5 point"
        found.append((what, grown >= full - 0.005, f"{grown:.4f} against {full:.4f}"))
    return found


def draw(results: Results) -> bytes:
    """Draw accuracy against parameters and MACs, for each task."""
    whole, axes = sheet(4, width=4.5)
    places = [(what, task) for what in ("parameters", "macs") for task in TASKS]
    for axis, (what, task) in zip(axes, places, strict=True):
        for colour, kind in zip(COLOURS, ("random", "narrow"), strict=False):
            found = [_summary(_seeds(results, task, kind, d)) for d in DENSITIES]
            x, y, widths = ([one[name] for one in found] for name in (what, "mean", "spread"))
            axis.errorbar(x, y, widths, fmt="o-", color=colour, label=kind, capsize=3)
        axis.set(xscale="log", xlabel=what if what == "parameters" else "MACs", title=task)
    axes[0].set_ylabel("test accuracy")
    legend(axes[0], size=None)
    return png(whole)


def _summary(seeds: list[Row]) -> Row:
    """What one kind of network gives over its seeds; sizes are those of the first."""
    values, seconds = ([one[name] for one in seeds] for name in ("accuracy", "seconds"))
    return {**seeds[0], "mean": mean(values), "spread": spread(values), "seconds": mean(seconds)}


def figures(results: Results) -> dict[str, Any]:
    """Return accuracy, parameters and MACs of each pair, and what the notes say of them."""
    rows = {
        task: [{"kind": k, "density": d, **_summary(_seeds(results, task, k, d))} for k, d in PAIRS + WHOLE]
        for task in TASKS
    }
    gaps = {task: ", ".join(f"{100 * gap:+.1f}" for gap in _gaps(results, task)) for task in TASKS}
    return {
        **rows,
        "num_seeds": SEEDS,
        "densities": ", ".join(map(str, DENSITIES)),
        "gaps": "; ".join(f"{task} {text}" for task, text in gaps.items()),
        "double_every": DOUBLE_EVERY,
        "grown_epochs": GROWN_EPOCHS,
    }


PICTURES = {"accuracy.png": ("accuracy against parameters and MACs", draw)}
RECIPES = (Recipe("power-of-sparsity", measure, verdicts, figures, PICTURES),)
