"""The user's own module, smaller: a copy with sliced tensors and attributes that say so."""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node
from torch.utils._pytree import tree_leaves

from shrinknet.core.errors import FixedWidthError, first_line
from shrinknet.graph.call import argument, windows_of
from shrinknet.graph.lines import line_of
from shrinknet.graph.operators import module_of, operator_name
from shrinknet.graph.places import cut_windows
from shrinknet.graph.trace import Trace
from shrinknet.graph.widths import Present
from shrinknet.surgery.remove import Kept, cut_copy
from shrinknet.task.task import evaluating
from shrinknet.task.trees import Inputs, called

Attributes = dict[str, dict[str, Any]]
"""For each module, by name, the attributes that hold a width, with their new values."""

Changes = Mapping[int, set[int]]
"""What widths became: for an old width, the new ones that it turned into, and itself where it stayed, too."""

Doubt = tuple[str, str]
"""A class and its attribute that may be a width, or a number that by chance is equal to one."""

WIDTHS = {
    "out_features": ("weight", 0), "in_features": ("weight", 1), "nf": ("weight", 1), "nx": ("weight", 0),
    "num_features": ("weight", 0), "num_channels": ("weight", 0), "num_parameters": ("weight", 0),
    "embedding_dim": ("weight", 1), "hidden_size": ("weight_hh_l0", 1), "input_size": ("weight_ih_l0", 1),
}  # fmt: skip
"""Which axis of which tensor of its module an attribute of that name speaks of (nf and nx: transformers' Conv1D)."""

OTHER_WIDTHS = (
    ("num_features", ("running_mean", 0)), ("hidden_size", ("weight_hh", 1)), ("input_size", ("weight_ih", 1)),
    ("hidden_size", ("weight_hr_l0", 1)), ("proj_size", ("weight_hr_l0", 0)),
)  # fmt: skip
"""The same, where modules of another kind call another tensor so (cells of recurrent networks)."""


def cut_module(model: nn.Module, kept: Kept, attributes: Attributes) -> nn.Module:
    """Return a copy of the user's module without the removed neurons; the original is not touched.

    Class, names, modes and hooks are kept; `out_features`, `num_heads` and their like say the new widths.
    """
    smaller = cut_copy(model, kept)
    for name, module in smaller.named_modules():
        for attribute, value in attributes.get(name, {}).items():
            setattr(module, attribute, value)
        if isinstance(module, nn.RNNBase):
            module._flat_weights = [getattr(module, weight) for weight in module._flat_weights_names]
    return smaller


def new_attributes(
    model: nn.Module, trace: Trace, cut: GraphModule, kept: Kept, spared: Collection[Doubt] = ()
) -> Attributes:
    """Return the attributes of a model's modules that hold a width, with the widths that they have in the cut graph.

    Attributes of well-known names say which axis they speak of. Any other is a width where it is equal to a number
    that the module's own code wrote into the graph (a size, a number of heads), and the cut turned that number into
    just one other; unless it is `spared`.
    """
    written, weights = _written_changes(trace, cut), dict(_weight_lengths(trace, kept))
    attributes: Attributes = {}
    for name, module in model.named_modules():
        lengths = {**weights.get(name, {}), **_lengths(name, module, kept)}
        guessed = _guessed(module, written.get(name, {}))
        found = {attribute: new for attribute, new in guessed if (type(module).__name__, attribute) not in spared}
        found |= dict(_named(module, lengths))
        found |= _of_convolution(module, lengths, found.get("groups"))
        found |= _of_attention(name, module, kept)
        found = {attribute: value for attribute, value in found.items() if value != getattr(module, attribute)}
        if found:
            attributes[name] = found
    return attributes


def doubts(model: nn.Module, trace: Trace, cut: GraphModule) -> list[Doubt]:
    """Return the attributes whose number the cut changed in some places and left in others (4 heads of 4 values)."""
    written, found = _written_changes(trace, cut), dict[Doubt, None]()
    for name, module in model.named_modules():
        changes = written.get(name, {})
        for attribute, new in _guessed(module, changes):
            old = getattr(module, attribute)
            if new != old and old in changes.get(old, ()):
                found[type(module).__name__, attribute] = None
    return list(found)


Lengths = Mapping[tuple[str, int], tuple[int, int]]
"""For each tensor of a module and each of its axes: the length before and after."""


