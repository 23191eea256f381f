"""Rankings by many workers: what travels to them, and how their results become scores."""

import hashlib
import io
import os
import pickle
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.fx import Node

from shrinknet.core.errors import BadInputError
from shrinknet.core.scores import Scores
from shrinknet.criteria.base import Criterion, Statistics, scored
from shrinknet.engine.gates import GatedNetwork, gate, traced
from shrinknet.engine.passes import Passes
from shrinknet.engine.program import Program
from shrinknet.execution.cluster import RayWorkers, connect
from shrinknet.execution.processes import Processes
from shrinknet.execution.shards import Executor, Finished, Result, in_order
from shrinknet.export.exported_program import pt2_bytes
from shrinknet.graph.restrict import restrict
from shrinknet.graph.trace import Trace, trace
from shrinknet.loading.models import load_model
from shrinknet.task.data import Batch, Origin, aligned
from shrinknet.task.losses import Loss
from shrinknet.task.parts import Part
from shrinknet.task.scoring import Scoring
from shrinknet.task.task import FreeAxes, Task, evaluating
from shrinknet.task.trees import Inputs, called, of_each, tensors_of, with_tensors


@runtime_checkable
class Batches(Protocol):
    """Where a worker finds the samples."""

    def __call__(self, number: int) -> Part:
        """Return inputs and targets of one batch."""


@dataclass(frozen=True)
class FileBatches:
    """Batches in files of this machine, mapped into memory: all workers share the pages.

    Attributes:
        folder: where they are.
        form: inputs and targets with empty tensors, which those of a batch take the place of.
    """

    folder: str
    form: Part

    def __call__(self, number: int) -> Part:
        """Return inputs and targets of one batch."""
        with safe_open(os.path.join(self.folder, f"{number}.safetensors"), "pt") as file:
            tensors = (file.get_tensor(str(place)) for place in range(len(tensors_of(self.form))))
            found: Part = with_tensors(self.form, tensors)
            return found

    @classmethod
    def of(cls, task: Task, folder: Path) -> "FileBatches":
        """Write the calibration batches."""
        for number, batch in enumerate(task.calibration.batches()):
            tensors = [tensor.cpu().contiguous().clone() for tensor in tensors_of((batch.inputs, batch.targets))]
            named = {str(place): tensor for place, tensor in enumerate(tensors)}
            save_file(named, folder / f"{number}.safetensors")
        return cls(str(folder), of_each((batch.inputs, batch.targets), lambda one: one.new_empty(0)))


@dataclass(frozen=True)
class StoredBatches:
    """Batches in Ray's object store."""

    references: tuple[Any, ...]

    def __call__(self, number: int) -> Part:
        """Return inputs and targets of one batch."""
        import ray

        found: Part = ray.get(self.references[number])
        return found

    @classmethod
    def of(cls, task: Task, ray: Any) -> "StoredBatches":
        """Put the calibration batches into the store."""
        batches = task.calibration.batches()
        parts = (of_each((one.inputs, one.targets), lambda tensor: tensor.cpu().clone()) for one in batches)
        return cls(tuple(map(ray.put, parts)))


MOST_BATCHES_HELD = 64


