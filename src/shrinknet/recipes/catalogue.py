"""Every recipe there is, by its name."""

from importlib import import_module
from pkgutil import iter_modules

from shrinknet.core.errors import BadInputError, did_you_mean
from shrinknet.recipes.base import Recipe


def recipes() -> dict[str, Recipe]:
    """Return all recipes: each module here that has `RECIPES`."""
    package = import_module("shrinknet.recipes")
    modules = [import_module(f"{package.__name__}.{module.name}") for module in iter_modules(package.__path__)]
    return {recipe.name: recipe for module in modules for recipe in getattr(module, "RECIPES", ())}


def find_recipe(name: str) -> Recipe:
    """Return the recipe of that name.

    Raises:
        BadInputError: there is none.

    >>> find_recipe("isnn-mnist-1x100").name
    'isnn-mnist-1x100'
    """
    known = recipes()
    if name not in known:
        raise BadInputError("name", "the name of a recipe", repr(name), did_you_mean(name, known))
    return known[name]
