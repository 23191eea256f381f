"""Pruning limit: how small a network can get, predicted from its weights and its loss before anything is pruned.

After Zhang, Zhang, Sun, Liu, How Sparse Can We Prune A Deep Network: A Fundamental Limit Perspective (NeurIPS 2024).
Weights w with `L(w) <= L(w*) + eps` form, by the loss's curvature, an ellipsoid with semi-axes
`r_i = sqrt(2 eps / |lambda_i|)`, lambda_i the eigenvalues of the Hessian. A share s of the D weights can go as long as
that body meets the subspace in which they are 0, which holds, with a sharp transition, up to the fixed point of::

    s = delta(R(s)) / D,     delta(R) / D = 1/D sum_i r_i^2 / (R^2 + r_i^2),     R(s)^2 = sum of the sD smallest w^2

Mind the language: `removed` is s, `kept` is 1 - s; "pruning ratio" stands for either, in different versions.
"""

import math
import time
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from shrinknet.analysis.hessian import Weights, exactly, gate_hessian, zero_rows
from shrinknet.analysis.lanczos import Spectrum, Vector, lanczos
from shrinknet.api import prune
from shrinknet.core.errors import BadInputError
from shrinknet.core.progress import Tell, tell_nobody
from shrinknet.core.units import counted
from shrinknet.engine.gates import gated
from shrinknet.engine.memory import in_memory
from shrinknet.measure.evaluation import evaluate
from shrinknet.search.guards import AccuracyDrop, Guard, LossRise
from shrinknet.task.task import Task, evaluating
from shrinknet.task.trees import called

NOISE_BATCH = 128
"""eps is the standard deviation of the loss over batches of so many rows: the noise that training itself lives with."""

ITERATIONS, PROBES = 64, 2
LARGE = 1_000_000
"""From so many weights on, rows of the Hessian that are all zero are counted beside the spectrum."""

MOST_ROWS = 256
"""Rows that are differentiated twice at once: bounds memory."""

FAR = 0.1
GRID = 400
"""Shares at which the network is pruned to look for the limit."""


@dataclass(frozen=True, slots=True, eq=False)
class Limit:
    """How much of something can go: single weights, or whole neurons.

    Attributes:
        what: "weights" or "neurons".
        num: D, how many there are.
        eps: the rise of the loss that counts as none.
        predicted: the share that can go, from the fixed point.
        spectrum: of the Hessian.
        shares, free: the curve delta(R(s)) / D, whose crossing with s is the limit.
        found: the shares that could go when it was tried: one for the network, or one for each draw of the rows.
        losses: the loss at each of `shares`, where weights were removed one-shot; None for neurons.
        seconds: what it took.
    """

    what: str
    num: int
    eps: float
    predicted: float
    spectrum: Spectrum
    shares: Vector
    free: Vector
    found: tuple[float, ...]
    losses: Vector | None
    seconds: float

    @property
    def kept(self) -> float:
        """The share that must stay, as predicted."""
        return 1 - self.predicted

    @property
    def mean_found(self) -> float:
        """The mean of the shares that were found."""
        return float(np.mean(self.found))

    @property
    def error_bar(self) -> float:
        """The standard deviation of what was found over draws of the rows; 0 for one."""
        return float(np.std(self.found, ddof=1)) if len(self.found) > 1 else 0.0

    @property
    def advice(self) -> str:
        """What the figures say of the rule itself."""
        if self.eps <= 0:
            return "the loss does not vary over batches: the network fits its data exactly, and the rule says nothing"
        if self.predicted - self.mean_found > FAR:
            return (
                f"the prediction lies {100 * (self.predicted - self.mean_found):.0f} points above what was found: it "
                "speaks of networks at the bottom of a flat loss; train with an l1 penalty (1e-4) to get there"
            )
        return "smaller weights (an l1 penalty while training) and a flatter minimum let more go"


