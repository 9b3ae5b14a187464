"""TensorBoard's event files, by torch's own writer."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from diffcli.errors import EnvironmentProblem, show
from diffcli.plugin import NoOptions

STAMP = re.compile(r"step-\d+-?")  # of a preview, whose step TensorBoard has beside it


class TensorBoard:
    """run/tensorboard: a curve for each column of metrics.jsonl over the steps, the previews, and the recipe as a text.

    What a killed process logged after its last checkpoint is logged again by a resume; the first is then hidden.
    """

    def __init__(self, config: NoOptions):
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise EnvironmentProblem(
                f"--loggers tensorboard needs tensorboard, which cannot be imported ({show(error, 80)}); "
                "pip install 'diffcli[tensorboard]', or leave it out of --loggers"
            ) from None
        self.open = SummaryWriter

    def start(self, run: Path, tables: Mapping[str, Mapping[str, Any]]) -> None:
        self.writer = self.open(str(run / "tensorboard"), purge_step=beyond(run))
        text = json.dumps(tables, indent=1, default=str)
        self.writer.add_text("recipe", "\n".join(f"    {line}" for line in text.splitlines()))  # as code: no markup

    def log(self, row: Mapping[str, Any]) -> None:
        for name, value in row.items():
            if name != "step" and isinstance(value, int | float):
                self.writer.add_scalar(name, value, row["step"])

    def picture(self, step: int, path: Path) -> None:
        with Image.open(path) as picture:
            pixels = np.asarray(picture.convert("RGB"))  # (H, W, 3)
        self.writer.add_image(STAMP.sub("", path.stem) or "samples", pixels, step, dataformats="HWC")
        self.writer.flush()

    def close(self) -> None:
        self.writer.close()


def beyond(run: Path) -> int | None:
    """The step after the last one that the run has kept; None of a run that begins."""
    path = run / "metrics.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return int(json.loads(lines[-1])["step"]) + 1 if lines else None
