"""Losses, accuracy, recalls and costs of a network, masked or cut."""
