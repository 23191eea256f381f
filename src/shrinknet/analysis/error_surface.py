"""Error surfaces: the loss as a function of one neuron's gate, at the moment at which the neuron is removed.

The source paper draws them for every tenth removal (Sharma, Wolfe, Raj 2017, figures 5 to 7 and 10 to 12): alpha is the
gate, 1 the network as it is, 0 the removal. A curve that stays flat from 1 down to 0 is a neuron that can go; the line
and the parabola through alpha = 1 are what `taylor-1` and `taylor-2` believe the curve to be (the paper's figure 2).
"""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from shrinknet.core.errors import BadInputError, did_you_mean
from shrinknet.core.progress import Tell, tell_nobody
from shrinknet.core.records import Group, Neuron
from shrinknet.criteria.ablation import Ablation
from shrinknet.engine.derivatives import in_chunks, slope_and_curvature
from shrinknet.engine.gates import GatedNetwork, gated
from shrinknet.engine.memory import in_memory
from shrinknet.engine.replay import Replay
from shrinknet.run.run import Run
from shrinknet.run.together import compensation_for
from shrinknet.task.task import Task

Vector = NDArray[np.float64]

SMALL_PART = 0.01
"""A rise below this part of the loss is small, whatever its standard error."""

SURE = 2.0
"""Standard errors from zero at which a rise counts as one."""

GIVEN_BACK = 0.5
"""The part of its rise that a neuron's partner must give back for the two to cancel each other."""


@dataclass(frozen=True, slots=True)
class Alphas:
    """The values of the gate at which the loss is computed: from `first` to `last` in steps; 0 and 1 always among them.

    Raises:
        BadInputError: the range holds nothing, or a number is not finite.

    >>> Alphas(0, 2, 0.5).values.tolist()
    [0.0, 0.5, 1.0, 1.5, 2.0]
    >>> Alphas.parsed("0:10:0.001").values.size
    10001
    """

    first: int | float = 0.0
    last: int | float = 10.0
    step: int | float = 0.001

    def __post_init__(self) -> None:
        numbers = (self.first, self.last, self.step)
        if not all(map(math.isfinite, numbers)) or not self.last > self.first or not self.step > 0:
            allowed = "a range that holds something, as FIRST:LAST:STEP"
            raise BadInputError("alphas", allowed, ":".join(f"{n:g}" for n in numbers), "Write it as 0:10:0.001.")

    @classmethod
    def parsed(cls, text: str) -> "Alphas":
        """Read FIRST:LAST:STEP."""
        if not re.fullmatch(r"[^:]+(:[^:]+){2}", text):
            raise BadInputError("alphas", "FIRST:LAST:STEP", repr(text), "Write it as 0:10:0.001.")
        try:
            return cls(*map(float, text.split(":")))
        except ValueError as error:
            if isinstance(error, BadInputError):
                raise
            raise BadInputError("alphas", "three numbers", repr(text), "Write it as 0:10:0.001.") from error

    @property
    def values(self) -> Vector:
        """The values, ascending."""
        count = int((self.last - self.first) / self.step + 1e-9) + 1
        return np.unique(np.append(self.first + self.step * np.arange(count), [0.0, 1.0]))


@dataclass(frozen=True, slots=True, eq=False)
class Surface:
    """One neuron's error surface, beside what the Taylor criteria believe of it, and a verdict.

    Attributes:
        step: the step of the run that removes the neuron; 0 outside a run.
        alphas, losses: the curve: the mean loss at each value of the gate.
        loss: the loss at alpha = 1: the network as it is at that moment.
        rise: the loss at alpha = 0 minus that: ablation's score.
        standard_error: of that rise, over the samples.
        slope, curvature: the first two derivatives of the curve at alpha = 1.
        partner: the neuron whose removal afterwards gives most of the rise back, or None where there is no other.
        given_back: how much: the rise minus that of both, unless the partner's removal gives that anyway.
        verdict: "essential", "redundant", "harmful" or "cancelling".
        ground: the measured reason, in words.
    """

    step: int
    neuron: Neuron
    alphas: Vector
    losses: Vector
    loss: float
    rise: float
    standard_error: float
    slope: float
    curvature: float
    partner: Neuron | None
    given_back: float
    verdict: str
    ground: str

    @property
    def line(self) -> Vector:
        """What `taylor-1` believes the curve to be: E + E' (alpha - 1)."""
        return self.loss + self.slope * (self.alphas - 1)

    @property
    def parabola(self) -> Vector:
        """What `taylor-2` believes the curve to be: E + E' (alpha - 1) + E''/2 (alpha - 1)^2."""
        return self.line + self.curvature / 2 * (self.alphas - 1) ** 2


