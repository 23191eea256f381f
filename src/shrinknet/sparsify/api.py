"""`sparsify`: a plain training loop around any training-time method; `remove`: whole neurons cut out and proven."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import nn
from torch.fx import GraphModule

from shrinknet.core.config import RunConfig
from shrinknet.core.errors import BadInputError
from shrinknet.core.folder import RunFolder, whole
from shrinknet.core.quantities import ACCURACY
from shrinknet.core.records import Plan, Step
from shrinknet.core.tables import csv_text
from shrinknet.core.units import counted, names_in
from shrinknet.engine.gates import gated
from shrinknet.export.artefact import Artefact
from shrinknet.graph.trace import named_tensors
from shrinknet.measure.evaluation import evaluate, other_answers
from shrinknet.run.facts import finish
from shrinknet.run.run import Run
from shrinknet.run.written import under_way, write_machine
from shrinknet.search.steps import first_step, measure, on_validation
from shrinknet.sparsify.base import Sparsifier, find_sparsifier
from shrinknet.sparsify.family import Architecture
from shrinknet.sparsify.removal import NeuronRemoval
from shrinknet.sparsify.schedules import cosine
from shrinknet.sparsify.stored import sparse_bytes
from shrinknet.sparsify.to_plan import to_plan
from shrinknet.sparsify.training import Training
from shrinknet.task.losses import Loss
from shrinknet.task.per_sample import PerSample
from shrinknet.task.task import Task, evaluating
from shrinknet.task.trees import called

log = logging.getLogger(__name__)

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,
    "sgd": lambda parameters, lr, weight_decay: torch.optim.SGD(
        parameters, lr=lr, momentum=0.9, weight_decay=weight_decay
    ),
}
COLUMNS = names_in("""
    epoch, training_loss, validation_loss, validation_accuracy, density, strength, num_masked, num_regrown, seconds
