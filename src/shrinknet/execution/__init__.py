"""How work is spread: an ordered map, and a merge in that order, so that the number of workers changes no bit."""
