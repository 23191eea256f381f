"""The web page of a run, from the run folder alone. No torch here."""
