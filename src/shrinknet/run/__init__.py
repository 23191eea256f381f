"""One run from its first step to its files, and what is handed back."""
