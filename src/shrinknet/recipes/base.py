"""What a recipe is: one command that repeats a published result, and a page with its numbers beside ours."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jinja2

from shrinknet.core.progress import Tell
from shrinknet.recipes.files import Files

Results = dict[str, Any]
Verdict = tuple[str, bool, str]
"""What must be seen, whether it is, and the figures."""


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


def mean(values: Sequence[float]) -> float:
    """Return the mean."""
    return sum(values) / len(values)


def spread(values: Sequence[float]) -> float:
    """Return the standard deviation of a sample (0 for one value)."""
    if len(values) < 2:
        return 0.0
    middle = mean(values)
    return float((sum((v - middle) ** 2 for v in values) / (len(values) - 1)) ** 0.5)
