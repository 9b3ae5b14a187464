"""Samples that are images: a grid of all, each one, the way it came about, and what it was drawn around."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from rich.console import Console
from torch import Tensor

from diffcli.core.method import Batch
from diffcli.core.random import Rows
from diffcli.core.space import Space
from diffcli.engine import images
from diffcli.engine.sample import Samples
from diffcli.sections import SampleOptions

MOVING = {"webp", "gif"}
SINGLES, WHOLE, GLANCE = 1000, 1024, 64  # most images that get files of their own; in a grid of all; in a grid of some
COLUMNS, FEW = 4, 10  # of a preview's grid; images of a trained run that get files of their own


def refuse(o: SampleOptions) -> None:
    """All options of [sample] have a meaning for images."""


def write(samples: Samples, o: SampleOptions, space: Space, folder: Path, *, glance: bool) -> dict[str, Any]:
    """grid and images/; with --trajectory the moving grid and a folder an image; inpaint where images were completed."""
    n, still = len(samples.x), o.format
    shown, singles = in_grid(n, glance), 0 if glance or n > SINGLES else n
    images.save_picture(sheet(samples, o, shown), folder / f"grid.{still}")
    if samples.given is not None and samples.given.known is not None:
        images.save_picture(completed(samples, samples.given, space), folder / f"inpaint.{still}")
    if o.trajectory:
        grids = [sheet(samples, o, shown, x) for _, x in samples.frames]
        images.save_animation(grids, folder / f"animation.{still if still in MOVING else 'gif'}")
    if singles:
        (folder / "images").mkdir()
        frames = [(t, images.to_pictures(x)) for t, x in samples.frames]
        for i, picture in enumerate(images.to_pictures(samples.x)):
            alone = images.single(picture, side=o.upscale or images.SIDE)
            images.save_picture(alone, folder / "images" / f"{samples.name(i)}.{still}")
            if o.trajectory:
                way(folder / "trajectory" / samples.name(i), [(t, seen[i]) for t, seen in frames], still)
    return {"pictures": {"grid": shown, "singles": singles}}


def show(samples: Samples, o: SampleOptions, space: Space, console: Console, *, glance: bool) -> None:
    """The grid, a pixel for a pixel."""
    grid = sheet(samples, o, in_grid(len(samples.x), glance), scale=1, gutter=1, background=0)
    images.show_in_terminal(grid, console)


def preview(samples: Samples, space: Space, stem: Path) -> Path:
    """stem.png, a grid; a column a class where there are as many of each."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    classes = 0 if samples.label is None else len(samples.label.unique())
    by_class = classes >= COLUMNS and len(samples.x) % classes == 0
    wide = None if by_class or reconstructed(samples) is not None else COLUMNS
    grid = sheet(samples, SampleOptions(columns=wide), len(samples.x))
    return images.save_picture(grid, stem.with_name(f"{stem.name}.png"))


def reconstructed(samples: Samples) -> Tensor | None:
    """The given images (n, C, H, W) that whole images were made of; None where nothing or a part was given."""
    given = samples.given
    return None if given is None or given.known is not None else given.x


def final(samples: Samples, space: Space, run: Path) -> None:
    """samples/final.png with the first single images, and the strip of one image from noise to the end."""
    preview(samples, space, run / "samples" / "final")
    singles = run / "samples" / "final"
    singles.mkdir(exist_ok=True)
    for i, picture in enumerate(images.to_pictures(samples.x[:FEW])):
        images.save_picture(images.single(picture), singles / f"{i:03d}.png")
    if samples.frames:
        way(run / "trajectory", [(t, images.to_pictures(x[:1])[0]) for t, x in samples.frames], "png")


def in_grid(n: int, glance: bool) -> int:
    """How many of n images the grids show."""
    return min(n, GLANCE) if glance or n > WHOLE else n


def columns_of(n: int, columns: int | None, labels: list[int] | None) -> int:
    """As asked for, or one a class where images have classes, or near square."""
    if columns:
        return columns
    if labels is not None and 1 < len(set(labels)) <= n:
        return len(set(labels))
    return max(1, round(n**0.5))


def sheet(samples: Samples, o: SampleOptions, shown: int, x: Tensor | None = None, **style: Any) -> Image.Image:
    """The grid of the first images, or of a snapshot x of them; rows of given images, each above what was made of them."""
    if (truth := reconstructed(samples)) is not None:
        made, given = (images.to_pictures(part[:shown]) for part in (samples.x if x is None else x, truth))
        columns = min(o.columns or images.ACROSS, shown)
        rows = [part[k : k + columns] for k in range(0, shown, columns) for part in (given, made)]
        return images.table(rows, ["given", "made"] * (len(rows) // 2))
    labels = None if samples.label is None else samples.label[:shown].tolist()
    pictures = images.to_pictures((samples.x if x is None else x)[:shown])
    return images.grid(pictures, columns=columns_of(shown, o.columns, labels), **style)


def way(folder: Path, frames: list[tuple[float, images.Picture]], still: str) -> None:
    """One image from noise to the end: a strip, and each snapshot under the t at which it exists."""
    folder.mkdir(parents=True, exist_ok=True)
    images.save_picture(images.strip(frames), folder / f"strip.{still}")
    images.save_picture(images.single(frames[-1][1]), folder / f"final.{still}")
    for k, (t, picture) in enumerate(frames):
        images.save_picture(images.single(picture), folder / f"step-{k:02d}-t{t:.3f}.{still}")


def same_given(given: Batch) -> list[list[int]]:
    """The numbers of the samples that complete one and the same image, an image after the other.

    They are neighbours with equal x and known: where a method gives test image i // C to sample i, completion j of image
    i is sample i C + j. The last image may have fewer completions.
    """
    parts = [part for part in (given.x, given.known) if part is not None]
    same = torch.stack([(part[1:] == part[:-1]).flatten(1).all(1) for part in parts]).all(0)
    groups = [[0]]
    for i, equal in enumerate(same.tolist(), 1):
        if equal:
            groups[-1].append(i)
        else:
            groups.append([i])
    return groups


def completed(samples: Samples, given: Batch, space: Space) -> Image.Image:
    """A column an image: the truth, what was given of it, and its completions."""
    groups = same_given(given)[: images.ACROSS]
    first, drawn = [group[0] for group in groups], range(groups[-1][-1] + 1)

    def look(x: Tensor, numbers: Sequence[int]) -> images.Picture:
        index = torch.tensor(numbers)
        return images.to_pictures(space.look(x[index], Rows(0, index, len(samples.x))))

    truth, known = given.x, given.known
    assert truth is not None and known is not None
    pictures, most = look(samples.x_0, drawn), max(map(len, groups))
    completions = [[pictures[group[j]] if j < len(group) else None for group in groups] for j in range(most)]
    hidden = look(torch.where(known, truth, torch.full_like(truth, space.blank)), first)
    captions = ["truth", "given", "completed", *[""] * (most - 1)]
    return images.table([look(truth, first), hidden, *completions], captions)
