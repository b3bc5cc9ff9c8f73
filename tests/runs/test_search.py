"""Multi-objective search: the front it leaves, trials that no kill loses and no two processes share, pruning."""

import itertools
import math
import multiprocessing
import signal
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
import pytest
import pytorch_lightning as pl
from hydra.core.utils import JobReturn, JobStatus
from matplotlib.cbook import STEP_LOOKUP_MAP
from optuna.samplers import NSGAIISampler, TPESampler
from optuna.trial import TrialState, create_trial
from PIL import Image

from helpers.commands import Command, Compose, assert_in_words, start, wait_for
from helpers.runs import RANKS, SMOKE, TINY, fit, state
from helpers.warm import WarmProcess
from hydra_plugins.linf_search import SearchSweeper
from linf.errors import UsageError
from linf.metrics.networks import LPIPSNetwork
from linf.runs.entry import _end_sweep
from linf.runs.record import JobRecord, read_record, write_record
from linf.runs.search.pruning import Pruning, worse
from linf.runs.search.space import overrides, probes, space
from linf.runs.search.study import Search, front_figure
from linf.runs.search.trial import REPORT, open_storage
from linf.runs.sweep import sweep_jobs
from linf.training.callbacks import ValidationLPIPS

OBJECTIVES = {"val/psnr": "maximize", "val/lpips": "minimize"}
RANGES = {
    "model.conditioner.width": {"choices": [8, 16, 24]},
    "task.optimizer.lr": {"low": 1e-5, "high": 1e-3, "log": True},
}


def search(folder: Path, **given: Any) -> Search:
    usual = {
        "storage": None,
        "study": "search",
        "objectives": OBJECTIVES,
        "space": space(RANGES),
        "sampler": TPESampler,
        "trials": 8,
    }
    return Search(folder, **usual | given)


def finished(*values: float, reports: dict[int, dict[str, float]] | None = None) -> optuna.trial.FrozenTrial:
    attributes = {f"{REPORT}{step}": figures for step, figures in (reports or {}).items()}
    return create_trial(values=list(values), user_attrs=attributes)


# The front


@pytest.mark.parametrize(
    "ways", [("maximize", "minimize"), ("minimize", "minimize"), ("maximize", "maximize")]
)
def test_the_front_is_what_nothing_beats(tmp_path: Path, ways: tuple[str, str]) -> None:
    found = search(tmp_path, objectives=dict(zip(OBJECTIVES, ways, strict=True)))
    rng = np.random.default_rng(0)
    points = np.round(rng.normal(size=(40, 2)), 1)  # Ties in one objective, and in both.
    found.study.add_trials([finished(*point) for point in points.tolist()])
    found.study.add_trial(create_trial(state=TrialState.FAIL))
    found.study.add_trial(
        create_trial(
            state=TrialState.PRUNED, user_attrs={f"{REPORT}3": {"val/psnr": 99.0, "val/lpips": 99.0}}
        )
    )
    better = points * [1 if way == "maximize" else -1 for way in ways]
    expected = [not any((o >= p).all() and (o > p).any() for o in better) for p in better]
    table = found.table()
    assert list(table["front"]) == [*expected, False, False]
    assert list(table["state"]) == ["finished"] * 40 + ["failed", "pruned"]
    assert table.loc[41, "val/psnr"] == 99
    assert table.loc[40, list(OBJECTIVES)].isna().all()
    # Nothing lies beyond the line.
    line = front_figure(table, found.objectives).axes[0].lines[2]
    x, y = STEP_LOOKUP_MAP[line.get_drawstyle()](*line.get_xydata().T)
    sign = [1 if way == "maximize" else -1 for way in ways]
    assert len(line.get_xdata()) == sum(expected)
    for p in points:
        assert not any(
            sign[0] * (p[0] - a) > 1e-6 and sign[1] * (p[1] - b) > 1e-6 for a, b in zip(x, y, strict=True)
        )


def test_table_and_figure_of_nothing_yet(tmp_path: Path) -> None:
    found = search(tmp_path)
    assert found.summarise().empty
    assert (tmp_path / "pareto.png").is_file()


# What is searched