@dataclass(frozen=True)
class Setting:
    """What a worker has set up, and the batches that it read last."""

    network: GatedNetwork
    device: torch.device
    origin: Origin = field(default_factory=Origin)
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
    example: Inputs
    outputs: Any
    free: Mapping[str, FreeAxes]

    def set_up(self) -> Setting:
        """Trace the network again, where the worker is."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.pt2"
            path.write_bytes(self.model)
            loaded = load_model(str(path))
        found = restrict(trace(loaded.model, self.example, self.free), self.keep, self.only)
        found.returns(self.outputs)
        return Setting(gate(found, self.loss, self.scoring), torch.device(self.device))

    def run(self, setting: Setting, shard: tuple[bytes, int]) -> Result:
        """Observe one batch, with a state that was packed."""
        packed, number = shard
        state = unpacked(packed, setting.network)
        with self.scoring.arithmetic():
            observed = self.criterion.observed(state, self._batch(setting, number), number)
        return {name: value.numpy() for name, value in observed.items()}

    def _batch(self, setting: Setting, number: int) -> Batch:
        held = setting.held
        if number not in held:
            if len(held) == MOST_BATCHES_HELD:
                held.pop(next(iter(held)))
            inputs, targets = of_each(self.batches(number), lambda one: aligned(one.to(setting.device)))
            held[number] = Batch(inputs, targets, number, setting.origin)
        return held[number]


class Workers:
    """Scores by many workers: the same bits for any number of them.

    A look at the data falls into shards, one for each batch (and group, where the criterion looks at groups one by
    one), and results are added up in the order of the shards. No worker is started for a criterion that needs no data.

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
        self._executor: Executor | None = None

    def score(self, network: GatedNetwork, told: Callable[[int, int], None]) -> Scores:
        """Score every neuron, by all workers."""
        seen = hashlib.sha256(network.present.tobytes())
        if network.candidates is not None:
            seen.update(network.candidates.tobytes())

        def look(state: Any) -> Iterator[tuple[int, Statistics]]:
            finished = None if self.shards is None else Finished(self.shards, self._key + seen.digest())
            for num_samples, observed in self._look(network, state, finished, told):
                for value in observed.values():
                    seen.update(value.numpy().tobytes())  # another look begins with what this one saw
                yield num_samples, observed
            if finished is not None:
                finished.clear()

        return scored(self.criterion, network, look)

    def _look(
        self, network: GatedNetwork, state: Any, finished: Finished | None, told: Callable[[int, int], None]
    ) -> Iterator[tuple[int, Statistics]]:
        """Let every batch be observed; what a batch says of its groups is put together."""
        parts = [state.showing(group) for group in network.groups] if self.criterion.splits_by_group else [state]
        states = [packed(part, network) for part in parts]
        shards = [(state, number) for number in range(len(self._sizes)) for state in states]
        results = iter(in_order(self._workers(), shards, finished, told))
        for num_samples in self._sizes:
            of_batch = [next(results) for _ in states]
            yield num_samples, {name: torch.tensor(one[name]) for one in of_batch for name in one}

    def close(self) -> None:
        """Let the workers go."""
        if self._executor is not None:
            self._executor.close()
            self._folder.cleanup()

    def _workers(self) -> Executor:
        """The workers, started when they are first needed."""
        if self._executor is None:
            workers = self.scoring.workers or os.cpu_count() or 1
            if self.scoring.executor == "processes":
                job = self._job(FileBatches.of(self.task, Path(self._folder.name)), workers)
                self._executor = Processes(job, workers, self.scoring.threads)
            else:
                ray = connect(self.scoring.address, workers)
                job = self._job(StoredBatches.of(self.task, ray), workers)
                self._executor = RayWorkers(ray, job, workers, self.scoring.threads)
        return self._executor

    def _job(self, batches: Batches, workers: int) -> ScoringJob:
        share = replace(self.scoring, memory=int(self.scoring.memory) // workers, keeps_passes=True)
        return ScoringJob(
            self._model,
            self.task.loss,
            self.keep,
            self.only,
            share,
            self.criterion,
            batches,
            str(self.task.calibration.device),
            of_each(self.task.example_inputs, Tensor.cpu),
            self._outputs,
            self.task.free,
        )

    @cached_property
    def _folder(self) -> "tempfile.TemporaryDirectory[str]":
        return tempfile.TemporaryDirectory(prefix="shrinknet-")

    @cached_property
    def _outputs(self) -> Any:
        """What the network returns, without numbers: its file has plain containers, the loss may know others."""
        with evaluating(self.task.model), torch.no_grad():
            outputs = called(self.task.model, self.task.example_inputs)
        return of_each(outputs, lambda output: output.new_empty(0).cpu())

    @cached_property
    def _model(self) -> bytes:
        exported = traced(self.task).exported
        assert exported is not None
        return pt2_bytes(exported)

    @cached_property
    def _sizes(self) -> list[int]:
        """The number of samples of each batch."""
        return [len(batch) for batch in self.task.calibration]

    @cached_property
    def _key(self) -> bytes:
        """What a ranking is of, but for the gates: the network, the groups, the samples, the rule with its options."""
        digest = hashlib.sha256(self._model)
        for batch in self.task.calibration:
            for tensor in tensors_of((batch.inputs, batch.targets)):
                digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
        how = self.task.calibration.batch_size, self.scoring.tf32, self.scoring.threads
        digest.update(repr((self.criterion.name, self.task.loss.name, self.keep, self.only, how)).encode())
        for option, value in sorted(getattr(self.criterion, "__dict__", {}).items()):
            digest.update(option.encode() + _exactly(value))
        return digest.digest()


def _exactly(value: Any) -> bytes:
    """A value in bytes; the words for a large array leave most of it out."""
    if isinstance(value, Tensor | np.ndarray):
        return torch.as_tensor(value).detach().cpu().contiguous().numpy().tobytes()
    return repr(value).encode()


def packed(state: Any, network: GatedNetwork) -> bytes:
    """Return a state as bytes in which the network is but named.

    Raises:
        BadInputError: it cannot be pickled.
    """
    content = io.BytesIO()
    pickler = _Packer(content)
    pickler.parts = _parts(network)
    try:
        pickler.dump(state)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        allowed = "one whose state can travel to workers: numbers, tensors and the network"
        do = "Say `executor='serial'`, or let begin return less."
        raise BadInputError("criterion", allowed, f"{type(error).__name__}: {error}", do) from error
    return content.getvalue()


def unpacked(content: bytes, network: GatedNetwork) -> Any:
    """Return a state with the worker's own network in the place of the driver's."""
    unpickler = _Unpacker(io.BytesIO(content))
    unpickler.parts = _parts(network)
    return unpickler.load()


def _parts(network: GatedNetwork) -> dict[str, Any]:
    """What stays where it is: the programs and all that belongs to them; nodes are known by their names."""
    parts = {"program": network.program, "passes": network.passes, "trace": network.trace}
    return {**parts, "folded": network.passes.program, **{f"node {node.name}": node for node in network.trace.nodes}}


class _Packer(pickle.Pickler):
    parts: Mapping[str, Any]

    def persistent_id(self, given: Any) -> str | None:
        if not isinstance(given, Program | Passes | Trace | Node):
            return None
        return next((name for name, part in self.parts.items() if part is given), None)


class _Unpacker(pickle.Unpickler):
    parts: Mapping[str, Any]

    def persistent_load(self, name: Any) -> Any:
        return self.parts[name]
