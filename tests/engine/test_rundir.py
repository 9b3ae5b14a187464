"""Runs are found by what they hold, written by one process at a time, and their metrics tell each step once."""

from __future__ import annotations

import csv
import fcntl
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from diffcli.engine import files
from diffcli.engine.environment import command
from diffcli.engine.rundir import RunDir, environment, find
from diffcli.errors import EnvironmentProblem, NonFinite, RunError, RunInUse

RECIPE = '[method]\nname = "{}"\n\n[train]\nsteps = 10\n'


def run(path: Path, method: str = "rf", steps: tuple[int, ...] = (200,)) -> Path:
    path.mkdir(parents=True)
    (path / "recipe.toml").write_text(RECIPE.format(method))
    for step in steps:
        (path / "checkpoints" / f"step-{step:08d}").mkdir(parents=True)
    return path


def model(path: Path, config: dict[str, Any]) -> Path:
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps(config))
    (path / "model.safetensors").write_bytes(b"")
    return path


def test_a_run_a_checkpoint_and_a_model_are_told_apart(tmp_path: Path) -> None:
    path = run(tmp_path / "x", "ddpm", (5, 300, 20))
    found = find(str(path))
    assert (found.kind, found.method, found.step, found.path, found.run) == ("run", "ddpm", 300, path, path)
    assert found.tables == {"method": {"name": "ddpm"}, "train": {"steps": 10}}

    checkpoint = path / "checkpoints" / "step-00000020"
    (checkpoint / "manifest.json").write_text(
        json.dumps({"step": 20, "meta": {"recipe": {"method": {"name": "ddpm"}}}})
    )
    found = find(str(checkpoint))
    assert (found.kind, found.method, found.step, found.run) == ("checkpoint", "ddpm", 20, path)

    found = find(str(model(tmp_path / "m", {"recipe": {"method": {"name": "rf"}}})))
    assert (found.kind, found.method, found.step, found.tables) == ("model", "rf", None, {"method": {"name": "rf"}})
    found = find(str(model(tmp_path / "foreign", {"method": 1})))
    assert (found.kind, found.method, found.tables) == ("model", None, None)


