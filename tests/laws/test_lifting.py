"""1-D operators as 2-D ones of height 1: the same values, the same int8 file as the network written with Conv2d."""

import re
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import shrinknet as sn
from shrinknet.export.inference import by_torch
from shrinknet.export.lifting import AS_IT_IS, TALLER, TURNED, lifted
from shrinknet.graph.operators import operator_name

FLAT = {"conv1d", "conv_transpose1d", "max_pool1d", "avg_pool1d", "adaptive_avg_pool1d", "adaptive_max_pool1d"}


class Sensor(nn.Module):
    """A depthwise-separable block with a residual connection, as sensors' networks have."""

    def __init__(self, channels: int = 6, width: int = 8) -> None:
        super().__init__()
        self.stem, self.stem_norm = nn.Conv1d(channels, width, 5, padding=2), nn.BatchNorm1d(width)
        self.depthwise, self.norm = (
            nn.Conv1d(width, width, 3, padding=2, dilation=2, groups=width),
            nn.BatchNorm1d(width),
        )
        self.pointwise, self.head = nn.Conv1d(width, width, 1), nn.Linear(width, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.stem_norm(self.stem(x)))
        x = x + self.pointwise(torch.relu(self.norm(self.depthwise(x))))
        return self.head(x.mean(-1))


class Turned(nn.Module):
    """Rows are (samples, places, channels), as loggers write them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv1d(6, 8, 4, stride=2), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.conv(x.transpose(1, 2))).amax(-1))


class Between(nn.Module):
    """Dense layers along the channels stand before and behind the convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.conv = nn.Linear(6, 8), nn.Conv1d(8, 4, 3, stride=2)
        self.behind, self.head = nn.Linear(4, 5), nn.Linear(35, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(torch.relu(self.before(x)).transpose(1, 2))
        return self.head(torch.relu(self.behind(x.transpose(1, 2))).flatten(1))


class Everything(nn.Module):
    """Each operator that is lifted or carried, and some that are neither."""

    def __init__(self) -> None:
        super().__init__()
        self.even, self.odd = nn.Conv1d(6, 8, 4, padding="same"), nn.Conv1d(8, 8, 3, padding="same", dilation=2)
        self.grouped, self.up = nn.Conv1d(8, 8, 3, groups=4, padding="valid"), nn.ConvTranspose1d(8, 4, 4, 2, 1)
        self.norm, self.scale = nn.BatchNorm1d(8), nn.Parameter(torch.rand(8, 1))
        self.gate, self.head = nn.Conv1d(8, 8, 1), nn.Linear(29, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.scale * self.norm(self.odd(self.even(F.pad(x, (3, 0))))).contiguous()
        x = self.grouped(x)[:, :, :-1] * torch.sigmoid(self.gate(x.mean(2, keepdim=True)))
        pooled = torch.cat([F.max_pool1d(x, 3, 2, 1), F.avg_pool1d(x, 2, ceil_mode=True)[:, :, :8]], 1)
        halves = F.adaptive_avg_pool1d(x, 2).flatten(1) + F.adaptive_max_pool1d(x, 2).reshape(-1, 16)
        ends = [
            self.up(x)[:, :, :1].squeeze(-1),
            halves,
            F.adaptive_max_pool1d(x, 1).squeeze(2),
            pooled.mean((1, 2))[:, None],
        ]
        return self.head(torch.cat(ends, 1))


class PerPlace(nn.Module):
    """An answer for every place."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv1d(6, 8, 3, padding=1), nn.Conv1d(8, 3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.conv(x)))


class Pictures(nn.Module):
    """2-D operators in other spellings: padding by a word, pooling by a mean."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 8, 3, padding="same", dilation=2), nn.Conv2d(8, 8, (4, 1), padding="same")
        self.head = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.two(torch.relu(self.one(x)))).mean((2, 3)))


def rows_of(model: nn.Module) -> tuple[int, ...]:
    if isinstance(model, Pictures):
        return (3, 8, 8)
    return (16, 6) if isinstance(model, Turned | Between) else (6, 16)


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize(("kind", "takes"), [
    (Sensor, TALLER), (Turned, TURNED), (Between, AS_IT_IS), (Everything, TALLER), (PerPlace, TALLER), (Pictures, AS_IT_IS),
], ids=lambda one: getattr(one, "__name__", None))  # fmt: skip
def test_a_lifted_network_computes_the_same(kind: type[nn.Module], takes: str) -> None:
    torch.manual_seed(0)
    model = kind().double().eval()
    rows = torch.randn(5, *rows_of(model), dtype=torch.float64)
    network = sn.trace(model, rows).module
    names = {node.name for node in network.graph.nodes}
    taller = lifted(network, rows)
    assert taller.takes == takes
    assert torch.allclose(taller.around(by_torch(taller.module))(rows), by_torch(model)(rows), rtol=0, atol=1e-12)
    assert not FLAT & {operator_name(node) for node in taller.module.graph.nodes}
    assert torch.allclose(by_torch(network)(rows), by_torch(model)(rows), atol=1e-12), (
        "the network itself stays as it is"
    )
    written = [node for node in taller.module.graph.nodes if operator_name(node) in {"conv2d", "avg_pool2d"}]
    assert written
    assert names.issuperset(node.name for node in written), "what is known of values is known by their names"


