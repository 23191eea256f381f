"""A run in a few lines of text: before, after, and why it stopped."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import PurePath
from typing import Any

from shrinknet.core.config import RunConfig
from shrinknet.core.quantities import ACCURACY, COSTS, FLASH, RAM, Quality
from shrinknet.core.records import Manifest, Measures, Step, TestResult, Verification
from shrinknet.core.units import bytes_text, counted, percent

KNOWN = {ACCURACY.name: ACCURACY}

FILES = {"cortex-m": ".pte, Cortex-M"}
"""What flash is the length of, by the kind of artefact, where the ending of the file's name does not say it."""


def rows(
    start: Measures,
    end: Measures,
    test: TestResult | None,
    qualities: Mapping[str, Quality] = KNOWN,
    shipped: Manifest | None = None,
) -> list[tuple[str, str, str]]:
    """Return (what, before, after) for every figure that was measured.

    `qualities` says how metrics are shown; `shipped` is the manifest of the artefact, where there is one: flash and
    RAM after are then measured on it.

    >>> from shrinknet.core.records import Costs
    >>> small = Measures(0.5, None, Costs(8, 100, 600, 64, 90))
    >>> rows(small, small, None)[0]
    ('neurons', '8', '8')
    """
    planned = "the planner's arena" if shipped is not None and shipped.arena_bytes is not None else "live activations"
    of = {FLASH: f" ({_file(shipped)})", RAM: f" ({planned})"}
    after = end.costs if shipped is None else shipped.measured(end.costs)
    table = [
        (cost.title + of.get(cost, ""), cost.text(cost.of(start.costs)), cost.text(cost.of(after))) for cost in COSTS
    ]
    table.append(("calibration loss", f"{start.calibration_loss:.4g}", f"{end.calibration_loss:.4g}"))
    if start.validation_loss is not None and end.validation_loss is not None:
        table.append(("validation loss", f"{start.validation_loss:.4g}", f"{end.validation_loss:.4g}"))
    table += _metric_rows("validation", start.metrics, end.metrics, qualities)
    if test is not None:
        table.append(("test loss", f"{test.loss_before:.4g}", f"{test.loss_after:.4g}"))
        table += _metric_rows("test", test.metrics_before, test.metrics_after, qualities)
    return table


Metrics = Mapping[str, float | None]


def _metric_rows(
    role: str, before: Metrics, after: Metrics, qualities: Mapping[str, Quality]
) -> list[tuple[str, str, str]]:
    shown = [(name, qualities.get(name, Quality(name)).text) for name in before if name in after]
    return [(f"{role} {name}", text(before[name]), text(after[name])) for name, text in shown]


def _file(shipped: Manifest | None) -> str:
    """What flash is the length of."""
    if shipped is None:
        return "weights file"
    kind = FILES.get(shipped.kind, PurePath(shipped.file).suffix)
    return f"{kind}, int8" if shipped.quantize == "int8" else kind


def shipped_line(shipped: Manifest, qualities: Mapping[str, Quality] = KNOWN) -> str:
    """Return what was measured on an artefact, in one line.

    >>> from shrinknet.core.records import Difference
    >>> shipped_line(Manifest("executorch", "none", "model.pte", 1000, "", None, 996, None, (), (),
    ...              Difference("float32", 1e-6, 1e-3, 64), "torch", 0.7, {"accuracy": 0.5}, 64, True, {}))
    'model.pte: 1,000 bytes (forecast 996); differs from torch by at most 1.0e-06 (tolerance 1.0e-03, 64 samples); accuracy 50.00 % there.'
    """  # noqa: E501
    latency, difference = shipped.latency, shipped.difference
    text = f"{shipped.file}: {shipped.num_bytes:,} bytes (forecast {shipped.forecast_bytes:,})"
    if shipped.arena_bytes is not None:
        text += f", arena {shipped.arena_bytes:,} bytes (forecast {shipped.forecast_arena_bytes:,})"
    text += (
        f"; differs from {shipped.compared_with} by at most {difference.worst:.1e} (tolerance "
        f"{difference.tolerance:.1e}, {counted(difference.num_samples, 'sample')})"
    )
    if shipped.metrics:
        found = (f"{name} {qualities.get(name, Quality(name)).text(value)}" for name, value in shipped.metrics.items())
        text += f"; {', '.join(found)} there"
    if latency is not None:
        text += (
            f"; {latency.median_ms:.3g} ms a sample on this machine (middle half {latency.quarter_ms:.3g} to "
            f"{latency.three_quarters_ms:.3g})"
        )
    return ". ".join([text, *(note[0].upper() + note[1:] for note in shipped.notes)]) + "."


def last_line(
    start: Measures,
    end: Measures,
    test: TestResult | None,
    reason: str,
    qualities: Mapping[str, Quality] = KNOWN,
    shipped: Manifest | None = None,
) -> str:
    """Return the one line that a run ends with."""
    flash = end.costs.flash_bytes if shipped is None else shipped.num_bytes
    found = _metric_rows("validation", start.metrics, end.metrics, qualities)
    if test is not None:
        found = _metric_rows("test", test.metrics_before, test.metrics_after, qualities) or found
    first = "".join(f", {what} {before} -> {after}" for what, before, after in found[:1])
    return (
        f"{start.costs.num_neurons:,} -> {counted(end.costs.num_neurons, 'neuron')}, "
        f"{bytes_text(start.costs.flash_bytes)} -> {bytes_text(flash)} of flash{first}; "
        f"stopped: {reason}."
    )


