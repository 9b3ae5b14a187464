"""The sound plugin, with or without a fault, in a folder of its own."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from diffcli.registry import registry

SOUND = Path(__file__).parent
FILES = ("sound_plugin", "sound_parts")


def forget() -> None:
    """As in a new process."""
    registry.cache_clear()
    for name in FILES:
        sys.modules.pop(name, None)


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """install(old, new, more): the sound plugin with one text of it changed, and more at the end of its parts."""

    def change(old: str = "", new: str = "", more: str = "") -> None:
        texts = {name: (SOUND / f"{name}.py").read_text() for name in FILES}
        if old:
            assert sum(text.count(old) for text in texts.values()) == 1, f"{old!r} is not there once"
            texts = {name: text.replace(old, new) for name, text in texts.items()}
        texts["sound_parts"] += f"\n\n{more}\n"
        for name, text in texts.items():
            (tmp_path / f"{name}.py").write_text(text)
        forget()

    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)  # a fault may leave files where one stands
    monkeypatch.setenv("DIFFCLI_PLUGINS", "sound_plugin")
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # two faults of one second would share it
    yield change
    forget()
