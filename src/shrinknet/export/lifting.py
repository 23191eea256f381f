"""Lifting: 1-D convolutions and pools as 2-D ones of height 1, for runtimes whose small kernels are 2-D only.

A value (N, C, L) becomes (N, C, 1, L) where a 1-D operator reads it, and stays so through all that treats elements,
channels or places alike, until something reads it that needs three axes. Nodes are changed where they stand: names, and
with them what is known of each value, stay. Sums and products are those of the 1-D operators.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Interpreter, Node
from torch.fx.node import map_arg

from shrinknet.export.inference import Answer, forget_unread
from shrinknet.export.lifts import CARRIES, LIFTS, SPELLINGS, Lifting
from shrinknet.graph.call import argument
from shrinknet.graph.operators import is_elementwise, operator_name
from shrinknet.surgery.remove import cut_copy
from shrinknet.task.trees import AnyInputs, of_each, tensors_of

aten = torch.ops.aten

HEIGHT = 2
"""Where the new axis stands: before the places."""

AS_IT_IS, TALLER, TURNED = "as it is", "taller", "turned"
"""How a lifted network takes its rows: (N, C, L) as before; (N, C, 1, L); (N, C, 1, L) where it took (N, L, C)."""

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Lifted:
    """A network whose 1-D operators are 2-D ones.

    Attributes:
        module: the network.
        is_lifted: whether there was anything to lift.
        takes: how it takes its rows.
        is_taller: whether it gives (N, C, 1, L) where the network before gave (N, C, L).
    """

    module: GraphModule
    is_lifted: bool = False
    takes: str = AS_IT_IS
    is_taller: bool = False

    def given(self, inputs: AnyInputs) -> tuple[Tensor, ...]:
        """Return the tensors of inputs as the network takes them."""
        return tuple(self._taken(one) for one in tensors_of(inputs))

    def _taken(self, rows: Tensor) -> Tensor:
        if self.takes == AS_IT_IS or rows.dim() != 3:
            return rows
        return (rows.transpose(1, 2) if self.takes == TURNED else rows).unsqueeze(HEIGHT)

    def around(self, answer: Answer) -> Answer:
        """Return what takes and gives rows as the network before did, made of what answers as the lifted one does."""
        if not self.is_taller:
            return lambda inputs: answer(self.given(inputs))
        return lambda inputs: of_each(answer(self.given(inputs)), lambda given: given.squeeze(HEIGHT))


def lifted(network: GraphModule, inputs: AnyInputs) -> Lifted:
    """Return a network in which 1-D convolutions and pools are 2-D ones of height 1.

    It takes its rows with the new axis where that saves copies in memory, and gives its outputs with it where they have
    it; `Lifted.around` hides both.

    Args:
        network: the network; it stays as it is.
        inputs: a few rows, as the network takes them.

    Cost: a pass over these rows and three walks over the graph, where there is anything to lift.
    """
    if not any(operator_name(node) in LIFTS.keys() | SPELLINGS.keys() for node in network.graph.nodes):
        return Lifted(network)
    shapes = _shapes(network, inputs)
    walks = [_Walk(network, shapes, takes) for takes in (AS_IT_IS, TALLER, TURNED)]
    best = min(walks, key=lambda walk: walk.num_copies)
    forget_unread(best.module)
    return Lifted(best.module, best.is_lifted, best.takes, best.is_taller)


class _Walk(Lifting):
    """One walk over a copy of the graph: `tall` are the nodes whose values have the new axis."""

    def __init__(self, network: GraphModule, shapes: Shapes, takes: str) -> None:
        self.module, self.shapes, self.takes = cut_copy(network, {}), dict(shapes), takes
        self.graph, self.num_copies, self.is_taller = self.module.graph, 0, False
        self.tall: set[Node] = set()
        self._others: dict[Node, Node] = {}
        for node in list(self.graph.nodes):
            self._visit(node)
        self.is_lifted = bool(self.tall)
        self.graph.eliminate_dead_code()
        self.module.recompile()

    def _visit(self, node: Node) -> None:
        if node.op == "placeholder" and self.takes != AS_IT_IS and len(self.shape(node)) == 3:
            self._enter(node)
        if node.op == "output" and self.tall.issuperset(node.all_input_nodes):
            self.is_taller = True
        elif node.op in ("call_function", "output") and not self._is_lifted(node) and not self._is_carried(node):
            node.args, node.kwargs = map_arg(node.args, self.flat), map_arg(node.kwargs, self.flat)

    def _enter(self, node: Node) -> None:
        """Let the input have the new axis; turned, where all that reads it turns it."""
        self.tall.add(node)
        if self.takes == TALLER:
            return
        if not all(_turns(user) for user in node.users):
            self.num_copies = len(self.graph.nodes)  # no way to take the rows
            return
        for user in list(node.users):
            self.shapes[node.name] = self.shapes[user.name]
            user.replace_all_uses_with(node)
            self.graph.erase_node(user)

    def _is_lifted(self, node: Node) -> bool:
        """Write a 1-D operator as a 2-D one, or a 2-D one as its kernel is called; return whether it is written."""
        if node in self.tall:
            return True
        name = operator_name(node)
        if name in SPELLINGS:
            return SPELLINGS[name](self, node)
        return name in LIFTS and len(self.shape(argument(node, 0, "input"))) == 3 and LIFTS[name](self, node)

    def _is_carried(self, node: Node) -> bool:
        """Let a node compute the same on values with the new axis; return whether it does."""
        if node.op == "output" or not self.tall.intersection(node.all_input_nodes):
            return node.op != "output"
        if operator_name(node) in CARRIES:
            return CARRIES[operator_name(node)](self, node)
        return is_elementwise(node) and self._reads_taller(node)

    def _reads_taller(self, node: Node) -> bool:
        """Let an element-wise operator read its values with the new axis: those of one shape, and one number for each
        channel. There are no kernels for others."""
        shape = self.shape(node)
        others = [given for given in node.all_input_nodes if self.shape(given) not in (shape, ())]
        if len(shape) != 3 or not all(_is_of_channels(given, self.shape(given), shape) for given in others):
            return False
        node.args, node.kwargs = map_arg(node.args, self.taller), map_arg(node.kwargs, self.taller)
        self.tall.add(node)
        return True

    def shape(self, node: Node) -> tuple[int, ...]:
        """The shape of a value in the network before."""
        return self.shapes[node.name]

    def taller(self, node: Node) -> Node:
        """Return a value with the new axis; a number needs none."""
        if node in self.tall or not self.shape(node):
            return node
        return self._other(node, self._taller_tensor if node.op == "get_attr" else self._taller_value)

    def _taller_value(self, node: Node) -> list[Node]:
        self.num_copies += 1
        seen = self.graph.call_function(aten.unsqueeze.default, (node, HEIGHT))
        return [seen, self._in_order(seen, torch.channels_last)]

    def _taller_tensor(self, node: Node) -> list[Node]:
        tensor = attrgetter(str(node.target))(self.module).detach()
        tensor = tensor.reshape((1,) * (3 - tensor.dim()) + tensor.shape).unsqueeze(HEIGHT)
        name = f"taller_{str(node.target).replace('.', '_')}"
        self.module.register_parameter(name, nn.Parameter(tensor, False))
        return [self.graph.get_attr(name)]

    def flat(self, node: Node) -> Node:
        """Return a value without the new axis, in the order of its axes: so do other kernels read it."""
        return self._other(node, self._flat_value) if node in self.tall else node

    def _flat_value(self, node: Node) -> list[Node]:
        self.num_copies += 1
        ordered = self._in_order(node, torch.contiguous_format)
        return [ordered, self.graph.call_function(aten.squeeze.dim, (ordered, HEIGHT))]

    def _in_order(self, node: Node, order: torch.memory_format) -> Node:
        return self.graph.call_function(aten.clone.default, (node,), {"memory_format": order})

    def _other(self, node: Node, write: Callable[[Node], list[Node]]) -> Node:
        """A value in its other form, written once behind it."""
        if node not in self._others:
            with self.graph.inserting_after(node):
                *_, self._others[node] = written = write(node)
            for before, after in pairwise(written):
                before.append(after)
        return self._others[node]


def _turns(node: Node) -> bool:
    """Whether a node swaps places and channels."""
    given: Any = node.args[1:]
    if operator_name(node) == "permute":
        return [axis % 3 for axis in given[0]] == [0, 2, 1]
    return operator_name(node) == "transpose" and sorted(axis % 3 for axis in given) == [1, 2]


def _is_of_channels(node: Node, given: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    """Whether a stored tensor holds one number for each channel of a value, or one for all."""
    return node.op == "get_attr" and given[-1] == 1 and math.prod(given) in (1, shape[1])


def _shapes(network: GraphModule, inputs: AnyInputs) -> Shapes:
    """The shape of every value by its node's name; () where there are several."""
    found: dict[str, tuple[int, ...]] = {}

    class Noting(Interpreter):
        def run_node(self, n: Node) -> Any:
            value = super().run_node(n)
            found[n.name] = tuple(value.shape) if isinstance(value, Tensor) else ()
            return value

    with torch.no_grad():
        Noting(network).run(*tensors_of(inputs))
    return found
