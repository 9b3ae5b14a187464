"""Pictures of samples: grids, strips of a trajectory, animations, and a look in the terminal."""

from __future__ import annotations

import io
import math
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from einops import rearrange, repeat
from PIL import Image, ImageDraw, ImageFont
from rich.console import Console
from rich.style import Style
from rich.text import Text
from torch import Tensor

from diffcli.engine.files import acting
from diffcli.errors import NonFinite, UsageError, show

Picture = np.ndarray[Any, np.dtype[np.uint8]]  # (H, W, 1) or (H, W, 3)
SIDE = 48  # a picture is enlarged, by a whole factor, to at least this many pixels a side
FORMATS = {"png": "PNG", "pdf": "PDF", "webp": "WEBP", "gif": "GIF"}
RAMP = " .:-=+*#%@"
ACROSS = 16  # frames in a row of a strip; columns of a table
GROUND, INK = 216, 20  # a light gray, into which neither black nor white pictures melt; of captions


def to_pictures(x: Tensor) -> Picture:
    """(B, C, H, W) in [-1, 1] -> (B, H, W, 1 or 3) uint8; what lies outside is clamped.

    Three channels are red, green, blue; of more the first three are shown, of two the first. NonFinite names the images
    that have NaN or infinity: they are never drawn.
    """
    x = x.detach().float().cpu()
    if bad := [i for i, image in enumerate(x) if not image.isfinite().all()]:
        listed = ", ".join(map(str, bad[:5])) + (", ..." if len(bad) > 5 else "")
        raise NonFinite(
            f"{len(bad)} of {len(x)} images have NaN or infinity ({listed}); sample in fp32, or train longer with a lower --lr"
        )
    shown = x[:, : 3 if x.shape[1] >= 3 else 1]
    levels = ((shown.clamp(-1, 1) + 1) * 127.5).round().byte().numpy()
    return rearrange(levels, "b c h w -> b h w c")


def single(picture: Picture, scale: int | None = None, *, side: int = SIDE) -> Image.Image:
    """One picture; each of its pixels becomes scale x scale, unset is up to `side` pixels."""
    scale = scale or math.ceil(side / min(picture.shape[:2]))
    picture = repeat(picture, "h w c -> (h i) (w j) c", i=scale, j=scale)
    return Image.fromarray(np.ascontiguousarray(picture[..., 0] if picture.shape[-1] == 1 else picture))


