"""The cost model counts what is run, by hand."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import shrinknet as sn
from shrinknet.compensation.compensate import Compensation
from shrinknet.compensation.least_squares import RIDGE
from shrinknet.criteria.taylor_2 import Taylor2
from shrinknet.engine.gates import GatedNetwork, gated
from shrinknet.execution.cost_model import (
    Rates,
    Work,
    first_refit,
    forecast,
    forward_work,
    ranking_work,
    refit_work,
    replay_work,
    run_work,
)


def network_of(model: nn.Module, shape: tuple[int, ...]) -> GatedNetwork:
    return gated(sn.Task(model, "cross-entropy", (torch.randn(4, *shape), torch.arange(4) % 2)))


def test_a_forward_pass_and_a_replay_are_counted_by_hand() -> None:
    network = network_of(
        nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Conv2d(3, 5, 3), nn.Flatten(), nn.Linear(20, 2)), (1, 6, 6)
    )
    first, second, last = 3 * 9 * 16, 5 * 3 * 9 * 4, 20 * 2
    assert forward_work(network).macs == first + second + last
    by_name = {group.name: replay_work(network, group).macs for group in network.groups}
    assert by_name == {"0": second / 3 + last, "2": last / 5}, "a reader is changed by one channel's share of it"


def test_bytes_are_those_of_values_that_move_counted_by_hand() -> None:
    """Each value goes to memory once and comes back once; of a reader, what it gave is read too; float32 is 4 bytes."""
    network = network_of(
        nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Conv2d(3, 5, 3), nn.Tanh(), nn.Flatten(), nn.Linear(20, 2)),
        (1, 6, 6),
    )
    first, second, outputs = 4 * 3 * 16, 4 * 5 * 4, 4 * 2
    behind = 2 * 16 * second + 2 * outputs  # tanh takes as long as 16 of its bytes' moves; flatten moves nothing
    assert forward_work(network).bytes == 2 * (first + first + second) + behind
    loss = 6 * outputs
    by_name = {group.name: replay_work(network, group).bytes for group in network.groups}
    assert by_name == {"0": 3 * second + behind + loss, "2": 3 * outputs + loss}
    dense = network_of(nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 2)), (6,))
    assert replay_work(dense, dense.groups[0]).bytes == 3 * outputs + loss, "of the last layer, only what it gives"


def test_behind_the_last_hidden_layer_nothing_is_multiplied() -> None:
    network = network_of(nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 2)), (6,))
    assert replay_work(network, network.groups[0]).macs == 0


def test_a_ranking_is_a_pass_and_its_replays_and_a_run_is_fewer_and_fewer() -> None:
    network = network_of(nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)), (6,))
    replays = sum((replay_work(network, group).times(group.width) for group in network.groups), Work())
    whole = ranking_work(network, "ablation", 10)
    assert whole.macs == 10 * (forward_work(network).macs + replays.macs)
    behind = 4 * 3 + 3 * 2  # what is measured after a step, from the first reader on
    assert run_work(network, "ablation", 10, 1).macs == whole.macs + 10 * behind
    expected = 10 * (forward_work(network).macs + 5 * (1 - 4 / 14) * (replays.macs + behind))
    assert run_work(network, "ablation", 10, 5).macs == pytest.approx(expected), "one pass, kept; then fewer and fewer"
    assert ranking_work(network, "random", 10) == Work()


class Branching(nn.Module):
    """What `first` gives reaches the outputs through a sigmoid and beside it; what `second` gives in straight lines."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.beside, self.second, self.last = (nn.Linear(4, 4) for _ in range(4))

    def forward(self, x):
        x = self.first(x).relu()
        return self.last((self.beside(x) + self.second(x).sigmoid()).relu())


def test_a_second_order_ranking_goes_back_from_each_output_and_replays_what_is_no_straight_line() -> None:
    network = network_of(Branching(), (4,))
    cost = Taylor2().cost(network)
    assert [group.name for group in network.groups] == ["first", "beside"]
    assert [group.name for group in cost.replayed] == ["first"]
    assert list(cost.behind.values()) == [4], "the outputs"
    assert (cost.forward, cost.backward) == (2, 0), "one pass that is kept, one to go back from"
    assert cost.replays == 8


def test_a_refit_multiplies_what_is_counted() -> None:
    """Beside torch's own count of the products of a refit; the pass that it runs beside them is taken off.

    Where samples are few, each reader's ridge is chosen once a run, which the count leaves out.
    """
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Conv2d(3, 2, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(8, 5), nn.ReLU(),
        nn.Linear(5, 2),
    )  # fmt: skip
    task = sn.Task(model, "cross-entropy", (torch.randn(60, 1, 6, 6), torch.arange(60) % 2))
    network = gated(task)
    compensation = Compensation("least-squares", task, network, RIDGE)
    gone = [sn.Neuron("0", 0)]
    with FlopCounterMode(display=False) as counter:
        compensation.refit(network.without(gone), gone)
    behind = forward_work(network).macs - 3 * 9 * 16  # the first layer is not run again
    unknowns = (28, 9, 6)
    assert [len(reader.owners) + 1 for (reader,) in compensation.readers.values()] == list(unknowns)
    solved = sum(number**3 for number in unknowns)  # what torch does not count
    laid_out = 60 * 4 * 27 * 9  # patches are moved, which torch does with a convolution
    counted = 60 * (refit_work(network, 60).macs + behind) - solved + laid_out
    assert counter.get_total_flops() / 2 == pytest.approx(counted)


def test_time_is_work_over_rates_shared_by_workers() -> None:
    network = network_of(nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 2)), (6,))
    rates = Rates(macs=100.0, bytes=1000.0)
    one, two = (forecast(network, "ablation", 10, rates, workers=workers) for workers in (1, 2))
    assert one.seconds == one.work.macs / 100 + one.work.bytes / 1000
    assert two.seconds == one.seconds / 2
    assert one.plain_loop_seconds == pytest.approx(4 * 10 * rates.seconds(forward_work(network)))


def test_a_criterion_that_the_model_does_not_know_is_one_sentence() -> None:
    network = network_of(nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 2)), (6,))
    with pytest.raises(sn.BadInputError, match=r"^criterion must be one that says what it costs"):
        ranking_work(network, "taylor-2-diagonal", 10)


@pytest.mark.parametrize(("num_samples", "num_parts", "num_fits"), [(1000, 1, 0), (50, 5, 25)])
def test_a_first_refit_counts_the_fits_that_choose_a_ridge_by_hand(
    num_samples: int, num_parts: int, num_fits: int
) -> None:
    network = network_of(nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 2)), (6,))
    unknowns = 9 + 1
    work, num_bytes = first_refit(network, num_samples)
    assert num_bytes == num_parts * 8 * unknowns**2
    assert work.macs == refit_work(network, num_samples).macs * num_samples + num_fits * unknowns**3
