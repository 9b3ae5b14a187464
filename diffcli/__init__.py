"""diffcli: train, sample, evaluate and benchmark diffusion models from plugins."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from diffcli.plugin import Spec, Use, hookimpl, opt

if TYPE_CHECKING:
    from diffcli.api import load, train

__version__ = "0.1.0"
__all__ = ["Spec", "Use", "__version__", "hookimpl", "load", "opt", "train"]


def __getattr__(name: str) -> Any:
    """What needs torch comes with its first use, so that `import diffcli` stays light."""
    if name in ("load", "train"):
        from diffcli import api

        return getattr(api, name)
    raise AttributeError(f"module 'diffcli' has no attribute {name!r}")
