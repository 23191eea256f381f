"""Torch-Pruning 1.6.1 on the same network, configured as its README says."""

import copy
import time
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

SHARE = 0.3


def rival(model: nn.Module, inputs: tuple[Tensor, ...], num_outputs: int) -> dict[str, Any]:
    """Return what Torch-Pruning makes of a network: magnitude, 30 %, one step, the classifier left alone.

    It is compared, where that can be done from outside, with the original whose readers get zeros for the inputs that
    were taken away. Where it cuts norms over the pruned axis, whose statistics then change, that says nothing.
    """
    original, result = copy.deepcopy(model), {"runs": False, "reason": "", "removed_parameters": 0.0, "worst": None}
    before = sum(parameter.numel() for parameter in model.parameters())
    try:
        started = time.perf_counter()
        pruner = pruner_of(model, inputs, num_outputs)
        traced = time.perf_counter()
        pruner.step()
        result |= {"trace_seconds": traced - started, "cut_seconds": time.perf_counter() - traced}
        with torch.no_grad():
            outputs = _leaves(model(*inputs))
    except Exception as error:  # whatever it raises is the result
        return result | {"reason": f"{type(error).__name__}: {_first_line(error)}"}
    with torch.no_grad():
        wanted = _leaves(original(*inputs))
    after = sum(parameter.numel() for parameter in model.parameters())
    result |= {
        "runs": [o.shape for o in outputs] == [o.shape for o in wanted],
        "removed_parameters": 1 - after / before,
    }
    if not result["runs"]:
        return result | {"reason": "the pruned network has outputs of another shape"}
    if after == before:
        return result | {"reason": "nothing was removed"}
    try:
        expected = _masked_outputs(original, inputs, num_outputs)
    except Exception as error:  # our reading of its record, not its fault
        return result | {"reason": f"not compared ({type(error).__name__})"}
    if expected is None:
        return result | {"reason": "not compared: norms over the pruned axis"}
    scale = max(1.0, max(float(one.abs().max()) for one in expected))
    result["worst"] = max(float((a - b).abs().max()) for a, b in zip(outputs, expected, strict=True)) / scale
    return result


def verdict(theirs: dict[str, Any]) -> str:
    """Say in a few words what became of its result."""
    if not theirs.get("runs"):
        kind = theirs["reason"].partition(":")[0]
        return f"fails ({kind})"
    if theirs["reason"]:
        return str(theirs["reason"])
    return "same outputs" if theirs["worst"] < 1e-4 else f"other outputs (by {theirs['worst']:.0e})"


def pruner_of(model: nn.Module, inputs: tuple[Tensor, ...], num_outputs: int) -> Any:
    """Return its pruner: magnitude, 30 %, the classifier ignored."""
    import torch_pruning as tp

    last = [m for m in model.modules() if isinstance(m, nn.Linear | nn.Conv2d) and m.weight.shape[0] == num_outputs]
    return tp.pruner.BasePruner(
        model, inputs if len(inputs) > 1 else inputs[0], tp.importance.GroupMagnitudeImportance(p=2),
        pruning_ratio=SHARE, ignored_layers=last[-1:],
    )  # fmt: skip


def _leaves(outputs: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(outputs) if isinstance(leaf, Tensor)]


def _masked_outputs(original: nn.Module, inputs: tuple[Tensor, ...], num_outputs: int) -> list[Tensor] | None:
    """Follow its record on a second copy, and answer with the original whose readers get zeros."""
    import torch_pruning as tp

    model, masked = copy.deepcopy(original), copy.deepcopy(original)
    names, left = {module: name for name, module in model.named_modules()}, dict[str, list[int]]()
    comparable = True
    for group in pruner_of(model, inputs, num_outputs).step(interactive=True):
        comparable = _mask(masked, names, left, group, tp) and comparable
        group.prune()
    with torch.no_grad():
        return _leaves(masked(*inputs)) if comparable else None


def _mask(masked: nn.Module, names: dict[nn.Module, str], left: dict[str, list[int]], group: Any, tp: Any) -> bool:
    """Zero, in the copy of the original, the inputs that the group takes from its readers; False if it has others.

    Its indices count what earlier groups have left of each reader's inputs; `left` holds their original places.
    """
    readers = {tp.prune_linear_in_channels, tp.prune_conv_in_channels}
    comparable = True
    for dependency, indices in group:
        module, function = dependency.target.module, dependency.handler
        is_norm = isinstance(module, nn.LayerNorm | nn.GroupNorm) or "RMSNorm" in type(module).__name__
        if is_norm or isinstance(module, nn.MultiheadAttention | nn.LSTM):
            comparable = False
        if function in readers and module in names:
            weight = masked.get_submodule(names[module]).weight
            axis = 0 if isinstance(module, nn.modules.conv._ConvTransposeNd) else 1
            places = left.setdefault(names[module], list(range(weight.shape[axis])))
            gone = {places[index] for index in indices}
            with torch.no_grad():
                weight.index_fill_(axis, torch.tensor(sorted(gone)), 0)
            left[names[module]] = [place for place in places if place not in gone]
    return comparable


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or ["no message"])[0][:160]
