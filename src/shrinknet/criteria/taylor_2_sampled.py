"""Second-order Taylor whose curvature is sampled: all neurons at once, whatever the number of outputs."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from shrinknet.core.errors import BadInputError
from shrinknet.core.scores import Scores
from shrinknet.criteria.base import Cost, Criterion, Statistics, scored, squares_of
from shrinknet.engine.gates import GatedNetwork
from shrinknet.engine.sampled import Interactions, Signs, slopes_and_curvatures, slopes_and_factors
from shrinknet.task.data import Batch


class Taylor2Sampled(Criterion):
    """`-dE/dg + 1/2 E[(s . J)^2]` at g = 1: what `gauss-newton` says, estimated from random signs.

    J = d outputs / dg is one sample's, and s = A z with z random signs and A A^T = H, the Hessian of the loss in the
    outputs, so that E[(s . J)^2] = J^T H J (Hutchinson 1990). For cross-entropy with probabilities p,
    A = (I - p 1^T) diag(sqrt(p)): its relative error for one sample and draw is at most sqrt(2) however sure the
    network is, where labels drawn from p (Martens 2014) have ones without bound. Any other loss takes
    `(z . J)(H z . J)`, which has the same mean, by one more backward pass.

    Its standard error, over samples and signs, is that of the mean of the samples' estimates.

    Cost: one forward pass, and 1 + `draws` backward passes (1 + 2 `draws` for other losses than cross-entropy), for all
    neurons together; memory for one number for each sample and neuron.

    Args:
        seed: of the signs, which depend on it, on the batch's number and on the draw alone.
        draws: how many times signs are drawn for each sample.

    >>> Taylor2Sampled(draws=0)
    Traceback (most recent call last):
    shrinknet.core.errors.BadInputError: draws must be a whole number of at least 1. Got 0. Leave it out for 1.
    """

    name, unit = "taylor-2-sampled", "loss"
    needs_each_sample = True

    def __init__(self, seed: int = 0, draws: int = 1) -> None:
        for name, value, least in (("seed", seed, 0), ("draws", draws, 1)):
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                allowed, do = f"a whole number of at least {least}", f"Leave it out for {least}."
                raise BadInputError(name, allowed, value, do)
        self.seed, self.draws = seed, draws

    def cost(self, network: GatedNetwork) -> Cost:
        """Return what one ranking costs."""
        return Cost(backward=1 + self.draws * (1 if network.loss.compares_classes else 2))

    def observe(self, network: GatedNetwork, batch: Batch) -> Statistics:
        """Return the summed estimates over the batch, and their squares."""
        return _estimates(network, *slopes_and_curvatures(network, batch, self.draws, self._signs(batch)))

    def with_interactions(self, network: GatedNetwork, batches: Iterable[Batch]) -> tuple[Scores, Interactions]:
        """Return the scores, and what neurons that go together do to each other, by the same passes.

        Memory: five numbers for each sample, draw and neuron, of as many batches as fit the memory of one pass (one
        at least).
        """
        factors, most = list[Sequence[Tensor]](), network.program.scoring.pass_bytes

        def look(state: GatedNetwork) -> Iterator[tuple[int, Statistics]]:
            held = 0
            for number, batch in enumerate(batches):
                signs = self._signs(replace(batch, number=number))
                with torch.no_grad():
                    slopes, first, second = slopes_and_factors(state, batch, self.draws, signs)
                if not factors or held < most:
                    factors.append((first.flatten(0, 1), second.flatten(0, 1)))
                    held += 5 * first.nbytes
                found = _estimates(state, slopes, first * second)
                yield len(batch), {name: value.cpu() for name, value in found.items()}

        scores = scored(self, network, look)
        first, second = (torch.cat(some) for some in zip(*factors, strict=True))
        return scores, Interactions(first, second)

    def _signs(self, batch: Batch) -> Signs:
        # drawing counts up the first word: with the number in the last, no two batches' signs overlap
        random = np.random.Generator(np.random.Philox(key=self.seed, counter=[0, 0, 0, batch.number]))

        def signs(like: Tensor) -> Tensor:
            drawn = torch.from_numpy(random.integers(0, 2, tuple(like.shape), np.int8) * 2 - 1)
            return drawn.to(like.device, like.dtype)

        return signs


def _estimates(network: GatedNetwork, slopes: Tensor, curvatures: Tensor) -> Statistics:
    """The estimates summed over the batch, and their squares."""
    curvatures = curvatures.mean(0)
    estimates = network.by_group(curvatures.sum(0) / 2 - slopes.sum(0))
    return {**estimates, **squares_of(network, curvatures / 2 - slopes)}
