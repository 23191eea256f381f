"""From a network to groups of neurons: labels ride through the exported graph (design 4.1)."""
