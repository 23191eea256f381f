"""Torch-Pruning 1.6.1 by its Taylor criterion, the same share of each block's inner channels; batch norms repaired.

Its other criteria are in `benchmarks/fitting/resnet8.py`; this is the best of them there, and repair is its better
setting.
"""

import torch
from blocks import copied, reestimate
from torch import Tensor, nn
from torch.nn import functional


def shrunk(model: nn.Module, images: Tensor, labels: Tensor, seed: int) -> nn.Module:
    """Return the network with half of each block's inner channels."""
    import torch_pruning as tp

    smaller = copied(model)
    inside = {block.conv1 for block in smaller.blocks}
    others = [one for one in smaller.modules() if isinstance(one, nn.Conv2d | nn.Linear) and one not in inside]
    pruner = tp.pruner.BasePruner(
        smaller, images[:2], tp.importance.GroupTaylorImportance(), pruning_ratio=0.5, ignored_layers=others
    )
    with torch.enable_grad():
        functional.cross_entropy(smaller(images), labels).backward()
    pruner.step()
    smaller.zero_grad()
    return reestimate(smaller, images)
