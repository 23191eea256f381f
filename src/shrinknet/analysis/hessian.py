"""Second derivatives of the loss: in the weights as products with a vector, in the gates as a matrix."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from shrinknet.analysis.lanczos import Product
from shrinknet.core.errors import BadInputError
from shrinknet.core.progress import Tell, tell_nobody
from shrinknet.engine.gates import GatedNetwork
from shrinknet.task.data import Data
from shrinknet.task.scoring import Scoring
from shrinknet.task.task import Task
from shrinknet.task.trees import Inputs, call_of

ZERO_ROW = 1e-7


@contextmanager
def exactly() -> Iterator[None]:
    """Products in whole precision, by operators that can be differentiated twice (fused attention and RNNs cannot)."""
    with (
        Scoring().arithmetic(),
        sdpa_kernel(SDPBackend.MATH),
        torch.backends.cudnn.flags(enabled=False, allow_tf32=False),
    ):
        yield


@dataclass(frozen=True, slots=True)
class Weights:
    """The matrices of a network, looked at as one vector; biases and norms stay as they are.

    Raises:
        BadInputError: there is no matrix.
    """

    task: Task

    def __post_init__(self) -> None:
        if not self.matrices:
            kind = type(self.task.model).__name__
            raise BadInputError("model", "a network with a matrix of weights", kind, "Name another.")

    @property
    def matrices(self) -> dict[str, Tensor]:
        """The matrices by their names."""
        named = self.task.model.named_parameters()
        return {name: value for name, value in named if value.dim() > 1 and value.is_floating_point()}

    @property
    def values(self) -> Tensor:
        """All of them, one after another."""
        return torch.cat([value.detach().flatten() for value in self.matrices.values()])

    def split(self, values: Tensor) -> list[Tensor]:
        """Return such a vector as matrices."""
        shapes = [matrix.shape for matrix in self.matrices.values()]
        parts = values.split([shape.numel() for shape in shapes])
        return [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]

    def outputs(self, matrices: Sequence[Tensor], inputs: Inputs) -> Any:
        """Return what the network computes with other matrices in the place of its own."""
        others = {name: value.detach() for name, value in self.task.model.named_parameters()}
        given = others | dict(zip(self.matrices, matrices, strict=True))
        found: Tensor = self.task.loss.read(torch.func.functional_call(self.task.model, given, *call_of(inputs)))
        return found

    def times_hessian(self, vector: Tensor) -> Tensor:
        """Return the Hessian of the mean calibration loss in the matrices, times a vector."""
        task, parts = self.task, self.split(vector)
        leaves = [matrix.detach().clone().requires_grad_() for matrix in self.matrices.values()]
        total = [torch.zeros_like(leaf) for leaf in leaves]
        for batch in task.calibration.batches():
            loss = task.loss.of(self.outputs(leaves, batch.inputs), batch.targets).sum() / len(task.calibration)
            slopes = torch.autograd.grad(loss, leaves, create_graph=True, materialize_grads=True)
            along = sum((slope * part).sum() for slope, part in zip(slopes, parts, strict=True))
            if not (isinstance(along, Tensor) and along.requires_grad):
                continue  # linear in the weights
            for sums, part in zip(total, torch.autograd.grad(along, leaves, materialize_grads=True), strict=True):
                sums += part
        return torch.cat([part.flatten() for part in total]).detach()


def zero_rows(product: Product, values: Tensor, tell: Tell = tell_nobody) -> float:
    """Return the share of weights whose row of the Hessian is zero (its l1 norm below 1e-7), by 100 of them.

    Looked at are the weights at the percentiles of their size.
    """
    order, count = values.abs().argsort(), 0
    for percent in range(100):
        tell("rows of the Hessian", percent / 100)
        unit = torch.zeros_like(values)
        unit[order[percent * len(values) // 100]] = 1
        count += int(float(product(unit).abs().sum()) < ZERO_ROW)
    return count / 100


def gate_hessian(network: GatedNetwork, data: Data) -> Tensor:
    """Return d^2 E / dg_k dg_l at g = 1 for the mean loss and the gates of all K neurons, float64 [K, K].

    Cost: a forward and K backward passes over the rows.
    """
    num = len(network.present)
    total = torch.zeros(num, num, dtype=torch.float64)
    for batch in data.batches():
        gates = torch.ones(1, num, dtype=network.program.dtype, device=batch.device, requires_grad=True)
        with torch.enable_grad():
            outputs = network.program.outputs(batch.inputs, network.gating_by_sample(gates))
            loss = network.loss.of(network.loss.read(outputs), batch.targets).sum() / len(data)
            (slopes,) = torch.autograd.grad(loss, gates, create_graph=True)
            if not slopes.requires_grad:
                continue
            for k in range(num):
                (row,) = torch.autograd.grad(slopes[0, k], gates, retain_graph=True)
                total[k] += row[0].double().cpu()
    return ((total + total.T) / 2)[1:, 1:]  # the first gate is that of elements which are no neuron
