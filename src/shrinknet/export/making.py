"""A network made into a file of some kind, and the file opened again by its own runtime."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor

from shrinknet.core.config import WEIGHTS
from shrinknet.core.errors import BadInputError, ExportError, ShrinknetError, first_line
from shrinknet.export.base import BY_NAME as EXPORTERS
from shrinknet.export.base import Built, Exporter, Find, find_exporter
from shrinknet.export.inference import Answer, InferenceGraph
from shrinknet.graph.trace import Trace
from shrinknet.task.task import Task
from shrinknet.task.trees import Inputs, of_each

CALIBRATION_ROWS = 1024
"""A quantizer looks at no more rows than these."""


@dataclass(frozen=True)
class Maker:
    """What makes a network's file: a kind of file and its quantization.

    Attributes:
        task, trace: the network.
        kind: an exporter, its class or its name.
        quantize: "none" or "int8".
        allow_float: whether an int8 file may hold operators that compute in float.
        find: what finds the exporter, when it is first used.
    """

    task: Task
    trace: Trace
    kind: object = WEIGHTS
    quantize: str = "none"
    allow_float: bool = False
    find: Find = find_exporter

    @property
    def name(self) -> str:
        """The name or import path of that kind, as files of the run say it."""
        return EXPORTERS.text_of(self.kind)

    @cached_property
    def exporter(self) -> Exporter:
        """The exporter of that kind."""
        return self.find(self.kind, self.quantize)

    @property
    def file(self) -> str:
        """The name of the file in a run's folder."""
        return f"model{'' if self.quantize == 'none' else '-' + self.quantize}{self.exporter.suffix}"

    def built(self, network: InferenceGraph) -> Built:
        """Return what the exporter makes of a network, and what it says of it."""
        self.check_free()
        try:
            built = self.exporter.build(network, self.example, self._calibration, self.quantize)
        except ShrinknetError:
            raise
        except Exception as error:  # an exporter of the user's own
            raise self.exporter.refused("this network", error) from error
        if isinstance(built, bytes):
            built = Built(built)
        if not (isinstance(built, Built) and isinstance(built.content, bytes)):
            content = getattr(built, "content", built)
            raise ExportError(
                f"artefact={self.name!r} must build the bytes of a file, or Built(bytes, ...). "
                f"Got {type(content).__name__}. Let its build return bytes(...)."
            )
        if built.float_operators and not self.allow_float:
            raise ExportError(
                f"quantize={self.quantize!r} for artefact={self.name!r} must be used with a network whose operators "
                f"all have an int8 form there. Got {len(built.float_operators)} that would stay in float: "
                f"{', '.join(built.float_operators)}. Allow it by `allow_float=True`, or write them otherwise."
            )
        return built

    def answer(self, content: bytes) -> Answer:
        """Open a file by its own runtime, ready to run on rows."""
        return self._told(self._told(self.exporter.answer)(content))

    def _told(self, run: Any) -> Callable[[Any], Any]:
        """Say in one sentence what an exporter's own runtime could not do."""

        def told(given: Any) -> Any:
            try:
                return run(given)
            except ShrinknetError:
                raise
            except Exception as error:  # an exporter of the user's own
                raise ExportError(
                    f"artefact={self.name!r} must open its own file and run it on rows. "
                    f"Got {type(error).__name__}: {first_line(error).rstrip('.')}. Mend what its answer returns."
                ) from error

        return told

    def check_free(self) -> None:
        """Raise BadInputError where the task has free sizes, and files of this kind fix them, or need the largest."""
        if not self.trace.free or not self.exporter.is_made_apart:
            return
        if not self.exporter.leaves_free:
            allowed = f"{named(lambda one: one.leaves_free)} for a task with free sizes, which other files fix"
            do = "Name one of these, or say nothing of `free`."
            raise BadInputError("artefact", allowed, f"`artefact={self.name!r}`", do)
        unknown = (
            (name, axis) for name, axes in self.trace.free.items() for axis, (_, most) in axes.items() if not most
        )
        if self.exporter.plans_free and (found := next(unknown, None)) is not None:
            name, axis = found
            allowed = f"said with the largest size for `artefact={self.name!r}`, whose memory is planned for it"
            do = f"Write {{{name!r}: {{{axis}: 128}}}} for at most 128."
            raise BadInputError("free", allowed, f"none for axis {axis} of {name!r}", do)

    @cached_property
    def _calibration(self) -> Sequence[Inputs]:
        rows = min(CALIBRATION_ROWS, len(self.task.calibration))
        batches = self.task.calibration.rows(0, rows).batches()
        return [of_each(batch.inputs, Tensor.cpu) for batch in batches]

    @cached_property
    def example(self) -> Inputs:
        """Two rows, on the CPU."""
        found: Inputs = of_each(self.task.example_inputs, Tensor.cpu)
        return found


def named(holds: Callable[[type[Exporter]], bool]) -> str:
    """Those of our exporters that make a file of their own and of which something holds, in words."""
    *others, last = (
        f"`artefact={name!r}`" for name, one in EXPORTERS.ours().items() if one.is_made_apart and holds(one)
    )
    return f"{', '.join(others)} or {last}"
