"""Random small networks for the laws: dense and plain convolutional, as hypothesis draws them."""

import itertools
from dataclasses import dataclass

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

import shrinknet as sn
from shrinknet.engine.gates import gated

ACTIVATIONS = (nn.ReLU, nn.Sigmoid, nn.Tanh, nn.GELU, nn.SiLU, nn.LeakyReLU, nn.Softplus, nn.Hardswish, nn.PReLU)


class Residual(nn.Module):
    """A stem whose neurons are read in three places, one behind another."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.inner = nn.Conv2d(6, 4, 1)
        self.back = nn.Conv2d(4, 6, 1)
        self.act = nn.ReLU(inplace=True)
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        x = self.act(self.norm(self.stem(x)))
        x = self.act(x + self.back(self.act(self.inner(x))))
        return self.head(x.mean((2, 3)))


@dataclass(frozen=True)
class Drawn:
    """A network in float64 with random weights, random statistics and some rows of data."""

    model: nn.Sequential
    inputs: Tensor
    targets: Tensor

    def task(self, loss: str = "cross-entropy", **options: object) -> sn.Task:
        return sn.Task(self.model, loss, (self.inputs, self.targets), **options)

    @property
    def network(self):
        return gated(self.task())

    def __repr__(self) -> str:
        return f"{self.model} on {tuple(self.inputs.shape)}"


def randomised(model: nn.Sequential) -> nn.Sequential:
    """No bias and no statistic stays at its tidy first value, so that nothing hides."""
    model = model.double().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.normal_(0, 0.5)
    return model


@st.composite
def dense_networks(draw, activations=ACTIVATIONS) -> Drawn:
    torch.manual_seed(draw(st.integers(0, 2**16)))
    widths = [draw(st.integers(2, 5)), *draw(st.lists(st.integers(2, 6), min_size=1, max_size=3)), 3]
    layers: list[nn.Module] = []
    for place, (before, after) in enumerate(itertools.pairwise(widths)):
        layers.append(nn.Linear(before, after, bias=draw(st.booleans())))
        if place < len(widths) - 2:
            layers.append(draw(st.sampled_from(activations))())
            if draw(st.booleans()):
                layers.append(nn.Dropout())
    inputs = torch.randn(draw(st.integers(3, 9)), widths[0], dtype=torch.float64)
    return Drawn(randomised(nn.Sequential(*layers)), inputs, torch.randint(0, 3, (len(inputs),)))


@st.composite
def conv_networks(draw) -> Drawn:
    torch.manual_seed(draw(st.integers(0, 2**16)))
    channels, size = draw(st.integers(1, 3)), 8
    layers: list[nn.Module] = []
    first = channels
    for _ in range(draw(st.integers(1, 2))):
        after = draw(st.integers(2, 5))
        kernel, stride = draw(st.sampled_from([(1, 1), (3, 1), (3, 2)]))
        layers.append(
            nn.Conv2d(channels, after, kernel, stride, padding=draw(st.integers(0, 1)), bias=draw(st.booleans()))
        )
        channels = after
        if draw(st.booleans()):
            layers.append(nn.BatchNorm2d(channels))
        if draw(st.booleans()):
            layers.append(nn.Conv2d(channels, channels, 3, padding="same", groups=channels))
        layers.append(draw(st.sampled_from(ACTIVATIONS[:6]))())
    if draw(st.booleans()):
        layers.append(draw(st.sampled_from([nn.MaxPool2d(2, ceil_mode=True), nn.AvgPool2d(2, ceil_mode=True)])))
    layers += [nn.AdaptiveAvgPool2d(draw(st.integers(1, 2))), nn.Flatten()]
    body = nn.Sequential(*layers)
    inputs = torch.randn(draw(st.integers(3, 6)), first, size, size, dtype=torch.float64)
    flat = body.double().eval()(inputs).shape[1]
    layers += [nn.Linear(flat, 3)]
    return Drawn(randomised(nn.Sequential(*layers)), inputs, torch.randint(0, 3, (len(inputs),)))


networks = st.one_of(dense_networks(), conv_networks())
