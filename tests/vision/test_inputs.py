"""Picture files that a user names: found, refused, and brought to the shape of a model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffcli.errors import DataError, UsageError
from diffcli_vision.inputs import listed, read


@pytest.fixture
def files(tmp_path, monkeypatch) -> Path:
    """pictures/ of two pictures, a text and a hidden picture; and a,b.png."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name in ("pictures/b.png", "pictures/a.PNG", "pictures/.hidden.png", "a,b.png"):
        Image.new("L", (4, 4), 128).save(tmp_path / name)
    (folder / "notes.txt").write_text("no picture")
    return folder


def test_files_a_folder_and_a_pattern_are_listed_sorted(files):
    assert [p.name for p in listed("pictures")] == ["a.PNG", "b.png"]
    assert [p.name for p in listed("pictures/b.png,pictures/a.PNG")] == ["b.png", "a.PNG"]  # as named
    assert [p.name for p in listed("pictures/*")] == ["a.PNG", "b.png", "notes.txt"]
    assert [p.name for p in listed("pictures,pictures/b.png")] == ["a.PNG", "b.png", "b.png"]
    assert [str(p) for p in listed("a,b.png")] == ["a,b.png"]  # a name with a comma that is there


@pytest.mark.parametrize("text", ["nothing.png", "*.jpg", "", "pictures/b.png,", "x" * 5000, "a\0b"])
def test_what_names_no_picture_is_refused(files, text):
    with pytest.raises(UsageError, match="quoted pattern"):
        listed(text)
    (files / "empty").mkdir()
    with pytest.raises(UsageError, match="is a folder without pictures"):
        listed("pictures/empty")


def test_the_middle_with_the_proportions_of_the_model_is_taken(tmp_path):
    """Thirds of a wide picture are black, white, black: a square is the white third; of a tall model its middle half."""
    pixels = np.zeros((20, 60), np.uint8)
    pixels[:, 20:40] = 255
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    Image.fromarray(pixels.T).save(tmp_path / "tall.png")
    for name in ("wide", "tall"):
        x = read(tmp_path / f"{name}.png", (1, 20, 20))
        assert x.shape == (1, 20, 20) and x.dtype == np.uint8 and x.min() == 255
    assert read(tmp_path / "wide.png", (1, 20, 10)).min() == 255
    whole = read(tmp_path / "wide.png", (3, 20, 60))
    assert np.array_equal(whole, np.stack([pixels] * 3))
    assert read(tmp_path / "wide.png", (1, 4, 12))[0, 0, [0, 5, 6, 11]].tolist() == [0, 255, 255, 0]
    assert read(tmp_path / "wide.png", (3, 7, 13)).shape == (3, 7, 13)


def test_colors_and_what_is_transparent(tmp_path):
    Image.new("RGBA", (3, 3), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    assert read(tmp_path / "clear.png", (3, 3, 3)).min() == 255  # lies on white
    Image.new("RGB", (3, 3), (255, 0, 0)).save(tmp_path / "red.png")
    assert read(tmp_path / "red.png", (3, 2, 2))[:, 0, 0].tolist() == [255, 0, 0]
    assert read(tmp_path / "red.png", (1, 2, 2))[0, 0, 0] == 76  # 0.299 of 255


def test_what_cannot_be_read_is_told_with_its_name(tmp_path):
    (tmp_path / "notes.png").write_text("no picture")
    Image.new("1", (9000, 8000)).save(tmp_path / "large.png")
    for name, why in (("notes.png", "no readable image"), ("large.png", "above the limit of 64 Mpixel")):
        with pytest.raises(DataError, match=f"{name}.*{why}"):
            read(tmp_path / name, (1, 4, 4))
    with pytest.raises(UsageError, match="1 or 3 channels, but this model is of 2x4x4"):
        read(tmp_path / "notes.png", (2, 4, 4))
