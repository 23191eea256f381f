"""Recovery: the network of a finished run trained on with labels, proven and written as a run of its own."""

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from shrinknet.core.config import RecoveryOptions, RunConfig
from shrinknet.core.errors import BadInputError
from shrinknet.core.folder import RunFolder
from shrinknet.core.options import recorded
from shrinknet.core.progress import Tell, tell_nobody
from shrinknet.core.quantities import ACCURACY
from shrinknet.core.tables import csv_text
from shrinknet.core.units import counted
from shrinknet.measure.evaluation import evaluate
from shrinknet.recovery.augment import BY_NAME as AUGMENTATIONS
from shrinknet.recovery.augment import augmented, check_augmentations
from shrinknet.recovery.descent import Descent, program_of, spread
from shrinknet.recovery.labelled import begun
from shrinknet.run.facts import AnyRun, finish
from shrinknet.run.written import check_containers, under_way, write_end, write_start
from shrinknet.search.steps import measure
from shrinknet.task.data import Data, Source
from shrinknet.task.task import Task
from shrinknet.task.trees import tensors_of

log = logging.getLogger(__name__)

COLUMNS = ("epoch", "training_loss", "held_out_loss", "validation_loss", "validation_accuracy")
"""What `training.csv` says of each pass."""


@dataclass(frozen=True, kw_only=True)
class Recovery(RecoveryOptions):
    """What `Run.recover` takes."""

    data: Source | None = None
    out: str | Path | None = None
    config: Mapping[str, Any] | None = None
    tell: Tell = tell_nobody


def recover(run: AnyRun, options: Recovery) -> AnyRun:
    """Train all weights of a run's network on: see `Run.recover`."""
    run.verification.raise_if_broken()
    _check_labels(run.task)
    if not run.plan.removed:
        do = "Remove neurons first, or train the network in a loop of your own."
        raise BadInputError("run", "one that removed neurons", "one that removed none", do)
    ways = tuple(map(AUGMENTATIONS.find, options.augment))
    task = run.task if options.data is None else run.task.of_rows("data", options.data)
    check_augmentations(ways, task.example_inputs)
    _warn_of_judging_rows(task, run.task)
    rows = {"rows": len(task.calibration), "rows_sha256": _hash_of(task.calibration)}
    said = {**recorded(options), **rows, **(options.config or {})}
    content = {**run.config.content, "guards": [], "recovered": said}
    if options.out is not None:
        check_containers(task.example_inputs)
    folder = None if options.out is None else RunFolder.create(options.out, content, resume=options.resume)
    with under_way(folder), run.network.program.scoring.arithmetic():
        if folder is not None:
            write_start(folder, run.task, run.network.trace)
            folder.keep_history(run.history)
        way = begun(task, run.network, augmented(ways), options.passes, options.seed, distill=not options.labels_alone)
        before, way.tell = way.least, partial(options.tell, "all weights are trained on")
        _go(way, run.task, folder)
        network = run.network.refit(spread(run.network, way.best))
        measures = measure(run.task, network, run.ships.costs)
        reason = f"{run.reason}; recovered: loss on the rows held out {before:.4g} -> {way.least:.4g}"
        if way.least == before:
            log.warning("No pass was better on the rows held out than the start, which is what is handed back.")
        ended = run.history, run.plan, measures, reason, run.is_met, RunConfig.of(content), run.ships
        recovered = replace(finish(type(run), run.task, network, *ended), unfit=run.unfit)
        recovered.verification.raise_if_broken()
        if folder is None:
            return recovered
        write_end(folder, recovered)
    return replace(recovered, folder=folder)


def _check_labels(task: Task) -> None:
    if task.loss.is_own:
        got = f"{task.loss.name!r}, which takes the network's own answers for labels"
        do = "Prune with `compensate='joint'`, which needs no labels."
        raise BadInputError("loss", "one of labels where a network is recovered", got, do)


def _warn_of_judging_rows(training: Task, task: Task) -> None:
    """Say how many of the rows that judge a run are trained on: what they say of it then is too good."""
    judging = {role: _digests(data) for role in ("validation", "test") if (data := getattr(task, role)) is not None}
    trained = _digests(training.calibration) if judging else set()
    for role, rows in judging.items():
        if common := len(rows & trained):
            log.warning("%s of the run's %s data are trained on: what they say of it is too good.",
                        counted(common, "row"), role)  # fmt: skip


def _hash_of(data: Data) -> str:
    """The hash of all rows and their targets: a recovery goes on with those that it began with."""
    found = hashlib.sha256()
    for batch in data.batches():
        for part in tensors_of((batch.inputs, batch.targets)):
            found.update(_bytes_of(part).tobytes())
    return found.hexdigest()


def _bytes_of(part: torch.Tensor) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """The bytes of a tensor: a line for each of its rows."""
    return part.detach().cpu().reshape(len(part), -1).contiguous().view(torch.uint8).numpy()


def _digests(data: Data) -> set[bytes]:
    """What tells the inputs of each row from others."""
    found = set[bytes]()
    for batch in data.batches():
        lines = zip(*map(_bytes_of, tensors_of(batch.inputs)), strict=True)
        found |= {hashlib.sha256(b"".join(part.tobytes() for part in line)).digest() for line in lines}
    return found


def _go(way: Descent, task: Task, folder: RunFolder | None) -> None:
    """Go on from the state in the folder, where there is one, and keep the state after each pass."""
    if folder is not None and folder.has("state.safetensors"):
        way.load_state(folder.path / "state.safetensors")
    for _ in way.epochs():
        _note(way, task)
        if folder is not None:
            rows = [[row.get(name, "") for name in COLUMNS] for row in way.history]
            folder.write("training.csv", csv_text([COLUMNS, *rows]).encode())
            folder.write("state.safetensors", way.state())  # killed here, it resumes here


def _note(way: Descent, task: Task) -> None:
    """Measure the average of the steps so far on the validation rows."""
    if task.validation is not None:
        found = evaluate(program_of(way.teacher, way.average).outputs, task.loss, task.validation)
        way.history[-1]["validation_loss"] = found.loss
        if (accuracy := found.metrics.get(ACCURACY.name)) is not None:
            way.history[-1]["validation_accuracy"] = accuracy
