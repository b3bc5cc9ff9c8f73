"""What a run starts from: the checkpoint that it continues, or the weights of another model."""

import logging
import os
import zipfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import torch

from linf.checkpoints.native import Model, load, load_any, resolve_path
from linf.checkpoints.pickled import read_pickle
from linf.checkpoints.pretrained import WITH_ENCODER
from linf.checkpoints.shipped import SHIPPED
from linf.errors import UsageError
from linf.models import KNOWLEDGE
from linf.models.encoders import Encoder

log = logging.getLogger(__name__)


def newest(folder: Path, command: Sequence[str] | None = None) -> Path | None:
    """Find the checkpoint with most steps of the latest start of a run, in the folder of its checkpoints; None where
    there is none. Damaged ones are skipped with a warning. ``command`` leaves only those that a start with these
    settings saved.
    """
    found: list[tuple[int, int, bool, Path]] = []
    for path in sorted(folder.glob("*.ckpt")):
        try:
            if not _is_intact(path):
                raise zipfile.BadZipFile
            content = read_pickle(path, mmap=True)
            number, given = content.get("start", (0, None))
            if command is None or given == list(command):
                # Of two after the same step the last has been validated, and ``previous`` may not.
                found.append((number, content["global_step"], path.stem != "previous", path))
        except Exception as error:  # Readers answer a broken file with any exception.
            log.warning("%s is damaged (%s): it is skipped", path, type(error).__name__)
    return max(found, default=(None,))[-1]


def next_start(folder: Path) -> int:
    """Return the number of a run's next start, in whose folder these checkpoints are: 1 for the first."""
    numbers = [0]
    for path in folder.glob("*.ckpt"):
        with suppress(Exception):  # As above.
            numbers.append(read_pickle(path, mmap=True)["start"][0])
    return max(numbers) + 1


def steps_of(checkpoint: Path) -> int:
    """Return the number of steps that a run had taken when it wrote a checkpoint."""
    return read_pickle(checkpoint, mmap=True)["global_step"]


def to_resume(given: str | os.PathLike[str] | None, folder: Path, command: Sequence[str] = ()) -> Path | None:
    """Choose the checkpoint that a run continues from; None where the run starts anew.

    Args:
        given: the checkpoint that the user names, if any. One in the run's own folder is taken as it is, unless the
            same command has gone on from it before; one from elsewhere counts only while the run has none of its own.
            In place of a damaged one in a run's folder ``checkpoints``, the newest beside it is taken with a warning.
        folder: the folder of the run's own checkpoints, of which the newest is taken.
        command: the settings of the command.

    Raises:
        UsageError: the checkpoint is damaged, and no intact one of the same run is beside it.
    """
    if given is None:
        return newest(folder)
    given = Path(given)
    own = given.absolute().parent == folder.absolute()
    if later := newest(folder, command if own else None):
        return later
    if given.suffix == ".ckpt" and given.is_file() and not _is_intact(given):
        beside = newest(given.parent)
        if beside is None and zipfile.is_zipfile(given):
            raise UsageError(f"{given} is damaged, and no intact checkpoint is beside it: choose another")
        if beside is not None and not own and not _of_one_run(given, beside):
            raise UsageError(
                f"{given} is damaged, and {beside} beside it may be of another run: choose another, or that one with "
                f"ckpt_path={beside}"
            )
        if beside is not None:
            log.warning("continuing from %s instead of %s", beside, given)
        return beside or given
    return given


def _of_one_run(*checkpoints: Path) -> bool:
    """Whether files in one folder bear the names that a run gives its checkpoints."""
    folder = checkpoints[0].absolute().parent
    return folder.name == "checkpoints" and all(
        path.stem in ("last", "previous", "best") for path in checkpoints
    )


def _is_intact(path: Path) -> bool:
    """Whether a file written by `torch.save` passes its own checksums."""
    try:
        with zipfile.ZipFile(path) as file:
            return file.testzip() is None
    except Exception:  # Readers answer a broken file with any exception.
        return False


