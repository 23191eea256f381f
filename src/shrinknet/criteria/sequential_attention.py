"""Sequential Attention as a ranking: which neurons attention picks first."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from shrinknet.criteria.base import Criterion, Statistics, as_scores
from shrinknet.data import Batch
from shrinknet.gates import GatedNetwork
from shrinknet.types import Scores


class SequentialAttention(Criterion):
    """Neurons are picked in rounds, those with the most attention first; the last one picked goes first.

    In each round every neuron that is not picked has a logit, and its gate is the softmax of those over its group's
    neurons that are not picked; picked ones have gate 1. Logits are trained on the loss, the network standing still,
    then the neurons with the most attention are picked, and logits start again from N(0, 1e-5) (Yasuda et al. 2023, who
    pick features while the network trains). Gates of a group that is not picked from yet add up to 1: nearly all of it
    is off, and attention asks which neuron to bring back first. It is the one criterion here that builds up instead of
    taking away, and its order holds without ranking again: use it with `single-ranking`.

    A score says when a neuron was picked; it is not in loss units.

    Args:
        rounds: how often neurons are picked.
        steps: how many steps of Adam the logits have in each round, each on the slope over all samples.
        rate: of Adam.
        seed: of the first logits.

    Cost: rounds x steps forward and backward passes over the data.
    """

    name = "sequential-attention"
    unit = "pick, from the last"

    def __init__(self, rounds: int = 50, steps: int = 10, rate: float = 0.1, seed: int = 0) -> None:
        self.rounds, self.steps, self.rate, self.seed = rounds, steps, rate, seed

    @classmethod
    def with_seed(cls, seed: int) -> "SequentialAttention":
        """Return the criterion with first logits of this seed."""
        return cls(seed=seed)

    def observe(self, network: GatedNetwork, batch: Batch) -> Statistics:
        """Return nothing: see `score`."""
        return {}

    def conclude(self, sums: Statistics, num_samples: int) -> Statistics:
        """Return nothing: see `score`."""
        return sums

    def score(self, network: GatedNetwork, batches: Iterable[Batch]) -> Scores:
        """Pick neurons round by round."""
        seen, generator = list(batches), torch.Generator().manual_seed(self.seed)
        present = torch.from_numpy(network.present)
        groups = [network.trace.ids_of(group) for group in network.groups]
        picked, scores = torch.zeros_like(present), torch.zeros(len(present), dtype=torch.float64)
        for number in range(self.rounds):
            if all(bool(picked[k]) for ids in groups for k in ids if present[k]):
                break
            logits = 1e-5 * torch.randn(len(present), generator=generator, dtype=network.program.dtype)
            logits = self._trained(network, seen, logits.requires_grad_(), picked, groups)
            for ids in groups:
                waiting = torch.tensor([k for k in ids if present[k] and not picked[k]], dtype=torch.long)
                attention = logits[waiting].softmax(0)
                so_far = len([k for k in ids if present[k]]) - len(waiting)
                count = -(-(so_far + len(waiting)) * (number + 1) // self.rounds) - so_far
                first = torch.sort(attention, descending=True, stable=True).indices[:count]
                scores[waiting[first]] = self.rounds - number + attention[first].double()
                picked[waiting[first]] = True
        return as_scores(network.by_group(scores), self.unit)

    def _trained(
        self, network: GatedNetwork, batches: Sequence[Batch], logits: Tensor, picked: Tensor, groups: Sequence[range]
    ) -> Tensor:
        optimizer = torch.optim.Adam([logits], lr=self.rate)
        present = torch.from_numpy(network.present)
        num_samples = sum(map(len, batches))
        for _ in range(self.steps):
            slope = torch.zeros_like(logits)
            for batch in batches:
                with torch.enable_grad():
                    gates = _gates(logits, present, picked, groups).to(batch.inputs.device)
                    outputs = network.program.outputs(batch.inputs, network.gating_by_sample(gates[None]))
                    total = network.loss.of(outputs, batch.targets).sum()
                    slope += torch.autograd.grad(total, logits)[0] / num_samples
            logits.grad = slope
            optimizer.step()
        return logits.detach()


def _gates(logits: Tensor, present: Tensor, picked: Tensor, groups: Sequence[range]) -> Tensor:
    """1 for what is picked, the softmax over those waiting for the others; 0 for what is gone."""
    gates = (present & picked).to(logits.dtype)
    gates[0] = 1  # elements that are no neuron
    for ids in groups:
        waiting = torch.tensor([k for k in ids if present[k] and not picked[k]], dtype=torch.long)
        if len(waiting):
            gates = gates.index_put((waiting,), logits[waiting].softmax(0))
    return gates
