"""Laws of pictures that are cropped anew at each access: what is taken, that it is a function of the position, and no more."""

from __future__ import annotations

import math
import shutil
from collections import Counter
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from PIL import Image

from commands import TINY
from diffcli.core.space import Pixels
from diffcli.errors import DataError
from diffcli_vision import FolderOptions, reading
from diffcli_vision.crops import Crops, part, window
from diffcli_vision.folder import folder
from runs import forget, same

SPACE = Pixels((3, 8, 8), 2)


def coordinates(width: int, height: int, blue: int = 0) -> Image.Image:
    """Red is the column, green the row."""
    x = np.zeros((height, width, 3), np.uint8)
    x[..., 0], x[..., 1], x[..., 2] = np.arange(width), np.arange(height)[:, None], blue
    return Image.fromarray(x)


@pytest.fixture
def pictures(tmp_path) -> Path:
    """Twelve pictures of two classes, 20 x 15 to 31 x 15; the blue of each is its number."""
    for k in range(12):
        path = tmp_path / "data" / "train" / "ab"[k % 2] / f"{k:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        coordinates(20 + k, 15, k).save(path)
        other = tmp_path / "data" / "test" / "ab"[k % 2] / f"{k:02d}.png"
        other.parent.mkdir(parents=True, exist_ok=True)
        coordinates(20 + k, 15, 100 + k).save(other)
    return tmp_path / "data"


def train(path: Path, crop: str = "random", **how) -> Crops:
    return folder(FolderOptions(path=path, size=8, crop=crop, **how), "train")


