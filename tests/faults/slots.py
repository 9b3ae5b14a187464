"""A malicious pickle in every slot where a file may lie: runs, checkpoints, model folders, data sets, recipes."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import shutil
import struct
import zipfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from canary import Hostile

UNREAD = frozenset({0, 1, 2, 3, 4})  # right, too, where a command passes over the file
TINY = ("--steps", 1, "--batch-size", 4, "--size", 8, "--channels", 8, "--multipliers", "1,2")


class Song:
    """What sings when it is unpickled."""

    def __init__(self, canary: Path):
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, (f"open({str(self.canary)!r}, 'w').close()",)


def payloads(canary: Path) -> dict[str, bytes]:
    """The same harm as a bare pickle, as what torch.save writes, and as an array of objects of NumPy's."""
    bare = pickle.dumps(Song(canary))
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("archive/data.pkl", bare)
        archive.writestr("archive/version", "3\n")
    header = b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }"
    header += b" " * (-(len(header) + 11) % 64) + b"\n"
    array = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + bare
    return {"pickle": bare, "torch.save": packed.getvalue(), "npy": array}


def copied(run: Path, place: Path) -> Path:
    """A run to spoil."""
    return Path(shutil.copytree(run, place / "run"))


def newest(run: Path) -> Path:
    return sorted((run / "checkpoints").glob("step-*"))[-1]


def sealed(checkpoint: Path, **changes: Any) -> None:
    """Make a checkpoint's manifest say what its files are now: whoever can change a file can seal it too."""
    from diffcli.engine.manifest import seal

    body = json.loads((checkpoint / "manifest.json").read_bytes())
    del body["seal"]
    for name in body["files"]:
        data = (checkpoint / name).read_bytes() if (checkpoint / name).stat().st_size < 2**28 else b""
        body["files"][name] = {"size": (checkpoint / name).stat().st_size, "sha256": hashlib.sha256(data).hexdigest()}
    (checkpoint / "manifest.json").write_bytes(seal({**body, **changes}))


def commands(target: Path, resumed: Path | None = None) -> list[tuple[object, ...]]:
    """What reads a run, a checkpoint or a model folder."""
    found: list[tuple[object, ...]] = [("sample", target, "--samples", 1, "--steps", 1), ("doctor", target), ("export", target, target.parent / "exported")]  # fmt: skip
    return found + ([] if resumed is None else [("train", "--resume", resumed)])


def pickles(run: Path, model: Path) -> list[Hostile]:
    """A malicious pickle in every slot of a run, a checkpoint (sealed again) and a model folder."""
    made = list[Hostile]()
    inside = sorted(str(p.relative_to(newest(run))) for p in newest(run).iterdir() if p.name != "manifest.json")
    for kind in ("pickle", "torch.save", "npy"):
        for name in (*inside, "manifest.json"):
            made.append(Hostile(f"{kind} as {name} of a checkpoint", partial(in_checkpoint, run, kind, name), UNREAD))
        for name in (
            "recipe.toml",
            "metrics.jsonl",
            "metrics.csv",
            "env.json",
            "summary.json",
            "log.txt",
            ".lock",
            "evals.jsonl",
            "model.pt",
        ):
            made.append(
                Hostile(f"{kind} as {name} of a run", partial(in_run, run, kind, name), frozenset({0, 1, 2, 3, 4}))
            )
        for name in ("config.json", "model.safetensors"):
            made.append(Hostile(f"{kind} as {name} of a model folder", partial(in_model, model, kind, name)))
        made.append(Hostile(f"{kind} as files of data sets", partial(in_data, kind)))
        made.append(Hostile(f"{kind} as a recipe", partial(as_recipe, kind)))
    return made  # fmt: skip


def in_checkpoint(run: Path, kind: str, name: str, place: Path) -> Sequence[Sequence[object]]:
    step = newest(copied(run, place))
    for older in sorted(step.parent.glob("step-*"))[:-1]:
        shutil.rmtree(older)
    (step / name).write_bytes(payloads(place / "canary")[kind])
    if name != "manifest.json":
        sealed(step)
    return commands(step)


def in_run(run: Path, kind: str, name: str, place: Path) -> Sequence[Sequence[object]]:
    mine = copied(run, place)
    (mine / name).write_bytes(payloads(place / "canary")[kind])
    return [*commands(mine, mine)[::3], ("eval", mine, "--metric", "loss")]


def in_model(model: Path, kind: str, name: str, place: Path) -> Sequence[Sequence[object]]:
    mine = Path(shutil.copytree(model, place / "model"))
    (mine / name).write_bytes(payloads(place / "canary")[kind])
    return commands(mine)


def in_data(kind: str, place: Path) -> Sequence[Sequence[object]]:
    data = payloads(place / "canary")[kind]
    for name in ("pictures/a/x.png", "pictures/b/y.jpg", "MNIST/raw/train-images-idx3-ubyte.gz", "MNIST/raw/train-images-idx3-ubyte",
                 "cifar-10-batches-py/data_batch_1", "cifar-10-binary.tar.gz", "words.txt", "classes.txt"):  # fmt: skip
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(data)
    at = ("--path", place / "pictures")
    return [
        ("train", "rf", "--dataset", "folder", *at, *TINY),
        ("train", "rf", "--dataset", "folder", *at, "--classes", place / "classes.txt", *TINY),
        ("train", "rf", "--dataset", "folder", *at, "--crop", "random", *TINY),
        ("train", "rf", "--dataset", "mnist", "--data-dir", place, *TINY[:4], *TINY[6:]),
        ("train", "rf", "--dataset", "cifar10", "--data-dir", place, *TINY[:4], *TINY[6:]),
        ("train", "mdlm", "--dataset", "text", "--path", place / "words.txt", *TINY[:4]),
    ]


def as_recipe(kind: str, place: Path) -> Sequence[Sequence[object]]:
    (place / "x.toml").write_bytes(payloads(place / "canary")[kind])
    return [("train", place / "x.toml"), ("recipes", "show", place / "x.toml"), ("repro", place / "x.toml")]
