"""Forward passes that are kept from one ranking to the next: after a removal only what depends on it runs again."""

from collections.abc import Callable, Collection, Hashable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any
from weakref import ReferenceType, WeakKeyDictionary, ref

from torch import Tensor
from torch.fx import Node

from shrinknet.engine.folding import folded
from shrinknet.engine.program import Gating, Program
from shrinknet.graph.widths import Present
from shrinknet.task.data import Batch, Origin
from shrinknet.task.trees import Inputs, same

Values = dict[Node, Any]


class Layouts:
    """Values of one batch laid out anew, each for as long as it is what it was: a ranking changes few of them."""

    def __init__(self) -> None:
        self._made: dict[Hashable, tuple[ReferenceType[Tensor], Tensor]] = {}

    def of(self, name: Hashable, value: Tensor, lay_out: Callable[[Tensor], Tensor]) -> Tensor:
        """Return the value of that name laid out anew."""
        if name not in self._made or self._made[name][0]() is not value:
            self._made[name] = ref(value), lay_out(value)
        return self._made[name][1]


@dataclass(frozen=True, slots=True)
class Kept:
    """One pass: the rows, the gates, what came of them, the memory that it takes, and what was laid out anew."""

    inputs: Inputs
    present: Present
    values: Values
    num_bytes: int
    layouts: Layouts = field(default_factory=Layouts)


class Passes:
    """The values of every node of one program, for as many batches as a bound of memory holds.

    A node's value is a function of what it reads, so that a pass that was brought up to date has the same bits as a new
    one; that is why nothing is ever updated by a difference. A pass is found by the origin and number of its batch, and
    counts only while its rows are the same: a data set may draw them anew each time. It is freed with their origin.

    Args:
        program: the program that is run, in its faster form.
        memory: how many bytes of values are kept at most; the passes of other batches are run anew each time.
    """

    def __init__(self, program: Program, memory: int) -> None:
        self.memory, self._given = memory, program
        self.loops: dict[Hashable, Callable[..., Tensor]] = {}  # see `closed_form.fused`
        self._kept: WeakKeyDictionary[Origin, dict[int, Kept]] = WeakKeyDictionary()

    def moved_to(self, program: Program) -> "Passes":
        """Return the passes of a program that differs in some of its constants; what was kept goes along."""
        moved = Passes(program, self.memory)
        moved.loops = self.loops
        moved._kept, self._kept = self._kept, moved._kept
        return moved

    @cached_property
    def program(self) -> Program:
        """The program whose values are kept."""
        return folded(self._given)

    @property
    def free(self) -> int:
        """How many bytes more may be kept."""
        return self.memory - sum(kept.num_bytes for passes in self._kept.values() for kept in passes.values())

    def values(
        self, batch: Batch, present: Present, gating: Gating | None, reads: bool | Collection[Node] = True
    ) -> Values:
        """Return the values of a masked network on the inputs of a batch: of every node, or at least of those read.

        Cost: a forward pass the first time; then the nodes downstream of the gates that changed since.
        """
        kept = self._found(batch)
        if kept is not None:
            values = self._brought_up_to_date(kept.values, kept.present, present, gating)
            self._keep(batch, replace(kept, present=present, values=values))
            return values
        if self.program.held.all * len(batch) > self.free:
            return self.program.run(batch.inputs, gating, keep=reads)
        values = self.program.run(batch.inputs, gating, keep=True)
        self._keep(batch, Kept(batch.inputs, present, values, self._bytes(values)))
        return values

    def outputs(self, batch: Batch, present: Present, gating: Gating | None) -> Any:
        """Return what a masked network returns on the inputs of a batch."""
        return self.program.result(self.values(batch, present, gating, reads=()))

    def layouts(self, batch: Batch) -> Layouts:
        """Return what is laid out anew of a batch's pass, for as long as that is kept."""
        kept = self._found(batch)
        return Layouts() if kept is None else kept.layouts

    def _keep(self, batch: Batch, kept: Kept) -> None:
        self._kept.setdefault(batch.origin, {})[batch.number] = kept

    def _found(self, batch: Batch) -> Kept | None:
        """The pass that was kept of a batch; one of other rows is dropped."""
        kept = self._kept.get(batch.origin, {}).get(batch.number)
        if kept is None or kept.inputs is batch.inputs or same(kept.inputs, batch.inputs):
            return kept
        del self._kept[batch.origin][batch.number]
        return None

    def _brought_up_to_date(self, values: Values, before: Present, present: Present, gating: Gating | None) -> Values:
        changed = before != present
        constants = self.program.constants
        behind = {node for node, value in constants.items() if value is not values[node]}
        if not changed.any() and not behind:
            return values
        values = {**values, **constants}
        for node in self.program.nodes:
            sites = self.program.sites.get(node.name, ())
            reads = any(changed[self.program.numbers[site]].any() for site in sites)
            if reads or not behind.isdisjoint(self.program.given(node)):
                values[node] = self.program.call(node, values, gating)
                behind.add(node)
        return values

    def _bytes(self, values: Values) -> int:
        """The memory of values: each storage once, where nodes share it; no constants; of inputs, these rows."""
        tensors = [value for node, value in values.items() if isinstance(value, Tensor)]
        own = [value.untyped_storage() for value in tensors]
        constants = {
            value.untyped_storage().data_ptr() for value in self.program.constants.values() if isinstance(value, Tensor)
        }
        sizes = {one.data_ptr(): one.nbytes() for one in own if one.data_ptr() not in constants}
        rows = {values[node].untyped_storage().data_ptr(): values[node].nbytes for node in self.program.inputs}
        return sum({**sizes, **rows}.values())
