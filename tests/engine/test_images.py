"""A picture shows what was drawn, pixel for pixel, and shows nothing that is not finite."""

from __future__ import annotations

import io
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from diffcli.engine.images import (
    GROUND,
    grid,
    save_animation,
    save_picture,
    show_in_terminal,
    single,
    strip,
    table,
    to_pictures,
)
from diffcli.errors import NonFinite, UsageError


def noise(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_every_level_comes_back_and_what_is_outside_is_clamped() -> None:
    levels = torch.arange(256)
    x = (levels / 127.5 - 1).reshape(1, 1, 16, 16)
    assert np.array_equal(to_pictures(x)[0, :, :, 0].ravel(), levels.numpy())
    assert to_pictures(torch.tensor([-7.0, 7.0]).reshape(1, 1, 1, 2)).ravel().tolist() == [0, 255]


@pytest.mark.parametrize("channels, shown", [(1, 1), (2, 1), (3, 3), (4, 3), (7, 3)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_channels_are_shown_by_rule(channels: int, shown: int, dtype: torch.dtype) -> None:
    x = noise(2, channels, 5, 4).to(dtype)
    pictures = to_pictures(x)
    assert pictures.shape == (2, 5, 4, shown) and pictures.dtype == np.uint8
    assert np.array_equal(pictures, to_pictures(x[:, :shown]))
    assert single(pictures[0], scale=1).size == (4, 5)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_is_never_drawn(bad: float) -> None:
    x = noise(4, 1, 3, 3)
    x[2, 0, 1, 1] = bad
    with pytest.raises(NonFinite, match=r"1 of 4 images have NaN or infinity \(2\)"):
        to_pictures(x)


@pytest.mark.parametrize("n, columns, rows", [(1, 1, 1), (3, 2, 2), (7, 4, 2), (5, 9, 1)])
def test_each_picture_lies_whole_in_its_place(n: int, columns: int, rows: int) -> None:
    pictures = to_pictures(noise(n, 3, 8, 6))
    sheet = np.asarray(grid(pictures, columns, scale=1, gutter=1, background=7))
    wide = min(columns, n)
    assert sheet.shape == (rows * 9 + 1, wide * 7 + 1, 3)
    seen = np.zeros(sheet.shape[:2], bool)
    for i, picture in enumerate(pictures):
        y, x = 1 + i // wide * 9, 1 + i % wide * 7
        assert np.array_equal(sheet[y : y + 8, x : x + 6], picture)
        seen[y : y + 8, x : x + 6] = True
    assert (sheet[~seen] == 7).all()


def test_small_pictures_are_enlarged_by_a_whole_factor() -> None:
    pictures = to_pictures(noise(1, 1, 8, 8))
    sheet = np.asarray(grid(pictures))
    assert sheet.shape == (52, 52)
    assert np.array_equal(sheet[2:-2, 2:-2][::6, ::6], pictures[0, :, :, 0])
    assert np.array_equal(np.asarray(single(pictures[0])), sheet[2:-2, 2:-2])
    assert grid(to_pictures(noise(4, 3, 64, 64))).size == (134, 134)
    assert [single(to_pictures(noise(1, 3, h, w))[0]).size for h, w in ((28, 28), (48, 60), (8, 16))] == [
        (56, 56),
        (60, 48),
        (96, 48),
    ]


def test_captions_take_room_of_their_own() -> None:
    pictures = to_pictures(torch.ones(6, 1, 8, 8))
    plain, captioned = grid(pictures, 3), grid(pictures, 3, captions=["x"] * 6)
    assert captioned.width == plain.width and captioned.height > plain.height
    assert (np.asarray(captioned) == 255).sum() == 6 * 48 * 48, "no picture is written over"
    wide = grid(pictures, 3, captions=["a caption wider than its picture", *[""] * 5])
    assert wide.width > plain.width + 100


def test_a_strip_is_in_the_order_of_its_frames_and_breaks_into_rows() -> None:
    frames = [(1 - k / 39, to_pictures(torch.full((1, 1, 8, 8), k / 20 - 1))[0]) for k in range(40)]
    sheet = strip(frames)
    cell, tall = (sheet.width - 2) // 16, (sheet.height - 2) // 3
    middles = [sheet.getpixel((2 + i % 16 * cell + cell // 2, i // 16 * tall + tall - 10)) for i in range(40)]
    assert middles == [int(picture[0, 0, 0]) for _, picture in frames]


@pytest.mark.parametrize("gap", [False, True])
def test_a_table_has_its_pictures_below_each_other_behind_their_caption(gap: bool) -> None:
    pictures = to_pictures(noise(8, 3, 48, 48))
    rows: list[list[np.ndarray | None]] = [[*pictures[0:2]], [*pictures[2:4]], [*pictures[4:6]], [*pictures[6:8]]]
    if gap:
        rows[3][1] = None
    sheet = np.asarray(table(rows, ["one", "two, which is longer", "three", ""]))
    left = sheet.shape[1] - (2 * 48 + 2 + 6)
    plain = (sheet[:, left:] == GROUND).all((1, 2))
    tops = [y for y in range(1, len(plain)) if plain[y - 1] and not plain[y]]
    between = [b - a - 48 for a, b in pairwise(tops)]
    assert between == [8, 8, 2], "what belongs together lies together"
    for top, row in zip(tops, rows, strict=True):
        for k, picture in enumerate(row):
            cell = sheet[top : top + 48, left + k * 50 :][:, :48]
            assert (cell == (GROUND if picture is None else picture)).all()
    written = [y for y in range(len(sheet)) if (sheet[y, :left] != GROUND).any()]
    for middle in (tops[0] + 24, tops[1] + 24, (tops[2] + tops[3] + 48) / 2):
        assert min(abs(y - middle) for y in written) <= 2
    assert not [y for y in written if tops[3] + 24 < y], "a row without a caption goes on with the one above"


def test_one_coloured_picture_colours_the_grid() -> None:
    grey, purple = to_pictures(torch.zeros(1, 1, 8, 8))[0], to_pictures(noise(1, 3, 8, 8))[0]
    for pair in ((grey, purple), (purple, grey)):
        sheet = np.asarray(grid(pair, 2, scale=1, gutter=1, captions=["a", "b"]))
        assert sheet.shape[-1] == 3
        assert sum(np.array_equal(sheet[-9:-1, x : x + 8], purple) for x in range(sheet.shape[1] - 8)) == 1


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", ["png", "webp"])
def test_still_pictures_are_written_without_loss_and_twice_the_same(tmp_path: Path, kind: str, channels: int) -> None:
    image = single(to_pictures(noise(1, channels, 9, 7))[0])
    path = save_picture(image, tmp_path / f"step-00-t1.000.{kind}")
    assert path.name == f"step-00-t1.000.{kind}"
    with Image.open(path) as read:
        assert read.format == kind.upper() and np.array_equal(np.asarray(read.convert(image.mode)), np.asarray(image))
    assert save_picture(image, tmp_path / "step-00-t1.000", kind) == path and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("channels", [1, 3])
def test_a_pdf_is_a_pdf_and_the_same_each_time(tmp_path: Path, channels: int) -> None:
    image = single(to_pictures(noise(1, channels, 9, 7))[0])
    a, b = (save_picture(image, tmp_path / name, "pdf").read_bytes() for name in "ab")
    assert a.startswith(b"%PDF") and a.replace(b"(a", b"(b") == b


def test_a_gray_gif_is_without_loss(tmp_path: Path) -> None:
    image = single(to_pictures(noise(1, 1, 9, 7))[0])
    with Image.open(save_picture(image, tmp_path / "x.gif")) as read:
        assert np.array_equal(np.asarray(read.convert("L")), np.asarray(image))


@pytest.mark.parametrize("kind", ["webp", "gif"])
@pytest.mark.parametrize("channels", [1, 3])
def test_an_animation_has_its_frames_and_rests_on_the_last(tmp_path: Path, kind: str, channels: int) -> None:
    frames = [single(picture, 4) for picture in to_pictures(noise(5, channels, 8, 8))]
    path = save_animation(frames, tmp_path / "way", kind, fps=10, hold=2)
    with Image.open(path) as read:
        durations = []
        for k in range(read.n_frames):
            read.seek(k)
            read.load()
            durations.append(read.info["duration"])
            if channels == 1 or kind == "webp":
                assert np.array_equal(np.asarray(read.convert(frames[k].mode)), np.asarray(frames[k]))
    assert durations == [100, 100, 100, 100, 2000] and read.info.get("loop") == 0


def test_formats_that_do_not_exist_or_move_are_refused(tmp_path: Path) -> None:
    image = Image.new("L", (2, 2))
    for format in ("bmp", "exe"):
        with pytest.raises(UsageError, match="use one of: png, pdf, webp, gif"):
            save_picture(image, tmp_path / "x", format)
    with pytest.raises(UsageError, match="use one of"):
        save_picture(image, tmp_path / "x")
    with pytest.raises(UsageError, match="do not move"):
        save_animation([image], tmp_path / "x.png")
    assert list(tmp_path.iterdir()) == []


def shown(image: Image.Image, **options: object) -> str:
    out = io.StringIO()
    show_in_terminal(image, Console(file=out, **options))  # type: ignore[arg-type]
    return out.getvalue()


def test_a_terminal_with_colours_shows_two_pixels_a_character() -> None:
    rows = [[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [9, 8, 7]], [[1, 2, 3], [4, 5, 6]]]
    image = single(np.array(rows, np.uint8), scale=1)
    text = shown(image, force_terminal=True, color_system="truecolor", width=80, _environ={"TERM": "xterm"})
    assert text.count("▀") == 4 and text.count("\n") == 2
    assert "38;2;255;0;0;48;2;0;0;255m▀" in text and "38;2;0;255;0;48;2;9;8;7m▀" in text


@pytest.mark.parametrize(
    "options", [{}, {"force_terminal": True, "color_system": None}, {"force_terminal": True, "no_color": True}]
)
def test_elsewhere_it_is_plain_ascii(options: dict[str, object]) -> None:
    image = single(np.array([[[0], [255]], [[128], [0]]], np.uint8), scale=1)
    assert shown(image, width=80, _environ={"TERM": "xterm"}, **options) == "  @@\n++\n"


@pytest.mark.parametrize("terminal", [True, False])
def test_it_fits_the_width(terminal: bool) -> None:
    image = grid(to_pictures(noise(16, 3, 32, 32)), 8, scale=1)
    text = shown(
        image,
        width=40,
        force_terminal=terminal,
        color_system="truecolor" if terminal else None,
        _environ={"TERM": "xterm"},
    )
    if not terminal:
        assert max(map(len, text.splitlines())) <= 40
    else:
        assert max(line.count("▀") for line in text.splitlines()) == 40
