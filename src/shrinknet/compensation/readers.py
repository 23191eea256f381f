"""Readers: the products with weights of their own by which operators read neurons, as matrices."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from torch.fx import Node
from torch.nn import functional

from shrinknet.engine.program import Program
from shrinknet.graph.call import Site, argument, argument_at, windows_of
from shrinknet.graph.operators import operator_name
from shrinknet.graph.rules.conv import FORWARD, TRANSPOSED, num_groups
from shrinknet.graph.rules.recurrent import NUM_GATES
from shrinknet.graph.widths import EXAMPLE_BATCH, shape_of

DENSE = "linear"

PRODUCTS = {"addmm": (2, 0), "mm": (1, None), "matmul": (1, None)}
"""Products with a matrix [columns, outputs], a dense layer turned round: where it stands, and where its bias does."""


@dataclass(frozen=True, eq=False)
class Reader:
    """A product whose weights nothing else uses, here a dense layer: y = x W^T + b, a row for each sample and position.

    Attributes:
        node: the operator that it is a product in.
        site: where that operator reads neurons.
        weight: the node of the weights.
        bias: the node of what is added to the products, if there is one.
        owners: the neuron id of each column of W, laid out as [outputs, columns].
    """

    node: Node
    site: Site
    weight: Node
    bias: Node | None
    owners: Tensor

    is_dense = True
    """Whether every position of a sample is a row like any other, not one of the overlapping patches of an image."""

    gives_value = True
    """Whether y is what the operator gives, or some channels of it."""

    def reads(self, values: Mapping[Node, Any], untouched: Mapping[Node, Any]) -> Tensor:
        """Return what is read, given the values of a network and of the untouched one."""
        return values[argument_at(self.node.args, self.site.argument)]  # type: ignore[no-any-return]

    def gives(self, untouched: Mapping[Node, Any]) -> Tensor:
        """Return what it gave in the untouched network."""
        return untouched[self.node]  # type: ignore[no-any-return]

    def read(self, x: Tensor) -> Tensor:
        """Lay out what is read as rows [samples x positions, columns]."""
        return x.flatten(0, -2)

    def given(self, y: Tensor) -> Tensor:
        """Lay out what it gives as rows [samples x positions, outputs]."""
        return y.flatten(0, -2)

    def matrix(self, values: Mapping[Node, Any]) -> Tensor:
        """Return [outputs, columns + 1] in float64: the weights, and the bias (or 0) as the last column."""
        columns = self.columns(values[self.weight])
        last = columns.new_zeros(len(columns)) if self.bias is None else self.own_part(values[self.bias])
        return torch.cat([columns, last[:, None]], 1).double()

    def columns(self, weight: Tensor) -> Tensor:
        """Return the weights as [outputs, columns]."""
        return weight.flatten(1)

    def weights_of(self, columns: Tensor, weight: Tensor) -> Tensor:
        """Return the weights, of which those of this reader are given as [outputs, columns]."""
        return columns

    def own_part(self, bias: Tensor) -> Tensor:
        """Return what is added to this reader's outputs."""
        return bias

    def bias_of(self, part: Tensor, bias: Tensor) -> Tensor:
        """Return the biases, of which those of this reader are given."""
        return part

    @property
    def num_outputs(self) -> int:
        """How many outputs a row has."""
        return self.shape_of_weight[0]

    @property
    def shape_of_weight(self) -> tuple[int, ...]:
        """The traced shape of its weights."""
        return shape_of(self.weight.meta["val"])

    @property
    def num_positions(self) -> int:
        """How many rows one sample makes, at the sizes that the graph was traced with."""
        return math.prod(shape_of(self.node.meta["val"])[:-1]) // EXAMPLE_BATCH

    @property
    def num_apart(self) -> int:
        """How many of these rows are no overlapping patches of the same image."""
        return self.num_positions if self.is_dense else 1


@dataclass(frozen=True, eq=False)
class Product(Reader):
    """A dense layer whose weights lie the other way round: y = x W + b."""

    def columns(self, weight: Tensor) -> Tensor:
        """Return the weights as [outputs, columns]."""
        return weight.T

    def weights_of(self, columns: Tensor, weight: Tensor) -> Tensor:
        """Return the weights, which are given as [outputs, columns]."""
        return columns.T.contiguous()

    @property
    def num_outputs(self) -> int:
        """How many outputs a row has."""
        return self.shape_of_weight[1]


