"""Blocks: the tiles of a matrix that live or die together."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from shrinknet.core.errors import BadInputError


@dataclass(frozen=True, slots=True)
class Blocks:
    """A matrix [rows, columns] in tiles of `height x width`; a kernel is laid out as [outputs, inputs x positions].

    With `pad` the last tiles may stand over the edge (what is over it does not count); without it a size that does
    not divide the matrix is refused.

    >>> blocks = Blocks.of("w", torch.zeros(4, 6), 2)
    >>> blocks.grid
    (2, 3)
    >>> int(blocks.up(torch.tensor([[1, 0, 0], [0, 0, 1]])).sum())
    8
    """

    shape: tuple[int, ...]
    height: int
    width: int

    @classmethod
    def of(cls, name: str, weight: Tensor, size: int | Sequence[int], *, pad: bool = False) -> "Blocks":
        """Return the tiles of a weight.

        Raises:
            BadInputError: the size does not divide it, and `pad` is not said.
        """
        height, width = (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
        rows, columns = weight.shape[0], weight[0].numel()
        if min(height, width) < 1 or ((rows % height or columns % width) and not pad):
            got = f"{height} x {width}"
            do = "Say pad=True to let the last blocks stand over the edge."
            raise BadInputError("block", f"a size that divides {name!r}, {rows} x {columns}, or pad=True", got, do)
        return cls(tuple(weight.shape), height, width)

    @property
    def grid(self) -> tuple[int, int]:
        """How many tiles there are down and across."""
        rows, columns = self._matrix
        return -(-rows // self.height), -(-columns // self.width)

    @property
    def _matrix(self) -> tuple[int, int]:
        return self.shape[0], math.prod(self.shape[1:])

    def up(self, values: Tensor) -> Tensor:
        """Return a tensor of the weight's shape that holds each tile's value at all its places."""
        rows, columns = self._matrix
        large = values.repeat_interleave(self.height, 0).repeat_interleave(self.width, 1)
        whole: Tensor = large[:rows, :columns].reshape(self.shape)
        return whole

    def tiles(self, weight: Tensor) -> Tensor:
        """Return [down, across, height x width]: the elements of each tile, zeros where it stands over the edge."""
        rows, columns = self._matrix
        down, across = self.grid
        matrix = weight.reshape(rows, columns)
        matrix = functional.pad(matrix, (0, across * self.width - columns, 0, down * self.height - rows))
        return matrix.view(down, self.height, across, self.width).transpose(1, 2).flatten(2)

    def norms(self, weight: Tensor) -> Tensor:
        """Return each tile's Frobenius norm [down, across]."""
        sizes: Tensor = torch.linalg.vector_norm(self.tiles(weight), dim=2)
        return sizes

    def largest(self, weight: Tensor) -> Tensor:
        """Return each tile's largest absolute weight [down, across]."""
        return self.tiles(weight).abs().amax(2)
