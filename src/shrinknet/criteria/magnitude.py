"""Magnitude: the size of the weights that produce a neuron."""

import torch

from shrinknet.core.records import Group
from shrinknet.criteria.base import Criterion, Statistics, Sums
from shrinknet.engine.gates import GatedNetwork, shaped_along


class Magnitude(Criterion):
    """`||w_k||_2` over the weights that produce neuron k (matrices and kernels; no biases, no norm parameters).

    Weights that read neurons which are gone do not count: they are gone too.

    Not in loss units: it says nothing of what a removal costs (Li et al. 2017 rank filters so, with the 1-norm).

    Cost: no pass over the data.
    """

    name = "magnitude"
    unit = "weight norm"

    def conclude(self, network: GatedNetwork, sums: Sums) -> Statistics:
        """Return the norms of the producing weights."""
        return {group.name: _norms(network, group) for group in network.groups}


def _norms(network: GatedNetwork, group: Group) -> torch.Tensor:
    squares = torch.zeros(group.width, dtype=torch.float64)
    tensors = network.trace.tensors
    for part in group.slices:
        tensor = tensors[part.parameter]
        if part.role != "writes" or tensor.dim() < 2:
            continue
        there = _where_there(network, part.parameter, tensor.detach().double().cpu())
        sizes = there.movedim(part.axis, 0).flatten(1).square().sum(1)
        owners = torch.tensor(part.owners)
        squares.index_add_(0, owners[owners >= 0], sizes[owners >= 0])
    return squares.sqrt()


def _where_there(network: GatedNetwork, parameter: str, weights: torch.Tensor) -> torch.Tensor:
    """The weights, 0 where a neuron that they belong to is gone."""
    for axis, ids in enumerate(network.trace.tensor_layouts[parameter]):
        if ids is not None and not network.present[ids].all():
            weights = weights * shaped_along(torch.from_numpy(network.present[ids]), axis, weights.dim())
    return weights
