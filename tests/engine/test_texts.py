"""Texts are written as they were drawn, shown without obeying them, and never look whole when they are not."""

from __future__ import annotations

import errno
import io
import json
import re
import unicodedata
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from rich.console import Console

from commands import Ran
from diffcli.core.space import HIDDEN, Text
from diffcli.engine import texts
from diffcli.engine.load import load
from diffcli.engine.sample import Samples, sample
from diffcli.sections import SampleOptions
from reveal_plugin import ALPHABET, LENGTH

CHEAP = ("--steps", "3", "--samples", "5")


@pytest.fixture
def draw(filled: Path, cli: Callable[..., Ran]) -> Callable[..., Path]:
    """`diffcli sample` of the trained method of texts into the folder of a name; the folder."""

    def drawn(name: str, *argv: object) -> Path:
        ran = cli("sample", filled / "texts", *CHEAP, *argv, "--output", name)
        assert ran.code == 0, ran.err
        return Path(name)

    return drawn


def blocks(path: Path, length: int = LENGTH) -> dict[str, str]:
    """What stands under each header; a text may hold line breaks and empty lines, but its length is known."""
    left, found = path.read_bytes().decode(), {}
    while left:
        head = re.match(r"--- (.*?) ---\n", left)
        assert head and left[head.end() + length :][:1] == "\n", left
        found[head[1]] = left[head.end() : head.end() + length]
        left = left[head.end() + length :].lstrip("\n")
    return found


def test_each_text_stands_whole_under_its_number(draw: Callable[..., Path], filled: Path) -> None:
    folder = draw("out")
    found = blocks(folder / "samples.txt")
    assert list(found) == [f"{i:03d}" for i in range(5)]
    assert list(found.values()) == load(filled / "texts").sample(5, steps=3), "the same texts as in Python"
    assert set("".join(found.values())) == set(ALPHABET), "all characters, and no mask"
    assert sorted(path.name for path in folder.iterdir()) == ["profile.json", "samples.txt"]
    profile = json.loads((folder / "profile.json").read_text())
    assert profile["texts"] == {"samples": 5, "films": 0} and profile["nfe"] == 3


def test_a_film_goes_from_masks_to_the_text_and_nothing_revealed_changes(draw: Callable[..., Path]) -> None:
    folder = draw("out", "--trajectory", "4")
    whole = blocks(folder / "samples.txt")
    films = {path.stem: blocks(path) for path in (folder / "trajectory").iterdir()}
    assert films.keys() == whole.keys()
    for name, film in films.items():
        assert list(film) == ["t=1.000", "t=0.667", "t=0.333", "t=0.000"]
        seen = list(film.values())
        assert seen[0] == HIDDEN * LENGTH and seen[-1] == whole[name]
        for earlier, later in pairwise(seen):
            assert all(a in (HIDDEN, b) for a, b in zip(earlier, later, strict=True))


def test_what_is_watched_and_how_many_at_a_time_changes_no_text(draw: Callable[..., Path]) -> None:
    plain = (draw("plain") / "samples.txt").read_bytes()
    assert (draw("watched", "--trajectory", "2") / "samples.txt").read_bytes() == plain
    assert (draw("parts", "--batch-size", "2", "--trajectory", "9") / "samples.txt").read_bytes() == plain
    assert (draw("other", "--seed", "1") / "samples.txt").read_bytes() != plain


def test_a_prompt_begins_every_text_and_its_film(draw: Callable[..., Path]) -> None:
    folder = draw("out", "--prompt", "baba", "--trajectory", "2")
    assert sorted(path.name for path in folder.iterdir()) == ["profile.json", "samples.txt", "trajectory"]
    assert json.loads((folder / "profile.json").read_text())["options"] == {"inpaint": False, "prompt": "baba"}
    assert all(text.startswith("baba") for text in blocks(folder / "samples.txt").values())
    assert blocks(folder / "trajectory" / "000.txt")["t=1.000"] == "baba" + HIDDEN * (LENGTH - 4)


def test_no_text_drives_the_terminal(draw: Callable[..., Path], filled: Path, cli: Callable[..., Ran]) -> None:
    written = "".join(list(blocks(draw("quiet") / "samples.txt").values())[: texts.FEW])
    assert "\x1b" in written and "\u202e" in written, "else there is nothing to escape"
    ran = cli("sample", filled / "texts", *CHEAP, "--show", "--output", "shown")
    assert ran.code == 0, ran.err
    assert not {c for c in ran.out if c != "\n" and unicodedata.category(c)[0] == "C"}
    assert ran.out.count("\\x1b") == written.count("\x1b") and ran.out.count("\\u202e") == written.count("\u202e")
    assert ran.out.count("\u00e9") == written.count("\u00e9") and ran.out.count("--- 0") == texts.FEW
    assert ran.out.splitlines()[-2:] == ["... and 1 more", "shown"]


