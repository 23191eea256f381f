"""Network, loss and data of a task looked through once: what cannot be used is said before anything is scored."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from shrinknet.core.errors import BadInputError
from shrinknet.core.turns import alone
from shrinknet.core.units import counted
from shrinknet.task.accuracy import judged
from shrinknet.task.coupling import couples_samples
from shrinknet.task.data import Batch, Data
from shrinknet.task.losses import Loss, find_loss
from shrinknet.task.measured import Computation, Measured
from shrinknet.task.own_answers import answers_of, counting, has_ignored, of_own_answers, own_loss
from shrinknet.task.targets import check_classes, check_targets
from shrinknet.task.trees import Inputs, are_alike, called, floats_of, joined, named_leaves, of_each, same, tensors_of

log = logging.getLogger(__name__)


ROWS_LOOKED_AT = 128
"""So many rows, spread over the data, say whether samples depend on each other."""

ROWS_AT_ONCE = 64
"""So many rows go through the network at once while a task is looked at: nobody knows yet how much memory they take."""

MOST_COPIED = 2**28
"""A network of more numbers than that (2 GiB in float64) is not copied to be looked at in finer precision."""


def looked_through(
    model: nn.Module,
    loss: Loss,
    output: str | int | None,
    metrics: Sequence[Measured],
    roles: Sequence[Data],
    *,
    is_asked: bool,
) -> tuple[Loss, tuple[Inputs, ...]]:
    """Return the loss, which says what it reads and whether it couples samples, once the task has been looked at.

    Beside it, two rows of each size that batches have.
    """
    examples: dict[str, Inputs] = {}
    with evaluating(model), torch.no_grad():
        for data in roles:
            batches = data.checked_batches()
            checked = [next(batches)]
            batch = next(_few_at_once(data).batches())
            outputs = _outputs(model, batch, data.role)
            if data is roles[0]:
                _check_outputs(outputs, batch)
                _check_same_twice(outputs, _outputs(model, batch, data.role))
                loss = replace(loss, reads=which_output(loss, outputs, output))
            read = loss.read(outputs)
            for rows in chain(checked, batches):
                loss = counting(loss) if has_ignored(rows.targets) else loss
                examples.setdefault(_sizes(rows.inputs), rows.inputs[:2])
                check_targets(rows.targets, read, loss, data.role)
                if is_asked:
                    check_classes(rows.targets, read, loss.accuracy, data.role)
            _check_loss(loss, outputs, batch.targets)
            judged(loss.accuracy, *loss.compared(outputs, batch.targets))
            Computation(metrics, batch.device).update(*loss.compared(outputs, batch.targets))
        rows = roles[0].spread(ROWS_LOOKED_AT)
        outputs = _outputs(model, rows, roles[0].role)
        _check_apart(model, rows, outputs)
        couples = couples_samples(loss, outputs, rows.targets)
        return (replace(loss, couples_samples=True) if couples else loss), tuple(examples.values())


def _few_at_once(data: Data) -> Data:
    return replace(data, batch_size=min(data.batch_size, ROWS_AT_ONCE))


def _sizes(inputs: Inputs) -> str:
    """The sizes of inputs, but for how many rows there are."""
    return str([tuple(one.shape[1:]) for one in tensors_of(inputs)])


def of_the_network(model: nn.Module, data: Data, loss: Loss, output: str | int | None) -> Loss:
    """Return the loss that the network computes from labels itself."""
    with evaluating(model), torch.no_grad():
        batch = data.spread(ROWS_LOOKED_AT)
        outputs = _outputs(model, batch, data.role)
        _check_outputs(outputs, batch)
        reads = _read_by_built_in(outputs, batch.targets, output)
        if output is not None and reads is not None:
            outputs, reads = tensors_of(outputs)[reads], None
        found = own_loss(model, batch, outputs, reads)
    return found if loss.accuracy is None else replace(found, accuracy=loss.accuracy)


def _read_by_built_in(outputs: Any, targets: Any, output: str | int | None) -> int | None:
    """The output that a built-in loss of one would be given; None where it is not known which."""
    if len(tensors_of(targets)) > 1:  # each is compared with an output of its own
        return None
    try:
        return which_output(find_loss("cross-entropy"), outputs, output)
    except BadInputError:
        if output is not None:
            raise
        return None


def answered_by(
    model: nn.Module, roles: dict[str, Data], loss: Loss, output: str | int | None
) -> tuple[Loss, dict[str, Data]]:
    """Return the same roles with the network's own answers for targets, and what is compared with them."""
    with evaluating(model), torch.no_grad():
        first = next(_few_at_once(roles["calibration"]).batches())
        outputs = _outputs(model, first, "calibration")
        reads = which_output(loss, outputs, output)
        key = "" if reads is None else _keyed(outputs)[reads][0]
        loss = replace(loss, reads=reads)
        said = of_own_answers(loss, loss.read(outputs), key, first.inputs)
        answered = dict[str, Data]()
        for role, data in roles.items():
            parts = [answers_of(loss.read(_outputs(model, batch, role))) for batch in _few_at_once(data).batches()]
            answered[role] = replace(data, answers=_joined_answers(parts))
    if said.name != loss.name:
        taken, other = ("logits", "squares") if said.name.endswith("kl") else ("values that are no logits", "kl")
        log.info("The network's answers are taken for %s (`loss='own-answers-%s'` says otherwise).", taken, other)
    return replace(said, reads=reads, accuracy=loss.accuracy), answered


