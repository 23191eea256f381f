"""What `inspect` shows of a traced network."""

from collections import defaultdict
from dataclasses import asdict
from typing import Any

from torch import nn

from shrinknet.cli import console
from shrinknet.core.records import Group
from shrinknet.core.units import bytes_text, counted, percent
from shrinknet.graph.trace import Trace
from shrinknet.measure.costs import costs, operator_costs, reach


def as_json(traced: Trace) -> dict[str, object]:
    """Return what `inspect` shows, for machines."""
    return {
        "groups": [
            {"name": g.name, "width": g.width, "writes": _parameters(g, "writes"), "reads": _parameters(g, "reads")}
            for g in traced.groups
        ],
        "frozen": [
            {"parameter": f.parameter, "axis": f.axis, "elements": f.num_elements, "reason": f.reason}
            for f in traced.frozen
        ],
        "parameters": parameter_rows(traced),
        "operators": [asdict(row) for row in operator_costs(traced, traced.present())],
        "reach": asdict(reach(traced)),
        **asdict(costs(traced, traced.present())),
    }


def parameter_rows(traced: Trace) -> list[dict[str, Any]]:
    """Return every parameter of the network: its shape, and what becomes of each of its axes."""
    axes: dict[str, dict[int, list[str]]] = defaultdict(lambda: defaultdict(list))
    for group in traced.groups:
        for part in group.slices:
            axes[part.parameter][part.axis].append(f"{part.role} {group.name}")
    free = {name: set(found) for name, found in axes.items()}
    for frozen in traced.frozen:
        axes[frozen.parameter][frozen.axis].append(f"frozen: {frozen.reason}")
    first = {tensor: name for name, tensor in reversed(traced.tensors.items())}
    known = {traced.tensors[name]: name for name in axes}
    rows = []
    for name, tensor in traced.tensors.items():
        if not isinstance(tensor, nn.Parameter):
            continue
        source = known.get(tensor)
        says = dict(sorted(axes[source].items())) if source else {}
        status = "prunable" if source and free.get(source) else "frozen" if says else "never read in eval mode"
        if first[tensor] != name:
            status += f" (the same tensor as {first[tensor]})"
        rows.append({"name": name, "shape": list(tensor.shape), "status": status, "axes": says})
    return rows


def _parameters(group: Group, role: str) -> list[str]:
    return [f"{part.parameter}[{part.axis}]" for part in group.slices if part.role == role]


def _axis_by_axis(axes: dict[int, list[str]]) -> str:
    return "; ".join(f"{axis}: {', '.join(said)}" for axis, said in axes.items())


def show(traced: Trace, operators: bool) -> None:
    """Print what can be removed, every parameter, and the sums."""
    rows = [
        (group.name, group.width, ", ".join(_parameters(group, "writes")), ", ".join(_parameters(group, "reads")))
        for group in traced.groups
    ]
    console.table("Groups of neurons that can be removed", ("group", "neurons", "written by", "read by"), rows)
    console.out.print()
    parameters = [
        (row["name"], "x".join(map(str, row["shape"])) or "1", row["status"], _axis_by_axis(row["axes"]))
        for row in parameter_rows(traced)
    ]
    console.table("Parameters", ("parameter", "shape", "", "axis by axis"), parameters)
    if operators:
        console.out.print()
        columns = ("operator", "in", "parameters", "MACs", "bytes of output")
        found = operator_costs(traced, traced.present())
        shown = [(one.operator, one.module, one.num_parameters, one.macs, one.activation_bytes) for one in found]
        console.table("Operators, for one sample", columns, shown)
    total, reachable = costs(traced, traced.present()), reach(traced)
    console.out.print(
        f"\n{counted(len(traced.groups), 'group')}, {counted(total.num_neurons, 'neuron')}, "
        f"{counted(total.num_parameters, 'parameter')}, "
        f"{bytes_text(total.flash_bytes)} of flash, {bytes_text(total.peak_ram_bytes)} of peak RAM, "
        f"{total.macs:,} MACs. In reach: {percent(reachable.num_parameters)} of the parameters, "
        f"{percent(reachable.macs)} of the MACs."
    )
