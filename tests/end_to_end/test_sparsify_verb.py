"""`shrinknet sparsify` as a stranger types it: files, page, resume after a kill, and bad input."""

import csv
import html
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from typed import Typed

from shrinknet.sparsify.stored import load_sparse

MODEL = ("nets_of_a_stranger:build", "--weights", "weights.safetensors", "--data", "data.npz")


def table(out: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((out / "training.csv").read_text().splitlines()))


def test_every_file_of_a_run_says_the_same(type_command, folder, tmp_path) -> None:
    out = tmp_path / "run"
    answer = type_command(
        "sparsify", *MODEL, "--method", "fisher-pruning", "--set", "every=10", "--set", "count=14", "--epochs", "8",
        "--batch", "32", "--out", out,
    )  # fmt: skip
    assert answer.status == 0, answer.err
    assert "14 whole neurons went" in answer.err.splitlines()[-1]
    end, rows = json.loads((out / "summary.json").read_text()), table(out)
    weights, masks = load_file(out / "model.safetensors"), load_file(out / "masks.safetensors")
    assert [row["epoch"] for row in rows] == [str(k) for k in range(1, 9)]
    assert weights.keys() == load_file(folder / "weights.safetensors").keys(), "the network's own names"
    for name, mask in masks.items():
        assert int(weights[name][~mask].count_nonzero()) == 0
        assert end["by_layer"][name]["kept"] == int(mask.sum())
    assert (out / "sparse.safetensors").stat().st_size == end["sparse_bytes"]
    assert all(torch.equal(value, weights[name]) for name, value in load_sparse(out / "sparse.safetensors").items())
    page = html.unescape((out / "report" / "index.html").read_text())
    assert end["last_line"] in page
    assert "http" not in page.replace("http-equiv", ""), "the page asks for nothing from outside"
    smaller = out / "smaller"
    assert json.loads((smaller / "summary.json").read_text())["num_removed"] == 14
    assert type_command("verify", smaller, "--data", "data.npz").status == 0


def test_the_last_line_says_what_would_keep_more_where_much_is_lost(type_command, tmp_path) -> None:
    words = ("sparsify", *MODEL, "--method", "gradual-threshold")
    hint = "steps did not win it back: more --epochs, a higher --rate or a lower sparsity keep more."
    lossy = type_command(*words, "--epochs", "2", "--out", tmp_path / "lossy")
    assert lossy.err.splitlines()[-1].endswith(hint)
    mild = type_command(*words, "--epochs", "2", "--set", "sparsity=0.1", "--out", tmp_path / "mild")
    assert "keep more" not in mild.err


def test_json_is_for_machines(type_command, tmp_path) -> None:
    answer = type_command(
        "sparsify", *MODEL, "--method", "network-surgery", "--set", 'c_rate={"0": 0.5, "*": 0}', "--set",
        "window=[0, 60]", "--epochs", "3", "--out", tmp_path / "run", "--json",
    )  # fmt: skip
    assert answer.status == 0, answer.err
    content = json.loads(answer.out)
    assert content["history"][-1]["density"] == content["density"]
    assert content["sparse_bytes"] < content["dense_bytes"]


def killed_after(epochs: int, typed: Typed, out: Path) -> None:
    deadline = time.monotonic() + 120
    while typed.status is None and time.monotonic() < deadline:
        table = out / "training.csv"
        if table.exists() and table.read_bytes().count(b"\n") > epochs:
            typed.killed()
            return
        time.sleep(0.002)
    raise AssertionError(f"the run ended before it could be killed: {typed.said.read_text()}")


@pytest.mark.parametrize("method", ["sequential-attention", "skeletonization"])
def test_killed_and_resumed_is_never_killed(folder, tmp_path, method: str) -> None:
    options = {
        "sequential-attention": ["--set", "block=4", "--set", "pad=true", "--set", "fewest_blocks=10"],
        "skeletonization": ["--set", "every=20"],
    }[method]
    words = ["sparsify", *MODEL, "--method", method, *options, "--epochs", "12", "--optimizer", "sgd", "--rate", "0.05",
             "--decay", "1e-4"]  # fmt: skip
    whole, broken = tmp_path / "whole", tmp_path / "broken"

    def command(out: Path, *more: str) -> Typed:
        return Typed([*words, "--out", str(out), *more], folder, tmp_path / "said")

    undisturbed = command(whole)
    assert undisturbed.ended() == 0, undisturbed.said.read_text()
    killed_after(3, command(broken), broken)
    assert not (broken / "summary.json").exists()
    killed_after(6, command(broken, "--resume"), broken)
    resumed = [
        sys.executable,
        "-m",
        "shrinknet",
        *words,
        "--out",
        str(broken),
        "--resume",
    ]  # nothing is left of the others
    subprocess.run(resumed, cwd=folder, check=True, capture_output=True)
    for name in ("model.safetensors", "masks.safetensors", "sparse.safetensors"):
        assert (broken / name).read_bytes() == (whole / name).read_bytes(), name
    rows = [[{k: v for k, v in row.items() if k != "seconds"} for row in table(out)] for out in (whole, broken)]
    assert rows[0] == rows[1]
    other = command(broken, "--resume", "--seed", "1")
    assert other.ended() == 2
    assert "--resume must come with the options that the run began with" in other.said.read_text()


def test_an_exported_program_trains_as_it_was_exported(type_command, tmp_path) -> None:
    out = tmp_path / "run"
    answer = type_command(
        "sparsify", "net.pt2", "--data", "data.npz", "--method", "one-shot", "--epochs", "2", "--out", out
    )
    assert answer.status == 0, answer.err
    assert "norms keep their statistics, dropout stays off" in answer.err
    assert len(table(out)) == 2


BAD = {
    "an unknown method": (
        (*MODEL, "--method", "network-surgry"),
        "--method must be the name of a method. Got 'network-surgry'. Did you mean 'network-surgery'?",
    ),
    "an option of another method": (
        (*MODEL, "--method", "acdc", "--set", "c_rate=1"),
        "--set c_rate must be an option of acdc. Got 1. There are:",
    ),
    "an option that is no pair": (
        (*MODEL, "--method", "acdc", "--set", "sparsity"),
        "--set must be NAME=VALUE. Got 'sparsity'. Write --set sparsity=0.95.",
    ),
    "a sparsity of 1": (
        (*MODEL, "--method", "one-shot", "--set", "sparsity=1"),
        "sparsity must be a fraction from 0 to less than 1. Got 1. At 1 nothing would be left.",
    ),
    "no epochs": (
        (*MODEL, "--method", "one-shot", "--epochs", "0"),
        "--epochs and --batch must be whole numbers of at least 1. Got 0.",
    ),
    "an unknown optimizer": (
        (*MODEL, "--method", "one-shot", "--optimizer", "lbfgs"),
        "--optimizer must be adam or sgd. Got 'lbfgs'.",
    ),
    "a rate of 0": (
        (*MODEL, "--method", "one-shot", "--rate", "0"),
        "--rate and --decay must be above 0, at least 0. Got 0.0, 0.0.",
    ),
    "a schedule that ends before it starts": (
        (*MODEL, "--method", "gradual-threshold", "--set", "end=1"),
        "start, ramp, end must be whole steps of at least 0, each at least the one before.",
    ),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_input_ends_with_one_sentence_and_leaves_nothing(what: str, type_command, tmp_path) -> None:
    words, sentence = BAD[what]
    answer = type_command("sparsify", *words, "--out", tmp_path / "run")
    assert answer.status == 2
    assert sentence in " ".join(answer.err.split())
    assert "Traceback" not in answer.err
    assert not (tmp_path / "run").exists()
