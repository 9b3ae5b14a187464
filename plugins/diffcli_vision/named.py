"""MNIST, Fashion-MNIST and CIFAR-10, read from their published files; never from pickles. The splits are the official ones."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from diffcli.errors import DataError
from diffcli_vision import ColorOptions, NamedOptions
from diffcli_vision.datasets import Images
from diffcli_vision.fetch import Remote, cache, check, download, find, read, roots
from diffcli_vision.formats import BATCH, RECORD, gunzip, idx, members, records, sheet, sheet_labels

MNIST_MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
FASHION_MIRRORS = (
    "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
    "https://storage.googleapis.com/tensorflow/tf-keras-datasets/",
)
MNIST = {
    "train-images": Remote(
        "train-images-idx3-ubyte.gz",
        9912422,
        "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        MNIST_MIRRORS,
    ),
    "train-labels": Remote(
        "train-labels-idx1-ubyte.gz",
        28881,
        "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        MNIST_MIRRORS,
    ),
    "t10k-images": Remote(
        "t10k-images-idx3-ubyte.gz",
        1648877,
        "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        MNIST_MIRRORS,
    ),
    "t10k-labels": Remote(
        "t10k-labels-idx1-ubyte.gz",
        4542,
        "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
        MNIST_MIRRORS,
    ),
}
FASHION = {
    "train-images": Remote(
        "train-images-idx3-ubyte.gz",
        26421880,
        "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
        FASHION_MIRRORS,
    ),
    "train-labels": Remote(
        "train-labels-idx1-ubyte.gz",
        29515,
        "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
        FASHION_MIRRORS,
    ),
    "t10k-images": Remote(
        "t10k-images-idx3-ubyte.gz",
        4422102,
        "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
        FASHION_MIRRORS,
    ),
    "t10k-labels": Remote(
        "t10k-labels-idx1-ubyte.gz",
        5148,
        "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
        FASHION_MIRRORS,
    ),
}
CLOTHES = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")

CIFAR10 = Remote(
    "cifar-10-binary.tar.gz",
    170052171,
    "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
    ("https://www.cs.toronto.edu/~kriz/", "https://cave.cs.toronto.edu/kriz/"),
)
BATCHES = {  # SHA-256 of the records of each file, in the order of labels.txt
    "data_batch_1": "cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5",
    "data_batch_2": "a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed",
    "data_batch_3": "bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67",
    "data_batch_4": "014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48",
    "data_batch_5": "755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add",
    "test_batch": "8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b",
}
PHOTOGRAPHS = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def mnist(config: NamedOptions, split: str) -> Images:
    """60,000 + 10,000 digits, 1x28x28 (LeCun et al. 1998)."""
    images, labels = greys(config, split, MNIST, "mnist", "MNIST")
    licence = "CC BY-SA 3.0, Y. LeCun and C. Cortes"
    return Images(
        images, labels, name="mnist", split=f"mnist/{split}", class_names=tuple("0123456789"), licence=licence
    )


def fashion_mnist(config: NamedOptions, split: str) -> Images:
    """60,000 + 10,000 pictures of clothes, 1x28x28 (Xiao et al. 2017)."""
    images, labels = greys(config, split, FASHION, "fashion-mnist", "FashionMNIST")
    licence = "MIT, Zalando SE"
    return Images(
        images, labels, name="fashion-mnist", split=f"fashion-mnist/{split}", class_names=CLOTHES, licence=licence
    )


def greys(
    config: NamedOptions, split: str, remotes: dict[str, Remote], name: str, folder: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """Images (n, 1, 28, 28) and labels (n,) from idx files, in the folders that torchvision makes."""
    under = (f"{folder}/raw", f"{name}/{folder}/raw", name)
    part, n = ("t10k", 10_000) if split == "test" else ("train", 60_000)
    places = roots(config.data_dir)
    looked = f"{' or '.join(map(str, places))} (in {', '.join(under)})"
    arrays = [
        array(
            remotes[f"{part}-{what}"],
            shape,
            [root / place for root in places for place in under],
            cache() / name,
            looked,
        )
        for what, shape in (("images", (n, 28, 28)), ("labels", (n,)))
    ]
    if arrays[1].max() > 9:
        raise DataError(
            f"{name} has a label {arrays[1].max()}, but its classes are 0 to 9; its label file is another one"
        )
    return torch.from_numpy(arrays[0].copy())[:, None], torch.from_numpy(arrays[1].copy())


def array(remote: Remote, shape: tuple[int, ...], folders: list[Path], kept: Path, looked: str) -> np.ndarray:
    """An idx file, packed or unpacked, from the first folder that has it; else downloaded and kept.

    The packed file is known by its checksum; of an unpacked one the header and the length are checked.
    """
    plain, limit = remote.name.removesuffix(".gz"), int(np.prod(shape)) + 4 * len(shape) + 4
    path = find([folder / n for folder in folders for n in (remote.name, plain)])
    path = path or download(remote, kept, looked)
    if path.suffix == ".gz":
        packed = check(read(path, 2 * remote.size), remote.sha256, path)
        return idx(gunzip(packed, limit, path), shape, path)
    return idx(read(path, limit), shape, path)


def cifar10(config: ColorOptions, split: str) -> Images:
    """50,000 + 10,000 photographs, 3x32x32 (Krizhevsky 2009), from the binary version or from lossless sheets."""
    names = ["test_batch"] if split == "test" else [f"data_batch_{i}" for i in range(1, 6)]
    images, labels = zip(*batches(roots(config.data_dir), names), strict=True)
    seen = "" if config.crop is None else f", {config.crop}x{config.crop} of each"
    return Images(
        torch.from_numpy(np.concatenate(images)),
        torch.from_numpy(np.concatenate(labels)),
        name="cifar10",
        split=f"cifar10/{split}{seen}",
        part=f"cifar10/{split}",
        class_names=PHOTOGRAPHS,
        licence="none stated; cite Krizhevsky 2009, Learning Multiple Layers of Features from Tiny Images",
        flip=config.flip and split == "train",
        window=config.crop,
        moving=split == "train",
    )


def batches(folders: list[Path], names: list[str]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Images and labels of each file, from the first folder that has them in some form; each file's records are checked."""
    for folder in [folder / place for folder in folders for place in ("", "cifar10")]:
        if (plain := folder / "cifar-10-batches-bin").is_dir():
            for name in names:
                path = plain / f"{name}.bin"
                yield records(check(read(path, BATCH * RECORD), BATCHES[name], path), path)
            return
        if (archive := folder / CIFAR10.name).is_file():
            yield from unpacked(archive, names)
            return
        if (folder / "data_batch_1_0.webp").is_file():
            yield from sheets(folder, names)
            return
    looked = f"{' or '.join(map(str, folders))} (or cifar10 in it, or unpacked)"
    yield from unpacked(download(CIFAR10, cache() / "cifar10", looked), names)


def unpacked(archive: Path, names: list[str]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Files of the binary version inside its archive, read into memory."""
    inside = {name: f"cifar-10-batches-bin/{name}.bin" for name in names}
    found = members(archive, inside.values(), BATCH * RECORD)
    for name in names:
        yield records(check(found[inside[name]], BATCHES[name], archive), archive)


def sheets(folder: Path, names: list[str]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Files of the binary version from ten sheets each and labels.txt, equal to the original byte for byte."""
    for name in names:
        images = np.concatenate([sheet(folder / f"{name}_{k}.webp") for k in range(10)])
        labels = sheet_labels(folder / "labels.txt", list(BATCHES).index(name))
        table = np.concatenate([labels[:, None], images.reshape(BATCH, -1)], 1)
        yield records(check(table.tobytes(), BATCHES[name], folder / f"{name}_0.webp"), folder)
