"""Flow box of the figure: residual patch ↔ Gaussian latent, given the condition.

Yao et al., *Local Implicit Normalizing Flow for Arbitrary-Scale Image Super-Resolution*, arXiv 2303.05156.
Everything here works on columns: ``x`` is (D, N), one residual patch per column, and the condition is
(K·2·D, N), per step D scale logits and then D shifts.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from linf.errors import UsageError

SCALE_OFFSET = 2.0
SCALE_FLOOR = 1e-4
START_SCALE = 1 / (1 + math.exp(-SCALE_OFFSET)) + SCALE_FLOOR
"""The scale of every step where the condition is zero, as it nearly is at the start."""


def check_patch_size(patch_size: int) -> None:
    """Raise UsageError unless the patch size is a positive odd number."""
    if patch_size < 1 or patch_size % 2 == 0:
        raise UsageError(f"patch size {patch_size} is not a positive odd number; the paper uses 1 and 3")


class ConditionalFlow(nn.Module):
    """K conditional affine steps between K + 1 invertible linear maps.

    .. math::
        x_{k+1} = s_k ⊙ (W_k x_k + b_k) + t_k,   s_k = σ(logit_k + 2) + 1e-4,   z = W_K x_K + b_K

    ``log p(x) = log N(z; 0, I) + Σ log|det W_k| + Σ log s_k`` (arXiv 2303.05156, equations 1–3; METHOD §4).
    No ``s_k`` or ``t_k`` depends on ``x``: given the condition, ``x`` is exactly Gaussian.

    Args:
        patch_size: P, odd. D = 3P².
        steps: K, the number of conditional affine steps.
    """

    initialised: Tensor

    def __init__(self, patch_size: int = 1, steps: int = 10) -> None:
        super().__init__()
        check_patch_size(patch_size)
        if steps < 1:
            raise UsageError(f"flow steps {steps} are below 1; the paper uses 10")
        self.config = {"patch_size": patch_size, "steps": steps}
        self.patch_size, self.steps, self.dim = patch_size, steps, 3 * patch_size**2
        self.weight = nn.Parameter(torch.empty(steps + 1, self.dim, self.dim))
        self.bias = nn.Parameter(torch.zeros(steps + 1, self.dim))
        self.register_buffer("initialised", torch.tensor(False))
        with torch.no_grad():
            for k in range(steps + 1):
                nn.init.orthogonal_(self.weight[k])
                self.weight[k] /= START_SCALE if k else 1.0

    @property
    def condition_dim(self) -> int:
        """Numbers of condition per query: K·2·D."""
        return self.steps * 2 * self.dim

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

    def scales_and_shifts(self, condition: Tensor) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """(K·2·D, N) → K scales and K shifts, (D, N) each, in at least float32."""
        dtype = torch.promote_types(condition.dtype, torch.float32)
        # Split once: indexing step by step would fill a whole gradient with zeros for each.
        parts = condition.to(dtype).view(2 * self.steps, self.dim, -1).unbind(0)
        return tuple(torch.sigmoid(logit + SCALE_OFFSET) + SCALE_FLOOR for logit in parts[::2]), parts[1::2]

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
            x = x.to(scale[0].dtype)
            for k in range(self.steps):
                x = scale[k] * torch.addmm(self.bias[k, :, None], self.weight[k], x) + shift[k]
            z = torch.addmm(self.bias[-1, :, None], self.weight[-1], x)
            log_scale = torch.stack([s.log().sum(0) for s in scale]).sum(0)
            return z, log_scale + torch.linalg.slogdet(self.weight).logabsdet.sum()

    def latents_and_log_prob(self, x: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        """Latents of residual patches and their log-density in nats per patch: (D, N), (K·2·D, N) → (D, N), (N,)."""
        z, ladj = self(x, condition)
        return z, ladj - 0.5 * (z.square().sum(0) + self.dim * math.log(2 * math.pi))

    def log_prob(self, x: Tensor, condition: Tensor) -> Tensor:
        """Log-density of residual patches in nats per patch: (D, N), (K·2·D, N) → (N,)."""
        return self.latents_and_log_prob(x, condition)[1]

    def inverses(self) -> Tensor:
        """``W_k⁻¹``, (K+1, D, D): a matter of weights alone, worked out in float64 once per image."""
        return torch.linalg.inv(self.weight.double()).to(self.weight.dtype)

    def inverse(self, z: Tensor, condition: Tensor, inverses: Tensor | None = None) -> Tensor:
        """Latents to residuals: (D, N), (K·2·D, N) → (D, N); ``inverses`` as `inverses` gives them."""
        return self._backwards(z, *self.scales_and_shifts(condition), inverses, affine=True)

    def inverse_linear(self, v: Tensor, condition: Tensor, inverses: Tensor | None = None) -> Tensor:
        """The linear part ``A(c) v`` of the inverse ``m(c) + A(c) z``: (D, N) → (D, N)."""
        return self._backwards(v, *self.scales_and_shifts(condition), inverses, affine=False)

    def mean_and_textures(
        self, latents: Sequence[Tensor], condition: Tensor, inverses: Tensor | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        """``m(c)``, (D, N), and ``A(c) z`` for each z (D, N) of ``latents``: with one of them the sum is `inverse`."""
        scale, shift = self.scales_and_shifts(condition)
        inverses = self.inverses() if inverses is None else inverses
        mean = self._backwards(torch.zeros_like(shift[0]), scale, shift, inverses, affine=True)
        return mean, [self._backwards(z, scale, shift, inverses, affine=False) for z in latents]

    def moments(self, condition: Tensor, inverses: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The exact Gaussian of the residual at τ = 1 (METHOD §4).

        Returns:
            mean (D, N) and variance (D, N), the diagonal of ``A Aᵀ``.
        """
        mean, _ = self.mean_and_textures((), condition, inverses)
        return mean, self.variances(condition, torch.eye(3, device=mean.device), inverses)

    def variances(self, condition: Tensor, mix: Tensor, inverses: Tensor | None = None) -> Tensor:
        """The exact variance at τ = 1 of mixtures of each pixel's three colours: (M, 3) mixtures → (M·P², N)."""
        scale, shift = self.scales_and_shifts(condition)
        inverses = self.inverses() if inverses is None else inverses
        variance: Tensor | float = 0.0
        for column in torch.eye(self.dim, dtype=shift[0].dtype, device=mix.device):
            v = column[:, None].expand_as(shift[0])
            response = self._backwards(v, scale, shift, inverses, affine=False)
            variance = variance + (mix.to(response.dtype) @ response.view(3, -1)).square()
        assert isinstance(variance, Tensor)
        return variance.view(-1, shift[0].shape[1])

    def _backwards(
        self,
        x: Tensor,
        scale: Sequence[Tensor],
        shift: Sequence[Tensor],
        inverses: Tensor | None,
        *,
        affine: bool,
    ) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            inverses = self.inverses() if inverses is None else inverses
            for k in range(self.steps, -1, -1):
                if k < self.steps:
                    x = (x - shift[k] if affine else x) / scale[k]
                x = inverses[k] @ (x - self.bias[k, :, None] if affine else x)
            return x
