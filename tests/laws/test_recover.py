"""Recovery: never worse than its start on the rows held out, by labels, in the same bits after a kill, and proven."""

import csv
import logging
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from networks import Drawn, dense_networks
from test_joint import half, trained
from torch import Tensor

import shrinknet as sn
from shrinknet.core.folder import RunFolder
from shrinknet.engine.gates import GatedNetwork, gated
from shrinknet.measure.evaluation import evaluate
from shrinknet.recovery.augment import augmented
from shrinknet.recovery.descent import Descent, held_out, spread
from shrinknet.recovery.labelled import begun
from shrinknet.report.page_data import page_data
from shrinknet.run.checking import check_files
from shrinknet.surgery.proof import verify_on
from shrinknet.surgery.remove import cut_graph

Rows = tuple[Tensor, Tensor]


def labelled(count: int = 400, seed: int = 5) -> Rows:
    """Other rows of what `trained` was trained on."""
    x = torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(seed))
    return x, x.flatten(1)[:, :4].argmax(1)


def pruned(**options) -> sn.Run:
    return sn.prune(trained(), "taylor-1", goals=[sn.RemovedNeurons(18)], **options)


def way_of(task: sn.Task, start: GatedNetwork, passes: int = 2, seed: int = 0, *, distill: bool = True) -> Descent:
    return begun(task, start, augmented(()), passes, seed, distill=distill)


def gone_along(way: Descent) -> GatedNetwork:
    """The masked network that it leads to."""
    for _ in way.epochs():
        pass
    return way.teacher.network.refit(spread(way.teacher.network, way.best))


@given(dense_networks(), st.integers(0, 3), st.booleans())
def test_it_is_never_worse_than_its_start_on_the_rows_held_out(drawn: Drawn, seed: int, distill: bool) -> None:
    drawn = Drawn(drawn.model, torch.randn(30, *drawn.inputs.shape[1:], dtype=torch.float64), torch.arange(30) % 3)
    task = drawn.task()
    start = half(gated(task))
    recovered = gone_along(way_of(task, start, seed=seed, distill=distill))
    held, _ = held_out(task.calibration, seed)
    before, after = (evaluate(one.outputs, task.loss, held).loss for one in (start, recovered))
    assert after <= before + 1e-12
    cut = cut_graph(recovered.trace, recovered.present, recovered.program.tensors)
    assert verify_on(recovered, cut, lambda: [batch.inputs for batch in task.calibration.batches()]).holds


def test_where_every_step_leads_astray_the_start_comes_back_and_it_is_said(monkeypatch, caplog) -> None:
    monkeypatch.setattr("shrinknet.recovery.descent.RATE", 100.0)
    run, rows = pruned(), labelled()
    with caplog.at_level(logging.WARNING):
        recovered = run.recover(data=rows, passes=2)
    assert torch.equal(recovered.model(rows[0]), run.model(rows[0]))
    assert "No pass was better on the rows held out than the start" in caplog.text


def test_what_falls_is_the_loss_and_the_distance_from_the_whole_networks_answers() -> None:
    """The slow twin: both from plain modules, on the rows of a step."""
    task = trained()
    start = half(gated(task))
    inputs, targets = labelled(20)
    batch = next(sn.Task(task.model, "cross-entropy", (inputs, targets)).calibration.batches())
    with torch.no_grad():
        outputs, answers = start.outputs(inputs), task.model(inputs)
        labels = torch.nn.functional.cross_entropy(outputs, targets)
        log_p, log_q = answers.log_softmax(1), outputs.log_softmax(1)
        divergence = (log_p.exp() * (log_p - log_q)).sum(1).mean()
        for distill, expected in ((True, labels + divergence), (False, labels)):
            way = way_of(task, start, distill=distill)
            assert float(way.far((outputs, {}), batch)) == pytest.approx(float(expected), rel=1e-5)


def test_labels_and_the_whole_networks_answers_both_move_it() -> None:
    run, (x, y) = pruned(), labelled()
    ways = {
        "both": {"data": (x, y)},
        "labels": {"data": (x, y), "labels_alone": True},
        "other": {"data": (x, y.flip(0))},
    }
    said = {name: run.recover(passes=2, **how).model(x) for name, how in ways.items()}
    assert not torch.equal(said["both"], said["labels"])
    assert not torch.equal(said["both"], said["other"])
    assert torch.equal(said["both"], run.recover(passes=2, data=(x, y)).model(x))


def test_more_rows_with_labels_win_back_what_was_lost() -> None:
    run, fresh = pruned(), labelled(600, seed=9)
    recovered = run.recover(data=labelled(2000), passes=4)
    before, after = (float((one.model(fresh[0]).argmax(1) == fresh[1]).double().mean()) for one in (run, recovered))
    assert after > before + 0.1
    assert recovered.plan == run.plan
    assert recovered.measures.costs == run.measures.costs


