"""Configs: every file composes and has an effect, and the defaults are the paper's numbers."""

import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import ConfigCompositionException
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError

from helpers.commands import Command, Compose
from helpers.networks import write_network
from helpers.paths import ROOT
from helpers.runs import SMOKE
from linf.runs.arguments import check_arguments
from linf.runs.search.space import overrides, probes, space

CONF = ROOT / "conf"
GROUPS = sorted(path.name for path in CONF.iterdir() if path.is_dir())
OPTIONS = [(group, path.stem) for group in GROUPS for path in sorted((CONF / group).glob("*.yaml"))]
DEGRADATIONS = sorted(path.stem for path in (CONF / "data" / "degradation").glob("*.yaml"))
EVALUATED = ("metrics", "protocol")
"""Groups that only eval.py has."""
BASES = (("data", "default"), ("task", "default"))
"""Bases that other options of the group extend and that are incomplete by themselves."""
# A checkpoint and a peer are evaluated, not trained.
CHOICES = [
    option
    for option in OPTIONS
    if option not in (*BASES, ("model", "checkpoint"), ("model", "spandrel")) and option[0] not in EVALUATED
]
PLACES = {
    "loss": "loss@task.loss",
    "optimizer": "optimizer@task.optimizer",
    "perceptual": "perceptual@task.loss.features",
}
"""Groups whose choice belongs to a part of the task."""
NEEDED = {"perceptual": ["task=finetune"]}
"""What else must be chosen, where not every task has that part."""
NARROW = {
    "encoder.blocks": 1,
    "encoder.layers": 2,
    "encoder.growth": 4,
    "encoder.channels": 12,
    "encoder.depths": [2],
    "encoder.heads": [2],
    "model.conditioner.width": 8,
    "model.conditioner.depth": 1,
    "model.flow.steps": 2,
}
SMALL = ("data.batch_size=2", "data.crop=8", "data.queries=9", "data.num_workers=0", "data.val_limit=1")


def nodes(config: Any) -> Iterator[dict[str, Any]]:
    """Every dict of a plain config, at any depth."""
    if isinstance(config, dict):
        yield config
    for inner in config.values() if isinstance(config, dict) else config if isinstance(config, list) else ():
        yield from nodes(inner)


def resolved(config: DictConfig) -> dict[str, Any]:
    plain = OmegaConf.to_container(config, resolve=True)
    assert isinstance(plain, dict)
    return plain


def targets(config: DictConfig) -> list[str]:
    return [node["_target_"] for node in nodes(resolved(config)) if "_target_" in node]


def root(group: str, option: str) -> list[str]:
    """A dataset of the user's own has no default place."""
    text = (CONF / group / f"{option}.yaml").read_text()
    asks = (group == "data" and "root: ???" in text) or (group == "experiment" and "data.root=…" in text)
    return ["data.root=/somewhere"] if asks else []


def test_every_file_is_an_option_of_a_group_or_an_entry_point() -> None:
    assert {path.relative_to(CONF).as_posix() for path in CONF.rglob("*") if path.is_file()} == {
        "train.yaml",
        "eval.yaml",
        *(f"{group}/{option}.yaml" for group, option in OPTIONS),
        *(f"data/degradation/{option}.yaml" for option in DEGRADATIONS),
    }


@pytest.mark.parametrize("group", GROUPS)
def test_options_of_a_group_have_one_form(group: str) -> None:
    files = sorted((CONF / group).glob("*.yaml"))
    assert len({file.read_text().startswith("# @package _global_\n") for file in files}) == 1
    assert not any("@package" in file.read_text().partition("\n")[2] for file in files)


def test_hydra_settings_are_the_same_in_train_and_eval(composed: Compose) -> None:
    train, evaluation = (composed(name, "run_dir=x", hydra=True).hydra for name in ("train", "eval"))
    for key in ("run", "sweep", "output_subdir", "callbacks"):
        one, other = (
            OmegaConf.to_container(OmegaConf.create({key: hydra[key]})) for hydra in (train, evaluation)
        )
        assert one == other


