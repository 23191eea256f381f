"""What an exporter is: it makes a file of a network, and runs that file by its own runtime."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from shrinknet.core.errors import BadInputError, ExportError, first_line
from shrinknet.core.registry import Named, registry_of_classes
from shrinknet.export.arena import Arena, Value
from shrinknet.export.inference import Answer, InferenceGraph
from shrinknet.task.trees import Inputs


@dataclass(frozen=True)
class Built:
    """A file, and what is known of it.

    Attributes:
        content: the bytes of the file.
        reference: what the file must compute, in torch: its quantized form; None: the network itself.
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
    reference: Answer | None = None
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


class Exporter(Named, ABC):
    """A way to write a network into a file that another program runs.

    A subclass gives the two methods; a `name`, and what else is not as below. It knows nothing of the other exporters.

    Attributes:
        suffix: of its files; the name behind a dot, where it says none.
        packages: what it imports, where nothing else needs it.
        extra: the extra of ours that installs them, if one does.
        quantizations: what it can make, of "none" and "int8".
        runs_here: whether this machine runs the file as the one that it is made for does.
        leaves_free: whether sizes other than the number of samples can stay free (`network.trace.free`).
        plans_free: whether they can only up to a largest size, for which memory is planned.
        is_made_apart: whether a run makes the file, with a manifest, beside the models that its folder holds anyway.
    """

    suffix: ClassVar[str] = ""
    packages: ClassVar[tuple[str, ...]] = ()
    extra: ClassVar[str] = ""
    quantizations: ClassVar[tuple[str, ...]] = ("none",)
    runs_here: ClassVar[bool] = True
    is_made_apart: ClassVar[bool] = True
    leaves_free: ClassVar[bool] = False
    plans_free: ClassVar[bool] = False

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        cls.suffix = cls.suffix or f".{cls.name.lower()}"

    @abstractmethod
    def build(
        self, network: InferenceGraph, inputs: Inputs, calibration: Sequence[Inputs], quantize: str
    ) -> Built | bytes:
        """Make the file of a network whose norms are folded: its bytes, or with them what else is known of it.

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

    def opened(self, content: bytes, path: Path) -> Answer:
        """Open a file that lies in a folder, and may be anybody's: as our own, where its runtime opens any safely."""
        return self.answer(content)

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
                what = f"the extra {self.extra!r}" if self.extra else f"{package!r}"
                install = f"'shrinknet[{self.extra}]'" if self.extra else package
                allowed = f"used where {what} is installed"
                got = f"a Python that cannot import it ({error})"
                raise BadInputError(f"artefact={self.name!r}", allowed, got, f"Run: pip install {install}") from error

    def refused(self, where: str, error: Exception) -> ExportError:
        """Return the error that says which operator the exporter cannot take."""
        said = f"{type(error).__name__}: {first_line(error)[:300].rstrip('.')}"
        return ExportError(
            f"artefact={self.name!r} must be given a network whose operators it knows. Got {where}: {said}. "
            f"The network as a .pt2 file is there all the same: use `artefact='pt2'`."
        )


BY_NAME = registry_of_classes(Exporter, "artefact", "shrinknet.export", "shrinknet.exporters", "exporter")  # type: ignore[type-abstract]


Find = Callable[[Any, str], Exporter]
"""Given an exporter, its class or its name, and a quantization: the exporter, ready to use."""


def exporter_names() -> tuple[str, ...]:
    """Return the names of every exporter there is."""
    return BY_NAME.names()


def find_exporter(name: object, quantize: str = "none") -> Exporter:
    """Return the exporter of that name or `package.module:Class` (or of a class, or an object as it is), ready to use.

    Raises:
        BadInputError: there is none, its packages are not installed, or it does not quantize so.
    """
    exporter: Exporter = BY_NAME.made(name)
    exporter.check(quantize)
    return exporter
