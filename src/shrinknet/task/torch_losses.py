"""Losses of torch with any `reduction`, made to give one value for each sample."""

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from inspect import Parameter, isclass, signature
from typing import Any

from torch import Tensor, nn
from torch.func import functional_call

from shrinknet.core.errors import BadInputError
from shrinknet.task.fitting import check_alike
from shrinknet.task.trees import of_each, shapes_text, tensors_of

SUMS = ("sum", "batchmean")
"""Reductions of which one sample's share is a sum over its elements."""

SAMPLES_FIRST = {"log_probs": lambda given: given.transpose(0, 1)}
"""What torch wants with the samples along its second axis."""

KINDS = {
    "cross-entropy": ("cross_entropy", "CrossEntropyLoss"),
    "binary-cross-entropy": ("binary_cross_entropy_with_logits", "BCEWithLogitsLoss"),
    "absolute-error": ("l1_loss", "L1Loss"),
    "huber": ("huber_loss", "HuberLoss", "smooth_l1_loss", "SmoothL1Loss"),
    "mean-squared-error": ("mse_loss", "MSELoss"),
}
SAME_NUMBERS = {kind: name for name, kinds in KINDS.items() for kind in kinds}
"""Losses that, without options, are built-in ones, which have faster forms."""

ACCURACIES = {
    **dict.fromkeys(("cross_entropy", "CrossEntropyLoss", "nll_loss", "NLLLoss"), "argmax"),
    **dict.fromkeys(("multi_margin_loss", "MultiMarginLoss"), "argmax"),
    **dict.fromkeys(("binary_cross_entropy_with_logits", "BCEWithLogitsLoss"), "threshold"),
}
"""Which rows are right under them."""


@dataclass(frozen=True, slots=True, eq=False)
class TorchLoss:
    """A loss of torch that gives one value for each sample.

    The tensors of what the network returns take the loss's arguments in their order, all but `target`, `targets` and
    `target_lengths`; those of the targets take the rest: Gaussian negative log-likelihood of a network that returns
    (mean, variance), CTC with targets (targets, input_lengths, target_lengths), a triplet without targets. `log_probs`
    of CTC lie [batch, T, classes], as the network returns them.

    The value of a sample is the sum of its elements under `reduction="sum"` and "batchmean", else their mean, over the
    elements that are not ignored (0 where all are) and, under CTC, over the target's length. Class weights multiply
    and are not divided out: divided by those of the batch, as torch does, samples would depend on each other. Where all
    samples count as many elements and classes have no weights, the mean over samples is torch's own.

    Attributes:
        function: gives elements of arguments.
        kind: what it is called.
        names: the names of its arguments.
        options: how it was made, defaults included.
        changed: those that are no defaults.
    """

    function: Callable[..., Tensor]
    kind: str
    names: tuple[str, ...]
    options: Mapping[str, Any]
    changed: Mapping[str, Any]

    def __call__(self, outputs: Any, targets: Any) -> Tensor:
        """Return the loss of each sample.

        Raises:
            BadInputError: outputs and targets are not as many tensors as the loss takes, or of shapes that torch would
                stretch to each other.
        """
        given = self._given(outputs, targets)
        if self.names[1:2] == ("target",) and ACCURACIES.get(self.kind) != "argmax":  # no classes: numbers
            check_alike(self.name, given[self.names[0]], given["target"])
        first = tensors_of(outputs)[0]
        elements = self._elements(first, [SAMPLES_FIRST.get(name, _as_it_is)(one) for name, one in given.items()])
        if elements.numel() > max(one.numel() for one in given.values()):
            got = shapes_text(targets)
            do = "Reshape them: torch would compare each with all."
            raise BadInputError("targets", f"of the outputs' shape {list(first.shape)} for {self.name}", got, do)
        elements = elements.reshape(len(first), -1)
        if self.options["reduction"] in SUMS:
            return elements.sum(1)
        counts = self._counts(given)
        return elements.mean(1) if counts is None else elements.sum(1) / counts.clamp(min=1)

    @property
    def name(self) -> str:
        """What it is called, with the options that are no defaults."""
        options = (f"{name}={_text(value)}" for name, value in self.changed.items())
        return f"{self.kind}({', '.join(options)})" if self.changed else self.kind

    @property
    def accuracy(self) -> str | None:
        """The name of the accuracy that goes with it; argmax leaves out no other class than -100."""
        return ACCURACIES.get(self.kind) if self.options.get("ignore_index", -100) == -100 else None

    @property
    def built_in(self) -> str | None:
        """The name of the built-in loss that computes the same numbers, if there is one."""
        is_plain = not self.changed.keys() - {"reduction"} and self.options["reduction"] in ("mean", "none")
        return SAME_NUMBERS.get(self.kind) if is_plain else None

    @property
    def takes_one_output(self) -> bool:
        """Whether it compares one output with targets."""
        return len(self._of_outputs) == 1

    @property
    def compares_classes(self) -> bool:
        """Whether it is a cross-entropy: of a softmax over classes, which lie along axis 1."""
        return self.kind in ("cross_entropy", "CrossEntropyLoss")

    @property
    def _of_outputs(self) -> list[str]:
        return [name for name in self.names if not name.startswith("target")]

    def _given(self, outputs: Any, targets: Any) -> dict[str, Tensor]:
        """The arguments by their names; numbers, and what they are compared with, in the first output's type."""
        said, wanted, places = tensors_of(outputs), tensors_of(targets), self._of_outputs
        given = dict(zip(places, said, strict=False))
        rest = [name for name in self.names if name not in given]
        if len(said) > len(places) or len(wanted) != len(rest):
            allowed = f"given {', '.join(self.names)} for {self.kind}, first of the outputs, then of the targets"
            got = f"outputs {shapes_text(outputs)} and targets {shapes_text(targets)}"
            do = "Give targets for what is no output, or say by `output` which output is meant."
            raise BadInputError("loss", allowed, got, do)
        given |= zip(rest, wanted, strict=True)
        found = {name: _like(said[0])(given[name]) for name in self.names}
        if SAME_NUMBERS.get(self.kind, "cross-entropy") != "cross-entropy":  # a 0 or 1, or a count, is a number there
            found["target"] = found["target"].to(said[0].dtype)
        return found

    def _elements(self, first: Tensor, arguments: list[Tensor]) -> Tensor:
        """The loss's own values; weights are brought to the precision and the device of the outputs."""
        if not isinstance(self.function, nn.Module):
            options = of_each({**self.options, "reduction": "none"}, lambda one: _like(first)(one.to(first.device)))
            return self.function(*arguments, **options)
        buffers = {name: _like(first)(one.to(first.device)) for name, one in self.function.named_buffers()}
        return functional_call(self.function, buffers, tuple(arguments)) if buffers else self.function(*arguments)  # type: ignore[no-any-return]

    def _counts(self, given: Mapping[str, Tensor]) -> Tensor | None:
        """By how much a sample's sum is divided, where that is not the number of its elements."""
        if self.kind in ("CTCLoss", "ctc_loss"):
            return given["target_lengths"]
        target, ignored = given.get("target"), self.options.get("ignore_index")
        if target is None or ignored is None or target.is_floating_point():
            return None
        is_counted: Tensor = target != ignored
        return is_counted.reshape(len(target), -1).sum(1)


