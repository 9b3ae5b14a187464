"""Ctrl-C and kill, heard at the next step boundary, so that what was trained is saved."""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any


class Signals:
    """While entered, the first SIGINT or SIGTERM is noted in `received`; the second ends the process at once.

    patience: seconds in which a second one is not heard, as of a process that its launcher tells again.

    Python hears signals in the main thread alone; elsewhere this does nothing. A signal that was ignored before (a job
    under nohup) stays ignored.
    """

    def __init__(self, patience: float = 0.0) -> None:
        self.patience, self.since = patience, 0.0
        self.received: int | None = None
        self.previous: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(number) not in (signal.SIG_IGN, None):
                    self.previous[number] = signal.signal(number, self.note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)
        self.previous.clear()

    def note(self, number: int, frame: FrameType | None) -> None:
        if self.received is None:
            self.since = time.monotonic()
        elif time.monotonic() - self.since < self.patience:
            return
        else:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        self.received = number
