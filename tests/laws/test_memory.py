"""What a run holds does not grow with its steps, and is given back with it; passes are kept for every form of data."""

import gc

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

import shrinknet as sn
from shrinknet.criteria import find_criterion
from shrinknet.engine.gates import gated
from shrinknet.engine.memory import in_memory
from shrinknet.engine.replay import Replay
from shrinknet.engine.route import route
from shrinknet.task.data import Batch

NUM_STEPS = 50


class Rows(Dataset):
    """Rows that are made anew each time they are read; with noise, others each time."""

    def __init__(self, inputs: torch.Tensor, targets: torch.Tensor, noise: float = 0.0) -> None:
        self.inputs, self.targets, self.noise = inputs, targets, noise

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, row: int):
        return self.inputs[row] + self.noise * torch.randn(self.inputs[row].shape), self.targets[row]


FORMS = {
    "tensors": lambda *rows: rows,
    "dataset": Rows,
    "loader": lambda *rows: DataLoader(Rows(*rows), batch_size=20),
}


def bytes_held() -> int:
    """The bytes of every tensor that somebody holds, each storage once."""
    gc.collect()
    tensors = [one for one in gc.get_objects() if type(one) in (torch.Tensor, nn.Parameter)]
    storages = [one.untyped_storage() for one in tensors if one.device.type == "cpu" and one.layout == torch.strided]
    return sum({one.data_ptr(): one.nbytes() for one in storages}.values())


