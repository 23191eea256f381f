"""The exported form of a network: `.pt2`, as bytes that a run folder can replace whole."""

import io
from collections.abc import Sequence
from pathlib import Path

import torch
from torch.export import ExportedProgram

from shrinknet.core.quiet import quiet
from shrinknet.core.turns import alone
from shrinknet.export.base import Built, Exporter
from shrinknet.export.inference import Answer, InferenceGraph, by_torch
from shrinknet.graph.free import free_sizes, steps_left_open
from shrinknet.loading.models import load_model
from shrinknet.task.trees import Inputs, call_of, in_plain_containers, of_each


class Pt2(Exporter):
    """A `.pt2` file of torch, batch norms folded; a run folder's `model.pt2` keeps them."""

    name = "pt2"
    suffix = ".pt2"
    leaves_free = True

    def build(self, network: InferenceGraph, inputs: Inputs, calibration: Sequence[Inputs], quantize: str) -> Built:
        """Export with a free batch size."""
        rows = of_each(inputs, lambda tensor: tensor.detach().cpu().contiguous())
        args, kwargs = call_of(rows)
        sizes = free_sizes(network.module, rows, network.trace.free)
        with quiet(), steps_left_open(network.trace.free):
            program = torch.export.export(network.module, args, kwargs, dynamic_shapes=sizes)
        return Built(pt2_bytes(program), by_torch(network.module))

    def answer(self, content: bytes) -> Answer:
        """Open the file by `torch.export.load`: we made these bytes ourselves a moment ago."""
        return by_torch(torch.export.load(io.BytesIO(content)).module())

    def opened(self, content: bytes, path: Path) -> Answer:
        """Open it as every `.pt2` file is, looked through first; a file of somebody's own kind as that opens it."""
        return by_torch(load_model(str(path)).model) if self.suffix == Pt2.suffix else self.answer(content)


UNREADABLE_BACK = set(";,()[]")
"""Between these torch.export.load cuts the path of a module."""


@alone()
def pt2_bytes(program: ExportedProgram) -> bytes:
    """Return the content of a .pt2 file; `torch.export.load` opens it without shrinknet.

    Where nodes came from is left out: it holds memory addresses, and the same network would never be the same bits. So
    are modules whose names torch could not read back. Outputs in containers of somebody's own (a `ModelOutput`) come as
    dicts and tuples: whoever opens the file need not have that class.
    """
    for node in program.graph.nodes:
        node.meta.pop("from_node", None)
        stack = node.meta.get("nn_module_stack") or {}
        if any(set(f"{key}{path}") & UNREADABLE_BACK for key, (path, _) in stack.items()):
            node.meta.pop("nn_module_stack")
    buffer = io.BytesIO()
    signature = program.module_call_graph[0].signature
    assert signature is not None
    own = signature.out_spec
    try:
        signature.out_spec = in_plain_containers(own)
        torch.export.save(program, buffer)
    finally:
        signature.out_spec = own
    return buffer.getvalue()
