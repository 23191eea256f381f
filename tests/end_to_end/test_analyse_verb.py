"""`shrinknet analyse` as it is typed: what is printed, what is written, and what is said of what is missing."""

import csv
import json
import shutil

import numpy as np
import pytest

FACTORY = ("nets_of_a_stranger:build", "--weights", "weights.safetensors")
DATA = ("--data", "data.npz")


@pytest.fixture(scope="module")
def finished(type_once, tmp_path_factory):
    out = tmp_path_factory.mktemp("finished") / "run"
    type_once("prune", *FACTORY, *DATA, "--criterion", "taylor-2", "--remove", "30", "--out", out)
    return out


@pytest.fixture
def run(finished, tmp_path):
    """A copy of a finished run."""
    return shutil.copytree(finished, tmp_path / "run")


def history_of(run):
    with open(run / "history.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_surfaces_are_printed_written_and_on_the_page(type_command, run) -> None:
    answer = type_command("analyse", "surface", run, "--every", "10", "--alphas", "0:3:0.01")
    assert answer.status == 0, answer.err
    rows = history_of(run)
    found = json.loads((run / "analysis" / "surfaces.json").read_text())["surfaces"]
    assert [one["step"] for one in found] == [1, 11, 21]
    for one in found:
        row, before = rows[one["step"]], rows[one["step"] - 1]
        assert one["neuron"] == f"{row['group']}[{row['neuron']}]"
        assert one["neuron"] in answer.out
        assert one["verdict"] in answer.out
        assert one["losses"][0] == pytest.approx(float(row["calibration_loss"]), rel=1e-4)
        assert one["loss"] == pytest.approx(float(before["calibration_loss"]), rel=1e-5)
        assert one["losses"][one["alphas"].index(1.0)] == one["loss"]
    arrays = np.load(run / "analysis" / "surfaces.npz", allow_pickle=False)
    assert arrays["losses"].shape == (3, 301)
    assert arrays["alphas"][100] == 1.0
    assert (run / "analysis" / "surfaces.png").read_bytes()[:4] == b"\x89PNG"
    assert found[1]["ground"] in (run / "report" / "index.html").read_text()
    assert "3 surfaces of 301 values each" in answer.err


def test_recall_runs_nothing_and_names_who_pays(type_command, run, monkeypatch) -> None:
    import torch

    def forbidden(*_args, **_kwargs):
        raise AssertionError("a network was run")

    monkeypatch.setattr(torch.nn.Module, "__call__", forbidden)
    answer = type_command("analyse", "recall", run)
    assert answer.status == 0, answer.err
    found = json.loads((run / "analysis" / "recall.json").read_text())
    last = history_of(run)[-1]
    rows = sum(one["rows"] for one in found["classes"])
    right = sum(one["rows"] * one["recall_after"] for one in found["classes"])
    assert right / rows == pytest.approx(float(last["validation_accuracy"]))
    assert f"Worst class: {found['worst']}" in answer.err
    assert f"{len(found['lost'])} rows became wrong." in answer.err
    with open(run / "analysis" / "recall.csv", newline="") as file:
        table = list(csv.DictReader(file))
    assert len(table) == 31 * 10
    worst = min((row for row in table if row["step"] == "30"), key=lambda row: float(row["recall"]))
    assert worst["class"] == str(found["worst"])


def test_recall_over_several_runs(type_command, run, tmp_path) -> None:
    other = tmp_path / "other"
    words = ("--criterion", "magnitude", "--remove", "30", "--out", other)
    assert type_command("prune", *FACTORY, *DATA, *words).status == 0
    answer = type_command("analyse", "recall", run, other, "--ratios", "1.5,2.5", "--json")
    assert answer.status == 0, answer.err
    found = json.loads(answer.out)["ratios"]
    assert [one["ratio"] for one in found] == [1.5, 2.5]
    assert all(len(one["slopes"]) == 2 for one in found)


def test_cancellation_of_a_run_and_of_a_model(type_command, run, tmp_path) -> None:
    answer = type_command("analyse", "cancellation", run, "--step", "20", "--only", "0")
    assert answer.status == 0, answer.err
    (found,) = json.loads((run / "analysis" / "cancellation.json").read_text())["groups"]
    gone = {int(row["neuron"]) for row in history_of(run)[1:21] if row["group"] == "0"}
    assert set(found["neurons"]) == set(range(24)) - gone
    assert found["num_pairs"] == len(found["neurons"]) * (len(found["neurons"]) - 1) // 2
    assert (run / "analysis" / "cancellation-0.png").read_bytes()[:4] == b"\x89PNG"
    answer = type_command("analyse", "cancellation", *FACTORY, *DATA, "--out", tmp_path / "here", "--max-pairs", "40")
    assert answer.status == 0, answer.err
    groups = json.loads((tmp_path / "here" / "analysis" / "cancellation.json").read_text())["groups"]
    assert [one["num_pairs"] for one in groups] == [40, 40]


def test_limit_says_how_many_are_needed(type_command, tmp_path) -> None:
    answer = type_command("analyse", "limit", *FACTORY, *DATA, "--draws", "2", "--out", tmp_path)
    assert answer.status == 0, answer.err
    weights, neurons = (
        json.loads((tmp_path / "analysis" / f"limit-{what}.json").read_text()) for what in ("weights", "neurons")
    )
    assert weights["num"] == 64 * 24 + 24 * 16 + 16 * 10
    assert neurons["num"] == 40
    assert len(neurons["found_removed"]) == 2
    assert f"{round(40 * (1 - neurons['mean_found']))} of 40 neurons are needed" in answer.err
    assert answer.err.count("Memory for scoring") == 1
    assert weights["predicted_kept"] == pytest.approx(1 - weights["predicted_removed"])


def test_agreement_names_whom_to_trust(type_command, run) -> None:
    words = ("--criterion", "taylor-1", "--criterion", "ablation", "--criterion", "taylor-2", "--step", "10")
    answer = type_command("analyse", "agreement", run, *words)
    assert answer.status == 0, answer.err
    found = json.loads((run / "analysis" / "agreement.json").read_text())["criteria"]
    assert found[0]["criterion"] == "ablation"
    assert f"Besides ablation, trust {found[1]['criterion']} here" in answer.err


def test_agreement_along_a_run(type_command, run) -> None:
    words = ("--criterion", "taylor-1", "--criterion", "taylor-2", "--every", "10")
    answer = type_command("analyse", "agreement", run, *words)
    assert answer.status == 0, answer.err
    found = json.loads((run / "analysis" / "agreement-along.json").read_text())["steps"]
    assert list(found) == ["0", "10", "20", "30"]
    one = type_command("analyse", "agreement", run, *words[:4], "--step", "20", "--json")
    assert {c["criterion"]: c["overall"] for c in json.loads(one.out)} == pytest.approx(found["20"])


def test_refit_readers_are_not_passed_over(type_command, tmp_path) -> None:
    out = tmp_path / "run"
    words = ("--criterion", "taylor-1", "--remove", "6", "--compensate", "least-squares", "--out", out)
    assert type_command("prune", *FACTORY, *DATA, *words).status == 0
    for verb in ("cancellation", "agreement"):
        answer = type_command("analyse", verb, out, "--step", "3")
        assert answer.status == 2
        assert "--step must be 0 for a run whose readers were refit. Got 3." in answer.err
    assert type_command("analyse", "agreement", out, "--every", "2").status == 2
    assert type_command("analyse", "surface", out, "--every", "3", "--alphas", "0:1:0.5").status == 0


def test_a_network_cut_to_another_budget_is_shown_as_what_it_is(type_command, run, tmp_path) -> None:
    from shrinknet.core.folder import RunFolder
    from shrinknet.report.page_data import with_handed_back

    smaller = tmp_path / "smaller"
    assert type_command("cut", run, "--remove", "33", "--out", smaller).status == 0
    folder = RunFolder.open(smaller)
    among, place = with_handed_back(folder, folder.history())
    after = json.loads((smaller / "summary.json").read_text())["after"]
    assert (among[place].number, len(among)) == (31, 32)
    assert among[place].measures.costs.num_parameters == after["costs"]["num_parameters"]
    assert len(among[place].removed) == 3
    assert "recalls" in (smaller / "report" / "index.html").read_text()
    answer = type_command("analyse", "recall", smaller)
    assert answer.status == 2
    assert (
        "Got one that was cut to another budget, or all of whose weights were refit together. Name a step with --step."
        in answer.err
    )
    assert type_command("analyse", "recall", smaller, "--step", "30").status == 0


def test_json_of_what_cannot_be_told_is_json(type_command, folder, tmp_path) -> None:
    """A criterion that cannot score a network of convolutions: text in place of a number that JSON has no word for."""
    inputs = np.random.default_rng(0).random((40, 1, 8, 8), np.float32)
    np.savez(tmp_path / "images.npz", inputs=inputs, targets=np.arange(40) % 10)
    words = ("--criterion", "taylor-2-diagonal", "--criterion", "ablation", "--out", tmp_path, "--json")
    answer = type_command(
        "analyse", "agreement", "nets_of_a_stranger:images", "--data", tmp_path / "images.npz", *words
    )
    assert answer.status == 0, answer.err
    json.loads(answer.out, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def test_a_floor_under_every_class_stops_a_run(type_command, tmp_path) -> None:
    out = tmp_path / "run"
    answer = type_command(
        "prune", *FACTORY, *DATA, "--criterion", "taylor-1", "--min-class-recall", "70%", "--out", out
    )
    assert answer.status == 0, answer.err
    assert "every class's recall at least 70 %" in answer.err
    recalls = json.loads((out / "summary.json").read_text())["after"]["validation_recalls"]
    assert min(recalls) >= 0.7
    answer = type_command("prune", *FACTORY, *DATA, "--min-class-recall", "100%", "--out", tmp_path / "other")
    assert answer.status == 2
    assert "--min-class-recall must be at most 0." in answer.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("surface", "nowhere"), "RUN must be a run folder, written by 'shrinknet prune'. Got 'nowhere', which has no config.json."),
        (("surface", "RUN", "--alphas", "1:1:0.1"), "--alphas must be a range that holds something, as FIRST:LAST:STEP. Got 1:1:0.1."),
        (("surface", "RUN", "--alphas", "all"), "--alphas must be FIRST:LAST:STEP. Got 'all'."),
        (("surface", "RUN", "--every", "0"), "--every must be a whole number of at least 1. Got 0."),
        (("recall", "RUN", "--step", "99"), "--step must be one of the run's steps, 0 to 30. Got 99."),
        (("recall", "RUN", "RUN", "--ratios", "4,2"), "--ratios must be numbers from 1 on, ascending. Got '4,2'."),
        (("recall", "RUN", "RUN", "--ratios", "1000"), "--ratios must be at most "),
        (("cancellation", "RUN", "--step", "31"), "--step must be one of the run's steps, 0 to 30. Got 31."),
        (("cancellation", *FACTORY), "--data must be given with a model. Got nothing. Name the data, or a run folder."),
        (("cancellation", "RUN", "--max-pairs", "0"), "--max-pairs must be a whole number of at least 1. Got 0."),
        (("limit", "RUN", "--what", "layers"), "--what must be weights, neurons or both. Got 'layers'."),
        (("limit", "RUN", "--eps", "-1"), "--eps must be a rise of the loss of at least 0. Got -1.0."),
        (("limit", "RUN", "--draws", "0"), "--draws must be a whole number of at least 1. Got 0."),
        (("limit", "nowhere", "--draws", "0"), "--draws must be a whole number of at least 1. Got 0."),
        (("limit", "nowhere", "--max-accuracy-drop", "2"), "--max-accuracy-drop must be a fraction from 0 to 1"),
        (("agreement", "RUN", "--criterion", "tailor-1"), "Did you mean 'taylor-1'?"),
        (("agreement", "RUN", "--every", "0"), "--every must be a whole number of at least 1, with a run folder. Got 0."),
        (("agreement", *FACTORY, *DATA, "--every", "2"), "Got a model, or a run whose readers were refit. Name another run."),
    ],
)  # fmt: skip
def test_bad_input_ends_with_status_2_and_one_sentence(words, said, type_command, run) -> None:
    answer = type_command("analyse", *(run if word == "RUN" else word for word in words))
    assert answer.status == 2, answer.err
    assert said in answer.err
    assert "Traceback" not in answer.err


