"""Laws of windows that move over neurons: who is gone is read as 0, and the others keep their places.

Efficient channel attention (ECA), local response normalisation, averages and convolutions over channels.
"""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import shrinknet as sn
from shrinknet.criteria import find_criterion
from shrinknet.engine.gates import gated
from shrinknet.graph.trace import named_tensors
from shrinknet.measure.costs import costs
from shrinknet.run.checking import check_files
from shrinknet.sparsify.to_plan import to_plan
from shrinknet.surgery.proof import cut_program, verify
from shrinknet.surgery.remove import cut_graph


class ChannelAttention(nn.Module):
    """As in its authors' code: a convolution over the channels' means."""

    def __init__(self) -> None:
        super().__init__()
        self.pool, self.conv = nn.AdaptiveAvgPool2d(1), nn.Conv1d(1, 1, 3, padding=1, bias=False)

    def forward(self, x):
        y = self.conv(self.pool(x).squeeze(-1).transpose(-1, -2))
        return x * torch.sigmoid(y.transpose(-1, -2).unsqueeze(-1)).expand_as(x)


class AttentiveResNet(nn.Module):
    """A stem, one residual block with channel attention, one on its hidden channels, a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.one, self.two = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 9, 3, padding=1), nn.Conv2d(9, 8, 1)
        self.norm, self.inner, self.outer = nn.BatchNorm2d(9), ChannelAttention(), ChannelAttention()
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        x = torch.relu(self.stem(x))
        hidden = self.inner(torch.relu(self.norm(self.one(x))))
        return self.head(torch.relu(x + self.outer(self.two(hidden))).mean((2, 3)))


def alexnet() -> nn.Module:
    """Convolutions with local response normalisation between them, and dense layers."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.LocalResponseNorm(5, alpha=2.0, k=1), nn.MaxPool2d(2),
        nn.Conv2d(8, 10, 3, padding=1, groups=2), nn.ReLU(), nn.LocalResponseNorm(4, alpha=2.0), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(10, 6), nn.ReLU(), nn.Linear(6, 4),
    )  # fmt: skip


def spectrum() -> nn.Module:
    """The same along one axis, where torch takes a mean over two axes."""
    return nn.Sequential(
        nn.Conv1d(3, 8, 3), nn.ReLU(), nn.LocalResponseNorm(5, alpha=2.0), nn.Flatten(), nn.Linear(32, 4)
    )


BUILD = {"ECA": AttentiveResNet, "AlexNet": alexnet, "one axis": spectrum}


def task_of(kind: str, dtype: torch.dtype = torch.float64) -> sn.Task:
    torch.manual_seed(0)
    model = BUILD[kind]().to(dtype).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, 0.1, 0.3)
    shape = (3, 6) if kind == "one axis" else (3, 6, 6)
    return sn.Task(model, "cross-entropy", (torch.randn(12, *shape, dtype=dtype), torch.arange(12) % 4))


def by_hand(task: sn.Task, groups, neurons) -> nn.Module:
    """The user's own network with 0 in everything that writes some neurons: after a ReLU, nothing is read of them."""
    model = copy.deepcopy(task.model)
    for group in groups:
        for part in group.slices:
            gone = [place for place, owner in enumerate(part.owners) if sn.Neuron(group.name, owner) in neurons]
            if part.role == "writes":
                named_tensors(model)[part.parameter].data.index_fill_(
                    part.axis, torch.tensor(gone, dtype=torch.long), 0
                )
    return model


def some_gone(network, rng) -> list[sn.Neuron]:
    """Some neurons of each group, at random; one of each stays."""
    places = {group: rng.permutation(group.width)[: rng.integers(1, group.width)] for group in network.groups}
    return [group.neurons[place] for group, gone in places.items() for place in gone]


@pytest.mark.parametrize("kind", BUILD)
@pytest.mark.parametrize("seed", range(3))
def test_masked_is_cut_is_rebuilt_by_hand_and_costs_are_those_of_the_cut_graph_as_it_runs(kind: str, seed: int) -> None:
    task = task_of(kind)
    network, inputs = gated(task), task.calibration.dataset[:][0]
    gone = some_gone(network, np.random.default_rng(seed))
    masked = network.without(gone)
    cut = cut_graph(network.trace, masked.present)
    assert verify(masked, cut, task.calibration).holds
    given = cut_program(network.trace, cut, None).outputs(inputs)
    torch.testing.assert_close(given, masked.outputs(inputs), rtol=0, atol=1e-12)
    torch.testing.assert_close(given, by_hand(task, network.groups, gone)(inputs), rtol=0, atol=1e-12)
    announced, again = costs(network.trace, masked.present), sn.trace(cut, inputs)
    of_itself = costs(again, again.present())
    assert (announced.macs, announced.num_parameters) == (of_itself.macs, of_itself.num_parameters)
    assert announced.peak_ram_bytes == of_itself.peak_ram_bytes
    assert announced.flash_bytes == of_itself.flash_bytes
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        cut(inputs)
    assert announced.macs * 2 * len(inputs) == counter.get_total_flops()


