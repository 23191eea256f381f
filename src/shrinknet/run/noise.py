"""Slopes that are nothing but rounding: where targets are the network's own answers, a loss is flat at its lowest."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from shrinknet.core.errors import BadInputError
from shrinknet.criteria.ablation import Ablation
from shrinknet.criteria.base import Criterion, Sums
from shrinknet.engine.gates import GatedNetwork
from shrinknet.task.data import Batch, Data
from shrinknet.task.losses import Loss
from shrinknet.task.trees import of_each

ROWS = 128
"""So many rows are looked at first; all of them only where these say nothing."""

SHARE, SHARE_IN_HALF = 0.01, 0.25
"""Scores are noise where a rounding moves them by this part of the largest; in half precision honest ones move too."""


def check_slopes(criterion: Criterion, network: GatedNetwork, data: Data) -> None:
    """Refuse a criterion that `follows_slopes` where no neuron has a slope that stands out of rounding.

    Outputs are moved towards 0, each by one rounding or two at random: so probabilities stay within 0 and 1, and
    targets, some of which say which case it is (1 or -1), what they are. Where the largest score is 0, or moves by as
    much as a part of itself, the order of the neurons would be arbitrary. It is true, and not refused, where no removal
    changes the loss: in a network whose neurons are all idle.

    Raises:
        BadInputError: so it is.

    Cost: the criterion twice over 128 rows; over all rows, and an ablation, only before refusing.
    """
    if not criterion.follows_slopes:
        return
    for batches in (data.spread(ROWS).split(data.batch_size), data.batches()):
        rows = list(batches)
        largest = _stands_out(criterion, network, rows)
        if largest is None:
            return
    if any(values.any() for values in Ablation().score(network, rows).values.values()):
        got = f"scores that rounding makes, the largest {largest:.2g}" if largest else "a score of 0 for every neuron"
        do = (
            "Targets that are the network's own answers leave no slope: use `criterion='ablation'` or "
            "`criterion='taylor-2'`."
        )
        raise BadInputError(f"criterion={criterion.name!r}", "used where the loss has slopes", got, do)


def _stands_out(criterion: Criterion, network: GatedNetwork, batches: Sequence[Batch]) -> float | None:
    """The largest score where rounding explains it; None where it stands out."""
    state = criterion.begin(network)
    scores = _scores(criterion, state, batches)
    moved = _scores(criterion, replace(state, loss=_rounded(state.loss)), batches)
    share = SHARE if torch.finfo(network.program.precision).bits >= 32 else SHARE_IN_HALF
    largest = float(np.abs(scores).max())
    is_noise = largest == 0 or float(np.abs(moved - scores).max()) >= share * largest
    return largest if is_noise else None


def _scores(criterion: Criterion, state: GatedNetwork, batches: Sequence[Batch]) -> NDArray[np.float64]:
    sums = Sums()
    for number, batch in enumerate(batches):
        sums.add(len(batch), criterion.observed(state, batch, number))
    concluded = criterion.conclude(state, sums)
    assert isinstance(concluded, dict)
    return torch.cat(list(concluded.values())).double().cpu().numpy()


def _rounded(loss: Loss) -> Loss:
    """The loss of outputs that are a rounding or two away."""

    def of(outputs: Any, targets: Any) -> Tensor:
        draw = torch.Generator().manual_seed(0)
        return loss.of(of_each(outputs, lambda one: _away(one, draw)), targets)

    return replace(loss, of=of)


def _away(values: Tensor, draw: torch.Generator) -> Tensor:
    if not values.is_floating_point():
        return values
    roundings = torch.randint(1, 3, values.shape, generator=draw)
    return values * (1 - torch.finfo(values.dtype).eps * roundings.to(values))
