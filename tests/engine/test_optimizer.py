"""Laws of the optimizer: every group follows the one learning rate, decays by its own say, and is clipped by its part."""

from __future__ import annotations

import shutil
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import nn

from commands import TINY
from diffcli import recipe as recipes
from diffcli.core.method import Method
from diffcli.engine import length
from diffcli.engine.job import prepare
from diffcli.engine.optimizer import clip, optimizer_of
from diffcli.engine.step import step_once
from diffcli.errors import UsageError
from diffcli.sections import TrainOptions
from diffcli_rf.method import RectifiedFlow
from runs import forget, same

CPU = torch.device("cpu")
PUBLISHED = {"lr": 1.5e-4, "min_lr": 1e-6, "warmup_lr": 1e-6}  # He et al. 2021, and the recipes of mae-noprop


def grouped(self: Method) -> list[dict]:
    """Matrices decay, all else does not; what reads the time is a part of its own."""
    groups: dict[tuple[str, bool], list] = {}
    for name, p in self.named_parameters():
        groups.setdefault(("time" if ".time." in name else "rest", p.ndim > 1), []).append(p)
    return [
        {"params": ps, "part": part, **({} if big else {"weight_decay": 0.0})} for (part, big), ps in groups.items()
    ]


class Three(Method):
    """Two parts of two and one parameters; the second decays not."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Parameter(torch.ones(4)) for _ in range(3))

    def loss(self, batch, rng):
        raise NotImplementedError

    def parameter_groups(self):
        return [
            {"params": [self.a], "part": "encoder"},
            {"params": [self.b], "part": "encoder", "weight_decay": 0.0},
            {"params": [self.c], "part": "decoder0"},
        ]


@pytest.fixture
def groups(monkeypatch) -> None:
    monkeypatch.setattr(RectifiedFlow, "parameter_groups", grouped)


def job(**train):
    small = {"name": "unet", "channels": 8, "multipliers": [1]}
    made = {"method": {"name": "rf"}, "model": small, "train": {"steps": 6, "batch_size": 4, "warmup": "4", **train}}
    return prepare(recipes.resolve(made))


def test_every_group_rises_from_the_first_rate_and_falls_to_the_last(groups):
    """The cosine is within 1 % of min_lr after 200 steps: (pi/2 200)^2 of the way from lr = 150 min_lr is 0.9 % of min_lr."""
    made, (warmup, steps) = job(**PUBLISHED), (4, 204)
    assert len(made.optimizer.param_groups) > 2
    for step, rate in ((0, 1e-6), (2, (1e-6 + 1.5e-4) / 2), (warmup, 1.5e-4), (steps - 1, 1e-6)):
        logged = step_once(made, step, steps, warmup)
        assert {group["lr"] for group in made.optimizer.param_groups} == {logged["lr"]}
        assert logged["lr"] == pytest.approx(rate, rel=0.01 if step == steps - 1 else 1e-12)


@pytest.mark.parametrize("first", [None, 0.0, 1e-6, 0.5])
def test_the_rise_is_linear_and_meets_the_fall(first):
    """Without warmup_lr step k has lr (k + 1)/warmup, as ever."""
    o = TrainOptions(lr=1.0, min_lr=0.0, warmup_lr=first)
    rates = [length.learning_rate(o, k, 1000, 10) for k in range(12)]
    assert rates[0] == (0.1 if first is None else first) and rates[10] == 1.0 > rates[11]
    slope = 0.1 if first is None else (1 - first) / 10
    assert [b - a for a, b in pairwise(rates[:10])] == pytest.approx([slope] * 9)


def test_only_groups_that_say_so_are_spared_the_decay():
    """Without gradient AdamW multiplies by 1 - lr decay, and by nothing else; the others stay as they are."""
    method = Three()
    optimizer = optimizer_of(method, TrainOptions(lr=0.1, weight_decay=0.5), CPU)
    for p in method.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    assert [float(p[0].detach()) for p in method.parameters()] == pytest.approx([0.95, 1.0, 0.95])


def test_eps_is_the_one_that_is_asked_for():
    """AdamW's first step is lr g/(|g| + eps): half of lr where eps is |g|."""
    method = Three()
    optimizer = optimizer_of(method, TrainOptions(lr=0.1, weight_decay=0, adam_eps=2.0), CPU)
    for p in method.parameters():
        p.grad = torch.full_like(p, 2.0)
    optimizer.step()
    assert [float(p[0].detach()) for p in method.parameters()] == pytest.approx([0.95] * 3)


@pytest.mark.parametrize("by", ["all", "part"])
def test_a_part_is_clipped_by_its_own_norm(by):
    """Norms: a 6, b 8, c 1, so the encoder has 10 and all of them 10.05; the bound is 5."""
    method, o = Three(), TrainOptions(clip_grad=5.0, clip_by=by)
    optimizer = optimizer_of(method, o, CPU)
    for p, size in zip(method.parameters(), (6.0, 8.0, 1.0), strict=True):
        p.grad = torch.full_like(p, size / 2)
    whole = torch.tensor(101.0).sqrt()
    clip(optimizer, o, whole)
    norms = [float(p.grad.norm()) for p in method.parameters()]
    assert norms == pytest.approx([3, 4, 1] if by == "part" else [5 * n / float(whole) for n in (6, 8, 1)], rel=1e-5)


def test_nothing_is_clipped_where_no_bound_is_asked_for():
    method, o = Three(), TrainOptions(clip_grad=0.0, clip_by="part")
    optimizer = optimizer_of(method, o, CPU)
    method.a.grad = torch.full((4,), 1e6)  # the others have none
    clip(optimizer, o, torch.tensor(2e6))
    assert torch.equal(method.a.grad, torch.full((4,), 1e6))


def test_parts_that_a_method_does_not_name_are_refused():
    with pytest.raises(UsageError, match="--clip-by part needs a method that names the parts of its parameters"):
        job(clip_by="part")


@pytest.mark.slow
def test_a_resumed_run_with_parts_is_the_whole_one(cli, groups):
    asked = ["--warmup", "3", "--warmup-lr", "1e-6", "--adam-eps", "1e-3", "--clip-by", "part", "--clip-grad", "0.05"]
    args = ["train", "rf", *TINY, *asked, "--steps", "4", "--save-every", "2"]
    assert cli(*args, "--output", "whole").code == 0
    shutil.copytree("whole", "parts")
    forget(Path("parts"), 4)
    ran = cli("train", "rf", "--resume", "parts")
    assert ran.code == 0, ran.err
    same(Path("whole"), Path("parts"))
