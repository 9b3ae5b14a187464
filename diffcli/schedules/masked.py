"""Masked processes: tokens turn into [MASK]."""

from __future__ import annotations

from typing import Any

from diffcli.core.process import MaskedProcess
from diffcli.plugin import NoOptions


def loglinear(options: NoOptions, space: Any) -> MaskedProcess:
    """Masked with probability t, so that -log(1 - alpha) is log-linear (Sahoo et al. 2024)."""
    return MaskedProcess(space.vocab)
