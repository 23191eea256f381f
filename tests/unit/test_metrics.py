"""Metrics against torchmetrics', over whole roles; guards on them, files of them, and the user's own."""

import csv
import json

import pytest
import torch
from torch import nn

import shrinknet as sn
from shrinknet.measure.evaluation import evaluate
from shrinknet.task.data import as_data
from shrinknet.task.losses import Loss
from shrinknet.task.measured import BY_NAME, find_metric, find_metrics

pytest.importorskip("cpu_torchvision", reason="torchmetrics looks for torchvision", exc_type=ImportError)
torchmetrics = pytest.importorskip("torchmetrics")

CLASSES = 7


def _rows(*shape: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    outputs = torch.randn(40, CLASSES, *shape, generator=generator)
    return outputs, torch.randint(0, CLASSES - 1, (40, *shape), generator=generator)  # nothing is of the last class


def _values() -> tuple[torch.Tensor, torch.Tensor]:
    outputs = torch.randn(40, 3, generator=torch.Generator().manual_seed(2))
    return outputs, outputs + 0.3 * torch.randn(40, 3, generator=torch.Generator().manual_seed(3))


def _theirs(kind: str, **options: object) -> object:
    return getattr(torchmetrics.classification, kind)(num_classes=CLASSES, **options)


REFERENCES = {
    "top-5": (_rows(), lambda: _theirs("MulticlassAccuracy", top_k=5, average="micro")),
    "balanced-accuracy": (_rows(), lambda: _theirs("MulticlassRecall", average="none")),
    "f1": (_rows(), lambda: _theirs("MulticlassF1Score", average="none")),
    "mean-iou": (_rows(4, 5), lambda: _theirs("MulticlassJaccardIndex", average="none")),
    "perplexity": (_rows(6), lambda: torchmetrics.text.Perplexity()),
    "mean-absolute-error": (_values(), lambda: torchmetrics.MeanAbsoluteError()),
    "r2": (_values(), lambda: torchmetrics.R2Score()),
}


def _measured(
    metrics: object, rows: tuple[torch.Tensor, torch.Tensor], batch_size: int = 16
) -> dict[str, float | None]:
    data = as_data("validation", rows, batch_size, torch.device("cpu"), torch.float32)
    loss = Loss("zero", lambda outputs, targets: outputs.flatten(1).sum(1) * 0)
    return dict(evaluate(lambda inputs: inputs, loss, data, find_metrics(metrics)).metrics)


def test_every_metric_of_ours_has_a_reference() -> None:
    assert REFERENCES.keys() == BY_NAME.ours().keys()


@pytest.mark.parametrize("name", REFERENCES)
def test_a_metric_is_torchmetrics_own_over_the_whole_role(name: str) -> None:
    rows, theirs = REFERENCES[name]
    reference = theirs()
    reference.update(rows[0].movedim(1, -1) if name == "perplexity" else rows[0], rows[1])
    value = reference.compute()
    if value.dim():  # by class: the mean over those that are a target or an answer (a recall: a target)
        taken = set(rows[1].unique().tolist())
        taken |= set() if name == "balanced-accuracy" else set(rows[0].argmax(1).unique().tolist())
        value = value[sorted(taken)].mean()
    for batch_size in (7, 40):
        assert _measured(name, rows, batch_size)[name] == pytest.approx(float(value), rel=1e-5)


def test_torchmetrics_own_objects_are_metrics_and_stay_untouched() -> None:
    theirs = torchmetrics.AUROC(task="multiclass", num_classes=CLASSES)
    rows = _rows()
    expected = torchmetrics.AUROC(task="multiclass", num_classes=CLASSES)
    expected.update(*rows)
    assert _measured({"auroc": theirs}, rows, 7)["auroc"] == pytest.approx(float(expected.compute()), abs=1e-6)
    assert theirs.update_count == 0
    error = find_metric(torchmetrics.MeanSquaredError())
    assert (error.name, error.quality.higher_is_better) == ("MeanSquaredError", False)


@pytest.mark.parametrize(("name", "ignored"), [("mean-iou", -100), ("mean-iou", 255), ("perplexity", -100)])
def test_positions_that_are_left_out_do_not_count(name: str, ignored: int) -> None:
    outputs, targets = _rows(9)
    part = _measured(name, (outputs[:, :, :4], targets[:, :4]))
    padded = torch.cat([targets[:, :4], torch.full((40, 5), ignored)], 1)
    assert _measured(name, (outputs, padded)) == pytest.approx(part)


def _task(**options: object) -> sn.Task:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, CLASSES))
    x = torch.randn(60, 6)
    model[2].weight.data *= 9
    y = model(x).argmax(1)
    return sn.Task(model, "cross-entropy", (x, y), (x[:30], y[:30]), (x[30:], y[30:]), **options)