def test_ranges_and_their_settings() -> None:
    found = space(
        {
            "a": {"low": 1, "high": 3},
            "b": {"low": 0.5, "high": 2},
            "c": {"low": 1, "high": 9, "step": 2},
            "d": {"choices": [None, True, "x", [1, 2]]},
        }
    )
    assert [(d.low, d.high, type(d.low)) for d in (found["a"], found["b"])] == [(1, 3, int), (0.5, 2, float)]
    assert [probe["d"] for probe in probes(found)] == [None, True, "x", "[1, 2]"]
    assert overrides({"a": 1, "b": 1e-5, "d": None, "e": True, "f": "[1, 2]"}) == [
        "a=1",
        "b=1e-05",
        "d=null",
        "e=true",
        "f=[1, 2]",
    ]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "empty"),
        ({"lr": {"low": 2, "high": 1}}, "low must be below high"),
        ({"lr": {"low": 1, "high": 1}}, "low must be below high"),
        ({"lr": {"low": 0, "high": 1, "log": True}}, "above 0"),
        ({"lr": {"low": 1, "high": 2, "step": 3}}, "step must fit"),
        ({"lr": {"low": "1", "high": 2}}, "numbers"),
        ({"lr": {"low": 1}}, "give {low: …, high: …}"),
        ({"lr": {"low": 1, "high": 2, "lgo": True}}, "lgo"),
        ({"lr": {"choices": [1]}}, "two choices"),
        ({"lr": 3}, "the range of lr is 3"),
    ],
)
def test_a_range_that_is_none_is_told_in_words(given: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        space(given)


def test_mistakes_about_a_study(tmp_path: Path) -> None:
    def told(words: str, folder: str = "one", **given: Any) -> None:
        with pytest.raises(UsageError, match=words):
            search(tmp_path / folder, **given)

    url = f"sqlite:///{tmp_path}/shared.db"
    with search(tmp_path / "one", storage=url).taken(1):
        pass
    told("upwards: choose maximize or minimize", objectives={"val/psnr": "upwards", "val/lpips": "minimize"})
    told("give two", objectives={"val/psnr": "maximize"})
    told("give 1 or more", trials=0)
    told("is not a database's URL: give sqlite:///FILE", storage="search.db")
    told("cannot be opened: unable to open", storage=f"sqlite:///{tmp_path}/nowhere/search.db")
    told(r"nosuch://me:\*\*\*@host/name cannot be opened", storage="nosuch://me:secret@host/name")
    told(f"has its trials in {tmp_path}/one: give hydra.sweep.dir=", "another", storage=url)
    told("other objectives", storage=url, objectives={"val/psnr": "minimize", "val/lpips": "minimize"})
    told("other objectives", storage=url, objectives={"val/ssim": "maximize", "val/lpips": "minimize"})
    told(
        "another kind of range for task.optimizer.lr",
        storage=url,
        space=space({"task.optimizer.lr": {"choices": [1, 2]}}),
    )


# Trials and who takes them


@pytest.mark.parametrize("sampler", [TPESampler, pytest.param(NSGAIISampler, marks=pytest.mark.thorough)])
def test_a_search_that_stops_draws_what_one_without_a_stop_draws(
    tmp_path: Path, sampler: Callable[..., Any]
) -> None:
    def drawn(folder: Path, stops: bool) -> list[dict[str, Any]]:
        of = search(folder, sampler=sampler, seed=3, trials=6)
        for number in range(6):
            if stops:
                of = search(folder, sampler=sampler, seed=3, trials=6)
            with of.taken(1) as trials:
                assert list(trials) == [number]
                lr = trials[number]["task.optimizer.lr"]
                of.tell(number, {"val/psnr": 30 - lr, "val/lpips": -math.log(lr)})
        with of.taken(1) as trials:
            assert not trials
        return [trial.params for trial in of.study.trials]

    whole = drawn(tmp_path / "whole", stops=False)
    assert drawn(tmp_path / "stopped", stops=True) == whole
    assert len({params["task.optimizer.lr"] for params in whole}) == 6


def take(folder: Path, most: int, seen: Any) -> None:
    """Take trials until there are none; with ``most`` 0 take two and wait to be killed."""
    found = search(folder, trials=12)
    while True:
        with found.taken(most or 2) as trials:
            seen.put(list(trials))
            if not trials:
                return
            if not most:
                time.sleep(600)
            for number in trials:
                found.tell(number, {"val/psnr": number, "val/lpips": number})


def test_no_two_processes_take_the_same_and_what_a_killed_one_had_is_taken_first(tmp_path: Path) -> None:
    forks = multiprocessing.get_context("fork")

    def taking(most: int) -> tuple[Any, Any]:
        seen = forks.Queue()
        process = forks.Process(target=take, args=(tmp_path, most, seen))
        process.start()
        return process, seen

    killed, seen = taking(0)
    assert seen.get(timeout=60) == [0, 1]
    found = search(tmp_path, trials=12)
    before = [trial.params for trial in found.study.trials]
    with found.taken(1) as trials:
        assert list(trials) == [2], "the others are being run"
    killed.kill()
    killed.join()
    with found.taken(2) as trials:
        assert trials == dict(enumerate(before))
    took: list[int] = []
    for process, seen in [taking(1), taking(2)]:
        took += (mine := list(itertools.chain(*iter(lambda seen=seen: seen.get(timeout=60), []))))
        assert mine
        process.join()
    assert sorted(took) == list(range(12))
    table = found.summarise()
    assert (table["state"] == "finished").all()
    assert list(table["val/psnr"]) == list(range(12))
    assert table["front"].all()


def test_a_trial_killed_after_its_last_validation_has_the_figures_it_told(tmp_path: Path) -> None:
    found = search(tmp_path)
    with found.taken(3) as trials:
        for number in trials:
            trial = Pruning(found.url, found.name, number)
            for step in (2, 10):
                trial.report(step, {"val/psnr": 20.0 + step, "val/lpips": 0.5, "train/loss": 1.0})
        Pruning(found.url, found.name, 1).prune(10)
        for number, result in zip(trials, ({}, {}, None), strict=True):
            found.tell(number, result)
    table = found.table()
    assert list(table["state"]) == ["finished", "pruned", "failed"]
    assert list(table["val/psnr"]) == [30.0] * 3


@pytest.mark.parametrize(
    ("state", "then"),
    [("failed", "a higher hydra.sweeper.trials runs others"), ("killed", "continues with the")],
)
def test_the_end_of_a_search_says_how_it_goes_on(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], state: str, then: str
) -> None:
    """A failed trial is not tried again."""
    for number, ended in enumerate(("finished", "failed", state)):
        write_record(tmp_path / f"trial_{number}", JobRecord(ended))
    (tmp_path / "pareto.csv").touch()
    with pytest.raises(SystemExit):
        _end_sweep(tmp_path)
    assert then in capfd.readouterr().err


