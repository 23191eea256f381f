"""The config of a smaller network of transformers': with it, plain `from_pretrained` makes that network."""

from collections.abc import Iterator, Mapping
from fractions import Fraction
from itertools import chain, combinations, islice

import torch
from torch import nn

from shrinknet.graph.configs import Path, axes_by_number, numbers, set_numbers, shapes, shapes_by, with_numbers
from shrinknet.task.task import evaluating
from shrinknet.task.trees import Inputs, are_alike, called

MOST_TRIES = 256
"""So many configs are tried at most."""


def mend_config(model: nn.Module, smaller: nn.Module, inputs: Inputs) -> bool:
    """Write into the smaller network's config the numbers that its class makes it of, where there are such numbers.

    Several numbers may explain one shape (half the heads, or heads of half the width): the one is right with which
    the class, made anew and given the weights, gives the same outputs.

    Args:
        model: the whole network.
        smaller: the same class, cut.
        inputs: some rows.

    Returns:
        Whether the config says the smaller network now.

    Cost: for each number of the config the class is made without memory; once or a few times with memory, and run.
    """
    wanted = shapes(smaller)
    for values in islice(_guesses(model, smaller), MOST_TRIES):
        if shapes_by(model, values) == wanted and _is_right(smaller, values, inputs):
            set_numbers(smaller.config, values)
            return True
    return False


def _guesses(model: nn.Module, smaller: nn.Module) -> Iterator[Mapping[Path, int]]:
    """Yield numbers for the config, those first that cut how many heads there are, not how wide they are.

    A number that alone decides an axis shrinks with it. Of those that decide one together, or decide none (where each
    head has its part of a width), any may have shrunk.
    """
    before, after, said = shapes(model), shapes(smaller), numbers(model.config)
    axes = axes_by_number(model)
    shares = {
        path: {Fraction(after[name][axis], before[name][axis]) for name, axis in found} for path, found in axes.items()
    }
    cut = {path: next(iter(found)) for path, found in shares.items() if len(found) == 1 and found != {Fraction(1)}}
    alone = {path for path in cut if not any(set(axes[path]) & set(axes[other]) for other in cut if other != path)}
    maybe = [(path, share) for path, share in cut.items() if path not in alone]
    maybe += [(path, share) for path in said if path not in axes and _counts_heads(path) for share in set(cut.values())]
    sure = [(path, cut[path]) for path in alone]
    subsets = chain.from_iterable(combinations(maybe, count) for count in range(len(maybe), -1, -1))
    for some in sorted(subsets, key=lambda chosen: sum(not _counts_heads(path) for path, _ in chosen)):
        values = {path: said[path] * share for path, share in [*sure, *some]}
        if all(value.denominator == 1 for value in values.values()):
            yield {path: int(value) for path, value in values.items()}


def _counts_heads(path: Path) -> bool:
    return "head" in path[-1] and "dim" not in path[-1]


def _is_right(smaller: nn.Module, values: Mapping[Path, int], inputs: Inputs) -> bool:
    """Whether the class, made of a config with these numbers and given the weights, gives the same outputs."""
    tensor = next(smaller.parameters())
    try:
        config = with_numbers(smaller.config, values)
        config = type(config).from_dict(config.to_dict())  # as a file is read: what it must be is looked at there
        made = type(smaller)(config).to(tensor.device, tensor.dtype)
        made.load_state_dict(smaller.state_dict())
        with evaluating(made), evaluating(smaller), torch.no_grad():
            return are_alike(called(made, inputs), called(smaller, inputs))
    except Exception:  # whatever the class says of numbers, weights or inputs that do not go together
        return False