def check_same(path: str | os.PathLike[str], other: Model, model: Model) -> None:
    """Raise UsageError unless the model from a checkpoint is built as a model here is."""
    there, here = (
        {
            f"{part}.{key}": value
            for part, settings in config.items()
            if part not in KNOWLEDGE
            for key, value in settings.items()
        }
        for config in (other.config, model.config)
    )
    for config in (there, here):  # RGB goes without saying.
        config |= {key: config.get(key, 3) for key in there | here if key.endswith(".image_channels")}
    differ = [key for key in there | here if there.get(key) != here.get(key)]
    if differ:
        which = ", ".join(f"{key} is {there.get(key)} there and {here.get(key)} here" for key in differ)
        if type(other) is not type(model):  # Their settings do not compare.
            which = f"it is a model of {type(other).__name__} there and of {type(model).__name__} here"
        raise UsageError(f"{path} is of another model: {which}; give the settings of that run")


def prepare_resume(path: str | os.PathLike[str], model: Model) -> None:
    """Make a model ready for the training state in a checkpoint: one that knows of its latents what that does.

    Raises:
        UsageError: the checkpoint cannot be loaded, holds no training state, or is of another model.
    """
    if (last := Path(path) / "checkpoints" / "last.ckpt").is_file():
        raise UsageError(
            f"{path} is the folder of a run: give {last}, or resume it with hydra.run.dir={path}"
        )
    other = load(path)
    if Path(path).suffix != ".ckpt":
        raise UsageError(
            f"{path} holds weights but no training state: ckpt_path takes a .ckpt of an earlier run, and "
            "init_from any model to start from"
        )
    check_same(path, other, model)
    model.correlation, model.tails = other.correlation, other.tails


def start_from(path: str | os.PathLike[str], model: Model) -> None:
    """Give a model the weights of a checkpoint, ours or published, of a model like it, and what is known of its
    latents. A prior that the checkpoint lacks stays as it is.

    Raises:
        UsageError: the checkpoint cannot be loaded, or is of another model.
    """
    other = load(path)
    if other.dim and other.prior is None:
        other.set_prior(model.prior)
    check_same(path, other, model)
    model.correlation, model.tails = other.correlation, other.tails
    model.load_state_dict(other.state_dict())


def start_encoder_from(source: str | os.PathLike[str], encoder: Encoder) -> None:
    """Give an encoder the weights of the encoder in another model's checkpoint.

    Args:
        source: a name that `linf weights list` shows, or the file of a checkpoint, ours or published.
        encoder: an encoder with the same tensors; the model around it may be another one.

    Raises:
        UsageError: there is no such file, or its encoder is another one.
    """
    path = resolve_path(source)
    if not path.is_file():
        names = ", ".join((*WITH_ENCODER, *SHIPPED))
        raise UsageError(f"encoder_from={source}: give the file of a checkpoint, or one of {names}")
    given = getattr(load_any(path), "encoder", None)
    if given is None:
        raise UsageError(f"{path} holds no encoder")
    if given.image_channels != encoder.image_channels:
        raise UsageError(
            f"{path} holds an encoder of images with {given.image_channels} channels, and this run is for "
            f"{encoder.image_channels}: start without it, or set data.channels={given.image_channels}"
        )
    theirs, ours = (
        {key: "×".join(map(str, tensor.shape)) for key, tensor in network.state_dict().items()}
        for network in (given, encoder)
    )
    for key in sorted(theirs.keys() | ours.keys()):
        there, here = theirs.get(key, "missing"), ours.get(key, "missing")
        if there != here:
            raise UsageError(
                f"{path} holds another encoder than {type(encoder).__name__} with these settings: {key} is {there} "
                f"there and {here} here"
            )
    encoder.load_state_dict(given.state_dict())


def average_with(paths: Sequence[str | os.PathLike[str]], model: Model) -> None:
    """Give a model the mean of its weights and those in checkpoints of models like it. The mean of a model and of what
    further training made of it keeps much of what each does best (Wortsman et al., arXiv 2109.01903, 2203.05482).

    Raises:
        UsageError: a checkpoint cannot be loaded, or is of another model.
    """
    others = []
    for path in paths:
        other = load(path)
        check_same(path, other, model)
        state = other.state_dict()
        # Of other scales or another reach.
        if other.config.get("correlation") != model.config.get("correlation"):
            state = {name: value for name, value in state.items() if not name.startswith("correlation.")}
        others.append(state)
    # What only some of them know of its latents stays.
    mean = {
        k: torch.stack([v, *(theirs[k] for theirs in others)]).mean(0)
        if v.is_floating_point() and all(k in theirs for theirs in others)
        else v
        for k, v in model.state_dict().items()
    }
    model.load_state_dict(mean)
