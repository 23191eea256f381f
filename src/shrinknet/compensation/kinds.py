"""The ways in which readers make up for what is gone, and what each of them needs."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Kind:
    """One way.

    Attributes:
        name: what it is asked for by.
        fits_weights: whether the weights of readers are fit, not their biases alone.
        follows_the_loss: whether the reader that makes the outputs is fit by the loss's own curvature in each sample.
        ends_jointly: whether all weights of the network that is handed back are refit together at the end.
    """

    name: str
    fits_weights: bool = False
    follows_the_loss: bool = False
    ends_jointly: bool = False


KINDS = {
    one.name: one
    for one in (
        Kind("none"),
        Kind("mean"),
        Kind("least-squares", fits_weights=True),
        Kind("newton", fits_weights=True, follows_the_loss=True),
        Kind("joint", fits_weights=True, ends_jointly=True),
    )
}
"""Each by its name."""
