"""What the command line shows: results on standard output, talk on standard error."""

import json
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from shrinknet.core.records import Step
from shrinknet.core.units import counted

out = Console(highlight=False, soft_wrap=True, markup=False)  # a name in brackets is a name, not a colour
talk = Console(stderr=True, highlight=False, soft_wrap=True, markup=False)

QUIET_SECONDS = 10
"""Where there is no terminal to draw on, say a line only that often."""


class Bar:
    """A bar with the time left; plain lines where standard error is no terminal."""

    def __init__(self, what: str) -> None:
        self._what, self._started, self._said = what, time.monotonic(), time.monotonic()
        done = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"))
        times = (TimeElapsedColumn(), TextColumn("left:"), TimeRemainingColumn())
        self._progress = Progress(*done, *times, console=talk, transient=True, disable=not talk.is_terminal)
        self._task: TaskID = self._progress.add_task(what, total=1.0)
        self._by_step = False

    def __enter__(self) -> "Bar":
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def ranking(self, done: int, total: int) -> None:
        """Draw a ranking's progress, unless it is one of many."""
        if not self._by_step:
            self._show(done / total, f"{self._what}: ranking")

    def step(self, step: Step, fraction: float) -> None:
        """Draw how far a run is."""
        self._by_step = True
        measures = step.measures
        tail = "".join(f", {name} {value:.4f}" for name, value in measures.metrics.items() if value is not None)
        self._show(fraction, f"{self._what}: {counted(measures.costs.num_neurons, 'neuron')} left{tail}")

    def tell(self, text: str, fraction: float) -> None:
        """Draw what is under way, in words."""
        self._show(fraction, f"{self._what}: {text}")

    def _show(self, fraction: float, text: str) -> None:
        self._progress.update(self._task, completed=fraction, description=text)
        now = time.monotonic()
        if self._progress.disable and now - self._said > QUIET_SECONDS and fraction > 0:
            self._said = now
            left = (now - self._started) * (1 - fraction) / fraction
            talk.print(f"{text} ({100 * fraction:.0f} %, about {left:.0f} s left)")


class TerminatedError(KeyboardInterrupt):
    """The system asked the process to end (SIGTERM)."""


@contextmanager
def resumable(out: Path) -> Iterator[None]:
    """Say how to go on where Ctrl-C or SIGTERM ends a run, and leave with exit status 130 or 143."""
    before = signal.signal(signal.SIGTERM, _terminated)
    try:
        yield
    except KeyboardInterrupt as stopped:
        talk.print(f"Stopped; what was done is in {out}. Go on with the same command and --resume.")
        sys.exit(143 if isinstance(stopped, TerminatedError) else 130)
    finally:
        signal.signal(signal.SIGTERM, before)


def _terminated(number: int, frame: object) -> None:
    raise TerminatedError


def print_json(content: object) -> None:
    """Print one JSON document for machines."""
    print(json.dumps(content, indent=1))


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print a table; columns that hold numbers are set right."""
    grid = Table(title=title, title_justify="left", header_style="bold", box=None, pad_edge=False)
    for place, column in enumerate(columns):
        numeric = bool(rows) and all(isinstance(row[place], int | float) for row in rows)
        grid.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        grid.add_row(*(f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row))
    out.print(grid)
