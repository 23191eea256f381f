"""A module of a user's own, as text: a criterion and an exporter."""

OTHERS = """
from shrinknet import Criterion
from shrinknet.criteria.magnitude import Magnitude
from shrinknet.export.exported_program import Pt2

class Largest(Criterion):
    name = "largest"
    unit = "weight"

    def conclude(self, network, sums):
        return {name: -value for name, value in Magnitude().conclude(network, sums).items()}

class Shouting(Pt2):
    name = "shouting"
    suffix = ".PT2"
"""
