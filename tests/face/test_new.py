"""`diffcli plugins new`: a whole package of each kind, or nothing at all and a line that says why."""

from __future__ import annotations

import ast
import json
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

from commands import run
from diffcli import scaffold
from diffcli.errors import EnvironmentProblem, UsageError
from diffcli.plugin import KINDS

MAIN = {
    "method": "method.py",
    "model": "network.py",
    "schedule": "schedule.py",
    "sampler": "sampler.py",
    "dataset": "dataset.py",
    "extractor": "extractor.py",
    "logger": "logger.py",
}


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a new package of each kind."""
    parent = tmp_path_factory.mktemp("packages")
    for kind in KINDS:
        scaffold.create(f"my-{kind}", kind, parent)
    return parent


@pytest.mark.parametrize("kind", KINDS)
def test_a_package_is_complete_and_filled_in(packages: Path, kind: str) -> None:
    folder, module = packages / f"my-{kind}", f"my_{kind}"
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    parts = {f"{module}/__init__.py", f"{module}/{MAIN[kind]}"}
    assert files == {"README.md", "pyproject.toml", f"tests/test_{module}.py", *parts}
    for file in files:
        text = (folder / file).read_text(encoding="utf-8")
        assert "$" not in text
        assert "mymethod" not in text
        assert f"my-{kind}" in text or module in text
        if file.endswith(".py"):
            assert ast.get_docstring(ast.parse(text))
    project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["name"] == f"my-{kind}"
    assert project["entry-points"]["diffcli"] == {f"my-{kind}": module}
    assert any(line.startswith("diffcli") for line in project["dependencies"])
    assert "license" not in project  # the author's own choice


def test_packages_are_in_the_style_of_the_house(packages: Path) -> None:
    for argv in (["check", "--config", str(Path(__file__).parents[2] / "pyproject.toml"), "--ignore", "I001"], ["format", "--check"]):  # fmt: skip
        done = subprocess.run([sys.executable, "-m", "ruff", *argv, packages], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout


@pytest.mark.slow
def test_packages_are_plugins_as_they_stand(packages: Path, python: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    """All at once, without torch, and each installed by nothing but its folder."""
    monkeypatch.setenv("DIFFCLI_PLUGINS", ",".join(f"my_{kind}" for kind in KINDS))
    monkeypatch.setenv("PYTHONPATH", ":".join(str(packages / f"my-{kind}") for kind in KINDS))
    code = (
        "import sys; from diffcli.registry import registry; r = registry(); print(r.broken, 'torch' in sys.modules);"
        "print({kind: r.specs(kind)[f'my-{kind}'].load().__module__ for kind in r._specs})"
    )
    done = python("-c", code)
    assert done.returncode == 0, done.stderr
    said, loaded = done.stdout.splitlines()
    assert said == "[] False"
    assert ast.literal_eval(loaded) == {kind: f"my_{kind}.{MAIN[kind].removesuffix('.py')}" for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_said_to_be_typed_is_there(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ran = run("plugins", "new", "my-new", "--kind", kind, "--output", "a b", "--json")
    assert ran.code == 0, ran.err
    *listed, last, _ = ran.out.splitlines()
    assert sorted(listed) == sorted(f"a b/{path}" for path in (Path("my-new") / f for f in ran.json["files"]))
    assert last == f"next: {ran.json['next']}"
    install, use, check = (shlex.split(part) for part in ran.json["next"].split("&&"))
    assert install == ["pip", "install", "./a b/my-new"]
    assert Path(install[-1], "pyproject.toml").is_file()
    assert use[0] == "diffcli" and "my-new" in use
    assert check == ["diffcli", "plugins", "check", "my-new"]


def test_the_default_is_a_method_here(cli: Callable) -> None:
    ran = cli("plugins", "new", "mymethod")
    assert ran.code == 0
    assert ran.out.splitlines()[-1] == (
        "next: pip install ./mymethod && diffcli train mymethod && diffcli plugins check mymethod"
    )
    assert Path("mymethod/mymethod/method.py").is_file()


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("My-Method", "is no name of a plugin"),
        ("my_method", "is no name of a plugin"),
        ("my--method", "is no name of a plugin"),
        ("-my", "has no option -m"),
        ("1st", "is no name of a plugin"),
        ("", "is no name of a plugin"),
        ("../up", "is no name of a plugin"),
        ("m" * 41, "is no name of a plugin"),
        ("class", "taken by Python or diffcli itself"),
        ("none", "taken by Python or diffcli itself"),
        ("tests", "taken by Python or diffcli itself"),
        ("json", "taken by the module json"),
        ("torch", "taken by the module torch"),
        ("pytest", "taken by the module pytest"),
        ("diffcli", "taken by diffcli, as are all"),
        ("diffcli-mine", "taken by diffcli, as are all"),
        ("ddim", "taken by sampler ddim of diffcli;"),
        ("samplers", "taken by plugin samplers of diffcli;"),
    ],
)
def test_a_name_that_cannot_be_is_refused(name: str, reason: str, tmp_path: Path, cli: Callable) -> None:
    ran = cli("plugins", "new", name)
    assert ran.code == 2
    assert reason in ran.err
    assert len(ran.err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_the_name_of_a_component_of_another_plugin_is_refused(toy: Path) -> None:
    for name, reason in (("toy-net", "model toy-net of DIFFCLI_PLUGINS"), ("toy-plugin", "module toy_plugin")):
        with pytest.raises(UsageError, match=reason):
            scaffold.create(name, "sampler", toy)


def test_the_name_of_a_broken_plugin_is_refused(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from diffcli.registry import registry

    monkeypatch.setenv("DIFFCLI_PLUGINS", "nowhere")
    registry.cache_clear()
    with pytest.raises(UsageError, match="broken plugin nowhere"):
        scaffold.create("nowhere", "method", toy)


@pytest.mark.parametrize("kind", ["folder", "file", "link"])
def test_what_is_there_is_left_as_it_is(kind: str, tmp_path: Path, cli: Callable) -> None:
    there = tmp_path / "mine"
    if kind == "folder":
        there.mkdir()
    elif kind == "file":
        there.write_text("precious")
    else:
        there.symlink_to("nowhere")
    before = there.lstat()
    ran = cli("plugins", "new", "mine")
    assert (ran.code, ran.err) == (
        2,
        "error: mine exists already, and is left as it is; choose another name or --output\n",
    )
    assert there.lstat() == before
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


@pytest.mark.parametrize("broken", [0, 3])
def test_it_is_written_whole_or_not_at_all(broken: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write, written = Path.write_text, []

    def failing(self: Path, *args: object, **settings: object) -> int:
        if len(written) == broken:
            raise OSError(28, "No space left on device")
        written.append(self)
        return write(self, *args, **settings)  # type: ignore[arg-type]

    monkeypatch.setattr(Path, "write_text", failing)
    with pytest.raises(EnvironmentProblem, match=r"^cannot write .*mine: No space left on device; "):
        scaffold.create("mine", "method", tmp_path)
    assert len(written) == broken
    assert list(tmp_path.iterdir()) == []


def test_a_parent_that_is_no_folder_is_told(tmp_path: Path, cli: Callable) -> None:
    (tmp_path / "file").write_text("")
    ran = cli("plugins", "new", "mine", "--output", "file")
    assert ran.code == 6
    assert re.fullmatch(r"error: cannot write file/mine: .+; choose another --output\n", ran.err)


def test_it_imports_no_torch(tmp_path: Path, python: Callable) -> None:
    done = python("-X", "importtime", "-m", "diffcli", "plugins", "new", "mine", cwd=tmp_path)
    assert done.returncode == 0
    assert "diffcli.scaffold" in done.stderr
    assert not re.search(r"\| +torch$", done.stderr, re.MULTILINE)


def test_every_kind_has_a_template_and_no_template_is_forgotten() -> None:
    home = Path(scaffold.__file__).with_name("templates")
    assert {path.name for path in home.iterdir() if path.is_dir()} == set(KINDS) == set(scaffold.NEXT)
    assert all(path.name.endswith(scaffold.SUFFIX) for path in home.rglob("*") if path.is_file())


def test_a_module_is_taken_from_the_folder_that_one_stands_in(packages: Path, python: Callable) -> None:
    """-P: as the installed command starts, without this folder on Python's path."""
    assert find_spec("my_sampler") is None
    env = {"DIFFCLI_PLUGINS": "my_sampler", "PATH": ""}
    done = python("-P", "-m", "diffcli", "plugins", "--json", cwd=packages / "my-sampler", env=env)
    assert done.returncode == 0, done.stderr
    assert "my-sampler" in {part["name"] for part in json.loads(done.stdout.splitlines()[-1])["parts"]}


@pytest.mark.parametrize(
    ("wanted", "reason"),
    [
        ("my_sampler", "its folder has no __init__.py; start in the folder that holds the package, or install it"),
        ("my_other", "there is no module my_other, neither installed nor in this folder; go to the folder that holds it"),
        ("my-sampler", "no plugin of this name is installed, and no module can have it; did you mean my_sampler?"),
    ],
)  # fmt: skip
def test_a_module_that_is_not_there_is_told_with_what_to_do(
    packages: Path, python: Callable, tmp_path: Path, wanted: str, reason: str
) -> None:
    (tmp_path / "my_sampler").mkdir()
    done = python("-P", "-m", "diffcli", "plugins", "why", wanted, cwd=tmp_path, env={"DIFFCLI_PLUGINS": wanted, "PATH": ""})  # fmt: skip
    assert done.stdout == f"plugin {wanted} of DIFFCLI_PLUGINS: broken: {reason}\n"
