"""The built-in loggers: names. metrics.jsonl and metrics.csv are no loggers: they are always there."""

from __future__ import annotations

from collections.abc import Iterable

from diffcli.plugin import Spec, hookimpl


@hookimpl
def diffcli_loggers() -> Iterable[Spec]:
    yield Spec(
        name="tensorboard",
        target="diffcli.loggers.tensorboard:TensorBoard",
        summary="Event files for TensorBoard, in the folder tensorboard of the run.",
        paper="https://www.tensorflow.org/tensorboard",
    )
