"""Losses, accuracies, criteria and exporters of a stranger's own, on the command line."""

import csv

import numpy as np
import pytest
from own_code import OTHERS

FACTORY = ("nets_of_a_stranger:build", "--weights", "weights.safetensors")
DATA = ("--data", "data.npz")

LOSSES = """
import torch
from torch.nn import functional

def each(outputs, targets):
    return functional.cross_entropy(outputs, targets, reduction="none", label_smoothing=0.1)

def dice(outputs, targets):
    share, wanted = outputs.softmax(1), functional.one_hot(targets, 10)
    return (1 - 2 * (share * wanted).sum() / (share.sum() + wanted.sum())).expand(len(targets))

def in_top_three(outputs, targets):
    return (outputs.topk(3).indices == targets[:, None]).any(1)
"""


@pytest.fixture
def own(folder):
    (folder / "losses_of_a_stranger.py").write_text(LOSSES)
    (folder / "others_of_a_stranger.py").write_text(OTHERS)
    arrays = dict(np.load(folder / "data.npz"))
    both = np.eye(10, dtype=np.float32)[arrays["targets"]] + np.eye(10, dtype=np.float32)[(arrays["targets"] + 1) % 10]
    np.savez(folder / "several.npz", **{**arrays, "targets": both})
    return folder


def accuracies(run) -> list[str]:
    with open(run / "history.csv") as file:
        return [row.get("validation_accuracy", "") for row in csv.DictReader(file)]


def test_an_own_loss_has_the_accuracy_that_is_asked_for(type_command, own, tmp_path) -> None:
    words = (
        "prune",
        *FACTORY,
        *DATA,
        "--loss",
        "losses_of_a_stranger:each",
        "--remove",
        "3",
        "--criterion",
        "taylor-1",
    )
    refused = type_command(*words, "--max-accuracy-drop", "50%", "--out", tmp_path / "none")
    assert refused.status == 2
    assert "and name an accuracy where a loss of your own has none" in refused.err
    assert not (tmp_path / "none").exists()
    assert type_command(*words, "--out", tmp_path / "without").status == 0
    assert set(accuracies(tmp_path / "without")) == {""}
    found = {}
    for name in ("argmax", "losses_of_a_stranger:in_top_three"):
        out = tmp_path / name.rpartition(":")[2]
        answer = type_command(*words, "--accuracy", name, "--max-accuracy-drop", "50%", "--out", out)
        assert answer.status == 0, answer.err
        found[name] = float(accuracies(out)[0])
        assert (out / "answers.csv").exists() == (name == "argmax")
        assert type_command("verify", out, "--loss", "losses_of_a_stranger:each").status == 0
        smaller = type_command(
            "cut",
            out,
            "--loss",
            "losses_of_a_stranger:each",
            "--remove",
            "1",
            "--out",
            tmp_path / f"smaller-{out.name}",
        )
        assert smaller.status == 0, smaller.err
        assert ("validation accuracy" in smaller.out) == (name == "argmax"), "a function is not at hand when reopened"
    assert found["argmax"] < found["losses_of_a_stranger:in_top_three"]
    assert "Did you mean 'argmax'?" in type_command(*words, "--accuracy", "argmaks", "--out", tmp_path / "x").err


def test_a_loss_of_the_whole_batch_says_so_and_refuses_races(type_command, own, tmp_path) -> None:
    words = ("prune", *FACTORY, *DATA, "--loss", "losses_of_a_stranger:dice", "--remove", "2", "--batch-size", "300")
    answer = type_command(*words, "--out", tmp_path / "run")
    assert answer.status == 0, answer.err
    assert "The loss 'dice' looks at batches as a whole: losses are" in " ".join(answer.out.split())
    refused = type_command(*words, "--confidence", "0.99", "--out", tmp_path / "race")
    assert refused.status == 2
    assert (
        "--confidence and --screen must be used with a loss whose value for one sample does not depend" in refused.err
    )
    assert not (tmp_path / "race").exists()


def test_workers_score_a_loss_of_the_whole_batch_as_one_process_does(type_command, own) -> None:
    words = ("rank", *FACTORY, *DATA, "--loss", "losses_of_a_stranger:dice", "--batch-size", "400")
    serial = type_command(*words)
    assert serial.status == 0, serial.err
    assert type_command(*words, "--executor", "processes", "--workers", "1").out == serial.out


def test_several_classes_a_row_want_binary_cross_entropy(type_command, own, tmp_path) -> None:
    words = ("prune", *FACTORY, "--data", "several.npz", "--remove", "2", "--out", tmp_path / "run")
    refused = type_command(*words)
    assert refused.status == 2
    assert "Got rows that add up to 2. Say --loss binary-cross-entropy" in refused.err
    answer = type_command(*words, "--loss", "binary-cross-entropy", "--max-accuracy-drop", "100%")
    assert answer.status == 0, answer.err
    assert all(accuracies(tmp_path / "run")), "a row is right where all of its labels are"
    assert type_command("verify", tmp_path / "run").status == 0


def test_an_own_criterion_and_exporter_are_named_by_their_import_path(type_command, own, tmp_path) -> None:
    answer = type_command("prune", *FACTORY, *DATA, "--criterion", "others_of_a_stranger:Largest", "--remove", "2",
                          "--to", "others_of_a_stranger:Shouting", "--out", tmp_path / "run")  # fmt: skip
    assert answer.status == 0, answer.err
    assert (tmp_path / "run" / "artefacts" / "model.PT2").exists()
    refused = type_command("verify", tmp_path / "run")
    assert refused.status == 2
    assert "If that exporter is your own, give it here once more, or say --trust." in " ".join(refused.err.split())
    assert type_command("verify", tmp_path / "run", "--trust").status == 0
