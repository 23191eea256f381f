"""Real trained networks: MLPerf Tiny's three and ST's activity network, rebuilt in torch from their published weights.

The folder of real data is named by the environment variable SHRINKNET_DATA. Weights are named as in Keras: kernels
HWIO (depthwise HWC1, dense [in, out]); batch norm epsilon 0.001; "same" padding puts the extra row and column at the
end.
"""

import itertools
import os
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

TINY = "mlperf-tiny"


def data_folder() -> Path:
    """Return the folder of real data."""
    return Path(os.environ["SHRINKNET_DATA"])


class Block(nn.Module):
    """Two convolutions beside a shortcut."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.stride = 1 if before == after else 2
        self.conv1 = nn.Conv2d(before, after, 3, self.stride, padding=1 if self.stride == 1 else 0)
        self.norm1, self.norm2 = (nn.BatchNorm2d(after, eps=0.001) for _ in range(2))
        self.conv2 = nn.Conv2d(after, after, 3, padding=1)
        self.shortcut = nn.Identity() if before == after else nn.Conv2d(before, after, 1, 2)

    def forward(self, x):
        y = x if self.stride == 1 else functional.pad(x, (0, 1, 0, 1))
        y = self.norm2(self.conv2(torch.relu(self.norm1(self.conv1(y)))))
        return torch.relu(self.shortcut(x) + y)


class ResNet8(nn.Module):
    """MLPerf Tiny's image classifier: CIFAR-10, pixels 0 to 255."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16, eps=0.001)
        self.blocks = nn.Sequential(Block(16, 16), Block(16, 32), Block(32, 64))
        self.head = nn.Linear(64, 10)

    def forward(self, x):
        x = self.blocks(torch.relu(self.norm(self.stem(x))))
        return self.head(functional.avg_pool2d(x, 8).flatten(1))


class Separable(nn.Module):
    """A depthwise and a pointwise convolution, each with its norm."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.depthwise = nn.Conv2d(before, before, 3, stride, padding=1 if stride == 1 else 0, groups=before)
        self.norm1, self.norm2 = nn.BatchNorm2d(before, eps=0.001), nn.BatchNorm2d(after, eps=0.001)
        self.pointwise = nn.Conv2d(before, after, 1)

    def forward(self, x):
        x = x if self.stride == 1 else functional.pad(x, (0, 1, 0, 1))
        return torch.relu(self.norm2(self.pointwise(torch.relu(self.norm1(self.depthwise(x))))))


class MobileNet(nn.Module):
    """MLPerf Tiny's visual wake words: MobileNetV1 at a quarter of its width, 96 x 96 pixels from 0 to 1."""

    WIDTHS = (8, 16, 32, 32, 64, 64, 128, 128, 128, 128, 128, 128, 256, 256)
    STRIDES = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1)

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8, eps=0.001)
        widths = zip(self.WIDTHS, self.WIDTHS[1:], self.STRIDES, strict=False)
        self.blocks = nn.Sequential(*(Separable(before, after, stride) for before, after, stride in widths))
        self.head = nn.Linear(256, 2)

    def forward(self, x):
        x = self.blocks(torch.relu(self.norm(self.stem(functional.pad(x, (0, 1, 0, 1))))))
        return self.head(x.mean((2, 3)))


def autoencoder() -> nn.Sequential:
    """MLPerf Tiny's anomaly detector: 640-128-128-128-128-8-128-128-128-128-640."""
    widths, layers = (640, 128, 128, 128, 128, 8, 128, 128, 128, 128), list[nn.Module]()
    for before, after in itertools.pairwise(widths):
        layers += [nn.Linear(before, after), nn.BatchNorm1d(after, eps=0.001), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(128, 640))


class Activity(nn.Module):
    """ST's network for human activity: 26 samples of acceleration along 3 axes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv1d(3, 16, 3), nn.Conv1d(16, 8, 3)
        self.dense1, self.dense2 = nn.Linear(176, 64), nn.Linear(64, 3)

    def forward(self, x):
        x = torch.relu(self.conv2(torch.relu(self.conv1(x))))
        return self.dense2(torch.relu(self.dense1(x.transpose(1, 2).flatten(1))))


def resnet8() -> nn.Module:
    """Return the trained ResNet8."""
    return _filled(ResNet8(), data_folder() / TINY / "image_classification" / "pretrainedResnet.npz")


def mobilenet() -> nn.Module:
    """Return the trained MobileNet."""
    return _filled(MobileNet(), data_folder() / TINY / "visual_wake_words" / "vww_96.npz")


def trained_autoencoder() -> nn.Module:
    """Return the trained autoencoder."""
    return _filled(autoencoder(), data_folder() / TINY / "anomaly_detection" / "ad01.npz")


def activity() -> nn.Module:
    """Return the trained activity network."""
    return _filled(Activity(), data_folder() / "sensor" / "stm32_har_model.npz")


def _filled(model: nn.Module, path: Path) -> nn.Module:
    """Fill a network whose layers come in the order of the file's, kind by kind."""
    arrays = np.load(path, allow_pickle=False)
    numbers: dict[str, int] = {}
    for module in _in_keras_order(model):
        kind = _keras_kind(module)
        number = numbers[kind] = numbers.get(kind, -1) + 1
        name = f"{kind}_{number}" if number else kind
        with torch.no_grad():
            _fill(module, {key.split("/")[1]: arrays[key] for key in arrays.files if key.split("/")[0] == name})
    return model.eval()


def _in_keras_order(model: nn.Module) -> list[nn.Module]:
    """A Keras block numbers its shortcut after its two convolutions, as these classes declare them."""
    return [
        module
        for module in model.modules()
        if isinstance(module, nn.Linear | nn.modules.conv._ConvNd | nn.modules.batchnorm._BatchNorm)
    ]


def _keras_kind(module: nn.Module) -> str:
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        return "batch_normalization"
    if isinstance(module, nn.Linear):
        return "dense"
    if isinstance(module, nn.Conv1d):
        return "conv1d"
    return "depthwise_conv2d" if module.groups > 1 else "conv2d"


def _fill(module: nn.Module, arrays: dict[str, np.ndarray]) -> None:
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        names = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}
        for theirs, ours in names.items():
            getattr(module, ours).copy_(tensors[theirs])
        return
    module.bias.copy_(tensors.pop("bias"))
    (kernel,) = tensors.values()
    if isinstance(module, nn.Linear):
        kernel = kernel.T
    elif isinstance(module, nn.Conv1d):
        kernel = kernel.permute(2, 1, 0)
    elif module.groups > 1:
        kernel = kernel.permute(2, 3, 0, 1)
    else:
        kernel = kernel.permute(3, 2, 0, 1)
    module.weight.copy_(kernel)