@pytest.mark.parametrize("kind", BUILD)
def test_scores_are_the_losses_of_networks_without_each_neuron(kind: str) -> None:
    task = task_of(kind)
    network = gated(task)
    gone = [group.neurons[1] for group in network.groups if group.width > 2]
    scores = find_criterion("ablation").score(network.without(gone), list(task.calibration.batches()))
    inputs, targets = task.calibration.dataset[:]

    @torch.no_grad()
    def loss(neurons: list[sn.Neuron]) -> float:
        return float(nn.functional.cross_entropy(by_hand(task, network.groups, neurons)(inputs), targets))

    left = [neuron for group in network.groups for neuron in group.neurons if neuron not in gone]
    assert len({round(scores[neuron], 9) for neuron in left}) > len(left) / 2, "no two neurons cost the same"
    for neuron in left:
        assert scores[neuron] == pytest.approx(loss([*gone, neuron]) - loss(gone), abs=1e-11)


@pytest.mark.parametrize("kind", BUILD)
def test_a_run_is_kept_opened_and_checked_and_its_file_runs_by_itself(kind: str, tmp_path) -> None:
    task = task_of(kind, torch.float32)
    run = sn.prune(task, "taylor-1", goals=[sn.RemovedFraction(0.5)], step=4, out=tmp_path / "run")
    inputs = task.calibration.dataset[:][0]
    file = torch.export.load(tmp_path / "run" / "model.pt2").module()
    torch.testing.assert_close(file(inputs), run.network.outputs(inputs), rtol=0, atol=1e-4)
    opened = sn.load(tmp_path / "run", data=[task.calibration.dataset[:]])
    assert opened.plan.removed == run.plan.removed
    assert all(difference.holds for difference in check_files(opened).values())


@pytest.mark.parametrize(
    ("kind", "module", "keep"), [("ECA", "inner.conv", "one"), ("AlexNet", "2", "0"), ("one axis", "2", "0")]
)
def test_the_own_class_names_the_module_whose_window_moves_and_what_to_keep(kind: str, module: str, keep: str) -> None:
    task = task_of(kind, torch.float32)
    how = {"criterion": "random", "method": "single-ranking", "goals": [sn.RemovedNeurons(3)]}
    run = sn.prune(task, only=[keep], **how)
    what = rf"a window moves over neurons that have lost their places, in '{module}'.*`keep=\['{keep}'\]` the class"
    with pytest.raises(sn.FixedWidthError, match=what):
        _ = run.model
    inputs = task.calibration.dataset[:][0]
    torch.testing.assert_close(run.exported.module()(inputs), run.network.outputs(inputs), rtol=0, atol=1e-4)


def test_a_neuron_that_a_window_reads_is_not_superfluous_where_its_other_readers_are_zero() -> None:
    task = task_of("ECA")
    with torch.no_grad():
        task.model.two.weight[:, 4] = 0
    assert to_plan(gated(task)).removed == (), "its neighbours' weights are made of it too"


@pytest.mark.parametrize(("kind", "artefact"), [("AlexNet", "onnx"), ("one axis", "executorch")])
def test_artefacts_compute_what_torch_computes(kind: str, artefact: str) -> None:
    pytest.importorskip("executorch" if artefact == "executorch" else "onnxruntime")
    run = sn.prune(task_of(kind, torch.float32), "taylor-1", goals=[sn.RemovedNeurons(5)], step=5, artefact=artefact)
    assert run.artefact.difference.holds


def test_a_budget_is_met_by_the_file_whose_places_beside_the_windows_were_not_forecast() -> None:
    pytest.importorskip("executorch")
    task = task_of("ECA", torch.float32)
    first = sn.prune(task, "taylor-1", goals=[sn.RemovedNeurons(5)], step=5, artefact="executorch")
    assert first.artefact.num_bytes > first.artefact.forecast_bytes
    run = sn.prune(task, "taylor-1", goals=[sn.FlashBytes(first.artefact.num_bytes - 1)], artefact="executorch")
    assert run.is_met
    assert run.artefact.num_bytes < first.artefact.num_bytes
    assert run.artefact.difference.holds


def test_an_operator_that_a_runtime_lacks_is_named_in_one_sentence() -> None:
    pytest.importorskip("executorch")
    with pytest.raises(sn.ExportError, match=r"operators it knows\. Got .* use `artefact='pt2'`"):
        sn.prune(
            task_of("AlexNet", torch.float32), "taylor-1", goals=[sn.RemovedNeurons(5)], step=5, artefact="executorch"
        )