@dataclass(frozen=True, eq=False)
class Convolution(Reader):
    """One group of a convolution, plain or transposed: its columns are channels times places of the kernel."""

    group: int = 0

    is_dense = False

    @property
    def num_groups(self) -> int:
        """How many groups its convolution has."""
        return num_groups(self.node)

    @property
    def is_transposed(self) -> bool:
        """Whether the convolution is a transposed one: its weights are [in, out / groups, ...]."""
        return operator_name(self.node) in TRANSPOSED

    def read(self, x: Tensor) -> Tensor:
        """Lay out the patches as rows: the convolution itself, with kernels that take one place of one channel each."""
        x, kernel = self._own(x, 1), self.shape_of_weight[2:]
        places = torch.eye(math.prod(kernel), dtype=x.dtype, device=x.device).unflatten(1, kernel)
        lone = places.expand(x.shape[1], *places.shape)
        if not self.is_transposed:
            lone = lone.flatten(0, 1)[:, None]
        if x.dim() == 4:
            x = x.contiguous(memory_format=torch.channels_last)
        named = ((3, "stride"), (4, "padding"), (7 if self.is_transposed else 5, "dilation"), (5, "output_padding"))
        how = {name: argument(self.node, place, name) for place, name in named[: 3 + self.is_transposed]}
        how = {name: value for name, value in how.items() if value is not None}
        return self._rows(cast(Any, self.node.target)(x, lone, None, groups=x.shape[1], **how))

    def given(self, y: Tensor) -> Tensor:
        """Lay out what the group gives as rows."""
        return self._rows(self._own(y, 1))

    def columns(self, weight: Tensor) -> Tensor:
        """Return the group's kernels as [outputs, channels x places]."""
        own = self._own(weight)
        return (own.transpose(0, 1) if self.is_transposed else own).flatten(1)

    def weights_of(self, columns: Tensor, weight: Tensor) -> Tensor:
        """Return all kernels, with these in the group's place."""
        own = self._own(weight)
        if self.is_transposed:
            return self._put(columns.view(own.transpose(0, 1).shape).transpose(0, 1), weight)
        return self._put(columns.view(own.shape), weight)

    def own_part(self, bias: Tensor) -> Tensor:
        """Return the biases of the group's channels."""
        return self._own(bias)

    def bias_of(self, part: Tensor, bias: Tensor) -> Tensor:
        """Return all biases, with these in the group's place."""
        return self._put(part, bias)

    @property
    def num_outputs(self) -> int:
        """How many channels the group gives."""
        first, second = self.shape_of_weight[:2]
        return second if self.is_transposed else first // self.num_groups

    @property
    def num_positions(self) -> int:
        """How many patches one sample makes."""
        return math.prod(shape_of(self.node.meta["val"])[2:])

    def _own(self, value: Tensor, axis: int = 0) -> Tensor:
        return value.chunk(self.num_groups, axis)[self.group]

    def _put(self, part: Tensor, whole: Tensor) -> Tensor:
        parts = list(whole.chunk(self.num_groups))
        parts[self.group] = part.to(whole.dtype)
        return torch.cat(parts)

    def _rows(self, y: Tensor) -> Tensor:
        return y.flatten(2).transpose(1, 2).flatten(0, 1)


@dataclass(frozen=True, eq=False)
class Recurrent(Reader):
    """What the gates of a recurrent layer read: its inputs, or its own states one step before.

    They are two readers, with weights and a bias each. States are those of the untouched network: the new ones would
    follow from what is being fit.
    """

    gives_value = False

    @property
    def reads_states(self) -> bool:
        """Whether it is the layer's own states that are read."""
        return self.site.argument != (0,)

    def reads(self, values: Mapping[Node, Any], untouched: Mapping[Node, Any]) -> Tensor:
        """Return the inputs, or the states before each step, samples first."""
        if not self.reads_states:
            return self._samples_first(values[cast(Node, self.node.args[0])])
        first = self.node.args[1][0] if isinstance(self.node.args[1], list | tuple) else self.node.args[1]
        outputs = self._samples_first(untouched[self.node][0])
        return torch.cat([untouched[cast(Node, first)].transpose(0, 1), outputs[:, :-1]], 1)

    def gives(self, untouched: Mapping[Node, Any]) -> Tensor:
        """Return what it added to the gates in the untouched network."""
        bias = None if self.bias is None else untouched[self.bias]
        return functional.linear(self.reads(untouched, untouched), untouched[self.weight], bias)

    @property
    def num_positions(self) -> int:
        """How many steps one sample has."""
        shape = shape_of(self.node.meta["val"][0])
        return shape[1 if self._has_samples_first else 0]

    @property
    def _has_samples_first(self) -> bool:
        return bool(self.node.args[-1])

    def _samples_first(self, value: Tensor) -> Tensor:
        return value if self._has_samples_first else value.transpose(0, 1)


