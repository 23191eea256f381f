"""`shrinknet bench`: how fast neurons are ablated here, and what a ranking or a run would cost."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from shrinknet.cli import console
from shrinknet.cli.flags import spread
from shrinknet.cli.options import CriterionName, Json, Model, ModelFlags, task_of
from shrinknet.core.config import DEFAULT_BATCH_SIZE, Scope
from shrinknet.core.errors import BadInputError
from shrinknet.core.options import option
from shrinknet.core.units import bytes_text, parse_bytes
from shrinknet.criteria import find_criterion
from shrinknet.engine.gates import GatedNetwork, gated
from shrinknet.engine.memory import in_memory
from shrinknet.execution.cost_model import Forecast, Rates, forecast, forward_work, measured_rates
from shrinknet.loading.models import load_model
from shrinknet.task.scoring import Scoring
from shrinknet.task.task import Task, evaluating
from shrinknet.task.trees import Inputs, called, joined, of_each, tensors_of

PASSES_TIMED = 8


@dataclass(frozen=True, kw_only=True)
class BenchFlags(ModelFlags, Scope):
    """What is timed, and of what machine it is spoken."""

    loss: str = option(
        "cross-entropy", "cross-entropy, squared-error, binary-cross-entropy, or package.module:function."
    )
    samples: int = option(256, "How many samples.", least=2)
    plan: bool = option(False, "Say what it would cost, without doing it.")
    workers: int = option(1, "With --plan: shared by so many workers like this machine.", least=1)
    remove: int = option(0, "With --plan: a whole run that removes so many neurons.", least=0)
    memory: int | str = option("2GiB", "What scoring may use beside model and data, such as 2GiB.", parse=parse_bytes)
    compile: bool = option(False, "Compile the last hidden layer's loop: pays after minutes.")
    seed: int = option(0, "Seed of the random samples.", least=0)


@spread
def command(model: Model, given: BenchFlags, criterion: CriterionName = "ablation", json: Json = False) -> None:
    """Time a ranking of every neuron on random samples, beside the plain loop; or only plan one (--plan)."""
    samples, workers, remove = given.samples, given.workers, given.remove
    loaded = load_model(model, given.weights, given.example_input, trust_pickle=given.trust_pickle)
    if loaded.example_inputs is None:
        do = "Write the shape of one sample, such as 1x28x28."
        raise BadInputError("--example-input", "given with a factory", "nothing", do)
    rows = 2 if given.plan else samples
    task = _random_task(loaded.model, loaded.example_inputs, rows, given.loss, given.seed)
    network = gated(task, given.keep, given.only, Scoring(given.memory, compile=given.compile))
    if remove >= network.trace.num_neurons:
        allowed = f"below {network.trace.num_neurons}, the number of neurons"
        raise BadInputError("--remove", allowed, remove, "Remove fewer.")
    rates = measured_rates(network)
    cost = forecast(network, criterion, samples, rates, workers=workers, removals=remove)
    facts = _planned(network, rates, cost, samples, workers, remove)
    last = f"About {_seconds(cost.seconds)} with {workers} worker{'s' * (workers > 1)} like this machine."
    if not given.plan:
        facts |= _measured(task, network, criterion)
        last = (
            f"{facts['neurons_per_second']:,.1f} neurons per second: {network.trace.num_neurons:,} in the time of "
            f"{facts['over_a_forward_pass']:.2f} forward passes; the plain loop takes "
            f"{facts['plain_loop_over_ours']:.1f} times as long. Forecast: {facts['forecast_over_measured']:.2f} "
            f"of the time measured."
        )
    if json:
        console.print_json(facts)
    else:
        console.table(
            "", ("", "value"), [(name.replace("_", " "), _text(name, value)) for name, value in facts.items()]
        )
    console.talk.print(last)


def _random_task(model: torch.nn.Module, example: Inputs, samples: int, loss: str, seed: int) -> Task:
    """Random samples of the example's shape, with targets that suit the loss."""
    torch.manual_seed(seed)
    inputs = of_each(example, lambda tensor: _random_rows(tensor, samples))
    with torch.no_grad(), evaluating(model):
        outputs = called(model, example if len(example) > 1 else joined([example, example]))
    if loss in ("squared-error", "binary-cross-entropy"):
        targets = torch.rand(samples, *outputs.shape[1:]).to(outputs.dtype)
    else:
        targets = torch.randint(0, outputs.shape[1], (samples, *outputs.shape[2:]))
    return task_of(model, {"calibration": (*tensors_of(inputs), targets)}, loss, DEFAULT_BATCH_SIZE)


def _random_rows(example: Tensor, samples: int) -> Tensor:
    shape = (samples, *example.shape[1:])
    return torch.rand(shape).to(example.dtype) if example.is_floating_point() else example[:1].expand(shape).clone()


def _planned(
    network: GatedNetwork, rates: Rates, cost: Forecast, samples: int, workers: int, removals: int
) -> dict[str, int | float]:
    return {
        "neurons": network.trace.num_neurons,
        "samples": samples,
        "removals": removals,
        "workers": workers,
        "multiply_accumulates": cost.work.macs,
        "bytes_moved": cost.work.bytes,
        "bytes_held": cost.held_bytes,
        "macs_per_second_here": rates.macs,
        "bytes_per_second_here": rates.bytes,
        "forecast_seconds": cost.seconds,
        "forecast_seconds_of_the_plain_loop": cost.plain_loop_seconds / workers,
        "forecast_in_forward_passes": rates.seconds(cost.work) / rates.seconds(forward_work(network).times(samples)),
    }


def _measured(task: Task, network: GatedNetwork, criterion: str) -> dict[str, int | float]:
    """Time a ranking, and a few of the plain loop's passes, each of which costs the same."""
    own, rule = in_memory(task, network), find_criterion(criterion)
    with torch.no_grad(), evaluating(task.model):
        forward = min(_timed(lambda: _plain_passes(task, 1)) for _ in range(3))
        loop = _timed(lambda: _plain_passes(task, PASSES_TIMED)) / PASSES_TIMED * network.trace.num_neurons
    _timed(lambda: rule.score(network, own.calibration))
    seconds = min(_timed(lambda: rule.score(network, own.calibration)) for _ in range(3))
    rates = measured_rates(network)
    expected = forecast(network, criterion, len(task.calibration), rates).seconds
    return {
        "seconds": seconds,
        "neurons_per_second": network.trace.num_neurons / seconds,
        "seconds_of_a_forward_pass": forward,
        "over_a_forward_pass": seconds / forward,
        "plain_loop_over_ours": loop / seconds,
        "forecast_over_measured": expected / seconds,
    }


def _plain_passes(task: Task, count: int) -> None:
    for _ in range(count):
        for batch in task.calibration.batches():
            task.loss.of(task.model(batch.inputs), batch.targets)


def _timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _text(name: str, value: int | float) -> str:
    if "bytes" in name:
        return bytes_text(int(value)) + ("/s" if "second" in name else "")
    if "seconds" in name:
        return _seconds(value)
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.3g}"


def _seconds(seconds: int | float) -> str:
    """Return a time as people say it.

    >>> _seconds(0.002), _seconds(90), _seconds(7200)
    ('2.0 ms', '1.5 min', '2.0 h')
    """
    for limit, factor, unit in ((1, 1000.0, "ms"), (60, 1.0, "s"), (3600, 1 / 60, "min"), (86400, 1 / 3600, "h")):
        if seconds < limit:
            return f"{seconds * factor:.1f} {unit}"
    return f"{seconds / 86400:.1f} days"
