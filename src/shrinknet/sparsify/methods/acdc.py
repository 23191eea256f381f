"""AC/DC: Alternating Compressed/DeCompressed Training (Peste, Iofinova, Vladu, Alistarh 2021), on blocks."""

from collections.abc import Sequence

from torch import Tensor, nn

from shrinknet.sparsify.base import Masks, Sparsifier
from shrinknet.sparsify.blocks import Blocks
from shrinknet.sparsify.keep import num_left, top
from shrinknet.sparsify.schedules import Phases, check_sparsity


class AlternatingCompression(Sparsifier):
    """Dense and sparse phases by turns: at each switch to sparse the largest blocks stay, the others become zero.

    A block's size is its Frobenius norm. In dense phases masked weights train again, from zero. Phases as Yasuda et al.
    2024 have them beside their own method (`schedules.Phases` without sparsification): 10 % dense, seven sparse-dense
    cycles, the last dense phase 5 % longer, 15 % sparse.

    Args:
        model: trained as its user does.
        num_steps: how many steps the loop will take: phases are shares of it.
        block: the size of tiles (1: single weights); `pad` lets the last ones stand over the edge.
        sparsity: the share of blocks that goes in each layer.

    Raises:
        BadInputError: a sparsity of 1 or more, a block that does not divide a layer.

    Cost: norms of all blocks at each switch; one mask in memory.
    """

    name = "acdc"
    regrows = True

    def __init__(
        self,
        model: nn.Module,
        *,
        num_steps: int,
        block: int | Sequence[int] = 1,
        pad: bool = False,
        sparsity: int | float = 0.9,
        layers: str | tuple[str, ...] = (),
        seed: int = 0,
    ) -> None:
        super().__init__(model, layers, seed)
        self.sparsity = check_sparsity("sparsity", sparsity)
        self.phases = Phases(num_steps, sparsifying=False)
        self.blocks = {name: Blocks.of(name, w, block, pad=pad) for name, w in self.weights.items()}
        self.numbers["phase"] = "dense"

    def updated(self) -> Masks:
        """Compress or decompress where a phase begins."""
        kind, _ = self.phases.at(self.step)
        before, self.numbers["phase"] = self.numbers["phase"], kind
        if kind == before:
            return {}
        if kind == "dense":
            return {name: mask.new_ones(mask.shape) for name, mask in self.masks.items()}
        return {name: self._largest(name) for name in self.weights}

    def _largest(self, name: str) -> Tensor:
        norms = self.blocks[name].norms(self.weights[name].detach())
        return self.blocks[name].up(top(norms, num_left(norms.numel(), self.sparsity)))
