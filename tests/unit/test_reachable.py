"""Goals that no network within the limits reaches end at once, before anything is scored."""

import pytest
import torch
from torch import nn

import shrinknet as sn
from shrinknet.core.errors import BadInputError


@pytest.fixture
def task() -> sn.Task:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
    return sn.Task(model, "cross-entropy", (torch.randn(20, 4), torch.arange(20) % 3))


@pytest.mark.parametrize(("goal", "least", "options"), [
    (sn.RemovedNeurons(15), "at least 2 of 16 neurons stay", {}),
    (sn.RemovedFraction(0.9), "at least 4 of 16 neurons stay", {"min_neurons": 2}),
    (sn.RemovedFraction(0.95), "at least 1 of 8 neurons stay", {"only": "0"}),
    (sn.NumParameters(12), "at least 13 of 139 parameters stay", {}),
    (sn.Macs(60), "at least 109 of 120 MACs stay", {"keep": ["0"], "min_neurons": 7}),
    (sn.FlashBytes(100), "bytes of flash stay", {}),
], ids=str)  # fmt: skip
def test_what_cannot_be_reached_is_refused_before_the_search(task, goal, least, options, tmp_path) -> None:
    why = r".*, whatever goes \(layers that are frozen or kept, and what every group keeps, hold the rest\)"
    with pytest.raises(BadInputError, match=least + why):
        sn.prune(task, "magnitude", goals=[goal], out=tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


def test_a_goal_out_of_reach_is_found_behind_one_within_it(task) -> None:
    with pytest.raises(BadInputError, match=r"at least 13 of 139 parameters stay"):
        sn.prune(task, "magnitude", goals=[sn.RemovedNeurons(3), sn.NumParameters(12)])


def test_the_whole_curve_is_drawn_all_the_same(task) -> None:
    assert not sn.prune(task, "magnitude", goals=[sn.NumParameters(12)], whole_curve=True).is_met


def test_the_smallest_network_is_within_reach(task) -> None:
    assert sn.prune(task, "magnitude", goals=[sn.RemovedNeurons(14), sn.NumParameters(13)]).is_met
