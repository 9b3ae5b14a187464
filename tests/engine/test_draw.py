"""What `diffcli sample` leaves behind, and that it never writes over anything."""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from commands import Ran
from diffcli.cli.sample import PLACE
from diffcli.core.space import Pixels
from diffcli.engine import draw, images, pictures
from diffcli.engine.assemble import Facts
from diffcli.engine.load import load
from diffcli.engine.sample import labels
from diffcli.errors import UsageError

CHEAP = ("--steps", "2", "--samples", "3", "--label", "3,7")
SHAPES = Facts("shapes", "train", (3, 16, 16), 3, ("circle", "Star", "T-shirt 2-3"))


@pytest.fixture
def sample(trained: Path, cli: Callable[..., Ran]) -> Callable[..., Path]:
    """`diffcli sample` of the trained rf into the folder of a name; the folder."""

    def drawn(name: str, *argv: object) -> Path:
        ran = cli("sample", trained / "runs" / "rf", *CHEAP, *argv, "--output", name)
        assert ran.code == 0, ran.err
        assert ran.out.splitlines()[0] == name
        assert re.search(r"^sample (\d+)/\1 in \d+\.\d s$", ran.err, re.MULTILINE), ran.err
        return Path(name)

    return drawn


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_way_goes_from_noise_to_the_image(sample: Callable[..., Path]) -> None:
    folder = sample("out", "--trajectory", "4", "--steps", "6")
    assert names(folder) == ["animation.gif", "grid.png", "images", "profile.json", "trajectory"]
    singles = ["000-class3", "001-class7", "002-class3"]
    assert names(folder / "images") == [f"{name}.png" for name in singles]
    assert names(folder / "trajectory") == singles
    for name in singles:
        found = names(folder / "trajectory" / name)
        steps = [file for file in found if file.startswith("step-")]
        assert sorted({*found} - {*steps}) == ["final.png", "strip.png"]
        assert [re.sub(r"-t\d\.\d{3}\.png$", "", file) for file in steps] == [f"step-0{k}" for k in range(4)]
        times = [float(file[9:-4]) for file in steps]
        assert times[0] == 1 and times[-1] == 0 and times == sorted(times, reverse=True)
        last, single = (folder / "trajectory" / name / steps[-1], folder / "images" / f"{name}.png")
        assert last.read_bytes() == single.read_bytes() != (last.parent / steps[0]).read_bytes()
        with Image.open(single) as picture:
            assert picture.size == (48, 48), "8x8 pixels are dots on a screen"


@pytest.mark.parametrize("kind", ["pdf", "webp", "gif"])
def test_every_format_can_be_read(sample: Callable[..., Path], kind: str) -> None:
    folder = sample("out", "--format", kind, "--trajectory", "3", "--steps", "5")
    stills = [folder / f"grid.{kind}", *(folder / "images").iterdir(), *folder.glob("trajectory/*/*")]
    assert len(stills) == 1 + 3 + 3 * (3 + 2)
    for path in stills:
        assert path.suffix == f".{kind}"
        if kind == "pdf":
            assert path.read_bytes().startswith(b"%PDF") and b"%%EOF" in path.read_bytes()[-8:]
        else:
            with Image.open(path) as picture:
                picture.load()
                assert picture.format == kind.upper() and min(picture.size) >= 48
    with Image.open(folder / f"animation.{'gif' if kind == 'pdf' else kind}") as moving:
        assert moving.n_frames == 3


def test_it_is_shown_in_the_terminal(sample: Callable[..., Path], trained: Path, cli: Callable[..., Ran]) -> None:
    sample("quiet")
    ran = cli("sample", trained / "runs" / "rf", *CHEAP, "--show", "--output", "shown")
    assert ran.code == 0, ran.err
    assert len([line for line in ran.out.splitlines() if set(line) & set(images.RAMP.strip())]) > 8


def test_raw_weights_draw_other_images(sample: Callable[..., Path]) -> None:
    averaged, raw = sample("averaged"), sample("raw", "--raw")
    assert [json.loads((f / "profile.json").read_text())["weights"] for f in (averaged, raw)] == ["ema", "raw"]
    assert (averaged / "grid.png").read_bytes() != (raw / "grid.png").read_bytes()


def test_nothing_is_written_over(sample: Callable[..., Path], trained: Path, cli: Callable[..., Ran]) -> None:
    Path("out").mkdir()
    before = {p: p.read_bytes() for p in sample("out").rglob("*") if p.is_file()}
    ran = cli("sample", trained / "runs" / "rf", *CHEAP, "--seed", "1", "--output", "out")
    assert (ran.code, ran.err) == (4, "error: out is not empty; choose another --output\n")
    assert {p: p.read_bytes() for p in Path("out").rglob("*") if p.is_file()} == before


def test_two_that_draw_at_once_have_a_folder_each(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: draw.fresh(tmp_path / "samples", "now"), range(24)))
    assert sorted(names(tmp_path / "samples")) == sorted(path.name for path in made)
    assert {path.name for path in made} == {"now", *(f"now-{k}" for k in range(2, 25))}


