"""Whatever scores, wherever it runs, whatever form the data have, however readers make up: a run is the same run.

One table of cells. Each is a whole run, held against that of the same criterion and compensation on a pair of tensors
in this process, to the bit; or it is refused in the words that the table says. The quick check takes every pair of
criterion and compensation, of criterion and data, and of compensation and data; `make laws` takes every cell.
"""

import os
from functools import cache
from itertools import product
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from elsewhere import Rows
from torch import nn
from torch.utils.data import DataLoader

import shrinknet as sn
from shrinknet.core.config import Compensate
from shrinknet.criteria import criterion_names, find_criterion
from shrinknet.criteria.sequential_attention import SequentialAttention
from shrinknet.execution import jobs
from shrinknet.loading.data import load_data

pytestmark = pytest.mark.hypothesis  # what `make laws` takes
TAKES_ALL = os.environ.get("SHRINKNET_LAWS") == "laws"

CRITERIA = {name: find_criterion(name) for name in criterion_names()}
CRITERIA["sequential-attention"] = SequentialAttention(rounds=2, steps=2)
COMPENSATIONS = tuple(kind for kind in get_args(Compensate) if kind != "auto")
SOURCES = {
    "tensors": lambda rows, folder: rows,
    "dataset": lambda rows, folder: Rows(*rows),
    "loader": lambda rows, folder: DataLoader(Rows(*rows), batch_size=8),
    "npz": lambda rows, folder: loaded(rows, folder)["calibration"],
}
REFUSED = {
    (executor, kind): f"compensate must be none where workers score. Got {kind!r}. Use `executor='serial'`."
    for executor in ("processes", "ray")
    for kind in COMPENSATIONS
    if kind != "none"
}


def loaded(rows: tuple[torch.Tensor, torch.Tensor], folder: Path) -> dict[str, object]:
    """The same rows from a file; the other two roles hold them too."""
    inputs, targets = (torch.cat([one] * 3).numpy() for one in rows)
    np.savez(folder / "data.npz", inputs=inputs, targets=targets, split=np.arange(3).repeat(len(rows[0])))
    return load_data(str(folder / "data.npz"))


def run(criterion: str, source: str, executor: str, kind: str, folder: Path) -> sn.Run:
    generator = torch.Generator().manual_seed(1)
    rows = torch.randn(30, 4, generator=generator), torch.arange(30) % 3
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
    given = SOURCES[source](rows, folder)
    task = sn.Task(model, "cross-entropy", given, given, batch_size=8)
    scoring = sn.Scoring(executor=executor, workers=None if executor == "serial" else 1)
    return sn.prune(task, CRITERIA[criterion], goals=[sn.RemovedNeurons(3)], compensate=kind, scoring=scoring)


@cache
def plain(criterion: str, kind: str) -> sn.Run:
    """The cell that others of its criterion and compensation are held against."""
    return run(criterion, "tensors", "serial", kind, Path())


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def cells() -> list[tuple[str, str, str, str]]:
    """Criterion, source, executor and compensation of every cell that is run."""
    found, others = [], [source for source in SOURCES if source != "tensors"]
    for (place, criterion), (turn, kind) in product(enumerate(CRITERIA), enumerate(COMPENSATIONS)):
        drawn = others[(place + turn) % len(others)]
        found += [(criterion, source, "serial", kind) for source in others if TAKES_ALL or source == drawn]
        if kind == "none":
            found += [(criterion, source, "processes", kind) for source in SOURCES if TAKES_ALL or source == drawn]
    return found


@pytest.mark.parametrize(("criterion", "source", "executor", "kind"), cells())
def test_every_cell_is_the_plain_one_to_the_bit(
    criterion: str, source: str, executor: str, kind: str, elsewhere, monkeypatch, tmp_path
) -> None:
    monkeypatch.setattr(jobs, "Processes", elsewhere)
    expected, found = plain(criterion, kind), run(criterion, source, executor, kind, tmp_path)
    assert len(expected.plan.removed) == 3
    assert found.plan == expected.plan
    for step, other in zip(found.history, expected.history, strict=True):
        assert (step.removed, step.scores, step.measures) == (other.removed, other.scores, other.measures)
    for name, tensor in expected.model.state_dict().items():
        assert torch.equal(found.model.state_dict()[name], tensor), name


@pytest.mark.parametrize(("executor", "kind"), REFUSED)
def test_a_cell_that_is_refused_says_so_before_anything_is_done(executor: str, kind: str, tmp_path) -> None:
    for criterion, source in product(CRITERIA, SOURCES):
        with pytest.raises(sn.BadInputError) as error:
            run(criterion, source, executor, kind, tmp_path)
        assert str(error.value) == REFUSED[executor, kind], (criterion, source)


def test_the_quick_check_meets_every_pair() -> None:
    taken = {(criterion, source, kind) for criterion, source, executor, kind in cells() if executor == "serial"}
    assert {(criterion, kind) for criterion, _, kind in taken} == set(product(CRITERIA, COMPENSATIONS))
    assert {source for _, source, _ in taken} == SOURCES.keys() - {"tensors"}
    assert {(criterion, source) for criterion, source, _ in taken} == set(
        product(CRITERIA, SOURCES.keys() - {"tensors"})
    )
    assert {(kind, source) for _, source, kind in taken} == set(product(COMPENSATIONS, SOURCES.keys() - {"tensors"}))
    assert {criterion for criterion, _, executor, _ in cells() if executor == "processes"} == CRITERIA.keys()
