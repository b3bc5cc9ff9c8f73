"""A node for ComfyUI: LINF at any scale, with its temperature. Copy or link this folder into ``custom_nodes``."""

from functools import lru_cache
from typing import Any

import folder_paths
import torch
from comfy.model_management import get_torch_device, intermediate_device
from comfy.utils import ProgressBar
from torch import Tensor

import linf
from linf.checkpoints.native import Model
from linf.checkpoints.shipped import SHIPPED
from linf.upscale.tile_size import best_tile

FOLDER = "upscale_models"
load = lru_cache(maxsize=2)(linf.load)


class LINFUpscale:
    """Enlarge images by any factor from 1 up."""

    CATEGORY = "image/upscaling"
    DESCRIPTION = "Enlarge by any factor, whole or not; the temperature sets how much texture is invented."
    FUNCTION = "upscale"
    RETURN_TYPES = ("IMAGE",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """What the node shows; files of models lie in ComfyUI's folder ``models/upscale_models``."""
        files = [
            name
            for name in folder_paths.get_filename_list(FOLDER)
            if name.endswith((".safetensors", ".ckpt"))
        ]
        scale = {"default": 2.0, "min": 1.0, "max": 16.0, "step": 0.1, "round": 0.001}
        temperature = {
            "default": 0.5,
            "min": 0.0,
            "max": 1.0,
            "step": 0.05,
            "tooltip": "0 is the mean: smooth, accurate. More gives texture; for noisy images stay below 0.3.",
        }
        seed = {"default": 0, "min": 0, "max": 2**53 - 1, "control_after_generate": True}
        consistent = {
            "default": False,
            "tooltip": "Downscaled, the result is the given image; for clean images.",
        }
        return {
            "required": {
                "image": ("IMAGE",),
                "model": (
                    [*sorted(SHIPPED, reverse=True), *files],
                    {"tooltip": "photo removes noise and JPEG blocks, default is for clean images."},
                ),
                "scale": ("FLOAT", scale),
                "temperature": ("FLOAT", temperature),
                "seed": ("INT", seed),
                "consistent": ("BOOLEAN", consistent),
            }
        }

    def upscale(
        self, image: Tensor, model: str, scale: float, temperature: float, seed: int, consistent: bool
    ) -> tuple[Tensor]:
        """Enlarge images (B,h,w,C) in [0, 1] to (B,H,W,C), H and W rounded; image b is a sample with ``seed + b``."""
        device = get_torch_device()
        path = model if model in SHIPPED else folder_paths.get_full_path_or_raise(FOLDER, model)
        network: Model = load(path).to(device)
        lr = image.movedim(-1, 1)
        size = round(lr.shape[-2] * scale), round(lr.shape[-1] * scale)
        tile = best_tile(network, lr.shape[-2], lr.shape[-1], device)
        bar = ProgressBar(len(lr) * size[0] * size[1])  # Which also ends the work when the user cancels it.
        out = []
        for number, one in enumerate(lr.split(1)):
            made = network.sample(
                one.to(device),
                size,
                temperature=temperature,
                seed=seed + number,
                tile=tile,
                consistency=3 * consistent,
                advance=bar.update,
            )
            out.append(made.clamp(0, 1).to(intermediate_device()))
        return (torch.cat(out).movedim(1, -1),)


NODE_CLASS_MAPPINGS = {"LINFUpscale": LINFUpscale}
NODE_DISPLAY_NAME_MAPPINGS = {"LINFUpscale": "Upscale by any factor (LINF)"}
