"""Flow box of the figure: residual patch ↔ Gaussian latent, given the condition.

Yao et al., *Local Implicit Normalizing Flow for Arbitrary-Scale Image Super-Resolution*, arXiv 2303.05156.
Everything here works on columns: ``x`` is (D, N), one residual patch per column, and the condition is
(K·2·D, N), per step D scale logits and then D shifts.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from linf.models.encoders.encoder import other_than_rgb
from linf.models.precision import exact_product, exact_products

SCALE_OFFSET = 2.0
SCALE_FLOOR = 1e-4
START_SCALE = 1 / (1 + math.exp(-SCALE_OFFSET)) + SCALE_FLOOR
"""The scale of every step where the condition is zero, as it nearly is at the start."""


def check_patch_size(patch_size: int) -> None:
    """Raise ValueError unless the patch size is a positive odd number."""
    if patch_size < 1 or patch_size % 2 == 0:
        raise ValueError(f"patch size {patch_size} is not a positive odd number; the paper uses 1 and 3")


class ConditionalFlow(nn.Module):
    """K conditional affine steps between K + 1 invertible linear maps.

    .. math::
        x_{k+1} = s_k ⊙ (W_k x_k + b_k) + t_k,   s_k = σ(logit_k + 2) + 1e-4,   z = W_K x_K + b_K

    ``log p(x) = log N(z; 0, I) + Σ log|det W_k| + Σ log s_k`` (arXiv 2303.05156, equations 1–3; METHOD §4).
    No ``s_k`` or ``t_k`` depends on ``x``: given the condition, ``x`` is exactly Gaussian.

    Args:
        patch_size: P, odd. D = C·P².
        steps: K, the number of conditional affine steps.
        image_channels: of the images, 3 for RGB.

    Attributes:
        condition_dim: numbers of condition per query, K·2·D.
        initialised: whether `whiten` has been called, or trained weights were loaded.
    """

    initialised: Tensor

    def __init__(self, patch_size: int = 1, steps: int = 10, *, image_channels: int = 3) -> None:
        super().__init__()
        check_patch_size(patch_size)
        if steps < 1:
            raise ValueError(f"flow steps {steps} are below 1; the paper uses 10")
        self.config = {"patch_size": patch_size, "steps": steps} | other_than_rgb(image_channels)
        self.patch_size, self.steps, self.image_channels = patch_size, steps, image_channels
        self.dim = image_channels * patch_size**2
        self.condition_dim = steps * 2 * self.dim
        self.weight = nn.Parameter(torch.empty(steps + 1, self.dim, self.dim))
        self.bias = nn.Parameter(torch.zeros(steps + 1, self.dim))
        self.register_buffer("initialised", torch.tensor(False))
        with torch.no_grad():
            for k in range(steps + 1):
                nn.init.orthogonal_(self.weight[k])
                self.weight[k] /= START_SCALE if k else 1.0

    @torch.no_grad()
    def whiten(self, residual: Tensor) -> None:
        """Start where the data is: W_0, b_0 whiten these patches (ZCA), so z begins as unit Gaussian.

        With the other W_k orthogonal and divided by the scales' starting value, the flow at a zero condition is
        the best unconditional Gaussian (METHOD §4). Marks the flow as initialised.

        Args:
            residual: (D, N) patches; N well above D.
        """
        x = residual.double()
        centred = x - x.mean(1, keepdim=True)
        variance, axes = torch.linalg.eigh(centred @ centred.T / x.shape[1])
        # The floor keeps flat data (a black image) from starting with an infinite weight.
        whitening = axes @ torch.diag(variance.clamp_min(1e-8).rsqrt()) @ axes.T
        self.weight[0] = whitening.to(self.weight)
        self.bias[0] = (-whitening @ x.mean(1)).to(self.bias)
        self.initialised.fill_(True)

    def scales_and_shifts(self, condition: Tensor) -> tuple[Tensor, Tensor]:
        """(K·2·D, N) → scales and shifts of the K steps, (K, D, N) each, in at least float32."""
        dtype = torch.promote_types(condition.dtype, torch.float32)
        logits, shift = condition.to(dtype).view(self.steps, 2, self.dim, -1).unbind(1)
        return torch.sigmoid(logits + SCALE_OFFSET) + SCALE_FLOOR, shift

    def forward(self, x: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        """Residuals to latents.

        Args:
            x: (D, N).
            condition: (K·2·D, N).

        Returns:
            z (D, N) and log|det dz/dx| (N,).
        """
        with torch.autocast(x.device.type, enabled=False):
            scale, shift = self.scales_and_shifts(condition)
            x = x.to(scale.dtype)
            # Unbound once: indexing step by step would fill a whole gradient with zeros for each.
            matrices = self.weight.to(x.dtype)
            *weights, last = matrices.unbind()
            *biases, last_bias = self.bias[..., None].to(x.dtype).unbind()
            for s, t, weight, bias in zip(scale.unbind(), shift.unbind(), weights, biases, strict=True):
                x = s * exact_product(weight, x, bias) + t
            z = exact_product(last, x, last_bias)
            return z, scale.log().sum((0, 1)) + torch.linalg.slogdet(matrices).logabsdet.sum()

    def latents_and_log_prob(self, x: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        """Latents of residual patches and their log-density in nats per patch: (D, N), (K·2·D, N) → (D, N), (N,)."""
        z, ladj = self(x, condition)
        return z, ladj - 0.5 * (z.square().sum(0) + self.dim * math.log(2 * math.pi))

    def log_prob(self, x: Tensor, condition: Tensor) -> Tensor:
        """Log-density of residual patches in nats per patch: (D, N), (K·2·D, N) → (N,)."""
        return self.latents_and_log_prob(x, condition)[1]

    def inverses(self) -> Tensor:
        """``W_k⁻¹``, (K+1, D, D): they depend on weights alone, and are computed in float64 once per image."""
        dtype = torch.promote_types(self.weight.dtype, torch.float32)
        return torch.linalg.inv_ex(self.weight.double()).inverse.to(dtype)

    def inverse(self, z: Tensor, condition: Tensor, inverses: Tensor | None = None) -> Tensor:
        """Latents to residuals: (D, N), (K·2·D, N) → (D, N); ``inverses`` as `inverses` gives them."""
        return self._backwards(z, *self.scales_and_shifts(condition), inverses)

    def inverse_linear(self, v: Tensor, condition: Tensor, inverses: Tensor | None = None) -> Tensor:
        """The linear part ``A(c) v`` of the inverse ``m(c) + A(c) z``: (D, N) → (D, N)."""
        return self._backwards(v, self.scales_and_shifts(condition)[0], None, inverses)

    def _backwards(self, x: Tensor, scale: Tensor, shift: Tensor | None, inverses: Tensor | None) -> Tensor:
        """From latents to residuals; without shift, and then without bias either, by the linear part alone."""
        with torch.autocast(x.device.type, enabled=False):
            matrices = (self.inverses() if inverses is None else inverses).unbind()
            scales, biases = scale.unbind(), self.bias[..., None].unbind()
            shifts = None if shift is None else shift.unbind()
            for k in range(self.steps, -1, -1):
                if k < self.steps:
                    x = (x if shifts is None else x - shifts[k]) / scales[k]
                x = exact_product(matrices[k], x if shifts is None else x - biases[k])
            return x

    @torch.no_grad()
    def mean_and_noise(self, latents: Sequence[Tensor], condition: Tensor, inverses: Tensor) -> Tensor:
        """``m(c)`` and ``A(c) z`` of several latents in one pass, in place: for inference.

        Args:
            latents: (D, N) each.
            condition: (K·2·D, N).
            inverses: as `inverses` gives them.

        Returns:
            (1 + len(latents), D, N): the mean, then the noise of each latent; their sum is `inverse`.
        """
        scale, shift = self.scales_and_shifts(condition)
        x = scale.new_empty(self.dim, 1 + len(latents), scale.shape[-1])
        x[:, 0] = 0
        for i, z in enumerate(latents, 1):
            x[:, i] = z
        other = torch.empty_like(x)
        with torch.autocast(x.device.type, enabled=False), exact_products():
            for k in range(self.steps, -1, -1):
                if k < self.steps:
                    x[:, 0] -= shift[k]
                    x /= scale[k][:, None]
                x[:, 0] -= self.bias[k, :, None]
                torch.mm(inverses[k], x.flatten(1), out=other.flatten(1))
                x, other = other, x
        return x.transpose(0, 1)

    def moments(self, condition: Tensor) -> tuple[Tensor, Tensor]:
        """The exact Gaussian of the residual at τ = 1: mean (D, N), and variance (D, N), the diagonal of ``A Aᵀ``."""
        inverses, mix = self.inverses(), torch.eye(self.image_channels, device=condition.device)
        zero, scale = condition.new_zeros(self.dim, condition.shape[-1]), self.scales_and_shifts(condition)[0]
        return self.inverse(zero, condition, inverses), self.variances(scale, mix, inverses)

    @torch.no_grad()
    def variances(self, scale: Tensor, mix: Tensor, inverses: Tensor) -> Tensor:
        """The exact variance at τ = 1, diagonal of ``A Aᵀ``, of mixtures of each pixel's channels.

        Args:
            scale: (K, D, N), of `scales_and_shifts`; the shifts do not matter.
            mix: (M, C), the weights of the channels in each mixture.
            inverses: as `inverses` gives them.

        Returns:
            (M·P², N).
        """
        # Each row of mix·A, from the left: v ← W₀⁻ᵀ v, v ← W_k⁻ᵀ (v / s_{k-1}); fewer than the columns of A.
        rows = torch.kron(mix, torch.eye(self.patch_size**2, device=mix.device)).to(scale.dtype)
        variances = []
        with torch.autocast(scale.device.type, enabled=False):
            for row in rows:
                v = exact_product(inverses[0].mT, row[:, None])
                for k in range(self.steps):
                    v = exact_product(inverses[k + 1].mT, v / scale[k])
                variances.append(v.square().sum(0))
        return torch.stack(variances)

    @torch.no_grad()
    def noise_of(self, z: Tensor, scale: Tensor, inverses: Tensor) -> Tensor:
        """``A(c) z`` where the scales (K, D, N) are known: what another sample costs, (D, N) → (D, N)."""
        return self._backwards(z, scale, None, inverses)


def to_columns(patches: Tensor) -> Tensor:
    """The layout of the flow: (B,D,gh,gw) → (D, B·gh·gw)."""
    return patches.transpose(0, 1).flatten(1)


def to_patches(columns: Tensor, like: Tensor) -> Tensor:
    """The inverse of `to_columns`: (D, B·gh·gw) → the shape (B,D,gh,gw) of ``like``."""
    return columns.view_as(like.transpose(0, 1)).transpose(0, 1)
