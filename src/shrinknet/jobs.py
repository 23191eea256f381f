"""Rankings by many workers: what travels to them, and how their results become scores."""

import hashlib
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from shrinknet.criteria.base import Criterion, Statistics, add
from shrinknet.data import Batch, aligned
from shrinknet.execution.cluster import RayWorkers, connect
from shrinknet.execution.processes import Processes
from shrinknet.execution.progress import num_batches
from shrinknet.execution.shards import Executor, Finished, Result, in_order
from shrinknet.export.exported_program import pt2_bytes
from shrinknet.gates import GatedNetwork, gate
from shrinknet.graph.restrict import restrict
from shrinknet.graph.trace import export_program, trace
from shrinknet.graph.widths import Present
from shrinknet.loading.models import load_model
from shrinknet.losses import Loss
from shrinknet.scoring import Scoring
from shrinknet.task import Task
from shrinknet.types import Scores


@runtime_checkable
class Batches(Protocol):
    """Where a worker finds the samples."""

    def __call__(self, number: int) -> tuple[Tensor, Tensor]:
        """Return inputs and targets of one batch."""


@dataclass(frozen=True)
class FileBatches:
    """Batches in files of this machine, mapped into memory: all workers share the pages."""

    folder: str

    def __call__(self, number: int) -> tuple[Tensor, Tensor]:
        """Return inputs and targets of one batch."""
        with safe_open(os.path.join(self.folder, f"{number}.safetensors"), "pt") as file:
            return file.get_tensor("inputs"), file.get_tensor("targets")

    @classmethod
    def of(cls, task: Task, folder: Path) -> "FileBatches":
        """Write the calibration batches."""
        for number, batch in enumerate(task.calibration.batches()):
            tensors = {"inputs": batch.inputs.cpu().contiguous(), "targets": batch.targets.cpu().contiguous()}
            save_file({name: tensor.clone() for name, tensor in tensors.items()}, folder / f"{number}.safetensors")
        return cls(str(folder))


@dataclass(frozen=True)
class StoredBatches:
    """Batches in Ray's object store."""

    references: tuple[Any, ...]

    def __call__(self, number: int) -> tuple[Tensor, Tensor]:
        """Return inputs and targets of one batch."""
        import ray

        inputs, targets = ray.get(self.references[number])
        return torch.tensor(inputs), torch.tensor(targets)

    @classmethod
    def of(cls, task: Task, ray: Any) -> "StoredBatches":
        """Put the calibration batches into the store."""
        batches = task.calibration.batches()
        return cls(tuple(ray.put((one.inputs.cpu().numpy(), one.targets.cpu().numpy())) for one in batches))


MOST_BATCHES_HELD = 64


@dataclass(frozen=True)
class State:
    """What a worker has set up. Batches are held, since kept passes know them by their tensors."""

    network: GatedNetwork
    device: torch.device
    held: dict[int, Batch] = field(default_factory=dict)


@dataclass(frozen=True)
class ScoringJob:
    """Everything that a worker needs to score: the network as an exported program, the loss, the samples."""

    model: bytes
    loss: Loss
    keep: tuple[str, ...]
    only: tuple[str, ...]
    scoring: Scoring
    criterion: Criterion
    batches: Batches
    device: str

    def set_up(self) -> State:
        """Trace the network again, where the worker is."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.pt2"
            path.write_bytes(self.model)
            loaded = load_model(str(path))
        assert loaded.example_inputs is not None
        traced = restrict(trace(loaded.model, loaded.example_inputs), self.keep, self.only)
        return State(gate(traced, self.loss, self.scoring), torch.device(self.device))

    def run(self, state: State, shard: tuple[Present, int, str | None]) -> Result:
        """Observe one batch, or what one batch says of one group."""
        present, number, group = shard
        network = replace(state.network, present=present)
        groups = [one for one in network.groups if group in (None, one.name)]
        with torch.no_grad(), self.scoring.arithmetic():
            observed = self.criterion.observe_groups(network, self._batch(state, number), groups)
        return {name: value.detach().double().cpu().numpy() for name, value in observed.items()}

    def _batch(self, state: State, number: int) -> Batch:
        if number not in state.held:
            if len(state.held) == MOST_BATCHES_HELD:
                state.held.pop(next(iter(state.held)))
            inputs, targets = self.batches(number)
            state.held[number] = Batch(aligned(inputs.to(state.device)), aligned(targets.to(state.device)))
        return state.held[number]


class Workers:
    """Scores by many workers: the same bits for any number of them.

    A ranking falls into shards, one for each batch (and group, where the criterion looks at neurons one by one), and
    results are added up in the order of the shards.

    Args:
        task: what is scored.
        scoring: who scores.
        keep, only: the globs by which groups are chosen.
        criterion: the rule.
        shards: a folder for the results of finished shards, by which a driver that was killed goes on.
    """

    def __init__(
        self,
        task: Task,
        scoring: Scoring,
        keep: Sequence[str],
        only: Sequence[str],
        criterion: Criterion,
        shards: Path | None,
    ) -> None:
        self.task, self.scoring, self.criterion, self.shards = task, scoring, criterion, shards
        self.keep, self.only = tuple(keep), tuple(only)
        self.model = pt2_bytes(export_program(task.model, task.example_inputs))
        self._folder = tempfile.TemporaryDirectory(prefix="shrinknet-")
        self.executor = self._executor(scoring.workers or os.cpu_count() or 1)

    def score(self, network: GatedNetwork, told: Callable[[int, int], None]) -> Scores:
        """Score every neuron, by all workers."""
        count = num_batches(self.task.calibration, self.task.calibration.batch_size)
        parts = [group.name for group in network.groups] if self.criterion.splits_by_group else [None]
        shards = [(network.present, number, part) for number in range(count) for part in parts]
        finished = None if self.shards is None else Finished(self.shards, self._key + network.present.tobytes())
        results = in_order(self.executor, shards, finished, told)
        sums: Statistics = {}
        for result in results:
            add({name: torch.tensor(value) for name, value in result.items()}, sums)
        scores = self.criterion.concluded(sums, len(self.task.calibration))
        if finished is not None:
            finished.clear()
        return scores

    def close(self) -> None:
        """Let the workers go."""
        self.executor.close()
        self._folder.cleanup()

    def _executor(self, workers: int) -> Executor:
        if self.scoring.executor == "processes":
            job = self._job(FileBatches.of(self.task, Path(self._folder.name)), workers)
            return Processes(job, workers, self.scoring.threads)
        ray = connect(self.scoring.address, workers)
        return RayWorkers(ray, self._job(StoredBatches.of(self.task, ray), workers), workers, self.scoring.threads)

    def _job(self, batches: Batches, workers: int) -> ScoringJob:
        share = replace(self.scoring, memory=int(self.scoring.memory) // workers, keeps_passes=True)
        return ScoringJob(
            self.model, self.task.loss, self.keep, self.only, share, self.criterion, batches,
            str(self.task.calibration.device),
        )  # fmt: skip

    @cached_property
    def _key(self) -> bytes:
        """What a ranking is of, but for the gates: the network, the samples, the rule."""
        digest = hashlib.sha256(self.model)
        for batch in self.task.calibration.batches():
            for tensor in (batch.inputs, batch.targets):
                digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        digest.update(f"{self.criterion.name} {self.task.loss.name} {self.task.calibration.batch_size}".encode())
        return digest.digest()
