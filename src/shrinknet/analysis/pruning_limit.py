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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from shrinknet.api import prune
from shrinknet.core.errors import BadInputError
from shrinknet.core.progress import Tell, tell_nobody
from shrinknet.engine.gates import GatedNetwork, gated
from shrinknet.engine.memory import in_memory
from shrinknet.measure.evaluation import evaluate
from shrinknet.search.guards import AccuracyDrop, Guard, LossRise
from shrinknet.task.data import Data
from shrinknet.task.scoring import Scoring
from shrinknet.task.task import Task, evaluating

Vector = NDArray[np.float64]
Product = Callable[[Tensor], Tensor]
"""A vector in, the Hessian times that vector out."""

NOISE_BATCH = 128
"""eps is the standard deviation of the loss over batches of so many rows: the noise that training itself lives with."""

ITERATIONS, PROBES = 64, 2
LARGE = 1_000_000
"""From so many weights on, rows of the Hessian that are all zero are counted beside the spectrum."""

ZERO_ROW = 1e-7
NEXT_TO_ZERO = 1e-9
"""Of the largest eigenvalue: below that a node stands for 0."""

MOST_ROWS = 256
"""Rows that are differentiated twice at once: bounds memory."""

FAR = 0.1
GRID = 400
"""Shares at which the network is pruned to look for the limit."""


@dataclass(frozen=True, slots=True, eq=False)
class Spectrum:
    """The Hessian's eigenvalues as a quadrature: `mean f(lambda) = sum_j weights_j f(nodes_j)`.

    `zero_rows` is the share of weights whose row of the Hessian is zero: as many eigenvalues are 0, of which the nodes
    see a part (those next to 0) or, in large networks, none.
    """

    nodes: Vector
    weights: Vector
    size: int
    zero_rows: float = 0.0

    @property
    def trace(self) -> float:
        """The sum of the eigenvalues."""
        return float((self.weights * self.nodes).sum()) * self.size

    @property
    def largest(self) -> float:
        """The largest eigenvalue."""
        return float(self.nodes.max())

    def share_free(self, radius: float, eps: float) -> float:
        """Return delta(R) / D = mean of `r^2 / (R^2 + r^2)` with `r^2 = 2 eps / |lambda|`.

        >>> Spectrum(np.array([2.0]), np.array([1.0]), 1).share_free(1.0, 1.0)
        0.5
        """
        if eps <= 0:
            return self.zero_rows
        free = float((self.weights / (1 + radius**2 * np.abs(self.nodes) / (2 * eps))).sum())
        return self._unseen + (1 - self._unseen) * free

    @property
    def _unseen(self) -> float:
        """The share of zero eigenvalues that no node stands for."""
        seen = float(self.weights[np.abs(self.nodes) <= NEXT_TO_ZERO * np.abs(self.nodes).max()].sum())
        return max(0.0, self.zero_rows - seen) / (1 - seen) if seen < 1 else 0.0


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
    task: Task, *, eps: int | float | None = None, iterations: int = ITERATIONS, probes: int = PROBES,
    correct: bool | None = None, seed: int = 0, tell: Tell = tell_nobody,
) -> Limit:  # fmt: skip
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
    weights, task = _matrices(task.model), task.in_batches_of(MOST_ROWS)
    values = torch.cat([value.detach().flatten() for value in weights.values()])
    with evaluating(task.model), exactly():
        allowed = batch_noise(task) if eps is None else float(eps)
        product = _in_weights(task, weights)
        nodes, shares = lanczos(product, values, min(iterations, values.numel()), probes, seed, tell)
        zero = 0.0
        if correct or (correct is None and values.numel() >= LARGE):
            zero = zero_rows(product, values, tell)
        spectrum = Spectrum(nodes, shares, values.numel(), zero)
        squares = np.sort(values.double().cpu().numpy() ** 2)
        radii = np.sqrt(np.concatenate([[0.0], np.cumsum(squares)]))
        predicted = crossing(spectrum, radii, allowed)
        losses = _one_shot(task, weights, values, tell)
    grid = np.linspace(0, 1, GRID + 1)
    holds = losses <= losses[0] + allowed
    found = grid[int(np.argmin(holds)) - 1] if not holds.all() else 1.0
    places = np.rint(grid * values.numel()).astype(int)
    free = np.array([spectrum.share_free(float(radii[k]), allowed) for k in places])
    seconds = time.perf_counter() - started
    return Limit("weights", values.numel(), allowed, predicted, spectrum, grid, free, (float(found),), losses, seconds)


