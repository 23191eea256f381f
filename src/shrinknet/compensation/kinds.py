"""The ways in which readers make up for what is gone, and what each of them needs."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Kind:
    """One way.

    Attributes:
        name: what it is asked for by.
        fits_factors: whether a factor of each neuron is fit, beside the bias.
        fits_weights: whether each weight of the readers is.
        follows_the_loss: whether what the loss says of each sample decides: of biases, or in the reader that makes the
            outputs.
    """

    name: str
    fits_factors: bool = False
    fits_weights: bool = False
    follows_the_loss: bool = False

    @property
    def lays_out_rows(self) -> bool:
        """Whether it takes the second moments of what readers read, which costs more than a pass."""
        return self.fits_factors or self.fits_weights


KINDS = {
    one.name: one
    for one in (
        Kind("none"),
        Kind("mean"),
        Kind("constant", follows_the_loss=True),
        Kind("scale", fits_factors=True),
        Kind("least-squares", fits_weights=True),
        Kind("newton", fits_weights=True, follows_the_loss=True),
        Kind("joint", fits_weights=True),
    )
}
"""Each by its name."""