def error_surface(task: Task, neuron: Neuron, *, gone: Iterable[Neuron] = (), alphas: Alphas | None = None) -> Surface:
    """Return one neuron's error surface, in a network without the neurons that are gone.

    Formula: E(alpha) = mean over the calibration samples of L(f(x; g_k = alpha), t). E(0) - E(1) is ablation's score,
    to the bit; E(1) is the network's loss. (Sharma, Wolfe, Raj 2017, section 4.3.)

    Args:
        task: network, loss and data.
        neuron: whose gate is moved.
        gone: neurons that were removed before.
        alphas: the values of the gate: from 0 to 10 in steps of 0.001 where left out.

    Raises:
        BadInputError: there is no such neuron, or it is among those that are gone.

    Cost: one forward pass, then for each alpha the part of the network downstream of the neuron's readers, as many
    alphas at once as the caches hold; two ablation rankings for the partner.

    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> task = Task(model, "cross-entropy", (torch.randn(20, 4), torch.arange(20) % 2))
    >>> surface = error_surface(task, Neuron("0", 3), alphas=Alphas(0, 2, 0.5))
    >>> bool(surface.losses[2] == surface.loss)
    True
    """
    network = gated(task)
    task = in_memory(task, network, [_group(network, neuron)])
    with network.program.scoring.arithmetic():
        return _surface(task, network.without(_checked(network, gone)), neuron, alphas or Alphas(), 0)


def error_surfaces(
    run: Run, *, every: int = 10, alphas: Alphas | None = None, tell: Tell = tell_nobody
) -> list[Surface]:
    """Return the error surface of the first neuron of every N-th step of a run, at the moment of its removal.

    Where readers are refit, they stand as they were before the removal: alpha = 0 is then the loss before the refit,
    and the history has the one after it. Exchanges at the end of a polished run have none.

    Args:
        run: a run, or a reopened one.
        every: N; the first step is always among them.
        alphas: see `error_surface`.
        tell: who is told how far it is.

    Raises:
        BadInputError: the run removed nothing, or `every` is not a whole number of at least 1.

    Cost: for each surface what `error_surface` costs; with compensation one refit for each step.
    """
    if isinstance(every, bool) or not isinstance(every, int) or every < 1:
        raise BadInputError("every", "a whole number of at least 1", repr(every), "Leave it out for 10.")
    steps = [step for step in run.history if step.removed and not step.restored]
    if not steps:
        raise BadInputError("run", "a run that removed something", "one that stopped at once", "Give it a goal.")
    scoring = run.network.program.scoring
    groups = {_group(run.network, step.removed[0]) for step in steps[::every]}
    task, found = in_memory(run.task, run.network, groups), []
    network = gated(task, run.config.search.keep, run.config.search.only, scoring)
    compensation = compensation_for(run.config, task, network)
    with scoring.arithmetic():
        network = compensation.restart()
        for place, step in enumerate(steps):
            if place % every == 0:
                tell(f"{step.removed[0]}, step {step.number}", place / len(steps))
                found.append(_surface(task, network, step.removed[0], alphas or Alphas(), step.number))
            network = compensation.refit(network.without(step.removed), step.removed)
    return found


def _checked(network: GatedNetwork, neurons: Iterable[Neuron]) -> tuple[Neuron, ...]:
    neurons = tuple(neurons)
    for neuron in neurons:
        _group(network, neuron)
    return neurons


def _group(network: GatedNetwork, neuron: Neuron) -> Group:
    named = {group.name: group for group in network.groups}
    if neuron.group not in named or not 0 <= neuron.index < named[neuron.group].width:
        do = did_you_mean(neuron.group, named) if neuron.group not in named else "Count from 0."
        raise BadInputError("neuron", "one of a group that can be removed", str(neuron), do)
    return named[neuron.group]


