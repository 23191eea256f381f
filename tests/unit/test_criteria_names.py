"""Criteria are found by their names: those in the folder, and no other."""

import pytest

import shrinknet as sn
from shrinknet.criteria import Criterion, criterion_names, find_criterion
from shrinknet.recipes.authors_code import AuthorsTaylor


def test_the_criteria_are_those_of_the_folder() -> None:
    assert AuthorsTaylor in Criterion.__subclasses__(), "the recipe's own is known to Python, and still not offered"
    assert criterion_names() == (
        "ablation", "activation", "empirical-fisher", "gauss-newton", "magnitude", "optimal-cell-damage", "random",
        "sequential-attention", "skeletonization", "taylor-1", "taylor-2", "taylor-2-diagonal",
        "taylor-2-sampled", "unit-obs",
    )  # fmt: skip
    for name in criterion_names():
        criterion = find_criterion(name)
        assert criterion.name == name
        assert criterion.unit
        assert "Cost:" in type(criterion).__doc__
    with pytest.raises(sn.BadInputError, match=r"^criterion must be the name of a criterion\. Got 'authors'\."):
        find_criterion("authors")
    with pytest.raises(sn.BadInputError, match=r"Got 'shrinknet\.criteria:Criterion', which is none"):
        find_criterion("shrinknet.criteria:Criterion")


def test_every_public_name_says_what_it_is() -> None:
    for name in sn.__all__:
        assert getattr(sn, name).__doc__, name
