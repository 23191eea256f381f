"""How far goals say a run is, and what a guard says of where it starts."""

from dataclasses import FrozenInstanceError, fields

import pytest
import torch
from torch import nn

import shrinknet as sn
from shrinknet.cli.asked import GoalFlags
from shrinknet.search import goals, guards
from shrinknet.search.typed import all_of, check_asked


def measures(neurons: int = 9, parameters: int = 1, *recalls: float) -> sn.Measures:
    return sn.Measures(0.0, 1.0, sn.Costs(neurons, parameters, 1, 1, 1), {"accuracy": 1.0}, recalls or (1.0,))


@pytest.mark.parametrize("goal", [sn.RemovedNeurons(4), sn.RemovedFraction("40%")])
def test_progress_is_the_share_of_the_neurons_that_are_gone(goal) -> None:
    assert [goal.progress(measures(10), measures(left)) for left in (10, 8, 6)] == [0, 0.5, 1]


def test_progress_of_a_budget_is_the_share_of_the_way_down() -> None:
    goal = sn.NumParameters(40)
    assert [goal.progress(measures(9, 100), measures(9, now)) for now in (100, 70, 40, 10)] == [0, 0.5, 1, 1]
    assert goal.progress(measures(9, 40), measures(9, 40)) == 1, "a budget that is met from the start"


def test_a_budget_may_be_a_share_of_what_the_network_costs() -> None:
    goal = sn.NumParameters("70%")
    start = measures(9, 100)
    assert [goal.reached(start, measures(9, now)) for now in (71, 70)] == [False, True]
    assert [goal.progress(start, measures(9, now)) for now in (100, 85, 70, 10)] == [0, 0.5, 1, 1]
    assert str(goal) == "at most 70 % of the parameters"
    assert repr(goal) == "NumParameters('70%')"
    with pytest.raises(sn.BadInputError, match=r"NumParameters must be a fraction from 0 to 1 or a percentage from 0%"):
        sn.NumParameters("170%")


def test_a_floor_of_recall_names_the_worst_class_that_has_samples() -> None:
    """A class without samples has no recall, and is not the worst."""
    start = measures(9, 1, float("nan"), 0.9, 0.4, 0.8)
    with pytest.raises(sn.BadInputError, match=r"at most 0\.4000, the recall of class 2 at the start\. Got 0\.5\."):
        sn.ClassRecall("50%").check(start)
    sn.ClassRecall("40%").check(start)


@pytest.mark.parametrize(
    ("one", "same", "other"),
    [
        (sn.FlashBytes("32 KiB"), sn.FlashBytes(32768), sn.FlashBytes(32767)),
        (sn.FlashBytes("70%"), sn.FlashBytes(" 70 %"), sn.FlashBytes("71%")),
        (sn.RemovedNeurons(4), sn.RemovedNeurons(4), sn.RemovedNeurons(5)),
        (sn.RemovedFraction("40%"), sn.RemovedFraction(0.4), sn.RemovedFraction(0.5)),
        (sn.LossRise(0.1), sn.LossRise(0.1), sn.LossRise(0.2)),
        (sn.AccuracyDrop("1%"), sn.AccuracyDrop(0.01), sn.AccuracyDrop("2%")),
        (sn.ClassRecall("70%"), sn.ClassRecall(0.7), sn.ClassRecall("60%")),
    ],
)
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


class Share(sn.Goal):
    def __init__(self, share: float) -> None:
        self.share = share

    def reached(self, start, now):
        return now.costs.num_parameters <= self.share * start.costs.num_parameters


