"""Bombs: headers, JSON, TOML, pictures and archives that lie, or never end."""

from __future__ import annotations

import gzip
import io
import json
import shutil
import struct
import tarfile
import zlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from canary import Hostile
from slots import TINY, UNREAD, commands, copied, newest, payloads, sealed


def header(table: bytes, size: int | None = None, body: bytes = bytes(8)) -> bytes:
    """A safetensors file: the length of its header, the header, the numbers."""
    return (len(table) if size is None else size).to_bytes(8, "little") + table + body


def entry(shape: list[int], low: int = 0, high: int = 8, dtype: str = "F32") -> bytes:
    return json.dumps({"dtype": dtype, "shape": shape, "data_offsets": [low, high]}).encode()


HEADERS: dict[str, bytes] = {
    "2^64 - 1 bytes": header(b"{}", 2**64 - 1),
    "8 MiB of spaces": header(b" " * 2**23),
    "8 MiB of brackets": header(b"[" * 2**23),
    "objects a million deep": header(b'{"a":' * 10**6 + b"1" + b"}" * 10**6),
    "lists without end": header(b'{"a":[' + b"[]," * (2**23 // 3 - 10) + b"1]}"),
    "a hundred thousand tensors": header(b"{" + b",".join(b'"%d":%s' % (n, entry([2])) for n in range(100_000)) + b"}"),
    "one name a hundred thousand times": header(b"{" + b",".join([b'"a":' + entry([2])] * 100_000) + b"}"),
    "a shape of 2^62": header(b'{"a":' + entry([2**31, 2**31]) + b"}"),
    "a shape of ten thousand ones": header(b'{"a":' + entry([1] * 10_000 + [2]) + b"}"),
    "a number of a million digits": header(b'{"a":' + b"9" * 10**6 + b"}"),
    "tensors over each other": header(b'{"a":' + entry([2]) + b',"b":' + entry([2]) + b"}"),
    "a type that is none": header(b'{"a":' + entry([2], dtype="os.system") + b"}"),
    "metadata of code": header(b'{"__metadata__":{"__reduce__":"os.system"},"a":' + entry([2]) + b"}"),
}


def headers(run: Path, model: Path) -> list[Hostile]:
    """Bombs in the header of the weights, in a model folder and in a sealed checkpoint; and files as large as the cap."""
    made = [
        Hostile(f"weights with {name}", partial(with_weights, run, model, data), UNREAD)
        for name, data in HEADERS.items()
    ]
    made.append(Hostile("60 GiB of weights that are a hole", partial(with_hole, run, model), frozenset({4, 6})))
    for name, text in JSON.items():
        made.append(Hostile(f"JSON that is {name}", partial(with_json, run, model, text), UNREAD))
    return made


def with_weights(run: Path, model: Path, data: bytes, place: Path) -> Sequence[Sequence[object]]:
    theirs, step = Path(shutil.copytree(model, place / "model")), newest(copied(run, place))
    (theirs / "model.safetensors").write_bytes(data)
    config = json.loads((theirs / "config.json").read_bytes())
    (theirs / "config.json").write_text(json.dumps({k: v for k, v in config.items() if k not in ("seal", "tensors")}))
    (step / "ema.safetensors").write_bytes(data)
    sealed(step)
    return [*commands(theirs)[:2], *commands(step)[:1]]


def with_hole(run: Path, model: Path, place: Path) -> Sequence[Sequence[object]]:
    theirs, step = Path(shutil.copytree(model, place / "model")), newest(copied(run, place))
    large = 60 * 2**30
    for path in (theirs / "model.safetensors", step / "ema.safetensors", step / "state.json"):
        with path.open("wb") as file:
            file.write(header(b'{"a":' + entry([(large - 8 - 70) // 4], 0, large - 8 - 70) + b"}", body=b""))
            file.truncate(large)
    sealed(step)
    return [*commands(theirs), *commands(step)]


JSON: dict[str, bytes] = {
    "deep": b"[" * 10**6,
    "of a million keys": b"{" + b",".join(b'"%d":1' % n for n in range(500_000)) + b"}",
    "not a number": b'{"a": NaN}',
    "a surrogate": b'{"recipe": "\\ud800"}',
    "too large": b'{"a": "' + b"x" * 2**24 + b'"}',
    "names of code": json.dumps({"recipe": {"method": {"name": "os:system"}, "model": {"name": "builtins.exec", "__class__": "evil.Evil"}},
                                 "facts": {"__reduce__": ["os.system", ["touch canary"]]}, "model_type": "evil", "auto_map": {"AutoModel": "evil.Evil"}}).encode(),
}  # fmt: skip


def with_json(run: Path, model: Path, text: bytes, place: Path) -> Sequence[Sequence[object]]:
    theirs, step = Path(shutil.copytree(model, place / "model")), newest(copied(run, place))
    (theirs / "config.json").write_bytes(text)
    (theirs / "evil.py").write_text(f"open({str(place / 'canary')!r}, 'w')")
    (step / "state.json").write_bytes(text)
    sealed(step)
    other = Path(shutil.copytree(step, place / "other"))
    (other / "manifest.json").write_bytes(text)
    return (
        [*commands(theirs)[:2], *commands(step)[:1], *commands(other)[:1]]
        if text != JSON["of a million keys"]
        else commands(theirs)[:1]
    )


TOML: dict[str, bytes] = {
    "deep arrays": b"a = " + b"[" * 60_000,
    "deep tables": b"a = " + b"{a=" * 20_000,
    "a dotted key": b"a." * 30_000 + b"b = 1",
    "many dotted keys": b"".join(b"[%s]\n" % b".".join([b"a%d" % n] * 16) for n in range(900)),
    "quoted dots": b'"a".' * 15_000 + b"b = 1",
    "keys without an end": b'"' * 60_000,
    "a long number": b"[train]\nsteps = " + b"9" * 60_000,
    "a long hex number": b"[train]\nsteps = 0x" + b"f" * 60_000,
    "dates and nan": b"[train]\nlr = nan\n",
    "a million lines": b"#\n" * 10**6,
    "no UTF-8": b"\xff\xfe" * 100,
    "names of code": b'[method]\nname = "os:system"\n[sampler]\nname = "builtins.exec"\n',
    "a path as a name": b'[method]\nname = "../../evil"\n',
    "true for one": b'[method]\nname = "rf"\n[train]\nsteps = true\n',
    "markup": b'[method]\nname = "[/red]\\u001b[2J<script>"\n',
}


def recipes() -> list[Hostile]:
    return [Hostile(f"a recipe of {name}", partial(with_recipe, text)) for name, text in TOML.items()]


def with_recipe(text: bytes, place: Path) -> Sequence[Sequence[object]]:
    (place / "x.toml").write_bytes(text)
    (place / "run").mkdir()
    (place / "run" / "recipe.toml").write_bytes(text)
    return [("train", place / "x.toml"), ("sample", place / "run"), ("repro", place / "x.toml")]


def png(width: int, height: int, *chunks: tuple[bytes, bytes], rows: bytes = b"") -> bytes:
    """A PNG that says it is of this size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    parts = [(b"IHDR", head), *chunks, (b"IDAT", zlib.compress(rows, 9)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def tiff(width: int, height: int) -> bytes:
    """A TIFF of one strip that is not there."""
    tags = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (273, 4, 1, 8), (277, 3, 1, 1), (278, 4, 1, height), (279, 4, 1, 2**32 - 1)]  # fmt: skip
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in tags) + bytes(4)  # fmt: skip


PICTURES: dict[str, Callable[[], bytes]] = {
    "a PNG of 100,000 x 100,000": lambda: png(100_000, 100_000),
    "a PNG of 2^31 x 2^31": lambda: png(2**31 - 1, 2**31 - 1),
    "a PNG of 20,000 x 9,000 zeros": lambda: png(20_000, 9_000, rows=bytes(20_001 * 9_000)),
    "a PNG with a text of 100 MB": lambda: png(8, 8, (b"zTXt", b"a\0\0" + zlib.compress(bytes(10**8), 9)), rows=bytes(72)),
    "a PNG with a profile of 100 MB": lambda: png(8, 8, (b"iCCP", b"a\0\0" + zlib.compress(bytes(10**8), 9)), rows=bytes(72)),
    "a PNG without pixels": lambda: png(64, 64),
    "a GIF of 65,535 x 65,535": lambda: b"GIF89a" + struct.pack("<HHBBB", 65535, 65535, 0, 0, 0) + b",\0\0\0\0\xff\xff\xff\xff\0\x08\0;",
    "a BMP of 2^30 x 2^30": lambda: b"BM" + struct.pack("<IHHI", 100, 0, 0, 54) + struct.pack("<IiiHHIIiiII", 40, 2**30, 2**30, 1, 24, 0, 0, 0, 0, 0, 0),
    "a TIFF of 60,000 x 60,000": lambda: tiff(60_000, 60_000),
    "a TIFF of 7,000 x 7,000 that is not there": lambda: tiff(7_000, 7_000),
    "a PPM of 99,999 x 99,999": lambda: b"P6 99999 99999 255\n",
    "a PPM of a million digits": lambda: b"P6 " + b"9" * 10**6 + b" 1 255\n",
    "a WebP of lies": lambda: b"RIFF\xff\xff\xff\x7fWEBPVP8X\x0a\0\0\0\x10\0\0\0\xff\xff\xff\xff\xff\xff",
    "an EPS that is PostScript": lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(canary) (w) file closefile\n",
}  # fmt: skip


def pictures() -> list[Hostile]:
    return [Hostile(name, partial(with_picture, make)) for name, make in PICTURES.items()]


def with_picture(make: Callable[[], bytes], place: Path) -> Sequence[Sequence[object]]:
    for n in range(10):
        (place / f"{n}.png").write_bytes(make() if n == 0 else png(8, 8, rows=bytes(72)))
    return [
        ("train", "rf", "--dataset", "folder", "--path", place, "--channels", 1, *TINY[:6]),
        ("train", "rf", "--dataset", "folder", "--path", place, "--channels", 1, "--crop", "random", "--batch-size", 8, *TINY[:2], *TINY[4:6]),
    ]  # fmt: skip


def archives() -> list[Hostile]:
    made = [
        Hostile(f"an archive with {name}", partial(with_archive, name))
        for name in ("escapes", "a pax bomb", "a gzip bomb")
    ]
    return [*made, Hostile("shards with escapes, links and pickles", with_shards, UNREAD)]


def with_shards(place: Path) -> Sequence[Sequence[object]]:
    """Members that would lie elsewhere, or run, if anything were unpacked or unpickled."""
    picture, harm = png(8, 8, rows=bytes(72)), payloads(place / "canary")
    many = [(f"0/{n:02d}.png", picture) for n in range(30)]
    with tarfile.open(place / "x.tar", "w") as archive:
        for name, data in (
            *many,
            ("../../canary.png", picture),
            ("/canary.png", picture),
            ("0/a.png", picture),
            ("1/b.png", picture),
            ("0/a.pkl", harm["pickle"]),
            ("0/a.pyd", harm["pickle"]),
            ("0/a.pth", harm["torch.save"]),
            ("0/a.npy", harm["npy"]),
            ("0/a.json", b"[" * 10**6),
        ):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
        for name, kind in (("0/l.png", tarfile.SYMTYPE), ("0/h.png", tarfile.LNKTYPE), ("0/p.png", tarfile.FIFOTYPE)):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "/etc/passwd"
            archive.addfile(member)
    return [
        ("train", "rf", "--dataset", "shards", "--path", place / "x.tar", *TINY, "--output", place / "run"),
        ("data", "check", "shards", "--path", place / "x.tar"),
    ]


def with_archive(name: str, place: Path) -> Sequence[Sequence[object]]:
    """cifar-10-binary.tar.gz and an idx file of MNIST."""
    path = place / "cifar-10-binary.tar.gz"
    with gzip.open(path, "wb", compresslevel=1) as out:
        if name == "escapes":
            with tarfile.open(fileobj=out, mode="w") as archive:
                for member, kind, link in (
                    ("../../canary", tarfile.REGTYPE, ""), ("/tmp/canary", tarfile.REGTYPE, ""),
                    ("cifar-10-batches-bin", tarfile.SYMTYPE, "/etc"), ("cifar-10-batches-bin/data_batch_1.bin", tarfile.LNKTYPE, "/etc/passwd"),
                    ("cifar-10-batches-bin/data_batch_2.bin", tarfile.FIFOTYPE, ""), ("cifar-10-batches-bin/data_batch_3.bin", tarfile.CHRTYPE, ""),
                ):  # fmt: skip
                    info = tarfile.TarInfo(member)
                    info.type, info.linkname = kind, link
                    archive.addfile(info)
        elif name == "a pax bomb":
            info = tarfile.TarInfo("pax")
            info.type, info.size = tarfile.XHDTYPE, 2**28
            out.write(info.tobuf(tarfile.USTAR_FORMAT))
            for _ in range(256):
                out.write(b"9" * 2**20)
        else:
            for _ in range(256):
                out.write(bytes(2**20))
    images = place / "MNIST" / "raw" / "train-images-idx3-ubyte.gz"
    images.parent.mkdir(parents=True)
    shutil.copy(path, images)
    shutil.copy(path, place / "x.png")
    return [("train", "rf", "--dataset", name, "--data-dir", place, *TINY[:4], *TINY[6:]) for name in ("cifar10", "mnist")]  # fmt: skip