def readers(program: Program) -> list[Reader]:
    """Return every reader of neurons that can be refit, in the order of the graph.

    They are dense layers, convolutions of any kind (one reader a group), and what recurrent layers read of their inputs
    and of themselves. Left out are weights that two nodes share, projections inside an LSTM, and everything that mixes
    neurons in another way (attention itself, statistics over neurons).
    """
    return [
        reader
        for node in program.nodes
        for site in program.sites.get(node.name, ())
        for reader in _readers_at(program, node, site)
        if all(is_own(program, one) for one in (reader.weight, reader.bias) if one is not None)
    ]


def _readers_at(program: Program, node: Node, site: Site) -> Sequence[Reader]:
    name, owners = operator_name(node), program.ids[site]
    if name in NUM_GATES and site.argument in ((0,), (2, 1)):
        weights = cast(Sequence[Node], node.args[2])
        place = 0 if site.argument == (0,) else 1
        bias = weights[2 + place] if len(weights) > 3 else None
        return [Recurrent(node, site, weights[place], bias, owners)]
    if name in PRODUCTS and not node.kwargs:
        weight_at, bias_at = PRODUCTS[name]
        weight, bias = cast(Node, node.args[weight_at]), None if bias_at is None else cast(Node, node.args[bias_at])
        is_read = site.argument == (weight_at - 1,)
        is_matrix = weight in program.constants and shape_of(weight.meta["val"])[:-1] == (len(owners),)
        is_vector = bias is None or len(shape_of(bias.meta["val"])) == 1
        return [Product(node, site, weight, bias, owners)] if is_read and is_matrix and is_vector else []
    if site.argument != (0,):
        return []
    weight, bias = argument(node, 1, "weight"), argument(node, 2, "bias")
    if name == DENSE and program.is_product(node, site):
        return [Reader(node, site, weight, bias, owners)]
    if name in (*FORWARD, *TRANSPOSED) and site.axis == 1 and site.axis not in windows_of(node):
        per_neuron = math.prod(weight.meta["val"].shape[2:])
        by_group = [own.repeat_interleave(per_neuron) for own in owners.chunk(num_groups(node))]
        return [Convolution(node, site, weight, bias, own, group) for group, own in enumerate(by_group)]
    return []


def not_refit(program: Program) -> list[Node]:
    """Return every operator that reads neurons with weights of its own, and keeps these whatever goes."""
    known, constants = {reader.site for reader in readers(program)}, program.constants
    read = (node for node in program.nodes if not known.issuperset(program.sites.get(node.name, ())))
    made = set(constants)
    for node in program.nodes:
        if node.all_input_nodes and made.issuperset(node.all_input_nodes):
            made.add(node)  # weights that are computed, or turned round
    return [n for n in read if n not in made and any(one in made and _is_matrix(one) for one in n.all_input_nodes)]


def _is_matrix(node: Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, Tensor) and value.dim() > 1


def downstream(nodes: Iterable[Node]) -> set[Node]:
    """Return every operator that what some nodes give can change."""
    found, waiting = set[Node](), list(nodes)
    while waiting:
        for user in waiting.pop().users:
            if user.op == "call_function" and user not in found:
                found.add(user)
                waiting.append(user)
    return found


def is_own(program: Program, constant: Node) -> bool:
    """Whether a constant is read by one node only, under whatever name."""
    if constant not in program.constants:
        return False
    uses = Counter(value for node, value in program.constants.items() for _ in node.users)
    return uses[program.constants[constant]] == 1
