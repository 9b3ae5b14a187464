"""What the faults have found, each in a law of its own."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from bombs import with_archive

from commands import run
from diffcli.cli import output
from diffcli.engine import checkpoint, files
from diffcli.engine.manifest import STATE_CAP, well_formed
from diffcli.engine.rundir import RunDir
from diffcli.errors import DataError, EnvironmentProblem
from diffcli_vision import formats


@pytest.fixture
def half(trained: Path, tmp_path: Path) -> Path:
    """A run of four steps that was killed after its second."""
    (one,) = (trained / "runs" / "rf").iterdir()
    copy = Path(shutil.copytree(one, tmp_path / "run"))
    shutil.rmtree(copy / "checkpoints" / "step-00000004")
    return copy


@pytest.mark.parametrize(("was", "now"), [("lr = 0.002", "lr = 0.003"), ("seed = 0", "seed = 1"), ("batch_size = 8", "batch_size = 9"), ("steps = 4", "steps = 5")])  # fmt: skip
def test_a_recipe_that_was_changed_since_the_checkpoint_is_refused(half: Path, was: str, now: str) -> None:
    path = half / "recipe.toml"
    text = path.read_text()
    changed = text.replace(f"\n{was}\n", f"\n{now}\n", 1)
    assert changed != text
    path.write_text(changed)
    ran = run("train", "--resume", half)
    assert ran.code == 4 and f"says [train] {now}, but the checkpoint step-00000002 was trained with" in ran.err
    path.write_text(text)
    assert run("train", "--resume", half).code == 0


def test_metrics_that_were_changed_before_the_checkpoint_are_told(half: Path) -> None:
    path = half / "metrics.jsonl"
    rows = path.read_text().splitlines(keepends=True)
    after = "".join(rows[:2]) + rows[2][:9]  # torn after the checkpoint: as a kill leaves it
    path.write_text(after)
    assert "warning" not in run("train", "--resume", half).err
    shutil.rmtree(half / "checkpoints" / "step-00000004")
    path.write_text(after.replace('"loss": 1', '"loss": 9', 1).replace('"loss": 2', '"loss": 9', 1))
    assert "warning: metrics.jsonl is not what was written up to step 2" in run("train", "--resume", half).err


def test_a_finished_run_without_its_metrics_is_finished_again(half: Path) -> None:
    assert run("train", "--resume", half).code == 0
    (half / "metrics.jsonl").write_bytes(b"\x80\x04 no rows")
    ran = run("train", "--resume", half)
    assert ran.code == 0 and "warning: metrics.jsonl" in ran.err
    assert json.loads((half / "summary.json").read_text())["best_step"] is None


@pytest.mark.slow
def test_the_pictures_of_a_checkpoint_that_a_kill_took_are_drawn_again(half: Path) -> None:
    argv = ("train", "--resume", half, "--sample-every", 2)
    assert run(*argv).code == 0
    picture = half / "samples" / "step-00000002.png"
    before = picture.read_bytes()
    picture.unlink()
    shutil.rmtree(half / "checkpoints" / "step-00000004")
    assert run(*argv).code == 0
    assert picture.read_bytes() == before


def test_a_run_that_was_killed_before_it_had_a_recipe_can_begin_again(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / ".lock").touch()
    (run / ".tmp-recipe.toml-999999999").touch()
    with RunDir.create(run, "rf").lock():
        assert [path.name for path in run.iterdir()] == [".lock"]


def test_only_what_the_dead_left_is_swept(tmp_path: Path) -> None:
    for name in (
        f".tmp-a-{os.getppid()}",
        ".tmp-b-999999999",
        f".tmp-c-{os.getpid()}",
        ".tmp-d-x",
        ".tmp-7",
        "e-999999999",
    ):
        (tmp_path / name).mkdir() if name < ".tmp-c" else (tmp_path / name).touch()
    (tmp_path / ".tmp-f-999999999").symlink_to(tmp_path / "e-999999999")
    files.sweep(tmp_path, tmp_path / "nowhere")
    left = {".tmp-d-x", ".tmp-7", "e-999999999", ".tmp-f-999999999", f".tmp-a-{os.getppid()}"}
    assert {path.name for path in tmp_path.iterdir()} == left


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_closed_stream_is_no_bug(closed: str, tmp_path: Path) -> None:
    line = f'"$0" -m diffcli plugins list {closed}'
    assert subprocess.run(["bash", "-c", line, sys.executable], cwd=tmp_path, capture_output=True).returncode == 0


def test_a_file_of_ours_never_gets_the_number_of_a_closed_stream(tmp_path: Path) -> None:
    code = "import os; from diffcli.cli.app import reopen; reopen(); print(os.open('x', 65))"
    done = subprocess.run(
        ["bash", "-c", f'"$0" -c "{code}" <&- 2>&-', sys.executable], cwd=tmp_path, capture_output=True
    )
    assert done.returncode == 0 and int(done.stdout) > 2


def test_a_path_is_harmless_to_a_terminal_and_whole_in_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    for terminal, said in ((True, "a\\x1b[2J\n"), (False, "a\x1b[2J\n")):
        out = io.StringIO()
        monkeypatch.setattr(out, "isatty", lambda terminal=terminal: terminal)
        monkeypatch.setattr(sys, "stdout", out)
        output.result(Path("a\x1b[2J"))
        assert out.getvalue() == said


def test_no_file_larger_than_the_memory_is_read(tmp_path: Path) -> None:
    large = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") + 1
    with (tmp_path / "x").open("wb") as file:
        file.truncate(large)
    with pytest.raises(EnvironmentProblem, match="GiB of memory"):
        files.read_capped(tmp_path / "x", 2 * large)


def test_a_state_is_bounded_where_tensors_are_not() -> None:
    def entry(size: int) -> dict[str, object]:
        return {"size": size, "sha256": "0" * 64}

    assert well_formed("state.json", entry(STATE_CAP)) and not well_formed("state.json", entry(STATE_CAP + 1))
    assert well_formed("model.safetensors", entry(STATE_CAP + 1))


def test_an_archive_of_long_headers_is_refused_at_once(tmp_path: Path) -> None:
    with_archive("a pax bomb", tmp_path)
    with pytest.raises(DataError, match="a header of"):
        formats.members(tmp_path / "cifar-10-binary.tar.gz", ["a"], 4)


def test_an_archive_with_long_names_is_read(tmp_path: Path) -> None:
    """GNU's and pax's headers before a member are of a few bytes, and stay allowed."""
    for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        path, name = tmp_path / f"{form}.tar.gz", "d/" * 100 + "a"
        with tarfile.open(path, "w:gz", format=form) as archive:
            member = tarfile.TarInfo(name)
            member.size = 4
            archive.addfile(member, io.BytesIO(b"abcd"))
        assert formats.members(path, [name], 4) == {name: b"abcd"}


def test_a_state_says_how_long_the_metrics_were(half: Path) -> None:
    stored = checkpoint.latest(half, warn=pytest.fail)
    assert stored is not None
    told = stored.state["metrics"]
    lines = (half / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    assert told["bytes"] == sum(map(len, lines[:2]))
