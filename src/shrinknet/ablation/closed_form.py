"""The last hidden layer needs no product: removing neuron k changes the outputs by the outer product of what it says
and of how it is heard.

With z the last dense layer's outputs, o_k the neuron's output and w_k its column of weights,
`z without k = z - o_k w_k^T`, so that the loss without k is a function of each element of z, o_k and w_k alone. Samples
lie along the last axis here: that is the long one, and what is summed (the outputs of one sample) is not.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.fx import Node
from torch.utils.weak import WeakTensorKeyDictionary

from shrinknet.ablation.route import Route
from shrinknet.graph.operators import is_elementwise, operator_name
from shrinknet.losses import ACROSS, Loss, targets_across

CHUNK_ELEMENTS = 2**20
"""Candidates x outputs x samples at once, where nothing is fused: what the caches hold."""

FUSED_ELEMENTS = 2**22
"""The same for the compiled loop, which may write some of it to memory between two passes over the outputs."""


@dataclass(frozen=True)
class Tail:
    """The element-wise operators between the last dense layer and the outputs."""

    steps: tuple[tuple[Callable[..., Tensor], tuple[Any, ...], tuple[tuple[str, Any], ...]], ...]

    def __call__(self, value: Tensor) -> Tensor:
        """Run them on values laid out in any order."""
        for operator, args, kwargs in self.steps:
            value = operator(value, *args, **dict(kwargs))
        return value


def closed_form(route: Route, loss: Loss) -> Tail | None:
    """Return what lies behind the last dense layer if that layer is the group's only reader; None if it is not so.

    Each neuron must be one element of what the layer reads, only operators on single elements of one value may follow,
    and the loss must be one of the built-in ones.
    """
    if len(route.entrances) != 1 or loss.of not in ACROSS:
        return None
    ((reader, site),) = route.entrances.items()
    is_one_element = operator_name(reader) == "linear" and route.places[site][0].shape[1] == 1
    if not is_one_element or reader.meta["val"].dim() != 2 or set(route.sites) != {site}:
        return None
    last = reader
    for node in route.replayed:
        if not is_elementwise(node) or node.all_input_nodes != [last] or node.args[0] is not last:
            return None
        last = node
    if last is not route.program.output:
        return None
    return Tail(tuple((node.target, tuple(node.args[1:]), tuple(node.kwargs.items())) for node in route.replayed))  # type: ignore[misc]


class LastLayer:
    """The values of one batch that the closed form needs, samples last.

    Args:
        route: how the group is read.
        tail: what lies behind the last dense layer.
        values: the value of every node for the batch.
        targets: the batch's targets.
        loss: the loss, one of the built-in ones.
    """

    def __init__(self, route: Route, tail: Tail, values: dict[Node, Any], targets: Tensor, loss: Loss) -> None:
        ((reader, site),) = route.entrances.items()
        outputs = values[reader]
        self.tail, self.across = tail, ACROSS[loss.of]
        self.columns, self.weights = route.places[site][0][:, 0], values[reader.args[1]]  # type: ignore[index]
        self.read = _samples_last(values[reader.args[0]])  # type: ignore[index]
        self.outputs = _samples_last(outputs)
        self.targets = _kept(targets, lambda given: targets_across(given, outputs))

    @cached_property
    def before(self) -> Float[Tensor, " batch"]:
        """The loss of each sample as the network is now."""
        return self.across(self.tail(self.outputs), self.targets)

    def rises(self, candidates: Tensor) -> Float[Tensor, "candidates batch"]:
        """Return the rise of each sample's loss without each candidate."""
        return torch.cat([_rises(self.tail, self.across, *given) for given in self._chunks(candidates, CHUNK_ELEMENTS)])

    def summed_rises(self, candidates: Tensor, *, compiled: bool) -> Float[Tensor, " candidates"]:
        """Return the rise of the summed loss without each candidate, in one fused loop where that is asked for."""
        if compiled:
            work = fused(self.tail, self.across)
            return torch.cat([work(*given) for given in self._chunks(candidates, FUSED_ELEMENTS)])
        return self.rises(candidates).sum(1, dtype=torch.float64)

    def _chunks(self, candidates: Tensor, elements: int) -> Iterator[tuple[Tensor, ...]]:
        for some in candidates.split(max(1, elements // self.outputs.numel())):
            yield self.outputs, self.read, self.weights, self.columns[some], self.targets, self.before


def _rises(
    tail: Tail, across: Callable[..., Tensor], outputs: Tensor, read: Tensor, weights: Tensor, columns: Tensor,
    targets: Tensor, before: Tensor,
) -> Tensor:  # fmt: skip
    """`L(tail(z - o_k w_k^T)) - L(tail(z))` for each sample and each k among the columns."""
    moved = torch.addcmul(outputs, read[columns][:, None, :], weights.T[columns][:, :, None], value=-1)
    return across(tail(moved), targets) - before


@lru_cache(maxsize=16)
def fused(tail: Tail, across: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return the summed rises as one loop over memory, compiled for any number of candidates and samples."""

    def summed(*given: Tensor) -> Tensor:
        return _rises(tail, across, *given).sum(1, dtype=torch.float64)

    return torch.compile(summed, dynamic=True)


_PREPARED = WeakTensorKeyDictionary()
"""Values laid out anew, as long as the values themselves are kept: a ranking changes few of them."""


def _samples_last(value: Tensor) -> Tensor:
    return _kept(value, lambda given: given.T.contiguous())


def _kept(given: Tensor, prepare: Callable[[Tensor], Tensor]) -> Tensor:
    if given not in _PREPARED:
        _PREPARED[given] = prepare(given)
    return _PREPARED[given]  # type: ignore[no-any-return]
