"""Model folding (Wang et al. 2025), then one epoch of training on all 50,000 training images with their labels.

Adam, whose rate rises for a tenth of the steps and falls along half a cosine; flips and shifts. This rival sees what no
other does: labels, and fifty times as many images.
"""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1] / "effort"))

import torch
from folding import shrunk as folded
from networks import BATCH, cifar
from torch import Tensor, nn
from torch.nn import functional

RATE = 1e-3


def shrunk(model: nn.Module, images: Tensor, labels: Tensor, seed: int) -> nn.Module:
    """Return the network with half of each block's inner channels, trained."""
    return one_epoch(folded(model, images, labels, seed), seed)


def one_epoch(smaller: nn.Module, seed: int) -> nn.Module:
    """Return a network trained on all training images once."""
    inputs, targets = cifar("train")
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(smaller.parameters(), RATE)
    batches = torch.randperm(len(targets), generator=generator).split(BATCH)
    pace = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=len(batches), pct_start=0.1)
    padded = functional.pad(inputs, (4, 4, 4, 4))
    smaller.train()
    for rows in batches:
        up, left = torch.randint(0, 9, (2,), generator=generator).tolist()
        seen = padded[rows, :, up : up + 32, left : left + 32].float()
        flipped = torch.rand(len(rows), generator=generator) < 0.5
        seen[flipped] = seen[flipped].flip(3)
        optimizer.zero_grad()
        functional.cross_entropy(smaller(seen), targets[rows]).backward()
        optimizer.step()
        pace.step()
    return smaller.eval()
