"""SequentialAttention++ for Block Sparsification (Yasuda, Axiotis, Fu, Bateni, Mirrokni 2024), Algorithm 1."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from shrinknet.core.errors import BadInputError
from shrinknet.sparsify.base import Masks, Sparsifier
from shrinknet.sparsify.blocks import Blocks
from shrinknet.sparsify.keep import num_left, top
from shrinknet.sparsify.schedules import Phases, check_least, check_sparsity, exponential

FEWEST_BLOCKS = 100
"""The paper leaves layers with fewer blocks whole."""

STEEPNESS = 4.0
"""The paper's c."""


class SequentialAttention(Sparsifier):
    """A softmax over a layer's blocks learns, while the network trains, which blocks matter; the others go.

    One logit L for each block, attention `A = N softmax(L)` over the layer's N blocks (mean 1, so that L = 0 leaves the
    network as it is), and the forward pass sees `W^ = W up(A) up(mask)`. Phases (`schedules.Phases`), after a dense
    start, seven times: *sparsification* keeps the top `1 - s(t)` blocks by A, `s(t) = s (1 - e^{-c t})/(1 - e^{-c})`,
    c = 4, what falls staying away until the next dense phase; *sparse* trains with the mask frozen; *dense* lets all
    blocks back, with their weights and logits as they were. At the end exactly k blocks are kept.

    Where the paper is silent: the three parts of a phase are equal; logits have an optimizer of their own (Adam,
    `logit_lr`, no weight decay): their rate decides whether attention has time to learn anything.

    Args:
        model: trained as its user does.
        num_steps: how many steps the loop will take: phases are shares of it.
        block: the size of tiles; `pad` lets the last ones stand over the edge.
        sparsity: the share of blocks that goes in each layer.
        logit_lr: the rate of the logits.
        softmax: "all" (the published algorithm: mass leaks to masked blocks) or "candidates" (over those that are in;
            their mean is 1).
        sparsifying: False for the paper's ablation without sparsification phases.
        fewest_blocks: layers with fewer are left whole.

    Raises:
        BadInputError: a sparsity of 1 or more, a block that does not divide a layer, no layer with enough blocks.

    Cost: one more product for each weight and pass, and a softmax over the blocks.
    """

    name = "sequential-attention"
    regrows = True

    def __init__(
        self,
        model: nn.Module,
        *,
        num_steps: int,
        block: int | Sequence[int] = 16,
        pad: bool = False,
        sparsity: int | float = 0.9,
        logit_lr: int | float = 0.02,
        softmax: str = "all",
        sparsifying: bool = True,
        fewest_blocks: int = FEWEST_BLOCKS,
        layers: str | tuple[str, ...] = (),
        seed: int = 0,
    ) -> None:
        super().__init__(model, layers, seed)
        check_least(0.0, logit_lr=logit_lr)
        if softmax not in {"all", "candidates"}:
            raise BadInputError("softmax", "all or candidates", repr(softmax), "Leave it out for all.")
        self.softmax, self.sparsity = softmax, check_sparsity("sparsity", sparsity)
        self.phases = Phases(num_steps, sparsifying)
        self.blocks = blocks_of_large_layers(self, block, fewest_blocks, pad=pad)
        for name, blocks in self.blocks.items():
            weight = self.weights[name]
            self.tensors[f"logits/{name}"] = torch.zeros(blocks.grid, dtype=weight.dtype, device=weight.device)
            self.tensors[f"stored/{name}"] = torch.ones(blocks.grid, dtype=torch.bool, device=weight.device)
            self.tensors[f"used/{name}"] = torch.ones(blocks.grid, dtype=torch.bool, device=weight.device)
        self.logits = [self.tensors[f"logits/{name}"].requires_grad_() for name in self.blocks]
        self.optimizer = torch.optim.Adam(self.logits, lr=logit_lr)

    def attention(self, name: str) -> Tensor:
        """Return A [down, across] of a weight's blocks."""
        logits, used = self.tensors[f"logits/{name}"], self.tensors[f"used/{name}"]
        sizes = (logits - logits.detach().max()).exp()
        if self.softmax == "all":
            return sizes / sizes.mean()  # at L = 0 exactly 1
        return sizes / (sizes * used).sum() * used.sum()

    def effective(self, name: str, weight: Tensor) -> Tensor:
        """Return `W up(A) up(mask)`."""
        return weight * self.blocks[name].up(self.attention(name) * self.tensors[f"used/{name}"])

    def before_forward(self) -> None:
        """Where the loop has dropped its gradients, the logits' go too."""
        super().before_forward()
        if all(weight.grad is None for weight in self.weights.values()):
            for logits in self.logits:
                logits.grad = None

    def after_backward(self) -> None:
        """Move the logits, unless a slope is beyond all bounds (mixed precision, whose scaler then skips a step)."""
        assert self.optimizer is not None
        if all(logits.grad is None or bool(logits.grad.isfinite().all()) for logits in self.logits):
            self.optimizer.step()
        self.optimizer.zero_grad()

    def finish(self) -> None:
        """Fold the attention into the weights, and begin anew from attention 1: finishing twice changes nothing."""
        super().finish()
        with torch.no_grad():
            for logits in self.logits:
                logits.zero_()

    def updated(self) -> Masks:
        """Let blocks fall, stay, or come back, as the phase has it."""
        kind, progress = self.phases.at(self.step)
        masks = Masks()
        for name, blocks in self.blocks.items():
            stored, used = self.tensors[f"stored/{name}"], self.tensors[f"used/{name}"]
            attention, before = self.attention(name).detach(), used.clone()
            in_the_end = num_left(stored.numel(), self.sparsity)
            if kind == "dense":
                stored.copy_(top(attention, in_the_end))
                used.fill_(True)
            elif kind == "sparsification":
                share = self.sparsity * exponential(progress, STEEPNESS)
                count = max(in_the_end, num_left(stored.numel(), share))
                used.copy_(top(torch.where(used, attention, -1), min(count, int(used.sum()))))
                stored.copy_(used)
            else:
                stored.copy_(top(torch.where(stored, attention, -1), in_the_end) & stored)
                used.copy_(stored)
            if not torch.equal(before, used):
                masks[name] = blocks.up(used)
        return masks


def blocks_of_large_layers(
    sparsifier: Sparsifier, block: int | Sequence[int], fewest: int, *, pad: bool
) -> dict[str, Blocks]:
    """Return the tiles of every weight that has enough of them; weights with fewer are masked no more.

    Raises:
        BadInputError: no weight has enough.
    """
    height, width = (block, block) if isinstance(block, int) else block
    for name, weight in list(sparsifier.weights.items()):
        if -(-weight.shape[0] // max(1, height)) * -(-weight[0].numel() // max(1, width)) < fewest:
            for table in (sparsifier.weights, sparsifier.masks, sparsifier.num_masked, sparsifier.num_regrown):
                del table[name]
    if not sparsifier.weights:
        do = "Make blocks smaller, or say fewest_blocks."
        raise BadInputError("block", f"so small that a layer has {fewest} blocks or more", f"{height} x {width}", do)
    return {name: Blocks.of(name, weight, block, pad=pad) for name, weight in sparsifier.weights.items()}
