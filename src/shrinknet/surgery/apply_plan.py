"""Rebuild a smaller network from its original class: what `plan.json` is for."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from shrinknet.core.errors import BadInputError, FixedWidthError
from shrinknet.core.folder import digest_of_plan
from shrinknet.graph.trace import named_tensors
from shrinknet.surgery.own_module import Attributes, cut_module
from shrinknet.surgery.remove import Kept

log = logging.getLogger(__name__)


def apply_plan(model: nn.Module, plan: str | Path | Mapping[str, Any]) -> nn.Module:
    """Return a copy of the original network without the neurons that a plan removed.

    No graph, no data and no pickle is needed: the indices kept along each parameter axis are taken, and the attributes
    that hold a width are set. Weights are those of `model`, cut; `model.safetensors` beside the plan holds the same
    (or, after further training, others) under the same names.

    Args:
        model: the network that the run began with: its class, its widths.
        plan: a run folder, its `plan.json`, or what that file holds.

    Raises:
        BadInputError: the plan cannot be read, or is one of another network.
        FixedWidthError: the run found that the network's own class does not bear the cut.

    Cost: one copy of the network.

    >>> model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> plan = {
    ...     "kept": {"0.weight": {"0": [0, 2]}, "0.bias": {"0": [0, 2]}, "2.weight": {"1": [0, 2]}},
    ...     "attributes": {"0": {"out_features": 2}, "2": {"in_features": 2}},
    ... }
    >>> apply_plan(model, plan)[0]
    Linear(in_features=4, out_features=2, bias=True)
    """
    content = plan if isinstance(plan, Mapping) else _read(Path(plan))
    try:
        kept: Kept = {
            str(name): {int(axis): tuple(map(int, places)) for axis, places in axes.items()}
            for name, axes in content["kept"].items()
        }
        attributes = {str(name): dict(values) for name, values in content["attributes"].items()}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _bad(f"one without them ({type(error).__name__}: {error})") from error
    if content.get("fixed_width") is not None:
        raise FixedWidthError(f"{content['fixed_width']} The run's model.pt2 is the smaller network.")
    _check_kept(model, kept)
    checked = _checked_attributes(model, attributes)
    if "sha256" in content and content["sha256"] != digest_of_plan(content):
        raise _bad("one that was changed since it was written")
    return cut_module(model, kept, checked)


def _read(path: Path) -> Any:
    file = path / "plan.json" if path.is_dir() else path
    try:
        content = json.loads(file.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise _bad(f"{str(path)!r}, which cannot be read ({error})") from error
    if isinstance(content, dict) and "sha256" not in content:
        log.warning("%s bears no hash: whether it was changed since it was written is not known.", file)
    return content


def _bad(came: str) -> BadInputError:
    do = "Use the plan of a finished run."
    return BadInputError("plan", "a run folder or a plan.json with kept indices and attributes", came, do)


def _of_another(got: str) -> BadInputError:
    do = "Build the network as it was before the run: same class, same widths."
    return BadInputError("plan", "one of this network", got, do)


def _check_kept(model: nn.Module, kept: Kept) -> None:
    tensors = named_tensors(model)
    for name, axes in kept.items():
        shape = tuple(tensors[name].shape) if name in tensors else ()
        for axis, places in axes.items():
            if not places or not 0 <= axis < len(shape) or not 0 <= min(places) <= max(places) < shape[axis]:
                got = f"places {places[:1]} to {places[-1:]} of axis {axis} of {name!r}, whose shape is {list(shape)}"
                raise _of_another(got)


def _checked_attributes(model: nn.Module, attributes: dict[str, dict[str, Any]]) -> Attributes:
    """Only whole numbers that are there already are changed: a plan is data, and must not touch anything else."""
    modules, checked = dict(model.named_modules()), Attributes()
    for name, values in attributes.items():
        checked[name] = {}
        for attribute, value in values.items():
            old = vars(modules[name]).get(attribute) if name in modules else None
            new = tuple(value) if isinstance(old, tuple) and isinstance(value, list) else value
            sizes = new if isinstance(new, tuple) else (new,)
            is_width = all(isinstance(size, int) and size > 0 for size in sizes) and type(new) is type(old)
            if not is_width:
                got = f"attribute {attribute!r} of module {name!r} as {value!r}, where the network has {old!r}"
                raise _of_another(got)
            checked[name][attribute] = new
    return checked
