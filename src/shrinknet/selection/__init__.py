"""How scores become an order: by rank, never by threshold."""