def _lengths(name: str, module: nn.Module, kept: Kept) -> Lengths:
    own = {**dict(module.named_parameters(recurse=False)), **dict(module.named_buffers(recurse=False))}
    lengths = {}
    for leaf, tensor in own.items():
        axes = kept.get(f"{name}.{leaf}" if name else leaf, {})
        for axis, length in enumerate(tensor.shape):
            lengths[leaf, axis] = (length, len(axes[axis]) if axis in axes else length)
    return lengths


def _weight_lengths(trace: Trace, kept: Kept) -> Iterator[tuple[str, Lengths]]:
    """Yield, for each module with an operator that takes a weight, the lengths of that weight.

    A weight that is computed (of a mask, a norm, a parametrization) is no tensor of its module: only the graph has it.
    """
    all_there, present = trace.present(), _present(trace, kept)
    for node in trace.nodes:
        names = [argument.name for argument in node.target._schema.arguments] if hasattr(node.target, "_schema") else []
        weight = argument(node, names.index("weight"), "weight") if "weight" in names else None
        if isinstance(weight, Node):
            lengths = zip(trace.shape(weight, all_there), trace.shape(weight, present), strict=True)
            yield module_of(node), {("weight", axis): both for axis, both in enumerate(lengths)}


def _present(trace: Trace, kept: Kept) -> Present:
    """Which neurons are there, as what is kept of the tensors says."""
    present = trace.present()
    for name, axes in kept.items():
        for axis, places in axes.items():
            present[np.delete(trace.tensor_layouts[name][axis], places)] = False  # type: ignore[arg-type]
    return present


def _named(module: nn.Module, lengths: Lengths) -> Iterator[tuple[str, Any]]:
    """Yield the attributes of well-known names, where they say what the tensor they speak of says."""
    for attribute, axis in [*WIDTHS.items(), *OTHER_WIDTHS]:
        before, after = lengths.get(axis, (None, None))
        if after is not None and getattr(module, attribute, None) == before:
            yield attribute, after
    shape = tuple(lengths["weight", axis] for axis in range(len(lengths)) if ("weight", axis) in lengths)
    if shape and getattr(module, "normalized_shape", None) == tuple(before for before, _ in shape):
        yield "normalized_shape", tuple(after for _, after in shape)


def _of_convolution(module: nn.Module, lengths: Lengths, groups: int | None) -> dict[str, int]:
    """A kernel is [out, in / groups, ...], a transposed one [in, out / groups, ...]."""
    if not isinstance(module, nn.modules.conv._ConvNd):
        return {}
    groups = module.groups if groups is None else groups
    one, other = ("in_channels", "out_channels") if module.transposed else ("out_channels", "in_channels")
    return {"groups": groups, one: lengths["weight", 0][1], other: lengths["weight", 1][1] * groups}


