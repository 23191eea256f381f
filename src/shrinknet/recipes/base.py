"""What a recipe is: one command that repeats a published result, and a page with its numbers beside ours."""

import time
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from string import Formatter
from typing import Any, TypeVar

import torch

from shrinknet.core.machine import environment
from shrinknet.core.progress import Tell
from shrinknet.recipes.files import Files
from shrinknet.report.rendering import rendered

T = TypeVar("T")

Results = dict[str, Any]
Row = dict[str, Any]

Verdict = tuple[str, bool, str]
"""What must be seen, whether it is, and the figures."""


class _Percent(Formatter):
    """Formats as `str.format` does; `{share:.1p}` is a share in percent."""

    def format_field(self, value: Any, spec: str) -> Any:
        if spec.endswith("p"):
            return format(100 * value, f"{spec[:-1]}f")
        return super().format_field(value, spec)


def said(text: str, values: Mapping[str, Any]) -> str:
    """Return a text with values put into its braces.

    >>> said("{gone:.1p} % of {what}", {"gone": 0.25, "what": "weights"})
    '25.0 % of weights'
    """
    return _Percent().vformat(text, (), values)


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of a page; those that hold published numbers are set in grey."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    theirs: frozenset[int] = frozenset()

    @classmethod
    def declared(cls, page: Mapping[str, Any], figures: Mapping[str, Any]) -> "Table":
        """Return a table as a recipe's page declares it.

        `columns` are pairs: a head, and what stands under it, with the row's own keys in braces; a cell whose key a row
        lacks stays empty. `rows` names the rows among the figures; those with `theirs` are published ones. A table of
        published numbers only holds the `cells` themselves.

        >>> page = {"title": "Sizes", "rows": "nets", "columns": [["", "{name}"], ["loss", "{loss:.2f}"]]}
        >>> Table.declared(page, {"nets": [{"name": "a", "loss": 0.5}, {"name": "b"}]}).rows
        [['a', '0.50'], ['b', '']]
        """
        title = said(page["title"], figures)
        if "cells" in page:
            return cls(title, page["columns"], page["cells"], frozenset(range(len(page["cells"]))))
        rows = figures[page["rows"]]
        cells = [[_cell(text, row) for _, text in page["columns"]] for row in rows]
        theirs = frozenset(place for place, row in enumerate(rows) if row.get("theirs"))
        return cls(title, [said(head, figures) for head, _ in page["columns"]], cells, theirs)


def _cell(text: str, row: Row) -> str:
    try:
        return said(text, row)
    except KeyError:
        return ""


@dataclass(frozen=True)
class Recipe:
    """A published result, repeated.

    What the page says in words lies in `templates/NAME.toml`: title, source, notes, and the columns of its tables.

    Attributes:
        name: what is typed.
        measure: data, seed and somebody to tell in; JSON-able results out.
        verdicts: what must be seen; every figure of ours is computed from the results.
        figures: what stands for the braces on the page, and the rows of its tables.
        pictures: file name -> what it shows, and how it is drawn.
        more_tables: those whose columns follow from the results.
        page_name: the page's, where it is not the recipe's.
    """

    name: str
    measure: Callable[[Files, int, Tell], Results]
    verdicts: Callable[[Results], list[Verdict]]
    figures: Callable[[Results], dict[str, Any]]
    pictures: Mapping[str, tuple[str, Callable[[Results], bytes]]]
    more_tables: Callable[[Results], list[Table]] = lambda results: []
    page_name: str | None = None

    def run(self, source: Files, seed: int, tell: Tell) -> Results:
        """Repeat the experiment; return what was measured, how long it took, and on what.

        Raises:
            BadInputError: the data are not there.
        """
        started = time.perf_counter()
        found = self.measure(source, seed, tell)
        return {
            "recipe": self.name,
            "seed": seed,
            **found,
            "seconds": round(time.perf_counter() - started, 1),
            "environment": {**environment(), "num_threads": torch.get_num_threads()},
        }

    @property
    def title(self) -> str:
        """The page's first line."""
        return said(self._words["title"], {"name": self.name})

    @property
    def source(self) -> str:
        """The paper."""
        return _one_line(self._words["source"])

    @cached_property
    def _words(self) -> dict[str, Any]:
        path = files("shrinknet.recipes") / "templates" / f"{self.page_name or self.name}.toml"
        return tomllib.loads(path.read_text(encoding="utf-8"))

    def page(self, results: Results) -> str:
        """Return the page; its pictures lie beside it."""
        figures = self.figures(results)
        tables = [Table.declared(table, figures) for table in self._words.get("tables", ())]
        return rendered(
            "shrinknet.recipes",
            "reproduction.html",
            recipe=self,
            results=results,
            verdicts=self.verdicts(results),
            tables=tables + self.more_tables(results),
            notes=[said(_one_line(note), figures) for note in self._words["notes"]],
        )


def _one_line(text: str) -> str:
    return " ".join(text.split())


def told(tell: Tell, jobs: Sequence[T], words: Callable[[T], str]) -> Iterator[T]:
    """Yield jobs one after another; somebody is told before each what it is, and which share is done."""
    for done, job in enumerate(jobs):
        tell(words(job), done / len(jobs))
        yield job


def where(rows: Iterable[Row], **wanted: Any) -> list[Row]:
    """Return the rows that hold these values.

    >>> where([{"a": 1, "b": 2}, {"a": 1, "b": 3}], a=1, b=3)
    [{'a': 1, 'b': 3}]
    """
    return [row for row in rows if all(row[name] == value for name, value in wanted.items())]


def mean(values: Sequence[float]) -> float:
    """Return the mean."""
    return sum(values) / len(values)


def spread(values: Sequence[float]) -> float:
    """Return the standard deviation of a sample (0 for one value)."""
    if len(values) < 2:
        return 0.0
    middle = mean(values)
    return float((sum((v - middle) ** 2 for v in values) / (len(values) - 1)) ** 0.5)
