"""Multi-objective search: a study that several processes share, can be resumed, and ends in a Pareto front."""

from linf.runs.search.space import overrides, probes, space
from linf.runs.search.study import Search
from linf.runs.search.trial import STORAGE_FAILED, Trial

__all__ = ["STORAGE_FAILED", "Search", "Trial", "overrides", "probes", "space"]