def neuron_limit(
    task: Task, *, max_accuracy_drop: int | float | str | None = None, max_loss_rise: int | float | None = None,
    draws: int = 3, seed: int = 0, tell: Tell = tell_nobody,
) -> Limit:  # fmt: skip
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
    if isinstance(draws, bool) or draws < 1:
        raise BadInputError("draws", "a whole number of at least 1", repr(draws), "Leave it out for 3.")
    _check(max_loss_rise, 1, 1)
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


@contextmanager
def exactly() -> Iterator[None]:
    """Products in whole precision, by operators that can be differentiated twice (fused attention and RNNs cannot)."""
    with (
        Scoring().arithmetic(),
        sdpa_kernel(SDPBackend.MATH),
        torch.backends.cudnn.flags(enabled=False, allow_tf32=False),
    ):
        yield


def _check(eps: int | float | None, iterations: int, probes: int) -> None:
    if eps is not None and not (math.isfinite(eps) and eps >= 0):
        raise BadInputError(
            "eps", "a rise of the loss of at least 0", repr(eps), "Leave it out for the batches' noise."
        )
    if iterations < 1 or probes < 1:
        raise BadInputError("iterations and probes", "at least 1", f"{iterations}, {probes}", "Leave them out.")


def _matrices(model: nn.Module) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {
        name: parameter
        for name, parameter in model.named_parameters()
        if parameter.dim() > 1 and parameter.is_floating_point()
    }
    if not found:
        raise BadInputError("model", "a network with a matrix of weights", type(model).__name__, "Name another.")
    return found


def batch_noise(task: Task) -> float:
    """Return the standard deviation of the mean loss over batches of 128 calibration rows."""
    task.loss.needs_each_sample("a limit")
    losses = list[Tensor]()
    with torch.no_grad():
        for batch in task.calibration.batches():
            losses.append(task.loss.of(task.model(batch.inputs), batch.targets).double().cpu())
    rows = torch.cat(losses)
    drawn = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))]  # files are sorted by class
    means = [part.mean() for part in drawn.split(NOISE_BATCH) if len(part) == NOISE_BATCH]
    if len(means) < 2:
        raise BadInputError(
            "calibration", f"at least {2 * NOISE_BATCH} rows, whose noise says what counts as no rise",
            f"{len(task.calibration)} rows", "Give more, or say `eps`.",
        )  # fmt: skip
    return float(torch.stack(means).std(correction=0))


def _in_weights(task: Task, weights: dict[str, Tensor]) -> Product:
    """The Hessian of the mean loss in the weights, times a vector."""
    names = list(weights)
    leaves = [weights[name].detach().clone().requires_grad_() for name in names]
    others = {name: tensor.detach() for name, tensor in task.model.named_parameters() if name not in weights}

    def product(vector: Tensor) -> Tensor:
        parts = [
            part.view_as(leaf) for part, leaf in zip(vector.split([x.numel() for x in leaves]), leaves, strict=True)
        ]
        total = [torch.zeros_like(leaf) for leaf in leaves]
        for batch in task.calibration.batches():
            given = {**others, **dict(zip(names, leaves, strict=True))}
            outputs = torch.func.functional_call(task.model, given, (batch.inputs,))
            loss = task.loss.of(outputs, batch.targets).sum() / len(task.calibration)
            slopes = torch.autograd.grad(loss, leaves, create_graph=True, materialize_grads=True)
            along = sum((slope * part).sum() for slope, part in zip(slopes, parts, strict=True))
            if not (isinstance(along, Tensor) and along.requires_grad):
                continue  # linear in the weights
            for sums, part in zip(total, torch.autograd.grad(along, leaves, materialize_grads=True), strict=True):
                sums += part
        return torch.cat([part.flatten() for part in total]).detach()

    return product