@pytest.mark.parametrize(("group", "option"), CHOICES)
def test_every_option_composes_and_its_targets_exist(
    composed: Compose, tmp_path: Path, group: str, option: str
) -> None:
    # A schedule by step needs their number.
    choice = f"{PLACES.get(group, group)}={option}"
    given = [choice, f"run_dir={tmp_path}", "trainer.max_steps=10", *root(group, option)]
    config = composed("train", *NEEDED.get(group, []), *given)
    found = targets(config)
    assert {f"linf.training.{task}" for task in ("Training", "Finetuning", "PriorTraining")} & set(found)
    assert "pytorch_lightning.Trainer" in found
    assert {
        "linf.models.linf.LINF",
        "linf.models.baselines.LIIF",
        "linf.models.baselines.LTE",
        "linf.models.baselines.Bicubic",
    } & set(found)
    for target in found:
        assert callable(get_object(target))


@pytest.mark.slow
@pytest.mark.parametrize("option", [option for group, option in CHOICES if group == "data"])
@pytest.mark.parametrize("trainer", [option for group, option in CHOICES if group == "trainer"])
def test_every_dataset_and_device_composes_for_evaluation(
    composed: Compose, tmp_path: Path, option: str, trainer: str
) -> None:
    given = (f"data={option}", f"trainer={trainer}", "ckpt_path=x", f"run_dir={tmp_path}")
    config = composed("eval", *given, *root("data", option))
    found = targets(config)
    assert {"linf.evaluation.evaluation.Evaluation", "linf.load", "linf.data.datamodule.SRDataModule"} <= set(
        found
    )
    assert config.data.train is None
    assert config.data.val is None
    assert config.data.test is not None


@pytest.mark.parametrize(
    ("group", "option"), [option for option in OPTIONS if option[0] in (*EVALUATED, "logger")]
)
def test_every_option_of_an_evaluation_composes(
    composed: Compose, tmp_path: Path, group: str, option: str
) -> None:
    config = composed("eval", f"{group}={option}", "ckpt_path=x", f"run_dir={tmp_path}")
    for target in targets(config):
        assert callable(get_object(target))


PROTOCOLS = {
    "benchmark": ("psnr_y", {2: 2, 3.3: 4, 4: 4, 8: 8}, 1),
    "div2k": ("psnr_rgb", {2: 8, 3.3: 10, 4: 10, 30: 36}, 1),
    "generative": ("psnr_rgb", {4: 4}, 5),
}
"""The headline metric, the cropped border by scale, and the samples (METHOD §7)."""


@pytest.mark.parametrize("option", PROTOCOLS)
def test_protocols_crop_and_rank_like_published_tables(
    composed: Compose, tmp_path: Path, option: str
) -> None:
    config = composed("eval", f"protocol={option}", "ckpt_path=x", f"run_dir={tmp_path}")
    headline, borders, samples = PROTOCOLS[option]
    protocol = instantiate(config.protocol)
    assert (protocol.name, protocol.headline) == (option, headline)
    assert {s: protocol.border(s) for s in borders} == borders
    assert config.samples == samples
    assert headline in config.metrics


@pytest.mark.parametrize("option", [option for group, option in OPTIONS if group == "sweep"])
def test_every_run_of_a_sweep_composes(composed: Compose, tmp_path: Path, option: str) -> None:
    config = composed("train", f"sweep={option}", f"run_dir={tmp_path}", hydra=True)
    assert config.hydra.mode.name == "MULTIRUN"
    sweeper = config.hydra.sweeper
    if "space" in sweeper:
        runs = [overrides(trial) for trial in probes(space(OmegaConf.to_container(sweeper.space)))]
    else:
        runs = list(each_run([f"{key}={values}" for key, values in sweeper.params.items()]))
    assert len(runs) > 1
    seen = [resolved(composed("train", f"sweep={option}", *run, f"run_dir={tmp_path}")) for run in runs]
    assert all(one != other for one, other in itertools.combinations(seen, 2))


