"""A model from what a user types: a .pt2 or .onnx file, or a factory with a weights file."""

import math
import zipfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import safetensors
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from shrinknet.core.errors import BadInputError
from shrinknet.core.named import find_named, is_import_path, made_by
from shrinknet.core.turns import alone
from shrinknet.graph.trace import export_program
from shrinknet.task.trees import Inputs, inputs_of, is_tree_of_rows, num_rows, of_each, tensors_of

PICKLE_ENDINGS = {".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".bin"}


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model, and an example of its inputs where the file or the user gave one."""

    model: nn.Module
    example_inputs: Inputs | None


def load_model(
    spec: str, weights: str | None = None, example_input: str | None = None, *, trust_pickle: bool = False
) -> LoadedModel:
    """Load a .pt2 or .onnx file, or call `package.module:factory` and fill it with a .safetensors file.

    Args:
        spec: the file or the import path.
        weights: a .safetensors file (for a factory only).
        example_input: the shape of one sample, such as "1x28x28" (for a factory, and for an .onnx file that leaves
            sizes open; a .pt2 file knows its own).
        trust_pickle: open a .pt2 file unlooked. It can then run any code.

    Raises:
        BadInputError: nothing is there, it is of another format, damaged or unsafe, or weights do not fit.
    """
    if is_import_path(spec):
        model = _from_factory(spec)
        if weights is not None:
            fill(model, Path(weights))
        return LoadedModel(model, _example(example_input, model))
    path = existing("spec", spec)
    is_onnx = path.suffix == ".onnx"
    for option, given in (("weights", weights), ("example_input", None if is_onnx else example_input)):
        if given is not None:
            raise BadInputError(option, "used with a factory", f"a model file {spec!r}", "The file has its own.")
    return _from_onnx(path, example_input) if is_onnx else _from_pt2(path, trust_pickle)


def existing(argument: str, path: str | Path) -> Path:
    """Return the path after checking that there is a file.

    Raises:
        BadInputError: there is none.
    """
    if not Path(path).is_file():
        raise BadInputError(argument, "a file that exists", repr(str(path)), "Check the path.")
    return Path(path)


def _from_factory(spec: str) -> nn.Module:
    factory = find_named("spec", spec)
    model = factory if isinstance(factory, nn.Module) else made_by("spec", spec, factory)
    if not isinstance(model, nn.Module):
        do = "Return the network itself."
        raise BadInputError("spec", "a factory that returns an nn.Module", type(model).__name__, do)
    return model


def fill(model: nn.Module, path: Path) -> None:
    """Load a .safetensors file into a network; a shared tensor may stand under one of its names.

    Raises:
        BadInputError: the file is missing, damaged, a pickle, or its weights do not fit.
    """
    existing("weights", path)
    if path.suffix in PICKLE_ENDINGS or _is_pickle(path):
        raise _pickle("weights", "a .safetensors file", path)
    try:
        state = load_file(path)
    except (safetensors.SafetensorError, OSError) as error:
        got = f"{str(path)!r}, which cannot be read ({error})"
        raise BadInputError("weights", "a .safetensors file", got, "Save it again.") from error
    problem = _load(model, state)
    if problem is not None:
        do = "Use the network that these weights were saved from."
        raise BadInputError("weights", "weights that fit the network", f"{str(path)!r}: {problem}", do)


def _load(model: nn.Module, state: dict[str, Tensor]) -> str | None:
    """Load weights, and buffers that the network does not save; return what does not fit, if anything."""
    tensors = model.state_dict(keep_vars=True)
    unsaved = {name: buffer for name, buffer in model.named_buffers(remove_duplicate=False) if name not in tensors}
    for name in unsaved.keys() & state.keys():
        given = state.pop(name)
        if given.shape != unsaved[name].shape:
            return f"{name!r} of shape {list(given.shape)} in place of {list(unsaved[name].shape)}"
        unsaved[name].data.copy_(given)
    covered = {tensors[name] for name in state if name in tensors}
    try:
        result = model.load_state_dict(state, strict=False)
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()[1:] if line.strip()]
        return lines[0] if lines else str(error)
    missing = [name for name in result.missing_keys if tensors[name] not in covered]
    if missing:
        return f"nothing for {missing[0]!r}"
    return f"unexpected {result.unexpected_keys[0]!r}" if result.unexpected_keys else None


@alone()
def _from_pt2(path: Path, trust_pickle: bool) -> LoadedModel:
    if path.suffix in PICKLE_ENDINGS or (path.suffix != ".pt2" and _is_pickle(path)):
        raise _pickle("spec", "a .pt2 file", path)
    if path.suffix != ".pt2":
        do = "Export it with torch.export.save(torch.export.export(...), 'model.pt2')."
        raise BadInputError("spec", "a .pt2 file, an .onnx file or package.module:factory", repr(str(path)), do)
    from shrinknet.loading.safe_pt2 import open_pt2, opened_by_torch  # torch's reader takes a second to import

    program, model = opened_by_torch(path, path) if trust_pickle else open_pt2(path)
    example = inputs_of(*program.example_inputs) if program.example_inputs else None
    if example is None or not tensors_of(example) or not is_tree_of_rows(tensors_of(example), num_rows(example)):
        return LoadedModel(model, None)
    given = [node.meta["val"] for node in program.graph.nodes if node.name in program.graph_signature.user_inputs]
    is_free = all(isinstance(one.shape[0], torch.SymInt) for one in given if isinstance(one, Tensor))
    return LoadedModel(model if is_free else _freed(model, example), example)


def in_twos(example: Inputs) -> Inputs:
    """Return inputs of at least two samples: one is repeated."""
    found: Inputs = of_each(example, lambda one: one if len(one) > 1 else one.expand(2, *one.shape[1:]).contiguous())
    return found


@alone()
def _from_onnx(path: Path, example_input: str | None) -> LoadedModel:
    from shrinknet.loading.onnx_in import open_onnx  # a table of operators that nobody else needs

    return LoadedModel(*open_onnx(path, lambda network: _example(example_input, network)))


def _freed(model: nn.Module, example: Inputs) -> nn.Module:
    """Give an export of one fixed number of samples a free one, where its graph does not hold the number.

    Raises:
        BadInputError: it does.
    """
    model._forward_pre_hooks.clear()  # the check that inputs have the shape of the example
    try:
        return export_program(model, in_twos(example[:1])).module(check_guards=False)
    except BadInputError as error:
        got = f"one whose graph fixes it at {len(example)}"
        do = "Export it again with dynamic_shapes=({0: torch.export.Dim('batch')},)."
        raise BadInputError("spec", "an export with a free number of samples", got, do) from error


def _example(given: str | None, model: nn.Module) -> Tensor | None:
    """Two samples of a shape such as "1x28x28", or "128:int64" for a network that takes whole numbers."""
    if given is None:
        return None
    shape, _, kind = given.partition(":")
    try:
        sizes = [int(size) for size in shape.replace(",", "x").lower().split("x")]
    except ValueError:
        sizes = []
    if not sizes or min(sizes) < 1 or kind not in {"", "int64"}:
        do = "Leave the samples axis out; write 128:int64 for whole numbers."
        raise BadInputError("example_input", "the shape of one sample such as 1x28x28", repr(given), do)
    if kind:
        return torch.zeros(2, *sizes, dtype=torch.int64)
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.get_default_dtype())
    values = torch.linspace(-1, 1, 2 * math.prod(sizes), dtype=dtype)
    return values.view(2, *sizes)


def _is_pickle(path: Path) -> bool:
    """Whether a file is a pickle, or an archive of torch with one in it; a damaged archive is neither."""
    with suppress(Exception), zipfile.ZipFile(path) as archive:
        return any(name.endswith("data.pkl") for name in archive.namelist())
    with path.open("rb") as file:
        start = file.read(9)  # a .safetensors file begins with the length of its table and a brace
    return start[:1] == b"\x80" and start[8:] != b"{"


def _pickle(argument: str, allowed: str, path: Path) -> BadInputError:
    do = "Load it in your own program and save it as .safetensors (weights) or .pt2 (network)."
    return BadInputError(argument, allowed, f"{str(path)!r}, which is a pickle and could run any code", do)