def test_a_run_measures_writes_guards_and_shows_each_metric(tmp_path) -> None:
    task = _task(metrics=["balanced-accuracy", "perplexity"])
    run = sn.prune(
        task, guards=[sn.MetricDrop("balanced-accuracy", 0.1), sn.MetricRise("perplexity", 0.2)], out=tmp_path / "run"
    )
    start = run.history[0].measures.metrics
    assert list(start) == ["accuracy", "balanced-accuracy", "perplexity"]
    for step in run.history:
        assert start["balanced-accuracy"] - step.measures.metrics["balanced-accuracy"] <= 0.1 + 1e-12
        assert step.measures.metrics["perplexity"] - start["perplexity"] <= 0.2 + 1e-12
    assert "would break the guard" in run.reason
    with open(tmp_path / "run" / "history.csv") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["validation_perplexity"]) for row in rows] == [
        step.measures.metrics["perplexity"] for step in run.history
    ]
    assert [row[0] for row in run.rows()][-3:] == ["test accuracy", "test balanced-accuracy", "test perplexity"]
    again = sn.load(
        tmp_path / "run",
        data=[(data.whole().inputs, data.whole().targets) for data in (task.calibration, task.validation, task.test)],
    )
    assert again.measures.metrics == run.measures.metrics
    assert again.history[-1].measures.metrics == run.measures.metrics
    page = (tmp_path / "run" / "report" / "index.html").read_text()
    assert all(f'id="metric-{name}"' in page for name in start)


def test_a_guard_on_a_metric_ends_where_it_must() -> None:
    """The network handed back keeps the guard; the one after it does not."""
    task = _task(metrics="f1")
    run = sn.prune(task, "random", guards=[sn.MetricDrop("f1", "4%")])
    free = sn.prune(task, "random")
    start, kept = run.history[0].measures.metrics["f1"], len(run.history)
    assert 1 < kept < len(free.history)
    drops = [start - step.measures.metrics["f1"] for step in free.history]
    assert all(drop <= 0.04 + 1e-12 for drop in drops[:kept])
    assert drops[kept] > 0.04


class Fragile(sn.Metric):
    """No number once an output is 0 on all rows."""

    name = "fragile"

    def each(self, outputs, targets):
        return torch.where(outputs.abs().sum(1) > 0, 1.0, float("nan"))


class FirstGoesFirst(sn.Criterion):
    name = "first-goes-first"

    def conclude(self, network, sums):
        return {group.name: torch.arange(group.width) for group in network.groups}


def test_a_metric_that_becomes_no_number_is_told_and_breaks_its_guard(tmp_path) -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2, bias=False))
    model[0].weight.data = torch.tensor([[1.0], [-1.0], [-1.0]]).expand(3, 4).clone()  # the first alone is above 0
    model[0].bias.data.zero_()
    rows = torch.rand(20, 4), torch.zeros(20, dtype=torch.int64)
    task = sn.Task(model, "cross-entropy", rows, rows, metrics=Fragile())
    sn.prune(task, FirstGoesFirst(), goals=[sn.RemovedNeurons(2)], out=tmp_path / "run")
    values = [step.measures.metrics["fragile"] for step in sn.load(tmp_path / "run", data=[rows, rows]).history]
    assert values == [1.0, None, None]
    guarded = sn.prune(task, FirstGoesFirst(), guards=[sn.MetricDrop("fragile", 5)])
    assert len(guarded.history) == 1
    assert "would break the guard: fragile" in guarded.reason
    model[2].weight.data.zero_()
    with pytest.raises(
        sn.BadInputError, match=r"^metrics must be ones that are finite .* Got 'fragile', which is none"
    ):
        sn.prune(task, FirstGoesFirst())


BAD = [
    ({"metrics": "top5"}, r"^metrics must be the name of a metric\. Got 'top5'\. Did you mean 'top-5'\?"),
    ({"metrics": ["f1", "f1"]}, r"^metrics must be ones with names of their own\. Got 'f1' twice or of ours\."),
    ({"metrics": {"accuracy": "f1"}}, r"^metrics must be ones with names of their own\. Got 'accuracy'"),
    ({"metrics": "r2"}, r"^metrics must be fit for the data: r2 wants numbers, one for each output\. Got targets \[60\]"),
    ({"metrics": lambda outputs, targets: outputs}, r"^metrics must be functions that give one number for each row, shape \[60\]\."),
    ({"metrics": {"mine": lambda outputs, targets: outputs.nothing}}, r"^metrics must be .* Got 'mine', which said: AttributeError"),
    ({"metrics": 7}, r"^metrics must be the name of a metric\. Got 7\."),
]  # fmt: skip


@pytest.mark.parametrize(("options", "sentence"), BAD)
def test_bad_metrics_are_one_sentence(options: dict[str, object], sentence: str) -> None:
    with pytest.raises(sn.BadInputError, match=sentence):
        _task(**options)


