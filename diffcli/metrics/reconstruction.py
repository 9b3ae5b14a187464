"""How near a reconstruction is to its image: PSNR, SSIM, and what as many principal components reach. Images in [0, 1]."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

WINDOW, SIGMA = 11, 1.5  # Wang et al. 2004, section III.B
K1, K2 = 0.01, 0.03  # there too
EXACT = 1e-10  # least mean squared error: 100 dB, above what 8 or 16 bits can tell apart


def psnr(x: Tensor, y: Tensor) -> Tensor:
    """-10 log10 of the mean squared error of each image, in dB: (B, *) twice -> (B,) float64; 100 dB at most."""
    return -10 * (x.double() - y.double()).square().flatten(1).mean(1).clamp_min(EXACT).log10()


def window(height: int, width: int) -> int:
    """The side of the Gaussian window of SSIM: 11, or the largest odd number that fits a smaller image."""
    side = min(WINDOW, height, width)
    return side - 1 + side % 2


def ssim(x: Tensor, y: Tensor) -> Tensor:
    """Mean structural similarity of each image (Wang et al. 2004, Eq. 13 and 17): (B, C, H, W) twice -> (B,) float64.

    Local means, variances and covariance are weighted by a Gaussian of standard deviation 1.5 pixels in a window of 11x11,
    see `window`, which stays inside the image; the mean is over its places and the channels.
    """
    side = window(*x.shape[-2:])
    distance = torch.arange(side, dtype=torch.float64, device=x.device) - side // 2
    line = torch.exp(-distance.square() / (2 * SIGMA**2))
    line = (line / line.sum()).view(1, 1, side, 1)

    def local(values: Tensor) -> Tensor:
        """The Gaussian is a product: columns first, then rows, with a tenth of the time and memory of the whole window."""
        alone = values.flatten(0, 1)[:, None]  # (B C, 1, H, W)
        return F.conv2d(F.conv2d(alone, line), line.mT).view(
            *values.shape[:2], *(n - side + 1 for n in values.shape[2:])
        )

    x, y = x.double(), y.double()
    mean_x, mean_y = local(x), local(y)
    var_x, var_y = local(x * x) - mean_x**2, local(y * y) - mean_y**2
    covariance = local(x * y) - mean_x * mean_y
    c1, c2 = K1**2, K2**2
    index = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    index = index / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))
    return index.flatten(1).mean(1)


class Components:
    """The principal components of images: what any linear code of as many numbers can do at best."""

    def __init__(self, images: Tensor, count: int):
        """images: (n, C, H, W); count: of the components, at most as many as there are pixels."""
        x = images.double().flatten(1)
        self.mean = x.mean(0)
        x = x - self.mean
        _, vectors = torch.linalg.eigh(x.T @ x)
        self.vectors = vectors[:, -min(count, x.shape[1]) :]  # (D, count), the largest last

    def reconstruct(self, images: Tensor) -> Tensor:
        """(n, C, H, W) -> the same through the components, not clamped, in float64."""
        x = images.double().flatten(1) - self.mean
        return (x @ self.vectors @ self.vectors.T + self.mean).view(images.shape)
