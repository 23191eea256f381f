"""What a pass holds: the bytes of values for one sample, known from the graph before anything is run.

Values that lie in one memory count once. Where an operator may copy or not (a reshape), the traced strides decide.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from shrinknet.graph.operators import ALIASES, operator_name
from shrinknet.graph.widths import EXAMPLE_BATCH, shape_of, size_of

COPIES_WHERE_STRIDED = frozenset({"reshape", "flatten", "contiguous"})
COPIES_TO_ANOTHER_TYPE = frozenset({"to", "type_as"})
PIECES = "getitem"


@dataclass(frozen=True)
class Held:
    """The bytes that a pass over one sample holds.

    Args:
        nodes: what is run, in order, after the inputs.
        inputs: the inputs.
        kept: what stays to the end: what the network returns.
        aliases: nodes whose value is that of their first argument, beside those that torch's operators say.
    """

    nodes: tuple[Node, ...]
    inputs: tuple[Node, ...]
    kept: tuple[Node, ...]
    aliases: Mapping[Node, Node]

    @cached_property
    def owners(self) -> dict[Node, Node]:
        """For each value of the pass, the one whose memory it lies in."""
        owners = {node: node for node in self.inputs}
        for node in self.nodes:
            given = self.aliases.get(node) or (node.args[0] if _is_view(node) else None)
            owners[node] = owners.get(given, node)  # type: ignore[arg-type]
        return owners

    @cached_property
    def bytes_of(self) -> dict[Node, int]:
        """The bytes for one sample of each value that has memory of its own."""
        return {node: _bytes(node.meta.get("val")) for node, owner in self.owners.items() if owner is node}

    def of(self, nodes: Iterable[Node]) -> int:
        """Return the bytes of some values, each memory once."""
        return sum(self.bytes_of[owner] for owner in {self.owners[node] for node in nodes if node in self.owners})

    @cached_property
    def all(self) -> int:
        """The bytes of every value."""
        return sum(self.bytes_of.values())

    @cached_property
    def while_running(self) -> int:
        """The most that is held at once where each value goes after its last reader."""
        return max(self.live, default=0)

    @cached_property
    def live(self) -> tuple[int, ...]:
        """The bytes that are held while each node runs, where each value goes after its last reader."""
        change = [0] * (len(self.nodes) + 1)
        for owner, (first, last) in self._lives.items():
            change[first] += self.bytes_of[owner]
            change[last + 1] -= self.bytes_of[owner]
        return tuple(accumulate(change[:-1]))

    @cached_property
    def made(self) -> tuple[int, ...]:
        """The bytes that each node adds."""
        return tuple(self.bytes_of.get(node, 0) for node in self.nodes)

    def across(self, place: int) -> Collection[Node]:
        """Return the memories that are made before a place, and read at it or after."""
        return [owner for owner, (first, last) in self._lives.items() if first < place <= last]

    @cached_property
    def _lives(self) -> dict[Node, tuple[int, int]]:
        """Where each memory is made, and where it is last read; inputs are there from the beginning."""
        place = {node: number for number, node in enumerate(self.nodes)}
        lives = {owner: (place.get(owner, 0), place.get(owner, 0)) for owner in self.bytes_of}
        for number, node in enumerate(self.nodes):
            for given in (*node.all_input_nodes, node):
                if (owner := self.owners.get(given)) is not None:
                    lives[owner] = lives[owner][0], number
        for node in self.kept:
            if (owner := self.owners.get(node)) is not None:
                lives[owner] = lives[owner][0], len(self.nodes) - 1
        return lives


def _is_view(node: Node) -> bool:
    """Whether a node's value lies in the memory of its first argument."""
    name = operator_name(node)
    if name == PIECES:
        return True
    if name not in ALIASES or not node.args or not isinstance(node.args[0], Node):
        return False
    given, made = node.args[0].meta.get("val"), node.meta.get("val")
    if not isinstance(given, Tensor) or not isinstance(made, Tensor):
        return False
    if name in COPIES_TO_ANOTHER_TYPE:
        return given.dtype == made.dtype and given.device == made.device
    return name not in COPIES_WHERE_STRIDED or _is_in_order(given)


def _is_in_order(value: Tensor) -> bool:
    """Whether elements lie in memory as they are counted."""
    shape, strides = shape_of(value), [size_of(stride) for stride in value.stride()]
    return all(
        stride == prod(shape[axis + 1 :])
        for axis, (size, stride) in enumerate(zip(shape, strides, strict=True))
        if size > 1
    )


def _bytes(value: Any) -> int:
    """The bytes of a value for one sample; of several, all of them."""
    if isinstance(value, tuple | list):
        return sum(map(_bytes, value))
    if not isinstance(value, Tensor):
        return 0
    has_samples = any(isinstance(size, torch.SymInt) for size in value.shape)
    return prod(shape_of(value)) * value.element_size() // (EXAMPLE_BATCH if has_samples else 1)
