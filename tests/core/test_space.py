"""Laws of where tokens live: what goes in comes out, and what can be looked at shows where nothing is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from diffcli.core.random import Rows
from diffcli.core.space import HIDDEN, PURPLE, Latents, Masked, Pixels, Text, Tokens
from diffcli.engine.assemble import Facts
from diffcli.engine.images import to_pictures
from diffcli.errors import UsageError

BYTES = torch.arange(256)
NONE = Rows(0, torch.arange(1), 1)


def greys(levels: int = 255) -> Tensor:
    """(1, 1, 1, levels + 1): every grey, normalized as data sets do."""
    return torch.arange(levels + 1).float().div(levels).sub(0.5).div(0.5).reshape(1, 1, 1, -1)


def test_above_127_of_255_is_1():
    x = Tokens((1, 1, 256), 0).encode(greys())
    assert x.dtype == torch.int64 and x.shape == (1, 256)
    assert torch.equal(x[0], (BYTES > 127).long())


def test_256_values_are_the_bytes_themselves():
    space = Tokens((1, 1, 256), 0, vocab=256)
    x = space.encode(greys())
    assert torch.equal(x[0], BYTES)
    back = ((space.decode(x, NONE) + 1) / 2 * 255).round().long()
    assert torch.equal(back.flatten(), BYTES)


@pytest.mark.parametrize("vocab", [2, 3, 4, 5, 16, 17, 255, 256])
def test_values_come_back(vocab):
    """decode, then encode; black is the first value and white the last."""
    space = Tokens((1, 1, vocab), 0, vocab)
    x = torch.arange(vocab)[None]
    pictures = space.decode(x, NONE)
    assert torch.equal(space.encode(pictures), x)
    assert pictures.min() == -1 and pictures.max() == 1 and pictures.dtype == torch.float32


@pytest.mark.parametrize("vocab", [2, 4, 16])
def test_greys_are_cut_into_equal_parts_in_their_order(vocab):
    x = Tokens((1, 1, 256), 0, vocab).encode(greys())[0]
    assert (x.diff() >= 0).all() and x.bincount().tolist() == [256 // vocab] * vocab


def test_tokens_of_a_picture_are_its_planes_row_by_row():
    """Colour by colour; the picture of a token is where it came from."""
    space = Tokens((3, 4, 5), 2)
    images = torch.rand(6, 3, 4, 5, generator=torch.Generator().manual_seed(0)) * 2 - 1
    x = space.encode(images)
    assert x.shape == (6, 60) and space.shape == (60,) and space.layout == (3, 4, 5) and space.classes == 2
    assert torch.equal(space.decode(x, NONE), torch.where(images >= 0, 1.0, -1.0))
    assert x[0, 2 * 20 + 3 * 5 + 4] == int(images[0, 2, 3, 4] >= 0)


@pytest.mark.parametrize("channels", [1, 3])
def test_what_is_masked_is_purple_and_the_rest_as_it_is(channels):
    """Purple where any colour of a pixel is masked; grey pictures turn into colour ones of equal channels."""
    space = Tokens((channels, 4, 4), 0)
    x = torch.randint(3, (8, 16 * channels), generator=torch.Generator().manual_seed(0))
    seen = space.look(x, NONE)
    hidden = (x == space.blank).unflatten(1, (channels, 4, 4)).any(1)
    assert seen.shape == (8, 3, 4, 4) and 0 < int(hidden.sum()) < hidden.numel()
    pixels = seen.permute(0, 2, 3, 1)
    assert torch.equal(pixels[hidden], torch.tensor(PURPLE).expand(int(hidden.sum()), 3))
    shown = space.decode(x, NONE).expand(8, 3, 4, 4).permute(0, 2, 3, 1)
    assert torch.equal(pixels[~hidden], shown[~hidden])
    (colour,) = {tuple(p) for p in np.stack(to_pictures(seen))[hidden.numpy()].tolist()}
    assert colour == (170, 51, 119) and len(set(colour)) == 3, "no grey is like it"


def test_a_whole_picture_looks_like_itself():
    space, x = Tokens((1, 4, 4), 0), torch.randint(2, (3, 16), generator=torch.Generator().manual_seed(0))
    assert torch.equal(space.look(x, NONE), space.decode(x, NONE).expand(3, 3, 4, 4))


@pytest.mark.parametrize("space", [Tokens((1, 2, 2), 0, 5), Text(4, 0, "abcde")])
def test_the_blank_is_the_mask_and_no_value(space):
    assert isinstance(space, Masked) and space.blank == space.vocab == 5 and space.bound is None


def test_the_blank_of_numbers_is_0():
    assert Pixels((1, 2, 2), 0).blank == Latents.blank == 0


def test_texts_come_back():
    space = Text(9, 0, "\n !abcé\u2028z")
    for text in ("", "a", "abc\n!", "zé\u2028 \n\n"):
        x = space.read(text)
        assert x.dtype == torch.int64 and x.shape == (len(text),) and space.write(x[None]) == [text]
    x = torch.randint(9, (20, 9), generator=torch.Generator().manual_seed(0))
    texts = space.write(x)
    assert all(len(text) == 9 for text in texts) and torch.equal(torch.stack(list(map(space.read, texts))), x)
    assert torch.equal(space.encode(x), x) and torch.equal(space.decode(x, NONE), x) and space.layout == (9,)


def test_a_masked_character_is_a_shaded_box():
    space = Text(4, 0, "ab")
    assert space.write(torch.tensor([[0, 2, 1, 2]])) == [f"a{HIDDEN}b{HIDDEN}"] == ["a\u2591b\u2591"]


@pytest.mark.parametrize(("text", "shown"), [("abx", "'x'"), ("a\x1b[31m", r"'\\x1b'"), (HIDDEN, "'\u2591'")])
def test_a_character_that_was_never_read_is_refused(text, shown):
    """In one line that names it, harmlessly."""
    with pytest.raises(UsageError, match=rf"^{shown} is none of the 2 characters of the training text; leave it out$"):
        Text(8, 0, "ab").read(text)


def test_facts_say_where_a_method_lives():
    pictures, texts = (
        Facts("some", "some/train", (1, 4, 6), 3, ("a", "b", "c")),
        Facts("some", "some/train", (32,), 0, (), "xyz"),
    )
    tokens, pixels, text = pictures.space("masked"), pictures.space("gaussian"), texts.space("masked")
    assert isinstance(tokens, Tokens) and (tokens.shape, tokens.image, tokens.vocab) == ((24,), (1, 4, 6), 2)
    assert isinstance(pixels, Pixels) and pixels.shape == pixels.layout == (1, 4, 6) and tokens.classes == 3
    assert isinstance(text, Text) and (text.shape, text.vocab, text.alphabet) == ((32,), 3, "xyz")


def test_large_rows_are_evaluated_a_few_at_a_time():
    """At most 2^26 log-probabilities and 2^28 pairs of tokens, as many rows as that allows, and never none."""
    for length, vocab in ((64, 2), (784, 2), (256, 65), (1024, 4096), (16384, 65)):
        rows = Text(length, 0, "".join(map(chr, range(32, 32 + vocab)))).rows
        assert rows == 250 or (rows + 1) * length * vocab > 2**26 or (rows + 1) * length**2 > 2**28
        assert rows == 1 or (rows * length * vocab <= 2**26 and rows * length**2 <= 2**28)
    assert Tokens((1, 28, 28), 10).rows == 250
