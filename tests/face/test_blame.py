"""Who is to blame, in one line: a plugin that was set aside, that is not here, or whose code raised."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from commands import run
from diffcli.cli.blame import packages
from diffcli.registry import registry

INIT = """
from diffcli import Spec, hookimpl


@hookimpl
def diffcli_datasets():
    yield Spec(name="bars", target="evening.dataset:Bars", summary="Bars.")
"""
BARS = """
class Bars:
    def __init__(self, config, split):
        {}
"""


@pytest.fixture
def evening(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """evening(init, body): a plugin of a data set, in an empty working folder."""
    (tmp_path / "evening").mkdir()

    def write(init: str = INIT, body: str = "pass") -> None:
        (tmp_path / "evening" / "__init__.py").write_text(init)
        (tmp_path / "evening" / "dataset.py").write_text(BARS.format(body))
        forget()

    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("DIFFCLI_PLUGINS", "evening")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield write
    forget()


def forget() -> None:
    """As in a new process."""
    registry.cache_clear()
    for name in ("evening", "evening.dataset"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize(
    "line", ["train huber-flow", "train rf --dataset bars", "sample huber-flow", "plugins check huber-flow", "plugins why huber-flow"]
)  # fmt: skip
def test_an_unknown_name_tells_of_broken_plugins(evening, line):
    evening("\n\ndef (")
    ran = run(*line.split())
    assert ran.code == 2
    assert ran.err.endswith("; plugin evening is broken: SyntaxError: invalid syntax (__init__.py, line 3)\n"), ran.err
    assert ran.err.count("\n") == 1, "and nothing is told twice"


def test_of_many_broken_plugins_a_few_are_told(evening, monkeypatch):
    evening("\n\ndef (")
    monkeypatch.setenv("DIFFCLI_PLUGINS", "evening,evening.a,evening.b,evening.c")
    assert run("train", "huber-flow").err.endswith("; 2 more: see diffcli plugins\n")


def test_where_no_plugin_is_broken_nothing_is_told(evening):
    evening()
    installed = ", ".join(sorted(registry().specs("method")))
    assert run("train", "huber-flow").err == f"error: no method named 'huber-flow'; installed: {installed}\n"


def gone(versions: dict[str, str] | None, **tables: str) -> Path:
    """A run whose plugin is not here."""
    path = Path("runs/huber-flow/20260101-000000")
    (path / "checkpoints/step-00000100").mkdir(parents=True)
    named = {"method": "rf", **tables}
    (path / "recipe.toml").write_text("".join(f'[{kind}]\nname = "{name}"\n' for kind, name in named.items()))
    if versions is not None:
        (path / "env.json").write_text(json.dumps({"versions": versions}))
    return path


@pytest.mark.parametrize("command", ["sample", "eval", "repro"])
@pytest.mark.parametrize(("kind", "name"), [("method", "huber-flow"), ("model", "huber-net"), ("dataset", "bars")])
def test_a_run_says_what_it_was_made_with(evening, monkeypatch, command, kind, name):
    monkeypatch.setenv("DIFFCLI_PLUGINS", "")
    forget()
    path = gone({"python": "3.11", "diffcli": "0.1.0", "torch": "2", "evening-bars": "0.3"}, **{kind: name})
    said = f"no {kind} named '{name}', of the run {path}; its run was made with evening-bars 0.3: install it, or name it in DIFFCLI_PLUGINS"
    ran = run(command, path)
    assert (ran.code, ran.err) == (4, f"error: {said}\n")


@pytest.mark.parametrize("versions", [None, {"diffcli": "0.1.0", "DIFFCLI_PLUGINS": ""}])
def test_a_run_that_does_not_know_says_what_to_do(evening, monkeypatch, versions):
    monkeypatch.setenv("DIFFCLI_PLUGINS", "")
    forget()
    path = gone(versions, method="huber-flow")
    for line in (["sample", path], ["sample", "huber-flow"]):
        ran = run(*line)
        assert ran.code == 4
        assert ran.err.endswith("; install the plugin that brings it, or name it in DIFFCLI_PLUGINS\n"), ran.err


def test_another_sampler_stands_in_for_one_that_is_gone(evening, monkeypatch):
    monkeypatch.setenv("DIFFCLI_PLUGINS", "")
    forget()
    path = gone({"evening-bars": "0.3"}, sampler="second")
    assert "no sampler named 'second'; installed: " in run("sample", path).err
    assert "no sampler" not in run("sample", path, "--sampler", "heun").err


def test_an_error_in_the_code_of_a_plugin_names_it(evening, tmp_path):
    evening(body="self.opened()\n\n    def opened(self):\n        int('x')")
    ran = run("data", "check", "bars")
    assert ran.code == 5 and ran.err.count("\n") == 1
    assert ran.err.startswith("error: ValueError: invalid literal for int() with base 10: 'x' (in plugin evening, evening/dataset.py:7); mend the plugin, or tell its author (traceback in ")  # fmt: skip
    assert "please report" not in ran.err
    (log,) = tmp_path.glob("crash-*.log")
    assert "int('x')" in log.read_text()


def test_an_error_of_torch_that_a_plugin_caused_names_the_plugin(evening):
    evening(body="import torch; torch.zeros(2) @ torch.zeros(3)")
    ran = run("data", "check", "bars")
    assert ran.code == 5 and "(in plugin evening, evening/dataset.py:4)" in ran.err


def test_an_error_of_ours_blames_nobody(evening, monkeypatch):
    evening()
    monkeypatch.setattr("diffcli.cli.plugins.listing", lambda json: 1 / 0)
    ran = run("plugins")
    assert ran.code == 70 and "please report it" in ran.err and "evening" not in ran.err


def test_what_stands_in_a_package_of_ours_is_ours(evening):
    """A plugin may name a target of diffcli's as its own."""
    evening(INIT.replace("evening.dataset:Bars", "diffcli_vision.datasets:images"))
    assert packages() == {"evening": "evening"}