""")


MUCH = 0.05
"""So much accuracy lost asks for a word of what keeps more."""


@dataclass(frozen=True)
class Sparsified:
    """What `sparsify` gives back.

    Attributes:
        model: the trained network, its zeros in place; a copy, the given one is untouched.
        sparsifier: the method, with its masks.
        history: for each epoch losses, accuracy, density and how many weights went and came back.
        sparse_bytes, dense_bytes: the length of the weights file without its zeros, and with them.
        plan: the neurons that masks have made superfluous.
        smaller: the network without them, proven; None where there is none.
        accuracy_before: on the validation data, before the training; None where there are none of classes.
    """

    model: nn.Module
    sparsifier: Sparsifier
    history: Sequence[Mapping[str, Any]]
    sparse_bytes: int
    dense_bytes: int
    plan: Plan
    smaller: Run | None
    folder: RunFolder | None
    accuracy_before: float | None = None

    def __repr__(self) -> str:
        return f"<Sparsified: {self.last_line}>"

    @property
    def facts(self) -> dict[str, Any]:
        """What `summary.json` says."""
        gone, back = self.sparsifier.num_masked, self.sparsifier.num_regrown
        return {
            "last_line": self.last_line,
            "density": self.sparsifier.density,
            "dense_bytes": self.dense_bytes,
            "sparse_bytes": self.sparse_bytes,
            "num_removed": len(self.plan.removed),
            "regrows": self.sparsifier.regrows,
            "by_layer": {
                name: {"kept": int(mask.sum()), "of": mask.numel(), "masked": gone[name], "regrown": back[name]}
                for name, mask in self.sparsifier.masks.items()
            },
        }

    @property
    def hint(self) -> str:
        """What would keep more, where much accuracy is lost."""
        before, after = self.accuracy_before, self.history[-1]["validation_accuracy"]
        if before is None or before - after < MUCH:
            return ""
        return (
            f" {counted(self.sparsifier.step, 'step')} did not win it back: more `epochs`, a higher `learning_rate` "
            "or a lower sparsity keep more."
        )

    @property
    def last_line(self) -> str:
        """What the training did, in one line."""
        end = self.history[-1]
        before, after = self.accuracy_before, end["validation_accuracy"]
        right = "" if before is None else f", validation accuracy {100 * before:.2f} % -> {100 * after:.2f} %"
        back = f", {end['num_regrown']:,} came back on the way" if self.sparsifier.regrows else ""
        count = 0 if self.smaller is None else len(self.plan.removed)
        gone = f"{counted(count, 'whole neuron') if count else 'no whole neuron'} went"
        return (
            f"Done: {100 * self.sparsifier.density:.2f} % of the masked weights kept{back}; file "
            f"{self.dense_bytes:,} -> {self.sparse_bytes:,} bytes{right}; {gone}."
        )


def sparsify(
    task: Task,
    method: str,
    *,
    options: Mapping[str, Any] | None = None,
    epochs: int = 10,
    batch_size: int = 64,
    optimizer: str = "adam",
    learning_rate: float = 1e-3,
    weight_decay: float = 0.0,
    seed: int = 0,
    out: str | Path | None = None,
    resume: bool = False,
    config: dict[str, Any] | None = None,
    tell: Callable[[str, float], None] = lambda text, share: None,
) -> Sparsified:
    """Train a network on its calibration rows under a training-time method, and cut what whole-neuron zeros allow.

    Args:
        task: network, loss and data; training sees the calibration rows, the figures of each epoch the validation rows.
        method: "gradual-threshold", "network-surgery", "sequential-attention", ... (`sparsifier_names()`).
        options: of the method, such as {"sparsity": 0.95}; its schedule fits the training where they are left out.
        epochs, batch_size, optimizer, learning_rate, weight_decay: of the training; "adam", or "sgd" (momentum 0.9);
            the rate falls along a cosine.
        seed: of the order of the rows and of what the method draws.
        out: a new folder for the run; its state is written after each epoch, so that a kill loses one epoch.
        resume: go on with the run in that folder; it ends in the same bits as if it had never stopped.
        config: what to write beside the options about where model and data came from.
        tell: who is told what is under way, and which share is done.

    Raises:
        BadInputError: an argument cannot be used. RunFolderError: `out` holds something else.
        VerificationError: the proof fails.

    Cost: the training; then one trace and one proof.

    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> task = Task(model, "cross-entropy", (torch.randn(64, 4), torch.arange(64) % 2))
    >>> found = sparsify(task, "one-shot", options={"sparsity": 0.5}, epochs=2)
    >>> found.sparsifier.density
    0.5
    """
    kind = find_sparsifier(method)
    rows = task.calibration.whole()
    model = _trainable(task.model)
    own = task.with_model(model)
    trained = _optimizer(optimizer, model, learning_rate, weight_decay)
    training = Training(
        model,
        _judged(task.loss),
        (rows.inputs, rows.targets),
        trained,
        _whole(batch_size),
        seed,
        num_epochs=_whole(epochs),
        rate=cosine,
    )
    wanted = {"seed": seed, **(options or {})}
    steps = training.steps_per_epoch
    sparsifier = training.sparsifier = kind.for_training(own, epochs * steps, steps, wanted)
    folder = None
    if out is not None:
        said: dict[str, Any] = {"verb": "sparsify", "method": method, "options": dict(options or {})}
        said |= {"epochs": epochs, "seed": seed, "batch_size": batch_size, "optimizer": optimizer}
        said |= {"learning_rate": learning_rate, "weight_decay": weight_decay, **task.facts, **(config or {})}
        folder = RunFolder.create(out, said, resume=resume)
    with under_way(folder):
        if folder is not None:
            _begin(folder, training)
        _train(training, own, folder, tell)
        if sparsifier.num_kept == sum(mask.numel() for mask in sparsifier.masks.values()):
            log.warning("Nothing was masked: look at the method's schedule; the training has %d steps.", epochs * steps)
        sparsifier.finish()
        before = None
        if task.validation is not None:
            with evaluating(task.model):
                before = evaluate(partial(called, task.model), task.loss, task.validation).metrics.get(ACCURACY.name)
        return _concluded(own, training, sparsifier, folder, {"seed": seed, **(config or {})}, before)


def _begin(folder: RunFolder, training: Training) -> None:
    """Write where the training runs; go on with one that is under way. The clock's seconds are no part of its state."""
    write_machine(folder)
    if not folder.has("state.safetensors"):
        return
    training.load_state(folder.path / "state.safetensors")
    with whole(folder):
        seconds = {row["epoch"]: row["seconds"] for row in folder.table("training.csv")}
        for row in training.history:
            row["seconds"] = float(seconds.get(str(row["epoch"]), "nan"))


def _train(training: Training, task: Task, folder: RunFolder | None, tell: Callable[[str, float], None]) -> None:
    assert training.sparsifier is not None
    started = time.perf_counter()
    for epoch in training.epochs():
        found = None if task.validation is None else evaluate(partial(called, task.model), task.loss, task.validation)
        row = {
            "epoch": epoch,
            "training_loss": training.losses[-1],
            "validation_loss": None if found is None else found.loss,
            "validation_accuracy": None if found is None else found.metrics.get(ACCURACY.name),
            "density": training.sparsifier.density,
            "strength": training.sparsifier.strength,
            "num_masked": sum(training.sparsifier.num_masked.values()),
            "num_regrown": sum(training.sparsifier.num_regrown.values()),
            "seconds": round(time.perf_counter() - started, 3),
        }
        training.history.append(row)
        started = time.perf_counter()
        if folder is not None:
            rows = [["" if row[name] is None else row[name] for name in COLUMNS] for row in training.history]
            folder.write("training.csv", csv_text([COLUMNS, *rows]).encode())
            folder.write("state.safetensors", training.state())  # killed here, it resumes here
        tell(f"epoch {epoch}, {100 * training.sparsifier.density:.1f} % kept", epoch / training.num_epochs)


