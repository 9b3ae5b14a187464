"""A run -> a model folder that can be handed to others: config.json and model.safetensors, nothing else."""

from __future__ import annotations

from pathlib import Path

from diffcli import __version__
from diffcli.engine import checkpoint
from diffcli.engine.load import read
from diffcli.engine.rundir import find
from diffcli.errors import UsageError, show


def export(run: str | Path, output: Path, *, raw: bool = False) -> Path:
    """Write the averaged (or, if raw, the trained) weights of a run as a model folder.

    Raises UsageError where the folder holds something already: an export never overwrites.
    """
    model = read(find(str(run)), raw=raw, device="cpu")
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UsageError(f"{show(output)} is not empty; export to a new folder")
    config = {
        "diffcli": __version__,
        "recipe": model.recipe.tables(),
        "facts": vars(model.facts),
        "step": model.step,
        "weights": model.weights,
        "autoencoder": model.autoencoder,
    }
    checkpoint.write_model(output, config, model.method.state_dict())
    return output
