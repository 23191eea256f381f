"""From zeros to a plan: which whole neurons masks have made superfluous."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from shrinknet.core.errors import BadInputError
from shrinknet.core.records import Group, Neuron, Plan, Slice
from shrinknet.engine.gates import GatedNetwork
from shrinknet.engine.program import Program
from shrinknet.graph.call import windows_of
from shrinknet.graph.operators import operator_name
from shrinknet.task.trees import Inputs

WEIGHING = {"linear", "conv1d", "conv2d", "conv3d", "lstm", "gru", "rnn_tanh", "rnn_relu"}
"""Operators that read a neuron through weights alone: where those are zero, they read nothing."""


def to_plan(network: GatedNetwork, example_inputs: Inputs | None = None) -> Plan:
    """Return the plan that removes every neuron whose weights are such that its removal changes no output.

    A neuron is superfluous where

    - all weights that read it are zero, and nothing else reads it (no statistics over neurons, no product of
      activations); or
    - all parameters that write it are zero (weights, biases, norms) and what is read of it is 0.

    What such a neuron reads and writes is then superfluous too, and so on until nothing more follows. One neuron of
    each group stays. A constant that is not 0 stays: only its readers' biases could take it over.

    Args:
        network: the gated network of the model with its zeros in place (`Sparsifier.finish`).
        example_inputs: what the network is run on; random numbers where it takes one tensor and they are left out.

    Raises:
        BadInputError: the network takes more, and they are left out.

    Cost: one look at every parameter for each round; one pass over two samples.

    >>> import shrinknet as sn
    >>> from shrinknet.engine.gates import gated
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2))
    >>> with torch.no_grad():
    ...     _ = model[2].weight[:, 1].zero_()
    >>> task = sn.Task(model, "cross-entropy", (torch.randn(8, 4), torch.arange(8) % 2))
    >>> [str(neuron) for neuron in to_plan(gated(task)).removed]
    ['0[1]']
    """
    tensors = {name: tensor.detach().clone() for name, tensor in network.trace.tensors.items()}
    weighed = network.by_group(only_weighed(network.program))
    removed: list[Neuron] = []
    while True:
        quiet = _quiet(network, removed, example_inputs)
        found = []
        for group in network.groups:
            unread, unwritten = _all_zero(group, tensors, "reads"), _all_zero(group, tensors, "writes")
            superfluous = (unread & weighed[group.name]) | (unwritten & quiet[group.name])
            gone = {neuron.index for neuron in removed if neuron.group == group.name}
            new = [int(k) for k in superfluous.nonzero()[:, 0] if int(k) not in gone]
            room = group.width - 1 - len(gone)
            found += [Neuron(group.name, index) for index in new[:room]]
        if not found:
            return Plan(tuple(removed), ())
        removed += found
        for neuron in found:
            _clear(network, tensors, neuron)


def _all_zero(group: Group, tensors: Mapping[str, Tensor], role: str) -> Tensor:
    """Which neurons have nothing but zeros in all parameters of that role; none where there is no such parameter."""
    parts = [part for part in group.slices if part.role == role and not _is_statistic(part)]
    return (sizes_in(group, tensors, parts) == 0) & bool(parts)


def sizes_in(group: Group, tensors: Mapping[str, Tensor], parts: Sequence[Slice]) -> Tensor:
    """Return, for each neuron of a group, the sum of all absolute elements that it has in some parameters."""
    sizes = torch.zeros(group.width, dtype=torch.float64)
    for part in parts:
        owners = torch.tensor(part.owners)
        slices = tensors[part.parameter].detach().double().abs().movedim(part.axis, 0).cpu()
        along = slices.reshape(len(slices), -1).sum(1)
        sizes.index_add_(0, owners[owners >= 0], along[owners >= 0])
    return sizes


def _is_statistic(part: Slice) -> bool:
    """Running statistics of norms: they scale what a neuron's weights gave, and write nothing where those are zero."""
    return part.parameter.endswith(("running_mean", "running_var"))


def only_weighed(program: Program) -> Tensor:
    """Return, for each neuron id, whether nothing but weights reads it."""
    fine = torch.ones(program.trace.num_neurons + 1, dtype=torch.bool)
    nodes = {node.name: node for node in program.nodes}
    for site, ids in program.ids.items():
        node = nodes[site.node]
        if operator_name(node) not in WEIGHING or site.axis in windows_of(node):  # a window weighs places, not neurons
            fine[ids.cpu()] = False
    return fine


def _quiet(network: GatedNetwork, removed: list[Neuron], example_inputs: Inputs | None) -> dict[str, Tensor]:
    """Of which neurons nothing but 0 is read."""
    sizes = torch.zeros(len(network.present), dtype=torch.float64)
    takes_one = len(network.program.inputs) == 1
    inputs = _drawn(network) if takes_one or example_inputs is None else example_inputs
    for site, value in network.without(removed).values_read(inputs).items():
        largest = value.abs().movedim(site.axis, 0).flatten(1).amax(1).double().cpu()
        sizes.index_add_(0, network.program.ids[site].cpu(), largest)
    return network.by_group(sizes == 0)


def _drawn(network: GatedNetwork) -> Tensor:
    """Two samples of random numbers, or of zeros where a network takes whole ones."""
    if len(network.program.inputs) > 1:
        got = f"nothing for a network that takes {len(network.program.inputs)}"
        raise BadInputError(
            "example_inputs", "two rows of what the network takes", got, "Give those of the task, task.example_inputs."
        )
    shape = network.program.input.meta["val"].shape
    generator = torch.Generator().manual_seed(0)
    example = torch.randn((2, *(int(size) for size in shape[1:])), generator=generator)
    kind = network.program.input.meta["val"].dtype
    drawn = example.to(kind) if kind.is_floating_point else torch.zeros_like(example, dtype=kind)
    return drawn.to(network.program.device)


def _clear(network: GatedNetwork, tensors: dict[str, Tensor], neuron: Neuron) -> None:
    """What a removed neuron reads and is read by counts no more."""
    group = next(group for group in network.groups if group.name == neuron.group)
    for part in group.slices:
        own = torch.tensor(part.owners) == neuron.index
        places = own.nonzero()[:, 0].to(tensors[part.parameter].device)
        tensors[part.parameter].index_fill_(part.axis, places, 0)
