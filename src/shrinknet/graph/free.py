"""Sizes that stay free, beside the number of samples: the length of a sequence, the sides of an image."""

import inspect
import math
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch._C import DispatchKey
from torch._decomp import decomposition_table
from torch.export import Dim, ExportedProgram
from torch.fx import GraphModule, Interpreter, Node
from torch.utils._pytree import tree_flatten_with_path, tree_unflatten

from shrinknet.core.errors import BadInputError
from shrinknet.core.turns import alone
from shrinknet.graph.rewrite import fake_mode_of
from shrinknet.graph.widths import size_of
from shrinknet.task.trees import AnyInputs, Arguments, bound, tensors_of, with_tensors

Axes = Mapping[str, Iterable[int]]
"""For inputs by their names, the axes whose sizes stay free; a mapping where something is known of their sizes: the
largest, or the least and the largest."""

Free = Mapping[str, Mapping[int, tuple[int, int | None]]]
"""The same, with the least and the largest size that the network takes there (None: there is none)."""


def free_sizes(model: nn.Module, inputs: AnyInputs, free: Axes) -> Any:
    """Say to torch.export which sizes are free: the number of samples, and those of `free`.

    A forward that takes `*args` wants the tensors in a tuple of their own.

    Raises:
        BadInputError: `free` names no input, or an axis that is not there.
    """
    batch = Dim("batch", min=1)
    named, spec = tree_flatten_with_path(bound(model, inputs))
    _check_names(free, {_name(path): leaf for path, leaf in named if isinstance(leaf, Tensor)})
    axes = [
        {0: batch, **_hints(free.get(_name(path), ()))} if isinstance(leaf, Tensor) and leaf.dim() else None
        for path, leaf in named
    ]
    if isinstance(inputs, Arguments):
        return tree_unflatten(axes, spec)
    kinds = [p.kind for p in inspect.signature(model.forward).parameters.values()]
    return (tuple(axes),) if kinds and kinds[0] is inspect.Parameter.VAR_POSITIONAL else tuple(axes)


def _hints(axes: Iterable[int]) -> dict[int, Any]:
    """Axes whose sizes torch.export leaves open, up to the largest where one is known."""
    return {axis: Dim.AUTO if most is None else Dim.AUTO(max=most) for axis, most in _largest(axes).items()}


def _largest(axes: Iterable[int]) -> dict[int, int | None]:
    """Axes, each with the largest size that is known there."""
    known = axes if isinstance(axes, Mapping) else dict.fromkeys(axes)
    return {axis: one[1] if isinstance(one, tuple) else one for axis, one in known.items()}


def _name(path: Sequence[Any]) -> str:
    """What an input is called: by `forward`, and the way to it in there."""
    return "_".join(str(getattr(part, "key", getattr(part, "idx", getattr(part, "name", "")))) for part in path)


def _check_names(free: Axes, inputs: Mapping[str, Tensor]) -> None:
    for name, axes in free.items():
        if name not in inputs:
            raise BadInputError(
                "free", f"of inputs of the network ({', '.join(inputs)})", repr(name), "Name one of these."
            )
        for axis in axes:
            if not 0 < axis < inputs[name].dim():
                allowed = f"axes of {name!r} from 1 to {inputs[name].dim() - 1}"
                raise BadInputError("free", allowed, axis, "Axis 0 counts the samples, and is always free.")
            most, here = _largest(axes).get(axis), inputs[name].shape[axis]
            if most is not None and here > most:
                raise _too_long(name, axis, most, here)


def _too_long(name: str, axis: int, most: int, here: int) -> BadInputError:
    allowed, got = f"at most {most} along axis {axis} of {name!r}", f"rows of {here}"
    return BadInputError("free", allowed, got, "Say the largest size that there is.")


def check_within(module: nn.Module, free: Free, inputs: AnyInputs) -> None:
    """Raise BadInputError where inputs are longer along a free axis than the largest size that was said."""
    for path, leaf in tree_flatten_with_path(bound(module, inputs))[0] if free else ():
        for axis, (_, most) in free.get(_name(path), {}).items():
            if most is not None and leaf.shape[axis] > most:
                raise _too_long(_name(path), axis, most, leaf.shape[axis])


aten: Any = torch.ops.aten

IMPLICIT = (DispatchKey.CompositeImplicitAutograd, DispatchKey.Autograd)

RECURRENT = (aten.lstm.input, aten.gru.input, aten.rnn_tanh.input, aten.rnn_relu.input)


@contextmanager
def steps_left_open(free: Axes) -> Iterator[None]:
    """Let torch.export leave open how many steps a recurrent layer takes, where some size is free.

    Torch knows the sizes of what such a layer gives from running it step by step, which writes their number down. Here
    they are read off what it is given; no layer is computed otherwise than before.
    """
    if not free:
        yield
        return
    with alone():
        before = [(one, decomposition_table[one], dict(one.py_kernels)) for one in RECURRENT]
        try:
            for one in RECURRENT:
                decomposition_table[one] = _sizes_of_recurrent
                one.py_kernels.update(dict.fromkeys(IMPLICIT, _sizes_of_recurrent))
                one._dispatch_cache.clear()
            yield
        finally:
            for one, decomposition, kernels in before:
                decomposition_table[one] = decomposition
                one.py_kernels.clear()
                one.py_kernels.update(kernels)
                one._dispatch_cache.clear()


