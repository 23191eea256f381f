"""A run in a few lines of text: before, after, and why it stopped."""

from collections.abc import Mapping, Sequence
from typing import Any

from shrinknet.core.config import RunConfig
from shrinknet.core.quantities import COSTS, FLASH, RAM
from shrinknet.core.records import Measures, TestResult, Verification
from shrinknet.core.units import bytes_text, percent

FILES = {"weights": "weights file", "executorch": ".pte", "onnx": ".onnx", "pt2": ".pt2", "cortex-m": ".pte, Cortex-M"}
"""What flash is the length of, by the kind of artefact; of others the exporter's name."""


def rows(
    start: Measures, end: Measures, test: TestResult | None, shipped: Mapping[str, Any] | None = None
) -> list[tuple[str, str, str]]:
    """Return (what, before, after) for every figure that was measured.

    `shipped` is the manifest of the artefact, where there is one: flash and RAM after are then measured on it.

    >>> from shrinknet.core.records import Costs
    >>> small = Measures(0.5, None, None, None, Costs(8, 100, 600, 64, 90))
    >>> rows(small, small, None)[0]
    ('neurons', '8', '8')
    """
    found = shipped or {}
    arena = found.get("arena_bytes")
    measured = {FLASH: found.get("num_bytes"), RAM: arena}
    planned = "live activations" if arena is None else "the planner's arena"
    kind = str(found.get("kind", "weights"))
    file = FILES.get(kind, kind.rpartition(":")[2]) + (", int8" if found.get("quantize") == "int8" else "")
    of = {FLASH: f" ({file})", RAM: f" ({planned})"}
    table = []
    for cost in COSTS:
        after = measured.get(cost)
        after = cost.of(end.costs) if after is None else after
        table.append((cost.title + of.get(cost, ""), cost.text(cost.of(start.costs)), cost.text(after)))
    table.append(("calibration loss", f"{start.calibration_loss:.4g}", f"{end.calibration_loss:.4g}"))
    if start.validation_loss is not None and end.validation_loss is not None:
        table.append(("validation loss", f"{start.validation_loss:.4g}", f"{end.validation_loss:.4g}"))
    if start.validation_accuracy is not None and end.validation_accuracy is not None:
        table.append(("validation accuracy", percent(start.validation_accuracy), percent(end.validation_accuracy)))
    if test is not None:
        table.append(("test loss", f"{test.loss_before:.4g}", f"{test.loss_after:.4g}"))
        if test.accuracy_before is not None and test.accuracy_after is not None:
            table.append(("test accuracy", percent(test.accuracy_before), percent(test.accuracy_after)))
    return table


def shipped_line(shipped: Mapping[str, Any]) -> str:
    """Return what was measured on an artefact, in one line.

    >>> difference = {"worst": 1e-6, "tolerance": 1e-3, "num_samples": 64}
    >>> shipped_line({"file": "model.pte", "num_bytes": 1000, "forecast_bytes": 996, "arena_bytes": None,
    ...               "difference": difference, "compared_with": "torch", "ran_by_its_runtime": True, "accuracy": 0.5,
    ...               "latency": None, "notes": ()})
    'model.pte: 1,000 bytes (forecast 996); differs from torch by at most 1.0e-06 (tolerance 1.0e-03, 64 samples); accuracy 50.00 % there.'
    """  # noqa: E501
    arena, latency, difference = shipped["arena_bytes"], shipped["latency"], shipped["difference"]
    text = f"{shipped['file']}: {shipped['num_bytes']:,} bytes (forecast {shipped['forecast_bytes']:,})"
    if arena is not None:
        text += f", arena {arena:,} bytes (forecast {shipped['forecast_arena_bytes']:,})"
    text += (
        f"; differs from {shipped['compared_with']} by at most {difference['worst']:.1e} (tolerance "
        f"{difference['tolerance']:.1e}, {difference['num_samples']:,} samples)"
    )
    if shipped["accuracy"] is not None:
        text += f"; accuracy {percent(shipped['accuracy'])} there"
    if latency is not None:
        text += (
            f"; {latency['median_ms']:.3g} ms a sample on this machine (middle half {latency['quarter_ms']:.3g} to "
            f"{latency['three_quarters_ms']:.3g})"
        )
    return ". ".join([text, *(note[0].upper() + note[1:] for note in shipped["notes"])]) + "."


def last_line(
    start: Measures, end: Measures, test: TestResult | None, reason: str, shipped: Mapping[str, Any] | None = None
) -> str:
    """Return the one line that a run ends with."""
    flash = (shipped or {}).get("num_bytes", end.costs.flash_bytes)
    accuracy = ""
    if test is not None and test.accuracy_before is not None and test.accuracy_after is not None:
        accuracy = f", test accuracy {percent(test.accuracy_before)} -> {percent(test.accuracy_after)}"
    elif start.validation_accuracy is not None and end.validation_accuracy is not None:
        accuracy = f", validation accuracy {percent(start.validation_accuracy)} -> {percent(end.validation_accuracy)}"
    return (
        f"{start.costs.num_neurons:,} -> {end.costs.num_neurons:,} neurons, "
        f"{bytes_text(start.costs.flash_bytes)} -> {bytes_text(flash)} of flash{accuracy}; "
        f"stopped: {reason}."
    )


def coupled_line(config: RunConfig) -> list[str]:
    """Return what the losses of a run are means of, where that is not the samples.

    >>> coupled_line(RunConfig(loss="dice", batch_size=8, couples_samples=True))
    ["The loss 'dice' looks at batches as a whole: losses are means over batches of at most 8 rows."]
    """
    if not config.couples_samples:
        return []
    batches = f"batches of at most {config.batch_size:,} rows"
    name = config.loss.rpartition(":")[2]  # of package.module:function
    return [f"The loss {name!r} looks at batches as a whole: losses are means over {batches}."]


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
        f"{difference.num_samples:,} samples)"
        for difference in verification.differences
    ]
    return "proven: masked and cut outputs differ by at most " + " and ".join(parts)
