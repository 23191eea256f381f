"""The exact engine: a traced network as a program that can be run, masked, replayed and differentiated."""
