"""The proof that the cut network computes what the masked network computed."""
