"""What the rivals share: the inner widths of ResNet8's blocks, what is read there, and a ridge regression."""

import copy
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional


def inner(block: nn.Module, x: Tensor) -> Tensor:
    """Return what a block's second convolution reads."""
    y = x if block.stride == 1 else functional.pad(x, (0, 1, 0, 1))
    return torch.relu(block.norm1(block.conv1(y)))


@torch.no_grad()
def beside(
    model: nn.Module, smaller: nn.Module, images: Tensor
) -> Iterator[tuple[nn.Module, nn.Module, Tensor, Tensor]]:
    """Yield each block of both networks with what it reads in each; of the smaller one, as the blocks before it are."""
    x, z = (torch.relu(net.norm(net.stem(images))) for net in (model, smaller))
    for block, other in zip(model.blocks, smaller.blocks, strict=True):
        yield block, other, x, z
        x, z = block(x), other(z)


def keep(block: nn.Module, kept: Tensor) -> None:
    """Leave the other inner channels of a block out."""
    block.conv1 = _conv(block.conv1, block.conv1.weight[kept], block.conv1.bias[kept])
    block.conv2 = _conv(block.conv2, block.conv2.weight[:, kept], block.conv2.bias)
    norm = nn.BatchNorm2d(len(kept), eps=block.norm1.eps)
    norm.load_state_dict({
        name: value if value.dim() == 0 else value[kept] for name, value in block.norm1.state_dict().items()
    })  # fmt: skip
    block.norm1 = norm.eval()


def _conv(like: nn.Conv2d, weight: Tensor, bias: Tensor) -> nn.Conv2d:
    made = nn.Conv2d(weight.shape[1], weight.shape[0], like.kernel_size, like.stride, like.padding)
    made.weight.data, made.bias.data = weight.detach().clone(), bias.detach().clone()
    return made


def patches(x: Tensor) -> Tensor:
    """Return what a 3 x 3 convolution reads at each place, and a one: [rows x places, channels x 9 + 1]."""
    rows = functional.unfold(x, 3, padding=1).transpose(1, 2).flatten(0, 1)
    return torch.cat([rows, rows.new_ones(len(rows), 1)], 1)


def refit(block: nn.Module, reads: Tensor, wanted: Tensor, ridge: float = 1e-4) -> None:
    """Set a block's second convolution to what gives, of what it reads, what is wanted: least squares with a ridge."""
    rows, targets = patches(reads).double(), wanted.permute(0, 2, 3, 1).flatten(0, 2).double()
    moments = rows.T @ rows
    moments.diagonal()[:-1] += ridge * moments.diagonal()[:-1].mean()
    weight = torch.linalg.solve(moments, rows.T @ targets).T.float()
    block.conv2.weight.data = weight[:, :-1].reshape(len(weight), -1, 3, 3).contiguous()
    block.conv2.bias.data = weight[:, -1].contiguous()


@torch.no_grad()
def reestimate(model: nn.Module, images: Tensor) -> nn.Module:
    """Take the statistics of every batch norm anew (REPAIR, Jordan et al. 2023)."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    for rows in images.split(250):
        model(rows)
    return model.eval()


def copied(model: nn.Module) -> nn.Module:
    """Return a copy that may be changed."""
    return copy.deepcopy(model).eval()