def _of_attention(name: str, module: nn.Module, kept: Kept) -> dict[str, int]:
    """Heads keep their width; what they give together is as long as what the module reads.

    torch's own classes read these numbers where no graph shows it.
    """
    if not isinstance(module, nn.MultiheadAttention | nn.Transformer):
        return {}
    reads = "out_proj.weight" if isinstance(module, nn.MultiheadAttention) else "encoder.layers.0.linear1.weight"
    places = kept.get(f"{name}.{reads}" if name else reads, {}).get(1)
    if places is None:
        return {}
    if isinstance(module, nn.Transformer):
        return {"d_model": len(places)}
    return {"embed_dim": len(places), "num_heads": len(places) // module.head_dim}


def _guessed(module: nn.Module, changes: Changes) -> Iterator[tuple[str, Any]]:
    """Yield the attributes whose value is a number that became just one other, and that other."""
    others = {before: after - {before} for before, after in changes.items()}
    only = {before: next(iter(after)) for before, after in others.items() if len(after) == 1}
    for attribute, value in vars(module).items():
        if attribute.startswith("_"):
            continue
        if isinstance(value, tuple) and value and all(_is_width(size) for size in value):
            yield attribute, tuple(only.get(size, size) for size in value)
        elif _is_width(value):
            yield attribute, only.get(value, value)


def _is_width(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _written_changes(trace: Trace, cut: GraphModule) -> dict[str, Changes]:
    """For each module: what became of the whole numbers in its part of the graph."""
    changed: dict[str, dict[int, set[int]]] = defaultdict(lambda: defaultdict(set))
    after = {node.name: node for node in cut.graph.nodes}
    for node in trace.nodes:
        if node.op != "call_function" or after[node.name].target != node.target:
            continue
        if _reads_another(node, after[node.name]):  # windows laid out: how far they step is no width
            continue
        for old, new in zip(_numbers(node), _numbers(after[node.name]), strict=True):
            if _is_width(old) and _is_width(new):
                changed[module_of(node)][old].add(new)
    return {module: dict(widths) for module, widths in changed.items()}


def _reads_another(before: Node, after: Node) -> bool:
    one, other = before.args[:1], after.args[:1]
    return isinstance(one[0] if one else None, Node) and str(one) != str(other)


def _numbers(node: Node) -> list[Any]:
    """The leaves of a node's arguments; of a slice, its length."""
    if operator_name(node) == "slice" and len(node.args) > 3 and all(_is_width(place) for place in node.args[2:4]):
        return [node.args[3] - node.args[2]]  # type: ignore[operator]
    return [leaf for leaf in tree_leaves(list(node.args)) if not isinstance(leaf, Tensor)]


def modules_with_windows(trace: Trace, present: Present) -> list[str]:
    """Return the modules in which a window moves over neurons that are not all there."""
    widths, windows = (
        trace.widths(present),
        {node: windows_of(node) for node in trace.nodes if node.op == "call_function"},
    )
    return sorted({module_of(node) for node, found in windows.items() if cut_windows(node, found, widths)})


def check_own_module(
    smaller: nn.Module, inputs: Inputs, is_right: Callable[[Any], bool], windows: Sequence[str] = ()
) -> None:
    """Check that the user's own code, on the smaller tensors, gives what the cut graph gives.

    Args:
        smaller: the user's module, cut.
        inputs: some rows.
        is_right: whether outputs are what the cut graph gives for them.
        windows: see `modules_with_windows`.

    Raises:
        FixedWidthError: it fails, or runs and differs; the message names the module and the line, and that the
            exported form is there.
    """
    _check_recurrent(smaller)
    entered: list[str] = []
    hooks = [hook for name, module in smaller.named_modules() for hook in _told_of(entered, name, module)]
    with evaluating(smaller), torch.no_grad():
        try:
            outputs = called(smaller, inputs)
        except Exception as error:  # whatever the user's own forward raises at another width
            where = ", ".join(filter(None, [repr(entered[-1]) if entered and entered[-1] else "", line_of(error)]))
            where = f" (in {where})" if entered and entered[-1] else f" ({where})" if where else ""
            raise FixedWidthError(_message(f"fixes a width{where}: {first_line(error)}")) from error
        finally:
            for hook in hooks:
                hook.remove()
    if not is_right(outputs):
        raise FixedWidthError(_message(f"runs at the smaller widths but computes something else{_moved(windows)}"))


def _moved(windows: Sequence[str]) -> str:
    """Say in which modules neurons that were no neighbours have become some."""
    names = ", ".join(repr(name) if name else "the model's own forward" for name in windows)
    return f" (a window moves over neurons that have lost their places, in {names})" if names else ""


def _check_recurrent(smaller: nn.Module) -> None:
    """A recurrent module has one hidden size for all its layers and directions."""
    for name, module in smaller.named_modules():
        if not isinstance(module, nn.RNNBase):
            continue
        shapes = {leaf: getattr(module, leaf).shape for leaf in module._flat_weights_names}
        sizes = [shape[1] for leaf, shape in shapes.items() if leaf.startswith("weight_hh")]
        if len(set(sizes)) > 1:
            what = f"{name!r}, an nn.{type(module).__name__}, has one hidden_size for all its layers and directions"
            raise FixedWidthError(_message(f"fixes a width: {what}, and the cut left {', '.join(map(str, sizes))}"))


def _told_of(entered: list[str], name: str, module: nn.Module) -> Iterator[Any]:
    """Keep the names of the modules that are running, the innermost last."""
    yield module.register_forward_pre_hook(lambda *_: entered.append(name))
    yield module.register_forward_hook(lambda *_: _ended(entered))


def _ended(entered: list[str]) -> None:
    entered.pop()


def _message(what: str) -> str:
    return (
        f"The model's own Python code {what}. "
        f"Use the exported form (run.exported, model.pt2), which is there and proven."
    )