OUTPUTS = ("logits", "out")
"""What networks call the output that a loss is given, where they return several."""


def which_output(loss: Loss, outputs: Any, asked: str | int | None) -> int | None:
    """Return which of the tensors that a network returns a loss is given, counted over all; None: what is returned.

    Raises:
        BadInputError: there is none such, or a built-in loss has several to choose from.

    >>> cross_entropy = find_loss("cross-entropy")
    >>> which_output(cross_entropy, {"hidden": torch.zeros(2, 8), "logits": torch.zeros(2, 3)}, None)
    1
    """
    if isinstance(outputs, Tensor) or (asked is None and not (loss.takes_one_output or loss.is_own)):
        return None
    leaves = _keyed(outputs)
    numbers = [place for place, (_, leaf) in enumerate(leaves) if leaf.is_floating_point()]
    keys = [key for key, _ in leaves]
    for key in OUTPUTS if asked is None else (str(asked),):
        if key in keys:
            return keys.index(key)
    if asked is None and len(numbers) == 1:
        return numbers[0]
    if isinstance(asked, int) and 0 <= asked < len(leaves):
        return asked
    if asked is None and not loss.takes_one_output:
        return None
    got = f"{len(leaves)} outputs ({', '.join(keys)})" if asked is None else repr(asked)
    do = "Say which by `output`, or give a loss of your own, which is given all that the network returns."
    raise BadInputError("output", f"the name or number of an output, for {loss.name}: {', '.join(keys)}", got, do)


