"""Other people's files: networks written as .onnx by several exporters, opened, pruned and proven.

    python benchmarks/onnx_in.py [NAME ...]

prints a line of the table in docs/how-to/onnx-in.md for each file: torch's two exporters, each with a free number of
samples and with a fixed one; Keras's exporter where Keras is installed; the files that come with the package onnx.
Opening compares each with ONNX Runtime. A third of the neurons goes; "neurons in torch" are the network's own.
"""

import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "torch")

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import shrinknet as sn
from shrinknet.core.quiet import quiet
from shrinknet.graph.trace import trace
from shrinknet.loading.models import load_model
from shrinknet.measure.costs import reach
from shrinknet.task.trees import called, inputs_of, joined, tensors_of


class Block(nn.Module):
    """Two convolutions and what goes around them."""

    def __init__(self, inside: int, outside: int, stride: int = 1) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(inside, outside, 3, stride, 1, bias=False), nn.Conv2d(outside, outside, 3, 1, 1)
        self.m, self.n, self.short = nn.BatchNorm2d(outside), nn.BatchNorm2d(outside), nn.Identity()
        if inside != outside:
            self.short = nn.Sequential(nn.Conv2d(inside, outside, 1, stride, bias=False), nn.BatchNorm2d(outside))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.n(self.b(F.relu(self.m(self.a(x))))) + self.short(x))


class Inverted(nn.Module):
    """Wide in the middle, where each channel is by itself."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        wide, self.is_residual = 4 * inside, inside == outside
        self.net = nn.Sequential(
            nn.Conv2d(inside, wide, 1, bias=False), nn.BatchNorm2d(wide), nn.ReLU6(),
            nn.Conv2d(wide, wide, 3, stride, 1, groups=wide, bias=False), nn.BatchNorm2d(wide), nn.ReLU6(),
            nn.Conv2d(wide, outside, 1, bias=False), nn.BatchNorm2d(outside),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return x + self.net(x) if self.is_residual else self.net(x)


class Recurrent(nn.Module):
    """Words, recurrent layers, the last step."""

    def __init__(self, kind: type[nn.RNNBase], both: bool = False) -> None:
        super().__init__()
        self.emb = nn.Embedding(30, 12)
        self.rnn = kind(12, 20, num_layers=2, batch_first=True, bidirectional=both)
        self.head = nn.Linear(40 if both else 20, 5)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.rnn(self.emb(ids))[0][:, -1])


class Encoder(nn.Module):
    """A transformer's encoder over words."""

    def __init__(self) -> None:
        super().__init__()
        self.emb, self.place, self.head = nn.Embedding(30, 32), nn.Parameter(torch.randn(1, 9, 32)), nn.Linear(32, 5)
        layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.encoder(self.emb(ids) + self.place).mean(1))


class Vision(nn.Module):
    """One layer of a vision transformer, its attention written by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.token = nn.Conv2d(3, 32, 8, 8), nn.Parameter(torch.randn(1, 1, 32))
        self.place, self.m, self.n = nn.Parameter(torch.randn(1, 17, 32)), nn.LayerNorm(32), nn.LayerNorm(32)
        self.qkv, self.out, self.head = nn.Linear(32, 96), nn.Linear(32, 32), nn.Linear(32, 10)
        self.wide, self.narrow = nn.Linear(32, 64), nn.Linear(64, 32)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.place
        rows, places, width = x.shape
        q, k, v = self.qkv(self.m(x)).reshape(rows, places, 3, 4, 8).permute(2, 0, 3, 1, 4).unbind(0)
        mixed = ((q @ k.transpose(-2, -1)) * 8**-0.5).softmax(-1) @ v
        x = x + self.out(mixed.transpose(1, 2).reshape(rows, places, width))
        return self.head((x + self.narrow(F.gelu(self.wide(self.n(x)))))[:, 0])


class UNet(nn.Module):
    """Down and up again."""

    def __init__(self) -> None:
        super().__init__()

        def block(inside: int, outside: int) -> nn.Module:
            return nn.Sequential(nn.Conv2d(inside, outside, 3, padding=1), nn.GroupNorm(4, outside), nn.SiLU())

        self.a, self.b, self.c, self.d, self.e = (
            block(*one) for one in ((3, 12), (12, 24), (24, 36), (48, 24), (36, 12))
        )
        self.up, self.out = nn.ConvTranspose2d(36, 24, 2, 2), nn.Conv2d(12, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = self.a(x)
        b = self.b(F.max_pool2d(a, 2))
        d = self.d(torch.cat([self.up(self.c(F.avg_pool2d(b, 2))), b], 1))
        wide = F.interpolate(d, scale_factor=2, mode="bilinear")
        return self.out(self.e(torch.cat([wide, a], 1))).mean((2, 3))


class Tagger(nn.Module):
    """Two inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.hidden, self.head = nn.Embedding(50, 16), nn.Linear(16, 24), nn.Linear(24, 3)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        hidden = torch.relu(self.hidden(self.words(input_ids))) * attention_mask[..., None]
        return self.head(hidden.sum(1) / attention_mask.sum(1, keepdim=True))


