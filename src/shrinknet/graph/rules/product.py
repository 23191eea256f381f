"""Products of two or more values (matmul, bmm, einsum, attention), each axis under a letter.

Axes that every operand shares with the output (samples, heads) are the rigid ones: what varies along one of them and
inside it is one neuron, a head. A letter that the output lacks is summed over: there neurons are mixed.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.fx import Node

from shrinknet.graph.call import Call, argument, argument_at, decomposed, macs, resize, rule
from shrinknet.graph.labels import Slots, along, varying, vector
from shrinknet.graph.widths import Widths, shape_of

Way = tuple[int, ...]

POSITIONS = "τσ"
"""The letters of attention's queries and keys: masks and the softmax over keys count them, so that they stay."""


@rule("matmul", "mm", "bmm", "einsum", "scaled_dot_product_attention")
def product(call: Call) -> Slots:
    """Unite what shares a letter, pass what the output keeps, gate what is summed over."""
    ways, letters, out = axes_of(call.node)
    if not out:
        call.freeze(tuple(slot for node in call.tensors for slot in call.slots(node)), f"no rule for {call.where}")
        return ()
    found = _by_letter(call, ways, letters, out)
    slots = []
    for letter in sorted(set("".join(letters))):
        places = [place for place, names in enumerate(letters) if _spans(call.node, ways[place], names, letter)]
        vectors = [found.get((place, letter)) for place in places]
        if all(labels is None for labels in vectors):
            continue
        labels = call.unite_all(*_of_one_length(vectors))
        if labels is None:
            continue
        if letter in POSITIONS:
            call.freeze((labels,), f"positions of {call.where}")
        elif letter in out:
            slots.append(along(out.index(letter), labels, call.shape))
        else:
            _mix(call, [(ways[place], letters[place].index(letter)) for place in places])
    return tuple(slots)


def axes_of(node: Node) -> tuple[list[Way], list[str], str]:
    """Return the way to each operand, its letters, and the output's; no output letters where there is no rule."""
    name = str(node.target)
    if "einsum" in name:
        return _letters_of_einsum(node)
    if "attention" in name:
        mask = [3] if isinstance(argument(node, 3, "attn_mask"), Node) else []
        if mask and len(node.args) < 4:
            return [], [], ""
        operands, last = [0, 1, 2, *mask], ["τd", "σd", "σe", "τσ"]
    else:
        operands, last = [0, 1], ["nk", "km" if _rank(node, (1,)) > 1 else "k"]
    ranks = [_rank(node, (place,)) for place in operands]
    letters = [_batch(rank - 2) + axes[-rank:] for rank, axes in zip(ranks, last, strict=False)]
    ends = letters[0][-2:-1] + (letters[2][-1:] if len(operands) > 2 else letters[1][len(_batch(ranks[1] - 2)) + 1 :])
    return [(place,) for place in operands], letters, _batch(max(ranks) - 2) + ends


def _letters_of_einsum(node: Node) -> tuple[list[Way], list[str], str]:
    """The equation's own letters, with one for each axis that three dots stand for."""
    given, arrow, out = str(node.args[0]).replace(" ", "").partition("->")
    letters = given.split(",")
    ways: list[Way] = [(1, place) for place in range(len(letters))]
    if not arrow:
        once = sorted(letter for letter in set(given) - set(",.") if given.count(letter) == 1)
        out = "..." * ("..." in given) + "".join(once)
    hidden = [_rank(node, way) - len(part) + 3 if "..." in part else 0 for way, part in zip(ways, letters, strict=True)]
    dots = _batch(max(hidden), avoid=given)
    letters = [part.replace("...", dots[len(dots) - num :]) for part, num in zip(letters, hidden, strict=True)]
    is_plain = all(len(set(part)) == len(part) for part in letters)
    return ways, letters, out.replace("...", dots) if is_plain else ""


def _rank(node: Node, way: Way) -> int:
    return len(shape_of(argument_at(node.args, way).meta["val"]))


