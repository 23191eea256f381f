"""Operators that have no rule of their own, since torch writes them in others: aliases, composites, in-place forms.

One network for each family, with a branch for each name: a hidden layer, the operator, a reader. Each hidden layer must be
a group, and the cut is proven operator by operator.
"""

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from test_rules import some_gone
from torch import Tensor, nn
from torch.nn import functional

import shrinknet as sn
from shrinknet.engine.gates import GatedNetwork
from shrinknet.engine.program import Program
from shrinknet.surgery.proof import verify_on
from shrinknet.surgery.remove import cut_graph
from shrinknet.task.losses import find_loss

Branch = Callable[[Tensor], Tensor]


def same_name(*names: str, of: object = torch) -> dict[str, Branch]:
    """Functions of one tensor, found by their names; what they are given lies between 0 and 1."""
    return {name: partial(lambda name, z: getattr(of, name)(z.sigmoid()), name) for name in names}


ELEMENTWISE = {
    **same_name(
        "absolute", "arccos", "arcsin", "arctan", "arcsinh", "arctanh", "negative", "fix", "square", "positive", "conj",
        "frac", "deg2rad", "rad2deg", "nan_to_num", "sgn", "sign", "erfinv", "lgamma", "digamma", "i0", "sinc", "exp2",
        "expm1", "trunc", "floor", "reciprocal", "resolve_conj", "resolve_neg", "real", "logit", "selu", "celu", "relu",
        "hardshrink", "clone", "detach", "atleast_1d", "atleast_2d", "fliplr", "flipud",
    ),
    **same_name("expit", "erf", "erfc", "ndtr", "psi", "gammaln", "i0e", "i1", "entr", "log_ndtr", "round", "expm1",
                of=torch.special),
    **same_name("elu", "gelu", "hardsigmoid", "hardswish", "hardtanh", "leaky_relu", "logsigmoid", "mish", "relu6",
                "silu", "softplus", "softshrink", "softsign", "tanhshrink", of=functional),
    "multiply": lambda z: torch.multiply(z, z + 1),
    "subtract": lambda z: torch.subtract(z, z * 2, alpha=2),
    "divide": lambda z: torch.divide(z, z.abs() + 1),
    "divide, rounded": lambda z: torch.divide(z, 2, rounding_mode="floor"),
    "true_divide": lambda z: torch.true_divide(z, 2),
    "floor_divide": lambda z: torch.floor_divide(z.detach(), 2.0),
    "clip": lambda z: torch.clip(z, -1, 1),
    "arctan2": lambda z: torch.arctan2(z, z + 1),
    "greater": lambda z: torch.greater(z, 0) * z,
    "less_equal": lambda z: z.less_equal(0) * z,
    "not_equal": lambda z: torch.not_equal(z, 0) * z,
    "where": lambda z: torch.where(z > 0, z, z * 2),
    "addcmul": lambda z: torch.addcmul(z, z, z),
    "addcdiv": lambda z: torch.addcdiv(z, z, z.abs() + 1),
    "lerp": lambda z: torch.lerp(z, z * 2, 0.3),
    "polygamma": lambda z: torch.polygamma(1, z.abs() + 1),
    "float_power": lambda z: torch.float_power(z, 2),
    "hypot": lambda z: torch.hypot(z, z + 1),
    "logaddexp": lambda z: torch.logaddexp(z, -z),
    "copysign": lambda z: torch.copysign(z, z - 1),
    "xlogy": lambda z: torch.special.xlogy(z, z.abs() + 1),
    "max of two": lambda z: torch.max(z, -z),
    "fmin": lambda z: torch.fmin(z, -z),
    "isclose": lambda z: z + torch.isclose(z, z * 2),
    "squared difference": lambda z: functional.mse_loss(z, z * 2, reduction="none"),
    "smooth_l1_loss": lambda z: functional.smooth_l1_loss(z, z * 2, reduction="none"),
    "type": lambda z: z.type(torch.float32).type_as(z),
    "log-sigmoid as a module": nn.LogSigmoid(),
}  # fmt: skip

