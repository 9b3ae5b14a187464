"""Model folders, to be handed to others: config.json, which says what the model is and what each tensor is, and its weights."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from diffcli.engine import foreign, hub
from diffcli.engine.checkpoint import Checkpoint
from diffcli.engine.files import acting, parse_json, publish, read_capped
from diffcli.engine.manifest import TENSOR_CAP, seal
from diffcli.engine.rundir import JSON_CAP
from diffcli.engine.weights import contents, pack
from diffcli.errors import RunError, show


def open_model(folder: Path) -> Checkpoint:
    """A model folder. It has no manifest: its hash is computed, for the caller to tell."""
    model = hub.model_files(folder)
    if model is None:
        raise RunError(f"{show(folder)} is no model folder: a config.json with one file of safetensors beside it")
    config = parse_json(read_capped(model.config, JSON_CAP), str(folder / "config.json"))
    body = {key: value for key, value in config.items() if key != "seal"}
    if "seal" in config and parse_json(seal(body), "")["seal"] != config["seal"]:
        raise RunError(f"{show(folder / 'config.json')} does not say what was exported: it was changed, or is damaged")
    data = read_capped(model.weights, TENSOR_CAP)
    meta, step = foreign.described(config), config.get("step")
    files = {"model.safetensors": (len(data), hashlib.sha256(data).hexdigest())}
    listed = None if foreign.FOREIGN in meta else config.get("tensors")
    return Checkpoint(folder, step if type(step) is int else 0, meta, files, weights=model.weights, listed=listed)


def write_model(folder: Path, models: Mapping[str, tuple[Mapping[str, Any], Mapping[str, Tensor]]]) -> Path:
    """A model folder for others, whole or not at all; an existing one is not touched.

    models: folder inside it, "" for the model itself -> its config and tensors; config.json says of each tensor what it is.
    """
    if os.path.lexists(folder) and not (folder.is_dir() and not any(folder.iterdir())):
        raise RunError(f"{show(folder)} exists already; choose another folder")
    with acting("create", folder.parent):
        folder.parent.mkdir(parents=True, exist_ok=True)
    files = list[tuple[str, bytes]]()
    for inside, (config, tensors) in models.items():
        data = pack(tensors, str(folder))
        files += [
            (os.path.join(inside, "model.safetensors"), data),
            (os.path.join(inside, "config.json"), seal({**config, "tensors": contents(data, str(folder))})),
        ]
    publish(folder, files, folder.with_name(f".tmp-{folder.name}-{os.getpid()}"))
    return folder
