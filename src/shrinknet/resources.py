"""What scoring may use: how much memory, and how fast arithmetic may be."""

from dataclasses import dataclass

DEFAULT_MEMORY = 2 * 2**30

SHARE_OF_ONE_PASS = 8
"""A batch is cut down until the values of its forward pass take at most this part of the memory."""


@dataclass(frozen=True, slots=True)
class Resources:
    """What scoring may use, beside the model and the data.

    Args:
        memory: bytes for the values of forward passes and of the candidates that are replayed from them.
        keeps_passes: whether passes are kept from one ranking to the next (a single ranking has no use for that).
        compiles: whether the replay of the last hidden layer is compiled.
        tf32: whether a GPU may round products to 19 bits.
    """

    memory: int = DEFAULT_MEMORY
    keeps_passes: bool = False
    compiles: bool = False
    tf32: bool = False

    @property
    def kept_bytes(self) -> int:
        """How much of the memory is for passes that are kept."""
        return self.memory // 2 if self.keeps_passes else 0

    @property
    def pass_bytes(self) -> int:
        """How much of the memory one batch's values may take."""
        return self.memory // SHARE_OF_ONE_PASS