IN_PLACE = {
    name: partial(lambda name, z: getattr(z * 1, name)(), name)
    for name in ("negative_", "square_", "absolute_", "abs_", "arctan_", "fix_", "sigmoid_", "exp2_", "frac_")
} | {
    "multiply_": lambda z: (z * 1).multiply_(2),
    "subtract_": lambda z: (z * 1).subtract_(2),
    "divide_": lambda z: (z * 1).divide_(2),
    "true_divide_": lambda z: (z * 1).true_divide_(2),
    "floor_divide_": lambda z: (z.detach() * 1).floor_divide_(2.0),
    "clip_": lambda z: (z * 1).clip_(-1, 1),
    "greater_": lambda z: (z * 1).greater_(0.5) + z,
    "lerp_": lambda z: (z * 1).lerp_(z + 1, 0.2),
    "addcmul_": lambda z: (z * 1).addcmul_(z, z),
    "masked_fill_": lambda z: (z * 1).masked_fill_(z > 0, 1.0),
    "copy_": lambda z: torch.zeros_like(z).copy_(z),
    "copy_ of one row to all": lambda z: (z * 1).copy_(z[:1]),
    "copy_ of another precision": lambda z: torch.zeros_like(z).copy_(z.float()) + z,
    "narrow, changed": lambda z: torch.cat([z, z.clone().narrow(1, 0, 6).multiply_(3)], 1),
    **{
        name: partial(lambda name, z: getattr(functional, name)(z * 1, inplace=True), name)
        for name in ("mish", "selu", "celu", "hardswish", "relu6", "silu", "hardsigmoid", "elu")
    },
}

PIECES = {
    "concat": lambda z: torch.concat([z, z * 2], 1),
    "concatenate": lambda z: torch.concatenate([z, z * 2], 1),
    "hstack": lambda z: torch.hstack([z, z * 2]),
    "vstack": lambda z: torch.vstack([z[:, None], z[:, None]])[: z.shape[0], 0],
    "row_stack": lambda z: torch.row_stack([z, z])[: z.shape[0]],
    "dstack": lambda z: torch.dstack([z, z * 2]).sum(2),
    "column_stack": lambda z: torch.column_stack([z, z]),
    "narrow": lambda z: torch.cat([z.narrow(1, 0, 2), z.narrow(1, 2, 4)], 1),
    "narrow_copy": lambda z: z.narrow_copy(1, 0, 6),
    "tensor_split": lambda z: torch.cat(z.tensor_split(3, 1), 1),
    "hsplit": lambda z: torch.cat(z.hsplit([2, 4]), 1),
    "dsplit": lambda z: torch.cat(z[:, None].dsplit(2), 2)[:, 0],
    "chunk": lambda z: torch.cat(z.chunk(4, 1), 1),
    "unsafe_chunk": lambda z: torch.cat(z.unsafe_chunk(4, 1), 1),
    "unbind": lambda z: sum(z[:, None].unbind(1)),
    "moveaxis": lambda z: z.moveaxis(0, 1).moveaxis(1, 0),
    "swapaxes": lambda z: z.swapaxes(0, 1).swapdims(0, 1),
    "adjoint": lambda z: z.adjoint().mT,
    "H": lambda z: z.H.T,
    "unflatten": lambda z: z.unflatten(1, (6, 1)).flatten(1),
    "ravel": lambda z: z.ravel().view(-1, 6),
    "tile": lambda z: z.tile(1, 2),
    "atleast_3d": lambda z: torch.atleast_3d(z)[..., 0],
    "expand_as": lambda z: z.expand_as(z + 1),
    "view_as": lambda z: z.view_as(z + 1),
    "reshape_as": lambda z: z.reshape_as(z + 1),
    "broadcast_to": lambda z: torch.broadcast_to(z[:, None], (z.shape[0], 3, 6)).sum(1),
    "broadcast_tensors": lambda z: torch.broadcast_tensors(z, z[:1])[0],
    "rot90": lambda z: torch.rot90(z[:, :, None], 2, (0, 2))[..., 0],
    "squeeze": lambda z: z[:, None, None].squeeze((1, 2)),
    "tril": lambda z: z[:, None, :, None].expand(-1, 2, -1, 2).transpose(1, 2).tril().sum((2, 3)),
    "cumprod": lambda z: z[:, None].cumprod(1)[:, 0],
    "diff": lambda z: torch.diff(z[:, None].expand(-1, 2, -1), dim=1)[:, 0] + z,
}

