"""Laws of text files: where they are found, how they are read, and that a wrong one is named in a line."""

from __future__ import annotations

import hashlib
import io
import os
import re
from dataclasses import replace
from pathlib import Path

import pytest

from diffcli import recipe as recipes
from diffcli.engine.job import anchored
from diffcli.errors import DataError, UsageError
from diffcli.registry import registry
from diffcli_vision import TextOptions, fetch
from diffcli_vision import text as module
from diffcli_vision.text import SHAKESPEARE, SPLITS, text
from texts import THIRDS, WORDS, opened, said, write

SOURCE = os.environ.get("DIFFCLI_DATA", "")


@pytest.fixture(autouse=True)
def nowhere(tmp_path, monkeypatch):
    """An empty folder, no data of this machine and no network, unless a test says so."""

    class Offline:
        def open(self, *args, **kwargs):
            raise fetch.URLError("offline")

    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.delenv("DIFFCLI_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(fetch.urllib.request, "build_opener", lambda *handlers: Offline())


# files


@pytest.mark.parametrize("piece", [1, 3, 1 << 20])
def test_a_file_is_read_as_python_reads_it(piece, monkeypatch):
    monkeypatch.setattr(module, "PIECE", piece)
    lines = "é漢\r\n𝄞a\rb\n" * 20
    parts = [opened(b"\xef\xbb\xbf" + lines.encode(), split) for split in SPLITS]
    assert "".join(map(said, parts)) == "é漢\n𝄞a\nb\n" * 20


WRONG = {
    "missing": (None, r"a\.txt is neither here nor under .*cache.*; give --path a text file, or --data-dir"),
    "empty": (b"", r"first 50 %, 0 characters, .* has 0 windows of 8 characters, but a split needs 2 or more; .*--length"),
    "short": (b"abcdefgh" * 3, r"a\.txt, first 50 %.* has 1 windows of 8 characters"),
    "binary": (b"abcdefgh" * 20 + b"\x89PNG" + b"abcdefgh" * 20, r"a\.txt is no UTF-8 text: byte 160 is 0x89.*; save it as UTF-8"),
    "cut": ("é".encode()[:1], r"byte 0 is 0xc3, unexpected end of data"),
    "signs": ("".join(chr(0x4E00 + k) for k in range(4097)), r"a\.txt has 4097 different characters, above the limit of 4096"),
}  # fmt: skip


@pytest.mark.parametrize("kind", WRONG)
def test_what_is_no_text_is_refused_in_one_line(kind):
    content, line = WRONG[kind]
    path = Path("a.txt") if content is None else write(content)
    with pytest.raises(DataError, match=line) as caught:
        text(TextOptions(path=path, length=8, splits=THIRDS), "train")
    assert "\n" not in str(caught.value)


def test_a_wrong_byte_is_counted_in_the_whole_file():
    """The reader takes pieces; what it says of its own piece is not passed on."""
    with pytest.raises(DataError, match="byte 300000 is 0xff"):
        opened(b"a" * 300_000 + b"\xff" + b"a" * 10)


def test_what_is_no_file_is_refused(monkeypatch):
    def open_(path: object, line: str) -> None:
        with pytest.raises(DataError, match=line) as caught:
            text(TextOptions(path=Path(str(path))), "train")
        assert "\n" not in str(caught.value)

    with pytest.raises(UsageError, match=r"needs --path FILE; tinyshakespeare/input\.txt is downloaded"):
        text(TextOptions(), "train")
    open_(Path.cwd(), "is a folder; give --path the text file in it")
    open_(Path.cwd() / "no.txt", r"no\.txt cannot be read: No such file or directory; give --path")
    open_("/dev/zero", "is no regular file")
    os.truncate(write(b"", "vast.txt"), 2**31 + 1)  # takes no room
    open_("vast.txt", r"vast\.txt has 2\.0 GiB, above the limit of 2;")

    def locked(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", locked)
    open_(write(b"", "locked.txt"), r"locked\.txt cannot be read: Permission denied")


# where files lie


def test_a_relative_path_is_looked_for_here_then_in_the_data_folders(tmp_path, monkeypatch):
    write("cd" * 40, str(tmp_path / "root" / "own" / "b.txt"))
    write("ef" * 40, str(tmp_path / "other" / "text" / "own" / "b.txt"))
    config = TextOptions(path=Path("own/b.txt"), length=8, data_dir=tmp_path / "root")
    assert (text(config, "train").alphabet, text(config, "train").split[:15]) == ("cd", "text/own/b.txt,")
    monkeypatch.setenv("DIFFCLI_DATA", str(tmp_path / "other"))
    assert text(replace(config, data_dir=None), "train").alphabet == "ef"
    write("ab" * 40, "own/b.txt")
    assert (text(config, "train").alphabet, text(config, "train").split[:11]) == ("ab", "text/b.txt,")
    with pytest.raises(DataError, match="data folder nope is not there"):
        text(replace(config, path=Path("c.txt"), data_dir=Path("nope")), "train")


def test_a_run_notes_where_its_text_was_found():
    """What lies here becomes absolute; what is found below a data folder keeps its name, on any machine."""
    write("ab", "here.txt")
    for given, noted in (("here.txt", Path.cwd() / "here.txt"), ("t/there.txt", Path("t/there.txt")), ("/x/y", "/x/y")):
        tables = {"method": {"name": "rf"}, "dataset": {"name": "folder", "path": given}}
        assert anchored(recipes.resolve(tables)).parts["dataset"].config.path == Path(noted)


class Server:
    """Answers with one content."""

    def __init__(self, content: bytes):
        self.content, self.asked = content, []

    def open(self, request, timeout):
        self.asked.append(request.full_url)
        answer = io.BytesIO(self.content)
        answer.status = 200
        return answer


@pytest.fixture
def server(monkeypatch) -> Server:
    """Tiny Shakespeare, but another text."""
    made = Server((WORDS * 20).encode())
    monkeypatch.setattr(fetch.urllib.request, "build_opener", lambda *handlers: made)
    sha256 = hashlib.sha256(made.content).hexdigest()
    monkeypatch.setattr(module, "REMOTE", replace(module.REMOTE, size=len(made.content), sha256=sha256))
    return made


def test_shakespeare_is_downloaded_once(server, tmp_path):
    config = TextOptions(path=SHAKESPEARE, length=8)
    for split in ("train", "test", "train"):
        assert text(config, split).split.startswith("text/tinyshakespeare/input.txt, ")
    assert (tmp_path / "cache/diffcli/tinyshakespeare/input.txt").read_bytes() == server.content
    url = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
    assert server.asked == [url]


def test_shakespeare_is_known_by_its_checksum(server, tmp_path):
    write(server.content, str(tmp_path / "data/text/tinyshakespeare/input.txt"))
    config = TextOptions(path=SHAKESPEARE, length=8, data_dir=tmp_path / "data")
    assert len(text(config, "train")) and not server.asked
    write(server.content[:-1], str(tmp_path / "data/text/tinyshakespeare/input.txt"))
    with pytest.raises(DataError, match=rf"input\.txt is damaged .* expected {module.REMOTE.sha256}"):
        text(config, "train")


def test_offline_says_what_is_missing_and_where(tmp_path):
    with pytest.raises(DataError) as caught:
        text(TextOptions(path=SHAKESPEARE, data_dir=tmp_path), "train")
    message = str(caught.value)
    assert "\n" not in message and "offline" in message and "--data-dir" in message and str(tmp_path) in message


@pytest.mark.skipif(
    not any((Path(SOURCE) / place / SHAKESPEARE).is_file() for place in ("", "text")) or not SOURCE,
    reason=f"DIFFCLI_DATA has no {SHAKESPEARE}",
)
def test_real_shakespeare():
    config = TextOptions(path=SHAKESPEARE, data_dir=Path(SOURCE).absolute())
    train, test = text(config, "train"), text(config, "test")
    assert len(train.numbers) + len(test.numbers) == 1_115_394 and len(train.alphabet) == 65
    assert said(train).startswith("First Citizen:\nBefore we proceed any further, hear me speak.\n")
    assert (len(train), len(test)) == (3921, 435)
    counts = train.numbers.long().bincount(minlength=65).double()
    bits = -(counts / counts.sum()).log2()[test.numbers.long()].mean()
    assert abs(bits - 4.83) < 0.01  # what an independent-character model reaches on the last tenth


# the command line


def test_data_check_reads_a_text(cli):
    write(WORDS * 40)
    ran = cli("data", "check", "text", "--path", "a.txt", "--length", "16", "--json")
    assert ran.code == 0, ran.err
    head, train, test = (re.split(r"\s{2,}", line) for line in ran.out.splitlines()[:3])
    assert head == ["SPLIT", "IMAGES", "SHAPE", "CLASSES", "CHARACTERS"]
    assert train[1:] == ["99", "[16]", "0", "28"] and test[1:] == ["11", "[16]", "0", "28"]
    assert [row["characters"] for row in ran.json["splits"]] == [28, 28]
    plain = cli("data", "check", "digits", "--json")
    assert "CHARACTERS" not in plain.out and ran.json["splits"][0].keys() - plain.json["splits"][0] == {"characters"}
    ran = cli("data", "check", "text", "--path", "b.txt")
    assert ran.code == 3 and ran.err.startswith("error: b.txt is neither here nor under") and ran.err.count("\n") == 1


def test_texts_are_listed_for_masked_methods_alone(cli):
    assert registry().get("dataset", "text").family == "masked"
    assert "text" in cli("data", "list", "--json").json["datasets"]
    ran = cli("train", "rf", "--dataset", "text", "--path", "a.txt")
    assert ran.code == 2 and "text is a masked dataset, but rf is gaussian; use one of: " in ran.err
