"""Laws of downloads: they resume, they are checked, and only whole files get their name."""

from __future__ import annotations

import hashlib
import io
import os

import pytest

from diffcli.errors import DataError, EnvironmentProblem
from diffcli_vision import fetch, named


class Server:
    """Answers like a mirror that knows ranges; `cut` ends the first answer early."""

    def __init__(self, content: bytes, cut: int | None = None):
        self.content, self.cut, self.asked = content, cut, []

    def open(self, request, timeout):
        start = int(request.get_header("Range", "bytes=0-")[6:-1])
        self.asked.append((request.full_url, start))
        answer = io.BytesIO(self.content[start : self.cut])
        answer.status = 206 if start else 200
        self.cut = None
        return answer


def serve(monkeypatch, content: bytes, *, sha256: str = "", cut: int | None = None) -> tuple[Server, fetch.Remote]:
    server = Server(content, cut)
    monkeypatch.setattr(fetch.urllib.request, "build_opener", lambda *handlers: server)
    sha256 = sha256 or hashlib.sha256(content).hexdigest()
    return server, fetch.Remote("f.bin", len(content), sha256, ("https://one/", "https://two/"))


def test_download_goes_on_where_it_stopped(tmp_path, monkeypatch):
    content = os.urandom(5000)
    server, remote = serve(monkeypatch, content, cut=1234)
    path = fetch.download(remote, tmp_path, "there")
    assert path.read_bytes() == content and [p.name for p in tmp_path.iterdir()] == ["f.bin"]
    assert server.asked == [("https://one/f.bin", 0), ("https://two/f.bin", 1234)]


def test_wrong_bytes_are_never_kept(tmp_path, monkeypatch):
    server, remote = serve(monkeypatch, os.urandom(100), sha256="0" * 64)
    with pytest.raises(DataError, match="expected 0000"):
        fetch.download(remote, tmp_path, "there")
    assert not list(tmp_path.iterdir()) and len(server.asked) == 2


def test_more_bytes_than_expected_are_refused(tmp_path, monkeypatch):
    server, remote = serve(monkeypatch, bytes(5000))
    server.content += b"!"
    with pytest.raises(DataError, match="more than the 5000 bytes"):
        fetch.download(remote, tmp_path, "there")


def test_only_https(tmp_path):
    with pytest.raises(ValueError, match="not https"):
        fetch.HttpsOnly().redirect_request(None, None, 302, "", {}, "http://one/f.bin")
    with pytest.raises(DataError, match="is not https"):
        fetch.download(fetch.Remote("f", 1, "", ("http://one/",)), tmp_path, "there")
    for remote in [*named.MNIST.values(), *named.FASHION.values(), named.CIFAR10]:
        assert all(mirror.startswith("https://") and mirror.endswith("/") for mirror in remote.mirrors)


def test_cache_that_cannot_be_written(tmp_path, monkeypatch):
    _, remote = serve(monkeypatch, b"x")
    (tmp_path / "file").write_text("")
    with pytest.raises(EnvironmentProblem, match="cannot be written"):
        fetch.download(remote, tmp_path / "file", "there")