def pooled(*layers: nn.Module, width: int, pool: nn.Module) -> nn.Module:
    """Layers, one value a channel, classes."""
    return nn.Sequential(*layers, pool, nn.Flatten(), nn.Linear(width, 10))


IMAGE, IDS = (torch.randn(2, 3, 32, 32),), (torch.randint(0, 30, (2, 9)),)
NETWORKS: dict[str, Callable[[], tuple[nn.Module, tuple[Tensor, ...]]]] = {
    "dense, layer norm": lambda: (nn.Sequential(nn.Linear(8, 32), nn.LeakyReLU(), nn.LayerNorm(32), nn.Linear(32, 16),
                                                nn.ELU(), nn.Linear(16, 3)), (torch.randn(2, 8),)),
    "residual, batch norm": lambda: (pooled(nn.Conv2d(3, 16, 3, 1, 1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
                                            Block(16, 16), Block(16, 32, 2), Block(32, 64, 2), width=64,
                                            pool=nn.AdaptiveAvgPool2d(1)), IMAGE),
    "depthwise (MobileNetV2)": lambda: (pooled(nn.Conv2d(3, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.Hardswish(),
                                               Inverted(16, 16, 1), Inverted(16, 24, 2), Inverted(24, 24, 1), width=24,
                                               pool=nn.AdaptiveAvgPool2d(1)), IMAGE),
    "1-D convolutions": lambda: (pooled(nn.Conv1d(4, 16, 5, padding=2), nn.BatchNorm1d(16), nn.ReLU(), nn.MaxPool1d(2),
                                        nn.Conv1d(16, 24, 3, dilation=2), nn.ReLU(), width=24,
                                        pool=nn.AdaptiveAvgPool1d(1)), (torch.randn(2, 4, 40),)),
    "LSTM, 2 layers": lambda: (Recurrent(nn.LSTM), IDS),
    "LSTM, both directions": lambda: (Recurrent(nn.LSTM, both=True), IDS),
    "GRU, 2 layers": lambda: (Recurrent(nn.GRU), IDS),
    "transformer encoder": lambda: (Encoder(), IDS),
    "vision transformer": lambda: (Vision(), IMAGE),
    "U-Net, group norm": lambda: (UNet(), IMAGE),
    "two inputs": lambda: (Tagger(), (torch.randint(0, 50, (2, 9)), torch.ones(2, 9))),
}  # fmt: skip


def torch_files(wanted: list[str], folder: Path) -> Iterator[tuple[str, str, Path, int | None]]:
    """Yield each network's name, exporter, file, and how many neurons the network itself has."""
    for name, make in NETWORKS.items():
        if wanted and name not in wanted:
            continue
        model, inputs = make()
        model.eval()
        with torch.no_grad():
            for parameter in model.parameters():  # equal weights are written once, and trained ones are not equal
                parameter += 0.05 * torch.randn_like(parameter)
        rows = inputs_of(inputs, {})
        neurons = trace(model, joined([rows, rows])).num_neurons
        names = [f"x{place}" for place in range(len(inputs))]
        for exporter, is_new in (("dynamo", True), ("TorchScript", False)):
            for kind in ("free", "fixed"):
                given = inputs if kind == "free" else tuple(one[:1] for one in inputs)
                free = kind == "free" or None
                file = folder / "net.onnx"
                with quiet():
                    if is_new:
                        batch = free and tuple({0: torch.export.Dim("batch", min=1)} for _ in given)
                        torch.onnx.export(model, given, file, dynamo=True, input_names=names, dynamic_shapes=batch)
                    else:
                        axes = free and {one: {0: "batch"} for one in names}
                        torch.onnx.export(model, given, file, dynamo=False, input_names=names, dynamic_axes=axes)
                yield name, f"{exporter}, {kind}", file, neurons


def keras_files(wanted: list[str], folder: Path) -> Iterator[tuple[str, str, Path, int | None]]:
    """Yield networks of Keras as Keras writes them."""
    try:
        import keras
    except ImportError:
        return
    from keras import layers as L

    def residual() -> keras.Model:
        start = L.Input((16, 16, 3))
        x = L.Activation("relu")(L.BatchNormalization()(L.Conv2D(8, 3, padding="same", use_bias=False)(start)))
        y = L.BatchNormalization()(L.Conv2D(8, 3, padding="same", use_bias=False)(x))
        x = L.DepthwiseConv2D(3, strides=2, padding="same")(L.Activation("relu")(L.Add()([x, y])))
        return keras.Model(start, L.Dense(3)(L.Flatten()(L.Conv2D(12, 1)(x))))

    nets = {
        "Keras: dense": lambda: keras.Sequential([L.Input((8,)), L.Dense(32, "relu"), L.Dense(16, "tanh"), L.Dense(3)]),
        "Keras: Conv2D": lambda: keras.Sequential([
            L.Input((16, 16, 3)), L.Conv2D(12, 3, padding="same", activation="relu"), L.MaxPooling2D(), L.Conv2D(20, 3),
            L.ReLU(), L.GlobalAveragePooling2D(), L.Dense(3)]),
        "Keras: functional, residual": residual,
        "Keras: LSTM": lambda: keras.Sequential([L.Input((9, 6)), L.LSTM(14), L.Dense(3)]),
        "Keras: GRU, 2 layers": lambda: keras.Sequential([L.Input((9, 6)), L.GRU(14, return_sequences=True), L.GRU(10),
                                                          L.Dense(3)]),
    }  # fmt: skip
    for name, make in nets.items():
        if wanted and name not in wanted:
            continue
        model = make()
        with torch.no_grad():
            rows = torch.randn(2, *model.input_shape[1:])
            model(rows)
            for parameter in filter(torch.is_floating_point, model.parameters()):
                parameter += 0.05 * torch.randn_like(parameter).abs()
            model.eval()
            neurons = trace(model, rows).num_neurons
        with quiet():
            model.export(folder / "net.onnx", format="onnx", verbose=False)
        yield name, "Keras", folder / "net.onnx", neurons


def onnx_files(wanted: list[str]) -> Iterator[tuple[str, str, Path, int | None]]:
    """Yield the files of well-known networks that come with the package onnx, with made-up weights."""
    import onnx

    for file in sorted(Path(onnx.__file__).parent.glob("backend/test/data/light/*.onnx")):
        if not wanted or file.stem in wanted:
            yield file.stem.removeprefix("light_"), "of the package onnx", file, None


def line(name: str, exporter: str, file: Path, neurons: int | None) -> str:
    """Open a file, prune a third of its neurons, and say what came of it."""
    try:
        loaded = load_model(str(file))
        traced = trace(loaded.model, loaded.example_inputs)
        rows = joined([loaded.example_inputs] * 4)
        with torch.no_grad():
            outputs = called(loaded.model, rows)
        targets = torch.randint(outputs.shape[1], (len(rows), *outputs.shape[2:]))
        task = sn.Task(loaded.model, "cross-entropy", (*tensors_of(rows), targets))
        goal = sn.RemovedNeurons(traced.num_neurons // 3)
        step = max(1, traced.num_neurons // 30)
        run = sn.prune(task, "magnitude", goals=[goal], step=step, scoring=sn.Scoring("4GiB"))
        proven = "yes" if run.verification.holds else "NO"
    except sn.ShrinknetError as error:
        return f"| {name} | {exporter} | {error} |"
    share = f"{100 * reach(traced).num_parameters:.1f} %"
    same = "" if neurons is None else f"{neurons}"
    return f"| {name} | {exporter} | {len(traced.groups)} | {traced.num_neurons:,} | {same} | {share} | {proven} |"


def main() -> None:
    """Print the table."""
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    wanted = sys.argv[1:]
    print("| network | exporter | groups | neurons | neurons in torch | parameters in reach | equal, pruned, proven |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as where:
        folder = Path(where)
        for source in (torch_files(wanted, folder), keras_files(wanted, folder), onnx_files(wanted)):
            for found in source:
                print(line(*found), flush=True)


if __name__ == "__main__":
    main()
