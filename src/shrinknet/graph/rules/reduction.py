"""Operators that reduce or mix some axes and treat every place of the others alone."""

from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from shrinknet.core.units import names_in
from shrinknet.graph.call import Call, argument, resize, rule, weighted, windows
from shrinknet.graph.labels import Slots, along, varying, vector
from shrinknet.graph.operators import operator_name
from shrinknet.graph.places import Window, Windows, each, lay_out
from shrinknet.graph.widths import Widths, shape_of

AVERAGES = ("avg_pool1d", "avg_pool2d", "avg_pool3d")
EXTREMES = ("amax", "amin")
SUMS = ("mean", "sum", "var", "std", "linalg_vector_norm", "norm")

POOLINGS = names_in("""
    max_pool1d, max_pool2d, max_pool3d, avg_pool1d, avg_pool2d, avg_pool3d, adaptive_avg_pool1d, adaptive_avg_pool2d,
    adaptive_avg_pool3d, adaptive_max_pool1d, adaptive_max_pool2d, adaptive_max_pool3d, lp_pool2d,
    upsample_nearest1d, upsample_nearest2d, upsample_nearest3d, _upsample_nearest_exact2d, upsample_linear1d,
    upsample_bilinear2d, upsample_bicubic2d, upsample_trilinear3d, _upsample_bilinear2d_aa, _upsample_bicubic2d_aa
""")


@rule(*POOLINGS)
def pooling(call: Call) -> Slots:
    """Positions (every axis after the channels) are reduced, or drawn larger."""
    if len(call.shape) != 2 + _num_positions(call.node):
        call.freeze(call.slots(call.argument(0)), f"no samples axis at {call.where}")
        return ()
    positions, out = set(range(2, len(call.shape))), list[Tensor]()
    for slot in call.slots(call.argument(0)):
        if operator_name(call.node) in AVERAGES and len(varying(slot)) == 1 and positions.issuperset(varying(slot)):
            out += call.window(slot)
        elif (passed := call.passed(slot, positions)) is not None:
            out.append(passed)
    return tuple(out)


def _num_positions(node: Node) -> int:
    return int(operator_name(node).removesuffix("_aa")[-2])  # max_pool2d: 2


@windows(*AVERAGES)
def windows_of_average(node: Node) -> Windows:
    """One along each axis of positions; none where windows at the ends are means of fewer places."""
    rank, sizes = _num_positions(node), argument(node, 1, "kernel_size")
    steps, padding = argument(node, 2, "stride", []) or sizes, argument(node, 3, "padding", 0)
    sizes, steps, padding = (each(given, rank) for given in (sizes, steps, padding))
    counts_padding = argument(node, 5, "count_include_pad", True) or not any(padding)
    has_samples = len(shape_of(node.meta["val"])) == 2 + rank
    if argument(node, 4, "ceil_mode", False) or not counts_padding or not has_samples:
        return {}
    return {2 + place: Window(*given) for place, given in enumerate(zip(sizes, steps, padding, strict=True))}


@resize(*AVERAGES)
def resize_windows(node: Node, widths: Widths) -> None:
    """Windows over neurons are laid out, one behind the other."""
    if now := lay_out(node, windows_of_average(node), widths):
        sizes, steps, padding = ([getattr(one, name) for one in now.values()] for name in ("size", "step", "padding"))
        rest = {name: value for name, value in node.kwargs.items() if name not in {"kernel_size", "stride", "padding"}}
        node.args, node.kwargs = (node.args[0], sizes, steps, padding, *node.args[4:]), rest


@rule("pad", "constant_pad_nd", "reflection_pad1d", "reflection_pad2d", "replication_pad1d", "replication_pad2d")
def padding(call: Call) -> Slots:
    """Places that hold a constant beside neurons follow what they meet; other paddings repeat what they pad."""
    x, ends, out = call.argument(0), _ends(call.node), list[Tensor]()
    name = operator_name(call.node)
    is_constant = name == "constant_pad_nd" or (name == "pad" and call.argument(2, "mode", "constant") == "constant")
    for slot in call.slots(x):
        axes = varying(slot)
        if is_constant and len(axes) == 1 and axes[0] in ends:
            call.store.say(slot)  # a negative amount leaves some behind
            out.append(_padded(call, vector(slot, axes[0]), axes[0], *ends[axes[0]]))
        elif (passed := call.passed(slot, set(ends))) is not None:
            out.append(passed)
    return tuple(out)


def _ends(node: Node) -> dict[int, tuple[int, int]]:
    """How much each padded axis gains before and behind: amounts come in pairs from the last axis backwards."""
    rank, amounts = len(shape_of(node.meta["val"])), argument(node, 1, "pad")
    pairs = zip(amounts[::2], amounts[1::2], strict=True)
    return {rank - 1 - place: pair for place, pair in enumerate(pairs) if pair != (0, 0)}


def _padded(call: Call, labels: Tensor, axis: int, before: int, behind: int) -> Tensor:
    fresh = (call.store.fresh(None, axis, max(0, amount)) for amount in (before, behind))
    kept = labels[max(0, -before) : len(labels) - max(0, -behind)]
    return along(axis, torch.cat([next(fresh), kept, next(fresh)]), call.shape)


