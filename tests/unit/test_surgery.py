"""The user's own module: handed back smaller, or refused with the place that fixes a width."""

import copy
import json
from pathlib import Path

import pytest
import torch
from torch import nn

import shrinknet as sn
from shrinknet.core.folder import digest_of_plan
from shrinknet.core.records import Plan
from shrinknet.engine.gates import gated
from shrinknet.run import own_class
from shrinknet.sparsify.api import remove


class LeNet(nn.Module):
    """Writes its flattened width into its source."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.dense, self.out = nn.Conv2d(1, 6, 5), nn.Linear(6 * 16, 12), nn.Linear(12, 3)

    def forward(self, x):
        x = torch.relu(self.conv(x)).view(x.size(0), 96)
        return self.out(torch.relu(self.dense(x)))


class Scaled(nn.Module):
    """Runs at any width, and computes something else at each."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(4, 9), nn.Linear(9, 3)

    def forward(self, x):
        hidden = torch.relu(self.one(x))
        return self.two(hidden * hidden.shape[-1] ** -0.5)


def run_of(model: nn.Module, *shape: int, remove: int = 4) -> sn.Run:
    rows = (torch.randn(6, *shape), torch.arange(6) % 3)
    return sn.prune(sn.Task(model, "cross-entropy", rows), "taylor-1", goals=[sn.RemovedNeurons(remove)])


def test_a_width_in_the_source_is_named_with_its_line_and_the_exported_form_is_there() -> None:
    run = run_of(LeNet(), 1, 8, 8)
    line = next(
        n for n, text in enumerate(Path(__file__).read_text().splitlines(), 1) if ".view(x.size(0), 96)" in text
    )
    with pytest.raises(
        sn.FixedWidthError,
        match=rf"fixes a width \(.*test_surgery\.py, line {line}, in forward: .*view\(x.size\(0\), 96\)",
    ):
        _ = run.model
    inputs = torch.randn(5, 1, 8, 8)
    torch.testing.assert_close(run.exported.module()(inputs), run.network.outputs(inputs), rtol=0, atol=1e-5)


def test_a_module_that_runs_and_differs_is_not_handed_back() -> None:
    run = run_of(Scaled(), 4)
    with pytest.raises(sn.FixedWidthError, match="runs at the smaller widths but computes something else"):
        _ = run.model
    assert run.verification.holds, "the exported form keeps the scale that it was traced with"


def test_a_plan_is_not_applied_to_a_class_that_does_not_bear_it(tmp_path) -> None:
    model, rows = Scaled(), (torch.randn(6, 4), torch.arange(6) % 3)
    task = sn.Task(model, "cross-entropy", rows)
    sn.prune(task, "taylor-1", goals=[sn.RemovedNeurons(4)], out=tmp_path / "run")
    with pytest.raises(
        sn.FixedWidthError, match=r"computes something else.* The run's model\.pt2 is the smaller network"
    ):
        sn.apply_plan(model, tmp_path / "run")
    sn.load(tmp_path / "run", data=[rows]).at(sn.RemovedNeurons(2)).save(tmp_path / "other")
    with pytest.raises(sn.FixedWidthError, match="computes something else"):
        sn.apply_plan(model, tmp_path / "other")


def test_attributes_say_the_new_widths_and_training_goes_on() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.PReLU(6), nn.Conv2d(6, 12, 3, groups=6), nn.ReLU(),
        nn.Flatten(), nn.Linear(12 * 36, 8), nn.ReLU(), nn.Linear(8, 3),
    )  # fmt: skip
    run = run_of(model, 1, 8, 8, remove=6)
    small = run.model
    kept = small[0].out_channels
    assert (small[1].num_features, small[2].num_parameters) == (kept, kept)
    assert (small[3].groups, small[3].in_channels, small[3].out_channels) == (kept, kept, 2 * kept)
    assert small[6].in_features == 72 * kept
    assert f"out_features={small[6].out_features}" in repr(small)
    before = copy.deepcopy(small.state_dict())
    optimizer = torch.optim.SGD(small.parameters(), lr=0.1)
    nn.functional.cross_entropy(small.train()(torch.randn(4, 1, 8, 8)), torch.arange(4) % 3).backward()
    optimizer.step()
    assert any(not torch.equal(tensor, before[name]) for name, tensor in small.state_dict().items())
    again = run_of(small.eval(), 1, 8, 8, remove=2)
    assert again.model[0].out_channels <= kept


