"""Unit-OBS: how much what readers give must change when a neuron goes and the others make up for it."""

import torch
from torch import Tensor

from shrinknet.compensation.least_squares import with_ones
from shrinknet.compensation.readers import Reader, readers
from shrinknet.criteria.base import Criterion, Statistics, Sums, mean_over_samples
from shrinknet.engine.gates import GatedNetwork
from shrinknet.task.data import Batch

RIDGE = 1e-3
"""A share of the mean square of what is read, as `compensate` takes."""


class UnitOBS(Criterion):
    """`L_Q = trace W_Q ([H^-1]_QQ)^-1 W_Q^T` over a neuron's readers: the rise of their squared error at its best.

    Q are the columns of a reader's weights W that read the neuron, `H = mean x x^T + r I` over what the reader reads (a
    constant among it). That is Optimal Brain Surgeon (Hassibi and Stork 1993) for all weights of a unit at once
    (Stahlberger and Riedmiller 1997), layer by layer: one inverse for each reader. With H = I it is the squared norm of
    the outgoing weights. Outputs that are gone do not count. Its update of the other weights is
    `compensate="least-squares"`; use them together.

    Neurons that are read by something else than dense layers and convolutions cost what their other readers say.

    Cost: one forward pass, a product [columns, columns] for each batch and an inverse for each reader.
    """

    name = "unit-obs"
    unit = "squared change of what readers give"

    def __init__(self, ridge: float = RIDGE) -> None:
        self.ridge = ridge

    def observe(self, network: GatedNetwork, batch: Batch) -> Statistics:
        """Return, for each reader, the sum of x x^T over samples and positions."""
        read = network.values_read(batch.inputs)
        grams = {}
        for reader in _products(network):
            rows = with_ones(reader.read(read[reader.site])).double()
            grams[reader.node.name] = rows.T @ rows
        return grams

    def conclude(self, network: GatedNetwork, sums: Sums) -> Statistics:
        """Score every neuron from the moments of what its readers read."""
        grams = mean_over_samples(sums)
        totals = torch.zeros(len(network.present), dtype=torch.float64)
        for reader in _products(network):
            totals += self._of_reader(network, reader, grams[reader.node.name])
        return network.by_group(totals)

    def _of_reader(self, network: GatedNetwork, reader: Reader, gram: Tensor) -> Tensor:
        present = torch.from_numpy(network.present)
        columns = reader.matrix(network.program.constants).cpu()[present[_outputs(network, reader)]]
        owners = reader.owners.cpu()
        alive = torch.cat([present[owners], torch.tensor([True])]).nonzero()[:, 0]
        totals = torch.zeros(len(present), dtype=torch.float64)
        if not bool(gram.diagonal()[:-1].any()):  # it reads nothing but zeros
            return totals
        gram = gram[alive][:, alive]
        held = torch.full((len(alive),), self.ridge * float(gram.diagonal()[:-1].mean()), dtype=torch.float64)
        held[-1] = 0  # the constant is not held
        inverse = torch.linalg.inv(gram + torch.diag(held))
        owners = owners[alive[:-1]]
        for neuron in owners.unique().tolist():
            own = (owners == neuron).nonzero()[:, 0]
            gone = columns[:, alive[own]]
            totals[neuron] = (gone @ torch.linalg.solve(inverse[own][:, own], gone.T)).trace()
        return totals


def _products(network: GatedNetwork) -> list[Reader]:
    """Dense layers and convolutions whose channels all see each other."""
    program = network.program
    return [reader for reader in readers(program) if program.is_product(reader.node, reader.site)]


def _outputs(network: GatedNetwork, reader: Reader) -> Tensor:
    """The neuron id of each of a reader's outputs (0: never removed)."""
    ids = network.trace.layouts.get(reader.weight.name, (None,))[0]
    num_outputs = reader.weight.meta["val"].shape[0]
    return torch.zeros(num_outputs, dtype=torch.int64) if ids is None else torch.from_numpy(ids)
