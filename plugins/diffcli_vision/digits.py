"""The embedded handwritten digits (Alpaydin and Kaynak 1998)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from diffcli_vision import DigitsOptions
from diffcli_vision.datasets import Images


def digits(config: DigitsOptions, split: str) -> Images:
    """1,438 images to train on, 359 held out (index % 5 == 4). Values 0 ... 16, so that x/8 - 1 is exact; 0 ... 255 if enlarged."""
    with np.load(Path(__file__).with_name("digits.npz"), allow_pickle=False) as file:
        images, labels = torch.from_numpy(file["images"]), torch.from_numpy(file["labels"])
    held_out = torch.arange(len(images)) % 5 == 4
    chosen = held_out if split == "test" else ~held_out
    pictures, levels = images[chosen, None], 16
    if config.size > 8:
        larger = F.interpolate(pictures.float() / 16, size=config.size, mode="bicubic", align_corners=False)
        pictures, levels = (larger * 255).round().clamp(0, 255).byte(), 255
    return Images(
        pictures,
        labels[chosen],
        name="digits",
        split=f"digits/{split}, index % 5 {'==' if split == 'test' else '!='} 4"
        + (f", enlarged to {config.size}x{config.size}" if config.size > 8 else ""),
        class_names=tuple("0123456789"),
        licence="CC BY 4.0, Optical Recognition of Handwritten Digits, E. Alpaydin and C. Kaynak 1998, UCI",
        levels=levels,
    )
