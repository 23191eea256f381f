"""How far goals say a run is, and what a guard says of where it starts."""

from dataclasses import FrozenInstanceError, fields

import pytest

import shrinknet as sn
from shrinknet.search import goals, guards


def measures(neurons: int = 9, parameters: int = 1, *recalls: float) -> sn.Measures:
    return sn.Measures(0.0, 1.0, sn.Costs(neurons, parameters, 1, 1, 1), {"accuracy": 1.0}, recalls or (1.0,))


@pytest.mark.parametrize("goal", [sn.RemovedNeurons(4), sn.RemovedFraction("40%")])
def test_progress_is_the_share_of_the_neurons_that_are_gone(goal) -> None:
    assert [goal.progress(measures(10), measures(left)) for left in (10, 8, 6)] == [0, 0.5, 1]


def test_progress_of_a_budget_is_the_share_of_the_way_down() -> None:
    goal = sn.NumParameters(40)
    assert [goal.progress(measures(9, 100), measures(9, now)) for now in (100, 70, 40, 10)] == [0, 0.5, 1, 1]
    assert goal.progress(measures(9, 40), measures(9, 40)) == 1, "a budget that is met from the start"


def test_a_floor_of_recall_names_the_worst_class_that_has_samples() -> None:
    """A class without samples has no recall, and is not the worst."""
    start = measures(9, 1, float("nan"), 0.9, 0.4, 0.8)
    with pytest.raises(sn.BadInputError, match=r"at most 0\.4000, the recall of class 2 at the start\. Got 0\.5\."):
        sn.ClassRecall("50%").check(start)
    sn.ClassRecall("40%").check(start)


@pytest.mark.parametrize(("one", "same", "other"), [
    (sn.FlashBytes("32 KiB"), sn.FlashBytes(32768), sn.FlashBytes(32767)),
    (sn.RemovedNeurons(4), sn.RemovedNeurons(4), sn.RemovedNeurons(5)),
    (sn.RemovedFraction("40%"), sn.RemovedFraction(0.4), sn.RemovedFraction(0.5)),
    (sn.LossRise(0.1), sn.LossRise(0.1), sn.LossRise(0.2)),
    (sn.AccuracyDrop("1%"), sn.AccuracyDrop(0.01), sn.AccuracyDrop("2%")),
    (sn.ClassRecall("70%"), sn.ClassRecall(0.7), sn.ClassRecall("60%")),
])  # fmt: skip
def test_goals_and_guards_that_say_the_same_are_equal_and_stay_so(one, same, other) -> None:
    assert one == same
    assert hash(one) == hash(same)
    assert one != other
    assert one != sn.PeakRamBytes("32 KiB")
    for field in fields(one):
        with pytest.raises(FrozenInstanceError):
            setattr(one, field.name, 1)


TYPED = {
    "flash": ("64KiB", sn.FlashBytes(65536)), "ram": ("4KiB", sn.PeakRamBytes(4096)), "macs": ("2M", sn.Macs(2_000_000)),
    "parameters": ("1k", sn.NumParameters(1000)), "remove": ("40", sn.RemovedNeurons(40)),
    "max-accuracy-drop": ("1%", sn.AccuracyDrop(0.01)), "max-recall-drop": ("5%", sn.WorstClassRecall(0.05)),
    "max-drop": ("f1=1%", sn.MetricDrop("f1", 0.01)), "max-rise": ("perplexity=0.5", sn.MetricRise("perplexity", 0.5)),
    "min-class-recall": ("70%", sn.ClassRecall(0.7)), "max-loss-rise": ("0.1", sn.LossRise(0.1)),
}  # fmt: skip


def test_every_goal_and_guard_can_be_typed() -> None:
    kinds = {name: found.find(name) for found in (goals.BY_NAME, guards.BY_NAME) for name in found.names()}
    assert kinds.keys() == TYPED.keys()
    for name, (text, expected) in TYPED.items():
        assert kinds[name].typed(text) == expected
    assert sn.RemovedNeurons.typed("60%") == sn.RemovedFraction(0.6)


def test_a_goal_that_inherits_goes_on_wanting_what_it_wanted() -> None:
    """Beside a budget on an artefact every goal is asked what the forecast must reach next."""

    class Half(sn.Goal):
        def reached(self, start, now):
            return now.costs.num_parameters <= start.costs.num_parameters / 2

    wanted, costs = Half(), measures().costs
    assert wanted.tightened(wanted, costs, costs) is wanted
    assert wanted.neurons_left(measures(), measures()) is None
