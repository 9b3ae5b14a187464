"""The times of Improved DDPM by importance, and what a resume remembers of them."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from diffcli import recipe as recipes
from diffcli.engine.resume import restore, save
from diffcli.engine.step import step_once
from diffcli.testing.subject import job
from diffcli.testing.training import run_of
from diffcli_iddpm.method import KEPT, Importance
from small_iddpm import SMALL, build


def test_importance_sampling_is_unbiased():
    """The mean of weighted losses is the uniform mean: within 3 standard errors of 20,000 draws; and times are drawn as the law says."""
    method = build(timesteps=50, time_sampling="importance").train()
    loss = 1 / (1 + torch.arange(50, dtype=torch.float64))
    for _ in range(KEPT):
        method.importance.keep(torch.arange(50), loss)
    u = torch.rand(20_000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    k, weight = method.draw(u)
    values = weight * loss[k]
    error = float(values.std()) / math.sqrt(len(u))
    assert float(values.mean()) == pytest.approx(float(loss.mean()), abs=3 * error)
    assert error < float(loss[torch.floor(u * 50).long()].std()) / math.sqrt(len(u)) / 10  # which is what it is for
    law = method.importance.law()
    assert torch.allclose(law, 0.999 * loss / loss.sum() + 0.001 / 50, rtol=0, atol=1e-12)
    assert float((torch.bincount(k, minlength=50) / len(u) - law).abs().max()) < 4 * math.sqrt(0.25 / len(u))
    assert torch.equal(method.eval().draw(u)[0], torch.floor(u * 50).long())  # in training alone


def test_importance_waits_until_it_has_seen_all():
    law = Importance(4)
    for _ in range(KEPT):
        law.keep(torch.tensor([0, 1, 3]), torch.ones(3))
    law.keep(torch.tensor([2] * (KEPT - 1)), torch.full((KEPT - 1,), 5.0))
    assert torch.equal(law.law(), torch.full((4,), 0.25, dtype=torch.float64))
    law.keep(torch.tensor([2]), torch.tensor([5.0]))
    assert float(law.law()[2]) == pytest.approx(0.999 * 5 / 8 + 0.001 / 4)


def test_importance_keeps_the_latest():
    """In one batch or in many, the last ten squares of a timestep are kept, whatever order the rows are in."""
    generator = torch.Generator().manual_seed(0)
    k, losses = torch.randint(3, (200,), generator=generator), torch.rand(200, generator=generator)
    one, many = Importance(3), Importance(3)
    one.keep(k, losses)
    for part in torch.arange(200).split(7):
        many.keep(k[part], losses[part])
    for number in range(3):
        want = losses[k == number][-KEPT:].double().square().sort().values
        for law in (one, many):
            assert torch.equal(law.squares[number].sort().values, want)
    assert torch.equal(one.seen, many.seen)


def test_a_resume_remembers_the_losses(tmp_path: Path):
    """Importance sampling is under way when the run is stopped: the next five losses are the same to the bit."""
    tables = {
        "method": {"name": "iddpm", "objective": "vlb"},
        "model": {**SMALL, "multipliers": [1], "attention": [0], "dropout": 0.1},
        "dataset": {"name": "shapes", "size": 8},
        "schedule": {"name": "cosine", "timesteps": 8},
        "train": {"steps": 15, "batch_size": 16, "device": "cpu", "precision": "fp32"},
    }
    whole = job(recipes.resolve(tables))
    run = run_of(whole, tmp_path)
    for step in range(10):
        step_once(whole, step, 15, 0)
    assert int(whole.method.importance.seen.min()) >= KEPT and int(whole.method.importance.seen.sum()) == 160
    save(whole, run, 10, 0.0, [])
    after = [step_once(whole, step, 15, 0) for step in range(10, 15)]
    again = job(recipes.resolve(tables))
    assert not again.method.importance.seen.any()  # the trial batch left nothing
    assert restore(again, run, print)[0] == 10
    assert [step_once(again, step, 15, 0) for step in range(10, 15)] == after
    fresh = job(recipes.resolve(tables))
    assert step_once(fresh, 10, 15, 0)["loss"] != after[0]["loss"]
