"""Laws of texts: windows are the text, and splits share their alphabet and nothing else."""

from __future__ import annotations

import pytest
import torch

from diffcli.errors import DataError, UsageError
from diffcli_vision import TextOptions
from diffcli_vision.text import SPLITS, Texts
from texts import WORDS, opened, said, space_of


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def start_of(data: Texts, items: torch.Tensor) -> torch.Tensor:
    """Where windows begin, in a text whose characters are all different."""
    return data.batch(items, items, space_of(data)).x[:, 0]


# windows


def test_windows_in_order_are_the_text():
    data = opened(WORDS * 20)
    items = torch.arange(len(data))
    batch = data.batch(items, items + 5, space_of(data))
    assert batch.x.shape == (len(data), 8) and batch.x.dtype == torch.int64
    assert "".join(space_of(data).write(batch.x)) == (WORDS * 10)[: 8 * len(data)]
    assert len(data) == len(WORDS) * 10 // 8 and batch.index.tolist() == (items + 5).tolist()
    assert (data.shape, data.classes, data.class_names, batch.label, batch.known) == ((8,), 0, (), None, None)


def test_items_are_a_function_of_seed_and_position():
    data, index = opened(WORDS * 20), torch.arange(300)
    whole = data.items(3, index)
    pieces = [opened(WORDS * 20).items(3, part) for part in reversed(index.split(13))]
    assert torch.equal(whole, torch.cat(pieces[::-1])) and not torch.equal(whole, data.items(4, index))
    epochs = (whole % len(data))[: 5 * len(data)].reshape(5, -1)
    assert torch.equal(epochs.sort().values, torch.arange(len(data)).expand(5, -1))


@pytest.mark.parametrize("n", [16, 17, 23, 80])
def test_epochs_cut_the_text_at_every_offset(n):
    """In as many epochs as a window is long each offset comes up once, so that each neighbourhood is seen."""
    whole = "".join(chr(0x4E00 + k) for k in range(2 * n))
    data = opened(whole, splits=(0.5, 0, 0.5))
    items = data.items(0, torch.arange(8 * len(data))).reshape(8, -1)
    assert sorted((items // len(data))[:, 0].tolist()) == list(range(8))
    for epoch in items:
        offset = int(epoch[0]) // len(data)
        expected = [min(8 * k + offset, n - 8) for k in range(len(data))]
        assert sorted(start_of(data, epoch).tolist()) == expected
    seen = data.batch(items.flatten(), items.flatten(), space_of(data)).x
    assert set(seen.flatten().tolist()) == set(range(n))
    assert set(seen[:, 0].tolist()) == set(range(n - 7))


def test_measures_take_the_uncut_windows():
    data = opened("".join(chr(0x4E00 + k) for k in range(100)))
    assert start_of(data, torch.arange(len(data))).tolist() == [8 * k for k in range(len(data))]


# splits


def test_splits_are_the_text_cut_in_three():
    whole = WORDS * 9 + "!"
    parts = [opened(whole, split) for split in SPLITS]
    assert "".join(map(said, parts)) == whole
    assert [len(part.numbers) for part in parts] == [198, 99, 100]
    assert len({part.part for part in parts}) == 3
    assert [part.split for part in parts] == [
        f"text/a.txt, {where}, {len(set(whole))} characters, windows of 8"
        for where in ("first 50 %", "50 to 75 %", "last 25 %")
    ]


@pytest.mark.parametrize("splits", [(0.7, 0.2, 0.1), (0.9, 0.05, 0.05), (0.69, 0.11, 0.2), (1 / 3, 1 / 3, 1 / 3)])
def test_no_share_is_rounded_away(splits):
    parts = [opened("ab" * 4500, split, splits=splits) for split in SPLITS]
    assert [len(part.numbers) for part in parts] == [round(9000 * share) for share in splits]


def test_all_splits_number_the_characters_of_the_whole_file():
    whole = "ab" * 20 + "cd" * 10 + "zy" * 10
    assert {opened(whole, split).alphabet for split in SPLITS} == {"abcdyz"}
    assert said(opened(whole, "test")) == "zy" * 10


@pytest.mark.parametrize(("characters", "dtype"), [(256, torch.uint8), (257, torch.int16), (4096, torch.int16)])
def test_numbers_are_stored_small(characters, dtype):
    whole = "".join(chr(0x4E00 + k) for k in range(characters)) * 2
    data = opened(whole, splits=(0.5, 0, 0.5))
    assert data.numbers.dtype == dtype and said(data) == whole[:characters]


@pytest.mark.parametrize("splits", [(0.9, 0.1), (0.5, 0.0, 0.4), (0.5, 0.5, 0.5), (0.25,) * 4])
def test_shares_that_do_not_make_one_are_refused(splits):
    with pytest.raises(UsageError, match=r"not three shares that make 1; .*0\.9,0,0\.1"):
        TextOptions(splits=splits)


def test_no_split_reaches_beyond_the_text():
    """Shares may sum to 1 up to rounding; of 2 million characters that would be two more."""
    parts = [opened("ab" * 10**6, split, splits=(0.5, 0.5000009, 0.0)) for split in SPLITS[:2]]
    assert [len(part.numbers) for part in parts] == [10**6, 10**6] and said(parts[1])[-4:] == "abab"


def test_a_split_without_a_share_is_refused():
    with pytest.raises(DataError, match=r"90 to 90 %.* has 0 windows .*--splits"):
        opened(WORDS * 20, "validation", splits=(0.9, 0.0, 0.1))
