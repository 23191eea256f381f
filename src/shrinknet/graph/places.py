"""Places that the graph itself names: those that an operator picks, and those that neurons had before others went.

A window that moves over neurons reads each together with those at the places beside it. Where one is gone it reads 0,
and the others keep their places: in the cut graph its elements are laid out for it, each window behind the one before.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node
from torch.fx.node import map_arg

from shrinknet.graph.widths import Widths, shape_of

aten = torch.ops.aten


def constant(node: Any) -> Tensor | None:
    """Return the value of a node that depends on no input and on no chance; None for any other."""
    if not isinstance(node, Node) or node.op == "placeholder":
        return None
    if node.op == "get_attr":
        value = attrgetter(str(node.target))(node.graph.owning_module)
        return value if isinstance(value, Tensor) else None
    is_random = torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())
    known = {given: constant(given) for given in node.all_input_nodes}
    if is_random or node.op != "call_function" or any(value is None for value in known.values()):
        return None
    args, kwargs = map_arg((node.args, node.kwargs), known.__getitem__)
    value = node.target(*args, **kwargs)  # type: ignore[operator]
    return value if isinstance(value, Tensor) else None


def whole_numbers(node: Any) -> list[int] | None:
    """Return the places that an index picks, where it is one list of them that never changes."""
    shape = getattr(node.meta.get("val"), "shape", ()) if isinstance(node, Node) else ()
    value = constant(node) if len(shape) == 1 else None
    is_index = value is not None and not (value.is_floating_point() or value.dtype == torch.bool)
    return value.tolist() if value is not None and is_index else None


def written(before: Node, places: Sequence[int]) -> Node:
    """Return a new constant of the graph that holds some places, in front of a node."""
    module, name = before.graph.owning_module, f"{before.name}_places"
    assert module is not None
    while hasattr(module, name):
        name += "_"
    setattr(module, name, torch.tensor(list(places), dtype=torch.int64, device=before.meta["val"].device))
    with before.graph.inserting_before(before):  # as torch.export keeps constants: no buffer, so that no file has it
        return before.graph.create_node("get_attr", name)


def pick(node: Node, x: Node, axis: int, places: Sequence[int]) -> None:
    """Turn a node into the one that picks these places of an axis of x."""
    node.args, node.kwargs = (x, axis % len(shape_of(x.meta["val"])), written(node, places)), {}
    node.target = aten.index_select.default


@dataclass(frozen=True, slots=True)
class Window:
    """A window of so many places that moves along one axis, from `padding` places in front of the first on."""

    size: int
    step: int
    padding: int = 0
    dilation: int = 1

    def at(self, output: int) -> range:
        """Return the places that one output reads; those beside the axis hold 0.

        >>> list(Window(size=3, step=1, padding=1).at(0))
        [-1, 0, 1]
        """
        first = output * self.step - self.padding
        return range(first, first + self.size * self.dilation, self.dilation)


def each(given: int | Sequence[int], count: int) -> list[int]:
    """Return a number for each of some axes, where the graph may write down one for all.

    >>> each([3], 2), each([1, 2], 2)
    ([3, 3], [1, 2])
    """
    values = [given] if isinstance(given, int) else list(given)
    return values * count if len(values) == 1 else values


Windows = Mapping[int, Window]
"""The window that an operator moves along each of some axes, which its output has too."""


def cut_windows(node: Node, windows: Windows, widths: Widths) -> Windows:
    """Return the windows whose neurons, or whose outputs, are not all there any more."""
    both: list[Node] = [node, *node.args[:1]] if windows else []  # type: ignore[list-item]
    return {axis: one for axis, one in windows.items() if any(widths.is_cut(value, axis) for value in both)}


def lay_out(node: Node, windows: Windows, widths: Widths) -> Windows:
    """Let a node read its cut windows one behind the other, zeros for who is gone.

    Returns:
        The node's windows as they are now, cut ones a whole window apart; none where nothing is cut.
    """
    x: Node = node.args[0]  # type: ignore[assignment]
    rank, laid, cut = len(shape_of(x.meta["val"])), x, cut_windows(node, windows, widths)
    for axis, window in cut.items():
        now = {place: position for position, place in enumerate(widths.kept(x, axis))}
        places = [now.get(place, len(now)) for output in widths.kept(node, axis) for place in window.at(output)]
        with node.graph.inserting_before(node):
            ends = [0, 0] * (rank - 1 - axis) + [0, 1]
            ended = node.graph.call_function(aten.constant_pad_nd.default, (laid, ends))
            laid = node.graph.call_function(aten.index_select.default, (ended, axis, written(node, places)))
        ended.meta = laid.meta = {"nn_module_stack": node.meta.get("nn_module_stack", {})}
    node.update_arg(0, laid)
    return {**windows, **{axis: Window(one.size, one.size) for axis, one in cut.items()}} if cut else {}


def laid_out_shapes(
    node: Node, windows: Windows, widths: Widths, shape: Callable[[Node], tuple[int, ...]]
) -> list[tuple[int, ...]]:
    """Return the shapes of the values that `lay_out` makes, each of the one before, in front of a node."""
    shapes = list[tuple[int, ...]]()
    for axis, window in cut_windows(node, windows, widths).items():
        last = shapes[-1] if shapes else shape(node.args[0])  # type: ignore[arg-type]
        shapes.append((*last[:axis], last[axis] + 1, *last[axis + 1 :]))
        shapes.append((*last[:axis], window.size * widths.of(node, axis), *last[axis + 1 :]))
    return shapes