def test_a_broken_launcher_costs_no_finished_trial(tmp_path: Path) -> None:
    found, sweeper = search(tmp_path), object.__new__(SearchSweeper)

    class Breaks:
        def launch(self, batch: list[list[str]], initial_job_idx: int) -> list[Any]:
            raise RuntimeError("gone")

    sweeper.launcher = Breaks()  # type: ignore[assignment]
    with pytest.raises(RuntimeError, match="gone"):
        sweeper._launched(found, [], {0: {}, 1: {}}, 0)
    for number, ended in enumerate(("finished", "failed", "killed", "stopped")):
        write_record(found.place(number), JobRecord(ended, result={"val/psnr": 1.0}))
    trials: dict[int, dict[str, Any]] = {number: {} for number in range(5)}
    assert sweeper._launched(found, [], trials, 0) == {0: {"val/psnr": 1.0}, 1: None, 2: None}


def test_a_job_that_outlived_its_command_stays_the_trial(tmp_path: Path) -> None:
    found, sweeper = search(tmp_path), object.__new__(SearchSweeper)

    class Refused:
        def launch(self, batch: list[list[str]], initial_job_idx: int) -> list[Any]:
            return [JobReturn(status=JobStatus.COMPLETED, _return_value=None) for _ in batch]

    sweeper.launcher = Refused()  # type: ignore[assignment]
    code = "import sys; from pathlib import Path; from linf.locks import run_lock\n"
    code += "with run_lock(Path(sys.argv[1])): print(flush=True); sys.stdin.read()"
    write_record(found.place(0), JobRecord("running"))
    with subprocess.Popen(
        [sys.executable, "-c", code, str(found.place(0))], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout
        other.stdout.readline()
        assert sweeper._launched(found, [], {0: {}, 1: {}}, 0) == {1: None}
        other.communicate(b"")
    assert sweeper._launched(found, [], {0: {}}, 0) == {0: None}


# Pruning


@pytest.mark.parametrize(
    ("own", "others", "startup", "stops"),
    [
        ((20, 0.5), [(30, 0.1), (31, 0.2), (32, 0.3)], 3, True),
        ((20, 0.5), [(30, 0.1), (31, 0.2), (32, 0.3)], 4, False),
        ((20, 0.15), [(30, 0.1), (31, 0.2), (32, 0.3)], 3, False),
        ((31, 0.5), [(30, 0.1), (31, 0.2), (32, 0.3)], 3, False),
        ((math.nan, math.nan), [(30, 0.1), (31, 0.2), (32, 0.3)], 3, True),
        ((20, 0.5), [(30, 0.1), (31, math.nan), (32, 0.3)], 3, False),
        ((20, 0.5), [], 1, False),
    ],
)
def test_what_is_worse_than_the_median_in_every_objective_stops(
    own: tuple[float, float], others: list[tuple[float, float]], startup: int, stops: bool
) -> None:
    named = [dict(zip(OBJECTIVES, figures, strict=True)) for figures in (own, *others)]
    assert worse(named[0], named[1:], OBJECTIVES, startup) == stops


BETTER = {step: {"val/psnr": 90.0, "val/lpips": 0.0} for step in (2, 4, 6, 8)}
"""What no training of these tests comes near."""


def with_better_trials(folder: Path) -> None:
    found = search(folder)
    found.study.add_trials([finished(90, 0, reports=BETTER) for _ in range(3)])


SEARCH = ("sweep=search", *TINY, "hydra.sweep.dir=sweep", "model.conditioner.width=8", "task.loss.l1=0")


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [(), pytest.param(RANKS, marks=pytest.mark.thorough)])
def test_a_bad_trial_is_pruned(
    command: Command, tmp_path: Path, alexnet: Path, ranks: tuple[str, ...]
) -> None:
    with_better_trials(tmp_path / "sweep")
    given = [f"callbacks.lpips.weights={alexnet}", "callbacks.pruning.startup_trials=3", *ranks]
    settings = [*SEARCH, *given, "trainer.max_epochs=4", "hydra.sweeper.trials=4"]
    done = command("train", *settings, "callbacks.pruning.warmup_steps=2")
    assert done.status == 0, done.err
    table = pd.read_csv(tmp_path / "sweep" / "pareto.csv", index_col="trial")
    assert list(table["state"]) == ["finished"] * 3 + ["pruned"]
    assert list(table["front"]) == [True] * 3 + [False]
    assert state(tmp_path / "sweep/trial_0003/checkpoints/last.ckpt")["global_step"] == 4, "after the warm-up"
    result = read_record(tmp_path / "sweep" / "trial_0003").result
    assert table.loc[3, "val/psnr"] == pytest.approx(result["val/psnr"])
    assert table.loc[3, "val/lpips"] == pytest.approx(result["val/lpips"])


