"""Options that several verbs share, each said once."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from shrinknet.core.config import DEFAULT_BATCH_SIZE, SearchOptions
from shrinknet.core.options import Options, option
from shrinknet.search.goals import Goal, PeakRamBytes

Model = Annotated[str, typer.Argument(metavar="MODEL", help="A .pt2 or .onnx file, or package.module:factory.")]
RunPath = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")]
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
        (),
        "Sizes that stay free in what ships: INPUT:AXIS or INPUT:AXIS:LARGEST, such as input_ids:1 (may be repeated).",
    )


@dataclass(frozen=True, kw_only=True)
class RunFlags(Options):
    """How a run is opened again: nothing that its folder names is imported, unless it is named here or trusted."""

    data: str | None = option(
        None, "Other data than the run's own, or the run's factory named again; a model has none."
    )
    loss: str | None = option(None, "The run's own loss, as package.module:function; of a model, any loss.")
    trust: bool = option(False, "Import the data and the loss that the run folder names.")


def artefact_kind(options: SearchOptions, goals: Sequence[Goal]) -> object:
    """Return what ships: what was named; else ExecuTorch's file where RAM or int8 is asked for, else the weights."""
    wants_ram = any(isinstance(goal, PeakRamBytes) for goal in goals)
    is_implied = not options.artefact and (wants_ram or options.quantize != "none")
    return "executorch" if is_implied else options.kind
