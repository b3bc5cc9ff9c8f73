"""Evaluation: every system over data sets, scales and temperatures, measured into one folder."""
