"""On any device: no tensor is made where the network does not lie, and what comes of it is what comes of it on the CPU."""

import copy
from dataclasses import replace

import pytest
import torch
from networks import Residual
from second_device import DEVICE, Elsewhere, second_device
from torch import Tensor, nn

import shrinknet as sn
from shrinknet.analysis.cancellation import cancellation
from shrinknet.analysis.error_surface import error_surface
from shrinknet.criteria import criterion_names
from shrinknet.criteria.sequential_attention import SequentialAttention
from shrinknet.engine.gates import gated, traced
from shrinknet.execution.cost_model import measured_rates
from shrinknet.sparsify.to_plan import to_plan

ROWS = 24


class Attending(nn.Module):
    """Attention, norms, a residual stream."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.qkv, self.out, self.norm = nn.Linear(4, 6), nn.Linear(6, 18), nn.Linear(6, 6), nn.LayerNorm(6)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.nn.functional.gelu(self.stem(x))
        heads = self.qkv(self.norm(x)).unflatten(-1, (3, 2, -1)).permute(2, 0, 3, 1, 4)
        scores = (heads[0] @ heads[1].transpose(-1, -2)).softmax(-1)
        return self.head((x + self.out((scores @ heads[2]).transpose(1, 2).flatten(2))).mean(1))


def dense() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))


NETWORKS = {"dense": (dense, (4,)), "images": (Residual, (1, 6, 6)), "attention": (Attending, (5, 4))}


def task_of(name: str) -> sn.Task:
    torch.manual_seed(0)
    make, shape = NETWORKS[name]
    inputs, targets = torch.randn(2 * ROWS, *shape).double(), torch.arange(2 * ROWS) % 3
    half = [(inputs[:ROWS], targets[:ROWS]), (inputs[ROWS:], targets[ROWS:])]
    return sn.Task(make().double().eval(), "cross-entropy", *half)


def moved(task: sn.Task) -> sn.Task:
    """The same task with network, data and trace on the second device: torch.export itself is not asked to go there."""
    found = traced(task)
    sources = [(whole.inputs, whole.targets) for whole in (task.calibration.whole(), task.validation.whole())]
    there = sn.Task(_moved(task.model), "cross-entropy", *sources)
    there.learnt.trace, there.learnt.sizes = replace(found, module=_moved(found.module)), task.learnt.sizes
    return there


def _moved(module: nn.Module) -> nn.Module:
    return copy.deepcopy(module).to(DEVICE)


@pytest.fixture(scope="module", params=NETWORKS)
def tasks(request: pytest.FixtureRequest) -> tuple[sn.Task, sn.Task]:
    here = task_of(request.param)
    traced(here)
    with second_device():
        return here, moved(here)


DENSE_ONLY = ("taylor-2-diagonal", "optimal-cell-damage")
QUICK = {"sequential-attention": SequentialAttention(rounds=1, steps=1)}


@pytest.mark.parametrize("name", criterion_names())
def test_scores_are_those_of_the_cpu(tasks: tuple[sn.Task, sn.Task], name: str) -> None:
    here, there = tasks
    if name in DENSE_ONLY and not isinstance(here.model, nn.Sequential):
        return
    criterion = QUICK.get(name, name)
    expected = dict(sn.rank(here, criterion))
    with second_device():
        found = dict(sn.rank(there, criterion))
    for neuron, score in expected.items():
        assert found[neuron] == pytest.approx(score, rel=1e-8, abs=1e-11), neuron


@pytest.mark.parametrize("kind", ["none", "mean", "least-squares", "newton"])
@pytest.mark.parametrize("criterion", ["ablation", "taylor-1", "unit-obs"])
def test_runs_are_those_of_the_cpu(tasks: tuple[sn.Task, sn.Task], criterion: str, kind: str) -> None:
    here, there = tasks
    options = {"criterion": criterion, "goals": [sn.RemovedNeurons(3)], "compensate": kind, "step": 1}
    run = sn.prune(here, **options)
    with second_device():
        other = sn.prune(there, **options)
        assert all(isinstance(one, Elsewhere) for one in other.cut.parameters()), "what comes of it lies there, too"
        if run.fixed_width is None:
            assert all(isinstance(one, Elsewhere) for one in other.model.parameters())
    assert other.plan.removed == run.plan.removed
    for step, same in zip(run.history, other.history, strict=True):
        assert same.measures.calibration_loss == pytest.approx(step.measures.calibration_loss, rel=1e-8)
        assert same.measures.validation_loss == pytest.approx(step.measures.validation_loss, rel=1e-8)


def test_what_else_looks_at_a_network_does_so_there(tasks: tuple[sn.Task, sn.Task]) -> None:
    here, there = tasks
    neuron = sn.rank(here)[0][0]
    with second_device():
        race = sn.race(there, 2)
        surface = error_surface(there, neuron)
        groups = cancellation(there, max_pairs=8)
        plan = to_plan(gated(there), there.example_inputs)
        rates = measured_rates(gated(there))
    assert len(race.contenders) > 2
    assert surface.rise == pytest.approx(error_surface(here, neuron).rise, rel=1e-8)
    assert len(groups) > 0
    assert plan.removed == ()
    assert rates.macs > 0


def test_a_search_by_effort_goes_there(tasks: tuple[sn.Task, sn.Task]) -> None:
    here, there = tasks
    options = {"goals": [sn.RemovedNeurons(4)], "effort": 12.0}
    run = sn.prune(here, **options)
    with second_device():
        assert sn.prune(there, **options).plan.removed == run.plan.removed


def test_a_tensor_that_is_made_on_the_cpu_is_found() -> None:
    """The laws above would hold of anything where tensors of both devices met freely."""
    with second_device():
        there = torch.randn(3, 4).to(DEVICE)
        for mixed in (
            lambda: there + torch.ones(4),
            lambda: there.index_select(0, torch.tensor([0])),
            lambda: torch.cat([there, torch.ones(1, 4)]),
            lambda: there.new_zeros(3).index_add_(0, torch.tensor([0]), torch.ones(1)),
            lambda: torch.ones(4)[there.argmax(1)],
            lambda: torch.where(torch.ones(4, dtype=torch.bool), there, 0.0),
        ):
            with pytest.raises(RuntimeError, match="on the same device"):
                mixed()
        with pytest.raises((RuntimeError, TypeError)):
            there.numpy()
