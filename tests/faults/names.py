"""Names that mean harm wherever one may surface: a terminal, a page, a table, a figure, a recipe."""

from __future__ import annotations

import csv
import os
import shutil
from collections.abc import Sequence
from functools import partial
from html.parser import HTMLParser
from pathlib import Path

from bombs import png
from canary import Hostile
from slots import TINY, newest

NAMES = (
    "[red]bold[", "\x1b[2J\x1b]0;title\x07", "<script>alert(1)<!--", '"><img src=x onerror=alert(1)>', "=cmd|' -C calc'!A0",
    "a\nb\rc", "\u202etxt.exe", "$\\frac{1}{$", "{0.__class__}%s%n", "..%2f..%2f", "';x --", "\x9b31m", "-rf", "a" * 200,
)  # fmt: skip
OURS = {"style", "html", "head", "meta", "title", "body", "h1", "h2", "table", "tr", "td", "section", "br", "figure", "div", "img", "figcaption"}  # fmt: skip
SINGING = Hostile("", lambda place: ()).fine | {0, 6}


def names(run: Path, encoder: Path) -> list[Hostile]:
    """run: of a method with classes; encoder: a model folder that reconstructs pictures."""
    made = [Hostile(f"a run called {name!r:.40}", partial(run_called, run, name), SINGING) for name in NAMES]
    made.append(Hostile("classes with such names", classes, SINGING))
    made.append(Hostile("a class that is no UTF-8", latin, SINGING))
    made.append(Hostile("pictures with such names", partial(called, encoder), SINGING))
    made.append(Hostile("a text of control characters", words, SINGING))
    made.append(Hostile("files in a checkpoint with such names", partial(beside, run), SINGING))
    return made


def run_called(run: Path, name: str, place: Path) -> Sequence[Sequence[object]]:
    mine = place / name
    shutil.copytree(run, mine)
    argv = ("sample", mine, "--samples", 1, "--steps", 1), ("train", "--resume", mine), ("doctor", mine)
    return [
        *argv,
        ("export", mine, place / f"{name[:100]}x"),
        ("eval", mine, "--metric", "loss"),
        ("train", name),
        ("sample", name),
    ]


def trained_on(pictures: object) -> tuple[object, ...]:
    given = "--cond", "label", "--dataset", "folder", "--path", pictures, "--channels", 1
    return ("train", "rf", *given, *TINY)


def classes(place: Path) -> Sequence[Sequence[object]]:
    """Class names go into labels, figures, recipes and states."""
    for name in NAMES:
        folder = place / "pictures" / name
        folder.mkdir(parents=True)
        for n in range(2):
            (folder / f"{n}.png").write_bytes(png(8, 8, rows=bytes(72)))
    run = place / "run"
    train = trained_on(place / "pictures")
    some = ("sample", run, "--samples", 2, "--steps", 1, "--label")
    draws = ("eval", run, "--samples", 16, "--steps", 1, "--plot", "guidance-scatter,guidance-grid,loss-vs-t")
    return [
        (*train, "--output", run),
        *((*some, name) for name in NAMES[:9]),
        ("train", "--resume", run),
        ("eval", run, "--metric", "loss"),
        draws,
    ]


def latin(place: Path) -> Sequence[Sequence[object]]:
    """A name that only bytes can say."""
    root = os.fsencode(place) + b"/\xff\xfe pictures"
    for name in (b"\xe9t\xe9", b"b"):
        os.makedirs(root + b"/" + name)
        for n in range(6):
            with open(root + b"/" + name + b"/%d.png" % n, "wb") as file:
                file.write(png(8, 8, rows=bytes(72)))
    run = place / "run"
    train = trained_on(os.fsdecode(root))
    return [(*train, "--output", run), ("sample", run, "--samples", 1, "--steps", 1), ("train", "--resume", run)]


def called(encoder: Path, place: Path) -> Sequence[Sequence[object]]:
    """What is reconstructed is shown on a page, and in a table."""
    folder = place / "pictures"
    folder.mkdir()
    for name in NAMES:
        (folder / f"{name}.png").write_bytes(png(8, 8, rows=bytes(72)))
    return [("sample", encoder, "--input", folder, "--output", place / "out")]


def words(place: Path) -> Sequence[Sequence[object]]:
    """What a model of texts draws is shown in the terminal."""
    (place / "words.txt").write_text("\x1b[2J\x07\u202e[red]<script>\x9b" * 200)
    run = place / "run"
    net = ("--length", 16, "--width", 16, "--heads", 2, "--depth", 1, "--steps", 1, "--batch-size", 4)
    return [
        ("train", "mdlm", "--dataset", "text", "--path", place / "words.txt", *net, "--output", run),
        ("sample", run, "--samples", 2, "--steps", 2),
    ]


def beside(run: Path, place: Path) -> Sequence[Sequence[object]]:
    mine = Path(shutil.copytree(run, place / "run"))
    for name in NAMES:
        (newest(mine) / name).write_bytes(b"")
    return [("sample", newest(mine), "--samples", 1), ("train", "--resume", mine)]


class Page(HTMLParser):
    """What in a page is not ours: elements, handlers, and places that are not beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.odd: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.odd += [tag] if tag not in OURS else []
        self.odd += [
            f"{tag} {k}" for k, v in attrs if k.startswith("on") or (":" in (v or "") and k in ("src", "href"))
        ]


def odd(place: Path) -> list[str]:
    """What pages and tables below a folder hold that could act."""
    found = list[str]()
    for path in place.rglob("*.html"):
        page = Page()
        page.feed(path.read_text())
        found += page.odd
    for path in place.rglob("*.csv"):
        with path.open(newline="") as file:
            cells = [cell for row in csv.reader(file) for cell in row]
        found += [cell for cell in cells if cell[:1] in tuple("=+@\t\r") and not cell[1:].replace(".", "").isdigit()]
    return found
