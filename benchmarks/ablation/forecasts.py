"""The cost model beside what is measured, and what it says of networks that no one machine here could rank.

    SHRINKNET_DATA=... python benchmarks/ablation/forecasts.py   # also writes docs/cost-model.md

Each row is forecast, then measured, in this process, the two rates being measured on the row's own network just before.
The larger networks are not run: ResNet-50 is traced, and the transformer is counted from its configuration, at the rate
of products measured on a layer of its own width.
"""

import json
import math
import statistics
from pathlib import Path

import jinja2
import torch
from cifar import images
from rounds import RESULTS, SEED, in_turns, once, write
from torch import nn

import shrinknet as sn
from shrinknet.cli.work.timing import _seconds
from shrinknet.core.machine import environment
from shrinknet.criteria import find_criterion
from shrinknet.engine.gates import gated
from shrinknet.engine.memory import in_memory
from shrinknet.execution.cost_model import forecast, forward_work, measured_rates

ROUNDS = 5
PAGE = Path(__file__).resolve().parents[2] / "docs" / "cost-model.md"
LAYERS, HIDDEN, INNER, VOCABULARY, TOKENS, SEQUENCES = 32, 4096, 11008, 32000, 512, 128


def main() -> None:
    """Forecast, measure, write."""
    from trained_networks import resnet8

    torch.manual_seed(SEED)
    mnist = (torch.rand(10_000, 784), torch.randint(0, 10, (10_000,)))
    one = nn.Sequential(nn.Linear(784, 100), nn.Sigmoid(), nn.Linear(100, 10), nn.Sigmoid())
    two = nn.Sequential(
        nn.Linear(784, 50), nn.Sigmoid(), nn.Linear(50, 50), nn.Sigmoid(), nn.Linear(50, 10), nn.Sigmoid()
    )
    cifar = images(1000, SEED)
    rows = [
        row("784-100-10: ranking", one, "squared-error", mnist, "ablation"),
        row("784-100-10: all of Algorithm 2", one, "squared-error", mnist, "ablation", removals=99),
        row("784-50-50-10: all of Algorithm 2", two, "squared-error", mnist, "ablation", removals=98),
        row("ResNet8: ranking", resnet8().eval(), "cross-entropy", cifar, "ablation"),
        row("ResNet8: taylor-2", resnet8().eval(), "cross-entropy", cifar, "taylor-2"),
        row("ResNet8: taylor-1", resnet8().eval(), "cross-entropy", cifar, "taylor-1"),
    ]
    large = [resnet50(), transformer()]
    write("forecasts", {"rows": rows, "large": large})
    PAGE.write_text(page(rows, large))


def row(name: str, model: nn.Module, loss: str, data, criterion: str, removals: int = 0) -> dict[str, object]:
    """One network, forecast and measured."""
    task = sn.Task(model, loss, data)
    network = gated(task, scoring=sn.Scoring(keeps_passes=removals > 0))
    task = in_memory(task, network)
    told = forecast(network, criterion, len(task.calibration), measured_rates(network), removals=removals)
    rule = find_criterion(criterion)
    if removals:
        seconds = statistics.median(seconds_of_steps(sn.prune(task, criterion)) for _ in range(ROUNDS))
    else:
        work = {"measured": lambda: rule.score(network, task.calibration.batches())}
        seconds = once(work["measured"]) if criterion == "taylor-2" else in_turns(work, ROUNDS)["measured"]["median"]
    return {"what": name, "macs": told.work.macs, "bytes": told.work.bytes, "forecast_seconds": told.seconds,
            "measured_seconds": seconds, "forecast_over_measured": told.seconds / seconds}  # fmt: skip


def seconds_of_steps(run: sn.Run) -> float:
    """What the steps of a run took: what is forecast. Tracing, the cut and its proof come on top."""
    return sum(step.seconds for step in run.history[1:])


def resnet50() -> dict[str, object]:
    """ResNet-50 on 50,000 images at 224 x 224: one exact ranking of every channel."""
    from cpu_torchvision import models

    model = models.resnet50().eval().requires_grad_(False)
    task = sn.Task(model, "cross-entropy", (torch.randn(4, 3, 224, 224), torch.arange(4)))
    network = gated(task)
    rates = measured_rates(network)
    told = forecast(network, "ablation", 50_000, rates)
    second = forecast(network, "taylor-1", 50_000, rates)
    return {
        "what": "ResNet-50, 50,000 images, every channel", "neurons": network.trace.num_neurons, "macs": told.work.macs,
        "bytes": told.work.bytes, "macs_per_second": rates.macs, "seconds": told.seconds,
        "seconds_of_the_plain_loop": told.plain_loop_seconds, "seconds_of_taylor_1": second.seconds,
        "forward_macs": forward_work(network).macs,
        "bytes_of_samples": 50_000 * 3 * 224 * 224 * 4,
        "shards": math.ceil(50_000 / 4) * len(network.groups),
    }  # fmt: skip


def transformer() -> dict[str, object]:
    """The feed-forward neurons of a transformer of 7 billion parameters, on 128 sequences of 512 tokens."""
    layer = 4 * HIDDEN**2 + 3 * HIDDEN * INNER + 2 * TOKENS * HIDDEN
    head = HIDDEN * VOCABULARY
    behind = sum((LAYERS - 1 - place) * layer + HIDDEN + head for place in range(LAYERS)) / LAYERS
    tokens, neurons = TOKENS * SEQUENCES, LAYERS * INNER
    macs = neurons * behind * tokens
    one, other = torch.randn(TOKENS, HIDDEN), torch.randn(HIDDEN, INNER)
    seconds = min(once(lambda: one @ other) for _ in range(5))
    rate = TOKENS * HIDDEN * INNER / seconds
    forward = LAYERS * layer + head
    return {
        "what": "7 billion parameters, 65,536 tokens, every feed-forward neuron", "neurons": neurons, "macs": macs,
        "bytes": 0.0, "macs_per_second": rate, "seconds": macs / rate,
        "seconds_of_the_plain_loop": neurons * forward * tokens / rate,
        "seconds_of_taylor_1": 3 * forward * tokens / rate, "forward_macs": forward,
        "bytes_of_samples": tokens * 8, "shards": SEQUENCES * LAYERS,
    }  # fmt: skip


def page(rows: list[dict], large: list[dict]) -> str:
    """The page, every figure from the results."""
    pages = jinja2.Environment(trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True, autoescape=False)
    pages.filters["time"] = _seconds
    text = (Path(__file__).parent / "cost-model.md.jinja").read_text()
    facts = environment()
    return pages.from_string(text).render(
        rows=rows, large=large, growth=json.loads((RESULTS / "growth.json").read_text())["curves"],
        inside=sum(abs(one["forecast_over_measured"] - 1) <= 0.25 for one in rows),
        layers=LAYERS, hidden=HIDDEN, inner=INNER, tokens=TOKENS, sequences=SEQUENCES, vocabulary=VOCABULARY,
        weights_gib=4 * (LAYERS * (4 * HIDDEN**2 + 3 * HIDDEN * INNER) + 2 * HIDDEN * VOCABULARY) / 2**30,
        machine=f"seed {SEED}, torch {facts['packages']['torch']}, {torch.get_num_threads()} threads, "
        f"{facts['processor']}",
    )  # fmt: skip


if __name__ == "__main__":
    main()
