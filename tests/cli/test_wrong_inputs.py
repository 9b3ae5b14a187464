"""Bad input gets one clear line, the right exit code, and nothing is created or lost."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from commands import TINY, run

RUN = "runs/rf/only"


@dataclass(frozen=True)
class Wrong:
    """What is typed, what the world is like, and what must be said: words of the one line, and the exit code."""

    name: str
    argv: list[str]
    code: int
    says: list[str]
    world: Callable[[Path], None] = lambda folder: None


def write(name: str, content: str | bytes) -> Callable[[Path], None]:
    def world(folder: Path) -> None:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)

    return world


def newest(folder: Path) -> Path:
    return sorted((folder / RUN / "checkpoints").glob("step-*"))[-1]


def cut_all(folder: Path) -> None:
    for file in (folder / RUN / "checkpoints").rglob("ema.safetensors"):
        file.write_bytes(file.read_bytes()[:100])


def foreign(folder: Path) -> None:
    write("model/config.json", "{}")(folder)
    write("model/model.safetensors", b"PK\x03\x04 a pickle in a zip")(folder)


def read_only(folder: Path) -> None:
    write("a-file", "in the way")(folder)


T = [*TINY, "--output", "new"]
TABLE = [
    Wrong("unknown command", ["trian", "rf"], 2, ["trian"]),
    Wrong("unknown method", ["train", "rff"], 2, ["rff", "rf"]),
    Wrong("unknown method to sample", ["sample", "rff"], 2, ["rff", "rf"]),
    Wrong("no method", ["train"], 2, ["train"]),
    Wrong("sampler of the other family", ["sample", "rf", "--sampler", "unmask"], 2, ["unmask"]),
    Wrong("schedule of the other family", ["train", "ddpm", "--schedule", "loglinear", *T], 2, ["loglinear", "masked", "cosine"]),
    Wrong("unknown sampler", ["sample", "rf", "--sampler", "midpont"], 2, ["midpont", "midpoint"]),
    Wrong("unknown schedule", ["train", "ddpm", "--schedule", "cosin", *T], 2, ["cosin", "cosine"]),
    Wrong("unknown dataset", ["train", "rf", "--dataset", "minst", *T], 2, ["minst", "mnist"]),
    Wrong("unknown model", ["train", "rf", "--model", "unett", *T], 2, ["unett", "unet"]),
    Wrong("misspelt flag", ["train", "rf", "--time-samplng", "uniform", *T], 2, ["--time-samplng", "--time-sampling"]),
    Wrong("flag of another sampler", ["sample", "rf", "--sampler", "midpoint", "--eta", "0.5"], 2, ["--eta"]),
    Wrong("no number", ["train", "rf", "--lr", "fast", *T], 2, ["--lr", "fast"]),
    Wrong("too small", ["train", "rf", *T, "--batch-size", "0"], 2, ["--batch-size", "1"]),
    Wrong("too large", ["train", "rf", "--label-dropout", "1.5", *T], 2, ["--label-dropout", "1"]),
    Wrong("nan", ["train", "rf", "--lr", "nan", *T], 2, ["--lr", "finite"]),
    Wrong("infinity", ["sample", "rf", "--guidance-scale", "inf"], 2, ["--guidance-scale", "finite"]),
    Wrong("no choice", ["train", "ddpm", "--prediction", "epsilon", *T], 2, ["--prediction", "eps"]),
    Wrong("no span", ["train", "rf", "--save-every", "often", *T], 2, ["--save-every", "often"]),
    Wrong("two lengths", ["train", "rf", "--epochs", "1", *T], 2, ["steps", "epochs"]),
    Wrong("lists of two lengths", ["train", "rf", *T, "--multipliers", "1,2", "--attention", "0,1,0"], 2, ["attention"]),
    Wrong("no list", ["train", "rf", *T, "--multipliers", "1,two"], 2, ["--multipliers", "two"]),
    Wrong("unreadable parameterization", ["train", "ddpm", "--schedule", "rectified", *T], 2, ["eps-prediction", "alpha is 0", "--prediction"]),
    Wrong("no recipe there", ["train", "none.toml"], 2, ["none.toml"]),
    Wrong("recipe of no TOML", ["train", "bad.toml"], 2, ["bad.toml"], write("bad.toml", "[method\nname=")),
    Wrong("recipe of no text", ["train", "bad.toml"], 2, ["bad.toml"], write("bad.toml", b"\xff\xfe\x00")),
    Wrong("recipe too large", ["train", "bad.toml"], 2, ["bad.toml", "64"], write("bad.toml", "#" * 70000)),
    Wrong("recipe too deep", ["train", "bad.toml"], 2, ["bad.toml"], write("bad.toml", "a" + ".a" * 20000 + " = 1")),
    Wrong("misspelt recipe key", ["train", "bad.toml"], 2, ["time_samplng", "time_sampling"], write("bad.toml", '[method]\nname = "rf"\ntime_samplng = "uniform"\n')),
    Wrong("misspelt recipe section", ["train", "bad.toml"], 2, ["trian", "train"], write("bad.toml", '[method]\nname = "rf"\n[trian]\nlr = 1.0\n')),
    Wrong("recipe without a method", ["train", "bad.toml"], 2, ["method"], write("bad.toml", "[train]\nlr = 1.0\n")),
    Wrong("true is no number", ["train", "bad.toml"], 2, ["steps"], write("bad.toml", '[method]\nname = "rf"\n[train]\nsteps = true\n')),
    Wrong("recipe with nan", ["train", "bad.toml"], 2, ["lr", "finite"], write("bad.toml", '[method]\nname = "rf"\n[train]\nlr = nan\n')),
    Wrong("a folder of pictures that is not there", ["train", "rf", "--dataset", "folder", "--path", "nowhere", *T], 3, ["nowhere"]),
    Wrong("a picture that is none", ["train", "rf", "--dataset", "folder", "--path", "pictures", *T], 3, ["x.png"], write("pictures/a/x.png", "no picture")),
    Wrong("missing data offline", ["train", "rf", "--dataset", "mnist", "--data-dir", "empty", *T], 3, ["mnist"], write("empty/.keep", "")),
    Wrong("no run", ["sample", "ddpm"], 4, ["ddpm", "diffcli train ddpm"]),
    Wrong("no run there", ["sample", "runs/rf/none"], 4, ["runs/rf/none"]),
    Wrong("odd path", ["sample", "[/red]\x1b[31m/none"], 4, ["[/red]"]),
    Wrong("truncated checkpoints", ["sample", RUN], 4, ["checkpoint"], cut_all),
    Wrong("foreign model folder", ["sample", "model"], 4, ["model"], foreign),
    Wrong("no such class", ["sample", RUN, "--label", "10"], 2, ["--label", "10"]),
    Wrong("guidance interval upside down", ["sample", RUN, "--guidance-interval", "0.8,0.2"], 2, ["--guidance-interval"]),
    Wrong("more steps than the table has", ["sample", "runs/ddpm/only", "--sampler", "ddim", "--steps", "1001"], 2, ["1001", "1000"]),
    Wrong("unwritable folder", ["train", "rf", *TINY, "--output", "a-file/run"], 6, ["a-file"], read_only),
    Wrong("output in the way", ["sample", RUN, "--steps", "1", "--samples", "1", "--output", "a-file"], 6, ["a-file"], read_only),
    Wrong("started already", ["train", "rf", *TINY, "--output", RUN], 4, [RUN, "--resume"]),
    Wrong("nothing to resume", ["train", "rf", "--resume", "runs/none"], 4, ["runs/none"]),
    Wrong("unknown measure", ["eval", RUN, "--metric", "fid"], 2, ["fid", "fd"]),
    Wrong("unknown recipe", ["recipes", "show", "rf-mnits"], 2, ["rf-mnits", "rf-mnist"]),
    Wrong("no device", ["sample", RUN, "--device", "cuda"], 6, ["cuda"]),
]  # fmt: skip


def tree(folder: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(folder)): p.read_bytes() if p.is_file() else b""
        for p in folder.rglob("*")
        if p.name != ".lock"
    }


@pytest.fixture
def world(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with one whole run of rf and of ddpm, no data but the embedded ones, and no network."""
    for method in ("rf", "ddpm"):
        (one,) = (trained / "runs" / method).iterdir()
        shutil.copytree(one, tmp_path / "runs" / method / "only")
    for name in ("DIFFCLI_DATA", "https_proxy", "http_proxy", "HTTPS_PROXY", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("socket.getaddrinfo", offline)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def offline(*_: object, **__: object) -> None:
    raise OSError(101, "Network is unreachable")


@pytest.mark.parametrize("wrong", TABLE, ids=[w.name for w in TABLE])
def test_one_line_the_right_code_and_nothing_lost(wrong: Wrong, world: Path):
    if wrong.name == "no run":
        shutil.rmtree(world / "runs" / "ddpm")
    if wrong.name == "no device":
        torch = pytest.importorskip("torch")
        if torch.cuda.is_available():
            pytest.skip("this machine has the device")
    wrong.world(world)
    before = tree(world)
    ran = run(*wrong.argv)
    errors = [line for line in ran.err.splitlines() if line.startswith("error: ")]
    assert ran.code == wrong.code, ran.err
    assert len(errors) == 1, ran.err
    assert ran.err.splitlines()[-1] == errors[0]
    for words in wrong.says:
        assert words in errors[0]
    assert "Traceback" not in ran.err
    assert "\x1b" not in ran.err
    assert ran.out == ""
    assert tree(world) == before


def test_there_are_forty_of_them():
    assert len({w.name for w in TABLE}) == len(TABLE) >= 40


def command(*argv: str) -> list[str]:
    return [sys.executable, "-m", "diffcli", *argv]


def test_a_closed_pipe_is_no_error(world: Path):
    reader, writer = os.pipe()
    os.close(reader)
    try:
        process = subprocess.run(command("plugins"), stdout=writer, stderr=subprocess.PIPE, text=True, timeout=60)
    finally:
        os.close(writer)
    assert process.returncode == 141
    assert "Traceback" not in process.stderr


def test_no_terminal_means_plain_lines(world: Path):
    env = {**os.environ, "TERM": "dumb"}
    process = subprocess.run(
        command("plugins"), capture_output=True, text=True, stdin=subprocess.DEVNULL, env=env, timeout=60
    )
    assert process.returncode == 0
    assert "\x1b" not in process.stdout + process.stderr


@pytest.mark.slow
def test_a_run_in_use_is_left_alone(world: Path):
    import fcntl

    with open(world / RUN / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        process = subprocess.run(command("train", "rf", "--resume", RUN), capture_output=True, text=True, timeout=60)
    assert process.returncode == 8
    assert [line for line in process.stderr.splitlines() if line.startswith("error: ")]


@pytest.mark.slow
def test_a_network_larger_than_the_machine(world: Path):
    ran = run("train", "rf", *T, "--channels", "4096", "--multipliers", "64", "--attention", "0")
    assert ran.code == 6
    assert "out of memory" in ran.err
    assert not (world / "new").exists()
