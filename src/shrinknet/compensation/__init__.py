"""How readers make up for what was removed."""
