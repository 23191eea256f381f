"""The user's own module, smaller: a copy with sliced tensors and attributes that say so."""

import copy
import traceback

import torch
from torch import Tensor, nn

from shrinknet.errors import FixedWidthError
from shrinknet.surgery.remove import Kept, slice_tensors
from shrinknet.task import evaluating


def cut_module(model: nn.Module, kept: Kept) -> nn.Module:
    """Return a copy of the user's module without the removed neurons; the original is not touched.

    Class, names, modes and hooks are kept; `out_features`, `num_features`, `groups` and their like say the new widths.
    """
    smaller = copy.deepcopy(model)
    slice_tensors(smaller, kept)
    for module in smaller.modules():
        _mend_attributes(module)
    return smaller


def _mend_attributes(module: nn.Module) -> None:
    weight = getattr(module, "weight", None)
    if isinstance(module, nn.Linear):
        module.out_features, module.in_features = module.weight.shape
    elif isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        if module.groups > 1:  # only depthwise kernels are cut: one group for each channel
            multiplier = module.out_channels // module.groups
            module.groups = module.weight.shape[0] // multiplier
        module.out_channels = module.weight.shape[0]
        module.in_channels = module.weight.shape[1] * module.groups
    elif isinstance(module, nn.modules.batchnorm._BatchNorm):
        statistics = module.running_mean if module.running_mean is not None else weight
        if isinstance(statistics, Tensor):
            module.num_features = len(statistics)
    elif isinstance(module, nn.PReLU):
        module.num_parameters = len(module.weight)


def check_own_module(smaller: nn.Module, inputs: Tensor, expected: Tensor, tolerance: float) -> None:
    """Check that the user's own code, on the smaller tensors, gives what the cut graph gives.

    Raises:
        FixedWidthError: it fails, or runs and differs; the message names the place and that the exported form is
            there.
    """
    with evaluating(smaller), torch.no_grad():
        try:
            outputs = smaller(inputs)
        except Exception as error:  # whatever the user's own forward raises at another width
            raise FixedWidthError(_message(f"fixes a width ({_place(error)}): {error}")) from error
    if outputs.shape != expected.shape or not float((outputs - expected).abs().max()) <= tolerance:
        raise FixedWidthError(_message("runs at the smaller widths but computes something else"))


def _message(what: str) -> str:
    return (
        f"The model's own Python code {what}. "
        f"Use the exported form (run.exported, model.pt2), which is there and proven."
    )


def _place(error: Exception) -> str:
    """The innermost line of the user's own code."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "/torch/" not in frame.filename and frame.filename != __file__]
    frame = (own or list(frames))[-1]
    return f"{frame.filename}, line {frame.lineno}, in {frame.name}: {(frame.line or '').strip()!r}"
