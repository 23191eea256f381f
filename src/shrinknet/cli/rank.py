"""`shrinknet rank`: the ranked list."""

from pathlib import Path
from typing import Annotated

import typer

from shrinknet.api import race, rank
from shrinknet.cli import console
from shrinknet.cli.options import (
    Address,
    BatchSize,
    Clip,
    Compile,
    Confidence,
    CriterionName,
    DataPath,
    ExampleInput,
    Executor,
    Json,
    Keep,
    LossName,
    Memory,
    Model,
    Only,
    Screen,
    Seed,
    Tf32,
    Threads,
    TrustPickle,
    Weights,
    Workers,
    make_task,
)  # fmt: skip
from shrinknet.core.errors import BadInputError
from shrinknet.core.tables import csv_text, race_rows
from shrinknet.criteria import find_criterion
from shrinknet.report import summary
from shrinknet.task.scoring import Scoring
from shrinknet.task.task import DEFAULT_BATCH_SIZE


def command(
    model: Model,
    data: DataPath,
    weights: Weights = None,
    example_input: ExampleInput = None,
    loss: LossName = "cross-entropy",
    criterion: CriterionName = "ablation",
    clip: Clip = "none",
    keep: Keep = None,
    only: Only = None,
    first: Annotated[int | None, typer.Option(help="Find only so many neurons, by a race or --screen.")] = None,
    memory: Memory = "2GiB",
    confidence: Confidence = None,
    screen: Screen = None,
    compile: Compile = False,
    tf32: Tf32 = False,
    executor: Executor = "serial",
    workers: Workers = None,
    threads: Threads = 1,
    address: Address = None,
    seed: Seed = 0,
    batch_size: BatchSize = DEFAULT_BATCH_SIZE,
    trust_pickle: TrustPickle = False,
    json: Json = False,
    out: Annotated[Path | None, typer.Option("--out", help="Write the list to this CSV file.")] = None,
) -> None:
    """Score every neuron that can be removed, lowest first: rank,group,neuron,score."""
    unit = find_criterion(criterion).unit
    task = make_task(model, weights, example_input, data, loss, seed, batch_size, trust_pickle)
    scoring = Scoring(memory, confidence, screen, compile, tf32, executor, workers, threads, address)
    line = ""
    with console.Bar(criterion) as bar:
        if first is None:
            shards = None if out is None else out.with_name(f"{out.name}.shards")
            order = rank(
                task, criterion, clip=clip, keep=keep or (), only=only or (), seed=seed, scoring=scoring,
                shards=shards, progress=bar,
            )  # fmt: skip
        else:
            _check_race(criterion, clip)
            result = race(task, first, keep=keep or (), only=only or (), seed=seed, scoring=scoring)
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
    cheapest = f"{order[0][0]} at {order[0][1]:.4g}"
    console.talk.print(f"{len(order):,} neurons ranked by {criterion} (unit: {unit}); cheapest {cheapest}{where}.")


def _check_race(criterion: str, clip: str) -> None:
    if criterion != "ablation" or clip != "none":
        given = f"--criterion {criterion} --clip {clip}"
        raise BadInputError("--first", "used with ablation, unclipped", given, "Leave --first out for an order of all.")


def _csv(rows: list[tuple[int, str, int, float]]) -> str:
    return csv_text([("rank", "group", "neuron", "score"), *((*row[:3], repr(row[3])) for row in rows)])
