"""Models that cannot be followed are refused in one sentence that names the remedy; odd but legal ones work."""

import copy
from collections import OrderedDict

import pytest
import torch
from torch import nn

import shrinknet as sn
from shrinknet.task.kinds import check_kind

ROWS = (torch.randn(12, 4, generator=torch.Generator().manual_seed(0)), torch.arange(12) % 3)


def net(hidden: int = 6) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, hidden), nn.ReLU(), nn.Linear(hidden, 3))


class Computes(nn.Module):
    """A network of two layers, with something between."""

    def __init__(self, between) -> None:
        super().__init__()
        self.one, self.two, self.between = nn.Linear(4, 6), nn.Linear(6, 3), between

    def forward(self, x):
        return self.two(self.between(self.one(x)))


class Remembers(nn.Module):
    """Subtracts a running mean that its forward moves, in eval mode too."""

    def __init__(self) -> None:
        super().__init__()
        self.net = net()
        self.register_buffer("seen", torch.zeros(3))

    def forward(self, x):
        y = self.net(x)
        self.seen.lerp_(y.mean(0), 0.1)
        return y - self.seen


class OfComplexNumbers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 3, dtype=torch.complex64))

    def forward(self, x):
        return (x.to(torch.complex64) @ self.weight).abs()


def prepared() -> nn.Module:
    model = net().eval()
    model[0].register_module("watched", torch.ao.quantization.MinMaxObserver())
    return model


def lazy() -> nn.Module:
    return nn.Sequential(nn.LazyLinear(6), nn.ReLU(), nn.Linear(6, 3))


def without_values() -> nn.Module:
    return net().to("meta")


def of_inference() -> nn.Module:
    with torch.inference_mode():
        return net()


def sparse() -> nn.Module:
    model = net()
    model[0].weight = nn.Parameter(model[0].weight.data.to_sparse(), requires_grad=False)
    return model


class OfSkorch:
    """What a net of skorch looks like from outside."""

    def __init__(self) -> None:
        self.module_ = net()


