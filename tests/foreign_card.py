"""A card for tests: folders whose config.json is {"kind": "small vae", ...}, with the tensors of a vae under other names."""

from __future__ import annotations

import sys

from diffcli.errors import RunError, UsageError
from model_folders import SMALL

KNOWN = {"kind", "channels"}


def recognizes(config):
    return config.get("kind") == "small vae"


def tables(config):
    if odd := set(config) - KNOWN:
        raise UsageError(f"config.json has a key that is not known: {', '.join(sorted(odd))}")
    facts = {"name": "digits", "split": "theirs", "shape": [1, 8, 8], "classes": 0, "class_names": []}
    small = SMALL["vae"]
    return {"method": {"name": "vae"}, **small, "model": {**small["model"], "channels": config["channels"]}}, facts


def tensors(found, method):
    made = {name.removeprefix("theirs."): t for name, t in found.items()}
    if missing := [name for name in method.state_dict() if name not in made]:
        raise RunError(f"1 missing ({missing[0]})")
    return made, ["the names begin with theirs (inferred)"]


card = sys.modules[__name__]
