"""[sample] of methods that reconstruct: held-out images, pictures of the user's own, or latents that were kept."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from diffcli.errors import UsageError
from diffcli.plugin import opt
from diffcli.sections import SampleOptions


@dataclass(frozen=True, kw_only=True)
class ReconstructionSample(SampleOptions):
    """What is encoded and decoded; `samples` follows the number of files or latents, where any are given.

    sources: the options of which each says what to decode; one may be given at most.
    """

    sources: ClassVar[tuple[str, ...]] = ("input", "latents")

    input: str | None = opt(
        None,
        "Pictures to encode and decode in place of held-out images: files with commas between them, a folder, or a quoted "
        "pattern such as '*.png'.",
    )
    keep_latents: bool = opt(False, "Keep what the images are encoded to, scaled, in latents.safetensors.")
    latents: Path | None = opt(None, "Decode a latents.safetensors that --keep-latents left.")

    def __post_init__(self) -> None:
        given = [name for name in self.sources if getattr(self, name) not in (None, False)]
        if len(given) > 1:
            raise UsageError(f"--{given[0]} and --{given[1]} are two things to decode; keep one")
        if self.keep_latents and given and given != ["input"]:
            raise UsageError(
                f"--keep-latents keeps what images are encoded to, but --{given[0]} encodes none; leave it out"
            )
        if n := self.count():
            object.__setattr__(self, "samples", n)

    def count(self) -> int:
        """How many there are of what was given; 0 where nothing was, or where it cannot be read, as sampling will say."""
        if self.input is not None:
            from diffcli_vision.inputs import count

            return count(self.input)
        if self.latents is not None:
            from diffcli_vision.latents import rows

            return rows(self.latents)
        return 0
