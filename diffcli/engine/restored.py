"""What is left of reconstructions beside the pictures: tables, and originals and reconstructions side by side."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import math
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from diffcli.engine import images
from diffcli.engine.environment import command, cpu
from diffcli.engine.files import dump_json, durable
from diffcli.engine.restore import Restored
from diffcli.errors import show

MEANS = ("psnr", "ssim", "encode_ms", "decode_ms")
COLUMNS = ("file", "width", "height", "psnr", "ssim", "latent", "encode_ms", "decode_ms", "images", "given")
SIDE, TALL = 256, 160  # pixels a side of a picture, at most and at least: in comparison.png; on a page
GAIN = 4  # of differences that are shown
STYLE = """
body { font: 15px/1.5 sans-serif; margin: 2em; color: #222; background: #d8d8d8 }
table { border-collapse: collapse } td, th { padding: 0 .8em; text-align: right } td:first-child { text-align: left }
section { margin: 2em 0; overflow-x: auto; white-space: nowrap } h2 { font-size: 1em; margin: 0 }
figure { display: inline-block; margin: .3em 1em .3em 0; vertical-align: top } figcaption { white-space: normal }
img { display: block; image-rendering: pixelated }
.pair { position: relative; width: max-content; overflow: hidden }
.over { position: absolute; top: 0; left: 0; height: 100%; width: 50%; max-width: 100%; overflow: hidden; resize: horizontal;
  border-right: 2px solid #c31; box-sizing: border-box }
.difference { position: relative; width: max-content; isolation: isolate; filter: brightness(4) }
.difference img + img { position: absolute; top: 0; left: 0; mix-blend-mode: difference }
"""


def leave(done: Restored, folder: Path) -> dict[str, Any]:
    """table.csv, table.json, comparison.png and, of pictures that were given, comparison.html; the means, for a profile."""
    means = {key: sum(row[key] for row in done.table) / done.n for key in MEANS if key in done.table[0]}
    facts = {**done.facts, "n": done.n, "cpu": cpu(), "command": command_line()}
    durable(folder / "table.csv", lines(done.table, means).encode())
    durable(folder / "table.json", dump_json({"facts": facts, "pictures": done.table, "mean": means}))
    images.save_picture(sheet(done), folder / "comparison.png")
    if "given" in done.table[0]:
        durable(folder / "comparison.html", page(done, facts, means).encode())
    return means


def command_line() -> list[str]:
    """As env.json has it."""
    import sys

    return command([Path(sys.argv[0]).name, *sys.argv[1:]])


def cells(row: dict[str, Any]) -> list[str]:
    """The values of a row as texts, in the order of COLUMNS; a file whose name a spreadsheet would take for a formula is
    written from the folder that it is in."""
    texts = []
    for key in COLUMNS:
        value = row.get(key, "")
        text = (
            "x".join(map(str, value))
            if isinstance(value, list)
            else f"{value:.6g}"
            if isinstance(value, float)
            else value
        )
        texts.append(f"./{text}" if key == "file" and str(text)[:1] in tuple("=+-@\t\r") and text else str(text))
    return texts


def lines(table: list[dict[str, Any]], means: dict[str, float]) -> str:
    """The table as CSV, the means in its last line."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows([show(cell, 4096) for cell in cells(row)] for row in [*table, {"file": "mean", **means}])
    return out.getvalue()


def sheet(done: Restored, side: int = SIDE) -> Image.Image:
    """Columns of the first pictures: the original, the reconstruction and four times their difference; shrunk or enlarged to
    about `side` pixels."""
    given, made = (
        [fitted(picture, side) for picture in row if picture is not None] for row in zip(*done.shown, strict=True)
    )
    rows = {"given": given, "made": made}
    if given:
        rows[f"{GAIN}x off"] = [fitted(difference(x, y), side) for x, y in done.shown if x is not None]
    rows = {name: row for name, row in rows.items() if row}
    height, width = (max(picture.shape[k] for row in rows.values() for picture in row) for k in (0, 1))
    return images.table([[framed(p, height, width) for p in row] for row in rows.values()], list(rows))


def difference(x: images.Picture, y: images.Picture) -> images.Picture:
    """GAIN |x - y|, as far as 8 bits hold it."""
    return np.minimum(GAIN * np.abs(x.astype(int) - y), 255).astype(np.uint8)


def fitted(picture: images.Picture, side: int) -> images.Picture:
    """A picture whose longer side is `side` at most: shrunk, or enlarged by a whole factor."""
    height, width = picture.shape[:2]
    if max(height, width) <= side:
        factor = side // max(height, width)
        return picture.repeat(factor, 0).repeat(factor, 1)
    size = (max(1, round(width * side / max(height, width))), max(1, round(height * side / max(height, width))))
    shrunk = images.single(picture, 1).resize(size, Image.Resampling.BOX)
    return np.asarray(shrunk).reshape(size[1], size[0], picture.shape[2])


def framed(picture: images.Picture, height: int, width: int) -> images.Picture:
    """A picture in the middle of a larger ground."""
    sheet = np.full((height, width, picture.shape[2]), images.GROUND, np.uint8)
    top, left = (height - picture.shape[0]) // 2, (width - picture.shape[1]) // 2
    sheet[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
    return sheet


def page(done: Restored, facts: dict[str, Any], means: dict[str, float]) -> str:
    """comparison.html: a divider to drag over each picture, and four times the difference. It needs this folder alone."""
    digest = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; img-src 'self' file:; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    )
    told = {key: facts[key] for key in ("run", "method", "weights", "sampler", "steps", "seed", "n", "device", "cpu")}
    head = "".join(f"<tr><td>{clean(key)}<td>{clean(value)}" for key, value in told.items() if value is not None)
    head += "".join(f"<tr><td>mean {clean(key)}<td>{value:.6g}" for key, value in means.items())
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{escape(policy)}">'
        f"<title>Reconstructions by {clean(facts['method'])}</title><style>{STYLE}</style></head><body>\n"
        f"<h1>Reconstructions by {clean(facts['method'])}</h1><table>{head}</table>\n"
        + "\n".join(section(row) for row in done.table)
        + "\n</body></html>\n"
    )


def section(row: dict[str, Any]) -> str:
    """One picture."""
    factor = max(1, math.ceil(TALL / min(row["height"], row["width"])))
    size = f'width="{factor * row["width"]}" height="{factor * row["height"]}" loading="lazy"'
    given, made = (
        f'<img src="{escape(row[place], quote=True)}" alt="{place}" {size}>' for place in ("given", "images")
    )
    numbers = f"PSNR {row['psnr']:.2f} dB, SSIM {row['ssim']:.4f}, {row['width']}x{row['height']}"
    return (
        f"<section><h2>{clean(row['file'])}</h2>{numbers}<br>"
        f'<figure><div class="pair">{made}<div class="over">{given}</div></div>'
        "<figcaption>given | made: drag the lower corner of the divider</figcaption></figure>"
        f'<figure><div class="difference">{given}{made}</div><figcaption>{GAIN}x difference</figcaption></figure></section>'
    )


def clean(text: Any) -> str:
    """Text from outside, for a page."""
    return escape(show(text), quote=True)