def test_class_names_hooks_and_modes_are_kept() -> None:
    class Mine(nn.Sequential):
        pass

    model = Mine(nn.Linear(4, 8), nn.Dropout(), nn.Linear(8, 3)).train()
    model[1].eval()
    calls = []
    model[0].register_forward_hook(lambda *_: calls.append(1))
    small = run_of(model, 4).model
    assert type(small) is Mine
    assert (small.training, small[1].training) == (True, False)
    calls.clear()
    small(torch.randn(2, 4))
    assert calls == [1]
    assert list(small.state_dict()) == list(model.state_dict())


def test_frozen_parameters_stay_frozen() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    model[0].weight.requires_grad_(False)
    small = run_of(model, 4).model
    assert [p.requires_grad for p in small.parameters()] == [False, True, True, True]


class Recurrent(nn.Module):
    """One constructor argument for the widths of several layers or directions."""

    def __init__(self, kind: type[nn.RNNBase], width: int, **options) -> None:
        super().__init__()
        self.memory, self.head = kind(5, 8, batch_first=True, **options), nn.Linear(width, 3)

    def forward(self, x):
        return self.head(self.memory(x)[0][:, -1])


class Chunked(nn.Module):
    """Halves a layer's outputs, wherever the half is."""

    def __init__(self) -> None:
        super().__init__()
        self.free, self.both, self.out = nn.Linear(4, 8), nn.Linear(8, 12), nn.Linear(6, 3)

    def forward(self, x):
        both = self.both(torch.relu(self.free(x)))
        return self.out(both[:, :6] * torch.sigmoid(both[:, 6:]))


@pytest.mark.parametrize(
    ("kind", "width", "options"),
    [(nn.LSTM, 8, {"num_layers": 2}), (nn.GRU, 16, {"bidirectional": True}), (nn.RNN, 8, {"num_layers": 3})],
)
def test_a_recurrent_module_of_unequal_layers_is_named_with_what_to_keep(kind, width: int, options) -> None:
    torch.manual_seed(0)
    model = Recurrent(kind, width, **options)
    task = sn.Task(model, "cross-entropy", (torch.randn(6, 4, 5), torch.arange(6) % 3))
    run = sn.prune(task, "magnitude", "single-ranking", goals=[sn.RemovedNeurons(1)], tie="none")
    what = rf"'memory', an nn\.{kind.__name__}, has one hidden_size .* the cut left .*\b7\b.*keep=\['memory'\]"
    with pytest.raises(sn.FixedWidthError, match=what):
        _ = run.model


@pytest.mark.parametrize(
    ("model", "shape", "keep"), [(Chunked(), (4,), "both"), (LeNet(), (1, 8, 8), "conv")], ids=["halves", "a view"]
)
def test_the_keep_that_an_error_names_gives_the_class_back(model: nn.Module, shape: tuple[int, ...], keep: str) -> None:
    task = sn.Task(model, "cross-entropy", (torch.randn(6, *shape), torch.arange(6) % 3))
    how = {"criterion": "magnitude", "method": "single-ranking", "goals": [sn.RemovedFraction(0.7)], "step": 100}
    with pytest.raises(sn.FixedWidthError, match=rf"With `keep=\['{keep}'\]` the class comes back"):
        _ = sn.prune(task, **how).model
    assert type(sn.prune(task, keep=[keep], **how).model) is type(model)


def test_of_many_blocks_one_is_tried_for_those_that_are_alike(monkeypatch) -> None:
    tried = []
    monkeypatch.setattr(
        own_class, "why_not_own", lambda *how, one=own_class.why_not_own: tried.append(how) or one(*how)
    )
    model = nn.Sequential(
        *(part for _ in range(9) for part in (Chunked(), nn.Linear(3, 4), nn.ReLU())), nn.Linear(4, 3)
    )
    task = sn.Task(model, "cross-entropy", (torch.randn(6, 4), torch.arange(6) % 3))
    network = gated(task)
    assert len(network.groups) == 4 * 9
    less = network.without(sn.Neuron(group.name, 0) for group in network.groups)
    keep = sorted(f"{place}.both" for place in range(0, 27, 3))
    assert own_class.what_helps(task, less) == f" With `keep={keep}` the class comes back."
    assert len(tried) == 5, "four kinds of groups, and the class with all but one of them"


