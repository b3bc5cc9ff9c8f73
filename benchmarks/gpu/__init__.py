"""The acceptance on a GPU, ``python -m benchmarks.gpu``, and what carries it to a machine without a network."""
