"""What `bench` times, and what it forecasts."""

import torch
from torch import Tensor

from shrinknet.cli import console
from shrinknet.cli.bench import BenchFlags
from shrinknet.cli.work.opening import output_of, with_example
from shrinknet.core.config import DEFAULT_BATCH_SIZE
from shrinknet.core.errors import BadInputError
from shrinknet.core.units import bytes_text, counted
from shrinknet.criteria import find_criterion
from shrinknet.engine.gates import GatedNetwork, gated
from shrinknet.engine.memory import in_memory
from shrinknet.execution.cost_model import Forecast, Rates, forecast, forward_work, measured_rates, seconds_of
from shrinknet.task.losses import find_loss
from shrinknet.task.scoring import Scoring
from shrinknet.task.task import Task, evaluating, which_output
from shrinknet.task.trees import Inputs, call_of, called, of_each, tensors_of

PASSES_TIMED = 8

OF_TOKENS = ("next-token", "each-token")
OF_CLASSES = ("cross-entropy", *OF_TOKENS)
"""Losses whose targets are classes; those of others are numbers of the outputs' shape."""


def time_or_plan(model: str, given: BenchFlags, criterion: str, *, as_json: bool) -> None:
    """Time a ranking beside the plain loop, or forecast one; print what was found."""
    samples, workers, remove = given.samples, given.workers, given.remove
    rows = 2 if given.plan else samples
    task = _random_task(*with_example(model, given), rows, given)
    network = gated(task, given.keep, given.only, Scoring(given.memory, compile=given.compile))
    if remove >= network.trace.num_neurons:
        allowed = f"below {network.trace.num_neurons}, the number of neurons"
        raise BadInputError("--remove", allowed, remove, "Remove fewer.")
    rates = measured_rates(network)
    cost = forecast(network, criterion, samples, rates, workers=workers, removals=remove)
    facts = _planned(network, rates, cost, samples, workers, remove)
    last = f"About {_seconds(cost.seconds)} with {counted(workers, 'worker')} like this machine."
    if not given.plan:
        facts |= _measured(task, network, criterion)
        last = (
            f"{facts['neurons_per_second']:,.1f} neurons per second: {network.trace.num_neurons:,} in the time of "
            f"{facts['over_a_forward_pass']:.2f} forward passes; the plain loop takes "
            f"{facts['plain_loop_over_ours']:.1f} times as long. Forecast: {facts['forecast_over_measured']:.2f} "
            f"of the time measured."
        )
    if as_json:
        console.print_json(facts)
    else:
        table = [(name.replace("_", " "), _text(name, value)) for name, value in facts.items()]
        console.table("", ("", "value"), table)
    console.talk.print(last)


def _random_task(model: torch.nn.Module, example: Inputs, samples: int, given: BenchFlags) -> Task:
    """Random samples of the example's shapes, with targets that suit the loss."""
    torch.manual_seed(given.seed)
    is_lone = isinstance(example, Tensor)
    inputs = of_each(example, lambda one: _random(one, samples, is_lone=is_lone))
    output = output_of(given.output)
    with torch.no_grad(), evaluating(model):
        outputs = called(model, example[:2])
    place = which_output(find_loss(given.loss), outputs, output)
    tensors = tensors_of(outputs)
    read = next(one for one in tensors if one.is_floating_point()) if place is None else tensors[place]
    if given.loss in OF_CLASSES:
        classes = -1 if given.loss in OF_TOKENS else 1
        shape = read[:1].movedim(classes, 1)[:, 0].shape
        targets = torch.randint(0, read.shape[classes], (samples, *shape[1:]))
    else:
        targets = torch.rand(samples, *read.shape[1:]).to(read.dtype)
    return Task(
        model,
        given.loss,
        (inputs, targets),
        batch_size=DEFAULT_BATCH_SIZE,
        output=output,
        unpack=lambda batch: (*call_of(batch[0]), batch[1]),
    )


def _random(example: Tensor, samples: int, *, is_lone: bool) -> Tensor:
    """Random floating numbers; whole ones as in the example, or 1 where there are others: masks let all in."""
    shape = (samples, *example.shape[1:])
    if example.is_floating_point():
        return torch.rand(shape).to(example.dtype)
    return example[:1].expand(shape).clone() if is_lone else torch.ones(shape, dtype=example.dtype)


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
    rule = find_criterion(criterion)
    own = in_memory(task, network, rule.differentiated_twice(network))
    with torch.no_grad(), evaluating(task.model):
        forward = min(seconds_of(lambda: _plain_passes(task, 1)) for _ in range(3))
        loop = seconds_of(lambda: _plain_passes(task, PASSES_TIMED)) / PASSES_TIMED * network.trace.num_neurons
    seconds_of(lambda: rule.score(network, own.calibration))
    seconds = min(seconds_of(lambda: rule.score(network, own.calibration)) for _ in range(3))
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
            task.loss.of(task.loss.read(called(task.model, batch.inputs)), batch.targets)


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
