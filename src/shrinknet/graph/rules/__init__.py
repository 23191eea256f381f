"""What each operator does to neurons. One file for each kind of operator; rules do not import one another."""
