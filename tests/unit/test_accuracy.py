"""Accuracy is there where a loss defines it or somebody asks for it, and nowhere else; targets are what a loss means."""

import copy
import csv

import pytest
import torch
from torch import nn
from torch.nn import functional

import shrinknet as sn
from shrinknet.measure.evaluation import evaluate
from shrinknet.task.data import as_data
from shrinknet.task.losses import find_loss

torch.manual_seed(5)
X = torch.randn(60, 10)
ZERO_ONE = (X[:, 0] > 0).long()
ONE_LOGIT = {
    "[N, 1]": nn.Sequential(nn.Linear(10, 8), nn.ReLU(), nn.Linear(8, 1)),
    "[N]": nn.Sequential(nn.Linear(10, 8), nn.ReLU(), nn.Linear(8, 1), nn.Flatten(0)),
}
TWO_COLUMNS = nn.Sequential(nn.Linear(10, 8), nn.ReLU(), nn.Linear(8, 2))
PIXELS = nn.Sequential(nn.Conv2d(1, 4, 1), nn.ReLU(), nn.Conv2d(4, 3, 1))


def own_bce(outputs, targets):
    return functional.binary_cross_entropy_with_logits(outputs.flatten(), targets.to(outputs.dtype), reduction="none")


def gaussian(outputs, targets):
    return functional.gaussian_nll_loss(outputs[:, 0], targets.float(), outputs[:, 1].exp(), reduction="none")


def poisson(outputs, targets):
    return functional.poisson_nll_loss(outputs[:, 0], targets, reduction="none")


def ignoring(outputs, targets):
    return functional.cross_entropy(outputs, targets, ignore_index=-100, reduction="none")


def void(outputs, targets):
    return functional.cross_entropy(outputs, targets, ignore_index=255, reduction="none").mean((1, 2))


OWN = {
    "one logit, 0 and 1": (ONE_LOGIT["[N, 1]"], own_bce, X, ZERO_ONE),
    "one logit without an axis": (ONE_LOGIT["[N]"], own_bce, X, ZERO_ONE),
    "mean and log-variance, 0 and 1": (TWO_COLUMNS, gaussian, X, ZERO_ONE),
    "mean and log-variance, 0 to 5": (TWO_COLUMNS, gaussian, X, torch.arange(60) % 6),
    "counts": (ONE_LOGIT["[N, 1]"], poisson, X, torch.arange(60) % 40),
    "rows to ignore": (TWO_COLUMNS, ignoring, X, ZERO_ONE.where(torch.arange(60) % 3 > 0, -100)),
    "pixels to ignore": (PIXELS, void, X.view(-1, 1, 2, 5), torch.full((60, 2, 5), 255).where(X.view(-1, 2, 5) > 1, 1)),
    "ratings of several heads": (TWO_COLUMNS, lambda o, t: (o - t).square().sum(1), X, torch.randint(0, 9, (60, 2))),
}


@pytest.mark.parametrize("case", OWN)
def test_an_own_loss_with_whole_number_targets_has_no_accuracy_and_no_crash(case: str, tmp_path) -> None:
    model, loss, x, y = OWN[case]
    data = (x, y), (x[:30], y[:30]), (x[30:], y[30:])
    run = sn.prune(sn.Task(model, loss, *data), goals=[sn.RemovedNeurons(2)], out=tmp_path / "run")
    assert run.is_met
    assert run.test.metrics_after == {}
    assert all(step.measures.metrics == {} and step.answers is None for step in run.history)
    with open(tmp_path / "run" / "history.csv") as file:
        assert all("validation_accuracy" not in row for row in csv.DictReader(file))
    assert not (tmp_path / "run" / "answers.csv").exists()
    assert "accuracy" not in run.summary()
    for guard in (sn.AccuracyDrop(0.5), sn.WorstClassRecall(0.5), sn.ClassRecall(0.1)):
        with pytest.raises(sn.BadInputError, match="name an accuracy where a loss of your own has none"):
            sn.prune(sn.Task(model, loss, *data), guards=[guard])


