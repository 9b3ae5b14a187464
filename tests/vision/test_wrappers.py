"""Laws of what is done to a data set: draws and masks are fixed by their address, and what is missing never gets out."""

from __future__ import annotations

from math import sqrt

import pytest
import torch

from diffcli.core.method import Batch
from diffcli.core.space import Pixels, Text, Tokens
from diffcli.engine.assemble import Facts
from diffcli.errors import UsageError
from diffcli_vision.datasets import Images
from diffcli_vision.text import Texts
from diffcli_vision.wrappers import Binarized, Corrupted

SHAPE = (1, 28, 28)
PIXELS, TOKENS = Pixels(SHAPE, 2), Tokens(SHAPE, 2)


def made(n: int = 50, *, split: str = "made/train", flip: bool = False, part: str = "", seed: int = 0) -> Images:
    images = torch.randint(0, 256, (n, *SHAPE), generator=torch.Generator().manual_seed(seed)).byte()
    labels = torch.arange(n) % 2
    return Images(images, labels, name="made", split=split, class_names=("a", "b"), flip=flip, part=part, licence="CC0")


def flat(value: int, n: int = 50) -> Images:
    """Images of one grey."""
    return Images(torch.full((n, *SHAPE), value).byte(), None, name="flat", split="flat/train")


def read(dataset, items, index=None, space=TOKENS) -> Batch:
    items = torch.as_tensor(items)
    return dataset.batch(items, items if index is None else torch.as_tensor(index), space)


