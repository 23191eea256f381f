"""`shrinknet prune`: the main job."""

import hashlib
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from shrinknet.api import prune
from shrinknet.cli import console
from shrinknet.cli.asked import GoalFlags, GuardFlags
from shrinknet.cli.flags import spread
from shrinknet.cli.options import DataPath, Json, Model, Out, TaskFlags, artefact_kind, make_task
from shrinknet.cli.words import said
from shrinknet.core.config import SearchOptions
from shrinknet.report import summary
from shrinknet.run.run import Run
from shrinknet.task.losses import LOSSES
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
    wanted, kept = list(goals.made()), list(guards.made())
    task = make_task(model, data, options.seed, given)
    sources: dict[str, Any] = {
        "model": source_of(model), "weights": source_of(given.weights), "data": source_of(data), "loss": given.loss,
        "model_sha256": _hash(model), "weights_sha256": _hash(given.weights), "data_sha256": _hash(data),
    }  # fmt: skip
    if task.loss.name in LOSSES:
        sources["loss"] = task.loss.name  # what the network's own answers or loss were found to mean
    if given.accuracy is not None:
        sources["accuracy"] = given.accuracy
    asked = replace(options, artefact=artefact_kind(options, wanted))
    with console.resumable(out), console.Bar("pruning") as bar:
        run = prune(
            task, goals=wanted, guards=kept, **vars(asked), scoring=scoring, out=out, config=sources, progress=bar,
        )  # fmt: skip
    finish(run, out, json)


def finish(run: Run, out: Path, as_json: bool) -> None:
    """Print a run's result, and leave with exit status 1 where a goal could not be met."""
    if as_json:
        console.print_json({
            "out": str(out), "reason": said(run.reason), "is_met": run.is_met,
            "rows": [dict(zip(("what", "before", "after"), row, strict=True))
                     for row in run.rows()],
            "proof": summary.proof_line(run.verification),
            "artefact": None if run.artefact is None else asdict(run.artefact),
        })  # fmt: skip
    else:
        console.table("", ("", "before", "after"), run.rows())
        for line in summary.coupled_line(run.config):
            console.out.print(line)
        console.out.print(summary.proof_line(run.verification))
        if run.artefact is not None:
            console.out.print(summary.shipped_line(run.artefact, run.config.qualities))
    if run.folder is not None and (line := summary.race_line(run.folder.races())):
        console.talk.print(line)
    console.talk.print(f"Run: {out} (page: {out / 'report' / 'index.html'})")
    if run.is_met:
        console.talk.print(said(run.last_line()))
    else:
        console.talk.print(said(f"Not met; the nearest model is {out / 'model.pt2'}. {run.last_line()}"))
        sys.exit(1)


def source_of(path: str | None) -> str | None:
    """A file's whole path, so that the run can be verified from anywhere; an import path as it is."""
    return str(Path(path).resolve()) if path is not None and Path(path).is_file() else path


def _hash(path: str | None) -> str | None:
    if path is None or not Path(path).is_file():
        return None
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
