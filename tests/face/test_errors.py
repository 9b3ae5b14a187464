"""Every failure is one line and an exit code; nothing from outside reaches the terminal raw."""

from __future__ import annotations

import errno
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from diffcli import errors
from diffcli.cli import app
from diffcli.cli.app import main, verdict
from diffcli.errors import DiffcliError, Stopped, show


def raising(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """A program whose every command raises."""

    class Program:
        def main(self, **settings: object) -> None:
            raise error

    monkeypatch.setattr(app, "program", Program)


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (errors.CheckFailed("no"), 1, "error: no"),
        (errors.UsageError("no"), 2, "error: no"),
        (errors.DataError("no"), 3, "error: no"),
        (errors.RunError("no"), 4, "error: no"),
        (errors.PluginError("no"), 5, "error: no"),
        (errors.EnvironmentProblem("no"), 6, "error: no"),
        (errors.NonFinite("no"), 7, "error: no"),
        (errors.RunInUse("no"), 8, "error: no"),
        (errors.RankLost("no"), 9, "error: no"),
        (Stopped("stopped at step 3", 15), 143, "stopped at step 3"),
        (Stopped("stopped at step 3", 2), 130, "stopped at step 3"),
        (MemoryError(), 6, "error: out of memory; take a smaller --batch-size, or a smaller network"),
        (OSError(errno.ENOSPC, "No space left on device", "runs/x"), 6, "error: runs/x: no space left on device; make room, or choose a folder on another disk"),
        (PermissionError(errno.EACCES, "Permission denied", "/x"), 6, "error: /x: permission denied; choose a folder that is yours"),
        (KeyboardInterrupt(), 130, "error: interrupted"),
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), 141, ""),
    ],
)  # fmt: skip
def test_each_failure_has_its_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: BaseException, code: int, line: str
) -> None:
    raising(monkeypatch, error)
    assert main(["plugins"]) == code
    assert capsys.readouterr().err == (line + "\n" if line else "")


def test_the_out_of_memory_of_an_accelerator_is_the_machines() -> None:
    class OutOfMemoryError(RuntimeError):
        pass

    assert verdict(OutOfMemoryError("CUDA out of memory"))[0] == 6


def test_a_bug_leaves_its_traceback_in_a_file(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    raising(monkeypatch, ZeroDivisionError("a [/red] bug\nof two lines"))
    assert main(["plugins"]) == 70
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "ZeroDivisionError: a [/red] bug\\nof two lines" in err
    (log,) = tmp_path.glob("crash-*.log")
    assert str(log) in err
    assert "Traceback" in log.read_text()
    assert "['plugins']" in log.read_text()


def test_debug_shows_the_traceback_and_the_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    raising(monkeypatch, errors.RunError("no run"))
    assert main(["plugins", "--debug"]) == 4
    err = capsys.readouterr().err
    assert err.startswith("Traceback")
    assert err.endswith("error: no run\n")


def test_the_codes_of_the_children_are_distinct() -> None:
    codes = [child.code for child in DiffcliError.__subclasses__() if child is not Stopped]
    assert len(set(codes)) == len(codes) == 9


@pytest.mark.parametrize("text", ["a\nb", "a\x1b[31mb", "a‮b", "a\x00b", "a\r", "\ud800", "x\x9by"])
def test_show_is_one_harmless_line(text: str) -> None:
    shown = show(text)
    assert shown.isprintable()
    shown.encode()


def test_show_is_short() -> None:
    assert len(show("a" * 10_000)) == 300


@pytest.mark.parametrize(
    "name", ["[/red]", "[bold]x[/bold]", "\x1b[31mred", "a\nb", "[red]", "%s{}", "‮", "--", "[[", "\\"]
)
def test_names_from_outside_harm_nothing(toy: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    for line in (["train", name], ["sample", name], ["train", "toy", "--model", name], ["train", "toy", f"--{name}"],
                 ["train", "toy", "--recipe", name + ".toml"], [name], ["plugins", "why", name], ["train", "toy", "--lr", name]):  # fmt: skip
        assert main(line) in (2, 4)
        err = capsys.readouterr().err
        assert err.startswith("error: ")
        assert err.count("\n") == 1
        assert err.rstrip("\n").isprintable()


def test_a_default_with_markup_is_shown_as_it_is(toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("r.toml").write_text('[method]\nname = "toy"\nnotes = "[/red]"\n')
    assert main(["train", "r.toml", "--help"]) == 0
    assert "[/red]" in capsys.readouterr().out


def test_a_closed_pipe_is_silent(toy: Path) -> None:
    code = "import sys; from diffcli.cli.app import run; sys.argv[1:] = ['plugins']; run()"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout and process.stderr
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait() == 141


def test_a_full_disk_under_stdout_is_one_line(toy: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "diffcli", "plugins"], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert done.returncode == 6
    assert done.stderr == "error: no space left on device; make room, or choose a folder on another disk\n"


def test_python_m_diffcli_is_the_program(python: Callable) -> None:
    done = python("-m", "diffcli", "trian")
    assert done.returncode == 2
    assert done.stderr == "error: there is no command 'trian'; did you mean train?\n"
    assert done.stdout == ""
