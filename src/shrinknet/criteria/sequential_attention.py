"""Sequential Attention as a ranking: which neurons attention picks first."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from shrinknet.criteria.base import Again, Criterion, Statistics, Sums, by_batch, of_batch
from shrinknet.engine.gates import GatedNetwork
from shrinknet.task.data import Batch


@dataclass
class Attention:
    """Where the rounds stand: what is picked, and the logits of this round after so many steps.

    All vectors run over the neurons' ids.
    """

    network: GatedNetwork
    generator: torch.Generator
    picked: Tensor
    scores: Tensor
    logits: Tensor
    optimizer: torch.optim.Optimizer
    round: int = 0
    step: int = 0

    @property
    def present(self) -> Tensor:
        """Which neurons are there."""
        return torch.from_numpy(self.network.present)

    @property
    def groups(self) -> list[range]:
        """The ids of each group."""
        return [self.network.trace.ids_of(group) for group in self.network.groups]

    @property
    def is_over(self) -> bool:
        """Whether every neuron is picked."""
        return bool((self.picked | ~self.present)[1:].all())


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

    def begin(self, network: GatedNetwork) -> Attention:
        """Nothing is picked yet."""
        num_ids, generator = len(network.present), torch.Generator().manual_seed(self.seed)
        picked, scores = torch.zeros(num_ids, dtype=torch.bool), torch.zeros(num_ids, dtype=torch.float64)
        return Attention(network, generator, picked, scores, *self._first_logits(network, generator))

    def observe(self, attention: Attention, batch: Batch) -> Statistics:
        """Return the slope of the batch's summed loss in the logits."""
        network, logits = attention.network, attention.logits
        with torch.enable_grad():
            gates = _gates(logits, attention.present, attention.picked, attention.groups).to(batch.device)
            outputs = network.program.outputs(batch.inputs, network.gating_by_sample(gates[None]))
            total = network.loss.of(network.loss.read(outputs), batch.targets).sum()
            return of_batch(batch, {"slope": torch.autograd.grad(total, logits)[0]})

    def conclude(self, attention: Attention, sums: Sums) -> Statistics | Again:
        """Take a step with the logits; after the last one of a round pick neurons; after the last round return when."""
        if attention.is_over or attention.round == self.rounds:
            return attention.network.by_group(attention.scores)
        self._step(attention, sums)
        if attention.step == self.steps:
            self._pick(attention)
            attention.round, attention.step = attention.round + 1, 0
            if attention.is_over or attention.round == self.rounds:
                return attention.network.by_group(attention.scores)
            attention.logits, attention.optimizer = self._first_logits(attention.network, attention.generator)
        return Again(attention)

    def _first_logits(self, network: GatedNetwork, generator: torch.Generator) -> tuple[Tensor, torch.optim.Optimizer]:
        logits = 1e-5 * torch.randn(len(network.present), generator=generator, dtype=network.program.dtype)
        return logits.requires_grad_(), torch.optim.Adam([logits], lr=self.rate)

    def _step(self, attention: Attention, sums: Sums) -> None:
        slope = torch.zeros_like(attention.logits)
        for observed in by_batch(sums):  # one after another, in the network's own precision
            slope += observed["slope"].to(slope.dtype) / sums.num_samples
        attention.logits.grad = slope
        attention.optimizer.step()
        attention.step += 1

    def _pick(self, attention: Attention) -> None:
        """Pick the neurons of each group that have the most attention, as many as this round is due."""
        present, picked = attention.present, attention.picked
        for ids in attention.groups:
            waiting = torch.tensor([k for k in ids if present[k] and not picked[k]], dtype=torch.long)
            share = attention.logits.detach()[waiting].softmax(0)
            so_far = len([k for k in ids if present[k]]) - len(waiting)
            count = -(-(so_far + len(waiting)) * (attention.round + 1) // self.rounds) - so_far
            first = torch.sort(share, descending=True, stable=True).indices[:count]
            attention.scores[waiting[first]] = self.rounds - attention.round + share[first].double()
            picked[waiting[first]] = True


def _gates(logits: Tensor, present: Tensor, picked: Tensor, groups: Sequence[range]) -> Tensor:
    """1 for what is picked, the softmax over those waiting for the others; 0 for what is gone."""
    gates = (present & picked).to(logits.dtype)
    gates[0] = 1  # elements that are no neuron
    for ids in groups:
        waiting = torch.tensor([k for k in ids if present[k] and not picked[k]], dtype=torch.long)
        if len(waiting):
            gates = gates.index_put((waiting,), logits[waiting].softmax(0))
    return gates
