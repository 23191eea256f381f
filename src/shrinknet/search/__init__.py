"""Which neurons go next, step after step, and when that ends."""
