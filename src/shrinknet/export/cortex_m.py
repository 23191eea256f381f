"""Cortex-M: `.pte` files in int8 whose operators are Arm's CMSIS-NN kernels; the arena holds int8 activations.

The kernels run on the microcontroller only. Here the file's operators are run by their reference implementations in
torch, which the backend's authors keep beside the kernels: that is not the device's own runtime.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from shrinknet.core.errors import ExportError
from shrinknet.core.quiet import quiet
from shrinknet.export.arena import Arena
from shrinknet.export.base import SLOW, Built, Exporter
from shrinknet.export.inference import Answer, InferenceGraph, by_tensors, joined_rows, one_by_one
from shrinknet.export.lifting import lifted
from shrinknet.export.lowering import (
    arena_bytes,
    in_float,
    placed_values,
    planned_in_order,
    stored_values,
    where,
    without_unread,
)
from shrinknet.export.quantization import output_steps, quantized
from shrinknet.export.undilated import undilated
from shrinknet.task.trees import AnyInputs, Inputs, tensors_of

CPU = "M4"
CHANNELS_LAST = "rows of (N, C, H, W) lie in memory with their channels last"
LIFTED = "1-D operators are 2-D ones of height 1 in the file"
NOT_RUN = "run by the reference implementations of its operators, not by the device's own kernels"


class CortexM(Exporter):
    """A `.pte` file in int8 for a Cortex-M4 and its like (DSP extension), for batches of one."""

    name = "cortex-m"
    suffix = ".cortex-m.pte"
    extra = "cortex-m"
    packages = ("executorch", "tosa_serializer")
    quantizations = ("int8",)
    runs_here = False

    def build(self, network: InferenceGraph, inputs: Inputs, calibration: Sequence[Inputs], quantize: str) -> Built:
        """Quantize as the backend asks, and put its operators into the graph."""
        edge: Any = None
        taller = lifted(network.flat, inputs)
        module = taller.module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        row = _as_kernels_read(taller.given(next(one_by_one(inputs))))
        with quiet():
            from executorch.backends.cortex_m.edge_compile_config import cortex_m_edge_compile_config
            from executorch.backends.cortex_m.passes.cortex_m_pass_manager import CortexMPassManager
            from executorch.backends.cortex_m.quantizer.quantizer import CortexMQuantizer
            from executorch.backends.cortex_m.target_config import CortexM as Cpu
            from executorch.backends.cortex_m.target_config import CortexMTargetConfig
            from executorch.exir import to_edge

            try:
                two, *looked_at = (_as_kernels_read(taller.given(rows)) for rows in (inputs, *calibration))
                small = quantized(module, two, CortexMQuantizer(), looked_at)
                edge = to_edge(torch.export.export(small, row), compile_config=cortex_m_edge_compile_config())
                cpu = CortexMTargetConfig(cpu=Cpu[CPU])
                passes = CortexMPassManager(edge.exported_program(), target_config=cpu)
                edge._edge_programs["forward"] = without_unread(passes.transform())  # the backend has no other way in
                kept_in_float = in_float(edge.exported_program(), network)
                stand_in = undilated(edge.exported_program().module(check_guards=False))
                lowered, placed = planned_in_order(edge)
            except Exception as error:  # executorch raises dozens of types, its internal ones among them
                raise self.refused(where(edge, network, error), error) from error
        arena = Arena(arena_bytes(lowered), tuple(placed_values(lowered, placed, network)))
        constants = tuple(stored_values(lowered.exported_program(), network))

        @torch.no_grad()
        def answer(given: AnyInputs) -> Any:
            return joined_rows(tensors_of(stand_in(*_as_kernels_read(one))) for one in one_by_one(given))

        notes = (NOT_RUN, *[CHANNELS_LAST] * any(one.dim() == 4 for one in row), *[LIFTED] * taller.is_lifted)
        return Built(
            bytes(lowered.buffer),
            taller.around(by_tensors(small)),
            arena,
            constants=constants,
            steps=output_steps(small),
            stand_in=taller.around(answer),
            notes=notes,
            input_shapes=_shapes(row),
            output_shapes=_shapes(by_tensors(small)(row)),
            float_operators=kept_in_float,
        )

    def answer(self, content: bytes) -> Answer:
        """There is no runtime for it here.

        Raises:
            ExportError: always.
        """
        raise ExportError(f"artefact='cortex-m' must be run on a microcontroller. Got this machine. {NOT_RUN}.")

    def macs_to_check(self, quantize: str) -> float:
        """The reference implementations run sample by sample."""
        return SLOW


def _as_kernels_read(rows: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Rows in the order in memory that the kernels read: channels last, where there are height and width."""
    orders = {4: torch.channels_last}
    return tuple(one.cpu().contiguous(memory_format=orders.get(one.dim(), torch.contiguous_format)) for one in rows)


def _shapes(tree: Any) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(tensor.shape) for tensor in tensors_of(tree))