def _surface(task: Task, network: GatedNetwork, neuron: Neuron, alphas: Alphas, step: int) -> Surface:
    task.loss.needs_each_sample("an error surface")
    group = _group(network, neuron)
    if neuron.index not in network.alive(group):
        raise BadInputError("neuron", "one that is still there", f"{neuron}, which is gone", "Name another.")
    values = alphas.values
    gates = torch.from_numpy(values).to(network.program.dtype)
    rises, squares = torch.zeros(len(gates), dtype=torch.float64), 0.0
    loss = slope = curvature = 0.0
    num_samples = len(task.calibration)
    at_zero = torch.tensor([neuron.index])
    with torch.no_grad():
        for batch in task.calibration.batches():
            replay, device = Replay(network, batch), batch.device
            candidates = at_zero.to(device).expand(len(gates))
            rises += replay.summed_rises(group, candidates, gates.to(device)).cpu()
            squares += float(replay.rises(group, at_zero.to(device)).double().square().sum())
            loss += float(replay.losses_before.sum(dtype=torch.float64))
            pair = in_chunks(slope_and_curvature, replay, group, at_zero.to(device))
            slope, curvature = slope + float(pair[0]), curvature + float(pair[1])
    losses = (loss + rises.numpy()) / num_samples
    found = dict(zip(values.tolist(), losses.tolist(), strict=True))
    rise = float(rises[int(np.searchsorted(values, 0.0))]) / num_samples
    error = math.sqrt(max(0.0, squares / num_samples - rise**2) / num_samples)
    partner, given_back = _partner(task, network, neuron)
    verdict, ground = judged(rise, error, found[1.0], partner, given_back)
    bend = (slope / num_samples, curvature / num_samples)
    return Surface(step, neuron, values, losses, found[1.0], rise, error, *bend, partner, given_back, verdict, ground)


def _partner(task: Task, network: GatedNetwork, neuron: Neuron) -> tuple[Neuron | None, float]:
    """The neuron whose removal after this one gives most back, and how much.

    With rises before and after this one is gone, that is `min(-after, before - after)`: what comes back, and only as
    far as it would not come anyway (a harmful neuron cancels nobody).
    """
    now = Ablation().score(network, task.calibration)
    after = Ablation().score(network.without([neuron]), task.calibration)
    others = [
        (max(after[other], after[other] - now[other]), other)
        for group in network.groups
        for other in (Neuron(group.name, int(index)) for index in network.alive(group))
        if other != neuron
    ]
    if not others:
        return None, 0.0
    least, partner = min(others)
    return partner, -least


def judged(
    rise: float, standard_error: float, loss: float, partner: Neuron | None, given_back: float
) -> tuple[str, str]:
    """Return the verdict on a neuron, and its ground.

    - harmful: the loss falls without it, by more than two standard errors;
    - redundant: it rises by less than two standard errors, or by less than a hundredth of the loss;
    - cancelling: it rises, but the removal of one more neuron, its partner, gives back at least half of that;
    - essential: it rises, and no single neuron gives half of it back.

    >>> judged(0.2, 0.01, 1.0, Neuron("0", 1), 0.15)[0]
    'cancelling'
    >>> judged(-0.2, 0.01, 1.0, None, 0.0)
    ('harmful', 'without it the loss falls by 0.2 (standard error 0.01)')
    """
    sure = SURE * standard_error
    rises = f"without it the loss {'rises' if rise >= 0 else 'falls'} by {abs(rise):.3g}"
    rises += f" (standard error {standard_error:.2g})"
    if rise < -sure and rise < 0:
        return "harmful", rises
    if rise <= max(sure, SMALL_PART * loss):
        limit = "two standard errors" if sure >= SMALL_PART * loss else f"{100 * SMALL_PART:g} % of the loss"
        return "redundant", f"{rises}, less than {limit}"
    if partner is not None and given_back >= GIVEN_BACK * rise:
        return "cancelling", f"{rises}; without {partner} as well, {given_back:.3g} of that comes back"
    return "essential", f"{rises}, and no other neuron's removal gives half of that back"
