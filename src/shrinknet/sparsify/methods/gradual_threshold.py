"""Exploring Sparsity in Recurrent Neural Networks (Narang, Elsen, Diamos, Sengupta 2017), and its blocks."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from shrinknet.core.errors import BadInputError
from shrinknet.core.units import globs
from shrinknet.sparsify.base import Masks, Sparsifier
from shrinknet.sparsify.blocks import Blocks
from shrinknet.sparsify.keep import quantile, thinned, top
from shrinknet.sparsify.schedules import Ramp, check_least, check_sparsity
from shrinknet.sparsify.targets import chosen_weights

QUANTILE = 0.9
"""The paper takes q from a trained dense network: the 90th percentile of its absolute weights."""

TABLE = 1001
"""How finely the calibrated variant knows the absolute weights of the dense network."""


class GradualThreshold(Sparsifier):
    """Weights below a slowly rising threshold are masked while the network trains, and stay masked.

    Every `freq` steps from `start` to `end`: `mask = |w| >= eps`, with eps rising from 0 to q (see `schedules.Ramp`,
    the paper's equation 1: slope theta, after `ramp` the steeper phi). Thresholds are shared by the weights of one kind
    ("recurrent", "dense", "conv"); biases, norms and embeddings are left whole. The paper starts with the second epoch,
    turns steeper after a quarter of the epochs and ends at half.

    Blocks (Narang, Undersander, Diamos 2017): a tile is masked when its *largest* |w| is below `eps N^(1/4)`, N being
    the tile's elements; `group_lasso` adds `lambda sum_g ||w_g||_2` to the loss until pruning ends.

    The paper's sparsity is an outcome of q (88 to 92 %). With `sparsity` the method hits what is asked for: q is that
    quantile of the dense network, `eps` at each step gives the share of *its* weights below it, and exactly that share
    of the trained ones goes, the smallest first.

    Args:
        model: trained as its user does.
        start, ramp, end, freq, steepness: of the schedule, in steps; steepness is phi / theta, 1.5 to 2.
        q: the last threshold, for all or for each kind; from `dense` where it is left out.
        dense: the weights of a trained dense network (its `state_dict`); the model's own where it is left out.
        sparsity: what to hit, in place of q's outcome.
        block: the size of tiles, such as 4 or (4, 8); `pad` lets the last ones stand over the edge.
        group_lasso: the paper's lambda_g.

    Raises:
        BadInputError: the schedule ends before it starts, a sparsity of 1 or more, a block that does not divide a layer.

    Cost: one comparison for each weight every `freq` steps; one more mask in memory.
    """  # noqa: E501

    name = "gradual-threshold"

    def __init__(
        self,
        model: nn.Module,
        *,
        start: int,
        ramp: int,
        end: int,
        freq: int = 100,
        steepness: int | float = 1.5,
        q: int | float | Mapping[str, int | float] | None = None,
        dense: Mapping[str, Tensor] | None = None,
        sparsity: int | float | None = None,
        block: int | Sequence[int] | None = None,
        pad: bool = False,
        group_lasso: int | float = 0.0,
        layers: str | tuple[str, ...] = (),
        seed: int = 0,
    ) -> None:
        check_least(0.0, group_lasso=group_lasso)
        check_least(1.0, steepness=steepness)
        for threshold in q.values() if isinstance(q, Mapping) else () if q is None else (q,):
            check_least(0.0, q=threshold)
        super().__init__(model, layers, seed)
        self.ramp = Ramp(start, ramp, end, freq, steepness)
        self.kinds = {name: kind_of(model, name) for name in self.weights}
        self.sparsity = None if sparsity is None else check_sparsity("sparsity", sparsity)
        if block is not None:
            self.blocks = {name: Blocks.of(name, w, block, pad=pad) for name, w in self.weights.items()}
        self.group_lasso = group_lasso
        if block is None and group_lasso:
            raise BadInputError("group_lasso", "0 without blocks", repr(group_lasso), "Say block as well.")
        known = dense if dense is not None else {name: weight.detach() for name, weight in self.weights.items()}
        self.numbers["q"] = self._thresholds(known, q)

    @property
    def q(self) -> dict[str, float]:
        """The last threshold of each kind of weight."""
        found: dict[str, float] = self.numbers["q"]
        return found

    @classmethod
    def defaults(cls, num_steps: int, steps_per_epoch: int) -> dict[str, int]:
        """The paper's heuristics: from the second epoch, steeper after a quarter, over at half."""
        ramp, end = max(num_steps // 4, 1), max(num_steps // 2, 2)
        start = min(steps_per_epoch, ramp)
        return {"start": start, "ramp": ramp, "end": end, "freq": max(1, min(100, (end - start) // 20))}

    def _thresholds(self, dense: Mapping[str, Tensor], q: float | Mapping[str, int | float] | None) -> dict[str, float]:
        found: dict[str, float] = {}
        for kind in dict.fromkeys(self.kinds.values()):
            sizes = _sizes([dense[name] for name, own in self.kinds.items() if own == kind and name in dense])
            if self.sparsity is not None:
                places = torch.linspace(0, 1, TABLE, dtype=sizes.dtype, device=sizes.device)
                self.tensors[f"table/{kind}"] = torch.quantile(thinned(sizes), places)
                found[kind] = quantile(sizes, self.sparsity)
            elif q is None:
                found[kind] = quantile(sizes, QUANTILE)
            else:
                found[kind] = float(q[kind] if isinstance(q, Mapping) else q)
        return found

    def after_backward(self) -> None:
        """Add the slope of the group lasso, `lambda w / ||w_g||`, until pruning ends."""
        if not self.group_lasso or self.step >= self.ramp.end:
            return
        for name, weight in self.weights.items():
            if weight.grad is not None:
                blocks, value = self.blocks[name], weight.detach()
                norms = blocks.up(blocks.norms(value))
                weight.grad += self.group_lasso * torch.where(norms > 0, value / norms, 0)

    def updated(self) -> Masks:
        """Mask what lies below the threshold of this step."""
        if not self.ramp.is_due(self.step):
            return {}
        if self.sparsity is not None:
            return self._by_share()
        return {name: self.masks[name] & self._above(name, self.threshold(name)) for name in self.weights}

    @property
    def strength(self) -> float:
        """The threshold, as a share of q."""
        return self.ramp.threshold(min(self.step, self.ramp.end), 1.0)

    def threshold(self, name: str) -> float:
        """Return eps of a weight at the present step."""
        return self.ramp.threshold(self.step, self.q[self.kinds[name]])

    def _above(self, name: str, eps: float) -> Tensor:
        weight = self.weights[name].detach()
        if not self.blocks:
            return weight.abs() >= eps
        blocks = self.blocks[name]
        return blocks.up(blocks.largest(weight) >= eps * (blocks.height * blocks.width) ** 0.25)

    def _by_share(self) -> Masks:
        """Keep, of each kind, as many as the dense network has above eps: the largest ones."""
        masks = Masks()
        for kind, q in self.q.items():
            names = [name for name, own in self.kinds.items() if own == kind]
            sizes = [self._size_by_unit(name) for name in names]
            total = sum(size.numel() for size in sizes)
            share = self._share_below(kind, self.ramp.threshold(self.step, q))
            alive = sum(int((size >= 0).sum()) for size in sizes)
            kept = top(torch.cat([size.flatten() for size in sizes]), min(alive, total - round(share * total)))
            for name, size, mask in zip(names, sizes, kept.split([s.numel() for s in sizes]), strict=True):
                mask = mask.view(size.shape)
                masks[name] = self.blocks[name].up(mask) if self.blocks else mask
        return masks

    def _size_by_unit(self, name: str) -> Tensor:
        """The absolute weights (of tiles the largest one); -1 for what is gone."""
        weight, mask = self.weights[name].detach(), self.masks[name]
        if not self.blocks:
            return torch.where(mask, weight.abs(), -1.0)
        blocks = self.blocks[name]
        return torch.where(blocks.largest(mask.to(weight.dtype)) > 0, blocks.largest(weight), -1.0)

    def _share_below(self, kind: str, eps: float) -> float:
        table = self.tensors[f"table/{kind}"]
        assert self.sparsity is not None
        if self.step >= self.ramp.end:
            return self.sparsity
        below = float(torch.searchsorted(table, table.new_tensor(eps))) / (TABLE - 1)
        return min(below, self.sparsity)


def kind_of(model: nn.Module, name: str) -> str:
    """Return whose threshold a weight shares: "recurrent", "conv" or "dense"."""
    module = model.get_submodule(name.rpartition(".")[0])
    if isinstance(module, nn.RNNBase | nn.RNNCellBase):
        return "recurrent"
    return "conv" if isinstance(module, nn.modules.conv._ConvNd) else "dense"


def dense_thresholds(model: nn.Module, share: float = QUANTILE, layers: str | tuple[str, ...] = ()) -> dict[str, float]:
    """Return the paper's q for each kind of weight: a quantile of the absolute weights of a trained dense network.

    >>> model = nn.Linear(10, 10)
    >>> nn.init.constant_(model.weight, -0.5).shape
    torch.Size([10, 10])
    >>> dense_thresholds(model)
    {'dense': 0.5}
    """
    by_kind: dict[str, list[Tensor]] = {}
    for name, weight in chosen_weights(model, globs(layers)).items():
        by_kind.setdefault(kind_of(model, name), []).append(weight.detach())
    return {kind: quantile(_sizes(weights), share) for kind, weights in by_kind.items()}


def _sizes(weights: list[Tensor]) -> Tensor:
    if not weights:
        do = "Give it trained.state_dict()."
        raise BadInputError("dense", "the weights of the same network, trained", "none of its names", do)
    return torch.cat([weight.detach().abs().flatten() for weight in weights])
