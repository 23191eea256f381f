"""What a training-time method works on: the weights of a model, where they stand, and the optimizer that moves them."""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatch

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from shrinknet.errors import BadInputError, did_you_mean


def chosen_weights(model: nn.Module, globs: Sequence[str]) -> dict[str, nn.Parameter]:
    """Return the matrices and kernels that globs name; all of dense, convolutional and recurrent layers without one.

    Embeddings, norms and biases are left whole unless a glob names them. A shared tensor stands under its first name.

    Raises:
        BadInputError: a glob names nothing.

    >>> list(chosen_weights(nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2), nn.GRU(2, 2)), ()))
    ['0.weight', '2.weight_ih_l0', '2.weight_hh_l0']
    """
    modules = dict(model.named_modules())
    found = {}
    for name, parameter in model.named_parameters():
        module = modules[name.rpartition(".")[0]]
        is_matrix = parameter.dim() >= 2 and not isinstance(module, nn.Embedding | nn.EmbeddingBag)
        if is_matrix if not globs else any(fnmatch(name, glob) for glob in globs):
            found[name] = parameter
    for glob in globs:
        if not any(fnmatch(name, glob) for name in found):
            names = [name for name, _ in model.named_parameters()]
            raise BadInputError("layers", "globs of weights' names", repr(glob), did_you_mean(glob, names))
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
        raise BadInputError(
            "optimizer", "one of torch.optim that steps once for each backward pass", type(optimizer).__name__,
            "Use SGD, Adam or another of that kind.",
        )  # fmt: skip
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    for name, weight in weights.items():
        if getattr(weight, "_post_accumulate_grad_hooks", None):
            raise BadInputError(
                "optimizer", "one whose step follows the backward pass", f"updates fused into it, at {name!r}",
                "Take the hooks off (register_post_accumulate_grad_hook), and call optimizer.step().",
            )  # fmt: skip
    if not any(id(weight) in held for weight in weights.values()):
        raise BadInputError(
            "optimizer", "the one that trains the model", f"one without {next(iter(weights))!r}",
            "Give it model.parameters().",
        )  # fmt: skip


def flushes_denormals() -> bool:
    """Whether tiny numbers are taken for zero: momentum that fades behind a mask else slows every product."""
    return float(torch.tensor(1e-39) * torch.ones(())) == 0
