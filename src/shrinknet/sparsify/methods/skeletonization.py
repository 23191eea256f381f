"""Skeletonization: train, trim the least relevant neuron, train on (Mozer and Smolensky 1989)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from shrinknet.core.records import Neuron
from shrinknet.criteria.base import Criterion, find_criterion
from shrinknet.engine.gates import gated
from shrinknet.graph.trace import named_tensors
from shrinknet.sparsify.removal import NeuronRemoval
from shrinknet.task.task import Task


class Skeletonization(NeuronRemoval):
    """Every so many steps of training the least relevant neuron goes, by any criterion (see `removal.NeuronRemoval`).

    The paper's loop is: train, compute the relevance of every unit, remove the least relevant one, train on. With
    `criterion="skeletonization"` relevance is the paper's, the slope of the linear error in the attentional strength;
    any other criterion may stand in its place, ablation too: this is pruning with retraining between removals.

    Args:
        task: the network that is trained, its loss, and the calibration rows that scores see.
        criterion: the name of a criterion, or one of your own.
        every, count, only: see `NeuronRemoval`.

    Raises:
        BadInputError: an unknown criterion; no neuron can go.

    Cost: for each removal one ranking of all neurons on the calibration rows.
    """

    name = "skeletonization"

    def __init__(
        self,
        task: Task,
        *,
        criterion: str | Criterion = "skeletonization",
        every: int = 100,
        count: int | None = None,
        only: str | Sequence[str] = (),
        seed: int = 0,
    ) -> None:
        super().__init__(task.model, task.example_inputs, every=every, count=count, only=only, seed=seed)
        self.task, self.criterion = task, find_criterion(criterion, seed)
        self.network = gated(task)
        self.criterion.check(self.network, task.calibration)

    def scores(self) -> dict[str, Tensor]:
        """Return what each neuron is worth now, with the weights as they now are."""
        tensors = {name: tensor.detach().clone() for name, tensor in named_tensors(self.model).items()}
        gone = [Neuron(name, int(k)) for name in self.widths for k in (~self.tensors[f"alive/{name}"]).nonzero()]
        found = self.criterion.score(self.network.refit(tensors).without(gone), self.task.calibration)
        return {name: torch.from_numpy(found.values[name]) for name in self.widths}
