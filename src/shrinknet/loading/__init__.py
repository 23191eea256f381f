"""From the paths and names a user types to models and data, without running what a file says."""
