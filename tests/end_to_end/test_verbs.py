"""Every verb, on real files, as a stranger types it."""

import csv
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import shrinknet as sn
from shrinknet.core.folder import RunFolder, digest_of_plan
from shrinknet.core.tables import columns

FACTORY = ("nets_of_a_stranger:build", "--weights", "weights.safetensors")
DATA = ("--data", "data.npz")


@pytest.fixture(scope="module")
def finished(type_once, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("finished") / "run"
    how = ("--price", "neuron", "--compensate", "none")
    type_once("prune", "net.pt2", *DATA, "--flash", "6KiB", *how, "--whole-curve", "--out", out)
    return out


@pytest.fixture
def run(finished, tmp_path) -> Path:
    """A copy of a finished run."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


def test_inspect_shows_groups_and_reasons(type_command) -> None:
    answer = type_command("inspect", "net.pt2")
    assert answer.status == 0
    assert "0.weight[0], 0.bias[0]" in answer.out
    assert "network output" in answer.out
    assert "axis by axis" in answer.out
    assert "0: writes 2; 1: reads 0" in answer.out
    assert "In reach: 99.53 % of the parameters, 100.00 % of the MACs." in answer.out
    assert "2 groups, 40 neurons, 2,130 parameters" in answer.out
    found = json.loads(type_command("inspect", *FACTORY, "--example-input", "64", "--json").out)
    assert [(group["name"], group["width"]) for group in found["groups"]] == [("0", 24), ("2", 16)]
    assert found["groups"][0]["reads"] == ["2.weight[1]"]
    assert {item["reason"] for item in found["frozen"]} == {
        "network output",
        "reads values of fixed width at linear (in '0')",
    }
    assert found["num_parameters"] == 2130
    assert [(row["name"], row["status"]) for row in found["parameters"]] == [
        (f"{layer}.{kind}", "frozen" if (layer, kind) == (4, "bias") else "prunable")
        for layer in (0, 2, 4)
        for kind in ("weight", "bias")
    ]
    assert [row["macs"] for row in found["operators"] if row["operator"] == "linear"] == [64 * 24, 24 * 16, 16 * 10]
    assert sum(row["num_parameters"] for row in found["operators"]) == 2130


def test_rank_gives_every_neuron_once_lowest_first(type_command, tmp_path) -> None:
    answer = type_command("rank", *FACTORY, *DATA, "--criterion", "taylor-2")
    rows = list(csv.DictReader(io.StringIO(answer.out)))
    assert list(rows[0]) == ["rank", "group", "neuron", "score"]
    assert [int(row["rank"]) for row in rows] == list(range(1, 41))
    assert len({(row["group"], row["neuron"]) for row in rows}) == 40
    assert type_command("rank", *FACTORY, "--example-input", "64", *DATA, "--criterion", "taylor-2").out == answer.out
    scores = [float(row["score"]) for row in rows]
    assert scores == sorted(scores)
    assert "40 neurons ranked by taylor-2 (unit: loss); cheapest" in answer.err
    type_command("rank", *FACTORY, *DATA, "--criterion", "taylor-2", "--out", tmp_path / "scores.csv")
    assert (tmp_path / "scores.csv").read_text() == answer.out
    as_json = json.loads(type_command("rank", *FACTORY, *DATA, "--criterion", "taylor-2", "--json").out)
    assert [entry["score"] for entry in as_json] == scores


def test_factory_and_export_rank_alike(type_command) -> None:
    assert type_command("rank", *FACTORY, *DATA).out == type_command("rank", "net.pt2", *DATA).out


def test_keep_and_only_leave_groups_whole(type_command) -> None:
    kept = type_command("rank", *FACTORY, *DATA, "--keep", "0", "--criterion", "taylor-1").out
    only = type_command("rank", *FACTORY, *DATA, "--only", "2", "--criterion", "taylor-1").out
    assert kept == only
    assert {row["group"] for row in csv.DictReader(io.StringIO(kept))} == {"2"}


def test_rows_without_a_split_are_divided_and_it_is_said(type_command, folder) -> None:
    arrays = dict(np.load(folder / "data.npz"))
    np.savez(folder / "whole.npz", inputs=arrays["inputs"], targets=arrays["targets"])
    answer = type_command("rank", *FACTORY, "--data", "whole.npz", "--criterion", "magnitude", "--seed", "3")
    assert answer.status == 0
    said = "No 'split' in the data: rows divided 60/20/20 by a shuffle with seed 3 (1078 calibration, 359 validation, 360 test)."
    assert said in " ".join(answer.err.split())


def test_a_factory_of_datasets_is_data(type_command) -> None:
    answer = type_command("rank", *FACTORY, "--data", "nets_of_a_stranger:datasets")
    assert answer.status == 0
    assert len(answer.out.splitlines()) == 41


def test_prune_writes_the_whole_schema(run, folder) -> None:
    names = {path.name for path in run.iterdir()}
    assert names == {
        "config.json", "environment.json", "groups.json", "history.csv", "answers.csv", "plan.json", "model.pt2",
        "model.safetensors",
        "verification.json", "summary.json", "original.pt2", "report", "seal.json", "architecture.json",
    }  # fmt: skip
    with open(run / "history.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == columns(["accuracy"])
    assert (rows[0]["step"], rows[0]["neuron"], rows[0]["num_neurons"]) == ("0", "", "40")
    assert [int(row["num_neurons"]) for row in rows] == list(range(40, 1, -1)), "one neuron of each group stays"
    chosen = next(row for row in rows if int(row["flash_bytes"]) <= 6 * 1024)
    assert int(chosen["flash_bytes"]) == (run / "model.safetensors").stat().st_size
    proof = json.loads((run / "verification.json").read_text())
    assert proof["broke_at"] is None
    assert [entry["precision"] for entry in proof["differences"]] == ["float32", "float64"]
    assert all(entry["worst"] <= entry["tolerance"] for entry in proof["differences"])


def test_the_exported_model_runs_without_us_and_is_as_good_as_announced(run, folder) -> None:
    arrays = np.load(folder / "data.npz")
    inputs, targets = (torch.from_numpy(arrays[name][arrays["split"] == 2]) for name in ("inputs", "targets"))
    program = torch.export.load(run / "model.pt2")
    accuracy = float((program.module()(inputs).argmax(1) == targets).double().mean())
    announced = json.loads((run / "summary.json").read_text())["test"]["metrics_after"]["accuracy"]
    assert accuracy == pytest.approx(announced, abs=1e-9)
    assert announced > 0.85
    weights = load_file(run / "model.safetensors")
    assert {name: tensor.shape for name, tensor in program.state_dict.items()} == {
        n: t.shape for n, t in weights.items()
    }


def test_the_plan_rebuilds_the_weights_from_the_original(run, folder) -> None:
    original, smaller = load_file(folder / "weights.safetensors"), load_file(run / "model.safetensors")
    kept = json.loads((run / "plan.json").read_text())["kept"]
    for name, tensor in original.items():
        for axis, indices in kept.get(name, {}).items():
            tensor = tensor.index_select(int(axis), torch.tensor(indices))
        assert torch.equal(tensor, smaller[name])


def test_a_second_prune_starts_from_the_first_ones_model(run, type_command, tmp_path) -> None:
    answer = type_command("prune", run / "model.pt2", *DATA, "--remove", "2", "--out", tmp_path / "second")
    assert answer.status == 0, answer.err
    first, second = (RunFolder.open(path).read_json("summary.json") for path in (run, tmp_path / "second"))
    assert second["before"]["costs"] == first["after"]["costs"]


def test_recover_trains_on_with_labels_and_makes_a_run_of_its_own(run, folder, type_command, tmp_path) -> None:
    arrays, out = np.load(folder / "data.npz"), tmp_path / "recovered"
    judging = np.flatnonzero(arrays["split"] == 2)[:5]
    rows = np.concatenate([np.flatnonzero(arrays["split"] == 0), judging])
    np.savez(tmp_path / "train.npz", inputs=arrays["inputs"][rows], targets=arrays["targets"][rows])
    how = ("--data", tmp_path / "train.npz", "--passes", "2")
    answer = type_command("recover", run, *how, "--out", out)
    assert answer.status == 0, answer.err
    assert f"Recovered: all weights were then trained on {len(rows):,} labelled rows, 2 passes" in answer.out
    assert "5 rows of the run's test data are trained on: what they say of it is too good." in answer.err
    said = json.loads((out / "config.json").read_text())["recovered"]
    assert (said["from"], said["rows"], said["passes"]) == (str(run.resolve()), len(rows), 2)
    assert (out / "training.csv").read_text().startswith("epoch,training_loss,held_out_loss,validation_loss")
    assert type_command("verify", out).status == 0
    before, after = (json.loads((path / "summary.json").read_text())["after"] for path in (run, out))
    assert after["costs"] == before["costs"]
    assert after["calibration_loss"] != before["calibration_loss"]
    answer = type_command("cut", out, "--flash", "4KiB", "--out", tmp_path / "small")
    assert answer.status == 2
    assert "RUN must be one that was not recovered where another budget is wanted." in answer.err


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--data", "without_labels.npz"), "targets"),
        (("--data", "nowhere.npz"), "--data must be a file that exists. Got 'nowhere.npz'."),
        (("--augment", "flip"), "--augment must be left out, or a function of your own, of inputs that are no images"),
        (("--passes", "0"), "--passes must be a whole number of at least 1. Got 0."),
    ],
)
def test_what_recover_cannot_use_is_one_sentence(more, words: str, run, folder, type_command, tmp_path) -> None:
    np.savez(folder / "without_labels.npz", inputs=np.load(folder / "data.npz")["inputs"])
    answer = type_command("recover", run, *more, "--out", tmp_path / "recovered")
    assert answer.status == 2
    assert words in answer.err
    assert "Traceback" not in answer.err
    assert not (tmp_path / "recovered").exists()


def test_cut_gives_another_budget_without_scoring(run, type_command, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(sn.Criterion, "score", lambda *_: pytest.fail("nothing is scored"))
    answer = type_command("cut", run, "--flash", "4KiB", "--out", tmp_path / "small")
    assert answer.status == 0, answer.err
    order = RunFolder.open(run).plan()
    smaller = RunFolder.open(tmp_path / "small").plan()
    count = len(smaller.removed)
    assert len(order.removed) < count
    assert smaller.removed == (order.removed + order.remaining)[:count]
    assert (tmp_path / "small" / "model.safetensors").stat().st_size <= 4096
    assert type_command("verify", tmp_path / "small").status == 0
    assert type_command("cut", run, "--flash", "7KiB", "--out", tmp_path / "large").status == 0
    assert len(RunFolder.open(tmp_path / "large").plan().removed) < len(order.removed)
    unreachable = type_command("cut", run, "--flash", "10", "--out", tmp_path / "none")
    assert unreachable.status == 1
    assert "at most 10 bytes of flash cannot be reached; this is the smallest there is" in unreachable.err
    assert (tmp_path / "none" / "model.pt2").is_file()
    assert type_command("cut", run, "--out", tmp_path / "no").status == 2


def test_cut_goes_on_beyond_the_end_of_the_history(type_command, tmp_path) -> None:
    out = tmp_path / "run"
    type_command("prune", *FACTORY, *DATA, "--remove", "10", "--out", out)
    answer = type_command("cut", out, "--remove", "25", "--out", tmp_path / "more")
    assert answer.status == 0
    assert "(15 removals beyond the last ranking; --whole-curve ranks again for each)" in answer.err
    assert len(RunFolder.open(tmp_path / "more").plan().removed) == 25


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--whole-curve", "--max-accuracy-drop", "1%"), "beyond the last ranking, where a guard ended the run)"),
        (("--method", "single-ranking", "--remove", "1"), "reached the goal: 38 neurons removed."),
    ],
)
def test_advice_that_would_not_help_is_not_given(words, said, type_command, tmp_path) -> None:
    type_command("prune", *FACTORY, *DATA, "--criterion", "taylor-1", *words, "--out", tmp_path / "run")
    answer = type_command("cut", tmp_path / "run", "--remove", "38", "--out", tmp_path / "more")
    assert said in answer.err
    assert "--whole-curve" not in answer.err


def test_verify_repeats_the_proof_and_notices_other_weights(run, type_command) -> None:
    answer = type_command("verify", run)
    assert answer.status == 0, answer.err
    assert answer.err.strip().endswith(f"Verified: {run}.")
    assert "model.pt2" in answer.out
    weights = load_file(run / "model.safetensors")
    weights["0.weight"][0, 20] += 0.1
    save_file(weights, run / "model.safetensors")
    broken = json.loads(type_command("verify", run, "--json").out)
    assert broken["holds"] is False
    assert [check["what"] for check in broken["checks"] if check["holds"] == "NO"] == ["model.safetensors"]
    answer = type_command("verify", run)
    assert answer.status == 1
    assert "NOT verified: model.safetensors." in answer.err


def test_a_plan_of_unknown_neurons_is_refused(run, type_command) -> None:
    plan = json.loads((run / "plan.json").read_text())
    plan["removed"][0] = ["0", 99]
    (run / "plan.json").write_text(json.dumps({**plan, "sha256": digest_of_plan(plan)}))
    RunFolder(run).seal()  # as somebody would who has the time
    answer = type_command("verify", run)
    assert answer.status == 2
    assert "plan.json must name neurons of groups.json. Got 0[99]" in answer.err


def test_a_failed_proof_writes_no_model_and_says_where_it_broke(type_command, tmp_path, monkeypatch) -> None:
    from shrinknet.run import facts

    honest = facts.cut_graph

    def sabotaged(trace, present, tensors=None):
        graph = honest(trace, present)
        with torch.no_grad():
            graph.get_parameter("2.weight")[0, 0] += 1
        return graph

    monkeypatch.setattr(facts, "cut_graph", sabotaged)
    out = tmp_path / "run"
    answer = type_command("prune", *FACTORY, *DATA, "--criterion", "taylor-1", "--remove", "5", "--out", out)
    assert answer.status == 1
    assert "NOT proven: masked and cut networks differ at linear (in '2')" in answer.err
    assert "Traceback" not in answer.err
    assert not (out / "model.pt2").exists()
    assert not (out / "model.safetensors").exists()
    assert json.loads((out / "verification.json").read_text())["broke_at"].startswith("linear (in '2')")


def test_one_page_about_several_runs(type_command, tmp_path) -> None:
    runs = []
    for criterion in ("taylor-1", "magnitude"):
        runs.append(tmp_path / criterion)
        type_command("prune", *FACTORY, *DATA, "--criterion", criterion, "--remove", "6", "--out", runs[-1])
    answer = type_command("report", *runs, "--out", tmp_path / "both.html")
    assert answer.status == 0
    page = (tmp_path / "both.html").read_text()
    assert page.count('class="proof"') == 2
    assert "shrinknet: taylor-1, magnitude" in page
    (runs[0] / "summary.json").unlink()
    unfinished = type_command("report", runs[0])
    assert unfinished.status == 2
    assert "which has no summary.json. Go on with it: the same command with --resume." in unfinished.err
