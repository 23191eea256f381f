"""Options that several verbs share, each said once."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from torch import nn

from shrinknet.core.config import DEFAULT_BATCH_SIZE
from shrinknet.core.errors import BadInputError
from shrinknet.core.options import Options, option
from shrinknet.core.units import parse_bytes, parse_count, parse_fraction
from shrinknet.loading.data import load_data
from shrinknet.loading.models import load_model
from shrinknet.search.goals import (
    FlashBytes,
    Goal,
    Macs,
    NumParameters,
    PeakRamBytes,
    RemovedFraction,
    RemovedNeurons,
)
from shrinknet.task.accuracy import Judge
from shrinknet.task.data import Source
from shrinknet.task.task import Task

Model = Annotated[str, typer.Argument(metavar="MODEL", help="A .pt2 file, or package.module:factory.")]
DataPath = Annotated[
    str, typer.Option("--data", help="An .npz file (inputs, targets, split), or package.module:factory.")
]
CriterionName = Annotated[
    str, typer.Option("--criterion", help="How neurons are scored: a name, or package.module:Class.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
Out = Annotated[Path, typer.Option("--out", help="A new folder for the run.")]
Flash = Annotated[str | None, typer.Option(help="At most that many bytes of the file that ships, such as 64KiB.")]
Ram = Annotated[str | None, typer.Option(help="At most that many bytes of the planner's arena, such as 20KiB.")]
AllowFloat = Annotated[
    bool, typer.Option("--allow-float", help="An int8 file may hold operators that compute in float; it says which.")
]
Quantize = Annotated[str, typer.Option(help="none, or int8: quantize what ships, after pruning.")]
Parameters = Annotated[str | None, typer.Option(help="At most that many parameters, such as 20k.")]
MacsBudget = Annotated[str | None, typer.Option("--macs", help="At most that many MACs a sample, such as 1.5M.")]
Remove = Annotated[str | None, typer.Option(help="Remove that many neurons (40), or a share (60%).")]


@dataclass(frozen=True, kw_only=True)
class ModelFlags(Options):
    """How a model is opened."""

    weights: str | None = option(None, "A .safetensors file for the factory's network.")
    example_input: str | None = option(None, "The shape of one sample, such as 1x28x28.")
    trust_pickle: bool = option(False, "Open a .pt2 file that could run any code.")


@dataclass(frozen=True, kw_only=True)
class TaskFlags(ModelFlags):
    """What a model is measured by."""

    loss: str = option(
        "cross-entropy", "cross-entropy, squared-error, binary-cross-entropy, or package.module:function."
    )
    accuracy: str | None = option(None, "argmax, threshold, or package.module:function; the loss's own where left out.")
    batch_size: int = option(DEFAULT_BATCH_SIZE, "Rows for each pass; speed and memory only.", least=1)


def make_task(model: str, data: str, seed: int, given: TaskFlags) -> Task:
    """Load everything that a task is made of.

    Raises:
        BadInputError: something cannot be loaded, or the example input is not of the data's shape.
    """
    loaded = load_model(model, given.weights, given.example_input, trust_pickle=given.trust_pickle)
    task = task_of(loaded.model, load_data(data, seed), given.loss, given.batch_size, given.accuracy)
    example_input = given.example_input
    shape = list(task.example_inputs.shape[1:])
    if (
        example_input is not None
        and loaded.example_inputs is not None
        and list(loaded.example_inputs.shape[1:]) != shape
    ):
        raise BadInputError("--example-input", f"the shape of the data's rows {shape}", example_input, "Leave it out.")
    return task


def task_of(
    model: nn.Module, roles: dict[str, Source], loss: str, batch_size: int, accuracy: str | Judge | None = None
) -> Task:
    """Make a task of a loaded network and data."""
    return Task(
        model,
        loss,
        roles["calibration"],
        roles.get("validation"),
        roles.get("test"),
        batch_size,
        accuracy,
    )


def artefact_kind(to: str | None, ram: str | None, quantize: str) -> str:
    """Return what ships: what was named; else ExecuTorch's file where RAM or int8 is asked for, else the weights."""
    return to or ("executorch" if ram is not None or quantize != "none" else "weights")


def make_goals(
    flash: str | None, ram: str | None, parameters: str | None, macs: str | None, remove: str | None
) -> list[Goal]:
    """Return the goals that were typed.

    Raises:
        BadInputError: a quantity cannot be read.
    """
    goals: list[Goal] = []
    if flash is not None:
        goals.append(FlashBytes(parse_bytes("--flash", flash)))
    if ram is not None:
        goals.append(PeakRamBytes(parse_bytes("--ram", ram)))
    if parameters is not None:
        goals.append(NumParameters(parse_count("--parameters", parameters)))
    if macs is not None:
        goals.append(Macs(parse_count("--macs", macs)))
    if remove is not None:
        goals.append(_removal(remove))
    return goals


def _removal(text: str) -> Goal:
    if text.strip().endswith("%"):
        return RemovedFraction(parse_fraction("--remove", text))
    if not (text.strip().isascii() and text.strip().isdigit()) or len(text) > 18:
        raise BadInputError(
            "--remove", "a number of neurons or a percentage", repr(text[:40]), "Write it as 40 or 60%."
        )
    return RemovedNeurons(int(text))
