"""Prune once, obtain a family: a pruned network's widths, scaled to other budgets and trained anew (Crowley et al.)."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn

from shrinknet.core.errors import BadInputError
from shrinknet.core.records import Costs, Neuron
from shrinknet.graph.trace import Trace, trace
from shrinknet.graph.widths import Present
from shrinknet.measure.costs import costs
from shrinknet.surgery.own_module import cut_module, new_attributes
from shrinknet.surgery.remove import cut_graph, kept_indices
from shrinknet.task.trees import AnyInputs


@dataclass(frozen=True, slots=True)
class Architecture:
    """How many neurons of each group a pruned network has, and how many the whole one: what pruning found.

    >>> found = Architecture({"conv1": 8, "conv2": 16}, {"conv1": 2, "conv2": 12})
    >>> found.scaled(0.5).kept
    {'conv1': 1, 'conv2': 6}
    """

    full: Mapping[str, int]
    kept: Mapping[str, int]

    @classmethod
    def after(cls, widths: Mapping[str, int], removed: Iterable[Neuron]) -> "Architecture":
        """Return what is left of some groups once neurons went."""
        kept = dict(widths)
        for neuron in removed:
            kept[neuron.group] -= 1
        return cls(dict(widths), kept)

    @classmethod
    def read(cls, path: str | Path) -> "Architecture":
        """Read `architecture.json`.

        Raises:
            BadInputError: it is not one.
        """
        try:
            content = json.loads(Path(path).read_text())
            full, kept = ({str(name): int(width) for name, width in content[part].items()} for part in ("full", "kept"))
            if full.keys() != kept.keys() or not all(1 <= kept[name] <= full[name] for name in full):
                raise ValueError("widths outside 1 to those of the whole network")
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            allowed = "a file that holds full and kept widths"
            raise BadInputError("architecture", allowed, f"{str(path)!r} ({error})", "Make it again.") from error
        return cls(full, kept)

    def write(self, path: str | Path) -> None:
        """Write `architecture.json`."""
        Path(path).write_text(json.dumps(asdict(self), indent=1) + "\n")

    def scaled(self, factor: int | float) -> "Architecture":
        """Return the same profile, every width times one factor, rounded; from 1 to the whole width."""
        kept = {n: min(self.full[n], max(1, round(factor * width))) for n, width in self.kept.items()}
        return Architecture(self.full, kept)


class Family:
    """Networks of one class whose widths differ: their costs, and the networks, with fresh weights.

    Args:
        model: the whole network; its modules must know how to reset their parameters, as torch's do.
        example_inputs: two samples.

    >>> from shrinknet.graph.trace import trace
    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> family = Family(model, torch.randn(2, 4))
    >>> family.build(Architecture({"0": 8}, {"0": 3}), seed=0)[0]
    Linear(in_features=4, out_features=3, bias=True)
    """

    def __init__(self, model: nn.Module, example_inputs: AnyInputs) -> None:
        self.model, self.trace = model, trace(model, example_inputs)

    def costs(self, architecture: Architecture) -> Costs:
        """Return what a member costs."""
        return costs(self.trace, _present(self.trace, architecture))

    def at(self, architecture: Architecture, num_parameters: int) -> Architecture:
        """Return the largest member with the architecture's profile and at most so many parameters.

        Raises:
            BadInputError: even one neuron in each group is too many.
        """
        least = self.costs(architecture.scaled(0)).num_parameters
        if least > num_parameters:
            allowed = f"at least {least:,}, those of the smallest member"
            raise BadInputError("num_parameters", allowed, f"{num_parameters:,}", "Ask for more.")
        low, high = 0.0, max(architecture.full[n] / width for n, width in architecture.kept.items()) + 1
        for _ in range(40):
            middle = (low + high) / 2
            if self.costs(architecture.scaled(middle)).num_parameters <= num_parameters:
                low = middle
            else:
                high = middle
        return architecture.scaled(low)

    def build(self, architecture: Architecture, seed: int) -> nn.Module:
        """Return a member with fresh weights, drawn from a seed; the whole network is not touched.

        Raises:
            BadInputError: a module with parameters of its own cannot reset them.
        """
        present = _present(self.trace, architecture)
        kept = kept_indices(self.trace, present)
        cut = cut_graph(self.trace, present)
        member = cut_module(self.model, kept, new_attributes(self.model, self.trace, cut, kept))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for name, module in member.named_modules():
                reset = getattr(module, "reset_parameters", None)
                if callable(reset):
                    reset()
                elif next(module.parameters(recurse=False), None) is not None:
                    allowed = "a network whose modules have reset_parameters"
                    raise BadInputError("model", allowed, f"{name!r} without it", "Write one.")
        return member


def _present(traced: Trace, architecture: Architecture) -> Present:
    widths = {group.name: group.width for group in traced.groups}
    for name, width in architecture.full.items():
        if widths.get(name) != width:
            got = f"group {name!r} of {width}, where it has {widths.get(name)}"
            raise BadInputError("architecture", "one of this network", got, "Use the network that was pruned.")
    gone = [Neuron(name, k) for name, kept in architecture.kept.items() for k in range(kept, architecture.full[name])]
    return traced.present(tuple(gone))
