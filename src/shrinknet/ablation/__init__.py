"""The exact engine: what a change of one gate does, at the cost of what lies downstream of it."""
