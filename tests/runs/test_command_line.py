"""Settings as users write them: paths, other alphabets, home, whole nodes, and Hydra's own options."""

import itertools
from contextlib import chdir
from pathlib import Path
from typing import Any

import pytest
from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from helpers.commands import Command, assert_in_words, start
from helpers.paths import ROOT
from helpers.runs import RANKS, SMOKE, TINY
from linf.errors import UsageError
from linf.runs import launch
from linf.runs.command_line import readable_settings
from linf.runs.folders import _folder_name
from linf.runs.hints import setting_hint
from linf.runs.record import read_record

CONF = ROOT / "conf"
NAMES = (
    "a b",
    "jörg",
    "R&D",
    "a;b#c",
    "model.x-[1,4]_model.y-2",
    "a=b",
    "a,b",
    "{a: b}",
    "c(1)",
    "it's",
    "(~!^",
    "写真",
)


def values(*arguments: str) -> list[Any]:
    """What Hydra reads of settings."""
    parser = OverridesParser.create()
    return [parser.parse_override(each).value() for each in readable_settings(arguments, CONF)]


@pytest.mark.parametrize("name", NAMES)
def test_a_path_that_exists_is_taken_as_it_is(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    path = f"{tmp_path}/{name}"
    assert values(f"ckpt_path={path}", f"+data.root={path}") == [path, path]


@pytest.mark.parametrize("name", [name for name in NAMES if name != "a,b"])
def test_a_path_need_not_exist(name: str) -> None:
    assert values(f"hydra.run.dir=new/{name}/x") == [f"new/{name}/x"]


@pytest.mark.parametrize(
    ("script", "given"),
    [
        ("train", "encoder=3"),
        ("train", "logger=false"),
        ("train", "data/degradation=1e3"),
        ("eval", "data/degradation@data.test_degradation=10"),
        ("train", "encoder=1,edsr_tiny"),
    ],
)
def test_a_number_is_no_choice_of_a_group(command: Command, script: str, given: str) -> None:
    done = command(script, *["-m"] * ("," in given), given)
    assert_in_words(done.status, done.out, done.err, f"{given} is no choice of", "give one of")


def test_options_may_stand_among_settings() -> None:
    given = ["model=lte", "-m", "seed=0,1", "--config-dir", "mine", "name=x", "--info"]
    read = get_args_parser().parse_args(readable_settings(given, CONF))
    assert read.multirun
    assert (read.config_dir, read.info) == ("mine", "all")
    assert read.overrides == ["model=lte", "seed=0,1", "name=x"]


@pytest.mark.parametrize("option", ["--model", "--data.root=photos", "-x"])
def test_an_unknown_option_is_taken_for_a_setting_with_dashes(option: str) -> None:
    name = option.partition("=")[0]
    with pytest.raises(UsageError, match=f"no option {name}: .* as in {name.lstrip('-')}=…"):
        readable_settings([option, "linf"], CONF)


def test_choices_of_a_group_by_a_pattern_are_left_to_hydra() -> None:
    for setting in ("encoder=glob(*_tiny)", "+experiment=interval(1,2)", "encoder=shuffle(edsr,rdn)"):
        assert readable_settings([setting], CONF) == [setting]


def test_paths_to_sweep_over(tmp_path: Path) -> None:
    for name in ("x-[1,4]", "x-[1,2]"):
        (tmp_path / name).mkdir()
    (setting,) = readable_settings([f"ckpt_path={tmp_path}/x-[1,4],{tmp_path}/x-[1,2]"], CONF)
    override = OverridesParser.create().parse_override(setting)
    assert list(override.sweep_string_iterator()) == [f"'{tmp_path}/x-[1,{end}]'" for end in (4, 2)]


def test_paths_with_commas_to_sweep_over_or_in_a_list(tmp_path: Path) -> None:
    paths = [f"{tmp_path}/a,b/{name}" for name in ("one", "two,three")]
    for path in (*paths, f"{tmp_path}/four"):
        Path(path).mkdir(parents=True)
    (setting,) = readable_settings([f"ckpt_path={','.join(paths)},{tmp_path}/four"], CONF)
    override = OverridesParser.create().parse_override(setting)
    assert [value.text for value in override.value().list] == [*paths, f"{tmp_path}/four"]
    assert values(f"data.root=[{','.join(paths)}]") == [paths]
    assert readable_settings(["ckpt_path=one,two"], CONF) == ["ckpt_path=one,two"]


def test_text_in_lists_and_dicts() -> None:
    assert values("data.root=[/a/ö,b&c]", "name=R&D") == [["/a/ö", "b&c"], "R&D"]
    assert values("+x={a: ö, b: [ü,1]}") == [{"a": "ö", "b": ["ü", 1]}]


@pytest.mark.parametrize(
    "argument",
    [
        "data.val_scales=[2,3.3]",
        "model.flow.patch_size=1,3",
        "data.crop=range(1,5)",
        "name='a b'",
        "name=${seed}",
        "seed=",
        "~callbacks.panels",
        "~data.val={a: 1}",
        "-m",
        "--config-dir=/a b",
        "data.val_scales=[2,3",
        "x==1",
    ],
)
def test_anything_else_stays_as_it_is(argument: str) -> None:
    assert readable_settings([argument], CONF) == [argument]


def test_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/jörg")
    assert values("data.root=~/x", "ckpt_path=~", "+r=[~/a,~/b]", "+v={_target_: a, root: ~/c}") == [
        "/home/jörg/x",
        "/home/jörg",
        ["/home/jörg/a", "/home/jörg/b"],
        {"_target_": "a", "root": "/home/jörg/c"},
    ]
    assert values("name=a~b/c", "+x=~nobody-of-this-name/x") == ["a~b/c", "~nobody-of-this-name/x"]


def test_no_home_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.path.expanduser", lambda path: path)
    with pytest.raises(UsageError, match="this user has no home"):
        readable_settings(["data.root=~/x"], CONF)


def test_home_in_a_config_and_of_a_run(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, checkpoint: Path, photos: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "model.safetensors").symlink_to(checkpoint)
    (tmp_path / "photos").symlink_to(photos)
    (tmp_path / "conf" / "experiment").mkdir(parents=True)
    (tmp_path / "conf" / "experiment" / "mine.yaml").write_text(
        "# @package _global_\nckpt_path: ~/model.safetensors\ndata: {root: ~/photos}\nhydra: {run: {dir: ~/run}}\n"
    )
    few = ("data.test_scales=[2]", "metrics=fidelity", "temperatures=[0]")
    done = command("eval", "--config-dir=conf", "data=folder", "+experiment=mine", *few)
    assert done.status == 0, done.err
    assert read_record(tmp_path / "run").state == "finished"
    assert not (tmp_path / "~").exists()


# A dict with a _target_


@pytest.mark.parametrize(
    ("given", "node"),
    [
        ("data.val={_target_: linf.data.sources.image_folder, root: /x}", "data.val"),
        ("scheduler={_target_: torch.optim.lr_scheduler.ConstantLR, _partial_: true}", "scheduler"),
        ("encoder={_target_: linf.models.encoders.EDSR, blocks: 1}", "model.encoder"),
        ("task.loss={_target_: linf.losses.flow.LikelihoodL1, nll: 2}", "task.loss"),
        ("task.scheduler={_target_: torch.optim.lr_scheduler.ConstantLR}", "task.scheduler"),
    ],
)
@pytest.mark.parametrize("experiment", ["smoke", "demo"])
def test_a_dict_with_a_target_replaces_the_node(
    composed: Any, given: str, node: str, experiment: str
) -> None:
    config = composed("train", f"experiment={experiment}", *readable_settings([given], CONF), "run_dir=x")
    expected = OverridesParser.create().parse_override(given).value()
    assert OmegaConf.to_container(OmegaConf.select(config, node), resolve=True) == expected


def test_settings_after_a_dict_change_it(composed: Any) -> None:
    given = ["data.val={_target_: linf.data.sources.image_folder, root: /x}", "data.val.root=/y"]
    assert composed("train", *readable_settings(given, CONF)).data.val.root == "/y"


@pytest.mark.slow
def test_a_run_with_whole_nodes(command: Command, photos: Path, tmp_path: Path) -> None:
    nodes = (
        f"data.val={{_target_: linf.data.sources.image_folder, root: {photos}}}",
        "data.val_crop=24",
        "scheduler={_target_: torch.optim.lr_scheduler.ConstantLR, _partial_: true}",
    )
    done = command("train", *TINY, *nodes, "hydra.run.dir=run")
    assert done.status == 0, done.err
    again = command("train", *TINY, "hydra.run.dir=run", "data.vall={_target_: a.b}")
    assert_in_words(again.status, again.out, again.err, "no setting 'data.vall'", "did you mean 'data.val'?")


# Hints


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("data.val={root: x}", "no setting 'data.val.root'"),
        ("dätä.root=x", "'ä'"),
        ("data.val_scales=[2,ö&]]", "'ö'"),
        ("data.val_scales=[2,3", "quote a value"),
    ],
)
def test_what_cannot_be_read_or_set_is_named(command: Command, given: str, words: str) -> None:
    done = command("train", given)
    assert_in_words(done.status, done.out, done.err, words)


