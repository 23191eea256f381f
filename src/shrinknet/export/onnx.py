"""ONNX: `.onnx` files, made by torch's exporter and run by ONNX Runtime."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.export import Dim

from shrinknet.core.quiet import quiet
from shrinknet.export.base import Built, Exporter
from shrinknet.export.plain import Answer, Plain, by_torch

OPSET = 18


class Onnx(Exporter):
    """An `.onnx` file with a free batch size, opset 18."""

    name = "onnx"
    suffix = ".onnx"
    extra = "onnx"
    packages = ("onnx", "onnxscript", "onnxruntime")

    def build(self, network: Plain, inputs: Tensor, calibration: Sequence[Tensor], quantize: str) -> Built:
        """Export by torch's own exporter; weights stand in the file."""
        rows = (inputs.detach().cpu().contiguous(),)
        try:
            with quiet():
                program = torch.export.export(network.module, rows, dynamic_shapes=({0: Dim("batch", min=1)},))
                made = torch.onnx.export(program, dynamo=True, opset_version=OPSET, external_data=False, verbose=False)
                assert made is not None
                content = made.model_proto.SerializeToString()
        except Exception as error:  # the exporter raises dozens of types, its internal ones among them
            raise self.refused("this network", error) from error
        return Built(content, by_torch(network.module))

    def answer(self, content: bytes) -> Answer:
        """Open the file by ONNX Runtime, on the CPU."""
        import onnxruntime

        session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name

        def answer(rows: Tensor) -> Tensor:
            return torch.from_numpy(session.run(None, {name: rows.detach().cpu().numpy()})[0])

        return answer
