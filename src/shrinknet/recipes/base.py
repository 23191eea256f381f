"""What a recipe is: one command that repeats a published result, and a page with its numbers beside ours."""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jinja2
import matplotlib as mpl

from shrinknet.execution.progress import Tell
from shrinknet.recipes.files import Files

mpl.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

Results = dict[str, Any]
Verdict = tuple[str, bool, str]
"""What must be seen, whether it is, and the figures."""

COLOURS = ("#1b6ca8", "#d1495b", "#2e8b57", "#e0a100", "#7a5195", "#4a5a6a", "#00a0a0", "#8d5524")
"""One for each curve; told apart by the colour-blind too, by lightness."""


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of a page; those that hold published numbers are set in grey."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    theirs: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Recipe:
    """A published result, repeated.

    Attributes:
        name: what is typed.
        title: the page's first line.
        source: the paper.
        run: data, seed and somebody to tell in; JSON-able results out.
        verdicts, tables, notes: what the page says of results; every figure of ours is computed from them.
        pictures: file name -> what it shows, and how it is drawn.
    """

    name: str
    title: str
    source: str
    run: Callable[[Files, int, Tell], Results]
    verdicts: Callable[[Results], list[Verdict]]
    tables: Callable[[Results], list[Table]]
    pictures: dict[str, tuple[str, Callable[[Results], bytes]]]
    notes: Callable[[Results], list[str]]

    def page(self, results: Results) -> str:
        """Return the page; its pictures lie beside it."""
        loader = jinja2.PackageLoader("shrinknet.recipes")
        template = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
        return template.get_template("reproduction.html").render(
            recipe=self, results=results, verdicts=self.verdicts(results), tables=self.tables(results),
            notes=self.notes(results),
        )  # fmt: skip


def figure(panels: int, draw: Callable[[Any, Sequence[Axes]], None], *, width: int | float = 6.0) -> bytes:
    """Draw some panels side by side and return a PNG."""
    drawn, axes = plt.subplots(1, panels, figsize=(width * panels, 4.4), layout="constrained", squeeze=False)
    for axis in axes[0]:
        axis.grid(color="#e8ecf0")
        axis.spines[["top", "right"]].set_visible(False)
    draw(drawn, list(axes[0]))
    content = io.BytesIO()
    drawn.savefig(content, format="png", dpi=110)
    plt.close(drawn)
    return content.getvalue()


def mean(values: Sequence[float]) -> float:
    """Return the mean."""
    return sum(values) / len(values)


def spread(values: Sequence[float]) -> float:
    """Return the standard deviation of a sample (0 for one value)."""
    if len(values) < 2:
        return 0.0
    middle = mean(values)
    return float((sum((v - middle) ** 2 for v in values) / (len(values) - 1)) ** 0.5)
