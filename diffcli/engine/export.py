"""A run -> a model folder that can be handed to others: config.json and model.safetensors, and its autoencoder's."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from torch import Tensor

from diffcli import __version__
from diffcli.core.method import Method
from diffcli.engine import posthoc
from diffcli.engine.assemble import open_data
from diffcli.engine.checkpoint import load_into, open_checkpoint
from diffcli.engine.encoded import encoded
from diffcli.engine.load import ENCODER, Model, read
from diffcli.engine.model_folder import write_model
from diffcli.engine.profiles import gamma_of
from diffcli.engine.progress import Say
from diffcli.engine.resume import statistics
from diffcli.engine.rundir import Found, find, step_name
from diffcli.engine.weights import pack
from diffcli.errors import UsageError, show

POOR = 0.1  # error of a profile, over its size, that is worth a warning


def export(
    run: str | Path,
    output: Path,
    *,
    raw: bool = False,
    ema_width: float | None = None,
    autoencoder: str | None = None,
    say: Say = lambda line: None,
) -> Path:
    """Write the averaged (or, if raw, the trained) weights of a run as a model folder.

    ema_width: another average, made of the snapshots of the run, by its standard deviation as a share of the training (Karras
    et al. 2024), and `say` is told how well; autoencoder: where that of a latent model lies now. Raises UsageError where the
    folder holds something already: an export never overwrites.
    """
    found = find(str(run))
    refuse(found, raw, ema_width)
    model = read(found, raw=raw, device="cpu", place=autoencoder)
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UsageError(f"{show(output)} is not empty; export to a new folder")
    if ema_width is not None:
        widen(found, model, ema_width, say)
    models = {"": parts(model)} | ({ENCODER: parts(model.encoder)} if model.encoder else {})
    write_model(output, models)
    return output


def refuse(found: Found, raw: bool, ema_width: float | None) -> None:
    """UsageError for a width that no average has, or of weights that no snapshots belong to."""
    if ema_width is None:
        return
    if raw:
        raise UsageError("--raw is the trained weights, and --ema-width an average of them; leave one of them out")
    if found.kind == "model":
        raise UsageError(f"{show(found.path)} is a model folder, without snapshots; give --ema-width with its run")
    gamma_of(ema_width)


def widen(found: Found, model: Model, width: float, say: Say) -> None:
    """Put the average of another width into a model; statistics that its method takes of the data are taken anew."""
    place = found.path if found.kind == "checkpoint" else found.path / "checkpoints" / step_name(model.step)
    stored = posthoc.kept(found.run, open_checkpoint(place), say)
    tensors, error = posthoc.reconstruct(stored, width, model.step)
    load_into(model.method, tensors, str(found.path))
    if type(model.method).calibrate is not Method.calibrate:
        data = encoded(model.method.data(open_data(model.recipe, "train")), model.space, model.device, False)
        statistics(model.method, data, model.space, model.device)
    model.weights = f"ema-width {width:g}"
    more = "; for less, store more snapshots, or take a width between those of --ema-profiles" if error > POOR else ""
    warning = "warning: " if error > POOR else ""
    say(f"{warning}average of width {width:g} of {len(stored)} stored ones, {100 * error:.2g} % off its profile{more}")


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
