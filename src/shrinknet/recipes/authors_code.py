"""The two Taylor scores as the authors' program computed them: a reader sees where the published curves come from.

Not what the paper's formulas say. In the program (i) the output's second derivative is sigma''(x) alone; (ii) the
slope it stores is dE/dx, and it stands where the formulas need dE/do; (iii) neurons are taken in *descending* order
of the predicted change, among those whose predicted change is at most the median in size. For networks of dense
layers with logistic neurons and squared error only; drawn in the recipe, offered nowhere else.
"""

from typing import Any

import numpy as np
import torch
from torch.fx import Node

from shrinknet.criteria.base import Criterion, Statistics, Sums, mean_over_samples
from shrinknet.engine.gates import GatedNetwork
from shrinknet.task.data import Batch


class AuthorsTaylor(Criterion):
    """The authors' score of the given order (1 or 2), turned round so that their choice is the lowest."""

    name = "authors"
    unit = "none"

    def __init__(self, order: int) -> None:
        self.order = order

    def observe(self, network: GatedNetwork, batch: Batch) -> Statistics:
        """Return the summed predicted changes of the error."""
        program = network.program
        values = program.run(batch.inputs, network.gating(), keep=True)
        chain = _dense_chain(network)
        out = values[program.output]
        targets = torch.nn.functional.one_hot(batch.targets, out.shape[1]).to(out.dtype)
        slope = (out - targets) * out * (1 - out)
        curvature = out * (1 - out) * (1 - 2 * out)  # (i): sigma'' alone
        totals = torch.zeros(len(network.present), dtype=torch.float64)
        for dense in chain:
            weight = values[dense.args[1]]  # type: ignore[index]
            (site,) = program.sites.get(dense.name, (None,))
            if site is None:
                break
            o = values[program.source(site)] * network.factor(site, values[program.source(site)])
            first, second = slope @ weight, curvature @ weight.square()
            d1, d2 = o * (1 - o), o * (1 - o) * (1 - 2 * o)
            slope = first * d1  # (ii): dE/dx, and it is used where dE/do should be
            predicted = -o * slope
            if self.order == 2:
                predicted = predicted + o.square() * (second * d1.square() + slope * d2) / 2
            curvature = second * d1.square() + slope * d2
            totals.index_add_(0, program.ids[site], predicted.sum(0))
        return network.by_group(totals)

    def conclude(self, network: GatedNetwork, sums: Sums) -> Statistics:
        """(iii): descending among those of at most the median size; the others follow, descending."""
        means = mean_over_samples(sums)
        everything = np.abs(np.concatenate([mean[mean != 0].numpy() for mean in means.values()]))
        limit = np.sort(everything)[len(everything) // 2]
        worst = float(everything.max())
        return {name: torch.where(mean.abs() <= limit, -mean, 4 * worst - mean) for name, mean in means.items()}


def _dense_chain(network: GatedNetwork) -> list[Node]:
    """The dense layers, from the output backwards."""
    nodes: list[Any] = [node for node in network.program.nodes if "linear" in str(node.target)]
    return nodes[::-1]
