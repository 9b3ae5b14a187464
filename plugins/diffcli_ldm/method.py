"""Latent diffusion (Rombach et al. 2022, arXiv 2112.10752)."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from diffcli.core.process import GaussianProcess
from diffcli.core.space import Space
from diffcli.errors import UsageError
from diffcli_ddpm.method import DDPM
from diffcli_ldm import LDMOptions


class LatentDiffusion(DDPM):
    """DDPM, with a network that is told the class (Rombach et al. 2022, Eq. 3): E || F(z_t, t, y) - F* ||^2.

    That z are latents is the space's business: see diffcli.core.space.Latents. Without classes it is ddpm, number by number.
    """

    def __init__(self, config: LDMOptions, space: Space, *, model: Callable[..., nn.Module], process: GaussianProcess):
        super().__init__(config, space, model=model, process=process)
        told, asked = getattr(self.denoiser.net, "conditioning", ""), config.conditioning
        if asked and told != asked:
            raise UsageError(
                f"--conditioning {asked} is another way to tell the class than the chosen --model's"
                f"{f', which is {told}' if told else ''}; leave one of them out"
            )
