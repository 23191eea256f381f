"""Many workers give the bits of one; a worker or a driver that is killed changes nothing."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from typed import READY, Typed

import shrinknet as sn
from shrinknet.criteria.sequential_attention import SequentialAttention
from shrinknet.criteria.skeletonization import Skeletonization
from shrinknet.execution import processes
from shrinknet.execution.cluster import connect

NUM_SHARDS = 2 * 34  # groups x batches

FACTORY = """
from torch import nn

def build():
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(1024, 10),
    )
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with a network and data, where each test writes files of its own names."""
    torch.manual_seed(0)
    place = tmp_path_factory.mktemp("place")
    (place / "nets_of_workers.py").write_text(FACTORY)
    np.savez(place / "data.npz", inputs=torch.randn(1700, 64).numpy(), targets=(torch.arange(1700) % 10).numpy())
    weights(place)
    return place


def ranking(place: Path, out: str, *more: str) -> Typed:
    """Type the command."""
    words = ["rank", "nets_of_workers:build", "--weights", "weights.safetensors", "--data", "data.npz", "--out", out,
             "--batch-size", "30", *more]  # fmt: skip
    return Typed(words, place, place / f"{out}.said")


def weights(place: Path) -> None:
    """Give the factory's network fixed weights."""
    from safetensors.torch import save_file

    sys.path.insert(0, str(place))
    try:
        import nets_of_workers

        model = nets_of_workers.build()
        save_file(model.state_dict(), place / "weights.safetensors")
    finally:
        sys.path.remove(str(place))
        sys.modules.pop("nets_of_workers", None)


@pytest.fixture(scope="module")
def serial(place) -> str:
    typed = ranking(place, "serial.csv")
    assert typed.ended() == 0, typed.said.read_text()
    return (place / "serial.csv").read_text()


def workers_of(driver: int, word: str) -> list[int]:
    """The workers that a driver has started, directly or through Ray."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                ancestors = _ancestors(int(entry.name))
            except OSError:
                continue
            if word in line and driver in ancestors:
                found.append(int(entry.name))
    return found


def _ancestors(pid: int) -> list[int]:
    found = []
    while pid > 1:
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        found.append(pid)
    return found


def wait_for_shards(place: Path, out: str, count: int, typed: Typed) -> None:
    """Wait until so many shards are finished, and not yet all."""
    deadline = time.monotonic() + 120
    while typed.status is None and time.monotonic() < deadline:
        if len(list((place / f"{out}.shards").rglob("*.npz"))) >= count:
            return
        time.sleep(0.002)
    raise AssertionError(f"never that far: {typed.said.read_text()}")


WORDS = {"processes": "spawn_main", "ray": "ray::_Worker"}


@pytest.mark.slow
@pytest.mark.parametrize("executor", ["processes", "ray"])
def test_a_worker_killed_half_way_changes_no_bit(place, serial: str, executor: str) -> None:
    pytest.importorskip("ray") if executor == "ray" else None
    out = f"killed-{executor}.csv"
    typed = ranking(place, out, "--executor", executor, "--workers", "2")
    wait_for_shards(place, out, NUM_SHARDS // 4, typed)
    victims = workers_of(typed.pid, WORDS[executor])
    assert victims, "there are workers"
    os.kill(victims[0], signal.SIGKILL)
    assert typed.ended(240) == 0, typed.said.read_text()
    assert (place / out).read_text() == serial
    assert not list(place.glob(f"{out}.shards")), "finished results are gone once the ranking is written"


@pytest.mark.slow
@pytest.mark.parametrize("executor", ["processes", "ray"])
def test_a_driver_killed_and_started_again_goes_on_from_finished_shards(place, serial: str, executor: str) -> None:
    pytest.importorskip("ray") if executor == "ray" else None
    out = f"broken-{executor}.csv"
    options = ("--executor", executor, "--workers", "2")
    typed = ranking(place, out, *options)
    wait_for_shards(place, out, NUM_SHARDS // 4, typed)
    workers = workers_of(typed.pid, WORDS[executor])
    typed.killed()
    kept = len(list((place / f"{out}.shards").rglob("*.npz")))
    assert NUM_SHARDS // 4 <= kept < NUM_SHARDS
    again = ranking(place, out, *options)
    assert again.ended(240) == 0, again.said.read_text()
    assert f"Going on: {kept} of {NUM_SHARDS} shards were finished before." in again.said.read_text()
    assert (place / out).read_text() == serial
    deadline = time.monotonic() + 30
    while any(Path(f"/proc/{pid}").exists() for pid in workers) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(Path(f"/proc/{pid}").exists() for pid in workers), "workers leave with their driver"


@pytest.mark.slow
def test_the_number_of_workers_changes_no_bit_and_no_criterion_minds(monkeypatch) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 7), nn.Tanh(), nn.Linear(7, 3))
    task = sn.Task(model, "cross-entropy", (torch.randn(40, 6), torch.arange(40) % 3), batch_size=7)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with monkeypatch.context() as patch:  # a process that imports everything first takes far longer than its work
            patch.setattr(processes, "multiprocessing", types.SimpleNamespace(get_context=lambda kind: READY))
            others = {*multiprocessing.active_children()}
            for criterion, workers in (("ablation", 1), ("ablation", 4), ("taylor-2", 3)):
                scoring = sn.Scoring(executor="processes", workers=workers)
                assert sn.rank(task, criterion, scoring=scoring) == sn.rank(task, criterion), (criterion, workers)
                assert {*multiprocessing.active_children()} <= others, "workers are gone before the ranking is there"
        run, by_two = (
            sn.prune(task, goals=[sn.RemovedNeurons(6)], scoring=scoring)
            for scoring in (None, sn.Scoring(executor="processes", workers=2))
        )
        assert [step.scores for step in run.history] == [step.scores for step in by_two.history]
    finally:
        torch.set_num_threads(before)


@pytest.fixture(scope="module")
def cluster():
    """A cluster of this machine with one worker, started once: as a ranking that finds none starts it."""
    pytest.importorskip("ray")
    ray = connect(None, 1)
    yield
    ray.shutdown()


@pytest.mark.slow
def test_a_cluster_gives_the_bits_of_one_process_for_criteria_of_every_kind(cluster) -> None:
    """In one look or several; rows in half precision, which numpy does not know."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 3)).bfloat16()
    task = sn.Task(model, "squared-error", (torch.randn(20, 6), torch.randn(20, 3)), batch_size=7)
    criteria = SequentialAttention(rounds=2, steps=1), Skeletonization(smoothing=0.8)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for criterion in criteria:
            scoring = sn.Scoring(executor="ray", workers=1)
            assert sn.rank(task, criterion, scoring=scoring) == sn.rank(task, criterion), criterion
    finally:
        torch.set_num_threads(before)