def test_who_asks_gets_the_accuracy_asked_for() -> None:
    def near(outputs, targets):
        return (outputs[:, 0] - targets).abs() < 1

    def share(outputs, targets):
        return ((outputs > 0) == (targets > 0)).double().mean(1)

    answers = TWO_COLUMNS(X).argmax(1)
    found = {
        "argmax": float((answers == ZERO_ONE).double().mean()),
        near: float(((TWO_COLUMNS(X)[:, 0] - ZERO_ONE).abs() < 1).double().mean()),
    }
    for accuracy, expected in found.items():
        task = sn.Task(TWO_COLUMNS, gaussian, (X, ZERO_ONE), (X, ZERO_ONE), accuracy=accuracy)
        run = sn.prune(task, goals=[sn.RemovedNeurons(1)], guards=[sn.AccuracyDrop("100%")])
        assert run.history[0].measures.metrics["accuracy"] == pytest.approx(expected, abs=1e-12)
        assert (run.history[0].answers is not None) == (accuracy == "argmax"), "only classes have answers"
        assert run.config.accuracy in ("argmax", near.__qualname__)
    several = torch.stack([ZERO_ONE, 1 - ZERO_ONE], 1).float()
    task = sn.Task(TWO_COLUMNS, "binary-cross-entropy", (X, several), (X, several), accuracy=share)
    expected = float(((TWO_COLUMNS(X) > 0) == (several > 0)).double().mean())
    (step,) = sn.prune(task, goals=[sn.RemovedNeurons(1)]).history[:1]
    assert step.measures.metrics["accuracy"] == pytest.approx(expected, abs=1e-12)


