"""Convolutions, plain, grouped, depthwise and transposed, in one to three dimensions."""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.fx import Node

from shrinknet.graph.call import Call, argument, macs, resize, rule, windows
from shrinknet.graph.labels import Slots, along, varying
from shrinknet.graph.operators import operator_name
from shrinknet.graph.places import Window, Windows, each, lay_out
from shrinknet.graph.widths import Widths, shape_of

FORWARD = ("conv1d", "conv2d", "conv3d")
TRANSPOSED = ("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
GROUPS_ARGUMENT = 6


@rule(*FORWARD)
def convolution(call: Call) -> Slots:
    """The kernel [out, in / groups, ...]: its first axis writes channels, its second reads them."""
    return _convolve(call, writes=0, reads=1)


@rule(*TRANSPOSED)
def transposed(call: Call) -> Slots:
    """The kernel [in, out / groups, ...]: its first axis reads channels, its second writes them."""
    return _convolve(call, writes=1, reads=0)


def _convolve(call: Call, writes: int, reads: int) -> Slots:
    x, kernel, bias, groups = call.argument(0), call.argument(1), call.argument(2, "bias"), num_groups(call.node)
    if x.meta["val"].dim() != kernel.meta["val"].dim():
        call.freeze(call.slots(x) + call.slots(kernel), f"no samples axis at {call.where}")
        return ()
    positions = _along_positions(call, x, kernel)
    channels, axes = call.vector_along(x, 1), [call.vector_along(kernel, axis) for axis in (0, 1)]
    if (read := axes[reads]) is not None:
        call.store.mark_read(read)
    in_width, out_width = shape_of(x.meta["val"])[1] // groups, call.shape[1] // groups
    num_places = sum(width for width in (in_width, out_width) if width > 1)  # one place alone is never removed
    if channels is not None and 1 < groups >= num_places:
        out: Tensor | None = _whole_groups(call, channels, axes, groups, out_width)
    else:
        out = _same_places(call, channels, axes[reads], axes[writes], groups)
    if out is not None and bias is not None:
        out = call.unite_all(out, call.vector_along(bias, 0))
    return positions if out is None else (along(1, out, call.shape), *positions)


def num_groups(node: Node) -> int:
    """Return how many groups of channels a convolution keeps apart (1 for any operator without them)."""
    return int(argument(node, GROUPS_ARGUMENT, "groups", 1))


def _along_positions(call: Call, x: Node, kernel: Node) -> Slots:
    """Positions and kernel offsets stay; where positions are neurons, the kernel is a window that moves over them."""
    found = list[Tensor]()
    for slot in call.slots(x):
        axes = varying(slot)
        if min(axes, default=0) >= 2 and len(axes) == 1 and operator_name(call.node) in FORWARD:
            found += call.window(slot)
        elif min(axes, default=0) >= 2:
            call.freeze((slot,), f"positions of {call.where}")
    for slot in call.slots(kernel):
        if min(varying(slot), default=0) >= 2:
            call.freeze((slot,), f"kernel offsets of {call.where}")
    return tuple(found)


def _same_places(
    call: Call, channels: Tensor | None, reads: Tensor | None, writes: Tensor | None, groups: int
) -> Tensor | None:
    """Neurons are the same places in every group (one group: plain neurons), and are mixed inside it."""
    reads, writes = (
        _repeated(labels, width) for labels, width in ((reads, _in_channels(call)), (writes, call.shape[1]))
    )
    for labels in (channels, reads, writes):
        if labels is not None and groups > 1:
            call.unite(labels.view(groups, -1), labels.view(groups, -1)[:1])
    if call.unite_all(channels, reads, how="reads") is not None:
        call.gate(0, 1)
    return writes


def _in_channels(call: Call) -> int:
    return shape_of(call.argument(0).meta["val"])[1]


def _repeated(labels: Tensor | None, width: int) -> Tensor | None:
    return None if labels is None else labels.repeat(width // len(labels))


def _whole_groups(call: Call, channels: Tensor, axes: list[Tensor | None], groups: int, out_width: int) -> Tensor:
    """Neurons are whole groups, passed through (depthwise: channels): where that leaves more than same places do."""
    owner = channels.view(groups, -1)[:, :1]
    call.unite(channels.view(groups, -1), owner)
    if axes[0] is not None:
        call.unite(axes[0].view(groups, -1), owner)
    if axes[1] is not None:
        call.freeze((axes[1],), f"channel groups go as a whole at {call.where}")
    return owner.expand(groups, out_width).reshape(-1)


@windows(*FORWARD)
def windows_of_kernel(node: Node) -> Windows:
    """One along each axis of positions; none where the padding is not the same at both ends."""
    kernel: Node = node.args[1]  # type: ignore[assignment]
    sizes = shape_of(kernel.meta["val"])[2:]
    if len(shape_of(node.meta["val"])) != 2 + len(sizes):  # no samples axis
        return {}
    steps, dilations = (each(argument(node, *given), len(sizes)) for given in ((3, "stride", 1), (5, "dilation", 1)))
    padding = argument(node, 4, "padding", 0)
    if isinstance(padding, str):
        wider = [
            dilation * (size - 1) if padding == "same" else 0 for size, dilation in zip(sizes, dilations, strict=True)
        ]
        padding = [amount // 2 for amount in wider]
        if any(amount % 2 for amount in wider):
            return {}
    given = zip(sizes, steps, each(padding, len(sizes)), dilations, strict=True)
    return {2 + place: Window(*one) for place, one in enumerate(given)}


@resize(*FORWARD, *TRANSPOSED)
def resize_groups(node: Node, widths: Widths) -> None:
    """Whole groups that are gone make the number of groups smaller; windows over neurons are laid out."""
    x, kernel = node.args[0], node.args[1]
    over = widths.of(node, 1) if "transpose" in str(node.target) else widths.of(x, 1)  # type: ignore[arg-type]
    if num_groups(node) > 1:
        node.update_arg(GROUPS_ARGUMENT, over // widths.of(kernel, 1))  # type: ignore[arg-type]
    if operator_name(node) in FORWARD and (now := lay_out(node, windows_of_kernel(node), widths)):
        steps, padding, dilations = (
            [getattr(one, name) for one in now.values()] for name in ("step", "padding", "dilation")
        )
        node.args, node.kwargs = (
            (*node.args[:2], argument(node, 2, "bias"), steps, padding, dilations, num_groups(node)),
            {},
        )
        node.target = getattr(torch.ops.aten, operator_name(node)).default


@macs(*FORWARD)
def forward_macs(node: Node, shape: Callable[[Node], tuple[int, ...]]) -> int:
    """Each output element takes as many as there are weights behind it."""
    return math.prod(shape(node)) * math.prod(shape(node.args[1])[1:])  # type: ignore[arg-type]


@macs(*TRANSPOSED)
def transposed_macs(node: Node, shape: Callable[[Node], tuple[int, ...]]) -> int:
    """Each input element takes as many as there are weights in front of it."""
    return math.prod(shape(node.args[0])) * math.prod(shape(node.args[1])[1:])  # type: ignore[arg-type]
