"""The first lines of a run, from its composed config alone: they need not wait for torch."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf


def announcement(cfg: DictConfig) -> Iterator[str]:
    """Yield what a training or an evaluation is, as far as its settings say, a line for each part."""
    settings: Any = OmegaConf.to_container(cfg, resolve=True)
    choices = HydraConfig.get().runtime.choices
    evaluates = "temperatures" in settings
    yield f"run: {Path(cfg.run_dir).absolute()}{'' if evaluates else _start(settings)}"
    data = settings.get("data") or {}
    root = data.get("root")
    where = f" in {', '.join(map(str, _several(root)))}" if root else ""
    if evaluates:
        test = data.get("test") or {}
        given = test.get("names") if isinstance(test, dict) else None
        names = f": {', '.join(map(str, _several(given)))}" if given else ""
        yield f"data: {choices.get('data')}{where}{names}, at {_scales(data.get('test_scales') or ())}"
        file = settings.get("ckpt_path") or settings.get("path")
        yield f"model: {file or choices.get('model')}"
    else:
        degraded = choices.get("data/degradation")
        made = f", degraded as {degraded}" if degraded not in (None, "bicubic") else ""
        yield f"data: {choices.get('data')}{where}{made}"
        parts = [f"{group} {choices[group]}" for group in ("encoder", "task") if choices.get(group)]
        yield ", ".join([f"model: {choices.get('model')}", *parts])
    if trainer := settings.get("trainer"):
        yield ("" if evaluates else f"length: {_length(trainer, data)}; ") + f"devices: {_devices(trainer)}"


def _start(settings: Mapping[str, Any]) -> str:
    """Say where a training starts; `linf.checkpoints.start.to_resume` has the rule, and looks into the files."""
    own, given = Path(settings["run_dir"]).absolute() / "checkpoints", settings.get("ckpt_path")
    if given and Path(str(given)).absolute().parent == own:
        return f", resumed from {given}, or from the newest checkpoint of this command since"
    if any(own.glob("*.ckpt")):
        return ", resumed from its newest checkpoint"
    if given:
        return f", resumed from {given}"
    parts = [("init_from", "from the weights of"), ("encoder_from", "with the encoder of")]
    return "".join(f", {words} {settings[key]}" for key, words in parts if settings.get(key))


def _scales(scales: Any) -> str:
    return ", ".join(f"×{'x'.join(map(_number, _several(scale)))}" for scale in _several(scales))


def _several(value: Any) -> Sequence[Any]:
    """A list as it is, and of one value what has it alone."""
    return value if isinstance(value, Sequence) and not isinstance(value, str) else [value]


def _number(value: Any) -> str:
    """A number as text, or what stands in its place, for settings are checked later."""
    return f"{value:,.10g}" if isinstance(value, int | float) else str(value)


def _count(value: Any, what: str, ending: str = "s") -> str:
    return f"{_number(value)} {what}{ending if value != 1 else ''}"


def _length(trainer: Mapping[str, Any], data: Mapping[str, Any]) -> str:
    if trainer.get("fast_dev_run"):
        return "one batch, of training and of validation"
    steps, epochs = trainer.get("max_steps"), trainer.get("max_epochs")
    words = [_count(steps, "step")] if steps not in (None, -1) else []
    if epochs not in (None, -1) and not words:
        batches = data.get("batches_per_epoch")
        words.append(_count(epochs, "epoch") + (f" of {_count(batches, 'batch', 'es')}" if batches else ""))
    if trainer.get("max_time"):
        words.append(f"at most {trainer['max_time']} (days:hours:minutes:seconds)")
    return ", ".join(words) or "until it is stopped"


def _devices(trainer: Mapping[str, Any]) -> str:
    nodes = trainer.get("num_nodes")
    machines = f" on each of {nodes} machines" if nodes not in (None, 1) else ""
    return f"{trainer.get('devices')} × {trainer.get('accelerator')}{machines}, precision {trainer.get('precision')}"
