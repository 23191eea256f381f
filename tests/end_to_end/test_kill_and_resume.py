"""A run killed at any moment and resumed ends in the same bits as one that was never disturbed."""

import csv
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typed import Typed

HOW = {
    "reranking": ("--criterion", "taylor-2"),
    "single-ranking": ("--criterion", "taylor-2", "--method", "single-ranking"),
    "effort": ("--effort", "30", "--clip", "none"),
}
"""What is typed for each way to search."""


def words_of(out: Path, method: str, *more: str) -> list[str]:
    return [
        "prune", "nets_of_a_stranger:build", "--weights", "weights.safetensors", "--data", "data.npz",
        *HOW[method], "--out", str(out), *more,
    ]  # fmt: skip


def command(folder: Path, out: Path, method: str, *more: str) -> Typed:
    return Typed(words_of(out, method, *more), folder, out.with_suffix(".said"))


def kill_after(typed: Typed, history: Path, lines: int) -> None:
    """Kill without warning once the history is that long."""
    deadline = time.monotonic() + 120
    while typed.status is None and time.monotonic() < deadline:
        if history.exists() and history.read_bytes().count(b"\n") >= lines:
            typed.killed()
            return
        time.sleep(0.002)
    raise AssertionError(f"the run ended before it could be killed: {typed.said.read_text()}")


def facts(out: Path) -> list[dict[str, str]]:
    """The history without the time that each step took."""
    with open(out / "history.csv", newline="") as file:
        return [{key: value for key, value in row.items() if key != "seconds"} for row in csv.DictReader(file)]


@pytest.mark.parametrize(("method", "step", "multiple"), [
    ("reranking", "1", "1"), ("reranking", "3", "1"), ("single-ranking", "2", "1"), ("reranking", "1", "4"),
    ("effort", "", "1"),
])  # fmt: skip
def test_killed_and_resumed_is_never_killed(folder, tmp_path, method: str, step: str, multiple: str) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    options = (method, *(("--step", step) if step else ()), "--multiple-of", multiple)
    undisturbed = command(folder, whole, *options)
    assert undisturbed.ended() == 0, undisturbed.said.read_text()
    kill_after(command(folder, broken, *options), broken / "history.csv", 4)
    written = facts(broken)
    assert facts(whole)[: len(written)] == written, "what is written before the kill is what would have been written"
    assert not (broken / "model.pt2").exists()
    kill_after(command(folder, broken, *options, "--resume"), broken / "history.csv", 14)
    if (step, multiple) != ("1", "1"):  # a step of which only some rows were written
        lines = (broken / "history.csv").read_text().splitlines(keepends=True)
        (broken / "history.csv").write_text("".join(lines[:-1]))
    with open(broken / "history.csv", "a") as file:
        file.write("99,0,1,0.1")  # a torn line, as a power cut leaves it
    words = [
        sys.executable,
        "-m",
        "shrinknet",
        *words_of(broken, *options, "--resume"),
    ]  # nothing is left of the others
    subprocess.run(words, cwd=folder, check=True, stdout=subprocess.DEVNULL, timeout=120)
    assert facts(broken) == facts(whole)
    for name in (
        "plan.json",
        "answers.csv",
        "model.safetensors",
        "model.pt2",
        "original.pt2",
        "verification.json",
        "groups.json",
        "summary.json",
    ):
        assert (broken / name).read_bytes() == (whole / name).read_bytes(), name
    assert not [path for path in broken.rglob("*") if path.name.endswith(".part")]


def test_a_finished_run_resumed_is_the_same_run(folder, tmp_path) -> None:
    out = tmp_path / "run"
    first = command(folder, out, "reranking", "--remove", "20")
    assert first.ended() == 0, first.said.read_text()
    before = {
        name: (out / name).read_bytes()
        for name in ("history.csv", "answers.csv", "plan.json", "model.safetensors", "model.pt2", "summary.json")
    }
    again = command(folder, out, "reranking", "--remove", "20", "--resume")
    assert again.ended() == 0, again.said.read_text()
    assert {name: (out / name).read_bytes() for name in before} == before


def test_resuming_with_other_data_is_refused(folder, tmp_path) -> None:
    import numpy as np

    out, data = tmp_path / "run", tmp_path / "data.npz"
    arrays = dict(np.load(folder / "data.npz"))
    np.savez(data, **arrays)
    first = command(folder, out, "reranking", "--remove", "5", "--data", str(data))
    assert first.ended() == 0, first.said.read_text()
    np.savez(data, **{**arrays, "inputs": arrays["inputs"] * 0.5})
    again = command(folder, out, "reranking", "--remove", "5", "--data", str(data), "--resume")
    assert again.ended() == 2
    said = again.said.read_text()
    assert "--resume must come with the options that the run began with. Got data_sha256 = " in said


def test_what_stands_beside_the_history_is_written_before_it_and_goes_with_it(tmp_path, monkeypatch) -> None:
    """Killed while a history is replaced, the files beside it are there; those of steps that are gone are not."""
    from pathlib import Path

    import torch

    import shrinknet as sn
    from shrinknet.core.folder import RunFolder

    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 9), torch.nn.ReLU(), torch.nn.Linear(9, 2))
    rows = torch.randn(40, 4), torch.arange(40) % 2
    task = sn.Task(model, "cross-entropy", rows, rows)
    run = sn.prune(task, "magnitude", goals=[sn.RemovedNeurons(3)], compensate="mean", out=tmp_path / "run")
    folder, written, write = RunFolder(tmp_path / "run"), [], RunFolder.write

    def noted(self, name: str, content: bytes) -> None:
        written.append(name)
        write(self, name, content)

    monkeypatch.setattr(RunFolder, "write", noted)
    folder.keep_history(run.history)
    assert written == ["without_compensation.csv", "answers.csv", "history.csv"]
    folder.keep_history(run.history[:1])
    assert not Path(folder.path / "without_compensation.csv").exists()
    assert {one.answers is None for one in folder.history()} == {False}