GUARDS = [
    (sn.MetricDrop("perplexity", 1), r"^MetricDrop must be about a metric that gets worse that way\. Got 'perplexity', of which less"),
    (sn.MetricRise("f1", 1), r"^MetricRise must be about a metric that gets worse that way\. Got 'f1', of which more is better\. Use MetricDrop\."),
    (sn.MetricDrop("miou", 1), r"^MetricDrop must be used with a metric that is measured on validation data\. Got 'miou'\. There are: accuracy, f1, perplexity\."),
    (sn.MetricRise("perplexity", "4%"), r"^MetricRise must be in the metric's own unit where that is no share of 1\. Got 4% of 'perplexity', which is \d\.\d+ at the start\. Write 0\.\d+ for that share of it\."),
]  # fmt: skip


@pytest.mark.parametrize(("guard", "sentence"), GUARDS)
def test_a_guard_that_would_never_break_is_refused(guard: object, sentence: str) -> None:
    with pytest.raises(sn.BadInputError, match=sentence):
        sn.prune(_task(metrics=["f1", "perplexity"]), guards=[guard])


@pytest.mark.parametrize("largest", ["much", -1, True, float("nan"), "-3%"])
def test_a_drop_is_a_number(largest: object) -> None:
    with pytest.raises(sn.BadInputError, match=r"^MetricDrop must be a number of at least 0\. Got"):
        sn.MetricDrop("f1", largest)


OWN = """
from shrinknet import Metric

class Margin(Metric):
    name = "margin"
    higher_is_better = True

    def each(self, outputs, targets):
        return outputs.topk(2).values.diff().abs()[:, 0]
"""


def test_the_command_takes_ours_and_the_users_own(tmp_path, monkeypatch) -> None:
    import numpy as np
    from typer.testing import CliRunner

    from shrinknet.cli.main import app

    (tmp_path / "own_metric.py").write_text(
        OWN
        + """
import torch

def build():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(6, 12), torch.nn.ReLU(), torch.nn.Linear(12, 7))
"""
    )
    monkeypatch.chdir(tmp_path)
    generator = np.random.default_rng(0)
    np.savez("rows.npz", inputs=generator.normal(size=(90, 6)).astype("float32"), targets=np.arange(90) % 7)
    words = ["prune", "own_metric:build", "--data", "rows.npz", "--out", "run", "--metric", "top-5",
             "--metric", "own_metric:Margin", "--max-drop", "top-5=50%", "--max-drop", "margin=9", "--remove", "3"]  # fmt: skip
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    said = json.loads((tmp_path / "run" / "config.json").read_text())["metrics"]
    assert [(one["name"], one["spec"]) for one in said] == [("top-5", "top-5"), ("margin", "own_metric:Margin")]
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert list(summary["after"]["metrics"]) == ["accuracy", "top-5", "margin"]
    assert list(sn.load("run", model=None, data="rows.npz").measures.metrics) == ["accuracy", "top-5"], (
        "no code by a folder"
    )
    assert list(sn.load("run", data="rows.npz", trust=True).measures.metrics) == ["accuracy", "top-5", "margin"]
    refused = CliRunner().invoke(app, [*words[:5], "other", "--max-drop", "top-5"])
    assert str(refused.exception).startswith("MetricDrop must be NAME=VALUE, such as mean-iou=1%. Got 'top-5'.")


def test_runs_of_an_older_version_show_their_accuracy(tmp_path) -> None:
    """Accuracy was a field of its own, and an empty column where there was none."""
    from shrinknet.core.reading import restored
    from shrinknet.core.records import TestResult
    from shrinknet.core.tables import steps_of

    costs = {"num_neurons": 1, "num_parameters": 1, "flash_bytes": 1, "peak_ram_bytes": 1, "macs": 1}
    old = {"calibration_loss": 0.5, "validation_loss": None, "validation_accuracy": 0.75, "validation_recalls": None,
           "costs": costs}  # fmt: skip
    assert restored(sn.Measures, old).metrics == {"accuracy": 0.75}
    assert restored(sn.Measures, {**old, "validation_accuracy": None}).metrics == {}
    tested = {"loss_before": 1.0, "loss_after": 2.0, "accuracy_before": 0.5, "accuracy_after": 0.25, "num_samples": 4}
    assert restored(TestResult, tested).metrics_after == {"accuracy": 0.25}
    row = {"step": "0", "group": "", "neuron": "", "score": "", "calibration_loss": "0.5", "validation_loss": "0.25",
           "validation_accuracy": "", **dict.fromkeys(costs, "1"), "seconds": "0.1", "check": ""}  # fmt: skip
    assert steps_of([row])[0].measures.metrics == {}
    assert steps_of([{**row, "validation_accuracy": "0.5"}])[0].measures.metrics == {"accuracy": 0.5}


def test_a_class_that_gives_one_number_for_a_batch_is_refused_as_a_function_is() -> None:
    class OfTheBatch(sn.Metric):
        name = "of-the-batch"

        def each(self, outputs, targets):
            return outputs.mean()

    metric = OfTheBatch()
    metric.reset()
    with pytest.raises(sn.BadInputError, match=r"shape \[\] from 'of-the-batch'"):
        metric.update(torch.randn(6, 3), torch.arange(6) % 3)
