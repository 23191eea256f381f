"""`shrinknet sparsify`: train under a method that masks weights while it trains."""

import json as json_module
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from shrinknet.cli import console
from shrinknet.cli.flags import spread
from shrinknet.cli.options import DataPath, Json, LossFlags, Model, Out, TaskFlags
from shrinknet.cli.prune import source_of
from shrinknet.cli.words import said
from shrinknet.core.errors import BadInputError
from shrinknet.core.options import Options, option


@dataclass(frozen=True, kw_only=True)
class TrainingFlags(Options):
    """How the network is trained."""

    epochs: int = option(10, "How often the calibration rows are seen.")
    batch_size: int = option(64, "Rows for each step.", flag="batch")
    optimizer: str = option("adam", "adam, or sgd (momentum 0.9).")
    learning_rate: float = option(1e-3, "The first learning rate; it falls along a cosine.", flag="rate")
    weight_decay: float = option(0.0, "Weight decay.", flag="decay")


@spread
def command(
    model: Model,
    data: DataPath,
    out: Out,
    given: LossFlags,
    method: Annotated[
        str, typer.Option("--method", help="Such as gradual-threshold or acdc (an unknown name lists them all).")
    ],
    set: Annotated[
        list[str] | None,
        typer.Option("--set", help="An option of the method, such as sparsity=0.95 (may be repeated)."),
    ] = None,
    *,
    training: TrainingFlags,
    seed: Annotated[
        int, typer.Option(min=0, help="Of the split, the order of the rows and what the method draws.")
    ] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
    json: Json = False,
) -> None:
    """Train on the calibration rows under a training-time method; cut what whole-neuron zeros allow; write a page."""
    from shrinknet.cli.work.opening import make_task
    from shrinknet.sparsify.api import sparsify

    task = make_task(model, data, seed, TaskFlags(**vars(given)))
    sources = {"model": source_of(model), "weights": source_of(given.weights), "data": source_of(data)}
    with console.resumable(out), console.Bar(method) as bar:
        named: dict[str, Any] = {**vars(training), "seed": seed, "out": out, "resume": resume, "config": sources}
        found = sparsify(task, method, options=_options(set or []), tell=bar.tell, **named)
    if json:
        facts = {
            "out": str(out),
            "history": list(found.history),
            "density": found.sparsifier.density,
            "dense_bytes": found.dense_bytes,
            "sparse_bytes": found.sparse_bytes,
            "removed": [str(neuron) for neuron in found.plan.removed],
        }
        console.print_json(facts)
    else:
        rows = [
            [name, f"{int(mask.sum()):,}", f"{mask.numel():,}", f"{100 * float(mask.double().mean()):.2f} %"]
            for name, mask in found.sparsifier.masks.items()
        ]
        console.table("", ("weight", "kept", "of", ""), rows)
    console.talk.print(f"Run: {out} (page: {Path(out) / 'report' / 'index.html'})")
    console.talk.print(said(found.last_line + found.hint))


def _options(pairs: list[str]) -> dict[str, Any]:
    """Values are numbers, true, false, null, lists or objects as JSON writes them; anything else is text."""
    found = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name.isidentifier():
            raise BadInputError("--set", "NAME=VALUE", repr(pair), "Write --set sparsity=0.95.")
        try:
            found[name] = json_module.loads(value)
        except ValueError:
            found[name] = value
    return found
