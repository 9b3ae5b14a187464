"""`plugins check --debug` shows the plugin's own traceback of each broken law, and a plugin is found by either spelling."""

from __future__ import annotations

import sys

import pytest

from commands import run
from diffcli.registry import registry
from diffcli.testing import PluginSuite
from diffcli.testing.check import suites

EYE = '    yield Spec(name="sound-eye"'
WIDTH = '    width: int = opt(8, "Features of the hidden layer.", min=1)'
RAISED = {  # what is checked, the change, and the line of the plugin that raised
    "in a law": ("sound-solver", "return 2 * steps", "return 1 / 0", "return 1 / 0"),
    "at import": ("sound_plugin", "from typing import Literal\n", "import does_not_exist\n", "import does_not_exist"),
    "in a hook": ("sound_plugin", EYE, f"    1 / 0\n{EYE}", "    1 / 0"),
    "behind a target": ("sound_plugin", "import torch\nimport torch.nn", "import does_not_exist\nimport torch\nimport torch.nn", "import does_not_exist"),
    "in --help": ("sound_plugin", WIDTH, f"{WIDTH}\n\n    def __post_init__(self):\n        1 / 0", "        1 / 0"),
    "where nothing fits": ("sound-net", "        self.first =", "        from diffcli.errors import UsageError\n\n        raise UsageError('too small')\n        self.first =", "raise UsageError('too small')"),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("where", RAISED)
def test_each_broken_law_shows_the_line_of_the_plugin(install, where):
    name, old, new, line = RAISED[where]
    install(old, new)
    for suite in suites(name):
        if suite.kind in ("plugin", "sampler", "model"):
            laws = [verdict for verdict in tried(suite) if verdict.outcome == "broken"]
            for verdict in laws:
                assert line.strip() in verdict.traceback, (verdict.law, verdict.traceback)
            assert laws or suite is not suites(name)[0]


def tried(suite):
    from diffcli.testing.check import judged

    return list(judged(suite, None))


def test_debug_shows_no_traceback_of_the_check_itself(install):
    install("return 2 * steps", "return 1 / 0")
    ran = run("plugins", "check", "sound-solver", "--debug")
    assert ran.code == 1 and "return 1 / 0" in ran.err
    assert ran.err.splitlines()[-1].startswith("error: sound-solver breaks") and "typer" not in ran.err


def test_a_suite_finds_its_plugin_by_either_spelling(install):
    install()

    class Mine(PluginSuite):
        name = "sound-plugin"

    assert {verdict.outcome for verdict in tried(Mine)} == {"ok"}
    assert [(s.kind, s.name) for s in suites("sound-plugin")] == [(s.kind, s.name) for s in suites("sound_plugin")]


def test_where_a_component_has_the_name_too_the_plugin_is_taken(install, tmp_path, monkeypatch):
    install('name="sound-eye"', 'name="sound-two"')
    (tmp_path / "sound_two.py").write_text((tmp_path / "sound_plugin.py").read_text())
    monkeypatch.setenv("DIFFCLI_PLUGINS", "sound_two")
    registry.cache_clear()
    found = [(suite.kind, suite.name) for suite in suites("sound-two")]
    sys.modules.pop("sound_two", None)
    assert found[0] == ("plugin", "sound_two") and ("extractor", "sound-two") in found and len(found) > 10
