"""Gradient steps for all weights of a smaller network at once: how they go, and which weights they lead to.

Steps are Adam's (Kingma and Ba 2015), each a share of its tensor's size, so that no rate depends on a network's scale.
What is judged and handed back is not where the last step led but an average over about the last tenth of all steps,
the start's weights at first (Polyak and Juditsky 1992): single steps lead astray, above all the first ones.

Some rows are held out. What comes back are the weights of the epoch at whose end the average was best there, the
start's included: never worse than the start on these rows.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from shrinknet.core.progress import num_batches
from shrinknet.engine.gates import GatedNetwork
from shrinknet.engine.program import Program
from shrinknet.recovery.answers import Teacher, said_by
from shrinknet.recovery.augment import Augment
from shrinknet.recovery.states import load_optimizer, optimizer_state, packed, under, unpacked
from shrinknet.surgery.proof import cut_program
from shrinknet.surgery.remove import cut_graph, kept_indices
from shrinknet.task.data import Batch, Data
from shrinknet.task.trees import split

HELD_OUT = 5
"""One of so many rows is held out."""

MOST_HELD_OUT = 2000
"""Never more rows than these are held out: they say which epoch was best."""

RATE, ROWS_FOR_RATE = 0.02, 800
"""A step is this share of a tensor's root mean square; with fewer rows it is smaller, by the root of their share: their
mean slopes say less of other rows."""

WARM = 0.05
"""The part of the steps in which the rate rises to that; it falls to 0 along half a cosine."""

MOMENTS = (0.9, 0.99)
"""Adam's."""

AVERAGED = 0.1
"""What is judged is an average over about that part of the steps."""

LEAST_SIZE = 1e-3
"""The root mean square of a tensor is taken for at least this: biases that are 0 move, too."""

ROWS_A_STEP = 50
"""So many rows make a step."""

VALUES_HELD = 3
"""How often the values of a pass are held: by both networks, and on the way back."""

Said = tuple[Any, Mapping[str, Tensor]]
"""What the loss is given of a network's outputs, and what some of its layers give."""

Far = Callable[[Said, Batch], Tensor]
"""How far what the smaller network says of some rows is from what is wanted: what falls."""


