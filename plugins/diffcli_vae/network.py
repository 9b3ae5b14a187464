"""The KL autoencoder of Rombach et al. 2022 (section 3.1 and appendix G.1), without its discriminator."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from diffcli.core.space import Space
from diffcli.errors import UsageError
from diffcli.nn.blocks import Chain, Downsample, Norm, SelfAttention, Upsample, crop, pad
from diffcli_vae import KLAutoencoderOptions

LOWEST, HIGHEST = -30.0, 20.0  # of the log-variance: exp of it is finite, and so is its gradient


def norm(channels: int) -> Norm:
    """Group normalization with the epsilon of Rombach et al. 2022."""
    made = Norm(channels)
    made.eps = 1e-6
    return made


def attention(channels: int, head_channels: int) -> SelfAttention:
    """Over all positions; head_channels: 0 is one head over all channels."""
    made = SelfAttention(channels, head_channels or channels)
    made.norm.eps = 1e-6
    return made


class Residual(nn.Module):
    """x + conv(silu(norm(conv(silu(norm(x)))))): the block of a U-Net, which here knows no time."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.norm1, self.conv1 = norm(inputs), nn.Conv2d(inputs, outputs, 3, padding=1)
        self.norm2, self.conv2 = norm(outputs), nn.Conv2d(outputs, outputs, 3, padding=1)
        self.skip = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x), inplace=True))
        h = self.conv2(F.silu(self.norm2(h), inplace=True))
        h += self.skip(x)
        return h


class Encoder(Chain):
    """(B, C, H, W) -> (B, 2z, H/f, W/f): at every level blocks and a strided convolution, then the middle."""

    def __init__(self, config: KLAutoencoderOptions, channels: int):
        widths, z = config.widths, config.z
        layers: list[nn.Module] = [nn.Conv2d(channels, widths[0], 3, padding=1)]
        c = widths[0]
        for width in widths:
            for _ in range(config.blocks):
                layers.append(Residual(c, width))
                c = width
            layers.append(Downsample(c))
        layers += [Residual(c, c), attention(c, config.head_channels), Residual(c, c)]
        layers += [norm(c), nn.SiLU(inplace=True), nn.Conv2d(c, 2 * z, 3, padding=1), nn.Conv2d(2 * z, 2 * z, 1)]
        super().__init__(layers)


class Decoder(Chain):
    """(B, z, H/f, W/f) -> (B, C, H, W): the middle, then at every level blocks and an upsampling convolution.

    Linear at the end: black and white are the most frequent values of many pictures, and a tanh reaches neither.
    """

    def __init__(self, config: KLAutoencoderOptions, channels: int):
        widths, z = config.widths, config.z
        c = widths[-1]
        layers: list[nn.Module] = [nn.Conv2d(z, z, 1), nn.Conv2d(z, c, 3, padding=1)]
        layers += [Residual(c, c), attention(c, config.head_channels), Residual(c, c)]
        for width in reversed(widths):
            for _ in range(config.blocks):
                layers.append(Residual(c, width))
                c = width
            layers.append(Upsample(c))
        layers += [norm(c), nn.SiLU(inplace=True), nn.Conv2d(c, channels, 3, padding=1)]
        super().__init__(layers)


class KLAutoencoder(nn.Module):
    """q(z | x) = N(mean, diag exp(logvar)) on a grid f = 2^levels times coarser, and the mean of p(x | z).

    Pictures of any size are padded to a multiple of f inside, by reflection, and cropped again. shape: of the latents.
    """

    def __init__(self, config: KLAutoencoderOptions, space: Space, *, inputs: int, outputs: int, classes: int = 0):
        super().__init__()
        if classes:
            raise UsageError("kl-autoencoder knows no classes; leave --cond label out")
        config = config.fit(space.shape)
        height, width = space.shape[1:]
        self.factor = f = config.factor
        self.shape = (config.z, -(-height // f), -(-width // f))
        self.box = (-height % f // 2, -width % f // 2, height, width)  # of the picture inside the padded one
        self.encoder, self.decoder = Encoder(config, inputs), Decoder(config, outputs)
        # What mixes the few channels of the latents begins as the identity. A random mix is often nearly singular, and the
        # KL then closes a channel for good: on MNIST (kl_weight 1e-4, 16 channels) with one training seed of two, 23.0 dB
        # in place of 25.6.
        for mix in (self.encoder[-1], self.decoder[0]):
            nn.init.dirac_(mix.weight)
            nn.init.zeros_(mix.bias)

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x (B, C, H, W) -> (mean, logvar), each (B, *shape) in float32."""
        mean, logvar = self.encoder(pad(x, self.factor)[0]).float().chunk(2, 1)
        return mean, logvar.clamp(LOWEST, HIGHEST)

    def decode(self, z: Tensor) -> Tensor:
        """z (B, *shape) -> (B, C, H, W) in float32, not clamped."""
        return crop(self.decoder(z).float(), self.box)
