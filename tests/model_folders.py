"""Small untrained models, as folders and as the cache of the Hub would hold them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch

from diffcli import recipe as recipes
from diffcli.engine.assemble import Facts, assemble, open_data
from diffcli.engine.export import parts
from diffcli.engine.load import Model
from diffcli.engine.model_folder import write_model

SMALL = {
    "vae": {"model": {"channels": 8, "multipliers": [1, 2]}, "dataset": {"name": "digits", "size": 8}},
    "mdiffae": {
        "model": {
            "patch_size": 4, "width": 16, "encoder_depth": 1, "decoder_depth": 1, "latent_channels": 4, "mlp_ratio": 1,
            "kernel": 3, "adaln_rank": 4,
        },
        "dataset": {"name": "shapes"},
    },
}  # fmt: skip
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def model(method: str = "vae", seed: int = 0, **tables: dict[str, object]) -> Model:
    """A model with weights of a seed, none of them zero, so that everything in it matters."""
    recipe = recipes.resolve(recipes.overlay({"method": {"name": method}, **SMALL[method]}, tables))
    facts = Facts.of(open_data(recipe, "train"))
    made = assemble(recipe, facts)
    generator = torch.Generator().manual_seed(seed)
    for p in made.method.parameters():
        p.data += 0.05 * torch.randn(p.shape, generator=generator)
    network = made.method.eval().requires_grad_(False)
    return Model(made.recipe, network, made.space, facts, torch.device("cpu"), "small", 7, "ema", "")


def folder(path: Path, method: str = "vae", seed: int = 0) -> Path:
    """Such a model as a model folder."""
    return write_model(path, {"": parts(model(method, seed))})


def publish(cache: Path, source: Path, name: str = "me/it", ref: str = "main", commit: str = COMMIT) -> Path:
    """The files of a folder as a snapshot in the cache of the Hub: contents in blobs/, links to them, a ref; the snapshot."""
    home = cache / f"models--{name.replace('/', '--')}"
    snapshot = home / "snapshots" / commit
    for path in sorted(p for p in source.rglob("*") if p.is_file()):
        data = path.read_bytes()
        blob = home / "blobs" / hashlib.sha256(data).hexdigest()
        blob.parent.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(data)
        link = snapshot / path.relative_to(source)
        link.parent.mkdir(parents=True, exist_ok=True)
        up = "/".join([".."] * (2 + len(path.relative_to(source).parts) - 1))
        link.symlink_to(f"{up}/blobs/{blob.name}")
    (home / "refs").mkdir(exist_ok=True)
    (home / "refs" / ref).write_text(commit)
    return snapshot
