"""What neurons do and how far one can go: facts about a network or a run, found by looking and not by removing."""
