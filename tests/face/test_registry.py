"""The registry: one broken plugin harms no other."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from diffcli.errors import PluginError, UsageError
from diffcli.hooks import collect
from diffcli.registry import registry

GOOD = """
from diffcli import Spec, hookimpl

@hookimpl
def diffcli_samplers():
    yield Spec(name="fake-{k}", target="fake_{k}:Sampler", summary="Fake {k}.", family="gaussian")
"""
BROKEN = {
    3: ("import does_not_exist", "ModuleNotFoundError: No module named 'does_not_exist'"),
    6: ("import sys; sys.exit(3)", "it called exit(3) when imported"),
    9: (GOOD.replace("diffcli_samplers", "diffcli_sampler").format(k=9), "there is no hook diffcli_sampler; did you mean diffcli_samplers?"),
    12: (GOOD.format(k=1), "sampler fake-1 is already brought by fake-1 of diffcli-fake-01 1.0"),
    15: ("from diffcli import hookimpl\n@hookimpl\ndef diffcli_models():\n    return [42]", "diffcli_models gave 42, which is no Spec"),
}  # fmt: skip


@pytest.fixture
def twenty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Twenty installed distributions, five of them broken, each in its own way."""
    for k in range(20):
        (tmp_path / f"fake_{k}.py").write_text(BROKEN[k][0] if k in BROKEN else GOOD.format(k=k))
        info = tmp_path / f"diffcli_fake_{k:02}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: diffcli-fake-{k:02}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[diffcli]\nfake-{k} = fake_{k}\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.delenv("DIFFCLI_PLUGINS", raising=False)
    return tmp_path


def test_five_broken_plugins_harm_none_of_fifteen(twenty: Path, python: Callable) -> None:
    done = python("-m", "diffcli", "plugins", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    ours = {part["name"] for part in found["parts"] if part["name"].startswith("fake-")}
    assert ours == {f"fake-{k}" for k in range(20) if k not in BROKEN}
    reasons = {broken["name"]: broken["reason"] for broken in found["broken"]}
    assert {name for name in reasons if name.startswith("fake-")} == {f"fake-{k}" for k in BROKEN}
    for k, (_, reason) in BROKEN.items():
        assert reason in reasons[f"fake-{k}"]
        assert reason in done.stdout
    assert "diffcli-fake-12 1.0" in reasons["fake-12"], "the reason names both distributions"


def test_why_tells_the_reason(twenty: Path, python: Callable) -> None:
    done = python("-m", "diffcli", "plugins", "why", "fake-6")
    assert done.returncode == 0
    assert done.stdout == "plugin fake-6 of diffcli-fake-06 1.0: broken: it called exit(3) when imported\n"


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [("none", set()), ("fake-1,fake-2", {"fake-1", "fake-2"}), ("fake_5", {"fake-5"})],
)
def test_the_environment_chooses_plugins(
    twenty: Path, python: Callable, monkeypatch: pytest.MonkeyPatch, wanted: str, expected: set[str]
) -> None:
    monkeypatch.setenv("DIFFCLI_PLUGINS", wanted)
    done = python("-m", "diffcli", "plugins", "--json")
    parts = json.loads(done.stdout.splitlines()[-1])["parts"]
    assert {part["name"] for part in parts if part["name"].startswith("fake-")} == expected


