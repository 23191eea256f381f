"""A traced graph, ready to run node by node: with gates, in another precision, decomposed."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import cached_property, partial
from operator import attrgetter
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.fx import Node
from torch.fx.node import map_arg
from torch.utils._pytree import TreeSpec, tree_unflatten

from shrinknet.engine.held import Held
from shrinknet.engine.samples import Samples, samples_in
from shrinknet.graph.call import DECOMPOSED, WEIGHTED, Site, argument_at, windows_of
from shrinknet.graph.operators import ALIASES, operator_name
from shrinknet.graph.rules.conv import num_groups
from shrinknet.graph.trace import Trace
from shrinknet.task.scoring import Scoring
from shrinknet.task.trees import AnyInputs, leaves_of

PRODUCTS = frozenset({"linear", "conv1d", "conv2d", "conv3d"})
"""Operators that read a value as a product with a weight whose axis 1 runs over the value's neurons."""

Gating = Callable[[Site, Tensor], Tensor | None]
"""Given a site and the value read there, the factors on its neurons, shaped to multiply it; None for all ones."""


class Program:
    """The graph of a trace, ready to run node by node, with values freed after their last reader.

    Args:
        trace: the graph, its tensors and the sites where neurons are read.
        dtype: compute in this precision instead of the network's own.
        scoring: what scoring may use.
        tensors: values that stand in for the network's own, by name: weights that were refit.
        reads: which of the tensors that it returns the loss is given; None: all of them, as they are returned.
    """

    def __init__(
        self,
        trace: Trace,
        dtype: torch.dtype | None = None,
        scoring: Scoring | None = None,
        tensors: Mapping[str, Tensor] | None = None,
        reads: int | None = None,
    ) -> None:
        self.trace, self.asked_dtype, self.scoring, self.reads = trace, dtype, scoring or Scoring(), reads
        self.tensors = dict(tensors or {})
        self.routes: dict[range, Any] = {}  # see `ablation.route`
        self.nodes = [node for node in trace.nodes if node.op == "call_function"]
        self.sites: dict[str, list[Site]] = {}
        for site in trace.sites:
            self.sites.setdefault(site.node, []).append(site)
        constants = [node for node in trace.nodes if node.op == "get_attr"]
        self.constants = {node: _as_dtype(self._own(str(node.target)), dtype) for node in constants}
        self.inputs = tuple(node for node in trace.nodes if node.op == "placeholder")
        self.end = next(node for node in trace.nodes if node.op == "output")
        self.outputs_of = _returned(self.end)
        last_reader = {given: node for node in self.nodes for given in node.all_input_nodes}
        self.dead_after: dict[Node, list[Node]] = {}
        self.freed = last_reader.keys() - self.constants.keys() - set(self.outputs_of)
        for given, node in last_reader.items():
            if given in self.freed:
                self.dead_after.setdefault(node, []).append(given)

    def _own(self, name: str) -> Any:
        return self.tensors[name] if name in self.tensors else attrgetter(name)(self.trace.module)

    @cached_property
    def input(self) -> Node:
        """The node of the first input that is a tensor: the one whose first axis counts the samples."""
        return next(node for node in self.inputs if isinstance(node.meta["val"], Tensor))

    @cached_property
    def output(self) -> Node:
        """The node of what the loss is given: the one output; the end of the graph where there are several."""
        if self.reads is not None:
            return self.outputs_of[self.reads]
        return self.outputs_of[0] if self._is_lone else self.end

    def judged(self, values: Mapping[Node, Any]) -> Any:
        """Return what the loss is given of the values."""
        return self.result(values) if self.output is self.end else values[self.output]

    @cached_property
    def _form(self) -> TreeSpec | None:
        """Where the outputs stand in what the network returns; None where that is a tuple."""
        info = getattr(self.trace.module.graph._codegen, "pytree_info", None)
        return None if info is None else info.out_spec

    @cached_property
    def _is_lone(self) -> bool:
        """Whether the network returns one tensor as it is."""
        return len(self.outputs_of) == 1 and (self._form is None or self._form.is_leaf())

    def result(self, values: Mapping[Node, Any]) -> Any:
        """Return what the network returns, given the value of each of its outputs: a tensor, or a tree."""
        if self._is_lone:
            return values[self.outputs_of[0]]
        (returned,) = self.end.args
        if self._form is None:
            return tuple(values[node] for node in self.outputs_of)
        leaves = [values[leaf] if isinstance(leaf, Node) else leaf for leaf in cast(Sequence[Any], returned)]
        return tree_unflatten(leaves, self._form)

    def run(self, inputs: AnyInputs, gating: Gating | None, *, keep: bool | Collection[Node] = ()) -> dict[Node, Any]:
        """Run the whole graph; return the outputs, and those values or all values that are to be kept."""
        kept = self.freed if keep is True else keep or ()
        return self.run_on(self.given_values(inputs), self.nodes, gating, kept)

    def given_values(self, inputs: AnyInputs) -> dict[Node, Any]:
        """Return the values that are there before anything is run."""
        return {**self.constants, **dict(zip(self.inputs, leaves_of(inputs), strict=True))}

    def run_on(
        self, values: dict[Node, Any], nodes: Iterable[Node], gating: Gating | None, kept: Collection[Node] = ()
    ) -> dict[Node, Any]:
        """Run some nodes and add their values; those that no node reads any more go, unless they are kept."""
        for node in nodes:
            values[node] = self.call(node, values, gating)
            self.free_after(node, values, kept)
        return values

    def free_after(self, node: Node, values: dict[Node, Any], kept: Collection[Node] = ()) -> None:
        """Let go of the values that nothing reads after a node, unless they are kept."""
        for dead in self.dead_after.get(node, ()):
            if dead not in kept:
                del values[dead]

    def outputs(self, inputs: AnyInputs, gating: Gating | None = None) -> Any:
        """Return what the network returns: a tensor, or a tree of them."""
        return self.result(self.run(inputs, gating))

    def call(
        self,
        node: Node,
        values: Mapping[Node, Any],
        gating: Gating | None,
        *,
        decomposed: bool = False,
        target: Callable[..., Any] | None = None,
    ) -> Any:
        """Run one node on the values of its arguments, each gated where it reads neurons.

        `decomposed` asks for operators that vmap and second derivatives follow; `target` is another form of the
        operator.
        """
        args, kwargs = self.arguments(node, values)
        target = target or cast(Callable[..., Any], node.target)
        if decomposed:
            target = DECOMPOSED.get(operator_name(node), target)
        weights: Tensor | None = None
        for site in self.sites.get(node.name, ()):
            value = argument_at(args, site.argument)
            factors = None if gating is None else gating(site, value)
            if factors is None:
                continue
            if (form := WEIGHTED.get(operator_name(node))) is not None:
                weights = factors if weights is None else weights * factors
                target = partial(form, weights)
            elif self.is_product(node, site) and _is_along(factors, site.axis, value.dim()):
                args[1] = args[1] * factors.view(1, -1, *[1] * (args[1].dim() - 2))  # far smaller than what is read
            else:
                args = _with_argument(args, site.argument, value * factors)
        return target(*args, **kwargs)

    def given(self, node: Node) -> Sequence[Node]:
        """Return the nodes whose values a node's value is a function of."""
        return node.all_input_nodes

    def shares_memory(self, node: Node) -> bool:
        """Whether a node's value may lie in the memory of the value before it."""
        return operator_name(node) in ALIASES

    def is_product(self, node: Node, site: Site) -> bool:
        """Whether what is read there is multiplied by a weight [out, in, ...] whose axis 1 runs over the neurons."""
        is_whole = site.argument == (0,) and num_groups(node) == 1 and site.axis not in windows_of(node)
        return is_whole and operator_name(node) in PRODUCTS

    def arguments(self, node: Node, values: Mapping[Node, Any]) -> tuple[list[Any], dict[str, Any]]:
        """Return the values of a node's arguments, before any gate."""
        args = [self._given(argument, values) for argument in node.args]
        return args, {name: self._given(argument, values) for name, argument in node.kwargs.items()}

    def _given(self, argument: Any, values: Mapping[Node, Any]) -> Any:
        """The value of an argument; a precision that the graph writes down is raised to the one asked for."""
        if isinstance(argument, torch.dtype) and argument.is_floating_point:
            return self.asked_dtype or argument
        return map_arg(argument, values.__getitem__)

    @cached_property
    def precision(self) -> torch.dtype:
        """The coarsest precision that values pass through."""
        values = [node.meta.get("val") for node in self.nodes]
        own = {value.dtype for value in values if isinstance(value, Tensor) and value.is_floating_point()}
        coarsest = max(own | {self.dtype}, key=lambda dtype: torch.finfo(dtype).eps)
        return self.asked_dtype or coarsest

    @cached_property
    def samples(self) -> Mapping[Node, Samples]:
        """Where the samples lie in each value; left out where that is not known."""
        found = samples_in((*self.inputs, *self.nodes), self.input.meta["val"].shape[0])
        if self.trace.free:  # how many places a sample has is not what it was when the graph was traced
            return {node: samples for node, samples in found.items() if samples.are_alone}
        return found

    def samples_at(self, site: Site) -> Samples | None:
        """Return where the samples lie in the value that a site reads; None where that is not known."""
        return self.samples.get(self.source(site))

    @cached_property
    def has_samples_apart(self) -> bool:
        """Whether it is known of every reader where the samples lie, so that each can have gates of its own."""
        return all(self.samples_at(site) is not None for sites in self.sites.values() for site in sites)

    @cached_property
    def mixes_samples(self) -> bool:
        """Whether some reader has samples, and nobody knows where."""
        counted = [site for site in self.ids if has_samples(self.source(site).meta["val"])]
        return any(self.samples_at(site) is None for site in counted)

    @cached_property
    def held(self) -> Held:
        """What a pass over one sample holds."""
        return Held(tuple(self.nodes), self.inputs, self.outputs_of, self.handed_on)

    @property
    def handed_on(self) -> Mapping[Node, Node]:
        """Nodes that only hand on the value of another, beside those that torch's operators say."""
        return {}

    @property
    def bytes_per_sample(self) -> int:
        """The memory of every value of the graph for one sample: what a pass that keeps them all needs."""
        return self.held.all

    @cached_property
    def dtype(self) -> torch.dtype:
        """The precision that the network computes in."""
        constants = [value for value in self.constants.values() if isinstance(value, Tensor)]
        return next((value.dtype for value in constants if value.is_floating_point()), torch.get_default_dtype())

    @cached_property
    def _by_name(self) -> dict[str, Node]:
        return {node.name: node for node in self.nodes}

    def source(self, site: Site) -> Node:
        """Return the node whose value is read at a site."""
        return argument_at(self._by_name[site.node].args, site.argument)  # type: ignore[no-any-return]

    @cached_property
    def device(self) -> torch.device:
        """Where the network lies."""
        return next((tensor.device for tensor in self.trace.tensors.values()), torch.device("cpu"))

    @cached_property
    def ids(self) -> dict[Site, Tensor]:
        """The neuron id of each element along the axis read at each site, where the network lies."""
        return {site: torch.from_numpy(ids).to(self.device) for site, ids in self.numbers.items()}

    @cached_property
    def numbers(self) -> dict[Site, NDArray[np.int64]]:
        """The same in memory."""
        layouts, sites = self.trace.layouts, [site for some in self.sites.values() for site in some]
        return {site: np.asarray(layouts[self.source(site).name][site.axis]) for site in sites}

    @cached_property
    def spans(self) -> dict[Site, slice]:
        """The ids read at each site whose neurons follow one another: a slice is cheaper than a look-up, both ways."""
        found = {}
        for site, ids in self.ids.items():
            first, count = int(ids[0]), len(ids)
            if bool((ids == torch.arange(first, first + count, device=ids.device)).all()):
                found[site] = slice(first, first + count)
        return found

    def gates_at(self, site: Site, gates: Tensor) -> Tensor:
        """Return the columns of gates [rows, ids] that are read at a site."""
        span = self.spans.get(site)
        return gates[:, span] if span is not None else gates.index_select(1, self.ids[site])


def has_samples(value: Tensor) -> bool:
    """Whether a traced value has an axis that counts samples."""
    return any(isinstance(size, torch.SymInt) for size in value.shape)


def _returned(output: Node) -> tuple[Node, ...]:
    """Every tensor that the network returns, in its order; one returned twice stands there twice."""
    found: list[Node] = []
    map_arg(output.args, found.append)
    return tuple(node for node in found if isinstance(node.meta.get("val"), Tensor))


def _with_argument(args: Sequence[Any], way: tuple[int, ...], value: Any) -> list[Any]:
    """Return arguments with another value at the end of the way."""
    changed = list(args)
    changed[way[0]] = value if len(way) == 1 else _with_argument(args[way[0]], way[1:], value)
    return changed


def _as_dtype(value: Any, dtype: torch.dtype | None) -> Any:
    is_floating = isinstance(value, Tensor) and value.is_floating_point()
    return value.to(dtype) if dtype is not None and is_floating else value


def _is_along(factors: Tensor, axis: int, rank: int) -> bool:
    """Whether factors of that rank differ along one axis only."""
    return factors.dim() == rank and factors.numel() == factors.shape[axis]
