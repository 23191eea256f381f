"""What an exporter is: it makes a file of a network, and runs that file by its own runtime."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import ClassVar

import torch
from torch import Tensor

from shrinknet.core.errors import BadInputError, ExportError
from shrinknet.core.registry import registry_of_classes
from shrinknet.export.arena import Arena, Value
from shrinknet.export.inference import Answer, InferenceGraph
from shrinknet.task.trees import Inputs


@dataclass(frozen=True)
class Built:
    """A file, and what is known of it.

    Attributes:
        content: the bytes of the file.
        reference: what the file must compute, in torch: the network itself, or its quantized form.
        arena: where the runtime's planner puts the activations, if it says so.
        stored: the constants of the file, where it holds the network's own.
        constants: the constants of the file with their axes, where it holds others (such as int8 ones).
        steps: how far apart two neighbouring values of each output are; None where it is not quantized.
        stand_in: what runs the file where its own runtime cannot.
        notes: what the file's figures leave out, and what whoever calls it must know.
        input_shapes: the shapes of a row's tensors in the file, where they are not the network's.
        output_shapes: those of its outputs.
        float_operators: where int8 was asked for, the operators that compute in float all the same, each with its
            module.
    """

    content: bytes
    reference: Answer
    arena: Arena | None = None
    stored: tuple[Tensor, ...] = ()
    constants: tuple[Value, ...] = ()
    steps: tuple[float | None, ...] = ()
    stand_in: Answer | None = None
    notes: tuple[str, ...] = ()
    input_shapes: tuple[tuple[int, ...], ...] = ()
    output_shapes: tuple[tuple[int, ...], ...] = ()
    float_operators: tuple[str, ...] = ()


FAST, SLOW = 1e12, 4e9
"""How many MACs a runtime does within some seconds: vectorised kernels, and plain ones."""


class Exporter(ABC):
    """A way to write a network into a file that another program runs.

    A subclass gives a `name`, a `suffix`, the `packages` it needs and the `extra` that installs them, which
    quantizations it knows, and the two methods. It knows nothing of the other exporters.

    Attributes:
        runs_here: whether this machine runs the file as the one that it is made for does.
        leaves_free: whether sizes other than the number of samples can stay free (`network.trace.free`).
        is_made_apart: whether a run makes the file, with a manifest, beside the models that its folder holds anyway.
    """

    name: ClassVar[str]
    suffix: ClassVar[str]
    extra: ClassVar[str]
    packages: ClassVar[tuple[str, ...]]
    quantizations: ClassVar[tuple[str, ...]] = ("none",)
    runs_here: ClassVar[bool] = True
    is_made_apart: ClassVar[bool] = True
    leaves_free: ClassVar[bool] = False

    @abstractmethod
    def build(self, network: InferenceGraph, inputs: Inputs, calibration: Sequence[Inputs], quantize: str) -> Built:
        """Make the file of a network whose norms are folded.

        Args:
            network: the graph, its norms folded; its nodes are named as in the trace. `network.flat` takes the
                tensors of the inputs one by one and gives those of the outputs.
            inputs: two rows: a tensor, or the arguments of a call.
            calibration: batches of rows that a quantizer looks at.
            quantize: one of `quantizations`.
        """

    @abstractmethod
    def answer(self, content: bytes) -> Answer:
        """Open a file by its own runtime, ready to run on rows."""

    def stored_bytes(self, shape: tuple[int, ...], dtype: torch.dtype) -> int:
        """How many bytes of the file one of the network's own tensors takes."""
        return int(torch.Size(shape).numel()) * dtype.itemsize

    def macs_to_check(self, quantize: str) -> float:
        """How much work comparing a file with torch may take: some runtimes are slow here."""
        return FAST

    def versions(self) -> dict[str, str]:
        """Return the versions of the packages that make and run the file."""
        found = {"torch": str(torch.__version__)}
        for package in self.packages:
            try:
                found[package] = version(package)
            except PackageNotFoundError:
                found[package] = "not installed"
        return found

    def check(self, quantize: str = "none") -> None:
        """Raise BadInputError where the exporter's packages are missing, or it does not know how to quantize so."""
        if quantize not in self.quantizations:
            known = [one.name for one in BY_NAME.ours().values() if quantize in one.quantizations]
            do = f"Use `artefact={known[0]!r}`." if known else "Use none or int8."
            raise BadInputError(f"quantize for artefact={self.name!r}", " or ".join(self.quantizations), quantize, do)
        for package in self.packages:
            try:
                import_module(package)
            except ImportError as error:
                raise BadInputError(
                    f"artefact={self.name!r}",
                    f"used where the extra {self.extra!r} is installed",
                    f"a Python that cannot import it ({error})",
                    f"Run: pip install 'shrinknet[{self.extra}]'",
                ) from error

    def refused(self, where: str, error: Exception) -> ExportError:
        """Return the error that says which operator the exporter cannot take."""
        said = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        return ExportError(
            f"artefact={self.name!r} must be given a network whose operators it knows. Got {where}: {said[:300]} "
            f"The network as a .pt2 file is there all the same: use `artefact='pt2'`."
        )


BY_NAME = registry_of_classes(Exporter, "artefact", "shrinknet.export", "shrinknet.exporters", "exporter")  # type: ignore[type-abstract]


def exporter_names() -> tuple[str, ...]:
    """Return the names of every exporter there is."""
    return BY_NAME.names()


def find_exporter(name: str, quantize: str = "none") -> Exporter:
    """Return the exporter of that name, or that `package.module:Class`, ready to be used.

    Raises:
        BadInputError: there is none, its packages are not installed, or it does not quantize so.
    """
    exporter = BY_NAME.find(name)()
    exporter.check(quantize)
    return exporter
