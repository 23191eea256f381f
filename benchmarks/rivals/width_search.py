"""A search over widths, by backward elimination and least squares: what a good engineer writes in an evening.

Channels are ordered once, by what the best weights of their reader leave unexplained without each (Hassibi and Stork
1993). Widths at the budget are drawn around the best ones so far; the least calibration loss, once all is refit, stays.
"""

import copy
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

RIDGE, TRIES, SPREAD, LAYERS = 1e-4, 40, 0.4, (nn.Linear, nn.Conv2d)


def moments(layer: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Second moments of what a layer reads at each place, a one last, and those with what it should give."""
    if isinstance(layer, nn.Conv2d):
        x = functional.unfold(x, layer.kernel_size, padding=layer.padding).transpose(1, 2).flatten(0, 1)
    rows, given = functional.pad(x, (0, 1), value=1.0), y.movedim(1, -1).flatten(0, -2)
    gram = (rows.T @ rows).double() / len(rows)
    gram.diagonal()[:-1] += RIDGE * gram.diagonal()[:-1].mean()
    return gram, (rows.T @ given).double() / len(rows)


def order(gram: Tensor, cross: Tensor, count: int) -> list[int]:
    """The channels that are read, the first to go first."""
    own, left, gone = torch.arange(len(gram) - 1).view(count, -1), list(range(count)), list[int]()
    while left:
        at = torch.cat([own[left].flatten(), torch.tensor([len(gram) - 1])])
        inverse = torch.linalg.inv(gram[at][:, at])
        parts = (inverse @ cross[at])[:-1].view(len(left), own.shape[1], -1)
        each = torch.stack([inverse[a][:, a] for a in torch.arange(len(at) - 1).view(len(left), -1)])
        gone.append(left.pop(int((parts * torch.linalg.solve(each, parts)).sum((1, 2)).argmin())))
    return gone


@torch.no_grad()
def shrunk(model: nn.Sequential, inputs: Tensor, targets: Tensor, budget: int, seed: int) -> nn.Sequential:
    """Return a network of at most so many parameters, of layers one behind the other."""
    reads, orders, at = [inputs], list[list[int]](), [i for i, one in enumerate(model) if isinstance(one, LAYERS)]
    for layer in model:
        reads.append(layer(reads[-1]))
    for before, now in pairwise(at):
        orders.append(order(*moments(model[now], reads[now], reads[now + 1]), len(model[before].weight)))
    full, generator = torch.tensor([len(one) for one in orders]), torch.Generator().manual_seed(seed)

    def size(of: Tensor) -> float:
        parts = zip([*(of / full), 1], [1, *(of / full)], (model[i] for i in at), strict=True)
        return sum(float(gives * (takes * one.weight.numel() + len(one.bias))) for gives, takes, one in parts)

    best, least, center = model, float("inf"), torch.zeros(len(full))
    for turn in range(TRIES):
        shares = center + SPREAD * (turn > 0) * torch.randn(len(full), generator=generator)
        tried = ((full * f * shares.exp()).long().clamp(min=1).minimum(full) for f in torch.logspace(-3, 2, 500))
        widths, x, smaller = [one for one in tried if size(one) <= budget][-1], inputs, copy.deepcopy(model)
        stay = {i: torch.tensor(sorted(o[-w:])) for i, o, w in zip(at[:-1], orders, widths, strict=True)}
        for place, layer in enumerate(model):
            if place in at:
                given = reads[place + 1][:, stay[place]] if place in stay else reads[place + 1]
                found = torch.linalg.solve(*moments(layer, x, given)).T.float()
                smaller[place].weight = nn.Parameter(found[:, :-1].reshape(len(found), -1, *layer.weight.shape[2:]))
                smaller[place].bias = nn.Parameter(found[:, -1].clone())
            x = smaller[place](x)
        if (loss := float(functional.cross_entropy(x, targets))) < least:
            best, least, center = smaller, loss, shares
    return best