def lanczos(
    product: Product, like: Tensor, iterations: int, probes: int, seed: int, tell: Tell = tell_nobody
) -> tuple[Vector, Vector]:
    """Return nodes and weights of a quadrature over a symmetric matrix's eigenvalues.

    Each probe v (random signs, of length 1) gives a tridiagonal matrix T whose eigenvalues are nodes and whose
    eigenvectors' squared first elements are weights: `v^T f(H) v` is exact for polynomials f of a degree up to
    `2 iterations - 1`, and its mean over probes is `trace f(H) / D` (Golub and Meurant; Ghorbani, Krishnan, Xiao 2019).
    Every new vector is made orthogonal to all before it, twice.

    Cost: `iterations x probes` products, `iterations` vectors in memory.

    >>> matrix = torch.diag(torch.tensor([1.0, 2.0, 4.0]).double())
    >>> nodes, weights = lanczos(lambda v: matrix @ v, torch.zeros(3).double(), 3, 1, 0)
    >>> nodes.round(6).tolist(), round(float((nodes * weights).sum()), 6)
    ([1.0, 2.0, 4.0], 2.333333)
    """
    generator = torch.Generator().manual_seed(seed)
    nodes, weights = list[Vector](), list[Vector]()
    for probe in range(probes):
        signs = torch.randint(0, 2, like.shape, generator=generator) * 2 - 1
        vector = signs.to(like) / math.sqrt(like.numel())
        basis, diagonal, beside = [vector], list[float](), list[float]()
        for step in range(iterations):
            tell("the loss's curvature", (probe * iterations + step) / (probes * iterations))
            moved = product(vector)
            diagonal.append(float(moved @ vector))
            for _ in range(2):
                for known in basis:
                    moved -= (moved @ known) * known
            length = float(moved.norm())
            if step + 1 == iterations or length <= 1e-6 * max(map(abs, diagonal)):
                break
            vector = moved / length
            beside.append(length)
            basis.append(vector)
        tridiagonal = np.diag(diagonal) + np.diag(beside, 1) + np.diag(beside, -1)
        values, vectors = np.linalg.eigh(tridiagonal)
        nodes.append(values)
        weights.append(vectors[0] ** 2 / probes)
    return np.concatenate(nodes), np.concatenate(weights)


def zero_rows(product: Product, values: Tensor, tell: Tell = tell_nobody) -> float:
    """Return the share of weights whose row of the Hessian is zero (its l1 norm below 1e-7), by 100 of them.

    Looked at are the weights at the percentiles of their size.
    """
    order, count = values.abs().argsort(), 0
    for percent in range(100):
        tell("rows of the Hessian", percent / 100)
        unit = torch.zeros_like(values)
        unit[order[percent * len(values) // 100]] = 1
        count += int(float(product(unit).abs().sum()) < ZERO_ROW)
    return count / 100


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


def _one_shot(task: Task, weights: dict[str, Tensor], values: Tensor, tell: Tell) -> Vector:
    """The calibration loss without the smallest weights, for each share of the grid."""
    order = values.abs().argsort(stable=True)
    losses = []
    kept = values.clone()
    others = {name: tensor.detach() for name, tensor in task.model.named_parameters() if name not in weights}
    sizes, done = [weight.numel() for weight in weights.values()], 0
    for place in range(GRID + 1):
        upto = round(place / GRID * len(values))
        kept[order[done:upto]] = 0
        done = upto
        parts = [part.view_as(w) for part, w in zip(kept.split(sizes), weights.values(), strict=True)]
        given = {**others, **dict(zip(weights, parts, strict=True))}

        def outputs(inputs: Tensor, given: dict[str, Tensor] = given) -> Tensor:
            found: Tensor = torch.func.functional_call(task.model, given, (inputs,))
            return found

        losses.append(evaluate(outputs, task.loss, task.calibration).loss)
        tell("pruning to look for the limit", place / GRID)
    return np.array(losses)


def gate_hessian(network: GatedNetwork, data: Data) -> Tensor:
    """Return d^2 E / dg_k dg_l at g = 1 for the mean loss and the gates of all K neurons, float64 [K, K].

    Cost: a forward and K backward passes over the rows.
    """
    num = len(network.present)
    total = torch.zeros(num, num, dtype=torch.float64)
    for batch in data.batches():
        gates = torch.ones(1, num, dtype=network.program.dtype, device=batch.inputs.device, requires_grad=True)
        with torch.enable_grad():
            outputs = network.program.outputs(batch.inputs, network.gating_by_sample(gates))
            loss = network.loss.of(outputs, batch.targets).sum() / len(data)
            (slopes,) = torch.autograd.grad(loss, gates, create_graph=True)
            if not slopes.requires_grad:
                continue
            for k in range(num):
                (row,) = torch.autograd.grad(slopes[0, k], gates, retain_graph=True)
                total[k] += row[0].double().cpu()
    return ((total + total.T) / 2)[1:, 1:]  # the first gate is that of elements which are no neuron


def _drawn(task: Task, seed: int) -> Task:
    """The same task with the calibration rows drawn anew, with replacement; what the guard looks at stays."""
    inputs, targets = _rows(task.calibration)
    drawn = torch.randint(len(inputs), (len(inputs),), generator=torch.Generator().manual_seed(seed)).to(inputs.device)
    guarded = _rows(task.validation or task.calibration)
    return Task(task.model, task.loss, (inputs[drawn], targets[drawn]), guarded, batch_size=task.batch_size)


def _rows(data: Data) -> tuple[Tensor, Tensor]:
    batches = list(data.batches())
    return torch.cat([batch.inputs for batch in batches]), torch.cat([batch.targets for batch in batches])
