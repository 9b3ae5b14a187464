"""The host runs ahead of the device: it waits for it once a step, where it reads what is logged."""

from __future__ import annotations

import pytest
import torch

from diffcli import recipe as recipes
from diffcli.core.space import Latents
from diffcli.engine.job import prepare
from diffcli.engine.optimizer import optimizer_of
from diffcli.engine.step import step_once
from together import SMALL

META = torch.device("meta")  # its tensors have no numbers: whoever needs one is told
LATENT = {"name": "unet-concat", "channels": 8, "multipliers": [1, 2]}
CASES = [
    *((name, {}) for name in SMALL if name != "iddpm"),
    ("iddpm", {"method": {"time_sampling": "uniform"}}),  # importance is a law of losses, and waits for them
    ("ddpm", {"method": {"cond": "label"}, "train": {"accumulate": 2, "clip_by": "all"}}),
    ("rf", {"dataset": {"name": "shapes"}, "method": {"cond": "label"}, "train": {"ema_snapshots": "4"}}),
    ("mdlm", {"method": {"missing": 0.5, "consistency_weight": 2.0}}),
    ("mdlm", {"method": {"binarize": "dynamic"}}),
    ("ldm", {"dataset": {"name": "digits", "size": 16}, "model": LATENT, "train": {"cache_latents": False}}),
]


@pytest.mark.parametrize(("name", "tables"), CASES)
def test_a_step_reads_the_device_once(monkeypatch, name, tables):
    train = {"batch_size": 16, "precision": "fp32", "warmup": "0", "steps": 8, **tables.get("train", {})}
    asked = {**tables, "method": {"name": name, **tables.get("method", {})}, "train": train}
    job = prepare(recipes.resolve(recipes.overlay(SMALL.get(name, {}), asked)))
    read, waits = torch.Tensor.tolist, list[torch.Size]()

    def told(t: torch.Tensor):
        if t.device != META:
            return read(t)
        waits.append(t.shape)
        return [0.5] * len(t)

    averages = [job.ema.model, *(average.model for average in job.profiles.values())]
    encoders = [space.autoencoder] if isinstance(space := job.assembly.space, Latents) else []
    for module in (job.method, *averages, *encoders):
        module.to(META)
    job.data, job.device = job.data.to(META), META
    job.optimizer = optimizer_of(job.method, job.recipe.train, META)
    monkeypatch.setattr(torch.Tensor, "tolist", told)
    for step in range(2):
        logged = step_once(job, step, 8, 0)
    assert waits == 2 * [torch.Size([len(logged) - 1])], "all but the learning rate, which the host knows"


def test_a_wait_would_be_heard():
    with pytest.raises((NotImplementedError, RuntimeError)):
        torch.ones(2, device=META).cpu()
    with pytest.raises(RuntimeError):
        torch.ones((), device=META).item()
    with pytest.raises((NotImplementedError, RuntimeError)):
        torch.ones(2, device=META)[torch.ones(2, dtype=torch.bool, device=META)]
