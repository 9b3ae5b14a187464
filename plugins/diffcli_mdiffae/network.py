"""The convolutional encoder and the diffusion decoder of mDiffAE (2026), of DiCo blocks (Ai et al. 2025, arXiv 2505.11196)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffcli.core.denoiser import Cond
from diffcli.core.space import Space
from diffcli.errors import UsageError
from diffcli_mdiffae import DiCoOptions

EPSILON = 1e-6  # added to the mean square
FREQUENCIES = 128  # of the time embedding
GATE = 0.1  # what the gates of the encoder begin at


def rms(x: Tensor) -> Tensor:
    """x (B, D, H, W) over the root of its mean square over channels, at each pixel, which is taken in float32."""
    return x * torch.rsqrt(x.float().square().mean(1, keepdim=True) + EPSILON).to(x.dtype)


class RMSNorm(nn.Module):
    """rms(x) times a weight, plus a bias, of each channel."""

    def __init__(self, width: int):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addcmul(channelwise(self.bias), rms(x), channelwise(self.weight))


def channelwise(v: Tensor) -> Tensor:
    """(D,) or (B, D) -> (..., D, 1, 1)."""
    return v[..., None, None]


def pointwise(inputs: int, outputs: int) -> nn.Conv2d:
    """A linear map of the channels of each pixel."""
    return nn.Conv2d(inputs, outputs, 1)


def last(x: Tensor) -> Tensor:
    """The same with its channels last in memory: all that follows then computes in this layout, a third faster on a CPU.

    Whatever layout a map comes in, it is computed alike, to the last bit.
    """
    return x.contiguous(memory_format=torch.channels_last)


class Patchify(nn.Module):
    """(B, C, H, W) -> (B, D, H/P, W/P): each PxP square of all channels, in the order channel, row, column, through a linear map."""

    def __init__(self, channels: int, patch_size: int, width: int):
        super().__init__()
        self.patch_size = patch_size
        self.proj = pointwise(channels * patch_size**2, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(last(F.pixel_unshuffle(x, self.patch_size)))


class MLP(nn.Module):
    """conv1x1, GELU, conv1x1 at each pixel."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.conv_in, self.conv_out = pointwise(width, hidden), pointwise(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv_out(F.gelu(self.conv_in(x)))


class ChannelAttention(nn.Module):
    """Every channel times a share of it, read off the means of all channels over the map (Ai et al. 2025, section 3.2)."""

    def __init__(self, width: int):
        super().__init__()
        self.conv = pointwise(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.conv(x.mean((2, 3), keepdim=True)))


