"""A ResNet-20 and a MobileNetV2 of half width for CIFAR-10, trained once and kept.

    SHRINKNET_DATA=... python benchmarks/effort/networks.py [resnet20 resnet20-short mobilenetv2]

Images are CIFAR-10's, re-encoded as JPEG (see the data's own README): train and test on these alike. Stochastic
gradient descent with momentum, one cycle of the step size (Smith and Topin 2018), bfloat16 where the processor has
tiles for it (AMX), shifts by at most 4 pixels and flips.
Weights and the state after each epoch lie in `SHRINKNET_TRAINED` (default:
`~/.cache/shrinknet-benchmarks`), so that training goes on after a kill.
"""

import io
import os
import sys
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "zoo"))
SEED, PEAK, DECAY = 0, 0.1, 5e-4
EPOCHS = {"resnet20": 30, "resnet20-short": 12, "mobilenetv2": 12}
BATCHES = {"resnet20": 128, "resnet20-short": 128, "mobilenetv2": 64}

HAS_TILES = torch.cpu.get_capabilities().get("amx_bf16", False)
"""Without tiles, bfloat16 takes ten times as long as float32."""

COMPILED = {"mobilenetv2"}
"""Its convolutions with one channel a group use no tiles; compiled, an epoch takes about two thirds of the time."""

MEAN, DEVIATION = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


class Scaled(nn.Module):
    """Pixels 0 to 255 with mean 0 and deviation 1 of each colour."""

    def __init__(self) -> None:
        super().__init__()
        for name, values in (("mean", MEAN), ("deviation", DEVIATION)):
            self.register_buffer(name, 255 * torch.tensor(values).view(3, 1, 1))

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the scaled images."""
        return (pixels - self.mean) / self.deviation


class Block(nn.Module):
    """Two convolutions beside a shortcut (He et al. 2015)."""

    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut = nn.Sequential()
        if stride != 1:
            self.shortcut = nn.Sequential(nn.Conv2d(before, width, 1, stride, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's outputs."""
        inside = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        return (inside + self.shortcut(x)).relu()


def resnet20() -> nn.Module:
    """Return the untrained ResNet-20: 3 stages of 3 blocks, 16, 32 and 64 channels."""
    blocks, before = [], 16
    for width in (16, 32, 64):
        for number in range(3):
            blocks.append(Block(before, width, 2 if number == 0 and width > 16 else 1))
            before = width
    stem = nn.Sequential(nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
    return nn.Sequential(Scaled(), stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


def mobilenetv2() -> nn.Module:
    """Return torchvision's untrained MobileNetV2 at half width, with strides of 1 first and last for 32 x 32 pixels."""
    import cpu_torchvision  # noqa: F401  (lets torchvision import beside a CPU-only torch)
    from torchvision.models import mobilenet_v2

    model = mobilenet_v2(width_mult=0.5, num_classes=10, dropout=0.0)
    model.features[0][0].stride = (1, 1)
    model.features[14].conv[1][0].stride = (1, 1)
    return nn.Sequential(Scaled(), model)


NETWORKS = {"resnet20": resnet20, "resnet20-short": resnet20, "mobilenetv2": mobilenetv2}


def trained(name: str) -> nn.Module:
    """Return a trained network, in evaluation mode; it is trained first where it was not."""
    torch.manual_seed(SEED)
    model = NETWORKS[name]()
    path = folder() / f"{name}.pt"
    state = torch.load(path, weights_only=True) if path.exists() else None
    if state is None or state["epoch"] < EPOCHS[name]:
        train(model, name, path, state)
    else:
        model.load_state_dict(state["model"])
    return model.eval()


def folder() -> Path:
    """Return where trained networks are kept."""
    found = Path(os.environ.get("SHRINKNET_TRAINED", "~/.cache/shrinknet-benchmarks")).expanduser()
    found.mkdir(parents=True, exist_ok=True)
    return found


def cifar(part: str) -> tuple[Tensor, Tensor]:
    """Return pixels 0 to 255 (uint8 [N, 3, 32, 32]) and classes of `train` or `test`, as they lie in the file."""
    file = np.load(Path(os.environ["SHRINKNET_DATA"]) / "cifar10" / f"{part}.npz", allow_pickle=False)
    jpeg, ends = file["jpeg"], file["offset"]
    images = [np.asarray(Image.open(io.BytesIO(jpeg[a:b].tobytes()))) for a, b in pairwise(ends)]
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2), torch.from_numpy(file["label"].astype(np.int64))


def train(model: nn.Module, name: str, path: Path, state: dict | None) -> None:
    """Train, one epoch after another, each of which is kept."""
    inputs, targets = cifar("train")
    padded, test = nn.functional.pad(inputs, (4, 4, 4, 4)), cifar("test")
    model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), momentum=0.9, weight_decay=DECAY, nesterov=True)
    cycle = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, PEAK, epochs=EPOCHS[name], steps_per_epoch=len(inputs) // BATCHES[name], pct_start=0.25
    )
    parts = {"model": model, "optimizer": optimizer, "cycle": cycle}
    for key in parts if state is not None else ():
        parts[key].load_state_dict(state[key])
    fast = torch.compile(model) if name in COMPILED else model
    precision = torch.autocast("cpu", torch.bfloat16, enabled=HAS_TILES and name not in COMPILED)
    for epoch in range(0 if state is None else state["epoch"], EPOCHS[name]):
        started, generator = time.perf_counter(), torch.Generator().manual_seed(1000 * SEED + epoch)
        model.train()
        one_epoch(fast, padded, targets, optimizer, cycle, generator, BATCHES[name], precision)
        kept = {"epoch": epoch + 1, **{key: part.state_dict() for key, part in parts.items()}}
        torch.save(kept, path.with_suffix(".part"))
        path.with_suffix(".part").replace(path)
        print(f"{name}: epoch {epoch + 1}, accuracy {accuracy(model, test):.4f}, "
              f"{time.perf_counter() - started:.0f} s", flush=True)  # fmt: skip


def one_epoch(model, padded, targets, optimizer, cycle, generator, size, precision) -> None:
    """Train on every image once, each shifted and flipped by chance."""
    order = torch.randperm(len(targets), generator=generator)
    for rows in order[: len(order) // size * size].split(size):
        up, left = torch.randint(0, 9, (2,), generator=generator).tolist()
        batch = padded[rows, :, up : up + 32, left : left + 32].float()
        flipped = torch.rand(len(rows), generator=generator) < 0.5
        batch[flipped] = batch[flipped].flip(3)
        with precision:
            outputs = model(batch.contiguous(memory_format=torch.channels_last))
        loss = nn.functional.cross_entropy(outputs.float(), targets[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        cycle.step()


@torch.no_grad()
def accuracy(model: nn.Module, data: tuple[Tensor, Tensor]) -> float:
    """Return the share of right answers."""
    model.eval()
    batches = zip(data[0].split(500), data[1].split(500), strict=True)
    return sum(int((model(x.float()).argmax(1) == y).sum()) for x, y in batches) / len(data[1])


if __name__ == "__main__":
    for network in sys.argv[1:] or NETWORKS:
        print(f"{network}: accuracy {accuracy(trained(network), cifar('test')):.4f}")
