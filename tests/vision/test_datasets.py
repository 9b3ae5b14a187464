"""Laws of the data sets that need no download, and of batching by index."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from diffcli.core.space import Pixels
from diffcli.errors import DataError
from diffcli_vision import DigitsOptions, ShapesOptions
from diffcli_vision.datasets import Images
from diffcli_vision.digits import digits
from diffcli_vision.shapes import KINDS, shapes


def made(n: int = 7, *, flip: bool = False) -> Images:
    images = torch.arange(n * 3 * 4 * 5).reshape(n, 3, 4, 5).remainder(256).byte()
    return Images(images, torch.arange(n) % 2, name="made", split="made/train", class_names=("a", "b"), flip=flip)


@pytest.mark.parametrize("n", [2, 7, 100])
def test_each_epoch_visits_every_item_once(n):
    items = made(n).items(3, torch.arange(5 * n)).reshape(5, n)
    assert torch.equal(items.sort().values, torch.arange(n).expand(5, n))
    if n == 100:
        assert len({tuple(epoch) for epoch in items.tolist()}) == 5


def test_items_are_a_function_of_seed_and_position():
    index = torch.arange(200)
    whole = made().items(0, index)
    fresh = made()
    pieces = torch.cat([fresh.items(0, part) for part in reversed(index.split(13))][::-1])
    assert torch.equal(whole, pieces)
    assert not torch.equal(whole, made().items(1, index))


@pytest.mark.parametrize("split", [1, 13, 64])
def test_flips_do_not_depend_on_the_batches(split):
    index = torch.arange(300)
    whole = made(flip=True).items(0, index)
    assert torch.equal(whole, torch.cat([made(flip=True).items(0, part) for part in index.split(split)]))
    assert torch.equal(whole % 7, made().items(0, index))
    assert 0.35 < (whole >= 7).float().mean() < 0.65


def test_flipped_items_are_mirrored():
    data, space = made(flip=True), Pixels((3, 4, 5), 2)
    batch = data.batch(torch.tensor([2, 9]), torch.tensor([40, 41]), space)
    assert torch.equal(batch.x[1], batch.x[0].flip(-1)) and not torch.equal(batch.x[1], batch.x[0])
    assert batch.label.tolist() == [0, 0] and batch.index.tolist() == [40, 41]


def windows(n: int = 7, *, moving: bool = True, flip: bool = False) -> Images:
    """Windows of 3x3 of pictures of 4x5: six places each."""
    images = torch.arange(n * 3 * 4 * 5).reshape(n, 3, 4, 5).remainder(256).byte()
    return Images(
        images,
        torch.arange(n),
        name="made",
        split="made/train",
        class_names=("a",) * n,
        flip=flip,
        window=3,
        moving=moving,
    )


@pytest.mark.parametrize("flip", [False, True])
def test_a_window_is_a_part_of_the_picture_of_its_item(flip):
    """Every place is met, each as often as another: 500 of 3,000, with a standard deviation of 20."""
    data, index = windows(flip=flip), torch.arange(3000)
    batch = data.batch(data.items(0, index), index, Pixels((3, 3, 3), 7))
    x, count = ((batch.x + 1) * 127.5).round().byte(), torch.zeros(2, 3, dtype=torch.int64)
    places = {(k, i, j): data.images[k, :, i : i + 3, j : j + 3] for k in range(7) for i in range(2) for j in range(3)}
    turned = 0
    for one, of in zip(x, batch.label.tolist(), strict=True):
        found = [
            (i, j, m)
            for i in range(2)
            for j in range(3)
            for m in (0, 1)
            if torch.equal(one, places[of, i, j].flip(-1) if m else places[of, i, j])
        ]
        ((i, j, m),) = found
        count[i, j], turned = count[i, j] + 1, turned + m
    assert data.shape == (3, 3, 3) and (count > 420).all() and (count < 580).all()
    assert 1400 < turned < 1600 if flip else turned == 0
    assert torch.equal(data.items(0, index) % 7, made().items(0, index)) and not data.fixed


def test_windows_do_not_depend_on_the_batches():
    index = torch.arange(300)
    whole = windows(flip=True).items(0, index)
    assert torch.equal(whole, torch.cat([windows(flip=True).items(0, part) for part in index.split(13)]))
    assert torch.equal(whole // 7 % 2, made(flip=True).items(0, index) // 7), (
        "the windows leave the mirroring as it was"
    )


def test_elsewhere_the_window_is_the_middle():
    """Of held-out images, and of training images as they are: the one place in four rows and five columns is (0, 1)."""
    items = torch.arange(7)
    for data in (windows(moving=False), windows()):
        x = data.batch(items, items, Pixels((3, 3, 3), 7)).x
        assert torch.equal(((x + 1) * 127.5).round().byte(), data.images[:, :, 0:3, 1:4])
    assert windows(moving=False).fixed and torch.equal(windows(moving=False).items(0, items), made().items(0, items))


def test_batch_is_normalized_and_encoded():
    class Doubled(Pixels):
        def encode(self, x):
            return 2 * x

    data, items = made(), torch.tensor([3, 0])
    batch = data.batch(items, items, Pixels((3, 4, 5), 2))
    assert torch.equal(batch.x, (data.images[items] / 255 - 0.5) / 0.5)
    assert batch.x.dtype == torch.float32 and batch.label.dtype == torch.int64
    assert torch.equal(data.batch(items, items, Doubled((3, 4, 5), 2)).x, 2 * batch.x)


def test_a_split_has_two_images_or_more():
    with pytest.raises(DataError, match="made/train has 1 images"):
        made(1)


def test_digits_are_what_they_are():
    train, test = digits(DigitsOptions(), "train"), digits(DigitsOptions(), "test")
    assert (len(train), len(test)) == (1438, 359)
    assert train.shape == test.shape == (1, 8, 8) and train.classes == 10
    assert train.labels.bincount(minlength=10).tolist() == [151, 161, 143, 131, 147, 154, 150, 136, 127, 138]
    assert torch.cat([train.labels, test.labels]).bincount().tolist() == [
        178,
        182,
        177,
        183,
        181,
        182,
        181,
        179,
        174,
        180,
    ]
    assert int(train.images.max()) == 16 and train.images.dtype == torch.uint8


def test_digits_are_normalized_exactly():
    data, items = digits(DigitsOptions(), "test"), torch.arange(359)
    x = data.batch(items, items, Pixels(data.shape, 10)).x
    assert torch.equal(x, data.images.float() / 8 - 1)
    assert x.min() == -1 and x.max() == 1


def test_digits_equal_those_of_scikit_learn():
    sklearn = pytest.importorskip("sklearn.datasets")
    source = sklearn.load_digits()
    images, labels = torch.from_numpy(source.images)[:, None], torch.from_numpy(source.target)
    held_out = torch.arange(1797) % 5 == 4
    for split, chosen in (("train", ~held_out), ("test", held_out)):
        data = digits(DigitsOptions(), split)
        assert torch.equal(data.images.double(), images[chosen]) and torch.equal(data.labels, labels[chosen])


def test_shapes_are_balanced_bright_and_disjoint():
    train, test = shapes(ShapesOptions(), "train"), shapes(ShapesOptions(), "test")
    assert (len(train), len(test), train.shape, train.classes) == (10_000, 2_000, (3, 16, 16), 10)
    assert train.labels.bincount().tolist() == [1000] * 10 and test.labels.bincount().tolist() == [200] * 10
    assert train.images.min() < 10 and train.images.max() == 255
    seen = {image.numpy().tobytes() for image in train.images}
    assert len(seen) == 10_000 and not any(image.numpy().tobytes() in seen for image in test.images)


def test_a_shape_is_a_function_of_its_number():
    once, again = shapes(ShapesOptions(size=8), "test"), shapes(ShapesOptions(size=8), "test")
    assert torch.equal(once.images, again.images)
    assert shapes(ShapesOptions(size=20), "test").shape == (3, 20, 20)


def test_each_kind_has_its_own_outline_inside_the_picture():
    y, x = torch.meshgrid(torch.linspace(-1.6, 1.6, 65), torch.linspace(-1.6, 1.6, 65), indexing="ij")
    inside = {name: kind(x, y) < 0 for name, kind in KINDS.items()}
    reach = torch.hypot(x, y)
    for name, mask in inside.items():
        assert 0.02 < mask.float().mean() < 0.4 and reach[mask].max() < 1.35, name
    names = list(inside)
    for i, one in enumerate(names):
        for other in names[:i]:
            both, either = (inside[one] & inside[other]).sum(), (inside[one] | inside[other]).sum()
            assert both / either < 0.9, (one, other)


def test_a_shape_is_wholly_seen():
    edge = shapes(ShapesOptions(size=32), "test").images[:, :, [0, -1], :].float().flatten(1)
    inner = shapes(ShapesOptions(size=32), "test").images[:, :, 16].float().flatten(1)
    assert (edge.reshape(2000, 3, -1).std(-1).amax(1) == 0).float().mean() > 0.9  # the border is background
    assert (inner.reshape(2000, 3, -1).std(-1).amax(1) > 0).float().mean() > 0.9


def test_specs_need_no_torch():
    code = "import sys, diffcli_vision as v; n = len([*v.diffcli_models(), *v.diffcli_datasets()]); sys.exit(n != 10 or 'torch' in sys.modules)"
    assert (
        subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        ).returncode
        == 0
    )