STATISTICS = {
    "cosine_similarity": lambda z: functional.cosine_similarity(z, z * 2 + 1)[:, None] * z,
    "pairwise_distance": lambda z: functional.pairwise_distance(z, z * 2)[:, None] * z,
    "normalize": lambda z: functional.normalize(z, p=1.0),
    "linalg.norm": lambda z: z / torch.linalg.norm(z, dim=1, keepdim=True),
    "norm": lambda z: z / z.norm(dim=1, keepdim=True),
    "var_mean": lambda z: (lambda var, mean: (z - mean) / (1 + var))(*torch.var_mean(z, 1, keepdim=True)),
    "std_mean": lambda z: z / (1 + torch.std_mean(z, 1, correction=0, keepdim=True)[0]),
    "nanmean": lambda z: z - z.nanmean(1, keepdim=True),
    "aminmax": lambda z: z - torch.aminmax(z, dim=1, keepdim=True)[0],
    "max": lambda z: z - z.max(1, keepdim=True).values,
    "min": lambda z: z - z.min(1)[0][:, None],
    "einsum with dots": lambda z: torch.einsum("...i,...i->...i", z, z),
    "einsum without an arrow": lambda z: torch.einsum("...a,...b", z, z + 1).sum(2),
    "einsum over the dots": lambda z: torch.einsum("...i,...i->...", z, z)[:, None] * z,
}

IMAGES = {
    "adaptive_avg_pool1d": lambda z: functional.adaptive_avg_pool1d(z.flatten(2), 2)[..., None],
    "lp_pool2d": lambda z: functional.lp_pool2d(z, 2, 2),
    "interpolate, area": lambda z: functional.interpolate(z, size=(2, 2), mode="area"),
    "interpolate, nearest-exact": lambda z: functional.interpolate(z, scale_factor=2, mode="nearest-exact"),
    "interpolate, bicubic": lambda z: functional.interpolate(z, size=(8, 8), mode="bicubic"),
    "interpolate, antialiased": lambda z: functional.interpolate(z, size=(2, 2), mode="bilinear", antialias=True),
    "UpsamplingBilinear2d": nn.UpsamplingBilinear2d(scale_factor=2),
    "dropout2d": nn.Dropout2d().eval(),
    "feature_alpha_dropout": nn.FeatureAlphaDropout().eval(),
    "circular padding": lambda z: functional.pad(z, (1, 1, 1, 1), mode="circular"),
    "ZeroPad2d": nn.ZeroPad2d(1),
    "a U-Net's skip": lambda z: torch.concat([z, functional.interpolate(functional.avg_pool2d(z, 2), size=4)], 1),
}


class Branches(nn.Module):
    """A hidden layer `a`, an operator and a reader `b` for each branch."""

    def __init__(
        self, branches: dict[str, Branch], layer: Callable[[int, int], nn.Module], shape: tuple[int, ...]
    ) -> None:
        super().__init__()
        self.branches = list(branches.values())
        self.a = nn.ModuleList(layer(4, 6) for _ in branches)
        example = torch.randn(2, 6, *shape)
        self.b = nn.ModuleList(layer(branch(example).shape[1], 2) for branch in self.branches)

    def forward(self, x: Tensor) -> Tensor:
        parts = zip(self.a, self.branches, self.b, strict=True)
        return sum(
            reader(branch(hidden(x))).unflatten(1, (2, 1)).flatten(2).sum(-1) for hidden, branch, reader in parts
        )


FAMILIES = {
    "elementwise": (ELEMENTWISE, nn.Linear, ()),
    "in place": (IN_PLACE, nn.Linear, ()),
    "pieces": (PIECES, nn.Linear, ()),
    "statistics": (STATISTICS, nn.Linear, ()),
    "images": (IMAGES, lambda c, k: nn.Conv2d(c, k, 1), (4, 4)),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_what_torch_writes_in_other_operators_is_followed_and_proven(family: str) -> None:
    torch.manual_seed(0)
    branches, layer, shape = FAMILIES[family]
    model = Branches(branches, layer, shape).double().eval()
    inputs = torch.randn(3, 4, *shape, dtype=torch.float64)
    traced = sn.trace(model, inputs)
    found = {group.name for group in traced.groups}
    assert not [name for place, name in enumerate(branches) if f"a.{place}" not in found]
    present = some_gone(traced, np.random.default_rng(0))
    network = GatedNetwork(Program(traced), find_loss("squared-error"), present)
    proof = verify_on(network, cut_graph(traced, present), lambda: [inputs])
    assert proof.broke_at is None
    inputs.requires_grad_()
    of_network, of_graph = model(inputs), Program(traced).outputs(inputs)
    torch.testing.assert_close(of_graph, of_network, rtol=0, atol=1e-9)
    (slopes,), (traced_slopes,) = (torch.autograd.grad(each.sum(), inputs) for each in (of_network, of_graph))
    torch.testing.assert_close(
        traced_slopes, slopes, rtol=0, atol=1e-9
    )  # whatever torch can differentiate still can be