@pytest.mark.parametrize(
    ("unknown", "words"),
    [
        ("trainer.fast_dev_run", "'+trainer.fast_dev_run=…'"),
        ("trainer.overfit_batches", "'+trainer.overfit_batches=…'"),
        ("trainer.limit_val_batch", "did you mean '+trainer.limit_val_batches'?"),
        ("task.optimizer.weight_decay", "'+task.optimizer.weight_decay=…'"),
        ("scheduler.max_lr", "it comes with scheduler=one_cycle"),
        ("data.root", "it comes with data=benchmark or data=df2k or data=div2k or data=folder"),
        ("encoder.block", "did you mean 'encoder.blocks'?"),
        ("task.learning_rat", "did you mean 'task.optimizer.lr'?"),
        ("optimizer.lr", "did you mean 'task.optimizer.lr'?"),
        ("epochs", "did you mean 'trainer.max_epochs'?"),
        ("trainer.gpus", "did you mean 'trainer.devices'?"),
        ("data.path", "did you mean 'data.root'? it comes with data=benchmark"),
        ("model.steps", "did you mean 'model.flow.steps'?"),
    ],
)
def test_hints(monkeypatch: pytest.MonkeyPatch, unknown: str, words: str) -> None:
    monkeypatch.setattr("sys.argv", ["train"])
    assert words in setting_hint(unknown, CONF / "train.yaml")