def grid(
    pictures: Sequence[Picture] | Picture,
    columns: int | None = None,
    *,
    scale: int | None = None,
    gutter: int = 2,
    background: int = GROUND,
    captions: Sequence[str] = (),
) -> Image.Image:
    """Pictures of one size in rows, near square unless columns says otherwise.

    scale: enlargement, unset is up to SIDE pixels; gutter: pixels between and around; captions: a line above each picture.
    """
    tiles = [single(picture, scale) for picture in pictures]
    columns = min(columns or math.ceil(math.sqrt(len(tiles))), len(tiles))
    rows = math.ceil(len(tiles) / columns)
    width, height = tiles[0].size
    above = math.ceil(sum(font().getmetrics()[:2])) + 2 if captions else 0
    wide = max([width, *(text_width(text) + 4 for text in captions)])
    cell, tall = wide + gutter, height + above + gutter
    sheet, draw, ink = canvas(tiles, (columns * cell + gutter, rows * tall + gutter), background)
    for i, tile in enumerate(tiles):
        x, y = gutter + i % columns * cell, gutter + i // columns * tall
        sheet.paste(tile, (x + (wide - width) // 2, y + above))
        if captions:
            draw.text((x + wide / 2, y + above - 2), captions[i], ink, font(), anchor="ms")
    return sheet


def table(
    rows: Sequence[Sequence[Picture | None] | Picture], captions: Sequence[str], *, gutter: int = 2
) -> Image.Image:
    """Pictures of one size in rows that belong together by columns, behind a caption; None leaves a gap.

    Rows without a caption go on with the one above, which then stands in the middle of them; others keep some distance.
    """
    tiles = [[None if picture is None else single(picture) for picture in row] for row in rows]
    drawn = [tile for row in tiles for tile in row if tile is not None]
    width, height = drawn[0].size
    margin = 3 * gutter
    left = max(map(text_width, captions)) + 2 * margin
    tops = [margin + k * (height + gutter) + margin * sum(map(bool, captions[1 : k + 1])) for k in range(len(rows))]
    across = left + max(map(len, rows)) * (width + gutter) - gutter + margin
    sheet, draw, ink = canvas(drawn, (across, tops[-1] + height + margin))
    for top, row in zip(tops, tiles, strict=True):
        for k, tile in enumerate(row):
            if tile is not None:
                sheet.paste(tile, (left + k * (width + gutter), top))
    first = [k for k, caption in enumerate(captions) if caption]
    for k, after in zip(first, [*first[1:], len(rows)], strict=True):
        middle = (tops[k] + tops[after - 1] + height) / 2
        draw.text((left - margin, middle), captions[k], ink, font(), anchor="rm")
    return sheet


def canvas(
    tiles: Sequence[Image.Image], size: tuple[int, int], background: int = GROUND
) -> tuple[Image.Image, Any, Any]:
    """(sheet, its pen, the ink): in colour where one of the tiles is."""
    mode = "RGB" if any(tile.mode == "RGB" for tile in tiles) else "L"
    ink = INK if background > 127 else 255 - INK
    ground, pen = ((level, level, level) if mode == "RGB" else level for level in (background, ink))
    sheet = Image.new(mode, size, ground)
    return sheet, ImageDraw.Draw(sheet), pen


@cache
def font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Of captions."""
    return ImageFont.load_default(11)


def text_width(text: str) -> int:
    """Pixels of a caption."""
    return math.ceil(font().getlength(text))


def strip(frames: Sequence[tuple[float, Picture]]) -> Image.Image:
    """Snapshots (t, picture) of one image from noise to the end, each under the t at which it exists."""
    return grid(
        [picture for _, picture in frames], min(len(frames), ACROSS), captions=[f"t={t:.3f}" for t, _ in frames]
    )


def save_picture(image: Image.Image, path: Path, format: str | None = None) -> Path:
    """Write an image; format: png, pdf, webp or gif, by default what the name ends in."""
    path, kind = named(path, format)
    options: dict[str, Any] = {}
    if kind == "pdf":  # Pillow stores a palette without loss, and colours as JPEG
        image = image.convert("P") if image.mode == "L" else image
        options = {
            "resolution": 150.0,
            "quality": 95,
            "subsampling": 0,
            "creationDate": time.gmtime(0),
            "modDate": time.gmtime(0),
        }
    elif kind == "webp":
        options = {"lossless": True}
    return write(path, image, kind, options)


def save_animation(
    frames: Sequence[Image.Image], path: Path, format: str | None = None, *, fps: float = 12, hold: float = 1.5
) -> Path:
    """Write a moving picture, webp or gif, that loops and rests `hold` seconds on its last frame."""
    path, kind = named(path, format)
    if kind not in ("webp", "gif"):
        raise UsageError(f"{kind} pictures do not move; use --format webp or gif")
    pace = max(20, round(1000 / fps))  # milliseconds; players slow shorter ones down
    durations = [pace] * (len(frames) - 1) + [max(pace, round(1000 * hold))]
    moving = {"save_all": True, "append_images": frames[1:], "duration": durations, "loop": 0}
    return write(path, frames[0], kind, moving | ({"lossless": True} if kind == "webp" else {"disposal": 1}))


def named(path: Path, format: str | None) -> tuple[Path, str]:
    """The path with the ending of its format; dots inside a name such as step-00-t1.000 are no endings."""
    ending = path.suffix.removeprefix(".").lower()
    kind = format or ending
    if kind not in FORMATS:
        raise UsageError(f"pictures are no {show(kind) or 'files without an ending'}; use one of: {', '.join(FORMATS)}")
    return path if ending == kind else path.with_name(f"{path.name}.{kind}"), kind


def write(path: Path, image: Image.Image, kind: str, options: dict[str, Any]) -> Path:
    """Encoded first, then written; a picture can be drawn again, so it waits for no disk."""
    data = io.BytesIO()
    image.save(data, FORMATS[kind], **options)
    with acting("write", path):
        path.write_bytes(data.getvalue())
    return path


def show_in_terminal(image: Image.Image, console: Console) -> None:
    """Two pixels a character in true colour; a ramp of ten characters where there are no colours or no terminal.

    Made for grids of scale=1, gutter=1, background=0; what is wider than the console is shrunk.
    """
    blocks = (
        console.is_terminal
        and console.color_system is not None
        and not console.no_color
        and console.encoding.startswith("utf")
    )
    across = console.width if blocks else console.width // 2
    if image.width > across:
        image = image.resize((across, max(1, round(image.height * across / image.width))), Image.Resampling.BOX)
    lines = half_blocks(image.convert("RGB")) if blocks else characters(image.convert("L"))
    console.print(Text("\n").join(lines), soft_wrap=True, highlight=False)


def half_blocks(image: Image.Image) -> list[Text]:
    """The upper pixel is the colour of the character, the lower that of its ground."""
    pixels = np.asarray(image)
    if len(pixels) % 2:
        pixels = np.concatenate([pixels, np.zeros_like(pixels[:1])])
    lines = []
    for pair in rearrange(pixels, "(h two) w c -> h w (two c)", two=2).tolist():
        styles = (Style(color=f"rgb({r},{g},{b})", bgcolor=f"rgb({i},{j},{k})") for r, g, b, i, j, k in pair)
        lines.append(Text.assemble(*(("▀", style) for style in styles)))
    return lines


def characters(image: Image.Image) -> list[Text]:
    """A pixel is two characters wide, near square; brighter is denser."""
    levels = (np.asarray(image).astype(int) * len(RAMP)) // 256
    return [Text("".join(RAMP[level] * 2 for level in row).rstrip()) for row in levels]
