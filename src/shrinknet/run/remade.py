"""The user's own class, made again by its name in a new process and filled with a run's original weights."""

import json
import logging
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from shrinknet.core.errors import BadInputError
from shrinknet.core.named import find_named, import_path, is_import_path, made_by
from shrinknet.graph.configs import has_config
from shrinknet.graph.trace import named_tensors

log = logging.getLogger(__name__)


def architecture(model: nn.Module) -> dict[str, Any]:
    """Return what a run folder says of the network's class: where it is imported from, and its Hugging Face config."""
    made_of: Any = getattr(model, "config", None)
    config = json.loads(made_of.to_json_string(use_diff=False)) if has_config(model) else None
    return {"class": import_path(type(model)), "config": config}


def remade(spec: str, stored: nn.Module, config: Mapping[str, Any] | None = None) -> nn.Module:
    """Make a network by the name of its factory or class and give it the weights that a run began with.

    Args:
        spec: `package.module:name` of a factory, of a class that takes no arguments, or of one of transformers'.
        stored: the run's original network, exported.
        config: of transformers' class.

    Raises:
        BadInputError: it cannot be imported or made.
    """
    factory = find_named("model", spec)
    if config is not None:
        model = made_by("model", spec, lambda: factory(factory.config_class.from_dict(dict(config))))
    else:
        model = factory if isinstance(factory, nn.Module) else made_by("model", spec, factory)
    if not isinstance(model, nn.Module):
        raise BadInputError("model", "a factory that returns an nn.Module", type(model).__name__, "Return the network.")
    tensors = named_tensors(stored)
    with torch.no_grad():
        for name, tensor in named_tensors(model).items():
            if name in tensors and tensors[name].shape == tensor.shape:
                tensor.copy_(tensors[name])
    return model


def trusted(said: Mapping[str, Any], model: object, stored: nn.Module) -> nn.Module | None:
    """Make the network that a trusted folder names; None where its class wants arguments.

    Args:
        said: see `architecture`.
        model: what the command line was given, if the run was made there.
        stored: the run's original network, exported.
    """
    if model is not None and not is_import_path(str(model)):
        return None  # a file: it was nobody's class
    spec = said.get("class") if model is None else str(model)
    if spec is None:
        return None
    try:
        made = remade(str(spec), stored, said.get("config") if model is None else None)
    except BadInputError as error:
        log.warning("The exported network stands in for the model's own class. %s", error)
        return None
    parameters = dict(stored.named_parameters(remove_duplicate=False))
    if {name: one.shape for name, one in parameters.items()} != {
        name: one.shape for name, one in made.named_parameters(remove_duplicate=False) if name in parameters
    }:
        return None  # a class such as nn.Sequential, which is nothing without its arguments
    return made
