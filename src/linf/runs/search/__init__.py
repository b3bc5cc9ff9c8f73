"""Multi-objective search: a study that several processes share, can be resumed, and ends in a Pareto front."""
