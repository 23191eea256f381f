"""What verbs do where that needs torch: imported when a verb runs, so that its help costs nothing."""
