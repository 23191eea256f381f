"""GRAIL's linear reconstruction: what the channels that stay say of those that went, merged into the layer that reads.

    B = G[:, P] (G[P, P] + lambda I)^-1,   lambda = 1e-3 * mean diag G[P, P],   W' = W B

G holds the products of the inner channels with one another over calibration images and places. P is what stays: our
choice, the channels of which the layer that reads gets most, mean square times squared weights.
"""

import torch
from blocks import beside, copied, inner, keep
from torch import Tensor, nn

RIDGE = 1e-3


@torch.no_grad()
def shrunk(model: nn.Module, images: Tensor, labels: Tensor, seed: int) -> nn.Module:
    """Return the network with half of each block's inner channels."""
    smaller = copied(model)
    for _, other, _, now in beside(model, smaller, images):
        reads = inner(other, now).transpose(0, 1).flatten(1).double()
        products = reads @ reads.T / reads.shape[1]
        size = products.diagonal() * other.conv2.weight.double().square().sum((0, 2, 3))  # what its reader gets of it
        kept = size.topk(len(size) // 2).indices.sort().values
        among = products[kept][:, kept]
        among.diagonal().add_(RIDGE * among.diagonal().mean())
        said = torch.linalg.solve(among, products[kept]).float()  # [P, all]: B transposed
        weight = torch.einsum("ohxy,ph->opxy", other.conv2.weight, said)
        keep(other, kept)
        other.conv2.weight.data = weight.contiguous()
    return smaller
