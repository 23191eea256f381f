"""Dynamic Network Surgery for Efficient DNNs (Guo, Yao, Chen 2016), after the authors' own program."""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from typing import Any

import torch
from torch import Tensor, nn

from shrinknet.core.errors import BadInputError, did_you_mean
from shrinknet.sparsify.base import Masks, Sparsifier
from shrinknet.sparsify.keep import quantile
from shrinknet.sparsify.schedules import check_least, check_sparsity, check_window, inverse_decay

LOW, HIGH = 0.9, 1.1
"""Where a weight is pruned and where it is spliced, as parts of its layer's base."""

Window = Sequence[int]

DEFAULT_SPARSITY = 0.9


class DynamicNetworkSurgery(Sparsifier):
    """Weights are pruned and come back ("spliced") while the network trains: no cut is final until the end.

    ::

        min L(W T)   with   T = 0 where |w| <= a,  1 where |w| > b,  as it was between them        (their h_k)
        W <- W - beta dL / d(W T):  the slope of the *masked* weights moves ALL weights, pruned ones too

    `base = max(mu + c sd, 0)`, a = 0.9 base, b = 1.1 base, with mu and sd of |w| over a layer's weights *and* biases,
    taken once, from the trained weights the method begins with (biases are masked too). A layer's mask is made anew
    before each step with probability `sigma(iter) = (1 + gamma iter)^(-power)`, each layer drawing for itself, while its
    window lasts; then it stands still and training goes on.

    Args:
        model: a trained network.
        c_rate: the paper's c, for all layers or by a glob of their names; may be negative.
        sparsity: in place of c, the share of each layer below its base (by a glob too); 0.9 where neither is given,
            since the paper chooses c for each layer and names no default.
        gamma, power: how fast masks freeze.
        window: first and last iteration of surgery, for all layers or by a glob: the paper operates on convolutions
            (10,000 iterations) and dense layers (8,000) apart.
        fix_others: while any window is open, masked layers outside theirs do not train.
        freeze_pruned: once a layer's window is over, its pruned weights do not move any more.
        splice: False never lets a weight come back (the paper's comparison).

    Raises:
        BadInputError: a window that ends before it starts, a sparsity of 1 or more, a glob that names no layer.

    Cost: one product for each weight and pass, one comparison for each refresh; one mask in memory.
    """  # noqa: E501

    name = "network-surgery"
    regrows = True

    def __init__(
        self,
        model: nn.Module,
        c_rate: int | float | Mapping[str, int | float] | None = None,
        *,
        gamma: int | float = 1e-3,
        power: int | float = 1.0,
        window: Window | Mapping[str, Window] = (0, 10_000),
        sparsity: int | float | Mapping[str, int | float] | None = None,
        fix_others: bool = False,
        freeze_pruned: bool = False,
        splice: bool = True,
        layers: str | tuple[str, ...] = (),
        seed: int = 0,
    ) -> None:
        check_least(0.0, gamma=gamma, power=power)
        super().__init__(model, layers, seed)
        self.layers = _with_biases(self)
        self.gamma, self.power, self.splice = gamma, power, splice
        self.fix_others, self.freeze_pruned = fix_others, freeze_pruned
        self._still: dict[str, Tensor] = {}
        self.windows: dict[str, Window] = {
            layer: (int(found[0]), int(found[1])) for layer, found in _for_each(self.layers, window, "window").items()
        }
        for first, last in self.windows.values():
            check_window("window", first, last)
        if c_rate is None and sparsity is None:
            sparsity = DEFAULT_SPARSITY
        rates = _for_each(self.layers, 0.0 if c_rate is None else c_rate, "c_rate")
        shares = {} if sparsity is None else _for_each(self.layers, sparsity, "sparsity")
        for layer, names in self.layers.items():
            sizes = torch.cat([self.weights[name].detach().abs().flatten() for name in names]).double()
            spread = (sizes.square().mean() - sizes.mean() ** 2).clamp_min(0).sqrt()
            base = max(float(sizes.mean() + rates[layer] * spread), 0.0) if rates[layer] > -torch.inf else 0.0
            if layer in shares:
                base = quantile(sizes, check_sparsity("sparsity", shares[layer]))
            self.numbers[f"base/{layer}"] = base
        with torch.no_grad():
            for name, mask in self._refreshed(0).items():
                self._change(name, mask)

    @classmethod
    def defaults(cls, num_steps: int, steps_per_epoch: int) -> dict[str, Any]:
        """Masks stand still after 70 % of the training."""
        return {"window": (0, round(0.7 * num_steps))}

    def effective(self, name: str, weight: Tensor) -> Tensor:
        """Return `W T`, whose slope goes to all of W."""
        masked: Tensor = _StraightThrough.apply(weight, self.masks[name])  # type: ignore[no-untyped-call]
        return masked

    def after_backward(self) -> None:
        """Hold still what is not to move: layers outside their window, pruned weights after it."""
        is_open = {layer: first <= self.step < last for layer, (first, last) in self.windows.items()}
        for layer, names in self.layers.items():
            for name in names:
                weight = self.weights[name]
                if self.fix_others and any(is_open.values()) and not is_open[layer]:
                    weight.grad = None
                elif self.freeze_pruned and self.step >= self.windows[layer][1]:
                    self._still[name] = weight.detach().clone()

    @property
    def strength(self) -> float:
        """How likely a mask is made anew: the paper's sigma."""
        return inverse_decay(self.step, self.gamma, self.power)

    def updated(self) -> Masks:
        """Make some masks anew."""
        for name, before in self._still.items():  # momentum and decay would move them without a gradient
            weight = self.weights[name]
            weight.data.copy_(torch.where(self.masks[name], weight.data, before))
        self._still.clear()
        return self._refreshed(self.step)

    def _refreshed(self, iteration: int) -> Masks:
        masks = Masks()
        sigma = inverse_decay(iteration, self.gamma, self.power)
        for layer, names in self.layers.items():
            first, last = self.windows[layer]
            if not (first <= iteration < last and sigma > float(torch.rand((), generator=self.generator))):
                continue
            base = self.numbers[f"base/{layer}"]
            for name in names:
                size, mask = self.weights[name].detach().abs(), self.masks[name]
                back = size > HIGH * base if self.splice else torch.zeros_like(mask)
                masks[name] = (mask & (size > LOW * base)) | back if base > 0 else mask
        return masks


