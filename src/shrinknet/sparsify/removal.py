"""Whole neurons that go one by one while training goes on: what methods of that kind share."""

from abc import abstractmethod
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch

import torch
from torch import Tensor, nn

from shrinknet.core.errors import BadInputError, ShrinknetError, did_you_mean
from shrinknet.core.records import Group, Neuron, Slice
from shrinknet.core.units import globs
from shrinknet.engine.program import Program
from shrinknet.graph.trace import trace
from shrinknet.sparsify.base import Masks, Sparsifier
from shrinknet.sparsify.to_plan import only_weighed
from shrinknet.task.trees import AnyInputs


@dataclass(frozen=True, eq=False)
class Reader:
    """A layer that reads a group's neurons: its weight, the axis of what it reads, whose each element is."""

    group: Group
    module: nn.Module
    weight: str
    axis: int
    owners: Tensor


class NeuronRemoval(Sparsifier):
    """Every so many steps the neuron that is worth least goes; training goes on without it.

    Only inner neurons can go: those that one layer writes and that only dense layers and convolutions read, each with
    weights of its own. Widths that blocks add up stay, and so does what a norm takes statistics over. What readers
    weigh a removed neuron by is zero from then on, which is the network without it, whatever batch norm or activation
    stands in between. One neuron of each group stays.

    A subclass gives `scores`. Everything else is here: groups, masks, the order of the removals.

    Args:
        model: a trained network.
        example_inputs: two samples, to follow neurons by.
        every: steps between removals.
        count: how many neurons go in all; as many as can where it is left out.
        only: globs of the groups whose neurons may go.

    Raises:
        BadInputError: no neuron can go, or fewer than asked for.
    """

    def __init__(
        self,
        model: nn.Module,
        example_inputs: AnyInputs,
        *,
        every: int = 100,
        count: int | None = None,
        only: str | Sequence[str] = (),
        seed: int = 0,
    ) -> None:
        if isinstance(every, bool) or not isinstance(every, int) or every < 1:
            raise BadInputError("every", "at least 1 step", repr(every), "Leave it out for 100.")
        self.groups = inner_groups(model, example_inputs, globs(only))
        self.readers = [reader for group in self.groups for reader in _readers(model, group)]
        super().__init__(model, tuple(dict.fromkeys(reader.weight for reader in self.readers)), seed)
        self.every = every
        room = sum(group.width - 1 for group in self.groups)
        self.count = room if count is None else count
        if isinstance(count, float) or not 0 <= self.count <= room:
            raise BadInputError("count", f"at most {room}, one less than each group has", repr(count), "Ask for fewer.")
        self.numbers["removed"] = []
        for group in self.groups:
            self.tensors[f"alive/{group.name}"] = torch.ones(group.width, dtype=torch.bool)

    @abstractmethod
    def scores(self) -> dict[str, Tensor]:
        """Return what each neuron is worth now, by group."""

    def forget(self) -> None:
        """Drop what was gathered since the last removal."""

    @property
    def removed(self) -> tuple[Neuron, ...]:
        """The neurons that went, in their order."""
        return tuple(Neuron(group, index) for group, index in self.numbers["removed"])

    @property
    def widths(self) -> dict[str, int]:
        """How many neurons each group had at the start."""
        return {group.name: group.width for group in self.groups}

    def updated(self) -> Masks:
        """Remove the neuron that is worth least, when the time has come."""
        if self.step % self.every or len(self.numbers["removed"]) >= self.count:
            return {}
        name, index = self._cheapest()
        self.tensors[f"alive/{name}"][index] = False
        self.numbers["removed"].append([name, index])
        self.forget()
        return self._masks_of(name)

    def _cheapest(self) -> tuple[str, int]:
        """The lowest score of a group that has neurons to spare; ties to the first."""
        found = []
        for place, (name, values) in enumerate(self.scores().items()):
            alive = self.tensors[f"alive/{name}"]
            if int(alive.sum()) > 1:
                values = torch.where(alive & ~values.isnan(), values.double(), torch.inf)
                index = int(values.argmin())
                found.append((float(values[index]), place, name, index))
        score, _, name, index = min(found)
        if score == float("inf"):
            raise ShrinknetError(
                f"{self.name} must have scores to choose by. Got none since the last removal. Let the loop train the "
                "model that was given, with gradients, through the layers' own calls."
            )
        return name, index

    def _masks_of(self, name: str) -> Masks:
        masks, alive = Masks(), self.tensors[f"alive/{name}"]
        for reader in self.readers:
            if reader.group.name == name:
                mask = masks.get(reader.weight, self.masks[reader.weight])
                kept = torch.where(reader.owners >= 0, alive[reader.owners.clamp_min(0)], True)
                masks[reader.weight] = mask & kept.to(mask.device).view(1, -1, *[1] * (mask.dim() - 2))
        return masks


def inner_groups(model: nn.Module, example_inputs: AnyInputs, only: Sequence[str]) -> list[Group]:
    """Return the groups that one layer writes and that only dense layers and convolutions read.

    Raises:
        BadInputError: there is none, or a glob names none.
    """
    traced = trace(model, example_inputs)
    weighed = only_weighed(Program(traced))
    groups = [g for g in traced.groups if _is_inner(model, g) and all(bool(weighed[k]) for k in traced.ids_of(g))]
    names = [group.name for group in groups]
    for glob in only:
        if not any(fnmatch(name, glob) for name in names):
            raise BadInputError("only", "globs of groups of inner neurons", repr(glob), did_you_mean(glob, names))
    chosen = [group for group in groups if not only or any(fnmatch(group.name, glob) for glob in only)]
    if not chosen:
        do = "Use 'shrinknet prune', which follows widths that blocks add up."
        raise BadInputError("model", "a network with neurons that one layer writes", type(model).__name__, do)
    return chosen


def _is_inner(model: nn.Module, group: Group) -> bool:
    named = dict(model.named_parameters(remove_duplicate=False))
    uses = Counter(named.values())
    matrices = {name for name, parameter in named.items() if parameter.dim() > 1}
    writers = [part for part in group.slices if part.role == "writes" and part.parameter in matrices]
    reads = [part for part in group.slices if part.role == "reads"]
    own = all(_reader_module(model, part) is not None and uses[named[part.parameter]] == 1 for part in reads)
    return len(writers) == 1 and bool(reads) and own


def _reader_module(model: nn.Module, part: Slice) -> nn.Module | None:
    module_name, _, leaf = part.parameter.rpartition(".")
    module = model.get_submodule(module_name)
    reads = isinstance(module, nn.Linear) or (isinstance(module, nn.modules.conv._ConvNd) and module.groups == 1)
    return module if reads and leaf == "weight" and part.axis == 1 else None


def _readers(model: nn.Module, group: Group) -> list[Reader]:
    found = []
    for part in group.slices:
        module = _reader_module(model, part) if part.role == "reads" else None
        if module is not None:
            axis = -1 if isinstance(module, nn.Linear) else 1
            found.append(Reader(group, module, part.parameter, axis, torch.tensor(part.owners)))
    return found
