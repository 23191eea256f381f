"""Pruning neural networks: is it time to nip it in the bud? (Crowley, Turner, Storkey, O'Boyle 2018.)"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from shrinknet.core.errors import BadInputError, did_you_mean
from shrinknet.core.records import Group
from shrinknet.sparsify.removal import NeuronRemoval
from shrinknet.sparsify.to_plan import sizes_in
from shrinknet.task.trees import AnyInputs

RULES = ("fisher", "l1", "random")


class FisherPruning(NeuronRemoval):
    """Every so many steps of fine-tuning the channel that was worth least in them goes (see `removal.NeuronRemoval`).

    With a the activation that readers see, g the slope of one sample's loss in it::

        Delta_c = 1/(2 N) sum_n ( sum_ij a_nij g_nij )^2          over the N samples since the last removal

    (second order, the mean slope taken for zero, the Hessian for the Fisher): positions are summed *before* the square.

    Args:
        model, example_inputs, every, count, only: see `NeuronRemoval`; the paper removes one channel in 100 steps.
        rule: "fisher"; "l1" (`sum |w|` of the channel's own kernel, with the absolute value that the authors'
            program forgets); "random".

    Raises:
        BadInputError: an unknown rule; no channel can go.

    Cost: one product for each value read in training; one number for each channel.
    """

    name = "fisher-pruning"

    def __init__(
        self,
        model: nn.Module,
        example_inputs: AnyInputs,
        *,
        rule: str = "fisher",
        every: int = 100,
        count: int | None = None,
        only: str | Sequence[str] = (),
        seed: int = 0,
    ) -> None:
        if rule not in RULES:
            raise BadInputError("rule", "one of " + ", ".join(RULES), repr(rule), did_you_mean(rule, RULES))
        super().__init__(model, example_inputs, every=every, count=count, only=only, seed=seed)
        self.rule = rule
        for group in self.groups:
            self.tensors[f"sum/{group.name}"] = torch.zeros(group.width, dtype=torch.float64)
            self.tensors[f"heard/{group.name}"] = torch.zeros((), dtype=torch.float64)
        self._listening: list[RemovableHandle] = []
        self._passes: list[dict[str, Tensor]] = []

    def before_forward(self) -> None:
        """Listen to what readers read in this pass."""
        super().before_forward()
        if self.rule == "fisher" and torch.is_grad_enabled():
            heard: dict[str, Tensor] = {}
            self._passes.append(heard)
            modules = dict.fromkeys(reader.module for reader in self.readers)
            self._listening = [module.register_forward_pre_hook(partial(self._listen, heard)) for module in modules]

    def put_back(self) -> None:
        """Listen no more."""
        super().put_back()
        for handle in self._listening:
            handle.remove()
        self._listening.clear()

    def _listen(self, heard: dict[str, Tensor], module: nn.Module, inputs: tuple[Any, ...]) -> None:
        if inputs[0].requires_grad:
            read = inputs[0].detach()
            inputs[0].register_hook(lambda slope: self._hear(heard, module, read, slope.detach()))

    def _hear(self, heard: dict[str, Tensor], module: nn.Module, read: Tensor, slope: Tensor) -> None:
        """Add `sum_ij a g` of each sample to what other readers of the same channels gave."""
        for reader in self.readers:
            if reader.module is not module:
                continue
            products = (read * slope).movedim(reader.axis, -1).flatten(1, -2).sum(1) if read.dim() > 2 else read * slope
            own = reader.owners.to(products.device)
            total = products.new_zeros(len(products), reader.group.width)
            total.index_add_(1, own[own >= 0], products[:, own >= 0])
            name = reader.group.name
            heard[name] = heard[name] + total if name in heard else total

    def after_backward(self) -> None:
        """Square what each sample of each pass said, and add it up."""
        for heard in self._passes:
            for name, slopes in heard.items():
                of_samples = slopes.double() * len(slopes)  # the loop's loss is a mean over the batch
                self.tensors[f"sum/{name}"] += of_samples.square().sum(0).cpu() / 2
                self.tensors[f"heard/{name}"] += len(slopes)
        self._passes.clear()

    def forget(self) -> None:
        """Begin new sums."""
        for group in self.groups:
            self.tensors[f"sum/{group.name}"].zero_()
            self.tensors[f"heard/{group.name}"].zero_()

    def scores(self) -> dict[str, Tensor]:
        """Return what each channel is worth now, by group; infinitely much where no slope was heard of."""
        if self.rule == "fisher":
            return {
                group.name: torch.where(heard > 0, self.tensors[f"sum/{group.name}"] / heard, torch.inf)
                for group in self.groups
                for heard in [self.tensors[f"heard/{group.name}"]]
            }
        if self.rule == "l1":
            return {group.name: _kernel_sizes(self.model, group) for group in self.groups}
        return {g.name: torch.rand(g.width, generator=self.generator, dtype=torch.float64) for g in self.groups}


def _kernel_sizes(model: nn.Module, group: Group) -> Tensor:
    kernels = {name: parameter for name, parameter in model.named_parameters() if parameter.dim() > 1}
    written = [part for part in group.slices if part.role == "writes" and part.parameter in kernels]
    return sizes_in(group, kernels, written)
