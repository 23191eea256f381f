"""Where the samples lie in a value: what a batch gives there is what each sample gives alone."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import shrinknet as sn
from shrinknet.engine.gates import GatedNetwork, gated
from shrinknet.engine.replay import Replay
from shrinknet.engine.route import route
from shrinknet.engine.sampled import slopes_and_curvatures
from shrinknet.engine.samples import Samples

ROWS = 3


class Merging(nn.Module):
    """A dense layer over samples and positions on one axis, in either order."""

    def __init__(self, positions_first: bool) -> None:
        super().__init__()
        self.positions_first, self.inside, self.out = positions_first, nn.Linear(6, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = x.transpose(0, 1) if self.positions_first else x
        flat = torch.addmm(self.out.bias, self.inside(x.reshape(-1, 6)).relu(), self.out.weight.T)
        flat = flat.view(*x.shape[:2], 4)
        return (flat.transpose(0, 1) if self.positions_first else flat).mean(1)


class Windows(nn.Module):
    """Windows of an image beside the samples, shifted, as in a Swin transformer."""

    def __init__(self) -> None:
        super().__init__()
        self.inside, self.out = nn.Linear(6, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = x.view(-1, 2, 2, 2, 6).roll((1, 1), (1, 2)).view(-1, 2, 2, 2, 6)
        windows = x.permute(0, 3, 1, 2, 4).reshape(-1, 4, 6)
        attended = (windows @ windows.transpose(1, 2)).softmax(-1) @ self.inside(windows).relu()
        return self.out(attended).view(-1, 8, 4).mean(1)


class Encoder(nn.Module):
    """An encoder of torch's own, whose attention merges samples with positions and with heads."""

    def __init__(self, batch_first: bool) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0, batch_first=batch_first)
        self.given, self.encoder = nn.Linear(6, 8), nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.out, self.batch_first = nn.Linear(8, 4), batch_first

    def forward(self, x: Tensor) -> Tensor:
        x = self.given(x)
        x = self.encoder(x if self.batch_first else x.transpose(0, 1))
        return self.out(x.mean(1 if self.batch_first else 0))


class Shuffled(nn.Module):
    """The merged axis is turned round in between: nobody knows whose row is whose."""

    def __init__(self) -> None:
        super().__init__()
        self.inside, self.out = nn.Linear(6, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        flat = self.inside(x.transpose(0, 1).reshape(-1, 6)).relu().flip(0).flip(0)
        return self.out(flat).view(8, -1, 4).mean(0)


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "samples outside": lambda: Merging(False),
    "positions outside": lambda: Merging(True),
    "windows": Windows,
    "encoder, batch first": lambda: Encoder(True),
    "encoder, positions first": lambda: Encoder(False),
}


def network_of(make: Callable[[], nn.Module]) -> tuple[GatedNetwork, sn.Task]:
    model = make().eval()
    task = sn.Task(model, "cross-entropy", (torch.randn(ROWS, 8, 6), torch.tensor([0, 1, 2])), batch_size=ROWS)
    return gated(task), task


@pytest.mark.parametrize("name", NETWORKS)
def test_what_a_batch_gives_is_what_each_sample_gives_alone(name: str) -> None:
    network, task = network_of(NETWORKS[name])
    program = network.program
    (batch,) = task.calibration.batches()
    together = program.run(batch.inputs, None, keep=True)
    alone = [program.run(row.inputs, None, keep=True) for row in batch.split(1)]
    merged = {node: one for node, one in program.samples.items() if not one.are_alone}
    assert merged
    assert any(one.outer > 1 for one in merged.values()) == (name not in ("samples outside", "windows"))
    for node, samples in program.samples.items():
        if isinstance(together[node], Tensor):
            rows = samples.gathered(together[node])
            for row, values in zip(rows, alone, strict=True):
                torch.testing.assert_close(row, samples.gathered(values[node])[0])


@pytest.mark.parametrize("name", NETWORKS)
def test_gates_of_each_sample_are_those_of_the_sample_alone(name: str) -> None:
    network, task = network_of(NETWORKS[name])
    assert network.program.has_samples_apart
    (batch,) = task.calibration.batches()

    def signs(like: Tensor) -> Tensor:
        return torch.ones_like(like)

    slopes, curvatures = slopes_and_curvatures(network, batch, 1, signs)
    parts = [slopes_and_curvatures(network, row, 1, signs) for row in batch.split(1)]
    torch.testing.assert_close(slopes, torch.cat([part[0] for part in parts]))
    torch.testing.assert_close(curvatures, torch.cat([part[1] for part in parts], 1))
    apart = {group.name: read for group, read in network.readings(batch)}
    for row, one in enumerate(batch.split(1)):
        for group, read in network.readings(one):
            torch.testing.assert_close(apart[group.name][row], read[0])


@pytest.mark.parametrize("name", NETWORKS)
def test_candidates_are_folded_into_the_samples(name: str) -> None:
    network, task = network_of(NETWORKS[name])
    (batch,) = task.calibration.batches()
    replay, before = Replay(network, batch), network.losses(batch)
    for group in network.groups:
        assert route(network.passes.program, network.trace.ids_of(group)).has_lanes, group.name
        rises = replay.rises(group, torch.arange(group.width))
        for index in range(group.width):
            after = network.without([sn.Neuron(group.name, index)]).losses(batch)
            torch.testing.assert_close(rises[index], after - before, rtol=1e-4, atol=1e-6)


def test_what_is_not_known_is_not_taken_for_known() -> None:
    network, task = network_of(Shuffled)
    assert not network.program.has_samples_apart
    (batch,) = task.calibration.batches()
    before = network.losses(batch)
    (group,) = network.groups
    rises = Replay(network, batch).rises(group, torch.arange(group.width))
    for index in range(group.width):
        after = network.without([sn.Neuron(group.name, index)]).losses(batch)
        torch.testing.assert_close(rises[index], after - before, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("axis", [0, 1])
def test_images_in_every_lane_keep_their_channels_last(axis: int) -> None:
    """What lies beside a replay is added to what it gives; of another layout that takes several times as long."""
    images = torch.rand(3, 2, 5, 4).contiguous(memory_format=torch.channels_last)
    lanes = Samples(axis).repeated(images, 2)
    assert torch.equal(lanes, torch.cat([images, images], axis))
    assert lanes.is_contiguous(memory_format=torch.channels_last)
