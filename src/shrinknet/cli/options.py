"""Options that several verbs share, each said once."""

from pathlib import Path
from typing import Annotated

import typer
from torch import nn

from shrinknet.core.errors import BadInputError
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
from shrinknet.task.task import DEFAULT_BATCH_SIZE, Task

Model = Annotated[str, typer.Argument(metavar="MODEL", help="A .pt2 file, or package.module:factory.")]
Weights = Annotated[str | None, typer.Option(help="A .safetensors file for the factory's network.")]
ExampleInput = Annotated[str | None, typer.Option(help="The shape of one sample, such as 1x28x28.")]
TrustPickle = Annotated[bool, typer.Option("--trust-pickle", help="Open a .pt2 file that could run any code.")]
DataPath = Annotated[
    str, typer.Option("--data", help="An .npz file (inputs, targets, split), or package.module:factory.")
]
LossName = Annotated[
    str, typer.Option("--loss", help="cross-entropy, squared-error, binary-cross-entropy, or package.module:function.")
]
AccuracyName = Annotated[
    str | None,
    typer.Option("--accuracy", help="argmax, threshold, or package.module:function; the loss's own where left out."),
]
CriterionName = Annotated[str, typer.Option("--criterion", help="How neurons are scored.")]
Memory = Annotated[str, typer.Option(help="What scoring may use beside model and data, such as 2GiB.")]
Confidence = Annotated[float | None, typer.Option(help="Race for the next neurons, as sure as this, such as 0.99.")]
Screen = Annotated[int | None, typer.Option(help="Ablate only so many neurons, the cheapest by taylor-2.")]
Compile = Annotated[bool, typer.Option("--compile", help="Compile the last hidden layer's loop: pays after minutes.")]
Tf32 = Annotated[bool, typer.Option("--tf32", help="Let a GPU round products to 19 bits.")]
Executor = Annotated[str, typer.Option(help="serial, processes, or ray.")]
Workers = Annotated[int | None, typer.Option(help="How many workers; one for each core where left out.")]
Threads = Annotated[int, typer.Option(help="How many threads each worker uses.")]
Address = Annotated[str | None, typer.Option(help="The Ray cluster, such as auto; one on this machine where left out.")]
Clip = Annotated[str, typer.Option(help="none, mean or median: tame steep second-order estimates.")]
Keep = Annotated[list[str] | None, typer.Option(help="A glob of groups to leave whole (may be repeated).")]
Only = Annotated[list[str] | None, typer.Option(help="A glob of the only groups to touch (may be repeated).")]
MultipleOf = Annotated[int, typer.Option(help="Keep widths at multiples of this, such as 8.")]
MinNeurons = Annotated[int, typer.Option(help="Keep at least so many neurons of each group.")]
Seed = Annotated[int, typer.Option(min=0, help="Seed of the split, and of the criterion 'random'.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Rows for each pass; speed and memory only.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
Out = Annotated[Path, typer.Option("--out", help="A new folder for the run.")]
Flash = Annotated[str | None, typer.Option(help="At most that many bytes of the file that ships, such as 64KiB.")]
Ram = Annotated[str | None, typer.Option(help="At most that many bytes of the planner's arena, such as 20KiB.")]
To = Annotated[str | None, typer.Option(help="What ships: weights, executorch, onnx, pt2, or cortex-m.")]
AllowFloat = Annotated[
    bool, typer.Option("--allow-float", help="An int8 file may hold operators that compute in float; it says which.")
]
Quantize = Annotated[str, typer.Option(help="none, or int8: quantize what ships, after pruning.")]
Price = Annotated[
    str, typer.Option(help="What a removal frees: neuron, parameters, flash, ram, macs, or budget (what is missing).")
]
Compensate = Annotated[str, typer.Option(help="none, mean, least-squares or newton: no retraining.")]
MaxLatency = Annotated[str | None, typer.Option(help="At most that long a sample on this machine, such as 5ms.")]
Parameters = Annotated[str | None, typer.Option(help="At most that many parameters, such as 20k.")]
MacsBudget = Annotated[str | None, typer.Option("--macs", help="At most that many MACs a sample, such as 1.5M.")]
Remove = Annotated[str | None, typer.Option(help="Remove that many neurons (40), or a share (60%).")]


def make_task(
    model: str, weights: str | None, example_input: str | None, data: str, loss: str, seed: int,
    batch_size: int = DEFAULT_BATCH_SIZE, trust_pickle: bool = False, accuracy: str | None = None,
) -> Task:  # fmt: skip
    """Load everything that a task is made of.

    Raises:
        BadInputError: something cannot be loaded, or the example input is not of the data's shape.
    """
    loaded = load_model(model, weights, example_input, trust_pickle=trust_pickle)
    task = task_of(loaded.model, load_data(data, seed), loss, batch_size, accuracy)
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
