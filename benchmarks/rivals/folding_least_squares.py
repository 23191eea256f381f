"""Model folding (Wang et al. 2025), the layer that reads what was merged then refit by least squares, block by block.

Each reader is set to what gives, of what it now reads on the calibration images, what it gave in the whole network.
"""

import torch
from blocks import beside, copied, inner, refit
from folding import fold
from torch import Tensor, nn


@torch.no_grad()
def shrunk(model: nn.Module, images: Tensor, labels: Tensor, seed: int) -> nn.Module:
    """Return the network with half of each block's inner channels."""
    smaller = copied(model)
    for block, other, before, now in beside(model, smaller, images):
        fold(other, seed)
        refit(other, inner(other, now), block.conv2(inner(block, before)))
    return smaller