def seen(data, index: torch.Tensor, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """(B, 3, 8, 8) uint8 and labels at these positions of the stream."""
    batch = data.batch(data.items(seed, index), index, SPACE)
    return ((batch.x + 1) * 127.5).round().byte(), batch.label


def test_a_window_is_pixels_of_the_picture_as_they_are(pictures):
    data = train(pictures)
    x, label = seen(data, torch.arange(12))
    assert sorted(x[:, 2, 0, 0].tolist()) == list(range(12))
    for one, of in zip(x, label, strict=True):
        left, top, number = int(one[0, 0, 0]), int(one[1, 0, 0]), int(one[2, 0, 0])
        assert torch.equal(one[0], (left + torch.arange(8).byte()).expand(8, 8))
        assert torch.equal(one[1], (top + torch.arange(8).byte())[:, None].expand(8, 8))
        assert of == number % 2 and (one[2] == number).all() and left + 8 <= 20 + number and top + 8 <= 15


def test_every_window_is_as_likely_as_another():
    """15 places of a picture of 12 x 10, 6,000 draws: 400 each, with a standard deviation of 19."""
    boxes = Counter(window(12, 10, 8, Random(k)) for k in range(6000))
    assert len(boxes) == 15 and all(320 < count < 480 for count in boxes.values())
    assert all((r - a, b - t) == (8, 8) and a >= 0 and r <= 12 and t >= 0 and b <= 10 for a, t, r, b in boxes)


def test_a_picture_that_is_too_small_is_enlarged(tmp_path):
    """The largest square of one of 9 x 6 has 6 pixels a side, and is resized to 8."""
    for k in range(3):
        coordinates(9, 6, k).save(tmp_path / f"{k}.png")
    data = folder(FolderOptions(path=tmp_path, size=8, crop="random"), "train")
    x = data.batch(data.items(0, torch.arange(3)), torch.arange(3), SPACE).x
    whole = coordinates(9, 6)
    squares = [whole.resize((8, 8), Image.Resampling.BICUBIC, box=(k, 0, k + 6, 6)) for k in range(4)]
    known = [torch.from_numpy(np.asarray(one).copy()).permute(2, 0, 1)[:2] for one in squares]
    for one in ((x + 1) * 127.5).round().byte():
        assert any(torch.equal(one[:2], square) for square in known)


@pytest.mark.parametrize("size", [(400, 300), (300, 400), (256, 256)])
def test_a_part_has_the_published_areas_and_proportions(size):
    """Area 0.2 to 1 and proportions 3:4 to 4:3, each to the rounding of its sides; as often high as wide in a square."""
    width, height = size
    boxes = [part(width, height, Random(k)) for k in range(2000)]
    sides = np.array([(r - a, b - t) for a, t, r, b in boxes], float)
    share, ratio = sides.prod(1) / (width * height), sides[:, 0] / sides[:, 1]
    assert 0.197 < share.min() < 0.21 and 0.9 < share.max() <= 1
    assert 0.745 < ratio.min() < 0.76 and 1.32 < ratio.max() < 1.345
    assert all(a >= 0 and r <= width and t >= 0 and b <= height for a, t, r, b in boxes)
    if width == height:  # the logarithm is uniform over 2 log(4/3): a standard error of 0.166/sqrt(2000)
        assert abs(np.log(ratio).mean()) < 4 * math.log(4 / 3) / math.sqrt(3 * 2000)


def test_where_no_part_fits_the_middle_is_taken():
    assert part(100, 10, Random(0)) == (43, 0, 56, 10) and part(9, 90, Random(1)) == (0, 39, 9, 51)


@pytest.mark.parametrize("crop", ["random", "resized"])
def test_neither_workers_nor_memory_nor_batches_change_a_bit(pictures, monkeypatch, crop):
    one = train(pictures, crop, workers=1, flip=True)
    x, label = seen(one, torch.arange(60))
    assert len(one.kept) == 12
    monkeypatch.setattr(reading, "KEPT", 2 * 20 * 15 * 3)
    many = train(pictures, crop, workers=7, flip=True)
    parts = [seen(many, index) for index in torch.arange(60).split(7)]
    assert torch.equal(x, torch.cat([p for p, _ in parts])) and torch.equal(label, torch.cat([p for _, p in parts]))
    again = [seen(many, index) for index in reversed(torch.arange(60).split(9))]
    assert torch.equal(x, torch.cat([p for p, _ in reversed(again)]))
    assert len(many.kept) == 1 and many.room >= 0, "no more is kept than there is room for"
    assert not torch.equal(x, seen(one, torch.arange(60), seed=1)[0])


def test_what_was_read_ahead_is_bounded(pictures):
    data = train(pictures, workers=2)
    for start in range(0, 400, 4):
        data.items(0, torch.arange(start, start + 4))
    assert len(data.ahead) <= 4 * 4 + 2


def test_each_epoch_has_each_picture_once_and_otherwise(pictures):
    data = train(pictures)
    (x, _), (y, _) = seen(data, torch.arange(12)), seen(data, torch.arange(12, 24))
    (a, b) = (z[z[:, 2, 0, 0].argsort()] for z in (x, y))
    assert torch.equal(a[:, 2], b[:, 2]) and (a != b).flatten(1).any(1).sum() > 8 and not data.fixed


def test_half_are_mirrored_if_asked_for(pictures):
    turned = [bool(x[0, 0, 0] > x[0, 0, 7]) for x in seen(train(pictures, flip=True), torch.arange(400))[0]]
    assert 160 < sum(turned) < 240
    assert not any(x[0, 0, 0] > x[0, 0, 7] for x in seen(train(pictures), torch.arange(100))[0])


def test_as_they_are_pictures_are_the_middle_squares_of_the_other_way(pictures):
    """What is compared with samples, and what is held out, does not depend on --crop."""
    data, plain = train(pictures, "resized"), train(pictures, "middle")
    items = torch.arange(12)
    (a, b) = (each.batch(items, items, SPACE) for each in (data, plain))
    assert torch.equal(a.x, b.x) and torch.equal(a.label, b.label)
    assert (data.split, data.part, data.shape, data.class_names) == (plain.split, plain.part, plain.shape, ("a", "b"))
    (a, b) = (folder(FolderOptions(path=pictures, size=8, crop=c), "test") for c in ("random", "middle"))
    assert torch.equal(a.images, b.images) and len(a) == 12


def test_grey_pictures_have_one_channel(pictures):
    data = train(pictures, color="grey")
    x = data.batch(data.items(0, torch.arange(5)), torch.arange(5), Pixels((1, 8, 8), 2)).x
    assert x.shape == (5, 1, 8, 8)


def test_what_is_no_image_is_told_before_the_first_batch(pictures, capsys):
    (pictures / "train" / "a" / "bad.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"bad\.png is no readable image: .*--skip-bad"):
        train(pictures)
    assert len(train(pictures, skip_bad=True)) == 12
    assert "1 of 13 files skipped" in capsys.readouterr().err


def test_a_file_that_ends_early_is_told_when_it_is_met(pictures, capsys):
    """Its header is sound. With --skip-bad the next picture stands in for it, with its own class, and it is told once."""
    path = pictures / "train" / "a" / "10.png"  # the last of its class
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(DataError, match=r"10\.png is no readable image: .*; remove it, or count such files"):
        seen(train(pictures), torch.arange(12))
    for workers in (1, 5):
        x, label = seen(train(pictures, skip_bad=True, workers=workers), torch.arange(24))
        assert Counter(x[:12, 2, 0, 0].tolist()) == Counter([*range(10), 11, 1])
        assert torch.equal(label, x[:, 2, 0, 0].long() % 2)
        assert capsys.readouterr().err.count("10.png is no readable image") == 1


def test_caps_hold_for_what_is_read_later(pictures, monkeypatch):
    monkeypatch.setattr("diffcli_vision.inputs.MOST_PIXELS", 20 * 15)
    with pytest.raises(DataError, match=r"\.png is no readable image: \d+x15, above the limit of"):
        train(pictures)


def test_a_resumed_run_is_the_whole_one_with_other_workers(cli, pictures):
    asked = ["--dataset", "folder", "--path", pictures, "--size", "8", "--crop", "resized", "--flip"]
    args = ["train", "rf", *asked, *TINY, "--save-every", "2"]
    assert cli(*args, "--workers", "1", "--output", "whole").code == 0
    shutil.copytree("whole", "parts")
    forget(Path("parts"), 4)
    ran = cli("train", "rf", "--resume", "parts", "--dataset", "folder", "--workers", "2")
    assert ran.code == 0, ran.err
    same(Path("whole"), Path("parts"))
