"""Laws of the order: exactly k, nested, ties fixed; goals and guards compare with the start; the oracle agrees."""

import itertools

import numpy as np
import pytest
import torch
import whole_idea
from hypothesis import given
from hypothesis import strategies as st
from networks import Drawn, networks
from torch import nn

import shrinknet as sn
from shrinknet.core.records import RaceResult, Tie, removed_by
from shrinknet.core.scores import Scores
from shrinknet.criteria import find_criterion
from shrinknet.engine.gates import gated
from shrinknet.run.choosing import remembered
from shrinknet.search.price import by_neuron
from shrinknet.search.racing import racing
from shrinknet.search.rank import Choice, Limits, clipped, ranked, takeable
from shrinknet.search.steps import Until


def removable(drawn: Drawn) -> int:
    return sum(group.width - 1 for group in drawn.network.groups)


@given(networks)
def test_the_order_is_that_of_the_whole_idea(drawn: Drawn) -> None:
    count = min(4, removable(drawn))
    run = sn.prune(drawn.task(), "ablation", "reranking", [sn.RemovedNeurons(count)])
    _, expected = whole_idea.shrink(drawn.model, drawn.inputs, drawn.targets, count)
    assert [(int(neuron.group), neuron.index) for neuron in run.plan.removed] == expected


@given(networks, st.sampled_from(["reranking", "single-ranking"]), st.integers(1, 3), st.data())
def test_exactly_k_go_one_of_each_group_stays_and_plans_are_nested(drawn: Drawn, method: str, step: int, data) -> None:
    count = data.draw(st.integers(0, removable(drawn)))
    run = sn.prune(drawn.task(), "taylor-1", method, [sn.RemovedNeurons(count)], step=step)
    assert len(run.plan.removed) == count
    assert run.is_met
    assert all((run.network.alive(group) >= 0).sum() >= 1 for group in run.network.groups)
    order = run.plan.removed + run.plan.remaining
    assert len(order) == len(set(order)) == removable(drawn)
    for k in range(count + 1):
        assert run.at(sn.RemovedNeurons(k)).plan.removed == run.plan.removed[:k]


