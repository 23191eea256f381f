"""Recall Distortion in Neural Network Pruning and the Undecayed Pruning Algorithm (Good, Lin, Yu et al. 2022)."""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from shrinknet.core.errors import BadInputError, did_you_mean
from shrinknet.sparsify.base import Masks, Sparsifier
from shrinknet.sparsify.blocks import Blocks
from shrinknet.sparsify.keep import num_left, top
from shrinknet.sparsify.schedules import check_sparsity
from shrinknet.task.trees import AnyInputs, called

log = logging.getLogger(__name__)

Score = Callable[[Tensor, Tensor, float], Tensor]

RULES: dict[str, Score] = {
    "magnitude": lambda w, g, eps: w.abs(),
    "up": lambda w, g, eps: (w * g).abs(),
    "gp": lambda w, g, eps: (w * (g + eps * w)).abs(),
    "up-literal": lambda w, g, eps: (-w * g + eps * w.square()).abs(),
}
"""What a weight is worth, by its value w, the slope g that PyTorch calls its gradient, and the weight decay eps."""

FORMULAS = {
    "magnitude": "|w|",
    "up": "|w g|, g without weight decay",
    "gp": "|w (g + eps w)|, g without weight decay",
    "up-literal": "|-w g + eps w^2|, the decay counted twice",
    "random": "a seeded draw",
}


DEFAULT_SPARSITY = 0.9