def of_torch(loss: object) -> TorchLoss | None:
    """Return a loss of `torch.nn` (an object or its class) or `torch.nn.functional`, also as a `functools.partial`, one
    value a sample; None for anything else.

    >>> of_torch(nn.SmoothL1Loss(reduction="sum", beta=0.5)).name
    "SmoothL1Loss(reduction='sum', beta=0.5)"
    """
    made = loss() if isclass(loss) and loss.__module__ == nn.modules.loss.__name__ else loss
    if type(made).__module__ == nn.modules.loss.__name__ and hasattr(made, "reduction"):
        return _of_module(made)
    function = made.func if isinstance(made, partial) else made
    if getattr(function, "__module__", "") != nn.functional.__name__ or not callable(made):
        return None
    parameters = signature(made).parameters
    return _of_function(function, made, parameters) if "reduction" in parameters else None


def _of_module(module: Any) -> TorchLoss:
    """A copy: the user's own object stays as it is."""
    own, defaults = deepcopy(module), signature(type(module)).parameters
    options = {name: getattr(module, name) for name in defaults if hasattr(module, name)}
    own.reduction = "none"
    names = tuple(signature(own.forward).parameters)
    return TorchLoss(own, type(module).__name__, names, options, _changed(options, defaults))


def _of_function(function: Any, given: Any, parameters: Mapping[str, Parameter]) -> TorchLoss:
    args = given.args if isinstance(given, partial) else ()
    options = {name: one.default for name, one in parameters.items() if one.default is not Parameter.empty}
    names = tuple(name for name in parameters if name not in options)
    options = _in_todays_words(**options)
    changed = _changed(options, signature(function).parameters)
    return TorchLoss(partial(function, *args) if args else function, function.__name__, names, options, changed)


def _in_todays_words(
    reduction: str, size_average: bool | None = None, reduce: bool | None = None, **others: Any
) -> dict[str, Any]:
    """The options of a function, `reduction` in the place of what said the same before it."""
    if size_average is not None or reduce is not None:
        reduction = "none" if reduce is False else "sum" if size_average is False else "mean"
    return {"reduction": reduction, **others}


def _changed(options: Mapping[str, Any], defaults: Mapping[str, Parameter]) -> dict[str, Any]:
    """The options that are no defaults."""
    kept = {name: default.default for name, default in defaults.items()}
    return {
        name: value
        for name, value in options.items()
        if value is not kept[name] and (isinstance(value, Tensor) or value != kept[name])
    }


def _as_it_is(given: Tensor) -> Tensor:
    return given


def _like(first: Tensor) -> Callable[[Tensor], Tensor]:
    """Bring floating numbers to the precision of another tensor."""
    return lambda one: one.to(first.dtype) if one.is_floating_point() else one


def _text(value: object) -> str:
    return f"tensor {list(value.shape)}" if isinstance(value, Tensor) else repr(value)