# Hydra's own options


def test_a_search_path_reaches_the_check_of_settings(command: Command, tmp_path: Path) -> None:
    (tmp_path / "more" / "encoder").mkdir(parents=True)
    (tmp_path / "more" / "encoder" / "mine.yaml").write_text((CONF / "encoder/edsr_tiny.yaml").read_text())
    mine = (f"hydra.searchpath=[file://{tmp_path}/more]", "encoder=mine", "encoder.blocks=one")
    done = command("train", *SMOKE, *mine)
    assert_in_words(done.status, done.out, done.err, "encoder.blocks is 'one'", "give a whole number")


def test_ranks_get_the_command_whole(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine" / "encoder").mkdir(parents=True)
    (tmp_path / "mine" / "encoder" / "my.yaml").write_text((CONF / "encoder/edsr_tiny.yaml").read_text())
    commands = []
    monkeypatch.setattr(launch, "launch", lambda *given: commands.append(given) or {})
    monkeypatch.setattr(launch, "needs_ranks", lambda trainer: True)
    own = ("hydra.job.chdir=true", "hydra.searchpath=[file://mine]", "hydra.run.dir=a-[1,4]/it's")
    done = command("train", "--config-dir=mine", "encoder=my", *SMOKE, *own)
    assert done.status == 0, done.err
    ((given, _, folder, logs),) = commands
    assert folder == str(tmp_path)
    assert logs == tmp_path / "a-[1,4]" / "it's" / "ranks"
    options = dict(itertools.pairwise(given))
    assert options["--config-path"] == str(CONF)
    assert options["--config-dir"] == f"{tmp_path}/mine"
    assert options["--config-name"] == "train"
    assert {"encoder=my", *own[:2], *SMOKE} < set(given)
    assert f"hydra.run.dir='{tmp_path}/a-[1,4]/it\\'s'" in given


@pytest.mark.thorough
def test_ranks_run_with_hydras_own_options(tmp_path: Path) -> None:
    (tmp_path / "mine" / "encoder").mkdir(parents=True)
    (tmp_path / "mine" / "encoder" / "my.yaml").write_text((CONF / "encoder/edsr_tiny.yaml").read_text())
    own = ("--config-dir=mine", "encoder=my", "hydra.job.chdir=true", "hydra.run.dir=a-[1,4]/ö")
    process = start(*own, *TINY, *RANKS, "data.val_limit=2", cwd=tmp_path)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert read_record(tmp_path / "a-[1,4]" / "ö").state == "finished"


def test_folders_have_no_quotes() -> None:
    assert _folder_name("ckpt_path-'a/x-[1,4]'") == "ckpt_path-a_x-[1,4]"


@pytest.mark.parametrize("given", [["--config-path", "own"], ["--config-path=own"], ["-cp", "own"]])
def test_a_relative_folder_of_configs_is_one_of_the_users(given: list[str], tmp_path: Path) -> None:
    with chdir(tmp_path):
        read = get_args_parser().parse_args(readable_settings([*given, "seed=1"], CONF))
    assert (read.config_path, read.overrides) == (f"{tmp_path}/own", ["seed=1"])