def test_a_run_without_classes_says_which_command_makes_them(type_command, folder, tmp_path) -> None:
    arrays = dict(np.load(folder / "data.npz"))
    values = (arrays["inputs"].sum(1, keepdims=True) / 64).astype(np.float32)
    np.savez(tmp_path / "values.npz", inputs=arrays["inputs"], targets=values, split=arrays["split"])
    out = tmp_path / "run"
    words = ("nets_of_a_stranger:regression", "--data", tmp_path / "values.npz", "--loss", "squared-error")
    assert type_command("prune", *words, "--remove", "2", "--out", out).status == 0
    assert not (out / "answers.csv").exists()
    answer = type_command("analyse", "recall", out)
    assert answer.status == 2
    assert "RUN must be a run whose validation data have classes as targets. Got one without answers.csv." in answer.err
    assert "Make it again with data that have classes and a split." in answer.err


@pytest.mark.parametrize(
    "damage", ["step,row\n1,2\n", "step,row,target,answer\n0,x,1,1\n", "step,row,target,answer\n0,9,1,1\n"]
)
def test_damaged_answers_end_with_status_2(damage, type_command, run) -> None:
    (run / "answers.csv").write_text(damage)
    answer = type_command("analyse", "recall", run)
    assert answer.status == 2, answer.err
    assert answer.err.count("Got ") == 1
    assert "Traceback" not in answer.err
