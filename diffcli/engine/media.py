"""What a model draws is a picture or a text: which, and what can be done with either."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from rich.console import Console

from diffcli.engine import pictures, texts
from diffcli.engine.assemble import Facts
from diffcli.engine.sample import Samples
from diffcli.sections import SampleOptions


class Medium(Protocol):
    """What pictures.py and texts.py both do.

    space: of the model that drew the samples; glance: some of them are enough, the method keeps files of its own.
    """

    def refuse(self, o: SampleOptions) -> None:
        """UsageError for options of [sample] that have no meaning here."""

    def write(self, samples: Samples, o: SampleOptions, space: Any, folder: Path, *, glance: bool) -> dict[str, Any]:
        """The files of a sampling command in an empty folder; how many of what, for its profile."""

    def show(self, samples: Samples, o: SampleOptions, space: Any, console: Console, *, glance: bool) -> None:
        """Into the terminal."""

    def preview(self, samples: Samples, space: Any, stem: Path) -> Path:
        """One file of all samples; stem: its path without the ending."""

    def final(self, samples: Samples, space: Any, run: Path) -> None:
        """What a trained run leaves below samples/ and trajectory/: all samples, and the way of the first."""


def medium(facts: Facts) -> Medium:
    """Texts where the data have an alphabet, else pictures."""
    return texts if facts.alphabet else pictures