def test_pictures_lie_in_the_run_but_not_in_a_model_folder(trained: Path, cli: Callable[..., Ran]) -> None:
    assert cli("export", trained / "runs" / "rf", "model").code == 0
    (run,) = (trained / "runs" / "rf").iterdir()
    checkpoint = sorted((run / "checkpoints").iterdir())[-1]
    for what, home in ((run, run), (checkpoint, run), ("model", Path())):
        ran = cli("sample", what, *CHEAP)
        assert ran.code == 0, ran.err
        assert Path(ran.out.splitlines()[0]).parent == home / "samples"
    assert names(Path("model")) == ["config.json", "model.safetensors"]


def test_a_failed_drawing_does_not_look_whole(
    trained: Path, cli: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Pixels, "decode", lambda space, x, rng: x * float("nan"))
        ran = cli("sample", trained / "runs" / "rf", *CHEAP, "--output", "nan")
        assert ran.code == 7 and not Path("nan").exists()
    monkeypatch.setattr(Path, "write_bytes", full)
    ran = cli("sample", trained / "runs" / "rf", *CHEAP, "--output", "full")
    assert ran.code == 6 and "no space is left" in ran.err
    assert not Path("full", "profile.json").exists()


@pytest.mark.parametrize("n, grid, singles", [(3, 3, 3), (5, 5, 0), (6, 2, 0)])
def test_many_images_have_no_files_of_their_own(
    sample: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, n: int, grid: int, singles: int
) -> None:
    for name, most in {"SINGLES": 3, "WHOLE": 5, "GLANCE": 2}.items():
        monkeypatch.setattr(pictures, name, most)
    folder = sample("out", "--samples", n, "--columns", "1", "--trajectory", "2")
    assert json.loads((folder / "profile.json").read_text())["pictures"] == {"grid": grid, "singles": singles}
    assert [len(list((folder / name).glob("*"))) for name in ("images", "trajectory")] == [singles] * 2
    for name in ("grid.png", "animation.gif"):
        with Image.open(folder / name) as picture:
            assert picture.height == 50 * grid + 2


def test_help_says_how_many() -> None:
    assert re.findall(r"\d+", PLACE) == [str(most) for most in (pictures.SINGLES, pictures.WHOLE, pictures.GLANCE)]


def test_pairs_come_with_a_glance_of_sixty_four(sample: Callable[..., Path]) -> None:
    folder = sample("out", "--pairs", "70", "--samples", "70", "--steps", "1", "--columns", "8")
    assert names(folder) == ["grid.png", "pairs.safetensors", "profile.json"]
    with Image.open(folder / "grid.png") as picture:
        assert picture.size == (8 * 50 + 2, 8 * 50 + 2)


def test_pictures_wait_for_no_disk(sample: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", synced.append)
    sample("out", "--samples", "20")
    assert len(synced) == 2, "profile.json and its folder"


@pytest.mark.parametrize(
    "text, wanted",
    [
        ("2", [2]),
        ("0,1,1", [0, 1, 1]),
        ("0-2", [0, 1, 2]),
        ("1-1, 0", [1, 0]),
        ("star", [1]),
        ("CIRCLE,2,Star", [0, 2, 1]),
        ("t-shirt 2-3", [2]),
    ],
)
def test_classes_are_numbers_ranges_and_names(text: str, wanted: list[int]) -> None:
    assert labels(text, SHAPES) == wanted


@pytest.mark.parametrize(
    "text, message",
    [
        ("3", r"--label 3 is no class of shapes: there are 3, 0 to 2$"),
        ("1-3", "--label 1-3 is no class"),
        ("2-0", "--label 2-0 is no class"),
        ("-1", "--label -1 is no class"),
        ("9" * 5000, "is no class"),
        ("0-999999999", "is no class"),
        ("stra", r"there are 3, 0 to 2; did you mean star\?"),
        ("x", "their names are circle, Star, T-shirt 2-3"),
        ("0,,1", "--label  is no class"),
    ],
)
def test_what_is_no_class_is_refused(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        labels(text, SHAPES)


def test_names_that_differ_in_case_alone_are_told_apart() -> None:
    facts = replace(SHAPES, class_names=("a", "A", "3"), classes=4)
    assert labels("A,a,3", facts) == [1, 0, 3]


def test_a_model_takes_a_number_numbers_or_a_name(trained: Path) -> None:
    model = load(trained / "runs" / "rf")
    model.facts = replace(model.facts, class_names=("zero", "one", "two", "three", *"456789"))
    one = model.sample(2, label=3, steps=1)
    for same in ((3,), [3], "3", "three", ("Three",)):
        assert torch.equal(model.sample(2, label=same, steps=1), one)
    both = model.sample(2, label=(3, 7), steps=1)
    assert torch.equal(model.sample(2, label="three,7", steps=1), both) and not torch.equal(one, both)
    assert torch.equal(model.sample(4, label=None, steps=1), model.sample(4, label="0-9", steps=1))
    for wrong in (10, (3, 10), "thre", "", True):
        with pytest.raises(UsageError, match="label"):
            model.sample(1, label=wrong, steps=1)
