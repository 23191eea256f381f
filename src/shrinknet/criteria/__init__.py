"""Criteria: rules that give each neuron a score. One small file each, found by its name.

To add one: write a file here with a `Criterion` that has a `name`; it is then known to Python and the command line.
"""

from shrinknet.criteria.base import Criterion, criterion_names, find_criterion

__all__ = ["Criterion", "criterion_names", "find_criterion"]