@resize("pad", "constant_pad_nd")
def resize_amounts(node: Node, widths: Widths) -> None:
    """As many places as there are neurons left that meet them."""
    x: Node = node.args[0]  # type: ignore[assignment]
    amounts, rank = list(argument(node, 1, "pad")), len(shape_of(node.meta["val"]))
    for axis, (before, _) in _ends(node).items():
        if widths.is_cut(node, axis) or widths.is_cut(x, axis):
            first = widths.before(node, axis, before) if before > 0 else -widths.before(x, axis, -before)
            gained = widths.of(node, axis) - widths.of(x, axis)
            amounts[2 * (rank - 1 - axis) : 2 * (rank - axis)] = first, gained - first
    node.update_arg(1, amounts)


@rule("softmax", "log_softmax", "cumsum", "cumprod", "logcumsumexp", "roll")
def one_axis(call: Call) -> Slots:
    """One axis (or a list of them) is mixed or moved; the others pass."""
    position = 2 if operator_name(call.node) == "roll" else 1
    given = call.argument(position, "dim", ())
    return call.passing(call.argument(0), set(range(len(call.shape))) if given == () else set(_axes(given)))


@rule("argmax", "argmin", "logsumexp", "prod")
def reduction(call: Call) -> Slots:
    """Reduced axes cannot carry neurons."""
    return _reduced(call, *_axes_and_keepdim(call), rigid=True)


@rule(*SUMS, *EXTREMES)
def statistic(call: Call) -> Slots:
    """Sums over neurons read them; a mean, a variance or an extreme is that of the neurons that are there."""
    axes, keepdim = _axes_and_keepdim(call)
    return _reduced(call, axes, keepdim, rigid=False)


@weighted("mean")
def weighted_mean(weights: Tensor, x: Tensor, axes: Any = None, keepdim: bool = False, **_: Any) -> Tensor:
    """`sum(w x) / sum(w)`."""
    axes = tuple(range(x.dim())) if axes is None else tuple(axes)
    mean: Tensor = (weights * x).sum(axes, keepdim) / weights.expand_as(x).sum(axes, keepdim)
    return mean


@weighted("amax")
def weighted_amax(weights: Tensor, x: Tensor, axes: Any = (), keepdim: bool = False) -> Tensor:
    """`max(w x + (1 - w) min(x))`: a neuron that is gone is never the largest."""
    smallest = x.amin(axes, keepdim=True)
    largest: Tensor = (weights * x + (1 - weights) * smallest).amax(axes, keepdim)
    return largest


@weighted("amin")
def weighted_amin(weights: Tensor, x: Tensor, axes: Any = (), keepdim: bool = False) -> Tensor:
    """`min(w x + (1 - w) max(x))`."""
    return -weighted_amax(weights, -x, axes, keepdim)


@weighted("var")
def weighted_var(weights: Tensor, x: Tensor, axes: Any = None, *args: Any, **options: Any) -> Tensor:
    """`sum(w (x - mu)^2) / (sum(w) - correction)`."""
    axes = tuple(range(x.dim())) if axes is None else tuple(axes)
    correction, keepdim = options.get("correction", 1), options.get("keepdim", False)
    if args:  # the older form: unbiased, keepdim
        correction, keepdim = int(args[0]), len(args) > 1 and args[1]
    num = weights.expand_as(x).sum(axes, keepdim=True)
    mu = (weights * x).sum(axes, keepdim=True) / num
    var: Tensor = (weights * (x - mu).square()).sum(axes, keepdim=True) / (num - correction)
    return var if keepdim else var.squeeze(axes)


@weighted("std")
def weighted_std(weights: Tensor, x: Tensor, axes: Any = None, *args: Any, **options: Any) -> Tensor:
    """The square root of the weighted variance."""
    return weighted_var(weights, x, axes, *args, **options).sqrt()


def _axes(given: Any) -> list[int]:
    return [given] if isinstance(given, int) else list(given)


def _axes_and_keepdim(call: Call) -> tuple[set[int], bool]:
    """Return the reduced axes (all of them when none is given) and whether they stay with length 1."""
    x = call.argument(0)
    rank = len(shape_of(x.meta["val"]))
    position = 2 if "norm" in operator_name(call.node) else 1
    given = call.argument(position, "dim", None)
    axes = range(rank) if given is None or given == [] else _axes(given)
    return {axis % rank for axis in axes}, len(call.shape) == rank


def _reduced(call: Call, axes: set[int], keepdim: bool, *, rigid: bool) -> Slots:
    x, out = call.argument(0), []
    for slot in call.slots(x):
        elsewhere = set(varying(slot)) - axes
        if elsewhere:
            picks = ((slice(0, 1) if keepdim else 0) if axis in axes else slice(None) for axis in range(slot.dim()))
            out.append(call.united(slot, elsewhere)[tuple(picks)])
        elif rigid or len(varying(slot)) != 1:
            call.freeze((slot,), f"reduced over at {call.where}")
        else:
            call.gate(0, *varying(slot))
    return tuple(out)
