"""The small zoo: networks of every kind, proven as `python benchmarks/zoo` proves the large one."""

import pytest
import torch
from architectures import SMALL, TORCHVISION, TRAINED, Architecture
from prove import prove

LEAST_REACH = {"convolutional": 0.9, "transformer": 0.8, "recurrent": 0.9, "dense": 0.9}
QUICK = [one for one in TORCHVISION if one.name in {"resnet18", "shufflenet_v2_x0_5", "mobilenet_v3_small"}]


@pytest.mark.parametrize("architecture", [*SMALL, *QUICK], ids=lambda one: one.name)
def test_the_small_zoo_is_proven(architecture: Architecture) -> None:
    row = prove(architecture)
    assert row.is_proven, row.reason
    assert row.reachable_parameters >= LEAST_REACH[row.kind]
    assert row.removed_parameters > 0.1


@pytest.mark.parametrize("architecture", TRAINED, ids=lambda one: one.name)
def test_real_trained_networks_are_proven(architecture: Architecture, real_data) -> None:
    row = prove(architecture)
    assert row.is_proven, row.reason
    assert row.reachable_parameters >= LEAST_REACH[row.kind]


def test_the_same_seed_builds_the_same_network() -> None:
    one, other = (SMALL[0].build()[0].state_dict() for _ in range(2))
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())