def num_held_out(num_rows: int) -> int:
    """Return how many of some rows are held out: a fifth, at most 2,000.

    >>> num_held_out(128), num_held_out(50_000)
    (26, 2000)
    """
    return min(-(-num_rows // HELD_OUT), MOST_HELD_OUT)


def held_out(data: Data, seed: int) -> tuple[Data, Data]:
    """Return the rows held out and the others, drawn by a seed."""
    drawn, count = data.permuted(seed), num_held_out(len(data))
    return drawn.rows(0, count), drawn.rows(count, len(data))


def smaller(network: GatedNetwork) -> GraphModule:
    """Return the cut network in memory of its own, all of whose parameters may move."""
    cut = cut_graph(network.trace, network.present, network.program.tensors)
    for tensor in (*cut.parameters(), *cut.buffers()):
        tensor.data = tensor.data.clone()  # what is not cut lies in the masked network's own memory
    for parameter in cut.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    return cut


def weights_of(cut: GraphModule) -> dict[str, Tensor]:
    """Return copies of its parameters as they are now, by name."""
    return {name: one.detach().clone() for name, one in cut.named_parameters(remove_duplicate=False)}


def spread(network: GatedNetwork, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the masked network's tensors with a cut network's weights in the places that it kept."""
    kept, own = kept_indices(network.trace, network.present), network.trace.tensors | network.program.tensors
    found = {}
    for name, weight in weights.items():
        whole, axes = own[name].detach().clone(), kept.get(name, {})
        places = [torch.tensor(axes.get(axis, range(size))) for axis, size in enumerate(whole.shape)]
        whole[torch.meshgrid(*places, indexing="ij") if places else ...] = weight.to(whole.dtype)
        found[name] = whole
    return found


def program_of(teacher: Teacher, cut: GraphModule) -> Program:
    """Return a smaller network ready to run, as the whole one runs."""
    return cut_program(teacher.network.trace, cut, teacher.program.asked_dtype, teacher.program.reads)


@dataclass(eq=False)
class Descent:
    """A smaller network on its way.

    Args:
        teacher: the whole network; the masked one says where to start, and which neurons are gone.
        rows: those that steps see.
        far: what falls; it is given the layers that the teacher names.
        judge: what is least, of all epochs, for the weights that are handed back.
        augment: what becomes of inputs before they are seen.
        num_epochs: how often the rows are gone through.
        seed: of their order and of augmentations.
        rows_a_step: a step is by the mean slope over so many rows.
        tell: told which part of the steps is done.
    """

    teacher: Teacher
    rows: Data
    far: Far
    judge: Callable[[GraphModule], float]
    augment: Augment
    num_epochs: int
    seed: int
    rows_a_step: int = ROWS_A_STEP
    tell: Callable[[float], None] = field(default=lambda done: None)
    epoch: int = 0
    history: list[dict[str, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._cut, self.average = smaller(self.teacher.network), smaller(self.teacher.network)
        self._generator = torch.Generator().manual_seed(self.seed)
        rate = RATE * math.sqrt(min(1.0, len(self.rows) / ROWS_FOR_RATE))
        self._rates = [rate * _size(one) for one in self._cut.parameters() if one.requires_grad]
        moved = [{"params": [one]} for one in self._cut.parameters() if one.requires_grad]
        self._optimizer = torch.optim.Adam(moved, betas=MOMENTS)
        self.least, self.best = self.judge(self.average), weights_of(self.average)

    def epochs(self) -> Iterator[int]:
        """Go through the rows again and again, and say after each time how often; what comes of it is in `best`."""
        program = program_of(self.teacher, self._cut)
        by_name = {node.name: node for node in program.nodes}
        layers = {name: by_name[name] for name in self.teacher.layers}
        while self.epoch < self.num_epochs:
            training_loss = self._one_epoch(program, layers)
            self.epoch += 1
            judged = self.judge(self.average)
            if judged < self.least:
                self.least, self.best = judged, weights_of(self.average)
            self.history.append({"epoch": self.epoch, "training_loss": training_loss, "held_out_loss": judged})
            yield self.epoch

    def _one_epoch(self, program: Program, layers: Mapping[str, Node]) -> float:
        """Return the mean of what fell."""
        order = torch.randperm(len(self.rows), generator=self._generator)
        drawn, total = replace(self.rows.chosen(order), batch_size=self.rows_a_step), 0.0
        steps = num_batches(self.rows, self.rows_a_step)
        for place, batch in enumerate(drawn.batches()):
            done = (self.epoch * steps + place + 1) / (self.num_epochs * steps)
            self._set_rates(done)
            self._optimizer.zero_grad()
            seen = self.augment(batch.inputs, self._generator), batch.targets
            for part in (Batch(*rows) for rows in split(seen, self._at_once)):
                with torch.enable_grad():
                    far = self.far(said_by(program, layers, part.inputs), part)
                    (far * (len(part) / len(batch))).backward()
                total += float(far.detach()) * len(part)
            self._optimizer.step()
            self._move_average(1 / max(1.0, AVERAGED * self.num_epochs * steps))
            self.tell(done)
        return total / len(self.rows)

    @property
    def _at_once(self) -> int:
        """The rows whose values fit into memory."""
        program = self.teacher.program
        return max(1, int(program.scoring.memory) // (VALUES_HELD * program.bytes_per_sample))

    def _set_rates(self, done: float) -> None:
        for group, rate in zip(self._optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate * pace(done)

    @torch.no_grad()
    def _move_average(self, share: float) -> None:
        """Move the average by that share towards where the last step led."""
        for one, other in zip(self.average.parameters(), self._cut.parameters(), strict=True):
            if one.is_floating_point():
                one.lerp_(other, share)

    def state(self) -> bytes:
        """Return all that the next epoch depends on, as a safetensors file: no pickle, no clock."""
        values, settings = optimizer_state(self._optimizer)
        parts = {"cut": weights_of(self._cut), "average": weights_of(self.average), "best": self.best}
        tensors = {f"{part}/{name}": one for part, weights in parts.items() for name, one in weights.items()}
        tensors |= {f"optimizer/{name}": one for name, one in values.items()}
        tensors["drawn"] = self._generator.get_state()
        numbers = {"epoch": self.epoch, "least": self.least, "history": self.history, "optimizer": settings}
        return packed(tensors, numbers)

    def load_state(self, path: Path) -> None:
        """Go on from a state.

        Raises:
            RunFolderError: it cannot be read, or is another network's.
        """
        with unpacked(path) as (tensors, numbers):
            for part, cut in (("cut", self._cut), ("average", self.average)):
                _fill(cut, under(tensors, part))
            load_optimizer(self._optimizer, under(tensors, "optimizer"), numbers["optimizer"])
            self._generator.set_state(tensors["drawn"])
            self.epoch, self.least = int(numbers["epoch"]), float(numbers["least"])
            self.history, self.best = list(numbers["history"]), under(tensors, "best")


@torch.no_grad()
def _fill(cut: GraphModule, weights: Mapping[str, Tensor]) -> None:
    for name, one in cut.named_parameters(remove_duplicate=False):
        one.copy_(weights[name])


def _size(tensor: Tensor) -> float:
    """The root mean square of a tensor."""
    return max(LEAST_SIZE, float(tensor.detach().square().mean().sqrt()))


def pace(done: float) -> float:
    """Return the share of the rate after that part of the steps: a rise, then half a cosine.

    >>> [round(pace(done), 2) for done in (0.025, 0.05, 0.5, 1.0)]
    [0.5, 0.99, 0.5, 0.0]
    """
    return min(1.0, done / WARM) * (0.5 + 0.5 * math.cos(math.pi * done))