def coupled_line(config: RunConfig) -> list[str]:
    """Return what the losses of a run are means of, where that is not the samples.

    >>> coupled_line(RunConfig(loss="dice", batch_size=8, couples_samples=True))
    ["The loss 'dice' looks at batches as a whole: losses are means over batches of at most 8 rows."]
    """
    if not config.couples_samples:
        return []
    batches = f"batches of at most {counted(config.batch_size, 'row')}"
    name = config.loss.rpartition(":")[2]  # of package.module:function
    return [f"The loss {name!r} looks at batches as a whole: losses are means over {batches}."]


def compensation_line(config: RunConfig) -> list[str]:
    """Return how what is gone was made up for, where it was.

    >>> compensation_line(RunConfig.of({"compensate": "scale"}))
    ['Made up for: the layers that read what went were refit by a formula (scale).']
    >>> compensation_line(RunConfig.of({"compensate": "none"}))
    []
    >>> said = {"rows": 500, "passes": 10, "labels_alone": True, "augment": ["flip"]}
    >>> compensation_line(RunConfig.of({"recovered": said}))
    ['Recovered: all weights were then trained on 500 labelled rows, 10 passes, with what flip made of them.']
    """
    search = config.search
    if config.recovered:
        return [*compensation_line(replace(config, recovered={})), _recovered_line(config.recovered)]
    if not search.refits:
        return []
    if not search.ends_jointly:
        return [f"Made up for: the layers that read what went were refit by a formula ({search.compensate})."]
    more = f" and what {', '.join(map(str, search.augment))} made of them" if search.augment else ""
    return [
        "Made up for: the layers that read what went were refit by a formula (least-squares), and then all weights "
        f"together to what the whole network answers, on the calibration inputs{more}: no labels, no further data."
    ]


def _recovered_line(said: Mapping[str, Any]) -> str:
    """How all weights were trained on."""
    rows, passes = counted(int(said["rows"]), "labelled row"), counted(int(said["passes"]), "pass", "passes")
    beside = "" if said["labels_alone"] else ", towards the whole network's answers as well as the labels"
    more = f", with what {', '.join(map(str, said['augment']))} made of them" if said["augment"] else ""
    return f"Recovered: all weights were then trained on {rows}, {passes}{more}{beside}."


def exchanges_line(history: Sequence[Step]) -> list[str]:
    """Return what exchanges after the search brought, where there were any.

    >>> from shrinknet.core.records import Costs, Neuron
    >>> def step(number, loss, restored=()):
    ...     return Step(number, (), (), Measures(loss, None, Costs(1, 1, 1, 1, 1)), 0.0, restored=restored)
    >>> exchanges_line([step(0, 0.1), step(1, 0.5), step(2, 0.4, (Neuron("fc1", 3),))])
    ['Polished: 1 exchange after the search, calibration loss 0.5 -> 0.4.']
    """
    places = [place for place, step in enumerate(history) if step.restored]
    if not places:
        return []
    before, after = (history[place].measures.calibration_loss for place in (places[0] - 1, places[-1]))
    made = counted(len(places), "exchange")
    return [f"Polished: {made} after the search, calibration loss {before:.4g} -> {after:.4g}."]


def race_line(rows: Sequence[Mapping[str, str]]) -> str:
    """Return what races saved, in one line; nothing where there was none.

    >>> row = {"step": "1", "samples": "50", "all_samples": "100", "share_of_work": "0.25", "num_screened_out": "0",
    ...        "num_contenders": "8", "agreement": "", "half_width": "0.01"}
    >>> race_line([row])
    'Races looked at 25.00 % of what exact rankings look at; 0 of 1 choices were settled by all of the data.'
    """
    if not rows:
        return ""
    by_step = {row["step"]: row for row in rows}
    share = sum(float(row["share_of_work"]) for row in by_step.values()) / len(by_step)
    settled = len({row["step"] for row in rows if row["samples"] == row["all_samples"]})
    text = (
        f"Races looked at {percent(share)} of what exact rankings look at; {settled} of {len(by_step)} choices were "
        f"settled by all of the data."
    )
    if any(row["agreement"] for row in by_step.values()):
        worst = min(float(row["agreement"]) for row in by_step.values() if row["agreement"])
        most = max(int(row["num_screened_out"]) for row in rows)
        text += (
            f" Neurons that taylor-2 did not put first were never ablated ({most:,} at most); among those that were, "
            f"its rank correlation with ablation was {worst:.2f} at least."
        )
    return text


def proof_line(verification: Verification) -> str:
    """Return the proof in one line.

    >>> proof_line(Verification((), 0, "conv2d (in 'c1')"))
    "NOT proven: masked and cut networks differ at conv2d (in 'c1')"
    """
    if not verification.holds:
        return f"NOT proven: masked and cut networks differ at {verification.broke_at}"
    parts = [
        f"{difference.worst:.1e} in {difference.precision} (tolerance {difference.tolerance:.1e}, "
        f"{counted(difference.num_samples, 'sample')})"
        for difference in verification.differences
    ]
    return "proven: masked and cut outputs differ by at most " + " and ".join(parts)
