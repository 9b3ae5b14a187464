"""Pictures of tokens show what is hidden, and completions stand below what they complete."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from commands import Ran
from diffcli.core.method import Batch
from diffcli.core.space import PURPLE, Latents, Tokens
from diffcli.engine import images, pictures
from diffcli.engine.assemble import open_data
from diffcli.engine.load import load
from diffcli.engine.sample import Samples, sample
from reveal_plugin import COMPLETIONS, SIDE

INK = torch.from_numpy(images.to_pictures(torch.tensor(PURPLE).reshape(1, 3, 1, 1))[0, 0, 0])


@pytest.fixture
def fill(filled: Path, cli: Callable[..., Ran]) -> Callable[..., Path]:
    """`diffcli sample` of the trained method of tokens into the folder of a name; the folder."""

    def drawn(name: str, *argv: object) -> Path:
        ran = cli("sample", filled / "pictures", "--steps", "3", *argv, "--output", name)
        assert ran.code == 0, ran.err
        return Path(name)

    return drawn


def pixels(path: Path, frame: int = 0) -> Tensor:
    """(H, W, 3) of a picture, or of one frame of it."""
    with Image.open(path) as picture:
        picture.seek(frame)
        return torch.from_numpy(np.array(picture.convert("RGB")))


def hidden(picture: Tensor) -> float:
    """The share that is [MASK]."""
    return float((picture == INK).all(-1).double().mean())


def test_what_is_hidden_is_purple_and_what_is_revealed_stays(fill: Callable[..., Path]) -> None:
    folder = fill("out", "--samples", "4", "--trajectory", "4")
    for way in (folder / "trajectory").iterdir():
        seen = [pixels(path) for path in sorted(way.glob("step-*"))]
        shares = [hidden(picture) for picture in seen]
        assert shares[0] == 1 and shares[-1] == 0 and shares == sorted(shares, reverse=True) and 0 < shares[1] < 1
        for earlier, later in pairwise(seen):
            revealed = ~(earlier == INK).all(-1)
            assert torch.equal(earlier[revealed], later[revealed])
        assert torch.equal(seen[-1], pixels(folder / "images" / f"{way.name}.png"))
        assert hidden(pixels(way / "strip.png")) > 0.2
    films = [pixels(folder / "animation.gif", k) for k in range(4)]
    assert hidden(films[0]) > 0.8 and hidden(films[-1]) == 0, "all but the gutters, and none"
    assert torch.equal(films[-1], pixels(folder / "grid.png")), "a film of four colours is without loss"


def test_completions_stand_below_what_was_given_and_the_truth(filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tables: list[tuple[list[Any], list[str]]] = []
    monkeypatch.setattr(images, "table", lambda rows, captions: tables.append((rows, captions)))
    model, n, half = load(filled / "pictures"), 7, SIDE // 2
    o = replace(model.recipe.sample, inpaint=True, samples=n, steps=3, batch_size=2)
    samples = sample(model, o, model.recipe.parts["sampler"])
    pictures.completed(samples, samples.given, model.space)
    ((truth, given, *completions), captions), ink = tables[0], INK.numpy()
    assert captions == ["truth", "given", "completed", "", ""]
    test = model.method.view(open_data(model.recipe, "test"))
    real = model.space.decode(test.batch(torch.arange(3), torch.arange(3), model.space).x, None)
    assert np.array_equal(truth, np.broadcast_to(images.to_pictures(real), truth.shape))
    assert (given[:, :, half:] == ink).all() and np.array_equal(given[:, :, :half], truth[:, :, :half]), "known stays"
    single = images.to_pictures(samples.x)
    for j, row in enumerate(completions):
        for i, picture in enumerate(row):
            if (number := i * COMPLETIONS + j) < n:
                assert (picture == single[number]).all() and (picture[:, :half] == truth[i][:, :half]).all()
            else:
                assert picture is None, "nothing was drawn here"


def test_completions_are_drawn_where_something_was_given(fill: Callable[..., Path]) -> None:
    assert (fill("given", "--inpaint", "--samples", "3") / "inpaint.png").is_file()
    assert not (fill("free", "--samples", "3") / "inpaint.png").exists()


def test_equal_neighbours_complete_one_image() -> None:
    def of(x: list[int], known: list[int] | None = None) -> list[list[int]]:
        seen = None if known is None else torch.tensor(known)[:, None].bool()
        return pictures.same_given(Batch(torch.arange(len(x)), torch.tensor(x)[:, None], known=seen))

    assert of([5, 5, 5, 7, 7, 7, 5]) == [[0, 1, 2], [3, 4, 5], [6]]
    assert of([5, 5, 5, 5], [1, 1, 0, 0]) == [[0, 1], [2, 3]], "the same image with other pixels missing is another"
    assert of([1]) == [[0]]


def test_a_wide_sheet_of_completions_ends() -> None:
    x, space = torch.arange(60)[:, None] // 3 % 2, Tokens((1, 1, 1), 0)
    given = Batch(torch.arange(60), x, known=torch.ones_like(x).bool())
    samples = Samples(space.decode(x, None), x, x, None, [], 1.0, 1, given=given)  # type: ignore[arg-type]
    sheet = pictures.completed(samples, given, space)
    assert 16 * 50 < sheet.width < 17 * 50 + 80


class Flickering:
    """An autoencoder whose decoder draws."""

    latent_bound = 1.0

    def encode(self, x):
        return x

    def decode(self, z, rng):
        return z + rng.normal("decoder", z.shape[1:])


def test_a_decoder_that_draws_gives_the_same_image_whatever_is_watched(trained: Path) -> None:
    model = load(trained / "runs" / "rf")
    model.space = Latents(Flickering(), model.space)
    part = model.recipe.parts["sampler"]

    def draw(trajectory: int) -> Samples:
        return sample(model, replace(model.recipe.sample, samples=2, steps=3, trajectory=trajectory), part)

    plain, watched = draw(0), draw(3)
    assert torch.equal(plain.x, watched.x) and plain.frames == []
    assert torch.equal(watched.frames[-1][1], watched.x) and not torch.equal(plain.x, plain.x_0)


def test_tokens_have_no_bound(filled: Path, cli: Callable[..., Ran]) -> None:
    ran = cli("sample", filled / "pictures", "--clip", "1", "--output", "out")
    assert (ran.code, ran.err) == (
        2,
        "error: --clip 1 bounds x_0 of numbers, but fill is masked; leave --clip out\n",
    )
    assert not Path("out").exists()
    assert cli("sample", filled / "pictures", "--clip", "0", "--steps", "1", "--output", "out").code == 0


def test_single_images_are_enlarged_by_a_whole_factor(trained: Path, cli: Callable[..., Ran], tmp_path: Path) -> None:
    """Nearest neighbours: each of the 8x8 pixels is a square of one value; the grid is as it was."""
    small, large = (tmp_path / name for name in ("small", "large"))
    for folder, flags in ((small, ()), (large, ("--upscale", 100))):
        ran = cli("sample", trained / "runs" / "rf", "--samples", 2, "--steps", 2, "--output", folder, *flags)
        assert ran.code == 0, ran.err
    first = sorted((large / "images").iterdir())[0].name
    picture = np.asarray(Image.open(large / "images" / first))
    assert picture.shape == (104, 104)  # 13 times 8, the least that is not below 100
    assert np.array_equal(picture, picture[::13, ::13].repeat(13, 0).repeat(13, 1))
    assert np.array_equal(picture[::13, ::13], np.asarray(Image.open(small / "images" / first))[::6, ::6])
    assert (small / "grid.png").read_bytes() == (large / "grid.png").read_bytes()