def weight_limit(
    task: Task,
    *,
    eps: int | float | None = None,
    iterations: int = ITERATIONS,
    probes: int = PROBES,
    correct: bool | None = None,
    seed: int = 0,
    tell: Tell = tell_nobody,
) -> Limit:
    """Return how many single weights can go without further training: predicted, and found by one-shot magnitude.

    Formula: see the module. The Hessian is that of the mean loss over the calibration rows in the weights of dense
    layers, convolutions and recurrent layers (matrices; biases and norms stay), in eval mode; its spectrum comes from
    Lanczos quadrature with full re-orthogonalisation, negative eigenvalues by their size, as the authors do.

    Args:
        task: network, loss and data.
        eps: the rise that counts as none; where left out, the standard deviation of the loss over batches of 128
            calibration rows (the authors' rule, decisive, and next to nothing where a network fits its data).
        iterations, probes: of the quadrature.
        correct: count zero rows of the Hessian beside the spectrum (the authors' improvement for large networks, which
            the quadrature's few nodes miss); where left out, from a million weights on.
        seed: of the probes.
        tell: who is told how far it is.

    Raises:
        BadInputError: a number is out of range, or there is no matrix.

    Cost: `iterations x probes` Hessian products, each three passes over the calibration rows; 100 more where rows are
    counted; 400 forward passes to look for the limit. Memory: `iterations` vectors of all weights.
    """
    started = time.perf_counter()
    _check(eps, iterations, probes)
    task = task.in_batches_of(MOST_ROWS)
    weights = Weights(task)
    values = weights.values
    with evaluating(task.model), exactly():
        allowed = batch_noise(task) if eps is None else float(eps)
        nodes, shares = lanczos(weights.times_hessian, values, min(iterations, values.numel()), probes, seed, tell)
        zero = 0.0
        if correct or (correct is None and values.numel() >= LARGE):
            zero = zero_rows(weights.times_hessian, values, tell)
        spectrum = Spectrum(nodes, shares, values.numel(), zero)
        squares = np.sort(values.double().cpu().numpy() ** 2)
        radii = np.sqrt(np.concatenate([[0.0], np.cumsum(squares)]))
        predicted = crossing(spectrum, radii, allowed)
        losses = _one_shot(weights, tell)
    grid = np.linspace(0, 1, GRID + 1)
    holds = losses <= losses[0] + allowed
    found = grid[int(np.argmin(holds)) - 1] if not holds.all() else 1.0
    places = np.rint(grid * values.numel()).astype(int)
    free = np.array([spectrum.share_free(float(radii[k]), allowed) for k in places])
    seconds = time.perf_counter() - started
    return Limit("weights", values.numel(), allowed, predicted, spectrum, grid, free, (float(found),), losses, seconds)


def neuron_limit(
    task: Task,
    *,
    max_accuracy_drop: int | float | str | None = None,
    max_loss_rise: int | float | None = None,
    draws: int = 3,
    seed: int = 0,
    tell: Tell = tell_nobody,
) -> Limit:
    """Return how many whole neurons can go: predicted in the space of the gates, and found by pruning under a guard.

    The same fixed point with K gates in place of D weights: the Hessian in the gates is exact, K x K, and n neurons
    removed lie at distance R = sqrt(n). Found: the smallest network that keeps the guard, re-ranked by ablation after
    each removal, for several draws (with replacement) of the calibration rows that scores see.

    Args:
        task: network, loss and data; the guard looks at validation data, or at calibration data where there are none.
        max_accuracy_drop, max_loss_rise: the guard; where both are left out, a loss that rises by at most the
            standard deviation over batches of 128 rows. The prediction's eps is the loss rise allowed.
        draws: how often the rows are drawn: the error bar.
        seed: of the draws.
        tell: who is told how far it is.

    Raises:
        BadInputError: a number is out of range. NothingToRemoveError: every neuron is frozen.

    Cost: a forward and K backward passes for the prediction; `draws` runs of `prune`.
    """
    started = time.perf_counter()
    check_asked(max_loss_rise, max_accuracy_drop, draws)
    task.loss.needs_each_sample("a limit of neurons")
    network = gated(task)
    fitting = in_memory(task, network)
    with evaluating(task.model):
        allowed = batch_noise(task) if max_loss_rise is None else float(max_loss_rise)
    with exactly():
        eigenvalues = np.linalg.eigvalsh(gate_hessian(network, fitting.calibration).numpy())
    num = len(eigenvalues)
    spectrum = Spectrum(eigenvalues, np.full(num, 1 / num), num)
    radii = np.sqrt(np.arange(num + 1.0))
    guard: Guard = LossRise(allowed) if max_accuracy_drop is None else AccuracyDrop(max_accuracy_drop)
    found = []
    for draw in range(draws):
        tell(f"draw {draw + 1} of {draws}", draw / draws)
        run = prune(_drawn(task, seed + draw), guards=[guard])
        found.append(len(run.plan.removed) / num)
    shares = np.arange(num + 1) / num
    free = np.array([spectrum.share_free(float(radius), allowed) for radius in radii])
    seconds = time.perf_counter() - started
    predicted = crossing(spectrum, radii, allowed)
    return Limit("neurons", num, allowed, predicted, spectrum, shares, free, tuple(found), None, seconds)