def task_of(loss="cross-entropy") -> sn.Task:
    return sn.Task(
        nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2)), loss, (torch.randn(20, 4), torch.arange(20) % 2)
    )


@pytest.mark.slow
@pytest.mark.parametrize("executor", ["processes", "ray"])
def test_a_worker_without_the_users_code_is_one_sentence(monkeypatch, request, executor: str) -> None:
    request.getfixturevalue("cluster") if executor == "ray" else None
    ghost = types.ModuleType("ghost_of_a_module")
    exec("def loss(outputs, targets):\n    return outputs.square().sum(1)\n", ghost.__dict__)
    monkeypatch.setitem(sys.modules, "ghost_of_a_module", ghost)
    words = r"^executor must be one whose workers can import [^\n]*No module named 'ghost_of_a_module'[^\n]*$"
    with pytest.raises(sn.BadInputError, match=words):
        sn.rank(task_of(ghost.loss), scoring=sn.Scoring(executor=executor, workers=1))


@pytest.mark.slow
def test_a_ray_address_that_does_not_answer_is_one_sentence() -> None:
    pytest.importorskip("ray")
    code = (
        "import shrinknet as sn, torch\n"
        "from torch import nn\n"
        "task = sn.Task(nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2)), 'cross-entropy',"
        " (torch.randn(20, 4), torch.arange(20) % 2))\n"
        "try:\n"
        "    sn.rank(task, scoring=sn.Scoring(executor='ray', address='127.0.0.1:9'))\n"
        "except sn.BadInputError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.startswith("address must be that of a Ray cluster that answers. Got '127.0.0.1:9'"), done


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"executor": "threads"}, r"^executor must be one of serial, processes, ray\. Got 'threads'"),
        ({"workers": 0}, r"^workers must be a whole number of at least 1\. Got 0"),
        ({"confidence": 1.0}, r"^confidence must be a number of at least 0.5 and below 1\. Got 1.0"),
        ({"screen": True}, r"^screen must be a whole number of at least 1\. Got True"),
        ({"address": "auto"}, r"^address must be left out unless the executor is ray\. Got 'auto'"),
        ({"memory": "much"}, r"^memory must be a number of bytes such as 64KiB\. Got 'much'"),
        ({"executor": "ray", "confidence": 0.9}, r"^executor must be serial where neurons race"),
    ],
)
def test_what_cannot_be_used_is_one_sentence(options: dict, words: str) -> None:
    with pytest.raises(sn.BadInputError, match=words):
        sn.Scoring(**options)


def test_too_little_memory_is_one_sentence() -> None:
    with pytest.raises(sn.BadInputError, match=r"^memory must be enough for one sample's pass .* Got 64 bytes"):
        sn.rank(task_of(), scoring=sn.Scoring(memory=64))
