"""The tables of a run folder: what `history.csv` and the files beside it say of each step, and what they tell."""

import csv
import hashlib
import io
from collections.abc import Iterable, Sequence
from dataclasses import replace

from shrinknet.core.quantities import COSTS
from shrinknet.core.records import Answer, Costs, Measures, Neuron, RaceResult, Step

COLUMNS = (
    "step", "group", "neuron", "score", "calibration_loss", "validation_loss", "validation_accuracy",
    *(cost.column for cost in COSTS), "seconds", "check",
)  # fmt: skip
CHECK = COLUMNS[-1]
RACE_COLUMNS = (
    "step", "group", "neuron", "score", "half_width", "samples", "all_samples", "share_of_work", "num_contenders",
    "num_screened_out", "agreement",
)  # fmt: skip
BARE_COLUMNS = ("step", "calibration_loss", "validation_loss", "validation_accuracy")
ANSWER_COLUMNS = ("step", "row", "target", "answer")


def csv_text(rows: Iterable[Sequence[object]]) -> str:
    """Return rows as the text of a CSV file."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def step_rows(step: Step) -> list[tuple[object, ...]]:
    """Return one row for each neuron of the step; the figures are those after the whole step."""
    m = step.measures
    figures = (
        *(("" if value is None else repr(value))
          for value in (m.calibration_loss, m.validation_loss, m.validation_accuracy)),
        *(cost.of(m.costs) for cost in COSTS),
        f"{step.seconds:.6f}",
    )  # fmt: skip
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
        said = [list(row.values())[: COLUMNS.index("seconds")] for row in group]
        check = _check(before, said, *(
            [list(row.values()) for row in steps[name].get(number, [])] for name in ("bare", "answers")
        ))  # fmt: skip
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
    """Return the losses of a step without compensation."""
    losses = (bare.calibration_loss, bare.validation_loss, bare.validation_accuracy)
    return (number, *("" if value is None else repr(value) for value in losses))


def with_bare(steps: list[Step], rows: list[dict[str, str]]) -> list[Step]:
    """Return the steps, each with its losses without compensation where they are known; its costs are the same."""
    by_number = {int(row["step"]): row for row in rows}
    return [
        replace(step, bare=Measures(
            float(row["calibration_loss"]), _maybe(row["validation_loss"]), _maybe(row["validation_accuracy"]), None,
            step.measures.costs,
        )) if (row := by_number.get(step.number)) is not None else step
        for step in steps
    ]  # fmt: skip


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
    by_number: dict[int, list[dict[str, str]]] = {}
    for row in rows:
        by_number.setdefault(int(row["step"]), []).append(row)
    return [_step(number, group) for number, group in by_number.items()]


def _step(number: int, rows: list[dict[str, str]]) -> Step:
    last = rows[-1]
    costs = Costs(*(int(last[name]) for name in COLUMNS[7:12]))
    measures = Measures(
        float(last["calibration_loss"]),
        _maybe(last["validation_loss"]),
        _maybe(last["validation_accuracy"]),
        None,
        costs,
    )
    removed = tuple(Neuron(row["group"], int(row["neuron"])) for row in rows if row["neuron"])
    scores = tuple(float(row["score"]) for row in rows if row["neuron"])
    return Step(number, removed, scores, measures, float(last["seconds"]))


def _maybe(text: str) -> float | None:
    return float(text) if text else None
