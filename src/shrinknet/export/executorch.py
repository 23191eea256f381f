"""ExecuTorch: `.pte` files for phones and microcontrollers, and what their memory planner says.

In float32 the file uses the portable operators, whose arena holds every activation. In int8 the XNNPACK delegate runs
it, whose own workspace the arena does not show.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.fx import GraphModule

from shrinknet.core.errors import BadInputError, ShrinknetError
from shrinknet.core.quiet import quiet
from shrinknet.export.arena import Arena
from shrinknet.export.base import FAST, SLOW, Built, Exporter
from shrinknet.export.inference import Answer, InferenceGraph, by_tensors, by_torch, joined_rows, one_by_one
from shrinknet.export.lowering import arena_bytes, float_products, placed_values, planned_in_order, stored_values, where
from shrinknet.export.quantization import output_steps, quantized
from shrinknet.graph.free import bounds_of, free_sizes
from shrinknet.graph.rules.recurrent import is_recurrent
from shrinknet.task.trees import AnyInputs, Inputs

HIDDEN = "the XNNPACK delegate plans its own workspace at run time: the arena holds only what goes in and out of it"


class ExecuTorch(Exporter):
    """A `.pte` file for batches of one."""

    name = "executorch"
    suffix = ".pte"
    extra = "executorch"
    packages = ("executorch",)
    quantizations = ("none", "int8")
    leaves_free = plans_free = True

    def build(self, network: InferenceGraph, inputs: Inputs, calibration: Sequence[Inputs], quantize: str) -> Built:
        """Lower a network, in float32 to the portable operators, in int8 to XNNPACK."""
        rows = next(one_by_one(inputs))
        if quantize == "int8":
            return self._build_int8(network, inputs, rows, calibration)
        with quiet():
            from executorch.exir import to_edge
            from executorch.exir.passes.constant_prop_pass import constant_prop_pass

            edge: Any = None
            try:
                edge = to_edge(self._exported(network.flat, network, rows))
                constant_prop_pass(edge.exported_program())  # a transposed weight is stored, never computed
                lowered, placed = planned_in_order(edge, **_planning(network))
            except ShrinknetError:
                raise
            except Exception as error:  # executorch raises dozens of types, its internal ones among them
                raise self.refused(where(edge, network, error), error) from error
        program = lowered.exported_program()
        arena = Arena(arena_bytes(lowered), tuple(placed_values(lowered, placed, network)))
        constants = (*program.state_dict.values(), *program.constants.values())
        stored = tuple(value for value in constants if isinstance(value, Tensor))
        return Built(bytes(lowered.buffer), by_torch(network.module), arena, stored)

    def _build_int8(
        self, network: InferenceGraph, inputs: Inputs, rows: tuple[Tensor, ...], calibration: Sequence[Inputs]
    ) -> Built:
        with quiet():
            from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
            from executorch.exir import ExecutorchBackendConfig, to_edge_transform_and_lower

            try:
                smaller = quantized(network.flat, inputs, xnnpack_quantizer(), calibration, network.trace.free)
                kept_in_float = float_products(smaller, network)
                program = self._exported(smaller, network, rows)
                edge = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
                lowered = edge.to_executorch(ExecutorchBackendConfig(**_planning(network)))
            except ShrinknetError:
                raise
            except Exception as error:
                raise self.refused("this network", error) from error
        constants = tuple(one for one in stored_values(program, network) if len(one.axes) > 1)  # biases hardly count
        return Built(
            bytes(lowered.buffer),
            by_tensors(smaller),
            constants=constants,
            steps=output_steps(smaller),
            notes=(HIDDEN,),
            float_operators=kept_in_float,
        )

    def _exported(self, module: GraphModule, network: InferenceGraph, rows: tuple[Tensor, ...]) -> ExportedProgram:
        """Export one row, whose other sizes stay free where they are to.

        Raises:
            ExportError: a recurrent layer is taken apart step by step. BadInputError: something else fixes a size.
        """
        free = network.trace.free
        if not free:
            return torch.export.export(module, rows)
        axes = free_sizes(network.flat, rows, free)
        sizes = tuple({axis: size for axis, size in one.items() if axis} for one in axes)
        program = torch.export.export(module, rows, dynamic_shapes=sizes)
        try:
            bounds_of(program, network.flat, rows, free)
        except BadInputError as error:
            for node in filter(is_recurrent, network.module.graph.nodes):
                said = NotImplementedError("its lowering writes each step down")
                raise self.refused(f"{node.target} over a free number of steps", said) from error
            raise
        return program

    def answer(self, content: bytes) -> Answer:
        """Open a `.pte` file by ExecuTorch's Python runtime."""
        with quiet() as said:
            from executorch.runtime import Runtime

            try:
                program = Runtime.get().load_program(content)
                method = program.load_method("forward")
            except RuntimeError as error:
                missing = sorted({line.split("]")[-1].strip() for line in said() if "Missing operator" in line})
                raise self.refused(", ".join(missing) or "a file that its runtime cannot load", error) from error

        def answer(inputs: AnyInputs, _alive: tuple[Any, ...] = (content, program)) -> Any:
            # the method reads the memory of what is alive
            return joined_rows([one.clone() for one in method.execute(row)] for row in one_by_one(inputs))

        def first_answer(inputs: AnyInputs) -> Any:
            with quiet():  # it looks at the processor then, and says so
                found = answer(inputs)
            answers.append(answer)
            return found

        answers: list[Answer] = [first_answer]
        return lambda inputs: answers[-1](inputs)

    def macs_to_check(self, quantize: str) -> float:
        """The portable kernels are plain loops, XNNPACK's are not."""
        return FAST if quantize == "int8" else SLOW

    def stored_bytes(self, shape: tuple[int, ...], dtype: torch.dtype) -> int:
        """Constants begin at multiples of 16 bytes."""
        return -(-int(torch.Size(shape).numel()) * dtype.itemsize // 16) * 16


def _planning(network: InferenceGraph) -> dict[str, Any]:
    """What a lowering is told where sizes are free: memory is planned for the largest ones."""
    if not network.trace.free:
        return {}
    from executorch.exir.passes.sym_shape_eval_pass import ConstraintBasedSymShapeEvalPass

    return {"sym_shape_eval_pass": ConstraintBasedSymShapeEvalPass()}


def xnnpack_quantizer() -> Any:
    """Return a quantizer of trained networks, as XNNPACK asks for it.

    Patterns of networks that are trained in int8 are left out: here norms are folded, and tracing those patterns takes
    a quarter of the time of a file.
    """
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )

    quantizer = XNNPACKQuantizer()
    quantizer.SUPPORTED_PATTERNS = [pattern for pattern in quantizer.SUPPORTED_PATTERNS if not pattern.is_qat]
    return quantizer.set_global(get_symmetric_quantization_config(is_per_channel=True))
