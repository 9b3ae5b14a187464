"""A small plugin of every kind, beside the built-in ones: `toy` is gaussian, `mask` is masked."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from diffcli.registry import registry

TOY = """
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from diffcli import Spec, Use, hookimpl, opt
from diffcli.sections import EvalOptions, SampleOptions

@dataclass(frozen=True, kw_only=True)
class ToyOptions:
    prediction: Literal["eps", "x0", "v"] = opt("x0", "What the network predicts.")
    time_sampling: Literal["uniform", "logit_normal"] = opt("uniform", "Law of t [0, 1].")
    levels: tuple[int, ...] = opt((1, 2), "Levels.", min=1)
    shift: float | None = opt(None, "Shift; unset is none.", min=0)
    extra: bool = opt(False, "One more.")
    notes: Path = opt(Path("notes.txt"), "A file.")

@dataclass(frozen=True, kw_only=True)
class NetOptions:
    channels: int = opt(8, "Channels.", min=2, max=64)

@dataclass(frozen=True, kw_only=True)
class NoisyOptions:
    eta_toy: float = opt(0.5, "Noise.", min=0, max=1)

@dataclass(frozen=True, kw_only=True)
class ToySample(SampleOptions):
    clip: float | None = opt(0.0, "Bound.", min=0)

@hookimpl
def diffcli_methods():
    uses = {"model": Use(name="toy-net", options={"channels": 16}), "schedule": Use(name="toy-line"),
            "dataset": Use(name="toy-data"), "sampler": Use(name="toy-still")}
    yield Spec(name="toy", target="toy_plugin:Toy", summary="A toy [of tests].", config=ToyOptions, family="gaussian",
               uses=uses, train={"steps": 100, "lr": 0.01}, sample=ToySample)
    masked = {**uses, "schedule": Use(name="toy-mask"), "sampler": Use(name="toy-reveal")}
    yield Spec(name="mask", target="toy_plugin:Toy", summary="A masked toy.", family="masked", uses=masked)
    yield Spec(name="plain", target="toy_plugin:Toy", summary="No process.", uses={"dataset": Use(name="toy-data")})

@hookimpl
def diffcli_models():
    return [Spec(name="toy-net", target="toy_plugin:Net", summary="A net.", config=NetOptions),
            Spec(name="toy-other", target="toy_plugin:Net", summary="Another net.")]

@hookimpl
def diffcli_schedules():
    return [Spec(name="toy-line", target="toy_plugin:Line", summary="A line.", family="gaussian"),
            Spec(name="toy-zero", target="toy_plugin:Line", summary="To zero.", family="gaussian", reaches_zero=True),
            Spec(name="toy-mask", target="toy_plugin:Line", summary="A mask.", family="masked")]

@hookimpl
def diffcli_samplers():
    return [Spec(name="toy-still", target="toy_plugin:S", summary="Still.", family="gaussian"),
            Spec(name="toy-noisy", target="toy_plugin:S", summary="Noisy.", family="gaussian", config=NoisyOptions),
            Spec(name="toy-reveal", target="toy_plugin:S", summary="Reveals.", family="masked")]

@hookimpl
def diffcli_datasets():
    return [Spec(name="toy-data", target="toy_plugin:D", summary="Data.")]
"""


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty working folder where the toy plugin is the only one beside the built-in ones."""
    folder = tmp_path / "plugins"
    folder.mkdir()
    (folder / "toy_plugin.py").write_text(TOY)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("DIFFCLI_PLUGINS", "toy_plugin")
    monkeypatch.setenv("PYTHONPATH", str(folder), prepend=os.pathsep)
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setenv("TERMINAL_WIDTH", "160")
    monkeypatch.delenv("DIFFCLI_DATA", raising=False)
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    registry.cache_clear()
    yield work
    registry.cache_clear()
    sys.modules.pop("toy_plugin", None)


@pytest.fixture
def python() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Python in a process of its own; the caller checks its code."""

    def run(*args: str, **settings: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, *args], capture_output=True, text=True, timeout=60, **settings)  # type: ignore[call-overload,no-any-return]

    return run
