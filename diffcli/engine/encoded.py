"""Data that are encoded once."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from diffcli.core.method import Batch
from diffcli.core.random import onto
from diffcli.core.space import Latents, Space


class Encoded:
    """A data set that was encoded once, for batches in its space; in any other space, and in all else, the data set.

    Encoded in the same parts whatever the batches are, so that it does not matter to any bit when they are asked for.
    """

    def __init__(self, dataset: Any, space: Latents, device: torch.device):
        self.dataset, self.space = dataset, space
        numbers = torch.arange(len(dataset), device=device).split(space.rows)
        parts = [dataset.batch(items, items, space) for items in numbers]
        columns = zip(*(part._replace(index=None) for part in parts), strict=True)
        self.columns = [None if column[0] is None else torch.cat(column) for column in columns]

    def __len__(self) -> int:
        return len(self.dataset)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.__dict__["dataset"], name)

    def batch(self, items: Tensor, index: Tensor, space: Space) -> Batch:
        """The items as they were encoded."""
        if space is not self.space:
            batch: Batch = self.dataset.batch(items, index, space)
            return batch
        rows = [None if column is None else column[onto(items, column.device)] for column in self.columns]
        return Batch(*rows)._replace(index=onto(index, self.columns[1].device))


def encoded(dataset: Any, space: Space, device: torch.device, once: bool) -> Any:
    """The data set, encoded once where that is asked for and each item is one picture in every epoch, as it says itself."""
    if not once or not isinstance(space, Latents) or not getattr(dataset, "fixed", False):
        return dataset
    return Encoded(dataset, space, device)
