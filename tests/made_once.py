"""What torch makes anew for each export is made once for all tests: it is the same.

`ONNXRegistry.from_torchlib` takes as long as all else that `torch.onnx.export` does with a small network. The list of
composite operators is made anew for each of fifty namespaces whenever a program is decomposed, as every lowering does.
Where a node came from is copied, with where that came from, for each node in each of dozens of passes; nobody changes it.
"""

import functools
import sys

import torch
from torch._export import utils
from torch.fx.traceback import NodeSource

_COMPOSITE = "CompositeImplicitAutograd"
_make_all = utils._materialize_cpp_cia_ops
_seen: list[str] = []


def _make_new_ones() -> None:
    """Look at torch's composite operators again only where there are others than before."""
    there = torch._C._dispatch_get_registrations_for_dispatch_key(_COMPOSITE)
    if there != _seen:
        _make_all()
        _seen[:] = there


utils._materialize_cpp_cia_ops = _make_new_ones
NodeSource.__deepcopy__ = lambda source, memo: source


def keep_onnx_operators() -> None:
    """Keep the list of ONNX's operators, once something has imported what writes it."""
    module = sys.modules.get("torch.onnx._internal.exporter._registration")
    if module and not hasattr(module.ONNXRegistry.from_torchlib, "cache_info"):
        module.ONNXRegistry.from_torchlib = staticmethod(functools.cache(module.ONNXRegistry.from_torchlib))
