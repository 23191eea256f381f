"""Files of .onnx from other people: opened, compared with their own runtime, pruned; refused in one sentence."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

import shrinknet as sn
from shrinknet.cli.main import app
from shrinknet.core.quiet import quiet
from shrinknet.graph.trace import trace
from shrinknet.loading import onnx_operators
from shrinknet.loading.models import load_model
from shrinknet.task.trees import called, inputs_of, joined, tensors_of

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402


def written(model: nn.Module, inputs: tuple[Tensor, ...], path: Path, names: list[str], new: bool, free: bool) -> str:
    given = inputs if free else tuple(one[:1] for one in inputs)
    with quiet():
        if new:
            shapes = tuple({0: torch.export.Dim("batch", min=1)} for _ in given) if free else None
            torch.onnx.export(
                model.eval(), given, path, dynamo=True, input_names=names, dynamic_shapes=shapes, external_data=False
            )
        else:
            axes = {name: {0: "batch"} for name in names} if free else None
            torch.onnx.export(model.eval(), given, path, dynamo=False, input_names=names, dynamic_axes=axes)
    return str(path)


def made(nodes: list[Any], shapes: dict[str, list[Any]], weights: dict[str, Any], path: Path, out: str = "y",
         opset: int = 20, functions: list[Any] | None = None, domains: tuple[str, ...] = (), rank: int = 2) -> str:  # fmt: skip
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    outputs = [helper.make_tensor_value_info(out, TensorProto.FLOAT, [None] * rank)]
    tensors = [numpy_helper.from_array(np.asarray(array), name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "net", inputs, outputs, tensors)
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, functions=functions or [], ir_version=10), path)
    return str(path)


RANDOM = np.random.default_rng(0)


def weights(*shape: int) -> Any:
    return RANDOM.standard_normal(shape).astype(np.float32)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.TransformerEncoderLayer(16, 2, 24, batch_first=True), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(x).mean(1))


class Recurrent(nn.Module):
    def __init__(self, kind: Any = nn.LSTM, **options: Any) -> None:
        super().__init__()
        self.rnn = kind(4, 7, batch_first=True, **options)
        self.head = nn.Linear(14 if options.get("bidirectional") else 7, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x)[0][:, -1])


class Convolutions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU6(), nn.Conv2d(8, 8, 3, 2, 1, groups=8),
            nn.Hardswish(), nn.ConvTranspose2d(8, 6, 2, 2), nn.Upsample(scale_factor=2, mode="nearest"), nn.AvgPool2d(2),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(), nn.Linear(6, 3),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


NETWORKS: dict[str, Callable[[], tuple[nn.Module, Tensor]]] = {
    "dense": lambda: (
        nn.Sequential(nn.Linear(8, 12), nn.LeakyReLU(), nn.LayerNorm(12), nn.Linear(12, 3)),
        torch.randn(2, 8),
    ),
    "convolutions": lambda: (Convolutions(), torch.randn(2, 3, 8, 8)),
    "LSTM": lambda: (Recurrent(), torch.randn(2, 5, 4)),
    "GRU": lambda: (Recurrent(nn.GRU, bidirectional=True), torch.randn(2, 5, 4)),
    "RNN": lambda: (Recurrent(nn.RNN, nonlinearity="relu"), torch.randn(2, 5, 4)),
    "attention": lambda: (Attention(), torch.randn(2, 5, 16)),
}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("new", [True, False], ids=["dynamo", "script"])
@pytest.mark.parametrize("free", [True, False], ids=["free", "fixed"])
def test_a_file_is_the_network_with_as_many_neurons_for_any_number_of_rows(name, new, free, tmp_path) -> None:
    torch.manual_seed(0)
    model, x = NETWORKS[name]()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    loaded = load_model(written(model, (x,), tmp_path / "net.onnx", ["x"], new, free))
    rows = torch.randn(5, *x.shape[1:])
    torch.testing.assert_close(loaded.model(rows), model(rows), rtol=1e-4, atol=1e-4)
    own, read = trace(model, rows), trace(loaded.model, rows)
    directions = 2 if name == "GRU" else 1  # one width in the file: a unit goes in both directions
    assert read.num_neurons * directions == own.num_neurons
    task = sn.Task(loaded.model, "cross-entropy", (torch.randn(12, *x.shape[1:]), torch.arange(12) % 3))
    run = sn.prune(task, "taylor-1", goals=[sn.RemovedNeurons(2)])
    assert run.verification.holds
    assert run.exported.module()(rows).shape == (5, 3)


class Tagger(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words, self.hidden, self.head = nn.Embedding(50, 8), nn.Linear(8, 12), nn.Linear(12, 3)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        hidden = torch.relu(self.hidden(self.words(input_ids))) * attention_mask[..., None]
        return self.head(hidden.sum(1) / attention_mask.sum(1, keepdim=True))


def test_verbs_take_a_file_and_arrays_by_the_names_of_its_inputs(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    inputs = torch.randint(50, (2, 9)), torch.ones(2, 9)
    written(Tagger(), inputs, tmp_path / "net.onnx", ["input_ids", "attention_mask"], new=False, free=False)
    ids, mask = RANDOM.integers(0, 50, (30, 9)), np.ones((30, 9), np.float32)
    np.savez("rows.npz", input_ids=ids, attention_mask=mask, targets=np.arange(30) % 3)
    words = ["prune", "net.onnx", "--data", "rows.npz", "--criterion", "taylor-1", "--remove", "3", "--out", "run"]
    for line in (words, ["verify", "run"], ["inspect", "net.onnx"], ["bench", "net.onnx", "--plan"],
                 ["rank", "net.onnx", "--data", "rows.npz", "--criterion", "magnitude"]):  # fmt: skip
        done = CliRunner().invoke(app, line, catch_exceptions=False)
        assert done.exit_code == 0, done.output
    Path("net.onnx").unlink()
    assert sn.load("run").verification.holds, "original.pt2 stands in for the file"


def test_several_outputs_bear_their_names(tmp_path) -> None:
    nodes = [helper.make_node("Gemm", ["x", "w"], ["one"]), helper.make_node("Relu", ["one"], ["y"])]
    path = made(nodes, {"x": ["N", 4]}, {"w": weights(4, 6)}, tmp_path / "net.onnx")
    proto = onnx.load(path)
    proto.graph.output.append(helper.make_tensor_value_info("one", TensorProto.FLOAT, ["N", 6]))
    onnx.save(proto, path)
    outputs = load_model(path).model(torch.randn(3, 4))
    assert list(outputs) == ["y", "one"]


def test_functions_of_the_file_and_of_onnx_are_written_out(tmp_path) -> None:
    body = [helper.make_node("Gemm", ["a", "b"], ["c"]), helper.make_node("Selu", ["c"], ["d"])]
    function = helper.make_function("mine", "Layer", ["a", "b"], ["d"], body, [helper.make_opsetid("", 20)])
    nodes = [helper.make_node("Layer", ["x", "w"], ["h"], domain="mine"), helper.make_node("Gemm", ["h", "v"], ["y"])]
    arrays = {"w": weights(4, 6), "v": weights(6, 2)}
    path = made(nodes, {"x": ["N", 4]}, arrays, tmp_path / "net.onnx", functions=[function], domains=("mine",))
    loaded = load_model(path)
    assert [group.width for group in trace(loaded.model, loaded.example_inputs).groups] == [6]


def test_sizes_that_the_file_leaves_open_are_said(tmp_path) -> None:
    nodes = [helper.make_node("Conv", ["x", "w"], ["h"]), helper.make_node("GlobalAveragePool", ["h"], ["y"])]
    path = made(nodes, {"x": ["N", 3, "H", "W"]}, {"w": weights(4, 3, 40, 3)}, tmp_path / "net.onnx", rank=4)
    assert load_model(path, example_input="3x44x9").example_inputs.shape == (2, 3, 44, 9)
    with pytest.raises(sn.BadInputError, match=r"Conv 'h'.*`example_input`"):
        load_model(path)


def dense(path: Path, **more: Any) -> str:
    nodes = [
        helper.make_node("Gemm", ["x", "w"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Gemm", ["r", "v"], ["y"]),
    ]
    return made(nodes, {"x": ["N", 4]}, {"w": weights(4, 6), "v": weights(6, 2)}, path, **more)


def unknown(path: Path) -> str:
    nodes = [
        helper.make_node("FusedGelu", ["x"], ["h"], name="act", domain="com.microsoft"),
        helper.make_node("NonZero", ["h"], ["p"], name="places"),
        helper.make_node("Cast", ["p"], ["y"], to=1),
    ]
    return made(nodes, {"x": ["N", 4]}, {}, path, domains=("com.microsoft",))


def outside(path: Path, location: str, offset: int = 0, length: int = 96) -> str:
    dense(path)
    proto = onnx.load(path)
    tensor = proto.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", str(offset)), ("length", str(length))):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value
    path.write_bytes(proto.SerializeToString())
    return str(path)


def through_a_link(path: Path) -> str:
    (path.parent / "link").symlink_to(path.parent.parent / "secret")
    return outside(path, "link")


def in_a_circle(path: Path) -> str:
    one = helper.make_function("mine", "A", ["a"], ["b"], [helper.make_node("B", ["a"], ["b"], domain="mine")],
                               [helper.make_opsetid("mine", 1)])  # fmt: skip
    other = helper.make_function("mine", "B", ["a"], ["b"], [helper.make_node("A", ["a"], ["b"], domain="mine")],
                                 [helper.make_opsetid("mine", 1)])  # fmt: skip
    nodes = [helper.make_node("A", ["x"], ["y"], domain="mine")]
    return made(nodes, {"x": ["N", 4]}, {}, path, functions=[one, other], domains=("mine",))


def doubling(path: Path) -> str:
    functions = [
        helper.make_function(
            "mine", f"F{k}", ["a"], ["c"],
            [helper.make_node(f"F{k + 1}" if k < 30 else "Relu", [one], [two], domain="mine" if k < 30 else "")
             for one, two in (("a", "b"), ("b", "c"))],
            [helper.make_opsetid("mine", 1), helper.make_opsetid("", 20)],
        )
        for k in range(31)
    ]  # fmt: skip
    nodes = [helper.make_node("F0", ["x"], ["y"], domain="mine")]
    return made(nodes, {"x": ["N", 4]}, {}, path, functions=functions, domains=("mine",))


def short_tensor(path: Path) -> str:
    dense(path)
    proto = onnx.load(path)
    proto.graph.initializer[0].raw_data = b"1234"
    path.write_bytes(proto.SerializeToString())
    return str(path)


def rubbish(path: Path) -> str:
    path.write_bytes(b"\x80\x04not a network" * 9)
    return str(path)


def huge(path: Path) -> str:
    value = numpy_helper.from_array(np.ones(1, np.float32))
    nodes = [
        helper.make_node("ConstantOfShape", ["s"], ["w"], value=value),
        helper.make_node("Gemm", ["x", "w"], ["y"]),
    ]
    return made(nodes, {"x": ["N", 4]}, {"s": np.array([4, 2**40])}, path)


def across_rows(path: Path) -> str:
    nodes = [
        helper.make_node("ReduceMean", ["x", "axes"], ["m"]),
        helper.make_node("Add", ["x", "m"], ["h"]),
        helper.make_node("Gemm", ["h", "w"], ["y"]),
    ]
    return made(nodes, {"x": [1, 4]}, {"w": weights(4, 2), "axes": np.array([0])}, path)


STRANGE: dict[str, tuple[Callable[[Path], str], str]] = {
    "operators that nobody knows": (unknown, r"Got com\.microsoft\.FusedGelu 'act', NonZero 'places'\."),
    "a tensor above its folder": (lambda path: outside(path, "../secret"), r"'\.\./secret', which is no plain file"),
    "a tensor anywhere": (lambda path: outside(path, "/etc/hostname"), "'/etc/hostname', which is no plain file"),
    "a tensor behind a link": (through_a_link, "'link', which is no plain file"),
    "a tensor beyond its file": (lambda path: outside(path, "net.onnx", 10, 2**40), "claims 1,099,511,627,776 bytes"),
    "a tensor before its file": (lambda path: outside(path, "net.onnx", -10), "claims 96 bytes from -10 on"),
    "functions in a circle": (in_a_circle, "calls itself"),
    "functions without end": (doubling, "operators, more than 100,000"),
    "a tensor too short": (short_tensor, "which cannot be read"),
    "no protobuf": (rubbish, "which cannot be read"),
    "constants without end": (huge, "which cannot be read"),
    "rows that depend on each other": (across_rows, "whose rows are answered one by one"),
    "a version from the future": (lambda path: dense(path, opset=99), "speaks version 99"),
}


@pytest.mark.parametrize("fault", STRANGE)
def test_a_strange_file_is_refused_in_one_sentence(fault, tmp_path) -> None:
    folder = tmp_path / "given"
    folder.mkdir()
    (tmp_path / "secret").write_bytes(bytes(96))
    make, words = STRANGE[fault]
    with pytest.raises(sn.BadInputError, match=words):
        load_model(make(folder / "net.onnx"))


def test_an_unknown_operator_is_exit_status_2_and_nothing_is_written(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    unknown(tmp_path / "net.onnx")
    np.savez("rows.npz", inputs=weights(20, 4), targets=np.arange(20) % 3)
    words = ["prune", "net.onnx", "--data", "rows.npz", "--out", "run"]
    done = subprocess.run([sys.executable, "-m", "shrinknet", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("MODEL must be an .onnx file of operators that are read. Got com.microsoft.FusedGelu")
    assert "Traceback" not in done.stderr
    assert not Path("run").exists()


def test_tensors_beside_the_file_are_read(tmp_path) -> None:
    array = weights(4, 6)
    (tmp_path / "net.onnx.data").write_bytes(b"12345678" + array.tobytes())
    loaded = load_model(outside(tmp_path / "net.onnx", "net.onnx.data", 8))
    assert any(np.array_equal(one.detach().numpy(), array) for one in loaded.model.parameters())


def test_a_wrong_conversion_is_refused(tmp_path, monkeypatch) -> None:
    path = dense(tmp_path / "net.onnx")
    monkeypatch.setitem(onnx_operators.TENSORS, "Relu", lambda node, x: x.abs())
    with pytest.raises(sn.BadInputError, match=r"output 'y' .* that differs by"):
        load_model(path)


def test_without_onnx_runtime_onnx_itself_is_asked(tmp_path, monkeypatch) -> None:
    path = dense(tmp_path / "net.onnx")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert isinstance(load_model(path).model, torch.fx.GraphModule)


def test_without_the_extra_the_sentence_names_it(tmp_path, monkeypatch) -> None:
    path = dense(tmp_path / "net.onnx")
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(sn.BadInputError, match=r"pip install 'shrinknet\[onnx-in\]'"):
        load_model(path)


def test_the_rows_of_several_inputs_are_an_example(tmp_path) -> None:
    inputs = torch.randint(50, (2, 9)), torch.ones(2, 9)
    loaded = load_model(written(Tagger(), inputs, tmp_path / "n.onnx", ["input.1", "class"], new=False, free=True))
    example = inputs_of(tensors_of(loaded.example_inputs), {})
    assert called(loaded.model, joined([example, example])).shape == (2 * len(example), 3)