def each_run(overrides: list[str]) -> Iterator[list[str]]:
    """The overrides of each run of a sweep, or of the one run that they ask for."""
    parsed = OverridesParser.create().parse_overrides(overrides)
    for run in itertools.product(
        *(
            [f"{o.get_key_element()}={value}" for value in o.sweep_string_iterator()]
            if o.is_sweep_override()
            else [o.input_line]
            for o in parsed
        )
    ):
        yield [str(override) for override in run]


def shown_commands() -> list[str]:
    """Every line with train.py or eval.py in what users read, without comments and variables of make and shells."""
    files = [ROOT / "README.md", ROOT / "Makefile", *sorted((ROOT / "docs").glob("*.md"))]
    text = "".join(path.read_text().replace("\\\n", " ") for path in files if path.stem != "claims")
    found = re.findall(r"^.*\b((?:train|eval)\.py(?: [^#\n`]*)?)(?: +#.*)?$", text, re.MULTILINE)
    return sorted({re.sub(r"\$\(\w+\)|\"\$@\"; }", "", line).strip(' "') for line in found})


def test_commands_in_the_docs_are_found() -> None:
    assert {"train.py", "train.py data=folder data.root=/photos"} < set(shown_commands())
    assert len(shown_commands()) >= 12


@pytest.mark.slow
@pytest.mark.parametrize("line", shown_commands())
def test_every_command_in_the_docs_composes(composed: Compose, tmp_path: Path, line: str) -> None:
    script, *overrides = line.replace("'", "").replace("…", "x").split()
    runs = list(each_run([override for override in overrides if override not in ("-m", "--multirun")]))
    assert len(runs) > 1 or "-m" not in overrides
    for run in runs:
        resolved(composed(script.removesuffix(".py"), *run, f"run_dir={tmp_path}"))


# Full size


ENCODERS = {
    "edsr_baseline": (64, 1_220_416),
    "edsr": (256, 38_362_368),
    "rdn": (64, 21_973_952),
    "rrdb": (64, 16_585_472),
    "swinir": (64, 11_603_044),
}
"""Channels and parameters (METHOD §2); EDSR's from its layers' sizes, RRDB's less its four unused convolutions."""

MAPS, HIDDEN = 2 * (9 * 64 * 256 + 256), 256 * 256 + 256
DECODER = {
    "linf": 705_216,
    "linf_patch": 836_760,
    "linf_local": MAPS + 2 * 128 + 2 * HIDDEN + (256 * 60 + 60) + 11 * (3 * 3 + 3),
    "lte": MAPS + 2 * 128 + 3 * HIDDEN + (256 * 3 + 3),
    "liif": ((9 * 64 + 4) * 256 + 256) + 3 * HIDDEN + (256 * 3 + 3),
}
"""All behind 64 channels; LINF's from METHOD §2, the baselines' from their layers' sizes (§8)."""


@pytest.mark.slow
@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("model", DECODER)
def test_full_size_models_have_the_published_numbers_of_parameters(
    composed: Compose, encoder: str, model: str
) -> None:
    with torch.device("meta"):
        linf = instantiate(composed("train", f"encoder={encoder}", f"model={model}").model)
    sizes = {name: sum(p.numel() for p in part.parameters()) for name, part in linf.named_children()}
    channels, parameters = ENCODERS[encoder]
    assert sizes.pop("encoder") == parameters
    # What reads the features: LIIF's first layer all 3×3 of them, else two 3×3 convolutions to 256 maps.
    reading = 9 * 256 if model == "liif" else 2 * 9 * 256
    assert sum(sizes.values()) == DECODER[model] + reading * (channels - 64)


