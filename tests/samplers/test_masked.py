"""What the masked samplers draw, at any temperature and under guidance; the laws of every sampler are the kit's."""

from __future__ import annotations

import pytest
import torch

from diffcli.core.denoiser import Counted, Guided
from diffcli.core.masked import MaskedPrediction, categorical, substitute
from diffcli.core.random import Rows
from diffcli.engine.bench_masked import Whole
from diffcli.samplers import masked
from diffcli.schedules.masked import LogLinear
from tokens import NAMES, SPECS, Fixed, Table, make, partly, path

LENGTH = 12


@pytest.mark.parametrize("name", [name for name in NAMES if name != "unmask plain"])
def test_where_nothing_is_masked_nothing_is_called(name):
    process = LogLinear(3)
    counted, x = Counted(Table(process, LENGTH)), torch.arange(2 * LENGTH).reshape(2, -1) % 3
    assert torch.equal(path(make(name), counted, x, 5), x.expand(5, -1, -1))
    assert counted.calls == 0


@pytest.mark.parametrize("name", NAMES)
def test_independent_tokens_are_drawn_exactly_at_any_temperature(name):
    """Shares of 20,000 tokens within 0.015: four standard errors, which are at most 0.0036.

    Those that choose tokens by their values are exact in one step alone.
    """
    process, probs = LogLinear(3), torch.tensor([0.2, 0.5, 0.3])
    x, steps = process.prior((10,), Whole(0, 2000)), 1 if "conf" in name else 4
    for temperature in (1.0, 2.0):
        end = path(make(name, temperature=temperature), Fixed(process, probs), x, steps, rng=Whole(1, 2000))[-1]
        law = probs ** (1 / temperature)
        assert torch.allclose(end.flatten().bincount() / end.numel(), law / law.sum(), rtol=0, atol=0.015)


@pytest.mark.parametrize("name", NAMES)
def test_in_the_cold_the_mode_is_drawn(name):
    """Also where all probabilities to the power of 1000 are too small for a number."""
    process, probs = LogLinear(10), torch.full((10,), 0.098)
    probs[7] = 0.118
    x = process.prior((10,), Whole(0, 100))
    assert (path(make(name, temperature=1e-3), Fixed(process, probs), x, 4, rng=Whole(1, 100))[-1] == 7).all()


@pytest.mark.parametrize("name", NAMES)
def test_draws_are_in_float64_unless_another_is_asked_for(name, monkeypatch):
    """The values, and all numbers of the walk."""
    values, numbers = set(), set()

    class Spied(Whole):
        def draw(self, purpose, shape, dtype, fill):
            numbers.add(dtype)
            return super().draw(purpose, shape, dtype, fill)

    def spied(log_probs, u, dtype):
        values.update({dtype, log_probs.dtype} if tempered else {dtype})
        return categorical(log_probs, u, dtype)

    monkeypatch.setattr(masked, "categorical", spied)
    process = LogLinear(3)
    x = process.prior((LENGTH,), Whole(0, 4))
    for options, dtype in (
        ({}, torch.float64),
        ({"sampling_dtype": "float32"}, torch.float32),
        ({"sampling_dtype": "float64", "temperature": 0.7}, torch.float64),
    ):
        values.clear()
        tempered = "temperature" in options
        path(make(name, **options), Table(process, LENGTH), x, 5, rng=Spied(0, 4))
        assert values == {dtype} and numbers == {torch.float64}


class Named:
    """All mass on the value that the condition names; without it, on none. It is asked about rows and conditions that fit."""

    process = LogLinear(5)

    def __call__(self, x_t, t, cond):
        assert len(cond["label"]) == len(x_t) and (t.ndim == 0 or len(t) == len(x_t))
        named = torch.nn.functional.one_hot(cond["label"] % 5, 5) * (cond["label"] >= 0)[:, None]
        return MaskedPrediction((6.0 * named[:, None].expand(-1, x_t.shape[1], -1)).log_softmax(-1))


@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_rows_keep_their_condition_under_guidance(name, batched):
    """log odds of 6 are 60 at scale 10, so that any other value shows a row with the condition of another."""
    x, label = partly(Named.process, 16, LENGTH), torch.arange(16) % 5
    counted = Counted(Named())
    guided = Guided(counted, 10.0, lambda cond: {"label": torch.full_like(cond["label"], -1)}, batched=batched)
    end = path(make(name), guided, x, 9, cond={"label": label})[-1]
    assert torch.equal(end, torch.where(x == 5, label[:, None], x))
    alone = Counted(Named())
    path(make(name), alone, x, 9, cond={"label": label})
    assert counted.rows == 2 * alone.rows


def test_every_spec_says_what_it_is():
    assert set(SPECS) == {"unmask", "first-hitting", "confidence", "remdm"}
    for name, spec in SPECS.items():
        sampler = make(name)
        assert spec.summary.endswith(".") and sampler.family == "masked" and sampler.order is None
        assert sampler.steps(LogLinear(2)) == 40 == sampler.nfe(40)


def test_guidance_in_an_interval_acts_on_each_row_at_its_own_time():
    """Rows that jump to their own events are guided as if all walked together, and alone."""
    process = LogLinear(3)
    x, label, table = partly(process, 16, LENGTH), torch.arange(16) % 3, Table(process, LENGTH)

    class Leaning:
        """The table, with more of the value that the condition names."""

        def __init__(self):
            self.process = process

        def __call__(self, x_t, t, cond):
            named = torch.nn.functional.one_hot(cond["label"] % 3, 3) * (cond["label"] >= 0)[:, None]
            log_probs = (table(x_t, t, cond).log_probs.clamp(min=-50) + named[:, None]).log_softmax(-1)
            return MaskedPrediction(substitute(log_probs, x_t, process.mask_id))

    null = lambda cond: {"label": torch.full_like(cond["label"], -1)}
    guided = Guided(Leaning(), 4.0, null, interval=(0.4, 0.6))
    plain, cached = (path(make("unmask", cache=c), guided, x, 20, cond={"label": label}) for c in (False, True))
    assert torch.equal(plain, cached)
    rows = [
        path(make("unmask"), guided, x[i], 20, cond={"label": label[i]}, rng=Rows(0, i, 16))
        for i in torch.arange(16).split(1)
    ]
    assert torch.equal(torch.cat(rows, 1), cached)
