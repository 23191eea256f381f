"""Slopes that are nothing but rounding are refused; small ones, and those of idle neurons, are not."""

import pytest
import torch
from torch import nn
from torch.nn import functional

import shrinknet as sn

FOLLOWING = ("taylor-1", "empirical-fisher", "skeletonization")
CURVED = ("ablation", "taylor-2", "gauss-newton")

torch.manual_seed(2)
INPUTS = torch.randn(150, 6)
CLASSES = INPUTS[:, :3].argmax(1)


def trained(steps: int = 0, activation=nn.ReLU) -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 12), activation(), nn.Linear(12, 8), nn.Tanh(), nn.Linear(8, 3))
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    for _ in range(steps):
        optimizer.zero_grad()
        functional.cross_entropy(model(INPUTS), CLASSES).backward()
        optimizer.step()
    return model.eval()


def own_answers(model: nn.Module, split: int) -> torch.Tensor:
    with torch.no_grad():
        return torch.cat([model(part) for part in INPUTS.to(next(model.parameters()).dtype).split(split)])


@pytest.mark.parametrize("criterion", FOLLOWING)
@pytest.mark.parametrize("precision", [torch.float64, torch.float32, torch.float16])
@pytest.mark.parametrize("split", [150, 47])
def test_own_answers_as_targets_leave_no_slope(criterion: str, precision, split: int) -> None:
    model = trained(20).to(precision)
    task = sn.Task(model, "squared-error", (INPUTS, own_answers(model, split)))
    for work in (lambda: sn.rank(task, criterion), lambda: sn.prune(task, criterion, goals=[sn.RemovedNeurons(1)])):
        with pytest.raises(sn.BadInputError) as told:
            work()
        assert str(told.value).startswith(f"criterion='{criterion}' must be used where the loss has slopes. Got ")
        assert "own answers leave no slope: use `criterion='ablation'` or `criterion='taylor-2'`." in str(told.value)
    if criterion == "taylor-1":
        for other in CURVED:
            assert len({round(score, 8) for _, score in sn.rank(task, other)}) > 10


@pytest.mark.parametrize("steps", [0, 150])
@pytest.mark.parametrize("batch_size", [1024, 32])
def test_own_probabilities_as_targets_leave_none_either(steps: int, batch_size: int) -> None:
    model = trained(steps)
    task = sn.Task(model, "cross-entropy", (INPUTS, own_answers(model, 47).softmax(1)), batch_size=batch_size)
    with pytest.raises(sn.BadInputError, match="must be used where the loss has slopes"):
        sn.rank(task, "taylor-1")
    assert sn.rank(task, "taylor-2")


@pytest.mark.parametrize("criterion", FOLLOWING)
@pytest.mark.parametrize("precision", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("steps", [0, 100, 1000])
def test_honest_slopes_pass_however_small(criterion: str, precision, steps: int) -> None:
    model = trained(steps).to(precision)
    task = sn.Task(model, "cross-entropy", (INPUTS, CLASSES))
    assert len(sn.rank(task, criterion)) == 20


def test_a_network_whose_neurons_are_all_idle_has_true_zeros_and_a_run_may_come_to_them() -> None:
    idle = trained()
    nn.init.zeros_(idle[4].weight)
    task = sn.Task(idle, "cross-entropy", (INPUTS, CLASSES))
    for criterion in (*FOLLOWING, "ablation"):
        assert {score for _, score in sn.rank(task, criterion)} == {0.0}
    some = trained(100)
    nn.init.zeros_(some[4].weight[:, 1:])
    run = sn.prune(sn.Task(some, "cross-entropy", (INPUTS, CLASSES)), "taylor-1", guards=[])
    assert run.measures.costs.num_neurons == 2, "one of each group is left"


def test_a_loss_that_is_mostly_0_is_looked_at_on_all_rows() -> None:
    """Of 300 rows one has a slope: the rows looked at first say nothing."""
    model, wrong = trained(300), CLASSES.repeat(2)
    wrong[1] = (wrong[1] + 1) % 3

    def hinge(outputs, targets):
        right = outputs.gather(1, targets[:, None])
        return (outputs - right + 0.01).clamp_min(0).where(functional.one_hot(targets, 3) == 0, 0).sum(1)

    rows = INPUTS.repeat(2, 1)
    keep = (model(rows).argmax(1) == wrong) | (torch.arange(300) == 1)
    task = sn.Task(model, hinge, (rows[keep], wrong[keep]))
    assert not hinge(model(task.calibration.spread(128).inputs), task.calibration.spread(128).targets).any()
    assert len({score for _, score in sn.rank(task, "taylor-1")}) > 5


def wrong_answers(outputs, targets):
    return (outputs.argmax(1) != targets).double()


def in_steps(outputs, targets):
    return outputs.sub(functional.one_hot(targets, 3)).round().abs().sum(1)


@pytest.mark.parametrize("criterion", ["taylor-1", "taylor-2", "gauss-newton", "empirical-fisher", "taylor-2-diagonal"])
def test_a_loss_without_a_derivative_is_for_ablation_alone(criterion: str) -> None:
    task = sn.Task(trained(20), wrong_answers, (INPUTS, CLASSES))
    with pytest.raises(sn.BadInputError) as told:
        sn.rank(task, criterion)
    assert "loss must be one with a slope in the outputs where derivatives are taken. Got 'wrong_answers'" in str(
        told.value
    )
    assert sn.rank(task)


def test_a_loss_that_moves_in_steps_has_slopes_of_0_and_is_refused() -> None:
    task = sn.Task(trained(20), in_steps, (INPUTS, CLASSES))
    with pytest.raises(sn.BadInputError, match=r"Got a score of 0 for every neuron\."):
        sn.rank(task, "taylor-1")
    assert any(score for _, score in sn.rank(task))
