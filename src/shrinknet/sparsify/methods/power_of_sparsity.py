"""The Power of Sparsity in Convolutional Neural Networks (Changpinyo, Sandler, Zhmoginov 2017)."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from shrinknet.core.errors import BadInputError
from shrinknet.sparsify.base import Masks, Sparsifier
from shrinknet.sparsify.schedules import doubling


class RandomConnections(Sparsifier):
    """Filters are connected at random before training; what is not connected stays at zero. Nothing is selected.

    Each output filter of a convolution reads a random `a`-fraction of the input filters, the same at all positions of
    the kernel; every filter is read by at least one, so that none is dead. First weights are scaled to the connected
    fan-in, `w sqrt(n / n_connected)`. Dense layers stay dense.

    *Incremental training*: with `every` the density starts at `density` and doubles every so many steps until all
    connections are there; those that are stay. The paper does not say with which weights new ones begin: `new` is
    "init" (the value they were drawn with, scaled to the fan-in they then have) or "zero".

    Args:
        model: untrained.
        density: the paper's alpha, for all layers or one for each in their order (1 for the image's few channels).
        every: steps between doublings; 0: no connection ever comes.
        new: "init" or "zero".

    Raises:
        BadInputError: a density outside (0, 1].

    Cost: one mask in memory; for incremental training the first weights too.
    """

    name = "random-connections"
    regrows = True

    def __init__(
        self,
        model: nn.Module,
        density: int | float | Sequence[int | float] = 0.5,
        *,
        every: int = 0,
        new: str = "init",
        layers: str | tuple[str, ...] = (),
        seed: int = 0,
    ) -> None:
        super().__init__(model, layers or _convolutions(model), seed)
        self.every, self.new = every, new
        densities = [density] * len(self.weights) if isinstance(density, int | float) else list(density)
        if len(densities) != len(self.weights) or not all(0 < one <= 1 for one in densities):
            allowed = f"above 0, at most 1; one for all or one for each of {len(self.weights)} layers"
            raise BadInputError("density", allowed, repr(density), "A density of 0 would cut the network in two.")
        if new not in {"init", "zero"} or every < 0:
            raise BadInputError("new, every", "init or zero; steps", f"{new!r}, {every}", "Leave them out.")
        self.densities = dict(zip(self.weights, densities, strict=True))
        for name, weight in self.weights.items():
            self.tensors[f"turn/{name}"] = turns(weight.shape[0], weight.shape[1], self.generator)
            if every and new == "init":
                self.tensors[f"first/{name}"] = weight.detach().clone()
        with torch.no_grad():
            for name, mask in self._connected(0).items():
                self._change(name, mask)
        self.numbers["scaled"] = False
        self.num_masked = dict.fromkeys(self.weights, 0)  # nothing that was trained went

    def attach(self, optimizer: Optimizer) -> None:
        """Scale the first weights to the connected fan-in, once, and hook in."""
        if not self.numbers["scaled"]:
            with torch.no_grad():
                for name, mask in self.masks.items():
                    self.weights[name].data.mul_(_to_fan_in(mask.to(self.weights[name].device)))
            self.numbers["scaled"] = True
        super().attach(optimizer)

    def updated(self) -> Masks:
        """Let connections come, when the time has come."""
        if not self.every or self.step % self.every:
            return {}
        masks = Masks()
        for name, mask in self._connected(self.step).items():
            came = mask & ~self.masks[name]
            if bool(came.any()):
                masks[name] = mask
                if self.new == "init":
                    first = self.tensors[f"first/{name}"] * _to_fan_in(mask)
                    self.weights[name].data.copy_(torch.where(came, first, self.weights[name].data))
        return masks

    def _connected(self, step: int) -> Masks:
        masks = Masks()
        for name, weight in self.weights.items():
            share = doubling(step, self.densities[name], self.every) if self.every else self.densities[name]
            turn = self.tensors[f"turn/{name}"]
            per_filter = max(1, round(share * turn.shape[1]))
            connected = turn < max(per_filter, _fewest(turn))
            masks[name] = connected.view(*turn.shape, *[1] * (weight.dim() - 2)).expand_as(weight).to(weight.device)
        return masks


def _convolutions(model: nn.Module) -> tuple[str, ...]:
    found = [
        f"{name}.weight" if name else "weight"
        for name, module in model.named_modules()
        if isinstance(module, nn.modules.conv._ConvNd)
        and not module.transposed
        and module.groups == 1
        and module.in_channels > 1
    ]
    if not found:
        allowed = "a network with convolutions of more than one input filter"
        raise BadInputError("model", allowed, type(model).__name__, "Name the layers.")
    return tuple(found)


def _fewest(turn: Tensor) -> int:
    """How many inputs each output must read so that every input is read."""
    return -(-turn.shape[1] // turn.shape[0])


def turns(num_outputs: int, num_inputs: int, generator: torch.Generator) -> Tensor:
    """Return, for each output and input, in which turn they are connected: a random order for each output.

    The first turns together deal out all inputs once before any input comes twice, so that no filter is dead however
    few turns are taken.

    >>> turn = turns(4, 8, torch.Generator().manual_seed(0))
    >>> (turn < 2).sum(1).tolist(), bool((turn < 2).any(0).all())
    ([2, 2, 2, 2], True)
    """
    per_output = -(-num_inputs // num_outputs)
    dealt = torch.cat(
        [torch.randperm(num_inputs, generator=generator) for _ in range(-(-num_outputs * per_output // num_inputs))]
    )
    turn = torch.empty(num_outputs, num_inputs, dtype=torch.long)
    for output in range(num_outputs):
        first = dealt[output * per_output : (output + 1) * per_output].unique()
        rest = torch.randperm(num_inputs, generator=generator)
        order = torch.cat([first, rest[~torch.isin(rest, first)]])
        turn[output, order] = torch.arange(num_inputs)
    return turn


def _to_fan_in(mask: Tensor) -> Tensor:
    """`sqrt(n / n_connected)` for each output filter, shaped to multiply its weights."""
    whole = mask[0].numel()
    connected = mask.flatten(1).sum(1)
    return (whole / connected).sqrt().view(-1, *[1] * (mask.dim() - 1))


def depth_multiplier(widths: Sequence[int], alpha: float) -> list[int]:
    """Return the widths of the network with as many parameters as one of density `alpha`: `ceil(sqrt(alpha) n)`.

    Parameters grow with the square of the widths, so equal parameters need the root (section 5.2.1).

    >>> depth_multiplier([64, 64], 0.25)
    [32, 32]
    """
    return [math.ceil(math.sqrt(alpha) * width) for width in widths]
