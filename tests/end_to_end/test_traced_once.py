"""A task is traced once, and known again by its weights: exports take most of the time of what is small."""

from collections.abc import Callable
from io import BytesIO

import pytest
import torch
from torch import nn

import shrinknet as sn
from shrinknet.engine.gates import gated, traced
from shrinknet.export.exported_program import pt2_bytes
from shrinknet.graph.trace import export_program


@pytest.fixture
def exports(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What torch.export was called with since."""
    found: list[object] = []
    export = torch.export.export

    def counted(model: object, *args: object, **options: object) -> object:
        found.append(model)
        return export(model, *args, **options)

    monkeypatch.setattr(torch.export, "export", counted)
    return found


class Twice(nn.Module):
    """A weight that two layers share, a buffer, and a parameter that nobody reads."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.one, self.two, self.head = (nn.Linear(*sizes) for sizes in ((6, 8), (8, 8), (8, 8), (8, 3)))
        self.two.weight = self.one.weight
        self.register_buffer("shift", torch.randn(8))
        self.register_buffer("scale", torch.rand(8), persistent=False)
        self.idle = nn.Parameter(torch.randn(2))
        self.curve = torch.tanh

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.curve(self.two(self.curve(self.one(self.stem(x)) + self.shift) * self.scale)))


def task_of(model: nn.Module | None = None) -> sn.Task:
    rows = torch.randn(20, 6), torch.arange(20) % 3
    return sn.Task(Twice() if model is None else model, "cross-entropy", rows, rows)


def test_whatever_is_asked_of_a_task_traces_it_once(exports: list[object], tmp_path) -> None:
    task = task_of()
    order = sn.rank(task)
    assert sn.rank(task) == order
    sn.race(task)
    run = sn.prune(task, goals=[sn.RemovedNeurons(2)])
    sn.prune(task, "taylor-1", goals=[sn.RemovedNeurons(2)], min_neurons=2)
    assert exports == [task.model]
    run.save(tmp_path / "run")
    assert exports == [task.model, run.cut], "what is left is exported, too, once it is written"
    sn.prune(task.with_model(Twice()), goals=[sn.RemovedNeurons(1)])
    assert len(exports) == 3


def test_a_run_written_as_it_goes_exports_the_whole_and_what_is_left(
    exports: list[object], type_command: Callable[..., object], tmp_path
) -> None:
    task = task_of()
    sn.prune(task, goals=[sn.RemovedNeurons(2)], out=tmp_path / "run")
    assert len(exports) == 2
    done = type_command("prune", "net.pt2", "--data", "data.npz", "--remove", 3, "--out", tmp_path / "typed")
    assert (done.status, len(exports)) == (0, 4)


CHANGES = {
    "a step of training": lambda model: _trained(model),
    "in place": lambda model: model.head.weight.detach().add_(1),
    "past what torch counts": lambda model: model.head.weight.data.add_(1),
    "by so little that outputs hardly tell": lambda model: model.head.weight.data.mul_(1 + 1e-6),
    "through numpy": lambda model: model.shift.numpy().__iadd__(1),
    "a buffer that no file has": lambda model: model.scale.mul_(2),
    "loaded": lambda model: model.load_state_dict(Twice().state_dict()),
    "another tensor": lambda model: setattr(model.head, "bias", nn.Parameter(torch.randn(3))),
    "another precision": lambda model: model.double(),
    "its code": lambda model: setattr(model, "curve", torch.relu),
}


def _trained(model: nn.Module) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(torch.randn(4, 6)).square().sum().backward()
    optimizer.step()


@pytest.mark.parametrize("change", CHANGES)
def test_a_network_that_changed_is_traced_anew(exports: list[object], change: str) -> None:
    task = task_of()
    sn.rank(task)
    CHANGES[change](task.model)
    whole = task.calibration.whole()
    anew = sn.Task(task.model, "cross-entropy", (whole.inputs.to(task.model.head.weight.dtype), whole.targets))
    again = sn.rank(task.with_calibration(anew.calibration))
    assert exports == [task.model] * 2
    assert again == sn.rank(anew)


def test_what_is_kept_is_the_network_as_it_was_traced() -> None:
    """Its file is that of an export anew, with the weights of that time, each as ready to train as the user's."""
    model = Twice()
    model.one.bias.requires_grad_(False)
    task = task_of(model)
    gated(task)
    fresh = pt2_bytes(export_program(model, task.example_inputs))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    exported = traced(task).exported
    _trained(model)
    kept = pt2_bytes(exported)
    assert len(kept) == len(fresh)
    one, other = (torch.export.load(BytesIO(content)) for content in (kept, fresh))
    assert all(torch.equal(one.state_dict[name], tensor) for name, tensor in before.items())
    for name, tensor in other.state_dict.items():
        assert one.state_dict[name].requires_grad == tensor.requires_grad, name
        assert type(one.state_dict[name]) is type(tensor)


def test_a_trace_holds_weights_once_and_goes_with_its_task() -> None:
    task = task_of()
    found = traced(task)
    own = {tensor.untyped_storage().data_ptr() for tensor in found.tensors.values()}
    held = {tensor.untyped_storage().data_ptr() for tensor in found.exported.state_dict.values()}
    assert held <= own, "the exported program has no weights of its own"
    assert traced(task) is found
    assert traced(task_of(task.model)) is not found, "nobody but the task remembers"
