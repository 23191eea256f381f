"""Pruning neural networks: is it time to nip it in the bud? (Crowley, Turner, Storkey, O'Boyle 2018.)"""

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from shrinknet.errors import BadInputError, did_you_mean
from shrinknet.graph.trace import trace
from shrinknet.records import Group, Neuron, Slice
from shrinknet.sparsify.base import Masks, Sparsifier

RULES = ("fisher", "l1", "random")


class FisherPruning(Sparsifier):
    """Every so many steps of fine-tuning the channel that was worth least in them goes.

    With a the activation that readers see, g the slope of one sample's loss in it::

        Delta_c = 1/(2 N) sum_n ( sum_ij a_nij g_nij )^2          over the N samples since the last removal

    (second order, the mean slope taken for zero, the Hessian for the Fisher): positions are summed *before* the square.
    Only inner channels can go: those written by one layer, whose every reader is a dense layer or a convolution; widths
    that blocks add up stay. A removed channel's weights in its readers are zero from then on, which is the network
    without it: batch norm and activation in between change nothing. One channel of each layer stays.

    Args:
        model: a trained network.
        example_inputs: two samples, to follow channels by.
        every: steps between removals (the paper: 100).
        count: how many channels go in all; as many as can where it is left out.
        rule: "fisher"; "l1" (`sum |w|` of the channel's own kernel, with the absolute value that the authors'
            program forgets); "random".
        only: globs of the groups whose channels may go.

    Raises:
        BadInputError: an unknown rule; no channel can go.

    Cost: one product for each value read in training; one number for each channel.
    """

    name = "fisher-pruning"

    def __init__(
        self,
        model: nn.Module,
        example_inputs: Tensor,
        *,
        every: int = 100,
        count: int | None = None,
        rule: str = "fisher",
        only: str | Sequence[str] = (),
        layers: str | tuple[str, ...] = (),
        seed: int = 0,
    ) -> None:
        if rule not in RULES:
            raise BadInputError("rule", "one of " + ", ".join(RULES), repr(rule), did_you_mean(rule, RULES))
        if every < 1:
            raise BadInputError("every", "at least 1 step", repr(every), "Leave it out for 100.")
        super().__init__(model, layers, seed)
        self.every, self.rule = every, rule
        globs = (only,) if isinstance(only, str) else tuple(only)
        self.groups = inner_groups(model, example_inputs, globs)
        self.readers = [reader for group in self.groups for reader in _readers(self.model, group)]
        names = {reader.weight for reader in self.readers}
        for table in (self.weights, self.masks, self.num_masked, self.num_regrown):
            for name in set(table) - names:
                del table[name]
        room = sum(group.width - 1 for group in self.groups)
        self.count = room if count is None else count
        if not 0 <= self.count <= room:
            raise BadInputError("count", f"at most {room}, one less than each layer has", repr(count), "Ask for fewer.")
        self.numbers |= {"removed": [], "samples": 0}
        for group in self.groups:
            self.tensors[f"sum/{group.name}"] = torch.zeros(group.width, dtype=torch.float64)
            self.tensors[f"alive/{group.name}"] = torch.ones(group.width, dtype=torch.bool)
        self._listening: list[RemovableHandle] = []
        self._slopes: dict[str, Tensor] = {}

    @property
    def removed(self) -> tuple[Neuron, ...]:
        """The channels that went, in their order."""
        return tuple(Neuron(group, index) for group, index in self.numbers["removed"])

    def before_forward(self) -> None:
        """Listen to what readers read."""
        super().before_forward()
        self._slopes.clear()
        if self.rule == "fisher" and torch.is_grad_enabled() and self.model.training:
            modules = {id(r.module): r.module for r in self.readers}
            self._listening = [m.register_forward_pre_hook(self._listen) for m in modules.values()]

    def put_back(self) -> None:
        """Listen no more."""
        super().put_back()
        for handle in self._listening:
            handle.remove()
        self._listening.clear()

    def _listen(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        if inputs[0].requires_grad:
            read = inputs[0].detach()
            inputs[0].register_hook(lambda slope: self._heard(module, read, slope.detach()))

    def _heard(self, module: nn.Module, read: Tensor, slope: Tensor) -> None:
        """Add `sum_ij a g` of each sample to what other readers of the same channels gave."""
        for reader in self.readers:
            if reader.module is not module:
                continue
            products = (read * slope).movedim(reader.axis, -1).flatten(1, -2) if read.dim() > 2 else read * slope
            products = products.sum(1) if products.dim() > 2 else products
            own = reader.owners.to(products.device)
            total = products.new_zeros(len(products), reader.group.width)
            total.index_add_(1, own[own >= 0], products[:, own >= 0])
            name = reader.group.name
            self._slopes[name] = self._slopes[name] + total if name in self._slopes else total

    def after_backward(self) -> None:
        """Square what each sample said, and add it up."""
        for name, slopes in self._slopes.items():
            of_samples = slopes.double() * len(slopes)  # the loop's loss is a mean over the batch
            self.tensors[f"sum/{name}"] += of_samples.square().sum(0).cpu() / 2
            self.numbers["samples"] += len(slopes) if name == self.groups[0].name else 0
        self._slopes.clear()

    def scores(self) -> dict[str, Tensor]:
        """Return what each channel is worth now, by group."""
        if self.rule == "fisher":
            samples = max(1, self.numbers["samples"])
            return {group.name: self.tensors[f"sum/{group.name}"] / samples for group in self.groups}
        if self.rule == "l1":
            return {group.name: _kernel_sizes(self.model, group) for group in self.groups}
        return {g.name: torch.rand(g.width, generator=self.generator, dtype=torch.float64) for g in self.groups}

    def updated(self) -> Masks:
        """Remove the channel that is worth least, when the time has come."""
        if self.step % self.every or len(self.numbers["removed"]) >= self.count:
            return {}
        name, index = self._cheapest()
        self.tensors[f"alive/{name}"][index] = False
        self.numbers["removed"].append([name, index])
        self.numbers["samples"] = 0
        for group in self.groups:
            self.tensors[f"sum/{group.name}"].zero_()
        return self._masks_of(name)

    def _cheapest(self) -> tuple[str, int]:
        best: tuple[float, str, int] | None = None
        for name, values in self.scores().items():
            alive = self.tensors[f"alive/{name}"]
            if int(alive.sum()) > 1:
                values = torch.where(alive, values, torch.inf)
                index = int(values.argmin())
                if best is None or float(values[index]) < best[0]:
                    best = float(values[index]), name, index
        assert best is not None
        return best[1], best[2]

    def _masks_of(self, name: str) -> Masks:
        masks = Masks()
        for reader in self.readers:
            if reader.group.name == name:
                mask = masks.get(reader.weight, self.masks[reader.weight])
                alive = self.tensors[f"alive/{name}"]
                kept = torch.where(reader.owners >= 0, alive[reader.owners.clamp_min(0)], True)
                masks[reader.weight] = mask & kept.to(mask.device).view(1, -1, *[1] * (mask.dim() - 2))
        return masks


@dataclass(frozen=True, eq=False)
class Reader:
    """A layer that reads a group's channels: its weight, the axis of what it reads, whose each element is."""

    group: Group
    module: nn.Module
    weight: str
    axis: int
    owners: Tensor


def inner_groups(model: nn.Module, example_inputs: Tensor, globs: Sequence[str]) -> list[Group]:
    """Return the groups that one layer writes and that only dense layers and convolutions read.

    Raises:
        BadInputError: there is none, or a glob names none.
    """
    groups = [group for group in trace(model, example_inputs).groups if _is_inner(model, group)]
    names = [group.name for group in groups]
    for glob in globs:
        if not any(fnmatch(name, glob) for name in names):
            raise BadInputError("only", "globs of groups of inner channels", repr(glob), did_you_mean(glob, names))
    chosen = [group for group in groups if not globs or any(fnmatch(group.name, glob) for glob in globs)]
    if not chosen:
        raise BadInputError(
            "model", "a network with channels that one layer writes", type(model).__name__,
            "Use 'shrinknet prune', which follows widths that blocks add up.",
        )  # fmt: skip
    return chosen


def _is_inner(model: nn.Module, group: Group) -> bool:
    tensors = dict(model.named_parameters())
    reads = [part for part in group.slices if part.role == "reads"]
    writers = [
        p for p in group.slices if p.role == "writes" and p.parameter in tensors and tensors[p.parameter].dim() > 1
    ]
    return len(writers) == 1 and bool(reads) and all(_reader_module(model, part) is not None for part in reads)


def _reader_module(model: nn.Module, part: Slice) -> nn.Module | None:
    module_name, _, leaf = part.parameter.rpartition(".")
    module = model.get_submodule(module_name)
    reads = isinstance(module, nn.Linear) or (isinstance(module, nn.modules.conv._ConvNd) and module.groups == 1)
    return module if reads and leaf == "weight" and part.axis == 1 else None


def _readers(model: nn.Module, group: Group) -> list[Reader]:
    found = []
    for part in group.slices:
        module = _reader_module(model, part) if part.role == "reads" else None
        if module is not None:
            axis = -1 if isinstance(module, nn.Linear) else 1
            found.append(Reader(group, module, part.parameter, axis, torch.tensor(part.owners)))
    return found


def _kernel_sizes(model: nn.Module, group: Group) -> Tensor:
    sizes = torch.zeros(group.width, dtype=torch.float64)
    tensors = dict(model.named_parameters())
    for part in group.slices:
        if part.role == "writes" and part.parameter in tensors and tensors[part.parameter].dim() > 1:
            own = torch.tensor(part.owners)
            rows = tensors[part.parameter].detach().double().cpu().movedim(part.axis, 0).flatten(1).abs().sum(1)
            sizes.index_add_(0, own[own >= 0], rows[own >= 0])
    return sizes
