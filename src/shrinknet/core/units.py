"""Quantities as people write them: 64 KiB, 60 %, 1.5M."""

import re
from collections.abc import Sequence

from shrinknet.core.errors import BadInputError

BYTES = {"": 1, "b": 1, "kb": 1000, "mb": 1000**2, "gb": 1000**3, "kib": 1024, "mib": 1024**2, "gib": 1024**3}
COUNTS = {"": 1, "k": 1000, "m": 1000**2, "g": 1000**3}


def names_in(text: str) -> tuple[str, ...]:
    """Return the names that a text lists, with commas between them.

    >>> names_in("relu, hardtanh, clamp")
    ('relu', 'hardtanh', 'clamp')
    """
    return tuple(" ".join(text.split()).split(", "))


def parse_bytes(argument: str, value: int | str) -> int:
    """Return a number of bytes.

    >>> parse_bytes("flash", "64 KiB"), parse_bytes("flash", "1.5kB"), parse_bytes("flash", 100)
    (65536, 1500, 100)
    """
    return _parse(argument, value, BYTES, "a number of bytes such as 64KiB", "B, kB, KiB, MB or MiB")


def parse_count(argument: str, value: int | str) -> int:
    """Return a whole number, with k, M or G for thousands, millions, thousands of millions.

    >>> parse_count("macs", "1.5M")
    1500000
    """
    return _parse(argument, value, COUNTS, "a whole number such as 20000 or 1.5M", "k, M or G")


def parse_fraction(argument: str, value: int | float | str) -> float:
    """Return a fraction from 0 to 1, written as one or as a percentage.

    >>> parse_fraction("max_accuracy_drop", "1%"), parse_fraction("fraction", 0.6)
    (0.01, 0.6)
    """
    text = str(value).strip()
    number, percent = (text[:-1], True) if text.endswith("%") else (text, False)
    try:
        fraction = float(number) / (100 if percent else 1)
    except ValueError:
        fraction = float("nan")
    if not 0 <= fraction <= 1:
        allowed = "a fraction from 0 to 1 or a percentage from 0% to 100%"
        raise BadInputError(argument, allowed, repr(value), "Write it as 0.6 or 60%.")
    return fraction


def parse_number(argument: str, value: int | float | str) -> float:
    """Return a number, written as one or as a percentage.

    >>> parse_number("largest", "0.1"), parse_number("largest", "5%")
    (0.1, 0.05)
    """
    text = str(value).strip()
    try:
        number = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        number = float("nan")
    if isinstance(value, bool) or not abs(number) < float("inf"):
        raise BadInputError(argument, "a number", repr(value), "Write it as 0.1, or as 1% of a share.")
    return number


def parse_milliseconds(argument: str, value: float | str) -> float:
    """Return a time in milliseconds: a number of them, or text with us, ms or s.

    >>> parse_milliseconds("max_latency", "5ms"), parse_milliseconds("max_latency", "250 us")
    (5.0, 0.25)
    """
    if isinstance(value, int | float) and not isinstance(value, bool) and value > 0:
        return float(value)
    match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*(us|ms|s)\s*", str(value))
    if match is None or float(match[1]) == 0:
        raise BadInputError(argument, "a time such as 5ms", repr(value), "Write digits and one of us, ms or s.")
    return float(match[1]) * {"us": 0.001, "ms": 1.0, "s": 1000.0}[match[2]]


SECONDS = {"s": 1, "min": 60, "h": 3600}

EXACT = "exact"


def parse_effort(argument: str, value: object) -> float | str:
    """Return an effort: a number of forward passes, a time as text, or "exact".

    >>> parse_effort("effort", "200"), parse_effort("effort", "10 min"), parse_effort("effort", "exact")
    (200.0, '10min', 'exact')
    """
    text = str(value).strip()
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*(s|min|h)?", text)
    if text == EXACT:
        return text
    if match is None or float(match[1]) == 0:
        allowed = "a time such as 10min, a number of forward passes, or exact"
        raise BadInputError(argument, allowed, repr(value), "Write digits and one of s, min or h, or digits alone.")
    return f"{match[1]}{match[2]}" if match[2] else float(match[1])


def effort_seconds(effort: str) -> float:
    """Return the seconds of an effort that is a time.

    >>> effort_seconds("10min")
    600.0
    """
    number, unit = re.fullmatch(r"([0-9.]+)([a-z]+)", effort).groups()  # type: ignore[union-attr]
    return float(number) * SECONDS[unit]


def _parse(argument: str, value: int | str, units: dict[str, int], allowed: str, choices: str) -> int:
    match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)\s*", str(value))
    if match is None or match[2].lower() not in units:
        raise BadInputError(argument, allowed, repr(value), f"Write digits and one of {choices}.")
    try:
        return int(float(match[1]) * units[match[2].lower()])
    except OverflowError as error:
        do = f"Write digits and one of {choices}."
        raise BadInputError(argument, allowed, "one beyond all bounds", do) from error


def globs(given: str | Sequence[str]) -> list[str]:
    """Return a list of globs; one string is one glob, not its letters.

    >>> globs("conv1"), globs(("a", "b*"))
    (['conv1'], ['a', 'b*'])
    """
    return [given] if isinstance(given, str) else list(given)


def bytes_text(size: int) -> str:
    """Return a number of bytes as people read it.

    >>> bytes_text(65536), bytes_text(1000)
    ('64.0 KiB', '1,000 B')
    """
    if size < 10_000:
        return f"{size:,} B"
    return f"{size / 1024:,.1f} KiB" if size < 10 * 1024**2 else f"{size / 1024**2:,.1f} MiB"


def counted(count: int | float, one: str, several: str = "") -> str:
    """Return a number and what is counted, in the singular for one.

    >>> counted(1, "group"), counted(1200, "neuron"), counted(0.5, "point"), counted(2, "class", "classes")
    ('1 group', '1,200 neurons', '0.5 points', '2 classes')
    """
    number = f"{count:,}" if isinstance(count, int) else f"{count:g}"
    return f"{number} {one if count == 1 else several or f'{one}s'}"


def some_of(names: Sequence[str], most: int = 5) -> str:
    """Return the first of some names, and how many more there are.

    >>> some_of(["a", "b", "c"], 2), some_of(["a", "b"])
    ('a, b and 1 more', 'a, b')
    """
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more:,} more" if more > 0 else "")


def percent(fraction: float) -> str:
    """Return a fraction as a percentage.

    >>> percent(0.975)
    '97.50 %'
    """
    return f"{100 * fraction:.2f} %"
