"""Options of the data sets that are your own files."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from diffcli.plugin import opt


@dataclass(frozen=True, kw_only=True)
class PictureOptions:
    """[dataset] of pictures in files: where they are, and what is taken of each."""

    path: Path | None = opt(None, "Where the pictures are.")
    size: int = opt(64, "Pixels a side.", min=4, max=1024)
    crop: Literal["middle", "random", "resized"] = opt(
        "middle",
        "What is taken of each training image: its middle square, resized; a random window at its own resolution; or a "
        "random 0.2 to 1 of its area, in proportions of 3:4 to 4:3, resized. Elsewhere it is the middle square.",
    )
    color: Literal["rgb", "grey"] = opt("rgb", "Channels of the images: three, or one.")
    skip_bad: bool = opt(False, "Count files that are no readable images, in place of stopping at the first.")
    flip: bool = opt(False, "Mirror each training image left to right half of the time.")
    workers: int = opt(8, "Threads that read images as they are needed.", min=1, max=256)

    @property
    def channels(self) -> int:
        """Of an image."""
        return {"rgb": 3, "grey": 1}[self.color]


@dataclass(frozen=True, kw_only=True)
class FolderOptions(PictureOptions):
    """[dataset] of folder."""

    path: Path | None = opt(
        None,
        "Folder of images, or of one folder a class; its train/ and test/ (or val/) are the splits, else every tenth file is held out.",
    )
    classes: Path | None = opt(
        None,
        "Classes to take, their folders' names, one a line of a file, or a list that is shipped: imagenet100; unset is all.",
    )


@dataclass(frozen=True, kw_only=True)
class FarOptions(PictureOptions):
    """[dataset] of pictures in shards, some of which may lie far away."""

    window: int = opt(
        16,
        "Shards whose pictures are shuffled together; the order of all shards is another each epoch.",
        min=1,
        max=4096,
    )
    cache_gb: float = opt(
        20.0,
        "What is fetched from the Hub may take so many GB in the user's cache; what was not used longest goes.",
        min=0.001,
    )


@dataclass(frozen=True, kw_only=True)
class ShardsOptions(FarOptions):
    """[dataset] of shards."""

    path: Path | None = opt(
        None,
        "Tar files in the layout of WebDataset: a folder of them, a pattern such as 'train-{000..099}.tar' or 'a/*.tar', or "
        "hub:OWNER/NAME/PATTERN; those named train and test (or val) are the splits, else every tenth image is held out.",
    )
    held_out: Path | None = opt(None, "Shards that are held out, given as --path is; unset goes by their names.")
    label_from: Literal["auto", "cls", "json", "folder", "none"] = opt(
        "auto",
        "What tells the class of an image: the .cls or the .json beside it, its folder, or nothing; auto takes the first "
        "of these that is there.",
    )

    def pinned(self) -> ShardsOptions:
        """The same, each address of the Hub with its commit of now: a run means the same files tomorrow."""
        from diffcli_vision.sharded.remote import pinned

        path, held_out = (None if given is None else Path(pinned(str(given))) for given in (self.path, self.held_out))
        return replace(self, path=path, held_out=held_out)


@dataclass(frozen=True, kw_only=True)
class HubOptions(FarOptions):
    """[dataset] of hub."""

    path: Path | None = opt(
        None,
        "A data set of the Hub, OWNER/NAME or OWNER/NAME@REVISION, or a folder of its files; it streams through the package "
        "datasets: pip install 'diffcli[hub]'.",
    )
    subset: str | None = opt(None, "Which of the data sets under one name; unset is its default.")
    image: str | None = opt(None, "Column of the images; unset is the only one.")
    target: str | None = opt(None, "Column of the classes, none is without; unset is the only one.")
    held_out: str | None = opt(
        None, "Split that is held out; unset is test or validation, else every tenth image of train."
    )

    def pinned(self) -> HubOptions:
        """The same with the commit of now, unless it is a folder here."""
        from diffcli_vision.sharded.remote import committed

        if self.path is None or self.path.is_dir():
            return self
        return replace(self, path=Path(committed(str(self.path))))
