"""The walk through the code stays true."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
WALK = (ROOT / "docs" / "the-algebra.md").read_text(encoding="utf-8").partition("<!-- walk -->")[2]
ROWS = re.findall(r"^\| \d+ \| `([^`]+)` \| (\d+) \|", WALK, re.MULTILINE)


def test_the_files_of_the_walk_are_there_and_as_long_as_it_says():
    """Counts may drift by a tenth, or ten lines, before they are counted again."""
    assert len(ROWS) > 40
    for name, lines in ROWS:
        now = len((ROOT / name).read_text(encoding="utf-8").splitlines())
        assert abs(now - int(lines)) <= max(10, now // 10), (name, now)


def test_no_file_is_long_without_saying_why():
    """Above 250 lines a file is split; networks alone may be long."""
    for path in [*(ROOT / "diffcli").rglob("*.py"), *(ROOT / "plugins").rglob("*.py")]:
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 250 or path.stem in {"unet", "network"}, path


def test_the_rooms_do_not_reach_back():
    """core imports nothing of ours but itself and the face's names; the core imports no plugin package."""
    mine = re.compile(r"^\s*(?:from|import) (diffcli[\w.]*)", re.MULTILINE)
    for path in (ROOT / "diffcli").rglob("*.py"):
        found = mine.findall(path.read_text(encoding="utf-8"))
        assert not [name for name in found if name.startswith("diffcli_")], path
        room = path.relative_to(ROOT / "diffcli").parts[0]
        if room in ("core", "nn", "metrics", "samplers", "schedules"):
            assert not [name for name in found if name.startswith(("diffcli.engine", "diffcli.cli"))], path
        if room == "core":
            assert all(name.startswith(("diffcli.core", "diffcli.plugin", "diffcli.errors")) for name in found), path


def test_plugins_entry_points_and_packages_are_the_same():
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    folders = {p.name for p in (ROOT / "plugins").iterdir() if (p / "__init__.py").is_file()}
    packages = {p.removeprefix("plugins/") for p in project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]}
    points = set(project["project"]["entry-points"]["diffcli"].values())
    assert packages - {"diffcli"} == folders
    assert {p for p in points if not p.startswith("diffcli.")} == folders
