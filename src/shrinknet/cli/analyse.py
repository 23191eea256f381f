"""`shrinknet analyse`: look at a network or a run; nothing is removed."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from shrinknet.cli.flags import spread
from shrinknet.cli.options import Json, ModelFlags, RunFlags, RunPath
from shrinknet.core.config import DEFAULT_BATCH_SIZE, MOST_PAIRS, Scope
from shrinknet.core.options import option

app = typer.Typer(no_args_is_help=True)

Source = Annotated[str, typer.Argument(metavar="RUN|MODEL", help="A run folder, or a model with --data.")]


@app.callback()
def command() -> None:
    """Look at a network or a run: surface, cancellation, recall, limit, agreement."""


@dataclass(frozen=True, kw_only=True)
class SubjectFlags(RunFlags, ModelFlags):
    """What is looked at: a run as it was after some step, or a model with data."""

    seed: int = option(0, "Seed of the split, and of whatever is drawn.", least=0)
    batch_size: int = option(DEFAULT_BATCH_SIZE, "Rows for each pass; speed and memory only.", least=1)
    out: Path | None = option(None, "Where to write (default: RUN/analysis, or analysis).")


@dataclass(frozen=True, kw_only=True)
class StepFlags(SubjectFlags):
    """The same, and after which step of a run."""

    step: int = option(0, "Look at the run's network as it was after that step.")


@app.command()
@spread
def surface(
    run: RunPath,
    given: RunFlags,
    every: Annotated[int, typer.Option(help="Every N-th removal.")] = 10,
    alphas: Annotated[str, typer.Option(help="Values of the gate, FIRST:LAST:STEP.")] = "0:10:0.001",
    json: Json = False,
) -> None:
    """The loss as a function of the gate of each N-th neuron that went, at that moment, with a verdict on each."""
    from shrinknet.cli.work import looking

    looking.surface(run, given, every, alphas, as_json=json)


@app.command(name="cancellation")
@spread
def cancellation_command(
    source: Source,
    given: StepFlags,
    scope: Scope,
    max_pairs: Annotated[int, typer.Option(help="Of a group with more pairs, look at so many.")] = MOST_PAIRS,
    json: Json = False,
) -> None:
    """For pairs of neurons, whether they cancel each other; cancelling groups are removed together as a test."""
    from shrinknet.cli.work import looking

    looking.for_pairs(source, given, scope, max_pairs, as_json=json)


@app.command()
def recall(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="A run; or several, of networks trained apart.")],
    step: Annotated[
        int | None, typer.Option(help="Compare that step with the start (default: the one handed back).")
    ] = None,
    ratios: Annotated[str, typer.Option(help="Of several runs: parameters before / after, such as 2,4,10.")] = "2,4,10",
    seed: Annotated[int, typer.Option(min=0, help="Seed of the draws.")] = 0,
    json: Json = False,
) -> None:
    """Which classes pay: recalls along the run, the slope of intensification, rows that became wrong. Runs nothing."""
    from shrinknet.cli.work import looking

    looking.recall(runs, step, ratios, seed, as_json=json)


@app.command()
@spread
def limit(
    source: Source,
    given: SubjectFlags,
    what: Annotated[str, typer.Option(help="weights, neurons, or both.")] = "both",
    eps: Annotated[float | None, typer.Option(help="The loss's rise that counts as none (default: its noise).")] = None,
    max_accuracy_drop: Annotated[str | None, typer.Option(help="For neurons, the guard of the search instead.")] = None,
    draws: Annotated[int, typer.Option(help="How often neurons are searched on rows drawn anew.")] = 3,
    json: Json = False,
) -> None:
    """How small the network can get: predicted from its curvature before anything is pruned, beside what is found."""
    from shrinknet.cli.work import looking

    looking.limit(source, given, what, eps, max_accuracy_drop, draws, as_json=json)


@app.command(name="agreement")
@spread
def agreement_command(
    source: Source,
    given: StepFlags,
    criterion: Annotated[
        list[str] | None, typer.Option(help="A criterion (may be repeated; all where left out).")
    ] = None,
    every: Annotated[int | None, typer.Option(help="Along a run: after every so many steps.")] = None,
    json: Json = False,
) -> None:
    """Which criterion ranks this network as ablation does, and what it would cost to trust another one."""
    from shrinknet.cli.work import looking

    looking.of_criteria(source, given, criterion or [], every, as_json=json)
