"""Leave groups whole on request: `keep=` and `only=` take name globs."""

from collections.abc import Sequence
from dataclasses import replace
from fnmatch import fnmatchcase

import numpy as np

from shrinknet.core.errors import BadInputError, did_you_mean
from shrinknet.core.records import Frozen, Group
from shrinknet.core.units import globs
from shrinknet.graph.call import argument_at
from shrinknet.graph.groups import Layout
from shrinknet.graph.names import owner_of
from shrinknet.graph.trace import Trace


def restrict(trace: Trace, keep: str | Sequence[str] = (), only: str | Sequence[str] = ()) -> Trace:
    """Return the trace with fewer groups: none that `keep` matches, and those alone that `only` matches.

    A glob is held against a group's name and against every layer and parameter that writes into the group.

    Raises:
        BadInputError: a glob matches nothing.
    """
    keep, only = globs(keep), globs(only)
    for argument, patterns in (("keep", keep), ("only", only)):
        for pattern in patterns:
            _check_matches_something(argument, pattern, trace)
    left = [group for group in trace.groups if not _matched(group, keep) and (not only or _matched(group, only))]
    return trace if len(left) == len(trace.groups) else _with_groups(trace, left)


def _names(group: Group) -> set[str]:
    parameters = {part.parameter for part in group.slices if part.role == "writes"}
    return {group.name} | parameters | {owner_of(name) for name in parameters}


def _matched(group: Group, patterns: Sequence[str]) -> bool:
    return any(_is_meant(name, pattern) for name in _names(group) for pattern in patterns)


def _is_meant(name: str, pattern: str) -> bool:
    """Whether a glob matches a name; a name matches itself, brackets or not."""
    return name == pattern or fnmatchcase(name, pattern)


def _check_matches_something(argument: str, pattern: str, trace: Trace) -> None:
    names = set().union(*(_names(group) for group in trace.groups)) - {""}
    if not any(_is_meant(name, pattern) for name in names):
        groups = names if any(pattern[:2] == name[:2] for name in names) else {g.name for g in trace.groups}
        raise BadInputError(argument, "a glob of group names", repr(pattern), did_you_mean(pattern, groups))


def _with_groups(trace: Trace, groups: list[Group]) -> Trace:
    """Renumber the neurons of the groups that are left; all others become part of what stays."""
    number = np.zeros(trace.num_neurons + 1, np.int64)
    count = 0
    for group in groups:
        ids = trace.ids_of(group)
        number[ids.start : ids.stop] = np.arange(count + 1, count + group.width + 1)
        count += group.width

    def renumbered(layout: Layout) -> Layout:
        axes = (None if ids is None else number[ids] for ids in layout)
        return tuple(None if ids is None or not ids.any() else ids for ids in axes)

    dropped = [group for group in trace.groups if group not in groups]
    asked = [
        Frozen(part.parameter, part.axis, sum(owner >= 0 for owner in part.owners), "left whole on request")
        for group in dropped
        for part in group.slices
    ]
    layouts = {name: renumbered(layout) for name, layout in trace.layouts.items()}
    arguments = {node.name: node.args for node in trace.nodes}
    sites = [
        site
        for site in trace.sites
        if layouts[argument_at(arguments[site.node], site.argument).name][site.axis] is not None
    ]
    return replace(
        trace,
        groups=tuple(groups),
        frozen=(*trace.frozen, *asked),
        layouts=layouts,
        tensor_layouts={name: renumbered(layout) for name, layout in trace.tensor_layouts.items()},
        sites=tuple(sites),
    )
