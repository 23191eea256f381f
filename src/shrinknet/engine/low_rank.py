"""A reader is not run again: a changed gate is a change of low rank of what it already computed.

`reader(x with gate g) = reader(x) + (g - 1) * (the neuron's own contribution)` for dense layers and convolutions.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

Change = Callable[..., Tensor]
"""Given a reader's operator, its arguments, its output, and for each candidate the places of its neuron with a factor
for each place (0 for padding): the outputs with the candidate's contribution times that factor added. `decomposed` asks
for operators that derivatives follow."""


def dense_change(
    _operator: Any,
    args: Sequence[Any],
    out: Tensor,
    places: Int[Tensor, "candidates width"],
    factors: Float[Tensor, "candidates width"],
    *,
    decomposed: bool = False,
) -> Float[Tensor, "candidates ..."]:
    """`out + sum over c's places of factor x[:, place] W[:, place]^T`, a matrix of low rank for each c."""
    x, weight = args[:2]
    read = x.flatten(0, -2).index_select(1, places.flatten()).unflatten(1, places.shape).movedim(1, 0).contiguous()
    rows = weight.T[places] * factors[..., None].to(weight.dtype)
    flat = out.flatten(0, -2)
    if places.shape[1] == 1:
        changed = torch.addcmul(flat, read, rows)
    else:
        changed = torch.baddbmm(flat.expand(len(places), *flat.shape), read, rows)
    return changed.unflatten(1, out.shape[:-1])  # type: ignore[no-any-return]


def convolution_change(
    operator: Any,
    args: Sequence[Any],
    out: Tensor,
    places: Int[Tensor, "candidates width"],
    factors: Float[Tensor, "candidates width"],
    *,
    decomposed: bool = False,
) -> Float[Tensor, "candidates ..."]:
    """`out + conv(x[:, c's channels], factor W[:, c's channels])`: one grouped convolution for all c."""
    x, kernel = args[:2]
    num_candidates, width = places.shape
    kernels = kernel[:, places.flatten()].unflatten(1, places.shape).movedim(1, 0)
    kernels = kernels * factors.to(kernel.dtype).view(num_candidates, 1, width, *[1] * (kernel.dim() - 2))
    read = x.index_select(1, places.flatten())
    if out.dim() == 4 and out.is_contiguous(memory_format=torch.channels_last):  # `contiguous` is blind to one channel
        read = torch.empty_like(read, memory_format=torch.channels_last).copy_(read)
    change = operator(read, kernels.flatten(0, 1), None, *args[3:6], groups=num_candidates)
    change = change.unflatten(1, (num_candidates, -1)).movedim(1, 0)
    if decomposed:
        return change + out  # type: ignore[no-any-return]
    like_out = out.new_empty_strided((num_candidates, *out.shape), (out.numel(), *out.stride()))
    return torch.add(change, out, out=like_out)


CHANGES: dict[str, Change] = {
    "linear": dense_change,
    "conv1d": convolution_change,
    "conv2d": convolution_change,
    "conv3d": convolution_change,
}
