"""A real trained network on real images: MLPerf Tiny's ResNet8, as its makers trained it, on CIFAR-10."""

import io

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import shrinknet as sn

NUM_IMAGES = 1200


class Block(nn.Module):
    """Two convolutions beside a shortcut; "same" padding puts the extra row and column at the end, as in Keras."""

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
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16, eps=0.001)
        self.blocks = nn.Sequential(Block(16, 16), Block(16, 32), Block(32, 64))
        self.head = nn.Linear(64, 10)

    def forward(self, x):
        x = self.blocks(torch.relu(self.norm(self.stem(x))))
        return self.head(functional.avg_pool2d(x, 8).flatten(1))


@pytest.fixture(scope="module")
def resnet8(request) -> nn.Module:
    import os
    from pathlib import Path

    if "SHRINKNET_DATA" not in os.environ:
        pytest.skip("the environment variable SHRINKNET_DATA names no folder of real data")
    path = Path(os.environ["SHRINKNET_DATA"]) / "mlperf-tiny" / "image_classification" / "pretrainedResnet.npz"
    arrays, model = np.load(path), ResNet8()
    one, two, three = model.blocks
    convs = [
        model.stem,
        one.conv1,
        one.conv2,
        two.conv1,
        two.conv2,
        two.shortcut,
        three.conv1,
        three.conv2,
        three.shortcut,
    ]
    norms = [model.norm, one.norm1, one.norm2, two.norm1, two.norm2, three.norm1, three.norm2]
    with torch.no_grad():
        for number, conv in enumerate(convs):
            name = f"conv2d_{number}" if number else "conv2d"
            conv.weight.copy_(torch.from_numpy(arrays[f"{name}/kernel"].transpose(3, 2, 0, 1)))
            conv.bias.copy_(torch.from_numpy(arrays[f"{name}/bias"]))
        for number, norm in enumerate(norms):
            name = f"batch_normalization_{number}" if number else "batch_normalization"
            for ours, theirs in (
                ("weight", "gamma"),
                ("bias", "beta"),
                ("running_mean", "moving_mean"),
                ("running_var", "moving_variance"),
            ):
                getattr(norm, ours).copy_(torch.from_numpy(arrays[f"{name}/{theirs}"]))
        model.head.weight.copy_(torch.from_numpy(arrays["dense/kernel"].T))
        model.head.bias.copy_(torch.from_numpy(arrays["dense/bias"]))
    return model.eval()


@pytest.fixture(scope="module")
def images() -> tuple[torch.Tensor, torch.Tensor]:
    import os
    from pathlib import Path

    from PIL import Image

    file = np.load(Path(os.environ["SHRINKNET_DATA"]) / "cifar10" / "test.npz")
    chosen = np.random.default_rng(0).permutation(len(file["label"]))[:NUM_IMAGES]
    jpeg, offset = file["jpeg"], file["offset"]
    pixels = [np.asarray(Image.open(io.BytesIO(jpeg[offset[k] : offset[k + 1]].tobytes()))) for k in chosen]
    inputs = torch.from_numpy(np.stack(pixels).astype(np.float32)).permute(0, 3, 1, 2).contiguous()
    return inputs, torch.from_numpy(file["label"][chosen].astype(np.int64))


def test_every_channel_of_resnet8_can_go_but_the_outputs(resnet8) -> None:
    traced = sn.trace(resnet8, torch.randn(2, 3, 32, 32))
    widths = {group.name: group.width for group in traced.groups}
    assert widths == {
        "stem": 16, "blocks.0.conv1": 16, "blocks.1.conv1": 32, "blocks.1.conv2": 32, "blocks.2.conv1": 64,
        "blocks.2.conv2": 64,
    }  # fmt: skip
    stem = {part.parameter for part in traced.groups[0].slices if part.role == "writes"}
    assert "blocks.0.conv2.weight" in stem, "the residual sum couples the stem with the first block's output"


def test_resnet8_is_shrunk_proven_and_still_knows_its_images(resnet8, images) -> None:
    inputs, targets = images
    rows = [(inputs[a:b], targets[a:b]) for a, b in ((0, 128), (400, 800), (800, 1200))]
    task = sn.Task(resnet8, "cross-entropy", *rows)
    run = sn.prune(task, "ablation", goals=[sn.RemovedNeurons(12)], guards=[sn.AccuracyDrop("5%")], step=3)
    start, end = run.history[0].measures, run.measures
    assert start.validation_accuracy > 0.7
    assert start.costs.num_parameters + 2 * 240 == 78666, "its makers count the running statistics too"
    assert run.is_met
    assert end.costs.num_parameters < 0.92 * start.costs.num_parameters
    assert run.verification.holds
    assert run.test.accuracy_before - run.test.accuracy_after < 0.05
    small = run.model
    assert sum(parameter.numel() for parameter in small.parameters()) == end.costs.num_parameters
    again = float((small(rows[2][0]).argmax(1) == rows[2][1]).double().mean())
    assert again == pytest.approx(run.test.accuracy_after, abs=2.6e-3)
