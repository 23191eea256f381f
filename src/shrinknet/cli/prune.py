"""`shrinknet prune`: the main job."""

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

from shrinknet.cli import console
from shrinknet.cli.asked import GoalFlags, GuardFlags
from shrinknet.cli.flags import spread
from shrinknet.cli.options import DataPath, Json, Model, Out, TaskFlags, artefact_kind
from shrinknet.core.config import SearchOptions
from shrinknet.task.scoring import Scoring


@spread
def command(
    model: Model,
    data: DataPath,
    out: Out,
    given: TaskFlags,
    goals: GoalFlags,
    guards: GuardFlags,
    options: SearchOptions,
    scoring: Scoring,
    json: Json = False,
) -> None:
    """Remove neurons until every goal is reached, cut once, prove the cut, write the run and its page.

    Without a goal the run goes on until one neuron of each group is left. Exit status 1: a goal or guard could not
    be met; the nearest model is written.
    """
    from shrinknet.api import prune
    from shrinknet.cli.work.finishing import finish
    from shrinknet.cli.work.opening import make_task
    from shrinknet.task.losses import LOSSES

    wanted, kept = list(goals.made()), list(guards.made())
    task = make_task(model, data, options.seed, given)
    sources: dict[str, Any] = {
        "model": source_of(model),
        "weights": source_of(given.weights),
        "data": source_of(data),
        "loss": given.loss,
        "model_sha256": hash_of(model),
        "weights_sha256": hash_of(given.weights),
        "data_sha256": hash_of(data),
    }
    if task.loss.name in LOSSES:
        sources["loss"] = task.loss.name  # what the network's own answers or loss were found to mean
    if given.accuracy is not None:
        sources["accuracy"] = given.accuracy
    asked = replace(options, artefact=artefact_kind(options, wanted))
    with console.resumable(out), console.Bar("pruning") as bar:
        run = prune(
            task,
            goals=wanted,
            guards=kept,
            **vars(asked),
            scoring=scoring,
            out=out,
            config=sources,
            progress=bar,
        )
    finish(run, out, json)


def source_of(path: str | None) -> str | None:
    """A file's whole path, so that the run can be verified from anywhere; an import path as it is."""
    return str(Path(path).resolve()) if path is not None and Path(path).is_file() else path


def hash_of(path: str | None) -> str | None:
    """The hash of a file; None of what is none."""
    if path is None or not Path(path).is_file():
        return None
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
