"""What a training-time method is: three hooks into the user's own loop, masks, and a state that can be kept.

Masks are 1 = kept. They live here, not in the model: its `state_dict` keeps its keys. A method either keeps masked
weights at zero (they are set so after each step of the optimizer), or lets the forward pass see other weights than
the parameters (`effective`); those stand in their place only while a forward pass runs, so that no exception leaves
a patched model behind.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from inspect import isclass, signature
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from shrinknet.core.errors import BadInputError, ShrinknetError, did_you_mean
from shrinknet.core.registry import Named, registry_of_classes
from shrinknet.core.units import globs
from shrinknet.recovery.states import load_optimizer, optimizer_state, under
from shrinknet.sparsify.blocks import Blocks
from shrinknet.sparsify.targets import check_optimizer, chosen_weights, flushes_denormals, owners_of, put
from shrinknet.task.task import Task

ON_CPU = ("alive/", "sum/", "heard/", "turn/")
"""What methods keep on the CPU, wherever the model is."""

Masks = dict[str, Tensor]
"""For each weight by its name, a boolean tensor of its shape: True where it is kept."""


class Sparsifier(Named, ABC):
    """A method that masks weights while a network trains.

    The forward pass must be the model's own call: activation checkpointing, which calls parts of it again in the
    backward pass, sees the parameters themselves there, and is not for methods with effective weights. A copy that is
    made of an attached model has the parameters, not the masks.

    A subclass gives a `name` and overrides what it needs of `effective`, `after_backward` and `updated` (called after
    each step of the optimizer). All that it must remember beside masks lies in `tensors` and `numbers`; `optimizer` is
    for parameters of the method's own.

    Args:
        model: the network that is trained; it is changed only as the user's optimizer changes it, and by zeros.
        layers: globs of the weights to mask, such as "fc*"; every dense, convolutional and recurrent matrix if empty.
        seed: of whatever the method draws.

    Raises:
        BadInputError: no weight has such a name.

    >>> from shrinknet.sparsify.methods.undecayed_pruning import OneShot
    >>> model = nn.Linear(4, 2)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> sparsifier = OneShot(model, sparsity=0.5, at=1)
    >>> with sparsifier.attached(optimizer):
    ...     for _ in range(2):
    ...         optimizer.zero_grad()
    ...         model(torch.randn(8, 4)).square().mean().backward()
    ...         optimizer.step()
    >>> int((model.weight == 0).sum()), sparsifier.density
    (4, 0.5)
    """

    regrows: ClassVar[bool] = False
    """Whether a masked weight may come back; how often one did is counted."""

    def __init__(self, model: nn.Module, layers: str | Sequence[str] = (), seed: int = 0) -> None:
        self.model = model
        self.weights = chosen_weights(model, globs(layers))
        self.masks: Masks = {name: torch.ones_like(w, dtype=torch.bool) for name, w in self.weights.items()}
        self.step = 0
        self.num_masked = dict.fromkeys(self.weights, 0)
        self.num_regrown = dict.fromkeys(self.weights, 0)
        self.tensors: dict[str, Tensor] = {}
        self.numbers: dict[str, Any] = {}
        self.blocks: dict[str, Blocks] = {}
        self.optimizer: Optimizer | None = None
        self.generator = torch.Generator().manual_seed(seed)
        self._users: Optimizer | None = None
        self._handles: list[RemovableHandle] = []
        self._flushed_before = False
        self._own: list[tuple[nn.Module, str, nn.Parameter]] = []
        self._seen = True

    @classmethod
    def for_training(cls, task: Task, num_steps: int, steps_per_epoch: int, options: Mapping[str, Any]) -> "Sparsifier":
        """Return the method on a task's network for a training of so many steps.

        What its schedule needs and the options leave out is filled in by `defaults`.

        Raises:
            BadInputError: an option that the method does not have, or cannot use.
        """
        known = options_of(cls)
        for name in options:
            if name not in known:
                do = did_you_mean(name, known)
                raise BadInputError(f"options[{name!r}]", f"an option of {cls.name}", repr(options[name]), do)
        try:
            of_task: dict[str, Any] = {"model": task.model, "example_inputs": task.example_inputs, "task": task}
            given = {name: of_task[name] for name in signature(cls).parameters if name in of_task}
            return cls(**given, **{**cls.defaults(num_steps, steps_per_epoch), **options})
        except (TypeError, ValueError, KeyError, IndexError) as error:
            if isinstance(error, ShrinknetError):
                raise
            do = f"The method said: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else error}."
            raise BadInputError("options", f"options that {cls.name} can use", repr(dict(options)), do) from error

    @classmethod
    def defaults(cls, num_steps: int, steps_per_epoch: int) -> dict[str, Any]:
        """Return what a schedule over so many steps gives the method's options."""
        return {"num_steps": num_steps} if "num_steps" in options_of(cls) else {}

    # ---- what a method does

    def effective(self, name: str, weight: Tensor) -> Tensor | None:
        """Return what the forward pass sees in place of a weight, differentiable; None where it sees the weight."""
        return None

    def after_backward(self) -> None:
        """Look at gradients, or change them, before the optimizer's step."""

    @abstractmethod
    def updated(self) -> Masks:
        """Return the masks that change after the step just taken; `step` has counted it."""

    # ---- the three hooks

    def before_forward(self) -> None:
        """First hook: let the forward pass see the effective weights."""
        self.put_back()
        self._seen = True
        for name, weight in self.weights.items():
            shown = self.effective(name, weight)
            if shown is not None:
                for module, leaf in owners_of(self.model, weight):
                    self._own.append((module, leaf, weight))
                    put(module, leaf, shown)

    def put_back(self) -> None:
        """Put the parameters back in their place: after the forward pass, and after an exception in it."""
        for module, leaf, weight in self._own:
            put(module, leaf, weight)
        self._own.clear()

    def before_step(self) -> None:
        """Second hook: gradients are there, the optimizer has not stepped yet."""
        if not self._seen:
            raise ShrinknetError(
                "The model given to the sparsifier must be the one that the loop calls. Got a step of the optimizer "
                "without a call of that model. Give the sparsifier the module whose forward your loop runs."
            )
        self._seen = False
        self.put_back()
        self.after_backward()

    def after_step(self) -> None:
        """Third hook: the optimizer has stepped; masks change, and masked weights are zero."""
        self.step += 1
        with torch.no_grad():
            for name, mask in self.updated().items():
                self._change(name, mask)
            self.hold()

    def hold(self) -> None:
        """Keep masked weights at zero, with what the optimizer remembers of them; a method with effective weights
        does not."""
        if type(self).effective is not Sparsifier.effective:
            return
        for name, weight in self.weights.items():
            gone = ~self.masks[name]
            weight.data.masked_fill_(gone, 0)
            if self._users is not None:
                for value in self._users.state.get(weight, {}).values():
                    if isinstance(value, Tensor) and value.shape == weight.shape:
                        value.masked_fill_(gone, 0)

    def _change(self, name: str, mask: Tensor) -> None:
        old = self.masks[name]
        came, went = int((mask & ~old).sum()), int((old & ~mask).sum())
        if came and not self.regrows:
            raise ShrinknetError(f"{self.name} must only lose weights. Got {came} back in {name!r}. Declare regrows.")
        self.num_regrown[name] += came
        self.num_masked[name] += went
        self.masks[name] = mask

    @contextmanager
    def attached(self, optimizer: Optimizer) -> Iterator["Sparsifier"]:
        """Hook into a model and its optimizer while the block runs: the loop inside needs no other line.

        Raises:
            BadInputError: the optimizer's step cannot be followed.
        """
        self.attach(optimizer)
        try:
            yield self
        finally:
            self.detach()

    def attach(self, optimizer: Optimizer) -> None:
        """Hook into a model and its optimizer until `detach`; loops that own the optimizer's life call these two.

        Raises:
            BadInputError: the optimizer's step cannot be followed.
        """
        self.detach()
        check_optimizer(optimizer, self.weights)
        self._move()
        self._users, self._flushed_before = optimizer, flushes_denormals()
        torch.set_flush_denormal(True)
        with torch.no_grad():
            self.hold()
        self._handles = [
            self.model.register_forward_pre_hook(lambda module, *_: self._only_here(module, self.before_forward)),
            self.model.register_forward_hook(
                lambda module, *_: self._only_here(module, self.put_back), always_call=True
            ),
            optimizer.register_step_pre_hook(self._before_step),
            optimizer.register_step_post_hook(lambda *_: self.after_step()),
        ]

    def _only_here(self, module: nn.Module, hook: Callable[[], None]) -> None:
        """A copy of the model carries copies of its hooks: they do nothing there."""
        if module is self.model:
            hook()

    def _move(self) -> None:
        """Follow a model that went to another device after the method was made."""
        device = next(iter(self.weights.values())).device
        for table in (self.masks, self.tensors):
            for name, tensor in table.items():
                if tensor.device != device and not name.startswith(ON_CPU):
                    tensor.data = tensor.data.to(device)
        if self.optimizer is not None:
            self.optimizer.load_state_dict(self.optimizer.state_dict())  # which moves what it remembers

    def detach(self) -> None:
        """Take all hooks off."""
        for handle in self._handles:
            handle.remove()
        if self._handles:
            torch.set_flush_denormal(self._flushed_before)
        self._handles = []
        self.put_back()
        self._users = None

    def _before_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> tuple[Any, Any] | None:
        """Where a step runs the passes itself (a closure, as Lightning gives one), the second hook follows them."""
        places = [place for place, given in enumerate(args) if callable(given) and given is not optimizer]
        if getattr(optimizer, "grad_scale", None) is not None:
            allowed = "one whose gradients are unscaled before its step"
            raise BadInputError("optimizer", allowed, "a fused one under a GradScaler", "Make it with fused=False.")
        closure = kwargs.get("closure") or (args[places[0]] if places else None)
        if closure is None:
            self.before_step()
            return None

        def followed() -> Any:
            loss = closure()
            self.before_step()
            return loss

        if places:
            return tuple(followed if place == places[0] else given for place, given in enumerate(args)), kwargs
        return args, {**kwargs, "closure": followed}

    # ---- what came of it

    @property
    def density(self) -> float:
        """The share of the weights that is kept."""
        return self.num_kept / max(1, sum(mask.numel() for mask in self.masks.values()))

    @property
    def num_kept(self) -> int:
        """How many weights are kept."""
        return sum(int(mask.sum()) for mask in self.masks.values())

    @property
    def strength(self) -> float | None:
        """How far the method's own schedule is, from 0 to about 1, for the curves of a run; None where it has none."""
        return None

    @property
    def tile(self) -> tuple[int, int] | None:
        """The size of the blocks that live or die together; None where single weights do."""
        sizes = [(blocks.height, blocks.width) for blocks in self.blocks.values()]
        return sizes[0] if sizes and sizes[0] != (1, 1) else None

    def finish(self) -> None:
        """Write what the forward pass saw into the parameters: the sparse network, as the user's own module."""
        with torch.no_grad():
            for name, weight in self.weights.items():
                shown = self.effective(name, weight)
                weight.data.copy_(weight if shown is None else shown).masked_fill_(~self.masks[name], 0)

    # ---- state

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return tensors and numbers from which `load_state` goes on to the same bits."""
        tensors = {f"mask/{name}": mask for name, mask in self.masks.items()}
        tensors |= {f"own/{name}": tensor.detach() for name, tensor in self.tensors.items()}
        tensors["generator"] = self.generator.get_state()
        counts = {"masked": self.num_masked, "regrown": self.num_regrown}
        numbers: dict[str, Any] = {"name": self.name, "step": self.step, **counts, "own": self.numbers}
        if self.optimizer is not None:
            values, settings = optimizer_state(self.optimizer)
            tensors |= {f"optimizer/{name}": value for name, value in values.items()}
            numbers["optimizer"] = settings
        return {name: tensor.clone() for name, tensor in tensors.items()}, deepcopy(numbers)

    def load_state(self, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> None:
        """Go on from a state.

        Raises:
            BadInputError: it is another method's, or another network's.
        """
        masks = under(tensors, "mask")
        fits = {name: mask.shape for name, mask in masks.items()} == {n: m.shape for n, m in self.masks.items()}
        if numbers.get("name") != self.name or not fits:
            do = "Build network and method as they were when the state was kept."
            raise BadInputError("state", f"one of method {self.name!r} on this network", repr(numbers.get("name")), do)
        self.masks = {name: mask.to(self.weights[name].device).bool() for name, mask in masks.items()}
        with torch.no_grad():
            for name, tensor in under(tensors, "own").items():
                self.tensors.setdefault(name, tensor.clone()).copy_(tensor)
        self.generator.set_state(tensors["generator"].cpu())
        self.step = int(numbers["step"])
        numbers = deepcopy(dict(numbers))
        self.num_masked, self.num_regrown, self.numbers = numbers["masked"], numbers["regrown"], numbers["own"]
        if self.optimizer is not None:
            load_optimizer(self.optimizer, under(tensors, "optimizer"), numbers["optimizer"])


BY_NAME = registry_of_classes(Sparsifier, "method", "shrinknet.sparsify.methods", "shrinknet.sparsifiers", "method")  # type: ignore[type-abstract]


def sparsifier_names() -> tuple[str, ...]:
    """Return the names of every method there is."""
    return BY_NAME.names()


def find_sparsifier(name: object) -> type[Sparsifier]:
    """Return the method of that name or `package.module:Class`; a class as it is.

    Raises:
        BadInputError: there is none.
    """
    found = BY_NAME.find(name)
    if not isclass(found):
        do = "Name its class, and say its options by `options`."
        allowed = "a class: its object is made with the network"
        raise BadInputError("method", allowed, f"an object of {type(found).__name__}", do)
    return found


def options_of(kind: Callable[..., object]) -> dict[str, Any]:
    """Return the options that a method takes beside the model, with their defaults.

    >>> from shrinknet.sparsify.methods.acdc import AlternatingCompression
    >>> options_of(AlternatingCompression)["sparsity"]
    0.9
    """
    given = {"model", "task", "example_inputs"}
    return {name: p.default for name, p in signature(kind).parameters.items() if name not in given}