class Packs(nn.Module):
    """Packs its rows before a recurrent layer."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(2, 4, batch_first=True)

    def forward(self, x):
        rows = x.view(len(x), 2, 2)
        packed = nn.utils.rnn.pack_padded_sequence(rows, torch.full((len(x),), 2), batch_first=True)
        return self.gru(packed)[1][0]


LINE = r"test_model_kinds\.py, line \d+, in .*"

KINDS = {
    "lazy": (lazy, "Call the model once on a batch"),
    "meta": (without_values, r"to_empty\(device='cpu'\)"),
    "made under inference mode": (of_inference, r"copy\.deepcopy\(model\)"),
    "sparse": (sparse, r"to_dense\(\)"),
    "complex": (OfComplexNumbers, "view_as_real"),
    "zero wide": (lambda: net(hidden=0), "Leave that layer out"),
    "scripted": (lambda: torch.jit.script(net()), "the Python module that it was scripted or traced from"),
    "scripted in part": (lambda: nn.Sequential(torch.jit.script(net())), "a script module in '0'"),
    "traced": (lambda: torch.jit.trace(net(), ROWS[0][:2]), "the Python module that it was scripted or traced from"),
    "prepared for quantization": (prepared, "MinMaxObserver in '0.watched'.*Shrink the float network first"),
    "quantized": (lambda: nn.Sequential(torch.ao.nn.quantized.DeQuantize()), "Shrink the float network first"),
    "samples": (lambda: Computes(lambda h: h + torch.randn_like(h)), "Turn off .*sampling"),
    "drops out": (lambda: Computes(nn.functional.dropout), "functional one needs training=self.training"),
    "remembers": (Remembers, "what forward remembers"),
    "decides": (lambda: Computes(lambda h: h if h.sum() < 1e9 else -h), LINE + "h if h.sum.*torch.where"),
    "decides by item": (lambda: Computes(lambda h: h * (1.0 if h.sum().item() < 1e9 else 2.0)), "torch.where"),
    "filters its rows": (lambda: Computes(lambda h: h[h.sum(1) > -1e9]), LINE + "torch.where"),
    "packs": (Packs, "Take padded rows as they are"),
    "counts its rows": (lambda: Computes(lambda h: h + h.new_zeros(len(h), 1)), r"Write x\.shape\[0\] in place of len"),
    "raises what it likes": (lambda: Computes(lambda h: {}["missing"]), "The model said: 'missing'"),
    "no tensor": (
        lambda: nn.Sequential(nn.GRU(4, 3)),
        r"returns one row of outputs for each sample. Got outputs\[1\] of shape \[1, 3\] for 12 samples",
    ),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_is_refused_in_a_sentence_and_torch_says_nothing(kind: str, capfd: pytest.CaptureFixture) -> None:
    make, remedy = KINDS[kind]
    model = make()
    capfd.readouterr()
    with pytest.raises(sn.BadInputError, match=remedy) as refused:
        sn.prune(sn.Task(model, "cross-entropy", ROWS), "magnitude", goals=[sn.RemovedNeurons(1)])
    assert "\n" not in str(refused.value)
    assert capfd.readouterr() == ("", "")


NO_MODULES = {
    "skorch": (OfSkorch, r"net\.module_"),
    "exported": (lambda: torch.export.export(net(), (ROWS[0][:2],)), r"program\.module\(\)"),
    "a class": (lambda: nn.Linear, "call the class"),
    "weights alone": (lambda: net().state_dict(), "load_state_dict"),
}


@pytest.mark.parametrize("kind", NO_MODULES)
def test_what_is_no_module_is_refused_with_the_way_to_one(kind: str) -> None:
    make, remedy = NO_MODULES[kind]
    with pytest.raises(sn.BadInputError, match=remedy):
        check_kind(make())


class OwnParameter(nn.Parameter):
    """A parameter of a class of its own."""


def with_own_parameter() -> nn.Module:
    model = net()
    model[0].weight = OwnParameter(model[0].weight.data)
    return model


def hooked() -> nn.Module:
    model = net()
    model[0].register_forward_hook(lambda module, given, out: out * 2)
    model[2].register_forward_pre_hook(lambda module, given: (given[0] + 1,))
    return model


LEGAL = {
    "own parameter": with_own_parameter,
    "frozen": lambda: net().requires_grad_(False),
    "hooked": hooked,
    "several devices": lambda: nn.DataParallel(net()),
    "compiled": lambda: torch.compile(net()),
    "copied from inference mode": lambda: copy.deepcopy(of_inference()),
}


@pytest.mark.parametrize("kind", LEGAL)
def test_odd_but_legal_models_come_back_in_their_class(kind: str) -> None:
    model = LEGAL[kind]()
    run = sn.prune(sn.Task(model, "cross-entropy", ROWS), "magnitude", "single-ranking", goals=[sn.RemovedNeurons(2)])
    assert run.verification.holds
    assert type(run.model) is type(model)


def test_another_default_dtype_changes_nothing() -> None:
    def scores() -> list[tuple[sn.Neuron, float]]:
        return sn.rank(sn.Task(model, "cross-entropy", ROWS), "ablation")

    model = net()
    usual = scores()
    torch.set_default_dtype(torch.float64)
    try:
        assert scores() == usual
    finally:
        torch.set_default_dtype(torch.float32)


class Behind(nn.Module):
    """Reads its weights off a list that torch does not see, as layers of Keras do."""

    def __init__(self) -> None:
        super().__init__()
        self.held = nn.ParameterDict({"one/kernel": torch.randn(4, 6), "two/kernel": torch.randn(6, 3)})
        self.behind = list(self.held.values())

    def forward(self, x):
        return torch.relu(x @ self.behind[0]) @ self.behind[1]


def test_weights_behind_the_modules_are_the_networks_own() -> None:
    run = sn.prune(sn.Task(Behind(), "cross-entropy", ROWS), "taylor-1", goals=[sn.RemovedNeurons(2)])
    assert run.verification.holds
    assert run.measures.costs.num_parameters == 4 * 4 + 4 * 3


@pytest.mark.parametrize("layer", ["dense", "convolution", "recurrent"])
def test_a_model_of_keras_is_a_task(layer, monkeypatch) -> None:
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    keras = pytest.importorskip("keras")
    if keras.backend.backend() != "torch":
        pytest.skip("Keras runs on another backend here")
    shape, layers = {
        "dense": ((4,), [keras.layers.Dense(6, "relu")]),
        "convolution": ((6, 6, 2), [keras.layers.Conv2D(6, 3), keras.layers.BatchNormalization(),
                                    keras.layers.ReLU(), keras.layers.GlobalAveragePooling2D()]),
        "recurrent": ((5, 4), [keras.layers.LSTM(6)]),
    }[layer]  # fmt: skip
    model = keras.Sequential([keras.layers.Input(shape), *layers, keras.layers.Dense(3)])
    rows = torch.randn(12, *shape), torch.arange(12) % 3
    run = sn.prune(sn.Task(model, "cross-entropy", rows), "taylor-1", goals=[sn.RemovedNeurons(2)])
    assert run.verification.holds
    assert run.exported.module()(rows[0]).shape == (12, 3)


class Named(nn.Module):
    """A module under a word of torch's graphs."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.add_module(name, nn.Linear(4, 6))
        self.out, self.name = nn.Linear(6, 3), name

    def forward(self, x):
        return self.out(torch.relu(self.get_submodule(self.name)(x)))


@pytest.mark.parametrize("name", ["code", "graph", "meta", "recompile"])
def test_a_module_under_a_word_of_torchs_graphs_is_wrapped_as_its_refusal_says(name: str) -> None:
    """Torch itself runs no export of such a network: names would have to be others in every file that ships."""
    torch.manual_seed(0)
    model = Named(name)
    program = torch.export.export(model, (ROWS[0],))
    with pytest.raises(Exception, match="nonexistent attribute"):
        program.module()
    with pytest.raises(
        sn.BadInputError, match=r"hand over nn\.Sequential\(OrderedDict\(net=model\)\), whose class comes"
    ):
        sn.prune(sn.Task(model, "cross-entropy", ROWS), goals=[sn.RemovedNeurons(2)])
    run = sn.prune(sn.Task(nn.Sequential(OrderedDict(net=model)), "cross-entropy", ROWS), goals=[sn.RemovedNeurons(2)])
    assert type(run.model.net) is Named
    assert run.model.net.get_submodule(name).out_features == 4