@given(networks)
def test_smaller_goals_are_prefixes_of_larger_ones(drawn: Drawn) -> None:
    count = removable(drawn)
    longer = sn.prune(drawn.task(), "ablation", goals=[sn.RemovedNeurons(count)]).plan.removed
    shorter = sn.prune(drawn.task(), "ablation", goals=[sn.RemovedNeurons(count // 2)]).plan.removed
    assert longer[: len(shorter)] == shorter


@given(networks)
def test_same_seed_same_bits(drawn: Drawn) -> None:
    one, other = (sn.prune(drawn.task(), "taylor-2", goals=[sn.RemovedFraction(0.4)]) for _ in range(2))
    assert [(s.removed, s.scores, s.measures) for s in one.history] == [
        (s.removed, s.scores, s.measures) for s in other.history
    ]
    for name, tensor in one.model.state_dict().items():
        assert torch.equal(tensor, other.model.state_dict()[name])


def two_groups() -> tuple[sn.Task, object]:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    task = sn.Task(model, "cross-entropy", (torch.randn(8, 3), torch.arange(8) % 2))
    return task, gated(task)


def test_ties_break_by_group_and_index_and_nan_goes_last() -> None:
    _, network = two_groups()
    scores = Scores({"0": np.array([0.0, np.nan, 0.0, -1.0]), "2": np.array([0.0, 0.0, -1.0])}, "loss")
    order = [(neuron.group, neuron.index) for neuron, _ in ranked(network, scores)]
    assert order == [("0", 3), ("2", 2), ("0", 0), ("0", 2), ("2", 0), ("2", 1), ("0", 1)]


def test_dead_neurons_all_tie_at_zero_and_only_as_many_go_as_asked() -> None:
    model = nn.Sequential(nn.Linear(3, 10), nn.ReLU(), nn.Linear(10, 2))
    with torch.no_grad():
        model[0].bias[:4] = -1000
    task = sn.Task(model, "cross-entropy", (torch.randn(8, 3), torch.arange(8) % 2))
    run = sn.prune(task, "taylor-2", "single-ranking", [sn.RemovedNeurons(2)])
    scores = dict(sn.rank(task, "taylor-2"))
    assert [scores[sn.Neuron("0", index)] for index in range(4)] == [0, 0, 0, 0]
    assert len(run.plan.removed) == 2


def test_the_last_neuron_of_a_group_is_passed_over() -> None:
    _, network = two_groups()
    order = [(sn.Neuron("2", i), 0.0) for i in range(3)] + [(sn.Neuron("0", i), 1.0) for i in range(4)]
    assert [str(neuron) for neuron, _ in takeable(network, order, 4)] == ["2[0]", "2[1]", "0[0]", "0[1]"]


def wide_task() -> sn.Task:
    """A convolution of 22 channels, each read in 4 places, and a dense layer of 20 units."""
    model = nn.Sequential(
        nn.Conv2d(1, 22, 2), nn.ReLU(), nn.Flatten(), nn.Linear(22 * 4, 20), nn.ReLU(), nn.Linear(20, 3)
    )
    return sn.Task(model, "cross-entropy", (torch.randn(12, 1, 3, 3), torch.arange(12) % 3))


def test_the_block_of_least_rise_for_each_neuron_goes() -> None:
    _, network = two_groups()
    order = [(sn.Neuron("2", 0), 0.4), *((sn.Neuron("0", i), float(i)) for i in range(4)), (sn.Neuron("2", 1), 9.0)]
    order = sorted(order, key=lambda pair: pair[1])
    assert [str(neuron) for neuron, _ in takeable(network, order, 1, Limits(2))] == ["2[0]"], "0.4 < (0 + 1) / 2"
    assert [str(neuron) for neuron, _ in takeable(network, order, 3, Limits(2))] == ["2[0]", "0[0]", "0[1]"]
    dearer = [(neuron, 0.6 if neuron.group == "2" else score) for neuron, score in order]
    assert [str(neuron) for neuron, _ in takeable(network, dearer, 1, Limits(2))] == ["0[0]", "0[1]"], "0.6 > 1 / 2"
    assert [str(neuron) for neuron, _ in takeable(network, order, 9, Limits(min_neurons=3))] == ["0[0]"]
    prices = by_neuron(network, Limits(2))
    assert takeable(network, dearer, 9, Limits(2), prices) == takeable(network, dearer, 9, Limits(2))


def test_blocks_that_tie_go_in_the_order_in_which_they_are_whole() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    network = gated(sn.Task(model, "cross-entropy", (torch.randn(8, 3), torch.arange(8) % 2)))
    words = ["0[0]", "2[0]", "2[1]", "0[1]", "0[2]", "0[3]", "2[2]", "2[3]"]
    order = [(sn.Neuron(word[0], int(word[2])), 0.5) for word in words]
    assert [str(neuron) for neuron, _ in takeable(network, order, 1, Limits(2))] == ["2[0]", "2[1]"]
    assert [str(neuron) for neuron, _ in takeable(network, order, 4, Limits(2))] == ["2[0]", "2[1]", "0[0]", "0[1]"]
    same = [(sn.Neuron("2", 0), 0.25), (sn.Neuron("0", 0), 0.25), (sn.Neuron("0", 1), 0.75), (sn.Neuron("2", 1), 0.75)]
    assert [str(neuron) for neuron, _ in takeable(network, same, 1, Limits(2))] == ["0[0]", "0[1]"]


def test_a_neuron_of_several_elements_keeps_every_axis_at_a_multiple() -> None:
    network = gated(wide_task())
    conv, dense = network.groups

    def blocks(limits: Limits, group: sn.Group, *alive: int) -> list[int]:
        return [limits.block([group], {group.name: left}).get(group.name, 0) for left in alive]

    assert blocks(Limits(8), conv, 22, 16, 8) == [6, 8, 0]
    assert [blocks(Limits(4, least), dense, 20) for least in (1, 17, 13)] == [[4], [0], [4]]


@pytest.mark.parametrize("ties", [(), (Tie(("0", "3"), ("test",)),)], ids=["apart", "tied"])
def test_what_stays_at_least_is_what_is_left_once_no_block_can_go(ties: tuple[Tie, ...]) -> None:
    network = gated(wide_task())
    for multiple, least, gone in itertools.product((1, 2, 3, 8), (1, 2, 5, 17), (0, 1, 3)):
        limits = Limits(multiple, least, ties)
        for bundle in limits.bundles(network.groups):
            left = start = {group.name: group.width - gone for group in bundle}
            while block := limits.block(bundle, left):
                left = {name: left[name] - block[name] for name in left}
            assert limits.smallest(bundle, start) == left


@pytest.mark.parametrize("method", ["reranking", "single-ranking"])
def test_widths_stay_multiples_in_the_run_and_in_its_whole_family(method: str) -> None:
    run = sn.prune(wide_task(), "taylor-1", method, [sn.RemovedNeurons(9)], multiple_of=8, min_neurons=8)
    assert run.is_met
    assert len(run.plan.removed) >= 9, "blocks: at least as many as asked for"
    for step in run.history[1:]:
        assert step.removed
    family = [run, *(run.at(sn.RemovedNeurons(count)) for count in (1, 12, 20, 26))]
    for member in family:
        widths = {group.name: len(member.network.alive(group)) for group in member.network.groups}
        assert all(width in {22, 20} or width % 8 == 0 for width in widths.values()), widths
        assert min(widths.values()) >= 8
    end = sn.prune(wide_task(), "taylor-1", method, multiple_of=8, min_neurons=9)
    assert end.reason == "nothing more can go with multiple_of=8, min_neurons=9"
    assert {group.name: len(end.network.alive(group)) for group in end.network.groups} == {"0": 16, "3": 16}


@pytest.mark.parametrize("wrong", [0, -8, True])
def test_limits_are_whole_numbers(wrong: object) -> None:
    for argument in ("multiple_of", "min_neurons"):
        with pytest.raises(
            sn.BadInputError, match=rf"^{argument} must be a whole number of at least 1\. Got {wrong!r}\."
        ):
            sn.prune(wide_task(), **{argument: wrong})


@pytest.mark.parametrize("is_race", [True, False])
def test_a_choice_is_made_once_for_each_network_and_a_race_for_each_count(is_race: bool) -> None:
    """The first of a race are sure, as many as were wanted: who wants more has to race again; an order serves all."""
    _, network = two_groups()
    asked = []

    def choose(network, count):
        asked.append((int(network.present.sum()), count))
        return Choice([], RaceResult((), count, 8) if is_race else None)

    once = remembered(choose)
    first = once(network, 1)
    assert once(network, 1) is first
    assert (once(network, 2) is first) != is_race
    whole = int(network.present.sum())
    assert asked == ([(whole, 1), (whole, 2)] if is_race else [(whole, 1)])
    once(network.without([sn.Neuron("0", 0)]), 2)
    assert asked[-1] == (whole - 1, 2), "another network is another choice"


def test_a_race_gives_way_to_a_ranking_where_who_wins_is_not_enough(monkeypatch) -> None:
    """Blocks of several neurons, and more wanted than may go."""
    task, network = two_groups()
    looked = []

    def score(network):
        looked.append(1)
        return find_criterion("ablation").score(network, task.calibration)

    assert racing(score, None, [task.calibration], 1.0, None, Limits())(network, 1).race is not None
    assert not looked
    blocks = racing(score, None, [task.calibration], 1.0, None, Limits(2))(network, 1)
    assert blocks.race is None
    assert len(looked) == 1
    assert len(blocks.order) == 7
    monkeypatch.setattr("shrinknet.search.racing.race", None)  # nobody races
    for count in (7, 8):
        assert len(racing(score, None, [task.calibration], 1.0, None, Limits())(network, count).order) == 7


def test_clipping_sets_steep_scores_to_the_threshold() -> None:
    _, network = two_groups()
    network = network.without([sn.Neuron("0", 3), sn.Neuron("2", 1), sn.Neuron("2", 2)])
    scores = Scores({"0": np.array([1.0, -2.0, 3.0, 0.0]), "2": np.array([-10.0, 0.0, 0.0])}, "loss")
    by_mean, by_median = clipped(network, scores, "mean"), clipped(network, scores, "median")
    np.testing.assert_array_equal(by_mean.values["0"][:3], [1, -2, 3])
    np.testing.assert_array_equal(by_mean.values["2"][:1], [4])
    np.testing.assert_array_equal(by_median.values["0"][:3], [1, -2, 3])
    np.testing.assert_array_equal(by_median.values["2"][:1], [3])
    assert clipped(network, scores, "none") is scores


def test_clipping_looks_at_the_neurons_that_are_left() -> None:
    """Neurons already gone score 0; were they counted, the threshold would fall to 0 half-way."""
    run = sn.prune(easy_task(), "ablation", clip="median")
    assert all(score != 0 for step in run.history for score in step.scores)


def easy_task() -> sn.Task:
    torch.manual_seed(1)
    inputs = torch.randn(120, 4).double()
    targets = (inputs[:, 0] > 0).long() + 2 * (inputs[:, 1] > 0).long()
    model = nn.Sequential(nn.Linear(4, 12), nn.Tanh(), nn.Linear(12, 4)).double()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    for _ in range(150):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), targets).backward()
        optimizer.step()
    return sn.Task(model, "cross-entropy", (inputs, targets), (inputs, targets))


@pytest.mark.parametrize(
    ("guard", "fall"),
    [
        (sn.AccuracyDrop(0.02), lambda start, end: start.metrics["accuracy"] - end.metrics["accuracy"] <= 0.02),
        (sn.LossRise(0.3), lambda start, end: end.validation_loss - start.validation_loss <= 0.3),
        (sn.WorstClassRecall("5%"), lambda start, end: start.worst_class_recall - end.worst_class_recall <= 0.05),
        (sn.ClassRecall("60%"), lambda start, end: end.worst_class_recall >= 0.6),
    ],
)
def test_a_guard_compares_with_the_start_and_undoes_the_step_that_breaks_it(guard, fall) -> None:
    task = easy_task()
    run = sn.prune(task, guards=[guard])
    start = run.history[0].measures
    assert len(run.plan.removed) > 1
    assert all(fall(start, step.measures) for step in run.history)
    one_more = sn.prune(task, goals=[sn.RemovedNeurons(len(run.plan.removed) + 1)])
    assert guard.broken(start, one_more.measures)
    assert not fall(start, one_more.measures)
    assert run.reason.startswith("the next step would break the guard: ")
    assert run.is_met, "without a goal, a guard is how a run is meant to end"


def measured(accuracy: float, *recalls: float) -> sn.Measures:
    return sn.Measures(0.0, 1.0, sn.Costs(9, 1, 1, 1, 1), {"accuracy": accuracy}, recalls or (accuracy,))


@pytest.mark.parametrize("guard", [sn.AccuracyDrop, sn.WorstClassRecall])
def test_a_guard_is_not_broken_by_the_rounding_of_shares(guard) -> None:
    """A fall of just as many samples as are allowed is allowed, however their shares are rounded; of one more, not."""
    for fall, right in itertools.combinations(range(1, 101), 2):
        start, now, less = (measured(count / 100) for count in (right, right - fall, right - fall - 1))
        assert not guard(fall / 100).broken(start, now)
        assert guard(fall / 100).broken(start, less)


def test_a_floor_of_recall_is_not_broken_by_the_rounding_of_a_mean() -> None:
    mean = sum([0.1] * 8)
    assert mean < 0.8, "eight tenths, added up"
    assert not sn.ClassRecall(0.8).broken(measured(1.0), measured(1.0, mean))
    assert sn.ClassRecall(0.8).broken(measured(1.0), measured(1.0, 0.7999))


def test_losses_creep_up_yet_the_guard_looks_at_the_start() -> None:
    """Each step alone rises by less than the guard allows; together they do not."""
    steps = [sn.Step(k, (), (), sn.Measures(0.0, 1 + 0.1 * k, sn.Costs(9 - k, 1, 1, 1, 1)), 0.0) for k in range(6)]
    search = Until(steps[1:], steps[0], [], [sn.LossRise(0.25)], steps[0])
    assert [step.number for step in search] == [1, 2]
    assert search.reason == "the next step would break the guard: loss at most 0.25 above the start"
    resumed = Until(steps[2:], steps[0], [], [sn.LossRise(0.25)], steps[1])
    assert [step.number for step in resumed] == [2], "a resumed run compares with the start, not with where it resumed"


def test_a_goal_behind_a_guard_is_not_met() -> None:
    run = sn.prune(easy_task(), goals=[sn.RemovedNeurons(11)], guards=[sn.LossRise(0.3)])
    assert not run.is_met
    assert 0 < len(run.plan.removed) < 11


def test_several_goals_are_all_reached() -> None:
    run = sn.prune(easy_task(), goals=[sn.RemovedNeurons(2), sn.NumParameters(60)])
    assert run.measures.costs.num_parameters <= 60
    assert len(run.plan.removed) >= 2


def test_the_whole_curve_goes_on_and_still_hands_back_the_goals_network() -> None:
    run = sn.prune(easy_task(), goals=[sn.RemovedNeurons(3)], whole_curve=True)
    assert len(removed_by(run.history)) == 11
    assert len(run.plan.removed) == 3
    assert run.model[0].out_features == 9
    assert run.plan.removed + run.plan.remaining == removed_by(run.history)


@pytest.mark.parametrize("whole_curve", [False, True])
def test_exactly_k_go_whatever_the_step(whole_curve: bool) -> None:
    run = sn.prune(easy_task(), goals=[sn.RemovedNeurons(5)], step=3, whole_curve=whole_curve)
    assert len(run.plan.removed) == 5
    sizes = [len(step.removed) for step in run.history]
    assert sizes == ([0, 3, 2, 3, 3] if whole_curve else [0, 3, 2])


def test_single_ranking_scores_once_and_reranking_every_time() -> None:
    calls = []

    class Counting(sn.Criterion):
        name = "counting"

        def observe(self, network, batch):
            calls.append(1)
            return {group.name: torch.arange(group.width).double() for group in network.groups}

        def conclude(self, network, sums):
            return sums

    sn.prune(easy_task(), Counting(), "single-ranking", [sn.RemovedNeurons(4)])
    assert len(calls) == 1
    calls.clear()
    sn.prune(easy_task(), Counting(), "reranking", [sn.RemovedNeurons(4)])
    assert len(calls) == 5, "four removals, and the order of what is left"
    calls.clear()
    sn.prune(easy_task(), Counting(), "reranking", [sn.RemovedNeurons(4)], step=2)
    assert len(calls) == 3
