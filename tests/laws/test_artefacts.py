"""Artefacts: forecasts beside measured files, files beside torch, budgets beside both, and what is refused."""

import json
import logging
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from architectures import ALL, SMALL
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import shrinknet as sn
from shrinknet.core.errors import ExportError
from shrinknet.core.records import Neuron
from shrinknet.engine.gates import gated
from shrinknet.export.arena import ALIGNMENT, planned
from shrinknet.export.artefact import Artefact
from shrinknet.export.base import exporter_names, find_exporter
from shrinknet.export.executorch import xnnpack_quantizer
from shrinknet.export.inference import InferenceGraph, by_torch
from shrinknet.export.lowering import float_products
from shrinknet.export.quantization import quantized
from shrinknet.graph.trace import named_tensors
from shrinknet.run.checking import check_files
from shrinknet.run.options import Pruning
from shrinknet.search.price import by_units
from shrinknet.search.rank import Limits, for_each_unit, takeable
from shrinknet.surgery.remove import cut_graph

pytest.importorskip("executorch")
TRAINED = [one for one in ALL if one.source == "trained"]
NOT_TAKEN = {"ConvNet, 3-D": "aten::convolution.out", "T5": "two inputs"}
UNROLLED = {one.name for one in SMALL if "RNN" in one.name or "LSTM" in one.name or "GRU" in one.name}
"""There each step is operators of its own."""
STEPS = 4
ONE_INPUT = [one for one in SMALL if one.name not in NOT_TAKEN]


def digits_task(**options: object) -> sn.Task:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 12, 3, padding=1),
        nn.ReLU(), nn.Flatten(), nn.Linear(192, 24), nn.ReLU(), nn.Linear(24, 10),
    ).eval()  # fmt: skip
    from sklearn.datasets import load_digits

    found = load_digits()
    inputs, targets = torch.tensor(found.images, dtype=torch.float32)[:, None] / 16, torch.tensor(found.target)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    model.train()
    for _ in range(4):
        for some in torch.randperm(900).split(50):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(inputs[some]), targets[some]).backward()
            optimizer.step()
    model.eval()
    parts = [(inputs[rows], targets[rows]) for rows in (slice(0, 900), slice(900, 1300), slice(1300, 1500))]
    return sn.Task(model, "cross-entropy", *parts, **options)


