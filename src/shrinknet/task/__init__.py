"""What is asked: a network, its loss, its data."""
