"""Convolutions: the channel axis is mixed (groups=1) or passed through (depthwise)."""

from torch import Tensor
from torch.fx import Node

from shrinknet.graph.labels import Slots, along, varying
from shrinknet.graph.rules.base import Call, rule, shape_of

GROUPS_ARGUMENT = 6


@rule("conv1d", "conv2d", "conv3d")
def convolution(call: Call) -> Slots:
    """The kernel's first axis writes channels; its second reads them, or none is read when depthwise."""
    x, kernel, bias = call.argument(0), call.argument(1), call.argument(2)
    if x.meta["val"].dim() != kernel.meta["val"].dim():
        call.freeze(call.slots(x) + call.slots(kernel), f"no samples axis at {call.where}")
        return ()
    groups, in_channels = call.argument(GROUPS_ARGUMENT, 1), shape_of(x.meta["val"])[1]
    out = call.vector_along(kernel, 0)
    _freeze_rigid_axes(call, x, kernel)
    if groups == 1:
        _mix(call, x, kernel)
    elif groups == in_channels:
        _pass_through(call, x, out, multiplier=len_of(kernel) // in_channels)
    else:
        call.freeze(call.slots(x) + call.slots(kernel), f"no rule for {groups} channel groups at {call.where}")
        return ()
    if out is None:
        return ()
    _unite_bias(call, bias, out)
    return (along(1, out, call.shape),)


def len_of(node: Node) -> int:
    """Return the length of a node's first axis."""
    return shape_of(node.meta["val"])[0]


def _freeze_rigid_axes(call: Call, x: Node, kernel: Node) -> None:
    """Positions and kernel offsets stay; labels that vary there cannot be cut."""
    for node, what in ((x, "positions"), (kernel, "kernel offsets")):
        for slot in call.slots(node):
            if any(axis >= 2 for axis in varying(slot)):
                call.freeze((slot,), f"{what} of {call.where}")


def _mix(call: Call, x: Node, kernel: Node) -> None:
    channels, columns = call.vector_along(x, 1), call.vector_along(kernel, 1)
    if columns is not None:
        call.store.mark_read(columns)
    if channels is not None and columns is not None:
        call.unite(channels, columns)
        call.gate(0, 1)
    elif columns is not None:
        call.freeze((columns,), f"reads values of fixed width at {call.where}")
    elif channels is not None:
        call.freeze((channels,), f"read by a kernel of fixed width at {call.where}")


def _pass_through(call: Call, x: Node, out: Tensor | None, multiplier: int) -> None:
    """Depthwise: output channel i belongs to the neuron of input channel i // multiplier."""
    channels = call.vector_along(x, 1)
    if out is not None and channels is not None:
        call.unite(out, channels.repeat_interleave(multiplier))
    elif out is not None:
        call.freeze((out,), f"reads values of fixed width at {call.where}")


def _unite_bias(call: Call, bias: Node | None, out: Tensor) -> None:
    if bias is None:
        return
    labels = call.vector_along(bias, 0)
    if labels is None:
        call.freeze((out,), f"its bias has a fixed width at {call.where}")
    else:
        call.unite(out, labels)
