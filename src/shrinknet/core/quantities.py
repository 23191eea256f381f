"""What a network costs, and how well it does: each cost and each metric with its name, column, unit and look."""

from collections.abc import Callable
from dataclasses import dataclass

from shrinknet.core.records import Costs
from shrinknet.core.units import bytes_text, parse_bytes, parse_count, percent


@dataclass(frozen=True)
class Cost:
    """A cost of a network; less is better.

    Attributes:
        name: what is typed: `--flash`, `--price flash`.
        column: what it is called in `Costs`, `history.csv` and `summary.json`.
        title: what a table calls it.
        unit: what stands behind a number of it.
        parse: given the argument's name and text or a number, how much it is.
        text: how it is shown.
    """

    name: str
    column: str
    title: str
    unit: str
    parse: Callable[[str, int | str], int]
    text: Callable[[int], str]

    def of(self, costs: Costs) -> int:
        """Return how much it is for a network."""
        return int(getattr(costs, self.column))


def _count(value: int) -> str:
    return f"{value:,}"


NEURONS = Cost("neurons", "num_neurons", "neurons", "neurons", parse_count, _count)
PARAMETERS = Cost("parameters", "num_parameters", "parameters", "parameters", parse_count, _count)
FLASH = Cost("flash", "flash_bytes", "flash", "bytes of flash", parse_bytes, bytes_text)
RAM = Cost("ram", "peak_ram_bytes", "peak RAM", "bytes of RAM", parse_bytes, bytes_text)
MACS = Cost("macs", "macs", "MACs", "MACs", parse_count, _count)

COSTS = (NEURONS, PARAMETERS, FLASH, RAM, MACS)
"""In the order of tables and columns."""

BY_NAME = {cost.name: cost for cost in COSTS}


@dataclass(frozen=True, slots=True)
class Quality:
    """A metric: how well a network does, on rows that no score has seen.

    Attributes:
        name: what it is called: in `Measures.metrics`, `--metric`, `--max-drop`.
        is_share: whether it is a part of a whole, from 0 to 1, and shown in percent.
        higher_is_better: whether it falls when a network gets worse; None where nobody says.
    """

    name: str
    is_share: bool = False
    higher_is_better: bool | None = None

    def text(self, value: float | None) -> str:
        """Return a figure as it is shown.

        >>> ACCURACY.text(0.975), Quality("perplexity").text(12.3456)
        ('97.50 %', '12.35')
        """
        if value is None:
            return "none"
        return percent(value) if self.is_share else f"{value:.4g}"


ACCURACY = Quality("accuracy", is_share=True, higher_is_better=True)