@pytest.fixture(scope="module")
def task() -> sn.Task:
    return digits_task()


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 9), st.integers(0, 5)), min_size=1, max_size=14))
def test_the_arena_is_what_executorchs_own_planner_finds(drawn: list[tuple[int, int, int]]) -> None:
    from executorch.exir.memory_planning import greedy
    from executorch.exir.tensor import TensorSpec

    specs, values = [], []
    for size, first, length in drawn:
        spec = TensorSpec.from_tensor(torch.zeros(size, dtype=torch.uint8))
        spec.lifetime = [first, first + length]
        specs.append(spec)
        values.append((-(-size // ALIGNMENT) * ALIGNMENT, first, first + length))
    found = greedy(ALIGNMENT, specs, torch.fx.GraphModule({}, torch.fx.Graph()), None)
    assert sum(found.bufsizes) == planned(values)


def some_gone(trace: sn.Trace, share: float) -> np.ndarray:
    draw = np.random.default_rng(0)
    gone = [n for group in trace.groups for n in group.neurons[: int(share * group.width * draw.random())]]
    return trace.present(tuple(gone))


@pytest.mark.parametrize("architecture", ONE_INPUT + TRAINED, ids=lambda one: one.name)
def test_forecasts_are_what_the_file_measures(architecture, request) -> None:
    """Of each network that exports: the arena exactly, the length within 2 %, the outputs those of torch."""
    if architecture in TRAINED:
        request.getfixturevalue("real_data")
    model, (inputs, *_) = architecture.build()
    inputs = inputs[:, :STEPS] if architecture.name in UNROLLED else inputs
    task = sn.Task(model, _sum, (inputs, torch.zeros(len(inputs))))
    trace, exporter = sn.trace(model, inputs), find_exporter("executorch")
    artefact = Artefact(task, trace, "executorch")
    for share in (0.0, 0.4, 0.9):
        present = some_gone(trace, share)
        cut = cut_graph(trace, present)
        built = (
            artefact._whole[1] if share == 0 else exporter.build(InferenceGraph.of(trace, cut), inputs[:2], [], "none")
        )
        forecast = artefact.costs(present)
        assert forecast.peak_ram_bytes == built.arena.num_bytes
        assert forecast.flash_bytes == pytest.approx(len(built.content), rel=0.02)
        rows = inputs[:2]
        assert torch.allclose(exporter.answer(built.content)(rows), by_torch(cut)(rows), rtol=1e-3, atol=1e-4)


def _sum(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return outputs.flatten(1).sum(1)


@pytest.mark.parametrize(("kind", "quantize"), [
    ("executorch", "none"), ("onnx", "none"), ("pt2", "none"), ("executorch", "int8"), ("cortex-m", "int8"),
])  # fmt: skip
def test_every_artefact_meets_its_budget_and_computes_what_torch_computes(task, kind, quantize, tmp_path) -> None:
    if kind == "cortex-m":
        pytest.importorskip("tosa_serializer")
    if kind == "onnx":
        pytest.importorskip("onnxruntime")
    whole = Artefact(task, gated(task).trace, kind, quantize)
    start = whole.costs(whole.trace.present())
    budget = int(0.7 * start.flash_bytes)
    goals: list[sn.Goal] = [sn.FlashBytes(budget)]
    if whole.plans_ram:
        goals.append(sn.PeakRamBytes(int(0.75 * start.peak_ram_bytes)))
    run = sn.prune(
        task, "taylor-1", goals=goals, artefact=kind, quantize=quantize, price="budget", out=tmp_path / "run"
    )
    assert run.is_met
    file = tmp_path / "run" / "artefacts" / run.artefact.file
    assert file.stat().st_size == run.artefact.num_bytes <= budget
    assert run.folder.manifest().sha256 == run.artefact.sha256
    checks = check_files(run)
    assert all(difference.holds for difference in checks.values())
    assert checks[f"artefacts/{run.artefact.file}"].num_samples == run.artefact.num_samples, (
        "run again, and not believed"
    )
    within = 0.04 if (kind, quantize) == ("executorch", "int8") else 0.02  # XNNPACK pads blocks, here there are few
    assert run.artefact.num_bytes == pytest.approx(run.artefact.forecast_bytes, rel=within)
    scratch = 128 if kind == "cortex-m" else 0  # its kernels ask for other scratch memory at other widths
    assert abs((run.artefact.arena_bytes or 0) - (run.artefact.forecast_arena_bytes or 0)) <= scratch
    if whole.plans_ram:
        assert run.artefact.arena_bytes <= 0.75 * start.peak_ram_bytes
    manifest = json.loads(Path(f"{file}.json").read_text())
    assert manifest["num_bytes"] == file.stat().st_size
    assert manifest["difference"]["worst"] <= manifest["difference"]["tolerance"]
    assert manifest["inputs"] == [{"name": "input", "dtype": "float32", "shape": [1, 1, 8, 8]}]
    if kind != "cortex-m":
        rows, targets = (part[:40] for part in task.test.dataset[:])
        given_there = find_exporter(kind, quantize).answer(file.read_bytes())(rows)
        if quantize == "none":
            assert torch.allclose(given_there, by_torch(run.cut)(rows), atol=1e-3)
        rows, targets = task.test.dataset[:]
        right = float(
            (find_exporter(kind, quantize).answer(file.read_bytes())(rows).argmax(1) == targets).double().mean()
        )
        assert right == pytest.approx(run.artefact.metrics["accuracy"])
    if quantize == "int8":
        corners = run.folder.corners()
        assert [corner.name for corner in corners] == [
            "full, float32",
            "pruned, float32",
            "full, int8",
            "pruned, int8",
        ]
        sizes = [corner.manifest.num_bytes for corner in corners]
        assert sizes[0] > sizes[1]
        assert sizes[0] > sizes[2] > sizes[3]


def test_the_arena_in_the_file_is_the_one_announced(task, tmp_path) -> None:
    """Read from the file itself, by executorch's own reader of its format."""
    from executorch.exir._serialize._program import deserialize_pte_binary

    run = sn.prune(task, "taylor-1", goals=[sn.PeakRamBytes("4 KiB")], artefact="executorch")
    content = run.shipped.content
    (plan,) = deserialize_pte_binary(content).program.execution_plan
    assert sum(plan.non_const_buffer_sizes) == run.artefact.arena_bytes <= 4096
    again = sn.prune(task, "taylor-1", goals=[sn.PeakRamBytes("4 KiB")], artefact="executorch")
    assert again.shipped.content == content, "same seed, same bits"


def test_after_a_miss_the_search_goes_on(task, monkeypatch) -> None:
    """A forecast that promises 900 bytes too little is found out by the file."""
    honest = Artefact.costs

    def promising(self, present):
        found = honest(self, present)
        return sn.Costs(found.num_neurons, found.num_parameters, found.flash_bytes - 900, *_last_two(found))

    monkeypatch.setattr(Artefact, "costs", promising)
    run = sn.prune(task, "taylor-1", goals=[sn.FlashBytes("16 KiB")], artefact="executorch")
    assert run.is_met
    assert run.artefact.num_bytes <= 16384
    assert run.artefact.forecast_bytes <= 16384 - 900
    at = run.at(sn.FlashBytes("12 KiB"))
    assert at.is_met
    assert at.artefact.num_bytes <= 12 * 1024


def _last_two(found: sn.Costs) -> tuple[int, int]:
    return found.peak_ram_bytes, found.macs


def test_a_budget_that_cannot_be_met_says_what_holds_the_memory(task) -> None:
    with pytest.raises(
        sn.BadInputError,
        match=r"^goals must be within reach: at least [\d,]+ of [\d,]+ bytes of RAM .*held by .*'conv2d' \(",
    ):
        sn.prune(task, "taylor-1", goals=[sn.PeakRamBytes(300)], artefact="executorch", step=4)
    run = sn.prune(task, "taylor-1", goals=[sn.PeakRamBytes(300)], artefact="executorch", step=4, whole_curve=True)
    assert not run.is_met
    assert run.reason.startswith("one neuron is left in each group; at most 300 bytes of RAM not met: it is ")
    assert "held by " in run.reason
    assert "'conv2d' (" in run.reason


def test_a_file_that_computes_something_else_is_refused(task, monkeypatch) -> None:
    exporter = type(find_exporter("executorch"))
    honest = exporter.answer
    monkeypatch.setattr(exporter, "answer", lambda self, content: lambda rows: honest(self, content)(rows) + 0.1)
    with pytest.raises(ExportError, match=r"must give a file that computes what torch computes\. Got a worst"):
        sn.prune(task, "taylor-1", goals=[sn.RemovedNeurons(3)], artefact="executorch")


@pytest.mark.parametrize("price", ["parameters", "macs", "flash", "ram"])
def test_the_next_removal_is_the_cheapest_for_each_unit(task, price: str) -> None:
    """Beside a slow twin: cut one neuron of each group away and count what the network then costs."""
    run = sn.prune(task, "taylor-1", goals=[sn.RemovedNeurons(1)], artefact="executorch", price=price)
    scores = dict(sn.rank(task, "taylor-1"))
    network = gated(task)
    ships = Artefact(task, network.trace, "executorch")
    start = ships.costs(network.present)
    attribute = {"parameters": "num_parameters", "macs": "macs", "flash": "flash_bytes"}.get(price)
    values = {}
    for neuron, score in scores.items():
        after = network.trace.present((neuron,))
        if attribute:
            units = getattr(start, attribute) - getattr(ships.costs(after), attribute)
        else:
            arena = ships._whole[1].arena
            units = sum(size - value.num_bytes(after) for value, size in arena.at_peak(network.present))
        values[neuron] = for_each_unit(score, units)
    assert values[run.plan.removed[0]] == min(values.values())


@pytest.mark.parametrize(
    ("goals", "price", "compensate"),
    [
        ([sn.NumParameters("60%")], "parameters", "least-squares"),
        ([sn.Macs("60%")], "macs", "least-squares"),
        ([sn.FlashBytes("60%"), sn.RemovedNeurons(1)], "flash", "least-squares"),
        ([sn.FlashBytes("80%"), sn.Macs("60%")], "budget", "least-squares"),
        ([sn.RemovedNeurons(3)], "neuron", "none"),
        ([], "neuron", "none"),
    ],
)
def test_what_is_asked_for_says_the_price_and_whether_readers_are_refit(
    task, tmp_path, goals, price, compensate
) -> None:
    run = sn.prune(task, "taylor-1", goals=goals, out=tmp_path / "run")
    said = sn.prune(task, "taylor-1", goals=goals, price=price, compensate=compensate)
    assert run.plan == said.plan
    assert run.measures == said.measures
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (config["price"], config["compensate"]) == (price, compensate)


def test_ram_alone_is_priced_by_what_is_planned(task) -> None:
    run = sn.prune(task, "taylor-1", goals=[sn.PeakRamBytes("70%")], artefact="executorch")
    assert (run.config.search.price, run.is_met) == ("ram", True)


def test_workers_refit_nothing_unless_asked_and_it_is_said(task, caplog) -> None:
    asked = Pruning(goals=[sn.Macs("60%")], scoring=sn.Scoring(executor="processes", workers=2))
    with caplog.at_level(logging.INFO):
        assert asked.with_compensation(gated(task), 10).compensate == "none"
    assert "Nothing is made up for: workers refit nothing." in caplog.text


def test_readers_whose_refit_is_dear_are_left_as_they_are_and_it_is_said(caplog) -> None:
    wide = nn.Sequential(nn.Linear(4, 600), nn.ReLU(), nn.Linear(600, 3))
    task = sn.Task(wide, "cross-entropy", (torch.randn(50, 4), torch.arange(50) % 3))
    with caplog.at_level(logging.INFO):
        run = sn.prune(task, "magnitude", goals=[sn.NumParameters("90%")], step=50, scoring=sn.Scoring("8MiB"))
    assert run.config.search.compensate == "none"
    assert "Nothing is made up for: a refit would take" in caplog.text
    roomy = sn.prune(task, "magnitude", goals=[sn.NumParameters("90%")], step=600)
    assert roomy.config.search.compensate == "least-squares"


def test_a_budget_of_shares_is_that_of_their_numbers(task) -> None:
    start = gated(task)
    costs = Artefact(task, start.trace, "weights").costs(start.present)
    shares = [sn.Macs("60%"), sn.NumParameters("50%")]
    numbers = [sn.Macs(int(0.6 * costs.macs)), sn.NumParameters(int(0.5 * costs.num_parameters))]
    plans = [sn.prune(task, "taylor-1", goals=goals, price="budget").plan for goals in (shares, numbers)]
    assert plans[0] == plans[1]


def test_of_ram_only_what_lives_at_the_peak_counts(task) -> None:
    """The dense layers are small: removing their neurons frees none of the peak, and they go last of all."""
    network = gated(task)
    ships = Artefact(task, network.trace, "executorch")
    prices = by_units(ships.freed("ram"))(network, Limits())
    assert prices["0"] > 0
    assert prices["7"] == 0
    assert ships.freed("ram")(network.present, network.trace.present((Neuron("7", 0),))) == 0


def test_blocks_are_priced_as_a_whole(task) -> None:
    """Widths stay multiples of 4; the block that goes is the one of least rise for each unit, by hand."""
    network, limits = gated(task), Limits(4)
    order = sorted(sn.rank(task, "taylor-1"), key=lambda pair: pair[1])
    prices = {"0": 1.0, "4": 3.0, "7": 10.0}
    taken = takeable(network, order, 1, limits, prices)
    assert Counter(neuron.group for neuron, _ in taken).most_common(1)[0][1] == 4
    blocks = {group: [score for neuron, score in order if neuron.group == group][:4] for group in prices}
    best = min(blocks, key=lambda group: for_each_unit(sum(blocks[group]), 4 * prices[group]))
    assert {neuron.group for neuron, _ in taken} == {best}


def test_latency_is_measured_and_never_passes_for_met(task) -> None:
    slow = sn.prune(task, "taylor-1", goals=[sn.RemovedNeurons(30)], artefact="onnx", max_latency=1e-6, step=7)
    assert not slow.is_met
    assert "ms, at most 1e-06 allowed" in slow.reason
    assert slow.artefact.latency.rounds == 200
    assert (
        slow.artefact.latency.quarter_ms <= slow.artefact.latency.median_ms <= slow.artefact.latency.three_quarters_ms
    )
    fast = sn.prune(task, "taylor-1", goals=[sn.RemovedNeurons(3)], artefact="onnx", max_latency=1e4)
    assert fast.is_met


class Inverting(nn.Module):
    """An operator that no exporter to small devices knows."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(4, 9), nn.Linear(9, 3)

    def forward(self, x):
        return self.two(torch.special.bessel_j0(self.one(x)))


def test_an_operator_that_cannot_be_taken_is_named() -> None:
    task = sn.Task(Inverting(), "cross-entropy", (torch.randn(20, 4), torch.arange(20) % 3))
    run = sn.prune(task, "random", goals=[sn.RemovedNeurons(2)])
    with pytest.raises(ExportError, match="bessel_j0") as error:
        run.export("executorch", "net.pte")
    assert str(error.value).endswith("The network as a .pt2 file is there all the same: use `artefact='pt2'`.")
    assert run.exported is not None


@pytest.mark.parametrize(("options", "words"), [
    ({"artefact": "tflite"}, "artefact must be the name of an exporter. Got 'tflite'."),
    ({"quantize": "int8"}, "quantize must be none for a weights file. Got int8. Name an artefact, as `artefact='executorch'`."),
    ({"artefact": "onnx", "quantize": "int8"}, "quantize for artefact='onnx' must be none. Got int8. Use `artefact='cortex-m'`."),
    ({"artefact": "cortex-m"}, "quantize for artefact='cortex-m' must be int8. Got none. Use `artefact='executorch'`."),
    ({"price": "weight"}, "price must be one of auto, neuron, parameters, flash, ram, macs, budget. Got 'weight'."),
    ({"price": "ram"}, "price='ram' must be used with an artefact whose memory is planned"),
    ({"compensate": "leastsquares"}, "Did you mean 'least-squares'?"),
    ({"max_latency": 3.0}, "max_latency must be used with an artefact that runs on this machine"),
    ({"goals": [sn.PeakRamBytes(100)]}, "PeakRamBytes must be used with an artefact whose memory is planned"),
    ({"goals": [sn.PeakRamBytes(100)], "artefact": "onnx"}, "PeakRamBytes must be used with an artefact whose memory is planned"),
])  # fmt: skip
def test_bad_input_is_one_sentence(task, options: dict[str, object], words: str) -> None:
    with pytest.raises(sn.BadInputError) as error:
        sn.prune(task, "taylor-1", **options)
    assert words in str(error.value)


@pytest.mark.parametrize("name", ["executorch", "onnx"])
def test_a_missing_extra_names_the_line_that_installs_it(name: str, monkeypatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "executorch" if name == "executorch" else "onnxruntime", None)
    with pytest.raises(sn.BadInputError) as error:
        find_exporter(name)
    assert str(error.value).endswith(f"Run: pip install 'shrinknet[{name}]'")


def test_every_exporter_is_found_by_its_name() -> None:
    assert exporter_names() == ("cortex-m", "executorch", "onnx", "pt2", "weights")


def test_the_weights_file_is_no_file_of_another_program(task) -> None:
    run = sn.prune(task, "magnitude", goals=[sn.RemovedNeurons(1)])
    assert run.artefact is None
    with pytest.raises(sn.BadInputError, match=r"^artefact .* Got 'weights'\. There are: cortex-m, .*, pt2\. One"):
        run.export("weights", "net.safetensors")


def test_norms_are_folded_and_no_file_holds_them(task) -> None:
    trace = gated(task).trace
    plain = InferenceGraph.of(trace, cut_graph(trace, trace.present()))
    assert not any("batch_norm" in str(node.target) for node in plain.module.graph.nodes)
    assert set(named_tensors(plain.module)) == {
        f"{layer}.{kind}" for layer in (0, 4, 7, 9) for kind in ("weight", "bias")
    }
    rows = next(task.test.batches()).inputs
    with torch.no_grad():
        assert torch.allclose(plain.module(rows), task.model(rows), atol=1e-5)


class SequenceNet(nn.Module):
    """A part of a network of sequences between two dense layers, which have an int8 form everywhere."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.hidden, self.part, self.out = nn.Linear(6, 16), part, nn.Linear(16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.hidden(x))
        if isinstance(self.part, nn.LogSoftmax):
            return self.part(self.out(x))
        if isinstance(self.part, nn.MultiheadAttention):
            return self.out((x + self.part(x, x, x, need_weights=False)[0])[:, -1])
        return self.out(self.part(x)[0][:, -1] if isinstance(self.part, nn.LSTM | nn.GRU) else self.part(x))


def sequence_task(part: nn.Module, *row: int) -> sn.Task:
    torch.manual_seed(0)
    for parameter in part.parameters():
        nn.init.uniform_(parameter, -0.3, 0.3)
    return sn.Task(SequenceNet(part).eval(), "cross-entropy", (torch.randn(24, *row), torch.arange(24) % 3))


IN_FLOAT = {
    "layer-norm": (nn.LayerNorm(16), (6,), "layer_norm (in 'part')"),
    "log-softmax": (nn.LogSoftmax(1), (6,), "log_softmax (in 'part')"),
    "attention": (nn.MultiheadAttention(16, 2, batch_first=True), (4, 6), "scaled_dot_product_attention (in 'part')"),
    "lstm": (nn.LSTM(16, 16, batch_first=True), (2, 6), "lstm (in 'part')"),
}


@pytest.mark.parametrize("name", IN_FLOAT)
def test_an_int8_file_names_what_stays_in_float_and_needs_leave_for_it(name: str, tmp_path) -> None:
    """Refused with its operators' names; with leave, made, named in its manifest, and of the size foretold."""
    pytest.importorskip("tosa_serializer")
    part, row, operator = IN_FLOAT[name]
    how = {"goals": [sn.RemovedFraction(0.3)], "step": 9, "tie": "none"}  # one head alone would be another graph
    run = sn.prune(sequence_task(part, *row), "magnitude", "single-ranking", **how)
    with pytest.raises(ExportError, match=r"stay in float: .*`allow_float=True`") as refused:
        run.export("cortex-m", tmp_path / "net.pte", "int8")
    assert not (tmp_path / "net.pte").exists()
    manifest = run.export("cortex-m", tmp_path / "net.pte", "int8", allow_float=True)
    assert operator in str(refused.value)
    assert operator in manifest.float_operators
    assert operator in manifest.notes[-1]
    assert not any("linear (in " in one for one in manifest.float_operators)
    written = json.loads((tmp_path / "net.pte.json").read_text())
    assert written["float_operators"] == list(manifest.float_operators)
    assert manifest.num_bytes == pytest.approx(manifest.forecast_bytes, rel=0.02)
    assert manifest.arena_bytes == pytest.approx(manifest.forecast_arena_bytes, rel=0.02)


@pytest.mark.parametrize(("name", "in_float"), [
    ("layer-norm", ()), ("attention", ("scaled_dot_product_attention (in 'part')",)), ("lstm", ("lstm (in 'part')",)),
])  # fmt: skip
def test_products_that_xnnpack_leaves_in_float_are_named(name: str, in_float: tuple[str, ...]) -> None:
    """Those that multiply by weights: norms and the like are float in any of its files, and cost little."""
    part, row, _ = IN_FLOAT[name]
    task = sequence_task(part, *row)
    trace = gated(task).trace
    plain = InferenceGraph.of(trace, cut_graph(trace, trace.present()))
    rows = task.example_inputs
    assert float_products(quantized(plain.module, rows, xnnpack_quantizer(), [rows]), plain) == in_float


def test_a_run_with_leave_for_float_is_verified_as_it_was_made(tmp_path) -> None:
    """By the library and by the command; the file is made anew to the bit, which needs the same leave."""
    pytest.importorskip("tosa_serializer")
    from typer.testing import CliRunner

    from shrinknet.cli.main import app

    task = sequence_task(nn.LayerNorm(16), 6)
    options = {"goals": [sn.RemovedFraction(0.3)], "step": 9, "artefact": "cortex-m", "quantize": "int8"}
    with pytest.raises(ExportError, match=r"stay in float: layer_norm \(in 'part'\)\."):
        sn.prune(task, "magnitude", "single-ranking", **options)
    run = sn.prune(task, "magnitude", "single-ranking", **options, allow_float=True, out=tmp_path / "run")
    assert run.artefact.float_operators == ("layer_norm (in 'part')",)
    file = f"artefacts/{run.artefact.file}"
    assert check_files(run)[file].holds
    rows = task.calibration.whole()
    assert check_files(sn.load(tmp_path / "run", data=[(rows.inputs, rows.targets)]))[file].holds
    split = np.array([0] * len(rows) + [1, 2])  # each role needs a row
    inputs, targets = (np.concatenate([part, part[:2]]) for part in (rows.inputs.numpy(), rows.targets.numpy()))
    np.savez(tmp_path / "rows.npz", inputs=inputs, targets=targets, split=split)
    said = CliRunner().invoke(app, ["verify", str(tmp_path / "run"), "--data", str(tmp_path / "rows.npz")])
    assert said.exit_code == 0, said.output
    assert file in said.output
