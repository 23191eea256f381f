"""Options that several verbs share, each said once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from torch import Tensor, nn

from shrinknet.core.config import DEFAULT_BATCH_SIZE, SearchOptions
from shrinknet.core.errors import BadInputError
from shrinknet.core.named import is_import_path
from shrinknet.core.options import Options, option
from shrinknet.loading.data import load_data
from shrinknet.loading.models import in_twos, load_model
from shrinknet.search.goals import Goal, PeakRamBytes
from shrinknet.task.accuracy import Judge
from shrinknet.task.data import Source
from shrinknet.task.task import Task
from shrinknet.task.trees import Inputs

Model = Annotated[str, typer.Argument(metavar="MODEL", help="A .pt2 or .onnx file, or package.module:factory.")]
DataPath = Annotated[
    str, typer.Option("--data", help="An .npz file (inputs, targets, split), or package.module:factory.")
]
CriterionName = Annotated[
    str, typer.Option("--criterion", help="How neurons are scored: a name, or package.module:Class.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
Out = Annotated[Path, typer.Option("--out", help="A new folder for the run.")]
AllowFloat = Annotated[
    bool, typer.Option("--allow-float", help="An int8 file may hold operators that compute in float; it says which.")
]
Quantize = Annotated[str, typer.Option(help="none, or int8: quantize what ships, after pruning.")]


@dataclass(frozen=True, kw_only=True)
class ModelFlags(Options):
    """How a model is opened."""

    weights: str | None = option(None, "A .safetensors file for the factory's network.")
    example_input: str | None = option(None, "The shape of one sample, such as 1x28x28.")
    trust_pickle: bool = option(False, "Open a .pt2 file that could run any code.")


@dataclass(frozen=True, kw_only=True)
class LossFlags(ModelFlags):
    """What a model is measured by."""

    loss: str = option(
        "cross-entropy",
        "cross-entropy, binary-cross-entropy, squared-error, absolute-error, huber, next-token, own-answers ..., or "
        "package.module:function.",
    )
    accuracy: str | None = option(
        None, "argmax, threshold, agreement, or package.module:function; the loss's own where left out."
    )
    output: str | None = option(None, "Of several outputs the one that the loss is given: its key, or its number.")
    metrics: Sequence[str] = option(
        (), "What else to measure: top-5, f1, mean-iou ..., or package.module:Class (may be repeated).", flag="metric"
    )


@dataclass(frozen=True, kw_only=True)
class TaskFlags(LossFlags):
    """The same, in batches of so many rows."""

    batch_size: int = option(DEFAULT_BATCH_SIZE, "Rows for each pass; speed and memory only.", least=1)
    free: Sequence[str] = option(
        (), "Sizes that stay free in what ships: INPUT:AXIS, such as input_ids:1 (may be repeated)."
    )


def with_example(model: str, given: ModelFlags) -> tuple[nn.Module, Inputs]:
    """Load a model, and an example of its inputs of at least two samples.

    Raises:
        BadInputError: there is none.
    """
    loaded = load_model(model, given.weights, given.example_input, trust_pickle=given.trust_pickle)
    if loaded.example_inputs is not None:
        return loaded.model, in_twos(loaded.example_inputs)
    if is_import_path(model):
        do = "Write the shape of one sample, such as 1x28x28 (or 128:int64); of several tensors, a .pt2 file."
        raise BadInputError("--example-input", "given with a factory", "nothing", do)
    raise BadInputError(
        "spec", "a .pt2 file with an example of its inputs, each a tensor with a row for each sample", "one without",
        "Export it again by torch.export.export(model, args, kwargs), samples along the first axis of each.",
    )  # fmt: skip


def make_task(model: str, data: str, seed: int, given: TaskFlags) -> Task:
    """Load everything that a task is made of.

    Raises:
        BadInputError: something cannot be loaded, or the example input is not of the data's shape.
    """
    loaded = load_model(model, given.weights, given.example_input, trust_pickle=given.trust_pickle)
    task = task_of(
        loaded.model,
        load_data(data, seed),
        given.loss,
        given.batch_size,
        given.accuracy,
        given.metrics,
        given.output,
        free_axes(given.free),
    )
    example_input = given.example_input
    own, said = task.example_inputs, loaded.example_inputs
    shape = list(own.shape[1:]) if isinstance(own, Tensor) else []
    if example_input is not None and isinstance(said, Tensor) and list(said.shape[1:]) != shape:
        raise BadInputError("--example-input", f"the shape of the data's rows {shape}", example_input, "Leave it out.")
    return task


def task_of(
    model: nn.Module, roles: dict[str, Source], loss: str, batch_size: int, accuracy: str | Judge | None = None,
    metrics: Sequence[str] = (), output: str | None = None, free: Mapping[str, Sequence[int]] | None = None,
) -> Task:  # fmt: skip
    """Make a task of a loaded network and data."""
    return Task(
        model,
        loss,
        roles["calibration"],
        roles.get("validation"),
        roles.get("test"),
        batch_size,
        accuracy,
        metrics,
        output=output_of(output),
        free=free,
    )


def free_axes(typed: Sequence[str]) -> dict[str, list[int]]:
    """Return the axes of each input that were typed as INPUT:AXIS.

    >>> free_axes(["input_ids:1", "image:2", "image:3"])
    {'input_ids': [1], 'image': [2, 3]}
    """
    found: dict[str, list[int]] = {}
    for one in typed:
        name, _, axis = one.rpartition(":")
        if not name or not axis.isdecimal():
            raise BadInputError("--free", "INPUT:AXIS", repr(one), "Write --free input_ids:1.")
        found.setdefault(name, []).append(int(axis))
    return found


def output_of(typed: str | None) -> str | int | None:
    """Return what was typed for an output: its key, or its number."""
    return int(typed) if typed is not None and typed.isdecimal() else typed


def artefact_kind(options: SearchOptions, goals: Sequence[Goal]) -> object:
    """Return what ships: what was named; else ExecuTorch's file where RAM or int8 is asked for, else the weights."""
    wants_ram = any(isinstance(goal, PeakRamBytes) for goal in goals)
    is_implied = not options.artefact and (wants_ram or options.quantize != "none")
    return "executorch" if is_implied else options.kind
