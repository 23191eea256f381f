"""Whether the user's own class can hold a smaller network, and what would help where it cannot."""

import logging
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain, combinations, islice

import torch
from torch import nn
from torch.fx import GraphModule

from shrinknet.core.errors import FixedWidthError, first_line
from shrinknet.core.records import Group, Neuron, Tie
from shrinknet.engine.gates import GatedNetwork
from shrinknet.graph.names import owner_of
from shrinknet.graph.ties import ties_of
from shrinknet.graph.trace import named_tensors
from shrinknet.search.rank import Limits
from shrinknet.surgery.own_module import (
    Attributes,
    check_own_module,
    cut_module,
    doubts,
    modules_with_windows,
    new_attributes,
)
from shrinknet.surgery.proof import cut_program
from shrinknet.surgery.remove import cut_graph, kept_indices
from shrinknet.task.task import Task
from shrinknet.task.trees import Inputs, are_alike

log = logging.getLogger(__name__)


MOST_TRIES = 16
"""So often a class is tried where some attributes may be widths or not."""

MOST_GROUPS, NUMBERS = 16, re.compile(r"\d+")
"""Of more groups, blocks that are alike are tried once; their names differ by numbers."""


@dataclass(frozen=True)
class Own:
    """A smaller copy of the user's own module, and the attributes that say its new widths."""

    module: nn.Module
    attributes: Attributes


def own_class(model: nn.Module, network: GatedNetwork, cut: GraphModule, *rows: Inputs) -> Own:
    """Return a smaller copy of the user's own module that gives the same outputs as the cut graph.

    Where a number is a width in one place and by chance the same in another, either is tried.

    Args:
        model: the user's own.
        network: it, masked.
        cut: it, cut.
        rows: inputs on which they are compared, the fewest first.

    Raises:
        FixedWidthError: it does not give them.

    Cost: one copy and one run of the rows; more where attributes are in doubt.
    """
    kept = kept_indices(network.trace, network.present)
    doubtful = doubts(model, network.trace, cut)
    tries = chain.from_iterable(combinations(doubtful, count) for count in range(len(doubtful) + 1))
    first: FixedWidthError | None = None
    for spared in islice(tries, MOST_TRIES):
        attributes = new_attributes(model, network.trace, cut, kept, spared)
        smaller = cut_module(model, kept, attributes)
        refit, ours = named_tensors(cut), named_tensors(smaller)
        for name in network.program.tensors.keys() & ours.keys():
            ours[name].data.copy_(refit[name])
        try:
            for inputs in rows:
                _check(smaller, network, cut, inputs)
            return Own(smaller, attributes)
        except FixedWidthError as error:
            first = first or error
    assert first is not None
    raise first


def _check(smaller: nn.Module, network: GatedNetwork, cut: GraphModule, inputs: Inputs) -> None:
    with torch.no_grad():
        expected = cut_program(network.trace, cut, None).outputs(inputs)
    windows = modules_with_windows(network.trace, network.present)
    check_own_module(smaller, inputs, lambda own: are_alike(own, expected), windows)


def why_not_own(task: Task, network: GatedNetwork) -> FixedWidthError | None:
    """Return why the user's own module cannot hold what is left of a masked network; None where two rows say it can."""
    cut = cut_graph(network.trace, network.present, network.program.tensors)
    try:
        own_class(task.model, network, cut, task.example_inputs)
    except FixedWidthError as error:
        return error
    except RuntimeError as error:  # such a cut, which nobody asked for, may run in no form
        return FixedWidthError(f"The cut network does not run: {first_line(error)}")
    return None


def what_helps(task: Task, network: GatedNetwork) -> str:
    """Say what gives the class back: widths that shrink together, or groups that are left whole.

    Cost: for each group (of many: for each kind of them) one cut and one run of two rows.
    """
    broken = [by for tie in ties_of(network.trace, task.model) if not _holds(tie, network) for by in tie.by]
    ties = f" With `tie='class'` the widths of {' and '.join(broken)} go together." if broken else ""
    return ties + _what_to_keep(task, network)


def _holds(tie: Tie, network: GatedNetwork) -> bool:
    groups = [group for group in network.groups if group.name in tie.groups]
    shares = {Fraction(len(network.alive(group)), group.width) for group in groups}
    return len(shares) == 1 and not (tie.is_fixed and shares != {Fraction(1)})


def _what_to_keep(task: Task, network: GatedNetwork) -> str:
    """Say which groups the class does not bear the cut of, each by itself, if it comes back where they are whole.

    Of many groups, one stands for those of its name in other blocks.
    """
    kinds = defaultdict[str, list[Group]](list)
    for group in network.groups:
        kinds[NUMBERS.sub("#", group.name) if len(network.groups) > MOST_GROUPS else group.name].append(group)
    breaking = [alike for alike in kinds.values() if why_not_own(task, _cut_in(network, alike[:1])) is not None]
    fixed = [group for alike in breaking for group in alike]
    rest = [group for group in network.groups if group not in fixed]
    if not fixed or why_not_own(task, _cut_in(network, rest)) is not None:
        return ""
    writers = (next(part for part in group.slices if part.role == "writes") for group in fixed)
    keep = sorted({owner_of(part.parameter) or part.parameter for part in writers})
    return f" With `keep={keep}` the class comes back."


def _cut_in(network: GatedNetwork, groups: Sequence[Group]) -> GatedNetwork:
    """The network with all of its neurons, but for those that are gone from some groups."""
    present = network.trace.present()
    for group in groups:
        ids = network.trace.ids_of(group)
        present[ids.start : ids.stop] = network.present[ids.start : ids.stop]
    return network.with_present(present)


def foretell(task: Task, network: GatedNetwork, limits: Limits) -> None:
    """Say before a search, of a little less than the whole network, that the class will not come back.

    Cost: one cut and one run of two rows.
    """
    if isinstance(task.model, GraphModule):  # of a file: nobody's class
        return
    network = _a_little_less(network, limits)
    error = why_not_own(task, network)
    if error is not None:
        log.warning("The model's own class will not come back. %s%s", error, what_helps(task, network))


def _a_little_less(network: GatedNetwork, limits: Limits) -> GatedNetwork:
    """The network without one or two blocks of each bundle, by turns, lest widths stay equal by chance."""
    for place, bundle in enumerate(limits.bundles(network.groups)):
        for _ in range(1 + place % 2):
            alive = {group.name: network.alive(group) for group in bundle}
            block = limits.block(bundle, {name: len(there) for name, there in alive.items()})
            gone = [Neuron(name, int(index)) for name, size in block.items() for index in alive[name][:size]]
            network = network.without(gone)
    return network
