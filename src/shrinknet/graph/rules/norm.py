"""Normalisation: by statistics of each channel, or over neurons (then with a weight on each of them)."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from shrinknet.core.errors import BadInputError
from shrinknet.graph.call import Call, resize, rule, weighted
from shrinknet.graph.labels import Slots
from shrinknet.graph.widths import Widths, shape_of

TRAINING_ARGUMENT = 5


@rule("batch_norm", "instance_norm")
def channel_norm(call: Call) -> Slots:
    """Scale, shift and running statistics belong to the neuron of their channel (axis 1).

    Raises:
        BadInputError: it normalises with the batch's own statistics, so that samples are not independent.
    """
    x, by_positions = call.argument(0), call.argument(TRAINING_ARGUMENT)
    by_batch = by_positions and "batch_norm" in str(call.node.target)
    if by_batch and isinstance(x.meta["val"].shape[0], torch.SymInt):
        do = "Call model.eval() before exporting it."
        raise BadInputError("model", "a network in eval mode", f"{call.where} with the statistics of each batch", do)
    parameters = [node for node in (call.argument(position) for position in range(1, 5)) if node is not None]
    call.unite_all(call.vector_along(x, 1), *(call.vector_along(node, 0) for node in parameters))
    if by_batch and len(call.shape) == 3 and call.mixed_along(x, 2) is not None:
        call.gate(0, 2)  # standardised weights: statistics over what they read
        return call.slots(x)
    return call.passing(x, set(range(2, len(call.shape))) if by_positions else set())


@weighted("batch_norm")
def weighted_batch_norm(
    weights: Tensor,
    x: Tensor,
    weight: Any,
    bias: Any,
    _mean: Any,
    _var: Any,
    _training: bool,
    _momentum: float,
    eps: float,
    *_: Any,
) -> Tensor:
    """Statistics over axes 0 and 2, each place of axis 2 with its weight."""
    along_channels = (-1, 1)
    affine = (None if given is None else given.view(along_channels) for given in (weight, bias))
    return _affine(_normalised(weights, x, (0, 2), eps), *affine)


@rule("layer_norm", "rms_norm")
def layer_norm(call: Call) -> Slots:
    """Mean and variance over the last axes: those of the neurons that are there."""
    x, shape = call.argument(0), call.argument(1)
    parameters = [node for node in (call.argument(2, "weight"), call.argument(3, "bias")) if isinstance(node, Node)]
    for axis in range(-len(shape), 0):
        labels = call.mixed_along(x, axis)
        if call.unite_all(labels, *(call.vector_along(node, axis) for node in parameters)) is not None:
            call.gate(0, axis)
    return call.slots(x)


@weighted("layer_norm")
def weighted_layer_norm(
    weights: Tensor, x: Tensor, shape: Sequence[int], weight: Any = None, bias: Any = None, eps: float = 1e-5, *_: Any
) -> Tensor:
    """`(x - mu) / sqrt(var + eps)` with `mu = sum(w x) / sum(w)` and `var = sum(w (x - mu)^2) / sum(w)`."""
    axes = tuple(range(-len(shape), 0))
    return _affine(_normalised(weights, x, axes, eps), weight, bias)


@weighted("rms_norm")
def weighted_rms_norm(
    weights: Tensor, x: Tensor, shape: Sequence[int], weight: Any = None, eps: float | None = None
) -> Tensor:
    """`x / sqrt(mean + eps)` with `mean = sum(w x^2) / sum(w)`."""
    eps = torch.finfo(x.dtype).eps if eps is None else eps
    mean = weighted_mean_over(weights, x.square(), tuple(range(-len(shape), 0)))
    return _affine(x * torch.rsqrt(mean + eps), weight, None)


@resize("layer_norm", "rms_norm")
def resize_shape(node: Node, widths: Widths) -> None:
    """The shape that is normalised over."""
    shape: Any = node.args[1]
    node.update_arg(1, [widths.of(node, axis) for axis in range(-len(shape), 0)])


@rule("group_norm")
def group_norm(call: Call) -> Slots:
    """Groups of channels go as a whole; a single group is a layer norm over channels."""
    x, num_groups = call.argument(0), call.argument(1)
    parameters = [node for node in (call.argument(2, "weight"), call.argument(3, "bias")) if node is not None]
    channels = call.unite_all(call.vector_along(x, 1), *(call.vector_along(node, 0) for node in parameters))
    if channels is not None and num_groups == 1:
        call.gate(0, 1)
    elif channels is not None:
        call.unite(channels.view(num_groups, -1), channels.view(num_groups, -1)[:, :1])
    return call.passing(x, set(range(2, len(call.shape))))


@weighted("group_norm")
def weighted_group_norm(
    weights: Tensor, x: Tensor, num_groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5, *_: Any
) -> Tensor:
    """A single group: statistics over channels and positions, each channel with its weight."""
    assert num_groups == 1
    along_channels = (-1, *[1] * (x.dim() - 2))
    affine = (None if given is None else given.view(along_channels) for given in (weight, bias))
    return _affine(_normalised(weights, x, tuple(range(1, x.dim())), eps), *affine)


@resize("group_norm")
def resize_num_groups(node: Node, widths: Widths) -> None:
    """Whole groups that are gone make their number smaller."""
    num_groups: Any = node.args[1]
    if num_groups > 1:
        node.update_arg(1, widths.of(node, 1) * num_groups // shape_of(node.meta["val"])[1])


def weighted_mean_over(weights: Tensor, x: Tensor, axes: Sequence[int]) -> Tensor:
    """Return `sum(w x) / sum(w)` over some axes, which are kept at length 1."""
    axes = tuple(axes)
    return (weights * x).sum(axes, keepdim=True) / weights.expand_as(x).sum(axes, keepdim=True)


def _normalised(weights: Tensor, x: Tensor, axes: tuple[int, ...], eps: float) -> Tensor:
    centred = x - weighted_mean_over(weights, x, axes)
    return centred * torch.rsqrt(weighted_mean_over(weights, centred.square(), axes) + eps)


def _affine(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    x = x if weight is None else x * weight
    return x if bias is None else x + bias