class OneShot(Sparsifier):
    """The weights that are worth least in the whole network go at once; then training goes on without them.

    The paper's loss L *includes* weight decay, `T = L - eps/2 ||w||^2` is the loss without it::

        magnitude  |w|          gp  |w dL|          up  |-w dL + eps w^2| = |w dT|          random

    In PyTorch the decay lives in the optimizer, so a parameter's gradient g *is* dT already. Hence `up = |w g|` and
    `gp = |w (g + eps w)|`; printed formulas with g put in for dL (`up-literal`, `|-w g + eps w^2|`) count the decay
    twice. Where dL = 0 the rule `up` is magnitude squared times eps.

    Args:
        model: a trained network.
        rule: one of "magnitude", "up", "gp", "up-literal", "random".
        ratio: parameters before / after, those outside `layers` counted too (ShrinkBench's definition): kept is
            `(total / ratio - others) / prunable`.
        sparsity: in place of a ratio, the share of the chosen weights that goes (0.9 where both are left out).
        at: after how many steps; 0: when `prune` is called.
        over: slopes are means over so many steps before that, or over as many as there are.
        decay: the weight decay eps; the optimizer's own where it is left out.
        block: in place of weights, tiles by the norm of what their weights are worth.

    Raises:
        BadInputError: an unknown rule, both ratio and sparsity, a ratio that leaves nothing.

    Cost: one comparison for each weight; the slopes' means in memory.
    """

    name = "one-shot"

    def __init__(
        self,
        model: nn.Module,
        rule: str = "magnitude",
        *,
        ratio: int | float | None = None,
        sparsity: int | float | None = None,
        at: int = 0,
        over: int = 1,
        decay: int | float | None = None,
        block: int | Sequence[int] = 1,
        pad: bool = False,
        layers: str | tuple[str, ...] = (),
        seed: int = 0,
    ) -> None:
        super().__init__(model, layers, seed)
        if rule not in {*RULES, "random"}:
            do = did_you_mean(rule, [*RULES, "random"])
            raise BadInputError("rule", "one of magnitude, up, gp, up-literal, random", repr(rule), do)
        if ratio is not None and sparsity is not None:
            raise BadInputError("ratio and sparsity", "not both given", f"{ratio}, {sparsity}", "Leave one out.")
        if at < 0 or over < 1:
            raise BadInputError("at, over", "steps of at least 0 and 1", f"{at}, {over}", "Leave them out.")
        self.rule, self.at, self.over, self.decay = rule, at, min(over, max(at, 1)), decay
        self.sparsity = check_sparsity("sparsity", DEFAULT_SPARSITY if sparsity is None else sparsity)
        if ratio is not None:
            self.sparsity = self._at_ratio(ratio)
        self.blocks = {name: Blocks.of(name, w, block, pad=pad) for name, w in self.weights.items()}
        for name, weight in self.weights.items():
            self.tensors[f"slope/{name}"] = torch.zeros_like(weight)

    @classmethod
    def defaults(cls, num_steps: int, steps_per_epoch: int) -> dict[str, Any]:
        """Cut after the first epoch; the rest of the training tunes what is left."""
        return {"at": min(steps_per_epoch, num_steps), "over": min(steps_per_epoch, num_steps)}

    def _at_ratio(self, ratio: int | float) -> float:
        total = sum(parameter.numel() for parameter in self.model.parameters())
        prunable = sum(weight.numel() for weight in self.weights.values())
        kept = (total / ratio - (total - prunable)) / prunable if ratio >= 1 else -1.0
        if not 0 < kept <= 1:
            others = total - prunable
            allowed = f"from 1 to less than {total / max(1, others):.4g}: {others:,} parameters are not pruned"
            raise BadInputError("ratio", allowed, repr(ratio), "Ask for less, or choose more layers.")
        return 1 - kept

    def after_backward(self) -> None:
        """Add up slopes over the steps before the cut."""
        if self.at - self.over <= self.step < self.at:
            for name, weight in self.weights.items():
                if weight.grad is not None:
                    self.tensors[f"slope/{name}"] += weight.grad / self.over

    def updated(self) -> Masks:
        """Cut, when the time has come."""
        return self._cut() if self.at and self.step == self.at else {}

    def prune(self, slopes: Mapping[str, Tensor] | None = None) -> None:
        """Cut now.

        Args:
            slopes: of the mean loss without decay, by weight (`mean_slopes`); magnitude and random need none.
        """
        for name, slope in (slopes or {}).items():
            self.tensors[f"slope/{name}"] = slope.clone()
        with torch.no_grad():
            for name, mask in self._cut().items():
                self._change(name, mask)
            self.hold()

    def attach(self, optimizer: Optimizer) -> None:
        """Hook in; the weight decay is the optimizer's where none was given."""
        if self.decay is None:
            first = next(iter(self.weights.values()))
            groups = [group for group in optimizer.param_groups if any(first is p for p in group["params"])]
            self.decay = float(groups[0].get("weight_decay", 0.0)) if groups else 0.0
        super().attach(optimizer)

    def _cut(self) -> Masks:
        log.info("One-shot pruning by %s: %s.", self.rule, FORMULAS[self.rule])
        worth = [self._worth(name) for name in self.weights]
        sizes = [one.numel() for one in worth]
        kept = top(torch.cat([one.flatten() for one in worth]), num_left(sum(sizes), self.sparsity))
        pairs = zip(self.weights, worth, kept.split(sizes), strict=True)
        return {name: self.masks[name] & self.blocks[name].up(part.view(one.shape)) for name, one, part in pairs}

    def _worth(self, name: str) -> Tensor:
        weight, blocks = self.weights[name].detach(), self.blocks[name]
        if self.rule == "random":
            return torch.rand(blocks.grid, generator=self.generator).to(weight)
        return blocks.norms(RULES[self.rule](weight, self.tensors[f"slope/{name}"], self.decay or 0.0))


def mean_slopes(
    model: nn.Module, loss: Callable[[Any, Any], Tensor], batches: Iterable[tuple[AnyInputs, Any]]
) -> dict[str, Tensor]:
    """Return the slope of the mean loss over all batches, by parameter; the model's own gradients are left alone.

    Args:
        model: in the mode that it is to be seen in.
        loss: of outputs and targets, one value for each sample.
        batches: inputs and targets.

    Cost: one forward and one backward pass over the batches.

    >>> model = nn.Linear(1, 1, bias=False)
    >>> rows = torch.ones(2, 1), torch.zeros(2)
    >>> slopes = mean_slopes(model, lambda out, _: 3 * out[:, 0], [rows])
    >>> slopes["weight"].tolist()
    [[3.0]]
    """
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    sums = {name: torch.zeros_like(p) for name, p in parameters.items()}
    count = 0
    for inputs, targets in batches:
        total = loss(called(model, inputs), targets).sum()
        slopes = torch.autograd.grad(total, list(parameters.values()), allow_unused=True)
        for name, slope in zip(parameters, slopes, strict=True):
            if slope is not None:
                sums[name] += slope
        count += len(inputs)
    return {name: value / count for name, value in sums.items()}
