"""Kinds of models that cannot be followed, each refused in one sentence that names the remedy."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.ao.quantization import FakeQuantizeBase, ObserverBase
from torch.export import ExportedProgram
from torch.nn.parameter import is_lazy

from shrinknet.core.errors import BadInputError

QUANTIZED = ("torch.ao.nn.quantized", "torch.ao.nn.intrinsic.quantized", "torch.ao.nn.qat", "torch.ao.nn.intrinsic.qat")


def check_kind(model: object) -> None:
    """Check that a model is a module of real, dense tensors that are there, written in Python.

    Raises:
        BadInputError: it is something else; the message says what, and what to give instead.
    """
    if not isinstance(model, nn.Module):
        raise BadInputError("model", "a torch.nn.Module", _what(model), _instead_of(model))
    for name, module in model.named_modules():
        _check_module(name, module)
    for name, tensor in _tensors(model):
        _check_tensor(name, tensor)


def _what(model: object) -> str:
    return f"the class {model.__name__}" if isinstance(model, type) else type(model).__name__


def _instead_of(model: object) -> str:
    if isinstance(model, type):
        return "Make one: call the class."
    if isinstance(model, ExportedProgram):
        return "Give its module: program.module()."
    if hasattr(model, "module_"):  # nets of skorch
        return "Give the network inside: net.module_."
    if isinstance(model, dict):
        return "Build the network from its class, and load_state_dict."
    if hasattr(model, "initialize"):
        return "Call initialize() or fit, then give the network inside: net.module_."
    return "Put what it computes into the forward of one."


def _check_module(name: str, module: nn.Module) -> None:
    where = f" in {name!r}" if name else ""
    if isinstance(module, torch.jit.ScriptModule):
        got, do = f"a script module{where}", "Give the Python module that it was scripted or traced from."
    elif isinstance(module, FakeQuantizeBase | ObserverBase):
        got = f"one prepared for quantization ({type(module).__name__}{where})"
        do = "Shrink the float network first, then prepare it."
    elif type(module).__module__.startswith(QUANTIZED):
        got = f"a quantized {type(module).__name__}{where}"
        do = "Shrink the float network first, then quantize (or `quantize='int8'`)."
    else:
        return
    raise BadInputError("model", "a network of Python modules in floating point", got, do)


def _tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from model.named_parameters(remove_duplicate=False)
    yield from model.named_buffers(remove_duplicate=False)


def _check_tensor(name: str, tensor: Tensor) -> None:
    if is_lazy(tensor):
        got, do = "one whose shape is not known yet", "Call the model once on a batch, so that lazy modules get theirs."
    elif tensor.is_meta:
        got, do = "one on the meta device, without values", "Call model.to_empty(device='cpu') and load its weights."
    elif tensor.is_inference():
        got, do = "one made under torch.inference_mode", "Make it again outside, or give copy.deepcopy(model)."
    elif tensor.layout != torch.strided:
        got, do = f"one of layout {str(tensor.layout).removeprefix('torch.')}", "Call to_dense() on it."
    elif tensor.is_complex():
        got, do = "a complex one", "Write it as two real ones: torch.view_as_real."
    elif isinstance(tensor, nn.Parameter) and tensor.numel() == 0:
        got, do = f"one of shape {list(tensor.shape)}", "Leave that layer out: it computes nothing."
    else:
        return
    raise BadInputError(f"model's {name!r}", "a real, dense tensor with values", got, do)
