"""Laws of folders of images: what is a class, what is held out, and how bad files are told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from diffcli.core.space import Pixels
from diffcli.errors import DataError, UsageError
from diffcli_vision import FolderOptions, inputs
from diffcli_vision import folder as module
from diffcli_vision.datasets import Images
from diffcli_vision.folder import folder
from diffcli_vision.reading import Pictures


def save(path: Path, color: object = (200, 100, 0), size: tuple[int, int] = (12, 10), mode: str = "RGB", **how) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, color).save(path, **how)
    return path


def fill(path: Path, n: int, first: int = 0) -> Path:
    """n pictures; the red of picture i is i."""
    for i in range(first, first + n):
        save(path / f"{i:03d}.png", (i, 0, 255))
    return path


def reds(data) -> list[int]:
    return data.images[:, 0, 0, 0].tolist()


def options(path: Path, **how) -> FolderOptions:
    return FolderOptions(path=path, **{"size": 8, **how})


def test_flat_folder_has_no_classes(tmp_path):
    fill(tmp_path, 25)
    train, test = folder(options(tmp_path), "train"), folder(options(tmp_path), "test")
    assert reds(test) == [9, 19] and reds(train) == [i for i in range(25) if i % 10 != 9]
    assert (train.classes, train.class_names, train.labels, train.shape) == (0, (), None, (3, 8, 8))
    assert train.batch(torch.arange(2), torch.arange(2), Pixels((3, 8, 8), 0)).label is None


def test_class_folders_are_sorted_and_hidden_ones_are_none(tmp_path):
    fill(tmp_path / "[" / "red]", 11), fill(tmp_path / "b", 11, 50), fill(tmp_path / "a" / "deep", 8, 100)
    fill(tmp_path / ".cache", 5), (tmp_path / "empty").mkdir(), (tmp_path / "notes.txt").write_text("no image")
    save(tmp_path / "b" / ".hidden.png")
    train, test = folder(options(tmp_path), "train"), folder(options(tmp_path), "test")
    assert train.class_names == ("[", "a", "b") and train.classes == 3
    assert len(train) + len(test) == 30 and reds(test) == [9, 50, 60]
    assert train.labels.tolist() == [0] * 10 + [1] * 8 + [2] * 9


@pytest.mark.parametrize("held_out", ["test", "val"])
def test_train_and_test_folders_are_the_splits(tmp_path, held_out):
    for split, n in (("train", 6), (held_out, 3)):
        fill(tmp_path / split / "x", n), fill(tmp_path / split / "y", n, 100)
    train, test = folder(options(tmp_path), "train"), folder(options(tmp_path), "test")
    assert (len(train), len(test), train.class_names) == (12, 6, ("x", "y"))
    fill(tmp_path / held_out / "z", 3)
    with pytest.raises(DataError, match="class z is not in both"):
        folder(options(tmp_path), "test")


def test_bad_file_is_named_or_counted(tmp_path, capsys):
    fill(tmp_path / "[", 12)
    bad = tmp_path / "[" / "red]\x1b.png"
    bad.write_bytes(b"\x89PNG nonsense")
    with pytest.raises(DataError, match=r"\[/red\]\\x1b\.png is no readable image.*--skip-bad"):
        folder(options(tmp_path), "train")
    assert len(folder(options(tmp_path, skip_bad=True), "train")) == 11
    assert "1 of 12 files skipped" in capsys.readouterr().err


@pytest.mark.parametrize(
    "damage", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b"GIF89a" + b[6:], lambda b: b"\x80\x04pickle"]
)
def test_cut_and_foreign_files_are_bad(tmp_path, damage):
    rng = np.random.default_rng(0)
    fill(tmp_path, 3)
    path = tmp_path / "001.png"
    Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8)).save(path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=r"001\.png is no readable image"):
        folder(options(tmp_path), "train")


def test_caps_of_pixels_and_bytes(tmp_path, monkeypatch):
    fill(tmp_path, 3)
    save(tmp_path / "wide.png", 0, (9000, 8000), "1")
    with pytest.raises(DataError, match=r"wide\.png is no readable image: 9000x8000, above the limit of 64 Mpixel"):
        folder(options(tmp_path), "train")
    save(tmp_path / "wide.png", 0, (12000, 10000), "1")
    with pytest.raises(DataError, match=r"wide\.png is no readable image: Image size"):
        folder(options(tmp_path), "train")
    (tmp_path / "wide.png").unlink()
    monkeypatch.setattr(inputs, "MOST_BYTES", 10)
    with pytest.raises(DataError, match=r"000\.png is no readable image: 0 MB, above"):
        folder(options(tmp_path), "train")


def test_links_that_leave_the_folder_are_refused(tmp_path):
    inside, outside = fill(tmp_path / "in", 4), fill(tmp_path / "out", 4)
    (inside / "link.png").symlink_to(inside / "000.png")
    assert len(folder(options(inside), "train")) == 5
    (inside / "other.png").symlink_to(outside / "000.png")
    with pytest.raises(DataError, match=r"other\.png is a link out of"):
        folder(options(inside), "train")
    (inside / "other.png").unlink()
    (inside / "class").symlink_to(outside)
    with pytest.raises(DataError, match="class is a link out of"):
        folder(options(inside), "train")


def test_link_in_a_circle_ends(tmp_path):
    fill(tmp_path / "a", 3)
    (tmp_path / "a" / "again").symlink_to(tmp_path / "a")
    with pytest.raises(DataError, match="link leads in a circle"):
        folder(options(tmp_path), "train")


def test_middle_square_is_resized(tmp_path):
    pixels = np.zeros((20, 60, 3), np.uint8)
    pixels[:, 20:40] = 255
    for i in range(2):
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
    images = folder(options(tmp_path, size=10), "train").images
    assert images[..., 1:-1].min() == 255 and images.min() > 200
    assert folder(options(tmp_path, size=10, color="grey"), "train").shape == (1, 10, 10)


def test_exif_orientation_is_applied(tmp_path):
    pixels = np.zeros((16, 16, 3), np.uint8)
    pixels[:8] = 255  # bright above
    exif = Image.Exif()
    exif[0x0112] = 3  # turned by 180 degrees
    for i in range(2):
        Image.fromarray(pixels).save(tmp_path / f"{i}.png", exif=exif)
    image = folder(options(tmp_path, size=16), "train").images[0, 0]
    assert image[:8].max() == 0 and image[8:].min() == 255


def test_transparent_lies_on_white_and_16_bits_are_scaled(tmp_path):
    save(tmp_path / "a.png", (0, 0, 0, 0), mode="RGBA")
    Image.fromarray(np.full((9, 9), 257 * 100, np.uint16)).save(tmp_path / "b.png")
    save(tmp_path / "c.png", 50, mode="L")
    assert reds(folder(options(tmp_path), "train")) == [255, 100, 50]


def test_what_is_no_data_set(tmp_path):
    with pytest.raises(UsageError, match="--path"):
        folder(FolderOptions(), "train")
    with pytest.raises(DataError, match="is no folder"):
        folder(options(tmp_path / "nope"), "train")
    with pytest.raises(DataError, match="holds no images"):
        folder(options(tmp_path), "train")
    fill(tmp_path, 5)
    with pytest.raises(DataError, match="test, index % 10 == 9 has 0 images"):
        folder(options(tmp_path), "test")
    fill(tmp_path / "class", 2)
    with pytest.raises(DataError, match=r"beside folders of images, as 000\.png"):
        folder(options(tmp_path), "train")


@pytest.mark.parametrize("flip", [False, True])
def test_what_does_not_fit_in_memory_is_the_same_read_as_it_is_needed(tmp_path, monkeypatch, flip):
    """Bit for bit, batch for batch: the order, which are mirrored, the pictures, the classes; and nothing of them is held."""
    rng = np.random.default_rng(0)
    for k in range(40):
        path = tmp_path / "ab"[k % 2] / f"{k}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (9 + k % 3, 12, 3), np.uint8)).save(path)
    space = Pixels((3, 8, 8), 2)
    for split in ("train", "test"):
        held = folder(options(tmp_path, flip=flip), split)
        with monkeypatch.context() as patch:
            patch.setattr(module, "LARGE", 10)
            read = folder(options(tmp_path, flip=flip, workers=3), split)
        assert isinstance(held, Images) and isinstance(read, Pictures)
        for index in torch.arange(3 * len(held)).split(7):
            a, b = (data.batch(data.items(5, index), index, space) for data in (held, read))
            assert all(torch.equal(getattr(a, what), getattr(b, what)) for what in ("x", "label", "index"))
        facts = ("name", "split", "part", "shape", "classes", "class_names", "licence", "levels", "flip")
        assert [getattr(held, what) for what in facts] == [getattr(read, what) for what in facts]
        assert not read.kept and not read.fixed


def test_half_of_the_machine_is_a_bound_too(tmp_path, monkeypatch):
    fill(tmp_path, 3)
    assert isinstance(folder(options(tmp_path), "train"), Images)
    monkeypatch.setattr(module.os, "sysconf", lambda name: 20)
    assert isinstance(folder(options(tmp_path), "train"), Pictures)


def test_bad_files_are_told_or_counted_where_they_are_read_as_needed(tmp_path, monkeypatch, capsys):
    fill(tmp_path, 6)
    (tmp_path / "bad.png").write_bytes(b"no picture")
    monkeypatch.setattr(module, "LARGE", 10)
    with pytest.raises(DataError, match=r"bad\.png is no readable image: .*--skip-bad"):
        folder(options(tmp_path), "train")
    assert len(folder(options(tmp_path, skip_bad=True), "train")) == 6
    assert "1 of 7 files skipped, the first: " in capsys.readouterr().err


def test_flip_is_for_training(tmp_path):
    fill(tmp_path, 20)
    assert folder(options(tmp_path, flip=True), "train").flip
    assert not folder(options(tmp_path, flip=True), "test").flip


def tiny_imagenet(path: Path, names: tuple[str, ...] = ("n1", "n2", "n3")) -> Path:
    """The layout of tiny-imagenet: images/ in each class, val/ unsorted beside its list, test/ without classes."""
    for k, name in enumerate(names):
        fill(path / "train" / name / "images", 3, 10 * k)
        (path / "train" / name / f"{name}_boxes.txt").write_text("000.png\t0\t0\t1\t1\n")
    fill(path / "val" / "images", 6, 100), fill(path / "test" / "images", 4)
    rows = [f"{100 + i:03d}.png\t{names[(i * 2) % 3]}\t0\t0\t9\t9" for i in range(6)]
    (path / "val" / "val_annotations.txt").write_text("\n".join(rows) + "\n")
    return path


def test_a_list_beside_unsorted_images_tells_their_classes(tmp_path):
    path = tiny_imagenet(tmp_path)
    train, test = folder(options(path), "train"), folder(options(path), "test")
    assert train.class_names == test.class_names == ("n1", "n2", "n3")
    assert reds(train) == [0, 1, 2, 10, 11, 12, 20, 21, 22] and train.labels.tolist() == [0] * 3 + [1] * 3 + [2] * 3
    assert reds(test) == [100, 101, 102, 103, 104, 105] and test.labels.tolist() == [0, 2, 1, 0, 2, 1]
    assert test.split.endswith("/test, folder val by val_annotations.txt")


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("999.png\tn1", r"999\.png is not there, but .*val_annotations\.txt names it"),
        ("100.png\tn9", r"puts 100\.png into class n9, which train does not have"),
        ("../../a.png\tn1", r"has the line \.\./\.\./a\.png\\tn1, which is not: file, tab, class"),
        ("100.png n1", r"has the line 100\.png n1, which is not"),
    ],
)
def test_a_list_that_does_not_fit_is_refused(tmp_path, line, says):
    path = tiny_imagenet(tmp_path)
    (path / "val" / "val_annotations.txt").write_text(line + "\n")
    with pytest.raises(DataError, match=says):
        folder(options(path), "test")


def test_only_the_classes_of_the_list_are_taken(tmp_path):
    path = tiny_imagenet(tmp_path / "data")
    chosen = tmp_path / "two.txt"
    chosen.write_text("# two of three\nn3\n\n n1  # the first\n")
    train, test = (folder(options(path, classes=chosen), split) for split in ("train", "test"))
    assert train.class_names == test.class_names == ("n1", "n3")
    assert reds(train) == [0, 1, 2, 20, 21, 22] and train.labels.tolist() == [0] * 3 + [1] * 3
    assert reds(test) == [100, 101, 103, 104] and test.labels.tolist() == [0, 1, 0, 1]


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ("n1\nn4\nn5", "train has no folder n4 with images, which --classes lists; 2 of 3 are missing"),
        ("n1\nn2\nn1", "n1 stands in it twice"),
        ("n1\n../n2", r"\.\./n2 is no name of a folder"),
        ("n1\n.n2", r"\.n2 is no name of a folder"),
        ("# none\n", "lists no classes"),
    ],
)
def test_a_list_of_classes_that_cannot_be_is_refused(tmp_path, lines, says):
    path, chosen = tiny_imagenet(tmp_path / "data"), tmp_path / "list.txt"
    chosen.write_text(lines)
    with pytest.raises(DataError, match=says):
        folder(options(path, classes=chosen), "train")


def test_a_list_has_a_file_or_a_name(tmp_path, monkeypatch):
    """The hundred classes of imagenet100 (Tian et al. 2019) are shipped, by the names of their folders."""
    monkeypatch.chdir(tmp_path)
    names = module.listed(Path("imagenet100"))
    assert len(names) == 100 and all(name[0] == "n" and name[1:].isdecimal() and len(name) == 9 for name in names)
    with pytest.raises(UsageError, match="--classes imagenet1000 is no file, nor a list that is shipped: imagenet100"):
        module.listed(Path("imagenet1000"))
    Path("imagenet100").write_text("mine")
    assert module.listed(Path("imagenet100")) == {"mine"}
    Path("large").write_bytes(b"n" * (module.MOST_LINES + 1))
    with pytest.raises(DataError, match="large is larger than"):
        module.listed(Path("large"))
    Path("binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="binary is no UTF-8 text"):
        module.listed(Path("binary"))