def test_the_newest_is_by_time_stamp_among_runs_with_a_checkpoint(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    older, newer = run(runs / "rf" / "20250101-000000"), run(runs / "rf" / "20250301-120000")
    run(runs / "rf" / "20990101-000000", steps=())
    (runs / "rf" / "notes").mkdir()
    os.utime(older / "recipe.toml", (4e9, 4e9))
    assert find("rf", runs).path == newer
    assert find(str(runs / "rf")).path == newer
    again = run(runs / "rf" / "20250301-120000-2")
    assert find("rf", runs).path == again
    tenth = run(runs / "rf" / "20250301-120000-10")
    assert find("rf", runs).path == tenth, "the tenth of a second comes after the second"


def test_a_folder_of_folders_of_runs_is_the_newest_of_all(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    run(runs / "rf" / "20250101-000000")
    newer = run(runs / "ddpm" / "20250301-120000", "ddpm")
    latest = run(runs / "ddpm" / "20260101-000000", "ddpm", steps=())
    assert (find(str(runs)).path, find(str(runs)).method) == (newer, "ddpm")
    assert find(str(runs), started=True).path == latest
    with pytest.raises(RunError, match="holds no run"):
        find(str(tmp_path))


def test_a_path_comes_before_a_method_unless_it_is_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    by_name = run(Path("runs/rf/20250101-000000"))
    assert find("rf").path == by_name
    Path("rf").mkdir()
    assert find("rf").path == by_name
    Path("rf").rmdir()
    run(Path("rf"), "ddpm")
    assert find("rf").method == "ddpm"


@pytest.mark.parametrize(
    "text, message",
    [
        ("rf", "no run of rf below runs: train one first with diffcli train rf"),
        ("no/such", "no/such does not exist"),
        ("nothing", "nothing does not exist; give a method's name, or a run"),
        ("empty", "^empty holds no run, checkpoint or model; give a method's name, or a run"),
        ("./empty", "holds no run, checkpoint or model"),
        ("./file", "is no folder"),
        ("", "does not exist|holds no run"),
        ("[/red]\x1b[2J", "does not exist"),
        ("unsaved", "none of the 1 runs of unsaved holds a checkpoint yet"),
    ],
)
def test_what_is_not_there_is_an_error_that_says_what_to_do(
    text: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    Path("file").touch()
    run(Path("runs/unsaved/20250101-000000"), "unsaved", ())
    with pytest.raises(RunError, match=message) as refusal:
        find(text)
    assert "\x1b" not in str(refusal.value)


@pytest.mark.parametrize(
    "text", ["no = toml =", "x = 1", "a." * 40 + "b = 1", "\x00", "# " + "x" * 70_000, "[method]\nname = 1\n[method]\n"]
)
def test_a_spoiled_recipe_is_an_error_of_the_run(text: str, tmp_path: Path) -> None:
    path = run(tmp_path / "x")
    (path / "recipe.toml").write_text(text)
    with pytest.raises(RunError, match="recipe"):
        find(str(path))


def test_links_are_no_parts_of_a_run(tmp_path: Path) -> None:
    path = run(tmp_path / "x", steps=(1,))
    (path / "checkpoints" / "step-00000009").symlink_to(path / "checkpoints" / "step-00000001")
    (path / "checkpoints" / "step-9").mkdir()
    (path / "checkpoints" / "step-000000009").mkdir()
    assert find(str(path)).step == 1
    (tmp_path / "y").mkdir()
    (tmp_path / "y" / "recipe.toml").symlink_to(path / "recipe.toml")
    with pytest.raises(RunError, match="holds no run"):
        find(str(tmp_path / "y"))


def test_a_new_run_never_overwrites(tmp_path: Path) -> None:
    first, second = (RunDir.create(None, "rf", runs=tmp_path) for _ in range(2))
    assert first.path != second.path and first.path.parent == second.path.parent == tmp_path / "rf"
    named = RunDir.create(tmp_path / "deep" / "run", "rf")
    with named.lock():
        named.log("begun")
    with pytest.raises(RunError, match=r"is not empty; go on with --resume"):
        RunDir.create(named.path, "rf")
    with pytest.raises(RunError, match="no recipe"):
        RunDir.open(named.path)
    named.write_recipe(RECIPE.format("rf"))
    assert RunDir.open(named.path).path == named.path
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(EnvironmentProblem, match="is no folder"):
            RunDir.create(path, "rf")


def test_without_room_nothing_is_created(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentProblem, match="MiB are free"):
        RunDir.create(tmp_path / "a" / "b", "rf", room=2**62)
    with pytest.raises(EnvironmentProblem, match="MiB are free"):
        RunDir.create(None, "rf", room=2**62, runs=tmp_path / "runs")
    files.room(tmp_path / "a" / "b", 1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_is_found_out_first(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    with pytest.raises(EnvironmentProblem, match="permission is denied"):
        RunDir.create(tmp_path / "run", "rf")
    tmp_path.chmod(0o755)


LOCKING = """
import sys
from pathlib import Path
from diffcli.engine.rundir import RunDir
with RunDir(Path(sys.argv[1])).lock():
    print("mine", flush=True)
    sys.stdin.read()
"""


def test_the_lock_excludes_another_process_until_it_dies(tmp_path: Path) -> None:
    argv = [sys.executable, "-c", LOCKING, str(tmp_path)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "mine\n"
        with pytest.raises(RunInUse, match=f"in use by process {other.pid};") as refusal, RunDir(tmp_path).lock():
            raise AssertionError("two writers")
        assert refusal.value.code == 8
        other.send_signal(signal.SIGKILL)
    with RunDir(tmp_path).lock():
        assert (tmp_path / ".lock").read_text() == f"{os.getpid()}\n"
        with pytest.raises(RunInUse), RunDir(tmp_path).lock():
            pass
    with RunDir(tmp_path).lock():
        pass


def test_a_link_in_place_of_the_lock_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("precious")
    (tmp_path / ".lock").symlink_to(tmp_path / "victim")
    with pytest.raises(EnvironmentProblem), RunDir(tmp_path).lock():
        pass
    assert (tmp_path / "victim").read_text() == "precious"


def test_a_disk_without_locks_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(fd: int, how: int) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    with pytest.raises(EnvironmentProblem, match="cannot lock"), RunDir(tmp_path).lock():
        pass


def table(path: Path) -> list[dict[str, str]]:
    with open(path / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_both_files_of_the_metrics_say_the_same_with_columns_that_join_later(tmp_path: Path) -> None:
    out = RunDir(tmp_path)
    rows = [
        {"step": 1, "loss": 0.1},
        {"step": 2, "loss": 1 / 3},
        {"step": 2, "held_out": 5e-324, "note": 'a "b", c'},
        {"step": 3, "loss": 2.0},
    ]
    for i, row in enumerate(rows):
        out.append(row)
        assert out.rows() == rows[: i + 1], "a row is there as soon as it was given"
        assert len(table(tmp_path)) == i + 1
    read = table(tmp_path)
    assert list(read[0]) == ["step", "loss", "held_out", "note"]
    assert [{k: v for k, v in row.items() if v} for row in read] == [
        {k: str(v) for k, v in row.items()} for row in rows
    ]


@pytest.mark.parametrize("cut", [0, 1, 3, 7, 9])
def test_cutting_and_going_on_gives_the_files_of_a_run_that_never_stopped(tmp_path: Path, cut: int) -> None:
    def row(step: int) -> dict[str, Any]:
        return {"step": step, "loss": 1 / step} | ({"held_out": step / 7} if step % 3 == 0 else {})

    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    whole, stopped = RunDir(tmp_path / "a"), RunDir(tmp_path / "b")
    for step in range(1, 10):
        whole.append(row(step))
        stopped.append(row(step))
    with open(tmp_path / "b" / "metrics.jsonl", "a") as file:
        file.write('{"step": 10, "lo')
    with open(tmp_path / "b" / "metrics.csv", "a") as file:
        file.write("10,")
    resumed = RunDir(tmp_path / "b")
    resumed.cut(cut)
    assert [r["step"] for r in resumed.rows()] == list(range(1, cut + 1))
    for step in range(cut + 1, 10):
        resumed.append(row(step))
    resumed.cut(9)
    resumed.sync()
    for name in ("metrics.jsonl", "metrics.csv"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


@pytest.mark.parametrize(
    "tail",
    ['{"step": 4, "loss"', '{"step": 4}', "\x00\x00\x00\n", '{"step": NaN}\n', "[4]\n", '{"loss": 1}\n', "\xff\n"],
)
def test_a_torn_line_is_dropped_and_never_grown_together_with_the_next(tmp_path: Path, tail: str) -> None:
    RunDir(tmp_path).append({"step": 3, "loss": 1.0})
    with open(tmp_path / "metrics.jsonl", "ab") as file:
        file.write(tail.encode("latin-1"))
    again = RunDir(tmp_path)
    assert again.rows() == [{"step": 3, "loss": 1.0}]
    again.append({"step": 5, "loss": 2.0})
    assert [row["step"] for row in again.rows()] == [3, 5]
    assert [row["step"] for row in table(tmp_path)] == ["3", "5"]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_row_that_is_not_finite_is_refused_by_name(tmp_path: Path, bad: float) -> None:
    with pytest.raises(NonFinite, match="step 3 are not finite: grad_norm"):
        RunDir(tmp_path).append({"step": 3, "loss": 1.0, "grad_norm": bad})


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = RunDir(tmp_path)
    out.write_summary({"loss": 1.0})

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(EnvironmentProblem, match=r"cannot write .*summary.json: no space is left; free some"):
        out.write_summary({"loss": 2.0})
    assert json.loads((tmp_path / "summary.json").read_text()) == {"loss": 1.0}
    assert [p.name for p in tmp_path.iterdir()] == ["summary.json"]


def test_a_line_of_the_log_is_one_line(tmp_path: Path) -> None:
    RunDir(tmp_path).log("two\nlines \x1b[31m")
    text = (tmp_path / "log.txt").read_text()
    assert text.count("\n") == 1 and "\x1b" not in text and text.endswith("  two\\nlines \\x1b[31m\n")


def test_the_environment_is_plain_json_without_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["diffcli", "train", "rf", "--hf-token", "abcdef"])
    out = RunDir(tmp_path)
    out.write_env(environment("cpu"))
    facts = json.loads((tmp_path / "env.json").read_text())
    assert facts["command"] == ["diffcli", "train", "rf", "--hf-token", "***"]
    assert facts["versions"]["torch"] and facts["cores"] >= 1 and facts["threads"] >= 1 and facts["device"] == "cpu"


@pytest.mark.parametrize(
    "given, kept",
    [
        (["--api-key=xyz", "--lr", "1e-3"], ["--api-key=***", "--lr", "1e-3"]),
        (["--password", "p", "--seed", "3"], ["--password", "***", "--seed", "3"]),
        (["https://me:word@host/x"], ["https://***@host/x"]),
        (["hub:x", "hf_abcdefghijklmnop"], ["hub:x", "***"]),
        (["WANDB_API_KEY=1234"], ["WANDB_API_KEY=***"]),
        (["--token", "--lr", "1"], ["--token", "--lr", "1"]),
        (["--output", "runs/mask-2"], ["--output", "runs/mask-2"]),
    ],
)
def test_secrets_of_the_command_line_are_hidden(given: list[str], kept: list[str]) -> None:
    assert command(given) == kept


def test_finding_a_run_imports_no_torch() -> None:
    code = "import sys; from diffcli.engine import files, rundir, environment; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