WRONG = {
    "a name that is none": (gaussian, ZERO_ONE, "top-5", "accuracy must be the name of an accuracy. Got 'top-5'. There are: agreement, argmax, threshold."),
    "argmax of counts": (gaussian, torch.arange(60), "argmax", "calibration targets must be classes from 0 to 1. Got class 2."),
    "argmax of values": (lambda o, t: (o[:, 0] - t).square(), X[:, 0], "argmax",
                         "calibration targets must be one class for each row of outputs [N, C] where accuracy is 'argmax'. Got float32 of shape [N]"),
    "threshold of classes": (gaussian, torch.arange(60) % 2, "threshold",
                             "calibration targets must be a 0 or 1 for each logit [N, L] where accuracy is 'threshold'. Got int64 of shape [N]"),
    "one number for all": (gaussian, ZERO_ONE, lambda o, t: (o.argmax(1) == t).double().mean(),
                           "accuracy must be a function of outputs and targets that returns one number from 0 to 1 for each row. Got shape []"),
    "one that fails": (gaussian, ZERO_ONE, lambda o, t: o[:, 7] == t, "Got '<lambda>', which said: IndexError"),
    "percentages": (gaussian, ZERO_ONE, lambda o, t: 100.0 * (o.argmax(1) == t), "Got other numbers from '<lambda>'"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_an_accuracy_that_cannot_be_is_refused_at_once(case: str) -> None:
    loss, targets, accuracy, words = WRONG[case]
    with pytest.raises(sn.BadInputError) as told:
        sn.Task(TWO_COLUMNS, loss, (X, targets), accuracy=accuracy)
    assert words in str(told.value)


@pytest.mark.parametrize("shape", ONE_LOGIT)
@pytest.mark.parametrize("as_column", [False, True])
@pytest.mark.parametrize("as_float", [False, True])
def test_one_logit_is_right_above_0(shape: str, as_column: bool, as_float: bool) -> None:
    targets = ZERO_ONE.float() if as_float else ZERO_ONE
    targets = targets[:, None] if as_column else targets
    task = sn.Task(ONE_LOGIT[shape], "binary-cross-entropy", (X, targets), (X, targets))
    run = sn.prune(task, goals=[sn.RemovedNeurons(2)], guards=[sn.AccuracyDrop(1.0), sn.WorstClassRecall(1.0)])
    start = run.history[0]
    right = (ONE_LOGIT[shape](X).flatten() > 0).long() == ZERO_ONE
    assert start.measures.metrics["accuracy"] == pytest.approx(float(right.double().mean()), abs=1e-12)
    recalls = tuple(float(right[one == ZERO_ONE].double().mean()) for one in (0, 1))
    assert start.measures.validation_recalls == pytest.approx(recalls, abs=1e-12)
    assert [one.target for one in start.answers] == ZERO_ONE.tolist()
    assert start.measures.calibration_loss == pytest.approx(
        own_bce(ONE_LOGIT[shape](X), ZERO_ONE).mean().item(), rel=1e-5
    )


def test_of_several_labels_all_must_be_right_and_soft_ones_have_no_accuracy() -> None:
    outputs = torch.tensor([[1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])
    for targets, accuracy in (
        (torch.tensor([[1, 0], [1, 0], [0, 1]]), 2 / 3),
        (torch.tensor([[0.9, 0.1], [1, 0], [0, 1]]), None),
    ):
        data = as_data("test", (outputs, targets), 2, torch.device("cpu"), torch.float32)
        found = evaluate(lambda inputs: inputs, find_loss("binary-cross-entropy"), data)
        assert found.metrics.get("accuracy") == (None if accuracy is None else pytest.approx(accuracy))
        assert found.recalls is None
        assert found.answers is None


TARGETS = {
    "several classes a row": ("cross-entropy", TWO_COLUMNS, torch.ones(60, 2), "Got rows that add up to 2. Say `loss='binary-cross-entropy'`"),
    "rows without a class": ("cross-entropy", TWO_COLUMNS, torch.eye(2)[ZERO_ONE] * (torch.arange(60) > 0)[:, None], "Got rows that add up to 0."),
    "percentages": ("cross-entropy", TWO_COLUMNS, 100 * torch.eye(2)[ZERO_ONE], "Got rows that add up to 100."),
    "log probabilities": ("cross-entropy", TWO_COLUMNS, torch.randn(60, 2).log_softmax(1), "among them."),
    "signs": ("cross-entropy", TWO_COLUMNS, 2 * torch.eye(2)[ZERO_ONE] - 0.5, "Got -0.5 among them."),
    "classes for a value": ("squared-error", ONE_LOGIT["[N, 1]"], ZERO_ONE, "calibration targets must be floating values where the network has one output. Got int64 of shape [N]. Say `loss='binary-cross-entropy'`"),
    "one logit under cross-entropy": ("cross-entropy", ONE_LOGIT["[N, 1]"], ZERO_ONE, "Say `loss='binary-cross-entropy'` for one logit"),
    "signs for a logit": ("binary-cross-entropy", ONE_LOGIT["[N]"], 2 * ZERO_ONE - 1, "calibration targets must be from 0 to 1 for binary-cross-entropy. Got -1."),
    "classes for two logits": ("binary-cross-entropy", TWO_COLUMNS, ZERO_ONE, "calibration targets must be a number from 0 to 1 for each logit, shape [N, 2]. Got int64 of shape [N]."),
    "pixels that add up to 3": ("cross-entropy", PIXELS, torch.ones(60, 3, 2, 5), "Got rows that add up to 3."),
}  # fmt: skip


@pytest.mark.parametrize("case", TARGETS)
def test_targets_that_a_loss_does_not_mean_are_refused(case: str) -> None:
    loss, model, targets, words = TARGETS[case]
    inputs = X.view(-1, 1, 2, 5) if model is PIXELS else X
    with pytest.raises(sn.BadInputError) as told:
        sn.Task(model, loss, (inputs, targets))
    assert words in str(told.value)


@pytest.mark.parametrize("precision", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_smoothed_labels_pass(precision) -> None:
    model = nn.Sequential(nn.Linear(10, 8), nn.ReLU(), nn.Linear(8, 50)).to(precision)
    smooth = 0.9 * torch.eye(50)[torch.arange(60) % 50] + 0.1 / 50
    for targets in (smooth, smooth.to(precision), torch.rand(60, 50).softmax(1).to(precision)):
        sn.Task(model, "cross-entropy", (X.to(precision), targets))


@pytest.mark.parametrize("shape", ONE_LOGIT)
@pytest.mark.parametrize("criterion", ["ablation", "taylor-1", "taylor-2", "gauss-newton", "empirical-fisher"])
def test_one_logit_is_scored_as_by_a_function_of_ones_own(shape: str, criterion: str) -> None:
    model = copy.deepcopy(ONE_LOGIT[shape]).double()
    own, ours = (sn.Task(model, loss, (X.double(), ZERO_ONE)) for loss in (own_bce, "binary-cross-entropy"))
    assert dict(sn.rank(ours, criterion)) == pytest.approx(dict(sn.rank(own, criterion)), rel=1e-9, abs=1e-14)
