"""The kit itself: a sound plugin keeps every law, pytest and `plugins check` try the same, and nothing a plugin does is our crash."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import diffcli.testing
from commands import run
from diffcli.errors import UsageError
from diffcli.registry import registry
from diffcli.testing import DatasetSuite, PluginSuite, SamplerSuite, ScheduleSuite, Suite, check
from diffcli.testing.check import SUITES, judged, suites
from diffcli.testing.dataset import offline

MINE = """
from diffcli.testing import MethodSuite, ModelSuite, PluginSuite, SamplerSuite, ScheduleSuite

class TestPlugin(PluginSuite):
    name = "schedules"

class TestSchedule(ScheduleSuite):
    name = "vp"

    def test_it_ends_in_noise(self):
        assert False, "a law of my own"

class TestWalk(SamplerSuite):
    name = "ancestral"
"""


@pytest.mark.slow
def test_a_sound_plugin_keeps_every_law(install):
    install()
    verdicts = check("sound_plugin")
    assert [str(verdict) for verdict in verdicts if verdict.outcome == "broken"] == []
    kinds = {verdict.kind for verdict in verdicts}
    assert kinds == {"plugin", "denoiser", *SUITES}
    skipped = {(verdict.component, verdict.detail) for verdict in verdicts if verdict.outcome == "skipped"}
    assert skipped >= {("sound-walk", "a random walk has no order"), ("sound-eye", "it is no judge")}
    assert len(skipped) < 12, skipped


def test_every_law_is_stated_in_one_sentence():
    for suite in (PluginSuite, *(suite for found in SUITES.values() for suite in found)):
        laws = {name: getattr(suite, name) for name in dir(suite) if name.startswith("test_")}
        assert len(laws) > 4
        for name, law in laws.items():
            assert law.__doc__ and law.__doc__.partition("\n")[0].endswith("."), f"{suite.__name__}.{name}"


def test_a_suite_applies_the_laws_of_its_family_alone():
    gaussian, masked = (set(suites(name)[0].laws()) for name in ("ddim", "unmask"))
    assert "test_of_one_image_it_finds_it" in gaussian - masked
    assert "test_given_tokens_stay_and_no_mask_is_left" in masked - gaussian
    assert "test_no_global_random_numbers" in gaussian & masked


@pytest.mark.slow
def test_pytest_collects_a_suite_of_mine_and_no_other(tmp_path: Path):
    """The laws of the base classes are not collected, a law that does not apply is skipped, one's own is tried too."""
    (tmp_path / "test_mine.py").write_text(MINE)
    command = [sys.executable, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert "1 failed" in done.stdout and "a law of my own" in done.stdout, done.stdout
    laws = [len(suites(name)[0].laws()) for name in ("schedules", "vp", "ancestral")]
    mine = [name for suite in (ScheduleSuite, SamplerSuite) for name in dir(suite) if name.startswith("test_")]
    total = sum(map(int, re.findall(r"(\d+) (?:failed|passed|skipped)", done.stdout.splitlines()[-1])))
    assert total == laws[0] + len(mine) + 1
    assert "a random walk has no order" in done.stdout


class Wild(Suite):
    """Laws that raise all that can be raised."""

    kind, name = "sampler", "ddim"

    def test_exit(self) -> None:
        """It exits."""
        raise SystemExit(3)

    def test_error(self) -> None:
        """It fails."""
        raise ValueError("two\nlines")

    def test_assert(self) -> None:
        """It asserts without words."""
        raise AssertionError

    def test_prints(self) -> None:
        """It prints."""
        print("to stdout")


def test_whatever_a_law_raises_is_its_failure():
    found = {verdict.law: verdict for verdict in judged(Wild, None)}
    assert found["it exits"].detail.startswith("SystemExit: 3 (at test_kit.py:")
    assert found["it fails"].detail.startswith("ValueError: two\\nlines (at test_kit.py:")
    assert found["it asserts without words"].detail.startswith("AssertionError:")
    assert {verdict.outcome for law, verdict in found.items() if law != "it prints"} == {"broken"}
    assert "ValueError: two" in found["it fails"].traceback


def test_an_interrupt_is_no_failure():
    class Stopped(Wild):
        def test_exit(self) -> None:
            """It is stopped."""
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(judged(Stopped, None))


def test_a_check_reports_each_law_before_it_is_tried():
    told: list[str] = []
    verdicts = check("vp", told.append)
    assert told == [f"schedule vp: {verdict.law}" for verdict in verdicts] and len(told) > 10


def test_a_check_leaves_the_threads_as_they_were():
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        check("vp")
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)


