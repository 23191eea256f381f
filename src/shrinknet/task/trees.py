"""Trees of tensors: what a network is called with, what it gives, what targets are; rows lie along the first axis."""

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import (
    SequenceKey,
    TreeSpec,
    keystr,
    register_pytree_node,
    tree_flatten,
    tree_flatten_with_path,
    tree_structure,
    tree_unflatten,
)


@dataclass(frozen=True, slots=True, eq=False)
class Arguments:
    """The arguments of one call of a network, where they are more than one tensor.

    Attributes:
        leaves: tensors with a row for each sample, and whatever else stands in the call (None, numbers, switches).
        spec: where they stand in `(args, kwargs)`.
    """

    leaves: tuple[Any, ...]
    spec: TreeSpec

    def __len__(self) -> int:
        return len(self.tensors[0])

    def __getitem__(self, rows: Any) -> "Arguments":
        chosen: Arguments = of_each(self, lambda tensor: tensor[rows])
        return chosen

    def __reduce__(self) -> tuple[Any, ...]:
        return inputs_of, self.call

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """The tensors among the leaves."""
        return tuple(leaf for leaf in self.leaves if isinstance(leaf, Tensor))

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self.tensors[0].device

    @property
    def call(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """What the network is called with."""
        args, kwargs = tree_unflatten(self.leaves, self.spec)
        return tuple(args), dict(kwargs)


register_pytree_node(
    Arguments,
    lambda given: (list(given.leaves), given.spec),
    lambda leaves, spec: Arguments(tuple(leaves), spec),
    flatten_with_keys_fn=lambda given: ([(SequenceKey(k), leaf) for k, leaf in enumerate(given.leaves)], given.spec),
)

Inputs = Tensor | Arguments
"""What a network is called with: one tensor, or a call's arguments."""

AnyInputs = Tensor | Arguments | tuple[Tensor, ...]
"""The same, or the tensors of a graph's placeholders in their order."""


def inputs_of(args: Sequence[Any], kwargs: dict[str, Any]) -> Inputs:
    """Return the inputs of a call; a lone tensor stands for itself.

    >>> inputs_of([torch.zeros(2, 3)], {}).shape
    torch.Size([2, 3])
    >>> len(inputs_of([torch.zeros(2, 3)], {"mask": torch.zeros(2)}))
    2
    """
    if len(args) == 1 and isinstance(args[0], Tensor) and not kwargs:
        return args[0]
    leaves, spec = tree_flatten((tuple(args), dict(kwargs)))
    return Arguments(tuple(leaves), spec)


def call_of(inputs: AnyInputs) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the positional and the named arguments of a call."""
    return inputs.call if isinstance(inputs, Arguments) else (leaves_of(inputs), {})


def called(model: nn.Module, inputs: AnyInputs) -> Any:
    """Call a network.

    >>> called(nn.Bilinear(2, 3, 4), inputs_of([torch.zeros(5, 2), torch.zeros(5, 3)], {})).shape
    torch.Size([5, 4])
    """
    args, kwargs = call_of(inputs)
    return model(*args, **kwargs)


def bound(model: nn.Module, inputs: AnyInputs) -> dict[str, Any]:
    """Return the arguments of a call by the names that the network's `forward` gives them."""
    args, kwargs = call_of(inputs)
    return dict(inspect.signature(model.forward).bind(*args, **kwargs).arguments)


def leaves_of(inputs: AnyInputs) -> tuple[Any, ...]:
    """Return the leaves of a call in their order: what the placeholders of its graph stand for."""
    if isinstance(inputs, Tensor):
        return (inputs,)
    return inputs.leaves if isinstance(inputs, Arguments) else tuple(inputs)


def tensors_of(tree: Any) -> list[Tensor]:
    """Return every tensor of a tree, in its order."""
    return [leaf for leaf in tree_flatten(tree)[0] if isinstance(leaf, Tensor)]


def floats_of(tree: Any) -> list[Tensor]:
    """Return every tensor of floating numbers of a tree, in its order."""
    return [one for one in tensors_of(tree) if one.is_floating_point()]


def of_each(tree: Any, change: Callable[[Tensor], Any]) -> Any:
    """Return a tree with each of its tensors changed; what is no tensor stays.

    >>> of_each({"a": torch.ones(2), "b": None}, lambda tensor: tensor[:1])
    {'a': tensor([1.]), 'b': None}
    """
    if isinstance(tree, Tensor):
        return change(tree)
    leaves, spec = tree_flatten(tree)
    return tree_unflatten([change(leaf) if isinstance(leaf, Tensor) else leaf for leaf in leaves], spec)


def with_tensors(tree: Any, tensors: Iterable[Tensor]) -> Any:
    """Return a tree of the same form with other tensors, in its order."""
    others = iter(tensors)
    return of_each(tree, lambda _: next(others))


def zipped(trees: Sequence[Any], put: Callable[[list[Tensor]], Tensor]) -> Any:
    """Return one tree of several of one form: each tensor put together of theirs; what is no tensor is the first's."""
    if isinstance(trees[0], Tensor):
        return put(list(trees))
    return with_tensors(trees[0], (put(list(ones)) for ones in zip(*map(tensors_of, trees), strict=True)))


def joined(trees: Sequence[Any]) -> Any:
    """Return the rows of several trees of one form, one after the other.

    >>> joined([{"a": torch.ones(1)}, {"a": torch.zeros(1)}])
    {'a': tensor([1., 0.])}
    """
    return zipped(trees, torch.cat)


def split(tree: Any, size: int) -> Iterator[Any]:
    """Yield the rows of a tree, so many at a time."""
    for start in range(0, num_rows(tree), size):
        yield of_each(tree, lambda tensor, start=start: tensor[start : start + size])  # type: ignore[misc]


def num_rows(tree: Any) -> int:
    """Return how many rows a tree has: as many as its first tensor."""
    return len(tensors_of(tree)[0])


def same(one: Any, other: Any) -> bool:
    """Whether two trees hold the same numbers in the same places.

    >>> same((torch.ones(2), None), (torch.ones(2), None)), same(torch.ones(2), torch.zeros(2))
    (True, False)
    """
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return torch.equal(one, other)
    left, right = tensors_of(one), tensors_of(other)
    return len(left) == len(right) and all(map(torch.equal, left, right))


def named_leaves(tree: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Yield each leaf of a tree with what it is called: the tree's name, and the way to it.

    >>> [name for name, _ in named_leaves({"a": (1, 2)}, "inputs")]
    ["inputs['a'][0]", "inputs['a'][1]"]
    """
    if isinstance(tree, Arguments):
        args, kwargs = tree.call
        tree = {**dict(enumerate(args)), **kwargs}
    for path, leaf in tree_flatten_with_path(tree)[0]:
        yield name + keystr(path), leaf


def row_axes(tree: Any, axis: Any) -> Any:
    """Return a tree of the same form that says of each tensor that its first axis is `axis`; None for what is none.

    Tensors without an axis (a number as a tensor) have none.
    """
    leaves, spec = tree_flatten(tree)
    return tree_unflatten([{0: axis} if isinstance(leaf, Tensor) and leaf.dim() else None for leaf in leaves], spec)


def is_tree_of_rows(leaves: Iterable[Any], count: int) -> bool:
    """Whether each tensor has so many rows."""
    return all(leaf.dim() > 0 and len(leaf) == count for leaf in leaves if isinstance(leaf, Tensor))


def in_plain_containers(spec: TreeSpec) -> TreeSpec:
    """Return the form of a tree with dicts in the place of mappings, and tuples in that of other containers.

    >>> from collections import OrderedDict
    >>> in_plain_containers(tree_structure(OrderedDict(a=1, b=[2])))
    TreeSpec(dict, ['a', 'b'], [*,
      TreeSpec(list, None, [*])])
    """
    if spec.is_leaf():
        return spec
    children = [in_plain_containers(child) for child in spec.children()]
    if isinstance(spec.type, type) and issubclass(spec.type, Mapping):
        return tree_structure(dict(zip(spec.context, map(_filled, children), strict=True)))
    kind = list if spec.type is list else tuple
    return tree_structure(kind(map(_filled, children)))


def _filled(spec: TreeSpec) -> Any:
    return tree_unflatten([0] * spec.num_leaves, spec)


def shapes_text(tree: Any) -> str:
    """Return the shapes of a tree's tensors.

    >>> shapes_text(torch.zeros(2, 3)), shapes_text({"a": torch.zeros(2), "b": torch.zeros(1)}), shapes_text(None)
    ('[2, 3]', '[2] and [1]', 'none')
    """
    return " and ".join(str(list(tensor.shape)) for tensor in tensors_of(tree)) or "none"


ROUNDINGS = 1000
"""How many roundings two computations of the same outputs may differ by."""


def tolerance(precision: torch.dtype, largest: float) -> float:
    """Return the largest difference that rounding explains: 1000 * eps * max(1, largest |output|).

    >>> round(tolerance(torch.float32, 10.0), 6)
    0.001192
    """
    return float(ROUNDINGS * torch.finfo(precision).eps * max(1.0, largest))


def are_alike(one: Any, other: Any) -> bool:
    """Whether two answers are the same tensors but for rounding, in whatever containers.

    >>> are_alike({"a": torch.ones(2)}, [torch.ones(2) + 1e-6]), are_alike(torch.ones(2), torch.ones(3))
    (True, False)
    """
    left, right = tensors_of(one), tensors_of(other)
    return len(left) == len(right) and all(map(_is_rounding, left, right))


def _is_rounding(own: Tensor, traced: Tensor) -> bool:
    if own.shape != traced.shape or not own.is_floating_point():
        return own.shape == traced.shape and torch.equal(own, traced)
    allowed = tolerance(own.dtype, float(own.abs().max()) if own.numel() else 0.0)
    return own.numel() == 0 or float((own - traced).abs().max()) <= allowed