def test_twenty_plugins_are_found_in_fifty_milliseconds(
    twenty: Path, python: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What they add to our own parts, whose cost `diffcli plugins` has its own bound for: with and without them in turn, the
    best of five of each, as what else the machine does only ever adds."""
    code = "import time, diffcli.registry as r; t = time.process_time(); r.registry(); print(time.process_time() - t)"
    costs: dict[str, list[float]] = {str(twenty): [], "": []}
    for _ in range(5):
        for path, found in costs.items():
            monkeypatch.setenv("PYTHONPATH", path)
            found.append(float(python("-c", code).stdout))
    added, alone = (min(found) for found in costs.values())
    assert added - alone < 0.05, costs


def test_a_plugin_neither_prints_nor_seeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "noisy_plugin.py").write_text(
        "import random\nprint('hello')\nrandom.seed(0)\n" + GOOD.format(k="noisy")
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("DIFFCLI_PLUGINS", "noisy_plugin")
    random.seed(7)
    state = random.getstate()
    registry.cache_clear()
    try:
        assert "fake-noisy" in registry().specs("sampler")
    finally:
        registry.cache_clear()
        sys.modules.pop("noisy_plugin", None)
    assert random.getstate() == state
    assert capsys.readouterr() == ("", "hello\n")


def test_damaged_metadata_hide_one_distribution_alone(twenty: Path, python: Callable) -> None:
    (twenty / "diffcli_fake_05-1.0.dist-info" / "entry_points.txt").write_text("[diffcli]\nno equals sign\n")
    (twenty / "diffcli_fake_07-1.0.dist-info" / "METADATA").unlink()
    done = python("-m", "diffcli", "plugins", "--json")
    assert done.returncode == 0, done.stderr
    names = {part["name"] for part in json.loads(done.stdout.splitlines()[-1])["parts"]}
    assert {"fake-4", "fake-7", "ddim"} <= names
    assert "fake-5" not in names


def test_a_plugin_that_imports_torch_leaves_its_random_numbers_alone(
    tmp_path: Path, python: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "heavy.py").write_text("import torch\ntorch.manual_seed(3)\n" + GOOD.format(k="heavy"))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("DIFFCLI_PLUGINS", "heavy")
    code = "import diffcli.registry as r; r.registry().get('sampler', 'fake-heavy'); import torch; print(torch.initial_seed())"
    assert int(python("-c", code).stdout) != 3


def test_names_that_are_near_are_proposed(toy: Path) -> None:
    with pytest.raises(UsageError, match=r"no method named 'tpy'; did you mean 'toy'\?"):
        registry().get("method", "tpy")
    assert registry().origin("method", "toy") == ("toy_plugin", "DIFFCLI_PLUGINS", "")


def test_a_built_in_is_never_replaced(tmp_path: Path, python: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "shadow.py").write_text(GOOD.format(k=1).replace("fake-1", "ddim"))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("DIFFCLI_PLUGINS", "shadow")
    found = json.loads(python("-m", "diffcli", "plugins", "--json").stdout.splitlines()[-1])
    assert [part["distribution"] for part in found["parts"] if part["name"] == "ddim"] == ["diffcli"]
    assert "already brought by samplers of diffcli" in found["broken"][0]["reason"]


CONFIG = """
from dataclasses import dataclass
from typing import *
from diffcli import Spec, Use, hookimpl, opt
@dataclass({frozen}kw_only=True)
class Options:
    {field}
@hookimpl
def diffcli_{kind}s():
    yield Spec(**dict(dict(name="a", target="a.b:C", summary="A.", config=Options), **dict({more})))
"""


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"more": "name='A b'"}, "name must be small letters"),
        ({"more": "name=3"}, "name must be small letters"),
        ({"more": "target='a.b'"}, "target must be"),
        ({"more": "summary=' '"}, "summary must say"),
        ({"more": "family='gauss'"}, "family must be"),
        ({"more": "uses={'modell': Use(name='unet')}"}, "no kind of part"),
        ({"more": "uses={'model': 'unet'}"}, "must map model to a Use"),
        ({"more": "train={'learning_rate': 1}"}, "learning_rate is unknown"),
        ({"more": "train={'lr': -1}"}, "lr is '-1', but takes a finite number, 0 or more"),
        ({"more": "sample=int"}, "sample must extend SampleOptions"),
        ({"more": "metrics={'m': 'x'}"}, "must be an import string"),
        ({"more": "tools={'check': 'x'}"}, "must be an import string"),
        ({"more": "tools={'delete': 'a:b'}"}, "tools must map check, pack"),
        ({"more": "config=int"}, "is no dataclass"),
        ({"frozen": ""}, "is not frozen"),
        ({"field": "x: int = 3"}, "has no help"),
        ({"field": "x: dict = opt(None, 'X.')"}, "which no flag can be"),
        ({"field": "x: int | str = opt(1, 'X.')"}, "which no flag can be"),
        ({"field": "x: int = opt('a', 'X.')"}, "its default is 'a', but takes a whole number"),
        ({"field": "x: int = opt(0, 'X.', min=1)"}, "1 or more"),
        ({"field": "x: Literal['a'] = opt('b', 'X.')"}, "one of: a"),
        ({"field": "lr: float = opt(0.0, 'X.')"}, "--lr is already a flag"),
        ({"field": "resume: str = opt('', 'X.')"}, "--resume is already a flag"),
        ({"field": "name: str = opt('', 'X.')"}, "cannot be a flag"),
        ({"kind": "sampler", "field": "steps: int = opt(1, 'X.')"}, "--steps is already a flag"),
    ],
)
def test_a_garbage_spec_is_refused_with_its_fault(change: dict[str, str], reason: str) -> None:
    made = type(sys)("made")
    sys.modules["made"] = made
    settings = {"frozen": "frozen=True, ", "field": "x: int = opt(1, 'X.')", "kind": "model", "more": "", **change}
    made.__dict__["__name__"] = "made"
    exec(CONFIG.format(**settings), made.__dict__)
    with pytest.raises(PluginError, match=reason.replace("(", r"\(")):
        collect(made)
    del sys.modules["made"]


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("DIFFCLI_API = 2\n" + GOOD.format(k=1), "was written for version 2"),
        ("x = 1", "it implements no hook"),
        (GOOD.format(k=1).replace("@hookimpl\n", ""), "diffcli_samplers is not marked with @hookimpl"),
        (GOOD.format(k=1).replace("samplers():", "samplers(config):"), "config"),
        (GOOD.format(k=1).replace("yield", "return"), "not specs"),
    ],
)
def test_a_module_that_is_no_plugin_is_refused(source: str, reason: str) -> None:
    made = type(sys)("made")
    exec(source, made.__dict__)
    with pytest.raises(PluginError, match=reason):
        collect(made)


def test_ctrl_c_is_not_swallowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pressed.py").write_text("raise KeyboardInterrupt")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("DIFFCLI_PLUGINS", "pressed")
    registry.cache_clear()
    try:
        with pytest.raises(KeyboardInterrupt):
            registry()
    finally:
        registry.cache_clear()