def test_an_unknown_name_is_refused_with_the_nearest():
    with pytest.raises(UsageError, match=r"nothing is named .ddin.; did you mean ddim"):
        check("ddin")
    ran = run("plugins", "check", "ddin")
    assert ran.code == 2 and ran.out == "" and ran.err.count("\n") == 1


def test_a_name_means_a_plugin_with_all_it_brings_or_a_component():
    named = {name: {(suite.kind, suite.name) for suite in suites(name)} for name in ("mdlm", "mask-unet", "rf")}
    assert named["mask-unet"] == {("model", "mask-unet")}
    assert named["rf"] == {(kind, "rf") for kind in ("plugin", "method", "denoiser")}
    assert named["mdlm"] > {
        ("plugin", "mdlm"),
        ("method", "mdlm"),
        ("model", "mask-unet"),
        ("model", "mask-transformer"),
    }


def test_the_command_says_what_holds():
    ran = run("plugins", "check", "vp", "--json")
    assert ran.code == 0, ran.err
    assert ran.out.splitlines()[0].split() == ["OF", "OK", "BROKEN", "SKIPPED"]
    assert ran.json["broken"] == 0 and ran.json["ok"] == len(ran.json["laws"]) > 10
    assert ran.err == "checking schedule vp\n"


def test_the_command_says_what_is_broken(install):
    install("return 2 * steps", "return steps")
    ran = run("plugins", "check", "sound-solver", "--json")
    assert ran.code == 1
    first = ran.out.splitlines()[0]
    assert first.startswith("broken: sampler sound-solver: nfe(steps) is the number of network calls")
    assert first.endswith("nfe(1) is 1, but 2 calls were counted on linear")
    assert ran.json["broken"] == 1 and [law["outcome"] for law in ran.json["laws"]].count("broken") == 1
    assert ran.err.splitlines()[-1].startswith("error: sound-solver breaks 1 of ")


def test_the_command_shows_where_with_debug(install):
    install("return 2 * steps", "return 1 / 0")
    ran = run("plugins", "check", "sound-solver", "--debug")
    assert ran.code == 1 and "ZeroDivisionError: division by zero (at sound_parts.py" in ran.out
    assert "Traceback" in ran.err and "return 1 / 0" in ran.err


def test_a_plugin_that_cannot_be_imported_is_a_broken_law(install):
    install("from typing import Literal\n", "import does_not_exist\n")
    ran = run("plugins", "check", "sound_plugin")
    assert ran.code == 1
    assert ran.out.startswith("broken: plugin sound_plugin: it can be imported: ModuleNotFoundError:")


def test_what_a_plugin_prints_does_not_reach_stdout(install):
    install(
        "        t, s = point\n        process, pair",
        "        print('clutter')\n        t, s = point\n        process, pair",
    )
    ran = run("plugins", "check", "sound-walk", "--json")
    assert (
        "clutter" not in ran.out
        and "clutter" in ran.err
        and json.loads(ran.out.splitlines()[-1])["name"] == "sound-walk"
    )


def test_a_check_downloads_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """A data set whose files are not here is skipped with what is missing."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("DIFFCLI_DATA", raising=False)
    connect = socket.socket.connect
    with offline(), socket.socket() as refused, pytest.raises(ConnectionRefusedError):
        refused.connect(("127.0.0.1", 9))
    assert socket.socket.connect is connect
    first, *others = check("mnist")
    assert first.outcome == "skipped" and "is not under" in first.detail
    assert {verdict.outcome for verdict in others} == {"skipped"} and list(tmp_path.iterdir()) == []


def test_a_data_set_that_needs_a_path_says_so():
    first = check("folder")[0]
    assert first.outcome == "skipped" and "needs --path FOLDER" in first.detail

    class Here(DatasetSuite):
        name = "folder"
        options = {"path": "nowhere"}  # noqa: RUF012

    assert next(judged(Here, None)).outcome in ("broken", "skipped")


@pytest.mark.slow
def test_the_kit_needs_no_pytest():
    code = "import sys, diffcli.testing; sys.exit('pytest' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
    assert set(diffcli.testing.__all__) >= {"PluginSuite", "MethodSuite", "check", "Verdict"}


def test_a_module_may_be_named_like_one_of_the_kit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A plugin's module `dataset` is imported as itself, also in the process of its own."""
    text = "from diffcli import hookimpl\nprint('mine')\n\n\n@hookimpl\ndef diffcli_models():\n    return []\n"
    (tmp_path / "dataset.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("DIFFCLI_PLUGINS", "dataset")
    registry.cache_clear()
    try:
        broken = [verdict for verdict in check("dataset") if verdict.outcome == "broken"]
    finally:
        registry.cache_clear()
        sys.modules.pop("dataset", None)
    assert [verdict.detail for verdict in broken] == ["it prints 'mine'"]
