"""The one place where tensors get smaller."""
