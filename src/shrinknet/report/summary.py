"""A run in a few lines of text: before, after, and why it stopped."""

from shrinknet.records import Measures, TestResult, Verification


def rows(start: Measures, end: Measures, test: TestResult | None) -> list[tuple[str, str, str]]:
    """Return (what, before, after) for every figure that was measured.

    >>> from shrinknet.records import Costs
    >>> small = Measures(0.5, None, None, None, Costs(8, 100, 600, 64, 90))
    >>> rows(small, small, None)[0]
    ('neurons', '8', '8')
    """
    before, after = start.costs, end.costs
    table = [
        ("neurons", f"{before.num_neurons:,}", f"{after.num_neurons:,}"),
        ("parameters", f"{before.num_parameters:,}", f"{after.num_parameters:,}"),
        ("flash (weights file)", bytes_text(before.flash_bytes), bytes_text(after.flash_bytes)),
        ("peak RAM (activations)", bytes_text(before.peak_ram_bytes), bytes_text(after.peak_ram_bytes)),
        ("MACs", f"{before.macs:,}", f"{after.macs:,}"),
        ("calibration loss", f"{start.calibration_loss:.4g}", f"{end.calibration_loss:.4g}"),
    ]
    if start.validation_loss is not None and end.validation_loss is not None:
        table.append(("validation loss", f"{start.validation_loss:.4g}", f"{end.validation_loss:.4g}"))
    if start.validation_accuracy is not None and end.validation_accuracy is not None:
        table.append(("validation accuracy", percent(start.validation_accuracy), percent(end.validation_accuracy)))
    if test is not None:
        table.append(("test loss", f"{test.loss_before:.4g}", f"{test.loss_after:.4g}"))
        if test.accuracy_before is not None and test.accuracy_after is not None:
            table.append(("test accuracy", percent(test.accuracy_before), percent(test.accuracy_after)))
    return table


def last_line(start: Measures, end: Measures, test: TestResult | None, reason: str) -> str:
    """Return the one line that a run ends with."""
    accuracy = ""
    if test is not None and test.accuracy_before is not None and test.accuracy_after is not None:
        accuracy = f", test accuracy {percent(test.accuracy_before)} -> {percent(test.accuracy_after)}"
    elif start.validation_accuracy is not None and end.validation_accuracy is not None:
        accuracy = f", validation accuracy {percent(start.validation_accuracy)} -> {percent(end.validation_accuracy)}"
    return (
        f"{start.costs.num_neurons:,} -> {end.costs.num_neurons:,} neurons, "
        f"{bytes_text(start.costs.flash_bytes)} -> {bytes_text(end.costs.flash_bytes)} of flash{accuracy}; "
        f"stopped: {reason}."
    )


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


def bytes_text(size: int) -> str:
    """Return a number of bytes as people read it.

    >>> bytes_text(65536), bytes_text(1000)
    ('64.0 KiB', '1,000 B')
    """
    if size < 10_000:
        return f"{size:,} B"
    return f"{size / 1024:,.1f} KiB" if size < 10 * 1024**2 else f"{size / 1024**2:,.1f} MiB"


def percent(fraction: float) -> str:
    """Return a fraction as a percentage.

    >>> percent(0.975)
    '97.50 %'
    """
    return f"{100 * fraction:.2f} %"
