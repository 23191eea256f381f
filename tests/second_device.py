"""A second device where there is none: its tensors compute on the CPU, and refuse to meet tensors that lie there.

They say that they are on a device of which this build of torch knows the name alone. What torch lets meet on a GPU may meet
here: tensors of one number, copies, and places that something is indexed by.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

DEVICE = torch.device("lazy", 0)

INDEXED = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index"}
MAY_MEET = {"_to_copy", "copy_", "copy"} | INDEXED


class Elsewhere(Tensor):
    """A tensor of the second device."""

    here: Tensor

    @staticmethod
    def __new__(cls, here: Tensor) -> "Elsewhere":
        made: Elsewhere = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, here.shape, strides=here.stride(), storage_offset=here.storage_offset(), dtype=here.dtype,
            device=DEVICE, requires_grad=here.requires_grad,
        )  # fmt: skip
        made.here = here
        return made

    def __repr__(self, **options: Any) -> str:
        return f"Elsewhere({self.here})"

    def tolist(self) -> Any:
        return self.here.tolist()

    def untyped_storage(self) -> torch.UntypedStorage:
        return self.here.untyped_storage()

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return computed(function, args, kwargs or {})


def computed(function: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Compute an operator on the device where its tensors lie.

    Raises:
        RuntimeError: they lie on two.
    """
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    ours = [tensor for tensor in tensors if isinstance(tensor, Elsewhere)]
    name = function._schema.name.removeprefix("aten::")
    others = [tensor for tensor in tensors if not isinstance(tensor, Elsewhere) and tensor.dim() > 0]
    is_indexed_from_elsewhere = name in INDEXED and ours and not isinstance(args[0], Elsewhere)
    if ours and others and (name not in MAY_MEET or is_indexed_from_elsewhere):
        raise RuntimeError(f"Expected all tensors to be on the same device, but {name} met a tensor on the CPU")
    asked = kwargs.get("device")
    is_elsewhere = bool(ours) if asked is None else torch.device(asked).type == DEVICE.type
    if name in INDEXED or name == "copy_":
        is_elsewhere = isinstance(args[0], Elsewhere)
    given, options = tree_map_only(Elsewhere, lambda one: one.here, (args, kwargs))
    if asked is not None:
        options = {**options, "device": torch.device("cpu")}
    if name == "_efficientzerotensor":  # zeros without memory, which do not bear being wrapped
        function = torch.ops.aten.zeros.default
    found = function(*given, **options)
    if name.endswith("_") and not name.startswith("__"):
        return args[0]
    if "out" in kwargs:
        return kwargs["out"]
    return tree_map_only(Tensor, Elsewhere, found) if is_elsewhere else found


class _Mode(TorchDispatchMode):
    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return computed(function, args, kwargs or {})


class _FromNumbers(TorchFunctionMode):
    """Where numbers of Python become a tensor, torch fills the memory of a device by itself."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        options = dict(kwargs or {})
        if function in {Tensor.__getitem__, Tensor.__setitem__}:
            places = args[1] if isinstance(args[1], tuple) else (args[1],)
            places = tuple(torch.tensor(one) if isinstance(one, list) else one for one in places)
            return function(args[0], places, *args[2:])
        if function not in {torch.tensor, torch.as_tensor} or "device" not in options:
            return function(*args, **options)
        device = options.pop("device")
        made = function(*args, **options)
        return made if device is None else made.to(device)


@contextmanager
def second_device() -> Iterator[None]:
    """Let torch have the second device: `tensor.to(DEVICE)` brings a tensor there, `tensor.cpu()` back."""
    with _FromNumbers(), _Mode():
        yield
