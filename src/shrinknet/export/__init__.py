"""Files that other programs run."""
