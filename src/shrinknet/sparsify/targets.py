"""What a training-time method works on: the weights of a model, where they stand, and the optimizer that moves them."""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatch

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from shrinknet.core.errors import BadInputError, did_you_mean


def chosen_weights(model: nn.Module, globs: Sequence[str]) -> dict[str, nn.Parameter]:
    """Return the matrices and kernels that globs name; all of dense, convolutional and recurrent layers without one.

    Globs choose matrices and kernels; a bias is chosen by its whole name only. Embeddings, and what shares its tensor
    with one, are left whole unless named. A shared tensor stands under the first of its names that is chosen.

    Raises:
        BadInputError: a glob names nothing.

    >>> list(chosen_weights(nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2), nn.GRU(2, 2)), ()))
    ['0.weight', '2.weight_ih_l0', '2.weight_hh_l0']
    """
    modules, named = dict(model.named_modules()), dict(model.named_parameters(remove_duplicate=False))
    tables = {p for m in modules.values() if isinstance(m, nn.Embedding | nn.EmbeddingBag) for p in m.parameters()}
    found: dict[str, nn.Parameter] = {}
    for name, parameter in named.items():
        is_wanted = parameter.dim() >= 2 and any(fnmatch(name, glob) for glob in globs)
        if not globs:
            is_wanted = parameter.dim() >= 2 and parameter not in tables
        if (is_wanted or name in globs) and all(parameter is not other for other in found.values()):
            found[name] = parameter
    for glob in globs:
        if not any(fnmatch(name, glob) and (p.dim() >= 2 or name == glob) for name, p in named.items()):
            raise BadInputError("layers", "globs of weights' names", repr(glob), did_you_mean(glob, named))
    if not found:
        raise BadInputError("model", "a network with weights to mask", type(model).__name__, "Name them by layers.")
    return found


def owners_of(model: nn.Module, weight: nn.Parameter) -> list[tuple[nn.Module, str]]:
    """Return every place of a model where a parameter stands."""
    return [(m, leaf) for m in model.modules() for leaf, own in m._parameters.items() if own is weight]


def put(module: nn.Module, leaf: str, value: Tensor) -> None:
    """Let a tensor stand where a parameter stands, in its order; recurrent layers read a list of their own."""
    module._parameters[leaf] = value  # type: ignore[assignment]
    if isinstance(module, nn.RNNBase):
        module._flat_weights[module._flat_weights_names.index(leaf)] = value


def check_optimizer(optimizer: object, weights: Mapping[str, nn.Parameter]) -> None:
    """Raise where steps of an optimizer cannot be followed.

    Raises:
        BadInputError: it is not torch's, takes several passes for a step, is fused into the backward pass, or
            does not hold the weights.
    """
    if not isinstance(optimizer, Optimizer) or isinstance(optimizer, torch.optim.LBFGS):
        allowed = "one of torch.optim that steps once for each backward pass"
        raise BadInputError("optimizer", allowed, type(optimizer).__name__, "Use SGD, Adam or another of that kind.")
    held = {parameter for group in optimizer.param_groups for parameter in group["params"]}
    for name, weight in weights.items():
        if getattr(weight, "_post_accumulate_grad_hooks", None):
            got = f"updates fused into it, at {name!r}"
            do = "Take the hooks off (register_post_accumulate_grad_hook), and call optimizer.step()."
            raise BadInputError("optimizer", "one whose step follows the backward pass", got, do)
    if held.isdisjoint(weights.values()):
        do = "Give it model.parameters()."
        raise BadInputError("optimizer", "the one that trains the model", f"one without {next(iter(weights))!r}", do)


def flushes_denormals() -> bool:
    """Whether tiny numbers are taken for zero: momentum that fades behind a mask else slows every product."""
    return float(torch.tensor(1e-39, dtype=torch.float32) * torch.ones((), dtype=torch.float32)) == 0