def test_a_network_of_images_stays_as_it_is() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)).eval()
    rows = torch.randn(2, 1, 8, 8)
    network = sn.trace(model, rows).module
    taller = lifted(network, rows)
    assert not taller.is_lifted
    assert taller.given(rows)[0] is rows
    assert [node.target for node in taller.module.graph.nodes] == [node.target for node in network.graph.nodes]


def shipped(model: nn.Module, inputs: torch.Tensor, path: Path) -> tuple[sn.Manifest, bytes]:
    """The int8 file of a network a third of whose neurons are gone."""
    targets = torch.arange(len(inputs)) % 3
    run = sn.prune(
        sn.Task(model.eval(), "cross-entropy", (inputs, targets)),
        "magnitude",
        "single-ranking",
        goals=[sn.RemovedFraction(0.3)],
        step=10,
    )
    return run.export("cortex-m", path, quantize="int8"), path.read_bytes()


def operators_of(content: bytes) -> set[str]:
    return {found.decode() for found in re.findall(rb"(?:aten|cortex_m|dim_order_ops)::[a-z_0-9]+", content)}


def assert_forecast(manifest: sn.Manifest) -> None:
    assert manifest.float_operators == ()
    assert manifest.num_bytes == pytest.approx(manifest.forecast_bytes, rel=0.02)
    assert manifest.arena_bytes == pytest.approx(manifest.forecast_arena_bytes, rel=0.02)
    assert manifest.difference.holds


def test_a_sensors_network_ships_the_file_of_the_one_written_with_conv2d(tmp_path) -> None:
    pytest.importorskip("tosa_serializer")
    torch.manual_seed(0)
    one = nn.Sequential(
        nn.Conv1d(6, 16, 5, padding=2), nn.BatchNorm1d(16), nn.ReLU(), nn.MaxPool1d(2),
        nn.Conv1d(16, 24, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(24, 3),
    )  # fmt: skip
    two = nn.Sequential(
        nn.Conv2d(6, 16, (1, 5), padding=(0, 2)), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d((1, 2)),
        nn.Conv2d(16, 24, (1, 3), padding=(0, 1)), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 3),
    )  # fmt: skip
    two.load_state_dict({name: one.state_dict()[name].reshape(value.shape) for name, value in two.state_dict().items()})
    rows = torch.randn(96, 6, 64)
    lifted_file, content = shipped(one, rows, tmp_path / "one.pte")
    image_file, other = shipped(two, rows.unsqueeze(2), tmp_path / "two.pte")
    assert content == other
    assert lifted_file.arena_bytes == image_file.arena_bytes
    assert all(name.startswith("cortex_m::") for name in operators_of(content))
    assert_forecast(lifted_file)
    assert lifted_file.inputs[0].shape == (1, 6, 1, 64), "the manifest says how the file takes its rows"
    assert any("of height 1" in note for note in lifted_file.notes)
    assert not any("of height 1" in note for note in image_file.notes)


@pytest.mark.parametrize(("kind", "others"), [
    (Sensor, set()), (Turned, set()), (Pictures, set()), (PerPlace, {"dim_order_ops::_clone_dim_order"}),
    (Between, {"aten::permute_copy", "aten::squeeze_copy", "aten::unsqueeze_copy", "dim_order_ops::_clone_dim_order"}),
], ids=lambda one: getattr(one, "__name__", None))  # fmt: skip
def test_networks_of_sensors_are_int8_throughout(kind: type[nn.Module], others: set[str], tmp_path) -> None:
    """What moves int8 values in memory is all that is no kernel of the device's own."""
    pytest.importorskip("tosa_serializer")
    torch.manual_seed(0)
    model = kind()
    rows = torch.randn(24, *rows_of(model))
    if kind is PerPlace:
        model = nn.Sequential(model, nn.Flatten(), nn.Linear(48, 3))
    manifest, content = shipped(model, rows, tmp_path / "net.pte")
    assert {name for name in operators_of(content) if not name.startswith("cortex_m::")} == others
    assert_forecast(manifest)