def test_equal_cuts_of_all_layers_come_back() -> None:
    torch.manual_seed(0)
    model = Recurrent(nn.LSTM, 8, num_layers=2)
    task = sn.Task(model, "cross-entropy", (torch.randn(6, 4, 5), torch.arange(6) % 3))
    run = sn.prune(task, "magnitude", goals=[sn.RemovedFraction(0.9)], step=100)
    assert {group.width for group in run.network.groups} == {8}
    assert run.model.memory.hidden_size == 1


class Within(nn.Module):
    """A module that fixes a width, inside another."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), Halved())
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.body(x))


class Halved(nn.Module):
    def forward(self, x):
        return x.view(x.size(0), 2, 4).flatten(1)


def test_the_innermost_module_that_fixes_a_width_is_named() -> None:
    run = run_of(Within(), 4, remove=2)
    with pytest.raises(
        sn.FixedWidthError, match=r"fixes a width \(in 'body\.2', .*test_surgery\.py, line \d+, in forward"
    ):
        _ = run.model


class EverySecond(nn.Module):
    """Reads all its neurons and, once more, those at even places."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.all, self.even = nn.Linear(4, 8), nn.Linear(8, 3), nn.Linear(4, 3)

    def forward(self, x):
        hidden = torch.relu(self.one(x))
        return self.all(hidden) + self.even(hidden[:, ::2])


@pytest.mark.parametrize("gone", [7, 2])
def test_steps_over_neurons_come_back_where_the_others_keep_their_turn(gone: int) -> None:
    torch.manual_seed(0)
    model, rows = EverySecond(), (torch.randn(6, 4), torch.arange(6) % 3)
    with torch.no_grad():
        model.one.weight[gone] /= 1000
    run = sn.prune(sn.Task(model, "cross-entropy", rows), "magnitude", goals=[sn.RemovedNeurons(1)])
    assert run.verification.holds
    if gone == 7:
        inputs = torch.randn(5, 4)
        torch.testing.assert_close(run.model(inputs), run.exported.module()(inputs), rtol=0, atol=1e-5)
    else:
        with pytest.raises(sn.FixedWidthError, match=r"fixes a width \(in 'even'"):
            _ = run.model


class Shifted(nn.Module):
    """Looks at each place and the one before; how many there are is read off the input."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(4, 8), nn.Linear(8, 3)

    def forward(self, x):
        hidden = torch.relu(self.one(x))
        return self.two(hidden[:, 1:] + hidden[:, : x.shape[1] - 1]).sum(1)


def test_a_class_that_slices_by_a_free_size_comes_back_and_runs_at_every_length() -> None:
    torch.manual_seed(0)
    rows = (torch.randn(6, 5, 4), torch.arange(6) % 3)
    task = sn.Task(Shifted(), "cross-entropy", rows, free={"x": [1]})
    run = sn.prune(task, "taylor-1", goals=[sn.RemovedNeurons(3)])
    assert run.model.one.out_features == run.model.two.in_features == 5
    for length in (3, 5, 11):
        inputs = torch.randn(2, length, 4)
        torch.testing.assert_close(run.model(inputs), run.exported.module()(inputs), rtol=0, atol=1e-5)


class Square(nn.Module):
    """As many heads as each has values: one number is a width in one place and none in the other."""

    def __init__(self) -> None:
        super().__init__()
        self.num_heads = self.size = 4
        self.values, self.weights, self.out = nn.Linear(5, 16), nn.Linear(5, 4), nn.Linear(16, 3)

    def forward(self, x):
        values = self.values(x).view(*x.shape[:2], self.num_heads, self.size)
        weights = self.weights(x).softmax(1).view(*x.shape[:2], self.num_heads, 1)
        return self.out((values * weights).sum(1).reshape(-1, self.num_heads * self.size))


def test_heads_stay_and_their_width_goes_where_both_are_the_same_number() -> None:
    torch.manual_seed(0)
    run = run_of(Square(), 6, 5, remove=1)
    assert run.verification.holds
    inputs = torch.randn(5, 6, 5)
    torch.testing.assert_close(run.model(inputs), run.exported.module()(inputs), rtol=0, atol=1e-5)
    assert (run.model.num_heads, run.model.size) == (4, 3)


class Words(nn.Module):
    """Widths of an embedding and of a recurrent layer."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.memory, self.head = nn.Embedding(9, 6), nn.LSTM(6, 5, batch_first=True), nn.Linear(5, 3)

    def forward(self, x):
        return self.head(self.memory(self.table(x))[0][:, -1])


