"""The embedded handwritten digits (Alpaydin and Kaynak 1998)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from diffcli.plugin import NoOptions
from diffcli_vision.datasets import Images


def digits(config: NoOptions, split: str) -> Images:
    """1,438 images to train on, 359 held out (index % 5 == 4). Values 0 ... 16, so that x/8 - 1 is exact."""
    with np.load(Path(__file__).with_name("digits.npz"), allow_pickle=False) as file:
        images, labels = torch.from_numpy(file["images"]), torch.from_numpy(file["labels"])
    held_out = torch.arange(len(images)) % 5 == 4
    chosen = held_out if split == "test" else ~held_out
    return Images(
        images[chosen, None],
        labels[chosen],
        name="digits",
        split=f"digits/{split}, index % 5 {'==' if split == 'test' else '!='} 4",
        class_names=tuple("0123456789"),
        licence="CC BY 4.0, Optical Recognition of Handwritten Digits, E. Alpaydin and C. Kaynak 1998, UCI",
        levels=16,
    )
