"""`shrinknet inspect`: what can be removed, what is frozen, and why."""

from collections import defaultdict

from shrinknet.cli import console
from shrinknet.cli.options import ExampleInput, Json, Model, TrustPickle, Weights
from shrinknet.errors import BadInputError
from shrinknet.graph.trace import Trace, trace
from shrinknet.loading.models import load_model
from shrinknet.measure.costs import costs
from shrinknet.records import Group
from shrinknet.report.summary import bytes_text


def command(
    model: Model,
    weights: Weights = None,
    example_input: ExampleInput = None,
    trust_pickle: TrustPickle = False,
    json: Json = False,
) -> None:
    """Show groups, neurons, parameters, bytes and MACs; and what is frozen, with the reason."""
    loaded = load_model(model, weights, example_input, trust_pickle=trust_pickle)
    if loaded.example_inputs is None:
        raise BadInputError(
            "--example-input",
            "given with a factory",
            "nothing",
            "Write the shape of one sample, such as 1x28x28.",
        )
    example = loaded.example_inputs
    traced = trace(loaded.model, example if len(example) > 1 else example.expand(2, *example.shape[1:]))
    if json:
        console.print_json(as_json(traced))
    else:
        _print(traced)


def as_json(traced: Trace) -> dict[str, object]:
    """Return what `inspect` shows, for machines."""
    total = costs(traced, traced.present())
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
        "num_neurons": total.num_neurons,
        "num_parameters": total.num_parameters,
        "flash_bytes": total.flash_bytes,
        "peak_ram_bytes": total.peak_ram_bytes,
        "macs": total.macs,
    }


def _parameters(group: Group, role: str) -> list[str]:
    return [f"{part.parameter}[{part.axis}]" for part in group.slices if part.role == role]


def _print(traced: Trace) -> None:
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
    reasons: dict[str, list[str]] = defaultdict(list)
    for frozen in traced.frozen:
        reasons[frozen.reason].append(f"{frozen.parameter}[{frozen.axis}] ({frozen.num_elements})")
    console.out.print()
    console.table(
        "Frozen",
        ("reason", "parameter[axis] (elements)"),
        [(why, ", ".join(axes)) for why, axes in reasons.items()],
    )
    total = costs(traced, traced.present())
    ram = bytes_text(total.peak_ram_bytes)
    console.out.print(
        f"\n{len(traced.groups)} groups, {total.num_neurons:,} neurons, {total.num_parameters:,} parameters, "
        f"{bytes_text(total.flash_bytes)} of flash, {ram} of peak RAM, {total.macs:,} MACs."
    )
