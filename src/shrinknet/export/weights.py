"""The weights file: `model.safetensors`, which every run folder holds, as bytes that it can replace whole."""

from collections.abc import Mapping, Sequence

from safetensors.torch import save
from torch import Tensor

from shrinknet.core.config import WEIGHTS
from shrinknet.core.errors import BadInputError
from shrinknet.export.base import BY_NAME, Built, Exporter
from shrinknet.export.inference import Answer, InferenceGraph
from shrinknet.measure.costs import stored
from shrinknet.task.trees import Inputs


class Weights(Exporter):
    """The tensors of the cut network as they are: what ships where no other program's file is asked for."""

    name = WEIGHTS
    suffix = ".safetensors"
    runs_here = False
    is_made_apart = False

    def build(self, network: InferenceGraph, inputs: Inputs, calibration: Sequence[Inputs], quantize: str) -> Built:
        """Refuse: every run folder holds the file, beside a network whose norms are not folded."""
        raise self._nothing_to_make()

    def answer(self, content: bytes) -> Answer:
        """Refuse: the file holds no graph that could run."""
        raise self._nothing_to_make()

    def check(self, quantize: str = "none") -> None:
        """Raise BadInputError where it should be quantized."""
        if quantize not in self.quantizations:
            do = "Name an artefact, as `artefact='executorch'`."
            raise BadInputError("quantize", "none for a weights file", quantize, do)

    def _nothing_to_make(self) -> BadInputError:
        return BY_NAME.unknown(self.name, [name for name, one in BY_NAME.ours().items() if one.is_made_apart])


def safetensors_bytes(tensors: Mapping[str, Tensor]) -> bytes:
    """Return the content of a .safetensors file: each shared tensor once, under its first name."""
    return save({name: tensor.detach().cpu().contiguous() for name, tensor in stored(tensors).items()})
