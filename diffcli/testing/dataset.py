"""The laws of a data set: both splits open, are apart, hold what they say, and are read by address."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar
from unittest import SkipTest

import torch
from torch import Tensor

from diffcli.core.method import Batch
from diffcli.core.space import Space
from diffcli.engine.assemble import FACTS, READING, Facts, complete
from diffcli.errors import UsageError, show
from diffcli.testing.suite import Suite, addressed, drawn, need

READ = 64  # items of a batch that are looked at
COMPARED = (20_000, 1000)  # most items of the training and of the test split that are compared
SHARED = 0.1  # of the test items, that may be in the training split as well: small pictures do repeat


@contextmanager
def offline() -> Iterator[None]:
    """Nothing is downloaded to be checked: what is not here is told as missing."""
    connect = socket.socket.connect

    def refuse(self: socket.socket, address: Any) -> None:
        if isinstance(address, tuple):
            raise ConnectionRefusedError("a check downloads nothing")
        connect(self, address)

    socket.socket.connect = refuse  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        socket.socket.connect = connect  # type: ignore[method-assign]


class DatasetSuite(Suite):
    """The laws of a data set of images (C, H, W) in [-1, 1] or of texts (L,); files that it needs are named in `options`."""

    kind: ClassVar[str] = "dataset"

    @classmethod
    def make(cls) -> Any:
        with offline():
            made = {split: cls.spec().load()(cls.config(), split) for split in ("train", "test")}
        for dataset in made.values():
            complete(dataset, cls.name, (*FACTS, *READING))
        return made

    def test_it_is_made_from_its_defaults(self) -> None:
        """Both splits open."""
        _, error = self.attempt()
        unset = [name for name, value in vars(self.config()).items() if value is None]
        if isinstance(error, UsageError) and unset and not self.options:
            raise SkipTest(f"{show(error)} (options {', '.join(unset)} are unset)")
        super().test_it_is_made_from_its_defaults()

    def space(self, split: str = "train") -> Space:
        """Where its items live."""
        return Facts.of(self.made[split]).space(self.spec().family)

    def read(self, split: str, items: Tensor, index: Tensor | None = None) -> Batch:
        """Some items, in the space."""
        batch: Batch = self.made[split].batch(items, items if index is None else index, self.space(split))
        return batch

    def test_its_facts_are_of_the_right_kind(self) -> None:
        """name, split, shape, classes and class_names say what it holds, alike in both splits."""
        for split, data in self.made.items():
            for what in ("name", "split"):
                value = getattr(data, what, None)
                need(isinstance(value, str) and bool(value), f"{split}: {what} is {value!r}, not a text")
            shape, text = tuple(data.shape), getattr(data, "alphabet", "")
            whole = all(type(n) is int and n > 0 for n in shape) and len(shape) == (1 if text else 3)
            need(whole, f"{split}: shape is {shape}, not (C, H, W) of images, nor (L,) of texts with an alphabet")
            named = len(tuple(data.class_names))
            need(
                type(data.classes) is int and data.classes == named,
                f"{split}: classes is {data.classes}, but {named} are named",
            )
            need(len(data) >= 2, f"{split} has {len(data)} items; 2 is the least")
        train, test = (Facts.of(data) for data in self.made.values())
        for what in ("name", "shape", "class_names", "alphabet"):
            a, b = getattr(train, what), getattr(test, what)
            need(a == b, f"{what} is {show(a, 80)} of the training split and {show(b, 80)} of the test split")
        need(
            train.split != test.split,
            f"both splits call themselves {show(train.split, 80)}; a number must name its split",
        )

    def test_values_are_in_range(self) -> None:
        """Images are float32 in [-1, 1], texts are int64 below the size of the alphabet."""
        for split, data in self.made.items():
            x: Any = self.read(split, torch.arange(min(READ, len(data)))).x
            need(isinstance(x, Tensor), f"{split}: batch() gave {type(x).__name__} for x")
            shape = tuple(self.space(split).shape)
            need(tuple(x.shape[1:]) == shape, f"{split}: x is {tuple(x.shape)}, not (B, {', '.join(map(str, shape))})")
            low, high = float(x.min()), float(x.max())
            if vocab := getattr(self.space(split), "vocab", 0):
                need(x.dtype == torch.int64, f"{split}: x is {x.dtype}, not int64")
                need(low >= 0 and high < vocab, f"{split}: tokens go from {low:g} to {high:g}, of {vocab} values")
                continue
            found = f"{split}: values go from {low:.4g} to {high:.4g}"
            need(x.dtype == torch.float32, f"{split}: x is {x.dtype}, not float32")
            need(torch.isfinite(x).all(), f"{split}: x is not finite")
            need(low >= -1 and high <= 1, f"{found}, but must lie in [-1, 1]")
            need(low < 0, f"{found}; scale [0, 1] to [-1, 1]")

    def test_labels_are_classes(self) -> None:
        """Labels are int64 (B,) below the number of classes, -1 for none, and there are none without classes."""
        for split, data in self.made.items():
            for items in torch.arange(len(data)).split(4096):
                label = self.read(split, items).label
                need(
                    (label is None) <= (data.classes == 0), f"{split}: there are {data.classes} classes, but no labels"
                )
                if label is None:
                    return
                need(
                    label.shape == (len(items),) and label.dtype == torch.int64,
                    f"{split}: labels are {tuple(label.shape)} {label.dtype}, not (B,) int64",
                )
                low, high = int(label.min()), int(label.max())
                need(
                    low >= -1 and high < max(1, data.classes),
                    f"{split}: labels go from {low} to {high}, of {data.classes} classes",
                )

    def test_an_epoch_is_a_permutation(self) -> None:
        """items() gives every item once an epoch, in an order of (seed, epoch) alone."""
        for split, data in self.made.items():
            n = min(len(data), 50_000)
            first = addressed(lambda data=data: data.items(0, torch.arange(len(data))))  # type: ignore[misc]
            need(
                first.shape == (len(data),) and first.dtype == torch.int64,
                f"{split}: items are {tuple(first.shape)} {first.dtype}",
            )
            seen = (first % len(data)).unique().numel()  # an item may have a mirrored twin behind the last
            need(seen == len(data), f"{split}: an epoch holds {seen} of {len(data)} items")
            need(
                torch.equal(first[:n], data.items(0, torch.arange(n))), f"{split}: the same positions give other items"
            )
            part = torch.tensor([0, 1, len(data) // 2, len(data) - 1])
            need(
                torch.equal(data.items(0, part), first[part]),
                f"{split}: a position gives other items alone than in an epoch",
            )
            if len(data) > 8:
                others = (data.items(1, torch.arange(len(data))), data.items(0, torch.arange(len(data), 2 * len(data))))
                for other, what in zip(others, ("seed", "epoch"), strict=True):
                    need(not torch.equal(first, other), f"{split}: another {what} is the same order")

    def test_items_are_read_by_address(self) -> None:
        """An item is the same in any batch and at any time, in every epoch if the data are `fixed`, and index comes back."""
        for split, data in self.made.items():
            items, rows = torch.arange(min(READ, len(data))), torch.tensor([1, 0, 1])
            index = items + 7 * len(data)
            whole, moved = drawn(lambda s=split, i=items, k=index: self.read(s, i, k))  # type: ignore[misc]
            need(not moved, f"{split}: batch() draws from the global stream of {', '.join(moved)}")
            need(torch.equal(whole.index.cpu(), index), f"{split}: index is not the one that was given")
            for again in (self.read(split, items, index), self.read(split, items[rows], index[rows])):
                keep = slice(None) if len(again.index) == len(items) else rows
                for what in ("x", "label", "known"):
                    a, b = getattr(again, what), getattr(whole, what)
                    need(
                        (a is None) == (b is None) and (a is None or torch.equal(a, b[keep])),
                        f"{split}: {what} is another when it is read again",
                    )
            if getattr(data, "fixed", False):
                later = self.read(split, items, index + len(data)).x
                need(torch.equal(later, whole.x), f"{split} is called fixed, but x is another in the next epoch")

    def test_to_gives_the_data(self) -> None:
        """to(device) gives a data set with as many items."""
        for split, data in self.made.items():
            moved = data.to(torch.device("cpu"))
            need(
                moved is not None and len(moved) == len(data), f"{split}: to() gave {type(moved).__name__}; return self"
            )

    def test_the_splits_are_apart(self) -> None:
        """Items of the test split are not in the training split."""
        train, test = self.made["train"], self.made["test"]
        need(train is not test, "both splits are one object")
        known = {row for items in spread(len(train), COMPARED[0]).split(1024) for row in self.prints("train", items)}
        held_out = [row for items in spread(len(test), COMPARED[1]).split(1024) for row in self.prints("test", items)]
        share = sum(row in known for row in held_out) / len(held_out)
        need(
            share <= SHARED, f"{100 * share:.0f} % of {len(held_out)} test items are in the training split, bit for bit"
        )

    def prints(self, split: str, items: Tensor) -> list[int]:
        """A number for each item that equal ones share."""
        return [hash(row.numpy().tobytes()) for row in self.read(split, items).x.cpu()]  # type: ignore[union-attr]


def spread(n: int, most: int) -> Tensor:
    """At most so many items, evenly."""
    return torch.linspace(0, n - 1, min(n, most), dtype=torch.float64).long()
