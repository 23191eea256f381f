"""`shrinknet inspect`: what can be removed, what is frozen, and why."""

from collections import defaultdict
from dataclasses import asdict
from typing import Annotated, Any

import typer
from torch import nn

from shrinknet.cli import console
from shrinknet.cli.flags import spread
from shrinknet.cli.options import Json, Model, ModelFlags
from shrinknet.core.config import Scope
from shrinknet.core.errors import BadInputError
from shrinknet.core.records import Group
from shrinknet.core.units import bytes_text, percent
from shrinknet.graph.restrict import restrict
from shrinknet.graph.trace import Trace, trace
from shrinknet.loading.models import load_model
from shrinknet.measure.costs import costs, operator_costs, reach
from shrinknet.task.trees import joined

Operators = Annotated[bool, typer.Option("--operators", help="Show what each operator of the graph costs, too.")]


@spread
def command(model: Model, given: ModelFlags, scope: Scope, operators: Operators = False, json: Json = False) -> None:
    """Show groups of neurons, every parameter and what becomes of it, bytes and MACs; and what is frozen, and why."""
    loaded = load_model(model, given.weights, given.example_input, trust_pickle=given.trust_pickle)
    if loaded.example_inputs is None:
        raise BadInputError(
            "--example-input",
            "given with a factory",
            "nothing",
            "Write the shape of one sample, such as 1x28x28 (or 128:int64).",
        )
    example = loaded.example_inputs
    traced = trace(loaded.model, example if len(example) > 1 else joined([example, example]))
    traced = restrict(traced, scope.keep, scope.only)
    if json:
        console.print_json(as_json(traced))
    else:
        _print(traced, operators)


def as_json(traced: Trace) -> dict[str, object]:
    """Return what `inspect` shows, for machines."""
    return {
        "groups": [
            {
                "name": g.name,
                "width": g.width,
                "writes": _parameters(g, "writes"),
                "reads": _parameters(g, "reads"),
            }
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


def _print(traced: Trace, operators: bool) -> None:
    rows = [
        (
            group.name,
            group.width,
            ", ".join(_parameters(group, "writes")),
            ", ".join(_parameters(group, "reads")),
        )
        for group in traced.groups
    ]
    console.table("Groups of neurons that can be removed", ("group", "neurons", "written by", "read by"), rows)
    console.out.print()
    console.table(
        "Parameters",
        ("parameter", "shape", "", "axis by axis"),
        [
            (
                row["name"],
                "x".join(map(str, row["shape"])) or "1",
                row["status"],
                "; ".join(f"{axis}: {', '.join(said)}" for axis, said in row["axes"].items()),
            )
            for row in parameter_rows(traced)
        ],
    )
    if operators:
        console.out.print()
        console.table(
            "Operators, for one sample",
            ("operator", "in", "parameters", "MACs", "bytes of output"),
            [
                (row.operator, row.module, row.num_parameters, row.macs, row.activation_bytes)
                for row in operator_costs(traced, traced.present())
            ],
        )
    total, reachable = costs(traced, traced.present()), reach(traced)
    console.out.print(
        f"\n{len(traced.groups)} groups, {total.num_neurons:,} neurons, {total.num_parameters:,} parameters, "
        f"{bytes_text(total.flash_bytes)} of flash, {bytes_text(total.peak_ram_bytes)} of peak RAM, "
        f"{total.macs:,} MACs. In reach: {percent(reachable.num_parameters)} of the parameters, "
        f"{percent(reachable.macs)} of the MACs."
    )
