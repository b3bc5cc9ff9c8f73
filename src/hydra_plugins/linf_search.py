"""`linf.runs.search` as a Hydra sweeper, for ``conf/sweep/search.yaml``; Hydra finds plugins in this namespace only."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

# Hydra imports this file in every program that uses Hydra: what is heavy is imported where it is used.

log = logging.getLogger(__name__)


class SearchSweeper(Sweeper):
    """Takes trials from a study, runs them as jobs by Hydra's launcher, and returns their results to the study.

    Args:
        workers: The number of trials at a time, if the launcher can run several.
        space: The ranges, see `linf.runs.search.space`; those of settings in the command are left out.
        **search: The other arguments of `linf.runs.search.study.Search`.
    """

    config: DictConfig
    hydra_context: HydraContext
    launcher: Launcher

    def __init__(self, *, workers: int, space: Mapping[str, Any], **search: Any) -> None:
        self.workers, self.space, self.search = workers, space, search

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.hydra_context, self.config = hydra_context, config
        self.launcher = Plugins.instance().instantiate_launcher(hydra_context, task_function, config)

    def sweep(self, arguments: list[str]) -> None:
        """Search until all trials are taken; raise UsageError if a setting of the search is wrong."""
        from linf.errors import UsageError
        from linf.runs.search.space import overrides, probes, space
        from linf.runs.search.study import Search

        if self.workers < 1:
            raise UsageError(f"workers is {self.workers}: give 1 or more")
        given = OverridesParser.create(self.hydra_context.config_loader).parse_overrides(arguments)
        if many := next((override.input_line for override in given if override.is_sweep_override()), None):
            raise UsageError(f"a search takes one value of each setting, not {many}: see hydra.sweeper.space")
        fixed = {override.key_or_group for override in given}
        ranges = space({key: of for key, of in self.space.items() if key.lstrip("+") not in fixed})
        loader = self.hydra_context.config_loader
        # Each choice is composed once, to check all of them before the first trial.
        jobs = [
            loader.load_sweep_config(self.config, [*arguments, *overrides(params)])
            for params in probes(ranges)
        ]
        search = Search(Path(self.config.hydra.sweep.dir), space=ranges, **self.search)
        # Fails now rather than in each trial if there are no weights.
        instantiate(jobs[0].callbacks.get("lpips"))
        OmegaConf.save(self.config, search.folder / "multirun.yaml")
        count = 0
        while True:
            with search.taken(self.workers) as trials:
                for number, result in self._launched(search, arguments, trials, count).items():
                    search.tell(number, result)
            table = search.summarise()
            if not trials:
                break
            count += len(trials)
            for number, line in table.loc[list(trials)].iterrows():
                figures = ", ".join(f"{name} {line[name]:.4f}" for name in search.objectives)
                log.info("trial %d %s: %s", number, line["state"], figures)
        finished, front = (table["state"] == "finished").sum(), table["front"].sum()
        where = search.folder / "pareto.csv"
        log.info("%d of %d trials finished, %d on the front: %s", finished, len(table), front, where)

    def _launched(
        self, search: Any, arguments: list[str], trials: Mapping[int, Mapping[str, Any]], first: int
    ) -> dict[int, Mapping[str, float] | None]:
        """Run trials as jobs; return the result of each that ended, None if it failed."""
        from linf.runs.record import read_record

        if not trials:
            return {}
        batch = [[*arguments, *search.job(number, params)] for number, params in trials.items()]
        try:
            launched = self.launcher.launch(batch, initial_job_idx=first)
            # A job is refused while one that a killed command left behind still runs: that one is the trial.
            return {
                number: job.return_value
                for number, job in zip(trials, launched, strict=True)
                if job.return_value is not None or read_record(search.place(number)).state != "running"
            }
        except Exception:
            # If Slurm ends a job, or its process dies, the other jobs' results are lost, but not their records.
            found = {number: read_record(search.place(number)) for number in trials}
            if all(job.state == "new" for job in found.values()):
                raise
            log.exception("the launcher failed")
            # A trial that still runs, or never ran, stays in the study for the next process that takes it.
            return {
                number: job.result if job.state == "finished" else None
                for number, job in found.items()
                if job.state in ("finished", "failed", "killed")
            }


ConfigStore.instance().store(
    group="hydra/sweeper",
    name="linf_search",
    node={"_target_": f"{__name__}.{SearchSweeper.__name__}", "_convert_": "all"},
    provider="linf",
)
