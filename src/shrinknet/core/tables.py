"""The tables of a run folder: what `history.csv` and the files beside it say of each step, and what they tell."""

import csv
import hashlib
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from shrinknet.core.quantities import COSTS
from shrinknet.core.records import Answer, Costs, Measures, Neuron, RaceResult, Step
from shrinknet.core.units import names_in

RESTORED, SECONDS, CHECK = "restored", "seconds", "check"
ON_VALIDATION = "validation_"
RACE_COLUMNS = names_in("""
    step, group, neuron, score, half_width, samples, all_samples, share_of_work, num_contenders, num_screened_out,
    agreement
""")
ANSWER_COLUMNS = ("step", "row", "target", "answer")


def csv_text(rows: Iterable[Sequence[object]]) -> str:
    """Return rows as the text of a CSV file."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def columns(metrics: Iterable[str]) -> tuple[str, ...]:
    """Return the columns of `history.csv` where a task has those metrics.

    >>> columns(["accuracy"])[4:7]
    ('calibration_loss', 'validation_loss', 'validation_accuracy')
    """
    costs = (cost.column for cost in COSTS)
    return ("step", "group", "neuron", "score", *bare_columns(metrics)[1:], *costs, RESTORED, SECONDS, CHECK)


def bare_columns(metrics: Iterable[str]) -> tuple[str, ...]:
    """Return the columns of `without_compensation.csv`."""
    return ("step", "calibration_loss", *(ON_VALIDATION + what for what in ("loss", *metrics)))


def step_rows(step: Step) -> list[tuple[object, ...]]:
    """Return one row for each neuron of the step; the figures are those after the whole step."""
    costs = (cost.of(step.measures.costs) for cost in COSTS)
    restored = json.dumps([[one.group, one.index] for one in step.restored]) if step.restored else ""
    figures = (*_qualities(step.measures), *costs, restored, f"{step.seconds:.6f}")
    if not step.removed:
        return [(step.number, "", "", "", *figures)]
    return [
        (step.number, neuron.group, neuron.index, repr(score), *figures)
        for neuron, score in zip(step.removed, step.scores, strict=True)
    ]


def checked_rows(step: Step, before: str) -> list[tuple[object, ...]]:
    """Return the rows of a step, each with the check that follows from the check `before` and all that is said of it.

    A row that is changed, added or taken away breaks every check after it. The clock is no part of it.
    """
    rows = step_rows(step)
    bare = [] if step.bare is None else [bare_row(step.number, step.bare)]
    check = _check(before, [row[:-1] for row in rows], bare, answer_rows(step))
    return [(*row, check) for row in rows]


def _check(before: str, *parts: Sequence[Sequence[object]]) -> str:
    text = "\n".join([before, *map(csv_text, parts)])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def followed(
    rows: list[dict[str, str]], bare: list[dict[str, str]], answers: list[dict[str, str]]
) -> list[dict[str, str]]:
    """Return the rows of a history whose checks follow from one another; a torn last step is left out.

    Raises:
        ValueError: a step before the last one does not follow.
    """
    steps = {name: _by_step(table) for name, table in (("rows", rows), ("bare", bare), ("answers", answers))}
    kept, before = list[dict[str, str]](), ""
    for place, (number, group) in enumerate(steps["rows"].items(), start=1):
        said = [[value for name, value in row.items() if name not in (SECONDS, CHECK)] for row in group]
        beside = ([list(row.values()) for row in steps[name].get(number, [])] for name in ("bare", "answers"))
        check = _check(before, said, *beside)
        if any(row[CHECK] != check for row in group):
            if place == len(steps["rows"]):
                break
            raise ValueError(f"step {number} does not follow from the one before it")
        kept.extend(group)
        before = check
    return kept


def _by_step(rows: list[dict[str, str]]) -> dict[str, list[dict[str, str]]]:
    found: dict[str, list[dict[str, str]]] = {}
    for row in rows:
        found.setdefault(row["step"], []).append(row)
    return found


def bare_row(number: int, bare: Measures) -> tuple[object, ...]:
    """Return the losses and metrics of a step without compensation."""
    return (number, *_qualities(bare))


def _qualities(measures: Measures) -> list[str]:
    values = (measures.calibration_loss, measures.validation_loss, *measures.metrics.values())
    return ["" if value is None else repr(value) for value in values]


def with_bare(steps: list[Step], rows: list[dict[str, str]]) -> list[Step]:
    """Return the steps, each with its losses without compensation where they are known; its costs are the same."""
    by_number = {int(row["step"]): row for row in rows}
    return [
        step if (row := by_number.get(step.number)) is None else replace(step, bare=_measures(row, step.measures))
        for step in steps
    ]


def _measures(row: Mapping[str, str], like: Measures) -> Measures:
    """What a row says, of a network that costs the same and is measured by the same metrics."""
    metrics = {name: _maybe(row[ON_VALIDATION + name]) for name in like.metrics}
    return Measures(float(row["calibration_loss"]), _maybe(row["validation_loss"]), like.costs, metrics)


def answer_rows(step: Step) -> list[tuple[int, ...]]:
    """Return one row for each validation row that a step answers otherwise than the step before it."""
    return [(step.number, one.row, one.target, one.answer) for one in step.answers or ()]


def with_answers(steps: list[Step], rows: list[dict[str, str]]) -> list[Step]:
    """Return the steps, each with the validation rows that it answers otherwise; None for all where none are known."""
    if not rows:
        return steps
    by_number: dict[int, list[Answer]] = {}
    for row in rows:
        by_number.setdefault(int(row["step"]), []).append(
            Answer(int(row["row"]), int(row["target"]), int(row["answer"]))
        )
    return [replace(step, answers=tuple(by_number.get(step.number, ()))) for step in steps]


def race_rows(race: RaceResult, step: int = 1) -> list[dict[str, str]]:
    """Return one row for each neuron that won, as `racing.csv` has them."""
    agreement = "" if race.agreement is None else repr(race.agreement)
    figures = (race.num_samples, repr(race.share_of_work), len(race.contenders), race.num_screened_out, agreement)
    rows = [
        (step, one.neuron.group, one.neuron.index, repr(one.score), repr(one.half_width), one.num_samples, *figures)
        for one in race.contenders[: race.num_wanted]
    ]
    return [dict(zip(RACE_COLUMNS, map(str, row), strict=True)) for row in rows]


def steps_of(rows: list[dict[str, str]]) -> list[Step]:
    """Return the steps that the rows of `history.csv` tell of."""
    return [_step(int(number), group, _metrics(rows[0])) for number, group in _by_step(rows).items()]


def _metrics(first: Mapping[str, str]) -> list[str]:
    """What the untouched network was measured by: older versions had an empty column where there was no accuracy."""
    names = (
        name.removeprefix(ON_VALIDATION) for name, text in first.items() if name.startswith(ON_VALIDATION) and text
    )
    return [name for name in names if name != "loss"]


def _step(number: int, rows: list[dict[str, str]], metrics: Sequence[str]) -> Step:
    last = rows[-1]
    costs = Costs(**{cost.column: int(last[cost.column]) for cost in COSTS})
    measures = _measures(last, Measures(0.0, None, costs, dict.fromkeys(metrics)))
    removed = tuple(Neuron(row["group"], int(row["neuron"])) for row in rows if row["neuron"])
    scores = tuple(float(row["score"]) for row in rows if row["neuron"])
    restored = tuple(Neuron(str(group), int(index)) for group, index in json.loads(last.get(RESTORED) or "[]"))
    return Step(number, removed, scores, measures, float(last[SECONDS]), restored=restored)


def _maybe(text: str) -> float | None:
    return float(text) if text else None
