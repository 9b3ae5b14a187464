"""What a training logs reaches every logger that is named, and no logger can cost the training."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from diffcli import Spec, hookimpl
from diffcli.engine.loggers import Loggers
from diffcli.errors import EnvironmentProblem, PluginError, UsageError
from diffcli.registry import registry

TABLES = {"method": {"name": "rf"}, "train": {"lr": 1e-3}}
ROWS = [{"step": 2, "loss": 0.5}, {"step": 4, "loss": 0.25, "held_out": 0.3}]


class Listening:
    """Keeps what it is called with; fails where `fails` says."""

    calls: list[tuple[Any, ...]]
    fails: tuple[str, BaseException] | None = None

    def __init__(self, config: Any):
        type(self).calls = []

    def told(self, what: str, *given: Any) -> None:
        print(f"{what} of a plugin")
        self.calls.append((what, *given))
        if self.fails and self.fails[0] == what:
            raise self.fails[1]

    def start(self, run: Path, tables: Any) -> None:
        self.told("start", run, tables)

    def log(self, row: dict[str, Any]) -> None:
        self.told("log", dict(row))
        row.clear()

    def picture(self, step: int, path: Path) -> None:
        self.told("picture", step, path)

    def close(self) -> None:
        self.told("close")


@pytest.fixture
def two(monkeypatch: pytest.MonkeyPatch) -> tuple[type[Listening], type[Listening]]:
    """Two loggers, `first` and `second`, of a plugin."""
    first, second = type("First", (Listening,), {}), type("Second", (Listening,), {})
    module: Any = type(sys)("listening_plugin")
    module.First, module.Second = first, second

    @hookimpl
    def diffcli_loggers() -> list[Spec]:
        return [
            Spec(name=cls.__name__.lower(), target=f"listening_plugin:{cls.__name__}", summary="Listens.")
            for cls in (first, second)
        ]

    module.diffcli_loggers = diffcli_loggers
    monkeypatch.setitem(sys.modules, "listening_plugin", module)
    monkeypatch.setenv("DIFFCLI_PLUGINS", "listening_plugin")
    registry.cache_clear()
    yield first, second
    registry.cache_clear()


def walked(names: str, run: Path, say: Callable[[str], None]) -> None:
    """A short training, as the engine tells of it."""
    with Loggers(names) as loggers:
        loggers.start(run, TABLES, say)
        loggers.log(ROWS[0])
        loggers.pictures(2, [run / "b.png", run / "a.png", run / "a.txt"])
        loggers.log(ROWS[1])


WHOLE = ["start", "log", "picture", "picture", "log", "close"]


def test_each_is_told_all_in_its_order(two, tmp_path, capsys):
    said: list[str] = []
    walked("first,second", tmp_path, said.append)
    for logger in two:
        assert [call[0] for call in logger.calls] == WHOLE
        assert logger.calls[0] == ("start", tmp_path, TABLES)
        assert [call[1] for call in logger.calls if call[0] == "log"] == ROWS, "one may do with a row what it likes"
        assert [call[1:] for call in logger.calls if call[0] == "picture"] == [
            (2, tmp_path / "a.png"),
            (2, tmp_path / "b.png"),
        ]
    out, err = capsys.readouterr()
    assert out == "" and "log of a plugin" in err, "stdout is for results"
    assert said == []


@pytest.mark.parametrize("error", [ValueError("no\nnetwork [red]"), SystemExit(3), MemoryError()])
@pytest.mark.parametrize("what", ["start", "log", "picture", "close"])
def test_one_that_fails_is_told_of_once_and_dropped(two, tmp_path, what, error):
    first, second = two
    first.fails, said = (what, error), []
    walked("first,second", tmp_path, said.append)
    assert [call[0] for call in second.calls] == WHOLE
    kept = [call[0] for call in first.calls]
    assert kept == [*WHOLE[: WHOLE.index(what) + 1], *(["close"] if what != "close" else [])], "it may keep what it has"
    (line,) = said
    assert line.startswith(f"warning: logger first is dropped, as its {what}() failed with {type(error).__name__}")
    assert "\n" not in line


def test_ctrl_c_is_not_taken_for_a_failure(two, tmp_path):
    two[0].fails = ("log", KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        walked("first", tmp_path, pytest.fail)
    assert two[0].calls[-1] == ("close",)


@pytest.mark.parametrize("names", ["", " ", ","])
def test_none_is_none(names, tmp_path):
    walked(names, tmp_path, pytest.fail)


def test_what_is_no_logger_is_refused_before_anything_is_created(two, monkeypatch):
    with pytest.raises(UsageError, match="no logger named 'frist'; did you mean 'first'"):
        Loggers("second,frist")
    with pytest.raises(UsageError, match="names first twice"):
        Loggers("first, first")
    monkeypatch.setattr(two[0], "picture", None)
    with pytest.raises(PluginError, match="logger first lacks picture"):
        Loggers("first")
    monkeypatch.setattr(two[1], "__init__", lambda self, config: 1 / 0)
    with pytest.raises(PluginError, match="second cannot be made: ZeroDivisionError"):
        Loggers("second")


def test_without_the_package_the_line_to_install_it_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(EnvironmentProblem, match=r"pip install 'diffcli\[tensorboard\]'"):
        Loggers("tensorboard")


def test_tensorboard_reads_what_was_logged(tmp_path):
    """By TensorBoard's own reader: a resume goes on, and what the first had logged too far is hidden."""
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator", reason="no tensorboard")
    Image.linear_gradient("L").resize((8, 8)).save(tmp_path / "step-00000002.png")
    Image.linear_gradient("L").resize((8, 8)).save(tmp_path / "step-00000002-strips.png")

    def part(rows: list[dict[str, Any]]) -> None:
        with Loggers("tensorboard") as loggers:
            loggers.start(tmp_path, TABLES, pytest.fail)
            for row in rows:
                loggers.log(row)
            loggers.pictures(2, tmp_path.glob("*.png"))

    part([{"step": step, "loss": 1.0 / step, "lr": 1e-3} for step in (1, 2, 3, 4)])
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2}\n')  # cut by a resume at step 2
    part([{"step": step, "loss": 2.0 / step, "lr": 1e-3} for step in (3, 4)])
    found = reader.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in found.Scalars("loss")] == [
        (step, pytest.approx(value, rel=1e-7)) for step, value in ((1, 1.0), (2, 0.5), (3, 2 / 3), (4, 0.5))
    ]
    assert set(found.Tags()["scalars"]) == {"loss", "lr"}
    assert set(found.Tags()["images"]) == {"samples", "strips"}
    assert (found.Images("samples")[0].width, found.Images("samples")[0].step) == (8, 2)
    assert '"name": "rf"' in found.Tensors("recipe/text_summary")[0].tensor_proto.string_val[0].decode()
