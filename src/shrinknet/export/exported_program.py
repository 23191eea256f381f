"""The exported form of a network: `.pt2` and `.safetensors`, as bytes that a run folder can replace whole."""

import io
from collections.abc import Mapping

import torch
from safetensors.torch import save
from torch import Tensor
from torch.export import ExportedProgram

from shrinknet.measure.costs import stored


def pt2_bytes(program: ExportedProgram) -> bytes:
    """Return the content of a .pt2 file; `torch.export.load` opens it without shrinknet.

    Where nodes came from is left out: it holds memory addresses, and the same network would never be the same bits.
    """
    for node in program.graph.nodes:
        node.meta.pop("from_node", None)
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    return buffer.getvalue()


def safetensors_bytes(tensors: Mapping[str, Tensor]) -> bytes:
    """Return the content of a .safetensors file: each shared tensor once, under its first name."""
    return save({name: tensor.detach().cpu().contiguous() for name, tensor in stored(tensors).items()})
