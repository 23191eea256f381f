"""Augmentations: other inputs that a network should answer alike, or about alike: more rows than the data have."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from shrinknet.core.errors import BadInputError
from shrinknet.core.named import as_object
from shrinknet.core.registry import Registry
from shrinknet.task.trees import AnyInputs, shapes_text

Augment = Callable[[AnyInputs, torch.Generator], AnyInputs]
"""Given inputs and a generator that draws, as many other inputs."""

MOST_SHIFT = 8
"""An image is shifted by at most this part of its height and width."""


def flip(images: AnyInputs, generator: torch.Generator) -> Tensor:
    """Mirror about half of the images, left and right changing places.

    >>> flip(torch.tensor([[[[1.0, 2.0]]]]), torch.Generator().manual_seed(0)).shape
    torch.Size([1, 1, 1, 2])
    """
    pixels = _images("flip", images)
    is_flipped = torch.rand(len(pixels), generator=generator) < 0.5
    return torch.where(is_flipped.to(pixels.device)[:, None, None, None], pixels.flip(3), pixels)


def shift(images: AnyInputs, generator: torch.Generator) -> Tensor:
    """Move each image by at most an eighth of its height and width; what comes in at an edge is its mirror image.

    >>> shift(torch.zeros(2, 3, 32, 32), torch.Generator().manual_seed(0)).shape
    torch.Size([2, 3, 32, 32])
    """
    pixels = _images("shift", images)
    height, width = pixels.shape[2:]
    down, right = height // MOST_SHIFT, width // MOST_SHIFT
    padded = functional.pad(pixels, (right, right, down, down), mode="reflect")
    tops, lefts = (torch.randint(0, 2 * most + 1, (len(pixels),), generator=generator) for most in (down, right))
    corners = zip(padded, tops.tolist(), lefts.tolist(), strict=True)
    return torch.stack([one[:, top : top + height, left : left + width] for one, top, left in corners])


def _images(name: str, inputs: AnyInputs) -> Tensor:
    if isinstance(inputs, Tensor) and inputs.dim() == 4 and inputs.is_floating_point():
        return inputs
    allowed = "left out, or a function of your own, of inputs that are no images [rows, channels, height, width]"
    do = "Give package.module:function, of inputs and a torch.Generator, or leave it out."
    raise BadInputError("augment", allowed, f"{name!r} for inputs {shapes_text(inputs)}", do)


@dataclass(frozen=True, slots=True)
class Augmentation:
    """An augmentation by its name: `of(inputs, generator)` gives other inputs."""

    name: str
    of: Augment


AUGMENTATIONS = (Augmentation("flip", flip), Augmentation("shift", shift))
"""Those that can be asked for by name."""


def _own(one: object) -> Augmentation | None:
    """An augmentation as it is; a function as one of its own name."""
    if isinstance(one, Augmentation):
        return one
    one = as_object("augment", one)
    return Augmentation(getattr(one, "__qualname__", type(one).__name__), one) if callable(one) else None


BY_NAME = Registry[Augmentation](
    "augment",
    "shrinknet.recovery.augment",
    "shrinknet.augmentations",
    lambda _: AUGMENTATIONS,
    _own,
    "augmentation",
)


def augmented(ways: Sequence[Augmentation]) -> Augment:
    """Return what augments in each of some ways, one after the other."""

    def augment(inputs: AnyInputs, generator: torch.Generator) -> AnyInputs:
        """Other inputs, drawn anew."""
        for way in ways:
            inputs = way.of(inputs, generator)
        return inputs

    return augment


def check_augmentations(ways: Sequence[Augmentation], inputs: AnyInputs) -> None:
    """Try each way on a few rows.

    Raises:
        BadInputError: it is not for such inputs, or gives something of another form.
    """
    for way in ways:
        found = way.of(inputs, torch.Generator().manual_seed(0))
        if shapes_text(found) != shapes_text(inputs):
            allowed = f"a function that returns as many inputs of the same shapes, {shapes_text(inputs)}"
            raise BadInputError("augment", allowed, f"{shapes_text(found)} from {way.name!r}", "Return inputs alone.")
