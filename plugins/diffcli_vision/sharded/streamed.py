"""A data set of the Hub, or a folder of its files, through the package `datasets` in its streaming mode.

That reads rows one after another; a training needs any picture at any time, in an order of its own. So each of its shards is
streamed once, when the order comes to it, into a tar of the pictures as they are, in a cache of bounded size; from there
it is read as every other shard.
"""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from diffcli.engine.files import dump_json
from diffcli.errors import DataError, UsageError, show
from diffcli_vision import HubOptions
from diffcli_vision.crops import reading
from diffcli_vision.reading import Pictures
from diffcli_vision.sharded.bounded import Bounded, Soon
from diffcli_vision.sharded.index import Index, read_index
from diffcli_vision.sharded.library import Given, quiet
from diffcli_vision.sharded.places import SHARES
from diffcli_vision.sharded.shards import Shards
from diffcli_vision.sharded.survey import Survey, survey

MOST_PARTS = 4096  # parts that a data set is streamed in: of one whose files are single pictures, more than one each
# how files begin; what is neither is called .png, and known by its content all the same
STARTS = {b"\x89PNG": ".png", b"\xff\xd8": ".jpg", b"RIFF": ".webp"}


def streamed(config: HubOptions, split: str) -> Pictures:
    """The pictures of a split; held out is --held-out, else test or validation, else every tenth image of train."""
    if config.path is None:
        raise UsageError("the data set hub needs --path OWNER/NAME, or a folder of the files of one")
    given = Given(config)
    name, share = given.split(split)
    stream = Streams(given, name)
    source = Shards(stream, stream.survey(), share, config.window)
    called = f"{show(config.path)}/{split}, {name} in {len(stream.names)} parts, {SHARES[share]}"
    about: Any = {"name": "hub", "split": called, "part": f"hub/{split}", "licence": "that of the data set"}
    return reading(source, config, training=split == "train", class_names=source.survey.classes, **about)


class Streams:
    """The parts of a split, each streamed into a tar when it is needed."""

    def __init__(self, given: Given, split: str):
        self.given, self.text, library = given, f"{show(given.where)}, {split}", given.library
        with quiet():
            self.files = given.asked("load_dataset_builder").config.data_files[split]
            stream = given.asked("load_dataset", split=split, streaming=True)
        if stream.features is None:
            raise DataError(
                f"{self.text} does not say what its columns are; give a data set that does, or its files as a folder"
            )
        self.image, self.target = given.columns(stream.features)
        self.kind = stream.features[self.target] if self.target else None
        self.classes = tuple(self.kind.names) if isinstance(self.kind, library.ClassLabel) else ()
        self.rows = stream.select_columns([self.image, *([self.target] if self.target else [])])
        self.rows = self.rows.cast_column(self.image, library.Image(decode=False))
        self.parts = min(stream.num_shards, MOST_PARTS)
        key = hashlib.sha256(dump_json([self.stamp(), self.image, self.target, self.parts])).hexdigest()
        self.names = [f"{key}/{split}-{k:05d}.tar" for k in range(self.parts)]
        self.kept, self.ahead = Bounded(round(given.config.cache_gb * 1e9)), Soon(self.file)

    def size(self, number: int) -> int:
        """Not known before; none are compared."""
        return 0

    def stamp(self) -> Any:
        """The files that it is in, with what tells their version: a commit, or when they were written."""
        return [list(map(str, self.files)), str(self.files.origin_metadata), self.text]

    def file(self, number: int) -> Path:
        """A part in the cache, from which it may go at any time."""
        return self.kept.file(*self.wanted(number))

    def wanted(self, number: int) -> tuple[str, int, Callable[[Path], None]]:
        """A part as the cache asks for it: its name, its bytes, which are not known, and how it is made."""
        return self.names[number], 0, lambda path: self.write(number, path)

    def open(self, number: int) -> int:
        return self.kept.open(*self.wanted(number))

    def soon(self, shards: list[int]) -> None:
        self.ahead(shards)

    def index(self, number: int) -> Index:
        with self.kept.trusted(self.names[number]):
            return read_index(self.open(number), f"{self.text}, part {number}", "auto" if self.target else "none")

    def beside(self, name: str) -> bytes | None:
        return None

    def survey(self) -> Survey:
        """How many pictures each part has: from the ends of parquet files, else by streaming all of them once."""
        if (self.classes or self.target is None) and self.parts == len(self.files) and parquet(self.files):
            counts = tuple(self.counted(str(file)) for file in self.files)
            return Survey(counts, "numbers" if self.classes else "none", self.classes)
        found = survey(self, "auto" if self.target else "none")
        return found._replace(kind="numbers", classes=self.classes) if self.classes else found

    def counted(self, file: str) -> int:
        """Rows of a parquet file, by its last bytes."""
        import fsspec
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile

        with self.given.streaming():
            try:
                with fsspec.open(file, "rb") as opened, ParquetFile(opened) as table:
                    return int(table.metadata.num_rows)
            except ArrowException as error:
                raise DataError(f"{show(file)} is no whole parquet file: {show(error, 120)}; bring it again") from None

    def write(self, number: int, path: Path) -> None:
        """A part as a tar. DataError for a row without a picture."""
        part = self.rows.shard(num_shards=self.parts, index=number)
        with path.open("xb") as file, tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar, quiet():
            for k, row in enumerate(self.read(part)):
                picture = self.bytes_of(row[self.image], k)
                suffix = next((suffix for start, suffix in STARTS.items() if picture.startswith(start)), ".png")
                label = row.get(self.target) if self.target else None
                labels = [] if label in (None, -1, "") else [(".cls", str(label).encode())]
                for end, data in [(suffix, picture), *labels]:
                    info = tarfile.TarInfo(f"{k:08d}{end}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))

    def read(self, part: Any) -> Iterator[dict[str, Any]]:
        """Its rows."""
        with self.given.streaming():
            yield from part

    def bytes_of(self, cell: Any, row: int) -> bytes:
        """Of a picture: as the row holds them, or in a file of the data set itself."""
        data = cell.get("bytes") if isinstance(cell, dict) else None
        if data is None and isinstance(cell, dict) and isinstance(cell.get("path"), str):
            data = self.given.file(cell["path"])
        if not isinstance(data, bytes):
            raise DataError(
                f"{self.text}: row {row} of a part has no picture in {show(self.image, 40)}; leave such rows out"
            )
        return data


def parquet(files: Sequence[Any]) -> bool:
    """Whether all are."""
    return all(str(file).endswith(".parquet") for file in files)
