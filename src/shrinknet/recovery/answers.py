"""How far a smaller network is from the whole one: in its answers, and in what its layers give on the way."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.fx import Node

from shrinknet.engine.gates import GatedNetwork
from shrinknet.engine.program import PRODUCTS, Program
from shrinknet.graph.operators import operator_name
from shrinknet.surgery.proof import kept_part
from shrinknet.task.losses import Loss
from shrinknet.task.per_sample import divergence_along
from shrinknet.task.trees import AnyInputs, floats_of

NORM = "batch_norm"


@dataclass(frozen=True)
class Teacher:
    """The whole network: what it answers, what its layers give, and how much each varies.

    Attributes:
        network: the masked network, whose neurons that are gone are left out of what layers give.
        program: the whole network.
        layers: the nodes that are compared, by name.
        variances: of what each of them gives; of the answers under "".
    """

    network: GatedNetwork
    program: Program
    layers: Mapping[str, Node]
    variances: Mapping[str, float]

    @classmethod
    def of(cls, network: GatedNetwork, inputs: AnyInputs) -> "Teacher":
        """Look at some rows."""
        given = network.program
        program = Program(given.trace, given.asked_dtype, given.scoring, reads=given.reads)
        layers = {node.name: node for node in layers_of(program)}
        first = cls(network, program, layers, {})
        answers, values = first.says(inputs)
        found = {name: value.var() for name, value in values.items()} | {"": _flat(answers).var()}
        least = torch.finfo(program.dtype).tiny
        return cls(network, program, layers, {name: max(float(one), least) for name, one in found.items()})

    @torch.no_grad()
    def says(self, inputs: AnyInputs) -> tuple[object, dict[str, Tensor]]:
        """Return the answers, and what the layers give as far as the smaller network has it."""
        answers, values = said_by(self.program, self.layers, inputs)
        return answers, {name: kept_part(value, self.network, name) for name, value in values.items()}


def layers_of(program: Program) -> list[Node]:
    """Return what each dense layer and convolution gives, behind the batch norm that alone reads it."""
    products = [node for node in program.nodes if operator_name(node) in PRODUCTS]
    normed = {node: [user for user in node.users if operator_name(user) == NORM] for node in products}
    return [normed[node][0] if len(node.users) == 1 and normed[node] else node for node in products]


def said_by(program: Program, layers: Mapping[str, Node], inputs: AnyInputs) -> tuple[object, dict[str, Tensor]]:
    """Return what the loss is given of a network's outputs, and what some of its nodes give."""
    values = program.run(inputs, None, keep=set(layers.values()))
    return program.judged(values), {name: values[node] for name, node in layers.items()}


def of_answers(loss: Loss, outputs: object, answers: object, variance: float) -> Tensor:
    """Return the mean over rows of the divergence of the answers where the loss compares classes, else of the squared
    difference as a share of the answers' variance."""
    if loss.compares_classes and isinstance(outputs, Tensor) and isinstance(answers, Tensor):
        axis = loss.classes_along(outputs)
        assert axis is not None
        return divergence_along(outputs, answers, axis).mean()
    return (_flat(outputs) - _flat(answers)).square().mean() / variance


def of_layers(given: Mapping[str, Tensor], wanted: Mapping[str, Tensor], variances: Mapping[str, float]) -> Tensor:
    """Return the mean over layers of the squared difference as a share of each one's variance."""
    shares = [(value - wanted[name]).square().mean() / variances[name] for name, value in given.items()]
    return torch.stack(shares).mean()


def _flat(outputs: object) -> Tensor:
    """All numbers of what a network answers."""
    return torch.cat([one.reshape(-1) for one in floats_of(outputs)])