def test_an_embedding_and_a_recurrent_layer_say_their_new_widths() -> None:
    torch.manual_seed(0)
    task = sn.Task(Words(), "cross-entropy", (torch.randint(0, 9, (12, 4)), torch.arange(12) % 3))
    run = sn.prune(task, "magnitude", "single-ranking", goals=[sn.RemovedNeurons(5)])
    widths = {group.name: len(run.network.alive(group)) for group in run.network.groups}
    small = run.model
    assert (small.table.embedding_dim, small.memory.input_size) == (widths["table"],) * 2
    assert small.memory.hidden_size == small.head.in_features == widths["memory"]
    assert small.table.num_embeddings == 9
    assert min(6 - widths["table"], 5 - widths["memory"]) > 0, "both have lost some"


class Cells(nn.Module):
    """Modules whose widths only their buffers, or weights of other names, tell."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Linear(4, 7), nn.BatchNorm1d(7, affine=False)
        self.cell, self.head = nn.GRUCell(7, 6), nn.Linear(6, 3)

    def forward(self, x):
        return self.head(self.cell(torch.relu(self.norm(self.first(x)))))


def test_norms_without_weights_and_cells_say_their_new_widths() -> None:
    torch.manual_seed(0)
    run = run_of(Cells().eval(), 4)
    small, widths = run.model, {group.name: len(run.network.alive(group)) for group in run.network.groups}
    assert small.norm.num_features == small.first.out_features == small.cell.input_size == widths["first"] < 7
    assert small.cell.hidden_size == small.head.in_features == widths.get("cell", 6)


PLAN = {
    "kept": {"0.weight": {"0": [0, 2]}, "0.bias": {"0": [0, 2]}, "2.weight": {"1": [0, 2]}},
    "attributes": {"0": {"out_features": 2}, "2": {"in_features": 2}},
}


def test_a_plan_says_what_is_taken_and_what_the_attributes_are() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    small = sn.apply_plan(model, PLAN)
    assert torch.equal(small[0].weight, model[0].weight[[0, 2]])
    assert torch.equal(small[2].weight, model[2].weight[:, [0, 2]])
    assert (small[0].out_features, small[2].in_features) == (2, 2)
    assert torch.equal(small[2].bias, model[2].bias)
    assert sn.apply_plan(model, PLAN | {"sha256": digest_of_plan(PLAN)})[0].out_features == 2
    with pytest.raises(sn.BadInputError, match="one that was changed since it was written"):
        sn.apply_plan(model, PLAN | {"sha256": "0" * 64})


@pytest.mark.parametrize("axes", [{"0": []}, {"2": [0]}, {"-1": [0]}, {"0": [-1, 2]}, {"0": [0, 3]}, {"1": [4]}])
def test_places_that_a_tensor_does_not_have_are_another_networks(axes: dict[str, list[int]]) -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    for name in ("0.weight", "nowhere"):
        with pytest.raises(sn.BadInputError, match=r"^plan must be one of this network\. Got places "):
            sn.apply_plan(model, {"kept": {name: axes}, "attributes": {}})


@pytest.mark.parametrize("value", [0, -1, 2.0, True, [2], "2"])
def test_a_plan_sets_widths_and_nothing_else(value: object) -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    with pytest.raises(sn.BadInputError, match=r"^plan must be one of this network\. Got attribute 'out_features'"):
        sn.apply_plan(model, PLAN | {"attributes": {"0": {"out_features": value}}})


def test_a_plan_without_a_hash_is_told(tmp_path, caplog) -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    for plan in (PLAN | {"sha256": digest_of_plan(PLAN)}, PLAN):
        (tmp_path / "plan.json").write_text(json.dumps(plan))
        assert sn.apply_plan(model, tmp_path / "plan.json")[0].out_features == 2
        assert ("bears no hash" in caplog.text) == ("sha256" not in plan)


class Normalising(nn.Module):
    """Its own code calls the norm: in the graph the norm's width is a number of the whole."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(4, 6), nn.LayerNorm(6), nn.Linear(6, 3)

    def forward(self, x):
        x = self.first(x).relu()
        return self.last(nn.functional.layer_norm(x, self.norm.normalized_shape, self.norm.weight, self.norm.bias))