def test_killed_after_a_pass_it_ends_in_the_same_bits(tmp_path: Path) -> None:
    class KilledError(Exception):
        pass

    def kill(what: str, done: float) -> None:
        if done > 0.6:
            raise KilledError

    run, rows = pruned(), labelled()
    whole = run.recover(data=rows, passes=3, augment=["flip"], out=tmp_path / "whole")
    with pytest.raises(KilledError):
        run.recover(data=rows, passes=3, augment=["flip"], out=tmp_path / "broken", tell=kill)
    assert not (tmp_path / "broken" / "model.pt2").exists()
    x, y = rows
    state = tmp_path / "broken" / "state.safetensors"
    content = state.read_bytes()
    state.write_bytes(content[:1000])
    with pytest.raises(sn.RunFolderError, match="resume must come with the network and method"):
        run.recover(data=rows, passes=3, augment=["flip"], out=tmp_path / "broken", resume=True)
    state.write_bytes(content)
    with pytest.raises(sn.RunFolderError, match="resume must come with the options that the run began with"):
        run.recover(data=(x, y.flip(0)), passes=3, augment=["flip"], out=tmp_path / "broken", resume=True)
    seen: list[float] = []
    resumed = run.recover(
        data=rows, passes=3, augment=["flip"], out=tmp_path / "broken", resume=True, tell=lambda _, d: seen.append(d)
    )
    assert min(seen) > 1 / 3, "it goes on from the pass that was done"
    assert torch.equal(resumed.model(rows[0]), whole.model(rows[0]))
    for name in ("model.safetensors", "training.csv", "history.csv", "plan.json", "summary.json"):
        assert (tmp_path / "broken" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


def test_its_folder_opens_again_verifies_and_says_what_was_done(tmp_path: Path) -> None:
    run, rows = pruned(), labelled()
    recovered = run.recover(data=rows, passes=2, out=tmp_path / "run", config={"from": "there"})
    task = run.task
    roles = [(role.whole().inputs, role.whole().targets) for role in (task.calibration, task.validation)]
    again = sn.load(tmp_path / "run", data=roles)
    assert torch.equal(again.model(rows[0]), recovered.model(rows[0]))
    assert again.config.recovered["from"] == "there"
    files = check_files(again)
    assert files.keys() >= {"model.pt2", "model.safetensors"}
    assert all(one.holds for one in files.values())
    words = "Recovered: all weights were then trained on 400 labelled rows, 2 passes, towards the whole"
    assert words in again.summary()
    assert words in (tmp_path / "run" / "report" / "index.html").read_text()
    folder = RunFolder.open(tmp_path / "run")
    drawn = page_data(folder, "", folder.groups(), folder.history(), 1000)
    assert drawn["moved"] == "trained on with labels"
    assert drawn["training"]["passes"] == [1, 2]
    assert drawn["training"]["held out"][-1] < drawn["training"]["held out"][0]
    with open(tmp_path / "run" / "training.csv", newline="") as file:
        table = list(csv.DictReader(file))
    assert [row["epoch"] for row in table] == ["1", "2"]
    assert float(table[-1]["validation_accuracy"]) == pytest.approx(recovered.measures.metrics["accuracy"], abs=0.05)
    with pytest.raises(sn.BadInputError, match="run must be one that was not recovered where another budget is wanted"):
        again.at(sn.RemovedNeurons(3))


def test_rows_that_judge_the_run_are_named_where_they_are_trained_on(caplog) -> None:
    run, (x, y) = pruned(), labelled(100)
    judging = run.task.validation.whole()
    with caplog.at_level(logging.WARNING):
        run.recover(data=(torch.cat([x, judging.inputs[:7]]), torch.cat([y, judging.targets[:7]])), passes=1)
    assert "7 rows of the run's validation data are trained on" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        run.recover(data=(x, y), passes=1)
    assert "trained on" not in caplog.text


def test_what_cannot_be_recovered_is_one_sentence() -> None:
    task = trained()
    untouched = sn.prune(task, "taylor-1", goals=[sn.RemovedNeurons(0)])
    with pytest.raises(sn.BadInputError, match="run must be one that removed neurons"):
        untouched.recover()
    rows = task.calibration.whole().inputs
    own = sn.prune(sn.Task(task.model, "own-answers", rows), "ablation", goals=[sn.RemovedNeurons(2)])
    with pytest.raises(sn.BadInputError, match="Prune with `compensate='joint'`, which needs no labels"):
        own.recover()
    run = pruned()
    with pytest.raises(sn.BadInputError, match="targets"):
        run.recover(data=rows)
    with pytest.raises(sn.BadInputError, match=r"passes must be a whole number of at least 1\. Got 0\."):
        run.recover(passes=0)
    with pytest.raises(sn.BadInputError, match=r"augment must be .* Got .*'nothing'"):
        run.recover(augment=["nothing"])
