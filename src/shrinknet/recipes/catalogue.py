"""Every recipe there is, by its name."""

from shrinknet.core.registry import Registry
from shrinknet.recipes.base import Recipe

BY_NAME = Registry[Recipe](
    "name",
    "shrinknet.recipes",
    "shrinknet.recipes",
    lambda module: getattr(module, "RECIPES", ()),
    lambda found: found if isinstance(found, Recipe) else None,
    "recipe",
)


def recipes() -> dict[str, Recipe]:
    """Return all recipes: those of each module here that has `RECIPES`."""
    return BY_NAME.ours()


def find_recipe(name: str) -> Recipe:
    """Return the recipe of that name.

    Raises:
        BadInputError: there is none.

    >>> find_recipe("isnn-mnist-1x100").name
    'isnn-mnist-1x100'
    """
    return BY_NAME.find(name)