class Foreign:
    """The least that a data set of another plugin says of itself, with noise for images."""

    name, split, shape, classes, class_names = "foreign", "its test set", (3, 4, 5), 0, ()

    def __len__(self):
        return 6

    def to(self, device):
        return self

    def items(self, seed, index):
        return index % 6

    def batch(self, items, index, space):
        images = torch.rand(6, *self.shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
        return Batch(index, space.encode(images[items]))


# what is missing


@pytest.mark.parametrize("missing", [0.1, 0.5, 0.9])
def test_as_much_is_missing_as_was_asked_for(missing):
    """Of 50 x 784 entries; the standard error is 0.0025 or less, and the seed is fixed."""
    data = Corrupted(made(), missing)
    known = read(data, range(50)).known
    assert known.shape == (50, 784) and known.dtype == torch.bool
    rate = 1 - float(known.double().mean())
    assert abs(rate - missing) < 0.005 and data.rate() == pytest.approx(rate, abs=1e-12)
    for along, n in ((0, 50), (1, 784)):  # pixels and images differ as independent draws do: 5 standard errors
        spread = known.double().mean(along).var() * n / (missing * (1 - missing))
        assert abs(spread - 1) < 5 * sqrt(2 / (50 * 784 / n))


def test_a_mask_is_a_function_of_seed_split_and_item():
    masks = read(Corrupted(made(), 0.5), range(50)).known
    assert len({tuple(row) for row in masks.tolist()}) == 50
    shuffled = torch.randperm(50, generator=torch.Generator().manual_seed(1))
    again = Corrupted(made(seed=9), 0.5)  # other images
    assert torch.equal(read(again, shuffled, index=shuffled + 1000).known, masks[shuffled])
    assert torch.equal(torch.cat([read(again, rows).known for rows in shuffled.split(7)]), masks[shuffled])
    assert torch.equal(read(again, range(50), space=PIXELS).known.flatten(1), masks)
    assert torch.equal(read(Corrupted(Binarized(made(), "dynamic", 3, training=True), 0.5), range(50)).known, masks)
    for other in (Corrupted(made(), 0.5, seed=1), Corrupted(made(split="made/test"), 0.5)):
        assert abs((read(other, range(50)).known == masks).double().mean() - 0.5) < 0.0125  # 5 standard errors


def test_masks_grow_with_the_share():
    few, many = (read(Corrupted(made(), share), range(50)).known for share in (0.3, 0.6))
    assert not (many & ~few).any()


def test_the_truth_of_what_is_missing_never_gets_out():
    for space in (TOKENS, PIXELS):
        for wrap in (lambda d: d, lambda d: Binarized(d, "threshold"), lambda d: Binarized(d, "static")):
            one = made()
            known = read(Corrupted(wrap(one), 0.7), range(50), space=space).known.reshape(one.images.shape)
            other = made()
            other.images = torch.where(known, one.images, 255 - one.images)
            a, b = (read(Corrupted(wrap(data), 0.7), range(50), space=space) for data in (one, other))
            for x, y in zip(a, b, strict=True):
                assert (x is None and y is None) or torch.equal(x, y)
            assert (a.x[~a.known] == space.blank).all()
            assert torch.equal(a.x[a.known], read(wrap(one), range(50), space=space).x[a.known])


def test_where_nothing_is_missing_nothing_changes():
    for data, space in ((made(), TOKENS), (made(), PIXELS), (Binarized(made(), "static"), TOKENS)):
        plain, seen = read(data, range(50), space=space), read(Corrupted(data, 0), range(50), space=space)
        assert torch.equal(seen.x, plain.x) and seen.x.dtype == plain.x.dtype and bool(seen.known.all())


def test_an_image_that_lacks_pixels_has_no_mirrored_twin():
    """Half of the epochs would show pixels that the others hide."""
    data, index = Corrupted(made(20, flip=True), 0.5), torch.arange(400)
    items = data.items(0, index)
    assert int(items.max()) == 19 and int(made(20, flip=True).items(0, index).max()) >= 20
    assert torch.equal(read(data, items).x, read(data, items + 20).x) and not data.flip


@pytest.mark.parametrize("missing", [90, 1, 1.5, -0.1, float("nan")])
def test_a_percentage_is_refused(missing):
    with pytest.raises(UsageError, match=r"missing is a fraction: for (90 % write 0\.9|1\.5 % write 0\.015)"):
        Corrupted(made(), missing)


# black and white


def test_above_127_is_white():
    images = torch.arange(256).byte().reshape(1, 1, 16, 16).repeat(2, 1, 1, 1)
    data = Binarized(Images(images, None, name="grey", split="grey/test"), "threshold")
    x = read(data, [0, 1], space=Pixels((1, 16, 16), 0)).x
    assert torch.equal(x, torch.where(images > 127, 1.0, -1.0))
    assert data.split == "grey/test, binarized by threshold at 127" and data.levels == 1


def test_half_of_sixteen_levels_is_white():
    images = torch.arange(17).byte().repeat(2, 1, 1, 1)
    data = Binarized(Images(images, None, name="grey", split="grey/test", levels=16), "threshold")
    x = read(data, [0, 1], space=Tokens((1, 1, 17), 0)).x
    assert torch.equal(x, (torch.arange(17) >= 8).long().expand(2, -1))
    assert data.split == "grey/test, binarized by threshold at 7"


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("protocol", ["static", "dynamic"])
@pytest.mark.parametrize("value", [0, 1, 64, 127, 200, 255])
def test_a_grey_is_as_often_white_as_it_is_bright(value, protocol, training):
    """x/255 +- 4 standard errors of 50 x 784 pixels; black and white themselves always stay."""
    p = value / 255
    share = read(Binarized(flat(value), protocol, training=training), range(50)).x.double().mean()
    assert abs(share - p) <= 4 * sqrt(p * (1 - p) / (50 * 784))


def test_static_is_one_draw_for_ever():
    data = Binarized(made(), "static", 5, training=True)
    x = read(data, range(50)).x
    order = torch.randperm(50, generator=torch.Generator().manual_seed(1))
    later = Binarized(made(), "static", 5)
    assert torch.equal(torch.cat([read(later, rows, index=rows + 7000).x for rows in order.split(9)]), x[order])
    for other in (Binarized(made(), "static", 6), Binarized(made(split="made/test"), "static", 5)):
        assert not torch.equal(read(other, range(50)).x, x)


def test_dynamic_draws_anew_at_each_access():
    data, half = Binarized(flat(127), "dynamic", training=True), Binarized(flat(127), "static")
    first, second = (read(data, range(50), index=torch.arange(50) + start).x for start in (0, 50))
    assert abs((first == second).double().mean() - 0.5) < 0.0125  # 5 standard errors: independent
    order = torch.randperm(50, generator=torch.Generator().manual_seed(1))
    assert torch.equal(read(data, order, index=order + 50).x, second[order])
    assert not torch.equal(first, read(half, range(50)).x)


def test_what_is_held_out_has_one_draw():
    """So that a measure of it repeats, whatever was trained on."""
    static, dynamic = (Binarized(made(), protocol, 2) for protocol in ("static", "dynamic"))
    assert torch.equal(read(dynamic, range(50), index=range(50, 100)).x, read(static, range(50)).x)
    assert static.split == dynamic.split == "made/train, binarized statically, seed 2"
    assert Binarized(made(), "dynamic", 2, training=True).split == "made/train, binarized dynamically, seed 2"


def test_a_mirrored_image_is_the_mirrored_draw():
    data = Binarized(made(20, flip=True), "static", training=True)
    once, twin = (read(data, torch.arange(20) + start, space=PIXELS).x for start in (0, 20))
    assert torch.equal(twin, once.flip(-1)) and not torch.equal(twin, once)
    index = torch.arange(100)
    assert torch.equal(data.items(0, index), made(20, flip=True).items(0, index))


# both


def test_moved_data_keep_their_draws():
    """Else a resume from another folder would show what was missing."""
    here, there = (Binarized(made(split=f"{path}/train", part="folder/train"), "static") for path in ("/a", "/b"))
    assert torch.equal(read(here, range(50)).x, read(there, range(50)).x)
    assert torch.equal(read(Corrupted(here, 0.5), range(50)).known, read(Corrupted(there, 0.5), range(50)).known)


def test_facts_labels_and_places_pass_through():
    data = Corrupted(Binarized(made(), "threshold"), 0.9, 4)
    batch = read(data, [7, 8], index=[40, 41])
    assert batch.label.tolist() == [1, 0] and batch.index.tolist() == [40, 41]
    split = "made/train, binarized by threshold at 127, 90 % missing (seed 4)"
    assert Facts.of(data) == Facts("made", split, SHAPE, 2, ("a", "b"))
    assert (len(data), data.licence, data.levels, data.to("cpu")) == (50, "CC0", 1, data)


def test_texts_can_lack_characters_but_have_no_greys():
    texts = Texts(torch.arange(40).byte() % 3, length=8, alphabet="abc", name="text", split="t", part="text/train")
    space = Text(8, 0, "abc")
    data = Corrupted(texts, 0.5)
    batch = read(data, range(5), space=space)
    assert torch.equal(batch.x == space.blank, ~batch.known) and 0 < int(batch.known.sum()) < 40
    items = data.items(0, torch.arange(50))
    assert torch.equal(read(data, items, space=space).x, batch.x[items]) and int(texts.items(0, items).max()) >= 5
    assert Facts.of(data).space("masked").alphabet == "abc"
    with pytest.raises(UsageError, match="text has no pictures"):
        Binarized(texts, "threshold")


@pytest.mark.parametrize("protocol", ["threshold", "static", "dynamic"])
def test_data_of_other_plugins_will_do(protocol):
    data = Corrupted(Binarized(Foreign(), protocol, training=True), 0.5)
    batch = read(data, data.items(0, torch.arange(9)), space=Pixels((3, 4, 5), 0))
    assert set(batch.x.unique().tolist()) == {-1, 0, 1} and batch.known.shape == (9, 3, 4, 5)
    assert data.split.startswith("its test set, binarized ")
