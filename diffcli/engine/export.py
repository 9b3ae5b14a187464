"""A run -> a model folder that can be handed to others: config.json and model.safetensors, and its autoencoder's."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from torch import Tensor

from diffcli import __version__
from diffcli.engine.load import ENCODER, Model, read
from diffcli.engine.model_folder import write_model
from diffcli.engine.rundir import find
from diffcli.engine.weights import pack
from diffcli.errors import UsageError, show


def export(run: str | Path, output: Path, *, raw: bool = False, autoencoder: str | None = None) -> Path:
    """Write the averaged (or, if raw, the trained) weights of a run as a model folder.

    autoencoder: where that of a latent model lies now. Raises UsageError where the folder holds something already: an
    export never overwrites.
    """
    model = read(find(str(run)), raw=raw, device="cpu", place=autoencoder)
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UsageError(f"{show(output)} is not empty; export to a new folder")
    models = {"": parts(model)} | ({ENCODER: parts(model.encoder)} if model.encoder else {})
    write_model(output, models)
    return output


def parts(model: Model) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What a model is, and its weights."""
    config = {
        "diffcli": __version__,
        "recipe": model.recipe.tables(),
        "facts": vars(model.facts),
        "step": model.step,
        "weights": model.weights,
        "autoencoder": model.encoder and hashlib.sha256(pack(model.encoder.method.state_dict(), "")).hexdigest(),
    }
    return config, model.method.state_dict()
