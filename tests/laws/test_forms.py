"""Other forms of an operator: decomposed ones equal it, weighted ones equal it with all weights 1 and without what has 0."""

import pytest
import torch
from torch import nn
from torch.nn import functional

import shrinknet as sn
from shrinknet.criteria import find_criterion
from shrinknet.engine.gates import gated
from shrinknet.graph.call import DECOMPOSED, WEIGHTED, load_rules

load_rules()
aten = torch.ops.aten


@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("kind", ["lstm", "gru", "rnn_tanh", "rnn_relu"])
def test_a_plain_recurrent_layer_is_the_fused_one(kind: str, biased: bool, batch_first: bool) -> None:
    gates = {"lstm": 4, "gru": 3}.get(kind, 1)
    shapes = [(gates * 5, 3), (gates * 5, 5), *[(gates * 5,)] * (2 * biased)]
    weights = [torch.randn(shape, dtype=torch.float64) for shape in shapes]
    x, states = torch.randn(4, 6, 3).double(), [torch.randn(1, 4 if batch_first else 6, 5).double() for _ in range(2)]
    given = states if kind == "lstm" else states[0]
    rest = (biased, 1, 0.0, False, False, batch_first)
    expected = getattr(aten, kind).input(x, given, weights, *rest)
    for ours, theirs in zip(DECOMPOSED[kind](x, given, weights, *rest), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-14)


@pytest.mark.parametrize("options", [
    {}, {"is_causal": True}, {"scale": 0.3}, {"enable_gqa": True},
    {"mask": torch.randn(4, 4).double()}, {"mask": torch.eye(4, dtype=torch.bool)},
], ids=["whole", "causal", "scaled", "grouped", "mask of numbers", "mask of flags"])  # fmt: skip
def test_plain_attention_is_the_fused_one(options: dict) -> None:
    mask = options.pop("mask", None) if "mask" in options else None
    heads = 2 if options.get("enable_gqa") else 6
    query = torch.randn(2, 6, 4, 5).double()
    key, value = torch.randn(2, 2, heads, 4, 5).double()
    causal = options.pop("is_causal", False)
    expected = functional.scaled_dot_product_attention(query, key, value, mask, 0.0, causal, **options)
    ours = DECOMPOSED["scaled_dot_product_attention"](query, key, value, mask, 0.0, causal, **options)
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-14)


X = torch.randn(3, 6, 4, 5, generator=torch.Generator().manual_seed(0)).double()
VECTOR = torch.randn(2, 6, generator=torch.Generator().manual_seed(1)).double()
CASES = [
    ("layer_norm", lambda x, v: (x.movedim(1, -1), [x.shape[1]], v[0], v[1], 1e-5), -1),
    ("rms_norm", lambda x, v: (x.movedim(1, -1), [x.shape[1]], v[0], 1e-5), -1),
    ("group_norm", lambda x, v: (x, 1, v[0], v[1], 1e-5, False), 1),
    (
        "batch_norm",
        lambda x, v: (x[:, :, :, 0].transpose(1, 2).contiguous()[:1], None, None, None, None, True, 0.0, 1e-5, False),
        2,
    ),
    ("mean", lambda x, v: (x, [1, 2], True), 1),
    ("var", lambda x, v: (x, [1], True, False), 1),
    ("std", lambda x, v: (x, [1], False, True), 1),
]


@pytest.mark.parametrize(("name", "arguments", "axis"), CASES, ids=[case[0] for case in CASES])
def test_a_weighted_form_is_the_operator_on_what_has_weight_1(name: str, arguments, axis: int) -> None:
    overload = {"mean": "dim", "var": "dim", "std": "dim", "layer_norm": "default", "group_norm": "default"}
    operator = getattr(getattr(aten, name), overload.get(name, "default"))
    given = arguments(X, VECTOR)
    shape = [1] * given[0].dim()
    shape[axis] = 6
    ones, some = torch.ones(6).double(), torch.tensor([1.0, 0, 1, 1, 0, 1]).double()
    torch.testing.assert_close(WEIGHTED[name](ones.view(shape), *given), operator(*given), rtol=0, atol=1e-13)
    kept = some.nonzero()[:, 0]
    expected = operator(*arguments(X[:, kept], VECTOR[:, kept]))
    ours = WEIGHTED[name](some.view(shape), *given)
    if ours.shape != expected.shape:
        ours = ours.index_select(axis, kept)
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-13)


class Normed(nn.Module):
    """A residual stream under a layer norm, heads, and a recurrent layer: gates of every kind at once."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm = nn.Linear(4, 6), nn.LayerNorm(6)
        self.qkv, self.out = nn.Linear(6, 24), nn.Linear(8, 6)
        self.rnn, self.head = nn.GRU(6, 5, batch_first=True), nn.Linear(5, 3)

    def forward(self, x):
        x = self.embed(x)
        query, key, value = self.qkv(self.norm(x)).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4).unbind(0)
        x = x + self.out(functional.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))
        return self.head(self.rnn(x)[0][:, -1])


@pytest.fixture
def normed() -> sn.Task:
    torch.manual_seed(3)
    return sn.Task(Normed().double(), "cross-entropy", (torch.randn(5, 3, 4).double(), torch.arange(5) % 3))


def test_every_criterion_agrees_with_its_definition_on_attention_norm_and_recurrence(normed: sn.Task) -> None:
    """ablation: two whole forward passes; taylor-1 and taylor-2: central differences in the gate of the mean loss."""
    from references.derivatives import mean_loss_at

    network = gated(normed)
    (batch,) = normed.calibration.batches()
    assert [(group.name, group.width) for group in network.groups] == [("embed", 6), ("qkv", 2), ("rnn", 5)]
    scores = {name: find_criterion(name).score(network, [batch]) for name in ("ablation", "taylor-1", "taylor-2")}
    step = 1e-3
    for neuron in (neuron for group in network.groups for neuron in group.neurons):
        at = {gate: float(mean_loss_at(network, batch, neuron, gate)) for gate in (0.0, 1 - step, 1.0, 1 + step)}
        slope = (at[1 + step] - at[1 - step]) / (2 * step)
        curvature = (at[1 + step] - 2 * at[1.0] + at[1 - step]) / step**2
        assert scores["ablation"][neuron] == pytest.approx(at[0.0] - at[1.0], abs=1e-12)
        assert scores["taylor-1"][neuron] == pytest.approx(-slope, abs=1e-6)
        assert scores["taylor-2"][neuron] == pytest.approx(-slope + curvature / 2, abs=1e-6)
