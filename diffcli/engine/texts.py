"""Samples that are texts: one file of all, a film of each, and a look in the terminal. All files are UTF-8."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rich.console import Console

from diffcli.core.space import Text
from diffcli.engine.files import acting
from diffcli.engine.sample import Samples
from diffcli.errors import UsageError
from diffcli.errors import show as harmless
from diffcli.options import options
from diffcli.sections import SampleOptions

FILMS, GLANCE, FEW = 1000, 64, 4  # most texts with films of their own; texts of a glance; texts in the terminal
LAYOUT = ("format", "columns", "upscale")  # options that lay out pictures


def refuse(o: SampleOptions) -> None:
    """A text has no layout."""
    for key in LAYOUT:
        if (value := getattr(o, key)) != options(type(o))[key].default:
            raise UsageError(
                f"--{key} {value} lays out pictures, but this model draws texts, into .txt files; leave --{key} out"
            )


def write(samples: Samples, o: SampleOptions, space: Text, folder: Path, *, glance: bool) -> dict[str, Any]:
    """samples.txt; with --trajectory, trajectory/000.txt and so on, a film of each text."""
    n = min(len(samples.x), GLANCE) if glance else len(samples.x)
    films = n if o.trajectory and not glance and n <= FILMS else 0
    save(folder / "samples.txt", listed(samples, space, n))
    for i in range(films):
        save(folder / "trajectory" / f"{samples.name(i)}.txt", film(samples, space, i))
    return {"texts": {"samples": n, "films": films}}


def show(samples: Samples, o: SampleOptions, space: Text, console: Console, *, glance: bool) -> None:
    """The first few; what is no letter, sign or line break is escaped, so that no model can drive the terminal."""
    more = [f"... and {len(samples.x) - FEW} more"] if len(samples.x) > FEW else []
    text = "\n\n".join(listed(samples, space, FEW) + more)
    plain = "\n".join(harmless(line, sys.maxsize) for line in text.split("\n"))
    shown = plain.encode(console.encoding, "backslashreplace").decode(console.encoding)
    console.print(shown, markup=False, emoji=False, highlight=False, soft_wrap=True)


def preview(samples: Samples, space: Text, stem: Path) -> Path:
    """stem.txt."""
    return save(stem.with_name(f"{stem.name}.txt"), listed(samples, space, len(samples.x)))


def final(samples: Samples, space: Text, run: Path) -> None:
    """samples/final.txt, and the film of the first text."""
    preview(samples, space, run / "samples" / "final")
    save(run / "trajectory" / "film.txt", film(samples, space, 0))


def listed(samples: Samples, space: Text, n: int) -> list[str]:
    """The first n texts, each under a line with its number, and its class where it has one."""
    return [f"--- {samples.name(i)} ---\n{text}" for i, text in enumerate(space.write(samples.x[:n]))]


def film(samples: Samples, space: Text, i: int) -> list[str]:
    """One text from [MASK] alone to the end, each snapshot under the t at which it exists."""
    return [f"--- t={t:.3f} ---\n{space.write(x[i : i + 1])[0]}" for t, x in samples.frames]


def save(path: Path, blocks: Iterable[str]) -> Path:
    """Blocks of text, an empty line between them."""
    with acting("write", path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes("\n\n".join(blocks).encode("utf-8", "backslashreplace") + b"\n")
    return path
