"""LINF among the architectures that spandrel knows, for programs that load image models by it.

Spandrel hands an architecture the weights of a file and nothing else, so that the config is read from their shapes.
"""

import math
from typing import Any

from spandrel import MAIN_REGISTRY, Architecture, ArchSupport, ImageModelDescriptor, ModelTiling
from spandrel.util import KeyCondition, get_seq_len
from torch import Tensor

from linf.checkpoints.native import build
from linf.errors import UsageError
from linf.models.linf import LINF
from linf.models.temperature import check_temperatures

UNUSED = ("prior.", "correlation.")
"""What a file may hold that a sample from independent latents does without."""


def register(scale: int = 4, temperature: float = 0.0, seed: int = 0) -> None:
    """Let `spandrel.ModelLoader` read this project's ``.safetensors`` with a LINF in them, and enlarge by it.

    Spandrel does not check its number for the scale, but promises images of H·scale × W·scale, by which programs cut
    an image to tiles. So it is a whole number here; `linf.load` gives the same model at any scale. A second call
    changes the settings of models that are loaded afterwards.

    Args:
        scale: of the models that it loads, 1 or more.
        temperature: τ from 0 up; 0 is the mean, which does not change where a program cuts an image to tiles itself.
        seed: of the latents.

    Raises:
        UsageError: the scale is not a whole number of at least 1.
        ValueError: the temperature is not a finite number from 0 up.
    """
    if not isinstance(scale, int) or scale < 1:
        raise UsageError(
            f"a descriptor of spandrel has a whole number as its scale, and {scale} is none from 1 up: for any other, "
            "linf.load(FILE).sample(lr, (H, W))"
        )
    check_temperatures(temperature)
    if "LINF" not in MAIN_REGISTRY:
        MAIN_REGISTRY.add(ArchSupport.from_architecture(LINFArch()))
    arch = MAIN_REGISTRY["LINF"].architecture
    assert isinstance(arch, LINFArch)
    arch.settings = (scale, temperature, seed)


class LINFArch(Architecture[LINF]):
    """A LINF, known by its conditioner and flow.

    Attributes:
        settings: scale, temperature and seed of the models that it loads.
    """

    def __init__(self) -> None:
        super().__init__(
            id="LINF",
            detect=KeyCondition.has_all("conditioner.coef.weight", "conditioner.phase.weight", "flow.weight"),
        )
        self.settings = (4, 0.0, 0)

    def load(self, state_dict: dict[str, Any]) -> ImageModelDescriptor[LINF]:
        """Build the model from its weights.

        Raises:
            UsageError: the encoder is none of this project's four.
        """
        scale, temperature, seed = self.settings
        state = {name: value for name, value in state_dict.items() if not name.startswith(UNUSED)}
        model = build(deduced_config(state))
        assert isinstance(model, LINF)

        def call(model: LINF, image: Tensor) -> Tensor:
            size = image.shape[-2] * scale, image.shape[-1] * scale
            return model.sample(image, size, temperature=temperature, seed=seed)

        channels = model.image_channels
        return ImageModelDescriptor(
            model,
            state,
            architecture=self,
            purpose="SR",
            tags=[type(model.encoder).__name__, f"P={model.patch_size}", f"τ={temperature:g}"],
            supports_half=False,
            supports_bfloat16=False,
            scale=scale,
            input_channels=channels,
            output_channels=channels,
            tiling=ModelTiling.INTERNAL,
            call_fn=call,
        )


def deduced_config(state: dict[str, Tensor]) -> dict[str, Any]:
    """Read `LINF.config` from the names and shapes of its weights. An EDSR of 256 channels has its published residual
    scale, 0.1, and others 1; stochastic depth, which acts in training alone, is SwinIR's default.

    Raises:
        UsageError: the encoder is none of this project's four.
    """
    encoder = {
        name.removeprefix("encoder."): tuple(value.shape)
        for name, value in state.items()
        if name.startswith("encoder.")
    }
    first = next((encoder[f"{name}.weight"] for name in FIRST if f"{name}.weight" in encoder), None)
    if first is None:
        raise UsageError("its encoder is none of EDSR, RDN, RRDBNet and SwinIR: give the file to linf.load")
    channels = {"image_channels": first[1]} if first[1] != 3 else {}
    width, fan_in = state["conditioner.mlp.0.weight"].shape
    steps, dim, _ = state["flow.weight"].shape
    return {
        "encoder": _encoder(encoder, first[0]) | channels,
        "conditioner": {
            "name": "FourierConditioner",
            "width": width,
            "depth": sum(name.startswith("conditioner.mlp.") and name.endswith("weight") for name in state)
            - 1,
            "ensemble": "feature" if fan_in == 4 * len(state["conditioner.coef.weight"]) else "local",
        },
        "flow": {
            "name": "ConditionalFlow",
            "patch_size": math.isqrt(dim // first[1]),
            "steps": steps - 1,
            **channels,
        },
    }


FIRST = ("head.0", "SFENet1", "conv_first")
"""The first convolution of each encoder."""


def _encoder(shapes: dict[str, tuple[int, ...]], channels: int) -> dict[str, Any]:
    if "head.0.weight" in shapes:
        blocks = get_seq_len(shapes, "body") - 1
        scale = 0.1 if channels == 256 else 1.0
        return {"name": "EDSR", "blocks": blocks, "channels": channels, "residual_scale": scale}
    if "SFENet1.weight" in shapes:
        return {
            "name": "RDN",
            "blocks": get_seq_len(shapes, "RDBs"),
            "layers": get_seq_len(shapes, "RDBs.0.convs"),
            "growth": shapes["RDBs.0.convs.0.conv.0.weight"][0],
            "channels": channels,
        }
    if "RRDB_trunk.0.RDB1.conv1.weight" in shapes:
        growth = shapes["RRDB_trunk.0.RDB1.conv1.weight"][0]
        blocks = get_seq_len(shapes, "RRDB_trunk")
        return {"name": "RRDBNet", "blocks": blocks, "channels": channels, "growth": growth}
    groups = [f"layers.{i}.residual_group.blocks" for i in range(get_seq_len(shapes, "layers"))]
    tables = [shapes[f"{group}.0.attn.relative_position_bias_table"] for group in groups]
    hidden = shapes[f"{groups[0]}.0.mlp.fc1.weight"][0]
    ratio = hidden / channels
    if int(channels * ratio) < hidden:  # By rounding.
        ratio = math.nextafter(ratio, math.inf)
    return {
        "name": "SwinIR",
        "channels": channels,
        "depths": [get_seq_len(shapes, group) for group in groups],
        "heads": [heads for _, heads in tables],
        "window": (math.isqrt(tables[0][0]) + 1) // 2,
        "mlp_ratio": ratio,
        "out_channels": shapes["conv_before_upsample.0.weight"][0],
    }