class Watching:
    """Looks at the memory after an early step and after the last one."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    def ranking(self, done: int, total: int) -> None:
        pass

    def tell(self, what: str, fraction: float) -> None:
        pass

    def step(self, step: sn.Step, fraction: float) -> None:
        if step.number in (5, NUM_STEPS):
            self.seen.append(bytes_held())


def network_with_images() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 12, 3, bias=False), nn.BatchNorm2d(12), nn.ReLU(), nn.Flatten(),
                         nn.Linear(48, 60), nn.ReLU(), nn.Linear(60, 3)).eval()  # fmt: skip


CASES = [(form, kind) for kind in ("none", "least-squares") for form in FORMS]


@pytest.mark.parametrize(("form", "kind"), [*CASES, ("dataset", "mean"), ("tensors", "newton")])
def test_memory_is_flat_over_many_steps_and_back_when_the_run_is_gone(form: str, kind: str) -> None:
    rows = torch.randn(80, 1, 4, 4), torch.arange(80) % 3
    task_of = FORMS[form]
    before, watching = bytes_held(), Watching()
    source = task_of(*rows)
    task = sn.Task(network_with_images(), "cross-entropy", source, source, batch_size=20)
    run = sn.prune(task, goals=[sn.RemovedNeurons(NUM_STEPS)], compensate=kind, progress=watching)
    early, late = watching.seen
    assert late < 1.25 * early, "what is learnt of a step goes with it"
    assert bytes_held() > before
    del run, task, source
    assert bytes_held() == before


@pytest.mark.parametrize("name", ["ablation", "taylor-2", "unit-obs"])
def test_a_ranking_holds_nothing_afterwards(name: str) -> None:
    """Layers of one neuron too: what is laid out anew of their values would be those values themselves."""

    def ranked() -> None:
        model = nn.Sequential(nn.Linear(4, 1), nn.ReLU(), nn.Linear(1, 6), nn.Tanh(), nn.Linear(6, 3))
        sn.rank(sn.Task(model, "squared-error", (torch.randn(8, 4), torch.randn(8, 3)), batch_size=1), name)

    before = bytes_held()
    ranked()
    assert bytes_held() == before


@pytest.mark.parametrize("form", FORMS)
def test_the_pass_of_a_batch_that_is_read_again_is_found(form: str) -> None:
    task = sn.Task(network_with_images(), "cross-entropy",
                   FORMS[form](torch.randn(60, 1, 4, 4), torch.arange(60) % 3), batch_size=20)  # fmt: skip
    network = gated(task, scoring=sn.Scoring(keeps_passes=True))
    first, again = ([network.kept_values(batch) for batch in task.calibration] for _ in range(2))
    assert len(first) == 3
    assert all(one is other for one, other in zip(first, again, strict=True))
    masked = network.without([sn.Neuron("4", 0)])
    inner = next(node for node in network.passes.program.nodes if "relu" in node.name)
    for batch, values in zip(task.calibration, first, strict=True):
        assert masked.kept_values(batch)[inner] is values[inner], "only what depends on the gate runs again"


def test_rows_that_are_drawn_anew_are_computed_anew() -> None:
    """A task refuses such rows where it sees them at the start; they may change later."""
    source = Rows(torch.randn(20, 1, 4, 4), torch.arange(20) % 3)
    task = sn.Task(network_with_images(), "cross-entropy", source, batch_size=20)
    source.noise = 1.0
    network = gated(task, scoring=sn.Scoring(keeps_passes=True))
    free = set()
    for batch in (*task.calibration, *task.calibration):
        torch.testing.assert_close(network.kept_outputs(batch), network.outputs(batch.inputs))
        free.add(network.passes.free)
    assert len(free) == 1, "the pass of other rows makes room"


def test_rows_of_one_role_in_another_order_are_other_batches() -> None:
    """A race draws its rows in an order of its own: number 0 of the role is not number 0 of the race."""
    task = sn.Task(
        network_with_images(), "cross-entropy", (torch.randn(40, 1, 4, 4), torch.arange(40) % 3), batch_size=20
    )
    network = gated(task, scoring=sn.Scoring(keeps_passes=True))
    for data in (task.calibration, task.calibration.permuted(1), task.calibration.rows(20, 40)):
        for batch in data:
            torch.testing.assert_close(network.kept_outputs(batch), network.outputs(batch.inputs))


def test_the_passes_of_batches_that_are_gone_make_room() -> None:
    task = sn.Task(network_with_images(), "cross-entropy", (torch.randn(40, 1, 4, 4), torch.arange(40) % 3))
    network = gated(task, scoring=sn.Scoring(keeps_passes=True))
    batch = Batch(torch.randn(8, 1, 4, 4), torch.zeros(8, dtype=torch.long))
    free = network.passes.free
    network.kept_values(batch)
    assert network.passes.free < free
    del batch
    gc.collect()
    assert network.passes.free == free


def test_routes_are_found_once_and_go_with_their_program() -> None:
    task = sn.Task(network_with_images(), "cross-entropy", (torch.randn(40, 1, 4, 4), torch.arange(40) % 3))
    network = gated(task)
    program, ids = network.passes.program, network.trace.ids_of(network.groups[0])
    assert route(program, ids) is route(program, ids)
    refit = network.refit({"4.weight": torch.zeros(60, 48)})
    assert route(refit.passes.program, ids).program is refit.passes.program
    Replay(refit, next(iter(in_memory(task, refit).calibration)))


class Square(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * x


class Double(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + x


@pytest.mark.parametrize("activation", [Square, Double])
def test_an_operator_that_reads_one_value_twice_behind_the_last_hidden_layer(activation: type[nn.Module]) -> None:
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 6), activation(), nn.Linear(6, 3)).double()
    task = sn.Task(model, "squared-error", (torch.randn(20, 4), torch.randn(20, 3)))
    network = gated(task)
    scores = find_criterion("ablation").score(network, task.calibration)
    (batch,) = task.calibration
    for neuron in [neuron for group in network.groups for neuron in group.neurons]:
        rise = network.without([neuron]).losses(batch).mean() - network.losses(batch).mean()
        assert scores[neuron] == pytest.approx(float(rise), rel=1e-9)


@pytest.mark.parametrize("loss", ["cross-entropy", "own-answers"])
def test_a_task_is_looked_at_by_a_few_rows_at_a_time(loss: str) -> None:
    """Nobody knows yet how much memory they take: 1,000 images at once may be more than there is."""
    rows = list[int]()

    class Counting(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            rows.append(len(x))
            return super().forward(x)

    x, y = torch.randn(1000, 4), torch.arange(1000) % 3
    sn.Task(Counting(4, 3), loss, (x, y) if loss == "cross-entropy" else x)
    assert 64 <= max(rows) <= 128
