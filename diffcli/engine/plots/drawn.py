"""What a plot gives: pictures, the numbers behind them, and the files that keep both."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from diffcli.engine import images
from diffcli.engine.files import acting, dump_json, durable
from diffcli.engine.report import STYLE, save


class Drawn(NamedTuple):
    """What a plot gives where it is more than one PIL image.

    pictures: stem of a file -> PIL image, or matplotlib Figure, which is kept as PNG and as PDF of vectors; facts: the
    numbers behind them, as plain JSON; what people read of them may stand there as lines under "text".
    """

    pictures: Mapping[str, Any]
    facts: Mapping[str, Any] = {}


def keep(
    made: Drawn, folder: Path, name: str, format: str, about: Mapping[str, Any] | None, prefix: str = ""
) -> list[Path]:
    """<stem>.<format> of an image, <stem>.png and .pdf of a figure; the facts in <name>.json, their text in <name>.txt.

    about: where the plot is from, which stands with its facts; None writes none of them, and figures as PNG alone.
    """
    import matplotlib

    with acting("write", folder):
        folder.mkdir(parents=True, exist_ok=True)
    files = list[Path]()
    for stem, picture in made.pictures.items():
        path = folder / f"{prefix}{stem}"
        if isinstance(picture, Image.Image):
            files.append(images.save_picture(picture, path, format))
            continue
        with matplotlib.rc_context(STYLE):
            files += [save(picture, path, kind) for kind in (("png", "pdf") if about is not None else ("png",))]
    if about is None or not made.facts:
        return files
    values = {key: value for key, value in made.facts.items() if key != "text"}
    files.append(folder / f"{prefix}{name}.json")
    durable(files[-1], dump_json({**about, **values}))
    if text := made.facts.get("text"):
        files.append(folder / f"{prefix}{name}.txt")
        durable(files[-1], (str(text).rstrip("\n") + "\n").encode())
    return files