def made(rows: int, alphabet: str, label: torch.Tensor | None = None) -> tuple[Samples, Text]:
    x = torch.arange(rows * 2).reshape(rows, 2) % len(alphabet)
    return Samples(x, x, x, label, [(1.0, x)], nfe=1.0, calls=1, seconds=[1.0]), Text(2, 3, alphabet)


def test_a_terminal_without_the_letters_is_told_their_numbers() -> None:
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    texts.show(*made_for_show("\u0436[red]"), Console(file=out), glance=False)
    out.seek(0)
    assert out.read() == "--- 000 ---\n\\u0436[\n"


def made_for_show(alphabet: str) -> tuple[Samples, SampleOptions, Text]:
    samples, space = made(1, alphabet)
    return samples, SampleOptions(), space


def test_a_text_of_a_class_is_named_after_it(tmp_path: Path) -> None:
    samples, space = made(3, "abc", torch.tensor([2, 0, 2]))
    texts.write(samples, SampleOptions(trajectory=1), space, tmp_path, glance=False)
    names = ["000-class2", "001-class0", "002-class2"]
    assert list(blocks(tmp_path / "samples.txt", 2)) == names
    assert sorted(path.stem for path in (tmp_path / "trajectory").iterdir()) == names


@pytest.mark.parametrize("glance, rows, shown, films", [(False, 3, 3, 3), (False, 5, 5, 0), (True, 3, 2, 0)])
def test_many_texts_have_no_films(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, glance: bool, rows: int, shown: int, films: int
) -> None:
    monkeypatch.setattr(texts, "FILMS", 3)
    monkeypatch.setattr(texts, "GLANCE", 2)
    samples, space = made(rows, "ab")
    record = texts.write(samples, SampleOptions(trajectory=1), space, tmp_path, glance=glance)
    assert record == {"texts": {"samples": shown, "films": films}}
    assert len(blocks(tmp_path / "samples.txt", 2)) == shown
    assert len(list(tmp_path.glob("trajectory/*"))) == films


def test_characters_that_no_file_can_hold_are_escaped(tmp_path: Path) -> None:
    samples, space = made(1, "a\ud800")
    texts.write(samples, SampleOptions(), space, tmp_path, glance=False)
    assert (tmp_path / "samples.txt").read_bytes() == b"--- 000 ---\na\\ud800\n"


@pytest.mark.parametrize("flag, value", [("format", "pdf"), ("columns", "3")])
def test_texts_have_no_layout(filled: Path, cli: Callable[..., Ran], flag: str, value: str) -> None:
    ran = cli("sample", filled / "texts", *CHEAP, f"--{flag}", value, "--output", "out")
    assert ran.code == 2 and not Path("out").exists()
    what = f"--{flag} {value} lays out pictures, but this model draws texts, into .txt files"
    assert ran.err == f"error: {what}; leave --{flag} out\n"


def test_a_failed_writing_does_not_look_whole(
    filled: Path, cli: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    ran = cli("sample", filled / "texts", *CHEAP, "--output", "full")
    assert ran.code == 6 and "no space is left" in ran.err
    assert not Path("full", "profile.json").exists()


def test_a_run_writes_texts_of_itself(filled: Path) -> None:
    run = filled / "texts"
    assert sorted(p.name for p in (run / "samples").glob("*.txt")) == ["final.txt", "step-00000001.txt"]
    assert [p.name for p in (run / "trajectory").iterdir()] == ["film.txt"]
    film, final = blocks(run / "trajectory" / "film.txt"), blocks(run / "samples" / "final.txt")
    assert len(final) == 16 and list(film.values())[-1] == final["000"]
    assert blocks(run / "samples" / "step-00000001.txt").keys() == final.keys()


def test_given_rows_are_those_of_all_batches(filled: Path) -> None:
    model = load(filled / "texts")
    part = model.recipe.parts["sampler"]
    o = type(model.recipe.sample)(samples=5, steps=2, batch_size=2, prompt="ab")
    given = sample(model, o, part).given
    assert given is not None and given.index.tolist() == list(range(5))
    assert given.x.shape == given.known.shape == (5, LENGTH) and given.known.sum(1).tolist() == [2] * 5
    assert model.space.write(given.x[:, :2]) == ["ab"] * 5
    assert sample(model, SampleOptions(samples=2, steps=2), part).given is None
