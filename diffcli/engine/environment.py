"""What a result depends on besides its recipe: versions, the machine, and the command that was given."""

from __future__ import annotations

import os
import platform
import re
import sys
from datetime import datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from diffcli.registry import registry

SECRET_FLAG = re.compile(r"token|secret|passw|credential|api[-_]?key", re.IGNORECASE)
SECRET_VALUE = re.compile(
    r"\b(?:hf|ghp|gho|ghs|github_pat|glpat|sk|xox[bp])[-_][A-Za-z0-9_-]{8,}|(?<=://)[^/@\s]+(?=@)"
)


def environment(device: Any = None) -> dict[str, Any]:
    """The facts of env.json, as plain JSON. device: a torch device, or its name."""
    import torch

    return {
        "started": datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": command([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "versions": versions(),
        "platform": platform.platform(),
        "cpu": cpu(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": str(device) if device is not None else None,
        "device_name": torch.cuda.get_device_name(device) if str(device).startswith("cuda") else None,
    }


@cache
def versions() -> dict[str, str | None]:
    """Versions of what computes, the distributions of plugins among them; nothing is imported for them."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in ("diffcli", "torch", "numpy", "safetensors"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found | {origin.distribution: origin.version for origin in registry().plugins}


def cpu() -> str:
    """The name of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def command(argv: list[str]) -> list[str]:
    """The command line, with *** for what looks like a secret: --token X, --token=X, hf_..., https://name:word@host."""
    clean: list[str] = []
    hide = False
    for word in argv:
        name, equals, _ = word.partition("=")
        flag = word.startswith("-") and SECRET_FLAG.search(name) is not None
        if hide and not word.startswith("-"):
            clean.append("***")
        elif equals and SECRET_FLAG.search(name):
            clean.append(f"{name}=***")
        else:
            clean.append(SECRET_VALUE.sub("***", word))
        hide = flag and not equals
    return clean
