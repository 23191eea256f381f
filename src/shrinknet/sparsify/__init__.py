"""Training-time methods: masks that change while the user's own loop trains."""

from shrinknet.sparsify.base import Sparsifier, find_sparsifier, sparsifier_names

__all__ = ["Sparsifier", "find_sparsifier", "sparsifier_names"]
