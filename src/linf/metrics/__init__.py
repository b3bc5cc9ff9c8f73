"""Figures of merit: `functional` and `networks` hold the values, `modular` their means over images."""
