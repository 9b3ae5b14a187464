"""Files of any size are reconstructed each at its own, measured, and laid side by side; latents are kept and decoded again."""

from __future__ import annotations

import csv
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from diffcli.engine import coding, restore, restored
from diffcli.engine.load import load
from diffcli.errors import DataError, NonFinite, UsageError
from diffcli.metrics.reconstruction import psnr, ssim
from diffcli_vae import VAESample
from diffcli_vision import latents
from model_folders import folder
from mosaic import mosaic

SIZES = {"a": (16, 12), "b": (16, 12), "c": (9, 21), "d": (16, 12), "e": (3, 2)}  # (H, W)
HOSTILE = [
    '<img src=x onerror="alert(1)">.png',
    "=cmd|'calc'!A1.png",
    "../",
    "ünï cödé.png",
    "-rf.png",
    "[red]\x1b[2J.png",
]


def pixels(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


@pytest.fixture
def pictures(tmp_path, monkeypatch) -> Path:
    """A folder with pictures of SIZES, in which we are beside."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pictures").mkdir()
    for k, (name, (height, width)) in enumerate(SIZES.items()):
        Image.fromarray(pixels(height, width, k)).save(tmp_path / "pictures" / f"{name}.png")
    return tmp_path / "pictures"


def drawn(place: Path, o: VAESample, **more) -> restore.Restored:
    """What restoring leaves of a mosaic."""
    place.mkdir()
    return restore.restore(mosaic(), o, None, place, **more)


def seen(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def test_each_picture_comes_back_at_its_own_size(pictures, tmp_path):
    """In the order of the files; what was given is kept to the bit; what was made is what the model makes of it alone."""
    made = drawn(tmp_path / "out", VAESample(input="pictures"))
    assert [row["images"] for row in made.table] == [f"images/00{k}-{name}.png" for k, name in enumerate(SIZES)]
    for k, (size, row) in enumerate(zip(SIZES.values(), made.table, strict=True)):
        given = pixels(*size, k)
        assert np.array_equal(seen(tmp_path / "out" / row["given"]), given)
        x = torch.from_numpy(given).permute(2, 0, 1)[None].float() / 127.5 - 1
        y = mosaic().reconstruct(x)
        wanted = ((y[0].permute(1, 2, 0) + 1) * 127.5).round().byte().numpy()
        assert (
            np.abs(seen(tmp_path / "out" / row["images"]).astype(int) - wanted).max() <= 1
        )  # a value at the edge of rounding
        assert (row["width"], row["height"]) == size[::-1] and row["latent"] == [3, -(-size[0] // 4), -(-size[1] // 4)]
        a, b = (x + 1) / 2, (y + 1) / 2
        assert row["psnr"] == pytest.approx(float(psnr(a, b)), abs=1e-3)
        assert row["ssim"] == pytest.approx(float(ssim(a, b)), abs=1e-3)
        assert row["encode_ms"] > 0 and row["decode_ms"] > 0


def test_neighbours_of_one_size_share_a_batch_within_memory(pictures, tmp_path, monkeypatch):
    ticks = []
    o = VAESample(input="pictures")
    groups = [[i.number for i in g] for g in restore.groups(restore.items(mosaic(), o), o)]
    assert groups == [[0, 1], [2], [3], [4]]
    whole = drawn(tmp_path / "one", o, tick=ticks.append)
    assert ticks == [2, 3, 4, 5]
    monkeypatch.setattr(coding, "PIXELS", 16 * 12)
    assert [len(g) for g in restore.groups(restore.items(mosaic(), o), o)] == [1] * 5
    alone = drawn(tmp_path / "two", o)
    assert [a["psnr"] for a in alone.table] == pytest.approx([b["psnr"] for b in whole.table], abs=1e-4)


def test_latents_of_unequal_sizes_are_kept_and_decoded_to_the_same_pictures(pictures, tmp_path):
    m, o = mosaic(), VAESample(input="pictures", keep_latents=True)
    first = drawn(tmp_path / "first", o)
    (kept,) = m.method.keep(first, o, tmp_path / "first")
    again = VAESample(latents=kept)
    assert again.samples == latents.rows(kept) == len(SIZES)
    second = drawn(tmp_path / "second", again)
    for a, b in zip(first.table, second.table, strict=True):
        assert (a["width"], a["height"], a["latent"]) == (b["width"], b["height"], b["latent"])
        assert np.array_equal(seen(tmp_path / "first" / a["images"]), seen(tmp_path / "second" / b["images"]))
        assert "psnr" not in b and "given" not in b and "encode_ms" not in b
    assert not (tmp_path / "second" / "given").exists()
    with pytest.raises(UsageError, match="of several sizes"):
        m.sample(latents=str(kept))


@pytest.mark.parametrize(
    ("sizes", "why"),
    [("[[16, 12]]", "nothing usable"), ("[1, 2]", "nothing usable"), ('[["x", 2], [3, 4]]', "nothing usable"),
     ("[[true, 4], [4, 4]]", "nothing usable"), ("{", "nothing usable"), ("[[4, 4], [4, -4]]", "nothing usable")],
)  # fmt: skip
def test_sizes_in_a_file_of_latents_are_judged(tmp_path, sizes, why):
    whose = latents.fingerprint(mosaic().method)
    from safetensors.torch import save_file

    path = tmp_path / "latents.safetensors"
    save_file({"z": torch.zeros(2, 3, 1, 1)}, path, {"autoencoder": whose, "sizes": sizes})
    with pytest.raises(DataError, match=why):
        mosaic().method.codes(VAESample(latents=path))


def test_a_size_that_was_never_padded_to_its_latents_is_refused(tmp_path):
    m = mosaic()
    latents.write([torch.zeros(3, 2, 2)], [(4, 40)], latents.fingerprint(m.method), {}, tmp_path)
    with pytest.raises(DataError, match=r"number 0 of the latents cannot be: .*padded to"):
        drawn(tmp_path / "out", VAESample(latents=tmp_path / "latents.safetensors"))


def test_options_without_a_meaning_for_files_are_refused(pictures):
    for more, why in (
        ({"trajectory": 3}, "--trajectory"),
        ({"format": "gif"}, "--format gif"),
        ({"label": "3"}, "--label"),
    ):
        with pytest.raises(UsageError, match=why):
            restore.wanted(mosaic(), VAESample(input="pictures", **more))
    assert restore.wanted(mosaic(), VAESample()) == 0


def test_slugs_are_harmless_names():
    made = [restore.slug(name) for name in HOSTILE]
    assert all(re.fullmatch(r"(-[A-Za-z0-9_]+)*", name) for name in made)
    assert (
        made[3] == "-uni-code" and restore.slug("x/y.tar.png") == "-y-tar" and restore.slug("x" * 500) == "-" + "x" * 60
    )


@pytest.fixture
def home(tmp_path, cli) -> Path:
    """A vae as a model folder, beside pictures with names that would do harm."""
    folder(tmp_path / "model")
    (tmp_path / "pictures").mkdir()
    for k, name in enumerate(HOSTILE):
        if "/" not in name:
            Image.fromarray(pixels(20, 30, k)).save(tmp_path / "pictures" / name)
    return tmp_path


class Page(HTMLParser):
    """The tags of a page, and its text."""

    def __init__(self, text: str):
        super().__init__()
        self.tags, self.text = list[tuple[str, dict[str, str | None]]](), ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


def test_the_command_leaves_tables_and_a_page_that_needs_nothing_else(home, cli):
    ran = cli("sample", "model", "--input", "pictures", "--output", "drawn", "--json")
    assert ran.code == 0, ran.err
    assert {p.name for p in Path("drawn").iterdir()} == {
        "images", "given", "comparison.png", "comparison.html", "table.csv", "table.json", "profile.json",
    }  # fmt: skip
    lines = list(csv.DictReader(Path("drawn/table.csv").read_text().splitlines()))
    table = json.loads(Path("drawn/table.json").read_text())
    profile = json.loads(Path("drawn/profile.json").read_text())
    assert len(lines) == 6 and lines[-1]["file"] == "mean" and len(table["pictures"]) == profile["samples"] == 5
    for key in ("psnr", "ssim", "encode_ms", "decode_ms"):
        mean = sum(row[key] for row in table["pictures"]) / 5
        assert table["mean"][key] == profile["mean"][key] == pytest.approx(mean)
        assert float(lines[-1][key]) == pytest.approx(mean, rel=1e-5)
        assert key.upper().replace("_", " ") in ran.out
    assert restored.cells({"file": "=cmd|x.png"})[0] == "./=cmd|x.png", "a spreadsheet would run it"
    assert {"run", "seed", "cpu", "command", "n", "device"} <= table["facts"].keys()
    assert ran.out.count("pictures/") >= 5 and f"{table['mean']['psnr']:.4g}" in ran.out and "\x1b" not in ran.out

    page = Page(Path("drawn/comparison.html").read_text())
    assert {tag for tag, _ in page.tags} <= {
        "html", "head", "meta", "title", "style", "body", "h1", "h2", "table", "tr", "td", "section", "figure", "figcaption",
        "div", "img", "br",
    }  # fmt: skip
    images = [about["src"] for tag, about in page.tags if tag == "img"]
    assert len(images) == 4 * 5 and all((Path("drawn") / str(src)).is_file() for src in images)
    assert all(set(about) <= {"src", "alt", "width", "height", "loading"} for tag, about in page.tags if tag == "img")
    policy = next(about["content"] for tag, about in page.tags if about.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None and policy.startswith("default-src 'none'; img-src 'self' file:; style-src 'sha256-")
    assert "script" not in policy and "http" not in policy and "unsafe" not in policy
    assert all(name in page.text for name in HOSTILE[:2])


def test_all_pictures_are_resized_where_the_method_has_one_size(home, cli):
    """As they were before: the middle of each; what is kept as given is what went in."""
    assert cli("sample", "model", "--input", "pictures", "--output", "drawn", "--keep-latents").code == 0
    sizes = {seen(p).shape for place in ("images", "given") for p in Path("drawn", place).iterdir()}
    assert sizes == {(8, 8)}, sizes
    m = load("model")
    assert torch.allclose(m.sample(input="pictures"), m.sample(latents="drawn/latents.safetensors"), atol=1e-6)
    assert cli("sample", "model", "--latents", "drawn/latents.safetensors", "--output", "again").code == 0


def test_what_goes_wrong_leaves_nothing(home, cli, monkeypatch):
    (home / "pictures" / "zz.png").write_bytes(b"no picture")
    ran = cli("sample", "model", "--input", "pictures", "--output", "drawn")
    assert ran.code == 3 and "zz.png is no readable image" in ran.err
    (home / "pictures" / "zz.png").unlink()

    def broken(*args, **kwargs):
        raise NonFinite("1 of 1 samples are not finite")

    monkeypatch.setattr(restore, "decoded", broken)
    assert cli("sample", "model", "--input", "pictures", "--output", "drawn").code == 7
    assert cli("sample", "model", "--input", "pictures").code == 7
    assert {p.name for p in home.iterdir()} == {"model", "pictures", "samples"} and not list(
        (home / "samples").iterdir()
    )


def test_a_picture_of_nothing_but_its_means_is_exact(tmp_path, monkeypatch):
    """PSNR of what comes back unchanged is its bound of 100 dB, and SSIM 1."""
    monkeypatch.chdir(tmp_path)
    Image.fromarray(pixels(4, 5).repeat(4, 0).repeat(4, 1)).save("blocks.png")
    (row,) = drawn(tmp_path / "out", VAESample(input="blocks.png")).table
    assert row["psnr"] > 90 and row["ssim"] == pytest.approx(1, abs=1e-6)
