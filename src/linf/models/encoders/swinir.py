"""Encoder box of the figure: SwinIR without its upsampler.

Liang et al., *SwinIR: Image Restoration Using Swin Transformer*, ICCVW 2021, arXiv 2108.10257, on the shifted windows
of Liu et al., arXiv 2103.14030. Modules keep the names of the published code, so that its weights load by name. Between
the first and the last convolution, features are (B,h,w,F).
"""

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import stochastic_depth

from linf.models.encoders.encoder import Encoder, check_sizes, conv3x3
from linf.models.noise import uniform


def windows(x: Tensor, side: int) -> Tensor:
    """Cut (B,h,w,F) into windows in row-major order: (B·h·w/side², side², F)."""
    b, h, w, c = x.shape
    x = x.view(b, h // side, side, w // side, side, c)
    return x.transpose(2, 3).reshape(-1, side * side, c)


def unwindows(x: Tensor, size: tuple[int, int], side: int) -> Tensor:
    """Put windows (n, side², F) together again: (B,h,w,F), the inverse of `windows`."""
    h, w = size
    x = x.view(-1, h // side, w // side, side, side, x.shape[-1])
    return x.transpose(2, 3).reshape(x.shape[0], h, w, -1)


def shift_mask(size: tuple[int, int], side: int, shift: int, device: torch.device) -> Tensor:
    """Attention bias (windows, side², side²): 0, but -100 for pairs of pixels brought together only by the shift."""
    places = [torch.arange(n, device=device) - n for n in size]
    rows, cols = ((place >= -side).long() + (place >= -shift) for place in places)
    label = windows((3 * rows[:, None] + cols)[None, :, :, None], side).squeeze(-1)
    return (label[:, None] != label[:, :, None]).float() * -100


def relative_positions(side: int) -> Tensor:
    """Index into the table of biases for each pair of pixels of a window: (side², side²)."""
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    place = torch.stack((y.flatten(), x.flatten()))
    offset = place[:, :, None] - place[:, None] + side - 1
    return offset[0] * (2 * side - 1) + offset[1]


def attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, multiple: int) -> Tensor:
    """``softmax(QKᵀ/√d + bias) V`` of (n, heads, length, d), computed with zeros up to a multiple of d: torch's fused
    attention on a GPU takes multiples of 8 only.
    """
    d = q.shape[-1]
    if spare := -d % multiple:
        q, k, v = (F.pad(part, (0, spare)) for part in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=d**-0.5)[..., :d]


class WindowAttention(nn.Module):
    """``softmax(QKᵀ/√d + bias) V`` within windows, with a learned bias per relative position."""

    relative_position_index: Tensor

    def __init__(self, channels: int, side: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.relative_position_bias_table = nn.Parameter(torch.empty((2 * side - 1) ** 2, heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        self.register_buffer("relative_position_index", relative_positions(side), persistent=False)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Attend within windows (n, side², F), with the mask of `shift_mask` where they are shifted."""
        n, length, channels = x.shape
        q, k, v = self.qkv(x).view(n, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        bias = self.relative_position_bias_table[self.relative_position_index].permute(2, 0, 1)[None]
        if mask is not None:
            bias = (bias + mask[:, None]).repeat(n // mask.shape[0], 1, 1, 1)
        x = attention(q, k, v, bias.to(q.dtype), multiple=8 if x.device.type == "cuda" else 1)
        if torch.compiler.is_exporting():  # In a graph, the memory layout of the result may differ.
            x = x.clone(memory_format=torch.contiguous_format)
        return self.proj(x.transpose(1, 2).reshape(n, length, channels))


class SwinLayer(nn.Module):
    """Window attention and MLP, each normalised first and added to its input (arXiv 2103.14030, equation 3).

    Attributes:
        kept: (2,B), what stochastic depth multiplies the two additions to each sample with, see `SwinIR.draw`; without
            it torch's own generator decides.
    """

    kept: Tensor | None = None

    def __init__(self, channels: int, side: int, heads: int, hidden: int, shift: int, drop: float) -> None:
        super().__init__()
        self.side, self.shift, self.drop = side, shift, drop
        self.norm1, self.norm2 = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.attn = WindowAttention(channels, side, heads)
        layers = {"fc1": nn.Linear(channels, hidden), "gelu": nn.GELU(), "fc2": nn.Linear(hidden, channels)}
        self.mlp = nn.Sequential(OrderedDict(layers))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """(B,h,w,F) and the mask of shifted windows → (B,h,w,F)."""
        size = (x.shape[1], x.shape[2])
        y = torch.roll(self.norm1(x), (-self.shift, -self.shift), dims=(1, 2))
        y = unwindows(self.attn(windows(y, self.side), mask if self.shift else None), size, self.side)
        y = torch.roll(y, (self.shift, self.shift), dims=(1, 2))
        x = x + self._kept(y, 0)
        return x + self._kept(self.mlp(self.norm2(x)), 1)

    def _kept(self, y: Tensor, addition: int) -> Tensor:
        if self.kept is None or not self.training:
            return stochastic_depth(y, self.drop, "row", self.training)
        return y * self.kept[addition, :, None, None, None].to(y.dtype)


class ResidualSwinBlock(nn.Module):
    """Swin layers, then a 3×3 convolution, added to the input (arXiv 2108.10257, equation 5)."""

    def __init__(self, layers: Sequence[SwinLayer], channels: int) -> None:
        super().__init__()
        self.residual_group = nn.ModuleDict({"blocks": nn.ModuleList(layers)})
        self.conv = conv3x3(channels, channels)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """(B,h,w,F) and the mask of shifted windows → (B,h,w,F)."""
        y = x
        for layer in self.residual_group["blocks"]:  # type: ignore[attr-defined]
            y = layer(y, mask)
        return x + self.conv(y.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class SwinIR(Encoder):
    """Swin transformer for restoration; `swinir` is six blocks of six layers of 180 channels, window 8. It takes images
    of any size: they are padded to whole windows, by reflection where they are large enough and by repeating their
    border where not, and the features are cropped back.

    Args:
        channels: width of the transformer; a multiple of every number of heads.
        depths: Swin layers in each residual block.
        heads: attention heads in each residual block.
        window: side of a window in pixels; even.
        mlp_ratio: width of the MLP's hidden layer, in multiples of channels.
        drop_path: probability that training skips the last layer for a sample; it grows linearly from 0 at the first
            (stochastic depth, arXiv 1603.09382).
        out_channels: number of feature channels.
        image_channels: of the images, 3 for RGB.
        checkpoint: recompute activations in the backward pass instead of keeping them, see `Encoder`.
    """

    receptive_field = None  # Shifted windows reach across the whole image.

    def __init__(
        self,
        channels: int = 180,
        depths: Sequence[int] = (6, 6, 6, 6, 6, 6),
        heads: Sequence[int] = (6, 6, 6, 6, 6, 6),
        *,
        window: int = 8,
        mlp_ratio: float = 2.0,
        drop_path: float = 0.1,
        out_channels: int = 64,
        image_channels: int = 3,
        checkpoint: bool = False,
    ) -> None:
        super().__init__(
            image_channels=image_channels,
            checkpoint=checkpoint,
            channels=channels,
            depths=list(depths),
            heads=list(heads),
            window=window,
            mlp_ratio=mlp_ratio,
            drop_path=drop_path,
            out_channels=out_channels,
        )
        check_sizes("SwinIR", channels=channels, out_channels=out_channels)
        for depth, n in zip(depths, heads, strict=False):
            check_sizes("SwinIR", depths=depth, heads=n)
        if not 0 <= drop_path < 1 or int(channels * mlp_ratio) < 1:
            raise ValueError(
                f"SwinIR's drop_path and mlp_ratio are {drop_path} and {mlp_ratio}: give from 0 up to but below 1, and "
                "more than 0"
            )
        if len(depths) != len(heads) or any(channels % n for n in heads):
            raise ValueError(
                f"SwinIR heads {list(heads)} must be one per depth {list(depths)} and divide {channels} channels"
            )
        if window < 2 or window % 2:
            raise ValueError(f"SwinIR window {window} is not a positive even number; the paper uses 8")
        self.window, self.out_channels = window, out_channels
        rates = torch.linspace(0, drop_path, sum(depths), device="cpu").tolist()
        hidden = int(channels * mlp_ratio)
        self.conv_first = conv3x3(image_channels, channels)
        self.patch_embed = nn.ModuleDict({"norm": nn.LayerNorm(channels)})
        self.layers = nn.ModuleList()
        for depth, n in zip(depths, heads, strict=True):
            block = [
                SwinLayer(channels, window, n, hidden, window // 2 * (i % 2), rates.pop(0))
                for i in range(depth)
            ]
            self.layers.append(ResidualSwinBlock(block, channels))
        self.norm = nn.LayerNorm(channels)
        self.conv_after_body = conv3x3(channels, channels)
        self.conv_before_upsample = nn.Sequential(conv3x3(channels, out_channels), nn.LeakyReLU(inplace=True))
        for module in self.layers.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def draw(self, seed: int, first: int, batch: int, device: torch.device) -> None:
        """Decide which layers the training step to come skips for which samples; see `Encoder.draw`."""
        layers = [layer for layer in self.layers.modules() if isinstance(layer, SwinLayer)]
        keep = 1 - torch.tensor([layer.drop for layer in layers])[:, None, None]
        numbers = torch.stack([uniform(seed, first + i, (len(layers), 2)) for i in range(batch)], dim=-1)
        kept = (numbers < keep) / keep
        kept = (kept.pin_memory() if device.type == "cuda" else kept).to(device, non_blocking=True)
        for layer, of_layer in zip(layers, kept, strict=True):
            layer.kept = of_layer

    def forward(self, image: Tensor) -> Tensor:
        height, width = image.shape[-2:]
        shallow = self.conv_first(padded(image, self.window))
        x = self.patch_embed["norm"](shallow.permute(0, 2, 3, 1))
        mask = shift_mask((x.shape[1], x.shape[2]), self.window, self.window // 2, x.device)
        x = self.norm(self.through(self.layers, x, mask))
        deep = self.conv_after_body(x.permute(0, 3, 1, 2))
        return self.conv_before_upsample(shallow + deep)[..., :height, :width]


def padded(image: Tensor, multiple: int) -> Tensor:
    """Pad an image at the bottom and right to a multiple: by reflection if it is large enough, else by its border."""
    for axis in (-2, -1):  # By indices rather than `F.pad`, since an exported graph cannot branch on a size.
        n = image.shape[axis]
        place = torch.arange((n + multiple - 1) // multiple * multiple, device=image.device)
        reflected = 2 * (n - 1) - place
        index = torch.where(place < n, place, torch.where(reflected[-1] >= 0, reflected, n - 1))
        image = image.index_select(axis, index)
    return image