def test_a_data_set_that_lacks_something_is_told_in_a_line(evening):
    evening(body="self.name, self.split, self.shape, self.classes = 'bars', split, (1, 8, 8), 2; self.__class__.__len__ = lambda self: 8")  # fmt: skip
    ran = run("data", "check", "bars")
    assert (ran.code, ran.err) == (5, "error: data set bars lacks class_names; see docs/writing-a-plugin.md\n")
    ran = run("train", "rf", "--dataset", "bars", "--steps", "1", "--device", "cpu")
    lacks = "error: data set bars lacks class_names and to and items and batch; see docs/writing-a-plugin.md\n"
    assert ran.code == 5 and ran.err.endswith(lacks)


@pytest.mark.parametrize(
    "line",
    [
        "train ddpm --prediction eps --schedule rectified",
        "sample rf",
        "eval rf",
        "bench attention --samplers a",
        "repro rf-digits nowhere",
    ],
)
def test_a_named_plugin_that_is_broken_is_warned_of_once(evening, line):
    evening("\n\ndef (")
    ran = run(*line.split())
    warned = "warning: plugin evening is broken: SyntaxError: invalid syntax (__init__.py, line 3); see diffcli plugins why evening\n"
    assert ran.code in (2, 4) and ran.err.count("warning: ") == 1
    assert ran.err.startswith(warned)


@pytest.mark.parametrize("line", ["train rf --help", "--help", "bench --help", "plugins why rf", "recipes"])
def test_where_nothing_is_done_nothing_is_warned_of(evening, line):
    evening("\n\ndef (")
    ran = run(*line.split())
    assert ran.code == 0 and ran.err == ""


def test_a_plugin_that_nobody_named_is_not_warned_of(evening, monkeypatch):
    """An installed one stands at the end of `diffcli plugins`."""
    evening("\n\ndef (")
    registry()
    monkeypatch.setenv("DIFFCLI_PLUGINS", "")
    assert "warning" not in run("sample", "rf").err


def test_dash_and_underscore_are_one(evening, tmp_path, monkeypatch):
    (tmp_path / "my_bars.py").write_text(INIT)
    evening()
    monkeypatch.setenv("DIFFCLI_PLUGINS", "my_bars")
    forget()
    for name in ("my-bars", "my_bars"):
        said = run("plugins", "why", name).out
        assert said == "plugin my_bars of DIFFCLI_PLUGINS: loads; brings dataset bars; diffcli plugins check my_bars tries what it brings.\n"  # fmt: skip
    (tmp_path / "my_bars.py").write_text("def (")
    sys.modules.pop("my_bars", None)
    forget()
    ran = run("plugins", "why", "my-bars", "--debug")
    assert ran.out.startswith("plugin my_bars of DIFFCLI_PLUGINS: broken: SyntaxError")
    assert ran.err.startswith("Traceback") and "def (" in ran.err


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("plugins new x --kind foo", "invalid value for '--kind': 'foo' is not one of 'method'"),
        ("bench foo", "'foo' is not one of 'all'"),
        ("repro rf-digits --device foo", "invalid value for '--device': 'foo' is not one of 'auto'"),
    ],
)
def test_a_wrong_choice_is_told_in_our_words(evening, line, said):
    evening()
    ran = run(*line.split())
    assert ran.code == 2 and said in ran.err and "Value error" not in ran.err
