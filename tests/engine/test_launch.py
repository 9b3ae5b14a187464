"""Who is one of several processes, and what the end of a group is."""

from __future__ import annotations

import pytest

from diffcli.engine.launch import NEEDED, several, stale, verdict, worker
from diffcli.errors import UsageError

WHOLE = dict.fromkeys(NEEDED, "1")


def test_a_rank_left_behind_in_the_environment_makes_no_worker():
    """Neither alone nor all of them: a launcher that is there says so itself."""
    for env in ({}, {"RANK": "1"}, {"RANK": "1", "WORLD_SIZE": "2"}, WHOLE):
        assert not worker(env)
    assert stale({}) is None and "RANK" in str(stale({"RANK": "1"})) and "WORLD_SIZE" in str(stale(WHOLE))


@pytest.mark.parametrize("says", [{"TORCHELASTIC_RUN_ID": "1"}, {"DIFFCLI_WORKER": "1"}])
def test_a_launcher_makes_workers_when_it_says_all(says):
    assert worker({**WHOLE, **says}) and stale({**WHOLE, **says}) is None
    for name in NEEDED:
        assert not worker({**{k: v for k, v in WHOLE.items() if k != name}, **says})


def test_flags_go_together_or_are_refused():
    assert several(2, 1, None) and several(1, 2, "host:29500") and several(8, 64, "[fd00::1]:29500")
    assert not several(1, 1, None)
    for devices, nodes, rendezvous in (
        (1, 2, None),
        (2, 1, "host:1"),
        (1, 2, "host"),
        (1, 2, "ho st:1"),
        (1, 2, "h:p"),
        (1, 2, "h:99999"),
    ):
        with pytest.raises(UsageError):
            several(devices, nodes, rendezvous)


@pytest.mark.parametrize(
    ("codes", "end"),
    [
        ({0: 7, 1: 7}, 7),  # all for one reason
        ({0: 9, 1: 3}, 3),  # the first lost the second, which says why
        ({0: 9, 1: -9}, 9),  # the second was killed
        ({0: -15, 1: 4}, 4),  # the launcher ended the first when the second had failed
        ({0: 143, 1: 143}, 143),  # a signal, and all is saved
        ({0: 9, 1: -11}, 9),
    ],
)
def test_the_end_of_a_group_is_its_cause(codes, end):
    assert verdict(codes) == end


def test_a_process_that_was_killed_is_named(capsys):
    verdict({0: 9, 1: -9})
    assert "process 1 was killed by signal 9" in capsys.readouterr().err
    verdict({0: 9, 1: 3})
    assert capsys.readouterr().err == ""
