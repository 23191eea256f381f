"""Open what was typed: a network, a task of a network and data, a run."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from shrinknet.cli.options import ModelFlags, RunFlags, TaskFlags
from shrinknet.core.errors import BadInputError
from shrinknet.core.named import is_import_path
from shrinknet.loading.data import load_data
from shrinknet.loading.models import in_twos, load_model
from shrinknet.run.opening import load
from shrinknet.run.run import Run
from shrinknet.task.task import Task
from shrinknet.task.trees import Inputs


def with_example(model: str, given: ModelFlags) -> tuple[nn.Module, Inputs]:
    """Load a model, and an example of its inputs of at least two samples.

    Raises:
        BadInputError: there is none.
    """
    loaded = load_model(model, given.weights, given.example_input, trust_pickle=given.trust_pickle)
    if loaded.example_inputs is not None:
        return loaded.model, in_twos(loaded.example_inputs)
    if is_import_path(model):
        do = "Write the shape of one sample, such as 1x28x28 (or 128:int64); of several tensors, a .pt2 file."
        raise BadInputError("--example-input", "given with a factory", "nothing", do)
    allowed = "a .pt2 file with an example of its inputs, each a tensor with a row for each sample"
    do = "Export it again by torch.export.export(model, args, kwargs), samples along the first axis of each."
    raise BadInputError("spec", allowed, "one without", do)


def make_task(model: str, data: str, seed: int, given: TaskFlags) -> Task:
    """Load everything that a task is made of.

    Raises:
        BadInputError: something cannot be loaded, or the example input is not of the data's shape.
    """
    loaded = load_model(model, given.weights, given.example_input, trust_pickle=given.trust_pickle)
    roles = load_data(data, seed)
    sources = (roles["calibration"], roles.get("validation"), roles.get("test"))
    more: dict[str, Any] = {"output": output_of(given.output), "free": free_axes(given.free)}
    task = Task(loaded.model, given.loss, *sources, given.batch_size, given.accuracy, given.metrics, **more)
    example_input = given.example_input
    own, said = task.example_inputs, loaded.example_inputs
    shape = list(own.shape[1:]) if isinstance(own, Tensor) else []
    if example_input is not None and isinstance(said, Tensor) and list(said.shape[1:]) != shape:
        raise BadInputError("--example-input", f"the shape of the data's rows {shape}", example_input, "Leave it out.")
    return task


def free_axes(typed: Sequence[str]) -> dict[str, dict[int, int | None]]:
    """Return the axes of each input that were typed as INPUT:AXIS, with the largest size that was said behind it.

    >>> free_axes(["input_ids:1", "image:2:512", "image:3:512"])
    {'input_ids': {1: None}, 'image': {2: 512, 3: 512}}
    """
    found: dict[str, dict[int, int | None]] = {}
    for one in typed:
        name, *numbers = one.split(":")
        if not name or not 1 <= len(numbers) <= 2 or not all(number.isdecimal() for number in numbers):
            do = "Write --free input_ids:1, or --free input_ids:1:128."
            raise BadInputError("--free", "INPUT:AXIS or INPUT:AXIS:LARGEST", repr(one), do)
        found.setdefault(name, {})[int(numbers[0])] = int(numbers[1]) if len(numbers) > 1 else None
    return found


def output_of(typed: str | None) -> str | int | None:
    """Return what was typed for an output: its key, or its number."""
    return int(typed) if typed is not None and typed.isdecimal() else typed


def reopen(path: Path, given: RunFlags) -> Run:
    """Return the run in a folder, on its own data unless other data are given.

    Raises:
        BadInputError: the data are not there, or are code that has to be named again.
        RunFolderError: there is no finished run.
    """
    return load(path, data=given.data, loss=given.loss, trust=given.trust)