def _keyed(outputs: Any) -> list[tuple[str, Tensor]]:
    """The tensors that a network returns, with the key or number of each."""
    leaves = named_leaves(outputs, "")
    return [(name.strip("[].'\""), leaf) for name, leaf in leaves if isinstance(leaf, Tensor)]


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Hold every submodule in eval mode, and give each its own mode back, also after an exception.

    One thread at a time: two tasks may be of one model, and the modes that the second saw would be those of the first.
    """
    with alone():
        modes = {module: module.training for module in model.modules()}
        try:
            for module in modes:
                module.training = False
            yield
        finally:
            for module, training in modes.items():
                module.training = training


def _outputs(model: nn.Module, batch: Batch, role: str) -> Any:
    try:
        outputs = called(model, batch.inputs)
    except Exception as error:  # whatever the user's own forward raises
        shapes = (f"{list(one.shape)} {str(one.dtype).removeprefix('torch.')}" for one in tensors_of(batch.inputs))
        got = " and ".join(shapes)
        do = f"The model said: {str(error).splitlines()[0] if str(error) else type(error).__name__}"
        raise BadInputError(f"{role} inputs", "of a shape and dtype that the model takes", got, do) from error
    if not tensors_of(outputs):
        do = (
            "Wrap it in a module whose forward returns them, in whatever tuples and mappings; "
            "register a class of your own with torch.utils._pytree.register_dataclass."
        )
        raise BadInputError("model", "a network that returns tensors", type(outputs).__name__, do)
    return outputs


def _check_outputs(outputs: Any, batch: Batch) -> None:
    for name, leaf in named_leaves(outputs, "outputs"):
        if isinstance(leaf, Tensor) and (leaf.dim() == 0 or len(leaf) != len(batch)):
            got = f"shape {list(leaf.shape)} for {len(batch)} samples"
            got = got if isinstance(outputs, Tensor) else f"{name} of {got}"
            do = "Keep samples along the first axis."
            raise BadInputError("model", "a network that returns one row of outputs for each sample", got, do)
    if not all(bool(leaf.isfinite().all()) for leaf in tensors_of(outputs) if leaf.is_floating_point()):
        got = "NaN or infinity on the first calibration rows"
        raise BadInputError("model", "a network with finite outputs", got, "Look at its weights and its input scaling.")


def _check_same_twice(outputs: Any, again: Any) -> None:
    if not same(outputs, again):
        got = "two different answers to the same rows"
        do = "Turn off dropout (a functional one needs training=self.training), sampling, and what forward remembers."
        raise BadInputError("model", "a network that answers the same twice", got, do)


def _check_apart(model: nn.Module, rows: Batch, outputs: Any) -> None:
    """A row's answer must not depend on the rows beside it: means over samples, batches and lanes all lean on that.

    Where roundings are coarse, or grow on their way through the network, only float64 tells them from mixed rows.
    """
    cut = len(rows) // 3
    if cut == 0:
        return
    is_apart = are_alike(outputs, _answers_apart(model, rows, cut))
    is_fine = all(torch.finfo(one.dtype).eps <= torch.finfo(torch.float32).eps for one in floats_of(outputs))
    if not (is_apart and is_fine) and (exact := _in_float64(model, rows)) is not None:
        is_apart = are_alike(*(_in_float32(answers) for answers in (exact[-1], _answers_apart(*exact[:2], cut))))
    if not is_apart:
        raise _mixes_rows(f"other answers to {counted(cut, 'row')} alone than to the same rows among {len(rows)}")


def _answers_apart(model: nn.Module, rows: Batch, cut: int) -> Any:
    """The answers to the first rows alone and to the rest, put together."""
    parts = (Batch(given, rows.targets) for given in (rows.inputs[:cut], rows.inputs[cut:]))
    return _joined_answers([_outputs(model, part, "calibration") for part in parts])


def _in_float64(model: nn.Module, rows: Batch) -> tuple[nn.Module, Batch, Any] | None:
    """A copy of the network in float64, the rows and its answers; None where it is too large or cannot be."""
    if sum(weights.numel() for weights in model.state_dict().values()) > MOST_COPIED:
        return None
    try:
        exact = deepcopy(model).to("cpu", torch.float64)
        inputs = of_each(rows.inputs, lambda one: one.double().cpu() if one.is_floating_point() else one.cpu())
        answers = called(exact, inputs)
    except Exception:  # whatever copying a user's modules, or running them in another precision, raises
        return None
    is_exact = all(one.dtype == torch.float64 for one in floats_of(answers))
    return (exact, Batch(inputs, rows.targets), answers) if is_exact else None


def _in_float32(answers: Any) -> Any:
    """Answers in float64, to be compared as far as float32 reaches: mixed rows differ by more in any precision."""
    return of_each(answers, lambda one: one.float() if one.is_floating_point() else one)


def _joined_answers(parts: Sequence[Any]) -> Any:
    """The answers to several batches as one.

    Raises:
        BadInputError: their sizes follow the number of rows.
    """
    sizes = {str([tuple(one.shape[1:]) for one in tensors_of(part)]) for part in parts}
    if len(sizes) > 1:
        raise _mixes_rows(f"answers of other sizes for other numbers of rows, {' and '.join(sorted(sizes))}")
    return joined(parts)


def _mixes_rows(got: str) -> BadInputError:
    do = "Look for a sum, a mean, a sort, a softmax or a product over the first axis."
    return BadInputError("model", "a network that answers each row by itself", got, do)


def _check_loss(loss: Loss, outputs: Any, targets: Any) -> None:
    """A loss says the same twice, and leaves what it is given as it is."""
    given = tensors_of((outputs, targets))
    versions = [tensor._version for tensor in given]
    first, again = loss.each(outputs, targets), loss.each(outputs, targets)
    if [tensor._version for tensor in given] != versions:
        got = f"{loss.name!r}, which changes them in place"
        do = "Write it without operators that end in an underscore."
        raise BadInputError("loss", "a function that leaves outputs and targets as they are", got, do)
    if not torch.equal(first, again):
        got = f"{loss.name!r}, which said two things"
        do = "Take what is random, and what it remembers, out of it."
        raise BadInputError("loss", "a function that says the same of the same outputs", got, do)
