"""Model folding (Wang et al. 2025, "Forget the data and fine-tuning! Just fold the network to compress", ICLR).

Channels that compute about the same are merged: k-means clusters their weights; of each cluster the mean stays, and
what read its members reads the mean by the sum of their weights. Batch norms are folded with their channels, and their
statistics are repaired on data, which is their better setting.
"""

import torch
from blocks import copied, keep, reestimate
from sklearn.cluster import KMeans
from torch import Tensor, nn


@torch.no_grad()
def shrunk(model: nn.Module, images: Tensor, labels: Tensor, seed: int) -> nn.Module:
    """Return the network with half of each block's inner channels."""
    smaller = copied(model)
    for block in smaller.blocks:
        fold(block, seed)
    return reestimate(smaller, images)


def fold(block: nn.Module, seed: int, share: float = 0.5) -> None:
    """Merge the inner channels of a block to that share of them."""
    conv, norm, reads = block.conv1, block.norm1, block.conv2.weight.detach()
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    shift = norm.bias + scale * (conv.bias - norm.running_mean)
    computed = torch.cat([conv.weight.flatten(1) * scale[:, None], shift[:, None]], 1)
    count = int(share * len(computed))
    cluster = torch.from_numpy(KMeans(count, n_init=10, random_state=seed).fit_predict(computed)).long()
    member = torch.nn.functional.one_hot(cluster, count).float().T
    mean = (member @ computed) / member.sum(1, keepdim=True)
    keep(block, torch.arange(len(member)))
    block.conv1.weight.data = mean[:, :-1].reshape(block.conv1.weight.shape)
    block.conv1.bias.data.zero_()
    block.norm1.weight.data.fill_(1.0)
    block.norm1.bias.data = mean[:, -1].clone()
    block.norm1.running_mean.zero_()
    block.norm1.running_var.fill_(1 - block.norm1.eps)
    block.conv2.weight.data = torch.einsum("ohxy,ch->ocxy", reads, member).contiguous()