class Pages(sn.Goal):
    """Flash in whole pages, rounded up."""

    def __init__(self, count: int = 2) -> None:
        self.count = count

    def reached(self, start, now):
        return -(-now.costs.flash_bytes // 10) <= self.count


def test_a_goal_says_when_it_is_reached_and_the_rest_follows() -> None:
    start = measures(10, 100)
    assert Share.typed("64%").share == Share.typed("0.64").share == 0.64
    assert str(Share(0.5)) == "Share", "no address in memory"
    assert Share(0.5).neurons_left(start, start) is None
    assert [Share(0.5).progress(start, measures(left, 10 * left)) for left in (10, 7, 5, 2)] == [
        0,
        pytest.approx(0.3),
        1,
        1,
    ]


@pytest.mark.parametrize(("goal", "needed"), [(sn.FlashBytes(20), 14), (Pages(2), 14), (sn.RemovedNeurons(5), None)])
def test_a_goal_missed_by_measurement_is_corrected_by_the_error_of_the_forecast(goal, needed) -> None:
    """Forecasts were 6 bytes too low: 14 are wanted where 20 may be."""
    corrected = goals.Corrected(goal, sn.Costs(4, 1, 26, 1, 1) - sn.Costs(4, 1, 20, 1, 1))
    start = sn.Measures(0.0, None, sn.Costs(9, 1, 100, 1, 1))
    at = {flash: sn.Measures(0.0, None, sn.Costs(4, 1, flash, 1, 1)) for flash in (14, 15)}
    assert [corrected.reached(start, now) for now in at.values()] == ([True] * 2 if needed is None else [True, False])
    assert corrected.neurons_left(start, at[14]) == goal.neurons_left(start, at[14])
    assert corrected.progress(start, at[14]) == 1


class TwoValues(sn.Goal):
    def __init__(self, share: float, of: str) -> None: ...
    def reached(self, start, now): ...


class Nothing(sn.Goal):
    def __init__(self, share: float) -> None: ...


def test_what_a_goal_lacks_is_one_sentence() -> None:
    with pytest.raises(
        sn.BadInputError, match=r"^TwoValues must be a class of one value where it is typed\. Got share and of\."
    ):
        TwoValues.typed("7")
    with pytest.raises(sn.BadInputError, match=r"^Share must be a number\. Got 'few'\. Write it as 0\.1"):
        Share.typed("few")
    with pytest.raises(
        sn.BadInputError, match=r"^goal must be a goal with all that it needs\. Got Nothing, which lacks reached\."
    ):
        goals.BY_NAME.find(Nothing)


BAD = [
    ([sn.FlashBytes], r"^goals must be a class that can be called without arguments\. Got 'FlashBytes', which said: TypeError"),
    ([object], r"^goals must be a list of goals, each of a class with the base shrinknet\.Goal\. Got <class 'object'>\."),
    (["flash"], r"^goals must be a list of goals, each of a class with the base shrinknet\.Goal\. Got 'flash'\."),
    (sn.FlashBytes(4), r"^goals must be a list of goals\. Got FlashBytes\(4\)\. Write it as goals=\["),
]  # fmt: skip


@pytest.mark.parametrize(("given", "sentence"), BAD)
def test_what_is_no_goal_is_one_sentence(given, sentence) -> None:
    with pytest.raises(sn.BadInputError, match=sentence):
        all_of("goals", given, sn.Goal)


def test_a_class_that_wants_no_value_is_a_goal() -> None:
    (found,) = all_of("goals", [Pages], sn.Goal)
    assert (type(found), found.count) == (Pages, 2)


class Misspelt(sn.Goal):
    def reached(self, start, now):
        return now.costs.num_params < 3


class Never(sn.Guard):
    def broken(self, start, now):
        return now.metrics["f1"] < 1


class Fussy(Share):
    @classmethod
    def typed(cls, text):
        raise KeyError(text)


def test_what_reads_something_that_is_not_there_is_told_before_anything_is_scored() -> None:
    said = r"Misspelt, which said: AttributeError: .*num_params.*\. It reads calibration_loss, .* of costs num_neurons, num_param"
    with pytest.raises(sn.BadInputError, match=rf"^goals must be ones that the untouched network answers\. Got {said}"):
        check_asked("goals", [Misspelt()], lambda goal: goal.progress(measures(), measures()))
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    rows = torch.randn(20, 4), torch.arange(20) % 2
    task = sn.Task(model, "cross-entropy", rows, rows)
    for given in ({"goals": [Misspelt]}, {"guards": [Never]}):
        with pytest.raises(sn.BadInputError, match=rf"^{next(iter(given))} must be ones that the untouched network"):
            sn.prune(task, "magnitude", **given)
    with pytest.raises(sn.BadInputError, match=r"^goals must be ones that the untouched network"):
        sn.prune(task, "magnitude", goals=[sn.RemovedNeurons(1)]).at(Misspelt())


TYPED_BADLY = {
    "Share": r"^goal must be a class that can be called without arguments\. .*'share'\. Write --goal package\.module:Class=VALUE\.$",
    "Fussy=7": r"^goal must be a class and a value that it can read\. Got '.*:Fussy=7', which said: KeyError: '7'\.",
    "Nothing=7": r"^goal must be a goal with all that it needs\. Got Nothing, which lacks reached\.",
    "measures=7": r"^goal must be the name of a goal\. Got '.*:measures', which is none without the base shrinknet\.Goal\.",
}


def typed(text: str) -> list[sn.Goal]:
    return list(GoalFlags(**dict.fromkeys(goals.BY_NAME.ours()), goal=(f"{__name__}:{text}",)).made())


@pytest.mark.parametrize("text", TYPED_BADLY)
def test_a_goal_that_is_typed_badly_is_one_sentence(text: str) -> None:
    with pytest.raises(sn.BadInputError, match=TYPED_BADLY[text]):
        typed(text)


def test_a_goal_of_ones_own_is_typed_with_its_value_or_without() -> None:
    assert [one.share for one in typed("Share=64%")] == [0.64]
    assert [one.count for one in typed("Pages")] == [2]
    assert [one.count for one in typed("Pages=3")] == [3]
