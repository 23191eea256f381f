"""The small zoo: networks of every kind, proven as `python benchmarks/zoo` proves the large one."""

from contextlib import AbstractContextManager
from functools import partial

import pytest
import torch
from architectures import SMALL, TORCHVISION, TRAINED, Architecture
from prove import prove
from torch import nn

import shrinknet as sn
from shrinknet.core.folder import RunFolder
from shrinknet.export.exported_program import pt2_bytes
from shrinknet.graph.trace import export_program, trace
from shrinknet.loading.models import load_model
from shrinknet.run.checking import check_files
from shrinknet.run.opening import reopened

LEAST_REACH = {"convolutional": 0.9, "transformer": 0.8, "recurrent": 0.9, "dense": 0.9}
QUICK = [one for one in TORCHVISION if one.name in {"resnet18", "shufflenet_v2_x0_5", "mobilenet_v3_small"}]


@pytest.mark.parametrize("architecture", [*SMALL, *QUICK], ids=lambda one: one.name)
def test_the_small_zoo_is_proven(architecture: Architecture) -> None:
    row = prove(architecture)
    assert row.is_proven, row.reason
    assert row.reachable_parameters >= LEAST_REACH[row.kind]
    assert row.removed_parameters > 0.1


READ_BACK = {"U-Net", "LSTM tagger", "channel shuffle", "SwiGLU block, grouped queries", "ViT"}


@pytest.mark.parametrize("architecture", [one for one in SMALL if one.name in READ_BACK], ids=lambda one: one.name)
def test_what_is_written_is_read_back_to_the_bit(architecture: Architecture, tmp_path) -> None:
    """Attention, recurrence, buffers and free batch sizes pass the reader that trusts no file."""
    model, inputs = architecture.build()
    program = export_program(model, inputs)
    (tmp_path / "net.pt2").write_bytes(pt2_bytes(program))
    loaded = load_model(str(tmp_path / "net.pt2"))
    with torch.no_grad():
        assert torch.equal(loaded.model(*inputs), program.module()(*inputs))
    assert trace(loaded.model, loaded.example_inputs).groups == trace(model, inputs).groups


class Odd(nn.Module):
    """A region in another mode, and a buffer that the class does not save, by which a bias is read."""

    def __init__(self, region: type[AbstractContextManager] | partial) -> None:
        super().__init__()
        self.one, self.two, self.three = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.bias, self.region = nn.Parameter(torch.randn(3)), region
        self.register_buffer("places", torch.tensor([2, 0, 1]), persistent=False)

    def forward(self, x):
        x = torch.relu(self.one(x))
        with self.region():
            x = torch.relu(self.two(x))
        return self.three(x) + self.bias[self.places]


@pytest.mark.parametrize("region", [partial(torch.autocast, "cpu", enabled=False), torch.no_grad])
def test_a_run_of_an_odd_network_is_verified_from_its_own_files(region, tmp_path) -> None:
    torch.manual_seed(0)
    rows = torch.randn(20, 4), torch.arange(20) % 3
    run = sn.prune(sn.Task(Odd(region), "cross-entropy", rows), "magnitude", goals=[sn.RemovedNeurons(3)])
    run.save(tmp_path / "run")
    loaded = load_model(str(tmp_path / "run" / "original.pt2"))
    again = reopened(RunFolder.open(tmp_path / "run"), sn.Task(loaded.model, "cross-entropy", rows))
    found = check_files(again)
    assert {"model.pt2", "model.safetensors"} <= found.keys()
    assert all(one.holds for one in found.values())


@pytest.mark.parametrize("architecture", TRAINED, ids=lambda one: one.name)
def test_real_trained_networks_are_proven(architecture: Architecture, real_data) -> None:
    row = prove(architecture)
    assert row.is_proven, row.reason
    assert row.reachable_parameters >= LEAST_REACH[row.kind]


def test_the_same_seed_builds_the_same_network() -> None:
    one, other = (SMALL[0].build()[0].state_dict() for _ in range(2))
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())