def test_default_config_is_the_papers_stage_1(composed: Compose, tmp_path: Path) -> None:
    config = composed("train", f"run_dir={tmp_path}")
    data, task = config.data, config.task
    assert (data.batch_size, data.batches_per_epoch) == (16, 1000)
    assert (data.crop, data.queries, list(data.scale), data.window) == (48, 48**2, [1, 4], False)
    assert (task.optimizer._target_, task.optimizer.lr) == ("torch.optim.Adam", 1e-4)
    assert (list(task.scheduler.milestones), task.scheduler.gamma) == ([200, 400, 600, 800], 0.5)
    assert (task.scheduler_interval, config.trainer.max_epochs) == ("epoch", 1000)
    assert (task.loss.nll, task.loss.l1) == (1.0, 0.0)
    assert (config.model.flow.patch_size, config.model.flow.steps) == (1, 10)
    assert (config.model.conditioner.width, config.model.conditioner.depth) == (256, 3)
    assert (composed("train", "data=div2k").data.repeat, composed("train", "data=df2k").data.repeat) == (
        20,
        8,
    )


def test_data_follows_the_models_patch_size(composed: Compose) -> None:
    config = composed("train", "model=linf_patch", "data.val_scales=[2,3.3]", "seed=7")
    assert (config.data.patch_size, config.task.val_scales, config.data.seed) == (3, [2, 3.3], 7)


def test_evaluation_takes_the_patch_size_from_the_checkpoint(composed: Compose, checkpoint: Path) -> None:
    config = composed("eval", f"ckpt_path={checkpoint}", "run_dir=x")
    assert instantiate(config.task).model.patch_size == 3


@pytest.mark.parametrize(
    "wrong", ["task.optimzer.lr=1", "nonsense=1", "data.batchsize=2", "trainer.max_step=1"]
)
@pytest.mark.parametrize("name", ["train", "eval"])
def test_unknown_key_fails(composed: Compose, name: str, wrong: str) -> None:
    with pytest.raises(ConfigCompositionException, match="Could not override"):
        composed(name, wrong)


def test_reading_an_unknown_key_fails(composed: Compose) -> None:
    with pytest.raises(ConfigAttributeError):
        _ = composed("train").ckpt_paht


# Running

SIZES = [option for group, option in CHOICES if group == "encoder"]


@pytest.mark.slow
def test_every_encoder_has_a_tiny_size(composed: Compose) -> None:
    with torch.device("meta"):
        made = {size: instantiate(composed("train", f"encoder={size}").encoder) for size in SIZES}
    kinds = {type(encoder) for encoder in made.values()}
    tiny = [encoder for size, encoder in made.items() if size.endswith("_tiny")]
    assert {type(encoder) for encoder in tiny} == kinds
    assert all(sum(p.numel() for p in encoder.parameters()) < 20_000 for encoder in tiny)
    assert len({f"{type(encoder).__name__} {encoder.config}" for encoder in made.values()}) == len(SIZES)


@pytest.mark.slow
@pytest.mark.parametrize("encoder", SIZES)
@pytest.mark.parametrize("experiment", ["smoke", "demo"])
def test_every_encoder_runs_in_the_small_experiments(
    composed: Compose, tmp_path: Path, experiment: str, encoder: str
) -> None:
    config = composed("train", f"experiment={experiment}", f"encoder={encoder}", f"run_dir={tmp_path}")
    model = instantiate(config.task).model
    asked = OmegaConf.load(CONF / "encoder" / f"{encoder}.yaml")
    assert all(model.encoder.config[key] == asked[key] for key in model.encoder.config if key in asked)
    assert model.eval().sample(torch.rand(1, 3, 5, 6), (11, 12)).shape == (1, 3, 11, 12)


