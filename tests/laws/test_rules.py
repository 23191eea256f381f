"""One row for each rule: a small network around the operator, and the neurons that must be found in it.

Every row is proven (masked = cut, three times at random, in float64), and every row proves that the proof can fail: with
the gate forgotten at any one of its sites, masked and cut networks differ.
"""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from references.derivatives import mean_loss_at
from torch import nn
from torch.nn import functional

import shrinknet as sn
from shrinknet.criteria import find_criterion
from shrinknet.engine.gates import GatedNetwork
from shrinknet.engine.program import Program
from shrinknet.measure.costs import costs
from shrinknet.surgery.proof import verify_on
from shrinknet.surgery.remove import cut_graph
from shrinknet.task.data import Batch
from shrinknet.task.losses import find_loss


class Around(nn.Module):
    """Some layers, and a forward that uses them."""

    def __init__(self, forward, layers: dict[str, nn.Module | nn.Parameter]) -> None:
        super().__init__()
        self.work = forward
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, *inputs):
        return self.work(self, *inputs)


@dataclass(frozen=True)
class Row:
    """An operator's name, a network around it, the shape of a sample (or a range of words), the widths to be found."""

    operator: str
    forward: object
    layers: object
    shape: tuple[int, ...]
    widths: dict[str, int]
    words: int = 0
    frozen: str = ""

    def build(self):
        torch.manual_seed(0)
        model = Around(self.forward, self.layers()).double().eval()
        for parameter in model.parameters():
            if parameter.dim() == 1:
                nn.init.normal_(parameter, 1, 0.3)
        if self.words:
            return model, torch.randint(0, self.words, (5, *self.shape))
        return model, torch.randn(5, *self.shape, dtype=torch.float64)


def dense(a, b, c):
    """Two dense layers to stand around an operator on the last axis."""
    return {"a": nn.Linear(a, b), "b": nn.Linear(b, c)}


def conv(a, b, c):
    """Two convolutions to stand around an operator on channels."""
    return {"a": nn.Conv2d(a, b, 3, padding=1), "b": nn.Conv2d(b, c, 1)}


def heads(m, x):
    """Queries, keys and values of three heads of four."""
    return (layer(x).unflatten(-1, (3, 4)).transpose(1, 2) for layer in (m.q, m.k, m.v))


def attention():
    """Layers of an attention with three heads of four."""
    return {name: nn.Linear(6, 12) for name in "qkv"} | {"o": nn.Linear(12, 2)}


def without_autocast(work):
    """What linear attention and rotary embeddings do to keep their precision."""
    with torch.autocast("cpu", enabled=False):
        return work().double()


def over_time(cell, x, width, states):
    """The last output of a cell that reads one step after another, from ones made of a size."""
    ones = torch.ones(x.shape[0], width, dtype=x.dtype)
    state = (ones, ones) if states == 2 else ones
    for step in x.unbind(1):
        state = cell(step, state)
    return state[0] if states == 2 else state


def channel_attention(m, x):
    """A weight for each channel, from its mean and its largest value."""
    return x * torch.sigmoid(sum(m.e(torch.relu(m.s(y))) for y in (x.mean((2, 3), True), x.amax((2, 3), True))))


def channel_weights(m, y):
    """A weight for each channel, from the means of its neighbours."""
    return torch.sigmoid(m.w(y.mean((2, 3))[:, None]))[:, 0, :, None, None]


def spatial_attention(m, x):
    """A weight for each position, from the mean and the largest over the channels."""
    return x * torch.sigmoid(m.p(torch.cat([x.mean(1, True), torch.max(x, 1, keepdim=True)[0]], 1)))


def mask_like(x):
    """Zeros made beside x, some of them overwritten: their values follow nobody's gate."""
    mask = x.new_zeros(4, 2)
    mask[:-2, :-1] = 1
    return mask + 0.5


def merged(x):
    """Heads side by side again."""
    return x.transpose(1, 2).flatten(2)


