"""The source paper's MNIST experiments: both networks, both methods, every criterion, beside the published numbers."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from scipy.stats import spearmanr
from torch import Tensor, nn

from shrinknet.api import prune, rank
from shrinknet.core.config import Method
from shrinknet.core.progress import Tell
from shrinknet.criteria.base import Criterion
from shrinknet.recipes import isnn_figures as figures
from shrinknet.recipes.authors_code import AuthorsTaylor
from shrinknet.recipes.base import Recipe, Results, told
from shrinknet.recipes.files import Files
from shrinknet.recipes.mnist import paper_subset
from shrinknet.recipes.training import train_epochs, train_until
from shrinknet.run.run import Run
from shrinknet.task.per_sample import squared_error
from shrinknet.task.task import Task

MOST_EPOCHS = 80
LEARNING_RATE = 0.5
CRITERIA = ("ablation", "taylor-2", "taylor-2-diagonal", "taylor-1")
METHODS: tuple[Method, ...] = ("single-ranking", "reranking")


@dataclass(frozen=True, slots=True)
class Network:
    """One of the paper's networks, and which of its figures show it."""

    name: str
    widths: tuple[int, ...]
    figures: dict[str, int]


NETWORKS = {
    "isnn-mnist-1x100": Network("isnn-mnist-1x100", (100,), {"single-ranking": 3, "reranking": 4}),
    "isnn-mnist-2x50": Network("isnn-mnist-2x50", (50, 50), {"single-ranking": 8, "reranking": 9}),
}


def reproduce(network: Network, source: Files, seed: int, tell: Tell) -> Results:
    """Train the network, run both methods with every criterion, and return every curve.

    Args:
        network: which one.
        source: where MNIST is.
        seed: of the draw of images, the first weights and the order of training.
        tell: who is told what is under way, and which share is done.

    Raises:
        BadInputError: MNIST is not there.
    """
    tell("reading MNIST", 0.0)
    scored, held_out = paper_subset(source.mnist(), seed)
    tell("training", 0.0)
    model, epochs = trained(network, scored, seed)
    task = Task(model, "squared-error", calibration=scored, validation=scored, test=held_out, batch_size=4500)
    jobs = [(method, name, criterion) for method in METHODS for name, criterion in _criteria().items()]
    curves = {
        f"{method}/{name}": _curve(prune(task, criterion, method), len(scored[0]))
        for method, name, criterion in told(tell, jobs, lambda job: f"{job[0]}, {job[1]}")
    }
    return {
        "figures": network.figures,
        "training": {"epochs": epochs, "learning_rate": LEARNING_RATE, "batch_size": 1, "dtype": "float64"},
        "spearman_with_ablation": correlations(task),
        "curves": curves,
    }


def trained(network: Network, rows: tuple[Tensor, Tensor], seed: int) -> tuple[nn.Module, int]:
    """Train by gradient descent on one sample at a time, until error and accuracy are the paper's at its start."""
    torch.manual_seed(seed)
    model = build(network.widths, rows[0].shape[1])
    target = figures.published()[network.name]["start"]["error"]

    def good_enough() -> bool:
        with torch.no_grad():
            outputs = model(rows[0])
            error = float(squared_error(outputs, rows[1]).sum())
            return error <= target and float((outputs.argmax(1) == rows[1]).double().mean()) >= 0.99

    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE)
    epochs = train_epochs(model, squared_error, rows, optimizer, batch_size=1, seed=seed)
    return model, train_until(model, epochs, good_enough, MOST_EPOCHS)


def build(widths: tuple[int, ...], num_inputs: int) -> nn.Module:
    """Return the paper's network: logistic neurons throughout, ten outputs."""
    layers: list[nn.Module] = []
    for width in (*widths, 10):
        layers += [nn.Linear(num_inputs, width), nn.Sigmoid()]
        num_inputs = width
    return nn.Sequential(*layers).double()


def _criteria() -> dict[str, str | Criterion]:
    ours: dict[str, str | Criterion] = {name: name for name in CRITERIA}
    return ours | {f"authors' taylor-{order}": AuthorsTaylor(order) for order in (1, 2)}


def _curve(run: Run, num_samples: int) -> dict[str, Any]:
    """What the figures draw, at every number of neurons removed."""
    return {
        "removed": [step.number for step in run.history],
        "accuracy": [step.measures.metrics["accuracy"] for step in run.history],
        "error": [step.measures.calibration_loss * num_samples for step in run.history],
        "order": [str(neuron) for step in run.history for neuron in step.removed],
    }


def correlations(task: Task) -> dict[str, dict[str, float]]:
    """Return each criterion's rank correlation with ablation on the untouched network, for each group and for all."""
    truth = dict(rank(task, "ablation"))
    groups = sorted({neuron.group for neuron in truth})
    found: dict[str, dict[str, float]] = {}
    for name, criterion in _criteria().items():
        scores = dict(rank(task, criterion))
        found[name] = {}
        for group in (*groups, "all"):
            neurons = [neuron for neuron in truth if group in ("all", neuron.group)]
            correlation = spearmanr([scores[n] for n in neurons], [truth[n] for n in neurons]).statistic
            found[name][group] = round(float(correlation), 4)
    return found


def _recipe(network: Network) -> Recipe:
    pictures = {
        f"figure-{number}.png": ("error and accuracy against neurons removed", partial(figures.draw, method=method))
        for method, number in network.figures.items()
    }
    return Recipe(
        network.name,
        partial(reproduce, network),
        figures.verdicts,
        lambda results: {"seed": results["seed"]},
        pictures,
        figures.tables,
        page_name="isnn-mnist",
    )


RECIPES = tuple(map(_recipe, NETWORKS.values()))
