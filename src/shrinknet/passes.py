"""Forward passes that are kept from one ranking to the next: after a removal only what depends on it runs again."""

from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.fx import Node

from shrinknet.folding import folded
from shrinknet.graph.widths import Present
from shrinknet.program import Gating, Program

Values = dict[Node, Any]


class Passes:
    """The values of every node of one program, for as many batches as a bound of memory holds.

    A node's value is a function of what it reads, so that a pass that was brought up to date has the same bits as a new
    one; that is why nothing is ever updated by a difference.

    Args:
        program: the program that is run, in its faster form.
        memory: how many bytes of values are kept at most; the passes of other batches are run anew each time.
    """

    def __init__(self, program: Program, memory: int) -> None:
        self.free, self._given = memory, program
        self._kept: dict[int, tuple[Tensor, Present, Values]] = {}

    def moved_to(self, program: Program) -> "Passes":
        """Return the passes of a program that differs in some of its constants; what was kept goes along."""
        moved = Passes(program, self.free)
        moved._kept, self._kept = self._kept, {}
        return moved

    @cached_property
    def program(self) -> Program:
        """The program whose values are kept."""
        return folded(self._given)

    def values(self, inputs: Tensor, present: Present, gating: Gating | None) -> Values:
        """Return the values of every node of a masked network on some inputs.

        Cost: a forward pass the first time; then the nodes downstream of the gates that changed since.
        """
        if id(inputs) in self._kept:
            _, before, values = self._kept[id(inputs)]
            values = self._brought_up_to_date(values, before, present, gating)
            self._kept[id(inputs)] = (inputs, present, values)
            return values
        values = self.program.run(inputs, gating, keep=True)
        size = self._bytes(values)
        if size <= self.free:
            self.free -= size
            self._kept[id(inputs)] = (inputs, present, values)  # the inputs too: their id is theirs while they live
        return values

    def outputs(self, inputs: Tensor, present: Present, gating: Gating | None) -> Tensor:
        """Return the output of a masked network on some inputs."""
        if self.free or self._kept:
            return self.values(inputs, present, gating)[self.program.output]  # type: ignore[no-any-return]
        return self.program.outputs(inputs, gating)  # type: ignore[no-any-return]

    def _brought_up_to_date(self, values: Values, before: Present, present: Present, gating: Gating | None) -> Values:
        changed = np.flatnonzero(before != present)
        constants = self.program.constants
        behind = {node for node, value in constants.items() if value is not values[node]}
        if not len(changed) and not behind:
            return values
        ids = torch.from_numpy(changed)
        values = {**values, **constants}
        for node in self.program.nodes:
            sites = self.program.sites.get(node.name, ())
            reads = any(bool(torch.isin(self.program.ids[site].cpu(), ids).any()) for site in sites)
            if reads or not behind.isdisjoint(self.program.given(node)):
                values[node] = self.program.call(node, values, gating)
                behind.add(node)
        return values

    def _bytes(self, values: Values) -> int:
        """The memory of values: each storage once, where several nodes share it, and no constants."""
        tensors = [value for node, value in values.items() if isinstance(value, Tensor)]
        own = [value.untyped_storage() for value in tensors]
        constants = {
            value.untyped_storage().data_ptr() for value in self.program.constants.values() if isinstance(value, Tensor)
        }
        return sum({one.data_ptr(): one.nbytes() for one in own if one.data_ptr() not in constants}.values())