ROWS = [
    Row("linear", lambda m, x: m.b(torch.tanh(m.a(x))), lambda: dense(4, 6, 2), (4,), {"a": 6}),
    Row("addmm", lambda m, x: m.b(torch.addmm(m.c, m.a(x), m.w)), lambda: {
        "a": nn.Linear(4, 6), "w": nn.Parameter(torch.randn(6, 5)), "c": nn.Parameter(torch.randn(5)),
        "b": nn.Linear(5, 2)}, (4,), {"a": 6, "c[0]": 5}),
    Row("conv2d", lambda m, x: m.b(torch.relu(m.a(x))), lambda: conv(2, 6, 2), (2, 5, 5), {"a": 6}),
    Row("conv2d, dilated", lambda m, x: m.b(m.a(x)), lambda: {
        "a": nn.Conv2d(2, 6, 3, dilation=2), "b": nn.Conv2d(6, 2, 1)}, (2, 7, 7), {"a": 6}),
    Row("conv2d, depthwise", lambda m, x: m.b(m.d(m.a(x))), lambda: conv(2, 6, 2) | {
        "d": nn.Conv2d(6, 12, 3, groups=6), "b": nn.Conv2d(12, 2, 1)}, (2, 5, 5), {"a": 6}),
    Row("conv2d, whole groups", lambda m, x: m.b(m.g(m.a(x))), lambda: conv(2, 12, 2) | {
        "g": nn.Conv2d(12, 12, 3, groups=6)}, (2, 5, 5), {"a": 6}),
    Row("conv2d, same places", lambda m, x: m.b(m.g(m.a(x))), lambda: conv(2, 12, 2) | {
        "g": nn.Conv2d(12, 8, 3, groups=2), "b": nn.Conv2d(8, 2, 1)}, (2, 5, 5), {"a": 6, "g": 4}),
    Row("conv1d", lambda m, x: m.b(m.a(x)), lambda: {"a": nn.Conv1d(2, 6, 3), "b": nn.Conv1d(6, 2, 1)}, (2, 5), {"a": 6}),
    Row("conv3d", lambda m, x: m.b(m.a(x)), lambda: {
        "a": nn.Conv3d(2, 6, 3), "b": nn.Conv3d(6, 2, 1)}, (2, 4, 4, 4), {"a": 6}),
    Row("conv_transpose2d", lambda m, x: m.b(m.t(m.a(x))), lambda: conv(2, 6, 2) | {
        "t": nn.ConvTranspose2d(6, 8, 2, 2), "b": nn.Conv2d(8, 2, 1)}, (2, 4, 4), {"a": 6, "t": 8}),
    Row("conv_transpose2d, grouped", lambda m, x: m.b(m.t(m.a(x))), lambda: conv(2, 6, 2) | {
        "t": nn.ConvTranspose2d(6, 8, 2, 2, groups=2), "b": nn.Conv2d(8, 2, 1)}, (2, 4, 4), {"a": 3, "t": 4}),
    Row("conv_transpose1d, depthwise", lambda m, x: m.b(m.t(m.a(x))), lambda: {
        "a": nn.Conv1d(2, 6, 3), "t": nn.ConvTranspose1d(6, 6, 2, groups=6), "b": nn.Conv1d(6, 2, 1)}, (2, 6), {"a": 6}),
    Row("batch_norm", lambda m, x: m.b(m.n(m.a(x))), lambda: conv(2, 6, 2) | {"n": nn.BatchNorm2d(6)}, (2, 5, 5), {"a": 6}),
    Row("batch_norm on weights", lambda m, x: functional.conv2d(m.a(x), functional.batch_norm(
        m.w.reshape(1, 4, -1), None, None, training=True).reshape_as(m.w)), lambda: {
        "a": nn.Conv2d(2, 6, 3), "w": nn.Parameter(torch.randn(4, 6, 3, 3))}, (2, 7, 7), {"a": 6}),
    Row("instance_norm", lambda m, x: m.b(torch.relu(m.n(m.a(x)))), lambda: conv(2, 6, 2) | {
        "n": nn.InstanceNorm2d(6, affine=True)}, (2, 5, 5), {"a": 6}),
    Row("group_norm", lambda m, x: m.b(m.n(m.a(x))), lambda: conv(2, 12, 2) | {"n": nn.GroupNorm(4, 12)}, (2, 5, 5), {"a": 4}),
    Row("group_norm, one group", lambda m, x: m.b(m.n(m.a(x))), lambda: conv(2, 6, 2) | {"n": nn.GroupNorm(1, 6)},
        (2, 5, 5), {"a": 6}),
    Row("layer_norm", lambda m, x: m.b(m.n(m.a(x))), lambda: dense(4, 6, 2) | {"n": nn.LayerNorm(6)}, (4,), {"a": 6}),
    Row("layer_norm inside a head", lambda m, x: m.b(m.n(m.a(x).unflatten(-1, (3, 4))).flatten(-2)),
        lambda: dense(5, 12, 2) | {"n": nn.LayerNorm(4)}, (5,), {"a": 3}),
    Row("rms_norm", lambda m, x: m.b(m.n(m.a(x))), lambda: dense(4, 6, 2) | {"n": nn.RMSNorm(6)}, (4,), {"a": 6}),
    Row("mean of squares", lambda m, x: (lambda y: m.b(y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + 1e-6)))(m.a(x)),
        lambda: dense(4, 6, 2), (4,), {"a": 6}),
    Row("var", lambda m, x: (lambda y: m.b((y - y.mean(-1, True)) / (y.var(-1, keepdim=True) + 1).sqrt()))(m.a(x)),
        lambda: dense(4, 6, 2), (4,), {"a": 6}),
    Row("std", lambda m, x: (lambda y: m.b(y / (1 + y.std(-1, keepdim=True, correction=0))))(m.a(x)),
        lambda: dense(4, 6, 2), (4,), {"a": 6}),
    Row("sum and norm", lambda m, x: (lambda y: m.b(functional.normalize(y, dim=-1)) + y.sum(-1, keepdim=True))(m.a(x)),
        lambda: dense(4, 6, 2), (4,), {"a": 6}),
    Row("amax", lambda m, x: (lambda y: m.b(y * torch.sigmoid(y.amax(-1, keepdim=True))))(m.a(x)),
        lambda: dense(4, 6, 2), (4,), {"a": 6}),
    Row("amin and max", lambda m, x: (lambda y: m.b(y) + y.amin(-1, True) * y.max(-1, keepdim=True)[0])(m.a(x)),
        lambda: dense(4, 6, 2), (4,), {"a": 6}),
    Row("CBAM", lambda m, x: m.b(spatial_attention(m, channel_attention(m, m.a(x)))), lambda: conv(2, 6, 2) | {
        "s": nn.Conv2d(6, 4, 1), "e": nn.Conv2d(4, 6, 1), "p": nn.Conv2d(2, 1, 3, padding=1)}, (2, 5, 5), {"a": 6, "s": 4}),
    Row("bilinear", lambda m, x: m.b(m.l(m.a(x), m.c(x))), lambda: dense(4, 6, 2) | {
        "c": nn.Linear(4, 5), "l": nn.Bilinear(6, 5, 4), "b": nn.Linear(4, 2)}, (4,), {"a": 6, "c": 5, "l": 4}),
    Row("type_as, another shape", lambda m, x: (lambda y: m.b(y + torch.arange(5)[:, None].type_as(y)) * torch.arange(5).to(
        y))(m.a(x)), lambda: conv(2, 6, 2), (2, 5, 5), {"a": 6}),
    Row("pools", lambda m, x: m.b(functional.adaptive_max_pool2d(functional.avg_pool2d(m.a(x), 2), 1)),
        lambda: conv(2, 6, 2), (2, 6, 6), {"a": 6}),
    Row("upsample and pad", lambda m, x: m.b(functional.pad(functional.interpolate(m.a(x), scale_factor=2), (1, 0))),
        lambda: conv(2, 6, 2), (2, 4, 4), {"a": 6}),
    Row("pad, beside channels", lambda m, x: m.b(torch.relu(m.c(y := torch.relu(m.a(x))) + functional.pad(
        y[:, :, ::2, ::2], (0, 0, 0, 0, 2, 1)))), lambda: {"a": nn.Conv2d(2, 6, 3, padding=1),
        "c": nn.Conv2d(6, 9, 3, stride=2, padding=1), "b": nn.Conv2d(9, 2, 1)}, (2, 5, 5), {"a": 6, "c": 3}),
    Row("pad, constant and cropped", lambda m, x: m.b(m.c(x) * functional.pad(m.a(x), (-1, 2), value=3.0)),
        lambda: dense(4, 6, 2) | {"c": nn.Linear(4, 7), "b": nn.Linear(7, 2)}, (4,), {"c": 5, "c/2": 2}),
    Row("index, a permutation", lambda m, x: m.b(m.a(x)[:, m.p]), lambda: conv(2, 6, 2) | {"p": nn.Buffer(
        torch.tensor([3, 1, 5, 0, 4, 2]))}, (2, 5, 5), {"a": 6}),
    Row("index, written down, twice", lambda m, x: m.b(m.a(x)[..., [0, -1, 2, 2]]), lambda: dense(4, 6, 2) | {
        "b": nn.Linear(4, 2)}, (4,), {"a": 3}),
    Row("index_select, of a range", lambda m, x: m.b(torch.index_select(m.a(x), 1, torch.arange(5, -1, -1))),
        lambda: conv(2, 6, 2), (2, 5, 5), {"a": 6}),
    Row("every second", lambda m, x: m.b(m.a(x)[:, ::2]) + m.c(m.a(x)[:, 1::2]), lambda: conv(2, 6, 2) | {
        "b": nn.Conv2d(3, 2, 1), "c": nn.Conv2d(3, 2, 1)}, (2, 5, 5), {"a": 3, "a/2": 3}),
    Row("efficient channel attention", lambda m, x: (lambda y: m.b(y * channel_weights(m, y)))(torch.relu(m.a(x))),
        lambda: conv(2, 7, 2) | {"w": nn.Conv1d(1, 1, 3, padding=1, bias=False)}, (2, 5, 5), {"a": 7}),
    Row("efficient channel attention, dilated, same", lambda m, x: (lambda y: m.b(y * channel_weights(m, y)))(m.a(x)),
        lambda: conv(2, 7, 2) | {"w": nn.Conv1d(1, 1, 3, padding="same", dilation=2)}, (2, 5, 5), {"a": 7}),
    Row("conv1d over channels, shorter, several ways", lambda m, x: m.b(torch.tanh(m.w(m.a(x)[:, None]).flatten(1))),
        lambda: dense(4, 8, 2) | {"w": nn.Conv1d(1, 3, 5, stride=2), "b": nn.Linear(6, 2)}, (4,), {"a": 8, "w": 3}),
    Row("conv1d over channels, read at once", lambda m, x: m.b(m.w(m.a(x)[:, None])[:, 0]), lambda: dense(4, 6, 2) | {
        "w": nn.Conv1d(1, 1, 5, padding=2)}, (4,), {"a": 6}),
    Row("conv2d over channels and positions", lambda m, x: (lambda y: m.b(y + m.w(y[:, None])[:, 0]))(m.a(x)), lambda: {
        "a": nn.Conv1d(2, 6, 3), "w": nn.Conv2d(1, 1, 3, padding=1), "b": nn.Conv1d(6, 2, 1)}, (2, 7), {"a": 6}),
    Row("local_response_norm", lambda m, x: m.b(functional.local_response_norm(torch.relu(m.a(x)), 5, alpha=2.0)),
        lambda: conv(2, 7, 2), (2, 5, 5), {"a": 7}),
    Row("local_response_norm, one axis, even", lambda m, x: m.b(functional.local_response_norm(m.a(x), 4, alpha=2.0)),
        lambda: {"a": nn.Conv1d(2, 6, 3), "b": nn.Conv1d(6, 2, 1)}, (2, 5), {"a": 6}),
    Row("local_response_norm, three axes", lambda m, x: m.b(functional.local_response_norm(m.a(x), 3, alpha=2.0)), lambda: {
        "a": nn.Conv3d(2, 6, 3), "b": nn.Conv3d(6, 2, 1)}, (2, 4, 4, 4), {"a": 6}),
    Row("avg_pool1d over channels", lambda m, x: (lambda y: m.b(y - functional.avg_pool1d(y[:, None], 3, 1, 1)[:, 0]))(
        m.a(x)), lambda: dense(4, 6, 2), (4,), {"a": 6}),
    Row("cat", lambda m, x: m.b(torch.cat([m.a(x), x, m.c(x)], 1)), lambda: {
        "a": nn.Linear(4, 5), "c": nn.Linear(4, 3), "b": nn.Linear(12, 2)}, (4,), {"a": 5, "c": 3}),
    Row("stack", lambda m, x: m.b(torch.stack([m.a(x), m.c(x)], 1)), lambda: dense(4, 6, 2) | {"c": nn.Linear(4, 6)},
        (4,), {"a": 6}),
    Row("split", lambda m, x: m.b(m.a(x).split([4, 3], 1)[0]) + m.c(m.a(x).split([4, 3], 1)[1]), lambda: {
        "a": nn.Linear(4, 7), "b": nn.Linear(4, 2), "c": nn.Linear(3, 2)}, (4,), {"a": 4, "a/2": 3}),
    Row("chunk and a gate", lambda m, x: (lambda y: m.b(y[0] * torch.sigmoid(y[1])))(m.a(x).chunk(2, -1)), lambda: {
        "a": nn.Linear(4, 12), "b": nn.Linear(6, 2)}, (4,), {"a": 6}),
    Row("channel shuffle", lambda m, x: m.b(m.a(x).unflatten(1, (2, 4)).transpose(1, 2).flatten(1, 2)),
        lambda: conv(2, 8, 2), (2, 5, 5), {"a": 4}),
    Row("pixel_shuffle", lambda m, x: m.b(functional.pixel_shuffle(m.a(x), 2)), lambda: conv(2, 12, 2) | {
        "b": nn.Conv2d(3, 2, 1)}, (2, 3, 3), {"a": 3}),
    Row("squeeze and excite", lambda m, x: (lambda y: m.b(y * torch.sigmoid(m.e(torch.relu(m.s(y.mean((2, 3), True)))))))(
        m.a(x)), lambda: conv(2, 6, 2) | {"s": nn.Conv2d(6, 3, 1), "e": nn.Conv2d(3, 6, 1)}, (2, 5, 5), {"a": 6, "s": 3}),
    Row("residual", lambda m, x: m.b(m.a(x) + m.c(torch.relu(m.a(x)))), lambda: dense(4, 6, 2) | {"c": nn.Linear(6, 6)},
        (4,), {"a": 6}),
    Row("tied weights", lambda m, x: m.e(x) @ m.w.T @ m.e.weight.T, lambda: {
        "e": nn.Embedding(9, 6), "w": nn.Parameter(torch.randn(6, 6))}, (3,), {"e": 6}, words=9),
    Row("embedding", lambda m, x: m.b(m.e(x)), lambda: {"e": nn.Embedding(9, 6), "b": nn.Linear(6, 2)}, (3,),
        {"e": 6}, words=9),
    Row("a positional table and a class token", lambda m, x: m.b(torch.cat([m.t.expand(x.shape[0], 1, 6), m.a(x)], 1) + m.p),
        lambda: dense(4, 6, 2) | {"t": nn.Parameter(torch.randn(1, 1, 6)), "p": nn.Parameter(torch.randn(4, 6))},
        (3, 4), {"t[2]": 6}),
    Row("scaled_dot_product_attention", lambda m, x: m.o(merged(functional.scaled_dot_product_attention(*heads(m, x)))),
        attention, (5, 6), {"q": 3}),
    Row("one head", lambda m, x: m.o(functional.scaled_dot_product_attention(m.q(x), m.k(x), m.v(x))), attention,
        (5, 6), {"q": 12, "v": 12}),
    Row("attention by hand", lambda m, x: (lambda q, k, v: m.o(merged(torch.softmax(q @ k.mT / 2, -1) @ v)))(*heads(m, x)),
        attention, (5, 6), {"q": 3}),
    Row("einsum", lambda m, x: (lambda q, k, v: m.o(merged(torch.einsum("bhts,bhsd->bhtd", torch.softmax(
        torch.einsum("bhtd,bhsd->bhts", q, k), -1), v))))(*heads(m, x)), attention, (5, 6), {"q": 3}),
    Row("packed q, k, v", lambda m, x: (lambda y: m.o(merged(functional.scaled_dot_product_attention(*y.unbind(0)))))(
        m.p(x).unflatten(-1, (3, 3, 4)).permute(2, 0, 3, 1, 4)), lambda: {"p": nn.Linear(6, 36), "o": nn.Linear(12, 2)},
        (5, 6), {"p": 3}),
    Row("rotary", lambda m, x: (lambda q, k, v: m.o(merged(functional.scaled_dot_product_attention(
        q * m.c + torch.cat([-q[..., 2:], q[..., :2]], -1), k * m.c, v))))(*heads(m, x)),
        lambda: attention() | {"c": nn.Parameter(torch.randn(5, 4))}, (5, 6), {"q": 3}),
    Row("nn.MultiheadAttention", lambda m, x: m.b(m.h(m.a(x), m.a(x), m.a(x), need_weights=False)[0]), lambda: {
        "a": nn.Linear(4, 12), "h": nn.MultiheadAttention(12, 3, batch_first=True), "b": nn.Linear(12, 2)}, (5, 4),
        {"a": 12, "h": 3, "h.out_proj": 12}),
    Row("lstm", lambda m, x: m.b(m.r(x)[0]), lambda: {"r": nn.LSTM(3, 6, batch_first=True), "b": nn.Linear(6, 2)},
        (4, 3), {"r": 6}),
    Row("lstm, two layers, both ways", lambda m, x: m.b(m.r(x)[0]), lambda: {
        "r": nn.LSTM(3, 4, 2, bidirectional=True, batch_first=True), "b": nn.Linear(8, 2)}, (4, 3),
        {f"r.weight_ih_l{k}[0]": 4 for k in ("0", "0_reverse", "1", "1_reverse")}),
    Row("lstm, projected", lambda m, x: m.b(m.r(x)[0]), lambda: {
        "r": nn.LSTM(3, 6, proj_size=4, batch_first=True), "b": nn.Linear(4, 2)}, (4, 3),
        {"r.weight_ih_l0[0]": 6, "r.weight_hh_l0[1]": 4}),
    Row("lstm, projected, two layers, both ways, last cells", lambda m, x: (lambda y, last: m.b(y) + m.c(
        last[1][-1])[:, None])(*m.r(x)),
        lambda: {"r": nn.LSTM(3, 5, 2, proj_size=3, bidirectional=True, batch_first=True, bias=False),
        "b": nn.Linear(6, 2), "c": nn.Linear(5, 2)}, (4, 3), {
        f"r.weight_{kind}": width for k in ("0", "0_reverse", "1", "1_reverse")
        for kind, width in ((f"ih_l{k}[0]", 5), (f"hh_l{k}[1]", 3))}),
    Row("gru, last state", lambda m, x: m.b(m.r(x)[1][-1]), lambda: {"r": nn.GRU(3, 6, 2, batch_first=True),
        "b": nn.Linear(6, 2)}, (4, 3), {"r.weight_ih_l0[0]": 6, "r.weight_ih_l1[0]": 6}),
    Row("rnn_tanh", lambda m, x: m.b(m.r(x)[0]), lambda: {"r": nn.RNN(3, 6, batch_first=True, bias=False),
        "b": nn.Linear(6, 2)}, (4, 3), {"r": 6}),
    Row("rnn_relu", lambda m, x: m.b(m.r(x)[0]), lambda: {"r": nn.RNN(3, 6, nonlinearity="relu", batch_first=True),
        "b": nn.Linear(6, 2)}, (4, 3), {"r": 6}),
    Row("lstm_cell, over time", lambda m, x: m.b(over_time(m.r, x, m.r.hidden_size, states=2)), lambda: {
        "r": nn.LSTMCell(3, 6), "b": nn.Linear(6, 2)}, (4, 3), {"r": 6}),
    Row("gru_cell, over time", lambda m, x: m.b(over_time(m.r, x, m.r.hidden_size, states=1)), lambda: {
        "r": nn.GRUCell(3, 6), "b": nn.Linear(6, 2)}, (4, 3), {"r": 6}),
    Row("rnn_tanh_cell, over time", lambda m, x: m.b(over_time(m.r, x, m.r.hidden_size, states=1)), lambda: {
        "r": nn.RNNCell(3, 6, bias=False), "b": nn.Linear(6, 2)}, (4, 3), {"r": 6}),
    Row("rnn_relu_cell, over time", lambda m, x: m.b(over_time(m.r, x, m.r.hidden_size, states=1)), lambda: {
        "r": nn.RNNCell(3, 6, nonlinearity="relu"), "b": nn.Linear(6, 2)}, (4, 3), {"r": 6}),
    Row("glu", lambda m, x: m.b(functional.glu(m.a(x), -1)), lambda: {"a": nn.Linear(4, 12), "b": nn.Linear(6, 2)}, (4,),
        {"a": 6}),
    Row("a region without autocast", lambda m, x: m.b(without_autocast(lambda: torch.relu(m.a(x)))),
        lambda: dense(4, 6, 2), (4,), {"a": 6}),
    Row("rows of a table that nobody reads", lambda m, x: m.b(m.a(x) + m.p[:4]),
        lambda: dense(4, 6, 2) | {"p": nn.Parameter(torch.randn(9, 6))}, (4, 4), {"a": 6}),
    Row("a mask written in place", lambda m, x: (lambda y: m.b(y) * mask_like(y))(m.a(x)), lambda: dense(4, 6, 2), (4, 4),
        {"a": 6}),
    Row("change through a view", lambda m, x: (lambda y: (y[:, 1:4].mul_(3), m.b(y))[1])(m.a(x)), lambda: dense(4, 6, 2),
        (4,), {"a": 6}),
]  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.operator)
def test_the_neurons_are_found_and_the_cut_is_proven(row: Row) -> None:
    model, inputs = row.build()
    traced = sn.trace(model, inputs)
    assert {group.name: group.width for group in traced.groups} == row.widths
    network = GatedNetwork(Program(traced), find_loss("squared-error"), traced.present())
    torch.testing.assert_close(network.outputs(inputs), model(inputs), rtol=0, atol=1e-12)
    rng = np.random.default_rng(0)
    for _ in range(3):
        masked = replace(network, present=some_gone(traced, rng))
        cut = cut_graph(traced, masked.present)
        proof = verify_on(masked, cut, lambda: [inputs])
        assert proof.broke_at is None
        assert proof.differences[0].worst < 1e-12
        counted = sum(parameter.numel() for parameter in cut.parameters())
        assert counted == costs(traced, masked.present).num_parameters


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.operator)
def test_with_a_gate_forgotten_anywhere_the_proof_fails(row: Row) -> None:
    model, inputs = row.build()
    traced = sn.trace(model, inputs)
    network = GatedNetwork(Program(traced), find_loss("squared-error"), traced.present())
    masked = replace(network, present=some_gone(traced, np.random.default_rng(1)))
    expected = masked.outputs(inputs)
    assert traced.sites
    for forgotten in traced.sites:
        outputs = network.program.outputs(
            inputs, lambda site, value, gone=forgotten: None if site == gone else masked.factor(site, value)
        )
        assert float((outputs - expected).abs().max()) > 1e-6, forgotten