@pytest.mark.parametrize("model", ["linf", "liif", "lte"])
@pytest.mark.parametrize("experiment", ["smoke", "demo"])
def test_other_models_run_in_the_small_experiments(
    composed: Compose, tmp_path: Path, experiment: str, model: str
) -> None:
    task = "mixture" if model == "linf" else "regression"
    given = (f"experiment={experiment}", f"model={model}", f"task={task}", "encoder=edsr_tiny")
    made = instantiate(composed("train", *given, f"run_dir={tmp_path}").task).model
    assert type(made).__name__.lower() == model
    assert made.eval().sample(torch.rand(1, 3, 5, 6), (11, 12)).shape == (1, 3, 11, 12)


@pytest.mark.parametrize(
    "task", [option for group, option in CHOICES if group == "task" and option != "regression"]
)
def test_smoke_takes_every_task_as_it_stands(composed: Compose, tmp_path: Path, task: str) -> None:
    no_vgg = ("task.loss.perceptual=0", "task.loss.l1=1") if task == "prior" else ()
    config = composed("train", *SMOKE, f"task={task}", *no_vgg, f"run_dir={tmp_path}")
    check_arguments(config)
    instantiate(config.task)
    instantiate(config.data).setup("fit")


@pytest.mark.thorough
def test_smoke_trains_swinir(command: Command) -> None:
    done = command("train", *SMOKE, "encoder=swinir_tiny", "hydra.run.dir=run")
    assert done.status == 0, done.err
    assert "trained model: " in done.out


FAST = {
    "claims_patch",
    "default_finetune",
    "linf_rdn",
    "linf_patch_rrdb_finetune",
    "linf_swinir_lp",
    "lte_edsr_baseline",
}
"""Experiments of each kind; the others differ from them in an encoder or in numbers."""


@pytest.mark.slow
@pytest.mark.parametrize(
    "option",
    [
        pytest.param(option, marks=() if option in FAST else pytest.mark.thorough)
        for group, option in CHOICES
        if group == "experiment"
    ],
)
def test_every_experiment_trains(composed: Compose, photos: Path, tmp_path: Path, option: str) -> None:
    given = [f"experiment={option}", f"run_dir={tmp_path}", "trainer.max_steps=2", "trainer.max_epochs=-1"]
    given.append("callbacks.acceleration.compile=false")
    if root("experiment", option):
        for split in ("DIV2K_train_HR", "DIV2K_valid_HR", "Flickr2K/Flickr2K_HR"):
            (tmp_path / split).mkdir(parents=True)
            for photo in photos.iterdir():
                (tmp_path / split / photo.name).write_bytes(photo.read_bytes())
        given.append(f"data.root={tmp_path}")
    small = SMALL
    if option.endswith(("_finetune", "_lp")):  # A VGG wants to see 16 pixels a side.
        small = (*SMALL, "data.crop=24", "data.queries=null")
        given.append(f"task.loss.features.weights={write_network(tmp_path / 'vgg16.pth')}")
    if option == "default_finetune":  # How latents are correlated is found of a trained model.
        given.append("task.loss.latents=independent")
    config = composed("train", *given, *small, "data.batches_per_epoch=1", "data.val_crop=32")
    config.trainer.check_val_every_n_epoch = 1
    for key, value in NARROW.items():
        if OmegaConf.select(config, key) is not None:
            OmegaConf.update(config, key, value)
    pl.seed_everything(config.seed)
    data, task, trainer = instantiate(config.data), instantiate(config.task), instantiate(config.trainer)
    if option.endswith("_lp"):  # A prior is learned for a trained model only.
        task.model.flow.initialised.fill_(True)
    trained = next(p for p in task.model.parameters() if p.requires_grad)
    before = trained.detach().clone()
    trainer.fit(task, data)
    assert trainer.global_step == 2
    assert not torch.equal(trained, before)
    assert torch.isfinite(trainer.callback_metrics["val/psnr"])
    assert (tmp_path / "checkpoints" / "last.ckpt").is_file()
