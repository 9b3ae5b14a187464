"""What the commands do, as Python calls: diffcli.load and diffcli.train. torch is imported when they are first used."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffcli.errors import UsageError

if TYPE_CHECKING:
    from diffcli.engine.load import Model


def load(path: str | Path, *, raw: bool = False, device: str = "auto", autoencoder: str | Path | None = None) -> Model:
    """The model at a method's name (its newest run), a run, a checkpoint or a model folder, or at hub:OWNER/NAME[@REVISION].

    `diffcli.load("rf").sample(16, label=(3,), seed=1)` gives (16, C, H, W) images in [-1, 1]; an
    autoencoder has encode(x), decode(z) and reconstruct(x) as well. raw: the trained weights in
    place of their average; autoencoder: where that of a latent model lies now. Raises RunError where there is no such run.
    """
    from diffcli.engine import load as engine

    return engine.load(path, raw=raw, device=device, autoencoder=autoencoder)


def train(
    recipe: str | Path | dict[str, Any] | None = None,
    output: str | Path | None = None,
    *,
    resume: str | Path | None = None,
) -> Path:
    """Train a recipe: a method's name, a TOML file, the name of a shipped recipe, or tables; the run folder.

    resume: a run to go on with; no recipe is needed then. Under torchrun all processes call this, and train together.
    `diffcli.train({"method": {"name": "rf", "cond": "label"}, "train": {"steps": 500}})`. Raises DiffcliError.
    """
    from diffcli import recipe as recipes
    from diffcli.engine.ranks import joined
    from diffcli.engine.rundir import find
    from diffcli.engine.train import train as engine
    from diffcli.registry import registry

    if resume is not None and recipe is None:
        tables = find(str(resume), started=True).tables or {}
    elif isinstance(recipe, dict):
        tables = recipe
    elif recipe is None:
        raise UsageError("diffcli.train takes a recipe, or resume=RUN")
    elif str(recipe) in registry().specs("method"):
        tables = {"method": {"name": str(recipe)}}
    else:
        path = Path(recipe)
        tables = recipes.read(path if path.suffix == ".toml" else recipes.named(str(recipe)))
    with joined() as world:
        return engine(
            recipes.resolve(tables),
            None if output is None else Path(output),
            resume=None if resume is None else Path(resume),
            world=world,
        )