def check_asked(eps: int | float | None, max_accuracy_drop: int | float | str | None, draws: int) -> None:
    """Raise BadInputError where a number is out of range, before anything is read or computed."""
    _check(eps, 1, 1)
    if max_accuracy_drop is not None:
        AccuracyDrop(max_accuracy_drop)
    if isinstance(draws, bool) or draws < 1:
        raise BadInputError("draws", "a whole number of at least 1", repr(draws), "Leave it out for 3.")


def _check(eps: int | float | None, iterations: int, probes: int) -> None:
    if eps is not None and not (math.isfinite(eps) and eps >= 0):
        do = "Leave it out for the batches' noise."
        raise BadInputError("eps", "a rise of the loss of at least 0", repr(eps), do)
    if iterations < 1 or probes < 1:
        raise BadInputError("iterations and probes", "at least 1", f"{iterations}, {probes}", "Leave them out.")


def batch_noise(task: Task) -> float:
    """Return the standard deviation of the mean loss over batches of 128 calibration rows."""
    task.loss.needs_each_sample("a limit")
    losses = list[Tensor]()
    with torch.no_grad():
        for batch in task.calibration.batches():
            losses.append(task.loss.each(called(task.model, batch.inputs), batch.targets).double().cpu())
    rows = torch.cat(losses)
    drawn = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))]  # files are sorted by class
    means = [part.mean() for part in drawn.split(NOISE_BATCH) if len(part) == NOISE_BATCH]
    if len(means) < 2:
        least = f"at least {2 * NOISE_BATCH} rows, whose noise says what counts as no rise"
        raise BadInputError("calibration", least, counted(len(task.calibration), "row"), "Give more, or say `eps`.")
    return float(torch.stack(means).std(correction=0))


def crossing(spectrum: Spectrum, radii: Vector, eps: float) -> float:
    """Return the largest share n / D with `n / D <= delta(R_n) / D`; delta falls as R grows, so it is found by halving.

    Args:
        spectrum: of the Hessian.
        radii: [D + 1] R for each number n of removed weights.
        eps: the rise that counts as none.
    """
    low, high = 0, len(radii) - 1
    while low < high:
        middle = (low + high + 1) // 2
        if middle / (len(radii) - 1) <= spectrum.share_free(float(radii[middle]), eps):
            low = middle
        else:
            high = middle - 1
    return low / (len(radii) - 1)


def _one_shot(weights: Weights, tell: Tell) -> Vector:
    """The calibration loss without the smallest weights, for each share of the grid."""
    task, kept = weights.task, weights.values
    loss = replace(task.loss, reads=None)  # of what has been read
    order = kept.abs().argsort(stable=True)
    losses, done = [], 0
    for place in range(GRID + 1):
        upto = round(place / GRID * len(kept))
        kept[order[done:upto]] = 0
        done = upto
        outputs = partial(weights.outputs, weights.split(kept))
        losses.append(evaluate(outputs, loss, task.calibration).loss)
        tell("pruning to look for the limit", place / GRID)
    return np.array(losses)


def _drawn(task: Task, seed: int) -> Task:
    """The same task with the calibration rows drawn anew, with replacement; what the guard looks at stays."""
    rows, order = task.calibration, torch.Generator().manual_seed(seed)
    drawn = rows.chosen(torch.randint(len(rows), (len(rows),), generator=order))
    return task.with_roles(drawn, task.validation or rows)