def test_a_norm_that_others_call_says_its_new_width() -> None:
    task = sn.Task(Normalising(), "cross-entropy", (torch.randn(12, 4), torch.arange(12) % 3))
    run = sn.prune(task, "magnitude", goals=[sn.RemovedNeurons(2)])
    assert run.model.norm.normalized_shape == (4,)


class Stepping(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cells, self.head = nn.LSTM(4, 6, batch_first=True), nn.Linear(6, 2)

    def forward(self, x):
        return self.head(self.cells(x)[0].mean(1))


def test_a_width_that_no_line_fixes_is_told_without_one() -> None:
    """An exported network has no code of its own: the width stands in its graph."""
    rows = torch.randn(12, 5, 4), torch.arange(12) % 2
    exported = torch.export.export(Stepping(), (rows[0],), dynamic_shapes=({0: torch.export.Dim("batch")},)).module()
    run = sn.prune(sn.Task(exported, "cross-entropy", rows), "magnitude", goals=[sn.RemovedNeurons(2)])
    with pytest.raises(sn.FixedWidthError, match=r"fixes a width( \(in 'cells'\))?: "):
        _ = run.model


class Projecting(nn.Module):
    def __init__(self, layers: int) -> None:
        super().__init__()
        self.cells = nn.LSTM(6, 7, layers, batch_first=True, proj_size=layers + 2)
        self.head = nn.Linear(layers + 2, 3)

    def forward(self, x):
        return self.head(self.cells(x)[0][:, -1])


def projecting(layers: int, free=None) -> sn.Task:
    torch.manual_seed(0)
    model = Projecting(layers)
    return sn.Task(model, "cross-entropy", (torch.randn(24, 5, 6), torch.arange(24) % 3), free=free)


@pytest.mark.parametrize(("artefact", "free"), [
    ("pt2", {}), ("onnx", {}), ("executorch", {}), ("pt2", {"x": [1]}), ("weights", {"x": [1]}),
])  # fmt: skip
def test_a_projection_as_wide_as_its_cells_is_cut_and_goes_on(artefact: str, free, tmp_path) -> None:
    """Of 7 cells and 3 outputs 4 cells go: torch takes that for no projection."""
    pytest.importorskip({"onnx": "onnxruntime", "executorch": "executorch"}.get(artefact, "torch"))
    options = {"tie": "none", "keep": ["cells.weight_hh_l0[1]"], "artefact": artefact, "out": tmp_path / "run"}
    run = sn.prune(projecting(1, free), "magnitude", goals=[sn.RemovedNeurons(4)], **options)
    assert run.verification.holds
    weights = run.exported.state_dict
    assert tuple(weights["cells.weight_hr_l0"].shape) == (3, 3)
    x = torch.randn(3, 11 if free else 5, 6)
    opened = torch.export.load(tmp_path / "run" / "model.pt2").module()
    torch.testing.assert_close(opened(x), run.network.outputs(x))
    assert (
        run.measures.costs.flash_bytes == len((tmp_path / "run" / "model.safetensors").read_bytes())
        or artefact != "weights"
    )
    with pytest.raises(sn.FixedWidthError):
        _ = run.model
    assert sn.load(tmp_path / "run", data=[(torch.randn(24, 5, 6), torch.arange(24) % 3)]).plan == run.plan


def test_a_projection_without_a_common_share_shrinks_alone_and_the_class_comes_back(caplog) -> None:
    """Of 7 cells and 3 outputs no share of both is whole; the projection stays the narrower one."""
    run = sn.prune(projecting(1), "magnitude", goals=[sn.RemovedNeurons(2)])
    assert (run.model.cells.hidden_size, run.model.cells.proj_size) == (7, 1)
    assert "their width is also that of others that never go" in caplog.text


def test_what_would_help_a_class_is_asked_of_cuts_that_may_not_run() -> None:
    """Of 7 cells 3 go, of 4 outputs 1; with the cells alone, which is tried, there would be 4 of each."""
    gone = [*(sn.Neuron("cells.weight_ih_l0[0]", unit) for unit in range(3)), sn.Neuron("cells.weight_hh_l0[1]", 0)]
    run = remove(projecting(2), Plan(tuple(gone), ()))
    with pytest.raises(sn.FixedWidthError, match="has one hidden_size"):
        _ = run.model
