"""Figures of merit; `functional` holds the values."""
