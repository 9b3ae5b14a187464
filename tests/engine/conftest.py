"""A masked method with pictures and texts, trained for two steps."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from commands import run
from diffcli.registry import registry


@contextmanager
def installed() -> Iterator[None]:
    """reveal_plugin beside the built-in ones."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DIFFCLI_PLUGINS", "reveal_plugin")
        registry.cache_clear()
        yield
    registry.cache_clear()


@pytest.fixture(scope="session")
def both(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two runs of the method of reveal_plugin: `pictures` and `texts`."""
    folder = tmp_path_factory.mktemp("filled")
    with installed():
        for name in ("pictures", "texts"):
            cheap = ("--steps", "2", "--batch-size", "4", "--sample-every", "1")
            ran = run("train", "fill", "--dataset", f"fill-{name}", *cheap, "--output", folder / name)
            assert ran.code == 0, ran.err
    return folder


@pytest.fixture
def filled(both: Path) -> Iterator[Path]:
    """The same folder, while its method is installed."""
    with installed():
        yield both