def _sizes_of_recurrent(
    x: Tensor,
    states: Tensor | Sequence[Tensor],
    weights: Sequence[Tensor],
    has_biases: bool,
    num_layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
) -> tuple[Tensor, ...]:
    """Tensors of the sizes that a recurrent layer gives: its outputs and last states."""
    last = [states] if isinstance(states, Tensor) else states
    width = last[0].shape[-1] * (2 if bidirectional else 1)
    return x.new_empty([*x.shape[:-1], width]), *(torch.empty_like(state) for state in last)


def bounds_of(program: ExportedProgram, model: nn.Module, inputs: AnyInputs, free: Axes) -> Free:
    """Return the least and largest sizes that an exported network takes along its free axes.

    Raises:
        BadInputError: it fixes one.
    """
    if not free:
        return {}
    values = {node.name: node.meta["val"] for node in program.graph.nodes if node.op == "placeholder"}
    names = [_name(path) for path, _ in tree_flatten_with_path(bound(model, inputs))[0]]
    sizes = {
        name: values[given].shape
        for name, given in zip(names, program.graph_signature.user_inputs, strict=True)
        if name in free
    }
    return {
        name: {axis: _bounds(program, name, axis, sizes[name][axis]) for axis in axes} for name, axes in free.items()
    }


def _bounds(program: ExportedProgram, name: str, axis: int, size: Any) -> tuple[int, int | None]:
    if not isinstance(size, torch.SymInt) or size.node.expr.is_number:
        raise BadInputError(
            "free",
            "axes whose size the network leaves open",
            f"axis {axis} of {name!r}, which it fixes at {size}",
            "Name every input of that length, take an example of at least 2 there, and write no size into forward.",
        )
    found = program.range_constraints.get(size.node.expr)
    from torch.utils._sympy.numbers import int_oo  # sympy changes the filters of warnings where it is imported

    lower, upper = (2, int_oo) if found is None else (found.lower, found.upper)
    return max(2, int(lower)), None if upper == int_oo else int(upper)


def values_at_example(module: GraphModule) -> None:
    """Let what is known of each value of a graph speak of the example's sizes; the graph itself stays as it is.

    Only the number of samples stays a symbol.
    """
    mode = fake_mode_of(module.graph)
    inputs = [node for node in module.graph.nodes if node.op == "placeholder"]
    samples = next(str(node.meta["val"].shape[0]) for node in inputs if isinstance(node.meta["val"], Tensor))
    constants = {str(node.target): node.meta["val"] for node in module.graph.nodes if node.op == "get_attr"}

    class Noting(Interpreter):
        def run_node(self, n: Node) -> Any:
            value = constants[str(n.target)] if n.op == "get_attr" else super().run_node(n)
            if n.op != "output":
                n.meta["val"] = value
            return value

        def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
            return super().call_function(_sizes_of_recurrent if target in RECURRENT else target, args, kwargs)

    def at_example(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        sizes = [size if str(size) == samples else size_of(size) for size in value.shape]
        return torch.empty(sizes, dtype=value.dtype, device=value.device)

    with mode, torch.no_grad():
        Noting(module).run(*[at_example(node.meta["val"]) for node in inputs], enable_io_processing=False)


def other_sizes(
    module: nn.Module, free: Free, inputs: AnyInputs, times: Sequence[float] = (2.0, 0.5)
) -> Iterator[AnyInputs]:
    """Yield the same rows with free axes twice and half as long, as far as the network takes that."""
    if not free:
        return
    named = tree_flatten_with_path(bound(module, inputs))[0]
    bounds = [free.get(_name(path), {}) for path, leaf in named if isinstance(leaf, Tensor)]
    tensors = tensors_of(inputs)
    for one_time in times:
        changed = [_resized(one, axes, one_time) for one, axes in zip(tensors, bounds, strict=True)]
        if [one.shape for one in changed] != [one.shape for one in tensors]:
            yield with_tensors(inputs, changed)


def _resized(tensor: Tensor, bounds: Mapping[int, tuple[int, int | None]], times: float) -> Tensor:
    """A tensor with other lengths along some axes."""
    for axis, (least, most) in bounds.items():
        size = int(min(tensor.shape[axis] * times, sys.maxsize))
        tensor = _as_long(tensor, axis, max(least, min(size, most or size)))
    return tensor


LARGEST = math.inf
"""So many times as long is as long as there is."""


def at_example_sizes(module: GraphModule, inputs: AnyInputs) -> AnyInputs:
    """Return the same rows with the example's sizes, of which all that is known of the values of a graph speaks."""
    known = [node.meta["val"] for node in module.graph.nodes if node.op == "placeholder"]
    values = [value for value in known if isinstance(value, Tensor)]
    resized = []
    for tensor, value in zip(tensors_of(inputs), values, strict=True):
        for axis, size in enumerate(value.shape[1:], 1):
            if isinstance(size, int) and size != tensor.shape[axis]:
                tensor = _as_long(tensor, axis, size)
        resized.append(tensor)
    found: AnyInputs = with_tensors(inputs, resized)
    return found


def _as_long(tensor: Tensor, axis: int, size: int) -> Tensor:
    """A tensor of another length along an axis: what is there stands there again, or is left out."""
    return tensor.index_select(axis, torch.arange(size, device=tensor.device) % tensor.shape[axis])
