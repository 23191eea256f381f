"""Laws of lazy evaluation: what goes in one step is what would go one at a time; each score is of its own moment."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from networks import Drawn, dense_networks, networks
from torch import nn

import shrinknet as sn
from shrinknet.compensation.compensate import compensation_of
from shrinknet.compensation.none import NoCompensation
from shrinknet.core.scores import Scores
from shrinknet.criteria import find_criterion
from shrinknet.engine.gates import GatedNetwork, gated
from shrinknet.search.lazily import SCORED_AGAIN, lazily
from shrinknet.search.price import by_neuron
from shrinknet.search.rank import Limits, ranked

NUM_HIDDEN = 40


def dearer_task(seed: int) -> sn.Task:
    """Whatever goes makes all others dearer: parts that are never negative are missing from a sum that was right."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(5, NUM_HIDDEN), nn.Sigmoid(), nn.Linear(NUM_HIDDEN, 1)).double()
    with torch.no_grad():
        model[2].weight.abs_()
    inputs = torch.randn(60, 5).double()
    return sn.Task(model, "squared-error", (inputs, model(inputs).detach()))


@pytest.mark.parametrize("seed", range(4))
def test_where_removals_only_make_others_dearer_it_is_the_order_of_one_at_a_time(seed: int) -> None:
    task = dearer_task(seed)
    one, many = (sn.prune(task, goals=[sn.RemovedNeurons(30)], step=step) for step in (1, 10))
    assert many.plan.removed == one.plan.removed
    assert [len(step.removed) for step in many.history] == [0, 10, 10, 10]
    scores = [[score for step in run.history for score in step.scores] for run in (one, many)]
    np.testing.assert_allclose(scores[1], scores[0], rtol=1e-9, atol=1e-15)


@given(networks, st.integers(2, 5))
def test_what_a_step_raises_the_loss_by_is_the_sum_of_its_scores(drawn: Drawn, step: int) -> None:
    count = sum(group.width - 1 for group in drawn.network.groups)
    run = sn.prune(drawn.task(), goals=[sn.RemovedNeurons(count)], step=step)
    losses = [one.measures.calibration_loss for one in run.history]
    sums = [sum(one.scores) for one in run.history[1:]]
    np.testing.assert_allclose(np.diff(losses), sums, rtol=1e-6, atol=1e-7 * max(1.0, *losses))


def test_far_fewer_are_scored_than_by_a_ranking_after_each() -> None:
    task, scored = dearer_task(0), list[int]()
    network, ablation = gated(task), find_criterion("ablation")

    def score(now: GatedNetwork) -> Scores:
        scored.append(sum(len(now.scored(group)) for group in now.groups))
        return ablation.score(now, task.calibration.batches())

    choice = lazily(score, Limits(), by_neuron, NoCompensation(network))(network, 10)
    assert choice.is_settled
    assert len(choice.order) == 10
    assert scored[0] == NUM_HIDDEN
    assert max(scored[1:]) <= SCORED_AGAIN
    assert sum(scored) < sum(range(31, 41)) / 2, "as many as one at a time would score"


def test_one_neuron_or_all_take_one_ranking() -> None:
    task = dearer_task(1)
    network, scored = gated(task), list[Scores]()

    def score(now: GatedNetwork) -> Scores:
        scored.append(find_criterion("ablation").score(now, task.calibration.batches()))
        return scored[-1]

    for count in (1, NUM_HIDDEN):
        scored.clear()
        choice = lazily(score, Limits(), by_neuron, NoCompensation(network))(network, count)
        assert choice.order == ranked(network, scored[0])
        assert len(scored) == 1
        assert not choice.is_settled


def twins_task() -> sn.Task:
    """Neuron 1 does what neuron 0 does, neuron 2 a little of its own: two of the lowest scores are the twins'."""
    model = nn.Sequential(nn.Linear(2, 4, bias=False), nn.ReLU(), nn.Linear(4, 2, bias=False)).double()
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]))
        model[2].weight.copy_(torch.tensor([[0.5, 0.5, 0.0, 0.0], [0.0, 0.0, 0.8, 5.0]]))
    inputs = torch.rand(50, 2, generator=torch.Generator().manual_seed(0)).double()
    return sn.Task(model, "squared-error", (inputs, model(inputs).detach()))


def test_twins_do_not_go_together() -> None:
    network = gated(twins_task())
    scores = find_criterion("ablation").score(network, twins_task().calibration.batches()).values["0"]
    assert set(np.argsort(scores)[:2]) == {0, 1}, "by scores alone both twins go"
    run = sn.prune(twins_task(), goals=[sn.RemovedNeurons(2)], step=2)
    assert {neuron.index for neuron in run.plan.removed} == {0, 2}


def test_twins_do_not_go_together_where_readers_make_up_for_what_is_gone() -> None:
    """Either twin costs nothing, as the other makes up for it; with one gone the other costs most."""
    run = sn.prune(twins_task(), goals=[sn.RemovedNeurons(2)], step=2, compensate="least-squares")
    assert len({neuron.index for neuron in run.plan.removed} & {0, 1}) == 1
    one = sn.prune(twins_task(), goals=[sn.RemovedNeurons(2)], compensate="least-squares")
    assert run.plan.removed == one.plan.removed


@given(dense_networks())
def test_where_readers_are_refit_the_first_of_a_step_are_those_of_one_at_a_time(drawn: Drawn) -> None:
    """The slow twin: what is chosen first, second and third, each with the ones before gone and readers refit."""
    task = drawn.task()
    count = min(3, sum(group.width - 1 for group in drawn.network.groups))
    many = sn.prune(task, goals=[sn.RemovedNeurons(count)], step=3, compensate="least-squares")
    ends_anew = compensation_of("least-squares", task, gated(task))
    for neuron, score in zip(many.plan.removed, many.history[1].scores, strict=True):
        scores = find_criterion("ablation").score(ends_anew.scoring(ends_anew.latest), task.calibration.batches())
        assert score == pytest.approx(scores[neuron], rel=1e-6, abs=1e-9)
        ends_anew.refit(ends_anew.latest.without([neuron]), [neuron])


@pytest.mark.parametrize("how", [{"clip": "mean"}, {"method": "single-ranking"}, {"criterion": "taylor-2"}])
def test_where_scores_are_not_what_one_costs_the_lowest_go(how: dict[str, str]) -> None:
    run = sn.prune(twins_task(), goals=[sn.RemovedNeurons(2)], step=2, **how)
    assert {neuron.index for neuron in run.plan.removed} == {0, 1}


def test_workers_choose_the_same(tmp_path) -> None:
    task = dearer_task(2)
    how = {"goals": [sn.RemovedNeurons(12)], "step": 6}
    here = sn.prune(task, **how)
    there = sn.prune(task, **how, scoring=sn.Scoring(executor="processes", workers=2), out=tmp_path / "run")
    assert there.plan.removed == here.plan.removed
    assert [step.scores for step in there.history] == [step.scores for step in here.history]
