"""A third party's distribution, installed into a folder of its own by the pip that any author types."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
OFFLINE = [
    "--no-index",
    "--no-build-isolation",
    "--no-deps",
    "--disable-pip-version-check",
    "--root-user-action=ignore",
]


@dataclass(frozen=True)
class Site:
    """A folder of installed distributions, and one to work in."""

    packages: Path
    work: Path

    def install(self, source: Path) -> None:
        """The distribution of a source folder. Its copy is built, so that nothing is left beside the source."""
        done = self.python("-m", "pip", "install", "-q", *OFFLINE, "--target", str(self.packages), str(source))
        assert done.returncode == 0, done.stderr

    def python(self, *argv: str, without: bool = False) -> subprocess.CompletedProcess[str]:
        """Python in the working folder; without: what is installed here is out of sight."""
        env = {k: v for k, v in os.environ.items() if not k.startswith(("DIFFCLI", "PYTHONPATH"))}
        env |= {"OMP_NUM_THREADS": "1"} | ({} if without else {"PYTHONPATH": str(self.packages)})
        return subprocess.run(
            [sys.executable, *argv], cwd=self.work, env=env, capture_output=True, text=True, timeout=300
        )

    def diffcli(self, *argv: object, without: bool = False) -> subprocess.CompletedProcess[str]:
        """The installed command."""
        return self.python("-P", "-m", "diffcli", *map(str, argv), without=without)

    def ran(self, *argv: object) -> str:
        """What a command that must work writes to stdout."""
        done = self.diffcli(*argv)
        assert done.returncode == 0, done.stderr
        return done.stdout


def site(folder: Path, sources: Sequence[Path]) -> Site:
    """An empty working folder beside a folder where these are installed."""
    made = Site(folder / "site", folder / "work")
    made.work.mkdir(parents=True)
    for source in sources:
        made.install(source)
    return made
