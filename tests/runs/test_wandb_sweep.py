"""The recipe of a search that W&B plans: its own code makes the command, and the command is one of ours."""

import random

from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args, load_sweep_config

from helpers.commands import Compose
from helpers.paths import ROOT


def test_the_recipe_gives_commands_of_ours(composed: Compose) -> None:
    config = load_sweep_config(str(ROOT / "docs" / "wandb-sweep.yaml"))
    assert config is not None
    drawn = {
        name: {"value": random.choice(of["values"]) if "values" in of else of["min"]}
        for name, of in config["parameters"].items()
    }
    macros = create_sweep_command_args({"args": drawn}) | {"env": ["/usr/bin/env"]}
    command = [
        part
        for word in create_sweep_command(config["command"])
        for part in macros.get(word.removeprefix("${").removesuffix("}"), [word])
    ]
    assert command[:3] == ["/usr/bin/env", "linf", "train"]
    chosen = composed("train", *command[3:])
    assert chosen.task.optimizer.lr == drawn["task.optimizer.lr"]["value"]
    assert chosen.model.conditioner.width == drawn["model.conditioner.width"]["value"]
    assert chosen.logger.wandb.project == "linf"
    # What W&B maximises is what validation logs.
    metric = config["metric"]["name"]
    assert (metric, config["metric"]["goal"]) == (chosen.callbacks.checkpoint.monitor, "maximize")
