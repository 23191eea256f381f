"""When a run ends (goals) and what undoes a step (guards). Both compare with the start."""
