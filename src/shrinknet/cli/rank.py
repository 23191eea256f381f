"""`shrinknet rank`: the ranked list."""

from pathlib import Path
from typing import Annotated

import typer

from shrinknet.cli import console
from shrinknet.cli.flags import spread
from shrinknet.cli.options import DataPath, Json, Model, TaskFlags
from shrinknet.core.config import RankOptions
from shrinknet.core.errors import BadInputError
from shrinknet.core.tables import csv_text, race_rows
from shrinknet.core.units import counted
from shrinknet.report import summary
from shrinknet.task.scoring import Scoring


@spread
def command(
    model: Model,
    data: DataPath,
    given: TaskFlags,
    options: RankOptions,
    scoring: Scoring,
    first: Annotated[int | None, typer.Option(help="Find only so many neurons, by a race or --screen.")] = None,
    json: Json = False,
    out: Annotated[Path | None, typer.Option("--out", help="Write the list to this CSV file.")] = None,
) -> None:
    """Score every neuron that can be removed, lowest first: rank,group,neuron,score."""
    from shrinknet.api import race, rank
    from shrinknet.cli.work.opening import make_task
    from shrinknet.criteria import find_criterion

    criterion = str(options.criterion)
    rule = find_criterion(criterion)
    task = make_task(model, data, options.seed, given)
    line = ""
    with console.Bar(criterion) as bar:
        if first is None:
            shards = None if out is None else out.with_name(f"{out.name}.shards")
            order = rank(task, **vars(options), scoring=scoring, shards=shards, progress=bar)
        else:
            if not rule.can_race or options.clip != "none":
                typed = f"--criterion {rule.name} --clip {options.clip}"
                do = "Leave --first out for an order of all."
                raise BadInputError("--first", "used with ablation, unclipped", typed, do)
            result = race(task, first, keep=options.keep, only=options.only, seed=options.seed, scoring=scoring)
            order = [(one.neuron, one.score) for one in result.contenders[:first]]
            line = summary.race_line(race_rows(result))
    rows = [(place, neuron.group, neuron.index, score) for place, (neuron, score) in enumerate(order, start=1)]
    if out is not None:
        out.write_text(_csv(rows))
    elif json:
        console.print_json([dict(zip(("rank", "group", "neuron", "score"), row, strict=True)) for row in rows])
    else:
        print(_csv(rows), end="")
    where = f", written to {out}" if out is not None else ""
    if line:
        console.talk.print(line)
    cheapest, count = f"{order[0][0]} at {order[0][1]:.4g}", counted(len(order), "neuron")
    console.talk.print(f"{count} ranked by {criterion} (unit: {rule.unit}); cheapest {cheapest}{where}.")


def _csv(rows: list[tuple[int, str, int, float]]) -> str:
    return csv_text([("rank", "group", "neuron", "score"), *((*row[:3], repr(row[3])) for row in rows)])