class DiCo(nn.Module):
    """Two residual branches of a normed map: depthwise convolution with channel attention, and an MLP.

    gated: with gates of its own and no scales, in an encoder; else both are given.
    """

    def __init__(self, config: DiCoOptions, *, gated: bool):
        super().__init__()
        width, kernel = config.d, config.k
        self.conv1 = pointwise(width, width)
        self.conv2 = nn.Conv2d(width, width, kernel, padding=kernel // 2, groups=width)
        self.cca, self.conv3 = ChannelAttention(width), pointwise(width, width)
        self.mlp = MLP(width, config.hidden)
        if gated:
            self.gate_1, self.gate_2 = (nn.Parameter(torch.full((width,), GATE)) for _ in range(2))

    def mix(self, u: Tensor) -> Tensor:
        """The first branch, which alone looks beyond a pixel."""
        return self.conv3(self.cca(F.silu(self.conv2(self.conv1(u)))))

    def forward(self, x: Tensor, modulation: Tensor | None = None) -> Tensor:
        """modulation: (B, 4D), packed as scale_1, gate_1, scale_2, gate_2; gates through tanh."""
        if modulation is None:
            x = torch.addcmul(x, channelwise(self.gate_1), self.mix(rms(x)))
            return torch.addcmul(x, channelwise(self.gate_2), self.mlp(rms(x)))
        scale_1, gate_1, scale_2, gate_2 = channelwise(modulation).chunk(4, 1)
        x = torch.addcmul(x, torch.tanh(gate_1), self.mix(rms(x) * (1 + scale_1)))
        return torch.addcmul(x, torch.tanh(gate_2), self.mlp(rms(x) * (1 + scale_2)))


class Encoder(nn.Module):
    """(B, C, H, W) -> (B, b, H/P, W/P), each pixel of root mean square 1 over its channels, in float32."""

    def __init__(self, config: DiCoOptions, channels: int):
        super().__init__()
        self.patchify = Patchify(channels, config.p, config.d)
        self.norm_in = norm(config)
        self.blocks = nn.ModuleList(DiCo(config, gated=True) for _ in range(config.encoder))
        self.to_bottleneck = pointwise(config.d, config.z)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm_in(self.patchify(x))
        for block in self.blocks:
            h = block(h)
        return rms(self.to_bottleneck(h).float()).contiguous()


def norm(config: DiCoOptions) -> nn.Module:
    """A norm with weight and bias; the topology skip has none of them."""
    return RMSNorm(config.d) if config.topology == "flat" else nn.Identity()


class TimeEmbedding(nn.Module):
    """[sin | cos] of c_noise times 128 frequencies 10000^(-k/127), then Linear, SiLU, Linear: (B,) -> (B, D)."""

    freqs: Tensor

    def __init__(self, width: int):
        super().__init__()
        k = torch.arange(FREQUENCIES, dtype=torch.float64) / (FREQUENCIES - 1)
        self.register_buffer("freqs", torch.exp(-math.log(10000) * k).float())
        self.proj_in, self.proj_out = nn.Linear(2 * FREQUENCIES, width), nn.Linear(width, width)

    def forward(self, c_noise: Tensor) -> Tensor:
        angle = c_noise.float()[:, None] * self.freqs
        waves = torch.cat([angle.sin(), angle.cos()], 1).to(self.proj_in.weight.dtype)
        return self.proj_out(F.silu(self.proj_in(waves)))


class AdaLN(nn.Module):
    """The modulation that all blocks share: a linear map that begins at 0."""

    def __init__(self, width: int):
        super().__init__()
        self.proj = zeroed(nn.Linear(width, 4 * width))

    def forward(self, a: Tensor) -> Tensor:
        return self.proj(a)


class Delta(nn.Module):
    """What one block adds to it: a map of low rank that begins at 0."""

    def __init__(self, width: int, rank: int):
        super().__init__()
        self.down, self.up = nn.Linear(width, rank, bias=False), zeroed(nn.Linear(rank, 4 * width, bias=False))
        nn.init.normal_(self.down.weight, std=0.02)

    def forward(self, a: Tensor) -> Tensor:
        return self.up(self.down(a))


def zeroed(linear: nn.Linear) -> nn.Linear:
    """The layer with all its numbers 0."""
    for p in linear.parameters():
        nn.init.zeros_(p)
    return linear


class Decoder(nn.Module):
    """(x_t (B, C, H, W), c_noise (B,), latents) -> x_0, not clamped. Nothing of x_t is added to it.

    keep (B, 1, H/P, W/P): False where a token is hidden. drop (B,): True where the path of the middle blocks is cut.
    """

    def __init__(self, config: DiCoOptions, inputs: int, outputs: int):
        super().__init__()
        width = config.d
        self.patchify, self.norm_in = Patchify(inputs, config.p, width), norm(config)
        self.latent_up, self.latent_norm = pointwise(config.z, width), norm(config)
        self.fuse_in = pointwise(2 * width, width)
        self.time_embed, self.adaln_base = TimeEmbedding(width), AdaLN(width)
        self.adaln_deltas = nn.ModuleList(Delta(width, config.rank) for _ in range(config.decoder))
        self.norm_out, self.out_proj = norm(config), pointwise(width, outputs * config.p**2)
        self.patch_size = config.p

    def fuse(self, x_t: Tensor, z: Tensor) -> Tensor:
        """One map of the noisy image and of the latents, which is (B, D, H/P, W/P) already."""
        return self.fuse_in(torch.cat([self.norm_in(self.patchify(x_t)), self.latent_norm(z)], 1))

    def modulations(self, c_noise: Tensor) -> list[Tensor]:
        """(B, 4D) for each block."""
        a = F.silu(self.time_embed(c_noise))
        base = self.adaln_base(a)
        return [base + delta(a) for delta in self.adaln_deltas]

    def finish(self, h: Tensor) -> Tensor:
        """Tokens -> pixels."""
        return F.pixel_shuffle(self.out_proj(self.norm_out(h)), self.patch_size)


def blocks(config: DiCoOptions, count: int) -> nn.ModuleList:
    """Some that are told the time."""
    return nn.ModuleList(DiCo(config, gated=False) for _ in range(count))


class Flat(Decoder):
    """All blocks in a row (v1). Hidden tokens are hidden after latents and image are one: each becomes mask_feature."""

    def __init__(self, config: DiCoOptions, inputs: int, outputs: int):
        super().__init__(config, inputs, outputs)
        self.blocks = blocks(config, config.decoder)
        self.mask_feature = nn.Parameter(torch.zeros(1, config.d, 1, 1))

    def forward(self, x_t: Tensor, c_noise: Tensor, z: Tensor, keep: Tensor, drop: Tensor | None = None) -> Tensor:
        h = self.fuse(x_t, self.latent_up(last(z)))
        h = torch.where(keep, h, self.mask_feature.to(h.dtype))
        for block, modulation in zip(self.blocks, self.modulations(c_noise), strict=True):
            h = block(h, modulation)
        return self.finish(h)


class Skip(Decoder):
    """Start, middle and end blocks (v2); the end sees [start | middle], or [start | path_drop_mask_feature].

    Tokens are hidden in the latents, before these meet the image: each becomes latent_mask_feature.
    """

    def __init__(self, config: DiCoOptions, inputs: int, outputs: int):
        super().__init__(config, inputs, outputs)
        start, middle, end = config.split
        self.start_blocks, self.middle_blocks = blocks(config, start), blocks(config, middle)
        self.end_blocks = blocks(config, end)
        self.fuse_skip = pointwise(2 * config.d, config.d)
        self.latent_mask_feature = nn.Parameter(torch.zeros(1, config.d, 1, 1))
        self.path_drop_mask_feature = nn.Parameter(torch.zeros(1, config.d, 1, 1))

    def forward(self, x_t: Tensor, c_noise: Tensor, z: Tensor, keep: Tensor, drop: Tensor) -> Tensor:
        up, modulations = self.latent_up(last(z)), iter(self.modulations(c_noise))
        start = self.fuse(x_t, torch.where(keep, up, self.latent_mask_feature.to(up.dtype)))
        for block in self.start_blocks:
            start = block(start, next(modulations))
        middle = start
        for block in self.middle_blocks:
            middle = block(middle, next(modulations))
        middle = torch.where(drop[:, None, None, None], self.path_drop_mask_feature.to(middle.dtype), middle)
        h = self.fuse_skip(torch.cat([start, middle], 1))
        for block in self.end_blocks:
            h = block(h, next(modulations))
        return self.finish(h)


class DiCoAutoencoder(nn.Module):
    """Encoder and decoder: net.encode(x) -> latents; net(x_t, c_noise, cond) -> x_0 with cond {"latent", "keep", "drop"}.

    shape: of the latents of an image of the data.
    """

    def __init__(self, config: DiCoOptions, space: Space, *, inputs: int, outputs: int, classes: int = 0):
        super().__init__()
        if classes:
            raise UsageError("dico-autoencoder knows no classes; leave --cond label out")
        self.config = config = config.fit(space.shape)
        self.shape = (config.z, space.shape[1] // config.p, space.shape[2] // config.p)
        self.encoder = Encoder(config, inputs)
        self.decoder = (Flat if config.topology == "flat" else Skip)(config, inputs, outputs)

    def encode(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, b, H/P, W/P), of any size that P divides. UsageError for others."""
        p = self.config.p
        if x.shape[-2] % p or x.shape[-1] % p:
            raise UsageError(
                f"images of {x.shape[-2]}x{x.shape[-1]} do not divide into patches of {p}x{p}; pad or crop them, or "
                "give --patch-size"
            )
        z: Tensor = self.encoder(x)
        return z

    def forward(self, x_t: Tensor, c_noise: Tensor, cond: Cond) -> Tensor:
        x_0: Tensor = self.decoder(x_t, c_noise, cond["latent"], cond["keep"], cond.get("drop"))
        return x_0