def some_gone(traced, rng) -> np.ndarray:
    """Who is present once about a third of each group is gone."""
    present = traced.present()
    for group in traced.groups:
        ids = traced.ids_of(group)
        count = min(group.width - 1, max(1, group.width // 3))
        present[rng.choice(np.arange(ids.start, ids.stop), count, replace=False)] = False
    return present


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.operator)
def test_ablation_and_slopes_through_it_are_those_of_whole_forward_passes(row: Row) -> None:
    model, inputs = row.build()
    network = GatedNetwork(Program(trace := sn.trace(model, inputs)), find_loss("squared-error"), trace.present())
    batch = Batch(inputs, torch.zeros_like(model(inputs)))
    network = network.without([group.neurons[0] for group in network.groups if group.width > 2])
    scores = {name: find_criterion(name).score(network, [batch]) for name in ("ablation", "taylor-1", "taylor-2")}
    step = 1e-4
    for group in network.groups:
        neuron = sn.Neuron(group.name, group.width - 1)
        at = {gate: float(mean_loss_at(network, batch, neuron, gate)) for gate in (0.0, 1 - step, 1.0, 1 + step)}
        slope = (at[1 + step] - at[1 - step]) / (2 * step)
        curvature = (at[1 + step] - 2 * at[1.0] + at[1 - step]) / step**2
        size = max(1.0, abs(at[1.0]))
        assert scores["ablation"][neuron] == pytest.approx(at[0.0] - at[1.0], abs=1e-11 * size)
        assert scores["taylor-1"][neuron] == pytest.approx(-slope, abs=1e-4 * size)
        assert scores["taylor-2"][neuron] == pytest.approx(-slope + curvature / 2, abs=1e-3 * size)