def _concluded(
    task: Task,
    training: Training,
    sparsifier: Sparsifier,
    folder: RunFolder | None,
    config: Mapping[str, Any],
    before: float | None,
) -> Sparsified:
    tensors = {name: tensor.detach() for name, tensor in named_tensors(task.model).items()}
    whole = save({name: tensor.clone().contiguous() for name, tensor in tensors.items()})
    sparse = sparse_bytes(tensors, sparsifier.tile)
    network = gated(task)
    plan = to_plan(network, task.example_inputs)
    where = None if folder is None else folder.path / "smaller"
    smaller = remove(task, plan, where, config=config, resume=True) if plan.removed else None
    found = Sparsified(task.model, sparsifier, training.history, len(sparse), len(whole), plan, smaller, folder, before)
    if folder is not None:
        folder.write("model.safetensors", whole)
        folder.write("sparse.safetensors", sparse)
        folder.write("masks.safetensors", save({n: mask.clone() for n, mask in sparsifier.masks.items()}))
        folder.write_json("summary.json", found.facts)
        if isinstance(sparsifier, NeuronRemoval):
            Architecture.after(sparsifier.widths, sparsifier.removed).write(folder.path / "architecture.json")
        folder.seal()
        from shrinknet.report.training import write_training_page  # draws with matplotlib

        write_training_page(folder)
    return found


def remove(
    task: Task,
    plan: Plan,
    out: str | Path | None = None,
    *,
    config: Mapping[str, Any] | None = None,
    resume: bool = False,
) -> Run:
    """Cut the neurons of a plan out of a network, and prove the cut; nothing is scored.

    Args:
        task: the network and the data that the proof runs on.
        plan: such as `to_plan` gives.
        out: a new folder for the run.
        config: what to write beside the options about where the data came from.
        resume: whether the folder may hold the same run, broken off.

    Raises:
        VerificationError: the proof fails. RunFolderError: `out` holds something else.

    >>> from shrinknet.core.records import Neuron
    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> task = Task(model, "cross-entropy", (torch.randn(8, 4), torch.arange(8) % 2))
    >>> remove(task, Plan((Neuron("0", 1),), ())).model[0].out_features
    7
    """
    network = gated(task)
    ships = Artefact(task, network.trace)
    start, masked = first_step(task, network, ships.costs), network.without(plan.removed)
    after = measure(task, masked, ships.costs)
    answers = other_answers(on_validation(task, network), on_validation(task, masked))
    said = {"criterion": "zeros", "method": "to-plan", "goals": [], "guards": [], **task.facts, "keep": [], "only": []}
    said |= {"artefact": ships.name, "quantize": ships.quantize, "compensate": "none", "seed": 0}
    said |= {"batch_size": task.batch_size, **(config or {})}
    step = Step(1, plan.removed, (0.0,) * len(plan.removed), after, 0.0, answers=answers)
    history = (start, step) if plan.removed else (start,)
    run = finish(Run, task, masked, history, plan, after, "removed what the plan says", True, RunConfig.of(said), ships)
    run.verification.raise_if_broken()
    return run if out is None else replace(run, folder=run.save(out, resume=resume))


def _trainable(model: nn.Module) -> nn.Module:
    """A copy that can be trained."""
    copy = deepcopy(model)
    if isinstance(model, GraphModule):
        log.warning("An exported program trains as it was exported: norms keep their statistics, dropout stays off.")
        for parameter in copy.parameters():
            parameter.requires_grad_()
    if not any(parameter.requires_grad for parameter in copy.parameters()):
        do = "Call requires_grad_() on those to be trained."
        raise BadInputError("model", "a network with parameters to train", "one whose parameters are all frozen", do)
    return copy


def _optimizer(name: str, model: nn.Module, rate: float, decay: float) -> torch.optim.Optimizer:
    if name not in OPTIMIZERS:
        raise BadInputError("optimizer", "adam or sgd", repr(name), "Leave it out for adam.")
    if not rate > 0 or not decay >= 0:
        do = "Leave them out."
        raise BadInputError("learning_rate and weight_decay", "above 0, at least 0", f"{rate}, {decay}", do)
    return OPTIMIZERS[name](model.parameters(), lr=rate, weight_decay=decay)


def _judged(loss: Loss) -> PerSample:
    """The loss of what a network returns, of which it reads one output or all."""
    return loss.of if loss.reads is None else lambda outputs, targets: loss.of(loss.read(outputs), targets)


def _whole(value: int) -> int:
    if isinstance(value, bool) or value < 1:
        raise BadInputError("epochs and batch_size", "whole numbers of at least 1", repr(value), "Leave them out.")
    return value
