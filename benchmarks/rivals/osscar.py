"""OSSCAR's choice of channels (Meng et al. 2024, "OSSCAR: one-shot structured pruning in vision and language models
with combinatorial optimization", ICML), layer by layer.

    minimise over S and W   |X W* - X[S] W|^2

S has half of the channels, W is the best for it: backward elimination by the exact rise of the error, then swaps of one
channel that went for one that stays as long as the error falls.
"""

import torch
from blocks import beside, copied, inner, keep, patches, refit
from torch import Tensor, nn

RIDGE = 1e-4


@torch.no_grad()
def shrunk(model: nn.Module, images: Tensor, labels: Tensor, seed: int) -> nn.Module:
    """Return the network with half of each block's inner channels."""
    smaller = copied(model)
    for block, other, before, now in beside(model, smaller, images):
        reads, wanted = inner(other, now), block.conv2(inner(block, before))
        rows, targets = patches(reads).double(), wanted.permute(0, 2, 3, 1).flatten(0, 2).double()
        kept = chosen(rows.T @ rows, rows.T @ targets, reads.shape[1])
        keep(other, kept)
        refit(other, inner(other, now), wanted, RIDGE)
    return smaller


def chosen(moments: Tensor, given: Tensor, count: int) -> Tensor:
    """Return the channels that stay, nine numbers each in the moments of what is read."""
    moments = moments + torch.diag(torch.cat([moments.new_full((9 * count,), RIDGE * moments.diagonal()[:-1].mean()),
                                              moments.new_zeros(1)]))  # fmt: skip

    def explained(channels: list[int]) -> float:
        """The part of the squares that the best weights for these channels explain."""
        at = torch.tensor([9 * c + k for c in channels for k in range(9)] + [9 * count])
        return float((given[at] * torch.linalg.solve(moments[at][:, at], given[at])).sum())

    stays, gone = list(range(count)), list[int]()
    while len(stays) > count // 2:
        gone.append(max(stays, key=lambda c: explained([one for one in stays if one != c])))
        stays.remove(gone[-1])
    best = explained(stays)
    for _ in range(count):  # a swap at a time, the best of all
        swaps = {(c, d): explained([d if one == c else one for one in stays]) for c in stays for d in gone}
        (c, d), value = max(swaps.items(), key=lambda one: one[1])
        if value <= best * (1 + 1e-9):
            break
        best, stays, gone = value, [d if one == c else one for one in stays], [c if one == d else one for one in gone]
    return torch.tensor(sorted(stays))