def _batch(count: int, avoid: str = "") -> str:
    """Letters of the axes in front, the last one always the same: shapes are aligned on their right."""
    letters = [letter for letter in "ZYXWVUTSA" if letter not in avoid]
    return "".join(letters[-count:]) if count > 0 else ""


def _by_letter(call: Call, ways: list[Way], letters: list[str], out: str) -> dict[tuple[int, str], Tensor]:
    """Find one vector of labels for each operand and letter, uniting what varies inside a shared letter."""
    found: dict[tuple[int, str], Tensor] = {}
    for place, (way, names) in enumerate(zip(ways, letters, strict=True)):
        for slot in call.slots(argument_at(call.node.args, way)):
            axis = _home(slot, names, letters, out)
            if (place, names[axis]) in found:
                call.freeze((slot,), f"shares an axis with other neurons at {call.where}")
                continue
            found[place, names[axis]] = vector(call.united(slot, {axis}), axis)
    return found


def _home(slot: Tensor, names: str, letters: Sequence[str], out: str) -> int:
    """The axis on which a slot's neurons live: a shared one, else one that is summed over, else its last.

    Labels that vary along no axis (a product with one number) lie on the last.
    """
    axes = varying(slot) or (slot.dim() - 1,)
    shared = [axis for axis in axes if names[axis] in out and sum(names[axis] in other for other in letters) > 1]
    summed = [axis for axis in axes if names[axis] not in out]
    return (shared or summed or list(axes))[-1]


def _spans(node: Node, way: Way, names: str, letter: str) -> bool:
    """Whether an operand has more than one element along a letter."""
    return letter in names and shape_of(argument_at(node.args, way).meta["val"])[names.index(letter)] > 1


def _of_one_length(vectors: list[Tensor | None]) -> list[Tensor | None]:
    """Grouped queries: each key and value head serves a run of query heads."""
    longest = max(len(labels) for labels in vectors if labels is not None)
    return [None if labels is None else labels.repeat_interleave(longest // len(labels)) for labels in vectors]


def _mix(call: Call, places: list[tuple[Way, int]]) -> None:
    nodes = [argument_at(call.node.args, way) for way, _ in places]
    for node, (_, axis) in zip(nodes, places, strict=True):
        labels = call.vector_along(node, axis)
        if node.op == "get_attr" and labels is not None:
            call.store.mark_read(labels)
    call.gate(places[0][0], places[0][1])


@resize("scaled_dot_product_attention")
def keep_scale(node: Node, widths: Widths) -> None:
    """The factor 1/sqrt(d) keeps its value where some of the d are gone inside a head."""
    query: Node = node.args[0]  # type: ignore[assignment]
    if widths.is_cut(query, -1) and node.kwargs.get("scale") is None:
        node.kwargs = {**node.kwargs, "scale": 1 / math.sqrt(shape_of(query.meta["val"])[-1])}


@decomposed("scaled_dot_product_attention")
def decomposed_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None = None,
    _dropout: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """`softmax(q k^T scale + mask) v`."""
    if enable_gqa:
        repeats = query.shape[-3] // key.shape[-3]
        key, value = key.repeat_interleave(repeats, -3), value.repeat_interleave(repeats, -3)
    scores = query @ key.mT * (1 / math.sqrt(query.shape[-1]) if scale is None else scale)
    if is_causal:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
    return scores.softmax(-1) @ value


@macs("matmul", "mm", "bmm", "einsum", "scaled_dot_product_attention")
def product_macs(node: Node, shape: Callable[[Node], tuple[int, ...]]) -> int:
    """As many as there are combinations of all letters; attention is two products."""
    ways, letters, _ = axes_of(node)
    sizes: dict[str, int] = {}
    for way, names in zip(ways, letters, strict=True):
        for letter, size in zip(names, shape(argument_at(node.args, way)), strict=True):
            sizes[letter] = max(size, sizes.get(letter, 1))
    if "attention" not in str(node.target):
        return math.prod(sizes.values())
    each = math.prod(size for letter, size in sizes.items() if letter not in "de")
    return each * (sizes["d"] + sizes["e"])
