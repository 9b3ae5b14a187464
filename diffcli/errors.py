"""What can go wrong, each kind with its exit code. A message is one line: what, where, why; what to do."""

from __future__ import annotations

import unicodedata


class DiffcliError(Exception):
    """A mistake or mishap that the user can act on; shown as one line, without a traceback."""

    code = 70


class CheckFailed(DiffcliError):
    """A check or a claim did not hold."""

    code = 1


class UsageError(DiffcliError):
    """A wrong command line or recipe."""

    code = 2


class DataError(DiffcliError):
    """Data that is missing, damaged or of the wrong kind."""

    code = 3


class RunError(DiffcliError):
    """A run or checkpoint that is missing, damaged or of another kind."""

    code = 4


class PluginError(DiffcliError):
    """A plugin that broke its contract."""

    code = 5


class EnvironmentProblem(DiffcliError):
    """The machine: disk, memory, device or permission."""

    code = 6


class NonFinite(DiffcliError):
    """A loss, gradient, weight or sample that is NaN or infinite."""

    code = 7


class RunInUse(DiffcliError):
    """Another process is writing to the run."""

    code = 8


class RankLost(DiffcliError):
    """A process of a distributed run died."""

    code = 9


class Stopped(DiffcliError):
    """Stopped by a signal, with everything saved: 128 + the signal's number."""

    def __init__(self, message: str, signal: int):
        super().__init__(message)
        self.code = 128 + signal


def show(text: object, limit: int = 300) -> str:
    """Text from outside, on one line and harmless to a terminal: control and bidirectional characters are escaped."""
    plain = "".join(
        c if c == " " or unicodedata.category(c)[0] not in "CZ" else c.encode("unicode_escape").decode()
        for c in str(text).encode("utf-8", "backslashreplace").decode()
    )
    return plain if len(plain) <= limit else plain[: limit - 1] + "…"