class _StraightThrough(torch.autograd.Function):
    """W T going forward; the slope of W T, whole, going back to W."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, mask: Tensor) -> Tensor:
        return weight.masked_fill(~mask, 0)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> Any:
        return slope, None


def _with_biases(sparsifier: Sparsifier) -> dict[str, list[str]]:
    """Add each weight's bias to what is masked; return the names of every layer's parameters."""
    layers: dict[str, list[str]] = {}
    own = dict(sparsifier.model.named_parameters())
    for name in list(sparsifier.weights):
        module, _, leaf = name.rpartition(".")
        for beside in (name, f"{module}.{leaf.replace('weight', 'bias')}".lstrip(".")):
            if beside in own and beside not in layers.get(module, []):
                layers.setdefault(module, []).append(beside)
                sparsifier.weights[beside] = own[beside]
                sparsifier.masks.setdefault(beside, torch.ones_like(own[beside], dtype=torch.bool))
    sparsifier.num_masked = dict.fromkeys(sparsifier.weights, 0)
    sparsifier.num_regrown = dict.fromkeys(sparsifier.weights, 0)
    return layers


def _for_each(layers: Mapping[str, object], given: Any, argument: str) -> dict[str, Any]:
    """One value for all layers, or the first glob's that names a layer."""
    if not isinstance(given, Mapping):
        return dict.fromkeys(layers, given)
    for glob in given:
        if not any(fnmatch(layer, glob) for layer in layers):
            raise BadInputError(argument, "given by globs of layers' names", repr(glob), did_you_mean(glob, layers))
    found = {layer: next((v for glob, v in given.items() if fnmatch(layer, glob)), None) for layer in layers}
    for layer, value in found.items():
        if value is None:
            raise BadInputError(argument, "given for every layer", f"nothing for {layer!r}", "Add a glob '*'.")
    return found
