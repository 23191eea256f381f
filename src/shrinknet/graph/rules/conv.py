"""Convolutions, plain, grouped, depthwise and transposed, in one to three dimensions."""

import math
from collections.abc import Callable

from torch import Tensor
from torch.fx import Node

from shrinknet.graph.call import Call, argument, macs, resize, rule
from shrinknet.graph.labels import Slots, along, varying
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
    _freeze_rigid_axes(call, x, kernel)
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
    return () if out is None else (along(1, out, call.shape),)


def num_groups(node: Node) -> int:
    """Return how many groups of channels a convolution keeps apart (1 for any operator without them)."""
    return int(argument(node, GROUPS_ARGUMENT, "groups", 1))


def _freeze_rigid_axes(call: Call, x: Node, kernel: Node) -> None:
    """Positions and kernel offsets stay; labels that vary there cannot be cut."""
    for node, what in ((x, "positions"), (kernel, "kernel offsets")):
        for slot in call.slots(node):
            if min(varying(slot), default=0) >= 2:
                window = node is x and len(varying(slot)) == 1 and call.shape[1] == 1
                call.freeze(
                    (slot,), f"a window over neighbours at {call.where}" if window else f"{what} of {call.where}"
                )


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


@resize(*FORWARD, *TRANSPOSED)
def resize_groups(node: Node, widths: Widths) -> None:
    """Whole groups that are gone make the number of groups smaller."""
    x, kernel = node.args[0], node.args[1]
    over = widths.of(node, 1) if "transpose" in str(node.target) else widths.of(x, 1)  # type: ignore[arg-type]
    if num_groups(node) > 1:
        node.update_arg(GROUPS_ARGUMENT, over // widths.of(kernel, 1))  # type: ignore[arg-type]


@macs(*FORWARD)
def forward_macs(node: Node, shape: Callable[[Node], tuple[int, ...]]) -> int:
    """Each output element takes as many as there are weights behind it."""
    return math.prod(shape(node)) * math.prod(shape(node.args[1])[1:])  # type: ignore[arg-type]


@macs(*TRANSPOSED)
def transposed_macs(node: Node, shape: Callable[[Node], tuple[int, ...]]) -> int:
    """Each input element takes as many as there are weights in front of it."""
    return math.prod(shape(node.args[0])) * math.prod(shape(node.args[1])[1:])  # type: ignore[arg-type]