def test_a_trial_that_was_pruned_and_killed_ends_at_once(
    composed: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_better_trials(tmp_path)
    found = search(tmp_path)
    with found.taken(1) as trials:
        (number,) = trials
    pruning = Pruning(found.url, found.name, number, startup_trials=1)
    config = composed("train", *SMOKE, f"run_dir={tmp_path}/run")
    trainer = fit(config, pruning)
    assert trainer.global_step == 3
    config.ckpt_path = str(tmp_path / "run" / "checkpoints" / "last.ckpt")
    assert fit(config, Pruning(found.url, found.name, number, startup_trials=None)).global_step == 3
    found.tell(number, {})
    assert found.table().loc[number, "state"] == "failed", "without LPIPS"


def test_a_storage_that_does_not_answer_stops_no_training(
    composed: Compose, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    found = search(tmp_path)
    with found.taken(1) as trials:
        (number,) = trials
    pruning = Pruning(found.url, found.name, number)
    config = composed("train", *TINY, f"run_dir={tmp_path}/run")

    class Unplug(pl.Callback):
        def on_train_batch_end(self, *_: Any) -> None:
            (tmp_path / "search.db").write_bytes(b"no database" * 1000)

    assert fit(config, Unplug(), pruning).global_step == 2
    assert "cannot report step 2 to the study" in caplog.text


# LPIPS after a validation


@pytest.mark.parametrize("decay", [pytest.param(0, marks=pytest.mark.thorough), 0.9])
def test_lpips_is_that_of_the_averaged_weights_on_samples_seeded_by_image(
    composed: Compose, tmp_path: Path, alexnet: Path, decay: float
) -> None:
    config = composed(
        "train", *SMOKE, f"run_dir={tmp_path}", f"callbacks.ema.decay={decay}", "~callbacks.panels"
    )
    config.task.optimizer.lr = 1e-2  # So that the weights and their average differ.
    trainer = fit(config, ValidationLPIPS(temperature=0.5, weights=alexnet, seed=4))
    distance, found = LPIPSNetwork("alex", alexnet), []
    pairs = trainer.datamodule.val_pairs
    for i in range(len(pairs)):
        lr, hr, scale, name, *_ = pairs[i]
        seed = zlib.crc32(f"4 {name} {scale:g}".encode())
        sr = trainer.model.model.sample(lr[None], tuple(hr.shape[1:]), temperature=0.5, seed=seed)
        found.append(distance(sr, hr[None]).item())
    assert len(found) == 4
    assert trainer.callback_metrics["val/lpips"] == pytest.approx(np.mean(found), rel=1e-5)


@pytest.mark.thorough  # test_metric.py has the mean over two ranks.
def test_ranks_log_the_lpips_of_all_images(command: Command, tmp_path: Path, alexnet: Path) -> None:
    given = ["sweep=search", "hydra.mode=RUN", *TINY, f"callbacks.lpips.weights={alexnet}"]
    for name, settings in {"one": ["data.batch_size=4"], "two": RANKS}.items():
        done = command("train", *given, *settings, f"hydra.run.dir={name}")
        assert done.status == 0, done.err
    one, two = (read_record(tmp_path / name).result for name in ("one", "two"))
    assert one["val/lpips"] == pytest.approx(two["val/lpips"], rel=1e-4)


# Whole searches


@pytest.mark.slow
def test_a_search_leaves_front_table_and_figure_and_survives_a_failing_trial(
    command: Command, tmp_path: Path, alexnet: Path
) -> None:
    found = search(tmp_path / "sweep", space=space({"model.flow.patch_size": {"choices": [1, 2, 3]}}))
    for patch_size in (1, 2, 3):
        found.study.enqueue_trial({"model.flow.patch_size": patch_size})
    given = [
        f"callbacks.lpips.weights={alexnet}",
        "task.optimizer.lr=1e-3",
        "hydra.sweeper.trials=3",
    ]
    ranges = "+hydra.sweeper.space={model.flow.patch_size:{choices:[1,2,3]}}"
    done = command("train", *SEARCH, *given, ranges)
    assert done.status == 1, "a job failed"
    assert "Traceback" not in done.out + done.err
    table = pd.read_csv(tmp_path / "sweep" / "pareto.csv", index_col="trial")
    assert list(table["model.flow.patch_size"]) == [1, 2, 3]
    assert list(table["state"]) == ["finished", "failed", "finished"]
    records = {name: job.result for name, job in sweep_jobs(tmp_path / "sweep").items()}
    assert list(records) == ["trial_0000", "trial_0001", "trial_0002"]
    for number in (0, 2):
        for name in OBJECTIVES:
            assert table.loc[number, name] == pytest.approx(records[f"trial_{number:04d}"][name])
    best = {table["val/psnr"].idxmax(), table["val/lpips"].idxmin()}
    assert best <= set(table.index[table["front"]]) <= {0, 2}
    assert min(Image.open(tmp_path / "sweep" / "pareto.png").size) > 300
    assert "2 of 3 trials finished" in done.out
    assert (tmp_path / "sweep" / "sweep.csv").is_file()
    # Again: nothing is left to do, or with more trials only those.
    began = {name: job.began for name, job in sweep_jobs(tmp_path / "sweep").items()}
    again = command("train", *SEARCH, *given, ranges, "hydra.sweeper.trials=4", "hydra.sweeper.workers=4")
    after = {name: job.began for name, job in sweep_jobs(tmp_path / "sweep").items()}
    assert set(after) - set(began) == {"trial_0003"}, again.err
    assert after == began | {"trial_0003": after["trial_0003"]}


def process(*settings: str, cwd: Path) -> WarmProcess:
    return start(*SEARCH, *settings, cwd=cwd)


@pytest.mark.slow
def test_a_killed_search_goes_on(tmp_path: Path, alexnet: Path) -> None:
    sweep = tmp_path / "sweep"
    given = [
        f"callbacks.lpips.weights={alexnet}",
        "trainer.max_epochs=12",
        "hydra.sweeper.trials=3",
    ]
    killed = process(*given, cwd=tmp_path)
    wait_for(sweep / "trial_0001" / "checkpoints" / "last.ckpt", killed)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    storage = open_storage(f"sqlite:///{sweep}/search.db")
    study = optuna.load_study(study_name="search", storage=storage)
    before = study.trials
    assert [trial.state for trial in before] == [TrialState.COMPLETE, TrialState.RUNNING]
    began = read_record(sweep / "trial_0000").began
    again = process(*given, cwd=tmp_path)
    _, errors = again.communicate(timeout=300)
    assert again.returncode == 0, errors
    after = study.trials
    assert [trial.state for trial in after] == [TrialState.COMPLETE] * 3
    assert [trial.params for trial in after[:2]] == [trial.params for trial in before]
    assert read_record(sweep / "trial_0000").began == began
    versions = [len(list(sweep.glob(f"trial_{number:04d}/csv/*"))) for number in range(3)]
    assert versions == [1, 2, 1], "it went on from its checkpoint"
    for number in range(3):
        assert state(sweep / f"trial_{number:04d}" / "checkpoints" / "last.ckpt")["global_step"] == 24


@pytest.mark.thorough  # test_postgres.py has three.
def test_two_commands_share_a_search(tmp_path: Path, alexnet: Path) -> None:
    given = [f"callbacks.lpips.weights={alexnet}", "hydra.sweeper.trials=6"]
    pair = [process(*given, cwd=tmp_path) for _ in range(2)]
    for one in pair:
        _, errors = one.communicate(timeout=300)
        assert "Traceback" not in errors, errors
    table = pd.read_csv(tmp_path / "sweep" / "pareto.csv", index_col="trial")
    assert list(table["state"]) == ["finished"] * 6
    assert table["task.optimizer.lr"].nunique() == 6
    for number in range(6):
        assert len(list(tmp_path.glob(f"sweep/trial_{number:04d}/csv/*"))) == 1, "run once"


@pytest.mark.thorough
def test_workers_of_joblib(command: Command, tmp_path: Path, alexnet: Path) -> None:
    given = [
        f"callbacks.lpips.weights={alexnet}",
        "hydra.sweeper.trials=3",
        "hydra.sweeper.workers=2",
    ]
    done = command("train", *SEARCH, *given, "launcher=joblib")
    assert done.status == 0, done.err
    table = pd.read_csv(tmp_path / "sweep" / "pareto.csv", index_col="trial")
    assert list(table["state"]) == ["finished"] * 3


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["task.optimizer.lr=1e-3"], "the search space is empty"),
        (["hydra.sweeper.space={task.optimizer.lr:{low:2}}"], "low must be below high"),
        (["+hydra.sweeper.space={task.optimzer.lr:{low:1,high:2}}"], "did you mean 'task.optimizer.lr'?"),
        (["+hydra.sweeper.space={encoder:{choices:[edsr,ersd]}}"], "ersd"),
        (["hydra.sweeper.objectives={val/psnr:up}"], "val/psnr: up"),
        (["hydra.sweeper.workers=0"], "workers is 0"),
        (["hydra.sweeper.storage=search.db"], "is not a database's URL"),
        (["seed=0,1"], "seed=0,1"),
        (["callbacks.lpips.weights=nowhere.pth"], "nowhere.pth"),
        ([], "linf weights fetch alexnet"),
    ],
)
def test_mistakes_are_told_in_words(
    command: Command,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    checkpoint: Path,
    settings: list[str],
    words: str,
) -> None:
    monkeypatch.setenv("LINF_CACHE", str(tmp_path / "without_weights"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "without_weights"))
    done = command("train", *SEARCH, *settings)
    assert_in_words(done.status, done.out, done.err, words)
    assert not (tmp_path / "sweep" / "trial_0000").exists()
