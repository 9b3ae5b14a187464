"""A data set as the package `datasets` knows it: its splits, its columns, and the files it is in."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

from diffcli.engine.hub import PREFIX, parse
from diffcli.errors import DataError, DiffcliError, EnvironmentProblem, UsageError, show
from diffcli_vision import HubOptions
from diffcli_vision.inputs import MOST_BYTES

HELD_OUT = ("test", "validation", "val")


class Given:
    """A data set as `datasets` knows it: its splits and columns."""

    def __init__(self, config: HubOptions):
        self.config, self.where = config, str(config.path)
        self.local = os.path.isdir(self.where)
        named = (os.path.abspath(self.where), None) if self.local else parse(self.where.removeprefix(PREFIX))
        self.named = {"path": named[0], "revision": named[1]}

    @cached_property
    def library(self) -> Any:
        """The package. EnvironmentProblem where it is not installed, or too old: before 4 it ran code of data sets."""
        try:
            import datasets
        except ImportError as error:
            raise EnvironmentProblem(
                f"the data set hub needs the package datasets ({show(error, 80)}); pip install 'diffcli[hub]'"
            ) from None
        if int(datasets.__version__.partition(".")[0]) < 4:
            raise EnvironmentProblem(
                f"datasets {datasets.__version__} runs code of data sets; pip install 'diffcli[hub]'"
            )
        return datasets

    def asked(self, what: str, **more: Any) -> Any:
        """What the library says; its refusals in our words."""
        try:
            key = "config_name" if what == "get_dataset_split_names" else "name"
            return getattr(self.library, what)(**self.named, **{key: self.config.subset}, **more)
        except DiffcliError:
            raise
        except Exception as error:  # a library over many formats and the network fails in many ways
            why = show(" ".join(str(error).split()) or type(error).__name__, 200)
            raise DataError(
                f"{show(self.where)} cannot be read by datasets: {why}; look at --path and --subset"
            ) from None

    @cached_property
    def splits(self) -> list[str]:
        """Their names."""
        return list(self.asked("get_dataset_split_names"))

    def split(self, split: str) -> tuple[str, str]:
        """(the name of a split, which of its pictures)."""
        train = "train" if "train" in self.splits else self.splits[0]
        held_out = self.config.held_out or next(
            (name for name in HELD_OUT if name in self.splits and name != train), None
        )
        if held_out is None:
            return train, split
        if held_out not in self.splits:
            raise UsageError(
                f"{show(self.where)} has no split {show(held_out, 40)}; there are: {show(', '.join(self.splits))}"
            )
        return (train if split == "train" else held_out), "all"

    def file(self, path: str) -> bytes | None:
        """A picture in a file of its own: below the folder that was given, or in the repository; None for any other place."""
        if self.local:
            real, home = os.path.realpath(path), os.path.realpath(self.where)
            if os.path.commonpath([real, home]) != home or not os.path.isfile(real):
                return None
            with open(real, "rb") as file:
                return file.read(MOST_BYTES + 1)
        if not path.startswith(f"hf://datasets/{self.named['path']}@"):
            return None
        import fsspec

        with self.streaming(), fsspec.open(path, "rb") as far:
            data: bytes = far.read(MOST_BYTES + 1)
            return data

    @contextmanager
    def streaming(self) -> Iterator[None]:
        """What the library or the network refuses, in our words."""
        try:
            yield
        except DiffcliError:
            raise
        except Exception as error:
            why = show(" ".join(str(error).split()) or type(error).__name__, 200)
            cure = "look at its files" if self.local else "connect, and try again"
            raise EnvironmentProblem(f"{show(self.where)} cannot be streamed: {why}; {cure}") from None

    def columns(self, features: Any) -> tuple[str, str | None]:
        """(of images, of classes or None): as they were asked for, or the only one of their kind."""
        d, config = self.library, self.config
        images: list[str] = [name for name, kind in features.items() if isinstance(kind, d.Image)]
        labels: list[str] = [name for name, kind in features.items() if isinstance(kind, d.ClassLabel)]
        image = config.image or (images[0] if len(images) == 1 else None)
        if image is None or image not in images:
            raise UsageError(
                f"--image is to be one column of images of {show(self.where)}: {show(', '.join(images) or 'it has none')}"
            )
        if config.target == "none" or (config.target is None and len(labels) != 1):
            return image, None
        target = config.target or labels[0]
        if target not in features:
            raise UsageError(
                f"{show(self.where)} has no column {show(target, 40)}; there are: {show(', '.join(features))}"
            )
        return image, target


@contextmanager
def quiet() -> Iterator[None]:
    """Without the warnings of a library over what it does inside."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
